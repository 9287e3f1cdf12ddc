// A kernel did what CUDA leaves undefined.
#pragma once

#include <string>

namespace simt {

struct Fault {
  std::string message;
};

}  // namespace simt
