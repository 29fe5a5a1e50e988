/* Weights in 16 bits, and the layers that they belong to. A part of tailcut_run_integer.c. */
#ifndef TAILCUT_INTEGER_LAYERS_H
#define TAILCUT_INTEGER_LAYERS_H

#include "tailcut_integer_expressions.h"

/* ---- weights ---- */

/* Number `place` of an array of whole numbers. */
static int32_t number(const tailcut_array *array, uint32_t place) {
    if (TAILCUT_HAS_INT16 && (!TAILCUT_HAS_INT8 || array->type == TAILCUT_INT16)) {
        return ((const int16_t *)array->numbers)[place];
    }
    return ((const int8_t *)array->numbers)[place];
}

/* The next coefficient with the scales of its cosines, in 16 bits; 0 behind the last one. */
static int step(walk *w, const tailcut_integer_weight *weight, int32_t *value) {
    const tailcut_weight *as_stored = &weight->weight;
    uint32_t axis, cosines = 0;
    if (w->place == as_stored->array.count) return 0;
    if (w->place > 0) tailcut_order_next(&w->order);
#if TAILCUT_HAS_CODED
    if (as_stored->array.type == TAILCUT_CODED) {
        *value = coded_number(w);
    } else
#endif
    {
        *value = number(&as_stored->array, w->place);
    }
    w->place++;
    for (axis = 0; axis < 4; axis++) cosines += w->order.index[axis] > 0 && as_stored->axes >> axis & 1;
    *value = rounded(*value * weight->factors[cosines], weight->shift);
    return 1;
}

/* The first cosines of an axis of the kernel, (count, size), rounded; of a whole axis ONE where it is there. */
static const int16_t *kernel_cosines(machine *m, const tailcut_weight *weight, uint32_t axis, uint32_t shift) {
    uint32_t size = weight->sizes[axis], count = weight->corner[axis], place, k;
    int16_t *found = take(m, count * size), *at = found, *after = m->scratch;
    const int16_t *table = make_cosines(m, size);
    for (k = 0; k < count; k++) {
        for (place = 0; place < size; place++) {
            uint32_t angle = (2 * place + 1) * k % (4 * size), turn = angle > 2 * size ? 4 * size - angle : angle;
            int32_t cosine = turn > size ? -table[2 * size - turn] : table[turn];
            if (!(weight->axes >> axis & 1)) cosine = k == place ? ONE : 0;
            *at++ = (int16_t)rounded(cosine, shift);
        }
    }
    m->scratch = after;
    return found;
}

/* The core (num_out, num_in, rows, columns) of a truncated weight. */
static const int16_t *make_core(machine *m, const tailcut_integer_weight *weight) {
    const tailcut_weight *as_stored = &weight->weight;
    uint32_t rows = as_stored->sizes[2], columns = as_stored->sizes[3], taps = rows * columns, y, x;
    uint32_t count = as_stored->corner[0] * (uint32_t)as_stored->corner[1] * taps;
    int16_t *core = take(m, count), *after = m->scratch;
    const int16_t *of_rows = kernel_cosines(m, as_stored, 2, 0), *of_columns = kernel_cosines(m, as_stored, 3, 0);
    int32_t value;
    walk w;
    memset(core, 0, count * sizeof *core);
    start_walk(&w, as_stored);
    while (step(&w, weight, &value)) {
        const uint32_t *index = w.order.index;
        int16_t *at = core + (index[w.out_axis] * as_stored->corner[1] + index[w.in_axis]) * taps;
        for (y = 0; y < rows; y++) {
            int32_t line = rounded(value * of_rows[index[2] * rows + y], 14);
            for (x = 0; x < columns; x++, at++) {
                *at = (int16_t)(*at + rounded(line * of_columns[index[3] * columns + x], weight->core_shift));
            }
        }
    }
    m->scratch = after;
    return core;
}

/* ---- layers ---- */

/* One tap of a convolution: row[x] += factor * from[x * stride + shift], where that is there. */
static void add_tap(int32_t *row, uint32_t num, const int16_t *from, uint32_t width, int32_t factor, uint32_t stride,
                    int32_t shift) {
    uint32_t x = shift < 0 ? ((uint32_t)-shift + stride - 1) / stride : 0, end = num;
    int32_t last = (int32_t)width - 1 - shift; /* x * stride at most */
    if (factor == 0 || last < 0) return;
    if ((uint32_t)last / stride + 1 < end) end = (uint32_t)last / stride + 1;
    for (; x < end; x++) row[x] += factor * from[(int32_t)(x * stride) + shift];
}

/* One tap of a transposed convolution: row[x * stride + shift] += factor * from[x], where that is there. */
static void add_spread_tap(int32_t *row, uint32_t num, const int16_t *from, uint32_t width, int32_t factor,
                           uint32_t stride, int32_t shift) {
    uint32_t x = shift < 0 ? ((uint32_t)-shift + stride - 1) / stride : 0;
    int32_t last = (int32_t)num - 1 - shift;
    if (last < 0) return;
    if ((uint32_t)last / stride + 1 < width) width = (uint32_t)last / stride + 1;
    for (; x < width; x++) row[(int32_t)(x * stride) + shift] += factor * from[x];
}

