// A plan as a text for people and as one JSON document.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "train/plan.h"

namespace basin {

/// A plan and what was asked for beside it.
struct PlanReport {
  RunConfig config;
  Plan plan;
  std::vector<Knob> knobs;          // when it does not fit
  std::vector<ScalingRow> scaling;  // when asked for
};

std::string plan_text(const PlanReport& report);
nlohmann::ordered_json plan_json(const PlanReport& report);

}  // namespace basin
