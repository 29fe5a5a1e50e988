/* The stages of a network, row by row: nothing as wide as a map of the dense network is ever stored.
 *
 * The included parts have one job each. They are no files of their own for the compiler, since what is called once can
 * then be a part of its caller. */
#include "tailcut_run_norms.h"
#include "tailcut_run_recurrent.h"
#if HAS_PLACES
#include "tailcut_run_attention.h"
#else
#define run_places(m) ((void)(m))
#define is_of_steps(stage) 0
#define multiply_steps(m, weight) ((void)(m))
#endif

/* A row of a channel of the stage's input, where the stage writes it. */
static void store_row(machine *m, const float *row, uint32_t channel, uint32_t y) {
    const tailcut_stage *stage = m->stage;
    uint32_t x;
    if ((!TAILCUT_HAS_MEAN && !HAS_STORE) || stage->kind == TAILCUT_OUTPUT) {
        size_t at = stage->detail + ((size_t)channel * stage->height + y) * stage->width;
        memcpy(m->output + at, row, stage->width * sizeof(float));
    } else if (TAILCUT_HAS_MEAN && (!HAS_STORE || stage->kind == TAILCUT_MEAN)) {
        float *mean = m->arena + stage->out.offset + channel, sum = 0.0f;
        for (x = 0; x < stage->width; x++) sum += row[x];
        *mean = (y == 0 ? 0.0f : *mean) + sum / ((float)stage->height * (float)stage->width);
    } else {
        float *into = m->arena + stage->out.offset + y * stage->out.row_stride;
        into += channel * (size_t)stage->out.channel_stride;
        if (TAILCUT_HAS_PERMUTE && stage->kind == TAILCUT_PERMUTE) {
            for (x = 0; x < stage->width; x++) into[x * stage->detail] = row[x];
        } else {
            memcpy(into, row, stage->width * sizeof(float));
        }
    }
}

static void store(machine *m) {
    const tailcut_stage *stage = m->stage;
    const tailcut_segment *segment;
    uint32_t n, own, num, j, y, channel;
    for (y = 0; y < stage->height; y++) {
        segment = m->model->segments + stage->first_segment;
        spread_leaves(m, y);
        for (n = 0, channel = 0; n < stage->num_segments; n++, segment++) {
            for (own = 0; own < segment->channels; own += num, channel += num) {
                num = at_once(m, segment, own, 1);
                input_rows(m, segment, own, channel, num, y, m->row);
                for (j = 0; j < num; j++) store_row(m, m->row + j * stage->width, channel + j, y);
            }
        }
    }
}

/* ---- batch norm by the input itself ---- */

/* Mean over all positions of (a - mean_a) * (b - mean_b), of two channels; of channel a itself without b. */
static float mean_of(const machine *m, const float *a, const float *b, float mean_a, float mean_b) {
    const tailcut_map *out = &m->stage->out;
    double sum = 0.0;
    uint32_t x, y, k;
    for (y = 0; y < out->height; y++, a += out->row_stride) {
        float parts[NUM_SUMS] = {0};
        for (x = 0; x < out->width; x += k) {
            uint32_t num = out->width - x < NUM_SUMS ? 1 : NUM_SUMS;
            for (k = 0; b == NULL && k < num; k++) parts[k] += a[x + k];
            for (k = 0; b != NULL && k < num; k++) parts[k] += (a[x + k] - mean_a) * (b[x + k] - mean_b);
            k = num;
        }
        for (k = 0; k < NUM_SUMS; k++) sum += (double)parts[k];
        if (b != NULL) b += out->row_stride;
    }
    return (float)(sum / ((double)out->height * out->width));
}

static float covariance_of(const machine *m, uint32_t a, uint32_t b, float mean_a, float mean_b) {
    const float *first = row_of(m, &m->stage->out, 0);
    uint32_t stride = m->stage->out.channel_stride;
    return mean_of(m, first + a * stride, first + b * stride, mean_a, mean_b);
}

