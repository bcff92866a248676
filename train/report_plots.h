// The report's plots from the runs' numbers: what goes into which picture, smoothing and ranges. A plot without data is
// an empty string.
#pragma once

#include <string>
#include <vector>

#include "train/report_findings.h"

namespace basin {

/// A colour class for each run: grey-blues for vanilla models, accents for those with a sink.
std::vector<std::string> run_colours(const std::vector<RunRecord>& runs);

/// Training loss (moving mean, raw values faint behind it) and validation points over training tokens.
std::string loss_plot(const std::vector<RunRecord>& runs);
std::string speed_plot(const std::vector<RunRecord>& runs);
/// Share of heads above the attention-sink threshold, per cent, over training tokens.
std::string sink_metric_plot(const std::vector<RunRecord>& runs);

/// Cost of keeping none of the initial tokens, over training tokens, for runs whose earlier steps were streamed (the first
/// text and cache that a run's trajectory has).
std::string eviction_plot(const std::vector<RunRecord>& runs);

/// Difference to four kept tokens by number of kept tokens, every run, with intervals.
std::string streaming_plot(const std::vector<RunRecord>& runs, const EvaluationGroup& group);

/// Perplexity over position of one run of the group, on the axes that all runs of the group share.
std::string position_plot(const std::vector<RunRecord>& runs, const EvaluationGroup& group, size_t run);

}  // namespace basin
