// How ranks find each other before the run and part after it: all of them come to one store, say
// who they are and what they are about to run, and when one fails they agree on who tells the user.
#pragma once

#include <chrono>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "train/backend.h"
#include "train/comm.h"
#include "train/failure.h"
#include "train/key_store.h"
#include "train/placement.h"

namespace basin {

/// What a rank says of itself.
struct RankInfo {
  std::string host;
  std::string machine;  // equal where process numbers and the loopback device are shared
  int64_t pid = 0;
  std::string cores;  // equal where the same cores may be used
};

/// What a rank is about to do.
struct RankPlan {
  std::string configuration;  // YAML
  std::string build;          // checksum of the program
  std::string gpu{};          // as RankDevice has it
};

/// How ranks talk once they have met.
struct Connection {
  std::optional<int> nccl_device = {};  // this rank's GPU, where they use NCCL
  bool two_level = true;                // Gloo: inside machines first, then between them
};

class Meeting {
 public:
  /// Blocks until all ranks have come; a single process has met already. Throws std::runtime_error
  /// naming who is missing after `timeout`, or what keeps this rank from coming; RankFailure
  /// on ranks that leave it to another one to say.
  Meeting(const Placement& placement, std::chrono::milliseconds timeout);

  /// This rank's place, completed by what the others say.
  const Placement& placement() const { return placement_; }
  /// Ranks that may use this rank's cores, itself included.
  int64_t sharers() const;
  /// "torchrun: 2 nodes x 8 ranks", "single process".
  std::string description() const;

  /// Throws std::invalid_argument unless all ranks are about to do the same: it names the first
  /// rank with another configuration or another build, and the keys. Returns every rank's device.
  std::vector<RankDevice> compare(const RankPlan& plan) const;

  /// The group of the ranks. Collectives wait as long as placement().rendezvous says.
  std::unique_ptr<Comm> connect(const Connection& how) const;

  /// What this rank should end with after `failure`: tells the others, and leaves the message to
  /// one of the ranks that have it. That one names the ranks that are gone or do not answer. Takes
  /// some seconds at most, whatever has become of the others.
  Failure settle(Failure failure) const;

 private:
  /// The file in which ranks meet, which rank 0 removes in the end.
  struct MeetingFile {
    ~MeetingFile();
    std::string path;
  };

  void meet(std::chrono::milliseconds timeout);
  int64_t rank() const { return placement_.rendezvous.rank; }
  int64_t size() const { return placement_.rendezvous.size; }
  int64_t ranks_per_machine() const;
  int64_t nodes() const;
  nlohmann::json compared_gpus() const;

  Placement placement_;
  MeetingFile file_;
  std::shared_ptr<KeyStore> store_;  // shared with a thread that may hang in it; null: size 1
  std::vector<RankInfo> ranks_;
};

}  // namespace basin
