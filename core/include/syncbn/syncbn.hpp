// syncbn for C++17 and later: RAII, typed views, exceptions or statuses over syncbn.h. Header-only:
// every function is inline and calls the C function of its name, so there is no C++ ABI. Shapes,
// formulas and rules are those of syncbn.h; docs/cpp.md is the guide.
//
//   syncbn::Workspace workspace(syncbn::query_sizes(x.shape(), options).workspace);
//   syncbn::ForwardArgs args;
//   args.x = {input, n, c, s};   // float*: the dtype follows
//   args.y = {output, n, c, s};
//   syncbn::forward(options, args, comm, syncbn::Launch::cpu(workspace));
//
// Failures are exceptions of class syncbn::Error (a std::runtime_error), of the subclass that the
// status names: InvalidArgument, Timeout, Desync, ... Every function takes a syncbn::Status as its
// last argument to tell them there instead, which also works with -fno-exceptions.
#ifndef SYNCBN_SYNCBN_HPP_
#define SYNCBN_SYNCBN_HPP_

#include "communicator.hpp"
#include "errors.hpp"
#include "library.hpp"
#include "phases.hpp"
#include "types.hpp"

#endif  // SYNCBN_SYNCBN_HPP_
