/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stillmap/stillmap.h>

int main(int count, char** arguments) {
  still_options options = {.size = sizeof options, .padding = 1};
  still_snapshot* snapshot = NULL;
  if (count != 2 || still_open(arguments[1], &options, &snapshot) != 0) {
    fprintf(stderr, "%s\n", still_message());
    return 1;
  }
  fputs(still_data(snapshot), stdout); /* padding 1: a final NUL */
  still_close(snapshot);
  return 0;
}
