/* A binary range coder with adaptive probabilities. SPEC.md: "Codec 2, range". */
#include "tailcut_coder.h"

static uint32_t next_byte(tailcut_coder *from) {
    uint32_t byte = from->read < from->num_bytes ? from->bytes[from->read] : 0;
    from->read++;
    return byte;
}

void tailcut_start_coder(tailcut_coder *from, const uint8_t *bytes, size_t num_bytes) {
    unsigned n;
    from->bytes = bytes;
    from->num_bytes = num_bytes;
    from->read = 0;
    from->offset = 0;
    from->range = 0;
    from->is_whole = 1;
    for (n = 0; n < 4; n++) from->offset = from->offset << 8 | next_byte(from);
}

/* A bit: 1 if the offset is at `bound` or above. */
static uint32_t decide(tailcut_coder *from, uint32_t bound) {
    uint32_t found = from->offset >= bound;
    if (found) {
        from->offset -= bound;
        from->range -= bound; /* modulo 2^32 */
    } else {
        from->range = bound;
    }
    from->is_whole = 0;
    while (from->range < UINT32_C(1) << 24) {
        from->offset = from->offset << 8 | next_byte(from);
        from->range <<= 8;
    }
    return found;
}

void tailcut_learn_bit(tailcut_context *at, uint32_t found, uint32_t least) {
    uint32_t zero = at->zero, rate = UINT32_C(131072) / (2u * at->seen + 3);
    /* Products of less than 2^16 and at most 43690. */
    zero = found ? zero - (zero * rate >> 16) : zero + ((65536 - zero) * rate >> 16);
    if (zero < least) zero = least;
    if (zero > 65536 - least) zero = 65536 - least;
    at->zero = (uint16_t)zero;
    if (at->seen < 126) at->seen++;
}

uint32_t tailcut_coded_bit(tailcut_coder *from, tailcut_context *at, uint32_t least) {
    uint32_t found = decide(from, (from->is_whole ? UINT32_C(65536) : from->range >> 16) * at->zero);
    tailcut_learn_bit(at, found, least);
    return found;
}

uint32_t tailcut_plain_bit(tailcut_coder *from) {
    return decide(from, from->is_whole ? UINT32_C(1) << 31 : from->range >> 1);
}

tailcut_status tailcut_end_coder(const tailcut_coder *from) {
    return from->read == from->num_bytes + 3 && from->offset < UINT32_C(1) << 24 ? TAILCUT_OK : TAILCUT_CORRUPT;
}
