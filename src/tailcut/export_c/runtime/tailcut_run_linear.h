/* Linear layers, and layers whose kernel is their whole input. A part of tailcut_run.c. */
#ifndef TAILCUT_RUN_LINEAR_H
#define TAILCUT_RUN_LINEAR_H

#include "tailcut_run_convolutions.h"

/* A linear layer over all numbers of a map, in the order channel, row, column. */
static void multiply_flat(machine *m, const tailcut_weight *weight) {
    const tailcut_stage *stage = m->stage;
    const tailcut_segment *segment = m->model->segments + stage->first_segment;
    uint32_t size = (uint32_t)stage->channels * stage->height * stage->width, num_in = weight->corner[1];
    uint32_t n, own, x, y, a, b, channel = 0;
    float *narrow = m->in_cosines ? take(m, num_in) : NULL, *out = m->arena + stage->out.offset;
    clear(m->in_cosines ? narrow : out, m->in_cosines ? num_in : stage->out.channels);
    for (n = 0; n < stage->num_segments; n++, segment++) {
        for (own = 0; own < segment->channels; own++, channel++) {
            for (y = 0; y < stage->height; y++) {
                uint32_t place = (channel * stage->height + y) * stage->width;
                spread_leaves(m, y);
                input_row(m, segment, own, channel, y, m->row);
                for (x = 0; x < stage->width; x++, place++) {
                    if (m->in_cosines != NULL) {
                        const float *mix = factors_of(m, m->in_cosines, size, place, num_in, m->mix);
                        for (b = 0; b < num_in; b++) narrow[b] += mix[b] * m->row[x];
                    } else if (m->core != NULL) {
                        for (a = 0; a < stage->out.channels; a++)
                            out[a] += m->core[(size_t)a * size + place] * m->row[x];
                    } else {
                        for (a = 0; a < stage->out.channels; a++)
                            out[a] += weight->array.step * number(&weight->array, a * size + place) * m->row[x];
                    }
                }
            }
        }
    }
    if (m->in_cosines == NULL) return;
    for (a = 0; a < stage->out.channels; a++) {
        out[a] = 0.0f;
        for (b = 0; b < num_in; b++) out[a] += m->core[(size_t)a * num_in + b] * narrow[b];
    }
}

/* Whether narrow numbers are (in channels, rows, columns), not (rows, columns, in channels): the longer one inside. */
static int has_columns_inside(const tailcut_weight *weight) {
    return TAILCUT_SMALL || weight->corner[3] > weight->corner[1] || !is_narrow_in(weight);
}

/* The place among the narrow numbers of the coefficient that a walk is at. */
static uint32_t narrow_place(const walk *w) {
    const uint32_t *at = w->order.index;
    const uint16_t *corner = w->weight->corner;
    if (has_columns_inside(w->weight)) return (at[w->in_axis] * corner[2] + at[2]) * corner[3] + at[3];
    return (at[2] * corner[3] + at[3]) * corner[1] + at[w->in_axis];
}

#if TAILCUT_SMALL

/* Add a row of one input channel to narrow numbers: to those of in channels `first` to `last`, by the factors `mix`. */
static void add_whole(machine *m, const tailcut_weight *weight, const float *of_rows, const float *of_columns,
                      uint32_t y, const float *row, const float *mix, uint32_t first, uint32_t last, float *narrow) {
    uint32_t rows = weight->corner[2], columns = weight->corner[3], b, k, l, x;
    for (l = 0; l < columns; l++) {
        float sum = 0.0f;
        for (x = 0; x < m->stage->width; x++) sum += row[x] * kernel_cosine(weight, 3, of_columns, x, l);
        for (k = 0; k < rows; k++) {
            float part = sum * kernel_cosine(weight, 2, of_rows, y, k);
            for (b = first; b < last; b++) narrow[(b * rows + k) * columns + l] += mix[b] * part;
        }
    }
}

#define start_kernel(m, weight, axis) make_cosines(m, (weight)->sizes[axis])

#else

/* What `kernel_factors` takes, see `start_cosines`. */
static const float *start_kernel(machine *m, const tailcut_weight *weight, uint32_t axis) {
    uint32_t size = weight->sizes[axis], count = weight->corner[axis], n;
    float *factors, *after;
    if (!is_prepared(m)) return make_cosines(m, size);
    factors = keep(m, size * count);
    after = m->scratch;
    if (is_making(m)) {
        const float *table = make_cosines(m, size);
        for (n = 0; n < size * count; n++) factors[n] = kernel_cosine(weight, axis, table, n / count, n % count);
        m->scratch = after;
    }
    return factors;
}

/* The factors of `num` places of the kernel's columns: where they are prepared, else in `into`. */
static const float *kernel_factors(const machine *m, const tailcut_weight *weight, const float *cosines,
                                   uint32_t place, uint32_t num, float *into) {
    uint32_t count = weight->corner[3], n;
    if (is_prepared(m)) return cosines + place * count;
    for (n = 0; n < num * count; n++) into[n] = kernel_cosine(weight, 3, cosines, place + n / count, n % count);
    return into;
}

static void add_row(float *into, const float *row, float factor, uint32_t width) {
    uint32_t x;
    for (x = 0; x < width; x++) into[x] += factor * row[x];
}

/* Add a row of one input channel to narrow numbers: to those of in channels `first` to `last`, by the factors `mix`.
 * Behind the narrow numbers there is room for five lines of columns. */
