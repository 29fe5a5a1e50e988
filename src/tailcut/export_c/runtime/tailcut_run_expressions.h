/* Rows of a stage's input: leaves, operations per number, changes of size. A part of tailcut_run.c. */
#ifndef TAILCUT_RUN_EXPRESSIONS_H
#define TAILCUT_RUN_EXPRESSIONS_H

#include "tailcut_run_weights.h"

static const float *row_of(const machine *m, const tailcut_map *map, uint32_t y) {
    const float *base = map->offset == TAILCUT_INPUT ? m->input : m->arena + map->offset;
    return base + (size_t)y * map->row_stride;
}

static void start_leaves(machine *m) {
    uint32_t n;
    for (n = 0; n < m->stage->num_leaves; n++) {
        const tailcut_leaf *leaf = m->model->leaves + m->stage->first_leaf + n;
        uint32_t count = leaf->map.channels;
        if (TAILCUT_HAS_UP && leaf->up != TAILCUT_NONE) {
            const tailcut_weight *weight = m->model->weights + leaf->up;
            count = weight->corner[0];
            m->up_core[n] = make_core(m, weight, 0, count, 0);
            m->up_rows[n] = take(m, count * leaf->width);
        }
        if (leaf->is_narrow) m->cosines[n] = start_cosines(m, leaf->num_channels, count, is_vector(m));
    }
}

/* One row of all maps that are spread by transposed convolutions. */
static void spread_leaves(machine *m, uint32_t y) {
    uint32_t n, a, b, x, dx;
    for (n = 0; TAILCUT_HAS_UP && n < m->stage->num_leaves; n++) {
        const tailcut_leaf *leaf = m->model->leaves + m->stage->first_leaf + n;
        const tailcut_weight *weight;
        uint32_t own = (uint32_t)((int32_t)y - leaf->top), rows, columns;
        const float *core, *source;
        if (leaf->up == TAILCUT_NONE || own >= leaf->height) continue;
        weight = m->model->weights + leaf->up;
        rows = weight->sizes[2];
        columns = weight->sizes[3];
        source = row_of(m, &leaf->map, own / rows);
        for (a = 0; a < weight->corner[0]; a++) {
            float *into = m->up_rows[n] + a * leaf->width;
            clear(into, leaf->width);
            core = m->up_core[n] + ((size_t)a * weight->corner[1] * rows + own % rows) * columns;
            for (b = 0; b < weight->corner[1]; b++, core += rows * columns) {
                const float *from = source + b * leaf->map.channel_stride;
                for (dx = 0; dx < columns; dx++) {
                    for (x = 0; x < leaf->map.width; x++) into[x * columns + dx] += core[dx] * from[x];
                }
            }
        }
    }
}

/* One row of `num` channels of a leaf, scaled and within the bounds of `last`. */
static void read_leaf(machine *m, uint32_t number_of_leaf, uint32_t channel, uint32_t num, uint32_t y, float *row,
                      uint32_t width, finish *last) {
    const tailcut_leaf *leaf = m->model->leaves + number_of_leaf;
    uint32_t n = number_of_leaf - m->stage->first_leaf, own = (uint32_t)((int32_t)y - leaf->top), pitch = width;
    uint32_t count, stride, j, x;
    const float *rows;
    if (own >= leaf->height || leaf->width != width) {
        for (j = 0; j < num; j++) {
            float zero = clamped(last->start[j], last); /* around the map */
            for (x = 0; x < width; x++) row[j * width + x] = zero;
        }
        if (own >= leaf->height) return;
    }
    channel += leaf->first;
    row += leaf->left;
    width = leaf->width;
    count = leaf->map.channels;
    if (TAILCUT_HAS_UP && leaf->up != TAILCUT_NONE) {
        rows = m->up_rows[n];
        stride = width;
        count = m->model->weights[leaf->up].corner[0];
    } else {
        rows = row_of(m, &leaf->map, own);
        stride = leaf->map.channel_stride;
    }
    for (j = 0; j < num; j++, channel++) {
        if (TAILCUT_HAS_STATS && leaf->stats != TAILCUT_NONE) {
            last->start[j] += last->scale[j] * m->arena[leaf->stats + (int32_t)(leaf->num_channels + channel)];
            last->scale[j] *= m->arena[leaf->stats + (int32_t)channel];
        }
        if (leaf->is_narrow) {
            float *mix = m->mix + j * count;
            const float *factors = factors_of(m, m->cosines[n], leaf->num_channels, channel, count, mix);
            for (x = 0; x < count; x++) mix[x] = factors[x] * last->scale[j];
            if (num == 1) combine(row, rows, stride, mix, count, width, last->start[0], last);
        } else {
            combine(row + j * pitch, rows + (size_t)channel * stride, stride, last->scale + j, 1, width,
                    last->start[j], last);
        }
    }
#if !TAILCUT_SMALL
    if (num == 4 && leaf->is_narrow) combine_four(row, pitch, rows, stride, m->mix, count, width, last);
#endif
}

