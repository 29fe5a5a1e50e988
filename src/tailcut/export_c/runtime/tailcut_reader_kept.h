/* Edits of kind 1: weights kept as coefficients. A part of tailcut_reader.c. */
#ifndef TAILCUT_READER_KEPT_H
#define TAILCUT_READER_KEPT_H

#include "tailcut_reading.h"

static tailcut_tensor *add_tensors(reading *from, tailcut_items *items, uint32_t number) {
    tailcut_file *file = from->file;
    tailcut_tensor *found;
    if (items->status != TAILCUT_OK) return NULL;
    /* In one piece with those before: only shapes and settings of kind 1 lie between, so all are copied once. */
    found = keep(from, items, (file->num_tensors + (uint64_t)number) * sizeof *found);
    if (found == NULL) return NULL;
    if (file->num_tensors > 0) memcpy(found, file->tensors, file->num_tensors * sizeof *found);
    file->tensors = found;
    memset(found + file->num_tensors, 0, number * sizeof *found);
    return found + file->num_tensors;
}

static void from_slot(tailcut_tensor *tensor, const tailcut_slot *slot) {
    tensor->name = slot->name;
    tensor->name_bytes = (uint32_t)strlen(slot->name);
    tensor->sizes = slot->sizes;
    tensor->num_axes = slot->num_axes;
    tensor->is_parameter = slot->is_parameter;
}

/* The slot of a tensor's name; the number of slots if there is none. */
static uint32_t slot_of(const tailcut_network *network, const tailcut_tensor *tensor) {
    uint32_t n;
    for (n = 0; n < network->num_slots; n++) {
        const char *name = network->slots[n].name;
        if (strlen(name) == tensor->name_bytes && memcmp(name, tensor->name, tensor->name_bytes) == 0) break;
    }
    return n;
}

static void select_by_bits(reading *from, tailcut_items *items) {
    const tailcut_network *network = from->network;
    uint32_t number = 0, selected = 0, n, place = 0;
    const uint8_t *bitmap;
    tailcut_tensor *tensors;
    for (n = 0; n < network->num_slots; n++) number += network->slots[n].is_parameter;
    bitmap = tailcut_take(items, (number + 7) / 8);
    if (items->status != TAILCUT_OK) return;
    for (n = 0; n < (number + 7) / 8 * 8; n++) selected += bitmap[n >> 3] >> (n & 7) & 1;
    if (number & 7 && bitmap[number >> 3] >> (number & 7)) tailcut_fail(items, TAILCUT_CORRUPT);
    tensors = add_tensors(from, items, selected);
    if (tensors == NULL) return;
    for (n = 0; n < network->num_slots; n++) {
        if (!network->slots[n].is_parameter) continue;
        if (bitmap[place >> 3] >> (place & 7) & 1) {
            from_slot(tensors++, network->slots + n);
            from->taken[n] = 1;
        }
        place++;
    }
    from->num_selected = selected;
}

static void select_by_name(reading *from, tailcut_items *items) {
    uint32_t number = tailcut_capped(items, MAX_TENSORS), n;
    tailcut_tensor *tensors;
    /* A name and a shape have two bytes at least, so no memory is taken for what cannot be there. */
    if (2 * (uint64_t)number > (uint64_t)(items->end - items->at)) tailcut_fail(items, TAILCUT_TRUNCATED);
    tensors = add_tensors(from, items, number);
    if (tensors == NULL) return;
    for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
        tensors[n].name = (const char *)tailcut_text(items, &tensors[n].name_bytes);
        tensors[n].is_parameter = 1;
        read_shape(from, items, tensors + n);
    }
    for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
        if (has_twin(tensors, n)) tailcut_fail(items, TAILCUT_CORRUPT);
    }
    from->num_selected = number;
}

