// What a run reads: token datasets by path (without .bin/.idx), their weights, and the length of a
// sample.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "configs/fields.h"

namespace basin {

/// One dataset of a mixture.
struct DatasetConfig {
  static constexpr std::string_view kShorthand = "path";  // a bare scalar in YAML is the path

  std::string path;   // PREFIX of PREFIX.bin and PREFIX.idx
  double weight = 1;  // relative share of the samples

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("path", self.path, Field{.doc = "path of the dataset without .bin and .idx"});
    visit(
        "weight",
        self.weight,
        Field{.doc = "share of the samples, relative to the other datasets", .min = 0, .max = 1e9});
  }
};

struct DataConfig {
  std::vector<DatasetConfig> train;  // YAML: a list of {path, weight}, or one path
  std::string heldout;               // empty: no validation
  int64_t sequence_length = 256;     // tokens of a sample that are predicted (T); sinks come on top

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("train", self.train, Field{.doc = "one dataset path, or a list of {path, weight}"});
    visit("heldout", self.heldout, Field{.doc = "dataset path for validation; empty: none"});
    visit("sequence_length",
          self.sequence_length,
          Field{.doc = "predicted tokens of a sample (T); sink tokens come on top",
                .min = 8,
                .max = 1 << 20});
  }
  std::vector<std::string> problems() const;
};

}  // namespace basin
