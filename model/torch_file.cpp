#include "model/torch_file.h"

#include <fmt/core.h>

#include <algorithm>
#include <stdexcept>
#include <string_view>

#include "configs/json_text.h"
#include "model/safetensors_header.h"
#include "model/torch_pickle.h"
#include "model/zip_directory.h"

namespace basin {
namespace {

using Members = std::map<std::string, ByteRange>;

// What torch.save wrote before version 1.6: several pickles, of which the first is the integer
// 0x1950a86a20f9469cfc6c.
constexpr std::string_view kOldFormat("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20", 10);

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw std::runtime_error(fmt::format("{}: {}", name, what));
}

std::string_view view(std::span<const std::byte> file, ByteRange bytes) {
  return {reinterpret_cast<const char*>(file.data()) + bytes.begin, bytes.size()};
}

/// The folder in which everything lies, with its slash: that of the only data.pkl.
std::string find_folder(const std::string& name, const Members& members) {
  constexpr std::string_view kPickle = "/data.pkl";
  std::string folder;
  for (const auto& [member, bytes] : members) {
    if (!member.ends_with(kPickle)) continue;
    if (!folder.empty())
      refuse(name,
             fmt::format(
                 "holds both \"{}data.pkl\" and \"{}\"", printable(folder), printable(member)));
    folder = member.substr(0, member.size() - kPickle.size() + 1);
  }
  if (folder.empty()) refuse(name, "a zip archive, but none of torch.save: it holds no data.pkl");
  if (members.contains(folder + "constants.pkl"))
    refuse(name,
           "a TorchScript archive, which holds code; expected tensors by name (a state dict)");
  return folder;
}

void check_byte_order(const std::string& name,
                      std::span<const std::byte> file,
                      const Members& members,
                      const std::string& folder) {
  const auto found = members.find(folder + "byteorder");
  if (found == members.end() || view(file, found->second) == "little") return;
  refuse(name,
         fmt::format("its tensors have byte order \"{}\", only \"little\" is read",
                     printable(view(file, found->second))));
}

uint64_t element_bytes(std::string_view dtype) {
  const auto dtypes = safetensors_dtypes();
  return std::find_if(dtypes.begin(), dtypes.end(), [&](const auto& d) { return d.name == dtype; })
             ->bits /
         8;
}

}  // namespace

std::map<std::string, TorchTensor> read_torch_file(const std::string& name,
                                                   std::span<const std::byte> file) {
  if (view(file, {0, file.size()}).starts_with(kOldFormat))
    refuse(name,
           "the format of torch.save before PyTorch 1.6, which is not read: convert it in Python "
           "with torch.save(torch.load(FILE, weights_only=True), FILE)");
  const Members members = read_zip_directory(name, file);
  const std::string folder = find_folder(name, members);
  check_byte_order(name, file, members, folder);
  const ByteRange pickle = members.at(folder + "data.pkl");
  std::map<std::string, TorchTensor> tensors;
  for (auto& [tensor, pickled] :
       read_state_dict(name + ": data.pkl", file.subspan(pickle.begin, pickle.size()))) {
    const auto storage = members.find(fmt::format("{}data/{}", folder, pickled.storage));
    if (storage == members.end())
      refuse(name,
             fmt::format("tensor \"{}\": its storage \"data/{}\" is missing",
                         printable(tensor),
                         printable(pickled.storage)));
    const uint64_t bytes = storage->second.size(), size = element_bytes(pickled.dtype);
    if (bytes % size != 0 || bytes / size != static_cast<uint64_t>(pickled.storage_elements))
      refuse(name,
             fmt::format("tensor \"{}\": its storage \"data/{}\" has {} bytes, expected {} "
                         "elements of {}",
                         printable(tensor),
                         printable(pickled.storage),
                         bytes,
                         pickled.storage_elements,
                         pickled.dtype));
    tensors[tensor] = {std::string(pickled.dtype),
                       storage->second.begin,
                       storage->second.end,
                       pickled.offset,
                       std::move(pickled.shape),
                       std::move(pickled.strides)};
  }
  return tensors;
}

}  // namespace basin
