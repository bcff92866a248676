// The kernels that exist for CPUs and for GPUs, as pointers: how ops call either. CPU
// kernels are linked in; those for GPUs come with libbasin_cuda.so (model/cuda.h).
#pragma once

#include "model/kernels/kernels.h"

namespace basin::kernels {

template <class Float>
struct KernelsOfType {
  decltype(&norm_forward<Float>) norm_forward;
  decltype(&norm_backward<Float>) norm_backward;
  decltype(&swiglu_forward<Float>) swiglu_forward;
  decltype(&swiglu_backward<Float>) swiglu_backward;
  decltype(&gelu_forward<Float>) gelu_forward;
  decltype(&gelu_backward<Float>) gelu_backward;
  decltype(&cross_entropy_in_place<Float>) cross_entropy_in_place;
  decltype(&cross_entropy<Float>) cross_entropy;
  decltype(&embedding_backward<Float>) embedding_backward;
};

struct KernelSet {
  KernelsOfType<float> f32;
  KernelsOfType<Bf16> bf16;
  decltype(&kernels::adamw) adamw;
  decltype(&kernels::sum_of_squares) sum_of_squares;
  decltype(&kernels::add_to_sum<Bf16>) add_to_sum;

  template <class Float>
  const KernelsOfType<Float>& of() const {
    if constexpr (sizeof(Float) == sizeof(float)) {
      return f32;
    } else {
      return bf16;
    }
  }
};

template <class Float>
KernelsOfType<Float> linked_kernels_of_type() {
  return {&norm_forward<Float>,
          &norm_backward<Float>,
          &swiglu_forward<Float>,
          &swiglu_backward<Float>,
          &gelu_forward<Float>,
          &gelu_backward<Float>,
          &cross_entropy_in_place<Float>,
          &cross_entropy<Float>,
          &embedding_backward<Float>};
}

/// Those of the library that the caller is linked with.
inline KernelSet linked_kernels() {
  return {linked_kernels_of_type<float>(),
          linked_kernels_of_type<Bf16>(),
          &kernels::adamw,
          &kernels::sum_of_squares,
          &kernels::add_to_sum<Bf16>};
}

}  // namespace basin::kernels
