#include "data/encode_cache.h"

#include <algorithm>
#include <iterator>

namespace basin {

std::span<const int32_t> EncodeCache::find(std::string_view stretch) const {
  const Slot& slot = slots_[slot_of(stretch)];
  return stretch == std::string_view(slot.key, slot.key_bytes) ? std::span(slot.ids, slot.num_ids)
                                                               : std::span<const int32_t>();
}

void EncodeCache::insert(std::string_view stretch, std::span<const int32_t> ids) {
  Slot& slot = slots_[slot_of(stretch)];
  if (stretch.size() <= sizeof(slot.key) && ids.size() <= std::size(slot.ids)) {
    slot.key_bytes = static_cast<uint8_t>(stretch.size());
    slot.num_ids = static_cast<uint8_t>(ids.size());
    std::copy(stretch.begin(), stretch.end(), slot.key);
    std::copy(ids.begin(), ids.end(), slot.ids);
  }
}

}  // namespace basin
