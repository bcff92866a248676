#include "train/failure.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "configs/log.h"
#include "configs/signals.h"
#include "train/comm.h"
#include "train/placement.h"

namespace basin {
namespace {

/// The format of torch/distributed/elastic/multiprocessing/errors/error_handler.py.
std::string elastic_error(const std::string& message) {
  using namespace std::chrono;
  const auto now = duration_cast<seconds>(system_clock::now().time_since_epoch()).count();
  return nlohmann::json{
      {"message",
       {{"message", message},
        {"extraInfo", {{"py_callstack", message}, {"timestamp", std::to_string(now)}}}}}}
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// LibTorch's message without its advice for programmers.
std::string out_of_memory(std::string message) {
  message.resize(std::min(message.find(" If reserved but"), message.size()));
  return message +
         (message.ends_with('.') ? "" : ".") +
         " Of a training run 'basin plan CONFIG' says what it needs and what to turn: "
         "train.micro_batch, train.recompute_activations";
}

}  // namespace

Failure describe_failure(std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const RankFailure& error) {
    return error.failure;
  } catch (const Interrupted& error) {
    return {error.what(), 130};
  } catch (const CommError& error) {
    return {error.what(), 1, /*secondary=*/true};
  } catch (const c10::OutOfMemoryError& error) {
    return {out_of_memory(error.what_without_backtrace()), 1};
  } catch (const c10::Error& error) {
    return {error.what_without_backtrace(), 1};
  } catch (const std::invalid_argument& error) {
    return {error.what(), 2};
  } catch (const std::exception& error) {
    return {error.what(), 1};
  }
}

void tell_torchrun(const std::string& message) {
  if (const auto file = Environment::of_process().text("TORCHELASTIC_ERROR_FILE"); file)
    std::ofstream(*file) << elastic_error(message);
}

void print_failure(const Failure& failure) {
  const Environment environment = Environment::of_process();
  const Placement placement = guess_placement(environment);
  const std::string who = placement.launcher == Launcher::kNone
                              ? ""
                              : fmt::format("[rank {}] ", placement.rendezvous.rank);
  const std::string line = failure.told ? "" : fmt::format("error: {}{}\n", who, failure.message);
  tell_torchrun(failure.message);
  const std::string tagged = (failure.secondary ? '2' : '1') + line;
  const auto fd = environment.text(kErrorFdVariable);
  if (!fd || write(std::atoi(fd->c_str()), tagged.data(), tagged.size()) < 0)
    write_stderr(line);
}

}  // namespace basin
