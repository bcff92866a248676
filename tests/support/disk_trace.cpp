#include "tests/support/disk_trace.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "configs/files.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

std::string content_of(const std::string& data,
                       const std::optional<std::string>& synced,
                       Unsynced unsynced) {
  if (unsynced == Unsynced::kKept) return data;
  const std::string kept = synced.value_or("");
  if (unsynced != Unsynced::kCut || kept == data) return kept;
  return data.starts_with(kept) ? data.substr(0, (kept.size() + data.size()) / 2) : kept;
}

}  // namespace

std::vector<DiskCall> read_disk_trace(const fs::path& trace) {
  const std::string text = read_file(trace);
  std::vector<DiskCall> calls;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    std::istringstream line(text.substr(at, end - at));
    std::vector<std::string> fields;
    for (std::string field; std::getline(line, field, '\t');) fields.push_back(field);
    if (end == text.npos || fields.size() != 7)
      throw std::runtime_error(trace.string() + ": no trace at byte " + std::to_string(at));
    const size_t bytes = std::stoul(fields[6]);
    calls.push_back({std::stoi(fields[0]),
                     fields[1],
                     std::stoll(fields[2]),
                     fields[3],
                     fields[4],
                     std::stoll(fields[5]),
                     text.substr(end + 1, bytes)});
    at = end + 1 + bytes + 1;
  }
  return calls;
}

TracedDisk::TracedDisk(fs::path root) : root_(std::move(root)), nodes_(1) {
  nodes_[0].directory = true;
}

size_t TracedDisk::directory_of(const std::string& path) const {
  size_t index = 0;
  for (const fs::path& part : fs::relative(fs::path(path).parent_path(), root_))
    if (part != ".") index = nodes_[index].names.at(part);
  return index;
}

std::string TracedDisk::name_of(const std::string& path) {
  return fs::path(path).filename();
}

TracedDisk::Node& TracedDisk::node(const std::string& path) {
  return path == root_ ? nodes_[0] : nodes_[nodes_[directory_of(path)].names.at(name_of(path))];
}

size_t TracedDisk::add(const std::string& path, Node node) {
  nodes_.push_back(std::move(node));
  return nodes_[directory_of(path)].names[name_of(path)] = nodes_.size() - 1;
}

void TracedDisk::apply(const DiskCall& call) {
  if (call.result < 0 || call.name == "saved" || call.name == "open" || call.name == "close")
    return;
  if (call.name == "create" || call.name == "create-empty") {
    if (!nodes_[directory_of(call.path)].names.contains(name_of(call.path))) add(call.path, {});
    if (call.name == "create-empty") node(call.path).data.clear();
  } else if (call.name == "write") {
    std::string& data = node(call.path).data;
    const auto begin = static_cast<size_t>(call.offset);
    data.resize(std::max(data.size(), begin + call.data.size()));
    data.replace(begin, call.data.size(), call.data);
  } else if (call.name == "truncate") {
    node(call.path).data.resize(static_cast<size_t>(call.offset));
  } else if (call.name == "fsync") {
    Node& synced = node(call.path);
    synced.synced_names = synced.names;
    synced.synced_data = synced.data;
  } else if (call.name == "mkdir") {
    add(call.path, {.directory = true});
  } else if (call.name == "symlink") {
    add(call.path, {.link = true, .target = call.other});
  } else if (call.name == "unlink") {
    nodes_[directory_of(call.path)].names.erase(name_of(call.path));
  } else if (call.name == "rename") {
    const auto moved = nodes_[directory_of(call.path)].names.extract(name_of(call.path)).mapped();
    nodes_[directory_of(call.other)].names[name_of(call.other)] = moved;
  } else {
    throw std::runtime_error("a trace with a call that this disk does not know: " + call.name);
  }
}

std::map<std::string, std::string> TracedDisk::after_power_cut(Unsynced unsynced,
                                                               uint64_t seed) const {
  constexpr Unsynced kAll[] = {
      Unsynced::kLost, Unsynced::kEmptied, Unsynced::kCut, Unsynced::kKept};
  const auto choice = [&](size_t index) {
    return unsynced == Unsynced::kMixed ? kAll[(seed + index + 1) * 0x9e3779b97f4a7c15u >> 62]
                                        : unsynced;
  };
  std::map<std::string, std::string> tree;
  collect(0, "", choice, tree);
  return tree;
}

void TracedDisk::collect(size_t index,
                         const std::string& path,
                         const std::function<Unsynced(size_t)>& choice,
                         std::map<std::string, std::string>& tree) const {
  const Node& node = nodes_[index];
  if (node.link) {
    tree[path] = "-> " + node.target;
  } else if (!node.directory) {
    tree[path] = content_of(node.data, node.synced_data, choice(index));
  } else {
    if (!path.empty()) tree[path] = "/";
    for (const auto& [name, child] :
         choice(index) == Unsynced::kLost ? node.synced_names : node.names)
      collect(child, path.empty() ? name : path + "/" + name, choice, tree);
  }
}

void write_tree(const fs::path& directory, const std::map<std::string, std::string>& tree) {
  fs::remove_all(directory);
  fs::create_directories(directory);
  for (const auto& [path, content] : tree) {  // a directory sorts before what is in it
    if (content == "/")
      fs::create_directory(directory / path);
    else if (content.starts_with("-> "))
      fs::create_symlink(content.substr(3), directory / path);
    else
      std::ofstream(directory / path, std::ios::binary) << content;
  }
}

}  // namespace basin
