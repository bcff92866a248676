#include "data/holdout.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <utility>

#include "data/sample_order.h"

namespace basin {
namespace {

constexpr uint64_t kHoldoutStream =
    0x686f6c646f7574;  // keeps this draw apart from others of the same seed

std::optional<double> as_number(const std::string& rule) {
  char* end = nullptr;
  const double value = std::strtod(rule.c_str(), &end);
  return rule.empty() || *end != '\0' ? std::nullopt : std::optional(value);
}

bool matches(const std::string& glob, const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  if (fnmatch(glob.c_str(), path.c_str(), 0) == 0 || fnmatch(glob.c_str(), name.c_str(), 0) == 0) {
    return true;
  }
  for (std::filesystem::path stem = path.stem();; stem = stem.stem()) {  // a of a.jsonl.zst too
    if (fnmatch(glob.c_str(), stem.c_str(), 0) == 0) {
      return true;
    }
    if (!stem.has_extension()) {
      return false;
    }
  }
}

}  // namespace

Holdout::Holdout(const std::vector<std::string>& rules,
                 const std::vector<TextFile>& files,
                 uint64_t seed)
    : any_(!rules.empty()), files_(files.size(), false), seed_(seed) {
  bool fraction_given = false;
  for (const std::string& rule : rules) {
    if (const std::optional<double> number = as_number(rule)) {
      if (std::exchange(fraction_given, true)) {
        throw std::invalid_argument(
            fmt::format("--holdout {}: one fraction at most, and another is given", rule));
      }
      if (!(*number > 0 && *number < 1)) {
        throw std::invalid_argument(
            fmt::format("--holdout {}: a fraction must lie between 0 and 1", rule));
      }
      const bool one_a_file = std::none_of(
          files.begin(), files.end(), [](const TextFile& file) { return file.json_lines; });
      if (one_a_file && files.size() == 1) {
        split_fraction_ = *number;
      } else if (one_a_file) {
        choose_files(*number);
      } else {
        fraction_ = *number;
      }
      continue;
    }
    bool found = false;
    for (size_t i = 0; i < files.size(); ++i) {
      const bool match = matches(rule, files[i].path);
      files_[i] = files_[i] || match;
      found = found || match;
    }
    if (!found) {
      throw std::invalid_argument(
          fmt::format("--holdout {}: matches none of the {} input files (for example {})",
                      rule,
                      files.size(),
                      files.at(0).path.string()));
    }
  }
  if (any_ && std::all_of(files_.begin(), files_.end(), [](bool held) { return held; })) {
    throw std::invalid_argument(fmt::format("--holdout {} leaves no file for training", rules[0]));
  }
}

void Holdout::choose_files(double fraction) {
  const auto total = static_cast<int64_t>(files_.size());
  const auto wanted =
      std::clamp<int64_t>(std::llround(fraction * static_cast<double>(total)), 1, total - 1);
  std::vector<std::pair<uint64_t, int64_t>> drawn;
  for (int64_t i = 0; i < total; ++i) {
    drawn.emplace_back(keyed_hash(seed_, kHoldoutStream, i), i);
  }
  std::sort(drawn.begin(), drawn.end());
  for (int64_t i = 0; i < wanted; ++i) {
    files_[drawn[i].second] = true;
  }
}

std::vector<Holdout::Part> Holdout::parts(size_t file,
                                          int64_t document,
                                          std::string_view text) const {
  if (split_fraction_ > 0) {
    const auto wanted =
        static_cast<size_t>((1 - split_fraction_) * static_cast<double>(text.size()));
    const size_t line = text.find('\n', wanted), space = text.find(' ', wanted);
    const size_t cut = line != std::string_view::npos    ? line + 1
                       : space != std::string_view::npos ? space
                                                         : text.size();
    return {{text.substr(0, cut), false}, {text.substr(cut), true}};
  }
  const bool drawn =
      fraction_ > 0 &&
      static_cast<double>(keyed_hash(seed_, kHoldoutStream, document)) < std::ldexp(fraction_, 64);
  return {{text, files_[file] || drawn}};
}

}  // namespace basin
