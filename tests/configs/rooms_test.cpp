// Who may look into whom: configs <- model <- infer <- train, configs <- data, and infer and train
// may use data. Read from the #include lines.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace basin {
namespace {

namespace fs = std::filesystem;

struct Include {
  std::string file;    // from the root of the sources: "model/rope.cpp"
  std::string header;  // between the quotes or brackets
};

const std::map<std::string, std::set<std::string>> kMayUse{
    {"configs", {"configs"}},
    {"data", {"configs", "data"}},
    {"model", {"configs", "model"}},
    {"infer", {"configs", "data", "model", "infer"}},
    {"train", {"configs", "data", "model", "infer", "train"}},
};

std::string room_of(const std::string& path) {
  return path.substr(0, path.find('/'));
}

// `  # include <a/b.h>` -> "a/b.h"; empty for any other line.
std::string included_by(std::string_view line) {
  for (const std::string_view word : {"#", "include"}) {
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    if (!line.starts_with(word)) return "";
    line.remove_prefix(word.size());
  }
  const size_t begin = line.find_first_of("<\""), end = line.find_first_of(">\"", begin + 1);
  return end == std::string_view::npos ? "" : std::string(line.substr(begin + 1, end - begin - 1));
}

std::vector<Include> includes_of_file(const fs::path& path, const std::string& name) {
  std::vector<Include> found;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (const std::string header = included_by(line); !header.empty())
      found.push_back({name, header});
  return found;
}

std::vector<Include> includes_of_rooms() {
  static const std::set<std::string> kSources{".h", ".cpp", ".cu", ".cuh"};
  const fs::path root = BASIN_SOURCE_DIR;
  std::vector<Include> found;
  for (const auto& [room, allowed] : kMayUse)
    for (const auto& entry : fs::recursive_directory_iterator(root / room))
      if (kSources.contains(entry.path().extension().string())) {
        const std::vector<Include> more =
            includes_of_file(entry.path(), fs::relative(entry.path(), root).string());
        found.insert(found.end(), more.begin(), more.end());
      }
  return found;
}

// "file includes header" for every include in a direction that is not allowed.
std::vector<std::string> forbidden_directions(const std::vector<Include>& includes) {
  std::vector<std::string> found;
  for (const Include& include : includes) {
    const std::string to = room_of(include.header);
    const bool ours = kMayUse.contains(to) || to == "tests";
    if (ours && !kMayUse.at(room_of(include.file)).contains(to))
      found.push_back(include.file + " includes " + include.header);
  }
  return found;
}

// The same for headers whose path begins with `prefix`, outside files whose path begins with
// `home`.
std::vector<std::string> outside(const std::vector<Include>& includes,
                                 const std::string& prefix,
                                 const std::string& home) {
  std::vector<std::string> found;
  for (const Include& include : includes)
    if (include.header.starts_with(prefix) && !include.file.starts_with(home))
      found.push_back(include.file + " includes " + include.header);
  return found;
}

using Lines = std::vector<std::string>;

TEST(Rooms, LookOnlyTheAllowedWay) {
  EXPECT_EQ(forbidden_directions(includes_of_rooms()), Lines{});
}

TEST(Rooms, KeepTheirLibrariesToThemselves) {
  const std::vector<Include> includes = includes_of_rooms();
  EXPECT_EQ(outside(includes, "yaml-cpp/", "configs/yaml_config.cpp"), Lines{});
  EXPECT_EQ(outside(includes, "sentencepiece", "data/tokenizer"), Lines{});
  EXPECT_EQ(outside(includes, "torch/csrc/distributed/", "train/comm"), Lines{});
  EXPECT_EQ(outside(includes, "c10d/", "train/comm"), Lines{});
}

TEST(Rooms, AreReadAtAll) {
  const std::vector<Include> includes = includes_of_rooms();
  const auto has = [&](const std::string& file, const std::string& header) {
    return std::any_of(includes.begin(), includes.end(), [&](const Include& i) {
      return i.file == file && i.header == header;
    });
  };
  EXPECT_TRUE(has("configs/yaml_config.cpp", "yaml-cpp/yaml.h"));
  EXPECT_TRUE(has("model/config.h", "configs/fields.h"));
  EXPECT_TRUE(has("data/config.h", "configs/fields.h"));
}

TEST(Rooms, ForbiddenIncludesAreNoticed) {
  EXPECT_EQ(included_by("  #  include <a/b.h>  // c"), "a/b.h");
  EXPECT_EQ(included_by("#include \"a/b.h\""), "a/b.h");
  EXPECT_EQ(included_by("// #include \"a/b.h\""), "");
  EXPECT_EQ(included_by("#include"), "");
  const std::vector<Include> includes{{"configs/a.h", "model/b.h"},
                                      {"model/a.cpp", "data/b.h"},
                                      {"data/a.cpp", "model/b.h"},
                                      {"infer/a.cpp", "train/b.h"},
                                      {"train/a.cpp", "data/b.h"},
                                      {"infer/a.cpp", "data/b.h"},
                                      {"train/a.cpp", "tests/b.h"},
                                      {"model/a.cpp", "torch/b.h"}};
  EXPECT_EQ(forbidden_directions(includes),
            (Lines{"configs/a.h includes model/b.h",
                   "model/a.cpp includes data/b.h",
                   "data/a.cpp includes model/b.h",
                   "infer/a.cpp includes train/b.h",
                   "train/a.cpp includes tests/b.h"}));
  EXPECT_EQ(outside({{"configs/yaml_config.h", "yaml-cpp/yaml.h"},
                     {"configs/yaml_config.cpp", "yaml-cpp/yaml.h"}},
                    "yaml-cpp/",
                    "configs/yaml_config.cpp"),
            Lines{"configs/yaml_config.h includes yaml-cpp/yaml.h"});
}

}  // namespace
}  // namespace basin
