#include "data/text_reader.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "configs/json_text.h"
#include "configs/log.h"
#include "configs/progress.h"
#include "configs/signals.h"
#include "data/compressed_file.h"
#include "data/tokenizer.h"

namespace basin {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

void refuse_binary(const std::string& bytes, const std::string& name) {
  if (bytes.starts_with("\xFF\xFE") || bytes.starts_with("\xFE\xFF")) {
    throw std::runtime_error(
        name + ": this is UTF-16 text; convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8)");
  }
  if (const size_t nul = bytes.find('\0'); nul != std::string::npos) {
    throw std::runtime_error(
        fmt::format("{}: binary, not text: a NUL byte at offset {}", name, nul));
  }
}

/// The code unit of an escape such as \ud83d at `i`, or -1.
int escaped_unit(std::string_view json, size_t i) {
  if (json.size() - i < 6 || json.substr(i, 2) != "\\u") {
    return -1;
  }
  int unit = -1;
  const char* const digits = json.data() + i + 2;
  return std::from_chars(digits, digits + 4, unit, 16).ptr == digits + 4 ? unit : -1;
}

/// Half a character, as what cuts texts in UTF-16 leaves it, is no text, but no reason to give up
/// either: U+FFFD for each. Returns how many there were.
int64_t replace_lone_surrogates(std::string& json) {
  int64_t replaced = 0;
  for (size_t i = json.find('\\'); i < json.size(); i = json.find('\\', i)) {
    const int unit = escaped_unit(json, i);
    const bool high = unit >= 0xD800 && unit < 0xDC00;
    const int next = high ? escaped_unit(json, i + 6) : -1;
    if (next >= 0xDC00 && next < 0xE000) {
      i += 12;
    } else if (high || (unit >= 0xDC00 && unit < 0xE000)) {
      json.replace(i + 2, 4, "fffd");
      ++replaced;
      i += 6;
    } else {
      i += 2;
    }
  }
  return replaced;
}

/// Adds what had to be replaced to `replaced`.
nlohmann::json parse_line(std::string& line, const std::string& name, int64_t& replaced) {
  try {
    return nlohmann::json::parse(line);
  } catch (const nlohmann::json::exception& error) {
    if (const int64_t surrogates = replace_lone_surrogates(line); surrogates > 0) {
      replaced += surrogates;
      return parse_line(line, name, replaced);
    }
    const std::string what = json_reason(error);  // "parse error at line 1, column 9: ..."
    const size_t column = what.find("column ");
    throw std::runtime_error(fmt::format(
        "{}: not valid JSON: {}", name, what.substr(column == std::string::npos ? 0 : column)));
  }
}

/// The value of `text_key` in an object.
std::string text_of(nlohmann::json object, const std::string& name, const std::string& text_key) {
  if (!object.is_object()) {
    throw std::runtime_error(
        fmt::format("{}: a JSON {} where an object with the key \"{}\" is expected",
                    name,
                    object.type_name(),
                    text_key));
  }
  const auto value = object.find(text_key);
  if (value == object.end()) {
    std::vector<std::string> keys;
    for (const auto& [key, ignored] : object.items()) {
      keys.push_back(key);
    }
    throw std::runtime_error(fmt::format("{}: no key \"{}\"; found: {} (choose with --text-key)",
                                         name,
                                         text_key,
                                         one_line(fmt::format("{}", fmt::join(keys, ", ")))));
  }
  if (!value->is_string()) {
    throw std::runtime_error(fmt::format("{}: the value of \"{}\" is a JSON {}, expected a string",
                                         name,
                                         text_key,
                                         value->type_name()));
  }
  return std::move(value->get_ref<std::string&>());
}

int64_t count(const std::string& text, std::string_view part) {
  int64_t found = 0;
  for (size_t i = text.find(part); i != std::string::npos; i = text.find(part, i + part.size())) {
    ++found;
  }
  return found;
}

}  // namespace

TextReader::TextReader(std::vector<TextFile> files, size_t largest_document)
    : files_(std::move(files)), largest_document_(largest_document), buffer_(kBufferBytes, '\0') {}
TextReader::~TextReader() = default;

uint64_t TextReader::bytes_of_current() const {
  return current_ == nullptr ? 0 : current_->file_bytes();
}

