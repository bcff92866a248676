#include "data/sidecar.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "configs/files.h"
#include "configs/log.h"
#include "data/dataset_index.h"
#include "data/indexed_dataset.h"
#include "data/tokenizer.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char *kFormat = "basin-dataset-1", *kUnfinished = "unfinished";

Json to_json(const SplitCounts& counts) {
  return {{"documents", counts.documents}, {"tokens", counts.tokens}, {"bytes", counts.bytes}};
}

SplitCounts counts_from(const Json& json) {
  return {json.at("documents"), json.at("tokens"), json.at("bytes")};
}

int64_t modified_ns(const fs::path& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0
             ? int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec
             : 0;
}

bool has_size(const fs::path& path, uint64_t bytes) {
  return fs::is_regular_file(path) && fs::file_size(path) == bytes;
}

bool split_is_there(const fs::path& prefix,
                    const std::string& split,
                    const SplitCounts& counts,
                    int64_t vocab_size) {
  return has_size(output_path(prefix, split + ".bin"),
                  counts.tokens * dataset_item_bytes(vocab_size)) &&
         has_size(output_path(prefix, split + ".idx"),
                  dataset_index_bytes(counts.documents, counts.documents + 1));
}

/// The sidecar, or nothing when the file is absent or not ours.
std::optional<Sidecar> read_sidecar(const fs::path& path) {
  if (!fs::exists(path)) {
    return std::nullopt;
  }
  try {
    const Json json = Json::parse(read_file(path));
    if (!json.is_object() || !json.contains("format") || json["format"] != kFormat) {
      return std::nullopt;
    }
    if (json.contains(kUnfinished))
      throw std::runtime_error(fmt::format(
          "{}: left by a `basin prepare` that was cut short: run it again", path.string()));
    return Sidecar::from_json(json);
  } catch (const Json::exception& error) {
    throw std::runtime_error(
        fmt::format("{}: damaged ({}); run the `basin prepare` that wrote it again",
                    path.string(),
                    error.what()));
  }
}

}  // namespace

Json Sidecar::to_json() const {
  Json list = Json::array();
  for (const Source& source : sources) {
    list.push_back({{"path", source.path},
                    {"bytes", source.bytes},
                    {"modified_ns", source.modified_ns},
                    {"xxh3", source.hash}});
  }
  return {{"format", kFormat},
          {"tokenizer_hash", tokenizer_hash},
          {"vocab_size", vocab_size},
          {"eos_token_id", eos_id},
          {"train", basin::to_json(train)},
          {"heldout", heldout ? basin::to_json(*heldout) : Json(nullptr)},
          {"replaced_sequences", replaced_sequences},
          {"literal_u2581", literal_u2581},
          {"empty_documents", empty_documents},
          {"options", Json::parse(options)},
          {"sources", list}};
}

Sidecar Sidecar::from_json(const Json& json) {
  Sidecar sidecar;
  sidecar.tokenizer_hash = json.at("tokenizer_hash");
  sidecar.vocab_size = json.at("vocab_size");
  sidecar.eos_id = json.value("eos_token_id", int64_t{-1});
  sidecar.train = counts_from(json.at("train"));
  if (!json.at("heldout").is_null()) {
    sidecar.heldout = counts_from(json.at("heldout"));
  }
  sidecar.replaced_sequences = json.at("replaced_sequences");
  sidecar.literal_u2581 = json.at("literal_u2581");
  sidecar.empty_documents = json.at("empty_documents");
  sidecar.options = json.at("options").dump();
  for (const Json& source : json.at("sources")) {
    sidecar.sources.push_back(
        {source.at("path"), source.at("bytes"), source.at("modified_ns"), source.at("xxh3")});
  }
  return sidecar;
}

std::string unfinished_sidecar() {
  return Json{{"format", kFormat}, {kUnfinished, true}}.dump() + "\n";
}

bool is_sidecar(const fs::path& path) {
  return fs::is_regular_file(path) && read_file(path).find("\"basin-dataset-") != std::string::npos;
}

fs::path output_path(const fs::path& prefix, const std::string& suffix) {
  fs::path path = prefix;
  path += suffix;
  return path;
}

std::vector<Sidecar::Source> list_sources(const std::vector<TextFile>& files) {
  std::vector<Sidecar::Source> sources;
  for (const TextFile& file : files) {
    sources.push_back({file.path.string(), file.bytes, modified_ns(file.path), {}});
  }
  return sources;
}

std::optional<Sidecar> find_up_to_date(const fs::path& prefix,
                                       const std::string& options,
                                       const std::vector<TextFile>& files) {
  std::optional<Sidecar> old;
  try {
    old = read_sidecar(output_path(prefix, ".json"));
  } catch (const std::runtime_error& error) {
    log_warn("{}: making everything anew", error.what());
  }
  const fs::path model = output_path(prefix, ".model");
  if (!old || old->options != options || old->sources.size() != files.size() ||
      !fs::exists(model) || tokenizer_hash(read_file(model)) != old->tokenizer_hash ||
      !split_is_there(prefix, "_train", old->train, old->vocab_size) ||
      (old->heldout && !split_is_there(prefix, "_heldout", *old->heldout, old->vocab_size))) {
    return std::nullopt;
  }
  const std::vector<Sidecar::Source> now = list_sources(files);
  for (size_t i = 0; i < now.size(); ++i) {
    const Sidecar::Source& before = old->sources[i];
    if (now[i].path != before.path || now[i].bytes != before.bytes) {
      return std::nullopt;
    }
    // A new time alone, as after a second download, proves nothing; the content does.
    if (now[i].modified_ns != before.modified_ns && xxh3_hex_of_file(now[i].path) != before.hash) {
      return std::nullopt;
    }
  }
  return old;
}

Tokenizer DatasetInfo::open_tokenizer() const {
  Tokenizer tokenizer = Tokenizer::load(tokenizer_path);
  if (eos_id >= 0 && eos_id < tokenizer.vocab_size()) tokenizer.end_texts_with(eos_id);
  return tokenizer;
}

std::optional<DatasetInfo> find_dataset_info(const fs::path& prefix) {
  const std::string name = prefix.string();
  for (const std::string suffix : {"_train", "_heldout"}) {
    if (!name.ends_with(suffix)) {
      continue;
    }
    const fs::path base = name.substr(0, name.size() - suffix.size());
    if (const auto sidecar = read_sidecar(output_path(base, ".json"))) {
      return DatasetInfo{output_path(base, ".model"),
                         sidecar->tokenizer_hash,
                         sidecar->vocab_size,
                         sidecar->eos_id};
    }
    if (fs::exists(output_path(base, ".model")) && !fs::exists(output_path(base, ".json")))
      throw std::runtime_error(
          fmt::format("{0}.model is there and {0}.json is not: `basin prepare` was cut short, or the "
                      "file was not copied; run it again, or rename {0}.model if it has nothing to "
                      "do with {1}",
                      base.string(),
                      name));
  }
  return std::nullopt;
}

}  // namespace basin
