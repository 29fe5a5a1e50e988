/* Reads inputs from standard input, runs the network, writes its outputs. For tests. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>

int main(void) {
#ifdef MODEL_IN_PLACE_FLOATS
    float *input = malloc(MODEL_IN_PLACE_FLOATS * sizeof *input), *output = input;
#else
    float *input = malloc(MODEL_INPUT_FLOATS * sizeof *input), *output = malloc(MODEL_OUTPUT_FLOATS * sizeof *output);
#endif
    while (fread(input, sizeof *input, MODEL_INPUT_FLOATS, stdin) == MODEL_INPUT_FLOATS) {
        void *arena = malloc(MODEL_ARENA_BYTES ? MODEL_ARENA_BYTES : 1);
        if (tailcut_run(&model, input, output, arena) != TAILCUT_OK) return 1;
        fwrite(output, sizeof *output, MODEL_OUTPUT_FLOATS, stdout);
        free(arena);
    }
    if (output != input) free(output);
    free(input);
    return 0;
}
