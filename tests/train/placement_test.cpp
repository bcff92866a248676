// What each launcher's variables come to.
#include "train/placement.h"

#include <gmock/gmock.h>

#include <stdexcept>

namespace basin {
namespace {

using testing::AllOf;
using testing::HasSubstr;

using Variables = std::map<std::string, std::string>;

Placement placed(const Variables& variables, const PlacementOptions& options = {}) {
  return find_placement(Environment(variables), options);
}

std::string refusal(const Variables& variables, const PlacementOptions& options = {}) {
  try {
    const Placement p = placed(variables, options);
    ADD_FAILURE() << "taken for " << launcher_name(p.launcher);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

Variables merged(Variables a, const Variables& b) {
  for (const auto& [name, value] : b) a[name] = value;
  return a;
}

void expect_seat(const Placement& p, int64_t rank, int64_t size, int64_t local, int64_t locals) {
  EXPECT_EQ(p.rendezvous.rank, rank);
  EXPECT_EQ(p.rendezvous.size, size);
  EXPECT_EQ(p.local_rank, local);
  EXPECT_EQ(p.local_size, locals);
}

void expect_address(const Placement& p, const std::string& host, uint16_t port, bool serve) {
  EXPECT_EQ(p.rendezvous.host, host);
  EXPECT_EQ(p.rendezvous.port, port);
  EXPECT_EQ(p.rendezvous.serve, serve);
}

const Variables kTorchrun{{"RANK", "3"},
                          {"WORLD_SIZE", "8"},
                          {"LOCAL_RANK", "1"},
                          {"LOCAL_WORLD_SIZE", "2"},
                          {"MASTER_ADDR", "node7"},
                          {"MASTER_PORT", "1234"},
                          {"TORCHELASTIC_RUN_ID", "abc"},
                          {"TORCHELASTIC_RESTART_COUNT", "2"},
                          {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                          {"OMP_NUM_THREADS", "1"}};
// srun -N 3 --ntasks-per-node 4,4,3: the last task
const Variables kSlurm{{"SLURM_PROCID", "10"},
                       {"SLURM_NTASKS", "11"},
                       {"SLURM_STEP_NUM_TASKS", "11"},
                       {"SLURM_LOCALID", "2"},
                       {"SLURM_NODEID", "2"},
                       {"SLURM_STEP_TASKS_PER_NODE", "4(x2),3"},
                       {"SLURM_STEP_NODELIST", "gnode[01,20-22],x3"},
                       {"SLURM_JOB_ID", "1000003"},
                       {"SLURM_STEP_ID", "2"}};
const Variables kOpenMpi{{"OMPI_COMM_WORLD_RANK", "1"},
                         {"OMPI_COMM_WORLD_SIZE", "2"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                         {"OMPI_MCA_ess_base_jobid", "1301741569"}};

TEST(Placement, Torchrun) {
  const Placement p = placed(kTorchrun);
  EXPECT_EQ(p.launcher, Launcher::kTorchrun);
  expect_seat(p, 3, 8, 1, 2);
  expect_address(p, "node7", 1234, false);
  EXPECT_THAT(p.rendezvous.attempt, HasSubstr("abc/2"));
}

TEST(Placement, TorchrunsRank0ServesUnlessItsAgentDoes) {
  Variables v = merged(kTorchrun, {{"RANK", "0"}, {"LOCAL_RANK", "0"}});
  EXPECT_FALSE(placed(v).rendezvous.serve);
  v["TORCHELASTIC_USE_AGENT_STORE"] = "False";
  EXPECT_TRUE(placed(v).rendezvous.serve);
}

TEST(Placement, Slurm) {
  const Placement p = placed(kSlurm);
  EXPECT_EQ(p.launcher, Launcher::kSlurm);
  expect_seat(p, 10, 11, 2, 3);
  expect_address(p, "gnode01", 10000 + (1000003 * 16 + 2) % 20000, false);
  expect_address(
      placed(merged(kSlurm, {{"MASTER_ADDR", "a"}, {"MASTER_PORT", "5"}})), "a", 5, false);
  EXPECT_TRUE(placed(merged(kSlurm, {{"SLURM_PROCID", "0"}})).rendezvous.serve);
}

TEST(Placement, SlurmOfOneMachineMeetsOnTheLoopbackDevice) {
  const Placement p = placed({{"SLURM_PROCID", "1"},
                              {"SLURM_STEP_NUM_TASKS", "2"},
                              {"SLURM_NODEID", "0"},
                              {"SLURM_STEP_ID", "0"},
                              {"SLURM_TASKS_PER_NODE", "2"}});
  EXPECT_EQ(p.local_size, 2);
  EXPECT_EQ(p.local_rank, -1);
  EXPECT_EQ(p.rendezvous.host, "127.0.0.1");
}

// Slurm sets the number of tasks in the shell of an allocation, too.
TEST(Placement, AShellInAnAllocationIsASingleProcess) {
  Variables shell{{"SLURM_PROCID", "0"},
                  {"SLURM_NTASKS", "8"},
                  {"SLURM_LOCALID", "0"},
                  {"SLURM_JOB_NODELIST", "n[1-2]"}};
  expect_seat(placed(shell), 0, 1, 0, 1);
  for (const char* step : {"4294967291", "4294967290"}) {
    shell["SLURM_STEP_ID"] = step;
    EXPECT_EQ(placed(shell).launcher, Launcher::kNone) << step;
  }
  EXPECT_EQ(placed(shell, {.launcher = "slurm"}).rendezvous.size, 8);
  shell["SLURM_STEP_ID"] = "0";
  EXPECT_EQ(placed(shell).rendezvous.size, 8);
}

TEST(Placement, OpenMpiOnOneMachine) {
  const Placement p = placed(kOpenMpi);
  EXPECT_EQ(p.launcher, Launcher::kOpenMpi);
  expect_seat(p, 1, 2, 1, 2);
  EXPECT_EQ(p.rendezvous.host, "127.0.0.1");
  EXPECT_NE(p.rendezvous.port,
            placed(merged(kOpenMpi, {{"OMPI_MCA_ess_base_jobid", "1301741570"}})).rendezvous.port);
}

TEST(Placement, OpenMpiOnSeveralMachinesNeedsAnAddress) {
  const Variables two = merged(kOpenMpi, {{"OMPI_COMM_WORLD_SIZE", "4"}});
  EXPECT_THAT(refusal(two),
              AllOf(HasSubstr("Open MPI started 4 ranks, 2 of them on this machine"),
                    HasSubstr("mpirun -x MASTER_ADDR=HOST"),
                    HasSubstr("--rdzv-file")));
  EXPECT_EQ(placed(merged(two, {{"MASTER_ADDR", "node1"}})).rendezvous.host, "node1");
  const Placement p = placed(two, {.rendezvous_file = "/shared/x"});
  EXPECT_EQ(p.rendezvous.file, "/shared/x");
  EXPECT_FALSE(p.rendezvous.serve);
}

TEST(Placement, HydraAndMvapich) {
  const Placement p = placed(
      {{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "3"}});
  EXPECT_EQ(p.launcher, Launcher::kHydra);
  expect_seat(p, 1, 3, 1, 3);
  EXPECT_THAT(refusal({{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}}), HasSubstr("mpiexec -genv"));
  const Placement m = placed({{"MV2_COMM_WORLD_RANK", "2"},
                              {"MV2_COMM_WORLD_SIZE", "3"},
                              {"MV2_COMM_WORLD_LOCAL_RANK", "2"},
                              {"MV2_COMM_WORLD_LOCAL_SIZE", "3"},
                              {"PMI_RANK", "2"},
                              {"PMI_SIZE", "3"}});
  EXPECT_EQ(m.launcher, Launcher::kMvapich2);
  expect_seat(m, 2, 3, 2, 3);
}

TEST(Placement, VariablesByHand) {
  const Placement p = placed({{"RANK", "0"}, {"WORLD_SIZE", "2"}});
  EXPECT_EQ(p.launcher, Launcher::kVariables);
  expect_seat(p, 0, 2, -1, 0);
  expect_address(p, "127.0.0.1", 29500, true);
  EXPECT_EQ(placed({}).launcher, Launcher::kNone);
}

// torchrun once a node under srun, mpirun in a batch script: the inner one has started us.
TEST(Placement, TheNearestLauncherCounts) {
  EXPECT_EQ(placed(merged(kSlurm, kTorchrun)).launcher, Launcher::kTorchrun);
  EXPECT_EQ(placed(merged(kSlurm, kOpenMpi)).launcher, Launcher::kOpenMpi);
  const Variables pmi2 = merged(kSlurm, {{"PMI_RANK", "10"}, {"PMI_SIZE", "11"}});
  EXPECT_EQ(placed(pmi2).launcher, Launcher::kSlurm);
  const Variables ours =
      merged(merged(kTorchrun, kOpenMpi), {{kOwnLauncherVariable, "1"}, {kStoreFdVariable, "7"}});
  EXPECT_EQ(placed(ours).launcher, Launcher::kOwn);
  EXPECT_EQ(placed(ours).rendezvous.listening_fd, 7);
}

TEST(Placement, ContradictionsAreNamed) {
  EXPECT_THAT(refusal({{"RANK", "0"}}),
              HasSubstr("RANK is set in the environment but WORLD_SIZE is not"));
  EXPECT_THAT(refusal({{"WORLD_SIZE", "2"}}),
              HasSubstr("WORLD_SIZE is set in the environment but RANK"));
  EXPECT_THAT(refusal({{"RANK", "2"}, {"WORLD_SIZE", "2"}}),
              HasSubstr("RANK=2 does not lie in 0..WORLD_SIZE-1, WORLD_SIZE=2"));
  EXPECT_THAT(refusal({{"RANK", "two"}, {"WORLD_SIZE", "2"}}), HasSubstr("RANK=two: not a whole"));
  EXPECT_THAT(
      refusal({{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "2"}, {"LOCAL_WORLD_SIZE", "2"}}),
      HasSubstr("LOCAL_RANK=2, LOCAL_WORLD_SIZE=2 and WORLD_SIZE=4 contradict"));
  EXPECT_THAT(refusal(merged(kSlurm, {{"RANK", "3"}, {"WORLD_SIZE", "11"}})),
              HasSubstr("RANK=3 and SLURM_PROCID=10 contradict each other"));
  EXPECT_THAT(refusal(merged(kOpenMpi, {{"RANK", "1"}, {"WORLD_SIZE", "8"}})),
              HasSubstr("WORLD_SIZE=8 and OMPI_COMM_WORLD_SIZE=2 contradict each other"));
  EXPECT_THAT(refusal(merged(kSlurm, {{"SLURM_NODEID", "3"}})),
              HasSubstr("SLURM_NODEID=3 is not one"));
  EXPECT_THAT(refusal({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "70000"}}),
              HasSubstr("MASTER_PORT=70000"));
}

TEST(Placement, ALauncherCanBeForced) {
  const Variables both = merged(kOpenMpi, {{"RANK", "5"}, {"WORLD_SIZE", "8"}});
  EXPECT_EQ(placed(both, {.launcher = "openmpi"}).rendezvous.rank, 1);
  EXPECT_EQ(placed(both, {.launcher = "variables"}).rendezvous.rank, 5);
  EXPECT_EQ(placed(both, {.launcher = "none"}).rendezvous.size, 1);
  EXPECT_THAT(refusal({}, {.launcher = "slurm"}),
              HasSubstr("SLURM_PROCID is not set: did Slurm start this process?"));
}

TEST(Placement, GuessIsASingleProcessWhereVariablesContradict) {
  EXPECT_EQ(guess_placement(Environment(Variables{{"RANK", "3"}})).rendezvous.size, 1);
  EXPECT_EQ(guess_placement(Environment(kTorchrun)).rendezvous.size, 8);
}

TEST(ThreadsPerRank, OmpNumThreadsCountsAndCoresAreShared) {
  const auto threads = [](const Variables& variables, int64_t sharers, double cpus) {
    return threads_per_rank(Environment(variables), sharers, cpus);
  };
  EXPECT_EQ(threads({}, 1, 6), 6);
  EXPECT_EQ(threads({}, 2, 6.9), 3);
  EXPECT_EQ(threads({}, 8, 0.5), 1);
  EXPECT_EQ(threads({{"OMP_NUM_THREADS", "3"}}, 8, 2), 3);
  EXPECT_EQ(threads({{"OMP_NUM_THREADS", "1"}}, 1, 8), 1);
  EXPECT_EQ(threads({{"OMP_NUM_THREADS", "4,2"}}, 1, 8), 4);
  EXPECT_EQ(threads({{"OMP_NUM_THREADS", "many"}}, 1, 8), 8);
  EXPECT_EQ(threads({{"OMP_NUM_THREADS", "0"}}, 1, 8), 8);
  EXPECT_EQ(threads({{"OMP_NUM_THREADS", "3"}, {"BASIN_THREADS", "5"}}, 1, 8), 5);
  EXPECT_EQ(threads(kTorchrun, 2, 8), 4);  // with its OMP_NUM_THREADS=1
  EXPECT_EQ(threads(merged(kTorchrun, {{"OMP_NUM_THREADS", "6"}}), 2, 8), 6);
}

TEST(ThreadsPerRank, TorchrunsOmpNumThreadsIsIgnored) {
  const Environment plain(Variables{}), torchrun(kTorchrun);
  EXPECT_EQ(threads_per_rank(torchrun, 1), threads_per_rank(plain, 1));
  EXPECT_EQ(threads_per_rank(plain, 1'000'000), 1);
  EXPECT_EQ(threads_per_rank(Environment(Variables{{"BASIN_THREADS", "5"}}), 4), 5);
  EXPECT_THROW(threads_per_rank(Environment(Variables{{"BASIN_THREADS", "0"}}), 1),
               std::invalid_argument);
}

}  // namespace
}  // namespace basin
