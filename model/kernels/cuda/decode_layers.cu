// A layer is a chain of short dependent steps, and what a step of a launch of its own costs is
// mostly waiting. Here the blocks of a head stay in their cluster: rows of qkv and of the MLP's
// first matrix, whose results all of them get through shared memory; attention over an eighth of
// the cache each; then their rows of both output matrices, for the columns that this head and its
// share of the MLP contribute. Only those sums, one vector for each head, go through global memory.
//
// Nothing that does not depend on the token is waited for: a matrix' weights for the next layer are
// asked for (into registers) as soon as those of this one are used up, and so are the next layer's
// keys and values (into shared memory).
#include "model/kernels/cuda/decode_layers.h"

#include "model/kernels/cuda/decode_layers_attention.cuh"
#include "model/kernels/cuda/decode_layers_weights.cuh"

namespace basin::kernels {
namespace {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// All blocks of all clusters meet: each arrives once a phase, and none is far ahead. The counter
// never goes back, so that it needs no reset between launches.
struct Meeting {
  unsigned long long* arrivals;
  unsigned long long target = 0;

  __device__ void arrive(unsigned long long of_launch) {
    __syncthreads();
    if (threadIdx.x != 0) return;
    __threadfence();
    const unsigned long long before = atomicAdd(arrivals, 1ull);
    if (target == 0) target = before / of_launch * of_launch;
    target += gridDim.x;
  }
  __device__ void wait() const {
    if (threadIdx.x == 0) {
      unsigned long long seen;
      do {
        asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(arrivals) : "memory");
      } while (seen < target);
    }
    __syncthreads();
  }
};

// The thread's four elements of h -> memory.x, for the norms of the phase.
template <int kPacks>
__device__ void normalize(const Arguments& a,
                          const Phase& phase,
                          const RowWeights<kPacks>& rows,
                          const float4& h,
                          Memory& memory) {
  const int i = static_cast<int>(threadIdx.x);
  const bool is_mine = 4 * i < a.D;
  const float count = static_cast<float>(a.D);
  float mean = 0;
  if (!a.is_rms) mean = block_sum(h.x + h.y + h.z + h.w, memory.space) / count;
  const float4 d =
      is_mine ? float4{h.x - mean, h.y - mean, h.z - mean, h.w - mean} : float4{0, 0, 0, 0};
  const float squares = block_sum(d.x * d.x + d.y * d.y + d.z * d.z + d.w * d.w, memory.space);
  const float scale = rsqrtf(squares / count + a.eps);
  if (is_mine)
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if (n == 0 ? !phase.attends : !phase.has_mlp) continue;
      const float4 w = rows.norm[n], b = rows.norm_bias[n];
      reinterpret_cast<float4*>(memory.x[n])[i] = {d.x * scale * w.x + b.x,
                                                   d.y * scale * w.y + b.y,
                                                   d.z * scale * w.z + b.z,
                                                   d.w * scale * w.w + b.w};
    }
  __syncthreads();
}

// Sums of rows, from the lanes that have them to every block of the cluster: q, k, v and the units.
__device__ void share_rows(const Arguments& a, const Phase& phase, float sum, Memory& memory) {
  const groups::cluster_group cluster = groups::this_cluster();
  const int attention_rows = phase.attends ? 3 : 0,
            rounds = (a.units + kClusterWarps - 1) / kClusterWarps, r = lane_index() % 8;
  const float up = __shfl_sync(0xffffffffu, sum, (r + rounds) % 8);
  float* to = nullptr;
  if (r < attention_rows) {
    to = &memory.qkv[r][cluster_warp()];
  } else if (phase.has_mlp && r - attention_rows < rounds) {
    const int unit = cluster_warp() + (r - attention_rows) * kClusterWarps;
    if (unit < a.units) to = &memory.units[unit];
    const bool is_there = head() * a.units + unit < a.F;
    sum = !is_there ? 0.0f : a.is_swiglu ? sum / (1 + __expf(-sum)) * up : sum * normcdff(sum);
  }
  if (!to) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) *cluster.map_shared_rank(to, 2 * (lane_index() / 8) + i) = sum;
}

// The thread's four elements: h, and what the clusters added in the phase before.
__device__ void add_sums(const Arguments& a, int p, float4& h) {
  const int i = static_cast<int>(threadIdx.x);
  if (4 * i >= a.D) return;
  const float4* sums =
      reinterpret_cast<const float4*>(a.sums + static_cast<int64_t>(p % 2) * a.H * a.D) + i;
#pragma unroll 12
  for (int c = 0; c < a.H; ++c) {
    const float4 v = __ldcg(sums + static_cast<int64_t>(c) * (a.D / 4));
    h = {h.x + v.x, h.y + v.y, h.z + v.z, h.w + v.w};
  }
}

