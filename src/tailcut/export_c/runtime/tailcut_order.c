/* The order of coefficients. SPEC.md: "Meaning". */
#include "tailcut.h"

#include <string.h>

/* The lowest value of transformed axis `n`, at least `from`, after which the rest can still reach the level; 0 if none.
 */
static int put(tailcut_order *order, unsigned n, uint32_t from) {
    unsigned axis = order->inner[n];
    uint32_t weight = order->weights[n];
    uint32_t rest = order->remaining[n], later = order->most[n + 1];
    if (rest > later) {
        uint32_t least = (rest - later - 1) / weight + 1;
        if (least > from) from = least;
    }
    if (from >= order->sizes[axis] || weight * from > rest) return 0;
    order->index[axis] = from;
    order->remaining[n + 1] = rest - weight * from;
    return 1;
}

void tailcut_order_start(tailcut_order *order, const tailcut_tensor *tensor) {
    unsigned axis;
    memset(order, 0, sizeof *order);
    order->sizes = tensor->sizes;
    for (axis = 0; axis < tensor->num_axes; axis++) {
        if (tensor->axes >> axis & 1) {
            order->weights[order->num_inner] = tensor->order_weights ? tensor->order_weights[order->num_inner] : 1;
            order->inner[order->num_inner++] = (uint8_t)axis;
        } else {
            order->outer[order->num_outer++] = (uint8_t)axis;
        }
    }
    for (axis = order->num_inner; axis-- > 0;) {
        order->most[axis] = order->most[axis + 1] + (order->sizes[order->inner[axis]] - 1) * order->weights[axis];
    }
}

void tailcut_order_next(tailcut_order *order) {
    unsigned n;
    for (n = order->num_outer; n-- > 0;) {
        unsigned axis = order->outer[n];
        if (++order->index[axis] < order->sizes[axis]) return;
        order->index[axis] = 0;
    }
    if (order->num_inner == 0) return;
    n = order->num_inner - 1;
    for (;;) {
        /* Raise axis n; where that fails, the one before it, at last the level; then fill in the axes behind it. */
        uint32_t from = order->index[order->inner[n]] + 1;
        while (!put(order, n, from)) {
            if (n == 0) {
                if (order->level >= order->most[0]) return; /* behind the last one */
                order->remaining[0] = ++order->level;
                from = 0;
            } else {
                n--;
                from = order->index[order->inner[n]] + 1;
            }
        }
        for (n++; n < order->num_inner && put(order, n, 0); n++) continue;
        if (n == order->num_inner) return;
        n--;
    }
}
