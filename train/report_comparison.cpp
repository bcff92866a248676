// Decides which evaluations stand side by side. Text and tokenizer are told apart by what the files hold: the source's
// name, the sizes of its documents in bytes and tokens, and the checksum of the tokenizer in the newest step.
#include "train/report_comparison.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <set>

namespace basin {
namespace {

std::string names_and_values(const std::vector<const RunRecord*>& runs, std::string (*value)(const RunRecord&)) {
  std::string list;
  for (const RunRecord* run : runs) list += fmt::format("{}{} {}", list.empty() ? "" : ", ", run->name, value(*run));
  return list;
}

std::string sources_of(const RunRecord& run) {
  std::set<std::string> sources;
  for (const auto& e : run.evaluations) sources.insert(e.source);
  return "on " + fmt::format("{}", fmt::join(sources, " and "));
}

std::string caches_of(const RunRecord& run) {
  std::set<std::string> caches;
  for (const auto& e : run.evaluations) caches.insert(fmt::format("{}{}", e.cache, e.dtype == "float32" ? "" : " in " + e.dtype));
  return "with cache " + fmt::format("{}", fmt::join(caches, " and "));
}

std::string tokens_of(const RunRecord& run) {
  int64_t tokens = 0;
  for (const auto& document : run.evaluations.front().documents) tokens += document.tokens;
  return fmt::format("{} documents of {} tokens", run.evaluations.front().documents.size(), tokens);
}

EvaluationGroup group_of(const std::vector<RunRecord>& runs, const SavedEvaluation& wanted) {
  EvaluationGroup group{.source = wanted.source, .cache = wanted.cache, .dtype = wanted.dtype, .by_run = {}};
  for (const RunRecord& run : runs) {
    const auto it = std::ranges::find_if(run.evaluations, [&](const SavedEvaluation& e) {
      return e.source_name() == wanted.source_name() && e.cache == wanted.cache && e.dtype == wanted.dtype;
    });
    group.by_run.push_back(it == run.evaluations.end() ? nullptr : &*it);
  }
  return group;
}

/// Sizes, not names: the text is the same when every document has as many bytes, and so is the tokenizer when it has as
/// many tokens.
bool same_tokens(const SavedEvaluation& a, const SavedEvaluation& b) {
  return std::ranges::equal(a.documents, b.documents, [](const SavedDocument& x, const SavedDocument& y) {
    return x.tokens == y.tokens && x.scored == y.scored && x.bytes == y.bytes;
  });
}

bool share_source(const std::vector<const RunRecord*>& evaluated) {
  return std::ranges::any_of(evaluated.front()->evaluations, [&](const SavedEvaluation& mine) {
    return std::ranges::all_of(evaluated, [&](const RunRecord* run) {
      return std::ranges::count(run->evaluations, mine.source_name(), &SavedEvaluation::source_name) > 0;
    });
  });
}

bool share_config(const std::vector<RunRecord>& runs, const std::string& prefix) {
  const auto differences = config_differences(runs);
  return std::ranges::none_of(differences, [&](const KeyDifference& d) { return d.key.starts_with(prefix); });
}

}  // namespace

std::vector<KeyDifference> config_differences(const std::vector<RunRecord>& runs) {
  std::set<std::string> keys;
  for (const RunRecord& run : runs) {
    for (const auto& [key, value] : run.config) keys.insert(key);
  }
  std::vector<KeyDifference> differences;
  for (const std::string& key : keys) {
    KeyDifference difference{.key = key, .values = {}};
    for (const RunRecord& run : runs) {
      if (!run.config.empty()) difference.values.push_back(run.config_value(key));
    }
    if (std::ranges::adjacent_find(difference.values, std::ranges::not_equal_to{}) == difference.values.end()) continue;
    difference.values.clear();
    for (const RunRecord& run : runs) difference.values.push_back(run.config_value(key));
    differences.push_back(difference);
  }
  return differences;
}

bool is_sink_against_vanilla(const std::vector<RunRecord>& runs) {
  const auto known = [](const RunRecord& run) { return !run.config.empty(); };
  const auto vanilla = [](const RunRecord& run) { return run.sink_kind() == "none"; };
  if (!std::ranges::all_of(runs, known) || std::ranges::none_of(runs, vanilla) || std::ranges::all_of(runs, vanilla))
    return false;
  const auto differences = config_differences(runs);
  return std::ranges::all_of(differences, [](const KeyDifference& d) {
    return d.key.starts_with("model.sink.") || d.key.starts_with("run.");
  });
}

Comparison compare(const std::vector<RunRecord>& runs) {
  Comparison result;
  std::vector<const RunRecord*> evaluated;
  std::set<std::string> tokenizers;
  for (const RunRecord& run : runs) {
    if (!run.evaluations.empty()) evaluated.push_back(&run);
    if (!run.tokenizer_hash.empty()) tokenizers.insert(run.tokenizer_hash);
  }
  const bool one_tokenizer = tokenizers.size() <= 1;
  result.losses_comparable = one_tokenizer && share_config(runs, "data.heldout") && share_config(runs, "data.train");
  if (evaluated.empty()) return result;
  if (!one_tokenizer) {
    result.refusal = "Not compared: the runs use different tokenizers, so their perplexities count different tokens.";
    return result;
  }
  if (!share_source(evaluated)) {
    result.refusal = fmt::format("Not compared: the runs were evaluated on different text ({}).",
                                 names_and_values(evaluated, sources_of));
    result.losses_comparable = result.losses_comparable && share_config(runs, "data.");
    return result;
  }
  for (const SavedEvaluation& first : evaluated.front()->evaluations) {
    EvaluationGroup group = group_of(runs, first);
    const bool complete =
        static_cast<size_t>(std::ranges::count(group.by_run, nullptr)) == runs.size() - evaluated.size();
    if (!complete) continue;
    if (!std::ranges::all_of(group.by_run,
                             [&](const SavedEvaluation* e) { return e == nullptr || same_tokens(first, *e); })) {
      result.refusal =
          fmt::format("Not compared: {} is not the same text, or not cut into the same tokens, in all runs ({}).",
                      first.source, names_and_values(evaluated, tokens_of));
      result.losses_comparable = false;
      result.groups.clear();
      return result;
    }
    result.groups.push_back(std::move(group));
  }
  std::ranges::stable_sort(result.groups, std::greater{}, &EvaluationGroup::cache);
  if (result.groups.empty()) {
    result.refusal =
        fmt::format("Not compared: the runs have no cache size in common ({}). Evaluate them with the same --cache and --dtype.",
                    names_and_values(evaluated, caches_of));
  }
  return result;
}

}  // namespace basin
