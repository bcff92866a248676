#include "configs/config_reader.h"

#include <limits>

namespace basin {
namespace {

std::string_view last_part(std::string_view key) {
  return key.substr(key.rfind('.') + 1);
}
std::string_view first_parts(std::string_view key) {
  return key.substr(0, key.size() - std::min(key.size(), last_part(key).size() + 1));
}

// "data.train.0.path" -> "data.train.N.path", as KeyInfo spells it.
std::string with_generic_indices(const std::string& key) {
  std::string generic, part;
  const auto flush = [&] {
    const bool index = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    generic = dotted(generic, index ? "N" : part);
    part.clear();
  };
  for (const char c : key) {
    if (c == '.')
      flush();
    else
      part += c;
  }
  flush();
  return generic;
}

// "seq_length" of "sequence_length".
bool is_abbreviation(std::string_view key, std::string_view name) {
  if (key.size() < 4) return false;
  size_t matched = 0;
  for (const char c : name)
    if (matched < key.size() && key[matched] == c) ++matched;
  return matched == key.size();
}

constexpr size_t kNotMeant = std::numeric_limits<size_t>::max();

// How far the known key `name` is from what was written; the right name in the wrong section lies
// between one typing error and two.
size_t score_of(const std::string& key, std::string_view name, bool sibling) {
  if (!sibling) return name == key ? 3 : kNotMeant;
  const size_t distance = edit_distance(key, name);
  if (distance <= close_enough(key)) return 2 * distance;
  return is_abbreviation(key, name) ? 5 : kNotMeant;
}

}  // namespace

std::string unknown_key_text(const std::string& prefix,
                             const std::string& key,
                             const std::vector<KeyInfo>& keys) {
  const std::string section = with_generic_indices(prefix);
  std::string siblings;
  const KeyInfo* meant = nullptr;
  size_t best = kNotMeant;
  for (const KeyInfo& info : keys) {
    const std::string_view name = last_part(info.key);
    const std::string_view home = first_parts(info.key);
    const bool sibling =
        home == section || home == section + ".N";  // a list of one may be written as a section
    if (sibling) siblings += (siblings.empty() ? "" : ", ") + std::string(name);
    const size_t score = score_of(key, name, sibling);
    if (score < best) {
      best = score;
      meant = &info;
    }
  }
  if (meant != nullptr) return "unknown key; did you mean " + meant->key + "?";
  if (key.find('.') != std::string::npos)
    return "unknown key; in a file, dots do not nest: write indented sections";
  return "unknown key; " + (prefix.empty() ? "the sections are " : prefix + " has ") + siblings;
}

void ConfigReader::report_keys(const ConfigNode& node,
                               const std::string& key,
                               const std::vector<std::string_view>& names) {
  for (auto entry = node.entries.begin(); entry != node.entries.end(); ++entry) {
    const auto first = std::find_if(
        node.entries.begin(), entry, [&](const ConfigEntry& e) { return e.key == entry->key; });
    if (first != entry)
      problems_.add(entry->origin,
                    dotted(key, entry->key),
                    "duplicate key; first given at " + first->origin.text());
    else if (std::find(names.begin(), names.end(), entry->key) == names.end())
      problems_.add(
          entry->origin, dotted(key, entry->key), unknown_key_text(key, entry->key, keys_));
  }
}

void ConfigReader::report(const ConfigNode& node, const std::string& key, const std::string& message) {
  std::string_view place = std::string_view(message).substr(0, message.find_first_of(" :,"));
  const bool spelled_out = !key.empty() && place.starts_with(key + ".");
  if (spelled_out) place.remove_prefix(key.size() + 1);
  Origin origin = node.origin;
  const ConfigNode* at = &node;
  while (!place.empty()) {
    const std::string_view part = place.substr(0, place.find('.'));
    const auto entry = std::ranges::find(at->entries, part, &ConfigEntry::key);
    if (entry == at->entries.end()) break;
    at = &entry->value;
    const bool in_one_place = at->origin.source == entry->origin.source;  // else --set replaced it
    origin = in_one_place ? entry->origin : at->origin;
    place.remove_prefix(std::min(place.size(), part.size() + 1));
  }
  problems_.add(origin, spelled_out ? "" : key, message);
}

ConfigNode ConfigReader::under_key(const ConfigNode& node, std::string_view key) {
  ConfigNode map;
  map.kind = ConfigNode::Kind::kMap;
  map.origin = node.origin;
  map.entries.push_back({std::string(key), node.origin, node});
  return map;
}

}  // namespace basin