/* Of the two kinds of stages that `convolve` runs. */
static int is_transposed(const tailcut_integer_stage *stage) {
    return TAILCUT_HAS_CONV_TRANSPOSED && (!TAILCUT_HAS_CONV || stage->kind == TAILCUT_CONV_TRANSPOSED);
}

/* Which row of the input row `dy` of the kernel meets at output row `y`; one that is not there if none. */
static uint32_t met_row(const tailcut_integer_stage *stage, uint32_t y, uint32_t dy) {
    uint32_t stride = stage->stride[0], reach = dy * stage->dilation[0], at;
    if (!is_transposed(stage)) return y * stride + reach - stage->padding[0]; /* above the first: far below the last */
    at = y + stage->padding[0] - reach;
    return y + stage->padding[0] < reach || at % stride > 0 ? stage->height : at / stride;
}

/* A convolution of one map as it is, or a transposed one, output by output. */
static void convolve(machine *m, const tailcut_integer_weight *weight) {
    const tailcut_integer_stage *stage = m->stage;
    const tailcut_integer_leaf *leaf = leaf_of(m, 0);
    const tailcut_map *out = &stage->out;
    uint32_t rows = stage->kernel[0], columns = stage->kernel[1], taps = rows * columns;
    uint32_t inner = weight->weight.corner[1], per_group = out->channels / stage->groups, stride = stage->stride[1];
    uint32_t a, b, y, dy, dx, n;
    int32_t *row = take_rows(m, out->width);
    const int16_t *core = NULL;
    int16_t *line = NULL;
    block made;
    if (TAILCUT_HAS_TRUNCATED && (!TAILCUT_HAS_DENSE || weight->weight.is_truncated)) {
        core = make_core(m, weight);
    } else {
        line = take(m, inner * taps);
    }
    start_out(m, &made, 1);
    for (a = 0; a < out->channels; a++) {
        uint32_t group = a / per_group * inner;
        const int16_t *weights = core != NULL ? core + (size_t)a * inner * taps : line;
        for (n = 0; line != NULL && n < inner * taps; n++) {
            line[n] = (int16_t)rounded(number(&weight->weight.array, a * inner * taps + n) * weight->factors[0],
                                       weight->shift);
        }
        for (y = 0; y < out->height; y++) {
            memset(row, 0, out->width * sizeof *row);
            for (b = 0; b < inner; b++) {
                for (dy = 0; dy < rows; dy++) {
                    uint32_t from = met_row(stage, y, dy);
                    const int16_t *source, *factors = weights + b * taps + dy * columns;
                    if (from >= stage->height) continue;
                    source = row_of(m, &leaf->map, from) + (size_t)(group + b) * leaf->map.channel_stride;
                    for (dx = 0; dx < columns; dx++) {
                        int32_t shift = (int32_t)(dx * stage->dilation[1]) - stage->padding[1];
                        if (is_transposed(stage)) {
                            add_spread_tap(row, out->width, source, stage->width, factors[dx], stride, shift);
                        } else {
                            add_tap(row, out->width, source, stage->width, factors[dx], stride, shift);
                        }
                    }
                }
            }
            put(&made, out_row(m, y) + (size_t)a * out->channel_stride, row, out->width);
        }
    }
    end_out(m, &made, m->arena[leaf->slot] + weight->exponent);
}

/* A truncated layer whose kernel is its whole input, one map as it is: rows, then columns are projected on the
 * kernel's cosines, and no core is made. */
static void multiply_whole(machine *m, const tailcut_integer_weight *weight) {
    const tailcut_integer_stage *stage = m->stage;
    const tailcut_integer_leaf *leaf = leaf_of(m, 0);
    const tailcut_weight *as_stored = &weight->weight;
    uint32_t height = as_stored->sizes[2], width = as_stored->sizes[3], across = as_stored->corner[3];
    uint32_t down = as_stored->corner[2], num_in = as_stored->corner[1], most = across, b, k, n, x, y;
    const int16_t *of_rows = kernel_cosines(m, as_stored, 2, weight->kernel_shift);
    const int16_t *of_columns = kernel_cosines(m, as_stored, 3, weight->kernel_shift);
    int16_t *lines = take(m, num_in * height * across), *narrow = take(m, num_in * down * across);
    int32_t *row, value, exponent = m->arena[leaf->slot];
    block made;
    walk w;
    if (stage->out.channels > most) most = stage->out.channels;
    row = take_rows(m, most);
    start_block(&made, lines, num_in * height * across, 15);
    for (n = 0; n < num_in * height; n++) {
        const int16_t *from = row_of(m, &leaf->map, n % height) + (size_t)(n / height) * leaf->map.channel_stride;
        for (k = 0; k < across; k++) {
            row[k] = 0;
            for (x = 0; x < width; x++) row[k] += from[x] * of_columns[k * width + x];
        }
        put(&made, lines + n * across, row, across);
    }
    exponent += (int32_t)made.shift + weight->kernel_shift - 14;
    start_block(&made, narrow, num_in * down * across, stage->row_bits);
    for (b = 0; b < num_in; b++) {
        for (k = 0; k < down; k++) {
            memset(row, 0, across * sizeof *row);
            for (y = 0; y < height; y++) {
                int32_t cosine = of_rows[k * height + y];
                for (x = 0; x < across; x++) row[x] += cosine * lines[(b * height + y) * across + x];
            }
            put(&made, narrow + (b * down + k) * across, row, across);
        }
    }
    exponent += (int32_t)made.shift + weight->kernel_shift - 14;
    memset(row, 0, stage->out.channels * sizeof *row);
    start_walk(&w, as_stored);
    while (step(&w, weight, &value)) {
        const uint32_t *index = w.order.index;
        row[index[w.out_axis]] += value * narrow[(index[w.in_axis] * down + index[2]) * across + index[3]];
    }
    start_out(m, &made, 1);
    for (n = 0; n < stage->out.channels; n++) put(&made, out_row(m, 0) + n * stage->out.channel_stride, row + n, 1);
    end_out(m, &made, exponent + weight->exponent);
}

