#include "train/checkpoint_saver.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

#include "configs/log.h"
#include "data/indexed_dataset.h"
#include "data/tokenizer_sinks.h"
#include "infer/model_directory.h"
#include "model/checkpoint.h"
#include "model/manifest.h"
#include "train/initial_model.h"
#include "train/run_directory.h"
#include "train/shards.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
/// Host memory like `t`, which a GPU can copy into without a detour.
at::Tensor host_like(const at::Tensor& t) {
  return at::empty(t.sizes(), t.options().device(at::kCPU).pinned_memory(t.is_cuda()));
}

}  // namespace

CheckpointSaver::CheckpointSaver(const SavedState& run,
                                 const Transformer& model,
                                 const Optimizer& optimizer,
                                 Comm& comm,
                                 std::function<void()> before_publishing)
    : run_(run),
      model_(model),
      optimizer_(optimizer),
      comm_(comm),
      before_publishing_(std::move(before_publishing)),
      root_pid_(comm.broadcast(int64_t{getpid()})) {
  for (const DatasetConfig& dataset : run.config.data.train) {
    if (const auto info = find_dataset_info(dataset.path); info && !tokenizer_)
      tokenizer_.emplace(info->open_tokenizer());
  }
  if (const fs::path initial = initial_tokenizer_directory(run.config);
      !run.config.train.init_from.empty() && fs::exists(initial))
    initial_tokenizer_ = initial;
  if (!tokenizer_ && initial_tokenizer_) tokenizer_ = open_tokenizer(*initial_tokenizer_, false);
}

CheckpointSaver::~CheckpointSaver() {
  if (work_.valid()) work_.wait();
}

void CheckpointSaver::start(const TrainState& state) {
  TORCH_CHECK(!busy(), "a save is under way");
  const fs::path directory = step_directory(run_.config.run.dir, state.step);
  report_ = Report();
  report_.directory = directory;
  report_.step = state.step;
  aside_ = aside(directory, root_pid_, attempt_++);
  began_ = Clock::now();
  if (has_files()) copy(state);
  report_.copy_s = seconds_since(began_);
  began_ = Clock::now();
  phase_ = Phase::kWriting;
  begin_work(has_files(), [this] { write_files(); });
}

void CheckpointSaver::copy(const TrainState& state) {
  at::NoGradGuard no_grad;
  run_.state = state;
  run_.optimizer_count = optimizer_.count();
  if (parts_.empty()) make_copy();
  if (weights_) at::Tensor(weights_->flat()).copy_(model_.flat());
  for (size_t i = 0; i < parts_.size(); ++i) {
    const Optimizer::Part& from = optimizer_.parts()[i];
    if (!masters_are_weights_) parts_[i].master.copy_(from.master);
    parts_[i].m.copy_(from.m);
    parts_[i].v.copy_(from.v);
  }
  report_.bytes = weights_ ? static_cast<int64_t>(weights_->flat().nbytes()) : 0;
  for (const Optimizer::Part& part : parts_)
    report_.bytes += static_cast<int64_t>(part.master.nbytes() + part.m.nbytes() + part.v.nbytes());
}

void CheckpointSaver::make_copy() {
  if (comm_.is_root())
    weights_ = std::make_unique<Transformer>(model_.config(), model_.dtype(), at::kCPU);
  masters_are_weights_ = weights_ && model_.dtype() == at::kFloat;
  for (const Optimizer::Part& part : optimizer_.parts()) {
    parts_.push_back({part.begin,
                      masters_are_weights_
                          ? weights_->flat().narrow(0, part.begin, part.master.numel())
                          : host_like(part.master),
                      host_like(part.m),
                      host_like(part.v)});
  }
}

/// In a thread of its own, on ranks that have something to do.
void CheckpointSaver::begin_work(bool needed, std::function<void()> work) {
  problem_ = needed ? std::nullopt : std::optional<std::string>("");
  if (!needed) return;
  work_ = std::async(std::launch::async, [work = std::move(work)]() -> std::string {
    omp_set_num_threads(1);  // the cores are the training's
    try {
      work();
      return "";
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    } catch (const std::exception& error) {
      return error.what();
    }
  });
}

