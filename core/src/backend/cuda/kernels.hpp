// The kernels of this library, as a device sees them.
#pragma once

namespace syncnorm::cuda {

// Called while the library is loaded, once for each kernel. Returns true.
bool list_kernel(const void* kernel);

// Has the device load every kernel now. The driver loads a kernel at its first launch otherwise,
// for which it may wait until the device is idle: never, where it runs a collective that waits for
// a kernel of another rank of this process.
void load_kernels(int device);

// Blocks of `threads` threads that one multiprocessor of the device holds at a time; asked once for
// each kernel and device.
int blocks_per_sm(const void* kernel, int threads, int device);

}  // namespace syncnorm::cuda
