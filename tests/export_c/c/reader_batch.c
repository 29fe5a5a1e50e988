/* Reads requests from standard input, each a file and what it shall fill, and writes what tailcut_open makes of them.
 *
 * All numbers are little-endian, as the machine's: this is for tests.
 * request = network bytes (u32), network, max_parameters, arena bytes, level, file bytes (u32 each), file
 * answer  = status (u8); of sound files more, see `answer`
 */
#include "tailcut.h"

#ifndef READ_LEVELS
#define READ_LEVELS 1
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int read_exactly(void *into, size_t count) { return fread(into, 1, count, stdin) == count; }

static void *memory(size_t count) {
    void *found = malloc(count ? count : 1);
    if (found == NULL) abort();
    return found;
}

static void put(const void *bytes, size_t count) {
    if (fwrite(bytes, 1, count, stdout) != count) abort();
}

static void put8(uint32_t value) {
    uint8_t byte = (uint8_t)value;
    put(&byte, 1);
}

static void put32(uint32_t value) { put(&value, 4); }

static uint32_t get32(const uint8_t **at) {
    uint32_t value;
    memcpy(&value, *at, 4);
    *at += 4;
    return value;
}

/* network = base, arguments, edits (each a length and bytes), number of slots; name, kind, type, sizes of each */
static void unpack(const uint8_t *at, tailcut_network *network, char **names) {
    uint32_t length = get32(&at), n, axis;
    char *text = memory(length + 1);
    tailcut_slot *slots;
    memcpy(text, at, length);
    text[length] = 0;
    at += length;
    network->base = text;
    network->arguments_bytes = get32(&at);
    network->arguments = at;
    at += network->arguments_bytes;
    network->edits_bytes = get32(&at);
    network->edits = at;
    at += network->edits_bytes;
    network->num_slots = get32(&at);
    slots = memory(network->num_slots * sizeof *slots);
    for (n = 0; n < network->num_slots; n++) {
        uint32_t *sizes;
        length = get32(&at);
        names[n] = memory(length + 1);
        memcpy(names[n], at, length);
        names[n][length] = 0;
        at += length;
        slots[n].name = names[n];
        slots[n].is_parameter = (uint8_t)get32(&at);
        slots[n].type = (uint8_t)get32(&at);
        slots[n].num_axes = (uint8_t)get32(&at);
        sizes = memory(slots[n].num_axes * sizeof *sizes);
        for (axis = 0; axis < slots[n].num_axes; axis++) sizes[axis] = get32(&at);
        slots[n].sizes = sizes;
    }
    network->slots = slots;
}

static void answer(const tailcut_file *file) {
    uint32_t n, k, byte;
    put32(file->version);
    put32(file->metadata_bytes);
    put(file->metadata, file->metadata_bytes);
    put32(file->num_edits);
    put32(file->level);
    put32(file->num_levels);
    put32((uint32_t)file->arena_peak);
    put32(file->num_kept);
    put32(file->num_tensors);
    for (n = 0; n < file->num_tensors; n++) {
        const tailcut_tensor *tensor = file->tensors + n;
        uint32_t width = tailcut_number_bytes(tensor), num_weights = 0;
        put32(tensor->name_bytes);
        put(tensor->name, tensor->name_bytes);
        put8(tensor->is_parameter);
        put8(tensor->type);
        put8(tensor->stored_type);
        put8(tensor->num_axes);
        for (k = 0; k < tensor->num_axes; k++) put32(tensor->sizes[k]);
        put32(tensor->axes);
        for (k = 0; k < tensor->num_axes; k++) num_weights += tensor->axes >> k & 1;
        put8(num_weights);
        for (k = 0; k < num_weights; k++) put8(tensor->order_weights ? tensor->order_weights[k] : 1);
        put32(tensor->count);
        for (k = 0; k < tensor->count; k++) {
            for (byte = 0; byte < width; byte++) put8(tailcut_number_byte(tensor, k, byte));
        }
        for (k = 0; k < tensor->count; k++) {
            float value = tailcut_number(tensor, k);
            put(&value, 4);
        }
        if (tensor->is_kept) {
            tailcut_order order;
            tailcut_order_start(&order, tensor);
            for (k = 0; k < tensor->count; k++) {
                put(order.index, tensor->num_axes * sizeof *order.index);
                if (k + 1 < tensor->count) tailcut_order_next(&order);
            }
        }
    }
}

int main(void) {
    uint32_t network_bytes;
    uint8_t *described = NULL;
    tailcut_network network;
    char **names = NULL;
    int has_network = 0;
    while (read_exactly(&network_bytes, 4)) {
        uint32_t settings[4];
        uint8_t *bytes, *arena;
        tailcut_file file;
        tailcut_status status;
        if (network_bytes == 0xffffffffu) {
            has_network = 0; /* none */
        } else if (network_bytes > 0) {
            /* A new one; 0 stands for that of the request before. They live as long as the process. */
            described = memory(network_bytes);
            if (!read_exactly(described, network_bytes)) abort();
            names = memory(65536 * sizeof *names);
            unpack(described, &network, names);
            has_network = 1;
        }
        if (!read_exactly(settings, sizeof settings)) abort();
        bytes = memory(settings[3]);
        arena = (uint8_t *)memory(settings[1] + 1u) + 1; /* of no alignment */
        if (!read_exactly(bytes, settings[3])) abort();
#if READ_LEVELS
        status = tailcut_open_level(bytes, settings[3], has_network ? &network : NULL, settings[0], settings[2], arena,
                                    settings[1], &file);
#else
        status =
            tailcut_open(bytes, settings[3], has_network ? &network : NULL, settings[0], arena, settings[1], &file);
#endif
        put8((uint32_t)status);
        if (status == TAILCUT_OK) answer(&file);
        free(arena - 1);
        free(bytes);
    }
    return 0;
}
