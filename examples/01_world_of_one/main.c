/* The smallest use of the C interface: batch normalization of one small batch, no group. */
#include <stdio.h>
#include <stdlib.h>

#include "syncbn/syncbn.h"

#define ALIGNMENT 64

/* [doc: status] */
static void require_ok(syncbn_status status) {
  if (status == SYNCBN_OK) return;
  fprintf(stderr, "%s: %s\n", syncbn_status_name(status), syncbn_last_error());
  exit(EXIT_FAILURE);
}
/* [end] */

int main(void) {
  const float x[8] = {.3F, .4F, .3F, .07F, .83F, .37F, .18F, .93F}; /* 1 sample, 2 channels, 2x2 */
  float y[8], mean[2] = {0, 0}, var[2] = {1, 1};

  /* [doc: one-layer] */
  syncbn_shape shape = SYNCBN_SHAPE_INIT;
  shape.n = 1;
  shape.c = 2;
  shape.s = 4;
  syncbn_options options = SYNCBN_OPTIONS_INIT;

  syncbn_sizes sizes = SYNCBN_SIZES_INIT;
  require_ok(syncbn_query_sizes(&shape, &options, SYNCBN_CPU, &sizes));
  syncbn_launch launch = SYNCBN_LAUNCH_INIT;
  launch.workspace_size = (sizes.workspace_size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  launch.workspace = aligned_alloc(ALIGNMENT, launch.workspace_size);
  if (launch.workspace == NULL) return EXIT_FAILURE;

  syncbn_forward_args args = SYNCBN_FORWARD_ARGS_INIT;
  args.x = x;
  args.y = y;
  args.running_mean.data = mean;
  args.running_var.data = var;
  require_ok(syncbn_forward(&shape, &options, &args, NULL, &launch));
  /* [end] */

  for (int c = 0; c < 2; ++c) {
    printf("channel %d: y = %.6f %.6f %.6f %.6f, running mean %.6f, running var %.6f\n", c,
           y[4 * c], y[4 * c + 1], y[4 * c + 2], y[4 * c + 3], mean[c], var[c]);
  }
  free(launch.workspace);
  return EXIT_SUCCESS;
}
