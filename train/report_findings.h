// What the numbers of a set of runs say, in words. Every sentence is computed here and nowhere else, so that the page,
// the terminal and the tests agree; nothing is said that the numbers do not carry. Plain text, not yet escaped for
// HTML.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/report_comparison.h"
#include "train/report_data.h"

namespace basin {

/// Two perplexities within this share of each other count as the same.
inline constexpr double kSameShare = 0.005;

/// What the streaming rows say about one model.
enum class FirstTokens {
  kUnknown,    // a row or its interval is missing
  kUnused,     // the interval of (none kept) - (four kept) holds or touches zero, or lies below by less than `kSameShare`
  kHarmful,    // it lies below zero by more
  kOneEnough,  // it lies above zero, and one kept token is as good as four within `kSameShare`, or better
  kOneShort,   // it lies above zero, and one kept token is worse than four by more
  kNeeded,     // it lies above zero; no row with one kept token
};
FirstTokens first_tokens(const SavedEvaluation& evaluation);

/// "Uses its first token: ..." as full sentences that begin with `name`.
std::string streaming_sentences(const std::string& name, const SavedEvaluation& evaluation);
std::string attention_sentence(const RunRecord& run);

/// The page's heading: one clause a run, or one for all.
std::vector<std::string> headline(const std::vector<RunRecord>& runs, const Comparison& comparison);
/// All findings, the most important first. Each is one short paragraph about `run` (-1: about all of them).
struct Finding {
  int64_t run = -1;
  std::string text;
};
std::vector<Finding> findings(const std::vector<RunRecord>& runs, const Comparison& comparison);

/// Commands that make what a run lacks, ready to paste.
std::string train_command(const RunRecord& run);
std::string evaluate_command(const RunRecord& run, const Comparison& comparison);
std::string attention_command(const RunRecord& run);

/// `text` as one word of a shell command, quoted where it must be.
std::string shell_word(const std::string& text);

/// The row of the last validation; null without one.
const LoggedStep* last_validation(const RunRecord& run);

/// "29 997", with narrow spaces.
std::string format_integer(int64_t number);
/// "12.35", "1 235"; "n/a" for NaN.
std::string format_perplexity(double perplexity);
/// "+0.060" and "+6.2 %" with a real minus sign, more digits for small numbers.
std::string format_nats(double nats);
std::string format_change(double share);

}  // namespace basin
