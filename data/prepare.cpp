// Two passes over the input (one with a given tokenizer): lines for the tokenizer's training, then
// tokens. Both run through the same ordered pipeline, in batches of documents, so that small
// documents do not drown in locks.
#include "data/prepare.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "configs/files.h"
#include "configs/json_text.h"
#include "configs/log.h"
#include "configs/progress.h"
#include "configs/signals.h"
#include "data/holdout.h"
#include "data/indexed_dataset.h"
#include "data/ordered_pipeline.h"
#include "data/text_reader.h"
#include "data/tokenizer.h"
#include "data/tokenizer_sample.h"

namespace basin {
namespace {

constexpr size_t kBatchBytes = 1 << 18;

/// Raw documents that travel together.
struct Batch {
  int64_t first_document = 0;  // number of the first one in the whole input
  std::vector<RawDocument> documents;
  int64_t file_bytes = 0;  // of the files, read for this batch: progress
};

/// One pass over the input. `work(batch, worker)` -> Out with a field `file_bytes`; `write(Out)` in
/// order.
template <class Out, class Work, class Write>
std::vector<std::string> pass(const std::vector<TextFile>& files,
                              const std::string& label,
                              int threads,
                              Work work,
                              Write write) {
  TextReader reader(files);
  uint64_t total = 0;
  for (const TextFile& file : files) {
    total += file.bytes;
  }
  Progress progress(label, static_cast<int64_t>(total), "bytes");
  OrderedPipeline<Batch, Out> pipeline;
  int64_t documents = 0;
  pipeline.next = [&]() -> std::optional<Batch> {
    const uint64_t before = reader.bytes_read();
    Batch batch{documents, {}, 0};
    for (size_t bytes = 0; bytes < kBatchBytes;) {
      std::optional<RawDocument> document = reader.next();
      if (!document) {
        break;
      }
      bytes += document->bytes.size() + sizeof(RawDocument);
      batch.documents.push_back(std::move(*document));
    }
    documents += static_cast<int64_t>(batch.documents.size());
    batch.file_bytes = static_cast<int64_t>(reader.bytes_read() - before);
    return batch.documents.empty() ? std::nullopt : std::optional(std::move(batch));
  };
  pipeline.work = [&](Batch batch, int worker) {
    const int64_t bytes = batch.file_bytes;
    Out out = work(std::move(batch), worker);
    out.file_bytes = bytes;
    return out;
  };
  pipeline.write = [&](Out out) {
    progress.advance(out.file_bytes);
    write(std::move(out));
  };
  pipeline.bytes = [](const Batch& batch) {
    size_t bytes = 0;
    for (const RawDocument& document : batch.documents) bytes += document.bytes.size();
    return bytes;
  };
  pipeline.threads = threads;
  pipeline.run();
  return reader.file_hashes();
}

struct SampledBatch {
  int64_t file_bytes = 0;
  std::vector<LineSample::Line> lines;
};

std::vector<std::string> sample_lines(const PrepareOptions& options,
                                      const std::vector<TextFile>& files,
                                      const Holdout& holdout,
                                      int threads) {
  LineSample sample(options.seed, options.sample_bytes);
  const auto work = [&](Batch batch, int) {
    SampledBatch out;
    int64_t number = batch.first_document;
    for (RawDocument& raw : batch.documents) {
      const size_t file = raw.file;
      const TextDocument document = decode_document(std::move(raw), files[file], options.text_key);
      for (const Holdout::Part& part : holdout.parts(file, number, document.text)) {
        if (!part.held_out) {
          std::vector<LineSample::Line> lines = sample.candidates(number, part.text);
          std::move(lines.begin(), lines.end(), std::back_inserter(out.lines));
        }
      }
      ++number;
    }
    return out;
  };
  pass<SampledBatch>(files, "reading for the tokenizer", threads, work, [&](SampledBatch out) {
    sample.add(std::move(out.lines));
  });
  return sample.take();
}

struct EncodedDocument {
  size_t begin = 0, end = 0;  // in the batch's ids
  int64_t text_bytes = 0;
  bool held_out = false;
};

struct EncodedBatch {
  int64_t file_bytes = 0, replaced_sequences = 0, literal_u2581 = 0, empty_documents = 0;
  std::vector<int32_t> ids;
  std::vector<EncodedDocument> documents;
};

EncodedBatch encode_batch(Batch batch,
                          const std::vector<TextFile>& files,
                          const std::string& text_key,
                          const Holdout& holdout,
                          const Tokenizer& tokenizer,
                          EncodeCache& cache) {
  EncodedBatch out;
  int64_t number = batch.first_document;
  for (RawDocument& raw : batch.documents) {
    const size_t file = raw.file;
    const TextDocument document = decode_document(std::move(raw), files[file], text_key);
    out.replaced_sequences += document.replaced_sequences;
    out.literal_u2581 += document.literal_u2581;
    out.empty_documents += document.text.empty() ? 1 : 0;
    for (const Holdout::Part& part : holdout.parts(file, number, document.text)) {
      if (part.text.empty()) {
        continue;
      }
      const size_t begin = out.ids.size();
      tokenizer.encode(part.text, cache, out.ids);
      out.ids.push_back(static_cast<int32_t>(tokenizer.eos_id()));
      out.documents.push_back(
          {begin, out.ids.size(), static_cast<int64_t>(part.text.size()), part.held_out});
    }
    ++number;
  }
  return out;
}

/// Both splits under construction.
struct Output {
  std::filesystem::path prefix;
  IndexedDatasetWriter train;
  std::optional<IndexedDatasetWriter> heldout;

