# syncnorm_compile_options(<target>...): the language, visibility, warnings and sanitizers of every
# target of this project. Nothing is set globally, so that a parent project is left alone.
# syncnorm_harden(<target>...): what makes memory errors harder to exploit, for what is shipped. Not
# for the CPU kernels: they get sizes that have been checked, and are called for every plane.

set(syncnorm_warnings
    -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
    -Wold-style-cast -Wcast-align -Wcast-qual -Wunused -Wformat=2 -Wundef -Wvla
    -Wimplicit-fallthrough)

# What nvcc's own code, which its host compiler sees as well, can stand. nvcc's -Werror holds for
# the host compiler too.
set(syncnorm_cuda_warnings -Wreorder -Xcompiler=-Wall,-Wextra,-Wconversion,-Wshadow)

set(syncnorm_sanitize_flags "")
if(SYNCNORM_SANITIZE)
  if(NOT SYNCNORM_SANITIZE MATCHES "^(address,undefined|address|undefined|thread)$")
    message(FATAL_ERROR
      "SYNCNORM_SANITIZE is '${SYNCNORM_SANITIZE}'. Expected empty, 'address,undefined', "
      "'address', 'undefined' or 'thread'.")
  endif()
  set(syncnorm_sanitize_flags -fsanitize=${SYNCNORM_SANITIZE} -fno-omit-frame-pointer
      -fno-sanitize-recover=all -g1)
endif()
if(SYNCNORM_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR
      "SYNCNORM_FUZZ links with clang's libFuzzer, but the compiler is ${CMAKE_CXX_COMPILER}: set "
      "CMAKE_CXX_COMPILER to clang++.")
  endif()
  list(APPEND syncnorm_sanitize_flags -fsanitize=fuzzer-no-link)
endif()

function(syncnorm_compile_options)
  foreach(target IN LISTS ARGN)
    target_compile_features(${target} PRIVATE cxx_std_20)
    set_target_properties(${target} PROPERTIES
      CXX_EXTENSIONS OFF
      CXX_VISIBILITY_PRESET hidden
      VISIBILITY_INLINES_HIDDEN ON
      POSITION_INDEPENDENT_CODE ON)
    target_compile_options(${target} PRIVATE
      $<$<COMPILE_LANGUAGE:CXX>:${syncnorm_warnings}>
      $<$<COMPILE_LANGUAGE:CXX>:${syncnorm_sanitize_flags}>
      $<$<COMPILE_LANGUAGE:CUDA>:${syncnorm_cuda_warnings}>)
    if(SYNCNORM_WERROR)
      target_compile_options(${target} PRIVATE
        $<$<COMPILE_LANGUAGE:CXX>:-Werror> "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>")
    endif()
    target_link_options(${target} PRIVATE ${syncnorm_sanitize_flags})
  endforeach()
endfunction()

# Only with optimization, which _FORTIFY_SOURCE needs, and without sanitizers, which check more.
# Level 3, where the compiler has it, also checks buffers whose size is known only at run time. It
# is undefined first, because some distributions' compilers define it.
set(syncnorm_hardened 0)
if(NOT SYNCNORM_SANITIZE AND NOT SYNCNORM_SIMT)
  set(syncnorm_hardened "$<CONFIG:Release,RelWithDebInfo,MinSizeRel>")
endif()
set(level 2)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 12)
  set(level 3)
endif()
set(syncnorm_hardening_flags
    -fstack-protector-strong "SHELL:-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=${level}")

function(syncnorm_harden)
  foreach(target IN LISTS ARGN)
    target_compile_options(${target} PRIVATE
      "$<$<AND:${syncnorm_hardened},$<COMPILE_LANGUAGE:CXX>>:${syncnorm_hardening_flags}>")
    if(NOT APPLE)
      # Full RELRO: symbols are bound when the library is loaded, and their table is read-only.
      target_link_options(${target} PRIVATE "$<${syncnorm_hardened}:LINKER:-z,relro,-z,now>")
    endif()
  endforeach()
endfunction()
