/* syncnorm: synchronized batch normalization. The C interface.
 *
 * Batch normalization is split where the ranks of a group must talk, and asks for nothing but the
 * sum of one small vector (the "wire", float64) over the group:
 *
 *   forward   syncnorm_moments(x) -> wire      | total = sum of wire | syncnorm_normalize -> y,
 *   saved backward  syncnorm_grad_moments(dy) -> wire | total = sum of wire | syncnorm_grad_input
 *-> dx
 *
 * Who sums is the caller's choice. syncnorm_forward and syncnorm_backward are the phases joined by
 * a syncnorm_comm. The formulas stand in docs/mathematics.md.
 *
 * Rules that hold for every function
 *   Status     Every function that can fail returns a syncnorm_status. syncnorm_last_error() then
 *              says, for the calling thread: what was wrong, what was got, what was expected, what
 *              to do. What can be seen before the work starts is refused before an output is
 *              written and before another rank is met: the others still wait for this rank. After a
 *              later failure outputs are undefined where nothing else is said.
 *   Pointers   NULL is refused where no comment allows it; for x, y and dy it is right too where
 *              N*C*S = 0. Structs are in host memory and are read before the call returns. The
 *              data that they and the parameters point to, wires included, live where
 *              launch->device says, aligned as their type is; on CUDA devices tensors that begin at
 *              multiples of 16 bytes are faster.
 *   Memory     The library allocates no device memory and keeps no pointer after a call returns
 *              (for a device stream: after the enqueued work has run; callbacks: until their handle
 *              is destroyed). The caller owns every buffer. Inputs are not written. Unless said
 *              otherwise an output must not overlap another buffer of the call; among the buffers
 *              of args that is checked.
 *   Streams    On a device all work is enqueued on launch->stream and the call returns without
 *              waiting; it can be captured in a CUDA graph. The calling thread's current device is
 *              the same afterwards. On the CPU the call returns when the work is done.
 *   Threads    Every function may be called from any thread at any time; one syncnorm_comm serves
 *              one call at a time (a second one is refused), beside syncnorm_comm_poll, _abort and
 *              _query. Calls that run at the same time need a workspace and outputs of their own.
 *   Processes  The CPU functions work in a forked child as well, and a child may create groups of
 *              its own. A handle that was created before the fork is the parent's: calls on it are
 *              SYNCNORM_UNSUPPORTED in the child (syncnorm_comm_query works, and so do
 *              syncnorm_forward and _backward where the group is of one), and syncnorm_comm_destroy
 *              does nothing there, the release of a callback's context included. NCCL communicators
 *              cannot be created in a child of a process that has created one, nor used once exit
 *              has begun. Nothing here may be called in a signal handler, nor between a fork of a
 *              process with threads and exec. The library is not to be unloaded (on Linux dlclose
 *              leaves it).
 *   Shapes     x is seen as (N, C, S): S is the product of the spatial sizes, 1 where there are
 *              none. Index of (n, c, s): channels first (n*C + c)*S + s, channels last
 *              (n*S + s)*C + c, dense. N, C, S >= 0, with a product of at most 2^48 where a size of
 *              0 counts as 1; a rank with no values takes part like any other. A CUDA device takes
 *              less than 2^31 - 4096 packs of 16 bytes of one channel, or as many values where a
 *              tensor is not aligned to 16 bytes; SYNCNORM_UNSUPPORTED beyond.
 *   Numbers    NaN and infinity in a channel stay visible in it. The same call, given the same
 *              sums, gives the same bits again; on the CPU they do not depend on the number of
 *              threads.
 *   Structs    Begin with struct_size = sizeof(the struct as the caller compiled it); zero the rest
 *              and set what you use, or start from the SYNCNORM_*_INIT macros. Members are only
 *              ever appended: docs/abi.md says what may change when. A struct_size above 4096 is
 *              refused.
 */
#ifndef SYNCNORM_SYNCNORM_H_
#define SYNCNORM_SYNCNORM_H_

#include <stddef.h>
#include <stdint.h>

#include "version.h"

#if defined(_WIN32)
#define SYNCNORM_API
#else
#define SYNCNORM_API __attribute__((visibility("default")))
#endif

/* Enumerations are ints that may hold any value: what is not of the enumeration is refused. */
#ifdef __cplusplus
#define SYNCNORM_ENUM_TYPE : int
#else
#define SYNCNORM_ENUM_TYPE
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------ errors */

