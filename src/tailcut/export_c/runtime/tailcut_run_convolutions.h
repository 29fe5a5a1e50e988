/* Convolutions, transposed ones too. A part of tailcut_run.c. */
#ifndef TAILCUT_RUN_CONVOLUTIONS_H
#define TAILCUT_RUN_CONVOLUTIONS_H

#include "tailcut_run_expressions.h"

/* How many channels of a segment from `own` on are read at once: `usual` ones, or more where they have one number. */
static uint32_t at_once(const machine *m, const tailcut_segment *segment, uint32_t own, uint32_t usual) {
    uint32_t most = segment->channels - own;
    if (!is_vector(m)) return most < usual ? 1 : usual;
    return most < VECTOR ? most : VECTOR;
}

/* Factors of some channels from `first` on, one after the other. */
static const float *ready_factors(const machine *m, uint32_t first, uint32_t num_in) {
    return is_prepared(m) ? m->in_cosines + first * num_in : m->in_mix;
}

/* Row y of what the layer reads, (num_in, width): all channels, or their projection on its cosines. */
static void project_row(machine *m, const tailcut_weight *weight, uint32_t y, float *into) {
    const tailcut_stage *stage = m->stage;
    const tailcut_segment *segment = m->model->segments + stage->first_segment;
    const tailcut_segment *last = segment + stage->num_segments;
    uint32_t n, own, num, channel = 0, num_in = weight->corner[1], ready = 0;
    spread_leaves(m, y);
    if (m->in_cosines != NULL) clear(into, num_in * stage->width);
    for (; segment < last; segment++) {
        for (own = 0; own < segment->channels; own += num, channel += num) {
            num = 1;
            if (m->in_cosines == NULL) {
                num = at_once(m, segment, own, 1);
                input_rows(m, segment, own, channel, num, y, into + channel * (size_t)stage->width);
                continue;
            }
            /* Four channels are made, then projected together, so that `into` is touched less. */
            if (!TAILCUT_SMALL && ready == 0 && own + 4 <= segment->channels) num = 4;
            input_rows(m, segment, own, channel, num, y, m->row + ready * (size_t)stage->width);
            for (n = 0; n < num; n++, ready++) {
                if (is_prepared(m)) continue;
                cosines_of(m->in_cosines, stage->channels, channel + n, num_in, m->in_mix + ready * num_in);
            }
            if (ready == 4) {
                spread_rows(into, num_in, ready_factors(m, channel + num - 4, num_in), m->row, ready, stage->width);
                ready = 0;
            }
        }
    }
    if (ready > 0) {
        spread_rows(into, num_in, ready_factors(m, channel - ready, num_in), m->row, ready, stage->width);
    }
}

/* One tap of a convolution: row[x] += factor * from[x * stride + shift], where that is there. */
static void add_tap(float *row, uint32_t num, const float *from, uint32_t width, float factor, uint32_t stride,
                    int32_t shift) {
    uint32_t x = shift < 0 ? ((uint32_t)-shift + stride - 1) / stride : 0, end = num;
    int32_t last = (int32_t)width - 1 - shift; /* x * stride at most */
    if (factor == 0.0f || last < 0) return;
    if ((uint32_t)last / stride + 1 < end) end = (uint32_t)last / stride + 1;
    if (stride == 1) {
        from += shift;
        for (; x < end; x++) row[x] += factor * from[x];
    } else {
        for (; x < end; x++) row[x] += factor * from[(int32_t)(x * stride) + shift];
    }
}

/* Three taps side by side, of a row and its two neighbours' places, where both maps have the same width. */
static void add_three_taps(float *row, const float *from, uint32_t width, const float *core) {
    float f0 = core[0], f1 = core[1], f2 = core[2];
    uint32_t x;
    row[0] += f1 * from[0];
    if (width == 1) return;
    row[0] += f2 * from[1];
    for (x = 1; x + 1 < width; x++) row[x] += f0 * from[x - 1] + f1 * from[x] + f2 * from[x + 1];
    row[x] += f0 * from[x - 1] + f1 * from[x];
}

