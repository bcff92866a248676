// A configuration with every kind of field, for the tests of configs/.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "configs/yaml_config.h"

namespace basin {

enum class Color { kRed, kGreen, kBlue };
template <>
inline constexpr std::string_view kEnumNames<Color>[] = {"red", "green", "blue"};

struct SourceConfig {
  static constexpr std::string_view kShorthand = "path";

  std::string path;
  double weight = 1;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("path", self.path, Field{.doc = "where it lies"});
    visit("weight", self.weight, Field{.doc = "share", .min = 0, .max = 10});
  }
};

struct OptimizerSample {
  double lr = 1e-5;
  std::vector<double> betas{0.9, 0.95};
  bool fused = true;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("lr", self.lr, Field{.doc = "peak learning rate", .min = 0, .max = 1});
    visit("betas", self.betas, Field{.doc = "decay of the moments", .min = 0, .max = 1});
    visit("fused", self.fused, Field{.doc = "one pass | one kernel"});
  }
  std::vector<std::string> problems() const {
    if (betas.size() != 2)
      return {"betas has " + std::to_string(betas.size()) + " numbers, AdamW takes 2"};
    return {};
  }
};

struct TrainSample {
  int64_t steps = 100;
  int64_t seed = 1;
  OptimizerSample optimizer;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("steps", self.steps, Field{.doc = "optimizer steps", .min = 1});
    visit("seed", self.seed, Field{.doc = "seed"});
    visit("optimizer", self.optimizer, Field{.doc = "AdamW"});
  }
  std::vector<std::string> problems() const {
    if (steps == 13) return {"steps 13 is unlucky", "choose another number of steps"};
    return {};
  }
};

struct SampleConfig {
  std::string name = "demo";
  Color color = Color::kGreen;
  std::vector<SourceConfig> sources;
  std::vector<int64_t> ids;
  std::vector<std::string> labels;
  TrainSample train;

  template <class Self, class Visitor>
  static void visit_fields(Self& self, Visitor&& visit) {
    visit("name", self.name, Field{.doc = "name of the run"});
    visit("color", self.color, Field{.doc = "color of its line"});
    visit("sources", self.sources, Field{.doc = "what it reads"});
    visit("ids", self.ids, Field{.doc = "ids", .min = 0, .max = 9});
    visit("labels", self.labels, Field{.doc = "labels"});
    visit("train", self.train, Field{.doc = "training"});
  }
};

inline SampleConfig read_sample(const std::string& text,
                                const std::vector<std::string>& overrides = {}) {
  return config_from_text<SampleConfig>(text, "run.yaml", overrides);
}

/// The lines of the error that reading `text` ends with; empty when it is fine.
inline std::string problems_of(const std::string& text,
                               const std::vector<std::string>& overrides = {}) {
  try {
    read_sample(text, overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace basin
