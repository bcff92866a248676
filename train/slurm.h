// The two compressed notations of Slurm's environment (its sbatch and srun manuals, "OUTPUT
// ENVIRONMENT VARIABLES").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace basin {

/// The first host of a node list like "gnode[01,20-22],x3", here gnode01. Throws
/// std::invalid_argument for text that is no such list.
std::string first_host(const std::string& nodelist);

/// Tasks of each node of a list like "4(x2),3", here {4, 4, 3}. Throws std::invalid_argument for
/// text that is no such list.
std::vector<int64_t> tasks_per_node(const std::string& list);

}  // namespace basin
