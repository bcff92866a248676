// What the files of ops share: which kernels an op takes, and tensors as kernels and autograd
// functions pass them.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "model/kernels/kernel_set.h"
#include "model/ops.h"

namespace basin::ops {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<at::Tensor>;

/// Whether a ReferenceGuard is alive.
bool wants_reference();
/// Whether ops on x take a fused kernel, of any device.
bool fused(const at::Tensor& x);
/// The kernels of the device that x is on.
const kernels::KernelSet& kernels_for(const at::Tensor& x);

// An undefined tensor is none, and the reverse.
inline OptionalTensor optional(const at::Tensor& x) {
  return x.defined() ? OptionalTensor(x) : std::nullopt;
}
inline at::Tensor tensor(const OptionalTensor& x) {
  return x.value_or(at::Tensor());
}
inline at::Tensor to_float(const at::Tensor& x) {
  return x.defined() ? x.to(at::kFloat).contiguous() : x;
}

/// Calls `body` with a value of the kernels' element type that matches the tensor, fp32 or bf16.
template <class Body>
void with_element_type(const at::Tensor& x, Body&& body) {
  if (x.scalar_type() == at::kFloat) {
    body(float{});
  } else {
    body(kernels::Bf16{});
  }
}

/// nullptr of undefined tensors.
template <class Element>
const Element* in(const at::Tensor& x) {
  return x.defined() ? static_cast<const Element*>(x.const_data_ptr()) : nullptr;
}
template <class Element>
Element* out(const at::Tensor& x) {
  return x.defined() ? static_cast<Element*>(x.mutable_data_ptr()) : nullptr;
}

/// Of qkv (B, T, (H + 2G) K), rotated by cos (T, rotary/2) where it is defined.
inline kernels::AttentionShape shape_of(const at::Tensor& qkv,
                                        const HeadShape& s,
                                        const at::Tensor& cos) {
  return {qkv.size(0),
          qkv.size(1),
          s.heads,
          s.kv_heads,
          s.head_size,
          cos.defined() ? 2 * cos.size(-1) : 0};
}

}  // namespace basin::ops
