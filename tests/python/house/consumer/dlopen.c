/* Finds the library named by the first argument at run time, as a plugin of a trainer would: only
 * its header is compiled in. Normalizes four values of one channel and prints the version. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syncbn/syncbn.h>

static void require(int holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "%s\n", what);
  exit(1);
}

/* [doc: look-up] */
/* ISO C has no cast from an object's pointer to a function's; POSIX lets the bytes be copied. */
static void look_up(void* library, const char* name, void* function) {
  void* found = dlsym(library, name);
  require(found != NULL, name);
  memcpy(function, &found, sizeof(found));
}

/* Before 1.0 a header goes with the libraries of its own minor version. */
static int fits(const char* version) {
  char expected[32];
  snprintf(expected, sizeof(expected), "%d.%d.", SYNCBN_VERSION_MAJOR, SYNCBN_VERSION_MINOR);
  return strncmp(version, expected, strlen(expected)) == 0;
}
/* [end] */

int main(int argc, char** argv) {
  const char* (*version)(void);
  const char* (*last_error)(void);
  syncbn_status (*query_sizes)(const syncbn_shape*, const syncbn_options*, syncbn_device,
                               syncbn_sizes*);
  syncbn_status (*forward)(const syncbn_shape*, const syncbn_options*, const syncbn_forward_args*,
                           syncbn_comm*, const syncbn_launch*);
  const float x[4] = {1, 2, 3, 4};
  float y[4] = {0, 0, 0, 0};
  syncbn_shape shape = SYNCBN_SHAPE_INIT;
  syncbn_options options = SYNCBN_OPTIONS_INIT;
  syncbn_forward_args args = SYNCBN_FORWARD_ARGS_INIT;
  syncbn_launch launch = SYNCBN_LAUNCH_INIT;
  syncbn_sizes sizes = SYNCBN_SIZES_INIT;
  void* library = dlopen(argc > 1 ? argv[1] : "", RTLD_NOW | RTLD_LOCAL);

  require(library != NULL, "the library does not load");
  look_up(library, "syncbn_version", &version);
  look_up(library, "syncbn_last_error", &last_error);
  look_up(library, "syncbn_query_sizes", &query_sizes);
  look_up(library, "syncbn_forward", &forward);
  require(fits(version()), "the library is of another version than the header");

  shape.n = 4;
  shape.c = 1;
  args.x = x;
  args.y = y;
  require(query_sizes(&shape, &options, SYNCBN_CPU, &sizes) == SYNCBN_OK, last_error());
  launch.num_threads = 2;
  launch.workspace_size = (sizes.workspace_size + 63) / 64 * 64;
  launch.workspace = aligned_alloc(64, launch.workspace_size);
  require(forward(&shape, &options, &args, NULL, &launch) == SYNCBN_OK, last_error());
  free(launch.workspace);
  require(y[0] == -y[3] && y[3] > 1.34F && y[3] < 1.35F, "y is not x, normalized");

  options.eps = -1;
  require(query_sizes(&shape, &options, SYNCBN_CPU, &sizes) == SYNCBN_INVALID_ARGUMENT, "eps");
  require(strstr(last_error(), "options.eps is -1") != NULL, last_error());
  puts(version());
  dlclose(library);
#if defined(__linux__)
  require(dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) != NULL, "its threads have lost their code");
#endif
  return 0;
}
