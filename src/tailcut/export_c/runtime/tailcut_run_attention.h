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

/* The sum of a[n] * b[n]. */
static float product(const float *a, const float *b, uint32_t count) {
    float sum = 0.0f;
    uint32_t n = 0, k;
#if !TAILCUT_SMALL
    float parts[4] = {0};
    for (; n + 4 <= count; n += 4) {
        for (k = 0; k < 4; k++) parts[k] += a[n + k] * b[n + k];
    }
    for (k = 0; k < 4; k++) sum += parts[k];
#else
    (void)k;
#endif
    for (; n < count; n++) sum += a[n] * b[n];
    return sum;
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
            for (n = 0; n < count; n++, key += out->row_stride) scores[n] = product(row + h * size, key, size);
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
