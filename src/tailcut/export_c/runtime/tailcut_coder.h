/* The binary range coder of files, and of coefficients in flash. Not for users. */
#ifndef TAILCUT_CODER_H
#define TAILCUT_CODER_H

#include "tailcut.h"

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
/* A bit that is 0 as often as 1. */
uint32_t tailcut_plain_bit(tailcut_coder *from);
/* Moves a probability towards the bit that came; it stays within `least` and 65536 - `least`. */
void tailcut_learn_bit(tailcut_context *at, uint32_t found, uint32_t least);
/* A bit with a context, whose probabilities stay within `least` and 65536 - `least`. */
uint32_t tailcut_coded_bit(tailcut_coder *from, tailcut_context *at, uint32_t least);
/* Whether the payload was read to its end and no further. */
tailcut_status tailcut_end_coder(const tailcut_coder *from);

#endif
