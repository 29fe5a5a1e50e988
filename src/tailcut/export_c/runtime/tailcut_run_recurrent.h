/* Recurrent layers: GRU, LSTM and plain ones, one step of the sequence after the other. A part of tailcut_run.c. */
#ifndef TAILCUT_RUN_RECURRENT_H
#define TAILCUT_RUN_RECURRENT_H

#include "tailcut_run_norms.h"

#define HAS_RECURRENT (TAILCUT_HAS_GRU || TAILCUT_HAS_LSTM || TAILCUT_HAS_RNN_TANH || TAILCUT_HAS_RNN_RELU)
#define is_recurrent(stage) (HAS_RECURRENT && (stage)->kind >= TAILCUT_GRU && !is_of_places(stage))
#define is_of_places(stage) (HAS_PLACES && (stage)->kind >= TAILCUT_TABLE)

/* A weight that vectors are multiplied by. */
typedef struct {
    const tailcut_weight *weight;
    const float *core; /* NULL where dense numbers are decoded one by one */
    const float *in_cosines;
    const float *out_cosines;
} matrix;

static matrix start_matrix(machine *m, const tailcut_weight *weight) {
    matrix made = {weight, NULL, NULL, NULL};
    if (TAILCUT_HAS_TRUNCATED && (!TAILCUT_HAS_DENSE || weight->is_truncated)) {
        made.core = make_core(m, weight, 0, weight->corner[0], 0);
        if (is_narrow_in(weight)) made.in_cosines = start_cosines(m, weight->sizes[1], weight->corner[1], 0);
        if (is_narrow_out(weight)) made.out_cosines = start_cosines(m, weight->sizes[0], weight->corner[0], 0);
    } else if (weight->array.type == TAILCUT_FLOAT32) {
        made.core = weight->array.numbers;
#if !TAILCUT_SMALL && TAILCUT_HAS_DENSE
    } else if (is_prepared(m)) {
        made.core = prepare_dense(m, &weight->array);
#endif
    }
    return made;
}

/* into += matrix * vector. */
static void add_product(machine *m, const matrix *by, const float *vector, float *into) {
    const tailcut_weight *weight = by->weight;
    uint32_t num_out = weight->corner[0], num_in = weight->corner[1], a, b, n;
    float *start = m->scratch, *sums = into;
    if (by->in_cosines != NULL) {
        float *narrow = take(m, num_in);
        clear(narrow, num_in);
        for (n = 0; n < weight->sizes[1]; n++) {
            const float *mix = factors_of(m, by->in_cosines, weight->sizes[1], n, num_in, m->mix);
            for (b = 0; b < num_in; b++) narrow[b] += mix[b] * vector[n];
        }
        vector = narrow;
    }
    if (by->out_cosines != NULL) {
        sums = take(m, num_out);
        clear(sums, num_out);
    }
    for (a = 0; a < num_out; a++) {
        float sum = 0.0f;
        if (by->core != NULL) {
            const float *factors = by->core + (size_t)a * num_in;
            for (b = 0; b < num_in; b++) sum += factors[b] * vector[b];
        } else {
            for (b = 0; b < num_in; b++) sum += number(&weight->array, a * num_in + b) * vector[b];
            sum *= weight->array.step;
        }
        sums[a] += sum;
    }
    for (n = 0; by->out_cosines != NULL && n < weight->sizes[0]; n++) {
        const float *mix = factors_of(m, by->out_cosines, weight->sizes[0], n, num_out, m->mix);
        for (a = 0; a < num_out; a++) into[n] += mix[a] * sums[a];
    }
    m->scratch = start;
}

/* What a step makes of the state (and an LSTM's cell), by the products with input and state, which are one array unless
 * the layer is a GRU. */
static void change_state(const tailcut_stage *stage, const float *of_input, const float *of_state, float *state,
                         float *cell) {
    uint32_t size = stage->out.channels, n;
    for (n = 0; n < size; n++) {
        const float *in = of_input + n, *own = of_state + n;
        if (IS(GRU, stage)) {
            float made = hyperbolic_tangent(in[2 * size] + sigmoid(in[0] + own[0]) * own[2 * size]);
            state[n] = made + sigmoid(in[size] + own[size]) * (state[n] - made);
        } else if (IS(LSTM, stage)) {
            cell[n] = sigmoid(in[size]) * cell[n] + sigmoid(in[0]) * hyperbolic_tangent(in[2 * size]);
            state[n] = sigmoid(in[3 * size]) * hyperbolic_tangent(cell[n]);
        } else if (IS(RNN_TANH, stage)) {
            state[n] = hyperbolic_tangent(in[0]);
        } else {
            state[n] = in[0] < 0 ? 0.0f : in[0];
        }
    }
}

/* A layer along the rows of a map of one column; of a map of one row alone it keeps the last state. */
static void recur(machine *m) {
    const tailcut_stage *stage = m->stage;
    const tailcut_weight *weights = m->model->weights + stage->detail;
    uint32_t size = stage->out.channels, num_sums = (IS(GRU, stage) ? 3 : IS(LSTM, stage) ? 4 : 1) * size, step, n, own;
    matrix by_input = start_matrix(m, weights), by_state = start_matrix(m, weights + 1);
    float *input = take(m, stage->channels), *of_input = take(m, num_sums), *of_state = of_input;
    float *state = take(m, 2 * size), *cell = state + size;
#if !TAILCUT_SMALL
    if (!is_running(m)) return;
#endif
    if (IS(GRU, stage)) of_state = take(m, num_sums);
    clear(state, 2 * size);
    for (step = 0; step < stage->height; step++) {
        uint32_t y = stage->is_reversed ? stage->height - 1u - step : step, channel = 0;
        const tailcut_segment *segment = m->model->segments + stage->first_segment;
        spread_leaves(m, y);
        for (n = 0; n < stage->num_segments; n++, segment++) {
            for (own = 0; own < segment->channels; own++, channel++) {
                input_row(m, segment, own, channel, y, input + channel);
            }
        }
        for (n = 0; n < num_sums; n++) {
            if (IS(GRU, stage)) of_state[n] = stage->beta == NULL ? 0.0f : stage->beta[n];
            of_input[n] = stage->gamma == NULL ? 0.0f : stage->gamma[n];
        }
        add_product(m, &by_input, input, of_input);
        add_product(m, &by_state, state, of_state);
        change_state(stage, of_input, of_state, state, cell);
        memcpy(m->arena + stage->out.offset + (stage->out.height > 1 ? y * stage->out.row_stride : 0), state,
               size * sizeof *state);
    }
}

#endif