/* One tap of a transposed convolution: row[x * stride + shift] += factor * from[x], where that is there. */
static void add_spread_tap(float *row, uint32_t num, const float *from, uint32_t width, float factor, uint32_t stride,
                           int32_t shift) {
    uint32_t x = shift < 0 ? ((uint32_t)-shift + stride - 1) / stride : 0;
    int32_t last = (int32_t)num - 1 - shift;
    if (last < 0) return;
    if ((uint32_t)last / stride + 1 < width) width = (uint32_t)last / stride + 1;
    for (; x < width; x++) row[(int32_t)(x * stride) + shift] += factor * from[x];
}

#if !TAILCUT_SMALL

/* Whether the taps of a row are summed four at a time, not the input channels of a tap: no zeros are around the map. */
static int sums_columns(const tailcut_stage *stage, const tailcut_weight *weight) {
    return stage->kind == TAILCUT_CONV && stage->kernel[1] > weight->corner[1] && stage->padding[1] == 0 &&
           stage->dilation[1] == 1;
}

/* Whether `four_outputs` and `four_spread` pay: below three input channels they would mostly multiply zeros. Not where
 * dense weights are decoded output by output, nor where these are prepared, since sums shall be the same. */
static int pays_for_four(const machine *m, const tailcut_weight *weight) {
    int has_core = weight->is_truncated || weight->array.type == TAILCUT_FLOAT32;
    return has_core && m->stage->groups == 1 && (weight->corner[1] > 2 || sums_columns(m->stage, weight));
}

/* One row of four outputs of a convolution from `a` on: all input channels of one tap after the other, or all taps of a
 * row of one channel. */
static void four_outputs(machine *m, const tailcut_weight *weight, const float *ring, int32_t first, uint32_t a,
                         float *row) {
    const tailcut_stage *stage = m->stage;
    uint32_t columns = stage->kernel[1], taps = stage->kernel[0] * columns, num_in = weight->corner[1], b, j, dy, dx;
    uint32_t span = (stage->kernel[0] - 1u) * stage->dilation[0] + 1;
    const float *core = core_of(m, weight, a);
    for (j = 0; j < 4; j++) clear(row + j * stage->out.channel_stride, stage->out.width);
    for (dy = 0; dy < stage->kernel[0]; dy++) {
        int32_t from = first + (int32_t)(dy * stage->dilation[0]);
        const float *source = ring + (uint32_t)from % span * num_in * (size_t)stage->width;
        if (from < 0 || from >= stage->height) continue;
        for (b = 0; sums_columns(stage, weight) && b < num_in; b++) {
            multiply_four(row, stage->out.channel_stride, source + b * (size_t)stage->width, 1, columns,
                          core + b * taps + dy * columns, num_in * taps, 1, stage->out.width);
        }
        for (dx = 0; !sums_columns(stage, weight) && dx < columns; dx++) {
            int32_t shift = (int32_t)(dx * stage->dilation[1]) - stage->padding[1];
            int32_t x = shift < 0 ? -shift : 0, end = stage->width - shift;
            if (end > stage->out.width) end = stage->out.width;
            if (x >= end) continue;
            multiply_four(row + x, stage->out.channel_stride, source + (x + shift), stage->width, num_in,
                          core + dy * columns + dx, num_in * taps, taps, (uint32_t)(end - x));
        }
    }
}

/* One row of what a tap of a transposed convolution adds to four outputs; `made` has four rows for itself. */
static void four_spread(const tailcut_stage *stage, const float *source, uint32_t num_in, const float *core,
                        int32_t shift, float *made, float *row) {
    uint32_t taps = (uint32_t)stage->kernel[0] * stage->kernel[1], j;
    clear(made, 4u * stage->width);
    multiply_four(made, stage->width, source, stage->width, num_in, core, num_in * taps, taps, stage->width);
    for (j = 0; j < 4; j++, made += stage->width, row += stage->out.channel_stride) {
        add_spread_tap(row, stage->out.width, made, stage->width, 1.0f, stage->stride[1], shift);
    }
}

