/* Runs a network once and prints what it took, then its outputs. What is compiled:
 * RUNS: 0 for an empty program, to know what it takes; READS: 2 for the reader too, 1 for what it is given alone. */
#include "given.h"
#include "model.h"

void print(const char *text);
extern uint32_t stack_limit[];

#ifdef MODEL_ARENA_NUMBERS /* in integers */
static int16_t arena[MODEL_ARENA_NUMBERS], output[MODEL_OUTPUT_NUMBERS];
static int32_t rows[MODEL_ROWS_NUMBERS], exponents[MODEL_OUTPUTS];
#else
static float arena[(MODEL_ARENA_BYTES + 3) / 4 + 1], output[MODEL_OUTPUT_FLOATS];
#endif

static void print_hex(uint32_t word) {
    char text[10];
    int place;
    for (place = 7; place >= 0; place--, word >>= 4) text[place] = "0123456789abcdef"[word & 15];
    text[8] = '\n';
    text[9] = 0;
    print(text);
}

int main(void) {
    volatile uint32_t *timer = (volatile uint32_t *)0x40000000; /* counts down at 25 MHz */
    uint32_t *lowest = stack_limit, *here = (uint32_t *)__builtin_frame_address(0) - 64, start, end, n, word;
    uint32_t status = 0;
    while (lowest < here) *lowest++ = 0x5a5a5a5au;
    timer[2] = 0xffffffffu;
    timer[1] = 0xffffffffu;
    timer[0] = 1;
    start = timer[1];
#if RUNS && defined(MODEL_ARENA_NUMBERS)
    status = (uint32_t)tailcut_run_integer(&model, given_input, -15, output, exponents, arena, rows);
#elif RUNS
    status = (uint32_t)tailcut_run(&model, given_input, output, arena);
#elif defined(MODEL_ARENA_NUMBERS)
    {
        const int16_t *volatile kept = given_input;
        output[0] = (int16_t)(kept[0] + arena[0] + rows[0] + exponents[0]);
    }
#else
    {
        const float *volatile kept = given_input;
        output[0] = kept[0] + arena[0];
    }
#endif
    end = timer[1];
#if READS == 2
    {
        static uint8_t memory[GIVEN_READER_ARENA];
        tailcut_file file;
        status |= (uint32_t)tailcut_open(given_file, sizeof given_file, &given_network, TAILCUT_MAX_PARAMETERS, memory,
                                         sizeof memory, &file);
    }
#elif READS == 1
    {
        const void *volatile kept = given_file;
        kept = &given_network;
        (void)kept;
    }
#endif
    for (lowest = stack_limit; *lowest == 0x5a5a5a5au;) lowest++;
    print_hex(start - end);
    print_hex((uint32_t)(here - lowest) * 4);
#ifdef MODEL_ARENA_NUMBERS
    for (n = 0; n < MODEL_OUTPUTS; n++) print_hex((uint32_t)exponents[n]);
    for (n = 0; n < MODEL_OUTPUT_NUMBERS; n++) print_hex((uint32_t)output[n]);
    (void)word;
#else
    for (n = 0; n < MODEL_OUTPUT_FLOATS; n++) {
        __builtin_memcpy(&word, output + n, 4);
        print_hex(word);
    }
#endif
    return (int)status;
}