#if !TAILCUT_SMALL

/* `num` channels of row y of a leaf of one column, scaled by `linear` and within the bounds of `last`. */
static void read_vector(machine *m, const tailcut_op *linear, uint32_t number_of_leaf, uint32_t channel, uint32_t num,
                        uint32_t y, float *row, const finish *last) {
    const tailcut_leaf *leaf = m->model->leaves + number_of_leaf;
    const float *values = row_of(m, &leaf->map, y), *cosines = m->cosines[number_of_leaf - m->stage->first_leaf];
    uint32_t first = leaf->first + channel, count = leaf->map.channels, size = leaf->num_channels, j;
    if (!leaf->is_narrow) {
        memcpy(row, values + first, num * sizeof *row);
    } else if (is_prepared(m)) {
        combine(row, cosines + first, size, values, count, num, 0.0f, &unbounded);
    } else {
        for (j = 0; j < num; j++) {
            cosines_of(cosines, size, first + j, count, m->mix);
            combine(row + j, m->mix, 1, values, count, 1, 0.0f, &unbounded);
        }
    }
    for (j = 0; j < num; j++) {
        float scale = linear->scale ? linear->scale[channel + j] : linear->low;
        float start = linear->shift ? linear->shift[channel + j] : linear->high;
        if (TAILCUT_HAS_STATS && leaf->stats != TAILCUT_NONE) {
            start += scale * m->arena[leaf->stats + (int32_t)(size + first + j)];
            scale *= m->arena[leaf->stats + (int32_t)(first + j)];
        }
        row[j] = clamped(start + scale * row[j], last);
    }
}

#endif

