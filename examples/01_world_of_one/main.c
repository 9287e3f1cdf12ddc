/* The smallest use of the C interface: batch normalization of one small batch, no group. */
#include <stdio.h>
#include <stdlib.h>

#include "syncnorm/syncnorm.h"

#define ALIGNMENT 64

/* [doc: status] */
static void require_ok(syncnorm_status status) {
  if (status == SYNCNORM_OK) return;
  fprintf(stderr, "%s: %s\n", syncnorm_status_name(status), syncnorm_last_error());
  exit(EXIT_FAILURE);
}
/* [end] */

int main(void) {
  const float x[8] = {.3F, .4F, .3F, .07F, .83F, .37F, .18F, .93F}; /* 1 sample, 2 channels, 2x2 */
  float y[8], mean[2] = {0, 0}, var[2] = {1, 1};

  /* [doc: one-layer] */
  syncnorm_shape shape = SYNCNORM_SHAPE_INIT;
  shape.n = 1;
  shape.c = 2;
  shape.s = 4;
  syncnorm_options options = SYNCNORM_OPTIONS_INIT;

  syncnorm_sizes sizes = SYNCNORM_SIZES_INIT;
  require_ok(syncnorm_query_sizes(&shape, &options, SYNCNORM_CPU, &sizes));
  syncnorm_launch launch = SYNCNORM_LAUNCH_INIT;
  launch.workspace_size = (sizes.workspace_size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  launch.workspace = aligned_alloc(ALIGNMENT, launch.workspace_size);
  if (launch.workspace == NULL) return EXIT_FAILURE;

  syncnorm_forward_args args = SYNCNORM_FORWARD_ARGS_INIT;
  args.x = x;
  args.y = y;
  args.running_mean.data = mean;
  args.running_var.data = var;
  require_ok(syncnorm_forward(&shape, &options, &args, NULL, &launch));
  /* [end] */

  for (int c = 0; c < 2; ++c) {
    printf("channel %d: y = %.6f %.6f %.6f %.6f, running mean %.6f, running var %.6f\n", c,
           y[4 * c], y[4 * c + 1], y[4 * c + 2], y[4 * c + 3], mean[c], var[c]);
  }
  free(launch.workspace);
  return EXIT_SUCCESS;
}
