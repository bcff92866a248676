#include "train/meeting.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>

#include "configs/clock.h"
#include "configs/files.h"
#include "configs/signals.h"
#include "configs/yaml_config.h"
#include "train/parting.h"
#include "train/sockets.h"
#include "train/two_level_comm.h"

namespace basin {
namespace {

constexpr std::chrono::seconds kSlack{3};    // for rank 0 to say what it has found out
constexpr std::chrono::seconds kParting{6};  // more than parting takes while the store answers
constexpr const char *kMetKey = "met", *kComparedKey = "compared";

std::string came_key(int64_t rank) {
  return fmt::format("came/{}", rank);
}
std::string read_key(int64_t rank) {
  return fmt::format("read/{}", rank);
}
std::string about_key(int64_t rank) {
  return fmt::format("about/{}", rank);
}

std::vector<std::string> keys_of(int64_t size, const std::function<std::string(int64_t)>& key) {
  std::vector<std::string> out;
  for (int64_t rank = 0; rank < size; ++rank) out.push_back(key(rank));
  return out;
}

/// Of this boot of this machine: host names and the first namespaces' numbers are the same on many.
std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

/// Where `link` points to; empty where that cannot be known.
std::string link_target(const char* link) {
  std::error_code unknown;
  return std::filesystem::read_symlink(link, unknown).string();
}

std::string this_process() {
  char host[HOST_NAME_MAX + 1] = {};
  gethostname(host, HOST_NAME_MAX);
  cpu_set_t cores{};
  sched_getaffinity(0, sizeof(cores), &cores);
  return nlohmann::json{{"host", host},
                        {"machine",
                         fmt::format("{} {} {} {}",
                                     host,
                                     boot_id(),
                                     link_target("/proc/self/ns/pid"),
                                     link_target("/proc/self/ns/net"))},
                        {"pid", getpid()},
                        {"cores", xxh3_hex({reinterpret_cast<const char*>(&cores), sizeof(cores)})}}
      .dump();
}

RankInfo rank_info(const std::string& text) {
  const nlohmann::json node = nlohmann::json::parse(text);
  return {node.at("host"), node.at("machine"), node.at("pid"), node.at("cores")};
}

std::string place(const Rendezvous& r) {
  return r.file.empty() ? fmt::format("{}:{}", r.host, r.port) : r.file;
}

/// Throws std::invalid_argument when rank `other` is about to do something else than rank 0.
void refuse_difference(const nlohmann::json& ours, const nlohmann::json& theirs, int64_t other) {
  if (theirs.at("build") != ours.at("build"))
    throw std::invalid_argument(
        fmt::format("rank {} runs another build of this program than rank 0: XXH3 {} and {}; all "
                    "ranks need the same file",
                    other,
                    theirs.at("build").get<std::string>(),
                    ours.at("build").get<std::string>()));
  constexpr size_t kShown = 3;
  std::vector<std::string> lines;
  for (const Difference& key : node_differences(parse_yaml(ours.at("configuration"), "rank 0"),
                                                parse_yaml(theirs.at("configuration"), "another")))
    lines.push_back(fmt::format("{}: {} on rank 0, {} on rank {}", key.key, key.a, key.b, other));
  if (lines.empty()) return;
  const size_t more = lines.size() - std::min(lines.size(), kShown);
  lines.resize(lines.size() - more);
  throw std::invalid_argument(
      fmt::format("rank {} has another configuration than rank 0: {}{}; start all ranks with the "
                  "same run file and --set",
                  other,
                  fmt::join(lines, "; "),
                  more > 0 ? fmt::format("; and {} more keys", more) : ""));
}

/// What `body` returns; nothing when it throws CommError or takes longer than `time`: c10d waits
/// without an end for a store that is stopped or none at all. The thread that runs it is then left
/// to the end of the process.
template <class Result>
std::optional<Result> within(Clock::duration time, std::function<Result()> body) {
  std::promise<Result> promise;
  std::future<Result> result = promise.get_future();
  std::thread([promise = std::move(promise), body = std::move(body)]() mutable {
    try {
      promise.set_value(body());
    } catch (...) {
      promise.set_exception(std::current_exception());
    }
  }).detach();
  if (result.wait_for(time) != std::future_status::ready) return std::nullopt;
  try {
    return result.get();
  } catch (const CommError&) {
    return std::nullopt;
  }
}

/// wait_until that a stop request ends.
bool await(Clock::time_point deadline, const std::function<bool()>& done) {
  return wait_until(deadline, [&] {
    if (done()) return true;
    check_interrupt();
    return false;
  });
}

}  // namespace

Meeting::Meeting(const Placement& placement, std::chrono::milliseconds timeout)
    : placement_(placement) {
  if (size() == 1) {
    ranks_ = {rank_info(this_process())};
    return;
  }
  Rendezvous& r = placement_.rendezvous;
  const Clock::time_point began = Clock::now();
  if (r.file.empty()) {
    if (!r.serve)
      await_listener(r.host, r.port, timeout);
    else if (r.listening_fd < 0)
      r.listening_fd = listen_on(r.port);
  }
  r.meeting_timeout = timeout;
  const auto store =
      within<std::shared_ptr<KeyStore>>(timeout + kSlack, [r] { return open_store(r); });
  if (!store)
    throw RankFailure(
        {fmt::format("the ranks cannot meet at {}: what is there is no store of "
                     "ranks, something else uses that place",
                     place(r))});
  store_ = *store;
  meet(timeout - std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - began));
  // What the launcher has not said
  const RankInfo& here = ranks_[static_cast<size_t>(rank())];
  const auto same_machine = [&](const RankInfo& other) { return other.machine == here.machine; };
  const int64_t neighbours = std::count_if(ranks_.begin(), ranks_.end(), same_machine);
  if (placement_.local_rank < 0)
    placement_.local_rank = std::count_if(ranks_.begin(), ranks_.begin() + rank(), same_machine);
  if (placement_.local_size == 0) placement_.local_size = neighbours;
  r.nodes = nodes();
}