static void fit_to_slots(reading *from, tailcut_items *items, const tailcut_tensor *tensors) {
    const tailcut_network *network = from->network;
    uint32_t n, axis;
    for (n = 0; n < from->num_selected && items->status == TAILCUT_OK; n++) {
        uint32_t place = slot_of(network, tensors + n);
        const tailcut_slot *slot = network->slots + place;
        int fits = place < network->num_slots && slot->is_parameter && slot->num_axes == tensors[n].num_axes &&
                   is_float(slot->type);
        for (axis = 0; fits && axis < tensors[n].num_axes; axis++) fits = slot->sizes[axis] == tensors[n].sizes[axis];
        if (fits) {
            from->taken[place] = 1;
        } else {
            tailcut_fail(items, TAILCUT_MODEL_MISMATCH);
        }
    }
}

static void use_setting(tailcut_items *items, tailcut_tensor *tensor, const setting *found) {
    uint32_t number = 0, axis, all = (UINT32_C(1) << tensor->num_axes) - 1;
    uint32_t axes = found->axes == 0 ? all : found->axes - 1;
    if (axes & ~all) {
        tailcut_fail(items, TAILCUT_CORRUPT);
        return;
    }
    for (axis = 0; axis < tensor->num_axes; axis++) number += axes >> axis & 1;
    if (found->num_weights > 0 && number > found->num_weights) tailcut_fail(items, TAILCUT_CORRUPT);
    tensor->axes = (uint16_t)axes;
    tensor->order_weights = found->num_weights > 0 ? found->weights : NULL;
}

static void read_settings(reading *from, tailcut_items *items, tailcut_tensor *tensors) {
    static const setting usual = {0, 0, {0}};
    uint32_t number = tailcut_capped(items, from->num_selected), n, place;
    setting *settings;
    if (2 * (uint64_t)number > (uint64_t)(items->end - items->at)) tailcut_fail(items, TAILCUT_TRUNCATED);
    if (items->status != TAILCUT_OK) return;
    settings = keep(from, items, number * (uint64_t)sizeof *settings);
    if (settings == NULL) return;
    for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
        settings[n].axes = tailcut_capped(items, MAX_SIZE);
        settings[n].num_weights = (uint8_t)tailcut_capped(items, TAILCUT_MAX_AXES);
        for (place = 0; place < settings[n].num_weights; place++) {
            uint64_t weight = tailcut_varint(items);
            if (weight < 1 || weight > 64) tailcut_fail(items, TAILCUT_CORRUPT);
            settings[n].weights[place] = (uint8_t)weight;
        }
    }
    for (n = 0; n < from->num_selected && items->status == TAILCUT_OK; n++) {
        uint32_t chosen = number > 1 ? tailcut_capped(items, number - 1) : 0;
        if (items->status == TAILCUT_OK) use_setting(items, tensors + n, number == 0 ? &usual : settings + chosen);
    }
}

/* G min(F, max(1, floor(r F + 0.5))) of the ratio r, above 0 and at most 1, that these bits of a float64 stand for.
 * With whole numbers, since small cores have no float64. The sum is not rounded: F is below 2^32, so no sum would be
 * rounded up to a whole number but the one below 1, and 0 counts as 1. */
static uint64_t by_ratio(const tailcut_tensor *tensor, uint64_t ratio) {
    uint64_t inner = 1, outer = 1, high, kept;
    uint32_t axis, low, dropped = 0, shift;
    for (axis = 0; axis < tensor->num_axes; axis++) {
        uint64_t *part = tensor->axes >> axis & 1 ? &inner : &outer;
        *part = product(*part, tensor->sizes[axis]);
    }
    if (inner >> 32) return UINT64_C(1) << 62; /* more than any cap */
    /* r F = (2^32 high + low) 2^-(1075 - exponent), rounded to 53 bits, of a half to the even one. */
    high = (ratio & UINT64_C(0xfffffffffffff)) | UINT64_C(1) << 52;
    kept = (high & 0xffffffffu) * inner;
    high = (high >> 32) * inner + (kept >> 32);
    low = (uint32_t)kept;
    while (high >> (21 + dropped)) dropped++;
    kept = high << (32 - dropped) | (uint64_t)low >> dropped;
    if (dropped > 0) {
        uint32_t rest = low << (32 - dropped);
        kept += rest > 0x80000000u || (rest == 0x80000000u && kept & 1);
    }
    shift = 1075 - (uint32_t)(ratio >> 52) - dropped;
    kept = shift > 56 ? 0 : (kept + (UINT64_C(1) << (shift - 1))) >> shift;
    if (kept < 1) kept = 1;
    return product(outer, (uint32_t)(kept < inner ? kept : inner));
}

