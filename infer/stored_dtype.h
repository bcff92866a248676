// In which precision a model directory holds its weights.
#pragma once

#include <filesystem>
#include <string>

namespace basin {

/// "float32", "float16" or "bfloat16": what most bytes of its weights are, whatever its config.json
/// says; float32 when they are something else. Throws std::runtime_error as WeightFiles does.
std::string stored_dtype(const std::filesystem::path& directory);

}  // namespace basin
