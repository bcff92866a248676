// When ranks fail: who of them tells the user, and whom they miss. Each writes down its failure in
// the store that all share and reads what the others wrote.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "configs/clock.h"
#include "train/failure.h"
#include "train/key_store.h"
#include "train/meeting.h"

namespace basin {

/// The key that is there as soon as a rank has failed.
inline constexpr const char* kFailedKey = "failed";

/// "rank 3 (process 4711 on node2) has ended": whom it is about and, where `here` shares the
/// machine, what has become of it.
std::string describe_absent(int64_t rank, const RankInfo& absent, const RankInfo& here);

/// Whether a rank of this machine has ended or is stopped; false for one elsewhere.
bool is_lost(const RankInfo& rank, const RankInfo& here);

/// Asks again and again; false when `done` is not true by `deadline`.
bool wait_until(Clock::time_point deadline, const std::function<bool()>& done);

/// What `rank` ends with, see Meeting::settle. Blocks as long as the store does.
Failure part(KeyStore& store, const std::vector<RankInfo>& ranks, int64_t rank, Failure failure);

}  // namespace basin
