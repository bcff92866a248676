// The model card of an exported directory (README.md with the front matter that model hubs read):
// what the model is, what it was trained on, what came out, and how other software loads it. What
// is not known is said to be missing.
#pragma once

#include <filesystem>
#include <string>

#include "infer/model_directory.h"

namespace basin {

/// Reads config.yaml, metrics.jsonl and eval/*.json of the model's run, as far as they are there;
/// files that cannot be read are warned of and left out. A model without a run around it keeps the card that it has.
/// `target`: the exported directory, whose name is the title.
std::string model_card(const LoadedModel& model,
                       const std::filesystem::path& target);

}  // namespace basin
