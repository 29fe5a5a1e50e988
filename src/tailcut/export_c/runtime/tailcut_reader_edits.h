/* Edits of kinds 2 to 4, as far as they can be checked without the network, and the list of edits. A part of
 * tailcut_reader.c. */
#ifndef TAILCUT_READER_EDITS_H
#define TAILCUT_READER_EDITS_H

#include "tailcut_reader_kept.h"

/* What must not stand twice in a list. */
typedef struct {
    const uint8_t *name;
    uint32_t name_bytes;
    uint32_t attribute;
} named;

static named *start_names(reading *from, tailcut_items *items, uint32_t number) {
    named *names;
    if (number > (uint64_t)(items->end - items->at)) tailcut_fail(items, TAILCUT_TRUNCATED);
    if (items->status != TAILCUT_OK) return NULL;
    names = tailcut_borrow(&from->arena, number * (uint64_t)sizeof *names);
    if (names == NULL) tailcut_fail(items, TAILCUT_ARENA_TOO_SMALL);
    return names;
}

static void check_name(tailcut_items *items, const named *names, uint32_t place) {
    uint32_t n;
    for (n = 0; n < place && items->status == TAILCUT_OK; n++) {
        if (names[n].name_bytes == names[place].name_bytes && names[n].attribute == names[place].attribute &&
            memcmp(names[n].name, names[place].name, names[n].name_bytes) == 0) {
            tailcut_fail(items, TAILCUT_CORRUPT);
        }
    }
}

static void read_entry(tailcut_items *items, uint32_t *entry) {
    *entry = tailcut_byte(items);
    if (*entry == 1) {
        uint64_t temperature = tailcut_float64(items);
        if (temperature == 0 || temperature >= UINT64_C(0x7ff0000000000000)) tailcut_fail(items, TAILCUT_CORRUPT);
    } else if (*entry == 2) {
        uint32_t channels = tailcut_capped(items, MAX_SIZE), kernel = tailcut_capped(items, 64);
        uint32_t stride = tailcut_capped(items, 64), shuffle;
        tailcut_capped(items, 64);
        shuffle = tailcut_capped(items, 64);
        if (items->status != TAILCUT_OK) return;
        if (channels == 0 || kernel == 0 || stride == 0 || shuffle == 0) tailcut_fail(items, TAILCUT_CORRUPT);
        if (channels * shuffle * shuffle > MAX_SIZE) tailcut_fail(items, TAILCUT_LIMIT);
    } else if (*entry > 2) {
        tailcut_fail(items, TAILCUT_CORRUPT);
    }
}

/* The lists of removed modules (part 0), resized layers (1), projections (2) and settings (3). */
static uint32_t read_modules(reading *from, tailcut_items *items, int part) {
    size_t top = from->arena.top;
    uint32_t number = tailcut_capped(items, 4096), n;
    named *names = start_names(from, items, number);
    for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
        names[n].name = tailcut_text(items, &names[n].name_bytes);
        names[n].attribute = 0;
        if (part == 1) {
            uint32_t inner = tailcut_capped(items, MAX_SIZE), outer = tailcut_capped(items, MAX_SIZE);
            tailcut_capped(items, MAX_SIZE);
            if (items->status == TAILCUT_OK && (inner == 0 || outer == 0)) tailcut_fail(items, TAILCUT_CORRUPT);
        } else if (part == 2) {
            uint32_t inner, outer;
            tailcut_capped(items, 1);
            inner = tailcut_capped(items, MAX_SIZE);
            outer = tailcut_capped(items, MAX_SIZE);
            if (items->status == TAILCUT_OK && (inner == 0 || outer == 0)) tailcut_fail(items, TAILCUT_CORRUPT);
        } else if (part == 3) {
            names[n].attribute = tailcut_capped(items, 6);
            tailcut_capped(items, MAX_SIZE);
        }
        if (items->status == TAILCUT_OK) check_name(items, names, n);
    }
    from->arena.top = top;
    return number;
}

