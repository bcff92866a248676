// The one reader of run files: YAML -> typed configuration by its `visit_fields`, with `--set`
// overrides, and back to text.
//   const auto config = config_from_file<RunConfig>("configs/demo.yaml", {"train.steps=10"});
// Values: true and false, whole numbers (1000, 1_000, 1e3), numbers, text, enum names, lists,
// sections. A struct with `kShorthand` may be written as one scalar. Errors: ConfigError with all
// problems at once; std::runtime_error when the file cannot be read.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "configs/config_node.h"
#include "configs/config_reader.h"
#include "configs/config_walk.h"

namespace basin {

/// YAML text -> tree. `source` names the text in messages. Syntax errors are ConfigError
/// "source:line: message"; an empty text is an empty section; duplicate keys stay in the tree, for
/// the reader to report.
ConfigNode parse_yaml(const std::string& text, const std::string& source);

/// Applies "a.b=value" to the tree; the value is YAML, list items go by index
/// ("data.train.0.weight=2"). What cannot be applied goes to `problems`; unknown keys are left to
/// the reader.
void apply_override(const std::string& assignment, ConfigNode& root, Problems& problems);

/// The file's text. A missing file is reported together with the run files that could have been
/// meant.
std::string read_config_file(const std::filesystem::path& path);

/// YAML text with overrides on top, as a tree.
inline ConfigNode overridden_yaml(const std::string& text,
                                  const std::string& source,
                                  const std::vector<std::string>& overrides,
                                  Problems& problems) {
  ConfigNode root = parse_yaml(text, source);
  for (const std::string& assignment : overrides) apply_override(assignment, root, problems);
  return root;
}

/// `config` with the keys that the tree has. Throws for `problems` that were there before, too.
template <class Config>
Config config_from_tree(const ConfigNode& root, Problems& problems, Config config = {}) {
  std::vector<KeyInfo> keys;
  describe_keys(Config{}, "", keys);
  ConfigReader(std::move(keys), problems).read_struct(root, "", config);
  problems.throw_if_any();
  return config;
}

/// A configuration from YAML text, overrides on top.
template <class Config>
Config config_from_text(const std::string& text,
                        const std::string& source,
                        const std::vector<std::string>& overrides = {}) {
  Problems problems;
  const ConfigNode root = overridden_yaml(text, source, overrides, problems);
  return config_from_tree<Config>(root, problems);
}

template <class Config>
Config config_from_file(const std::filesystem::path& path,
                        const std::vector<std::string>& overrides = {}) {
  return config_from_text<Config>(read_config_file(path), path.string(), overrides);
}

/// A tree in block layout, one key a line.
std::string block_yaml(const ConfigNode& node);

/// The effective configuration, every default written out. Reading it gives an equal configuration,
/// doubles to the last bit.
template <class Config>
std::string to_yaml(const Config& config) {
  return block_yaml(to_node(config));
}

/// A key in which two configurations differ; values as YAML, empty where a list is too short to
/// have the key.
struct Difference {
  std::string key, a, b;
};
std::vector<Difference> node_differences(const ConfigNode& a, const ConfigNode& b);

template <class Config>
std::vector<Difference> differences(const Config& a, const Config& b) {
  return node_differences(to_node(a), to_node(b));
}

std::string markdown_table(const std::vector<KeyInfo>& keys);

/// A Markdown table of every dotted key: type, default, range, meaning.
template <class Config>
std::string reference_markdown() {
  std::vector<KeyInfo> keys;
  describe_keys(Config{}, "", keys);
  return markdown_table(keys);
}

}  // namespace basin
