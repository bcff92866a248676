// A model in GGUF's keys and tensors, as llama.cpp loads it. The sink is the BOS token, which
// readers put in front of a text by themselves.
#pragma once

#include <string>

#include "infer/gguf.h"
#include "infer/model_directory.h"

namespace basin {

/// Keys and tensors of `model`, with matrices as `matrix_type` (rows that are no whole blocks of
/// Q8_0 as F16) and all else as F32. `name`: general.name. Throws std::invalid_argument for what
/// llama.cpp would compute otherwise, saying what that is. The model must outlive the result.
GgufFile to_gguf(const LoadedModel& model, GgufType matrix_type, const std::string& name);

}  // namespace basin
