/* Softmax and norms of maps that are stored. A part of tailcut_run.c. */
#ifndef TAILCUT_RUN_NORMS_H
#define TAILCUT_RUN_NORMS_H

#include "tailcut_run_linear.h"

#define IS(name, stage) (TAILCUT_HAS_##name && (stage)->kind == TAILCUT_##name)
#define is_softmax(stage) (IS(SOFTMAX, stage) || IS(LOG_SOFTMAX, stage) || IS(SOFTMAX_OF_PLACES, stage))
#define is_norm(stage) (IS(LAYER_NORM, stage) || IS(RMS_NORM, stage) || IS(GROUP_NORM, stage))

/* Softmax of `count` numbers, or its logarithm. */
static void soften_numbers(float *at, uint32_t count, size_t stride, int is_log) {
    float most = at[0], sum = 0.0f;
    uint32_t n;
    for (n = 1; n < count; n++) most = at[n * stride] > most ? at[n * stride] : most;
    for (n = 0; n < count; n++) {
        float power = exponential(at[n * stride] - most);
        sum += power;
        if (!is_log) at[n * stride] = power;
    }
    if (is_log) most += logarithm(sum);
    for (n = 0; n < count; n++) at[n * stride] = is_log ? at[n * stride] - most : at[n * stride] / sum;
}

/* Softmax of the channels of each place, or of all places (a row or a column) of each channel. */
static void soften(machine *m) {
    const tailcut_map *out = &m->stage->out;
    float *first = m->arena + out->offset;
    uint32_t x, y, n;
    if (IS(SOFTMAX_OF_PLACES, m->stage)) {
        uint32_t stride = out->width > 1 ? 1 : out->row_stride;
        for (n = 0; n < out->channels; n++, first += out->channel_stride)
            soften_numbers(first, (uint32_t)out->width * out->height, stride, 0);
        return;
    }
    for (y = 0; y < out->height; y++, first += out->row_stride) {
        for (x = 0; x < out->width; x++)
            soften_numbers(first + x, out->channels, out->channel_stride, IS(LOG_SOFTMAX, m->stage));
    }
}

/* Give numbers of some channels, rows and columns mean 0 and mean square 1; the latter alone with `is_rms`. */
static void normalize_numbers(const machine *m, float *first, uint32_t channels, uint32_t rows, uint32_t columns,
                              int is_rms) {
    const tailcut_map *out = &m->stage->out;
    float count = (float)channels * (float)rows * (float)columns, mean = 0.0f, scale = 1.0f;
    int pass;
    uint32_t n, y, x;
    for (pass = is_rms; pass < 3; pass++) { /* for the mean, the mean square, the numbers */
        float sum = 0.0f;
        for (n = 0; n < channels; n++) {
            for (y = 0; y < rows; y++) {
                float *at = first + n * (size_t)out->channel_stride + y * (size_t)out->row_stride, part = 0.0f;
                for (x = 0; x < columns; x++) {
                    float value = at[x] - mean;
                    part += pass == 1 ? value * value : value;
                    if (pass == 2) at[x] = value * scale;
                }
                sum += part;
            }
        }
        if (pass == 0) mean = sum / count;
        if (pass == 1) scale = 1.0f / root(sum / count + m->stage->epsilon);
    }
}

/* The channels of each place, or groups of channels in all places. */
static void normalize(machine *m) {
    const tailcut_map *out = &m->stage->out;
    float *first = m->arena + out->offset;
    uint32_t x, y, n;
    if (IS(GROUP_NORM, m->stage)) {
        uint32_t channels = out->channels / m->stage->groups;
        for (n = 0; n < m->stage->groups; n++, first += channels * (size_t)out->channel_stride)
            normalize_numbers(m, first, channels, out->height, out->width, 0);
        return;
    }
    for (y = 0; y < out->height; y++, first += out->row_stride) {
        for (x = 0; x < out->width; x++)
            normalize_numbers(m, first + x, out->channels, 1, 1, IS(RMS_NORM, m->stage));
    }
}

#endif
