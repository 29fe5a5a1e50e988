/* Calls with bad arguments, and twice with arenas that held other things; the same with a prepared buffer. For tests. */
#include <string.h>

#include "model.h"

static float input[MODEL_INPUT_FLOATS + 1], one[MODEL_OUTPUT_FLOATS + 1], two[MODEL_OUTPUT_FLOATS];
static float arena[(MODEL_ARENA_BYTES + 3) / 4 + 1], prepared[MODEL_PREPARED_BYTES / 4 + 1];
static float *none = NULL;

static int run_prepared(void) {
    const tailcut_model other = model;
    if (tailcut_prepare(NULL, prepared, sizeof prepared, arena) != TAILCUT_BAD_ARGUMENT) return 11;
    if (tailcut_prepare(&model, none, sizeof prepared, arena) != TAILCUT_BAD_ARGUMENT) return 12;
    if (tailcut_prepare(&model, prepared, sizeof prepared, none) != TAILCUT_BAD_ARGUMENT) return 13;
    if (tailcut_prepare(&model, (char *)prepared + 1, MODEL_PREPARED_BYTES, arena) != TAILCUT_BAD_ARGUMENT) return 14;
    if (tailcut_prepare(&model, prepared, sizeof prepared, (char *)arena + 2) != TAILCUT_BAD_ARGUMENT) return 15;
    if (tailcut_prepare(&model, prepared, 0, arena) != TAILCUT_ARENA_TOO_SMALL) return 16;
    if (tailcut_prepare(&model, prepared, MODEL_PREPARED_BYTES - 1, arena) != TAILCUT_ARENA_TOO_SMALL) return 17;
    if (tailcut_run_prepared(&model, prepared, input, two, arena) != TAILCUT_BAD_ARGUMENT) return 18; /* nothing there */
    if (tailcut_prepare(&model, prepared, MODEL_PREPARED_BYTES, arena) != TAILCUT_OK) return 19;
    if (tailcut_run_prepared(&model, none, input, two, arena) != TAILCUT_BAD_ARGUMENT) return 20;
    if (tailcut_run_prepared(&model, (char *)prepared + 3, input, two, arena) != TAILCUT_BAD_ARGUMENT) return 21;
    if (tailcut_run_prepared(&other, prepared, input, two, arena) != TAILCUT_BAD_ARGUMENT) return 22;
    if (tailcut_run_prepared(NULL, prepared, input, two, arena) != TAILCUT_BAD_ARGUMENT) return 23;
    if (tailcut_run_prepared(&model, prepared, none, two, arena) != TAILCUT_BAD_ARGUMENT) return 24;
    memset(arena, 0xff, sizeof arena);
    memset(two, 0, sizeof two);
    memmove(prepared + 1, prepared, MODEL_PREPARED_BYTES); /* it may be moved */
    if (tailcut_run_prepared(&model, prepared + 1, input, two, arena) != TAILCUT_OK) return 25;
    return memcmp(one, two, sizeof two) == 0 ? 0 : 26;
}

int main(void) {
    unsigned n;
    for (n = 0; n < MODEL_INPUT_FLOATS; n++) input[n] = (float)(n % 7) * 0.1f;
    if (tailcut_run(NULL, input, one, arena) != TAILCUT_BAD_ARGUMENT) return 1;
    if (tailcut_run(&model, none, one, arena) != TAILCUT_BAD_ARGUMENT) return 2;
    if (tailcut_run(&model, input, none, arena) != TAILCUT_BAD_ARGUMENT) return 3;
    if (tailcut_run(&model, input, one, none) != TAILCUT_BAD_ARGUMENT) return 4;
    if (tailcut_run(&model, input, one, (char *)arena + 1) != TAILCUT_BAD_ARGUMENT) return 5;
    memset(arena, 0xff, sizeof arena); /* not a number, wherever it would be read before it is written */
    if (tailcut_run(&model, input, one, arena) != TAILCUT_OK) return 6;
    if (tailcut_run(&model, input, two, arena) != TAILCUT_OK) return 7;
    return memcmp(one, two, sizeof two) == 0 ? run_prepared() : 8;
}
