# syncnorm_add_simt(<target> <host> <sources>...): the object library of the CUDA backend, as
# syncnorm_add_cuda makes it, but for the CPU: kernels are compiled as C++ against the headers of
# tests/simt, and what is linked with it needs syncnorm_simt, which stands for the CUDA runtime.

function(syncnorm_simt_headers result)
  syncnorm_find_nvcc(nvcc)
  cmake_path(GET nvcc PARENT_PATH bin)
  find_path(SYNCNORM_CUDA_HEADERS cuda_runtime_api.h
            HINTS "${bin}/../include" PATHS /usr/local/cuda/include
            DOC "CUDA's headers, for SYNCNORM_SIMT")
  if(NOT SYNCNORM_CUDA_HEADERS)
    message(FATAL_ERROR
      "SYNCNORM_SIMT=ON needs CUDA's headers (not its compiler), but cuda_runtime_api.h was not "
      "found beside nvcc or in /usr/local/cuda. Set SYNCNORM_CUDA_HEADERS to their folder, or "
      "install them with 'pip install --group cuda'.")
  endif()
  set(${result} "${SYNCNORM_CUDA_HEADERS}" PARENT_SCOPE)
endfunction()

# A shared library: the core, the tests and what stands for NCCL see the same devices.
function(syncnorm_add_simt_runtime)
  syncnorm_simt_headers(headers)
  set(simt "${PROJECT_SOURCE_DIR}/tests/simt")
  file(GLOB sources CONFIGURE_DEPENDS "${simt}/engine/*.cpp" "${simt}/runtime/*.cpp")
  add_library(syncnorm_simt SHARED ${sources})
  # simt/include before CUDA's own headers, some of which it replaces.
  target_include_directories(syncnorm_simt PUBLIC "${simt}" "${simt}/include")
  target_include_directories(syncnorm_simt SYSTEM PUBLIC "${headers}")
  target_compile_definitions(syncnorm_simt PUBLIC SYNCNORM_SIMT)
  # Relocations tell which kernels use which __shared__ variables. Within a section the assembler
  # leaves none.
  target_compile_options(syncnorm_simt PUBLIC -ffunction-sections)
  target_link_options(syncnorm_simt PUBLIC LINKER:--emit-relocs)
  target_link_libraries(syncnorm_simt PUBLIC Threads::Threads ${CMAKE_DL_LIBS})
  syncnorm_compile_options(syncnorm_simt)
  set_target_properties(syncnorm_simt PROPERTIES CXX_VISIBILITY_PRESET default) # CUDA's functions
endfunction()

function(syncnorm_add_simt target host)
  syncnorm_add_simt_runtime()
  add_library(${target} OBJECT ${ARGN})
  target_include_directories(${target} PRIVATE
    $<TARGET_PROPERTY:${host},INTERFACE_INCLUDE_DIRECTORIES>)
  target_link_libraries(${target} PRIVATE syncnorm_simt)
  target_compile_options(${target} PRIVATE
    -ffp-contract=off -fno-math-errno -fno-strict-aliasing)
  syncnorm_compile_options(${target})
  set_target_properties(${target} PROPERTIES UNITY_BUILD OFF) # few large files
  set(kernels ${ARGN})
  list(FILTER kernels INCLUDE REGEX "\\.cu$")
  set_source_files_properties(${kernels} PROPERTIES
    LANGUAGE CXX COMPILE_OPTIONS "-Wno-unknown-pragmas") # #pragma unroll
endfunction()
