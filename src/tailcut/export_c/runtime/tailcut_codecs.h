/* Codecs 2 to 5. Not for users. */
#ifndef TAILCUT_CODECS_H
#define TAILCUT_CODECS_H

#include "tailcut_coder.h"
#include "tailcut_internal.h"

/* Codec 2: contexts for numbers of `width` bytes; NULL if there is no room. */
tailcut_context *tailcut_range_contexts(tailcut_arena *arena, uint32_t width);
/* Its `count` numbers, lowest byte first. `bytes` NULL: the numbers are known, and the contexts learn them. */
tailcut_status tailcut_unrange(const uint8_t *bytes, size_t num_bytes, tailcut_context *contexts, uint8_t *numbers,
                               uint32_t count, uint32_t width);

typedef struct tailcut_key tailcut_key;
typedef struct tailcut_scaling tailcut_scaling;

/* Codecs 3 to 5: what a stream hands on from tensor to tensor, that of coefficients from level to level. Zeros at the
 * start, but for `arena`, `parts`, `taken` and `codec`. What is borrowed for it the caller gives back. */
typedef struct {
    tailcut_arena *arena;
    const uint8_t *parts;
    uint32_t taken; /* the last level that will be read, from 1 */
    uint32_t level; /* that is read */
    tailcut_coder coder;
    tailcut_context *contexts;
    tailcut_key *keys;         /* the last one made comes first */
    tailcut_scaling *scalings; /* of the coefficients, where levels follow */
    int64_t whole;
    uint64_t claims_left;
    uint32_t num_keys;
    uint32_t codec;
} tailcut_unquantizer;

enum { TAILCUT_SKIP, TAILCUT_CHECK, TAILCUT_TAKE };

/* Fill in the numbers of tensors of stored types 10 and 11, which it finds among `tensors`; once for each level. What
 * of those that are not kept as coefficients: none are there, they are there but a higher level has them anew, or take
 * them. */
tailcut_status tailcut_unquantize(tailcut_unquantizer *from, const uint8_t *bytes, size_t num_bytes,
                                  tailcut_tensor *tensors, uint32_t num_tensors, int others);

#endif
