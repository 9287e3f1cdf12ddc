# syncbn_compile_options(<target>...): the language, visibility, warnings and sanitizers of every
# target of this project. Nothing is set globally, so that a parent project is left alone.

set(syncbn_warnings
    -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
    -Wold-style-cast -Wcast-align -Wcast-qual -Wunused -Wformat=2 -Wundef -Wvla
    -Wimplicit-fallthrough)

set(syncbn_sanitize_flags "")
if(SYNCBN_SANITIZE)
  if(NOT SYNCBN_SANITIZE MATCHES "^(address,undefined|address|undefined|thread)$")
    message(FATAL_ERROR
      "SYNCBN_SANITIZE is '${SYNCBN_SANITIZE}'. Expected empty, 'address,undefined', 'address', "
      "'undefined' or 'thread'.")
  endif()
  set(syncbn_sanitize_flags -fsanitize=${SYNCBN_SANITIZE} -fno-omit-frame-pointer
      -fno-sanitize-recover=all -g)
endif()

function(syncbn_compile_options)
  foreach(target IN LISTS ARGN)
    target_compile_features(${target} PRIVATE cxx_std_20)
    set_target_properties(${target} PROPERTIES
      CXX_EXTENSIONS OFF
      CXX_VISIBILITY_PRESET hidden
      VISIBILITY_INLINES_HIDDEN ON
      POSITION_INDEPENDENT_CODE ON)
    target_compile_options(${target} PRIVATE
      $<$<COMPILE_LANGUAGE:CXX>:${syncbn_warnings}> ${syncbn_sanitize_flags}
      $<$<BOOL:${SYNCBN_WERROR}>:-Werror>)
    target_link_options(${target} PRIVATE ${syncbn_sanitize_flags})
  endforeach()
endfunction()