typedef enum syncnorm_status SYNCNORM_ENUM_TYPE {
  SYNCNORM_OK = 0,
  SYNCNORM_INVALID_ARGUMENT = 1, /* a value, shape, dtype or pointer that can never be right */
  SYNCNORM_UNSUPPORTED = 2,      /* right, but not offered by this build, backend or communicator */
  SYNCNORM_CUDA_ERROR = 3,       /* the CUDA runtime reported an error */
  SYNCNORM_NCCL_ERROR = 4,       /* NCCL reported an error */
  SYNCNORM_DESYNC = 5,           /* the ranks of a group are in different calls */
  SYNCNORM_TIMEOUT = 6,          /* a rank did not come before the deadline */
  SYNCNORM_OUT_OF_MEMORY = 7,    /* host memory for a handle could not be had */
  SYNCNORM_INTERNAL = 8,         /* a defect of this library, or a failed user callback */
  SYNCNORM_RANK_LOST = 9         /* a rank has ended or left the group */
} syncnorm_status;

/* The message of the calling thread's last failure, or "": ended by '\0', of at most 1023 bytes.
 * Valid until its next failing call or its end; calls that succeed leave it. */
SYNCNORM_API const char* syncnorm_last_error(void);

/* A short constant name such as "invalid argument"; "unknown status" for other values. */
SYNCNORM_API const char* syncnorm_status_name(syncnorm_status status);

/* "major.minor.patch" of the library that is loaded (the header's is SYNCNORM_VERSION_MAJOR ...).
 * Who finds the library by dlopen compares the two: before 1.0 major and minor must be equal. */
SYNCNORM_API const char* syncnorm_version(void);

/* ------------------------------------------------------------------------- what is normalized */

typedef enum syncnorm_dtype SYNCNORM_ENUM_TYPE {
  SYNCNORM_FLOAT16 = 0,
  SYNCNORM_BFLOAT16 = 1,
  SYNCNORM_FLOAT32 = 2,
  SYNCNORM_FLOAT64 = 3
} syncnorm_dtype;

typedef enum syncnorm_layout SYNCNORM_ENUM_TYPE {
  SYNCNORM_CHANNELS_FIRST = 0,
  SYNCNORM_CHANNELS_LAST = 1
} syncnorm_layout;

/* x, residual, y, dy, dx and dresidual of one call share this shape, dtype and layout. */
typedef struct syncnorm_shape {
  size_t struct_size;
  int64_t n; /* samples on this rank */
  int64_t c; /* channels, the same on every rank */
  int64_t s; /* positions of a sample */
  syncnorm_dtype dtype;
  syncnorm_layout layout;
} syncnorm_shape;
#define SYNCNORM_SHAPE_INIT \
  {sizeof(syncnorm_shape), 0, 0, 1, SYNCNORM_FLOAT32, SYNCNORM_CHANNELS_FIRST}

/* A parameter or buffer with one value per channel, [C], contiguous. data == NULL: absent, and
 * dtype is not looked at. For 16- and 32-bit x: float16, bfloat16 or float32, each vector its own.
 * For float64 x: float64 or float32. Arithmetic is done in float32 (float64 for float64 x). */
typedef struct syncnorm_vector {
  void* data;
  syncnorm_dtype dtype;
} syncnorm_vector;

/* ------------------------------------------------------------------------------------- options */

/* How much a rank's statistics count in the group's. W is 0 for a rank with no counted value. */
typedef enum syncnorm_weighting SYNCNORM_ENUM_TYPE {
  SYNCNORM_WEIGHT_COUNT = 0, /* W = n, the number of its values: exactly one big batch */
  SYNCNORM_WEIGHT_EQUAL = 1, /* W = 1 */
  SYNCNORM_WEIGHT_BATCH = 2  /* W = N, the number of its samples */
} syncnorm_weighting;

typedef enum syncnorm_eps_mode SYNCNORM_ENUM_TYPE {
  SYNCNORM_EPS_ADD = 0, /* invstd = 1/sqrt(var + eps) */
  SYNCNORM_EPS_MAX = 1  /* invstd = 1/sqrt(max(var, eps)) */
} syncnorm_eps_mode;

/* The factor on the batch variance that enters running_var; 1 where its count is <= 1.
 * n is the group's number of values, n_d this rank's, D the number of ranks. */
typedef enum syncnorm_variance_factor SYNCNORM_ENUM_TYPE {
  SYNCNORM_VARIANCE_UNBIASED = 0,       /* n/(n-1) */
  SYNCNORM_VARIANCE_BIASED = 1,         /* 1 */
  SYNCNORM_VARIANCE_UNBIASED_LOCAL = 2, /* n_d*D/(n_d*D-1) */
  SYNCNORM_VARIANCE_UNBIASED_RANK = 3   /* n_d/(n_d-1) */
} syncnorm_variance_factor;

/* What dweight and dbias report. */
typedef enum syncnorm_grad_reduction SYNCNORM_ENUM_TYPE {
  SYNCNORM_GRAD_LOCAL = 0, /* this rank's sums, for a trainer that reduces gradients itself */
  SYNCNORM_GRAD_SUM = 1,   /* the sum over the group */
  SYNCNORM_GRAD_MEAN = 2   /* the sum divided by the number of ranks */
} syncnorm_grad_reduction;

