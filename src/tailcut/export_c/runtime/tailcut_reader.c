/* A .tailcut file from its first byte to its last. SPEC.md: the whole. */
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

const char *tailcut_status_name(tailcut_status status) {
    switch (status) {
        case TAILCUT_OK:
            return "ok";
        case TAILCUT_NOT_TAILCUT:
            return "not a tailcut file";
        case TAILCUT_UNSUPPORTED_VERSION:
            return "unsupported version";
        case TAILCUT_TRUNCATED:
            return "truncated";
        case TAILCUT_CHECKSUM_MISMATCH:
            return "checksum mismatch";
        case TAILCUT_CORRUPT:
            return "corrupt";
        case TAILCUT_LIMIT:
            return "limit exceeded";
        case TAILCUT_MODEL_MISMATCH:
            return "model mismatch";
        case TAILCUT_ARENA_TOO_SMALL:
            return "arena too small";
        case TAILCUT_BAD_ARGUMENT:
            return "bad argument";
    }
    return "unknown status";
}

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

/* ---- kind 1: weights kept as coefficients ---- */

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

/* ---- kinds 2 to 4, as far as they can be checked without the network ---- */

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
            names[n].attribute = tailcut_capped(items, 4);
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
    static const uint8_t num_sizes[9] = {0, 3, 2, 1, 1, 2, 1, 1, 2};
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
                if (items->status == TAILCUT_OK && (kind < 1 || kind > 8)) {
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

/* ---- the other tensors ---- */

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

/* ---- number types and streams ---- */

static int is_known_type(const reading *from, uint32_t type) {
    return type <= TAILCUT_BOOL || (type <= WHOLE && from->file->version >= 2);
}

/* Runs of number types, for so many other tensors. They are remembered by where they stand until the tensors are known.
 */
static void read_types(reading *from, tailcut_items *items) {
    tailcut_file *file = from->file;
    uint64_t word = tailcut_varint(items), runs = word >> 1;
    uint32_t place = file->num_kept, last = NUM_TYPES;
    from->has_coefficients = word & 1;
    if (runs > MAX_TENSORS) tailcut_fail(items, TAILCUT_LIMIT);
    for (; runs > 0 && items->status == TAILCUT_OK; runs--) {
        uint32_t length = tailcut_capped(items, MAX_TENSORS);
        uint32_t type = tailcut_byte(items);
        if (items->status != TAILCUT_OK) return;
        if (!is_known_type(from, type)) {
            tailcut_fail(items, TAILCUT_UNSUPPORTED_VERSION);
        } else if (length == 0 || type == last) {
            tailcut_fail(items, TAILCUT_CORRUPT);
        } else if (length > file->num_tensors - place) {
            tailcut_fail(items, TAILCUT_CORRUPT);
        }
        if (items->status != TAILCUT_OK) return;
        last = type;
        for (; length > 0; length--) file->tensors[place++].stored_type = (uint8_t)type;
    }
    if (place != file->num_tensors) tailcut_fail(items, TAILCUT_CORRUPT);
}

static void check_types(const reading *from, tailcut_items *items) {
    const tailcut_file *file = from->file;
    uint32_t place = file->num_kept, n;
    if (from->network == NULL) return;
    for (n = 0; n < from->network->num_slots && items->status == TAILCUT_OK; n++) {
        uint32_t own = from->network->slots[n].type, stored;
        if (from->taken[n]) continue;
        stored = file->tensors[place++].stored_type;
        if (stored == WHOLE ? is_float(own) : stored != own && !(is_float(stored) && is_float(own))) {
            tailcut_fail(items, TAILCUT_MODEL_MISMATCH);
        }
    }
}

static int is_known_codec(const reading *from, uint32_t codec) {
    if (codec == 1) return TAILCUT_READ_DEFLATE;
    if (codec == 2) return TAILCUT_READ_RANGE;
    return codec == 0 || (TAILCUT_READ_QUANTIZED && codec == 3 && from->file->version >= 2);
}

static void check_codec(const reading *from, tailcut_items *items, const payload *stream) {
    if (!is_known_codec(from, stream->codec)) {
        tailcut_fail(items, TAILCUT_UNSUPPORTED_VERSION);
    } else if ((stream->type == QUANTIZED) != (stream->codec == 3)) {
        tailcut_fail(items, TAILCUT_CORRUPT);
    }
}

static uint32_t stream_of(uint32_t type) { return type == WHOLE ? QUANTIZED : type; }

/* What streams there are: of the coefficients first, then of each type of others in the order of first occurrence. */
static uint32_t read_streams(reading *from, tailcut_items *items, payload *streams) {
    tailcut_file *file = from->file;
    uint32_t number = 0, n, k, wanted[NUM_TYPES + 1];
    if (from->has_coefficients != (file->num_kept > 0)) tailcut_fail(items, TAILCUT_CORRUPT);
    if (from->has_coefficients) wanted[number++] = NUM_TYPES;
    for (n = file->num_kept; n < file->num_tensors; n++) {
        uint32_t type = stream_of(file->tensors[n].stored_type);
        for (k = from->has_coefficients; k < number && wanted[k] != type; k++) continue;
        if (k == number) wanted[number++] = type;
    }
    for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
        uint32_t byte = tailcut_byte(items), type = byte >> 4;
        if (items->status != TAILCUT_OK) break;
        streams[n].type = type;
        streams[n].codec = byte & 15;
        if (type > QUANTIZED || !is_known_type(from, type)) tailcut_fail(items, TAILCUT_UNSUPPORTED_VERSION);
        check_codec(from, items, streams + n);
        if (wanted[n] == NUM_TYPES) {
            if (type > TAILCUT_FLOAT64 && type != QUANTIZED) tailcut_fail(items, TAILCUT_CORRUPT);
            for (k = 0; k < file->num_kept; k++) file->tensors[k].stored_type = (uint8_t)type;
            if (type == QUANTIZED) {
                /* The stream of the others of type 10 and 11 is this one. */
                for (k = 1; k < number && wanted[k] != QUANTIZED; k++) continue;
                if (k < number) {
                    for (number--; k < number; k++) wanted[k] = wanted[k + 1];
                }
            }
        } else if (type != wanted[n]) {
            tailcut_fail(items, TAILCUT_CORRUPT);
        }
    }
    for (n = 0; n + 1 < number && items->status == TAILCUT_OK; n++) streams[n].bytes = tailcut_varint(items);
    return number;
}

