/* Reads inputs from standard input, runs the network, writes its outputs. Where there is a way with what does not depend
 * on the input prepared, its outputs must be the same bit for bit. For tests. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUTPUT_BYTES (MODEL_OUTPUT_FLOATS * sizeof(float))

#if TAILCUT_SMALL

static int is_same(const float *input, const float *output) { return input != NULL && output != NULL; }

#else

static int is_same(const float *input, const float *output) {
    void *arena = malloc(MODEL_ARENA_BYTES ? MODEL_ARENA_BYTES : 1);
    float *prepared = malloc(MODEL_PREPARED_BYTES), *other = malloc(OUTPUT_BYTES);
    int found = tailcut_prepare(&model, prepared, MODEL_PREPARED_BYTES - 1, arena) == TAILCUT_ARENA_TOO_SMALL &&
                tailcut_prepare(&model, prepared, MODEL_PREPARED_BYTES, arena) == TAILCUT_OK;
    memset(arena, 0xff, MODEL_ARENA_BYTES); /* nothing that a run reads is left there */
    found = found && tailcut_run_prepared(&model, prepared, input, other, arena) == TAILCUT_OK &&
            memcmp(other, output, OUTPUT_BYTES) == 0;
    free(other);
    free(prepared);
    free(arena);
    return found;
}

#endif

int main(void) {
    float *input = malloc(MODEL_INPUT_FLOATS * sizeof *input), *kept = malloc(MODEL_INPUT_FLOATS * sizeof *input);
#ifdef MODEL_IN_PLACE_FLOATS
    float *output;
    input = realloc(input, MODEL_IN_PLACE_FLOATS * sizeof *input);
    output = input;
#else
    float *output = malloc(OUTPUT_BYTES);
#endif
    while (fread(input, sizeof *input, MODEL_INPUT_FLOATS, stdin) == MODEL_INPUT_FLOATS) {
        void *arena = malloc(MODEL_ARENA_BYTES ? MODEL_ARENA_BYTES : 1);
        memcpy(kept, input, MODEL_INPUT_FLOATS * sizeof *input);
        if (tailcut_run(&model, input, output, arena) != TAILCUT_OK) return 1;
        if (!is_same(kept, output)) return 2;
        fwrite(output, sizeof *output, MODEL_OUTPUT_FLOATS, stdout);
        free(arena);
    }
    if (output != input) free(output);
    free(input);
    free(kept);
    return 0;
}
