// What ranks can leave for each other outside of any collective: keys with values, in a store that
// all of them reach.
#pragma once

#include <string>
#include <vector>

namespace basin {

/// Calls throw CommError when the store is gone. They may block for ever when whoever serves it
/// hangs.
class KeyStore {
 public:
  virtual ~KeyStore() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  /// The value of a key that is there.
  virtual std::string get(const std::string& key) = 0;
  /// Whether all of `keys` are there.
  virtual bool has(const std::vector<std::string>& keys) = 0;
};

}  // namespace basin
