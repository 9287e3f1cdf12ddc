#include "comm/nccl_cuda.hpp"

#include "comm/process_life.hpp"
#include "support/cuda_devices.hpp"
#include "support/cuda_runtime.hpp"
#include "support/error.hpp"

namespace syncnorm::nccl {

void check_device(int device) {
  const int count = require_cuda_devices();
  check(device >= 0 && device < count, "NCCL communicator: device is ", device,
        ", expected 0 <= device < ", count, ", the CUDA devices that this process sees");
}

OutsideCaptures::OutsideCaptures() noexcept {
  static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_));
}

OutsideCaptures::~OutsideCaptures() {
  static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_));
}

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

CudaEvent::~CudaEvent() {
  if (event_ == nullptr || process_is_over()) return;
  try {
    const DeviceGuard guard(device_);
    static_cast<void>(cudaEventDestroy(event_));
  } catch (const Error&) {  // the device is lost, and the event with it
  }
}

void CudaEvent::record(cudaStream_t stream) {
  if (event_ == nullptr) {
    check_cuda(cudaGetDevice(&device_), "cudaGetDevice");
    check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming),
               "cudaEventCreateWithFlags");
  }
  check_cuda(cudaEventRecord(event_, stream), "cudaEventRecord");
}

void CudaEvent::make_wait(cudaStream_t stream) const {
  check_cuda(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
}

bool CudaEvent::done() const {
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());  // it is remembered as if it were an error
    return false;
  }
  check_cuda(status, "cudaEventQuery");
  return true;
}

}  // namespace syncnorm::nccl
