# Decides from SYNCBN_CUDA whether the CUDA backend is built.
if(NOT SYNCBN_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "SYNCBN_CUDA is '${SYNCBN_CUDA}'. Expected AUTO, ON or OFF.")
endif()
if(SYNCBN_CUDA STREQUAL "ON")
  message(FATAL_ERROR
    "SYNCBN_CUDA=ON, but this version of syncbn has no CUDA kernels. Configure with "
    "SYNCBN_CUDA=AUTO or OFF: calls on CUDA devices then fail with 'unsupported'.")
endif()
if(SYNCBN_CUDA STREQUAL "AUTO")
  message(STATUS "syncbn: no CUDA backend is built (this version has no CUDA kernels)")
endif()
