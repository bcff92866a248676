// Values are indices into one list, so that nothing is recursive, cycles do no harm, and each
// opcode costs a few bytes at most. Opcodes: Python's Lib/pickletools.py.
#include "model/torch_pickle.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>

#include "configs/json_text.h"

namespace basin {
namespace {

constexpr int64_t kMaxDimensions = 16;
constexpr uint8_t kNewestProtocol = 5;

enum class Kind : uint8_t {
  kNone,
  kBool,
  kInteger,
  kReal,
  kText,
  kTuple,
  kList,
  kDict,
  kGlobal,
  kStorage,
  kTensor
};
constexpr std::string_view kKindNames[] = {"None",
                                           "a truth value",
                                           "an integer",
                                           "a number",
                                           "text",
                                           "a tuple",
                                           "a list",
                                           "a dictionary",
                                           "a global",
                                           "a storage",
                                           "a tensor"};

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

using Id = uint32_t;  // of a value
struct Value {
  Kind kind;
  uint32_t count = 0;  // of a text's bytes, of a tuple's items
  int64_t number = 0;  // an integer; a text's first byte; a tuple's first item; else an index
};
struct Storage {
  std::string_view dtype;
  Id key;
  int64_t elements;
};

class Machine {
 public:
  Machine(const std::string& name, std::span<const std::byte> pickle)
      : name_(name), bytes_(reinterpret_cast<const char*>(pickle.data()), pickle.size()) {}

  std::map<std::string, PickledTensor> run();

 private:
  using Dict = std::vector<std::pair<Id, Id>>;

  [[noreturn]] void refuse(const std::string& what) const {
    throw std::runtime_error(fmt::format("{}: byte {}: {}", name_, opcode_at_, what));
  }
  [[noreturn]] void refuse_global(std::string_view module, std::string_view global) const {
    refuse(fmt::format("asks for {}.{}: only tensors are read, no code is run",
                       printable(module),
                       printable(global)));
  }

  // Reading arguments of opcodes.
  std::string_view take(uint64_t count);
  std::string_view take_line();
  uint64_t take_number(int count);
  int64_t take_long();

  // The stack.
  Id add(Value value);
  void push(Value value) { stack_.push_back(add(value)); }
  Id pop();
  Id top() const;
  /// Where the items behind the last mark begin; the mark is gone.
  size_t pop_mark();
  const Value& at(Id id) const { return values_[id]; }
  const Value& expect(Id id, Kind kind, const char* what) const;
  std::string_view text(Id id) const;
  std::span<const Id> items(Id tuple) const;

  void step(uint8_t opcode);
  bool step_containers(uint8_t opcode);
  void push_text(uint64_t count);
  void push_tuple(size_t count);
  void set_items(size_t begin);
  void push_global(std::string_view module, std::string_view global);
  void put(uint64_t key);
  void get(uint64_t key);

  void persistent_load();
  void reduce();
  void build();
  Id rebuild_tensor(std::span<const Id> arguments);
  std::vector<int64_t> sizes(Id tuple, const char* what) const;
  void check_bounds(const PickledTensor& tensor) const;
  std::map<std::string, PickledTensor> result(Id id) const;

  const std::string& name_;
  std::string_view bytes_;
  size_t position_ = 0, opcode_at_ = 0;
  std::vector<Value> values_;
  std::vector<Id> stack_, tuple_items_;
  std::vector<size_t> marks_;
  std::map<uint64_t, Id> memo_;
  std::vector<Dict> dicts_;
  std::vector<Storage> storages_;
  std::vector<PickledTensor> tensors_;
};

std::string_view Machine::take(uint64_t count) {
  if (count > bytes_.size() - position_)
    refuse(fmt::format("wants {} more bytes, {} are left: the pickle is cut short or damaged",
                       count,
                       bytes_.size() - position_));
  const std::string_view taken = bytes_.substr(position_, count);
  position_ += count;
  return taken;
}

std::string_view Machine::take_line() {
  const size_t end = bytes_.find('\n', position_);
  if (end == std::string_view::npos) refuse("a name without end: cut short or damaged");
  const std::string_view line = take(end - position_);
  take(1);
  return line;
}

uint64_t Machine::take_number(int count) {
  uint64_t number = 0;
  const std::string_view digits = take(static_cast<uint64_t>(count));
  std::memcpy(&number, digits.data(), digits.size());
  return number;
}

/// LONG1: two's complement of as many bytes as it says.
int64_t Machine::take_long() {
  const uint64_t count = take_number(1);
  const std::string_view digits = take(count);
  if (count > 8) refuse(fmt::format("an integer of {} bytes", count));
  const bool negative = count > 0 && (static_cast<uint8_t>(digits.back()) & 0x80) != 0;
  uint64_t number = negative ? UINT64_MAX : 0;
  std::memcpy(&number, digits.data(), count);
  return static_cast<int64_t>(number);
}

Id Machine::add(Value value) {
  values_.push_back(value);
  return static_cast<Id>(values_.size() - 1);
}

Id Machine::top() const {
  const size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() <= floor) refuse("takes a value where there is none");
  return stack_.back();
}

Id Machine::pop() {
  const Id id = top();
  stack_.pop_back();
  return id;
}

size_t Machine::pop_mark() {
  if (marks_.empty()) refuse("looks for a mark where there is none");
  const size_t begin = marks_.back();
  marks_.pop_back();
  return begin;
}

const Value& Machine::expect(Id id, Kind kind, const char* what) const {
  const Value& value = at(id);
  if (value.kind != kind)
    refuse(fmt::format("{} should be {}, found {}",
                       what,
                       kKindNames[static_cast<size_t>(kind)],
                       kKindNames[static_cast<size_t>(value.kind)]));
  return value;
}

std::string_view Machine::text(Id id) const {
  return bytes_.substr(static_cast<size_t>(at(id).number), at(id).count);
}

std::span<const Id> Machine::items(Id tuple) const {
  const Value& value = expect(tuple, Kind::kTuple, "a list of arguments");
  return std::span(tuple_items_).subspan(static_cast<size_t>(value.number), value.count);
}

void Machine::push_text(uint64_t count) {
  const auto begin = static_cast<int64_t>(position_);
  push({Kind::kText, static_cast<uint32_t>(take(count).size()), begin});
}

/// A tuple of the newest `count` values of the stack.
void Machine::push_tuple(size_t count) {
  const size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() - floor < count) refuse("takes a value where there is none");
  const auto first = static_cast<int64_t>(tuple_items_.size());
  tuple_items_.insert(
      tuple_items_.end(), stack_.end() - static_cast<ptrdiff_t>(count), stack_.end());
  stack_.resize(stack_.size() - count);
  push({Kind::kTuple, static_cast<uint32_t>(count), first});
}

