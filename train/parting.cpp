#include "train/parting.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

namespace basin {
namespace {

constexpr std::chrono::milliseconds kGrace{2500};  // for ranks that have noticed it, too
constexpr std::chrono::milliseconds kSameError{1000};
constexpr std::chrono::milliseconds kSameMoment{300};
constexpr const char* kToldKey = "told";
constexpr std::chrono::milliseconds kPoll{20};

/// The state of a process of this machine as /proc names it ('T': stopped); 'X': there is none.
char process_state(int64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  if (!std::getline(file, text)) return 'X';
  const size_t name_end = text.rfind(") ");
  return name_end == std::string::npos ? 'X' : text.at(name_end + 2);
}

/// One rank's view of the failures written down so far.
class Parting {
 public:
  Parting(KeyStore& store, const std::vector<RankInfo>& ranks, int64_t rank)
      : store_(store), ranks_(ranks), rank_(rank) {}

  Failure run(Failure failure) {
    store_.set(failed_key(rank_),
               nlohmann::json{{"message", failure.message},
                              {"status", failure.status},
                              {"secondary", failure.secondary}}
                   .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    store_.set(kFailedKey, "");
    const bool is_cause = !failure.secondary;
    failure = is_cause ? once(std::move(failure)) : blame(std::move(failure));
    store_.set(done_key(rank_), "");
    // Rank 0 may serve the store: what it says to the others must arrive.
    const Clock::time_point said = Clock::now();
    if (rank_ == 0)
      wait_until(said + kGrace,
                 [&] { return all_others_done(is_cause && Clock::now() < said + kSameError); });
    return failure;
  }

 private:
  static std::string failed_key(int64_t rank) { return fmt::format("failed/{}", rank); }
  static std::string done_key(int64_t rank) { return fmt::format("done/{}", rank); }

  void read() {
    for (int64_t rank = 0; rank < std::ssize(ranks_); ++rank) {
      if (failures_.contains(rank) || !store_.has({failed_key(rank)})) continue;
      const nlohmann::json text = nlohmann::json::parse(store_.get(failed_key(rank)));
      failures_[rank] = {text.at("message"), text.at("status"), text.at("secondary"), false};
    }
  }

  /// A failure of this rank's own: the lowest rank with the same one says it.
  Failure once(Failure failure) {
    const bool said = rank_ > 0 && wait_until(Clock::now() + kSameError, [&] {
                        read();
                        for (const auto& [rank, other] : failures_)
                          if (rank < rank_ && !other.secondary && other.message == failure.message)
                            return true;
                        return false;
                      });
    if (said) failure.secondary = failure.told = true;
    return failure;
  }

  /// A failure that follows from another rank's: that one's own message says it all, else the
  /// lowest of those who noticed names the ranks that did not.
  Failure blame(Failure failure) {
    const Clock::time_point noticed = Clock::now();
    std::optional<Failure> cause;
    wait_until(noticed + kGrace, [&] {
      read();
      for (const auto& [rank, other] : failures_)
        if (!other.secondary) cause = other;
      // Ranks that wait for this one notice when it ends: with somebody known to be lost, it does.
      return cause || all_known() || (any_lost() && Clock::now() > noticed + kSameMoment);
    });
    if (cause) return {cause->message, cause->status, /*secondary=*/true, /*told=*/true};
    failure.told = failures_.begin()->first != rank_ || store_.has({kToldKey});
    if (failure.told) return failure;
    store_.set(kToldKey, "");
    if (const std::vector<std::string> names = absent(); !names.empty())
      failure.message = fmt::format("{}: {}", fmt::join(names, ", "), failure.message);
    return failure;
  }

  bool any_lost() const {
    for (int64_t rank = 0; rank < std::ssize(ranks_); ++rank)
      if (!failures_.contains(rank) && is_lost(info(rank), info(rank_))) return true;
    return false;
  }

  /// Whether all have written something down, except for those that never will.
  bool all_known() const {
    for (int64_t rank = 0; rank < std::ssize(ranks_); ++rank)
      if (!failures_.contains(rank) && !is_lost(info(rank), info(rank_))) return false;
    return true;
  }

  /// Ranks that wrote nothing down; those alone that are known to be lost, where there are any: the
  /// others may just not have noticed yet.
  std::vector<std::string> absent() const {
    std::vector<std::string> lost, silent;
    for (int64_t rank = 0; rank < std::ssize(ranks_); ++rank) {
      if (failures_.contains(rank)) continue;
      (is_lost(info(rank), info(rank_)) ? lost : silent)
          .push_back(describe_absent(rank, info(rank), info(rank_)));
    }
    return lost.empty() ? silent : lost;
  }

  bool all_others_done(bool await_silent) {
    read();
    for (int64_t rank = 1; rank < std::ssize(ranks_); ++rank) {
      if (failures_.contains(rank) ? !store_.has({done_key(rank)})
                                   : await_silent && !is_lost(info(rank), info(rank_)))
        return false;
    }
    return true;
  }

  const RankInfo& info(int64_t rank) const { return ranks_.at(static_cast<size_t>(rank)); }

  KeyStore& store_;
  const std::vector<RankInfo>& ranks_;
  int64_t rank_;
  std::map<int64_t, Failure> failures_;  // by rank
};

}  // namespace

bool wait_until(Clock::time_point deadline, const std::function<bool()>& done) {
  while (!done()) {
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

bool is_lost(const RankInfo& rank, const RankInfo& here) {
  const std::string_view lost = "XZT";
  return rank.machine == here.machine && lost.find(process_state(rank.pid)) != lost.npos;
}

std::string describe_absent(int64_t rank, const RankInfo& absent, const RankInfo& here) {
  std::string state = "does not answer";
  if (absent.machine == here.machine) {
    const char code = process_state(absent.pid);
    if (code == 'X' || code == 'Z') state = "has ended";
    if (code == 'T') state = "is stopped";
  }
  return fmt::format("rank {} (process {} on {}) {}", rank, absent.pid, absent.host, state);
}

Failure part(KeyStore& store, const std::vector<RankInfo>& ranks, int64_t rank, Failure failure) {
  return Parting(store, ranks, rank).run(std::move(failure));
}

}  // namespace basin
