// SentencePiece's BPE trainer with the options of the project's tokenizer format. Reproducible
// because nothing is left to it: lines come in memory, in our order, short enough that none is
// skipped; no sampling, no shuffle; and its thread count, which goes into the model's bytes but not
// into its pieces, is a constant.
#include <fmt/format.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "data/tokenizer.h"

namespace basin {
namespace {

constexpr int64_t kGranularity =
    128;  // the vocabulary is a multiple of it, so that embedding rows need no padding
constexpr int64_t kFixedPieces = kReservedIds + 256;
constexpr int64_t kSmallest = (kFixedPieces / kGranularity + 1) * kGranularity;
constexpr double kCharacterCoverage = 0.9995;

class LineIterator : public sentencepiece::SentenceIterator {
 public:
  explicit LineIterator(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return next_ >= lines_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return lines_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  size_t next_ = 0;
};

std::unordered_map<std::string, std::string> trainer_options(int64_t vocab_size) {
  return {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocab_size)},
      {"character_coverage", fmt::format("{}", kCharacterCoverage)},
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"split_digits", "true"},
      {"allow_whitespace_only_pieces", "true"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "-1"},
      {"bos_piece", "<sink>"},
      {"control_symbols", "<sink1>,<sink2>,<sink3>"},
      {"max_sentence_length", std::to_string(2 * kMaxTrainingLineBytes)},
      {"input_sentence_size", "0"},
      {"shuffle_input_sentence", "false"},
      {"num_threads", "4"},
      {"minloglevel", "3"},
  };
}

/// Characters that get a piece of their own: the commonest ones that together make up
/// kCharacterCoverage of the text.
int64_t count_covered_characters(const std::vector<std::string>& lines) {
  std::unordered_map<uint32_t, int64_t> counts;  // by the bytes of a character
  int64_t total = 0;
  for (const std::string& line : lines) {
    for (size_t i = 0; i < line.size(); ++total) {
      uint32_t character = 0;
      do {
        character = character << 8 | static_cast<unsigned char>(line[i++]);
      } while (i < line.size() && (line[i] & 0xC0) == 0x80);
      ++counts[character];
    }
  }
  std::vector<int64_t> sorted;
  for (const auto& [character, count] : counts) {
    sorted.push_back(count);
  }
  std::sort(sorted.rbegin(), sorted.rend());
  int64_t covered = 0, characters = 0;
  while (characters < static_cast<int64_t>(sorted.size()) && covered < kCharacterCoverage * total) {
    covered += sorted[characters++];
  }
  return characters;
}

void check_lines(const std::vector<std::string>& lines, int64_t vocab_size) {
  for (const std::string& line : lines) {
    if (line.size() > kMaxTrainingLineBytes) {
      throw std::invalid_argument(fmt::format(
          "a training line of {} bytes; cut lines to {}", line.size(), kMaxTrainingLineBytes));
    }
  }
  const int64_t characters = count_covered_characters(lines);
  if (characters == 0) {
    throw std::invalid_argument("no text to train a tokenizer on");
  }
  if (kFixedPieces + characters > vocab_size) {
    const int64_t needed =
        (kFixedPieces + characters + kGranularity - 1) / kGranularity * kGranularity;
    throw std::invalid_argument(
        fmt::format("vocabulary size {} is too small for this text: {} reserved and byte pieces "
                    "and its {} characters need {} or more",
                    vocab_size,
                    kFixedPieces,
                    characters,
                    needed));
  }
}

/// SentencePiece ends its message with "Please set it to a value <= N."; 0 when it says something
/// else.
int64_t supported_pieces(const std::string& message) {
  const size_t at = message.rfind("<= ");
  return message.find("Vocabulary size too high") == std::string::npos || at == std::string::npos
             ? 0
             : std::atoll(message.c_str() + at + 3);
}

}  // namespace

void check_vocab_size(int64_t vocab_size) {
  if (vocab_size % kGranularity == 0 && vocab_size >= kSmallest) {
    return;
  }
  const int64_t below = vocab_size / kGranularity * kGranularity;
  const std::string nearest = below < kSmallest
                                  ? std::to_string(kSmallest)
                                  : fmt::format("{} or {}", below, below + kGranularity);
  throw std::invalid_argument(
      fmt::format("vocabulary size {}: must be a multiple of {} and at least {}; nearest: {}",
                  vocab_size,
                  kGranularity,
                  kSmallest,
                  nearest));
}

std::string train_tokenizer(const std::vector<std::string>& lines, int64_t vocab_size) {
  check_vocab_size(vocab_size);
  check_lines(lines, vocab_size);
  LineIterator iterator(lines);
  std::string model;
  const auto status =
      sentencepiece::SentencePieceTrainer::Train(trainer_options(vocab_size), &iterator, &model);
  if (status.ok()) {
    return model;
  }
  if (const int64_t supported = supported_pieces(status.ToString()); supported > 0) {
    size_t bytes = 0;
    for (const std::string& line : lines) {
      bytes += line.size();
    }
    const std::string advice =
        supported < kSmallest
            ? fmt::format("supports {}, less than the smallest vocabulary ({}): add text",
                          supported,
                          kSmallest)
            : fmt::format("supports at most {}: lower it or add text",
                          supported / kGranularity * kGranularity);
    throw std::invalid_argument(
        fmt::format("vocabulary size {} is too large: the training text of {} bytes {}",
                    vocab_size,
                    bytes,
                    advice));
  }
  throw std::runtime_error("training the tokenizer failed: " + status.ToString());
}

}  // namespace basin
