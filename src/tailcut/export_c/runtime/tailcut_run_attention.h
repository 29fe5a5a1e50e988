/* Attention between the tokens of a sequence, and numbers that are added to each place. A part of tailcut_run.c. */
#ifndef TAILCUT_RUN_ATTENTION_H
#define TAILCUT_RUN_ATTENTION_H

#include "tailcut_run_recurrent.h"

/* Add the numbers of a table to the rows of the map that the stage has stored. */
static void add_table(machine *m, const matrix *table) {
    const tailcut_stage *stage = m->stage;
    const tailcut_weight *weight = table->weight;
    uint32_t num_out = weight->corner[0], num_in = weight->corner[1], y, n, a;
    uint32_t count = (uint32_t)weight->sizes[1] * weight->sizes[3];
    float *line = weight->is_truncated ? take(m, num_in) : NULL;
    for (y = 0; y < weight->sizes[0]; y++) {
        float *row = m->arena + stage->out.offset + (y + stage->detail) * stage->out.row_stride;
        const float *from = table->core == NULL ? NULL : table->core + (size_t)y * count;
        if (!weight->is_truncated) {
            for (n = 0; n < count; n++)
                row[n] += from ? from[n] : weight->array.step * number(&weight->array, y * count + n);
            continue;
        }
        from = table->core + (size_t)y * num_in;
        if (table->out_cosines != NULL) {
            const float *mix = factors_of(m, table->out_cosines, weight->sizes[0], y, num_out, m->mix);
            clear(line, num_in);
            for (a = 0; a < num_out; a++) {
                for (n = 0; n < num_in; n++) line[n] += mix[a] * table->core[(size_t)a * num_in + n];
            }
            from = line;
        }
        for (n = 0; n < count; n++) {
            if (table->in_cosines != NULL) {
                const float *mix = factors_of(m, table->in_cosines, weight->sizes[1], n, num_in, m->mix);
                for (a = 0; a < num_in; a++) row[n] += mix[a] * from[a];
            } else {
                row[n] += from[n];
            }
        }
    }
}

#if !TAILCUT_SMALL && defined(__GNUC__) && (defined(__SSE2__) || defined(__ARM_NEON) || defined(__wasm_simd128__))
#define HAS_LANES 1
#else
#define HAS_LANES 0
#endif

#if HAS_LANES

/* Numbers that the processor multiplies together; the compiler makes of them what vectors it has. */
#define LANES 8
typedef float lanes __attribute__((vector_size(4 * LANES)));

