#include "data/config.h"

#include <fmt/format.h>

namespace basin {

std::vector<std::string> DataConfig::problems() const {
  std::vector<std::string> found;
  if (train.empty()) {
    found.push_back(
        "train names no dataset: give the path of one that `basin prepare` wrote (PREFIX_train), "
        "or a list of {path, weight}");
  }
  double weights = 0;
  for (size_t i = 0; i < train.size(); ++i) {
    weights += train[i].weight;
    if (train[i].path.empty()) {
      found.push_back(fmt::format("train[{}].path is empty", i));
    }
    for (size_t j = 0; j < i; ++j) {
      if (!train[i].path.empty() && train[j].path == train[i].path) {
        found.push_back(
            fmt::format("train[{}].path repeats train[{}] ({}): give it once with a larger weight",
                        i,
                        j,
                        train[i].path));
      }
    }
  }
  if (!train.empty() && weights <= 0) {
    found.push_back("train: all weights are 0, so no sample can be drawn");
  }
  return found;
}

}  // namespace basin
