// What the pickle of a state dict may name and call.
#include "model/torch_pickle.h"

#include <fmt/core.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "configs/json_text.h"
#include "model/pickle_machine.h"

namespace basin {
namespace pickle {
namespace {

constexpr int64_t kMaxDimensions = 16;

enum Global : int64_t { kOrderedDict, kRebuildTensor, kRebuildParameter, kFirstStorage };
struct KnownGlobal {
  std::string_view module, name, dtype;
};
constexpr KnownGlobal kGlobals[] = {
    {"collections", "OrderedDict", ""},
    {"torch._utils", "_rebuild_tensor_v2", ""},
    {"torch._utils", "_rebuild_parameter", ""},
    {"torch", "FloatStorage", "F32"},
    {"torch", "HalfStorage", "F16"},
    {"torch", "BFloat16Storage", "BF16"},
    {"torch", "DoubleStorage", "F64"},
    {"torch", "LongStorage", "I64"},
    {"torch", "IntStorage", "I32"},
    {"torch", "ShortStorage", "I16"},
    {"torch", "CharStorage", "I8"},
    {"torch", "ByteStorage", "U8"},
    {"torch", "BoolStorage", "BOOL"},
};

}  // namespace

void PickleMachine::push_global(std::string_view module, std::string_view global) {
  const auto known = std::find_if(std::begin(kGlobals), std::end(kGlobals), [&](const auto& g) {
    return g.module == module && g.name == global;
  });
  if (known == std::end(kGlobals)) refuse_global(module, global);
  push({Kind::kGlobal, 0, known - std::begin(kGlobals)});
}

/// ('storage', TYPE, KEY, LOCATION, ELEMENTS) -> a storage.
void PickleMachine::persistent_load() {
  const std::span<const Id> parts = items(pop());
  if (parts.size() != 5 || at(parts[0]).kind != Kind::kText || text(parts[0]) != "storage")
    refuse("refers to something outside that is no storage of a tensor");
  const Value& type = expect(parts[1], Kind::kGlobal, "a storage's type");
  if (type.number < kFirstStorage) refuse("a storage's type is none");
  expect(parts[2], Kind::kText, "a storage's key");
  const Value& elements = expect(parts[4], Kind::kInteger, "a storage's number of elements");
  if (elements.number < 0) refuse(fmt::format("a storage of {} elements", elements.number));
  storages_.push_back({kGlobals[type.number].dtype, parts[2], elements.number});
  push({Kind::kStorage, 0, static_cast<int64_t>(storages_.size() - 1)});
}

/// The only calls there are.
void PickleMachine::reduce() {
  const std::span<const Id> arguments = items(pop());
  const Id callee = pop();
  if (at(callee).kind != Kind::kGlobal)
    refuse(
        fmt::format("calls {}: only tensors are read, no code is run", name_of(at(callee).kind)));
  switch (at(callee).number) {
    case kOrderedDict:
      if (!arguments.empty()) refuse("an OrderedDict made with arguments");
      dicts_.emplace_back();
      return push({Kind::kDict, 0, static_cast<int64_t>(dicts_.size() - 1)});
    case kRebuildTensor:
      return stack_.push_back(rebuild_tensor(arguments));
    case kRebuildParameter:  // (tensor, requires_grad, hooks)
      if (arguments.size() != 3) refuse("_rebuild_parameter without its three arguments");
      expect(arguments[0], Kind::kTensor, "a parameter's data");
      return stack_.push_back(arguments[0]);
    default:
      refuse(fmt::format("calls {}.{}: only tensors are read, no code is run",
                         kGlobals[at(callee).number].module,
                         kGlobals[at(callee).number].name));
  }
}

/// Attributes for a dictionary: a state dict's _metadata, which says nothing about tensors.
void PickleMachine::build() {
  expect(pop(), Kind::kDict, "the attributes of an object");
  expect(top(), Kind::kDict, "what is given attributes");
}

std::vector<int64_t> PickleMachine::sizes(Id tuple, const char* what) const {
  std::vector<int64_t> sizes;
  if (static_cast<int64_t>(items(tuple).size()) > kMaxDimensions)
    refuse(fmt::format("a tensor of {} dimensions", items(tuple).size()));
  for (const Id id : items(tuple)) {
    sizes.push_back(expect(id, Kind::kInteger, what).number);
    if (sizes.back() < 0) refuse(fmt::format("{} is {}", what, sizes.back()));
  }
  return sizes;
}

/// _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])
Id PickleMachine::rebuild_tensor(std::span<const Id> arguments) {
  if (arguments.size() != 6 && arguments.size() != 7)
    refuse(fmt::format("_rebuild_tensor_v2 with {} arguments, expected 6", arguments.size()));
  if (arguments.size() == 7) {  // bits like "conjugated", which would change the values
    const Value& metadata = at(arguments[6]);
    const bool empty = metadata.kind == Kind::kDict && dicts_[metadata.number].empty();
    if (metadata.kind != Kind::kNone && !empty) refuse("a tensor with metadata");
  }
  const Storage& storage =
      storages_[expect(arguments[0], Kind::kStorage, "a tensor's storage").number];
  PickledTensor tensor;
  tensor.dtype = storage.dtype;
  tensor.storage = text(storage.key);
  tensor.storage_elements = storage.elements;
  tensor.offset = expect(arguments[1], Kind::kInteger, "a tensor's offset").number;
  tensor.shape = sizes(arguments[2], "a tensor's size");
  tensor.strides = sizes(arguments[3], "a tensor's stride");
  check_bounds(tensor);
  tensors_.push_back(std::move(tensor));
  return add({Kind::kTensor, 0, static_cast<int64_t>(tensors_.size() - 1)});
}

void PickleMachine::check_bounds(const PickledTensor& tensor) const {
  if (tensor.shape.size() != tensor.strides.size())
    refuse(fmt::format(
        "a tensor of {} dimensions with {} strides", tensor.shape.size(), tensor.strides.size()));
  int64_t elements = 1, last = tensor.offset;
  bool overflow = false;
  const bool empty = std::count(tensor.shape.begin(), tensor.shape.end(), 0) > 0;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    int64_t span = 0;
    overflow |= __builtin_mul_overflow(elements, std::max<int64_t>(tensor.shape[i], 1), &elements);
    if (empty) continue;
    overflow |= __builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &span);
    overflow |= __builtin_add_overflow(last, span, &last);
  }
  overflow |= elements > INT64_MAX / 16;  // bytes of it, too, are a number
  const int64_t limit = tensor.storage_elements - (empty ? 0 : 1);
  if (overflow || tensor.offset < 0 || last > limit)
    refuse(fmt::format("a tensor reaches beyond its storage \"{}\" of {} elements",
                       printable(tensor.storage),
                       tensor.storage_elements));
}

std::map<std::string, PickledTensor> PickleMachine::result(Id id) const {
  const Value& dict = expect(id, Kind::kDict, "the file's content");
  std::map<std::string, PickledTensor> tensors;
  for (const auto& [key, value] : dicts_[static_cast<size_t>(dict.number)]) {
    if (at(key).kind != Kind::kText)
      refuse(fmt::format("a key of the state dict is {}, expected text", name_of(at(key).kind)));
    const std::string name(text(key));
    if (at(value).kind != Kind::kTensor)
      refuse(fmt::format(
          "\"{}\" holds {}, expected a tensor", printable(name), name_of(at(value).kind)));
    if (!tensors.emplace(name, tensors_[static_cast<size_t>(at(value).number)]).second)
      refuse(fmt::format("the state dict names \"{}\" twice", printable(name)));
  }
  return tensors;
}

}  // namespace pickle

std::map<std::string, PickledTensor> read_state_dict(const std::string& name,
                                                     std::span<const std::byte> pickle) {
  return basin::pickle::PickleMachine(name, pickle).run();
}

}  // namespace basin
