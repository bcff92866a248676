// The only file that knows yaml-cpp.
#include "configs/yaml_config.h"

#include <fmt/core.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <stdexcept>

#include "configs/files.h"

namespace basin {
namespace {

constexpr int kMaxDepth = 64;  // an alias may contain itself

Origin origin_at(const YAML::Mark& mark, const std::string& source) {
  return {source, mark.is_null() ? 0 : mark.line + 1};
}

[[noreturn]] void fail(const Origin& origin, const std::string& message) {
  throw ConfigError(origin.text() + ": " + message);
}

ConfigNode convert(const YAML::Node& yaml, const std::string& source, int depth) {
  ConfigNode node;
  node.origin = origin_at(yaml.Mark(), source);
  if (depth > kMaxDepth) fail(node.origin, "nested too deeply");
  if (yaml.IsScalar()) {
    node.kind = ConfigNode::Kind::kScalar;
    node.scalar = yaml.Scalar();
    node.is_text = yaml.Tag() == "!" ||
                   yaml.Tag() == "tag:yaml.org,2002:str";  // "!" is how yaml-cpp marks quotes
  } else if (yaml.IsSequence()) {
    node.kind = ConfigNode::Kind::kList;
    for (const YAML::Node& item : yaml) node.items.push_back(convert(item, source, depth + 1));
  } else if (yaml.IsMap()) {
    node.kind = ConfigNode::Kind::kMap;
    for (const auto& pair : yaml) {
      const Origin origin = origin_at(pair.first.Mark(), source);
      if (!pair.first.IsScalar()) fail(origin, "a key must be a plain word");
      ConfigNode value = convert(pair.second, source, depth + 1);
      if (value.kind == ConfigNode::Kind::kNull)
        value.origin = origin;  // nothing has no place of its own
      node.entries.push_back({pair.first.Scalar(), origin, std::move(value)});
    }
  }
  return node;
}

/// Line `number` of `text`, from 0.
bool is_indented_by_tab(const std::string& text, int number) {
  size_t begin = 0;
  for (; number > 0 && begin != std::string::npos; --number) {
    begin = text.find('\n', begin);
    if (begin != std::string::npos) ++begin;
  }
  const size_t first = begin == std::string::npos ? begin : text.find_first_not_of(' ', begin);
  return first != std::string::npos && text[first] == '\t';
}

// A list's item or a section's value under `part`, made when the section does not have it; null
// when the node has no such place.
ConfigNode* descend(ConfigNode& node, const std::string& part, const Origin& origin) {
  if (node.kind == ConfigNode::Kind::kList) {
    const auto index = parse_integer(part);
    return index && *index >= 0 && *index < static_cast<int64_t>(node.items.size())
               ? &node.items[static_cast<size_t>(*index)]
               : nullptr;
  }
  if (node.kind == ConfigNode::Kind::kNull) {
    node.kind = ConfigNode::Kind::kMap;
    node.origin = origin;
  }
  if (node.kind != ConfigNode::Kind::kMap) return nullptr;
  if (ConfigEntry* entry = node.find(part)) return &entry->value;
  node.entries.push_back({part, origin, {}});
  return &node.entries.back().value;
}

void set_origin(ConfigNode& node, const Origin& origin) {
  node.origin = origin;
  for (ConfigNode& item : node.items) set_origin(item, origin);
  for (ConfigEntry& entry : node.entries) {
    entry.origin = origin;
    set_origin(entry.value, origin);
  }
}

// An empty value means empty text, as in every shell.
ConfigNode override_value(const std::string& text, const Origin& origin) {
  if (!text.empty()) {
    ConfigNode value = convert(YAML::Load(text), origin.source, 0);
    set_origin(value, origin);
    return value;
  }
  ConfigNode empty;
  empty.kind = ConfigNode::Kind::kScalar;
  empty.is_text = true;
  empty.origin = origin;
  return empty;
}

}  // namespace

ConfigNode parse_yaml(const std::string& text, const std::string& source) {
  if (text.find('\0') != std::string::npos) fail({source, 0}, "not a text file");
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1)
      fail(origin_at(documents[1].Mark(), source),
           "a second YAML document begins here; a run file has one");
    ConfigNode root = documents.empty() ? ConfigNode{} : convert(documents.front(), source, 0);
    if (root.kind == ConfigNode::Kind::kNull) {
      root.kind = ConfigNode::Kind::kMap;
      root.origin = {source, 1};
    }
    return root;
  } catch (const YAML::Exception& error) {
    const bool tabbed = !error.mark.is_null() && is_indented_by_tab(text, error.mark.line);
    fail(origin_at(error.mark, source),
         "not valid YAML: " + (tabbed ? "a tab indents this line: use spaces" : error.msg));
  }
}

void apply_override(const std::string& assignment, ConfigNode& root, Problems& problems) {
  const Origin origin{"--set " + assignment, 0};
  const size_t equals = assignment.find('=');
  const std::string key = assignment.substr(0, equals);
  if (equals == std::string::npos || key.empty())
    return problems.add(origin, "", "expected KEY=VALUE, for example train.steps=100");
  try {
    ConfigNode* node = &root;
    for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
      end = key.find('.', begin);
      ConfigNode* below = descend(*node, key.substr(begin, end - begin), origin);
      if (below == nullptr) {
        const std::string where = begin == 0 ? "the configuration" : key.substr(0, begin - 1);
        const bool list = node->kind == ConfigNode::Kind::kList;
        const std::string what =
            list ? fmt::format("a list of {}, its items are numbered from 0", node->items.size())
                 : node->describe() + ", not a section";
        return problems.add(
            origin, key, fmt::format("{} is {} ({})", where, what, node->origin.text()));
      }
      node = below;
    }
    *node = override_value(assignment.substr(equals + 1), origin);
  } catch (const YAML::Exception& error) {
    problems.add(origin, key, "the value is not valid YAML: " + error.msg);
  }
}

std::string read_config_file(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path))
    throw std::runtime_error(
        fmt::format("{}: is a folder, not a run file{}",
                    path.string(),
                    std::filesystem::exists(path / "config.yaml")
                        ? fmt::format("; did you mean {}?", (path / "config.yaml").string())
                        : ""));
  if (std::filesystem::exists(path)) return read_file(path);
  const std::filesystem::path directory =
      path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  if (!std::filesystem::is_directory(directory))
    throw std::runtime_error(fmt::format(
        "{}: no such file; there is no directory {} either", path.string(), directory.string()));
  std::vector<std::string> near, all;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() != ".yaml") continue;
    const std::string stem = entry.path().stem().string(),
                      name = (path.parent_path() / entry.path().filename()).string();
    all.push_back(name);
    if (edit_distance(path.stem().string(), stem) <= close_enough(stem)) near.push_back(name);
  }
  std::vector<std::string>& choice = near.empty() ? all : near;
  std::sort(choice.begin(), choice.end());
  if (choice.empty())
    throw std::runtime_error(
        fmt::format("{}: no such file; {} has no .yaml files", path.string(), directory.string()));
  const std::vector<std::string_view> names(choice.begin(), choice.end());
  throw std::runtime_error(fmt::format("{}: no such file; {} {}",
                                       path.string(),
                                       near.empty() ? "there are" : "did you mean",
                                       comma_list(names)) +
                           (near.empty() ? "" : "?"));
}

}  // namespace basin
