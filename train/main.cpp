// The program: lists the verbs, catches once.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <malloc.h>
#include <torch/version.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <climits>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <iostream>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "configs/config_node.h"
#include "configs/files.h"
#include "configs/json_text.h"
#include "configs/log.h"
#include "configs/signals.h"
#include "data/commands.h"
#include "infer/commands.h"
#include "model/cpu_allocator.h"
#include "model/kernels/kernels.h"
#include "train/commands.h"
#include "train/failure.h"
#include "train/placement.h"

namespace {

// Two things are read before main and can only be set by starting again: how long OpenMP's threads spin while they wait for each other (long
// spins cost a multiple of the time as soon as anything else runs on the cores; 2000 rounds, a few microseconds, cost nothing on idle ones), and
// that malloc asks for huge pages (weights and activations are read front to back, and small pages take a fifth of the speed).
void restart_with_environment(char** argv) {
  bool changed = false;
  const auto set_unless = [&](std::initializer_list<const char*> given, const char* name, const char* value) {
    for (const char* variable : given)
      if (std::getenv(variable)) return;
    setenv(name, value, 1);
    changed = true;
  };
  set_unless({"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}, "GOMP_SPINCOUNT", "2000");
  set_unless({"GLIBC_TUNABLES"}, "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
  char program[PATH_MAX + 1] = {};   // not /proc/self/exe itself, so that the process keeps its name
  if (changed && readlink("/proc/self/exe", program, PATH_MAX) > 0) execv(program, argv);   // where that fails, the program goes on as it is
}

/// Says which word is no verb, where CLI11 would only say that one is missing.
void check_verbs(const CLI::App* app, int argc, char** argv) {
  for (int i = 1; i < argc && argv[i][0] != '-'; ++i) {
    std::vector<std::string> names;
    for (const CLI::App* verb : app->get_subcommands([](const CLI::App* any) { return !any->get_name().empty(); })) names.push_back(verb->get_name());
    if (names.empty()) return;
    if (std::ranges::find(names, argv[i]) == names.end()) {
      const std::vector<std::string_view> views(names.begin(), names.end());
      const std::string meant = basin::closest(argv[i], views);
      throw std::invalid_argument(fmt::format("unknown verb {}; {}", basin::printable(argv[i]),
                                              meant.empty() ? "there are " + basin::comma_list(views) : fmt::format("did you mean {}?", meant)));
    }
    app = app->get_subcommand(argv[i]);
  }
}

int run(int argc, char** argv) {
  mallopt(M_MMAP_THRESHOLD, std::numeric_limits<int>::max());   // what was freed stays with the process, in huge pages
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  basin::install_cpu_allocator();
  basin::keep_standard_streams();
  basin::install_signal_handlers();
  const basin::Environment environment = basin::Environment::of_process();
  const basin::Placement placement = basin::guess_placement(environment);
  const basin::Rendezvous& ranks = placement.rendezvous;
  basin::set_up_log(ranks.rank, ranks.size);
  at::set_num_threads(basin::threads_per_rank(environment, placement.local_size > 0 ? placement.local_size : ranks.size));

  CLI::App app("Basin: pretrain small language models with a learnable attention sink, and stream them for ever", "basin");
  app.require_subcommand(1);
  app.set_version_flag("--version", fmt::format("basin {}, LibTorch {}, {}, kernels {}", BASIN_VERSION, TORCH_VERSION, BASIN_CUDA_BUILD, basin::kernels::instruction_set()));
  int status = 0;
  basin::add_prepare(app);
  basin::add_plan(app, status);
  basin::add_train(app, status);
  basin::add_evaluate(app);
  basin::add_attention(app);
  basin::add_generate(app);
  basin::add_export(app);
  basin::add_report(app);
  basin::add_bench(app);
  check_verbs(&app, argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream help;
    const int code = app.exit(error, help, std::cerr);
    basin::write_stdout(help.str());
    return code == 0 ? 0 : 2;
  }
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  restart_with_environment(argv);
  try {
    return run(argc, argv);
  } catch (const basin::RankFailure& error) {
    basin::print_failure(error.failure);
    std::_Exit(error.failure.status);   // threads that talk to other ranks may hang
  } catch (...) {
    const basin::Failure failure = basin::describe_failure(std::current_exception());
    basin::print_failure(failure);
    return failure.status;
  }
}
