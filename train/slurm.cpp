#include "train/slurm.h"

#include <fmt/format.h>

#include <charconv>
#include <stdexcept>

namespace basin {

std::string first_host(const std::string& nodelist) {
  // Up to the first comma outside brackets; of each bracket, its first number: "rack[2-3]n[07,9]".
  std::string host;
  for (size_t at = 0; at < nodelist.size() && nodelist[at] != ','; ++at) {
    if (nodelist[at] != '[') {
      host += nodelist[at];
      continue;
    }
    const size_t close = nodelist.find(']', at), end = nodelist.find_first_of(",-]", at);
    if (close == std::string::npos || end == at + 1)
      throw std::invalid_argument(fmt::format("not a Slurm node list: {}", nodelist));
    host += nodelist.substr(at + 1, end - at - 1);
    at = close;
  }
  if (host.empty() || host.find(']') != std::string::npos)
    throw std::invalid_argument(fmt::format("not a Slurm node list: {}", nodelist));
  return host;
}

std::vector<int64_t> tasks_per_node(const std::string& list) {
  std::vector<int64_t> out;
  const char *at = list.data(), *end = at + list.size();
  const auto fail = [&] {
    return std::invalid_argument(
        fmt::format("not a Slurm list of tasks per node (like \"4(x2),3\"): {}", list));
  };
  const auto number = [&] {
    int64_t value = 0;
    const auto [stop, error] = std::from_chars(at, end, value);
    if (error != std::errc() || value < 0 || value > 1'000'000) throw fail();
    at = stop;
    return value;
  };
  const auto skip = [&](std::string_view word) {
    const bool is_there = std::string_view(at, static_cast<size_t>(end - at)).starts_with(word);
    if (is_there) at += word.size();
    return is_there;
  };
  do {
    const int64_t tasks = number();
    int64_t nodes = 1;
    if (skip("(x")) {
      nodes = number();
      if (!skip(")")) throw fail();
    }
    out.insert(out.end(), static_cast<size_t>(nodes), tasks);
  } while (skip(","));
  if (at != end) throw fail();
  return out;
}

}  // namespace basin