Meeting::MeetingFile::~MeetingFile() {
  std::error_code gone;
  if (!path.empty()) std::filesystem::remove(path, gone);
}

void Meeting::meet(std::chrono::milliseconds timeout) {
  const Rendezvous& r = placement_.rendezvous;
  const Clock::time_point deadline = Clock::now() + timeout;
  if (const std::string key = came_key(rank()); store_->has({key})) {
    const RankInfo other = rank_info(store_->get(key));
    throw std::runtime_error(fmt::format(
        "rank {} has come to {} already (process {} on {}): {}",
        rank(),
        place(r),
        other.pid,
        other.host,
        r.file.empty() ? "another run meets there; give this one a MASTER_PORT of its own"
                       : "the file is left over from another run; remove it or name another"));
  } else {
    store_->set(key, this_process());
    if (rank() == 0) file_.path = r.file;
  }
  const std::vector<std::string> everybody = keys_of(size(), came_key);
  if (rank() == 0) {
    await(deadline, [&] { return store_->has(everybody); });
    store_->set(kMetKey, "");
  } else {
    await(deadline + kSlack, [&] { return store_->has({kMetKey}); });
  }
  std::vector<int64_t> missing, present;
  for (int64_t rank = 0; rank < size(); ++rank)
    (store_->has({came_key(rank)}) ? present : missing).push_back(rank);
  if (missing.empty()) {
    for (const std::string& key : everybody) ranks_.push_back(rank_info(store_->get(key)));
    return;
  }
  store_->set(read_key(rank()), "");
  if (rank() == 0) {  // it serves the store in which the others look
    std::vector<std::string> read;
    for (const int64_t rank : present) read.push_back(read_key(rank));
    await(Clock::now() + kSlack, [&] { return store_->has(read); });
  }
  if (rank() != present.front())
    throw RankFailure({"ranks are missing", 1, /*secondary=*/true, /*told=*/true});
  throw std::runtime_error(
      fmt::format("{} of {} ranks came to {} within {:.3g} s, missing: rank {}; start all of them, "
                  "with the same {}, or look there why they ended",
                  present.size(),
                  size(),
                  place(r),
                  std::chrono::duration<double>(timeout).count(),
                  fmt::join(missing, ", "),
                  r.file.empty() ? "MASTER_ADDR and MASTER_PORT" : "--rdzv-file"));
}

int64_t Meeting::sharers() const {
  const RankInfo& here = ranks_[static_cast<size_t>(rank())];
  return std::count_if(ranks_.begin(), ranks_.end(), [&](const RankInfo& other) {
    return other.machine == here.machine && other.cores == here.cores;
  });
}

int64_t Meeting::nodes() const {
  std::set<std::string> machines;
  for (const RankInfo& rank : ranks_) machines.insert(rank.machine);
  return std::ssize(machines);
}

std::string Meeting::description() const {
  if (placement_.launcher == Launcher::kNone) return std::string(launcher_name(Launcher::kNone));
  const int64_t nodes = this->nodes();
  const std::string_view launcher = launcher_name(placement_.launcher);
  if (size() % nodes != 0) return fmt::format("{}: {} ranks on {} nodes", launcher, size(), nodes);
  return fmt::format("{}: {} node{} x {} rank{}",
                     launcher,
                     nodes,
                     nodes == 1 ? "" : "s",
                     size() / nodes,
                     size() == nodes ? "" : "s");
}

