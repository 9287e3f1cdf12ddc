#pragma once

namespace syncnorm::cuda::tuning {

// The single pass: blocks wait for each other, so all of them are on the device at once.
inline constexpr int kOnceThreads = 256;
inline constexpr int kOnceBlocksPerSm = 2;
// Pieces of 16 bytes that a thread loads at a time.
inline constexpr int kForwardOnceUnroll = 2;
inline constexpr int kBackwardOnceUnroll = 1;

}  // namespace syncnorm::cuda::tuning