/* What stands before the payloads of a further level; how many streams it has. */
static uint32_t read_level_head(const reading *from, tailcut_items *items, payload *streams, uint32_t number) {
    uint32_t mark = tailcut_byte(items), n;
    if (mark > 1) tailcut_fail(items, TAILCUT_CORRUPT);
    if (mark == 0) number = 1;
    for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
        streams[n].codec = tailcut_byte(items);
        check_codec(from, items, streams + n);
    }
    for (n = 0; n + 1 < number; n++) streams[n].bytes = tailcut_varint(items);
    return number;
}

static uint64_t item_word(const tailcut_tensor *tensor, uint32_t place) {
    uint64_t word = 0;
    uint32_t byte;
    for (byte = number_bytes[tensor->type]; byte-- > 0;) word = word << 8 | tailcut_number_byte(tensor, place, byte);
    return word;
}

/* Whether the numbers of a level are those that the file's network has, and not taken together or anew above. */
static int is_last(const reading *from, uint32_t level, int of_kept) {
    if (!TAILCUT_READ_LEVELS) return 1;
    if (of_kept) return from->file->level == 1;
    for (level++; level <= from->file->level && !has_others(from, level); level++) continue;
    return level > from->file->level;
}

/* How many numbers of a tensor a level and those below it have; level 0 is below all. */
static uint32_t count_in(const reading *from, const tailcut_tensor *tensor, uint32_t level) {
    if (!TAILCUT_READ_LEVELS) (void)from;
    if (level == 0) return 0;
    return tensor->is_kept ? tailcut_count_below(tensor->count, from->parts, from->file->level, level) : tensor->count;
}

