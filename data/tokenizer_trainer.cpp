// SentencePiece's BPE trainer with the options of the project's tokenizer format. Nothing is left
// to chance: lines in our order, short enough that none is skipped, no sampling, no shuffle, one
// thread. And a process of its own (spm_train): among equally good merges the trainer takes the one
// with the lowest address in memory, so that inside this process two runs differ once in a few
// hundred.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "configs/files.h"
#include "configs/progress.h"
#include "configs/scratch_folder.h"
#include "data/child_process.h"
#include "data/tokenizer.h"

namespace basin {
namespace {

constexpr int64_t kGranularity =
    128;  // the vocabulary is a multiple of it, so that embedding rows need no padding
constexpr int64_t kFixedPieces = kReservedIds + 256;
constexpr int64_t kSmallest = (kFixedPieces / kGranularity + 1) * kGranularity;
constexpr double kCharacterCoverage = 0.9995;

/// The paths are recorded in the model, so they are the same for every run, relative to its folder.
constexpr const char* kLinesFile = "lines.txt";
constexpr const char* kModelPrefix = "tokenizer";

std::vector<std::string> trainer_command(int64_t vocab_size) {
  return {"spm_train",
          fmt::format("--input={}", kLinesFile),
          fmt::format("--model_prefix={}", kModelPrefix),
          "--model_type=bpe",
          fmt::format("--vocab_size={}", vocab_size),
          fmt::format("--character_coverage={}", kCharacterCoverage),
          "--byte_fallback=true",
          "--normalization_rule_name=identity",
          "--remove_extra_whitespaces=false",
          "--add_dummy_prefix=false",
          "--split_digits=true",
          "--allow_whitespace_only_pieces=true",
          "--unk_id=0",
          "--bos_id=1",
          "--eos_id=2",
          "--pad_id=-1",
          "--bos_piece=<sink>",
          "--control_symbols=<sink1>,<sink2>,<sink3>",
          fmt::format("--max_sentence_length={}", 2 * kMaxTrainingLineBytes),
          "--input_sentence_size=0",
          "--shuffle_input_sentence=false",
          "--num_threads=1"};
}

void write_lines(const std::vector<std::string>& lines, const std::filesystem::path& path) {
  std::ofstream file(path, std::ios::binary);
  for (const std::string& line : lines) {
    file << line << '\n';
  }
  file.close();
  if (!file) {
    throw std::runtime_error(fmt::format("cannot write {}: is the disk full?", path.string()));
  }
}

/// Follows the trainer's log, which tells every 20 pieces how many there are ("... size=1240 ...").
class LogFollower {
 public:
  LogFollower(std::filesystem::path path, int64_t pieces)
      : path_(std::move(path)), progress_("training the tokenizer", pieces, "pieces") {}

  void look() {
    std::ifstream file(path_, std::ios::binary);
    file.seekg(static_cast<std::streamoff>(text_.size()));
    text_.append(std::istreambuf_iterator<char>(file), {});
    const size_t at = text_.rfind(" size=");
    const int64_t pieces = at == std::string::npos ? 0 : std::atoll(text_.c_str() + at + 6);
    progress_.advance(pieces - std::exchange(pieces_, pieces));
  }
  const std::string& text() const { return text_; }

 private:
  std::filesystem::path path_;
  std::string text_;
  int64_t pieces_ = 0;
  Progress progress_;
};

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

/// Returns how many characters get pieces.
int64_t check_lines(const std::vector<std::string>& lines, int64_t vocab_size) {
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
  return characters;
}

/// SentencePiece says how much it could do: "Vocabulary size too high (N). Please set it to a value
/// <= M."
[[noreturn]] void explain_failure(const std::string& log,
                                  int status,
                                  int64_t vocab_size,
                                  const std::filesystem::path& lines) {
  constexpr std::string_view kReason = "Please set it to a value <= ";
  const size_t at = log.rfind(kReason);
  if (at == std::string::npos) {
    const size_t end = log.find_last_not_of(" \n") + 1, begin = log.rfind('\n', end) + 1;
    throw std::runtime_error(fmt::format("spm_train failed with status {}; its last words: {}",
                                         status,
                                         log.substr(begin, end - begin)));
  }
  const int64_t supported = std::atoll(log.c_str() + at + kReason.size());
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
                  std::filesystem::file_size(lines),
                  advice));
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
  const int64_t characters = check_lines(lines, vocab_size);
  const ScratchFolder folder;
  write_lines(lines, folder.path() / kLinesFile);
  LogFollower log(folder.path() / "log", vocab_size - kFixedPieces - characters);
  int status = 0;
  try {
    status = run_child(trainer_command(vocab_size), folder.path(), [&] { log.look(); });
  } catch (const std::system_error& error) {
    throw std::runtime_error(fmt::format(
        "{}: SentencePiece's trainer is missing (Debian: apt-get install sentencepiece), or give "
        "--tokenizer FILE",
        error.what()));
  }
  log.look();
  if (status != 0) {
    explain_failure(log.text(), status, vocab_size, folder.path() / kLinesFile);
  }
  return read_file(folder.path() / (std::string(kModelPrefix) + ".model"));
}

}  // namespace basin
