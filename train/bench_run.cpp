#include "train/bench_run.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

#include "data/indexed_dataset.h"
#include "data/tokenizer.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

// Ids that no reserved piece has, at random, always the same. Few are frequent and many rare, as in
// text: that can be learned in a few steps, so losses tell whether steps were taken.
void write_random_tokens(const fs::path& prefix, int64_t tokens, int64_t vocab_size) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const at::Tensor rank = at::rand({tokens}, generator, at::kDouble).pow_(4);
  const at::Tensor ids = rank.mul_(vocab_size - kReservedIds).add_(kReservedIds).to(at::kInt);
  IndexedDatasetWriter writer(prefix, vocab_size);
  writer.add_document({ids.const_data_ptr<int32_t>(), static_cast<size_t>(tokens)});
  writer.commit();
}

}  // namespace

BenchRun::BenchRun(RunConfig& config, int64_t batches) {
  const fs::path data = directory() / "random";
  write_random_tokens(data,
                      batches * config.train.global_batch * config.data.sequence_length + 1,
                      config.model.vocab_size);
  config.data.train = {{data.string(), 1.0}};
  config.data.heldout.clear();
  config.run.dir = (directory() / "run").string();
  config.train.steps = std::max(config.train.steps, batches);
}

}  // namespace basin
