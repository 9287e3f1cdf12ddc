#include "backend/cpu/dispatch.hpp"

#include <cstdlib>
#include <cstring>
#include <span>
#if defined(SYNCNORM_HAVE_AVX2)
#include <cpuid.h>
#endif

namespace syncnorm::cpu {

// Each is kernels.cpp and kernels_any.cpp compiled for that instruction set; indexed by
// syncnorm_dtype.
namespace generic {
extern const Kernels kKernels[4];
extern const Kernels kAnyKernels[4];
}  // namespace generic
#if defined(SYNCNORM_HAVE_AVX2)
namespace avx2 {
extern const Kernels kKernels[4];
extern const Kernels kAnyKernels[4];
}  // namespace avx2
#endif
#if defined(SYNCNORM_HAVE_AVX512)
namespace avx512 {
extern const Kernels kKernels[4];
extern const Kernels kAnyKernels[4];
}  // namespace avx512
#endif

namespace {

struct InstructionSet {
  const char* name;
  bool runs_here;
  const Kernels* kernels;
  const Kernels* any_kernels;
};

#if defined(__aarch64__)
constexpr const char* kBaseline = "neon";  // part of every arm64
#else
constexpr const char* kBaseline = "generic";
#endif

#if defined(SYNCNORM_HAVE_AVX2)
// clang before 18 rejects __builtin_cpu_supports("f16c"). CPUID reports the processor alone: that
// the operating system saves AVX registers is part of the builtin's answer for avx2.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

// The best that the machine has, or the one that the environment names if the machine has it.
InstructionSet choose() {
  const InstructionSet all[] = {
#if defined(SYNCNORM_HAVE_AVX512)
      {"avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"),
       avx512::kKernels, avx512::kAnyKernels},
#endif
#if defined(SYNCNORM_HAVE_AVX2)
      {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(),
       avx2::kKernels, avx2::kAnyKernels},
#endif
      {kBaseline, true, generic::kKernels, generic::kAnyKernels},
  };
  const char* wanted = std::getenv("SYNCNORM_CPU_ISA");
  if (wanted != nullptr)
    for (const InstructionSet& isa : all)
      if (isa.runs_here && std::strcmp(isa.name, wanted) == 0) return isa;
  for (const InstructionSet& isa : all)
    if (isa.runs_here) return isa;
  return std::span(all).back();
}

const InstructionSet& chosen() {
  static const InstructionSet isa = choose();
  return isa;
}

}  // namespace

const char* instruction_set() { return chosen().name; }

const Kernels& kernels_for(const Problem& problem) {
  const syncnorm_activation activation = problem.options.activation;
  const bool any =
      activation == SYNCNORM_ELU || (problem.in_place() && activation != SYNCNORM_IDENTITY);
  return (any ? chosen().any_kernels : chosen().kernels)[static_cast<int>(problem.dtype)];
}

}  // namespace syncnorm::cpu
