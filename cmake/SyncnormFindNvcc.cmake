# syncnorm_find_nvcc(<variable>): the environment's CUDACXX, else nvcc on the PATH, below CUDA_HOME,
# CUDA_PATH or /usr/local/cuda, else that of the PyPI package nvidia-cuda-nvcc in the Python in use.
function(syncnorm_find_nvcc result)
  if(NOT "$ENV{CUDACXX}" STREQUAL "")
    set(${result} "$ENV{CUDACXX}" PARENT_SCOPE)
    return()
  endif()
  find_program(nvcc nvcc NO_CACHE PATHS "$ENV{CUDA_HOME}" "$ENV{CUDA_PATH}" /usr/local/cuda
               PATH_SUFFIXES bin)
  if(NOT nvcc)
    syncnorm_find_nvcc_of_python(nvcc)
  endif()
  set(${result} "${nvcc}" PARENT_SCOPE)
endfunction()

function(syncnorm_find_nvcc_of_python result)
  set(nvcc "NOTFOUND")
  find_package(Python3 QUIET COMPONENTS Interpreter)
  if(Python3_FOUND)
    execute_process(
      COMMAND "${Python3_EXECUTABLE}" -c
              "import nvidia; print(*(path + '/cu13/bin' for path in nvidia.__path__), sep=';')"
      OUTPUT_VARIABLE folders OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    find_program(nvcc nvcc NO_CACHE PATHS ${folders} NO_DEFAULT_PATH)
  endif()
  set(${result} "${nvcc}" PARENT_SCOPE)
endfunction()

# syncnorm_find_cudart_folder(<variable> <nvcc>): where the PyPI packages keep the libraries, which
# their nvcc does not look for there; empty for a toolkit.
function(syncnorm_find_cudart_folder result nvcc)
  cmake_path(SET lib NORMALIZE "${nvcc}/../../lib")
  if(NOT EXISTS "${lib}/libcudart_static.a" OR EXISTS "${lib}64")
    set(lib "")
  endif()
  set(${result} "${lib}" PARENT_SCOPE)
endfunction()