/* Scales and shifts that normalise the wide channels, from means and covariances of the narrow ones. */
static void measure(machine *m) {
    const tailcut_stage *stage = m->stage;
    const tailcut_weight *weight = stage->weight == TAILCUT_NONE ? NULL : m->model->weights + stage->weight;
    uint32_t count = stage->out.channels, channels = count, a, b, n;
    float *means = take(m, count), *covariances = NULL, *scales = m->arena + stage->stats;
    const float *cosines = NULL;
    if (weight != NULL && is_narrow_out(weight) && stage->groups == 1) {
        channels = weight->sizes[0];
        cosines = make_cosines(m, channels);
        covariances = take(m, count * count);
    }
    for (a = 0; a < count; a++) {
        means[a] = mean_of(m, row_of(m, &stage->out, 0) + a * stage->out.channel_stride, NULL, 0, 0);
    }
    for (a = 0; a < count && cosines != NULL; a++) {
        for (b = 0; b <= a; b++)
            covariances[a * count + b] = covariances[b * count + a] = covariance_of(m, a, b, means[a], means[b]);
    }
    for (n = 0; n < channels; n++) {
        float mean = 0.0f, variance = 0.0f, scale;
        if (cosines == NULL) {
            mean = means[n];
            variance = covariance_of(m, n, n, mean, mean);
        } else {
            cosines_of(cosines, channels, n, count, m->mix);
            for (a = 0; a < count; a++) {
                float part = 0.0f;
                for (b = 0; b < count; b++) part += covariances[a * count + b] * m->mix[b];
                mean += m->mix[a] * means[a];
                variance += m->mix[a] * part;
            }
        }
        scale = (stage->gamma ? stage->gamma[n] : 1.0f) / root((variance < 0 ? 0.0f : variance) + stage->epsilon);
        scales[n] = scale;
        scales[channels + n] = (stage->beta ? stage->beta[n] : 0.0f) - mean * scale;
    }
}

/* ---- the whole ---- */

#if !TAILCUT_SMALL

/* Whether all maps that a stage reads are of one column, at their place, with channels side by side. */
static int reads_vectors(const machine *m) {
    const tailcut_stage *stage = m->stage;
    const tailcut_leaf *leaf = m->model->leaves + stage->first_leaf, *end = leaf + stage->num_leaves;
    int found = stage->resample == TAILCUT_AS_IT_IS && stage->source_width == 1;
    for (; leaf < end; leaf++) {
        found = found && leaf->up == TAILCUT_NONE && leaf->height == stage->source_height && leaf->width == 1;
        found = found && leaf->top == 0 && leaf->left == 0 && leaf->map.channel_stride == 1;
    }
    return found;
}

#endif

static void run_stage(machine *m) {
    const tailcut_stage *stage = m->stage;
    const tailcut_weight *weight =
        stage->weight == TAILCUT_NONE || is_of_places(stage) ? NULL : m->model->weights + stage->weight;
    float *start = m->scratch, *own;
    int is_narrow = weight != NULL && weight->is_truncated && is_narrow_in(weight);
    /* Those that project rows, four channels at a time. */
    int projects = is_narrow && stage->groups == 1 && stage->kind != TAILCUT_FLAT && stage->kind != TAILCUT_WHOLE;
    uint32_t rows = projects ? 4 : 1;
#if !TAILCUT_SMALL
    m->is_vector = reads_vectors(m);
    if (is_narrow && stage->kind == TAILCUT_WHOLE) rows = 4;
    if (m->is_vector) rows = VECTOR;
#endif
    m->mix = take(m, stage->mix);
    m->stack = take(m, rows * stage->depth * stage->source_width);
    m->before = take(m, stage->resample == TAILCUT_AS_IT_IS ? 0 : 2 * rows * stage->source_width);
    m->row = take(m, rows * stage->width);
    if (projects) m->in_mix = take(m, 4u * weight->corner[1]);
    start_leaves(m);
    m->in_cosines = NULL;
    m->first = 0;
    if (is_narrow && IS_GROUPED(stage->groups)) {
        if (is_making(m)) m->in_cosines = make_cosines(m, weight->sizes[1]);
    } else if (is_narrow) {
        m->in_cosines = start_cosines(m, weight->sizes[1], weight->corner[1], 0);
    }
    own = m->scratch;
    if (weight != NULL) start_weight(m, weight);
#if !TAILCUT_SMALL
    if (!is_running(m)) {
        if (TAILCUT_HAS_WHOLE && stage->kind == TAILCUT_WHOLE) multiply_whole(m, weight);
        if (is_recurrent(stage)) recur(m);
        if (is_of_places(stage)) run_places(m);
        m->scratch = start;
        return;
    }
#endif
    switch (stage->kind) {
        case TAILCUT_CONV:
            if (is_of_steps(stage)) {
                multiply_steps(m, weight);
            } else if (TAILCUT_HAS_CONV) {
                convolve(m, weight);
            }
            while (TAILCUT_HAS_PARTS && m->end < stage->out.channels) {
                m->first = m->end;
                m->scratch = own;
                start_weight(m, weight);
                if (is_of_steps(stage)) {
                    multiply_steps(m, weight);
                } else {
                    convolve(m, weight);
                }
            }
            break;
        case TAILCUT_CONV_TRANSPOSED:
            if (TAILCUT_HAS_CONV_TRANSPOSED) convolve_transposed(m, weight);
            break;
        case TAILCUT_FLAT:
            if (TAILCUT_HAS_FLAT) multiply_flat(m, weight);
            break;
        case TAILCUT_WHOLE:
            if (TAILCUT_HAS_WHOLE) multiply_whole(m, weight);
            break;
        case TAILCUT_PROJECT: {
            uint32_t y;
            for (y = 0; TAILCUT_HAS_PROJECT && y < stage->height; y++) {
                project_row(m, weight, y, m->arena + stage->out.offset + y * stage->out.row_stride);
            }
            break;
        }
        default:
            if (is_recurrent(stage)) {
                recur(m);
                break;
            }
            store(m);
            if (is_softmax(stage)) soften(m);
            if (is_norm(stage)) normalize(m);
            if (is_of_places(stage)) run_places(m);
    }
    m->scratch = start;
    if (TAILCUT_HAS_STATS && stage->stats != TAILCUT_NONE) {
        m->mix = take(m, stage->mix);
        measure(m);
        m->scratch = start;
    }
}