/* Centring: one more small sum makes the variance as accurate as if the mean were zero. */
typedef enum syncnorm_centering SYNCNORM_ENUM_TYPE {
  SYNCNORM_CENTER_AUTO = 0, /* for float64 x only */
  SYNCNORM_CENTER_ON = 1,
  SYNCNORM_CENTER_OFF = 2
} syncnorm_centering;

typedef enum syncnorm_activation SYNCNORM_ENUM_TYPE {
  SYNCNORM_IDENTITY = 0,
  SYNCNORM_RELU = 1,
  SYNCNORM_LEAKY_RELU = 2, /* with negative_slope */
  SYNCNORM_ELU = 3         /* z where z > 0, else e^z - 1 */
} syncnorm_activation;

/* As momentum: the running statistics are the average over all batches so far. */
#define SYNCNORM_MOMENTUM_CUMULATIVE (-1.0)

/* In place (options.in_place = 1): x need not be kept for the backward pass. y may overwrite x, and
 * where the backward functions take x they are given the forward's y, from which they recover
 * xhat = (act^-1(y) - bias)/weight. This needs an activation that can be inverted: identity, elu,
 * or leaky_relu with a negative_slope from 2^-126 to 2^126; and no residual.
 *
 * A weight that is nearer to 0 than SYNCNORM_IN_PLACE_LEAST_WEIGHT is applied as that, with its
 * sign (0 is positive), in the forward pass as in the backward pass; dweight is that of the weight
 * that was applied. y is rounded to its dtype, by up to u*|y| where u is 2^-53 (float64), 2^-24
 * (float32), 2^-11 (float16) or 2^-8 (bfloat16): xhat is then off by up to
 * u*(|xhat| + |bias/weight|), and by more where elu is flat. docs/mathematics.md has the
 * derivation. */
#define SYNCNORM_IN_PLACE_LEAST_WEIGHT (1.0 / 4096.0)

/* Everything here except momentum and variance_factor must be the same on all ranks, and all of it
 * in every phase of a call. Ranks that differ get SYNCNORM_DESYNC. */
typedef struct syncnorm_options {
  size_t struct_size;
  double eps;      /* > 0, finite, in the units of x squared; 0 is allowed too */
  double momentum; /* running = (1 - momentum)*running + momentum*batch; 0 <= momentum <= 1,
                      or SYNCNORM_MOMENTUM_CUMULATIVE */
  double negative_slope; /* leaky_relu: finite, >= 0 */
  syncnorm_weighting weighting;
  syncnorm_eps_mode eps_mode;
  syncnorm_variance_factor variance_factor;
  syncnorm_grad_reduction grad_reduction;
  syncnorm_centering centering;
  syncnorm_activation activation;
  uint64_t tag; /* identifies the call, so that ranks in different calls are told apart: its high 32
                   bits the layer, such as its number in order of creation, its low 32 bits the
                   forward pass. Where the low bits are 0, syncnorm_forward adds the communicator's
                   count of forward passes; a captured graph would repeat it: there set them. A
                   backward pass is bound to its forward pass by `saved`. */
  int32_t in_place; /* 0, or 1: in place, as above */
} syncnorm_options;
#define SYNCNORM_OPTIONS_INIT                                                                  \
  {sizeof(syncnorm_options), 1e-5, 0.1, 0.01, SYNCNORM_WEIGHT_COUNT, SYNCNORM_EPS_ADD,             \
   SYNCNORM_VARIANCE_UNBIASED, SYNCNORM_GRAD_LOCAL, SYNCNORM_CENTER_AUTO, SYNCNORM_IDENTITY, 0, 0}

/* ------------------------------------------------------------------------------ where it runs */

typedef enum syncnorm_device SYNCNORM_ENUM_TYPE {
  SYNCNORM_CPU = 0,
  SYNCNORM_CUDA = 1
} syncnorm_device;

