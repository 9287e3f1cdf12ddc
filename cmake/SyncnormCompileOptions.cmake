# syncnorm_compile_options(<target>...): the language, visibility, warnings and sanitizers of every
# target of this project. Nothing is set globally, so that a parent project is left alone.

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