static tailcut_status run(machine *m, const tailcut_model *model, const float *input, float *output, void *arena) {
    uint32_t n;
    if (model == NULL || input == NULL || output == NULL || arena == NULL) return TAILCUT_BAD_ARGUMENT;
    if (((uintptr_t)arena | (uintptr_t)input | (uintptr_t)output) % sizeof(float) != 0) return TAILCUT_BAD_ARGUMENT;
    m->model = model;
    m->input = input;
    m->output = output;
    m->arena = arena;
    for (n = 0; n < model->num_stages; n++) {
        m->stage = model->stages + n;
        m->scratch = m->arena + m->stage->scratch;
        run_stage(m);
    }
    return TAILCUT_OK;
}

tailcut_status tailcut_run(const tailcut_model *model, const float *input, float *output, void *arena) {
    machine m;
#if !TAILCUT_SMALL
    m.prepared = NULL;
    m.way = PREPARED_READ;
#endif
    return run(&m, model, input, output, arena);
}

#if !TAILCUT_SMALL

tailcut_status tailcut_prepare(const tailcut_model *model, void *prepared, size_t prepared_bytes, void *arena) {
    machine m;
    tailcut_status status;
    if (prepared == NULL || (uintptr_t)prepared % sizeof(float) != 0) return TAILCUT_BAD_ARGUMENT;
    m.prepared = prepared;
    m.kept = HEAD_FLOATS;
    m.way = PREPARED_COUNT;
    status = run(&m, model, prepared, prepared, arena); /* which reads no input */
    if (status != TAILCUT_OK) return status;
    if (m.kept * sizeof(float) > prepared_bytes) return TAILCUT_ARENA_TOO_SMALL;
    m.kept = HEAD_FLOATS;
    m.way = PREPARED_MAKE;
    status = run(&m, model, prepared, prepared, arena);
    memset(prepared, 0, HEAD_FLOATS * sizeof(float));
    memcpy(prepared, &model, sizeof model);
    return status;
}

tailcut_status tailcut_run_prepared(const tailcut_model *model, const void *prepared, const float *input,
                                    float *output, void *arena) {
    machine m;
    const tailcut_model *owner;
    if (prepared == NULL || (uintptr_t)prepared % sizeof(float) != 0) return TAILCUT_BAD_ARGUMENT;
    memcpy(&owner, prepared, sizeof owner);
    if (owner != model) return TAILCUT_BAD_ARGUMENT;
    m.prepared = (float *)(uintptr_t)prepared; /* which is read only */
    m.kept = HEAD_FLOATS;
    m.way = PREPARED_READ;
    return run(&m, model, input, output, arena);
}

#endif
