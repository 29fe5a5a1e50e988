/* Items of a header, checksums and memory. SPEC.md: "Items", "Digest". */
#include "tailcut_internal.h"

#include <string.h>

void tailcut_fail(tailcut_items *items, tailcut_status status) {
    if (items->status == TAILCUT_OK) items->status = status;
    items->at = items->end;
}

const uint8_t *tailcut_take(tailcut_items *items, uint64_t count) {
    const uint8_t *start = items->at;
    if (count > (uint64_t)(items->end - items->at)) {
        tailcut_fail(items, TAILCUT_TRUNCATED);
        return items->end;
    }
    items->at += (size_t)count;
    return start;
}

uint32_t tailcut_byte(tailcut_items *items) {
    if (items->at == items->end) {
        tailcut_fail(items, TAILCUT_TRUNCATED);
        return 0;
    }
    return *items->at++;
}

uint64_t tailcut_varint(tailcut_items *items) {
    uint64_t value = 0;
    unsigned place;
    for (place = 0; place < 63; place += 7) {
        uint32_t byte = tailcut_byte(items);
        if (items->status != TAILCUT_OK) return 0;
        value |= (uint64_t)(byte & 127) << place;
        if (byte < 128) {
            if (byte == 0 && place > 0) break;
            return value;
        }
    }
    tailcut_fail(items, TAILCUT_CORRUPT);
    return 0;
}

uint32_t tailcut_capped(tailcut_items *items, uint32_t most) {
    uint64_t value = tailcut_varint(items);
    if (value > most) {
        tailcut_fail(items, TAILCUT_LIMIT);
        return 0;
    }
    return (uint32_t)value;
}

uint64_t tailcut_float64(tailcut_items *items) {
    const uint8_t *bytes = tailcut_take(items, 8);
    uint64_t word = 0;
    int place;
    for (place = 8; items->status == TAILCUT_OK && place-- > 0;) word = word << 8 | bytes[place];
    return word;
}