typedef struct syncnorm_launch {
  size_t struct_size;
  syncnorm_device device;
  int32_t device_index;  /* CUDA: the ordinal, that of the communicator; not looked at on the CPU */
  void* stream;          /* CUDA: the cudaStream_t of that device to enqueue on, NULL is the legacy
                            default stream; NULL on the CPU */
  void* workspace;       /* scratch in the device's memory, 64-byte aligned, any content; free
                            for other use after the call, on a device for work on the same stream */
  size_t workspace_size; /* bytes, at least syncnorm_sizes.workspace_size */
  int32_t num_threads;   /* CPU: threads to use, from 1 to 4096, this one among them; the others
                            are the library's, shared by all calls of the process */
  int32_t* status;       /* NULL, or a word in the device's memory or in host memory that the device
                            can access (cudaHostAlloc): there the host may look at it without
                            waiting. It is set to SYNCNORM_DESYNC where the ranks disagree, by a
                            plain store, and never cleared; on the CPU the call fails too. */
  void* control;         /* CUDA: NULL, or SYNCNORM_CONTROL_SIZE bytes in the device's memory,
                            64-byte aligned, that the caller has zeroed once and that only calls on
                            this stream use: the kernels leave them zero. Saves a memset per
                            pass. */
} syncnorm_launch;
#define SYNCNORM_CONTROL_SIZE 16384
#define SYNCNORM_LAUNCH_INIT \
  {sizeof(syncnorm_launch), SYNCNORM_CPU, 0, NULL, NULL, 0, 1, NULL, NULL}

/* Lengths and sizes of what the caller must provide. */
typedef struct syncnorm_sizes {
  size_t struct_size;
  int64_t wire_length;        /* float64 values: 2C + 4 */
  int64_t center_wire_length; /* float64 values: C + 2, made even; 0 where centring is off */
  int64_t grad_wire_length;   /* float64 values: 2C + 2 */
  int64_t saved_length;       /* float64 values: 3C + 2 */
  size_t workspace_size;      /* bytes, enough for every function with this shape and options */
} syncnorm_sizes;
#define SYNCNORM_SIZES_INIT {sizeof(syncnorm_sizes), 0, 0, 0, 0, 0}

/* A pure function: no device is touched. num_threads does not enter: the same workspace serves any
 * number of threads. */
SYNCNORM_API syncnorm_status syncnorm_query_sizes(const syncnorm_shape* shape,
                                                  const syncnorm_options* options,
                                                  syncnorm_device device, syncnorm_sizes* sizes);

/* --------------------------------------------------------------------------- forward, training
 *
 * wire    float64[2C+4] = [ W, n, h, h^2,  W*mean[C],  W*E(x^2)[C] ] of this rank; h is a hash of
 *         the tag and of the options that must agree.
 * total   float64[2C+4]: the sum of the wires over the group. Another buffer than wire, unless
 *         group_size is 1: then it may be wire itself.
 * saved   float64[3C+2], for the backward pass = [ W/(sum(W)*n), h, mean[C], invstd[C], gate[C] ];
 *         h identifies the forward pass, mean is in float64, invstd has float32 precision (float64
 *         for float64 x), gate is 0 where eps_mode max has clamped the variance, else 1.
 */
typedef struct syncnorm_forward_args {
  size_t struct_size;
  const void* x;
  const void* residual;         /* NULL, or added before the activation; NULL in place */
  const uint8_t* mask;          /* NULL, or [N, S] in either layout, n*S + s: 0 = the position does
                                   not count in the statistics (it is normalized all the same) */
  syncnorm_vector weight;         /* gamma; absent: 1 */
  syncnorm_vector bias;           /* beta; absent: 0 */
  syncnorm_vector running_mean;   /* both or neither; updated unless the whole group is empty. */
  syncnorm_vector running_var;    /* In syncnorm_infer: the statistics to use, needed, read only. */
  int64_t* num_batches_tracked; /* NULL, or one value: incremented whenever the running statistics
                                   are updated; needed for SYNCNORM_MOMENTUM_CUMULATIVE. A negative
                                   value, or 2^63 - 1, is refused on the CPU; on a device, where it
                                   is not looked at before, it counts as 0, or stays */
  void* y;                      /* output; may be the same buffer as residual, and as x in place or
                                   where no backward pass follows */
  double* saved;                /* output; NULL where no backward pass follows */
} syncnorm_forward_args;
#define SYNCNORM_FORWARD_ARGS_INIT                                                             \
  {sizeof(syncnorm_forward_args), NULL, NULL, NULL, {NULL, SYNCNORM_FLOAT32},                    \
   {NULL, SYNCNORM_FLOAT32}, {NULL, SYNCNORM_FLOAT32}, {NULL, SYNCNORM_FLOAT32}, NULL, NULL, NULL}

/* Phase 1. Reads x and mask; writes wire, and local_var float64[C] (the variance of this rank's
 * values about their own mean) if it is not NULL: syncnorm_center needs it. The rest of args is
 * validated only: pass what syncnorm_normalize will get, so that its errors come before the
 * all-reduce. */
SYNCNORM_API syncnorm_status syncnorm_moments(const syncnorm_shape* shape,
                                              const syncnorm_options* options,
                                              const syncnorm_forward_args* args, double* wire,
                                              double* local_var, const syncnorm_launch* launch);

