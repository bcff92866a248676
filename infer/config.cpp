#include "infer/config.h"

#include <fmt/core.h>

#include <algorithm>
#include <stdexcept>
#include <string>

namespace basin {

CacheShape split_cache(int64_t entries, int64_t sinks) {
  if (entries < 1)
    throw std::invalid_argument(
        fmt::format("--cache {}: a cache needs at least one entry", entries));
  if (sinks < 0)
    throw std::invalid_argument(
        fmt::format("--sinks {}: the number of kept initial tokens cannot be negative", sinks));
  if (sinks >= entries)
    throw std::invalid_argument(
        fmt::format("--sinks {} leaves no room for recent tokens in a cache of {} entries: take "
                    "fewer sinks or --cache {} or more",
                    sinks,
                    entries,
                    sinks + 1));
  return {sinks, entries - sinks};
}

Mode parse_mode(std::string_view name) {
  const auto known = enum_value<Mode>(name);
  if (!known)
    throw std::invalid_argument(
        fmt::format("--mode {}: expected dense, window, recompute or stream", name));
  return *known;
}

void EvaluateConfig::validate(const ModelConfig& model) const {
  if (modes.empty())
    throw std::invalid_argument(
        "--mode is empty: give at least one of dense, window, recompute, stream");
  const auto wants = [&](Mode mode) {
    return std::find(modes.begin(), modes.end(), mode) != modes.end();
  };
  if (limit < 0) throw std::invalid_argument(fmt::format("--limit {} cannot be negative", limit));
  if (limit > 0 && !wants(Mode::kRecompute))
    throw std::invalid_argument(
        "--limit is for mode recompute, which --mode does not name; --max-tokens shortens documents");
  const bool caches = wants(Mode::kStream) || wants(Mode::kWindow);
  if (caches) split_cache(cache, 0);
  if (wants(Mode::kStream)) {
    if (sinks.empty())
      throw std::invalid_argument(
          "--sinks is empty: mode stream needs at least one number of kept initial tokens");
    for (const int64_t s : sinks) split_cache(cache, s);
    for (auto s = sinks.begin(); s != sinks.end(); ++s)
      if (std::find(sinks.begin(), s, *s) != s)
        throw std::invalid_argument(fmt::format("--sinks names {} twice", *s));
  }
  if (wants(Mode::kRecompute)) split_cache(cache, 0);
  if (wants(Mode::kRecompute) && cache <= model.sink.tokens())
    throw std::invalid_argument(
        fmt::format("--cache {}: mode recompute needs room for a token beside the model's own {}: "
                    "take --cache {} or more",
                    cache,
                    model.sink.tokens() == 1 ? "sink token"
                                             : fmt::format("{} sink tokens", model.sink.tokens()),
                    model.sink.tokens() + 1));
  if (caches || wants(Mode::kRecompute)) model.require_window(cache + 1);
}

}  // namespace basin
