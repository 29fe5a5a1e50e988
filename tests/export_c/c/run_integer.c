/* Reads inputs of 16 bits from standard input, runs the network, writes its exponents and outputs. For tests. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_EXPONENT (-15)

int main(void) {
    int16_t *input = malloc(MODEL_INPUT_NUMBERS * sizeof *input), *output = malloc(MODEL_OUTPUT_NUMBERS * sizeof *output);
    int32_t exponents[MODEL_OUTPUTS];
    while (fread(input, sizeof *input, MODEL_INPUT_NUMBERS, stdin) == MODEL_INPUT_NUMBERS) {
        int16_t *arena = malloc(MODEL_ARENA_NUMBERS * sizeof *arena);
        int32_t *rows = malloc(MODEL_ROWS_NUMBERS * sizeof *rows);
        memset(arena, 0x7f, MODEL_ARENA_NUMBERS * sizeof *arena); /* nothing that a run reads is left there */
        memset(rows, 0x7f, MODEL_ROWS_NUMBERS * sizeof *rows);
        if (tailcut_run_integer(&model, input, INPUT_EXPONENT, output, exponents, arena, rows) != TAILCUT_OK) return 1;
        fwrite(exponents, sizeof *exponents, MODEL_OUTPUTS, stdout);
        fwrite(output, sizeof *output, MODEL_OUTPUT_NUMBERS, stdout);
        free(rows);
        free(arena);
    }
    free(output);
    free(input);
    return 0;
}