/* Phase 2, only where sizes.center_wire_length > 0. Writes
 * center_wire = [ h, h^2, W*(var + (mean - mean of the group)^2)[C], 0 if C is odd ], of
 * sizes.center_wire_length values. Its sum over the group is center_total. group_size: the number
 * of wires in total, from 1 to 2^21. Needs no workspace. SYNCNORM_DESYNC as in syncnorm_normalize,
 * on the CPU. */
SYNCNORM_API syncnorm_status syncnorm_center(const syncnorm_shape* shape,
                                             const syncnorm_options* options, int64_t group_size,
                                             const double* wire, const double* total,
                                             const double* local_var, double* center_wire,
                                             const syncnorm_launch* launch);

/* Phase 3. Reads x, residual, weight, bias; writes y, saved, and updates the running statistics.
 * center_total: the summed center_wire, NULL where centring is off. SYNCNORM_DESYNC: the ranks
 * disagree; on the CPU nothing is written. On a device the call, which cannot know, returns
 * SYNCNORM_OK: launch->status is set, y and saved become NaN, the running statistics stay. */
SYNCNORM_API syncnorm_status syncnorm_normalize(const syncnorm_shape* shape,
                                                const syncnorm_options* options,
                                                const syncnorm_forward_args* args,
                                                int64_t group_size, const double* wire,
                                                const double* total, const double* center_total,
                                                const syncnorm_launch* launch);

/* The update of the running statistics alone, from the same wires, for trainers that move them at
 * another time: call syncnorm_normalize without running statistics and this when it is due.
 * Reads and writes only running_mean, running_var and num_batches_tracked of args. Needs no
 * workspace. */
SYNCNORM_API syncnorm_status syncnorm_update_running(
    const syncnorm_shape* shape, const syncnorm_options* options, const syncnorm_forward_args* args,
    int64_t group_size, const double* wire, const double* total, const double* center_total,
    const syncnorm_launch* launch);

/* Where a collective gathers but does not sum float64: total[length] = the sum of
 * gathered[ranks][length], wires of any phase, added in the order of the ranks, so that every rank
 * gets the same bits, those of a communicator over threads. ranks, length >= 0, with a product of
 * at most 2^48; of no rank the sum is zero. total is another buffer than gathered. Needs no
 * workspace. */
SYNCNORM_API syncnorm_status syncnorm_add_wires(const double* gathered, int64_t ranks,
                                                int64_t length, double* total,
                                                const syncnorm_launch* launch);

/* -------------------------------------------------------------------------- backward, training
 *
 * dy' = dy through the activation. wire float64[2C+2] = [ h, h^2, sum dy'[C], sum dy'*xhat[C] ], h
 * a hash of the tag, the options that must agree and the h in saved.
 * Every rank of the group takes part, whatever it needs a gradient for.
 */
typedef struct syncnorm_backward_args {
  size_t struct_size;
  const void* x;         /* as in forward, unchanged since; in place the forward's output */
  const void* dy;        /* the gradient of y */
  const void* y;         /* the forward's output; needed if it had a residual and an activation
                            (this cannot be checked: without it gradients are wrong), else NULL:
                            what the activation was given is recomputed from x */
  const uint8_t* mask;   /* as in forward */
  syncnorm_vector weight;  /* as in forward */
  syncnorm_vector bias;    /* as in forward */
  const double* saved;   /* from forward */
  void* dx;              /* output or NULL; may be the same buffer as dy */
  void* dresidual;       /* output or NULL; = dy'; may be the same buffer as dy if dx is not; NULL
                            in place */
  syncnorm_vector dweight; /* output or absent */
  syncnorm_vector dbias;   /* output or absent */
} syncnorm_backward_args;
#define SYNCNORM_BACKWARD_ARGS_INIT                                                            \
  {sizeof(syncnorm_backward_args), NULL, NULL, NULL, NULL, {NULL, SYNCNORM_FLOAT32},             \
   {NULL, SYNCNORM_FLOAT32}, NULL, NULL, NULL, {NULL, SYNCNORM_FLOAT32}, {NULL, SYNCNORM_FLOAT32}}

/* Phase 1. Reads x, dy, y, weight, bias, saved; writes wire. The rest of args is validated only:
 * pass what syncnorm_grad_input will get, so that its errors come before the all-reduce. */
SYNCNORM_API syncnorm_status syncnorm_grad_moments(const syncnorm_shape* shape,
                                                   const syncnorm_options* options,
                                                   const syncnorm_backward_args* args, double* wire,
                                                   const syncnorm_launch* launch);

/* Phase 2. Reads what phase 1 reads, and mask; writes dx, dresidual, dweight, dbias. total as in
 * forward. SYNCNORM_DESYNC: on the CPU nothing is written; on a device as in syncnorm_normalize,
 * and all outputs become NaN. */
