// AVX512-BF16, for which this version of Highway has no target.
#pragma once

namespace basin::kernels {

/// Whether kernels use it: when the processor has it. Only tests take it away, to reach what runs
/// on AVX-512 without it.
inline bool has_bf16_instruction = __builtin_cpu_supports("avx512bf16");

}  // namespace basin::kernels
