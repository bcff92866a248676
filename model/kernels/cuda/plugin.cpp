#include "model/kernels/cuda/plugin.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>

#include "model/kernels/cuda/device.h"

namespace basin::kernels {

cudaStream_t current_stream() {
  return c10::cuda::getCurrentCUDAStream();
}

// LibTorch's allocator knows the stream, so that memory may be given back before the kernels that
// use it have run, and serves a graph that is being captured from the graph's own pool.
Scratch::Scratch(int64_t bytes)
    : data_(bytes == 0 ? nullptr
                       : c10::cuda::CUDACachingAllocator::raw_alloc_with_stream(
                             static_cast<size_t>(bytes), current_stream())) {}

Scratch::~Scratch() {
  if (data_) c10::cuda::CUDACachingAllocator::raw_delete(data_);
}

namespace {

// A first run sets up what libraries set up once, the second finds memory as it will be.
constexpr int kRunsBeforeCapture = 2;

void* capture(const std::function<void()>& body) {
  auto graph = std::make_unique<at::cuda::CUDAGraph>();
  c10::cuda::device_synchronize();
  {
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
    for (int i = 0; i < kRunsBeforeCapture; ++i) body();
    c10::cuda::device_synchronize();
    // What the runs have left is of no use to the graph, which keeps its own memory.
    c10::cuda::CUDACachingAllocator::emptyCache();
    graph->capture_begin();
    body();
    graph->capture_end();
  }
  c10::cuda::device_synchronize();
  return graph.release();
}

void replay(void* graph) {
  static_cast<at::cuda::CUDAGraph*>(graph)->replay();
}
void release(void* graph) {
  delete static_cast<at::cuda::CUDAGraph*>(graph);
}

std::string device_name() {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, c10::cuda::current_device()));
  return properties.name;
}

int compute_capability() {
  const int device = c10::cuda::current_device();
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return 10 * major + minor;
}

int64_t peak_memory_bytes() {
  using namespace c10::cuda::CUDACachingAllocator;
  return getDeviceStats(c10::cuda::current_device()).reserved_bytes[0].peak;
}
void reset_peak_memory() {
  c10::cuda::CUDACachingAllocator::resetPeakStats(c10::cuda::current_device());
}

}  // namespace
}  // namespace basin::kernels

extern "C" __attribute__((visibility("default"))) const basin::kernels::CudaPlugin*
basin_cuda_plugin() {
  using namespace basin::kernels;
  static const CudaPlugin plugin{linked_kernels(),
                                 &rotary_split<Bf16>,
                                 &rotary_merge<Bf16>,
                                 &fold_sink<Bf16>,
                                 &sink_logit_gradient<Bf16>,
                                 &takes_norm_pair<Bf16>,
                                 &norm_pair_forward<Bf16>,
                                 &norm_pair_backward<Bf16>,
                                 &sum_rows<Bf16>,
                                 linked_decode_kernels(),
                                 &takes_decode_layers,
                                 &decode_layers,
                                 &decode_layers_scratch,
                                 &capture,
                                 &replay,
                                 &release,
                                 &device_name,
                                 &compute_capability,
                                 &peak_memory_bytes,
                                 &reset_peak_memory};
  return &plugin;
}
