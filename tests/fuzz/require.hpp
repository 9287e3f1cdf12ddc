// An assertion that is on in every build: a fuzz target reports by dying.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "syncnorm/syncnorm.h"

#define FUZZ_REQUIRE(condition)                                                         \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      std::fprintf(stderr, "%s:%d: not true: %s\nlast error: %s\n", __FILE__, __LINE__, \
                   #condition, syncnorm_last_error());                                  \
      std::abort();                                                                     \
    }                                                                                   \
  } while (false)
