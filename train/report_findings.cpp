// Computes the report's sentences. The one-versus-four reading: row 0 against row 4 says whether the first tokens are
// used at all (paired difference and interval from `evaluate`), row 1 against row 4 whether one slot does the work of
// four.
#include "train/report_findings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <set>

#include "configs/progress.h"

namespace basin {
namespace {

std::string signed_number(double value, int decimals) {
  const std::string text = fmt::format("{:.{}f}", std::abs(value), decimals);
  const bool zero = text.find_first_not_of("0.") == std::string::npos;
  return (zero ? "" : value < 0 ? "\u2212" : "+") + text;
}

// "0", not "+0.000", where an interval ends exactly there; other ends keep the digits that tell them from zero.
std::string interval_end(double nats) {
  return nats == 0 ? "0" : format_nats(nats);
}

std::string interval(const SavedRow& row) {
  return interval_end(row.ci_low) + " to " + interval_end(row.ci_high);
}

bool same(double a, double b) {
  return std::abs(a / b - 1) <= kSameShare;
}

std::string first_tokens_sentence(const std::string& name, FirstTokens reading, const SavedRow& none,
                                  const SavedRow& four) {
  const std::string change = format_change(none.perplexity / four.perplexity - 1);
  const std::string levels =
      fmt::format("perplexity is {} with none of them kept and {} with four ({})", format_perplexity(none.perplexity),
                  format_perplexity(four.perplexity), change);
  const std::string measured = fmt::format("95 % interval {} nats a token", interval(none));
  switch (reading) {
    case FirstTokens::kUnused:
      if (none.ci_high < 0) {
        return fmt::format("{} makes no use of its first tokens: {}, {}: four more recent tokens are worth more to it.",
                           name, levels, measured);
      }
      return fmt::format("{} makes no measurable use of its first tokens: {}, and the {} does not exclude zero.", name,
                         levels, measured);
    case FirstTokens::kHarmful:
      return fmt::format("{} streams better without its first tokens: {}, {}.", name, levels, measured);
    default:
      return fmt::format("{} uses its {}: {}, {}.", name,
                         reading == FirstTokens::kOneEnough ? "first token" : "first tokens", levels, measured);
  }
}

std::string one_slot_sentence(FirstTokens reading, const SavedRow& none, const SavedRow& one, const SavedRow& four) {
  const double share = one.perplexity / four.perplexity - 1;
  const std::string levels = fmt::format("{} against {}, {}", format_perplexity(one.perplexity),
                                         format_perplexity(four.perplexity), format_change(share));
  if (reading == FirstTokens::kOneEnough) {
    return same(one.perplexity, four.perplexity) ? fmt::format("One kept token does the work of four: {}.", levels)
                                                 : fmt::format("One kept token does better than four: {}.", levels);
  }
  if (reading == FirstTokens::kOneShort) return fmt::format("One kept token does not do the work of four: {}.", levels);
  if (!same(one.perplexity, four.perplexity))
    return fmt::format("One kept token and four differ all the same: {}.", levels);
  const bool none_too = reading == FirstTokens::kUnused && same(none.perplexity, four.perplexity);
  return fmt::format("One kept token and four are the same within 0.5 % ({}){}.", levels,
                     none_too ? ", but so is none: there is no work for the slot to do" : "");
}

std::string headline_clause(FirstTokens reading, const std::string& name) {
  switch (reading) {
    case FirstTokens::kUnknown: return name + " is not measured";
    case FirstTokens::kUnused: return name + " makes no measurable use of its first token";
    case FirstTokens::kHarmful: return name + " streams better without its first tokens";
    case FirstTokens::kOneEnough: return name + " streams on one kept token";
    case FirstTokens::kOneShort: return name + " needs more than one kept token";
    case FirstTokens::kNeeded: return name + " uses its first tokens";
  }
  return "";
}

std::string held_out_losses(const std::vector<RunRecord>& runs, bool comparable) {
  std::string list;
  std::vector<double> losses;
  std::set<double> tokens;
  for (const RunRecord& run : runs) {
    const LoggedStep* last = last_validation(run);
    if (last == nullptr) continue;
    list += fmt::format("{}{} {:.3f} after {} tokens", list.empty() ? "" : ", ", run.name, last->val_loss,
                        format_count(last->tokens));
    losses.push_back(last->val_loss);
    tokens.insert(last->tokens);
  }
  if (list.empty()) return "";
  std::string text = fmt::format("Held-out loss in training, nats a token: {}.", list);
  if (losses.size() == 2 && tokens.size() == 1 && comparable) {
    const auto [low, high] = std::ranges::minmax(losses);
    text += fmt::format(" They end {} apart.", format_change(high / low - 1).substr(1));
  }
  if (tokens.size() > 1) text += " The runs saw different numbers of tokens, so this is not like for like.";
  return text;
}

std::string dataset_or_text(const RunRecord& run) {
  const std::string heldout = run.config_value("data.heldout");
  return heldout.empty() ? "--text PATH" : "--dataset " + shell_word(heldout);
}

}  // namespace

std::string format_integer(int64_t number) {
  std::string digits = std::to_string(number);
  for (int64_t at = std::ssize(digits) - 3; at > 0; at -= 3) digits.insert(static_cast<size_t>(at), "\u202f");
  return digits;
}

std::string format_perplexity(double perplexity) {
  if (!std::isfinite(perplexity)) return "n/a";
  if (perplexity < 1000) return fmt::format("{:.{}f}", perplexity, perplexity < 100 ? 2 : 1);
  return perplexity < 1e15 ? format_integer(std::llround(perplexity)) : fmt::format("{:.2e}", perplexity);
}

std::string format_nats(double nats) {
  if (!std::isfinite(nats)) return "n/a";
  return signed_number(nats, std::abs(nats) < 0.01 ? 4 : 3);
}

std::string format_change(double share) {
  if (!std::isfinite(share)) return "n/a";
  const double size = std::abs(100 * share);
  return signed_number(100 * share, size < 1 ? 2 : size < 100 ? 1 : 0) + " %";
}

FirstTokens first_tokens(const SavedEvaluation& evaluation) {
  const SavedRow *none = evaluation.streaming_row(0), *one = evaluation.streaming_row(1),
                 *four = evaluation.streaming_row(4);
  if (none == nullptr || four == nullptr || !none->has_interval()) return FirstTokens::kUnknown;
  if (none->ci_high < 0 && !same(none->perplexity, four->perplexity)) return FirstTokens::kHarmful;
  if (!(none->ci_low > 0)) return FirstTokens::kUnused;
  if (one == nullptr) return FirstTokens::kNeeded;
  return one->perplexity / four->perplexity - 1 <= kSameShare ? FirstTokens::kOneEnough : FirstTokens::kOneShort;
}

std::string streaming_sentences(const std::string& name, const SavedEvaluation& evaluation) {
  const FirstTokens reading = first_tokens(evaluation);
  if (reading == FirstTokens::kUnknown) {
    return fmt::format(
        "{}: whether it uses its first tokens was not measured; that takes streaming rows with 0 and 4 kept tokens, text "
        "longer than the cache, and of it ten blocks of 512 tokens or ten documents.",
        name);
  }
  const SavedRow *none = evaluation.streaming_row(0), *one = evaluation.streaming_row(1),
                 *four = evaluation.streaming_row(4);
  std::string text = first_tokens_sentence(name, reading, *none, *four);
  if (one != nullptr) text += " " + one_slot_sentence(reading, *none, *one, *four);
  return text;
}

std::string attention_sentence(const RunRecord& run) {
  if (!run.attention) return "";
  const SavedAttention& a = *run.attention;
  const bool token = run.sink_kind() == "token";
  const auto heads = static_cast<double>(a.alpha.size() * a.alpha.front().size());
  const std::string share = a.sink_first > 0 ? fmt::format("{:.0f} of its {:.0f} heads ({:.0f} %) give",
                                                           a.sink_first * heads, heads, 100 * a.sink_first)
                                             : fmt::format("None of its {:.0f} heads gives", heads);
  std::string text = fmt::format("{} more than {:g} of {} attention to {}", share, a.epsilon,
                                 a.sink_first > 0 ? "their" : "its", token ? "the sink token" : "the first token");
  if (!token || !std::isfinite(a.sink_first_text)) return text + ".";
  if (a.sink_first_text == 0)
    return text + (a.sink_first > 0 ? ", none to the first token of the text." : " or to the first token of the text.");
  text += fmt::format(", {:.0f} % of the heads to the first token of the text", 100 * a.sink_first_text);
  return text + ".";
}

const LoggedStep* last_validation(const RunRecord& run) {
  for (auto row = run.metrics.rbegin(); row != run.metrics.rend(); ++row) {
    if (std::isfinite(row->val_loss)) return &*row;
  }
  return nullptr;
}

std::vector<std::string> headline(const std::vector<RunRecord>& runs, const Comparison& comparison) {
  if (comparison.groups.empty()) {
    std::vector<std::string> names;
    for (const RunRecord& run : runs) names.push_back(run.name);
    return {fmt::format("{}: {}", fmt::join(names, ", "),
                        comparison.refusal.empty() ? "not streamed yet" : "streaming not compared")};
  }
  std::vector<std::string> clauses;
  int64_t measured = 0, unused = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    const SavedEvaluation* evaluation = comparison.groups.front().by_run[i];
    if (evaluation == nullptr) continue;
    const FirstTokens reading = first_tokens(*evaluation);
    clauses.push_back(headline_clause(reading, runs[i].name));
    ++measured;
    unused += reading == FirstTokens::kUnused;
  }
  if (measured > 1 && measured == unused) {
    return {measured == 2 ? "Neither run makes measurable use of its first token"
                          : "No run makes measurable use of its first token"};
  }
  return clauses;
}

