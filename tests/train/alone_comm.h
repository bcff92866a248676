// A single process whose sums a test can tamper with.
#pragma once

#include <functional>
#include <memory>

#include "train/comm.h"

namespace basin {

class AloneComm : public Comm {
 public:
  /// `tamper` sees each tensor that is to be summed over ranks.
  explicit AloneComm(std::function<void(const at::Tensor&)> tamper) : tamper_(std::move(tamper)) {}
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  std::unique_ptr<Pending> start_all_reduce_sum(const at::Tensor& tensor) override {
    tamper_(tensor);
    return alone_->start_all_reduce_sum(tensor);
  }
  std::unique_ptr<Pending> start_reduce_scatter_sum(const at::Tensor& from,
                                                    const at::Tensor& to) override {
    return alone_->start_reduce_scatter_sum(from, to);
  }
  std::unique_ptr<Pending> start_all_gather(const at::Tensor& from, const at::Tensor& to) override {
    return alone_->start_all_gather(from, to);
  }
  void broadcast(at::Tensor&, int64_t) override {}
  void barrier() override {}

 private:
  std::unique_ptr<Comm> alone_ = make_single_comm();
  std::function<void(const at::Tensor&)> tamper_;
};

}  // namespace basin
