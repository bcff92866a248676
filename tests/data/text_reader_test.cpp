#include "data/text_reader.h"

#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <functional>
#include <utility>

#include "tests/data/data_fixture.h"
#include "tests/support/logged.h"

namespace basin {
namespace {

std::string gzip(const std::string& text) {
  std::string out(text.size() + 200, '\0');
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

/// `window_log` 0: the default.
std::string zstd(const std::string& text, int window_log = 0) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  ZSTD_CCtx* context = ZSTD_createCCtx();
  if (window_log > 0) {
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  }
  ZSTD_inBuffer in{text.data(), text.size(), 0};
  ZSTD_outBuffer to{out.data(), out.size(), 0};
  // Two calls, so that the size is unknown when the window is written into the frame.
  EXPECT_FALSE(ZSTD_isError(ZSTD_compressStream2(context, &to, &in, ZSTD_e_continue)));
  EXPECT_EQ(ZSTD_compressStream2(context, &to, &in, ZSTD_e_end), 0);
  ZSTD_freeCCtx(context);
  out.resize(to.pos);
  return out;
}

using Documents = std::vector<std::pair<std::string, std::string>>;  // name, text

class TextReaderTest : public ::testing::Test {
 protected:
  Documents read(const std::vector<std::string>& inputs, const std::string& key = "text") {
    Documents found;
    for_each_document(inputs, key, [&](const std::string& name, std::string text) {
      found.emplace_back(name, std::move(text));
    });
    return found;
  }
  std::string failure(const std::string& input, const std::string& key = "text") {
    return message_of<std::runtime_error>([&] { read({input}, key); });
  }
  TemporaryFolder folder_;
};

TEST_F(TextReaderTest, ReadsEveryWrapping) {
  const std::string text = invented_text(1, 200'000), lines =
                                                          R"({"text": "one\ntwo", "id": 1})"
                                                          "\n\n"
                                                          R"({"text": "drei", "x": {"text": 3}})";
  ASSERT_GT(text.size(), 1'000'000);  // more than any buffer
  for (const auto& [suffix, pack] :
       std::vector<std::pair<std::string, std::function<std::string(const std::string&)>>>{
           {"", [](const std::string& s) { return s; }},
           {".gz", gzip},
           {".zst", [](const std::string& s) { return zstd(s); }}}) {
    const std::string plain = folder_.write("a.txt" + suffix, pack(text)),
                      json = folder_.write("b.jsonl" + suffix, pack(lines));
    EXPECT_TRUE(read({plain}) == (Documents{{plain, text}})) << suffix;
    EXPECT_EQ(read({json}), (Documents{{json + ":1", "one\ntwo"}, {json + ":3", "drei"}}))
        << suffix;
  }
}

TEST_F(TextReaderTest, ReadsManyMembersFramesAndLongWindows) {
  EXPECT_EQ(read({folder_.write("a.txt.gz", gzip("one ") + gzip("two"))})[0].second, "one two");
  EXPECT_EQ(read({folder_.write("a.txt.zst", zstd("one ") + zstd("two"))})[0].second, "one two");
  EXPECT_EQ(read({folder_.write("long.txt.zst", zstd("a long window", 30))})[0].second,
            "a long window");
}

TEST_F(TextReaderTest, LongLinesOfJsonCrossBuffers) {
  const std::string text(3'000'000, 'x');
  const std::string path = folder_.write("a.jsonl",
                                         R"({"text": "first"})"
                                         "\n"
                                         R"({"text": ")" +
                                             text +
                                             "\"}\n"
                                             R"({"text": "last"})"
                                             "\n");
  const Documents documents = read({path});
  ASSERT_EQ(documents.size(), 3);
  EXPECT_EQ(documents[1].second.size(), text.size());
  EXPECT_EQ(documents[2], (std::pair<std::string, std::string>{path + ":3", "last"}));
}

TEST_F(TextReaderTest, FindsFoldersAndGlobsInAFixedOrder) {
  for (const char* name : {"c/b.txt",
                           "c/a.txt",
                           "c/d/x.jsonl.gz",
                           "c/notes.md",
                           "c/.hidden.txt",
                           "c/.git/y.txt",
                           "e1.txt",
                           "e2.txt",
                           "f.txt"}) {
    folder_.write(name, "text");
  }
  const auto names = [&](const std::vector<std::string>& inputs) {
    std::vector<std::string> found;
    for (const TextFile& file : find_text_files(inputs)) {
      found.push_back(std::filesystem::relative(file.path, folder_ / "").string());
    }
    return found;
  };
  const std::string base = (folder_ / "").string();
  using Names = std::vector<std::string>;
  EXPECT_EQ(names({base + "c"}), (Names{"c/a.txt", "c/b.txt", "c/d/x.jsonl.gz"}));
  EXPECT_EQ(names({base + "e*.txt", base + "c/b.txt"}), (Names{"e1.txt", "e2.txt", "c/b.txt"}));
  EXPECT_EQ(names({base + "f.txt", base + "*.txt"}), (Names{"f.txt", "e1.txt", "e2.txt"}))
      << "each file once";
  EXPECT_TRUE(find_text_files({base + "c"})[2].json_lines);
  const auto message = [&](const std::string& input) {
    return message_of<std::runtime_error>([&] { find_text_files({input}); });
  };
  expect_contains(message(base + "missing.txt"), "no such file or folder");
  expect_contains(message(base + "g*.txt"), "matches no file");
  expect_contains(message(base + "c/notes.md"), "known are .txt, .jsonl");
  std::filesystem::create_directory(folder_ / "empty");
  expect_contains(message(base + "empty"), "no text file in this folder");
}

TEST_F(TextReaderTest, RefusesWhatIsNoText) {
  expect_contains(failure(folder_.write("nul.txt", std::string("abc\0def", 7))),
                  "nul.txt: binary, not text: a NUL byte at offset 3");
  expect_contains(failure(folder_.write("utf16.txt", std::string("\xFF\xFEh\0i\0", 6))), "UTF-16");
  expect_contains(failure(folder_.write("koi8.txt", "\xF0\xD2\xC9\xD7\xC5\xD4 \xCD\xC9\xD2")),
                  "not UTF-8 text");
  expect_contains(failure(folder_.write("empty.txt", "")), "no text in");
  expect_contains(failure(folder_.write("blank.jsonl", "\n\n")), "no text in");
}

TEST_F(TextReaderTest, NamesTheLineOfBadJson) {
  const std::string good = R"({"text": "fine"})"
                           "\n";
  expect_contains(failure(folder_.write("a.jsonl", good + "{\"text\": \"cut")),
                  "a.jsonl:2: not valid JSON");
  expect_contains(failure(folder_.write("b.jsonl", good + good + "[1, 2]\n")),
                  "b.jsonl:3: a JSON array");
  expect_contains(failure(folder_.write("c.jsonl", R"({"title": "t", "body": "b"})")),
                  "c.jsonl:1: no key \"text\"; found: body, title");
  expect_contains(failure(folder_.write("d.jsonl", R"({"text": 5})")),
                  "d.jsonl:1: the value of \"text\" is a JSON number");
  EXPECT_EQ(read({folder_.write("e.jsonl", R"({"body": "b"})")}, "body")[0].second, "b");
}

TEST_F(TextReaderTest, ErrorsOfALineAreShortAndNameIt) {
  const std::string good = R"({"text": "fine"})"
                           "\n";
  const std::string cut = failure(
      folder_.write("a.jsonl", good + R"({"text": ")" + std::string(100'000, 'x') + "\n"));
  expect_contains(cut, "a.jsonl:2: not valid JSON: column 100011: ");
  EXPECT_LT(cut.size(), 500u);
  const std::string huge = failure(folder_.write("b.jsonl", R"({"text": "x", "n": 1e999})"));
  expect_contains(huge, "b.jsonl:1: not valid JSON: number overflow");
}

TEST_F(TextReaderTest, HalvesOfCharactersAreReplaced) {
  const std::string path = folder_.write(
      "a.jsonl",
      R"({"text": "cut \ud83d\ud83d\ude00 \udE00 \\ud83d\n", "title": "\ud83d"})");
  TextReader reader(find_text_files({path}));
  const TextDocument document = decode_document(*reader.next(), reader.files()[0], "text");
  EXPECT_EQ(document.text, "cut \uFFFD\U0001F600 \uFFFD \\ud83d\n");
  EXPECT_EQ(document.replaced_sequences, 3);
  expect_contains(failure(folder_.write("b.jsonl", R"({"text": "\ud83d" "x"})")),
                  "b.jsonl:1: not valid JSON");
}

TEST_F(TextReaderTest, RefusesWhatIsTooLongForOneDocument) {
  const auto problem = [](const std::string& path) {
    return message_of<std::runtime_error>([&] {
      TextReader reader(find_text_files({path}), 10);
      while (reader.next()) {
      }
    });
  };
  expect_contains(problem(folder_.write("a.jsonl", "{\"a\": 1}\n[\"1234567890\"]\n")),
                  "a.jsonl:2: more than 10 B of text in one document");
  expect_contains(problem(folder_.write("a.txt", "12345678901")), "a.txt: more than 10 B");
  TextReader reader(find_text_files({folder_.write("b.txt", "1234567890")}), 10);
  EXPECT_EQ(reader.next()->bytes, "1234567890");
}

TEST_F(TextReaderTest, SaysWhatAFolderHoldsThatIsNotRead) {
  for (const char* name : {"in/a.txt", "in/b.md", "in/sub/c.TXT", "in/.hidden", "other/d.txt"}) {
    folder_.write(name, "text");
  }
  const std::string in = folder_ / "in";
  std::filesystem::create_symlink(folder_ / "other", folder_ / "in/link");
  size_t files = 0;
  const std::string said = logged_by([&] { files = find_text_files({in}).size(); });
  EXPECT_EQ(files, 1u);
  expect_contains(said, in + ": 2 files of other kinds are left out, like " + in + "/b.md");
  expect_contains(said, in + "/link is a link to a folder, which is not followed");
  const auto problem = [&] {
    return message_of<std::runtime_error>([&] { find_text_files({in}); });
  };
  std::filesystem::create_symlink("nothing", folder_ / "in/gone.txt");
  EXPECT_EQ(problem(), "cannot read " + in + "/gone.txt: No such file or directory");
  std::filesystem::remove(folder_ / "in/gone.txt");
  std::filesystem::permissions(folder_.path(), std::filesystem::perms(0755));
  std::filesystem::permissions(folder_ / "in/sub", std::filesystem::perms::none);
  if (getuid() == 0) {  // whom nothing stops
    ASSERT_EQ(seteuid(65534), 0);
  }
  const std::string closed = problem();
  ASSERT_EQ(seteuid(getuid()), 0);
  std::filesystem::permissions(folder_ / "in/sub", std::filesystem::perms::owner_all);
  EXPECT_EQ(closed, "cannot read the folder " + in + "/sub: Permission denied");
}

TEST_F(TextReaderTest, RefusesTruncatedAndMislabelledFiles) {
  const std::string text = invented_text(1, 5000);
  for (const auto& [name, bytes] : std::vector<std::pair<std::string, std::string>>{
           {"a.txt.gz", gzip(text)}, {"a.txt.zst", zstd(text)}}) {
    expect_contains(failure(folder_.write(name, bytes.substr(0, bytes.size() - 5))),
                    name + ": truncated");
    expect_contains(failure(folder_.write(name, "")), name + ": truncated");
    expect_contains(failure(folder_.write(name, text)), name + ": damaged or no");
  }
}

TEST_F(TextReaderTest, CountsWhatItReplaces) {
  const std::string path =
      folder_.write("a.txt", "\xEF\xBB\xBFlong enough \xFF for one bad byte \u2581 and \u2581");
  TextReader reader(find_text_files({path}));
  const TextDocument document = decode_document(*reader.next(), reader.files()[0], "text");
  EXPECT_EQ(document.text, "long enough \uFFFD for one bad byte \u2581 and \u2581")
      << "without the byte order mark";
  EXPECT_EQ(document.replaced_sequences, 1);
  EXPECT_EQ(document.literal_u2581, 2);
  EXPECT_FALSE(reader.next().has_value());
  EXPECT_EQ(reader.bytes_read(), std::filesystem::file_size(path));
  EXPECT_EQ(reader.file_hashes(), (std::vector<std::string>{xxh3_hex_of_file(path)}));
}

}  // namespace
}  // namespace basin
