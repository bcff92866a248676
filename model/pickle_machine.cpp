// Opcodes: Python's Lib/pickletools.py.
#include "model/pickle_machine.h"

#include <cstring>

namespace basin::pickle {
namespace {

constexpr uint8_t kNewestProtocol = 5;
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

}  // namespace

std::string_view name_of(Kind kind) {
  return kKindNames[static_cast<size_t>(kind)];
}

std::string_view PickleMachine::take(uint64_t count) {
  if (count > bytes_.size() - position_)
    refuse(fmt::format("wants {} more bytes, {} are left: the pickle is cut short or damaged",
                       count,
                       bytes_.size() - position_));
  const std::string_view taken = bytes_.substr(position_, count);
  position_ += count;
  return taken;
}

std::string_view PickleMachine::take_line() {
  const size_t end = bytes_.find('\n', position_);
  if (end == std::string_view::npos) refuse("a name without end: cut short or damaged");
  const std::string_view line = take(end - position_);
  take(1);
  return line;
}

uint64_t PickleMachine::take_number(int count) {
  uint64_t number = 0;
  const std::string_view digits = take(static_cast<uint64_t>(count));
  std::memcpy(&number, digits.data(), digits.size());
  return number;
}

/// LONG1: two's complement of as many bytes as it says.
int64_t PickleMachine::take_long() {
  const uint64_t count = take_number(1);
  const std::string_view digits = take(count);
  if (count > 8) refuse(fmt::format("an integer of {} bytes", count));
  const bool negative = count > 0 && (static_cast<uint8_t>(digits.back()) & 0x80) != 0;
  uint64_t number = negative ? UINT64_MAX : 0;
  std::memcpy(&number, digits.data(), count);
  return static_cast<int64_t>(number);
}

Id PickleMachine::add(Value value) {
  values_.push_back(value);
  return static_cast<Id>(values_.size() - 1);
}

Id PickleMachine::top() const {
  const size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() <= floor) refuse("takes a value where there is none");
  return stack_.back();
}

Id PickleMachine::pop() {
  const Id id = top();
  stack_.pop_back();
  return id;
}

size_t PickleMachine::pop_mark() {
  if (marks_.empty()) refuse("looks for a mark where there is none");
  const size_t begin = marks_.back();
  marks_.pop_back();
  return begin;
}

const Value& PickleMachine::expect(Id id, Kind kind, const char* what) const {
  const Value& value = at(id);
  if (value.kind != kind)
    refuse(fmt::format("{} should be {}, found {}", what, name_of(kind), name_of(value.kind)));
  return value;
}

std::string_view PickleMachine::text(Id id) const {
  return bytes_.substr(static_cast<size_t>(at(id).number), at(id).count);
}

std::span<const Id> PickleMachine::items(Id tuple) const {
  const Value& value = expect(tuple, Kind::kTuple, "a list of arguments");
  return std::span(tuple_items_).subspan(static_cast<size_t>(value.number), value.count);
}

void PickleMachine::push_text(uint64_t count) {
  const auto begin = static_cast<int64_t>(position_);
  push({Kind::kText, static_cast<uint32_t>(take(count).size()), begin});
}

/// A tuple of the newest `count` values of the stack.
void PickleMachine::push_tuple(size_t count) {
  const size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() - floor < count) refuse("takes a value where there is none");
  const auto first = static_cast<int64_t>(tuple_items_.size());
  tuple_items_.insert(
      tuple_items_.end(), stack_.end() - static_cast<ptrdiff_t>(count), stack_.end());
  stack_.resize(stack_.size() - count);
  push({Kind::kTuple, static_cast<uint32_t>(count), first});
}

/// The values from `begin` on are keys and values in turn, for the dictionary below them.
void PickleMachine::set_items(size_t begin) {
  const std::vector<Id> pairs(stack_.begin() + static_cast<ptrdiff_t>(begin), stack_.end());
  stack_.resize(begin);
  if (pairs.size() % 2 != 0) refuse("a key without a value");
  Dict& dict = dicts_[static_cast<size_t>(expect(top(), Kind::kDict, "what has keys").number)];
  for (size_t i = 0; i < pairs.size(); i += 2) dict.emplace_back(pairs[i], pairs[i + 1]);
}

void PickleMachine::put(uint64_t key) {
  memo_[key] = top();
}

void PickleMachine::get(uint64_t key) {
  const auto found = memo_.find(key);
  if (found == memo_.end()) refuse(fmt::format("nothing was kept under number {}", key));
  stack_.push_back(found->second);
}

bool PickleMachine::step_containers(uint8_t opcode) {
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

void PickleMachine::step(uint8_t opcode) {
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

std::map<std::string, PickledTensor> PickleMachine::run() {
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

}  // namespace basin::pickle
