// Internal tensor -> what goes to disk, and back. Shapes per `disk` (families.h).
#pragma once

#include <ATen/core/Tensor.h>

#include "model/families/families.h"

namespace basin {

at::Tensor to_disk(const DiskTensor& disk, const at::Tensor& internal);
/// Into `internal`, whose other rows stay.
void from_disk(const DiskTensor& disk, const at::Tensor& stored, const at::Tensor& internal);

}  // namespace basin
