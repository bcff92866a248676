#include "infer/tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

#include "configs/log.h"
#include "configs/signals.h"
#include "data/text_reader.h"

namespace basin {
namespace {

using Json = nlohmann::json;

/// One line of a file, with errors that name it.
class Line {
 public:
  Line(std::string name, const std::string& bytes)
      : name_(std::move(name)), json_(Json::parse(bytes, nullptr, /*allow_exceptions=*/false)) {
    if (!json_.is_object())
      throw std::runtime_error(fmt::format("{}: not a JSON object in UTF-8", name_));
  }

  const std::string& name() const { return name_; }
  bool has(const char* key) const { return json_.contains(key); }
  std::string text(const char* key) const {
    if (!has(key) || !json_[key].is_string()) refuse(key, "expected a text");
    return json_[key];
  }
  std::vector<std::string> texts(const char* key) const {
    const Json& list = json_[key];
    if (!list.is_array() || list.size() < 2 ||
        !std::ranges::all_of(list, [](const Json& item) { return item.is_string(); }))
      refuse(key, "expected a list of two texts or more");
    return list;
  }
  int64_t index(const char* key, int64_t below) const {
    if (!has(key) || !json_[key].is_number_integer())
      refuse(key, "expected the number of the right choice, from 0");
    const int64_t value = json_[key];
    if (value < 0 || value >= below)
      refuse(key,
             fmt::format("{} is none of the {} choices, which count from 0{}",
                         value,
                         below,
                         value < 0 ? ": this line has no label, take a split that has" : ""));
    return value;
  }
  [[noreturn]] void refuse(const char* key, const std::string& reason) const {
    throw std::runtime_error(fmt::format("{}: key \"{}\": {}", name_, key, reason));
  }

