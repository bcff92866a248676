// How a byte-level tokenizer.json cuts texts into words, in llama.cpp's terms.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace basin {

/// The value of tokenizer.ggml.pre under which llama.cpp gives the ids of this tokenizer.json
/// (parsed; JsonTokenizer has accepted it). Throws std::invalid_argument naming the part for which
/// llama.cpp has nothing.
std::string llama_cpp_pre_tokenizer(const nlohmann::json& document);

}  // namespace basin
