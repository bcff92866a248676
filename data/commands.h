// The verb of this room: `basin prepare`.
#pragma once

namespace CLI {
class App;
}

namespace basin {

void add_prepare(CLI::App& app);

}  // namespace basin
