/* Rows of a stage's input: leaves, operations per number, changes of size. A part of tailcut_run_integer.c. */
#ifndef TAILCUT_INTEGER_EXPRESSIONS_H
#define TAILCUT_INTEGER_EXPRESSIONS_H

#include "tailcut_integer_functions.h"

static const int16_t *row_of(const machine *m, const tailcut_map *map, uint32_t y) {
    const int16_t *base = map->offset == TAILCUT_INPUT ? m->input : m->arena + map->offset;
    return base + (size_t)y * map->row_stride;
}

static const tailcut_integer_leaf *leaf_of(const machine *m, uint32_t n) {
    return m->model->leaves + m->stage->first_leaf + n;
}

/* What of a scale or shift is channel `channel`'s. */
static parts scale_of(const tailcut_integer_op *op, uint32_t channel) {
    return parts_of(op->scale != NULL ? op->scale[channel] : op->low);
}

static parts shift_of(const tailcut_integer_op *op, uint32_t channel) {
    return parts_of(op->shift != NULL ? op->shift[channel] : op->high);
}

/* Of each map that is read: the largest number of each channel, and the cosines of its channels. */
static void start_leaves(machine *m) {
    uint32_t n, c, y, x;
    for (n = 0; n < m->stage->num_leaves; n++) {
        const tailcut_integer_leaf *leaf = leaf_of(m, n);
        int16_t *largest = take(m, leaf->map.channels);
        for (c = 0; c < leaf->map.channels; c++) {
            int32_t most = 0;
            for (y = 0; y < leaf->map.height; y++) {
                const int16_t *row = row_of(m, &leaf->map, y) + (size_t)c * leaf->map.channel_stride;
                for (x = 0; x < leaf->map.width; x++) {
                    int32_t value = row[x] < 0 ? -1 - row[x] : row[x];
                    if (value > most) most = value;
                }
            }
            largest[c] = (int16_t)most; /* one less than the magnitude of a negative number may be */
        }
        m->largest[n] = largest;
        if (leaf->is_narrow) m->cosines[n] = make_cosines(m, leaf->num_channels);
    }
}

/* A leaf's factors for a channel, with the scale that follows in them, and their exponent. */
static int32_t make_mix(machine *m, const tailcut_integer_op *op, parts scale, uint32_t channel) {
    const tailcut_integer_leaf *leaf = m->model->leaves + op->number;
    uint32_t n = op->number - m->stage->first_leaf, k;
    if (!leaf->is_narrow) {
        m->mix[0] = (int16_t)scale.mantissa;
        return scale.exponent;
    }
    cosines_of(m->cosines[n], leaf->num_channels, leaf->first + channel, leaf->map.channels, m->mix);
    for (k = 0; k < leaf->map.channels; k++) m->mix[k] = (int16_t)rounded(m->mix[k] * scale.mantissa, op->second);
    return scale.exponent - 14 + op->second;
}

static const tailcut_integer_op unchanged = {NULL, NULL, (ONE << 8) + 128 - 14, 128, 0, TAILCUT_OP_SCALE, 0};

/* The linear operation behind a leaf, which is done with it, or none: that of a measured batch norm is its own. */
static const tailcut_integer_op *linear_of(const machine *m, const tailcut_integer_op *op,
                                           const tailcut_integer_op *end) {
    if (TAILCUT_HAS_STATS && m->model->leaves[op->number].norm != TAILCUT_NONE) return &unchanged;
    return TAILCUT_HAS_SCALE && op + 1 < end && op[1].kind == TAILCUT_OP_SCALE ? op + 1 : &unchanged;
}

/* The scale (`which` 0) or shift (1) of a channel of a leaf: measured, or of the linear operation behind it. */
static parts factor_of(const machine *m, const tailcut_integer_op *op, const tailcut_integer_op *linear,
                       uint32_t channel, uint32_t which) {
    const tailcut_integer_leaf *leaf = m->model->leaves + op->number;
    if (TAILCUT_HAS_STATS && leaf->norm != TAILCUT_NONE) {
        const int16_t *at = m->arena + m->model->norms[leaf->norm].offset;
        at += 4 * (leaf->first + channel) + 2 * which;
        parts found;
        found.mantissa = at[0];
        found.exponent = at[1];
        return found;
    }
    return which ? shift_of(linear, channel) : scale_of(linear, channel);
}

