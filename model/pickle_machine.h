// The machine behind read_state_dict: a pickle is a program for a stack of values. Values are
// indices into one list, so that nothing is recursive, cycles do no harm, and each opcode costs a
// few bytes at most.
#pragma once

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "configs/json_text.h"
#include "model/torch_pickle.h"

namespace basin::pickle {

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
/// "a tuple": for messages.
std::string_view name_of(Kind kind);

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

/// Opcodes and the stack are in pickle_machine.cpp, what torch.save's pickles call in
/// torch_pickle.cpp.
class PickleMachine {
 public:
  PickleMachine(const std::string& name, std::span<const std::byte> pickle)
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

}  // namespace basin::pickle
