// Both ends of a decoding step: the token's row of the embedding and the rotary angles of its
// position, and the choice of the next token.
#include "model/kernels/cuda/decode.h"
#include "model/kernels/cuda/decode_launch.cuh"

namespace basin::kernels {
namespace {

constexpr int kThreads = 256;

// In turns, so that the sine sees less than one, however far the stream has come.
__device__ void turn(double position, double frequency, float* cosine, float* sine) {
  constexpr double kTurn = 6.28318530717958647692;
  double turns = position * frequency / kTurn;
  turns -= floor(turns);
  double s, c;
  sincospi(2 * turns, &s, &c);
  *cosine = static_cast<float>(c);
  *sine = static_cast<float>(s);
}

// A block for each stream.
template <class Float>
__global__ void begin_kernel(const DecodeState* states,
                             const DecodeEmbedding embedding,
                             float* h,
                             float* angles) {
  let_next_start();
  await_inputs();
  const DecodeState state = states[blockIdx.x];
  const int64_t D = embedding.D, half = embedding.half;
  const Float* row = static_cast<const Float*>(embedding.table) + state.token * D;
  float *to = h + blockIdx.x * D, *cosine = angles + blockIdx.x * 4 * half, *sine = cosine + half;
  for (int64_t i = threadIdx.x; i < D; i += kThreads) to[i] = widen(row[i]);
  const int64_t to_sinks = std::min(state.position, state.sinks + state.recent);
  for (int64_t i = threadIdx.x; i < half; i += kThreads) {
    const double frequency = embedding.frequencies[i];
    turn(static_cast<double>(state.position + state.origin), frequency, cosine + i, sine + i);
    turn(static_cast<double>(to_sinks), frequency, cosine + 2 * half + i, sine + 2 * half + i);
  }
}

constexpr int kGreedyBlocks = 32;  // at most, for each stream; a warp compares their results

// Larger for a larger logit, and of equal logits (0 and -0 too) for a lower id; largest for a NaN.
// Never 0.
__device__ uint64_t rank(float logit, int64_t id) {
  const bool is_nan = logit != logit;
  logit += 0.0f;
  uint32_t bits;
  memcpy(&bits, &logit, sizeof bits);
  bits = is_nan ? ~0u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | ~static_cast<uint32_t>(id);
}
__device__ int64_t id_of(uint64_t rank) {
  return ~static_cast<uint32_t>(rank);
}
__device__ bool is_finite(uint64_t rank) {  // its logit lies between -infinity's and infinity's
  const auto bits = static_cast<uint32_t>(rank >> 32);
  return bits > 0x007FFFFFu && bits < 0xFF800000u;
}

__device__ uint64_t warp_largest(uint64_t x) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, x, distance);
    x = other > x ? other : x;
  }
  return x;
}

struct GreedyScratch {
  unsigned counter, unused;
  uint64_t best[kGreedyBlocks];  // of each block
};

__device__ void choose(DecodeState& state, uint64_t best, int64_t* output, int64_t capacity) {
  const int64_t token = id_of(best);
  if (capacity > 0)
    output[(state.position - state.start) % capacity] = is_finite(best) ? token : int64_t{kNotFinite};
  state.token = token;
  state.position += 1;
}

// Streams in y; the last of a stream's blocks chooses.
__global__ void greedy_kernel(DecodeState* states, const DecodeGreedy greedy) {
  __shared__ uint64_t of_warp[kThreads / kWarp];
  let_next_start();
  await_inputs();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const float* logits = greedy.logits + blockIdx.y * greedy.V;
  uint64_t best = 0;
  for (int64_t id = blockIdx.x * kThreads + thread; id < greedy.V; id += gridDim.x * kThreads)
    best = std::max(best, rank(logits[id], id));
  best = warp_largest(best);
  if (lane == 0) of_warp[thread / kWarp] = best;
  __syncthreads();
  GreedyScratch& scratch = static_cast<GreedyScratch*>(greedy.scratch)[blockIdx.y];
  if (thread < kWarp) {
    best = warp_largest(lane < kThreads / kWarp ? of_warp[lane] : 0);
    if (lane == 0) scratch.best[blockIdx.x] = best;
  }
  if (!is_last_block(&scratch.counter, gridDim.x) || thread >= kWarp) return;
  const volatile uint64_t* bests = scratch.best;
  best = warp_largest(lane < static_cast<int>(gridDim.x) ? bests[lane] : 0);
  if (lane == 0)
    choose(states[blockIdx.y],
           best,
           greedy.output + blockIdx.y * greedy.capacity,
           greedy.capacity);
}

__global__ void advance_kernel(DecodeState* states, int64_t streams) {
  let_next_start();
  await_inputs();
  for (int64_t n = threadIdx.x; n < streams; n += kThreads) states[n].position += 1;
}

}  // namespace

void decode_begin(const DecodeBatch& batch,
                  const DecodeEmbedding& embedding,
                  float* h,
                  float* angles) {
  const auto kernel =
      embedding.type == WeightType::kBf16 ? begin_kernel<Bf16> : begin_kernel<float>;
  launch_early(kernel, dim3(batch.streams), dim3(kThreads), 0, batch.states, embedding, h, angles);
}

void decode_greedy(const DecodeBatch& batch, const DecodeGreedy& greedy) {
  const int64_t blocks = std::min<int64_t>(kGreedyBlocks, blocks_for(greedy.V, 4 * kThreads));
  launch_early(greedy_kernel, dim3(blocks, batch.streams), dim3(kThreads), 0, batch.states, greedy);
}

int64_t decode_greedy_scratch(int64_t streams) {
  return streams * static_cast<int64_t>(sizeof(GreedyScratch));
}

void decode_advance(const DecodeBatch& batch) {
  launch_early(advance_kernel, dim3(1), dim3(kThreads), 0, batch.states, batch.streams);
}

}  // namespace basin::kernels