/* What no number of a channel of a leaf exceeds. */
static bound bound_leaf(machine *m, const tailcut_integer_op *op, const tailcut_integer_op *linear, uint32_t channel) {
    const tailcut_integer_leaf *leaf = m->model->leaves + op->number;
    const int16_t *largest = m->largest[op->number - m->stage->first_leaf];
    uint32_t k, count = leaf->is_narrow ? leaf->map.channels : 1;
    bound found = {0, 0};
    found.exponent = make_mix(m, op, factor_of(m, op, linear, channel, 0), channel) + m->arena[leaf->slot];
    if (!leaf->is_narrow) largest += leaf->first + channel;
    for (k = 0; k < count; k++) {
        found.most += (uint32_t)((m->mix[k] < 0 ? -m->mix[k] : m->mix[k]) * (largest[k] + 1));
    }
    return sum_of(found, bound_of(factor_of(m, op, linear, channel, 1)));
}

/* What no number exceeds after an operation of one number. */
static bound bound_applied(const machine *m, const tailcut_integer_op *op, uint32_t channel, bound found) {
    if (TAILCUT_HAS_SCALE && op->kind == TAILCUT_OP_SCALE) {
        return sum_of(product_of(found, bound_of(scale_of(op, channel))), bound_of(shift_of(op, channel)));
    }
    if (TAILCUT_HAS_FUNCTION && op->kind == TAILCUT_OP_FUNCTION) return bound_function(m, op, found);
    if (TAILCUT_HAS_CLAMP_BOUND && op->kind == TAILCUT_OP_CLAMP && op->second) {
        return bound_clamped(found, parts_of(op->low), parts_of(op->high));
    }
    return found;
}

/* Let the rows of the stage's expressions hold a number within the bound. */
static void make_room(machine *m, bound b) {
    int32_t wanted = exponent_for(b, m->stage->row_bits);
    if (b.most > 0 && wanted > m->exponent) m->exponent = wanted;
}

/* What no number of channel `own` of a segment exceeds after its operations; each of these gets its room. */
static bound bound_channel(machine *m, const tailcut_segment *segment, uint32_t own) {
    const tailcut_integer_op *op = m->model->ops + segment->first_op, *end = op + segment->num_ops, *linear;
    bound stack[TAILCUT_MAX_LEAVES + 1];
    uint32_t count = 0;
    stack[0].most = 0;
    stack[0].exponent = 0;
    for (; op < end; op++) {
        if (op->kind == TAILCUT_OP_LEAF) {
            linear = linear_of(m, op, end);
            stack[count++] = bound_leaf(m, op, linear, own);
            if (linear != &unchanged) op++;
        } else if (TAILCUT_HAS_ZERO && op->kind == TAILCUT_OP_ZERO) {
            stack[count].most = 0;
            stack[count++].exponent = 0;
        } else if (TAILCUT_HAS_ADD && op->kind == TAILCUT_OP_ADD) {
            count--;
            stack[count - 1] = sum_of(stack[count - 1], stack[count]);
        } else if (TAILCUT_HAS_MULTIPLY && op->kind == TAILCUT_OP_MULTIPLY) {
            count--;
            stack[count - 1] = product_of(stack[count - 1], stack[count]);
        } else if (TAILCUT_HAS_UNIT && op->kind == TAILCUT_OP_UNIT) {
            enter_unit(m, op->number);
            continue;
        } else {
            stack[count - 1] = bound_applied(m, op, own, stack[count - 1]);
        }
        make_room(m, stack[count - 1]);
    }
    return stack[0];
}