  Output(const std::filesystem::path& path, int64_t vocab_size, bool with_heldout)
      : prefix(path), train(output_path(path, "_train"), vocab_size) {
    if (with_heldout) {
      heldout.emplace(output_path(path, "_heldout"), vocab_size);
    }
  }

  /// Everything at once, the sidecar last: it vouches for the rest, so until then one stands there
  /// that says the opposite.
  void commit(const Tokenizer& tokenizer, const Sidecar& sidecar) {
    const std::filesystem::path json = output_path(prefix, ".json");
    const std::string vouching = to_text(sidecar.to_json());
    write_file(json, unfinished_sidecar());
    train.commit();
    if (heldout) {
      heldout->commit();
    } else {  // of an earlier run with another tokenizer
      std::filesystem::remove(output_path(prefix, "_heldout.bin"));
      std::filesystem::remove(output_path(prefix, "_heldout.idx"));
    }
    write_file(output_path(prefix, ".model"), tokenizer.model_bytes());
    write_file(json, vouching);
  }
};

/// Fills counts and source hashes of `sidecar` and both splits of `output`.
void encode_all(const PrepareOptions& options,
                const std::vector<TextFile>& files,
                const Holdout& holdout,
                const Tokenizer& tokenizer,
                int threads,
                Output& output,
                Sidecar& sidecar) {
  std::vector<EncodeCache> caches(threads);
  SplitCounts heldout;
  const auto work = [&](Batch batch, int worker) {
    return encode_batch(
        std::move(batch), files, options.text_key, holdout, tokenizer, caches[worker]);
  };
  const auto write = [&](EncodedBatch batch) {
    sidecar.replaced_sequences += batch.replaced_sequences;
    sidecar.literal_u2581 += batch.literal_u2581;
    sidecar.empty_documents += batch.empty_documents;
    for (const EncodedDocument& document : batch.documents) {
      const std::span<const int32_t> ids(batch.ids.data() + document.begin,
                                         document.end - document.begin);
      (document.held_out ? *output.heldout : output.train).add_document(ids);
      SplitCounts& counts = document.held_out ? heldout : sidecar.train;
      ++counts.documents;
      counts.tokens += static_cast<int64_t>(ids.size());
      counts.bytes += document.text_bytes;
    }
  };
  const std::vector<std::string> hashes =
      pass<EncodedBatch>(files, "encoding", threads, work, write);
  for (size_t i = 0; i < hashes.size(); ++i) {
    sidecar.sources[i].hash = hashes[i];
  }
  if (!holdout.empty()) {
    sidecar.heldout = heldout;
  }
}

void check_options(const PrepareOptions& options) {
  if (options.inputs.empty() || options.prefix.empty()) {
    throw std::invalid_argument("prepare needs --input and --out");
  }
  if (options.prefix.filename().empty() || std::filesystem::is_directory(options.prefix)) {
    throw std::invalid_argument(fmt::format("--out {}: is a folder; give a prefix such as {}",
                                            options.prefix.string(),
                                            (options.prefix / "corpus").string()));
  }
  if (options.tokenizer.empty() && options.vocab_size == 0) {
    throw std::invalid_argument(
        "give --vocab-size for a new tokenizer, or --tokenizer FILE for one that exists");
  }
  if (options.tokenizer.empty()) {
    check_vocab_size(options.vocab_size);
  }
}

constexpr const char* kOutputs[] = {
    ".json", ".model", "_train.bin", "_train.idx", "_heldout.bin", "_heldout.idx"};

/// Files that no earlier run wrote, as far as its sidecar says.
void refuse_to_replace(const PrepareOptions& options) {
  if (options.force || is_sidecar(output_path(options.prefix, ".json"))) return;
  for (const char* const suffix : kOutputs)
    if (const auto path = output_path(options.prefix, suffix); std::filesystem::exists(path))
      throw std::invalid_argument(
          fmt::format("--out {0}: {1} is there, and no {0}.json of `basin prepare` says that it may "
                      "be replaced: give another prefix, or --force",
                      options.prefix.string(),
                      path.string()));
}

/// Options that decide the output, as JSON text.
std::string result_options(const PrepareOptions& options, const std::optional<Tokenizer>& given) {
  return nlohmann::json{{"vocab_size", given ? given->vocab_size() : options.vocab_size},
                        {"holdout", options.holdout},
                        {"tokenizer", given ? given->hash() : ""},
                        {"text_key", options.text_key},
                        {"seed", options.seed},
                        {"sample_bytes", given ? 0 : options.sample_bytes}}
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// Of a file, or the one that a model directory's software would use.
Tokenizer load_tokenizer(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return Tokenizer::load(path);
  std::optional<Tokenizer> tokenizer = open_tokenizer(path);
  if (!tokenizer) {
    throw std::invalid_argument(fmt::format(
        "--tokenizer {}: no tokenizer.model and no tokenizer.json in this directory", path.string()));
  }
  return std::move(*tokenizer);
}

std::optional<Tokenizer> load_given(const PrepareOptions& options) {
  if (options.tokenizer.empty()) {
    return std::nullopt;
  }
  Tokenizer tokenizer = load_tokenizer(options.tokenizer);
  if (options.vocab_size != 0 && options.vocab_size != tokenizer.vocab_size()) {
    throw std::invalid_argument(
        fmt::format("--vocab-size {}, but {} has {} pieces: leave --vocab-size out",
                    options.vocab_size,
                    options.tokenizer.string(),
                    tokenizer.vocab_size()));
  }
  if (tokenizer.eos_id() < 0) {
    throw std::runtime_error(fmt::format("{}: has no end-of-text piece to put behind each document",
                                         options.tokenizer.string()));
  }
  return tokenizer;
}

Tokenizer train_new(const PrepareOptions& options,
                    const std::vector<TextFile>& files,
                    const Holdout& holdout,
                    int threads) {
  const std::vector<std::string> lines = sample_lines(options, files, holdout, threads);
  if (lines.empty()) {
    throw std::runtime_error(fmt::format("no text to train on in {}{}",
                                         options.inputs[0],
                                         options.inputs.size() > 1 ? " and the other inputs" : ""));
  }
  log_info("training a tokenizer of {} pieces on {} lines", options.vocab_size, lines.size());
  return Tokenizer::from_bytes(train_tokenizer(lines, options.vocab_size), "the new tokenizer");
}

void warn_of_changes(const Sidecar& sidecar, const Tokenizer& tokenizer) {
  if (sidecar.replaced_sequences > 0) {
    log_warn("{} invalid UTF-8 sequences were replaced by U+FFFD", sidecar.replaced_sequences);
  }
  if (sidecar.literal_u2581 > 0 && tokenizer.is_sentencepiece()) {
    log_warn(
        "the text contains U+2581 {} times, which SentencePiece uses for spaces: they will decode "
        "to spaces",
        sidecar.literal_u2581);
  }
  if (sidecar.empty_documents > 0) {
    log_warn("{} documents without text were left out", sidecar.empty_documents);
  }
}

}  // namespace

PrepareResult prepare(const PrepareOptions& options) {
  check_options(options);
  const std::vector<TextFile> files = find_text_files(options.inputs);
  const Holdout holdout(options.holdout, files, options.seed);
  std::optional<Tokenizer> given = load_given(options);
  const std::string result = result_options(options, given);
  const std::optional<Sidecar> old = find_up_to_date(options.prefix, result, files);
  if (old && (!given || given->eos_id() == old->eos_id)) {  // which may be said outside of the file
    return {*old, true};
  }
  refuse_to_replace(options);
  make_writable_directory(options.prefix.parent_path());
  for (const char* const suffix : kOutputs)
    remove_stale_temporaries(output_path(options.prefix, suffix));
  const int threads = options.threads > 0 ? options.threads : at::get_num_threads();
  const Tokenizer tokenizer =
      given ? std::move(*given) : train_new(options, files, holdout, threads);
  check_interrupt();
  Sidecar sidecar;
  sidecar.tokenizer_hash = tokenizer.hash();
  sidecar.vocab_size = tokenizer.vocab_size();
  sidecar.eos_id = tokenizer.eos_id();
  sidecar.options = result;
  sidecar.sources = list_sources(files);
  Output output(options.prefix, tokenizer.vocab_size(), !holdout.empty());
  encode_all(options, files, holdout, tokenizer, threads, output, sidecar);
  if (sidecar.train.documents == 0) {
    throw std::runtime_error("no document with text is left for training");
  }
  if (sidecar.heldout && sidecar.heldout->documents == 0) {
    throw std::invalid_argument(fmt::format(
        "--holdout {} holds out none of the {} documents: raise the fraction or give a glob",
        options.holdout[0],
        sidecar.train.documents));
  }
  output.commit(tokenizer, sidecar);
  warn_of_changes(sidecar, tokenizer);
  return {std::move(sidecar), false};
}

}  // namespace basin
