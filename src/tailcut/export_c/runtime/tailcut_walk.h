/* What both runners share: what is compiled, and the coefficients of a weight in flash. Not for users. */
#ifndef TAILCUT_WALK_H
#define TAILCUT_WALK_H

#include "tailcut_features.h"
#include "tailcut_run.h"
#if TAILCUT_HAS_CODED
#include "tailcut_coder.h"
#endif

#include <string.h>

#ifndef TAILCUT_MAX_LEAVES
#define TAILCUT_MAX_LEAVES 8 /* of one stage; the export keeps to it */
#endif

#define HAS_POOLING (TAILCUT_HAS_MAX || TAILCUT_HAS_AVERAGE)
#define HAS_PICKING (TAILCUT_HAS_PICK || TAILCUT_HAS_NEAREST)
#define HAS_OTHER_SIZES (HAS_PICKING || TAILCUT_HAS_BILINEAR)

/* Contexts of whole numbers in a code: a set for each level of what is expected, one for the bits below the highest. */
#define MAX_BITS 16
#define NUM_LEVELS 6
#define NUM_CONTEXTS (NUM_LEVELS * MAX_BITS + 1)
#define LEAST 64 /* probability */

/* Goes through the coefficients of a weight; `index` of the order is of the axes as they are stored. */
typedef struct {
    tailcut_order order;
    const tailcut_weight *weight;
    uint32_t sizes[4];
    uint32_t place;
    uint8_t out_axis;
    uint8_t in_axis;
#if TAILCUT_HAS_CODED
    tailcut_coder coder;
    uint32_t expected; /* the recent magnitudes' mean, in 1 / 32 */
    tailcut_context contexts[NUM_CONTEXTS];
#endif
} walk;

#if TAILCUT_HAS_CODED

static void start_coded(walk *w) {
    uint32_t n;
    tailcut_start_coder(&w->coder, w->weight->array.numbers, (size_t)-1); /* the code knows its end */
    w->expected = 32;
    for (n = 0; n < NUM_CONTEXTS; n++) {
        w->contexts[n].zero = 32768;
        w->contexts[n].seen = 1;
    }
}

/* The next whole number: how many bits its magnitude has, in contexts of what is expected; these bits; its sign. */
static int32_t coded_number(walk *w) {
    uint32_t level = 0, num_bits = 0, magnitude = 0, n;
    tailcut_context *set;
    while (level < NUM_LEVELS - 1 && w->expected >> level) level++;
    set = w->contexts + MAX_BITS * level;
    while (num_bits < MAX_BITS && tailcut_coded_bit(&w->coder, set + num_bits, LEAST)) num_bits++;
    for (n = 0; n < num_bits; n++) {
        uint32_t bit = n == 0 ? 1 : tailcut_coded_bit(&w->coder, w->contexts + NUM_LEVELS * MAX_BITS, LEAST);
        magnitude = 2 * magnitude + bit;
    }
    w->expected += 4 * magnitude - (w->expected >> 3);
    if (magnitude > 0 && tailcut_plain_bit(&w->coder)) return -(int32_t)magnitude;
    return (int32_t)magnitude;
}

#endif

static void start_walk(walk *w, const tailcut_weight *weight) {
    tailcut_tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    w->weight = weight;
    w->place = 0;
    w->out_axis = weight->is_swapped ? 1 : 0;
    w->in_axis = weight->is_swapped ? 0 : 1;
    w->sizes[w->out_axis] = weight->sizes[0];
    w->sizes[w->in_axis] = weight->sizes[1];
    w->sizes[2] = weight->sizes[2];
    w->sizes[3] = weight->sizes[3];
    tensor.sizes = w->sizes;
    tensor.num_axes = 4;
    tensor.axes = weight->axes;
    tensor.order_weights = weight->order_weights;
    tailcut_order_start(&w->order, &tensor);
#if TAILCUT_HAS_CODED
    if (weight->array.type == TAILCUT_CODED) start_coded(w);
#endif
}

#endif
