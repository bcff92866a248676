#include "infer/export_gguf.h"

#include <fmt/core.h>

#include <algorithm>
#include <fstream>
#include <stdexcept>
#include <string_view>

#include "configs/files.h"
#include "configs/log.h"
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
    log_warn(
        "{} sink tokens: readers of GGUF files put only one token, the first of them (id {}), in "
        "front of a text; the others must be spelled in the prompt or sent as ids",
        sink.tokens(),
        sink.ids().front());
}

bool is_gguf(const fs::path& path) {
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
  return std::string_view(magic, sizeof magic) == "GGUF";
}

bool lies_in(const fs::path& file, const fs::path& directory) {
  const fs::path parent = fs::canonical(fs::absolute(file).parent_path()),
                 inside = parent.lexically_relative(fs::canonical(directory));
  return !inside.empty() && *inside.begin() != "..";
}

/// What speaks against writing the file; empty when nothing does.
std::string objection(const GgufExport& options, const fs::path& source) {
  if (!fs::exists(options.out)) return "";
  if (!fs::is_regular_file(options.out)) return "is no file";
  if (!options.force) return "is there already: name another file, or replace it with --force";
  if (lies_in(options.out, source))
    return "lies in the model's own directory, where --force replaces nothing: name another file";
  if (!is_gguf(options.out))
    return "is no GGUF file, and --force replaces nothing else: name another file";
  return "";
}

}  // namespace

void export_gguf(const fs::path& model_path, const GgufExport& options) {
  const fs::path source = resolve_model_directory(model_path);
  if (const std::string reason = objection(options, source); !reason.empty())
    throw std::invalid_argument(fmt::format("{} {}", options.out.string(), reason));
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
  make_writable_place(options.out);
  write_gguf(options.out, file, [&](uint64_t bytes) {
    check_interrupt();
    progress.advance(static_cast<int64_t>(bytes));
  });
}

}  // namespace basin