std::vector<RankDevice> Meeting::compare(const RankPlan& plan) const {
  if (size() == 1) return {{ranks_[0].machine, plan.gpu}};
  store_->set(about_key(rank()),
              nlohmann::json{
                  {"configuration", plan.configuration}, {"build", plan.build}, {"gpu", plan.gpu}}
                  .dump());
  const std::vector<std::string> awaited =
      rank() == 0 ? keys_of(size(), about_key) : std::vector<std::string>{kComparedKey};
  const auto& timeout = placement_.rendezvous.collective_timeout;
  const bool all = await(Clock::now() + timeout, [&] {
    if (store_->has({kFailedKey})) throw CommError("another rank failed before the start");
    return store_->has(awaited);
  });
  if (!all) throw CommError("waiting before the start took longer than train.distributed.timeout");
  if (rank() == 0) store_->set(kComparedKey, compared_gpus().dump());
  const nlohmann::json gpus = nlohmann::json::parse(store_->get(kComparedKey));
  std::vector<RankDevice> devices;
  for (size_t r = 0; r < ranks_.size(); ++r) devices.push_back({ranks_[r].machine, gpus.at(r)});
  return devices;
}

/// Rank 0: the GPU of each rank, all of which have said what they are about to do.
nlohmann::json Meeting::compared_gpus() const {
  const nlohmann::json ours = nlohmann::json::parse(store_->get(about_key(0)));
  nlohmann::json gpus = {ours.at("gpu")};
  for (int64_t other = 1; other < size(); ++other) {
    const nlohmann::json theirs = nlohmann::json::parse(store_->get(about_key(other)));
    refuse_difference(ours, theirs, other);
    gpus.push_back(theirs.at("gpu"));
  }
  return gpus;
}

std::unique_ptr<Comm> Meeting::connect(const Connection& how) const {
  if (size() == 1) return make_single_comm();
  Rendezvous world = placement_.rendezvous;
  world.nccl_device = how.nccl_device;
  std::unique_ptr<Comm> all = make_group_comm(world, *store_);
  const int64_t inside = ranks_per_machine();
  // NCCL sees by itself which links are fast.
  if (!how.two_level || how.nccl_device || inside < 2 || inside == size()) return all;
  Rendezvous machine = world, across = world;
  machine.group = fmt::format("machine {}", rank() / inside);
  machine.rank = rank() % inside;
  machine.size = inside;
  machine.nodes = 1;
  across.group = fmt::format("across {}", rank() % inside);
  across.rank = rank() / inside;
  across.size = size() / inside;
  std::unique_ptr<Comm> of_machine = make_group_comm(machine, *store_);
  return make_two_level_comm(
      std::move(all), std::move(of_machine), make_group_comm(across, *store_));
}

/// 0 unless all machines have as many, and each has its ranks in a row.
int64_t Meeting::ranks_per_machine() const {
  int64_t n = 0;
  while (n < size() && ranks_[static_cast<size_t>(n)].machine == ranks_[0].machine) ++n;
  if (size() % n != 0) return 0;
  std::set<std::string> machines;
  for (int64_t r = 0; r < size(); ++r) {
    const RankInfo &of = ranks_[static_cast<size_t>(r)],
                   &first = ranks_[static_cast<size_t>(r / n * n)];
    if (of.machine != first.machine) return 0;
    machines.insert(of.machine);
  }
  return std::ssize(machines) == size() / n ? n : 0;
}

Failure Meeting::settle(Failure failure) const {
  if (size() == 1) return failure;
  const RankInfo& here = ranks_[static_cast<size_t>(rank())];
  const Rendezvous& r = placement_.rendezvous;
  const bool served_by_rank_0 = r.file.empty() && placement_.launcher != Launcher::kTorchrun;
  if (rank() == 0 || !served_by_rank_0 || !is_lost(ranks_[0], here)) {
    const auto parted =
        within<Failure>(kParting, [store = store_, ranks = ranks_, rank = rank(), failure] {
          return part(*store, ranks, rank, failure);
        });
    if (parted) return *parted;
  }
  if (failure.secondary && rank() != 0)
    failure.message = fmt::format("{}: {}",
                                  served_by_rank_0 ? describe_absent(0, ranks_[0], here)
                                                   : fmt::format("{} does not answer", place(r)),
                                  failure.message);
  return failure;
}

}  // namespace basin
