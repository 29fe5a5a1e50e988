/* Calls with bad arguments, and twice with memory that held other things; pixels as input. For tests. */
#include <string.h>

#include "model.h"

static int16_t input[MODEL_INPUT_NUMBERS], one[MODEL_OUTPUT_NUMBERS], two[MODEL_OUTPUT_NUMBERS];
static int16_t arena[MODEL_ARENA_NUMBERS], *no_numbers = NULL;
static int32_t rows[MODEL_ROWS_NUMBERS], exponents[MODEL_OUTPUTS], again[MODEL_OUTPUTS], *no_rows = NULL;

/* Pixels of 0 to 1 less a mean of 0.5, by a deviation of 0.25: -2 to 2. */
static int pixels(void) {
    static const uint8_t given[4] = {0, 51, 128, 255};
    static const int16_t wanted[4] = {-8192, -4915, 32, 8192};
    int16_t found[4];
    tailcut_integer_pixels(given, 4, TAILCUT_PIXEL_SCALE(0.25), TAILCUT_PIXEL_SHIFT(0.5, 0.25), found);
    if (memcmp(found, wanted, sizeof wanted) != 0) return 10;
    tailcut_integer_pixels(given, 4, TAILCUT_PIXEL_SCALE(0.01), TAILCUT_PIXEL_SHIFT(0.5, 0.01), found);
    return found[0] == INT16_MIN && found[3] == INT16_MAX ? 0 : 11;
}

int main(void) {
    unsigned n;
    for (n = 0; n < MODEL_INPUT_NUMBERS; n++) input[n] = (int16_t)(n % 7 * 1000);
    if (tailcut_run_integer(NULL, input, 0, one, exponents, arena, rows) != TAILCUT_BAD_ARGUMENT) return 1;
    if (tailcut_run_integer(&model, no_numbers, 0, one, exponents, arena, rows) != TAILCUT_BAD_ARGUMENT) return 2;
    if (tailcut_run_integer(&model, input, 101, one, exponents, arena, rows) != TAILCUT_BAD_ARGUMENT) return 3;
    if (tailcut_run_integer(&model, input, -101, one, exponents, arena, rows) != TAILCUT_BAD_ARGUMENT) return 4;
    if (tailcut_run_integer(&model, input, 0, no_numbers, exponents, arena, rows) != TAILCUT_BAD_ARGUMENT) return 5;
    if (tailcut_run_integer(&model, input, 0, one, no_rows, arena, rows) != TAILCUT_BAD_ARGUMENT) return 6;
    if (tailcut_run_integer(&model, input, 0, one, exponents, no_numbers, rows) != TAILCUT_BAD_ARGUMENT) return 7;
    if (tailcut_run_integer(&model, input, 0, one, exponents, arena, no_rows) != TAILCUT_BAD_ARGUMENT) return 8;
    memset(arena, 0x81, sizeof arena);
    memset(rows, 0x81, sizeof rows);
    if (tailcut_run_integer(&model, input, 0, one, exponents, arena, rows) != TAILCUT_OK) return 12;
    if (tailcut_run_integer(&model, input, 0, two, again, arena, rows) != TAILCUT_OK) return 13;
    if (memcmp(one, two, sizeof two) != 0 || memcmp(exponents, again, sizeof again) != 0) return 14;
    return pixels();
}
