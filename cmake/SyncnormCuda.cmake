# Decides from SYNCNORM_CUDA and the visible GPUs whether the CUDA backend is built, and for which
# architectures:
#
#   CMAKE_CUDA_ARCHITECTURES or CUDAARCHS is given   those
#   SYNCNORM_CUDA_ARCHS=all                          all supported ones
#   GPUs are visible                                 theirs
#   no GPU is visible                                AUTO: no CUDA backend; ON: all
#
# Sets syncnorm_cuda; where it is ON, the language is enabled and CMAKE_CUDA_ARCHITECTURES is set.
# Included once, by the top directory.
include(CheckLanguage)
include(SyncnormCudaArchitectures)
include(SyncnormFindNvcc)

set(syncnorm_nvcc_minimum 12.4)

# Why CUDA is not built: a line under AUTO, an error under ON.
function(syncnorm_without_cuda)
  list(JOIN ARGN "" reason)
  if(SYNCNORM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SYNCNORM_CUDA=ON, but ${reason} SYNCNORM_CUDA=OFF builds without CUDA.")
  endif()
  message(STATUS "syncnorm: no CUDA backend is built: ${reason}")
endfunction()

# Leaves CMAKE_CUDA_COMPILER in the cache, or says why there is none that works.
function(syncnorm_check_cuda_compiler)
  if(CMAKE_CUDA_COMPILER)
    set(nvcc "${CMAKE_CUDA_COMPILER}")
  else()
    unset(CMAKE_CUDA_COMPILER CACHE) # what an earlier configure did not find may be here now
    syncnorm_find_nvcc(nvcc)
  endif()
  if(NOT nvcc)
    syncnorm_without_cuda("nvcc was not found: not in CUDACXX, on the PATH, in CUDA_HOME or in "
      "/usr/local/cuda, nor as a package of Python. Install the CUDA toolkit, "
      "${syncnorm_nvcc_minimum} or newer, or its packages as docs/building.md says.")
    return()
  endif()

  set(ENV{CUDACXX} "${nvcc}")
  if("$ENV{CUDAHOSTCXX}" STREQUAL "")
    set(ENV{CUDAHOSTCXX} "${CMAKE_CXX_COMPILER}") # one C++ compiler for the whole library
  endif()
  syncnorm_find_cudart_folder(folder "${nvcc}")
  if(folder)
    set(ENV{LIBRARY_PATH} "${folder}:$ENV{LIBRARY_PATH}")
  endif()
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    syncnorm_without_cuda("'${nvcc}' cannot compile with '$ENV{CUDAHOSTCXX}' for the host "
      "(CMakeFiles/CMakeConfigureLog.yaml in the build folder says why). Set CUDACXX and "
      "CUDAHOSTCXX to an nvcc and a C++ compiler that it takes.")
  endif()
endfunction()

if(NOT SYNCNORM_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "SYNCNORM_CUDA is '${SYNCNORM_CUDA}'. Expected AUTO, ON or OFF.")
endif()
if(SYNCNORM_SIMT AND SYNCNORM_CUDA STREQUAL "ON")
  message(FATAL_ERROR "SYNCNORM_SIMT=ON runs the CUDA sources on the CPU, instead of what "
                      "SYNCNORM_CUDA=ON builds. Expected one of them.")
endif()
# From the environment at each configure, so that what an earlier one found there is not kept.
set(syncnorm_archs "${SYNCNORM_CUDA_ARCHS}")
if(syncnorm_archs STREQUAL "")
  set(syncnorm_archs "$ENV{SYNCNORM_CUDA_ARCHS}")
endif()
if(NOT syncnorm_archs MATCHES "^(all)?$")
  message(FATAL_ERROR
    "SYNCNORM_CUDA_ARCHS is '${syncnorm_archs}'. Expected 'all', or nothing for the GPUs of this "
    "machine. Set CMAKE_CUDA_ARCHITECTURES for a choice of your own.")
endif()
set(syncnorm_cuda OFF)
if(SYNCNORM_CUDA STREQUAL "OFF" OR SYNCNORM_SIMT)
  return()
endif()

# A plain variable, so that neither the cache nor a parent project has our choice as its own; and
# CMake reads CUDAARCHS in the first configure only.
if("${CMAKE_CUDA_ARCHITECTURES}" STREQUAL "" AND NOT "$ENV{CUDAARCHS}" STREQUAL "")
  set(CMAKE_CUDA_ARCHITECTURES "$ENV{CUDAARCHS}")
endif()
set(syncnorm_choice "set by CMAKE_CUDA_ARCHITECTURES or CUDAARCHS")
set(syncnorm_choose_architectures OFF)
if("${CMAKE_CUDA_ARCHITECTURES}" STREQUAL "")
  set(syncnorm_choose_architectures ON)
  syncnorm_visible_gpus(syncnorm_gpus)
  if(NOT syncnorm_gpus AND NOT syncnorm_archs AND SYNCNORM_CUDA STREQUAL "AUTO")
    syncnorm_without_cuda("no GPU is visible to nvidia-smi. SYNCNORM_CUDA=ON builds it for all "
      "architectures, CMAKE_CUDA_ARCHITECTURES=90 for one.")
    return()
  endif()
endif()
syncnorm_check_cuda_compiler()
if(NOT CMAKE_CUDA_COMPILER)
  return()
endif()

if(syncnorm_choose_architectures)
  set(CMAKE_CUDA_ARCHITECTURES OFF)
endif()
enable_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER_ID STREQUAL "NVIDIA"
   OR CMAKE_CUDA_COMPILER_VERSION VERSION_LESS syncnorm_nvcc_minimum)
  syncnorm_without_cuda("${CMAKE_CUDA_COMPILER} is ${CMAKE_CUDA_COMPILER_ID} "
    "${CMAKE_CUDA_COMPILER_VERSION}. Expected nvcc ${syncnorm_nvcc_minimum} or newer.")
  return()
