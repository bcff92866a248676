// In which precision a model directory holds its weights.
#pragma once

#include <filesystem>
#include <string>

namespace basin {

/// "float32", "float16" or "bfloat16": what most bytes of its safetensors files are, whatever its
/// config.json says; without such files what that says, and float32 where it says nothing.
std::string stored_dtype(const std::filesystem::path& directory);

}  // namespace basin
