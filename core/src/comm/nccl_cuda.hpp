// The little that the NCCL communicator needs of the CUDA runtime.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace syncnorm::nccl {

// Throws unless the process sees CUDA device `device`. Starts the CUDA runtime.
void check_device(int device);

// While it lives, calls of this thread leave graph captures of other threads alone. (Otherwise to
// query an event, for instance, would end them.)
class OutsideCaptures {
 public:
  OutsideCaptures() noexcept;
  ~OutsideCaptures();
  OutsideCaptures(const OutsideCaptures&) = delete;
  OutsideCaptures& operator=(const OutsideCaptures&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

bool is_capturing(cudaStream_t stream);

// An event without timing, of the device that is current when it is first recorded. One thread
// records, others may query at the same time.
class CudaEvent {
 public:
  CudaEvent() = default;
  ~CudaEvent();
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  void record(cudaStream_t stream);
  void make_wait(cudaStream_t stream) const;
  // Whether the work before the last record is done. Throws what CUDA reports instead.
  bool done() const;

 private:
  cudaEvent_t event_ = nullptr;
  int device_ = 0;
};

}  // namespace syncnorm::nccl