endif()
if(syncnorm_choose_architectures AND NOT syncnorm_archs AND syncnorm_gpus)
  syncnorm_architectures_of(CMAKE_CUDA_ARCHITECTURES "${CMAKE_CUDA_COMPILER}" ${syncnorm_gpus})
  string(CONCAT syncnorm_choice "of the visible GPUs, SYNCNORM_CUDA_ARCHS=all or "
         "CMAKE_CUDA_ARCHITECTURES choose others")
  if(NOT CMAKE_CUDA_ARCHITECTURES AND SYNCNORM_CUDA STREQUAL "AUTO")
    list(TRANSFORM syncnorm_gpus REPLACE "(.)$" ".\\1")
    list(JOIN syncnorm_gpus ", " syncnorm_gpus)
    syncnorm_without_cuda("the visible GPUs have compute capability ${syncnorm_gpus}. Expected 7.5 "
      "or newer. SYNCNORM_CUDA=ON builds it for all architectures.")
    return()
  endif()
endif()
if(syncnorm_choose_architectures AND NOT CMAKE_CUDA_ARCHITECTURES)
  syncnorm_all_architectures(CMAKE_CUDA_ARCHITECTURES "${CMAKE_CUDA_COMPILER}")
  if(syncnorm_archs)
    set(syncnorm_choice "all, set by SYNCNORM_CUDA_ARCHS")
  else()
    string(CONCAT syncnorm_choice "all, because no supported GPU is visible, "
           "CMAKE_CUDA_ARCHITECTURES=90 builds for one, several times faster")
  endif()
endif()
set(syncnorm_cuda ON)
message(STATUS "syncnorm: CUDA backend by nvcc ${CMAKE_CUDA_COMPILER_VERSION} for architectures "
               "${CMAKE_CUDA_ARCHITECTURES} (${syncnorm_choice})")
