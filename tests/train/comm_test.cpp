#include "train/comm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include "tests/support/loopback_port.h"
#include "train/two_level_comm.h"

namespace basin {
namespace {

/// Runs `body(rank, port)` as every rank, a process each: c10d's flight recorder is not made for
/// several ranks in one. Each rank's expectations have to hold.
void as_processes(int64_t size, const std::function<void(int64_t rank, uint16_t port)>& body) {
  const uint16_t port = unused_port();
  std::vector<pid_t> children;
  for (int64_t rank = 0; rank < size; ++rank) {
    if (const pid_t child = fork(); child != 0) {
      children.push_back(child);
      continue;
    }
    try {
      body(rank, port);
    } catch (const std::exception& error) {
      ADD_FAILURE() << "rank " << rank << ": " << error.what();
    }
    std::fflush(nullptr);
    _exit(testing::Test::HasFailure());
  }
  for (const pid_t child : children) {
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
}

/// `body(comm)` as every rank of a Gloo group.
void as_ranks(int64_t size, const std::function<void(Comm&)>& body) {
  as_processes(size, [&](int64_t rank, uint16_t port) {
    body(*make_group_comm({.rank = rank, .size = size, .port = port, .serve = rank == 0}));
  });
}

TEST(GlooComm, SumsAndBroadcastsOverRanks) {
  as_ranks(3, [](Comm& comm) {
    EXPECT_EQ(comm.size(), 3);
    EXPECT_EQ(comm.method(), "gloo");
    at::Tensor sum = at::full({1000}, static_cast<double>(comm.rank() + 1), at::kFloat);
    comm.all_reduce_sum(sum);
    EXPECT_TRUE(at::equal(sum, at::full({1000}, 6.0, at::kFloat)));
    at::Tensor shared = at::full({5}, comm.rank() * 7, at::kLong);
    comm.broadcast(shared, 2);
    EXPECT_TRUE(at::equal(shared, at::full({5}, 14, at::kLong)));
    EXPECT_EQ(comm.Comm::broadcast(comm.rank() + 40), 40);
    comm.barrier();
  });
}

TEST(GlooComm, SumHasTheSameBitsOnEachRank) {
  as_ranks(3, [](Comm& comm) {
    at::Tensor sum =
        at::linspace(0.1, 3.7, 4097, at::kFloat) * static_cast<double>(comm.rank() * 3 + 1);
    comm.all_reduce_sum(sum);
    at::Tensor of_root = sum.clone();
    comm.broadcast(of_root, 0);
    EXPECT_TRUE(at::equal(sum, of_root));
    comm.barrier();
  });
}

TEST(GlooComm, SaysWhenAnotherRankIsGone) {
  as_ranks(2, [](Comm& comm) {
    comm.barrier();
    if (comm.rank() == 1) return;  // leaves without a word
    at::Tensor t = at::ones({10});
    try {
      for (int i = 0; i < 100; ++i) comm.all_reduce_sum(t);
      ADD_FAILURE() << "nothing was noticed";
    } catch (const CommError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("all-reduce failed on rank 0, another rank has ended"),
                std::string::npos)
          << message;
    }
  });
}

/// Two machines of two ranks, as far as the groups go.
std::unique_ptr<Comm> two_by_two(int64_t rank, uint16_t port) {
  Rendezvous world{.rank = rank, .size = 4, .port = port, .serve = rank == 0};
  const auto store = open_store(world);
  auto all = make_group_comm(world, *store);
  Rendezvous inside = world, across = world;
  inside.size = across.size = 2;
  inside.group = "inside" + std::to_string(rank / 2);
  inside.rank = rank % 2;
  across.group = "across" + std::to_string(rank % 2);
  across.rank = rank / 2;
  auto of_machine = make_group_comm(inside, *store);
  return make_two_level_comm(
      std::move(all), std::move(of_machine), make_group_comm(across, *store));
}

TEST(TwoLevelComm, SumsLikeOneLevelAndInTheOrderOfTheirStart) {
  as_processes(4, [](int64_t rank, uint16_t port) {
    const auto comm = two_by_two(rank, port);
    EXPECT_EQ(comm->method(), "gloo on two levels, 2 x 2");
    constexpr int64_t kElements = 4 * 16384;  // beyond what takes one level
    std::vector<at::Tensor> sums, parts;
    std::vector<std::unique_ptr<Comm::Pending>> pending;
    for (int64_t i = 0; i < 3; ++i) {
      sums.push_back(at::arange(kElements, at::kFloat) % 1000 + static_cast<double>(rank * i));
      pending.push_back(comm->start_all_reduce_sum(sums.back()));
      parts.push_back(at::arange(kElements, at::kFloat) % 1000 + static_cast<double>(rank * i));
      pending.push_back(comm->start_reduce_scatter_sum(
          parts.back(), parts.back().narrow(0, rank * kElements / 4, kElements / 4)));
    }
    for (const auto& one : pending) one->wait();
    for (int64_t i = 0; i < 3; ++i) {
      const at::Tensor want =
          4 * (at::arange(kElements, at::kFloat) % 1000) + static_cast<double>(6 * i);
      EXPECT_TRUE(at::equal(sums[static_cast<size_t>(i)], want)) << i;
      EXPECT_TRUE(
          at::equal(parts[static_cast<size_t>(i)].narrow(0, rank * kElements / 4, kElements / 4),
                    want.narrow(0, rank * kElements / 4, kElements / 4)))
          << i;
    }
    at::Tensor odd = at::ones({3}), all = at::empty({4 * 2});
    comm->all_reduce_sum(odd);
    EXPECT_TRUE(at::equal(odd, at::full({3}, 4.0)));
    comm->start_all_gather(at::full({2}, static_cast<double>(rank)), all)->wait();
    EXPECT_TRUE(at::equal(all, at::arange(4, at::kFloat).repeat_interleave(2)));
    comm->barrier();
  });
}

TEST(SingleComm, IsTheIdentity) {
  const auto comm = make_single_comm();
  at::Tensor t = at::arange(4);
  comm->all_reduce_sum(t);
  EXPECT_TRUE(at::equal(t, at::arange(4)));
  EXPECT_EQ(comm->Comm::broadcast(5), 5);
}

}  // namespace
}  // namespace basin