/* The least exponent in which all rows of the stage's expressions have `row_bits` bits. */
static void choose_exponent(machine *m) {
    const tailcut_integer_stage *stage = m->stage;
    uint32_t n, own, k, channel = 0;
    m->exponent = NO_EXPONENT;
    m->unit = 0;
    for (n = 0; TAILCUT_HAS_UNIT && n < TAILCUT_MAX_UNITS; n++) m->units[n] = NO_EXPONENT;
    for (n = 0; n < stage->num_segments; n++) {
        const tailcut_segment *segment = m->model->segments + stage->first_segment + n;
        for (own = 0; own < segment->channels; own++, channel++) {
            bound found = bound_channel(m, segment, own);
            for (k = 0; HAS_BOUND_OPS && k < stage->num_ops; k++) {
                const tailcut_integer_op *op = m->model->ops + stage->first_op + k;
                if (TAILCUT_HAS_UNIT && op->kind == TAILCUT_OP_UNIT) {
                    enter_unit(m, op->number);
                    continue;
                }
                found = bound_applied(m, op, channel, found);
                make_room(m, found);
            }
        }
    }
    for (n = 0; TAILCUT_HAS_UNIT && n < TAILCUT_MAX_UNITS; n++) {
        enter_unit(m, n);
        if (m->exponent == NO_EXPONENT) m->exponent = 0;
    }
    if (TAILCUT_HAS_UNIT) enter_unit(m, 0);
    if (m->exponent == NO_EXPONENT) m->exponent = 0; /* zeros alone */
}

/* One row of a leaf, with the linear operation that follows. */
static void read_leaf(machine *m, const tailcut_integer_op *op, const tailcut_integer_op *linear, uint32_t channel,
                      uint32_t y, int32_t *row) {
    const tailcut_integer_leaf *leaf = m->model->leaves + op->number;
    uint32_t own = y - leaf->top, width = m->stage->source_width, count = leaf->is_narrow ? leaf->map.channels : 1;
    uint32_t stride = leaf->map.channel_stride, x, k;
    int32_t start = in_units(factor_of(m, op, linear, channel, 1), m->exponent), power;
    /* Zeros around the map; a measured norm came before them, any other linear operation comes behind. */
    int32_t around = TAILCUT_HAS_STATS && leaf->norm != TAILCUT_NONE ? 0 : start;
    const int16_t *rows;
    for (x = 0; (own >= leaf->height || leaf->width != width) && x < width; x++) row[x] = around;
    if (own >= leaf->height) return;
    power = make_mix(m, op, factor_of(m, op, linear, channel, 0), channel) + m->arena[leaf->slot] - m->exponent;
    rows = row_of(m, &leaf->map, own);
    if (!leaf->is_narrow) rows += (size_t)(leaf->first + channel) * stride;
    row += leaf->left;
    width = leaf->width;
    memset(row, 0, width * sizeof *row);
    for (k = 0; k < count; k++, rows += stride) {
        int32_t factor = m->mix[k];
        for (x = 0; x < width; x++) row[x] += factor * rows[x];
    }
    shift_row(row, width, power, start);
}

static void apply(machine *m, const tailcut_integer_op *op, uint32_t channel, int32_t *row,
                  const int32_t *other, uint32_t width) {
    parts scale = scale_of(op, channel);
    int32_t factor = scale.mantissa, power = scale.exponent;
    int32_t low = in_units(parts_of(op->low), m->exponent), high = in_units(parts_of(op->high), m->exponent);
    uint32_t x;
    switch (op->kind) {
        case TAILCUT_OP_SCALE: {
            int32_t most = INT32_C(1) << m->stage->row_bits, start = in_units(shift_of(op, channel), m->exponent);
            for (x = 0; TAILCUT_HAS_SCALE && x < width; x++) {
                row[x] = limited(shifted(row[x] * factor, power) + start, most); /* errors grow with the factor */
            }
            break;
        }
        case TAILCUT_OP_CLAMP:
            if (!TAILCUT_HAS_CLAMP) break;
            for (x = 0; x < width; x++) {
                if (row[x] < low) row[x] = low;
                if (row[x] > high) row[x] = high;
            }
            break;
        case TAILCUT_OP_ADD:
            if (!TAILCUT_HAS_ADD) break;
            for (x = 0; x < width; x++) {
                row[x] += other[x];
                /* Errors of a product may be as large as its room, where its factors are large in other channels. */
                if (TAILCUT_HAS_UNIT) row[x] = limited(row[x], INT32_C(1) << m->stage->row_bits);
            }
            break;
        case TAILCUT_OP_LEAKY:
            if (!TAILCUT_HAS_LEAKY) break;
            for (x = 0; x < width; x++) {
                if (row[x] < 0) row[x] = shifted(row[x] * factor, power);
            }
            break;
        case TAILCUT_OP_MULTIPLY:
            if (TAILCUT_HAS_MULTIPLY) multiply_rows(m, op, row, other, width);
            break;
        case TAILCUT_OP_FUNCTION:
            if (TAILCUT_HAS_FUNCTION) apply_function(m, op, row, width);
            break;
        case TAILCUT_OP_UNIT:
            if (TAILCUT_HAS_UNIT) enter_unit(m, op->number);
            break;
        default:
            break;
    }
}