/* Bits `from` to `from + width - 1`, of a string whose bit i is bit i mod 8 of byte i div 8. */
static uint64_t bits_at(const uint8_t *bytes, uint64_t from, uint32_t width) {
    uint64_t value = 0;
    uint32_t n;
    for (n = 0; n < width; n++, from++) value |= (uint64_t)(bytes[from >> 3] >> (from & 7) & 1) << n;
    return value;
}

static void read_counts(reading *from, tailcut_items *items, tailcut_tensor *tensors) {
    uint32_t way = tailcut_byte(items), width = 0, n, number = from->num_selected;
    uint64_t equal = 0, less = 0, ratio = 0;
    const uint8_t *bits = NULL;
    if (way > 4) tailcut_fail(items, TAILCUT_CORRUPT);
    if (way == 0 || way == 3) equal = tailcut_varint(items);
    if (way == 1 || way == 4) {
        ratio = tailcut_float64(items);
        /* From above 0 to 1: numbers below 0 have the largest bits. */
        if (ratio == 0 || ratio > UINT64_C(0x3ff0000000000000)) tailcut_fail(items, TAILCUT_CORRUPT);
    }
    if (way >= 3 && items->status == TAILCUT_OK) {
        uint64_t all;
        less = tailcut_varint(items);
        width = tailcut_byte(items);
        if (width > 63) tailcut_fail(items, TAILCUT_CORRUPT);
        all = (uint64_t)width * number;
        bits = tailcut_take(items, (all + 7) / 8);
        if (items->status == TAILCUT_OK && all & 7 && bits[all >> 3] >> (all & 7)) tailcut_fail(items, TAILCUT_CORRUPT);
    }
    for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
        uint64_t size = size_of(tensors[n].sizes, tensors[n].num_axes), count;
        if (way == 2) {
            count = tailcut_varint(items);
        } else if (way == 0 || way == 3) {
            count = equal < size ? equal : size;
        } else {
            count = by_ratio(tensors + n, ratio);
        }
        if (way >= 3) {
            uint64_t more = bits_at(bits, (uint64_t)n * width, width);
            /* Below 2^63 each, so the sum is no overflow; less than nothing is no count. */
            count = count + more < less ? 0 : count + more - less;
        }
        if (items->status != TAILCUT_OK) return;
        if (count < 1 || count > size) {
            tailcut_fail(items, TAILCUT_CORRUPT);
        } else if (count > from->max_parameters) {
            tailcut_fail(items, TAILCUT_LIMIT);
        }
        tensors[n].count = tailcut_count_below((uint32_t)count, from->parts, from->file->num_levels, from->file->level);
        tensors[n].is_kept = 1;
    }
}

static void read_regularize(reading *from, tailcut_items *items) {
    tailcut_tensor *tensors;
    /* A network is regularised once. */
    if (from->file->num_kept > 0 && from->network != NULL) tailcut_fail(items, TAILCUT_MODEL_MISMATCH);
    from->num_selected = 0;
    if (is_own(from)) {
        select_by_name(from, items);
    } else {
        select_by_bits(from, items);
    }
    if (items->status != TAILCUT_OK) return;
    tensors = from->file->tensors + from->file->num_tensors;
    if (is_own(from) && from->network != NULL) fit_to_slots(from, items, tensors);
    if (items->status == TAILCUT_OK) read_settings(from, items, tensors);
    if (items->status == TAILCUT_OK) read_counts(from, items, tensors);
    from->file->num_tensors += from->num_selected;
    from->file->num_kept = from->file->num_tensors;
}

#endif
