# syncnorm_add_cpu_kernels(<list> <sources> <host>): compiles the sources once per instruction set,
# each time into a namespace (SYNCNORM_ISA) and an object library of its own, whose names are
# returned from the plainest to the widest set. <host>, which chooses at run time, learns by
# SYNCNORM_HAVE_<ISA> which ones exist. No other file of the project has instruction-set flags.

function(syncnorm_cpu_isas result)
  set(processors "${CMAKE_SYSTEM_PROCESSOR}")
  if(APPLE AND CMAKE_OSX_ARCHITECTURES)
    set(processors "${CMAKE_OSX_ARCHITECTURES}")
  endif()
  # With SYNCNORM_SIMT the tests are those of the CUDA backend.
  if(processors MATCHES "^(x86_64|AMD64|amd64)$" AND NOT SYNCNORM_SIMT)
    set(${result} generic avx2 avx512 PARENT_SCOPE)
  else() # on arm64 it has NEON; in a universal binary one processor would refuse the other's flags
    set(${result} generic PARENT_SCOPE)
  endif()
endfunction()

function(syncnorm_add_cpu_kernels result sources host)
  set(flags_generic "")
  set(flags_avx2 -mavx2 -mfma -mf16c)
  set(flags_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c)

  syncnorm_cpu_isas(isas)
  set(targets "")
  foreach(isa IN LISTS isas)
    set(target syncnorm_kernels_${isa})
    add_library(${target} OBJECT ${sources})
    target_include_directories(${target} PRIVATE
      $<TARGET_PROPERTY:${host},INTERFACE_INCLUDE_DIRECTORIES>)
    target_compile_definitions(${target} PRIVATE SYNCNORM_ISA=${isa})
    target_compile_options(${target} PRIVATE
      -ffp-contract=off -fno-math-errno ${flags_${isa}})
    syncnorm_compile_options(${target})
    set_target_properties(${target} PROPERTIES UNITY_BUILD OFF) # two large files, for two cores
    if(SYNCNORM_SIMT) # which tests the other backend
      target_compile_options(${target} PRIVATE -O0)
    endif()
    # GCC takes the deliberately undefined vectors of its own intrinsics for a mistake (bug 105593).
    target_compile_options(${target} PRIVATE
      $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized;-Wno-maybe-uninitialized>)
    string(TOUPPER "${isa}" name)
    target_compile_definitions(${host} PRIVATE SYNCNORM_HAVE_${name}=1)
    list(APPEND targets ${target})
  endforeach()
  list(JOIN isas " " isas)
  message(STATUS "syncnorm: CPU kernels for ${isas}")
  set(${result} ${targets} PARENT_SCOPE)
endfunction()
