// How a run begins and where it goes on: initial weights, the newest intact checkpoint, rollback,
// and the run directory.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <stdexcept>

#include "configs/files.h"
#include "configs/log.h"
#include "configs/yaml_config.h"
#include "train/initial_model.h"
#include "train/shards.h"
#include "train/trainer.h"

namespace basin {
namespace {

/// fp32 initial weights, random or those of train.init_from.
void fill_initial(Transformer& model, const RunConfig& config, bool says) {
  if (config.train.init_from.empty())
    model.initialize(static_cast<uint64_t>(config.train.seed));
  else
    load_initial_weights(config, model, says);
}

/// Datasets that no longer hold what the run began with: one line each.
std::vector<std::string> data_obstacles(const std::vector<std::string>& before,
                                        const std::vector<IndexedDataset>& now) {
  std::vector<std::string> out;
  for (size_t i = 0; i < std::min(before.size(), now.size()); ++i) {
    if (const std::string contents = now[i].contents(); contents != before[i])
      out.push_back(fmt::format("{}: {} before, {} now", now[i].name(), before[i], contents));
  }
  return out;
}

/// The saved configuration, with the present path of each dataset that holds what it held: it has
/// only been moved.
RunConfig with_moved_data(const SavedState& saved,
                          const RunConfig& now,
                          const std::vector<IndexedDataset>& datasets) {
  RunConfig before = saved.config;
  if (before.data.train.size() != now.data.train.size()) return before;
  for (size_t i = 0; i < std::min(saved.data.size(), datasets.size()); ++i)
    if (saved.data[i] == datasets[i].contents()) before.data.train[i].path = now.data.train[i].path;
  return before;
}

}  // namespace

/// Why what follows may differ from what would have followed without an end: one line each.
std::vector<std::string> Trainer::inexactness(const SavedState& saved) const {
  std::vector<std::string> out;
  for (const std::string& change : this_machine(device_, comm_).changes_since(saved.machine))
    out.push_back("what ran it has changed, " + change);
  const auto keys = rounding_changes(saved.config, config_, comm_.size());
  out.insert(out.end(), keys.begin(), keys.end());
  if (device_.is_cuda() && !(saved.config.train.deterministic && config_.train.deterministic))
    out.push_back("on a GPU that takes train.deterministic, from the start");
  return out;
}

/// The step of the checkpoint with which the run goes on, -1 when there is none.
int64_t Trainer::newest_checkpoint() const {
  return comm_.broadcast(comm_.is_root() ? settle_on_checkpoint(config_.run.dir).value_or(-1) : 0);
}

/// fp32 (all weights, flat), `filled` or to be filled by a checkpoint. A bf16 model's weights are
/// the rounding of these, so that both precisions start from the same point.
at::Tensor Trainer::initial_master(bool filled) {
  const auto fill = [&](Transformer& model) {
    if (filled) fill_initial(model, config_, comm_.is_root());
  };
  if (model_->dtype() == at::kFloat) {
    fill(*model_);
    return model_->flat();
  }
  Transformer full(model_->config(), at::kFloat, model_->device());
  fill(full);
  return full.flat();
}

/// Without what a run before has left, and with what a run takes from train.init_from besides the
/// weights. All ranks have read it, each by itself: a machine with another copy would go astray
/// without a word.
void Trainer::start_anew() {
  if (comm_.is_root()) std::filesystem::remove_all(initial_tokenizer_directory(config_));
  if (config_.train.init_from.empty()) return;
  const at::Tensor weights = model_->flat().cpu();
  const std::vector<std::string> sums = comm_.all_gather_text(
      xxh3_hex({static_cast<const char*>(weights.const_data_ptr()), weights.nbytes()}));
  for (size_t rank = 1; rank < sums.size(); ++rank) {
    if (sums[rank] != sums[0])
      throw std::runtime_error(
          fmt::format("train.init_from {}: rank {} has read other weights there than rank 0: give "
                      "all machines the same copy",
                      config_.train.init_from,
                      rank));
  }
  if (comm_.is_root()) save_initial_tokenizer(config_);
}

void Trainer::resume(int64_t step) {
  const std::filesystem::path run_directory = config_.run.dir;
  const std::filesystem::path directory = step_directory(run_directory, step);
  const SavedState saved = read_state(directory);
  const RunConfig before = with_moved_data(saved, config_, loader_.datasets());
  if (const auto obstacles = resume_obstacles(before, config_, step); !obstacles.empty()) {
    throw std::invalid_argument(fmt::format(
        "{} holds a run of another configuration: use another run.dir, or restore\n  {}",
        config_.run.dir,
        fmt::join(obstacles, "\n  ")));
  }
  if (const auto changed = data_obstacles(saved.data, loader_.datasets()); !changed.empty()) {
    throw std::invalid_argument(
        fmt::format("the data of {} has changed since: use another run.dir, or remove this one, or "
                    "restore\n  {}",
                    config_.run.dir,
                    fmt::join(changed, "\n  ")));
  }
  if (comm_.is_root()) {
    log_info("resuming from {}", directory.string());
    for (const Difference& key : differences(saved.config, config_))
      log_info("{}: {} before, {} now", key.key, key.a, key.b);
  }
  if (comm_.is_root()) {
    for (const std::string& change : inexactness(saved))
      log_info("the continuation is not bit-exact: {}", change);
  }
  if (comm_.is_root() && validation_ && !saved.heldout.empty() &&
      saved.heldout != validation_->contents())
    log_warn("data.heldout {} has changed, validation losses before and after are not of the "
             "same text: {} before, {} now",
             config_.data.heldout,
             saved.heldout,
             validation_->contents());
  load(saved, directory);
  seconds_before_ = state_.seconds;
  first_step_ = state_.step;
}

/// Weights and moments from `directory`, and `saved`, the state that was read there.
void Trainer::load(const SavedState& saved, const std::filesystem::path& directory) {
  read_shards(directory, model_->parameters(), optimizer_->parts());
  optimizer_->publish();
  if (weight_gather_) {
    for (size_t i = 0; i < optimizer_->parts().size(); ++i) weight_gather_->start(i);
    weight_gather_->finish();
  }
  optimizer_->set_count(saved.optimizer_count);
  state_ = saved.state;
  forget_old_losses();
}

/// To the newest checkpoint, and on from there without the batches around the present one.
void Trainer::roll_back() {
  const RollbackConfig& rollback = config_.train.rollback;
  saves_->wait();
  const int64_t step = comm_.broadcast(
      comm_.is_root() ? settle_on_checkpoint(config_.run.dir, state_.step).value_or(-1) : 0);
  if (step < 0 || state_.rollbacks >= rollback.max) {
    throw std::runtime_error(fmt::format(
        "the loss jumped at step {} {}: lower train.optimizer.lr, or look at the samples named "
        "above",
        state_.step,
        step < 0 ? "before the first checkpoint (train.checkpoint.every)"
                 : fmt::format("after {} rollbacks (train.rollback.max)", state_.rollbacks)));
  }
  const TrainState jumped = std::move(state_);
  const std::filesystem::path directory = step_directory(config_.run.dir, step);
  load(read_state(directory), directory);
  state_.rollbacks = jumped.rollbacks + 1;
  state_.left_out = jumped.left_out;
  int64_t last = jumped.batch - 1;  // the one that jumped
  while (std::find(jumped.left_out.begin(), jumped.left_out.end(), last) != jumped.left_out.end())
    --last;
  for (int64_t batch = std::max(state_.batch, last - rollback.batches + 1); batch <= last; ++batch)
    state_.left_out.push_back(batch);
  --state_.batch;
  state_.next_batch();
  if (!comm_.is_root()) return;
  log_.cut_back(state_.step);
  log_.end_line();
  log_warn("rolled back from step {} to {}, rollback {} of {}; batches left out so far: {}",
           jumped.step,
           state_.step,
           state_.rollbacks,
           rollback.max,
           fmt::join(state_.left_out, " "));
}

void Trainer::open_run_directory() {
  const std::filesystem::path run_directory = config_.run.dir;
  remove_leftovers(run_directory);
  if (is_last()) {  // a kill between the last checkpoint and the link
    if (!std::filesystem::exists(run_directory / "final")) set_final(run_directory, state_.step);
    return;
  }
  std::filesystem::remove(run_directory / "final");
  write_file(run_directory / "config.yaml", to_yaml(config_));
  log_.open(state_.step);
}

}  // namespace basin