SYNCNORM_API syncnorm_status syncnorm_grad_input(const syncnorm_shape* shape,
                                                 const syncnorm_options* options,
                                                 const syncnorm_backward_args* args,
                                                 int64_t group_size, const double* wire,
                                                 const double* total,
                                                 const syncnorm_launch* launch);

/* ------------------------------------------------------------------- running statistics in use */

/* y = act((x - running_mean)*invstd*weight + bias [+ residual]), in evaluation and frozen training.
 * Writes y, and saved if it is not NULL (for syncnorm_infer_backward). No statistics are updated;
 * mask and num_batches_tracked are ignored. */
SYNCNORM_API syncnorm_status syncnorm_infer(const syncnorm_shape* shape,
                                            const syncnorm_options* options,
                                            const syncnorm_forward_args* args,
                                            const syncnorm_launch* launch);

/* Its gradients: dx = dy'*weight*invstd; dweight, dbias of this rank (no group is involved, and
 * grad_reduction and mask are ignored). */
SYNCNORM_API syncnorm_status syncnorm_infer_backward(const syncnorm_shape* shape,
                                                     const syncnorm_options* options,
                                                     const syncnorm_backward_args* args,
                                                     const syncnorm_launch* launch);

/* ------------------------------------------------------------------------------- communicators
 *
 * One rank's handle on a group. The one operation is the sum of float64 vectors over the group.
 *
 *   Collective syncnorm_forward and syncnorm_backward with a group of more than one,
 *              syncnorm_comm_sum and syncnorm_comm_split: every rank makes the same calls on its
 *              handle in the same order.
 *   Failures   A communicator that failed stays failed: later calls give the first status and
 *              message. What is refused (SYNCNORM_INVALID_ARGUMENT, SYNCNORM_UNSUPPORTED) has not
 *              taken place and fails nothing here, but the other ranks wait for a call that does
 *              not come: a rank that cannot go on aborts or destroys its handle, or they meet their
 *              deadline.
 *   Ownership  Who creates a handle destroys it; what is split is a handle of its own, and may
 *              outlive the one that it came from. *comm, *comms and *new_comm are written only
 *              where SYNCNORM_OK is returned.
 */
typedef struct syncnorm_comm syncnorm_comm;

/* n handles over one group whose ranks are threads of this process; comms[i], of n, is rank i. Host
 * memory only. Every rank gets the same bits, of a sum in the order of the ranks.
 * timeout_s > 0: a rank that waits longer fails with SYNCNORM_TIMEOUT naming the ranks that are
 * missing, and so does every other rank that waits or comes later. A rank that destroys its handle
 * fails the group with SYNCNORM_RANK_LOST. */
SYNCNORM_API syncnorm_status syncnorm_comm_create_threads(int32_t n, double timeout_s,
                                                          syncnorm_comm** comms);

/* A trainer's own means as functions, called in the thread of the call that needs them, and never
 * for a group of one by syncnorm_forward and syncnorm_backward. They must not throw, and must not
 * sum or split on the handle that they serve. A status other than SYNCNORM_OK fails that call and
 * the communicator with it. A function that never returns is interrupted by nothing.
 *
 * Sum `count` float64 values of src over the group into dst (src and dst do not overlap; src
 * stays). Host memory: return when dst is complete. Device memory: enqueue on stream. All ranks
 * call in the same order with the same count, and should get the same bits. */
typedef syncnorm_status (*syncnorm_sum_fn)(void* context, const double* src, double* dst,
                                           int64_t count, void* stream);

/* Divide the group: called on every rank with its color and key, as MPI_Comm_split does. Writes the
 * new group's context, rank and size; where color < 0 what it writes is ignored. The new handle has
 * the same functions, and owns the new context from then on. */
typedef syncnorm_status (*syncnorm_split_fn)(void* context, int32_t color, int32_t key,
                                             void** new_context, int32_t* new_rank,
                                             int32_t* new_size);

/* Called once, when the handle that owns `context` is destroyed; not where creating it failed. */
typedef void (*syncnorm_release_fn)(void* context);

/* Copied by the call; the functions and the context must live as long as the handle, and the
 * functions as long as what is split from it. */
typedef struct syncnorm_callbacks {
  size_t struct_size;
  void* context;             /* handed to every callback; may be NULL */
  syncnorm_sum_fn sum;         /* needed */
  syncnorm_split_fn split;     /* NULL: the group cannot be split */
  syncnorm_release_fn release; /* NULL: the context is not owned */
  int32_t device_memory;     /* bit mask of 1 << syncnorm_device: where sum takes its buffers;
                                0 means the CPU */
} syncnorm_callbacks;
#define SYNCNORM_CALLBACKS_INIT {sizeof(syncnorm_callbacks), NULL, NULL, NULL, NULL, 0}

