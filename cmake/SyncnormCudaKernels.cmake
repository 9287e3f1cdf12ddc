# syncnorm_add_cuda(<target> <host> <sources>...): the object library of the CUDA backend, whose
# kernels and C++ files see the headers of <host>. What it becomes part of has the CUDA runtime
# linked statically: it then loads where there is neither a driver nor a toolkit.

function(syncnorm_add_cuda target host)
  add_library(${target} OBJECT ${ARGN})
  target_include_directories(${target} PRIVATE
    $<TARGET_PROPERTY:${host},INTERFACE_INCLUDE_DIRECTORIES>)
  target_include_directories(${target} SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  syncnorm_compile_options(${target})
  syncnorm_harden(${target})
  target_compile_features(${target} PRIVATE cuda_std_20)
  set_target_properties(${target} PROPERTIES
    CUDA_EXTENSIONS OFF
    UNITY_BUILD OFF # few large files
    CUDA_VISIBILITY_PRESET hidden
    CUDA_RUNTIME_LIBRARY Static)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off -fno-math-errno>
    # One rounding per operation, as on the CPU: where a kernel wants fma, it says so.
    $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false -Xcompiler=-ffp-contract=off --expt-relaxed-constexpr
                               -Xfatbin=-compress-all>)
  list(LENGTH CMAKE_CUDA_ARCHITECTURES count)
  if(count GREATER 1)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--threads=2>)
  endif()
endfunction()