static uint8_t *writable(const reading *from, const uint8_t *numbers) {
    return from->arena.base + (numbers - from->arena.base);
}

/* Codec 2, whose contexts know the coefficients of the levels below. */
static tailcut_status unrange(reading *from, const payload *stream, const uint8_t *bytes, uint8_t *into, uint32_t total,
                              uint32_t level, int of_kept) {
    const tailcut_file *file = from->file;
    uint32_t width = number_bytes[stream->type], below, n;
    tailcut_context *contexts = tailcut_range_contexts(&from->arena, width);
    if (contexts == NULL) return TAILCUT_ARENA_TOO_SMALL;
    for (below = 1; TAILCUT_READ_LEVELS && of_kept && below < level; below++) {
        for (n = 0; n < file->num_kept; n++) {
            const tailcut_tensor *tensor = file->tensors + n;
            uint32_t start = count_in(from, tensor, below - 1);
            tailcut_unrange(NULL, 0, contexts, writable(from, tensor->numbers) + (size_t)start * width,
                            count_in(from, tensor, below) - start, width);
        }
    }
    return tailcut_unrange(bytes, (size_t)stream->bytes, contexts, into, total, width);
}

/* The tensors of a stream that are stored as numbers of one type. */
static tailcut_status place_numbers(reading *from, const payload *stream, const uint8_t *bytes, uint32_t level,
                                    int of_kept) {
    tailcut_file *file = from->file;
    uint32_t width = number_bytes[stream->type], first = of_kept ? 0 : file->num_kept;
    uint32_t last = of_kept ? file->num_kept : file->num_tensors, n, k;
    uint32_t total = 0, known = 0, done = 0; /* numbers are below 2^32 by the cap */
    const uint8_t *numbers = bytes;
    size_t top = from->arena.top;
    int lasts = is_last(from, level, of_kept);
    tailcut_status status = TAILCUT_OK;
    for (n = first; n < last; n++) {
        const tailcut_tensor *tensor = file->tensors + n;
        if (tensor->stored_type != stream->type) continue;
        if (of_kept) known += count_in(from, tensor, level - 1);
        total += count_in(from, tensor, level);
    }
    total -= known;
    if (stream->codec == 0) {
        if (stream->bytes != (uint64_t)total * width) return TAILCUT_CORRUPT;
    } else {
        uint64_t num_bytes = (uint64_t)total * width;
        uint8_t *made;
        if (stream->codec == 2 && (total == 0 || (uint64_t)(known + total) * width > 65536)) return TAILCUT_CORRUPT;
        made = lasts ? tailcut_keep(&from->arena, num_bytes) : tailcut_borrow(&from->arena, num_bytes);
        if (made == NULL) return TAILCUT_ARENA_TOO_SMALL;
        if (TAILCUT_READ_DEFLATE && stream->codec == 1) {
            status = tailcut_inflate(bytes, (size_t)stream->bytes, made, (size_t)num_bytes, &from->arena);
        } else if (TAILCUT_READ_RANGE) {
            status = unrange(from, stream, bytes, made, total, level, of_kept);
        }
        numbers = made;
    }
    if (status != TAILCUT_OK) return status;
    for (k = 0; stream->type == TAILCUT_BOOL && k < total; k++) {
        if (numbers[k] > 1) return TAILCUT_CORRUPT;
    }
    for (n = first; n < last; n++) {
        tailcut_tensor *tensor = file->tensors + n, part;
        uint32_t start = of_kept ? count_in(from, tensor, level - 1) : 0, byte;
        if (tensor->stored_type != stream->type) continue;
        part = *tensor;
        part.type = (uint8_t)stream->type;
        part.numbers = numbers + (size_t)done * width;
        part.item_stride = (ptrdiff_t)width;
        part.byte_stride = 1;
        part.count = count_in(from, tensor, level) - start;
        if (stream->codec == 1) {
            /* The most significant byte of all numbers comes first. */
            part.numbers = numbers + (size_t)(width - 1) * total + done;
            part.item_stride = 1;
            part.byte_stride = -(ptrdiff_t)total;
        }
        done += part.count;
        if (lasts) {
            *tensor = part;
        } else if (TAILCUT_READ_LEVELS && of_kept) {
            /* Behind those of the levels below. */
            uint8_t *into;
            if (level == 1) {
                into = tailcut_keep(&from->arena, (uint64_t)tensor->count * width);
                if (into == NULL) return TAILCUT_ARENA_TOO_SMALL;
                tensor->numbers = into;
                tensor->type = part.type;
                tensor->item_stride = (ptrdiff_t)width;
                tensor->byte_stride = 1;
            }
            into = writable(from, tensor->numbers) + (size_t)start * width;
            for (k = 0; k < part.count; k++) {
                for (byte = 0; byte < width; byte++) *into++ = tailcut_number_byte(&part, k, byte);
            }
        }
    }
    from->arena.top = top;
    return status;
}