template <int kPacks>
__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads, 1)
    layers_kernel(const __grid_constant__ Arguments a, int64_t capacity) {
  __shared__ Memory memory;
  let_next_start();
  for (int i = static_cast<int>(threadIdx.x);
       i < a.L * static_cast<int>(sizeof(DecodeLayer) / sizeof(uint64_t));
       i += kThreads)
    reinterpret_cast<uint64_t*>(memory.layers)[i] = reinterpret_cast<const uint64_t*>(a.layers)[i];
  for (int i = static_cast<int>(threadIdx.x); i < kMostUnits; i += kThreads) memory.units[i] = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kHead; i += kThreads) memory.attended[i] = 0;
  __syncthreads();
  RowWeights<kPacks> rows;
  ColumnWeights<kPacks> columns;
  rows.load(a, memory, 0);
  columns.load(a, memory, 0);
  groups::this_cluster().sync();  // all blocks run: their shared memory can be written
  await_inputs();

  const int i = static_cast<int>(threadIdx.x), phases = phases_of(a);
  const Slots slots = slots_of(a, *a.state, shared_memory<Bf16>(), capacity);
  slots.fetch(0);
  Slots::commit();
  if (i < a.rotary)
    memory.cosines[0][i] = a.angles[i], memory.cosines[1][i] = a.angles[a.rotary + i];
  float4 h = 4 * i < a.D ? reinterpret_cast<const float4*>(a.h)[i] : float4{0, 0, 0, 0};
  Meeting meeting{a.arrivals};
  for (int p = 0; p < phases; ++p) {
    const Phase phase = phase_of(a, p);
    if (phase.attends) {
      if (phase.layer + 1 < a.L) slots.fetch(phase.layer + 1);
      Slots::commit();
    }
    if (p > 0) {
      meeting.wait();
      add_sums(a, p - 1, h);
    }
    normalize<kPacks>(a, phase, rows, h, memory);
    share_rows(a, phase, rows.multiply(phase, memory), memory);
    if (phase.attends) Slots::wait_for_all_but_one();
    groups::this_cluster().sync();
    if (p + 1 < phases) rows.load(a, memory, p + 1);  // not sooner: a barrier waits for loads
    if (phase.attends) {
      rotate(a, slots, phase.layer, memory);
      attend(slots, phase.layer, memory);
      share_attention(memory.layers[phase.layer], memory);
    }
    columns.multiply(a, memory, a.sums + (static_cast<int64_t>(p % 2) * a.H + head()) * a.D);
    meeting.arrive(static_cast<unsigned long long>(phases) * gridDim.x);
    if (p + 1 < phases) columns.load(a, memory, p + 1);
  }
  if (blockIdx.x != 0) return;
  meeting.wait();
  add_sums(a, phases - 1, h);
  if (4 * i < a.D) reinterpret_cast<float4*>(a.h)[i] = h;
}

#else  // no clusters: never launched
template <int kPacks>
__global__ void layers_kernel(const __grid_constant__ Arguments, int64_t) {}
#endif

using Kernel = void (*)(Arguments, int64_t);
Kernel kernel_for(int64_t D) {
  switch (D / 256) {
    case 1:
      return layers_kernel<1>;
    case 2:
      return layers_kernel<2>;
    case 3:
      return layers_kernel<3>;
    default:
      return layers_kernel<4>;
  }
}

int64_t units_of(const DecodeLayers& l) {
  return blocks_for(l.F, l.H * kElements) * kElements;
}
int64_t slots_of_block(const DecodeLayers& l) {
  return blocks_for(l.most_slots, kBlocks);
}
int kept_bytes(const DecodeLayers& l) {
  return static_cast<int>(4 * slots_of_block(l) * kHead * static_cast<int64_t>(sizeof(Bf16)));
}

bool fits(const DecodeLayers& l) {
  const int64_t rounds = blocks_for(units_of(l), kClusterWarps),
                mlp_rows = l.is_swiglu ? 2 * rounds : rounds;
  return l.K == kHead && l.D % 256 == 0 && l.D <= kMostD && l.F % kElements == 0 &&
         l.L <= kMostLayers && l.rotary <= kHead && units_of(l) <= kMostUnits &&
         slots_of_block(l) <= kMostSlots && (l.is_parallel ? 3 + mlp_rows : mlp_rows) <= kRows;
}

}  // namespace

bool takes_decode_layers(const DecodeLayers& l) {
  if (!fits(l) || device_attribute(cudaDevAttrComputeCapabilityMajor) < 9) return false;
  const Kernel kernel = kernel_for(l.D);
  cudaFuncAttributes own{};  // its static shared memory counts, too
  check(cudaFuncGetAttributes(&own, kernel));
  const int64_t most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) -
                       static_cast<int64_t>(own.sharedSizeBytes);
  if (kept_bytes(l) > most) return false;
  // Asked for however little is kept: the static arrays are nearly half of what goes unasked.
  check(cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(most)));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(l.H * kBlocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(kept_bytes(l));
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlocks, 1, 1};
  config.attrs = &cluster;
  config.numAttrs = 1;
  int clusters = 0;  // that run at once: all must, since they wait for each other
  if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) == cudaSuccess)
    return clusters >= l.H;
  static_cast<void>(cudaGetLastError());  // else the next launch would be blamed for it
  return false;
}

int64_t decode_layers_scratch(const DecodeLayers& l) {
  return 16 + 2 * l.H * l.D * static_cast<int64_t>(sizeof(float));
}

void decode_layers(const DecodeLayers& l) {
  const auto small = [](int64_t x) { return static_cast<int>(x); };
  const Arguments arguments{l.layers,
                            l.state,
                            l.angles,
                            l.h,
                            reinterpret_cast<float*>(static_cast<char*>(l.scratch) + 16),
                            static_cast<unsigned long long*>(l.scratch),
                            small(l.L),
                            small(l.D),
                            small(l.F),
                            small(l.H),
                            small(l.G),
                            small(l.rotary),
                            small(units_of(l)),
                            l.eps,
                            l.is_rms,
                            l.is_swiglu,
                            l.is_parallel};
  launch_early(kernel_for(l.D),
               dim3(static_cast<unsigned>(l.H * kBlocks)),
               dim3(kThreads),
               kept_bytes(l),
               arguments,
               slots_of_block(l));
}

}  // namespace basin::kernels