static void apply(const tailcut_op *op, uint32_t channel, float *row, const float *other, uint32_t width) {
    float scale = op->scale ? op->scale[channel] : op->low, shift = op->shift ? op->shift[channel] : op->high;
    uint32_t x;
    switch (op->kind) {
        case TAILCUT_OP_SCALE:
            if (!TAILCUT_HAS_SCALE) break;
            for (x = 0; x < width; x++) row[x] = row[x] * scale + shift;
            break;
        case TAILCUT_OP_CLAMP:
            if (!TAILCUT_HAS_CLAMP) break;
            for (x = 0; x < width; x++) {
                float v = row[x] < op->low ? op->low : row[x];
                row[x] = v > op->high ? op->high : v;
            }
            break;
        case TAILCUT_OP_ADD:
            if (!TAILCUT_HAS_ADD) break;
            for (x = 0; x < width; x++) row[x] += other[x];
            break;
        case TAILCUT_OP_MULTIPLY:
            if (!TAILCUT_HAS_MULTIPLY) break;
            for (x = 0; x < width; x++) row[x] *= other[x];
            break;
        case TAILCUT_OP_LEAKY:
            if (!TAILCUT_HAS_LEAKY) break;
            for (x = 0; x < width; x++) row[x] = row[x] < 0 ? row[x] * scale : row[x];
            break;
        case TAILCUT_OP_SIGMOID:
            if (!TAILCUT_HAS_SIGMOID) break;
            for (x = 0; x < width; x++) row[x] = sigmoid(row[x]);
            break;
        case TAILCUT_OP_TANH:
            if (!TAILCUT_HAS_TANH) break;
            for (x = 0; x < width; x++) row[x] = hyperbolic_tangent(row[x]);
            break;
        case TAILCUT_OP_SILU:
            if (!TAILCUT_HAS_SILU) break;
            for (x = 0; x < width; x++) row[x] *= sigmoid(row[x]);
            break;
        case TAILCUT_OP_HARDSWISH:
            if (!TAILCUT_HAS_HARDSWISH) break;
            for (x = 0; x < width; x++) {
                float v = row[x] + 3.0f;
                row[x] *= (v < 0 ? 0.0f : v > 6.0f ? 6.0f : v) / 6.0f;
            }
            break;
        case TAILCUT_OP_GELU:
            if (!TAILCUT_HAS_GELU) break;
            for (x = 0; x < width; x++) row[x] = gelu(row[x]);
            break;
        case TAILCUT_OP_GELU_TANH:
            if (!TAILCUT_HAS_GELU_TANH) break;
            for (x = 0; x < width; x++) row[x] = gelu_by_tanh(row[x]);
            break;
        case TAILCUT_OP_ELU:
            if (!TAILCUT_HAS_ELU) break;
            for (x = 0; x < width; x++) {
                if (row[x] < 0) row[x] = op->low * exponential_less_1(op->high * row[x]);
            }
            break;
        case TAILCUT_OP_SOFTPLUS:
            if (!TAILCUT_HAS_SOFTPLUS) break;
            for (x = 0; x < width; x++) row[x] = softplus(row[x], op->low, op->high);
            break;
        case TAILCUT_OP_MISH:
            if (!TAILCUT_HAS_MISH) break;
            for (x = 0; x < width; x++) row[x] = mish(row[x]);
            break;
        default:
            break;
    }
}

/* `num` channels of a segment at row `y` of the expressions' grid, one below the other: as many as AT_ONCE, or one. */
static void evaluate(machine *m, const tailcut_segment *segment, uint32_t channel, uint32_t num, uint32_t y,
                     float *row) {
    static const tailcut_op unchanged = {NULL, NULL, 1.0f, 0.0f, 0, TAILCUT_OP_SCALE};
    const tailcut_op *op = m->model->ops + segment->first_op, *end = op + segment->num_ops;
    uint32_t width = m->stage->source_width, rows = 0, j;
    size_t size = (size_t)num * width;
    for (; op < end; op++) {
        float *top = rows <= 1 ? row : m->stack + (rows - 2) * size, *other = NULL;
        if (op->kind == TAILCUT_OP_LEAF || (TAILCUT_HAS_ZERO && op->kind == TAILCUT_OP_ZERO)) {
            if (rows > 0) top = m->stack + (rows - 1) * size;
            rows++;
            if (!TAILCUT_HAS_ZERO || op->kind == TAILCUT_OP_LEAF) {
                /* A linear operation and a clamp that follow are done in the same pass. */
                finish last;
                uint32_t leaf = op->leaf;
                const tailcut_op *linear = &unchanged;
                last.low = -LARGEST;
                last.high = LARGEST;
                if (TAILCUT_HAS_SCALE && op + 1 < end && op[1].kind == TAILCUT_OP_SCALE) linear = ++op;
                for (j = 0; !is_vector(m) && j < num; j++) {
                    last.scale[j] = linear->scale ? linear->scale[channel + j] : linear->low;
                    last.start[j] = linear->shift ? linear->shift[channel + j] : linear->high;
                }
                if (TAILCUT_HAS_CLAMP && op + 1 < end && op[1].kind == TAILCUT_OP_CLAMP) {
                    op++;
                    last.low = op->low;
                    last.high = op->high;
                }
#if !TAILCUT_SMALL
                if (is_vector(m)) {
                    read_vector(m, linear, leaf, channel, num, y, top, &last);
                    continue;
                }
#endif
                read_leaf(m, leaf, channel, num, y, top, width, &last);
            } else {
                clear(top, (uint32_t)size);
            }
            continue;
        }
        if ((TAILCUT_HAS_ADD && op->kind == TAILCUT_OP_ADD) ||
            (TAILCUT_HAS_MULTIPLY && op->kind == TAILCUT_OP_MULTIPLY)) {
            rows--;
            other = top;
            top = rows == 1 ? row : m->stack + (rows - 2) * size;
        }
        for (j = 0; j < num; j++) {
            if (!TAILCUT_SMALL && op->scale == NULL && op->shift == NULL) {
                apply(op, channel, top, other, (uint32_t)size);
                break;
            }
            apply(op, channel + j, top + j * (size_t)width, other == NULL ? NULL : other + j * (size_t)width, width);
        }
    }
}

