#include "model/families/disk_layout.h"

#include <ATen/ATen.h>

namespace basin {

at::Tensor to_disk(const DiskTensor& disk, const at::Tensor& internal) {
  const at::Tensor rows = internal.narrow(0, disk.first_row, disk.shape[0]);
  if (disk.qkv_groups == 0) return rows;
  const int64_t H = disk.heads, G = disk.qkv_groups, K = disk.shape[0] / (H + 2 * G);
  const at::Tensor heads = rows.reshape({H + 2 * G, K, -1});
  const auto grouped = [&](int64_t first, int64_t each) {
    return heads.narrow(0, first, G * each).view({G, each, K, -1});
  };
  return at::cat({grouped(0, H / G), grouped(H, 1), grouped(H + G, 1)}, 1).reshape(disk.shape);
}

void from_disk(const DiskTensor& disk, const at::Tensor& stored, const at::Tensor& internal) {
  const at::Tensor rows = internal.narrow(0, disk.first_row, disk.shape[0]);
  if (disk.qkv_groups == 0) {
    rows.copy_(stored);
    return;
  }
  const int64_t H = disk.heads, G = disk.qkv_groups, each = H / G, K = disk.shape[0] / (H + 2 * G);
  const at::Tensor groups = stored.reshape({G, each + 2, K, -1});
  const auto put = [&](int64_t first_head, int64_t first, int64_t count) {
    const at::Tensor to = rows.narrow(0, first_head * K, G * count * K);
    to.copy_(groups.narrow(1, first, count).reshape(to.sizes()));
  };
  put(0, 0, each);
  put(H, each, 1);
  put(H + G, each + 1, 1);
}

}  // namespace basin