/* A channel of a segment at row `y` of the expressions' grid. */
static void evaluate(machine *m, const tailcut_segment *segment, uint32_t own, uint32_t y, int32_t *row) {
    const tailcut_integer_op *op = m->model->ops + segment->first_op, *end = op + segment->num_ops, *linear;
    uint32_t width = m->stage->source_width, rows = 0;
    for (; op < end; op++) {
        int32_t *top = rows <= 1 ? row : m->stack + (rows - 2) * width, *other = NULL;
        if (op->kind == TAILCUT_OP_LEAF || (TAILCUT_HAS_ZERO && op->kind == TAILCUT_OP_ZERO)) {
            if (rows > 0) top = m->stack + (rows - 1) * width;
            rows++;
            if (TAILCUT_HAS_ZERO && op->kind == TAILCUT_OP_ZERO) {
                memset(top, 0, width * sizeof *top);
                continue;
            }
            linear = linear_of(m, op, end);
            read_leaf(m, op, linear, own, y, top);
            if (linear != &unchanged) op++;
            continue;
        }
        if ((TAILCUT_HAS_ADD && op->kind == TAILCUT_OP_ADD) ||
            (TAILCUT_HAS_MULTIPLY && op->kind == TAILCUT_OP_MULTIPLY)) {
            rows--;
            other = top;
            top = rows == 1 ? row : m->stack + (rows - 2) * width;
        }
        apply(m, op, own, top, other, width);
    }
}

static void pool(machine *m, const tailcut_segment *segment, uint32_t own, uint32_t y, int32_t *row) {
    const tailcut_integer_stage *stage = m->stage;
    int is_max = !TAILCUT_HAS_AVERAGE || (TAILCUT_HAS_MAX && stage->resample == TAILCUT_MAX);
    uint32_t size = stage->source_width, rows = 0, dy, dx, x;
    int32_t *sum = m->before, *next = sum;
    for (dy = 0; dy < stage->pool_kernel[0]; dy++) {
        uint32_t from = y * stage->pool_stride[0] + dy - stage->pool_padding[0];
        rows += stage->counts_padding || from < stage->source_height;
        if (from >= stage->source_height) continue;
        evaluate(m, segment, own, from, next);
        for (x = 0; next != sum && x < size; x++) {
            sum[x] = !is_max ? sum[x] + next[x] : next[x] > sum[x] ? next[x] : sum[x];
        }
        next = sum + size;
    }
    for (x = 0; x < stage->width; x++) {
        int32_t total = is_max ? -INT32_MAX : 0;
        uint32_t columns = 0;
        for (dx = 0; dx < stage->pool_kernel[1]; dx++) {
            uint32_t at = x * stage->pool_stride[1] + dx - stage->pool_padding[1];
            columns += stage->counts_padding || at < size;
            if (at >= size) continue;
            total = !is_max ? total + sum[at] : sum[at] > total ? sum[at] : total;
        }
        if (TAILCUT_HAS_AVERAGE && !is_max) total = divided(total, rows * columns);
        row[x] = total;
    }
}