static int is_finite_word(uint32_t type, uint64_t word) {
    static const uint64_t exponents[4] = {0x7f800000u, 0x7c00u, 0x7f80u, UINT64_C(0x7ff0000000000000)};
    return (word & exponents[type]) != exponents[type];
}

/* Whether a finite number stays finite, and a whole number within its range, in the type that the network has. */
static int fits_type(const tailcut_tensor *tensor, uint64_t word, uint32_t own) {
    static const uint64_t overflows_double[3] = {
        UINT64_C(0x47effffff0000000), /* float32: (2 - 2^-24) 2^127 */
        UINT64_C(0x40effe0000000000), /* float16: 65520 */
        UINT64_C(0x47eff00000000000), /* bfloat16: (2 - 2^-8) 2^127 */
    };
    static const uint32_t overflows_float[3] = {0x7f800000u, 0x477ff000u, 0x7f7f8000u}; /* the same in float32 */
    if (tensor->stored_type == WHOLE) {
        uint64_t sign = word >> 63 ? ~word : word; /* n, or -n - 1 */
        switch (own) {
            case TAILCUT_INT32:
                return sign <= 0x7fffffffu;
            case TAILCUT_INT16:
                return sign <= 32767;
            case TAILCUT_INT8:
                return sign <= 127;
            case TAILCUT_UINT8:
                return word <= 255;
            case TAILCUT_BOOL:
                return word <= 1;
            default:
                return 1;
        }
    }
    if (own >= TAILCUT_FLOAT64 || own == tensor->type || !is_finite_word(tensor->type, word)) return 1;
    if (tensor->type == TAILCUT_FLOAT64) return (word & ~(UINT64_C(1) << 63)) < overflows_double[own];
    if (tensor->type == TAILCUT_FLOAT16) return 1;
    if (tensor->type == TAILCUT_BFLOAT16) word <<= 16;
    return (word & 0x7fffffffu) < overflows_float[own];
}

static tailcut_status check_numbers(const reading *from) {
    const tailcut_file *file = from->file;
    uint32_t n, place, slot = 0;
    for (n = 0; n < file->num_tensors; n++) {
        const tailcut_tensor *tensor = file->tensors + n;
        uint32_t own = NUM_TYPES;
        if (from->network != NULL) {
            if (tensor->is_kept) {
                own = from->network->slots[slot_of(from->network, tensor)].type;
            } else {
                while (from->taken[slot]) slot++;
                own = from->network->slots[slot++].type;
            }
        }
        for (place = 0; place < tensor->count; place++) {
            uint64_t word = item_word(tensor, place);
            if (tensor->is_kept && !is_finite_word(tensor->type, word)) return TAILCUT_CORRUPT;
            if (own < NUM_TYPES && !fits_type(tensor, word, own)) return TAILCUT_MODEL_MISMATCH;
        }
    }
    return TAILCUT_OK;
}

