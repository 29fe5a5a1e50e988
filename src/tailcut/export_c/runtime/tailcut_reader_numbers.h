/* Number types, streams, and the numbers of all levels. A part of tailcut_reader.c. */
#ifndef TAILCUT_READER_NUMBERS_H
#define TAILCUT_READER_NUMBERS_H

#include "tailcut_reader_tensors.h"

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
    if (codec >= 4 && !TAILCUT_READ_ALONG_AXES) return 0;
    if (codec == 5 && !TAILCUT_READ_DEPENDENT) return 0;
    return codec == 0 || (TAILCUT_READ_QUANTIZED && codec <= 5 && from->file->version >= 2);
}

static void check_codec(const reading *from, tailcut_items *items, const payload *stream) {
    if (!is_known_codec(from, stream->codec)) {
        tailcut_fail(items, TAILCUT_UNSUPPORTED_VERSION);
    } else if ((stream->type == QUANTIZED) != (stream->codec >= 3)) {
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
        uint32_t lowest = streams[n].codec;
        streams[n].codec = tailcut_byte(items);
        check_codec(from, items, streams + n);
        if (streams[n].type == QUANTIZED && streams[n].codec != lowest) tailcut_fail(items, TAILCUT_CORRUPT);
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
        if (TAILCUT_READ_QUANTIZED && streams[n].codec >= 3) {
            size_t top = from->arena.top;
            int others = is_last(from, level, 0) ? TAILCUT_TAKE : TAILCUT_CHECK;
            if (!has_others(from, level)) others = TAILCUT_SKIP;
            if (!of_kept || level == 1) {
                memset(rounded, 0, sizeof *rounded);
                rounded->arena = &from->arena;
                rounded->parts = from->parts;
                rounded->taken = of_kept ? file->level : 1;
                rounded->codec = streams[n].codec;
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

#endif
