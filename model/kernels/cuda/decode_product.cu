// Matrices times a few vectors, where reading the weights is what takes time: the kernel, which
// loads its first weights before it waits for the vectors, and its launches. A norm in front is
// computed by every block for itself, in shared memory: that is cheaper than a launch. Other
// vectors that fit go there too, so that all of them arrive at once.
#include "model/kernels/cuda/decode_rows.cuh"

namespace basin::kernels {
namespace {

// Shared memory in front of a product with a norm: the vectors, and the norm's weight and bias.
struct NormSpace {
  float *x, *weight, *bias;
  int stride;  // of each
};
__device__ NormSpace norm_space(const Job& job, int vectors) {
  const int stride = (job.a.columns + 3) / 4 * 4;
  float* x = shared_memory<float>();
  return {x, x + vectors * stride, x + (vectors + 1) * stride, stride};
}

__device__ void load_norm(const DecodeNorm& norm, int columns, const NormSpace& space) {
  for (int i = static_cast<int>(threadIdx.x); i < columns; i += kThreads) {
    space.weight[i] = norm.weight[i];
    space.bias[i] = norm.bias ? norm.bias[i] : 0.0f;
  }
}

// Sum over each of the block's kTeams equal teams of warps.
template <int kTeams>
__device__ float team_sum(float x) {
  constexpr int kSize = kWarps / kTeams;
  __shared__ float of_warps[kWarps];
  x = warp_sum(x);
  __syncthreads();
  if (lane_index() == 0) of_warps[warp_index()] = x;
  __syncthreads();
  x = 0;
#pragma unroll
  for (int i = 0; i < kSize; ++i) x += of_warps[warp_index() / kSize * kSize + i];
  return x;
}

// A team of warps for each vector; teams without one repeat the last.
template <int kVectors>
__device__ void normalize(const Job& job, const NormSpace& space) {
  constexpr int kTeam = kThreads / kVectors;
  const int columns = job.a.columns, team = static_cast<int>(threadIdx.x) / kTeam,
            own = static_cast<int>(threadIdx.x) % kTeam;
  const float* from = job.a.x + static_cast<int64_t>(std::min(team, job.vectors - 1)) * columns;
  float* to = space.x + team * space.stride;
  const bool is_rms = job.norm.is_rms;
  float sum = 0, mean = 0;
  for (int i = own; i < columns; i += kTeam) {
    const float x = from[i];
    to[i] = x;
    sum += is_rms ? x * x : x;
  }
  sum = team_sum<kVectors>(sum);
  if (!is_rms) {
    mean = sum / static_cast<float>(columns);
    sum = 0;
    for (int i = own; i < columns; i += kTeam) sum += (to[i] - mean) * (to[i] - mean);
    sum = team_sum<kVectors>(sum);
  }
  const float scale = rsqrtf(sum / static_cast<float>(columns) + job.norm.eps);
  for (int i = own; i < columns; i += kTeam)
    to[i] = (to[i] - mean) * scale * space.weight[i] + space.bias[i];
  __syncthreads();
}

// Rows of whole packs: the vectors as they lie.
__device__ void copy_vectors(const float* from, int elements, float* to) {
  constexpr int kSize = Pack<float>::kSize;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < elements / kSize; i += kThreads)
    reinterpret_cast<Pack<float>*>(to)[i] = reinterpret_cast<const Pack<float>*>(from)[i];
}

// Waits for the vectors.
template <int kVectors>
__device__ Vectors await_vectors(const Job& job) {
  if (job.norm.weight) {
    const NormSpace space = norm_space(job, kVectors);
    load_norm(job.norm, job.a.columns, space);
    await_inputs();
    normalize<kVectors>(job, space);
    return {space.x, nullptr, space.stride, 0};
  }
  await_inputs();
  if (!job.staged) return {job.a.x, job.b.x, job.a.columns, job.b.columns};
  float *a = shared_memory<float>(), *b = a + job.vectors * job.a.columns;
  copy_vectors(job.a.x, job.vectors * job.a.columns, a);
  copy_vectors(job.b.x, job.vectors * job.b.columns, b);
  __syncthreads();
  return {a, b, job.a.columns, job.b.columns};
}

// The weights of later launches, on their way to L2 while this one waits for its vectors.
__device__ void prefetch_next(const Jobs& jobs) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x,
                threads = int64_t{gridDim.x} * kThreads;
#pragma unroll
  for (const DecodeBytes& next : jobs.next) prefetch_lines(next.data, 0, next.size, thread, threads);
}

