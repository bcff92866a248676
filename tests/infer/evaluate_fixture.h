// A tiny model, three documents and a configuration to evaluate them with.
#pragma once

#include <gmock/gmock.h>

#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "configs/scratch_folder.h"
#include "infer/evaluate.h"
#include "infer/model_directory.h"
#include "tests/infer/tiny_model.h"

namespace basin {

namespace fs = std::filesystem;

// A folder of its own for each test, removed at its end.
class Evaluate : public testing::Test {
 protected:
  const ScratchFolder scratch_;
  const fs::path folder_ = scratch_.path();
};

inline LoadedModel tiny_model(SinkKind kind, int64_t count = 1) {
  LoadedModel loaded;
  loaded.model = std::make_unique<Transformer>(
      random_model(tiny_config(ModelType::kLlama, kind, count), at::kFloat, 2.5));
  return loaded;
}

inline std::vector<TokenDocument> documents(const LoadedModel& model) {
  return {{"a", random_tokens(model.model->config(), 90, 1)},
          {"b", random_tokens(model.model->config(), 1, 2)},
          {"c", random_tokens(model.model->config(), 60, 3)}};
}

inline EvaluateConfig config_of(std::vector<Mode> modes,
                                std::vector<int64_t> sinks,
                                int64_t cache = 16,
                                int64_t limit = 0) {
  EvaluateConfig config;
  config.modes = std::move(modes);
  config.sinks = std::move(sinks);
  config.cache = cache;
  config.limit = limit;
  return config;
}

}  // namespace basin
