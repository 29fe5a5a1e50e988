/* Calls with bad arguments, and twice with arenas that held other things. For tests. */
#include <string.h>

#include "model.h"

int main(void) {
    static float input[MODEL_INPUT_FLOATS + 1], one[MODEL_OUTPUT_FLOATS + 1], two[MODEL_OUTPUT_FLOATS];
    static float arena[(MODEL_ARENA_BYTES + 3) / 4 + 1];
    float *none = NULL;
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
    return memcmp(one, two, sizeof two) == 0 ? 0 : 8;
}