static tailcut_status read_payloads(reading *from, tailcut_unquantizer *rounded, const tailcut_items *block,
                                    payload *streams, uint32_t number, uint32_t level) {
    tailcut_file *file = from->file;
    const uint8_t *at = block->at, *end = block->end;
    uint32_t n;
    for (n = 0; n < number; n++) {
        uint64_t rest = (uint64_t)(end - at);
        int of_kept = n == 0 && from->has_coefficients;
        tailcut_status status = TAILCUT_OK;
        if (n + 1 == number) streams[n].bytes = rest;
        if (streams[n].bytes > rest) return TAILCUT_TRUNCATED;
        if (TAILCUT_READ_QUANTIZED && streams[n].codec == 3) {
            size_t top = from->arena.top;
            int others = is_last(from, level, 0) ? TAILCUT_TAKE : TAILCUT_CHECK;
            if (!has_others(from, level)) others = TAILCUT_SKIP;
            if (!of_kept || level == 1) {
                memset(rounded, 0, sizeof *rounded);
                rounded->arena = &from->arena;
                rounded->parts = from->parts;
                rounded->taken = of_kept ? file->level : 1;
            }
            status =
                tailcut_unquantize(rounded, at, (size_t)streams[n].bytes, file->tensors, file->num_tensors, others);
            if (!of_kept) from->arena.top = top;
        } else {
            status = place_numbers(from, streams + n, at, level, of_kept);
        }
        if (status != TAILCUT_OK) return status;
        at += (size_t)streams[n].bytes;
    }
    return at == end ? TAILCUT_OK : TAILCUT_CORRUPT;
}

static tailcut_status read_levels(reading *from, tailcut_items *body, payload *streams, uint32_t number) {
    tailcut_unquantizer rounded;
    tailcut_status status = read_payloads(from, &rounded, body, streams, number, 1);
    uint32_t level;
    for (level = 2; TAILCUT_READ_LEVELS && level <= from->file->level && status == TAILCUT_OK; level++) {
        tailcut_items block = from->blocks[level - 1];
        uint32_t own = read_level_head(from, &block, streams, number);
        status = read_payloads(from, &rounded, &block, streams, own, level);
    }
    from->arena.top = from->arena.size;
    return status == TAILCUT_OK ? check_numbers(from) : status;
}

/* ---- the whole ---- */

static void read_base(reading *from, tailcut_items *items) {
    tailcut_file *file = from->file;
    const tailcut_network *network = from->network;
    const uint8_t *start;
#if !TAILCUT_READ_OWN_CLASSES
    /* One name and its arguments are taken, byte by byte, so there is no need to look into them. */
    file->base_bytes = tailcut_capped(items, 4096);
    file->base = (const char *)tailcut_take(items, file->base_bytes);
    if (items->status == TAILCUT_OK && file->base_bytes == 0) tailcut_fail(items, TAILCUT_UNSUPPORTED_VERSION);
    if (items->status == TAILCUT_OK && network == NULL) tailcut_fail(items, TAILCUT_BAD_ARGUMENT);
    if (items->status != TAILCUT_OK) return;
    start = tailcut_take(items, network->arguments_bytes);
    if (items->status != TAILCUT_OK) return;
#else
    uint64_t last = 0;
    uint32_t number, n;
    file->base = (const char *)tailcut_text(items, &file->base_bytes);
    if (items->status != TAILCUT_OK || file->base_bytes == 0) return;
    if (network == NULL) {
        tailcut_fail(items, TAILCUT_BAD_ARGUMENT);
        return;
    }
    start = items->at;
    number = tailcut_capped(items, 64);
    for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
        uint64_t place = tailcut_varint(items);
        if (n > 0 && place <= last) tailcut_fail(items, TAILCUT_CORRUPT);
        last = place;
        tailcut_value(items);
    }
    if (items->status != TAILCUT_OK) return;
#endif
    if (strlen(network->base) != file->base_bytes || memcmp(network->base, file->base, file->base_bytes) != 0 ||
        (size_t)(items->at - start) != network->arguments_bytes ||
        memcmp(network->arguments, start, network->arguments_bytes) != 0) {
        tailcut_fail(items, TAILCUT_MODEL_MISMATCH);
    }
}