/* As `four_spread`, for one output; `m->row` and `m->mix` are free. */
static void one_spread(machine *m, const float *source, uint32_t num_in, const float *core, int32_t shift,
                       float *row) {
    const tailcut_stage *stage = m->stage;
    uint32_t taps = (uint32_t)stage->kernel[0] * stage->kernel[1], b;
    for (b = 0; b < num_in; b++) m->mix[b] = core[b * taps];
    combine(m->row, source, stage->width, m->mix, num_in, stage->width, 0.0f, &unbounded);
    add_spread_tap(row, stage->out.width, m->row, stage->width, 1.0f, stage->stride[1], shift);
}

/* Which four outputs are made together next, `a` the first that is not yet made: the last ones of a part may be made
 * twice. Behind `a` if the part has fewer than four. */
static uint32_t four_from(const machine *m, uint32_t a) {
    uint32_t part = m->stage->part, begin = a - a % part, end = begin + part;
    if (end > m->stage->out.channels) end = m->stage->out.channels;
    if (end - begin < 4) return a + 1;
    return a + 4 <= end ? a : end - 4;
}

#endif

/* into[x] = the largest of itself, unless it is new, and of `count` numbers of a row. */
static void add_to_largest(float *into, const float *row, uint32_t width, uint32_t count, int is_new) {
    uint32_t x, dx;
    for (x = 0; x < width; x++) {
        float most = is_new ? row[0] : into[x];
        for (dx = 0; dx < count; dx++, row++) most = *row > most ? *row : most;
        into[x] = most;
    }
}

static void convolve(machine *m, const tailcut_weight *weight) {
    const tailcut_stage *stage = m->stage;
    uint32_t rows = stage->kernel[0], columns = stage->kernel[1], groups = stage->groups;
    uint32_t span = (rows - 1u) * stage->dilation[0] + 1,
             num_in = IS_GROUPED(groups) ? stage->channels : weight->corner[1];
    uint32_t made = 0, y, a, b, dy, dx, per_group = stage->out.channels / groups, inner = num_in / groups;
    uint32_t pool = is_pooled(stage) ? stage->out_pool[0] : 1;
    uint32_t width = is_pooled(stage) ? (uint32_t)stage->out.width * stage->out_pool[1] : stage->out.width;
    float *ring = take(m, span * num_in * stage->width), *own = NULL, *wide = is_pooled(stage) ? take(m, width) : NULL;
    int is_three = TAILCUT_HAS_THREE_COLUMNS && columns == 3 && stage->stride[1] == 1 && stage->padding[1] == 1 &&
                   stage->dilation[1] == 1;
    const float *out_cosines = NULL;
    if (IS_GROUPED(groups) && weight->is_truncated) {
        own = take(m, (uint32_t)weight->sizes[1] * rows * columns);
        if (is_narrow_out(weight)) out_cosines = make_cosines(m, weight->sizes[0]);
    }
    for (y = 0; y < stage->out.height * pool; y++) {
        int32_t first = (int32_t)(y * stage->stride[0]) - stage->padding[0];
        for (; made < stage->height && (int32_t)made < first + (int32_t)span; made++) {
            const float *cosines = m->in_cosines;
            if (IS_GROUPED(groups)) m->in_cosines = NULL; /* all channels as they are */
            project_row(m, weight, made, ring + made % span * (size_t)num_in * stage->width);
            m->in_cosines = cosines;
        }
        for (a = m->first; a < m->end; a++) {
            float *into = m->arena + stage->out.offset + y / pool * stage->out.row_stride +
                          a * stage->out.channel_stride;
            float *row = is_pooled(stage) ? wide : into;
#if !TAILCUT_SMALL
            if (row == into && stage->stride[1] == 1 && pays_for_four(m, weight)) {
                uint32_t from = four_from(m, a);
                if (from <= a) {
                    four_outputs(m, weight, ring, first, from, row - (a - from) * (size_t)stage->out.channel_stride);
                    a = from + 3;
                    continue;
                }
            }
#endif
            const float *core =
                IS_GROUPED(groups) ? grouped_weights(m, weight, a, out_cosines, own) : core_of(m, weight, a);
            uint32_t group = a / per_group * inner;
            clear(row, width);
            for (b = 0; b < inner; b++) {
                for (dy = 0; dy < rows; dy++, core += columns) {
                    int32_t from = first + (int32_t)(dy * stage->dilation[0]);
                    const float *source = ring + (((uint32_t)from % span) * num_in + group + b) * (size_t)stage->width;
                    if (from < 0 || from >= stage->height) continue;
                    if (is_three) {
                        add_three_taps(row, source, stage->width, core);
                        continue;
                    }
                    for (dx = 0; dx < columns; dx++) {
                        int32_t shift = (int32_t)(dx * stage->dilation[1]) - stage->padding[1];
                        add_tap(row, width, source, stage->width, core[dx], stage->stride[1], shift);
                    }
                }
            }
            if (is_pooled(stage)) add_to_largest(into, row, stage->out.width, stage->out_pool[1], y % pool == 0);
        }
    }
}