SYNCNORM_API syncnorm_status syncnorm_comm_create_callback(int32_t rank, int32_t size,
                                                           const syncnorm_callbacks* callbacks,
                                                           syncnorm_comm** comm);

/* NCCL communicators: each rank holds one CUDA device, and sums its memory on the caller's stream.
 *
 * NCCL 2.18 or newer is found at run time: the file named by the environment variable
 * SYNCNORM_NCCL_LIBRARY, else one that the process has loaded, else the nvidia-nccl package beside
 * this library's Python package, else the system's. SYNCNORM_UNSUPPORTED: none, too old, or a build
 * without CUDA.
 *
 * A sum returns once it is enqueued. Calls in turn on several streams run in the order of the
 * calls: a stream waits, by an event, for the sum before it. A call by a second thread while one is
 * under way is refused. Inside a captured graph the order among streams is the caller's.
 *
 * Creating a communicator loads the kernels of this library on its device, so that no launch loads
 * one behind an NCCL kernel that waits for another rank. To create or to split also makes one
 * all-reduce, on a stream of its own, in which NCCL connects the ranks. */

/* NULL for the options, or 0 for a member, means the default. Copied by the call. */
typedef struct syncnorm_nccl_options {
  size_t struct_size;
  double init_timeout_s; /* until all ranks have come to create or to split and are connected, and
                            until NCCL has enqueued a sum; default 300 */
  double sum_timeout_s;  /* the watchdog aborts a communicator whose sum makes no progress for so
                            long after it was enqueued (SYNCNORM_TIMEOUT, naming the sum); default
                            600; < 0: no watchdog. Borrowed communicators have none. */
  int32_t max_ctas;      /* thread blocks that NCCL may use for a sum; default: NCCL's choice */
} syncnorm_nccl_options;
#define SYNCNORM_NCCL_OPTIONS_INIT {sizeof(syncnorm_nccl_options), 0, 0, 0}

/* The bytes by which the ranks of one new group find each other: made by one rank, carried to the
 * others by the caller, used for one group. No device is needed. */
#define SYNCNORM_NCCL_ID_SIZE 128
SYNCNORM_API syncnorm_status syncnorm_nccl_unique_id(uint8_t id[SYNCNORM_NCCL_ID_SIZE]);

/* Collective: becomes rank `rank` of `size`, on device `device_index`. id == NULL: the ranks meet
 * at the address in the environment variable NCCL_COMM_ID ("host:port"). SYNCNORM_TIMEOUT: not all
 * ranks came in time. SYNCNORM_NCCL_ERROR: what NCCL refuses, such as two ranks on one device. */
SYNCNORM_API syncnorm_status syncnorm_comm_create_nccl(const uint8_t* id, int32_t rank,
                                                       int32_t size, int32_t device_index,
                                                       const syncnorm_nccl_options* options,
                                                       syncnorm_comm** comm);

/* One process drives all ranks: comms[i], of n, is rank i, on device device_indices[i] (NULL: on
 * device i), and is then used by a thread of its own: NCCL may wait in a sum for the other ranks.
 * A device given twice is refused. */
SYNCNORM_API syncnorm_status syncnorm_comm_create_nccl_all(int32_t n, const int32_t* device_indices,
                                                           const syncnorm_nccl_options* options,
                                                           syncnorm_comm** comms);

/* A handle on an ncclComm_t of the caller's, made by the library that syncnorm uses
 * (syncnorm_capabilities.nccl). The ncclComm_t must outlive the handle; it is never aborted or
 * destroyed here. While a call on the handle is under way nothing else may use it. No all-reduce is
 * made: if the ncclComm_t is new, its first sum connects the ranks, and has to come before a sum is
 * captured in a graph. What is split from the handle is owned. */
SYNCNORM_API syncnorm_status syncnorm_comm_borrow_nccl(void* nccl_comm,
                                                       const syncnorm_nccl_options* options,
                                                       syncnorm_comm** comm);

/* Waits on the host until all that was enqueued on `stream` so far is done, and polls for failures
 * meanwhile. SYNCNORM_TIMEOUT after timeout_s > 0: the communicator has failed (and is aborted, if
 * it is owned); the message names the oldest sum that is not done. Communicators that sum host
 * memory return at once: their sums are done when they return. SYNCNORM_UNSUPPORTED: a callback
 * that sums device memory. */
SYNCNORM_API syncnorm_status syncnorm_comm_wait(syncnorm_comm* comm, void* stream,
                                                double timeout_s);

/* Every rank calls it. Ranks of one color form a group, ordered by key, then by old rank, with the
 * old group's deadlines. Where color < 0 this rank joins none and *new_comm = NULL. */