// Rows of any length, slowly.
template <class Float, class Rows>
__device__ void multiply_elements(
    const Job& job, const Vectors& x, int first_turn, int stride, Rows& rows) {
  for (int turn = first_turn; turn < job.groups; turn += stride) {
    rows.load_bias(turn);
    rows.load_before(turn);
    rows.template add_elements<Float>(turn, job.a, x.a, x.a_stride);
    rows.template add_elements<Float>(turn, job.b, x.b, x.b_stride);
    rows.finish(turn, rows.bias);
  }
}

template <WeightType kType, int kVectors>
__global__ void __launch_bounds__(kThreads, blocks_of_processor(kVectors))
    product_kernel(const __grid_constant__ Jobs jobs) {
  let_next_start();
  const int index = static_cast<int>(blockIdx.x);
  const bool is_first = index < jobs.first_blocks;
  const Job& job = is_first ? jobs.first : jobs.second;
  const int block = is_first ? index : index - jobs.first_blocks,
            blocks = is_first ? jobs.first_blocks : static_cast<int>(gridDim.x) - jobs.first_blocks,
            groups_of_block = kWarps >> job.sharing_log, stride = blocks * groups_of_block;

  Rows<kType, kVectors> rows(job);
  Cursor at{block * groups_of_block, 0};
  if (job.in_packs) rows.load(at);
  prefetch_next(jobs);
  const Vectors x = await_vectors<kVectors>(job);
  if constexpr (kType != WeightType::kQ8) {
    using Float = std::conditional_t<kType == WeightType::kF32, float, Bf16>;
    if (!job.in_packs) return multiply_elements<Float>(job, x, at.turn, stride, rows);
  }
  while (at.turn < job.groups) {
    if (at.first == 0) rows.load_before(at.turn);
    rows.multiply(at, x);
    Cursor next{at.turn, at.first + rows.round()};
    if (next.first >= rows.all_packs()) next = {at.turn + stride, 0};
    const float bias = rows.bias;
    if (next.turn < job.groups) rows.load(next);
    if (next.turn != at.turn) rows.finish(at.turn, bias);
    at = next;
  }
}

Term term_of(const WeightMatrix& w, const float* x) {
  const int elements = elements_of_pack(w.type);
  if (w.type == WeightType::kQ8 && (w.columns % kQ8Block != 0 || !aligned(w.data) || !aligned(x)))
    throw std::invalid_argument("8-bit weights come in blocks of 32, aligned to 16 bytes");
  return {static_cast<const unsigned char*>(w.data),
          w.scales,
          w.bias,
          x,
          static_cast<int>(w.columns),
          static_cast<int>(w.columns / elements)};
}

bool in_packs(const WeightMatrix& w, const float* x) {
  return w.columns % elements_of_pack(w.type) == 0 && aligned(w.data) && aligned(x);
}
bool in_packs(const DecodeProduct& p) {
  return in_packs(p.w, p.x) && (p.also.rows == 0 || in_packs(p.also, p.also_x));
}

// Rows are shared by more warps while there are too few of them to keep all multiprocessors loading
// and a warp's own part is still long.
int log_of_sharing(const Job& job, int vectors) {
  const int64_t enough = int64_t{multiprocessors()} * kWarps,
                plenty = enough * blocks_of_processor(vectors);
  int log = 0;
  for (; 1 << log < kWarps; ++log) {
    const int64_t warps = int64_t{job.groups} << log;
    const int of_lane = (job.a.packs + job.b.packs) / (kWarp << log);  // packs of a row
    if (warps >= plenty || of_lane < 2 || (warps >= enough && of_lane <= packs_ahead(vectors)))
      break;
  }
  return log;
}

// Shared memory of a launch: what a norm needs, or the vectors if they are in packs and few.
int64_t shared_bytes(const DecodeProduct& p, int64_t vectors) {
  constexpr int64_t kFew = 48 * 1024, kSize = static_cast<int64_t>(sizeof(float));
  if (p.norm.weight) return (vectors + 2) * ((p.w.columns + 3) / 4 * 4) * kSize;
  const int64_t bytes = vectors * (p.w.columns + p.also.columns) * kSize;
  return in_packs(p) && bytes <= kFew ? bytes : 0;
}

