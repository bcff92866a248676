// The index of a model in several weight files: *.index.json, {"weight_map": {TENSOR: FILE}}.
// Knows no LibTorch.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace basin {

/// Tensor -> the file beside the index that holds it. `name` stands in messages, `text` is what the
/// index holds, `suffix` how weight files end (".safetensors"). Throws std::runtime_error, one line
/// naming index and tensor, for anything but names of such files: a path, another index, nothing.
std::map<std::string, std::string> read_weight_index(const std::string& name,
                                                     std::string_view text,
                                                     std::string_view suffix);

}  // namespace basin
