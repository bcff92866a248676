// The pickle inside a file of torch.save, read by a machine that can do nothing but put together a
// dictionary of tensors: no code is ever run. A pickle is a program that may call any function of
// Python by name; here only the few names below are known, and none of them is a call that leaves
// this file. Knows no LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace basin {

/// A strided view of a storage, all in elements. Whatever the view addresses lies in the storage.
/// Text is part of the pickle, which must outlive it.
struct PickledTensor {
  std::string_view dtype;        // as safetensors spells it: "F32", "BF16", ...
  std::string_view storage;      // its key: the file data/KEY of the archive
  int64_t storage_elements = 0;  // as the pickle announces them
  int64_t offset = 0;
  std::vector<int64_t> shape, strides;
};

constexpr size_t kMaxPickleBytes = 8 << 20;  // some 30 000 tensors

/// The tensors of a state dict by name. Knows the opcodes that torch.save emits for one and the
/// globals collections.OrderedDict, torch._utils._rebuild_tensor_v2 and _rebuild_parameter, and
/// torch.{Float,Half,BFloat16,Double,Long,Int,Short,Char,Byte,Bool}Storage. Throws
/// std::runtime_error, one line that begins with `name`, for everything else, naming what the
/// pickle asks for and where. Memory stays within some hundred bytes for each of the pickle's.
std::map<std::string, PickledTensor> read_state_dict(const std::string& name,
                                                     std::span<const std::byte> pickle);

}  // namespace basin
