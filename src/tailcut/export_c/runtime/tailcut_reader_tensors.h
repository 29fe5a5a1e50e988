/* The other tensors, the caps on all of them, and their digest. A part of tailcut_reader.c. */
#ifndef TAILCUT_READER_TENSORS_H
#define TAILCUT_READER_TENSORS_H

#include "tailcut_reader_kept.h"

static void read_others(reading *from, tailcut_items *items) {
    tailcut_file *file = from->file;
    uint32_t number = tailcut_capped(items, MAX_TENSORS), n;
    tailcut_tensor *others;
    if (3 * (uint64_t)number > (uint64_t)(items->end - items->at)) tailcut_fail(items, TAILCUT_TRUNCATED);
    others = add_tensors(from, items, number);
    if (others == NULL) return;
    for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
        uint32_t kind = tailcut_byte(items);
        if (kind > 1) tailcut_fail(items, TAILCUT_CORRUPT);
        others[n].is_parameter = (uint8_t)kind;
        others[n].name = (const char *)tailcut_text(items, &others[n].name_bytes);
        read_shape(from, items, others + n);
    }
    for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
        if (has_twin(others, n)) tailcut_fail(items, TAILCUT_CORRUPT);
    }
    file->num_tensors += number;
}

static void others_from_slots(reading *from, tailcut_items *items) {
    const tailcut_network *network = from->network;
    tailcut_file *file = from->file;
    uint32_t number = network->num_slots - file->num_kept, n;
    tailcut_tensor *others = add_tensors(from, items, number);
    if (others == NULL) return;
    for (n = 0; n < network->num_slots; n++) {
        if (!from->taken[n]) from_slot(others++, network->slots + n);
    }
    file->num_tensors += number;
}

static int has_others(const reading *from, uint32_t level) { return level == 1 || from->blocks[level - 1].at[0]; }

/* The numbers that the levels above the lowest repeat: coefficients, and four times others that they have anew. */
static uint64_t numbers_of_levels(const reading *from) {
    const tailcut_file *file = from->file;
    uint64_t numbers = 0;
    uint32_t level, n;
    for (level = 2; level <= file->level; level++) {
        for (n = 0; n < file->num_tensors; n++) {
            const tailcut_tensor *tensor = file->tensors + n;
            if (tensor->is_kept) {
                numbers += tailcut_count_below(tensor->count, from->parts, file->level, level - 1);
            } else if (has_others(from, level)) {
                numbers += 4 * (uint64_t)tensor->count;
            }
        }
    }
    return numbers;
}

/* What is above all levels of a tensor's order: the sum of its transformed axes' sizes times their weights. */
static uint64_t levels_of(const tailcut_tensor *tensor) {
    uint64_t levels = 0;
    uint32_t axis, number = 0;
    for (axis = 0; axis < tensor->num_axes; axis++) {
        if (!(tensor->axes >> axis & 1)) continue;
        levels += (uint64_t)tensor->sizes[axis] * (tensor->order_weights ? tensor->order_weights[number] : 1);
        number++;
    }
    return levels;
}

/* The work and the numbers that a file may ask for. */
static void check_caps(reading *from, tailcut_items *items, uint64_t length) {
    const tailcut_file *file = from->file;
    uint64_t numbers = 0, work, repeated = 0, most = from->max_parameters / 2;
    uint32_t n;
    if (most < 4194304) most = 4194304;
    work = file->num_tensors * (uint64_t)(2048 + 128 * file->num_edits) + (uint64_t)8192 * file->num_kept;
    for (n = 0; n < file->num_tensors; n++) {
        uint64_t size = size_of(file->tensors[n].sizes, file->tensors[n].num_axes);
        numbers = numbers + size < numbers ? UINT64_MAX : numbers + size;
        if (numbers > from->max_parameters) break;
        if (!file->tensors[n].is_kept) {
            file->tensors[n].count = (uint32_t)size;
        } else if (TAILCUT_READ_QUANTIZED && levels_of(file->tensors + n) >> 32) {
            tailcut_fail(items, TAILCUT_LIMIT);
        }
    }
    if (TAILCUT_READ_LEVELS && file->level > 1) repeated = numbers_of_levels(from);
    if (work > most || repeated > most || numbers > from->max_parameters || file->num_tensors > MAX_TENSORS ||
        length > 8 * (uint64_t)from->max_parameters + 1048597) {
        tailcut_fail(items, TAILCUT_LIMIT);
    }
}