void CheckpointSaver::write_files() {
  fs::create_directory(aside_);  // the run directory is not made anew: its mount may have gone
  fs::create_directory(aside_ / "trainer");
  const int64_t shards = is_sharded() ? comm_.size() : 1;
  shard_entry_ =
      write_shard(aside_ / shard_name(comm_.rank(), shards), model_.parameters(), parts_);
  if (!comm_.is_root()) return;
  manifest_ = save_model(*weights_,
                         run_.config.data.sequence_length,
                         aside_,
                         end_ids());
  write_tokenizer();
  manifest_.add(kStateName, {write_state(aside_, run_)});
}

/// What ends the data's documents, and what else ended the initial model's texts. Nothing for
/// foreign data, where it is not known.
std::vector<int64_t> CheckpointSaver::end_ids() const {
  std::vector<int64_t> ids;
  if (tokenizer_ && tokenizer_->eos_id() >= 0) ids.push_back(tokenizer_->eos_id());
  if (!initial_tokenizer_) return ids;
  const fs::path initial = *initial_tokenizer_ / "generation_config.json";
  if (fs::exists(initial))
    for (const int64_t id : read_eos_ids(initial))
      if (std::ranges::find(ids, id) == ids.end()) ids.push_back(id);
  return ids;
}

void CheckpointSaver::write_tokenizer() const {
  const SinkConfig& sink = run_.config.model.sink;
  if (initial_tokenizer_)
    copy_tokenizer_files(*initial_tokenizer_, aside_);
  else if (tokenizer_)
    write_tokenizer_files(
        *tokenizer_, sink.ids(), run_.config.data.sequence_length + sink.tokens(), aside_);
}

/// What the ranks have written, in rank 0's manifest.
void CheckpointSaver::collect_entries() {
  if (!is_sharded()) {
    manifest_.add(shard_name(0, 1), shard_entry_);
    return;
  }
  const std::vector<std::string> entries = comm_.all_gather_text(to_json(shard_entry_));
  if (!comm_.is_root()) return;
  for (int64_t rank = 0; rank < comm_.size(); ++rank)
    manifest_.add(shard_name(rank, comm_.size()),
                  manifest_entry_from_json(entries[static_cast<size_t>(rank)]));
}

void CheckpointSaver::publish() const {
  manifest_.write(aside_);
  before_publishing_();
  publish_checkpoint(aside_, report_.directory);
  // What training was like before steps that came to nothing may be what one has to go back to.
  if (run_.state.skipped_in_row > 0) return;
  try {
    prune_checkpoints(run_.config.run.dir, run_.config.train.checkpoint);
  } catch (const std::exception& error) {  // this one is safe all the same
    log_warn("old checkpoints stay: {}", error.what());
  }
}

CheckpointSaver::Progress CheckpointSaver::progress() {
  if (work_.valid() && work_.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
    problem_ = work_.get();
  if (!busy() || !problem_) return {};
  return problem_->empty() ? Progress{.done = 1} : Progress{.failed = 1};
}

CheckpointSaver::Event CheckpointSaver::advance(const Progress& sum) {
  if (!busy() || sum.done + sum.failed < static_cast<double>(comm_.size())) return Event::kNone;
  report_.write_s = seconds_since(began_);
  report_.problem = *problem_;
  if (sum.failed > 0) {
    phase_ = Phase::kIdle;
    std::error_code ignored;
    if (comm_.is_root()) fs::remove_all(aside_, ignored);
    return Event::kFailed;
  }
  if (phase_ == Phase::kPublishing) {
    phase_ = Phase::kIdle;
    report_.saved = true;
    return Event::kSaved;
  }
  phase_ = Phase::kPublishing;
  collect_entries();
  begin_work(comm_.is_root(), [this] { publish(); });
  return Event::kNone;
}

CheckpointSaver::Event CheckpointSaver::wait(const std::function<void(double)>& meanwhile) {
  const Clock::time_point waits = Clock::now();
  while (busy()) {
    const Progress own = progress();
    at::Tensor sum = at::tensor({own.done, own.failed}, at::kDouble);
    comm_.all_reduce_sum(sum);
    const Event event = advance({sum[0].item<double>(), sum[1].item<double>()});
    report_.waited_s = seconds_since(waits);
    if (event != Event::kNone) return event;
    meanwhile(report_.waited_s);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return Event::kNone;
}

}  // namespace basin
