/* Cores and factors of truncated weights. A part of tailcut_run.c. */
#ifndef TAILCUT_RUN_WEIGHTS_H
#define TAILCUT_RUN_WEIGHTS_H

#include "tailcut_run_rows.h"

/* Number `place` as it is stored, for the step to be multiplied by. */
static float number(const tailcut_array *array, uint32_t place) {
    uint32_t half, word;
    float value;
    if (TAILCUT_HAS_FLOAT32 && array->type == TAILCUT_FLOAT32) return ((const float *)array->numbers)[place];
    if (TAILCUT_HAS_INT16 && array->type == TAILCUT_INT16) return (float)((const int16_t *)array->numbers)[place];
    if (TAILCUT_HAS_INT8 && array->type == TAILCUT_INT8) return (float)((const int8_t *)array->numbers)[place];
    if (!TAILCUT_HAS_FLOAT16) return 0.0f;
    half = ((const uint16_t *)array->numbers)[place];
    word = ((half >> 10 & 31) + 112) << 23 | (half & 1023) << 13;
    memcpy(&value, &word, sizeof value);
    if ((half >> 10 & 31) == 0) value = (float)(half & 1023) * 5.9604644775390625e-8f; /* 2^-24 */
    return half >> 15 ? -value : value;
}

/* cos(pi (2 place + 1) k / (2 size)) of a short axis. */
static float cosine_at(const float *table, uint32_t size, uint32_t place, uint32_t k) {
    uint32_t angle = (2 * place + 1) * k % (4 * size), turn = angle > 2 * size ? 4 * size - angle : angle;
    return turn > size ? -table[2 * size - turn] : table[turn];
}

static float next_number(walk *w) {
#if TAILCUT_HAS_CODED
    if (w->weight->array.type == TAILCUT_CODED) return (float)coded_number(w);
#endif
    return number(&w->weight->array, w->place);
}

/* The next coefficient times the scales of its cosines; 0 behind the last one. */
static int step(walk *w, float *value) {
    const tailcut_weight *weight = w->weight;
    uint32_t axis;
    if (w->place == weight->array.count) return 0;
    if (w->place > 0) tailcut_order_next(&w->order);
    *value = weight->array.step * next_number(w);
    w->place++;
    /* Cosine 0 of an axis is scaled by 1 / sqrt(size), which is in the step, the others by sqrt(2) times as much. */
    for (axis = 0; axis < 4; axis++) {
        if (w->order.index[axis] > 0 && weight->axes >> axis & 1) *value *= 1.41421356f;
    }
    return 1;
}

/* Cosine `k` of an axis of the kernel at `place`; of an axis that is whole, whether it is there. */
static float kernel_cosine(const tailcut_weight *weight, uint32_t axis, const float *table, uint32_t place,
                           uint32_t k) {
    return weight->axes >> axis & 1 ? cosine_at(table, weight->sizes[axis], place, k) : k == place ? 1.0f : 0.0f;
}

/* The core (num_out, num_in, rows, columns) of a truncated weight, with the scales of all cosines in it: `count`
 * outputs from `first` on, which are those of the narrow axis, or the wide ones. */
static const float *make_core(machine *m, const tailcut_weight *weight, uint32_t first, uint32_t count, int is_wide) {
    uint32_t taps = (uint32_t)weight->sizes[2] * weight->sizes[3], size = weight->corner[1] * taps, axis, k, y, x, a;
    float *core = keep(m, count * size), *after = m->scratch, *narrow = core, *lines[2], value;
    uint32_t wide = first, num_wide = count;
    const float *tables[2];
    walk w;
    if (!is_making(m)) return core;
    if (TAILCUT_HAS_POOLED && is_wide) {
        first = 0;
        count = weight->corner[0];
        narrow = take(m, count * size);
    }
    for (axis = 0; axis < 2; axis++) {
        tables[axis] = make_cosines(m, weight->sizes[2 + axis]);
        lines[axis] = take(m, weight->sizes[2 + axis]);
    }
    clear(narrow, count * size);
    start_walk(&w, weight);
    while (step(&w, &value)) {
        float *at;
        a = w.order.index[w.out_axis] - first;
        if (TAILCUT_HAS_PARTS && a >= count) continue;
        at = narrow + a * size + w.order.index[w.in_axis] * taps;
        for (axis = 0; axis < 2; axis++) {
            for (k = 0; k < weight->sizes[2 + axis]; k++) {
                lines[axis][k] = kernel_cosine(weight, 2 + axis, tables[axis], k, w.order.index[2 + axis]);
            }
        }
        for (y = 0; y < weight->sizes[2]; y++) {
            for (x = 0; x < weight->sizes[3]; x++) *at++ += value * lines[0][y] * lines[1][x];
        }
    }
    if (TAILCUT_HAS_POOLED && is_wide) {
        const float *cosines = make_cosines(m, weight->sizes[0]);
        clear(core, num_wide * size);
        for (a = 0; a < num_wide * count; a++) {
            float factor = cosine_at(cosines, weight->sizes[0], wide + a / count, a % count);
            for (k = 0; k < size; k++) core[a / count * size + k] += factor * narrow[a % count * size + k];
        }
    }
    m->scratch = after;
    return core;
}

