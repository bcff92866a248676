// What the tests of the raw kernels share: random fp32 and bf16 arrays, comparison with fp64, and
// every instruction set and number of threads. The same tests check the CUDA kernels, which have
// neither (BASIN_CUDA_KERNELS); memory that kernels see comes from vectors, which a test program
// can give memory that a GPU sees, too.
#pragma once

#include <gtest/gtest.h>
#ifndef BASIN_CUDA_KERNELS
#include <hwy/targets.h>
#include <omp.h>

#include "model/kernels/cpu/bf16_instruction.h"
#endif

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <random>
#include <vector>

#include "model/kernels/kernels.h"

namespace basin::kernels {

inline double to_double(float x) {
  return x;
}
inline double to_double(Bf16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

template <class Float>
Float from_double(double x);
template <>
inline float from_double<float>(double x) {
  return static_cast<float>(x);
}
/// Nearest bf16, ties to even, found by comparing with both neighbours of the truncated value.
template <>
inline Bf16 from_double<Bf16>(double x) {
  if (!std::isfinite(x))
    return {static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(x)) >> 16)};
  const Bf16 below{static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(x)) >> 16)},
      above{static_cast<uint16_t>(below.bits + 1)};
  const double down = std::abs(x - to_double(below)), up = std::abs(x - to_double(above));
  if (down != up) return down < up ? below : above;
  return below.bits % 2 == 0 ? below : above;
}

template <class Float>
std::vector<Float> random_array(int64_t n, uint64_t seed, double scale = 1) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal(0, scale);
  std::vector<Float> x(static_cast<size_t>(n));
  for (Float& value : x) value = from_double<Float>(normal(engine));
  return x;
}

/// Steps between two bf16 values, through zero if need be.
inline int64_t bf16_distance(Bf16 a, Bf16 b) {
  const auto place = [](Bf16 x) {
    return x.bits & 0x8000 ? -static_cast<int64_t>(x.bits & 0x7FFF) : static_cast<int64_t>(x.bits);
  };
  return std::abs(place(a) - place(b));
}

/// fp32: within `tolerance`, relative to the value, or to `unit` where the value is smaller.
inline void expect_close(const std::vector<float>& got,
                         const std::vector<double>& want,
                         double tolerance = 1e-5,
                         double unit = 1e-2) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_LE(std::abs(got[i] - want[i]), tolerance * std::max(std::abs(want[i]), unit))
        << "element " << i << ": " << got[i] << ", expected " << want[i];
  }
}

/// bf16: the rounded fp64 value or its neighbour (or fp32's tolerance, where cancellation makes
/// bf16 steps finer than that).
inline void expect_close(const std::vector<Bf16>& got,
                         const std::vector<double>& want,
                         double tolerance = 1e-5,
                         double unit = 1e-2) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::abs(to_double(got[i]) - want[i]) <= tolerance * unit) continue;
    ASSERT_LE(bf16_distance(got[i], from_double<Bf16>(want[i])), 1)
        << "element " << i << ": " << to_double(got[i]) << ", expected " << want[i];
  }
}

#ifdef BASIN_CUDA_KERNELS
template <class Body>
void for_each_instruction_set(const Body& body) {
  body();
}
template <class Body>
void for_each_thread_count(std::initializer_list<int>, const Body& body) {
  body();
}
#else
/// Runs body once for each instruction set that this machine and the kernels have, AVX-512 with and
/// without bf16, and then goes back to the best.
template <class Body>
void for_each_instruction_set(const Body& body) {
  hwy::SetSupportedTargetsForTest(0);
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    body();
    if (target != HWY_AVX3 || !has_bf16_instruction) continue;
    SCOPED_TRACE("without bf16");
    has_bf16_instruction = false;
    body();
    has_bf16_instruction = true;
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

/// Runs body once on each of these numbers of threads, and then goes back to as many as before.
template <class Body>
void for_each_thread_count(std::initializer_list<int> counts, const Body& body) {
  const int before = omp_get_max_threads();
  for (const int count : counts) {
    SCOPED_TRACE(testing::Message() << count << " threads");
    omp_set_num_threads(count);
    body();
  }
  omp_set_num_threads(before);
}
#endif

/// fp32 or bf16, as a test's type parameter.
template <class Float>
class KernelTest : public testing::Test {};
using KernelTypes = testing::Types<float, Bf16>;

}  // namespace basin::kernels
