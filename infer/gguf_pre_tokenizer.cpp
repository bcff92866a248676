#include "infer/gguf_pre_tokenizer.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace basin {
namespace {

using nlohmann::json;

// The words of GPT-2 and, with numbers cut in their own ways, of GPT-4 and its followers.
constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Stages one after the other, as `described` writes them, and llama.cpp's name for them.
struct Known {
  std::vector<std::string> stages;
  bool ignore_merges;
  std::string_view name;
};

std::string split_at(std::string_view pattern) {
  return fmt::format("Split {}", pattern);
}

const std::vector<Known>& known_ones() {
  static const std::vector<Known> known = {
      {{"words of GPT-2"}, false, "gpt-2"},
      {{split_at(kGpt2), "bytes"}, false, "gpt-2"},
      {{split_at(kLlama3), "bytes"}, true, "llama-bpe"},
      {{split_at(kLlama3), "bytes"}, false, "smaug-bpe"},
      {{split_at(kQwen2), "bytes"}, false, "qwen2"},
      {{"digits apart", "words of GPT-2"}, false, "starcoder"},
      {{"Punctuation", "words of GPT-2", "Digits", split_at("[0-9][0-9][0-9]")}, false, "falcon"},
  };
  return known;
}

/// Appends what `stage` and the stages that it is made of do.
void describe(const json& stage, std::vector<std::string>& stages) {
  const std::string type = stage.value("type", "");
  if (type == "Sequence") {
    for (const json& part : stage.at("pretokenizers")) describe(part, stages);
  } else if (type == "ByteLevel" && !stage.value("add_prefix_space", true)) {
    stages.emplace_back(stage.value("use_regex", true) ? "words of GPT-2" : "bytes");
  } else if (type == "Split" && stage.value("behavior", "") == "Isolated" &&
             !stage.value("invert", false) && stage.at("pattern").contains("Regex")) {
    stages.push_back(split_at(stage.at("pattern").at("Regex").get<std::string>()));
  } else if (type == "Digits") {
    stages.emplace_back(stage.value("individual_digits", false) ? "digits apart" : "Digits");
  } else if (type == "Punctuation" && stage.value("behavior", "") == "Contiguous") {
    stages.emplace_back("Punctuation");
  } else {
    stages.push_back(stage.dump());
  }
}

}  // namespace

std::string llama_cpp_pre_tokenizer(const json& document) {
  std::vector<std::string> stages;
  describe(document.value("pre_tokenizer", json::object()), stages);
  const bool ignore_merges = document.at("model").value("ignore_merges", false);
  for (const Known& known : known_ones())
    if (known.stages == stages && known.ignore_merges == ignore_merges)
      return std::string(known.name);
  throw std::invalid_argument(
      "it cuts words in another way than those that llama.cpp knows and Basin recognises (GPT-2's, "
      "GPT-NeoX's, Llama 2's, Llama 3's, Qwen2's, StarCoder's and Falcon's)");
}

}  // namespace basin
