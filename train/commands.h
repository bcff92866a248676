// The verbs of this room. Each registers its subcommand; where a verb can end in more ways than one, `status` receives its exit status.
#pragma once

namespace CLI {
class App;
}

namespace basin {

void add_plan(CLI::App& app, int& status);
void add_train(CLI::App& app, int& status);
void add_report(CLI::App& app);
void add_bench(CLI::App& app);

}  // namespace basin
