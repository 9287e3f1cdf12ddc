// Whether the process can still use CUDA and NCCL.
#pragma once

namespace syncnorm {

// From the first call on, the begin of exit (std::exit, the return of main) and forks are noticed.
void observe_process_life();

// Exit has begun, or this is a forked child: what CUDA and NCCL made must not be touched any more.
// CUDA tears itself down at exit in an order that is its own, and does not survive a fork.
bool process_is_over() noexcept;

// Throws where process_is_over(), saying why.
void require_process_alive();

}  // namespace syncnorm