static void add_whole(machine *m, const tailcut_weight *weight, const float *of_rows, const float *of_columns,
                      uint32_t y, const float *row, const float *mix, uint32_t first, uint32_t last, float *narrow) {
    uint32_t num_in = weight->corner[1], rows = weight->corner[2], columns = weight->corner[3], b, k, l, x;
    float *sums = narrow + num_in * rows * columns, *line = sums + columns;
    clear(sums, columns);
    for (x = 0; x < m->stage->width; x += 4) {
        uint32_t num = m->stage->width - x < 4 ? m->stage->width - x : 4;
        spread_rows(sums, 1, row + x, kernel_factors(m, weight, of_columns, x, num, line), num, columns);
    }
    for (k = 0; k < rows; k++) {
        float factor = is_prepared(m) ? of_rows[y * rows + k] : kernel_cosine(weight, 2, of_rows, y, k);
        for (l = 0; l < columns; l++) line[l] = sums[l] * factor;
        if (has_columns_inside(weight)) {
            for (b = first; b < last; b++) add_row(narrow + (b * rows + k) * columns, line, mix[b], columns);
        } else {
            for (l = 0; l < columns; l++) add_row(narrow + (k * columns + l) * num_in, mix, line[l], num_in);
        }
    }
}

/* A coefficient of a weight whose axes are all projected: a product of one narrow number for one output. */
typedef struct {
    float value;
    uint32_t in;
    uint32_t out;
} term;
#define TERM_FLOATS 3

/* The coefficients of such a weight as terms, where these are prepared. */
static const float *start_terms(machine *m, const tailcut_weight *weight) {
    float *terms = keep(m, TERM_FLOATS * weight->array.count), *at = terms, value;
    walk w;
    if (!is_making(m)) return terms;
    start_walk(&w, weight);
    for (; step(&w, &value); at += TERM_FLOATS) {
        const term made = {value, narrow_place(&w), w.order.index[w.out_axis]};
        memcpy(at, &made, sizeof made);
    }
    return terms;
}

/* Project the channels of maps of one number, four at a time so that `narrow` is touched less. */
static void project_vector(machine *m, uint32_t num_in, float *narrow) {
    const tailcut_stage *stage = m->stage;
    const tailcut_segment *segment = m->model->segments + stage->first_segment, *end = segment + stage->num_segments;
    uint32_t own, num, c, n, channel = 0;
    for (; segment < end; segment++) {
        for (own = 0; own < segment->channels; own += num, channel += num) {
            num = at_once(m, segment, own, 1);
            input_rows(m, segment, own, channel, num, 0, m->row);
            for (c = 0; c < num; c += 4) {
                uint32_t four = num - c < 4 ? num - c : 4;
                const float *mix = is_prepared(m) ? m->in_cosines + (channel + c) * num_in : m->mix;
                for (n = 0; !is_prepared(m) && n < four; n++) {
                    cosines_of(m->in_cosines, stage->channels, channel + c + n, num_in, m->mix + n * num_in);
                }
                spread_rows(narrow, 1, m->row + c, mix, four, num_in);
            }
        }
    }
}

#endif

/* A truncated layer whose kernel is its whole input, or a linear one: all axes are projected, no core is made. */
static void multiply_whole(machine *m, const tailcut_weight *weight) {
    const tailcut_stage *stage = m->stage;
    const tailcut_segment *segment = m->model->segments + stage->first_segment;
    uint32_t num_in = weight->corner[1], n, own, y, channel;
    int is_projected = 0;
    const float *rows = start_kernel(m, weight, 2), *columns = start_kernel(m, weight, 3);
    float *narrow = m->scratch, *out = m->arena + stage->out.offset, value;
    walk w;
#if !TAILCUT_SMALL
    uint32_t ready = 0, num = 0;
    const float *terms = is_prepared(m) ? start_terms(m, weight) : NULL;
    if (!is_running(m)) return;
#endif
    clear(narrow, num_in * weight->corner[2] * weight->corner[3]);
#if !TAILCUT_SMALL
    is_projected = is_vector(m) && m->in_cosines != NULL && stage->height == 1;
    if (is_projected) project_vector(m, num_in, narrow);
#endif
    for (y = 0; !is_projected && y < stage->height; y++) {
        segment = m->model->segments + stage->first_segment;
        spread_leaves(m, y);
        for (n = 0, channel = 0; n < stage->num_segments; n++, segment++) {
            for (own = 0; own < segment->channels; own++, channel++) {
                uint32_t first = m->in_cosines != NULL ? 0 : channel,
                         last = m->in_cosines != NULL ? num_in : channel + 1;
                const float *mix = m->mix, *row = m->row;
#if TAILCUT_SMALL
                input_row(m, segment, own, channel, y, m->row);
#else
                if (ready == 0) {
                    ready = num = at_once(m, segment, own, m->in_cosines != NULL ? AT_ONCE : 1);
                    input_rows(m, segment, own, channel, num, y, m->row);
                }
                row += (num - ready--) * stage->width;
#endif
                if (m->in_cosines != NULL) {
                    mix = factors_of(m, m->in_cosines, stage->channels, channel, num_in, m->mix);
                } else {
                    m->mix[channel] = 1.0f;
                }
                add_whole(m, weight, rows, columns, y, row, mix, first, last, narrow);
            }
        }
    }
    clear(out, stage->out.channels);
#if !TAILCUT_SMALL
    for (n = 0; terms != NULL && n < weight->array.count; n++, terms += TERM_FLOATS) {
        term one;
        memcpy(&one, terms, sizeof one);
        out[one.out] += one.value * narrow[one.in];
    }
    if (is_prepared(m)) return;
#endif
    start_walk(&w, weight);
    while (step(&w, &value)) out[w.order.index[w.out_axis]] += value * narrow[narrow_place(&w)];
}

#endif
