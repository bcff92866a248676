// `report`: one self-contained HTML page about one or more runs. Nothing is fetched, no script runs; light and dark
// follow the reader.
#pragma once

#include <string>
#include <vector>

#include "train/report_data.h"

namespace basin {

/// The whole page. `command` is what made it, for the footer. The order of the runs is kept.
std::string report_page(const std::vector<RunRecord>& runs, const std::string& command);

/// The findings as plain text for the terminal: the heading, then a paragraph each.
std::string report_summary(const std::vector<RunRecord>& runs);

}  // namespace basin