static void read_stem(reading *from, tailcut_items *items) {
    uint32_t flags = tailcut_byte(items), number, entry = 0, n, side;
    const uint8_t *channels;
    uint8_t any = 0;
    if (flags > 7) tailcut_fail(items, TAILCUT_CORRUPT);
    channels = tailcut_take(items, 24);
    if (items->status != TAILCUT_OK) return;
    for (n = 0; n < 24; n++) any |= channels[n];
    if (any == 0) tailcut_fail(items, TAILCUT_CORRUPT);
    for (n = 0; n < 2 && items->status == TAILCUT_OK; n++) {
        side = tailcut_capped(items, 1024);
        if (side == 0) tailcut_fail(items, TAILCUT_CORRUPT);
    }
    number = read_modules(from, items, 0);
    if (items->status == TAILCUT_OK) read_entry(items, &entry);
    if (number == 0 && (entry != 0 || flags & 4)) tailcut_fail(items, TAILCUT_CORRUPT);
    for (n = 1; n < 4 && items->status == TAILCUT_OK; n++) read_modules(from, items, (int)n);
}

static void read_prune(reading *from, tailcut_items *items) {
    static const uint8_t num_sizes[10] = {0, 3, 2, 1, 1, 2, 1, 1, 2, 2};
    size_t top = from->arena.top;
    uint32_t part, number, n, k;
    for (part = 0; part < 2 && items->status == TAILCUT_OK; part++) {
        named *names;
        number = tailcut_capped(items, MAX_TENSORS);
        names = start_names(from, items, number);
        for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
            names[n].name = tailcut_text(items, &names[n].name_bytes);
            names[n].attribute = 0;
            if (part == 0) {
                uint32_t kind = tailcut_byte(items);
                if (items->status == TAILCUT_OK && (kind < 1 || kind > 9)) {
                    tailcut_fail(items, TAILCUT_UNSUPPORTED_VERSION);
                }
                for (k = 0; items->status == TAILCUT_OK && k < num_sizes[kind]; k++) tailcut_varint(items);
            } else {
                uint32_t axes = tailcut_capped(items, TAILCUT_MAX_AXES);
                for (k = 0; k < axes; k++) tailcut_varint(items);
            }
        }
        for (n = 0; n < number && items->status == TAILCUT_OK; n++) check_name(items, names, n);
        from->arena.top = top;
    }
}

static void read_ycbcr(tailcut_items *items) {
    uint32_t n;
    for (n = 0; n < 2 && items->status == TAILCUT_OK; n++) {
        uint32_t side = tailcut_capped(items, 8192);
        if (items->status == TAILCUT_OK && side == 0) tailcut_fail(items, TAILCUT_CORRUPT);
    }
}

static void read_edit(reading *from, tailcut_items *edit, uint64_t kind, const uint8_t *start) {
    const tailcut_network *network = from->network;
    if (kind == 1) {
        read_regularize(from, edit);
    } else if (!TAILCUT_READ_OWN_CLASSES || network != NULL) {
        /* The network is described as these edits made it, so they must be the same. */
        size_t length = (size_t)(edit->end - start);
        if (network->edits_bytes - from->first_edits < length ||
            memcmp(network->edits + from->first_edits, start, length) != 0) {
            tailcut_fail(edit, TAILCUT_MODEL_MISMATCH);
        }
        from->first_edits += (uint32_t)length;
        edit->at = edit->end;
    } else if (kind == 2) {
        read_stem(from, edit);
    } else if (kind == 3) {
        read_prune(from, edit);
    } else if (kind == 4) {
        read_ycbcr(edit);
    }
}

static void read_edits(reading *from, tailcut_items *items) {
    uint32_t number = tailcut_capped(items, MAX_EDITS), n;
    from->file->num_edits = number;
    for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
        const uint8_t *start = items->at;
        uint64_t kind = tailcut_varint(items), num_bytes = tailcut_varint(items);
        tailcut_items edit;
        edit.at = tailcut_take(items, num_bytes);
        edit.end = items->at;
        edit.status = items->status;
        if (edit.status != TAILCUT_OK) return;
        if (kind == 0 || kind > 4) tailcut_fail(&edit, TAILCUT_UNSUPPORTED_VERSION);
        if (edit.status == TAILCUT_OK) read_edit(from, &edit, kind, start);
        if (edit.status == TAILCUT_OK && edit.at != edit.end) edit.status = TAILCUT_CORRUPT;
        if (edit.status != TAILCUT_OK) tailcut_fail(items, edit.status);
    }
    if (items->status == TAILCUT_OK && from->network != NULL && from->first_edits != from->network->edits_bytes) {
        tailcut_fail(items, TAILCUT_MODEL_MISMATCH);
    }
}

#endif