static float sum_of_lanes(const lanes *sum) {
    float s[LANES];
    memcpy(s, sum, sizeof s);
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

/* The sum of a[n] * b[n]. */
static float product(const float *a, const float *b, uint32_t count) {
    lanes sum = {0}, u, v;
    uint32_t n;
    float total;
    for (n = 0; n + LANES <= count; n += LANES) {
        memcpy(&u, a + n, sizeof u);
        memcpy(&v, b + n, sizeof v);
        sum += u * v;
    }
    total = sum_of_lanes(&sum);
    for (; n < count; n++) total += a[n] * b[n];
    return total;
}

/* As four calls of `product`: the processor need not wait for one sum to go on with the next. */
static void four_products(const float *a, size_t stride, const float *b, uint32_t count, float *into, size_t step) {
    const float *a1 = a + stride, *a2 = a1 + stride, *a3 = a2 + stride;
    lanes l0 = {0}, l1 = {0}, l2 = {0}, l3 = {0}, u0, u1, u2, u3, v;
    uint32_t n;
    float s0, s1, s2, s3;
    for (n = 0; n + LANES <= count; n += LANES) {
        memcpy(&v, b + n, sizeof v);
        memcpy(&u0, a + n, sizeof u0);
        memcpy(&u1, a1 + n, sizeof u1);
        memcpy(&u2, a2 + n, sizeof u2);
        memcpy(&u3, a3 + n, sizeof u3);
        l0 += u0 * v;
        l1 += u1 * v;
        l2 += u2 * v;
        l3 += u3 * v;
    }
    s0 = sum_of_lanes(&l0);
    s1 = sum_of_lanes(&l1);
    s2 = sum_of_lanes(&l2);
    s3 = sum_of_lanes(&l3);
    for (; n < count; n++) {
        s0 += a[n] * b[n];
        s1 += a1[n] * b[n];
        s2 += a2[n] * b[n];
        s3 += a3[n] * b[n];
    }
    into[0] = s0;
    into[step] = s1;
    into[2 * step] = s2;
    into[3 * step] = s3;
}

#else

/* The sum of a[n] * b[n]. */
static float product(const float *a, const float *b, uint32_t count) {
    float sum = 0.0f;
    uint32_t n;
    for (n = 0; n < count; n++) sum += a[n] * b[n];
    return sum;
}

#endif

/* into[j * step] = the sum of a[j * stride + n] * b[n], for `num` rows j. */
static void multiply_rows(const float *a, size_t stride, uint32_t num, const float *b, uint32_t count, float *into,
                          size_t step) {
#if HAS_LANES
    for (; num >= 4; num -= 4, a += 4 * stride, into += 4 * step) four_products(a, stride, b, count, into, step);
#endif
    for (; num > 0; num--, a += stride, into += step) *into = product(a, b, count);
}

/* Whether a convolution is a linear layer over a sequence of one column, one step after the other. */
static int is_of_steps(const tailcut_stage *stage) {
    return stage->groups == 1 && stage->width == 1 && stage->kernel[0] == 1 && stage->kernel[1] == 1 &&
           stage->stride[0] == 1 && stage->padding[0] == 0 && stage->padding[1] == 0 && !is_pooled(stage);
}

/* As `convolve`, of such a layer. */
static void multiply_steps(machine *m, const tailcut_weight *weight) {
    const tailcut_stage *stage = m->stage;
    uint32_t num_in = weight->corner[1], y, a;
    float *row = take(m, num_in);
    for (y = 0; y < stage->height; y++) {
        float *out = m->arena + stage->out.offset + y * stage->out.row_stride;
        project_row(m, weight, y, row);
        if (m->core != NULL) {
            multiply_rows(core_of(m, weight, m->first), num_in, m->end - m->first, row, num_in,
                          out + m->first * stage->out.channel_stride, stage->out.channel_stride);
            continue;
        }
        for (a = m->first; a < m->end; a++) {
            out[a * stage->out.channel_stride] = product(core_of(m, weight, a), row, num_in);
        }
    }
}

/* What each token makes of all, in the place of its queries: its channels are queries, keys and values, of all heads
 * one behind the other; queries take as many channels as values do if these are more. */
static void attend(machine *m, const matrix *mask) {
    const tailcut_stage *stage = m->stage;
    const tailcut_map *out = &stage->out;
    uint32_t tokens = out->height, keys = stage->detail, rest = out->channels - keys;
    uint32_t values = rest - keys > keys ? rest / 2 : rest - keys, size = keys / stage->groups;
    uint32_t wide = values / stage->groups, t, h, n, j;
    float *row = m->arena + out->offset, *scores = take(m, tokens), *mixed = take(m, values);
    const float *first_key = row + (rest - values), *first_value = first_key + keys;
    for (t = 0; t < tokens; t++, row += out->row_stride) {
        uint32_t count = stage->is_reversed ? t + 1 : tokens;
        clear(mixed, values);
        for (h = 0; h < stage->groups; h++) {
            const float *value = first_value + h * wide;
            float *into = mixed + h * wide;
            const float *key = first_key + h * size;
            multiply_rows(key, out->row_stride, count, row + h * size, size, scores, 1);
            if (mask->weight != NULL) {
                size_t place = ((mask->weight->sizes[0] > tokens ? h * tokens : 0) + t) * (size_t)tokens;
                for (n = 0; n < count; n++, place++) {
                    scores[n] += mask->core ? mask->core[place]
                                            : mask->weight->array.step * number(&mask->weight->array, (uint32_t)place);
                }
            }
            soften_numbers(scores, count, 1, 0);
            for (n = 0; n < count; n++, value += out->row_stride) {
                for (j = 0; j < wide; j++) into[j] += scores[n] * value[j];
            }
        }
        memcpy(row, mixed, values * sizeof *mixed);
    }
}

static void run_places(machine *m) {
    matrix table = {NULL, NULL, NULL, NULL};
    if (m->stage->weight != TAILCUT_NONE) table = start_matrix(m, m->model->weights + m->stage->weight);
#if !TAILCUT_SMALL
    if (!is_running(m)) return;
#endif
    if (IS(TABLE, m->stage)) add_table(m, &table);
    if (IS(ATTENTION, m->stage)) attend(m, &table);
}

#endif
