// The verbs of this room. Each registers its subcommand; `status` receives the exit status when it runs.
#pragma once

namespace CLI {
class App;
}

namespace basin {

void add_plan(CLI::App& app, int& status);
void add_train(CLI::App& app, int& status);
void add_report(CLI::App& app, int& status);
void add_bench(CLI::App& app, int& status);

}  // namespace basin
