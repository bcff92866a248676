#include "infer/staged_directory.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "configs/files.h"
#include "data/tokenizer_sinks.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

bool is_written_by_exports(const std::string& name) {
  constexpr std::string_view kNames[] = {"config.json", "generation_config.json", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE"};
  return std::ranges::find(kNames, name) != std::end(kNames) || is_tokenizer_file(name) ||
         (name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")));
}

/// What speaks against replacing `target`; empty when nothing does.
std::string objection(const fs::path& target, bool force, const fs::path& source) {
  if (!force) return "is there already: name another directory, or replace it with --force";
  if (!fs::is_directory(target) || fs::is_symlink(target))
    return "is no directory, and --force replaces nothing else";
  if (fs::equivalent(target, source)) return "is the model itself";
  if (fs::is_empty(target)) return "";
  if (!fs::exists(target / "config.json"))
    return "holds no model (no config.json), and --force replaces nothing else";
  for (const fs::directory_entry& entry : fs::directory_iterator(target))
    if (const std::string name = entry.path().filename().string();
        !entry.is_regular_file() || !is_written_by_exports(name))
      return fmt::format("holds {}, which no export writes: remove it yourself", name);
  return "";
}

}  // namespace

StagedDirectory::StagedDirectory(const fs::path& path, bool force, const fs::path& source)
    : target_(without_slash(path)),
      temporary_(fs::path(target_) += fmt::format(".tmp.{}", getpid())) {
  if (target_.empty()) throw std::invalid_argument("the directory to write has no name");
  if (fs::exists(fs::symlink_status(target_)))
    if (const std::string reason = objection(target_, force, source); !reason.empty())
      throw std::invalid_argument(fmt::format("{} {}", target_.string(), reason));
  fs::remove_all(temporary_);  // of an earlier process with this number
  make_writable_directory(temporary_);
}

StagedDirectory::~StagedDirectory() {
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
}

// The old directory leaves before the new one comes: for a moment there is none, never a mixture.
void StagedDirectory::commit() {
  sync_directory(temporary_);
  const fs::path old = fs::path(temporary_) += ".old";
  const bool replaces = fs::exists(target_);
  if (replaces) fs::rename(target_, old);
  std::error_code error, back;
  fs::rename(temporary_, target_, error);
  if (error) {
    if (replaces) fs::rename(old, target_, back);
    throw std::runtime_error(fmt::format("cannot name {}: {}{}",
                                         target_.string(),
                                         error.message(),
                                         back ? "; what was there is now " + old.string() : ""));
  }
  const fs::path parent = target_.parent_path();
  sync_directory(parent.empty() ? "." : parent);
  if (replaces) fs::remove_all(old);
}

}  // namespace basin