static int is_narrow_out(const tailcut_weight *weight) { return weight->axes >> (weight->is_swapped ? 1 : 0) & 1; }

static int is_narrow_in(const tailcut_weight *weight) { return weight->axes >> (weight->is_swapped ? 0 : 1) & 1; }

/* The weights (num_in, rows, columns) of output `a`. */
static const float *core_of(machine *m, const tailcut_weight *weight, uint32_t a) {
    uint32_t count = (uint32_t)weight->corner[1] * weight->sizes[2] * weight->sizes[3], n;
    if (!TAILCUT_HAS_DENSE || m->core != NULL) return m->core + (size_t)(a - m->first) * count;
    for (n = 0; n < count; n++) m->line[n] = weight->array.step * number(&weight->array, a * count + n);
    return m->line;
}

/* The weights (in channels of a group, taps) of one output channel of a grouped convolution. */
static const float *grouped_weights(machine *m, const tailcut_weight *weight, uint32_t channel,
                                    const float *out_cosines, float *into) {
    uint32_t num_in = weight->corner[1], inner = weight->sizes[1], taps = (uint32_t)weight->sizes[2] * weight->sizes[3];
    uint32_t a, b, i, t, first = channel, last = channel + 1;
    float *in_mix = m->mix + weight->corner[0];
    if (!weight->is_truncated) return core_of(m, weight, channel);
    if (!is_making(m)) return m->core + (size_t)channel * inner * taps;
    if (out_cosines != NULL) {
        cosines_of(out_cosines, weight->sizes[0], channel, weight->corner[0], m->mix);
        first = 0;
        last = weight->corner[0];
    }
    clear(into, inner * taps);
    for (i = 0; i < inner; i++) {
        if (m->in_cosines != NULL) cosines_of(m->in_cosines, inner, i, num_in, in_mix);
        for (a = first; a < last; a++) {
            for (b = m->in_cosines != NULL ? 0 : i; b < (m->in_cosines != NULL ? num_in : i + 1); b++) {
                float factor = (out_cosines ? m->mix[a] : 1.0f) * (m->in_cosines ? in_mix[b] : 1.0f);
                for (t = 0; t < taps; t++) into[i * taps + t] += factor * m->core[(a * num_in + b) * taps + t];
            }
        }
    }
    return into;
}

#if !TAILCUT_SMALL && TAILCUT_HAS_GROUPS

/* The weights of all output channels of a truncated grouped convolution. */
static void prepare_groups(machine *m, const tailcut_weight *weight) {
    uint32_t count = (uint32_t)weight->sizes[1] * weight->sizes[2] * weight->sizes[3], a;
    float *kept = keep(m, m->stage->out.channels * count), *after = m->scratch, *prepared = m->prepared;
    if (is_making(m)) {
        const float *out_cosines = is_narrow_out(weight) ? make_cosines(m, weight->sizes[0]) : NULL;
        m->prepared = NULL; /* so that the core is made in the arena */
        m->core = make_core(m, weight, 0, weight->corner[0], 0);
        for (a = 0; a < m->stage->out.channels; a++) grouped_weights(m, weight, a, out_cosines, kept + a * count);
        m->prepared = prepared;
        m->scratch = after;
    }
    m->core = kept;
}

#endif

#if !TAILCUT_SMALL && TAILCUT_HAS_DENSE

static const float *prepare_dense(machine *m, const tailcut_array *array) {
    float *kept = keep(m, array->count);
    uint32_t n;
    for (n = 0; is_making(m) && n < array->count; n++) kept[n] = array->step * number(array, n);
    return kept;
}

#endif

/* The core of a truncated weight; a dense one is read where it lies, or output by output into a line. */
static void start_weight(machine *m, const tailcut_weight *weight) {
    m->core = NULL;
    m->end = m->stage->out.channels;
    if (TAILCUT_HAS_PARTS && !is_prepared(m) && m->end - m->first > m->stage->part) m->end = m->first + m->stage->part;
    if (m->stage->kind == TAILCUT_PROJECT || m->stage->kind == TAILCUT_WHOLE) return;
    if (TAILCUT_HAS_TRUNCATED && (!TAILCUT_HAS_DENSE || weight->is_truncated)) {
        uint32_t count = IS_GROUPED(m->stage->groups) ? weight->corner[0] : m->end - m->first;
#if !TAILCUT_SMALL && TAILCUT_HAS_GROUPS
        if (is_prepared(m) && m->stage->groups > 1) {
            prepare_groups(m, weight);
            return;
        }
#endif
        m->core = make_core(m, weight, m->first, count, is_pooled(m->stage) && is_narrow_out(weight));
    } else if (weight->array.type == TAILCUT_FLOAT32) {
        m->core = weight->array.numbers;
#if !TAILCUT_SMALL && TAILCUT_HAS_DENSE
    } else if (is_prepared(m)) {
        m->core = prepare_dense(m, &weight->array);
#endif
    } else if (m->stage->kind != TAILCUT_FLAT) {
        m->line = take(m, (uint32_t)weight->corner[1] * weight->sizes[2] * weight->sizes[3]);
    }
}

#endif
