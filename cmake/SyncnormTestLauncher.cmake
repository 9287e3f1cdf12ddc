# syncnorm_test_launcher(<variable>): what must stand before the command of a test. ThreadSanitizer
# runtimes of some compilers refuse to start where the kernel randomizes addresses widely; there the
# tests run under `setarch -R`.
function(syncnorm_test_launcher result)
  set(${result} "" PARENT_SCOPE)
  if(NOT SYNCNORM_SANITIZE STREQUAL "thread" OR CMAKE_CROSSCOMPILING)
    return()
  endif()
  if(NOT DEFINED SYNCNORM_TSAN_LAUNCHER)
    set(program "${CMAKE_CURRENT_BINARY_DIR}/tsan_probe")
    try_compile(compiled
      SOURCE_FROM_CONTENT tsan_probe.cpp "int main() { return 0; }\n"
      COMPILE_DEFINITIONS -fsanitize=thread LINK_OPTIONS -fsanitize=thread
      COPY_FILE "${program}")
    if(NOT compiled)
      message(FATAL_ERROR "SYNCNORM_SANITIZE=thread, but ${CMAKE_CXX_COMPILER} cannot link a "
                          "program with -fsanitize=thread: install its libtsan or take another "
                          "compiler.")
    endif()
    execute_process(COMMAND "${program}" RESULT_VARIABLE plain OUTPUT_QUIET ERROR_QUIET)
    execute_process(COMMAND setarch -R "${program}" RESULT_VARIABLE fixed OUTPUT_QUIET ERROR_QUIET)
    if(plain EQUAL 0)
      set(launcher "")
    elseif(fixed EQUAL 0)
      set(launcher setarch -R)
    else()
      message(FATAL_ERROR
        "Programs built with -fsanitize=thread do not start here, with or without address "
        "randomization: lower the sysctl vm.mmap_rnd_bits to 28.")
    endif()
    set(SYNCNORM_TSAN_LAUNCHER "${launcher}" CACHE INTERNAL "In front of ThreadSanitizer tests")
  endif()
  set(${result} ${SYNCNORM_TSAN_LAUNCHER} PARENT_SCOPE)
endfunction()