static void read_metadata(reading *from, tailcut_items *items) {
    tailcut_file *file = from->file;
    const uint8_t *bytes;
    file->metadata_bytes = tailcut_capped(items, 65536);
    bytes = tailcut_take(items, file->metadata_bytes);
    file->metadata = (const char *)bytes;
    if (items->status == TAILCUT_OK && TAILCUT_READ_METADATA && file->metadata_bytes > 0 &&
        !tailcut_is_json_object(bytes, file->metadata_bytes)) {
        tailcut_fail(items, TAILCUT_CORRUPT);
    }
}

static tailcut_items read_header(reading *from, tailcut_items *body) {
    uint64_t word = tailcut_varint(body), stored = word >> 1;
    tailcut_items header;
    const uint8_t *bytes;
    if (stored > MAX_HEADER) tailcut_fail(body, TAILCUT_LIMIT);
    header.at = header.end = body->end;
    if ((word & 1) && !TAILCUT_READ_DEFLATE) {
        header.status = TAILCUT_UNSUPPORTED_VERSION;
    } else if (word & 1) {
        uint32_t expanded = tailcut_capped(body, MAX_HEADER);
        uint8_t *made;
        bytes = tailcut_take(body, stored);
        header.status = body->status;
        if (header.status != TAILCUT_OK) return header;
        made = tailcut_keep(&from->arena, expanded);
        header.status = made == NULL ? TAILCUT_ARENA_TOO_SMALL
                                     : tailcut_inflate(bytes, (size_t)stored, made, expanded, &from->arena);
        header.at = made;
        header.end = made == NULL ? NULL : made + expanded;
    } else {
        bytes = tailcut_take(body, stored);
        header.status = body->status;
        if (header.status != TAILCUT_OK) return header;
        header.at = bytes;
        header.end = bytes + (size_t)stored;
    }
    return header;
}

static tailcut_status read_body(reading *from, size_t length) {
    tailcut_items body = from->blocks[0], header;
    payload streams[NUM_TYPES + 1];
    const uint8_t *digest = tailcut_take(&body, 4);
    uint32_t number = 0, level;
    if (body.status != TAILCUT_OK) return body.status;
    memset(streams, 0, sizeof streams);
    header = read_header(from, &body);
    if (header.status == TAILCUT_OK) read_base(from, &header);
    if (header.status == TAILCUT_OK) read_metadata(from, &header);
    if (header.status == TAILCUT_OK) read_edits(from, &header);
    if (header.status == TAILCUT_OK) {
        if (is_own(from)) {
            read_others(from, &header);
        } else {
            others_from_slots(from, &header);
        }
    }
    if (header.status == TAILCUT_OK) read_types(from, &header);
    if (header.status == TAILCUT_OK) number = read_streams(from, &header, streams);
    if (header.status == TAILCUT_OK && header.at != header.end) tailcut_fail(&header, TAILCUT_CORRUPT);
    if (TAILCUT_READ_LEVELS && from->file->version == 3 && !from->has_coefficients) {
        tailcut_fail(&header, TAILCUT_CORRUPT);
    }
    for (level = 2; TAILCUT_READ_LEVELS && level <= from->file->level && header.status == TAILCUT_OK; level++) {
        tailcut_items block = from->blocks[level - 1];
        payload further[NUM_TYPES + 1];
        memcpy(further, streams, sizeof further);
        read_level_head(from, &block, further, number);
        if (block.status != TAILCUT_OK) tailcut_fail(&header, block.status);
    }
    if (header.status == TAILCUT_OK) check_caps(from, &header, length);
    check_digest(from, &header, word_at(digest));
    check_types(from, &header);
    return header.status == TAILCUT_OK ? read_levels(from, &body, streams, number) : header.status;
}