std::vector<Finding> findings(const std::vector<RunRecord>& runs, const Comparison& comparison) {
  std::vector<Finding> list;
  if (!comparison.refusal.empty()) list.push_back({-1, comparison.refusal});
  for (size_t i = 0; i < runs.size(); ++i) {
    std::string text;
    if (!comparison.groups.empty() && comparison.groups.front().by_run[i] != nullptr) {
      text = streaming_sentences(runs[i].name, *comparison.groups.front().by_run[i]);
    } else if (runs[i].attention) {
      text = runs[i].name + ":";
    }
    if (runs[i].attention) text += " " + attention_sentence(runs[i]);
    if (!text.empty()) list.push_back({static_cast<int64_t>(i), text});
  }
  if (std::string losses = held_out_losses(runs, comparison.losses_comparable); !losses.empty())
    list.push_back({-1, losses});
  return list;
}

std::string shell_word(const std::string& text) {
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || std::string_view("/._-+,:=@%").find(static_cast<char>(c)) != std::string_view::npos;
  };
  if (!text.empty() && std::ranges::all_of(text, plain)) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string train_command(const RunRecord& run) {
  return "build/basin train " + shell_word((run.directory / "config.yaml").string());
}

std::string evaluate_command(const RunRecord& run, const Comparison& comparison) {
  std::string cache;
  if (!comparison.groups.empty()) cache = fmt::format(" --cache {}", comparison.groups.front().cache);
  if (!comparison.groups.empty() && comparison.groups.front().dtype != "float32") cache += " --dtype " + comparison.groups.front().dtype;
  return fmt::format("build/basin evaluate {} {} --mode stream,dense --sinks 0,1,2,4{} --save",
                     shell_word(run.directory.string()), dataset_or_text(run), cache);
}

std::string attention_command(const RunRecord& run) {
  return fmt::format("build/basin attention {} {} --save", shell_word(run.directory.string()), dataset_or_text(run));
}

}  // namespace basin
