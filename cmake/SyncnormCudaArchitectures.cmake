# Which architectures the CUDA backend is built for, where the user names none. Each function that
# returns architectures returns native code for each, and PTX of the last for newer devices.

# syncnorm_known_architectures(<variable> <nvcc>): the numbers of nvcc's architectures, ascending.
function(syncnorm_known_architectures result nvcc)
  execute_process(COMMAND "${nvcc}" --list-gpu-code OUTPUT_VARIABLE codes
                  COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "sm_[0-9]+[ \r\n]" codes "${codes}")
  string(REGEX MATCHALL "[0-9]+" known "${codes}")
  list(SORT known COMPARE NATURAL)
  set(${result} ${known} PARENT_SCOPE)
endfunction()

function(syncnorm_with_ptx_of_the_last result)
  set(architectures ${ARGN})
  list(POP_BACK architectures last)
  list(TRANSFORM architectures APPEND "-real")
  set(${result} ${architectures} ${last} PARENT_SCOPE)
endfunction()

# syncnorm_all_architectures(<variable> <nvcc>): every supported one that this nvcc knows.
function(syncnorm_all_architectures result nvcc)
  syncnorm_known_architectures(known "${nvcc}")
  set(architectures "")
  foreach(architecture IN ITEMS 75 80 86 89 90 100 120)
    if(architecture IN_LIST known)
      list(APPEND architectures ${architecture})
    endif()
  endforeach()
  syncnorm_with_ptx_of_the_last(architectures ${architectures})
  set(${result} ${architectures} PARENT_SCOPE)
endfunction()

# syncnorm_visible_gpus(<variable>): the compute capabilities of this machine's GPUs, as 90 for 9.0;
# empty without GPUs or nvidia-smi.
function(syncnorm_visible_gpus result)
  set(capabilities "")
  find_program(nvidia_smi nvidia-smi NO_CACHE)
  if(nvidia_smi)
    execute_process(COMMAND "${nvidia_smi}" --query-gpu=compute_cap --format=csv,noheader
                    OUTPUT_VARIABLE lines RESULT_VARIABLE status ERROR_QUIET TIMEOUT 30)
    if(status EQUAL 0)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]" capabilities "${lines}")
      list(TRANSFORM capabilities REPLACE "\\." "")
      list(REMOVE_DUPLICATES capabilities)
      list(SORT capabilities COMPARE NATURAL)
    endif()
  endif()
  set(${result} ${capabilities} PARENT_SCOPE)
endfunction()

# syncnorm_architectures_of(<variable> <nvcc> <capabilities>...): those of the given GPUs; empty
# if none of them is supported. A GPU that is newer than nvcc gets PTX of nvcc's newest.
function(syncnorm_architectures_of result nvcc)
  syncnorm_known_architectures(known "${nvcc}")
  list(GET known -1 newest)
  set(architectures "")
  foreach(capability IN LISTS ARGN)
    if(capability IN_LIST known AND capability GREATER_EQUAL 75)
      list(APPEND architectures ${capability})
    elseif(capability GREATER newest)
      list(APPEND architectures ${newest})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES architectures)
  if(architectures)
    syncnorm_with_ptx_of_the_last(architectures ${architectures})
  endif()
  set(${result} ${architectures} PARENT_SCOPE)
endfunction()
