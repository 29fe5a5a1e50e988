/* libFuzzer's entry point for the reader. With FUZZ_MAIN it runs over the files that it is given, without a fuzzer. */
#include "tailcut.h"

#include <stdio.h>
#include <stdlib.h>

#define ARENA (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void put_checksum(uint8_t *bytes, size_t from, size_t to, uint8_t *into) {
    uint32_t crc = 0xffffffffu, bit, n;
    for (; from < to; from++) {
        crc ^= bytes[from];
        for (bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
    }
    for (n = 0; n < 4; n++) into[n] = (uint8_t)(~crc >> 8 * n);
}

/* The checksums that fit, or nothing behind them would ever be reached. */
static void put_checksums(uint8_t *bytes, size_t length) {
    size_t place;
    uint32_t level;
    if (length < 13) return;
    if (bytes[4] != 3) {
        put_checksum(bytes, 9, length, bytes + 5);
        return;
    }
    place = (size_t)5 + bytes[5];
    for (level = 0; level < 8; level++) {
        size_t size = 0;
        unsigned shift = 0;
        while (place < length && shift < 28) {
            size |= (size_t)(bytes[place] & 127) << shift;
            shift += 7;
            if (bytes[place++] < 128) break;
        }
        if (place + size + 4 > length) return;
        place += size;
        put_checksum(bytes, 5, place, bytes + place);
        place += 4;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
    static const uint32_t matrix[2] = {2, 3}, row[1] = {2};
    static const tailcut_slot slots[2] = {{"weight", matrix, 2, 1, TAILCUT_FLOAT32},
                                          {"bias", row, 1, 1, TAILCUT_FLOAT32}};
    tailcut_network network = {"", NULL, 0, NULL, 0, slots, 2};
    uint8_t *arena = malloc(ARENA), *copy = malloc(length ? length : 1);
    tailcut_file file;
    int way;
    if (arena == NULL || copy == NULL) abort();
    for (way = 0; way < 12; way++) { /* of all levels, of the first one, of the second one */
        size_t place;
        uint32_t n, k;
        for (place = 0; place < length; place++) copy[place] = bytes[place];
        if (way & 2) put_checksums(copy, length);
        if (tailcut_open_level(copy, length, way & 1 ? &network : NULL, 1u << 20, (uint32_t)way >> 2, arena, ARENA,
                               &file) != TAILCUT_OK)
            continue;
        for (n = 0; n < file.num_tensors; n++) {
            volatile float sum = 0;
            for (k = 0; k < file.tensors[n].count; k++) sum += tailcut_number(file.tensors + n, k);
            (void)sum;
        }
    }
    (void)tailcut_whole_levels(bytes, length);
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