/* ---- changes of size ---- */

/* Where the window at `at` begins, and how many rows or columns it has: `kernel`, unless `stride` is 0 for an adaptive
 * pooling of `full` into `count` parts. */
static uint32_t window_at(uint32_t at, uint32_t stride, uint32_t padding, uint32_t full, uint32_t count,
                          uint32_t *kernel) {
    uint32_t first = at * stride - padding;
    if (TAILCUT_HAS_ADAPTIVE && stride == 0) {
        first = at * full / count;
        *kernel = ((at + 1) * full + count - 1) / count - first;
    }
    return first;
}

static void pool(machine *m, const tailcut_segment *segment, uint32_t channel, uint32_t num, uint32_t y,
                 float *row) {
    const tailcut_stage *stage = m->stage;
    int is_max = !TAILCUT_HAS_AVERAGE || (TAILCUT_HAS_MAX && stage->resample == TAILCUT_MAX);
    uint32_t size = num * stage->source_width, rows = 0, columns = 0, dy, dx, x, j;
    uint32_t kernel = stage->pool_kernel[0];
    float *sum = m->before, *next = sum;
    uint32_t first =
        window_at(y, stage->pool_stride[0], stage->pool_padding[0], stage->source_height, stage->height, &kernel);
    for (dy = 0; dy < kernel; dy++) {
        uint32_t from = first + dy;
        rows += stage->counts_padding || from < stage->source_height;
        if (from >= stage->source_height) continue;
        evaluate(m, segment, channel, num, from, next);
        for (x = 0; next != sum && x < size; x++) {
            sum[x] = !is_max ? sum[x] + next[x] : next[x] > sum[x] ? next[x] : sum[x];
        }
        next = sum + size;
    }
    for (j = 0; j < num; j++, row += stage->width, sum += stage->source_width) {
        if (!TAILCUT_SMALL && is_max && stage->pool_kernel[1] == 2 && stage->pool_stride[1] == 2 &&
            stage->pool_padding[1] == 0 && 2 * stage->width <= stage->source_width) {
            for (x = 0; x < stage->width; x++) row[x] = sum[2 * x + 1] > sum[2 * x] ? sum[2 * x + 1] : sum[2 * x];
            continue;
        }
        for (x = 0; x < stage->width; x++) {
            float total = is_max ? -LARGEST : 0.0f;
            kernel = stage->pool_kernel[1];
            first =
                window_at(x, stage->pool_stride[1], stage->pool_padding[1], stage->source_width, stage->width, &kernel);
            columns = 0;
            for (dx = 0; dx < kernel; dx++) {
                uint32_t at = first + dx;
                columns += stage->counts_padding || at < stage->source_width;
                if (at >= stage->source_width) continue;
                total = !is_max ? total + sum[at] : sum[at] > total ? sum[at] : total;
            }
            row[x] = is_max ? total : total / (float)(rows * columns);
        }
    }
}

