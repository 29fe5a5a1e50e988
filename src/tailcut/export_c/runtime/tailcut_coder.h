/* The binary range coder of codecs 2 and 3. Not for users. */
#ifndef TAILCUT_CODER_H
#define TAILCUT_CODER_H

#include "tailcut_internal.h"

typedef struct {
    const uint8_t *bytes;
    size_t num_bytes;
    size_t read;     /* bytes, those behind the end counted too, which are 0 */
    uint32_t offset; /* below the range */
    uint32_t range;
    int is_whole; /* the range is 2^32, and stands as 0 */
} tailcut_coder;

typedef struct {
    uint16_t zero; /* probability of a 0, in 1 / 65536 */
    uint8_t seen;
} tailcut_context;

void tailcut_start_coder(tailcut_coder *from, const uint8_t *bytes, size_t num_bytes);
/* A bit: 1 if the offset is at `bound` or above. */
uint32_t tailcut_decide(tailcut_coder *from, uint32_t bound);
/* A bit with a context, whose probabilities stay within `least` and 65536 - `least`. */
uint32_t tailcut_coded_bit(tailcut_coder *from, tailcut_context *at, uint32_t least);
/* Whether the payload was read to its end and no further. */
tailcut_status tailcut_end_coder(const tailcut_coder *from);

#endif
