// Which embedding rows the sink tokens are.
#include <fmt/core.h>

#include <algorithm>

#include "model/config.h"

namespace basin {
namespace {

// What `prepare` reserves: <sink>, <sink1>, <sink2>, <sink3> (2 is </s>).
constexpr int64_t kReservedSinkIds[] = {1, 3, 4, 5};

}  // namespace

std::vector<std::string> SinkConfig::problems() const {
  std::vector<std::string> found;
  // Other kinds feed no sink token: count and token_ids may stay in the file when an ablation sets
  // `kind`.
  if (kind != SinkKind::kToken) return found;
  const int64_t largest = std::size(kReservedSinkIds);
  if (count < 1 || count > largest)
    found.push_back(fmt::format("count {} is not between 1 and {}", count, largest));
  const auto given = static_cast<int64_t>(token_ids.size());
  if (given > 0 && given != count)
    found.push_back(
        fmt::format("token_ids lists {} ids but count is {}: give one id for each sink token, or "
                    "none for 1, 3, 4, 5",
                    given,
                    count));
  for (auto id = token_ids.begin(); id != token_ids.end(); ++id) {
    if (*id < 0) found.push_back(fmt::format("token_ids: {} is not a token id", *id));
    if (std::find(token_ids.begin(), id, *id) != id)
      found.push_back(fmt::format("token_ids: {} occurs twice", *id));
  }
  return found;
}

std::vector<int64_t> SinkConfig::ids() const {
  if (!token_ids.empty())
    return {
        token_ids.begin(),
        token_ids.begin() + std::min<int64_t>(tokens(), static_cast<int64_t>(token_ids.size()))};
  return {kReservedSinkIds, kReservedSinkIds + tokens()};
}

}  // namespace basin
