/* What is known while a file is read, and what the parts of the reader share. A part of tailcut_reader.c. */
#ifndef TAILCUT_READING_H
#define TAILCUT_READING_H

#include "tailcut_codecs.h"

#include <string.h>

#define MAX_HEADER 1048576u
#define MAX_TENSORS 16384u
#define MAX_EDITS 16u
#define MAX_SIZE 65536u
#define QUANTIZED 10
#define WHOLE 11
#define NUM_TYPES 12
#define MAX_LEVELS (TAILCUT_READ_LEVELS ? 8 : 1)

/* How the transformed axes and their weights are given, for one tensor or many. */
typedef struct {
    uint32_t axes; /* 0 for all, otherwise 1 plus the sum of 2^axis */
    uint8_t num_weights;
    uint8_t weights[TAILCUT_MAX_AXES];
} setting;

typedef struct {
    uint64_t bytes;
    uint32_t type;
    uint32_t codec;
} payload;

typedef struct {
    tailcut_file *file;
    const tailcut_network *network;
    tailcut_arena arena;
    uint32_t max_parameters;
    uint32_t first_edits; /* bytes of the network's own edits that were found in the file */
    uint32_t has_coefficients;
    uint32_t num_selected;            /* tensors of kind 1 */
    const uint8_t *parts;             /* of every level but the highest, in 1 / 256 of the one above */
    tailcut_items blocks[MAX_LEVELS]; /* the contents of the levels that are taken, the lowest first */
    uint8_t *taken;                   /* one for each slot of the network: 1 if it is kept as coefficients */
} reading;

static const uint8_t magic[4] = {0x89, 0x54, 0x43, 0x54};
static const uint8_t number_bytes[NUM_TYPES] = {4, 2, 2, 8, 8, 4, 2, 1, 1, 1, 4, 8};

static uint32_t word_at(const uint8_t *bytes) {
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static int is_float(uint32_t type) { return type <= TAILCUT_FLOAT64 || type == QUANTIZED; }

static int is_own(const reading *from) { return TAILCUT_READ_OWN_CLASSES && from->file->base_bytes == 0; }

static void *keep(reading *from, tailcut_items *items, uint64_t num_bytes) {
    void *found = tailcut_keep(&from->arena, num_bytes);
    if (found == NULL) tailcut_fail(items, TAILCUT_ARENA_TOO_SMALL);
    return found;
}

/* More numbers than any cap stand as 2^62. */
static uint64_t product(uint64_t first, uint32_t second) {
    if (first == 0 || second == 0) return 0;
    if (second == 1 || first < UINT64_C(1) << 31) return first * second;
    return UINT64_C(1) << 62;
}

static uint64_t size_of(const uint32_t *sizes, uint32_t num_axes) {
    uint64_t size = 1;
    uint32_t axis;
    for (axis = 0; axis < num_axes; axis++) size = product(size, sizes[axis]);
    return size;
}

static void read_shape(reading *from, tailcut_items *items, tailcut_tensor *tensor) {
    uint32_t num_axes = tailcut_capped(items, TAILCUT_MAX_AXES), axis;
    uint32_t *sizes = keep(from, items, num_axes * (uint64_t)sizeof *sizes);
    for (axis = 0; axis < num_axes && sizes != NULL; axis++) sizes[axis] = tailcut_capped(items, 0xffffffffu);
    tensor->sizes = sizes;
    tensor->num_axes = (uint8_t)num_axes;
}

static int same_name(const tailcut_tensor *one, const tailcut_tensor *two) {
    return one->name_bytes == two->name_bytes && memcmp(one->name, two->name, one->name_bytes) == 0;
}

static int has_twin(const tailcut_tensor *tensors, uint32_t place) {
    uint32_t n;
    for (n = 0; n < place; n++) {
        if (same_name(tensors + n, tensors + place)) return 1;
    }
    return 0;
}

#endif