/* All channels projected on the cosines of a layer's input channels. */
static void project(machine *m) {
    const tailcut_integer_stage *stage = m->stage;
    const tailcut_map *out = &stage->out;
    uint32_t num_in = out->channels, size = stage->channels, n, own, b, x, y, channel;
    const int16_t *cosines = make_cosines(m, size);
    int16_t *factors = take(m, num_in);
    int32_t *sums = take_rows(m, num_in * stage->width), half = (INT32_C(1) << stage->in_shift) >> 1;
    block made;
    start_out(m, &made, 0);
    for (y = 0; y < stage->height; y++) {
        memset(sums, 0, num_in * stage->width * sizeof *sums);
        for (n = 0, channel = 0; n < stage->num_segments; n++) {
            const tailcut_segment *segment = m->model->segments + stage->first_segment + n;
            for (own = 0; own < segment->channels; own++, channel++) {
                input_row(m, segment, own, channel, y, m->row);
                cosines_of(cosines, size, channel, num_in, factors);
                for (b = 0; b < num_in; b++) {
                    int32_t factor = factors[b], *sum = sums + b * stage->width;
                    for (x = 0; x < stage->width; x++) sum[x] += halved(factor * m->row[x] + half, stage->in_shift);
                }
            }
        }
        made.end = out_row(m, y);
        put(&made, out_row(m, y), sums, num_in * stage->width);
    }
    end_out(m, &made, m->exponent + stage->in_shift - 14);
}

static void average(machine *m) {
    const tailcut_integer_stage *stage = m->stage;
    uint32_t size = (uint32_t)stage->height * stage->width, halves = 0, n, own, x, y, channel = 0;
    block made;
    for (; size % 2 == 0; size /= 2) halves++;
    start_out(m, &made, 1);
    for (n = 0; n < stage->num_segments; n++) {
        const tailcut_segment *segment = m->model->segments + stage->first_segment + n;
        for (own = 0; own < segment->channels; own++, channel++) {
            int32_t sum = 0;
            for (y = 0; y < stage->height; y++) {
                input_row(m, segment, own, channel, y, m->row);
                for (x = 0; x < stage->width; x++) sum += m->row[x];
            }
            sum = divided(sum, size);
            put(&made, out_row(m, 0) + channel * stage->out.channel_stride, &sum, 1);
        }
    }
    end_out(m, &made, m->exponent - (int32_t)halves);
}

static void store(machine *m) {
    const tailcut_integer_stage *stage = m->stage;
    int permutes = TAILCUT_HAS_PERMUTE && stage->kind == TAILCUT_PERMUTE;
    int stores = permutes || (TAILCUT_HAS_STORE && stage->kind == TAILCUT_STORE);
    uint32_t n, own, x, y, channel;
    block made;
    if (stores) start_out(m, &made, permutes);
    for (y = 0; y < stage->height; y++) {
        for (n = 0, channel = 0; n < stage->num_segments; n++) {
            const tailcut_segment *segment = m->model->segments + stage->first_segment + n;
            for (own = 0; own < segment->channels; own++, channel++) {
                input_row(m, segment, own, channel, y, m->row);
                if (stores) {
                    int16_t *into = out_row(m, y) + (size_t)channel * stage->out.channel_stride;
                    if (!permutes) made.end = into;
                    for (x = 0; permutes && x < stage->width; x++) put(&made, into + x * stage->detail, m->row + x, 1);
                    if (!permutes) put(&made, into, m->row, stage->width);
                } else {
                    int16_t *into = m->output + stage->detail;
                    into += ((size_t)channel * stage->height + y) * stage->width;
                    for (x = 0; x < stage->width; x++) {
                        into[x] = (int16_t)(TAILCUT_HAS_UNIT ? limited(m->row[x], INT16_MAX) : m->row[x]);
                    }
                }
            }
        }
    }
    if (stores) {
        end_out(m, &made, m->exponent);
    } else {
        m->exponents[stage->output] = m->exponent;
    }
}

#endif
