// The verbs of this room. Each registers its subcommand; its callback does the work.
#pragma once

namespace CLI {
class App;
}

namespace basin {

void add_evaluate(CLI::App& app);
void add_attention(CLI::App& app);
void add_generate(CLI::App& app);
void add_export(CLI::App& app);

}  // namespace basin
