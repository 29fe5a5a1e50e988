/* Payloads to numbers. SPEC.md: "Codecs". */
#include "tailcut_codecs.h"

#include <string.h>

/* ---- codec 1: DEFLATE, RFC 1951 ---- */

#define MAX_BITS 15

typedef struct {
    uint16_t count[MAX_BITS + 1]; /* codes of each length */
    uint16_t symbol[288];         /* in the order of their codes */
} huffman;

typedef struct {
    huffman literals;
    huffman distances;
    uint8_t lengths[320];
    const uint8_t *at;
    const uint8_t *end;
    uint8_t *into;
    size_t written;
    size_t expanded;
    uint32_t held; /* bits that were read and not yet used */
    uint32_t num_held;
    int is_bad;
} inflater;

static uint32_t bits(inflater *stream, uint32_t count) {
    uint32_t value;
    while (stream->num_held < count) {
        if (stream->at == stream->end) {
            stream->is_bad = 1;
            return 0;
        }
        stream->held |= (uint32_t)*stream->at++ << stream->num_held;
        stream->num_held += 8;
    }
    value = stream->held & ((1u << count) - 1);
    stream->held >>= count;
    stream->num_held -= count;
    return value;
}

/* Canonical codes. Lengths that leave codes unused are refused but for a single code of one bit, or none at all. */
static void make_codes(inflater *stream, huffman *codes, const uint8_t *lengths, uint32_t number) {
    uint16_t start[MAX_BITS + 1];
    int32_t left = 1;
    uint32_t n;
    memset(codes->count, 0, sizeof codes->count);
    for (n = 0; n < number; n++) codes->count[lengths[n]]++;
    for (n = 1; n <= MAX_BITS; n++) {
        left = 2 * left - codes->count[n];
        if (left < 0) {
            stream->is_bad = 1;
            return;
        }
    }
    if (left > 0 && (uint32_t)codes->count[0] + codes->count[1] != number) stream->is_bad = 1;
    start[1] = 0;
    for (n = 1; n < MAX_BITS; n++) start[n + 1] = (uint16_t)(start[n] + codes->count[n]);
    for (n = 0; n < number; n++) {
        if (lengths[n]) codes->symbol[start[lengths[n]]++] = (uint16_t)n;
    }
}

static uint32_t symbol(inflater *stream, const huffman *codes) {
    int32_t code = 0, first = 0, index = 0;
    uint32_t length;
    for (length = 1; length <= MAX_BITS; length++) {
        int32_t count = codes->count[length];
        code |= (int32_t)bits(stream, 1);
        if (stream->is_bad) return 0;
        if (code - first < count) return codes->symbol[index + code - first];
        index += count;
        first = (first + count) << 1;
        code <<= 1;
    }
    stream->is_bad = 1;
    return 0;
}

static void stored_block(inflater *stream) {
    uint32_t length, complement;
    stream->held = 0;
    stream->num_held = 0;
    length = bits(stream, 16);
    complement = bits(stream, 16);
    if (stream->is_bad || (length ^ complement) != 0xffff || length > (size_t)(stream->end - stream->at) ||
        length > stream->expanded - stream->written) {
        stream->is_bad = 1;
        return;
    }
    if (length > 0) memcpy(stream->into + stream->written, stream->at, length);
    stream->written += length;
    stream->at += length;
}

static void fixed_codes(inflater *stream) {
    memset(stream->lengths, 8, 144);
    memset(stream->lengths + 144, 9, 112);
    memset(stream->lengths + 256, 7, 24);
    memset(stream->lengths + 280, 8, 8);
    make_codes(stream, &stream->literals, stream->lengths, 288);
    memset(stream->lengths, 5, 32);
    make_codes(stream, &stream->distances, stream->lengths, 32);
}

static void dynamic_codes(inflater *stream) {
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint32_t num_literals = bits(stream, 5) + 257, num_distances = bits(stream, 5) + 1, num_codes = bits(stream, 4) + 4;
    uint32_t n;
    if (num_literals > 286 || num_distances > 30) stream->is_bad = 1;
    memset(stream->lengths, 0, 19);
    for (n = 0; n < num_codes; n++) stream->lengths[order[n]] = (uint8_t)bits(stream, 3);
    if (stream->is_bad) return;
    make_codes(stream, &stream->literals, stream->lengths, 19);
    for (n = 0; n < num_literals + num_distances && !stream->is_bad;) {
        uint32_t found = symbol(stream, &stream->literals), repeats = 1;
        uint8_t length = (uint8_t)found;
        if (found == 16) {
            if (n == 0) stream->is_bad = 1;
            length = n == 0 ? 0 : stream->lengths[n - 1];
            repeats = 3 + bits(stream, 2);
        } else if (found == 17) {
            length = 0;
            repeats = 3 + bits(stream, 3);
        } else if (found == 18) {
            length = 0;
            repeats = 11 + bits(stream, 7);
        }
        if (repeats > num_literals + num_distances - n) stream->is_bad = 1;
        for (; repeats > 0 && !stream->is_bad; repeats--) stream->lengths[n++] = length;
    }
    if (stream->is_bad || stream->lengths[256] == 0) {
        stream->is_bad = 1;
        return;
    }
    make_codes(stream, &stream->literals, stream->lengths, num_literals);
    make_codes(stream, &stream->distances, stream->lengths + num_literals, num_distances);
}