SYNCNORM_API syncnorm_status syncnorm_comm_split(syncnorm_comm* comm, int32_t color, int32_t key,
                                                 syncnorm_comm** new_comm);

typedef struct syncnorm_comm_info {
  size_t struct_size;
  int32_t rank;
  int32_t size;
  const char* kind;      /* "threads", "callback", "nccl"; a constant */
  int32_t device_memory; /* bit mask of 1 << syncnorm_device: where it can sum */
} syncnorm_comm_info;
#define SYNCNORM_COMM_INFO_INIT {sizeof(syncnorm_comm_info), 0, 0, "", 0}

SYNCNORM_API syncnorm_status syncnorm_comm_query(const syncnorm_comm* comm,
                                                 syncnorm_comm_info* info);

/* The operation: dst[0..count) = sum over ranks of src[0..count); count >= 0, the same on every
 * rank. device says where src and dst are; stream: as in syncnorm_launch. */
SYNCNORM_API syncnorm_status syncnorm_comm_sum(syncnorm_comm* comm, const double* src, double* dst,
                                               int64_t count, syncnorm_device device, void* stream);

/* Without waiting: SYNCNORM_OK while the communicator is healthy, else the status and message of
 * its first failure. */
SYNCNORM_API syncnorm_status syncnorm_comm_poll(syncnorm_comm* comm);

/* Make the communicator fail, now and for good, with `reason` (NULL: a standard one) and
 * SYNCNORM_INTERNAL, which every rank of a threads group then gets, also one that waits. An NCCL
 * communicator that is owned is aborted, and the streams that wait in it are released; of a
 * borrowed one and of callbacks only the handle fails. From any thread, also while another is
 * inside a call on the handle. After another failure it does nothing. */
SYNCNORM_API syncnorm_status syncnorm_comm_abort(syncnorm_comm* comm, const char* reason);

/* A check that a thread installs to end its own waits, such as for signals that a language runtime
 * handles between two instructions. While a call of the thread waits for the other ranks of a
 * threads or NCCL group, check() is called about every 0.05 s. It may run any code, but not use the
 * handle of that call. If it returns a value other than 0 the wait ends, and the group fails with
 * SYNCNORM_INTERNAL. Not called by syncnorm_comm_destroy, nor for callbacks, which check by their
 * own means. */
typedef int (*syncnorm_interrupt_fn)(void);

/* NULL, which every thread begins with, installs none. Returns the previous check, to be
 * restored. */
SYNCNORM_API syncnorm_interrupt_fn syncnorm_set_interrupt_check(syncnorm_interrupt_fn check);

/* NULL is ignored. No call may be under way on this handle, in any thread. An NCCL communicator
 * that is owned first waits for its sums, up to 30 s (or sum_timeout_s if that is less), then is
 * aborted. */
SYNCNORM_API void syncnorm_comm_destroy(syncnorm_comm* comm);

/* ------------------------------------------------------------------- all phases in one call
 *
 * comm == NULL is a group of one; then the CPU may read a tensor once instead of twice. The wires
 * live in the workspace. Where the sum fails (SYNCNORM_TIMEOUT, SYNCNORM_NCCL_ERROR, ...) nothing
 * but the workspace has been written. On a device a sum that fails later shows in
 * syncnorm_comm_poll and _wait.
 */
SYNCNORM_API syncnorm_status syncnorm_forward(const syncnorm_shape* shape,
                                              const syncnorm_options* options,
                                              const syncnorm_forward_args* args,
                                              syncnorm_comm* comm, const syncnorm_launch* launch);

SYNCNORM_API syncnorm_status syncnorm_backward(const syncnorm_shape* shape,
                                               const syncnorm_options* options,
                                               const syncnorm_backward_args* args,
                                               syncnorm_comm* comm, const syncnorm_launch* launch);

/* -------------------------------------------------------------------------- what was built */

/* The texts stay valid. */
typedef struct syncnorm_capabilities {
  size_t struct_size;
  const char* cpu_isa;    /* "generic", "avx2", "avx512", "neon": the best that this machine has, or
                             what the environment variable SYNCNORM_CPU_ISA named at the first
                             call */
  int32_t cuda_built;     /* 1: kernels for CUDA devices are in this library */
  int32_t cuda_devices;   /* CUDA devices usable now */
  const char* nccl;       /* "version (path)" of the NCCL in use; "" if none was found */
  const char* cuda_problem; /* why cuda_devices is 0: the driver is missing or too old, there is no
                               device, ...; "" if there are devices */
} syncnorm_capabilities;
#define SYNCNORM_CAPABILITIES_INIT {sizeof(syncnorm_capabilities), "", 0, 0, "", ""}

SYNCNORM_API syncnorm_status syncnorm_query_capabilities(syncnorm_capabilities* capabilities);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* SYNCNORM_SYNCNORM_H_ */
