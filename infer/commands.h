// The verbs of this room. Each registers its subcommand; its callback does the work and sets
// `status`.
#pragma once

namespace CLI {
class App;
}

namespace basin {

void add_evaluate(CLI::App& app, int& status);
void add_attention(CLI::App& app, int& status);
void add_generate(CLI::App& app, int& status);
void add_export(CLI::App& app, int& status);

}  // namespace basin
