# syncnorm_cuda_architectures(<variable> <nvcc>): what is built where the user names no
# architectures, less what this nvcc does not know: native code for each, and PTX of the last for
# what comes after.
function(syncnorm_cuda_architectures result nvcc)
  execute_process(COMMAND "${nvcc}" --list-gpu-code
                  OUTPUT_VARIABLE known COMMAND_ERROR_IS_FATAL ANY)
  set(architectures "")
  foreach(architecture IN ITEMS 75 80 86 89 90 100 120)
    if(known MATCHES "sm_${architecture}[ \n]")
      list(APPEND architectures ${architecture})
    endif()
  endforeach()
  list(POP_BACK architectures last)
  list(TRANSFORM architectures APPEND "-real")
  set(${result} ${architectures} ${last} PARENT_SCOPE)
endfunction()
