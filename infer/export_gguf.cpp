#include "infer/export_gguf.h"

#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <stdexcept>
#include <string_view>

#include "configs/files.h"
#include "configs/progress.h"
#include "configs/signals.h"
#include "infer/gguf_model.h"
#include "infer/model_directory.h"
#include "infer/stored_dtype.h"
#include "model/checkpoint.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

struct Precision {
  std::string_view name;    // llama.cpp's
  std::string_view stored;  // a Hugging Face directory's, where it has such weights
  GgufType type;
};
constexpr Precision kPrecisions[] = {{"f32", "float32", GgufType::kF32},
                                     {"f16", "float16", GgufType::kF16},
                                     {"bf16", "bfloat16", GgufType::kBF16},
                                     {"q8_0", "", GgufType::kQ8_0}};

void warn_of_sinks(const SinkConfig& sink) {
  if (sink.tokens() > 1)
    spdlog::warn(
        "{} sink tokens: readers of GGUF files put only one token, the first of them (id {}), in "
        "front of a text; the others must be spelled in the prompt or sent as ids",
        sink.tokens(),
        sink.ids().front());
}

void check_target(const GgufExport& options) {
  if (!fs::exists(options.out)) return;
  if (!fs::is_regular_file(options.out))
    throw std::invalid_argument(fmt::format("{} is no file", options.out.string()));
  if (!options.force)
    throw std::invalid_argument(
        fmt::format("{} is there already: name another file, or replace it with --force",
                    options.out.string()));
}

}  // namespace

void export_gguf(const fs::path& model_path, const GgufExport& options) {
  check_target(options);
  const fs::path source = resolve_model_directory(model_path);
  const std::string stored = stored_dtype(source);
  const auto* wanted = options.dtype.empty()
                           ? std::ranges::find(kPrecisions, stored, &Precision::stored)
                           : std::ranges::find(kPrecisions, options.dtype, &Precision::name);
  if (wanted == std::end(kPrecisions))
    throw std::invalid_argument(
        fmt::format("--dtype {}: a GGUF file has f32, f16, bf16 or q8_0", options.dtype));
  const LoadedModel model = open_model(source, stored);
  const GgufFile file = to_gguf(model, wanted->type, options.out.stem().string());
  warn_of_sinks(model.model->config().sink);
  Progress progress("export", static_cast<int64_t>(file.data_bytes()), "bytes");
  make_writable_directory(options.out.parent_path());
  write_gguf(options.out, file, [&](uint64_t bytes) {
    check_interrupt();
    progress.advance(static_cast<int64_t>(bytes));
  });
}

}  // namespace basin
