// How many blocks of a kernel a device holds.
#pragma once

namespace syncnorm::cuda {

// Blocks of `threads` threads, the most that the kernel is launched with, that one multiprocessor
// of the device holds at a time. Asked once for each kernel and device.
int blocks_per_sm(const void* kernel, int threads, int device);

}  // namespace syncnorm::cuda
