// syncnorm for C++17 and later: RAII, typed views, exceptions or statuses over syncnorm.h.
// Header-only: every function is inline and calls the C function of its name, so there is no C++
// ABI. Shapes, formulas and rules are those of syncnorm.h; docs/cpp.md is the guide.
//
//   syncnorm::Workspace workspace(syncnorm::query_sizes(x.shape(), options).workspace);
//   syncnorm::ForwardArgs args;
//   args.x = {input, n, c, s};   // float*: the dtype follows
//   args.y = {output, n, c, s};
//   syncnorm::forward(options, args, comm, syncnorm::Launch::cpu(workspace));
//
// Failures are exceptions of class syncnorm::Error (a std::runtime_error), of the subclass that the
// status names: InvalidArgument, Timeout, Desync, ... Every function takes a syncnorm::Status as
// its last argument to tell them there instead, which also works with -fno-exceptions.
#ifndef SYNCNORM_SYNCNORM_HPP_
#define SYNCNORM_SYNCNORM_HPP_

#include "communicator.hpp"
#include "errors.hpp"
#include "library.hpp"
#include "phases.hpp"
#include "types.hpp"

#endif  // SYNCNORM_SYNCNORM_HPP_
