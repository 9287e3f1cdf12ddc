/* Finds the library named by the first argument at run time, as a plugin of a trainer would: only
 * its header is compiled in. Normalizes four values of one channel and prints the version. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syncnorm/syncnorm.h>

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
  snprintf(expected, sizeof(expected), "%d.%d.", SYNCNORM_VERSION_MAJOR, SYNCNORM_VERSION_MINOR);
  return strncmp(version, expected, strlen(expected)) == 0;
}
/* [end] */

int main(int argc, char** argv) {
  const char* (*version)(void);
  const char* (*last_error)(void);
  syncnorm_status (*query_sizes)(const syncnorm_shape*, const syncnorm_options*, syncnorm_device,
                                 syncnorm_sizes*);
  syncnorm_status (*forward)(const syncnorm_shape*, const syncnorm_options*,
                             const syncnorm_forward_args*, syncnorm_comm*, const syncnorm_launch*);
  const float x[4] = {1, 2, 3, 4};
  float y[4] = {0, 0, 0, 0};
  syncnorm_shape shape = SYNCNORM_SHAPE_INIT;
  syncnorm_options options = SYNCNORM_OPTIONS_INIT;
  syncnorm_forward_args args = SYNCNORM_FORWARD_ARGS_INIT;
  syncnorm_launch launch = SYNCNORM_LAUNCH_INIT;
  syncnorm_sizes sizes = SYNCNORM_SIZES_INIT;
  void* library = dlopen(argc > 1 ? argv[1] : "", RTLD_NOW | RTLD_LOCAL);

  require(library != NULL, "the library does not load");
  look_up(library, "syncnorm_version", &version);
  look_up(library, "syncnorm_last_error", &last_error);
  look_up(library, "syncnorm_query_sizes", &query_sizes);
  look_up(library, "syncnorm_forward", &forward);
  require(fits(version()), "the library is of another version than the header");

  shape.n = 4;
  shape.c = 1;
  args.x = x;
  args.y = y;
  require(query_sizes(&shape, &options, SYNCNORM_CPU, &sizes) == SYNCNORM_OK, last_error());
  launch.num_threads = 2;
  launch.workspace_size = (sizes.workspace_size + 63) / 64 * 64;
  launch.workspace = aligned_alloc(64, launch.workspace_size);
  require(forward(&shape, &options, &args, NULL, &launch) == SYNCNORM_OK, last_error());
  free(launch.workspace);
  require(y[0] == -y[3] && y[3] > 1.34F && y[3] < 1.35F, "y is not x, normalized");

  options.eps = -1;
  require(query_sizes(&shape, &options, SYNCNORM_CPU, &sizes) == SYNCNORM_INVALID_ARGUMENT, "eps");
  require(strstr(last_error(), "options.eps is -1") != NULL, last_error());
  puts(version());
  dlclose(library);
#if defined(__linux__)
  require(dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) != NULL, "its threads have lost their code");
#endif
  return 0;
}