int tailcut_is_utf8(const uint8_t *bytes, uint32_t num_bytes, int refuses_controls) {
    uint32_t place = 0;
    while (place < num_bytes) {
        uint32_t first = bytes[place++], code, more, least;
        if (first < 0x80) {
            if (refuses_controls && (first < 0x20 || first == 0x7f)) return 0;
            continue;
        }
        if (first >= 0xc2 && first < 0xe0) {
            more = 1, code = first & 31, least = 0x80;
        } else if (first >= 0xe0 && first < 0xf0) {
            more = 2, code = first & 15, least = 0x800;
        } else if (first >= 0xf0 && first < 0xf5) {
            more = 3, code = first & 7, least = 0x10000;
        } else {
            return 0;
        }
        for (; more > 0; more--) {
            if (place == num_bytes || (bytes[place] & 0xc0) != 0x80) return 0;
            code = code << 6 | (bytes[place++] & 63u);
        }
        if (code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return 0;
        if (refuses_controls && code < 0xa0) return 0;
    }
    return 1;
}

const uint8_t *tailcut_text(tailcut_items *items, uint32_t *num_bytes) {
    const uint8_t *bytes;
    *num_bytes = tailcut_capped(items, 4096);
    bytes = tailcut_take(items, *num_bytes);
    if (items->status != TAILCUT_OK) {
        *num_bytes = 0;
    } else if (!tailcut_is_utf8(bytes, *num_bytes, 1)) {
        tailcut_fail(items, TAILCUT_CORRUPT);
    }
    return bytes;
}

void tailcut_value(tailcut_items *items) {
    uint32_t waiting[3]; /* values that are still to come, at each depth of lists */
    uint32_t text, depth = 0;
    waiting[0] = 1;
    while (items->status == TAILCUT_OK) {
        if (waiting[depth] == 0) {
            if (depth-- == 0) return;
            continue;
        }
        waiting[depth]--;
        switch (tailcut_byte(items)) {
            case 0:
            case 1:
                break;
            case 2:
                tailcut_varint(items);
                break;
            case 3:
                if (tailcut_varint(items) == 0) tailcut_fail(items, TAILCUT_CORRUPT);
                break;
            case 4:
                tailcut_take(items, 8);
                break;
            case 5:
                tailcut_text(items, &text);
                break;
            case 6:
                if (depth == 2) {
                    tailcut_fail(items, TAILCUT_CORRUPT);
                } else {
                    waiting[++depth] = tailcut_capped(items, 256);
                }
                break;
            default:
                tailcut_fail(items, TAILCUT_CORRUPT);
        }
    }
}

uint32_t tailcut_crc32(uint32_t before, const uint8_t *bytes, size_t num_bytes) {
    uint32_t table[16], crc = ~before, n;
    size_t place;
    for (n = 0; n < 16; n++) {
        uint32_t word = n, bit;
        for (bit = 0; bit < 4; bit++) word = word >> 1 ^ (0xedb88320u & (0u - (word & 1)));
        table[n] = word;
    }
    for (place = 0; place < num_bytes; place++) {
        crc ^= bytes[place];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

#if TAILCUT_READ_LEVELS
uint32_t tailcut_count_below(uint32_t count, const uint8_t *parts, uint32_t high, uint32_t low) {
    for (; high > low; high--) count = (uint32_t)(((uint64_t)count * parts[high - 2] + 255) >> 8);
    return count;
}
#endif

static void note_peak(tailcut_arena *arena) {
    size_t used = arena->bottom + (arena->size - arena->top);
    if (used > arena->peak) arena->peak = used;
}

void *tailcut_keep(tailcut_arena *arena, uint64_t num_bytes) {
    uint64_t rounded = (num_bytes + 7) & ~(uint64_t)7;
    void *found = arena->base + arena->bottom;
    if (rounded > arena->top - arena->bottom) return NULL;
    arena->bottom += (size_t)rounded;
    note_peak(arena);
    return found;
}

void *tailcut_borrow(tailcut_arena *arena, uint64_t num_bytes) {
    uint64_t rounded = (num_bytes + 7) & ~(uint64_t)7;
    if (rounded > arena->top - arena->bottom) return NULL;
    arena->top -= (size_t)rounded;
    note_peak(arena);
    return arena->base + arena->top;
}

/* ---- BLAKE2b, RFC 7693 ---- */

static const uint64_t blake_start[8] = {
    UINT64_C(0x6a09e667f3bcc908), UINT64_C(0xbb67ae8584caa73b), UINT64_C(0x3c6ef372fe94f82b),
    UINT64_C(0xa54ff53a5f1d36f1), UINT64_C(0x510e527fade682d1), UINT64_C(0x9b05688c2b3e6c1f),
    UINT64_C(0x1f83d9abfb41bd6b), UINT64_C(0x5be0cd19137e2179),
};

static const uint8_t blake_places[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static uint64_t turned(uint64_t word, unsigned bits) { return word >> bits | word << (64 - bits); }

static void blake_block(tailcut_digest *digest, int is_last) {
    uint64_t v[16], m[16];
    unsigned n, round;
    for (n = 0; n < 8; n++) v[n] = digest->state[n], v[n + 8] = blake_start[n];
    v[12] ^= digest->num_bytes;
    if (is_last) v[14] = ~v[14];
    for (n = 0; n < 16; n++) {
        unsigned byte;
        m[n] = 0;
        for (byte = 8; byte-- > 0;) m[n] = m[n] << 8 | digest->block[8 * n + byte];
    }
    for (round = 0; round < 12; round++) {
        const uint8_t *places = blake_places[round % 10];
        for (n = 0; n < 8; n++) {
            unsigned turn = n >> 2; /* columns, then diagonals */
            unsigned a = n & 3, b = 4 + ((n + turn) & 3), c = 8 + ((n + 2 * turn) & 3), d = 12 + ((n + 3 * turn) & 3);
            v[a] += v[b] + m[places[2 * n]];
            v[d] = turned(v[d] ^ v[a], 32);
            v[c] += v[d];
            v[b] = turned(v[b] ^ v[c], 24);
            v[a] += v[b] + m[places[2 * n + 1]];
            v[d] = turned(v[d] ^ v[a], 16);
            v[c] += v[d];
            v[b] = turned(v[b] ^ v[c], 63);
        }
    }
    for (n = 0; n < 8; n++) digest->state[n] ^= v[n] ^ v[n + 8];
}

void tailcut_digest_start(tailcut_digest *digest) {
    memcpy(digest->state, blake_start, sizeof blake_start);
    digest->state[0] ^= 0x01010004; /* four bytes, no key */
    digest->num_bytes = 0;
    digest->filled = 0;
}

void tailcut_digest_add(tailcut_digest *digest, const void *bytes, uint32_t num_bytes) {
    const uint8_t *from = bytes;
    for (; num_bytes > 0; num_bytes--) {
        if (digest->filled == 128) {
            blake_block(digest, 0);
            digest->filled = 0;
        }
        digest->block[digest->filled++] = *from++;
        digest->num_bytes++;
    }
}

uint32_t tailcut_digest_end(tailcut_digest *digest) {
    memset(digest->block + digest->filled, 0, 128 - digest->filled);
    blake_block(digest, 1);
    return (uint32_t)digest->state[0];
}
