#include "data/tokenizer_sample.h"

#include <algorithm>
#include <utility>

#include "data/sample_order.h"
#include "data/tokenizer.h"

namespace basin {
namespace {

/// Where to end a piece of at most `limit` bytes of a longer line.
size_t find_cut(std::string_view line, size_t limit) {
  const size_t space = line.rfind(' ', limit);
  if (space != std::string_view::npos && space > limit / 2) {
    return space;  // the space goes to the next piece: tokens carry it in front
  }
  while ((line[limit] & 0xC0) == 0x80) {
    --limit;
  }
  return limit;
}

}  // namespace

std::vector<std::string_view> cut_lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    while (!line.empty()) {
      const size_t length = line.size() <= kMaxTrainingLineBytes
                                ? line.size()
                                : find_cut(line, kMaxTrainingLineBytes);
      lines.push_back(line.substr(0, length));
      line.remove_prefix(length);
    }
  }
  return lines;
}

std::vector<LineSample::Line> LineSample::candidates(int64_t document,
                                                     std::string_view text) const {
  std::vector<Line> found;
  const uint64_t threshold = threshold_.load();
  uint64_t number = 0;
  for (const std::string_view line : cut_lines(text)) {
    if (const uint64_t key = keyed_hash(seed_, document, number++); key < threshold) {
      found.push_back({key, std::string(line)});
    }
  }
  return found;
}

void LineSample::add(std::vector<Line> lines) {
  for (Line& line : lines) {
    if (line.key < threshold_.load()) {
      bytes_ += line.text.size();
      lines_.push_back(std::move(line));
    }
  }
  while (bytes_ > budget_bytes_) {
    const uint64_t threshold = threshold_.load() / 8 * 7;
    threshold_.store(threshold);
    std::erase_if(lines_, [&](const Line& line) {
      bytes_ -= line.key < threshold ? 0 : line.text.size();
      return line.key >= threshold;
    });
  }
}

std::vector<std::string> LineSample::take() {
  std::vector<std::string> texts;
  texts.reserve(lines_.size());
  for (Line& line : lines_) {
    texts.push_back(std::move(line.text));
  }
  return texts;
}

}  // namespace basin