static void convolve_transposed(machine *m, const tailcut_weight *weight) {
    const tailcut_stage *stage = m->stage;
    uint32_t rows = stage->kernel[0], columns = stage->kernel[1], num_in = weight->corner[1];
    uint32_t span = (rows - 1u) * stage->dilation[0] / stage->stride[0] + 1, made = 0, y, a, b, dy, dx, num;
    float *ring = take(m, span * num_in * stage->width);
    for (y = 0; y < stage->out.height; y++) {
        for (; made < stage->height && made * stage->stride[0] <= y + stage->padding[0]; made++) {
            project_row(m, weight, made, ring + made % span * (size_t)num_in * stage->width);
        }
        for (a = 0; a < stage->out.channels; a += num) {
            float *row;
            const float *core;
            num = 1;
#if !TAILCUT_SMALL
            if (m->in_cosines != NULL && pays_for_four(m, weight) && four_from(m, a) <= a) {
                num = 4;
                a = four_from(m, a);
            }
#endif
            row = m->arena + stage->out.offset + y * stage->out.row_stride + a * stage->out.channel_stride;
            core = core_of(m, weight, a);
            for (b = 0; b < num; b++) clear(row + b * stage->out.channel_stride, stage->out.width);
            for (dy = 0; dy < rows; dy++) {
                int32_t at = (int32_t)(y + stage->padding[0]) - (int32_t)(dy * stage->dilation[0]);
                uint32_t from = (uint32_t)at / stage->stride[0];
                const float *source = ring + from % span * num_in * (size_t)stage->width;
                if (at < 0 || (uint32_t)at % stage->stride[0] != 0 || from >= stage->height) continue;
                for (dx = 0; dx < columns; dx++) {
                    int32_t shift = (int32_t)(dx * stage->dilation[1]) - stage->padding[1];
                    const float *tap = core + dy * columns + dx;
#if !TAILCUT_SMALL
                    if (num == 4) {
                        four_spread(stage, source, num_in, tap, shift, m->row, row);
                        continue;
                    }
                    if (m->in_cosines != NULL) {
                        one_spread(m, source, num_in, tap, shift, row);
                        continue;
                    }
#endif
                    for (b = 0; b < num_in; b++, tap += rows * columns) {
                        add_spread_tap(row, stage->out.width, source + b * (size_t)stage->width, stage->width, *tap,
                                       stage->stride[1], shift);
                    }
                }
            }
        }
    }
}

#endif