/* Where a pixel of the larger map lies in the smaller one, and how far it is from the next. */
static uint32_t place_of(uint32_t at, uint32_t from, uint32_t to, int aligns_corners, float *part) {
    float place = aligns_corners ? (to > 1 ? (float)at * (float)(from - 1) / (float)(to - 1) : 0.0f)
                                 : ((float)at + 0.5f) * (float)from / (float)to - 0.5f;
    uint32_t whole;
    if (place < 0) place = 0;
    whole = (uint32_t)place;
    if (whole > from - 1) whole = from - 1;
    *part = place - (float)whole;
    return whole;
}

/* Which of `count` rows or columns the one at `at` is: those around the map repeat its edge, or are reflected. */
static uint32_t picked(const machine *m, uint32_t at, int axis, uint32_t count) {
    uint32_t place = at * m->stage->pool_stride[axis], padding = m->stage->pool_padding[axis];
    int reflects = TAILCUT_HAS_REFLECT && m->stage->counts_padding;
    if (place < padding) return reflects ? padding - place : 0;
    place -= padding;
    return place < count ? place : reflects ? 2 * (count - 1) - place : count - 1;
}

static void enlarge(machine *m, const tailcut_segment *segment, uint32_t channel, uint32_t y, float *row) {
    const tailcut_stage *stage = m->stage;
    uint32_t x, first, width = stage->source_width;
    float down = 0.0f, right;
    if (TAILCUT_HAS_PICK && stage->resample == TAILCUT_PICK) {
        evaluate(m, segment, channel, 1,
                 picked(m, y, 0, stage->source_height), m->before);
        for (x = 0; x < stage->width; x++)
            row[x] = m->before[picked(m, x, 1, width)];
        return;
    }
    if (TAILCUT_HAS_NEAREST && (!TAILCUT_HAS_BILINEAR || stage->resample != TAILCUT_BILINEAR)) {
        evaluate(m, segment, channel, 1, y * stage->source_height / stage->height, m->before);
        for (x = 0; x < stage->width; x++) row[x] = m->before[x * width / stage->width];
        return;
    }
    first = place_of(y, stage->source_height, stage->height, stage->counts_padding, &down);
    evaluate(m, segment, channel, 1, first, m->before);
    evaluate(m, segment, channel, 1, first + 1u < stage->source_height ? first + 1 : first, m->before + width);
    for (x = 0; x < width; x++) m->before[x] += down * (m->before[width + x] - m->before[x]);
    for (x = 0; x < stage->width; x++) {
        uint32_t at = place_of(x, width, stage->width, stage->counts_padding, &right);
        row[x] = m->before[at] + right * (m->before[at + 1u < width ? at + 1 : at] - m->before[at]);
    }
}

/* `num` channels from `channel` on of the stage's input, the `own`-th and later of their segment, at row y. */
static void input_rows(machine *m, const tailcut_segment *segment, uint32_t own, uint32_t channel, uint32_t num,
                       uint32_t y, float *row) {
    const tailcut_stage *stage = m->stage;
    uint32_t n, j;
    if (!HAS_RESAMPLING || stage->resample == TAILCUT_AS_IT_IS) {
        evaluate(m, segment, own, num, y, row);
    } else if (HAS_POOLING &&
               (!HAS_OTHER_SIZES || stage->resample == TAILCUT_MAX || stage->resample == TAILCUT_AVERAGE)) {
        pool(m, segment, own, num, y, row);
    }
    for (j = 0; j < num; j++, row += stage->width) {
        if (HAS_OTHER_SIZES && stage->resample >= TAILCUT_PICK) enlarge(m, segment, own + j, y, row);
        for (n = 0; n < stage->num_ops; n++) {
            apply(m->model->ops + stage->first_op + n, channel + j, row, NULL, stage->width);
        }
    }
}

static void input_row(machine *m, const tailcut_segment *segment, uint32_t own, uint32_t channel, uint32_t y,
                      float *row) {
    input_rows(m, segment, own, channel, 1, y, row);
}

#endif
