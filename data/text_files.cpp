#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "configs/log.h"
#include "data/text_reader.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSupported = ".txt, .jsonl, each also with .gz or .zst";

/// ".jsonl" of "a.jsonl.zst".
std::string inner_extension(const fs::path& path) {
  const bool wrapped = path.extension() == ".gz" || path.extension() == ".zst";
  return (wrapped ? path.stem() : path).extension().string();
}

bool is_text_file(const fs::path& path) {
  const std::string extension = inner_extension(path);
  return extension == ".txt" || extension == ".jsonl";
}

/// Says what is left out, and refuses what cannot be looked into: a part of the text that is silently
/// missing is found out late.
std::vector<fs::path> files_below(const fs::path& folder) {
  std::vector<fs::path> found, others;
  for (auto entry = fs::recursive_directory_iterator(folder);
       entry != fs::recursive_directory_iterator();
       ++entry) {
    const fs::path& path = entry->path();
    if (path.filename().string().starts_with('.')) {
      if (entry->is_directory()) {
        entry.disable_recursion_pending();
      }
    } else if (entry->is_directory()) {
      std::error_code error;
      const fs::directory_iterator opened(path, error);  // the one above would not name it
      if (error) {
        throw std::runtime_error(
            fmt::format("cannot read the folder {}: {}", path.string(), error.message()));
      }
      if (entry->is_symlink()) {
        log_warn("{} is a link to a folder, which is not followed: give it as an input of its own",
                 path.string());
      }
    } else if (is_text_file(path)) {
      found.push_back(path);
    } else {
      others.push_back(path);
    }
  }
  const auto by_bytes = [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); };
  std::sort(found.begin(), found.end(), by_bytes);
  if (found.empty()) {
    throw std::runtime_error(fmt::format(
        "{}: no text file in this folder (looked for {})", folder.string(), kSupported));
  }
  if (!others.empty()) {
    log_info("{}: {} files of other kinds are left out, like {} (read are {})",
             folder.string(),
             others.size(),
             std::min_element(others.begin(), others.end(), by_bytes)->string(),
             kSupported);
  }
  return found;
}

std::vector<fs::path> matches(const std::string& pattern) {
  glob_t result{};
  std::vector<fs::path> found;
  if (glob(pattern.c_str(), 0, nullptr, &result) == 0) {
    found.assign(result.gl_pathv, result.gl_pathv + result.gl_pathc);
  }
  globfree(&result);
  // glob sorts by the locale; the order of documents must not depend on it.
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) {
    return a.native() < b.native();
  });
  return found;
}

}  // namespace

std::vector<TextFile> find_text_files(const std::vector<std::string>& inputs) {
  std::vector<TextFile> files;
  std::set<fs::path> seen;
  const auto add = [&](const fs::path& path) {
    std::error_code error;
    const uintmax_t bytes = fs::file_size(path, error);
    if (error) {  // a link to nothing, a pipe
      throw std::runtime_error(fmt::format("cannot read {}: {}", path.string(), error.message()));
    }
    if (seen.insert(fs::weakly_canonical(path)).second) {
      files.push_back({path, bytes, inner_extension(path) == ".jsonl"});
    }
  };
  for (const std::string& input : inputs) {
    std::vector<fs::path> paths = fs::exists(input) ? std::vector<fs::path>{input} : matches(input);
    if (paths.empty()) {
      const bool pattern = input.find_first_of("*?[") != std::string::npos;
      throw std::runtime_error(
          fmt::format("{}: {}", input, pattern ? "matches no file" : "no such file or folder"));
    }
    for (const fs::path& path : paths) {
      if (fs::is_directory(path)) {
        for (const fs::path& below : files_below(path)) {
          add(below);
        }
      } else if (!is_text_file(path)) {
        throw std::runtime_error(fmt::format(
            "{}: cannot read this kind of file; known are {}", path.string(), kSupported));
      } else if (!fs::is_regular_file(path)) {
        throw std::runtime_error(
            fmt::format("{}: not a regular file (input is read more than once)", path.string()));
      } else {
        add(path);
      }
    }
  }
  return files;
}

}  // namespace basin
