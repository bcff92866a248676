// Where kernels go and where their memory comes from: what launch.cuh asks of the library that
// links the kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace basin::kernels {

/// The stream that kernels go to. Defined by whoever links the kernels.
cudaStream_t current_stream();

/// Memory on the device for kernels of the current stream, given back when the object goes: what
/// was launched before may still use it.
class Scratch {
 public:
  explicit Scratch(int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

/// Throws std::runtime_error with what CUDA says.
inline void check(cudaError_t status) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

}  // namespace basin::kernels
