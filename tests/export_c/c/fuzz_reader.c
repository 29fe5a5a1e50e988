/* libFuzzer's entry point for the reader. With FUZZ_MAIN it runs over the files that it is given, without a fuzzer. */
#include "tailcut.h"

#include <stdio.h>
#include <stdlib.h>

#define ARENA (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
    static const uint32_t matrix[2] = {2, 3}, row[1] = {2};
    static const tailcut_slot slots[2] = {{"weight", matrix, 2, 1, TAILCUT_FLOAT32},
                                          {"bias", row, 1, 1, TAILCUT_FLOAT32}};
    tailcut_network network = {"", NULL, 0, NULL, 0, slots, 2};
    uint8_t *arena = malloc(ARENA), *copy = malloc(length ? length : 1);
    tailcut_file file;
    int way;
    if (arena == NULL || copy == NULL) abort();
    for (way = 0; way < 4; way++) {
        size_t place;
        uint32_t n, k;
        for (place = 0; place < length; place++) copy[place] = bytes[place];
        if (way >= 2 && length >= 13) {
            /* With the checksum that fits, or nothing behind it would ever be reached. */
            uint32_t crc = 0xffffffffu, bit;
            for (place = 9; place < length; place++) {
                crc ^= copy[place];
                for (bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
            }
            for (n = 0; n < 4; n++) copy[5 + n] = (uint8_t)(~crc >> 8 * n);
        }
        if (tailcut_open(copy, length, way & 1 ? &network : NULL, 1u << 20, arena, ARENA, &file) != TAILCUT_OK)
            continue;
        for (n = 0; n < file.num_tensors; n++) {
            volatile float sum = 0;
            for (k = 0; k < file.tensors[n].count; k++) sum += tailcut_number(file.tensors + n, k);
            (void)sum;
        }
    }
    free(copy);
    free(arena);
    return 0;
}

#ifdef FUZZ_MAIN
int main(int count, char **names) {
    int n;
    for (n = 1; n < count; n++) {
        FILE *file = fopen(names[n], "rb");
        static uint8_t bytes[1u << 20];
        size_t length;
        if (file == NULL) return 1;
        length = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        LLVMFuzzerTestOneInput(bytes, length);
    }
    printf("%d files\n", count - 1);
    return 0;
}
#endif
