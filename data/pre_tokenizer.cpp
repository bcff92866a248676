#include "data/pre_tokenizer.h"

#include <fmt/format.h>

#include <memory>
#include <utility>

#include "data/byte_alphabet.h"
#include "data/text_normalizer.h"
#include "data/unicode.h"

namespace basin {
namespace {

// The words of GPT-2, built into ByteLevel.
constexpr const char* kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

SplitBehavior parse_behavior(const JsonPlace& place) {
  static constexpr std::pair<std::string_view, SplitBehavior> kNames[] = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous}};
  for (const auto& [name, behavior] : kNames) {
    if (place.string() == name) {
      return behavior;
    }
  }
  place.fail(fmt::format("the behaviour {} is not known", place.string()));
}

/// Joins what lies between matches and the matches, which come from left to right, to what
/// `behavior` makes of them.
template <class Emit>
class Joiner {
 public:
  Joiner(SplitBehavior behavior, Emit& emit) : behavior_(behavior), emit_(emit) {}

  void add(size_t begin, size_t end, bool match) {
    switch (behavior_) {
      case SplitBehavior::kRemoved:
        if (!match) {
          emit_(begin, end);
        }
        return;
      case SplitBehavior::kIsolated:
        emit_(begin, end);
        return;
      case SplitBehavior::kContiguous:
        join(match == held_match_, begin, end, match);
        return;
      case SplitBehavior::kMergedWithPrevious:
        join(match && !held_match_, begin, end, match);
        return;
      case SplitBehavior::kMergedWithNext:
        join(!match && held_match_, begin, end, match);
        return;
    }
  }
  void finish() {
    if (holding_) {
      emit_(begin_, end_);
    }
  }

 private:
  void join(bool together, size_t begin, size_t end, bool match) {
    if (holding_ && together) {
      end_ = end;
    } else {
      finish();
      begin_ = begin;
      end_ = end;
      holding_ = true;
    }
    held_match_ = match;
  }

  SplitBehavior behavior_;
  Emit& emit_;
  bool holding_ = false, held_match_ = false;
  size_t begin_ = 0, end_ = 0;
};

/// Calls emit(begin, end) for the stretches that matches of a pattern make of `text`.
template <class Emit>
void split(std::string_view text,
           PatternSearch& search,
           SplitBehavior behavior,
           bool invert,
           Emit&& emit) {
  Joiner<Emit> joiner(behavior, emit);
  search.begin(text);
  size_t done = 0;
  for (size_t begin, end; search.next(begin, end); done = end) {
    if (done != begin) {
      joiner.add(done, begin, invert);
    }
    joiner.add(begin, end, !invert);
  }
  if (done != text.size()) {
    joiner.add(done, text.size(), invert);
  }
  joiner.finish();
}

/// The same for characters of a class.
template <class Emit>
void split(std::string_view text, bool (*contains)(char32_t), SplitBehavior behavior, Emit&& emit) {
  Joiner<Emit> joiner(behavior, emit);
  size_t done = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    if (!contains(next_character(text, i))) {
      continue;
    }
    if (done != begin) {
      joiner.add(done, begin, false);
    }
    joiner.add(begin, i, true);
    done = i;
  }
  if (done != text.size()) {
    joiner.add(done, text.size(), false);
  }
  joiner.finish();
}

}  // namespace

/// One text on its way through the stages.
class PreTokenizer::Cutting {
 public:
  Cutting(const PreTokenizer& pre_tokenizer, const Word& word)
      : stages_(pre_tokenizer.stages_), word_(word), searches_(stages_.size()) {
    for (size_t i = 0; i < stages_.size(); ++i) {
      if (const auto* split = std::get_if<Split>(&stages_[i])) {
        searches_[i] = std::make_unique<PatternSearch>(split->pattern);
      } else if (const auto* byte_level = std::get_if<ByteLevel>(&stages_[i])) {
        searches_[i] = std::make_unique<PatternSearch>(byte_level->words);
      }
    }
  }

  void run(size_t stage, std::string_view text, bool at_start) {
    if (text.empty()) {
      return;
    }
    if (stage == stages_.size()) {
      word_(text);
      return;
    }
    std::visit([&](const auto& what) { apply(what, stage, text, at_start); }, stages_[stage]);
  }

 private:
  auto hand_on(size_t stage, std::string_view text, bool at_start) {
    return [this, stage, text, at_start](size_t begin, size_t end) {
      run(stage + 1, text.substr(begin, end - begin), at_start && begin == 0);
    };
  }

  void apply(const Split& what, size_t stage, std::string_view text, bool at_start) {
    split(text, *searches_[stage], what.behavior, what.invert, hand_on(stage, text, at_start));
  }