static void add_number(tailcut_digest *digest, uint32_t number, char before) {
    char text[11];
    uint32_t place = sizeof text;
    do {
        text[--place] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    text[--place] = before;
    tailcut_digest_add(digest, text + place, (uint32_t)sizeof text - place);
}

static uint32_t digest_of(const tailcut_file *file) {
    tailcut_digest digest;
    uint32_t n, axis;
    tailcut_digest_start(&digest);
    for (n = 0; n < file->num_tensors; n++) {
        const tailcut_tensor *tensor = file->tensors + n;
        char before = ' ';
        tailcut_digest_add(&digest, tensor->name, tensor->name_bytes);
        if (tensor->num_axes == 0) tailcut_digest_add(&digest, " ", 1);
        for (axis = 0; axis < tensor->num_axes; axis++, before = ',') add_number(&digest, tensor->sizes[axis], before);
        if (tensor->is_kept) {
            uint32_t number = 0;
            if (tensor->axes == 0) tailcut_digest_add(&digest, " ", 1);
            for (axis = 0, before = ' '; axis < tensor->num_axes; axis++) {
                if (!(tensor->axes >> axis & 1)) continue;
                add_number(&digest, axis, before);
                before = ',';
                number++;
            }
            if (tensor->axes == 0) tailcut_digest_add(&digest, " ", 1);
            for (axis = 0, before = ' '; axis < number; axis++, before = ',') {
                add_number(&digest, tensor->order_weights ? tensor->order_weights[axis] : 1, before);
            }
        } else {
            tailcut_digest_add(&digest, tensor->is_parameter ? " p" : " b", 2);
        }
        tailcut_digest_add(&digest, "\n", 1);
    }
    return tailcut_digest_end(&digest);
}

/* The tensors that an own class's file lists, one by one with those of the network. */
static int fits_network(const reading *from) {
    const tailcut_file *file = from->file;
    const tailcut_network *network = from->network;
    uint32_t place = file->num_kept, n, axis;
    for (n = 0; n < network->num_slots; n++) {
        const tailcut_slot *slot = network->slots + n;
        const tailcut_tensor *tensor = file->tensors + place;
        if (from->taken[n]) continue;
        if (place++ == file->num_tensors) return 0;
        if (strlen(slot->name) != tensor->name_bytes || memcmp(slot->name, tensor->name, tensor->name_bytes) != 0 ||
            slot->is_parameter != tensor->is_parameter || slot->num_axes != tensor->num_axes) {
            return 0;
        }
        for (axis = 0; axis < slot->num_axes; axis++) {
            if (slot->sizes[axis] != tensor->sizes[axis]) return 0;
        }
    }
    return place == file->num_tensors;
}

static void check_digest(reading *from, tailcut_items *items, uint32_t digest) {
    const tailcut_file *file = from->file;
    uint32_t n, k;
    if (items->status != TAILCUT_OK) return;
    for (n = 0; is_own(from) && n < file->num_kept; n++) {
        for (k = n + 1; k < file->num_tensors; k++) {
            if (same_name(file->tensors + n, file->tensors + k)) tailcut_fail(items, TAILCUT_CORRUPT);
        }
    }
    if (digest_of(file) != digest) tailcut_fail(items, is_own(from) ? TAILCUT_CORRUPT : TAILCUT_MODEL_MISMATCH);
    if (is_own(from) && from->network != NULL && !fits_network(from)) tailcut_fail(items, TAILCUT_MODEL_MISMATCH);
}

#endif