static void packed_block(inflater *stream) {
    while (!stream->is_bad) {
        uint32_t found = symbol(stream, &stream->literals), length, distance, extra;
        if (stream->is_bad || found == 256) return;
        if (found < 256) {
            if (stream->written == stream->expanded) {
                stream->is_bad = 1;
            } else {
                stream->into[stream->written++] = (uint8_t)found;
            }
            continue;
        }
        /* Lengths 3 to 10 have a symbol each; then four symbols share 1, 2, ... extra bits; 285 is 258. */
        found -= 257;
        if (found > 28) {
            stream->is_bad = 1;
            return;
        }
        extra = found < 8 || found == 28 ? 0 : found / 4 - 1;
        length = found < 8 ? 3 + found : found == 28 ? 258 : 3 + ((4 + (found & 3)) << extra);
        length += bits(stream, extra);
        found = symbol(stream, &stream->distances);
        if (found > 29) stream->is_bad = 1;
        if (stream->is_bad) return;
        extra = found < 4 ? 0 : found / 2 - 1;
        distance = found < 4 ? 1 + found : 1 + ((2 + (found & 1)) << extra);
        distance += bits(stream, extra);
        if (distance > stream->written || length > stream->expanded - stream->written) {
            stream->is_bad = 1;
            return;
        }
        for (; length > 0; length--, stream->written++) {
            stream->into[stream->written] = stream->into[stream->written - distance];
        }
    }
}

tailcut_status tailcut_inflate(const uint8_t *bytes, size_t num_bytes, uint8_t *into, size_t expanded,
                               tailcut_arena *arena) {
    size_t top = arena->top;
    inflater *stream = tailcut_borrow(arena, sizeof *stream);
    uint32_t is_last;
    if (stream == NULL) return TAILCUT_ARENA_TOO_SMALL;
    memset(stream, 0, sizeof *stream);
    stream->at = bytes;
    stream->end = bytes + num_bytes;
    stream->into = into;
    stream->expanded = expanded;
    do {
        uint32_t kind;
        is_last = bits(stream, 1);
        kind = bits(stream, 2);
        if (stream->is_bad || kind == 3) {
            stream->is_bad = 1;
        } else if (kind == 0) {
            stored_block(stream);
        } else {
            if (kind == 1) {
                fixed_codes(stream);
            } else {
                dynamic_codes(stream);
            }
            packed_block(stream);
        }
    } while (!is_last && !stream->is_bad);
    arena->top = top;
    if (stream->is_bad || stream->at != stream->end || stream->written != expanded) return TAILCUT_CORRUPT;
    return TAILCUT_OK;
}

/* ---- codec 2: adaptive probabilities ---- */

tailcut_context *tailcut_range_contexts(tailcut_arena *arena, uint32_t width) {
    uint32_t number = 256 + 8 * width, n;
    tailcut_context *contexts = tailcut_borrow(arena, number * sizeof *contexts);
    for (n = 0; contexts != NULL && n < number; n++) {
        contexts[n].zero = 32768;
        contexts[n].seen = n < 32 ? 0 : n < 256 ? 8 : 4;
    }
    return contexts;
}

tailcut_status tailcut_unrange(const uint8_t *bytes, size_t num_bytes, tailcut_context *contexts, uint8_t *numbers,
                               uint32_t count, uint32_t width) {
    uint32_t num_bits = 8 * width, n, place;
    int is_known = TAILCUT_READ_LEVELS && bytes == NULL;
    tailcut_coder from;
    tailcut_start_coder(&from, bytes, num_bytes);
    for (n = 0; n < count; n++, numbers += width) {
        uint64_t item = 0;
        uint32_t node = 1;
        if (is_known) {
            for (place = width; place-- > 0;) item = item << 8 | numbers[place];
            item = item << 1 | item >> (num_bits - 1); /* the top bits are never looked at */
        }
        for (place = num_bits; place-- > 0;) {
            int is_upper = place + 8 >= num_bits;
            tailcut_context *at = &contexts[is_upper ? node : 256 + place];
            uint32_t bit;
            if (is_known) {
                bit = (uint32_t)(item >> place & 1);
                tailcut_learn_bit(at, bit, 0);
            } else {
                bit = tailcut_coded_bit(&from, at, 0);
                item = item << 1 | bit;
            }
            if (is_upper) node = 2 * node + bit;
        }
        if (is_known) continue;
        item = item >> 1 | (item & 1) << (num_bits - 1);
        for (place = 0; place < width; place++) numbers[place] = (uint8_t)(item >> 8 * place);
    }
    return is_known ? TAILCUT_OK : tailcut_end_coder(&from);
}