 private:
  std::string name_;
  Json json_;
};

struct ReadExample {
  TaskExample example;
  bool is_choice = false;
};

ReadExample read_choices(const Line& line) {
  TaskExample example;
  example.context = line.text("context");
  example.continuations = line.texts("choices");
  example.answer = line.index("answer", std::ssize(example.continuations));
  return {std::move(example), true};
}

/// lm-eval, tasks/piqa/piqa.yaml.
ReadExample read_piqa(const Line& line) {
  TaskExample example;
  example.context = fmt::format("Question: {}\nAnswer:", line.text("goal"));
  example.continuations = {" " + line.text("sol1"), " " + line.text("sol2")};
  example.answer = line.index("label", 2);
  return {std::move(example), true};
}

/// lm-eval, tasks/lambada/lambada_openai.yaml.
ReadExample read_lambada(const Line& line) {
  const std::string text = line.text("text");
  const size_t space = text.rfind(' ');
  TaskExample example;
  if (space == std::string::npos) line.refuse("text", "a single word, so nothing comes before it");
  example.context = text.substr(0, space);
  example.continuations = {text.substr(space)};
  return {std::move(example), false};
}

ReadExample read_example(const Line& line) {
  if (line.has("choices")) return read_choices(line);
  if (line.has("goal")) return read_piqa(line);
  if (line.has("target")) {
    TaskExample example;
    example.context = line.text("context");
    example.continuations = {line.text("target")};
    return {std::move(example), false};
  }
  if (line.has("text")) return read_lambada(line);
  throw std::runtime_error(
      fmt::format("{}: no example: expected \"context\" with \"choices\" and \"answer\" or with "
                  "\"target\", or \"goal\", \"sol1\", \"sol2\" and \"label\" (PIQA), or \"text\" "
                  "(LAMBADA)",
                  line.name()));
}

std::string task_name(const std::string& path) {
  std::filesystem::path name = std::filesystem::path(path).filename();
  while (name.has_extension() && name != name.stem()) {
    const std::string extension = name.extension().string();
    if (extension != ".gz" && extension != ".zst" && extension != ".jsonl") break;
    name = name.stem();
  }
  return name.string();
}

/// What Python's str.isspace calls white space, in UTF-8.
constexpr std::array<std::string_view, 29> kSpaces = {
    "\t",           "\n",           "\v",           "\f",           "\r",
    "\x1c",         "\x1d",         "\x1e",         "\x1f",         " ",
    "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81",
    "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86",
    "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A", "\xE2\x80\xA8",
    "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"};

/// Choices written without their space are the likeliest mistake: they join the context's last
/// word.
void warn_of_joined_words(const Task& task) {
  const auto joins = [](const TaskExample& example) {
    return !example.context.empty() && trailing_space_bytes(example.context) == 0 &&
           std::ranges::any_of(example.continuations, [](const std::string& text) {
             return !text.empty() && std::isalnum(static_cast<unsigned char>(text[0]));
           });
  };
  const auto first = std::ranges::find_if(task.examples, joins);
  if (first == task.examples.end()) return;
  log_warn(
      "{}: in {} of {} examples nothing separates the context from what follows, which is "
      "taken as it is: begin choices and targets with a space",
      first->name,
      std::ranges::count_if(task.examples, joins),
      task.examples.size());
}

}  // namespace

size_t trailing_space_bytes(std::string_view text) {
  const size_t size = text.size();
  for (bool found = true; found;) {
    found = false;
    for (const std::string_view space : kSpaces) {
      if (!text.ends_with(space)) continue;
      text.remove_suffix(space.size());
      found = true;
    }
  }
  return size - text.size();
}

Task read_task(const std::string& path) {
  const std::vector<TextFile> files = find_text_files({path});
  if (files.size() != 1 || !files[0].json_lines)
    throw std::runtime_error(fmt::format(
        "--tasks {}: expected one .jsonl file of examples (or .jsonl.gz, .jsonl.zst)", path));
  Task task{task_name(path), path, false, {}};
  TextReader reader(files);
  while (std::optional<RawDocument> raw = reader.next()) {
    check_interrupt();
    const Line line(document_name(files[0], raw->line), raw->bytes);
    ReadExample read = read_example(line);
    if (task.examples.empty()) task.is_choice = read.is_choice;
    if (task.is_choice != read.is_choice)
      throw std::runtime_error(
          fmt::format("{}: {}, but the lines before are {}: keep each kind in a file of its own",
                      line.name(),
                      read.is_choice ? "multiple choice" : "a last word to predict",
                      task.is_choice ? "multiple choice" : "last words to predict"));
    read.example.name = line.name();
    read.example.line = raw->line;
    task.examples.push_back(std::move(read.example));
  }
  if (task.examples.empty()) throw std::runtime_error(fmt::format("{}: no example in it", path));
  warn_of_joined_words(task);
  return task;
}

TokenPair encode_pair(const LoadedModel& model,
                      std::string context,
                      std::string continuation,
                      const std::string& name) {
  const Tokenizer& tokenizer = model.require_tokenizer();
  const size_t spaces = trailing_space_bytes(context);
  continuation.insert(0, context, context.size() - spaces, spaces);
  context.resize(context.size() - spaces);
  TokenPair pair{tokenizer.encode(context), tokenizer.encode(context + continuation)};
  const size_t split = std::min(pair.context.size(), pair.continuation.size());
  pair.continuation.erase(pair.continuation.begin(),
                          pair.continuation.begin() + static_cast<ptrdiff_t>(split));
  if (pair.continuation.empty())
    throw std::runtime_error(fmt::format(
        "{}: \"{}\" adds no token to its context: there is nothing to score", name, continuation));
  const int64_t most = model.trained_tokens;  // 0: not known
  if (most > 0 && std::ssize(pair.continuation) > most)
    throw std::runtime_error(fmt::format(
        "{}: a choice or target of {} tokens cannot be scored as a whole: the model was trained on {} "
        "at a time",
        name,
        pair.continuation.size(),
        most));
  pair.context.insert(
      pair.context.begin(), model.prepended_ids().begin(), model.prepended_ids().end());
  if (pair.context.empty() && model.model->config().sink.tokens() == 0) {
    if (model.eos_ids.empty())
      throw std::runtime_error(fmt::format(
          "{}: an example without context needs a token to begin with, and {} names none that ends "
          "a text (eos_token_id in generation_config.json)",
          name,
          model.directory.string()));
    pair.context = {static_cast<int32_t>(model.eos_ids.front())};
  }
  return pair;
}

}  // namespace basin