/* Which of `count` rows or columns the one at `at` is: those around the map repeat its edge, or are reflected. */
static uint32_t picked(const machine *m, uint32_t at, int axis, uint32_t count) {
    uint32_t place = at * m->stage->pool_stride[axis], padding = m->stage->pool_padding[axis];
    int reflects = TAILCUT_HAS_REFLECT && m->stage->counts_padding;
    if (place < padding) return reflects ? padding - place : 0;
    place -= padding;
    return place < count ? place : reflects ? 2 * (count - 1) - place : count - 1;
}

/* Where a pixel of a larger map of `to` lies in one of `from`, and in 1 / ONE how far it is from the next. */
static uint32_t place_of(uint32_t at, uint32_t from, uint32_t to, int aligns_corners, int32_t *part) {
    uint32_t above = aligns_corners ? at * (from - 1) : (2 * at + 1) * from, below = aligns_corners ? to - 1 : 2 * to;
    uint32_t whole;
    if (!aligns_corners) above = above > to ? above - to : 0;
    whole = below > 0 ? above / below : 0;
    *part = below > 0 ? (int32_t)(above % below * ONE / below) : 0;
    return whole < from ? whole : from - 1;
}

/* A number on the way to another one. */
static int32_t between(int32_t one, int32_t other, int32_t part) { return one + rounded((other - one) * part, 14); }

static void enlarge(machine *m, const tailcut_segment *segment, uint32_t own, uint32_t y, int32_t *row) {
    const tailcut_integer_stage *stage = m->stage;
    uint32_t x, at, width = stage->source_width, height = stage->source_height;
    int32_t part, *below = m->before + width;
    at = place_of(y, height, stage->height, stage->counts_padding, &part);
    evaluate(m, segment, own, at, m->before);
    evaluate(m, segment, own, at + 1 < height ? at + 1 : at, below);
    for (x = 0; x < width; x++) m->before[x] = between(m->before[x], below[x], part);
    for (x = 0; x < stage->width; x++) {
        at = place_of(x, width, stage->width, stage->counts_padding, &part);
        row[x] = between(m->before[at], m->before[at + 1 < width ? at + 1 : at], part);
    }
}

static void pick(machine *m, const tailcut_segment *segment, uint32_t own, uint32_t y, int32_t *row) {
    const tailcut_integer_stage *stage = m->stage;
    uint32_t x, width = stage->source_width;
    if (TAILCUT_HAS_PICK && (!TAILCUT_HAS_NEAREST || stage->resample == TAILCUT_PICK)) {
        evaluate(m, segment, own, picked(m, y, 0, stage->source_height),
                 m->before);
        for (x = 0; x < stage->width; x++) {
            row[x] = m->before[picked(m, x, 1, width)];
        }
        return;
    }
    evaluate(m, segment, own, y * stage->source_height / stage->height, m->before);
    for (x = 0; x < stage->width; x++) row[x] = m->before[x * width / stage->width];
}

/* Row y of channel `channel` of the stage's input, the `own`-th of its segment. */
static void input_row(machine *m, const tailcut_segment *segment, uint32_t own, uint32_t channel, uint32_t y,
                      int32_t *row) {
    const tailcut_integer_stage *stage = m->stage;
    uint32_t n;
    if (stage->resample == TAILCUT_AS_IT_IS || (!HAS_POOLING && !HAS_OTHER_SIZES)) {
        evaluate(m, segment, own, y, row);
    } else if (HAS_POOLING &&
               (!HAS_OTHER_SIZES || stage->resample == TAILCUT_MAX || stage->resample == TAILCUT_AVERAGE)) {
        pool(m, segment, own, y, row);
    } else if (TAILCUT_HAS_BILINEAR && (!HAS_PICKING || stage->resample == TAILCUT_BILINEAR)) {
        enlarge(m, segment, own, y, row);
    } else if (HAS_PICKING) {
        pick(m, segment, own, y, row);
    }
    for (n = 0; HAS_STAGE_OPS && n < stage->num_ops; n++) {
        apply(m, m->model->ops + stage->first_op + n, channel, row, NULL, stage->width);
    }
}

#endif