  void apply(const Classes& what, size_t stage, std::string_view text, bool at_start) {
    split(text, what.contains, what.behavior, hand_on(stage, text, at_start));
  }

  void apply(const ByteLevel& what, size_t stage, std::string_view text, bool at_start) {
    std::string prefixed;
    if (what.add_prefix_space && text[0] != ' ') {
      prefixed.reserve(text.size() + 1);
      prefixed += ' ';
      prefixed += text;
      text = prefixed;
    }
    const bool last = stage + 1 == stages_.size();
    const auto emit = [&](size_t begin, size_t end) {
      const std::string_view bytes = text.substr(begin, end - begin);
      if (last) {  // the model maps them
        run(stage + 1, bytes, false);
      } else {
        run(stage + 1, to_byte_characters(bytes), at_start && begin == 0);
      }
    };
    if (what.use_regex) {
      split(text, *searches_[stage], SplitBehavior::kIsolated, false, emit);
    } else {
      emit(0, text.size());
    }
  }

  void apply(const Metaspace& what, size_t stage, std::string_view text, bool at_start) {
    const TextPattern space = TextPattern::literal(" ");
    std::string replaced = replace_matches(text, space, what.replacement);
    if (!replaced.starts_with(what.replacement) &&
        (what.prepend_always || (what.prepend_first && at_start))) {
      replaced.insert(0, what.replacement);
    }
    const auto emit = hand_on(stage, replaced, at_start);
    if (what.split) {
      const TextPattern mark = TextPattern::literal(what.replacement);
      PatternSearch search(mark);
      split(replaced, search, SplitBehavior::kMergedWithNext, false, emit);
    } else {
      emit(0, replaced.size());
    }
  }

  const std::vector<Stage>& stages_;
  const Word& word_;
  std::vector<std::unique_ptr<PatternSearch>> searches_;  // of the stages that have a pattern
};

void PreTokenizer::cut(std::string_view text, bool at_start, const Word& word) const {
  Cutting(*this, word).run(0, text, at_start);
}

PreTokenizer PreTokenizer::parse(const JsonPlace& place) {
  PreTokenizer pre_tokenizer;
  if (!place.is_null()) {
    pre_tokenizer.add(place);
  }
  const std::vector<Stage>& stages = pre_tokenizer.stages_;
  pre_tokenizer.gives_bytes_ = !stages.empty() && std::holds_alternative<ByteLevel>(stages.back());
  return pre_tokenizer;
}

void PreTokenizer::add(const JsonPlace& place) {
  const std::string& type = place.at("type").string();
  if (type == "Sequence") {
    const JsonPlace parts = place.at("pretokenizers");
    for (size_t i = 0; i < parts.size(); ++i) {
      add(parts[i]);
    }
  } else if (type == "ByteLevel") {
    stages_.emplace_back(ByteLevel{place.at("add_prefix_space").boolean(),
                                   place.find("use_regex").boolean_or(true),
                                   TextPattern::regex(kGpt2Words)});
  } else if (type == "Split") {
    stages_.emplace_back(Split{TextPattern::parse(place.at("pattern")),
                               parse_behavior(place.at("behavior")),
                               place.find("invert").boolean_or(false)});
  } else if (type == "Digits") {
    const bool individual = place.find("individual_digits").boolean_or(false);
    stages_.emplace_back(
        Classes{is_numeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
  } else if (type == "Punctuation") {
    const JsonPlace behavior = place.find("behavior");
    stages_.emplace_back(Classes{
        is_punctuation, behavior.is_null() ? SplitBehavior::kIsolated : parse_behavior(behavior)});
  } else if (type == "Metaspace") {
    const std::string& replacement = place.at("replacement").string();
    size_t length = 0;
    if (replacement.empty() ||
        (next_character(replacement, length), length != replacement.size())) {
      place.at("replacement").fail("expected one character");
    }
    const JsonPlace scheme = place.find("prepend_scheme");
    std::string prepend = scheme.is_null() ? "always" : scheme.string();
    if (!place.find("add_prefix_space").boolean_or(true)) {
      prepend = "never";
    }
    if (prepend != "always" && prepend != "first" && prepend != "never") {
      scheme.fail(fmt::format("expected always, first or never, found {}", prepend));
    }
    stages_.emplace_back(Metaspace{replacement,
                                   prepend == "always",
                                   prepend == "first",
                                   place.find("split").boolean_or(true)});
  } else {
    place.fail(
        fmt::format("the pre-tokenizer {} is not supported (those that are: ByteLevel, Split, "
                    "Digits, Punctuation, Metaspace, Sequence)",
                    type));
  }
}

}  // namespace basin