#if TAILCUT_READ_LEVELS
/* The contents of the levels up to `level`, or of all that are there for 0; which is the highest of them. */
static tailcut_status split_levels(reading *from, tailcut_items file, uint32_t level) {
    const uint8_t *covered = file.at;
    uint32_t number = tailcut_byte(&file), n, crc = 0;
    if (number < 2 || number > MAX_LEVELS) return TAILCUT_LIMIT;
    from->parts = tailcut_take(&file, number - 1);
    for (n = 0; file.status == TAILCUT_OK && n + 1 < number; n++) {
        if (from->parts[n] == 0) return TAILCUT_CORRUPT;
    }
    if (level > number) return TAILCUT_BAD_ARGUMENT;
    for (n = 0; n < (level ? level : number) && (n == 0 || level || file.at != file.end); n++) {
        tailcut_items *block = from->blocks + n;
        uint64_t size = tailcut_varint(&file);
        block->at = tailcut_take(&file, size);
        block->end = file.at;
        tailcut_take(&file, 4);
        if (file.status != TAILCUT_OK) return file.status;
        block->status = TAILCUT_OK;
        crc = tailcut_crc32(crc, covered, (size_t)(block->end - covered));
        covered = block->end;
        if (crc != word_at(covered)) return TAILCUT_CHECKSUM_MISMATCH;
    }
    from->file->num_levels = number;
    from->file->level = n;
    return !level && file.at != file.end ? TAILCUT_CORRUPT : TAILCUT_OK;
}

uint32_t tailcut_whole_levels(const void *bytes, size_t length) {
    const uint8_t *at = bytes;
    tailcut_items file;
    uint32_t number, n;
    if (at == NULL || length < 6 || memcmp(at, magic, sizeof magic) != 0 || at[4] != 3) return 0;
    file.at = at + 6;
    file.end = at + length;
    file.status = TAILCUT_OK;
    number = at[5];
    if (number < 2 || number > MAX_LEVELS) return 0;
    tailcut_take(&file, number - 1);
    for (n = 0; n < number; n++) {
        tailcut_take(&file, tailcut_varint(&file));
        tailcut_take(&file, 4);
        if (file.status != TAILCUT_OK) break;
    }
    return n;
}
#endif

static tailcut_status open_level(const void *bytes, size_t length, const tailcut_network *network,
                                 uint32_t max_parameters, uint32_t level, void *arena, size_t arena_bytes,
                                 tailcut_file *file) {
    const uint8_t *at = bytes;
    size_t skipped;
    reading from;
    tailcut_status status;
    if (bytes == NULL || arena == NULL || file == NULL) return TAILCUT_BAD_ARGUMENT;
    memset(file, 0, sizeof *file);
    if (length == 0 || memcmp(at, magic, length < 4 ? length : 4) != 0) return TAILCUT_NOT_TAILCUT;
    if (length > 8 * (uint64_t)max_parameters + 1048597) return TAILCUT_LIMIT;
    if (length < 5) return TAILCUT_TRUNCATED;
    file->version = at[4];
    if (file->version < 1 || file->version > (TAILCUT_READ_LEVELS ? 3 : 2)) return TAILCUT_UNSUPPORTED_VERSION;
    if (length < 13) return TAILCUT_TRUNCATED;
    memset(&from, 0, sizeof from);
    from.file = file;
    from.network = network;
    from.max_parameters = max_parameters;
    file->level = file->num_levels = 1;
    from.blocks[0].at = at + 9;
    from.blocks[0].end = at + length;
#if TAILCUT_READ_LEVELS
    if (file->version == 3) {
        from.blocks[0].at = at + 5;
        status = split_levels(&from, from.blocks[0], level);
        if (status != TAILCUT_OK) return status;
    } else
#endif
    {
        if (tailcut_crc32(0, at + 9, length - 9) != word_at(at + 5)) return TAILCUT_CHECKSUM_MISMATCH;
        if (level > 1) return TAILCUT_BAD_ARGUMENT;
    }
    skipped = (8 - ((uintptr_t)arena & 7)) & 7;
    if (skipped > arena_bytes) return TAILCUT_ARENA_TOO_SMALL;
    from.arena.base = (uint8_t *)arena + skipped;
    from.arena.size = (arena_bytes - skipped) & ~(size_t)7;
    from.arena.top = from.arena.size;
    if (network != NULL) {
        from.taken = tailcut_keep(&from.arena, network->num_slots);
        if (from.taken == NULL) return TAILCUT_ARENA_TOO_SMALL;
        memset(from.taken, 0, network->num_slots);
    }
    status = read_body(&from, length);
    file->arena_used = from.arena.bottom + skipped;
    file->arena_peak = from.arena.peak + skipped;
    return status;
}

