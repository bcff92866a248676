#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string_view>

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

std::vector<fs::path> files_below(const fs::path& folder) {
  std::vector<fs::path> found;
  for (auto entry =
           fs::recursive_directory_iterator(folder, fs::directory_options::skip_permission_denied);
       entry != fs::recursive_directory_iterator();
       ++entry) {
    const bool hidden = entry->path().filename().string().starts_with('.');
    if (hidden && entry->is_directory()) {
      entry.disable_recursion_pending();
    } else if (!hidden && entry->is_regular_file() && is_text_file(entry->path())) {
      found.push_back(entry->path());
    }
  }
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) {
    return a.native() < b.native();
  });
  if (found.empty()) {
    throw std::runtime_error(fmt::format(
        "{}: no text file in this folder (looked for {})", folder.string(), kSupported));
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
    if (seen.insert(fs::weakly_canonical(path)).second) {
      files.push_back({path, fs::file_size(path), inner_extension(path) == ".jsonl"});
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