// The product for vectors [begin, begin + count), as the kernel for `vectors` takes it.
Job job_of(const DecodeProduct& p, int64_t begin, int64_t count, int vectors) {
  const int rows = rows_of_warp(vectors);
  Job job{};
  job.a = term_of(p.w, p.x + begin * p.w.columns);
  if (p.also.rows > 0) job.b = term_of(p.also, p.also_x + begin * p.also.columns);
  job.in_packs = in_packs(p);
  const bool is_swiglu = p.epilogue == DecodeEpilogue::kSwiglu;
  job.norm = p.norm;
  job.epilogue = p.epilogue;
  job.rows = static_cast<int>(p.w.rows);
  job.outputs = is_swiglu ? job.rows / 2 : job.rows;
  job.y = p.y + begin * job.outputs;
  job.vectors = static_cast<int>(count);
  job.groups = static_cast<int>(blocks_for(p.w.rows, rows));
  if (is_swiglu) job.groups = static_cast<int>(blocks_for(job.outputs, rows / 2));
  job.sharing_log = log_of_sharing(job, vectors);
  job.staged = shared_bytes(p, vectors) > 0;
  return job;
}

int64_t blocks_of(const Job& job, int vectors) {
  return std::min<int64_t>(int64_t{multiprocessors()} * blocks_of_processor(vectors),
                           blocks_for(job.groups, kWarps >> job.sharing_log));
}

using Kernel = void (*)(Jobs);

template <WeightType kType>
Kernel kernel_for(int vectors) {
  switch (vectors) {
    case 1:
      return product_kernel<kType, 1>;
    case 2:
      return product_kernel<kType, 2>;
    case 4:
      return product_kernel<kType, 4>;
    default:
      return product_kernel<kType, 8>;
  }
}

Kernel kernel_for(WeightType type, int vectors) {
  switch (type) {
    case WeightType::kF32:
      return kernel_for<WeightType::kF32>(vectors);
    case WeightType::kBf16:
      return kernel_for<WeightType::kBf16>(vectors);
    default:
      return kernel_for<WeightType::kQ8>(vectors);
  }
}

// Vectors that meet the weights in one launch, a power of two: `left` if they fit. Two blocks of
// an H100 have kGood bytes each.
int vectors_of_launch(const DecodeProduct& p, int64_t left) {
  constexpr int64_t kGood = 100 * 1024;
  const int64_t most = most_shared_memory(), good = std::min(kGood, most);
  int vectors = 1;
  while (vectors < kMostVectors && vectors < left && shared_bytes(p, 2 * vectors) <= good)
    vectors *= 2;
  if (p.norm.weight && p.w.columns > decode_most_norm_columns())
    throw std::invalid_argument("decoding on a GPU: a norm over " + std::to_string(p.w.columns) +
                                " columns does not fit into shared memory");
  return vectors;
}

void check_product(const DecodeProduct& p) {
  if (p.also.rows > 0 && (p.also.rows != p.w.rows || p.also.type != p.w.type || p.norm.weight))
    throw std::invalid_argument(
        "a sum of products takes two matrices of the same rows and type, and no norm");
}

void launch_products(int64_t streams, const DecodeProduct& a, const DecodeProduct* b) {
  for (int64_t begin = 0; begin < streams;) {
    int vectors = vectors_of_launch(a, streams - begin);
    if (b) vectors = std::min(vectors, vectors_of_launch(*b, streams - begin));
    const int64_t count = std::min<int64_t>(vectors, streams - begin);
    Jobs jobs{};
    std::copy(std::begin(a.next), std::end(a.next), jobs.next);
    jobs.first = job_of(a, begin, count, vectors);
    jobs.first_blocks = static_cast<int>(blocks_of(jobs.first, vectors));
    int64_t blocks = jobs.first_blocks, bytes = shared_bytes(a, vectors);
    if (b) {
      jobs.second = job_of(*b, begin, count, vectors);
      blocks += blocks_of(jobs.second, vectors);
      bytes = std::max(bytes, shared_bytes(*b, vectors));
    }
    launch_early(kernel_for(a.w.type, vectors),
                 dim3(static_cast<unsigned>(blocks)),
                 dim3(kThreads),
                 static_cast<int>(bytes),
                 jobs);
    begin += count;
  }
}

}  // namespace

int64_t decode_most_norm_columns() {
  return most_shared_memory() / (3 * static_cast<int64_t>(sizeof(float))) / 4 * 4;
}

void decode_product(int64_t streams, const DecodeProduct& product) {
  check_product(product);
  launch_products(streams, product, nullptr);
}

void decode_products(int64_t streams, const DecodeProduct& a, const DecodeProduct& b) {
  check_product(a);
  check_product(b);
  if (a.w.type != b.w.type)
    throw std::invalid_argument("products side by side take weights of the same type");
  launch_products(streams, a, &b);
}

}  // namespace basin::kernels