/// The values from `begin` on are keys and values in turn, for the dictionary below them.
void Machine::set_items(size_t begin) {
  const std::vector<Id> pairs(stack_.begin() + static_cast<ptrdiff_t>(begin), stack_.end());
  stack_.resize(begin);
  if (pairs.size() % 2 != 0) refuse("a key without a value");
  Dict& dict = dicts_[static_cast<size_t>(expect(top(), Kind::kDict, "what has keys").number)];
  for (size_t i = 0; i < pairs.size(); i += 2) dict.emplace_back(pairs[i], pairs[i + 1]);
}

void Machine::push_global(std::string_view module, std::string_view global) {
  const auto known = std::find_if(std::begin(kGlobals), std::end(kGlobals), [&](const auto& g) {
    return g.module == module && g.name == global;
  });
  if (known == std::end(kGlobals)) refuse_global(module, global);
  push({Kind::kGlobal, 0, known - std::begin(kGlobals)});
}

void Machine::put(uint64_t key) {
  memo_[key] = top();
}

void Machine::get(uint64_t key) {
  const auto found = memo_.find(key);
  if (found == memo_.end()) refuse(fmt::format("nothing was kept under number {}", key));
  stack_.push_back(found->second);
}

/// ('storage', TYPE, KEY, LOCATION, ELEMENTS) -> a storage.
void Machine::persistent_load() {
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
void Machine::reduce() {
  const std::span<const Id> arguments = items(pop());
  const Id callee = pop();
  if (at(callee).kind != Kind::kGlobal)
    refuse(fmt::format("calls {}: only tensors are read, no code is run",
                       kKindNames[static_cast<size_t>(at(callee).kind)]));
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
void Machine::build() {
  expect(pop(), Kind::kDict, "the attributes of an object");
  expect(top(), Kind::kDict, "what is given attributes");
}

std::vector<int64_t> Machine::sizes(Id tuple, const char* what) const {
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
Id Machine::rebuild_tensor(std::span<const Id> arguments) {
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

void Machine::check_bounds(const PickledTensor& tensor) const {
  if (tensor.shape.size() != tensor.strides.size())
    refuse(fmt::format(
        "a tensor of {} dimensions with {} strides", tensor.shape.size(), tensor.strides.size()));
  int64_t elements = 1, last = tensor.offset;
  bool overflow = false;
  const bool empty = std::count(tensor.shape.begin(), tensor.shape.end(), 0) > 0;
  for (size_t i = 0; i < tensor.shape.size() && !empty; ++i) {
    int64_t span = 0;
    overflow |= __builtin_mul_overflow(elements, tensor.shape[i], &elements);
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

bool Machine::step_containers(uint8_t opcode) {
  switch (opcode) {
    case '(':  // MARK
      marks_.push_back(stack_.size());
      return true;
    case ')':  // EMPTY_TUPLE
      push_tuple(0);
      return true;
    case 0x85:  // TUPLE1
    case 0x86:  // TUPLE2
    case 0x87:  // TUPLE3
      push_tuple(opcode - 0x84);
      return true;
    case 't': {  // TUPLE
      const size_t begin = pop_mark();
      push_tuple(stack_.size() - begin);
      return true;
    }
    case '}':  // EMPTY_DICT
      dicts_.emplace_back();
      push({Kind::kDict, 0, static_cast<int64_t>(dicts_.size() - 1)});
      return true;
    case 's':  // SETITEM
      if (const size_t floor = marks_.empty() ? 0 : marks_.back(); stack_.size() < floor + 3)
        refuse("takes a value where there is none");
      set_items(stack_.size() - 2);
      return true;
    case 'u':  // SETITEMS
      set_items(pop_mark());
      return true;
    case ']':  // EMPTY_LIST: what is in lists is not kept, no tensor is made of it
      push({Kind::kList});
      return true;
    case 'a':  // APPEND
      pop();
      expect(top(), Kind::kList, "what is appended to");
      return true;
    case 'e':  // APPENDS
      stack_.resize(pop_mark());
      expect(top(), Kind::kList, "what is appended to");
      return true;
    default:
      return false;
  }
}

void Machine::step(uint8_t opcode) {
  switch (opcode) {
    case 0x80:  // PROTO
      if (const uint64_t protocol = take_number(1); protocol < 2 || protocol > kNewestProtocol)
        refuse(fmt::format("pickle protocol {}, torch.save writes 2", protocol));
      return;
    case 0x95:  // FRAME
      take_number(8);
      return;
    case 'N':  // NONE
      return push({Kind::kNone});
    case 0x88:  // NEWTRUE
    case 0x89:  // NEWFALSE
      return push({Kind::kBool});
    case 'K':  // BININT1
      return push({Kind::kInteger, 0, static_cast<int64_t>(take_number(1))});
    case 'M':  // BININT2
      return push({Kind::kInteger, 0, static_cast<int64_t>(take_number(2))});
    case 'J':  // BININT
      return push({Kind::kInteger, 0, static_cast<int32_t>(take_number(4))});
    case 0x8a:  // LONG1
      return push({Kind::kInteger, 0, take_long()});
    case 'G':  // BINFLOAT
      take(8);
      return push({Kind::kReal});
    case 'X':  // BINUNICODE
      return push_text(take_number(4));
    case 0x8c:  // SHORT_BINUNICODE
      return push_text(take_number(1));
    case 'c': {  // GLOBAL
      const std::string_view module = take_line();
      return push_global(module, take_line());
    }
    case 0x93: {  // STACK_GLOBAL
      const Id global = pop(), module = pop();
      expect(global, Kind::kText, "a global's name");
      expect(module, Kind::kText, "a global's module");
      return push_global(text(module), text(global));
    }
    case 'i': {  // INST: only to say what it asks for
      const std::string_view module = take_line();
      refuse_global(module, take_line());
    }
    case 'q':  // BINPUT
      return put(take_number(1));
    case 'r':  // LONG_BINPUT
      return put(take_number(4));
    case 0x94:  // MEMOIZE
      return put(memo_.size());
    case 'h':  // BINGET
      return get(take_number(1));
    case 'j':  // LONG_BINGET
      return get(take_number(4));
    case 'Q':  // BINPERSID
      return persistent_load();
    case 'R':  // REDUCE
      return reduce();
    case 'b':  // BUILD
      return build();
    default:
      if (!step_containers(opcode))
        refuse(
            fmt::format("opcode 0x{:02x}, which torch.save does not write for tensors: only "
                        "tensors are read, no code is run",
                        opcode));
  }
}

std::map<std::string, PickledTensor> Machine::result(Id id) const {
  const Value& dict = expect(id, Kind::kDict, "the file's content");
  std::map<std::string, PickledTensor> tensors;
  for (const auto& [key, value] : dicts_[static_cast<size_t>(dict.number)]) {
    if (at(key).kind != Kind::kText)
      refuse(fmt::format("a key of the state dict is {}, expected text",
                         kKindNames[static_cast<size_t>(at(key).kind)]));
    const std::string name(text(key));
    if (at(value).kind != Kind::kTensor)
      refuse(fmt::format("\"{}\" holds {}, expected a tensor",
                         printable(name),
                         kKindNames[static_cast<size_t>(at(value).kind)]));
    if (!tensors.emplace(name, tensors_[static_cast<size_t>(at(value).number)]).second)
      refuse(fmt::format("the state dict names \"{}\" twice", printable(name)));
  }
  return tensors;
}

std::map<std::string, PickledTensor> Machine::run() {
  if (bytes_.size() > kMaxPickleBytes)
    refuse(
        fmt::format("a pickle of {} bytes, at most {} are read", bytes_.size(), kMaxPickleBytes));
  for (;;) {
    opcode_at_ = position_;
    const auto opcode = static_cast<uint8_t>(take(1)[0]);
    if (opcode == '.') break;  // STOP
    step(opcode);
  }
  const Id content = pop();
  if (!stack_.empty() || position_ != bytes_.size())
    refuse("ends with something left over: damaged");
  return result(content);
}

}  // namespace

std::map<std::string, PickledTensor> read_state_dict(const std::string& name,
                                                     std::span<const std::byte> pickle) {
  return Machine(name, pickle).run();
}

}  // namespace basin