bool TextReader::fill() {
  check_interrupt();
  begin_ = 0;
  end_ = current_->read(buffer_.data(), buffer_.size());
  return end_ > 0;
}

/// The buffered bytes from begin_ on, `count` of them, become part of the document `bytes`.
void TextReader::take(size_t count, std::string& bytes) {
  if (bytes.size() + count > largest_document_) {
    throw std::runtime_error(
        fmt::format("{}: more than {} of text in one document: cut it into files, or write it as .jsonl "
                    "with a document a line",
                    document_name(files_[index_], files_[index_].json_lines ? line_ + 1 : 0),
                    format_bytes(static_cast<double>(largest_document_))));
  }
  bytes.append(buffer_, begin_, count);
  begin_ += count;
}

/// The next line of the current file without its end; nothing when there is no more.
std::optional<std::string> TextReader::next_line() {
  if (begin_ == end_ && !fill()) {
    return std::nullopt;
  }
  std::string line;
  do {
    const char* from = buffer_.data() + begin_;
    const auto* newline = static_cast<const char*>(std::memchr(from, '\n', end_ - begin_));
    const size_t length = newline == nullptr ? end_ - begin_ : newline - from;
    take(length, line);
    if (newline != nullptr) {
      ++begin_;
      break;
    }
  } while (fill());
  return line;
}

void TextReader::finish_file() {
  bytes_of_finished_ += current_->file_bytes();
  hashes_.push_back(current_->file_hash());
  current_.reset();
  begin_ = end_ = 0;
  line_ = 0;
  ++index_;
}

std::optional<RawDocument> TextReader::next() {
  while (index_ < files_.size()) {
    if (current_ == nullptr) {
      current_ = std::make_unique<CompressedFile>(files_[index_].path);
    }
    if (files_[index_].json_lines) {
      while (std::optional<std::string> line = next_line()) {
        ++line_;
        if (line->find_first_not_of(" \t\r") != std::string::npos) {
          return RawDocument{index_, line_, std::move(*line)};
        }
      }
      finish_file();
    } else {
      RawDocument document{index_, 0, {}};
      while (fill()) {
        take(end_, document.bytes);
      }
      finish_file();
      return document;
    }
  }
  return std::nullopt;
}

std::string document_name(const TextFile& file, int64_t line) {
  return line == 0 ? file.path.string() : fmt::format("{}:{}", file.path.string(), line);
}

TextDocument decode_document(RawDocument raw, const TextFile& file, const std::string& text_key) {
  const std::string name = document_name(file, raw.line);
  refuse_binary(raw.bytes, name);
  TextDocument document;
  const size_t size = raw.bytes.size();
  document.replaced_sequences = sanitize_utf8(raw.bytes);
  if (document.replaced_sequences * 10 > static_cast<int64_t>(size)) {
    throw std::runtime_error(
        fmt::format("{}: not UTF-8 text: {} invalid sequences in {} bytes; if it is text in "
                    "another encoding, convert it first (iconv)",
                    name,
                    document.replaced_sequences,
                    size));
  }
  if (raw.bytes.starts_with(kByteOrderMark)) {
    raw.bytes.erase(0, kByteOrderMark.size());
  }
  document.text = file.json_lines ? text_of(parse_line(raw.bytes, name, document.replaced_sequences),
                                            name,
                                            text_key)
                                  : std::move(raw.bytes);
  document.literal_u2581 = count(document.text, "\xE2\x96\x81");
  return document;
}

void for_each_document(
    const std::vector<std::string>& inputs,
    const std::string& text_key,
    const std::function<void(const std::string& name, std::string text)>& visit) {
  TextReader reader(find_text_files(inputs));
  int64_t documents = 0, replaced = 0;
  while (std::optional<RawDocument> raw = reader.next()) {
    check_interrupt();
    const TextFile& file = reader.files()[raw->file];
    const std::string name = document_name(file, raw->line);
    TextDocument document = decode_document(std::move(*raw), file, text_key);
    replaced += document.replaced_sequences;
    if (!document.text.empty()) {
      ++documents;
      visit(name, std::move(document.text));
    }
  }
  if (documents == 0) {
    throw std::runtime_error(fmt::format("no text in {}", fmt::join(inputs, ", ")));
  }
  if (replaced > 0) {
    log_warn("{} invalid UTF-8 sequences in the text were replaced by U+FFFD", replaced);
  }
}

}  // namespace basin