tailcut_status tailcut_open(const void *bytes, size_t length, const tailcut_network *network, uint32_t max_parameters,
                            void *arena, size_t arena_bytes, tailcut_file *file) {
    return open_level(bytes, length, network, max_parameters, 0, arena, arena_bytes, file);
}

#if TAILCUT_READ_LEVELS
tailcut_status tailcut_open_level(const void *bytes, size_t length, const tailcut_network *network,
                                  uint32_t max_parameters, uint32_t level, void *arena, size_t arena_bytes,
                                  tailcut_file *file) {
    return open_level(bytes, length, network, max_parameters, level, arena, arena_bytes, file);
}
#endif

const tailcut_tensor *tailcut_find(const tailcut_file *file, const char *name) {
    uint32_t n;
    for (n = 0; n < file->num_tensors; n++) {
        const tailcut_tensor *tensor = file->tensors + n;
        if (strlen(name) == tensor->name_bytes && memcmp(name, tensor->name, tensor->name_bytes) == 0) return tensor;
    }
    return NULL;
}

uint32_t tailcut_number_bytes(const tailcut_tensor *tensor) { return number_bytes[tensor->type]; }

uint8_t tailcut_number_byte(const tailcut_tensor *tensor, uint32_t place, uint32_t byte) {
    return tensor->numbers[(ptrdiff_t)place * tensor->item_stride + (ptrdiff_t)byte * tensor->byte_stride];
}

static float float_of_word(uint32_t word) {
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static float half_of_word(uint32_t word) {
    uint32_t sign = word >> 15 << 31, exponent = word >> 10 & 31, fraction = word & 1023;
    if (exponent == 31) return float_of_word(sign | 0x7f800000u | fraction << 13);
    if (exponent > 0) return float_of_word(sign | (exponent + 112) << 23 | fraction << 13);
    return (sign ? -1.0f : 1.0f) * (float)fraction * 5.9604644775390625e-8f; /* 2^-24 */
}

float tailcut_number(const tailcut_tensor *tensor, uint32_t place) {
    uint64_t word = item_word(tensor, place);
    double value;
    switch (tensor->type) {
        case TAILCUT_FLOAT32:
            return float_of_word((uint32_t)word);
        case TAILCUT_FLOAT16:
            return half_of_word((uint32_t)word);
        case TAILCUT_BFLOAT16:
            return float_of_word((uint32_t)word << 16);
        case TAILCUT_FLOAT64:
            /* Where rounding gives infinity, C leaves open what a conversion does. */
            if ((word & ~(UINT64_C(1) << 63)) >= UINT64_C(0x47effffff0000000)) {
                int is_nan = (word & ~(UINT64_C(1) << 63)) > UINT64_C(0x7ff0000000000000);
                return float_of_word((word >> 63 ? 0xff800000u : 0x7f800000u) | (is_nan ? 0x400000u : 0));
            }
            memcpy(&value, &word, sizeof value);
            return (float)value;
        case TAILCUT_UINT8:
        case TAILCUT_BOOL:
            return (float)(uint32_t)word;
        default: {
            /* Two's complement of so many bytes; a bit that is lost on the way marks its place, for the rounding. */
            uint32_t unused = 64u - 8u * number_bytes[tensor->type], shift = 127;
            int is_negative;
            word <<= unused;
            is_negative = word >> 63 ? 1 : 0;
            word = (is_negative ? ~word : word) >> unused;
            word += (uint32_t)is_negative;
            for (; word >> 32; shift++) word = word >> 1 | (word & 1);
            return (is_negative ? -1.0f : 1.0f) * (float)(uint32_t)word * float_of_word(shift << 23);
        }
    }
}
