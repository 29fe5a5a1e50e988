/* The stages of a network in integers alone. docs/integer-arithmetic.md says why no sum overflows. */
#include "tailcut_run_integer.h"
#include "tailcut_walk.h"

#include <string.h>

#ifndef TAILCUT_MAX_LEAVES
#define TAILCUT_MAX_LEAVES 8 /* of one stage; the export keeps to it */
#endif

#define HAS_POOLING (TAILCUT_HAS_MAX || TAILCUT_HAS_AVERAGE)
#define HAS_PICKING (TAILCUT_HAS_PICK || TAILCUT_HAS_NEAREST)
#define HAS_OTHER_SIZES (HAS_PICKING || TAILCUT_HAS_BILINEAR)
#define HAS_STAGE_OPS (TAILCUT_HAS_SCALE || TAILCUT_HAS_CLAMP || TAILCUT_HAS_LEAKY)
#define SLACK 16                  /* what rounding may add to the number of a row */
#define ONE 16384                 /* cosine 1 */
#define LARGEST (INT32_C(1) << 30) /* what a scaled number is limited to */
#define NO_EXPONENT (-32768)

/* What is known while a stage runs. */
typedef struct {
    const tailcut_integer_model *model;
    const tailcut_integer_stage *stage;
    const int16_t *input;
    int16_t *output;
    int32_t *exponents;
    int16_t *arena;   /* begins with the exponents of all maps */
    int16_t *scratch; /* free numbers */
    int32_t *rows;    /* free ones of 32 bits */
    const int16_t *cosines[TAILCUT_MAX_LEAVES]; /* of each narrow leaf's channels */
    const int16_t *largest[TAILCUT_MAX_LEAVES]; /* of each leaf's stored channels: magnitudes less 1 */
    int32_t exponent;                           /* of the rows of expressions */
    int32_t *stack;
    int32_t *before;
    int32_t *row;
    int16_t *mix; /* factors of one channel */
} machine;

static int16_t *take(machine *m, uint32_t count) {
    int16_t *found = m->scratch;
    m->scratch += count;
    return found;
}

static int32_t *take_rows(machine *m, uint32_t count) {
    int32_t *found = m->rows;
    m->rows += count;
    return found;
}

/* ---- numbers ---- */

/* Half of it, `count` times, down to the next whole number; count < 32. Compilers make one instruction of it. */
static int32_t halved(int32_t value, uint32_t count) { return value < 0 ? ~(~value >> count) : value >> count; }

/* value / 2^count to the nearest number, halves up; |value| <= 2^30. */
static int32_t rounded(int32_t value, uint32_t count) {
    if (count == 0) return value;
    return count > 30 ? 0 : halved(value + (INT32_C(1) << (count - 1)), count);
}

/* value * 2^power, which is within 2^30 where power > 0. */
static int32_t shifted(int32_t value, int32_t power) {
    if (power <= 0) return rounded(value, (uint32_t)-power);
    return power > 30 ? 0 : value * (INT32_C(1) << power);
}

/* A row of numbers times 2^power, plus `start`. */
static void shift_row(int32_t *row, uint32_t width, int32_t power, int32_t start) {
    uint32_t x, count = (uint32_t)-power;
    int32_t half = (INT32_C(1) << (count < 31 ? count : 0)) >> 1;
    if (power < 0 && power > -31) { /* as nearly always */
        for (x = 0; x < width; x++) row[x] = halved(row[x] + half, count) + start;
        return;
    }
    for (x = 0; x < width; x++) row[x] = shifted(row[x], power) + start;
}

/* A scaled number: mantissa * 2^exponent, the mantissa within 16 bits. */
typedef struct {
    int32_t mantissa;
    int32_t exponent;
} parts;

static parts parts_of(tailcut_scaled number) {
    parts found;
    found.mantissa = halved(number, 8);
    found.exponent = (int32_t)((uint32_t)number & 255u) - 128;
    return found;
}

/* A scaled number in units of 2^exponent, within LARGEST. */
static int32_t in_units(parts number, int32_t exponent) {
    int32_t value = number.mantissa, power = number.exponent - exponent;
    if (power > 30) power = 30;
    if (power > 0 && value > halved(LARGEST, (uint32_t)power)) return LARGEST;
    if (power > 0 && value < -halved(LARGEST, (uint32_t)power)) return -LARGEST;
    return shifted(value, power);
}

static uint32_t bits_of(uint32_t value) {
    uint32_t count = 0;
    for (; value > 0; value >>= 1) count++;
    return count;
}

/* sum / count to the nearest number, halves up; |sum| < 2^29, count < 2^29. */
static int32_t divided(int32_t sum, uint32_t count) {
    int32_t twice = 2 * sum + (int32_t)count;
    return twice < 0 ? -1 - (int32_t)((uint32_t)(-1 - twice) / (2 * count)) : (int32_t)((uint32_t)twice / (2 * count));
}

/* ---- cosines ---- */

/* cos(pi / 2 * n / size) * ONE for n from 0 to `size`, by a polynomial. */
static const int16_t *make_cosines(machine *m, uint32_t size) {
    static const int16_t factors[4] = {20213, 4158, 345, 16};
    int16_t *table = take(m, size + 1);
    uint32_t n, k;
    for (n = 0; n <= size; n++) {
        int32_t part = (int32_t)((n * 32768u + size / 2) / size), square = rounded(part * part, 15), sum = 0;
        for (k = 4; k > 0; k--) sum = factors[k - 1] - rounded(square * sum, 15);
        table[n] = (int16_t)(ONE - rounded(square * sum, 15));
    }
    return table;
}

/* cos(pi (2 place + 1) k / (2 size)) * ONE for k below `count`. */
static void cosines_of(const int16_t *table, uint32_t size, uint32_t place, uint32_t count, int16_t *into) {
    uint32_t step = 2 * place + 1, angle = 0, k;
    for (k = 0; k < count; k++) {
        uint32_t turn = angle > 2 * size ? 4 * size - angle : angle;
        into[k] = turn > size ? (int16_t)-table[2 * size - turn] : table[turn];
        angle += step;
        angle -= angle >= 4 * size ? 4 * size : 0;
    }
}

/* ---- maps that are written ---- */

/* Numbers whose common exponent grows with the largest of them. */
typedef struct {
    int16_t *first;
    int16_t *end;   /* behind all that are written so far */
    uint32_t bits;  /* of a number, its sign aside */
    uint32_t shift; /* of what is written to what is stored */
} block;

/* Write `count` numbers; what the block holds is halved where they are too large for it. */
static void put(block *b, int16_t *into, const int32_t *row, uint32_t count) {
    uint32_t seen = 0, growth = 0, x;
    int16_t *at;
    for (x = 0; x < count; x++) seen |= (uint32_t)(row[x] < 0 ? -1 - row[x] : row[x]);
    while (seen >> (b->bits + b->shift + growth)) growth++;
    for (at = b->first; growth > 0 && at < b->end; at++) *at = (int16_t)halved(*at, growth);
    b->shift += growth;
    for (x = 0; x < count; x++) into[x] = (int16_t)halved(row[x], b->shift);
}

static void start_block(block *b, int16_t *first, uint32_t count, uint32_t bits) {
    b->first = first;
    b->end = first + count;
    b->bits = bits;
    b->shift = 0;
    memset(first, 0, count * sizeof *first);
}

static int16_t *out_row(const machine *m, uint32_t y) {
    return m->arena + m->stage->out.offset + (size_t)y * m->stage->out.row_stride;
}

/* The map that the stage writes. `is_whole`: all of it is cleared, and may be written in any order. */
static void start_out(const machine *m, block *b, int is_whole) {
    const tailcut_map *out = &m->stage->out;
    uint32_t count = is_whole ? (uint32_t)out->channels * out->height * out->width : 0;
    start_block(b, out_row(m, 0), count, m->stage->out_bits);
}

static void end_out(machine *m, const block *b, int32_t exponent) {
    m->arena[1 + (m->stage - m->model->stages)] = (int16_t)(exponent + (int32_t)b->shift);
}

/* ---- bounds ---- */

/* A magnitude: at most `most` * 2^exponent; most < 2^31. */
typedef struct {
    uint32_t most;
    int32_t exponent;
} bound;

/* Half of it, `count` times, up to the next whole number. */
static uint32_t halved_up(uint32_t value, uint32_t count) {
    if (count > 31) return value > 0;
    return (value >> count) + ((value & ((UINT32_C(1) << count) - 1)) > 0);
}

static bound sum_of(bound a, bound b) {
    bound sum = a, less = b;
    if (a.most == 0 || (b.most > 0 && b.exponent > a.exponent)) sum = b, less = a;
    if (less.most == 0) return sum;
    sum.most += halved_up(less.most, (uint32_t)(sum.exponent - less.exponent));
    if (sum.most >> 31) sum.most = halved_up(sum.most, 1), sum.exponent++;
    return sum;
}

static bound bound_of(parts number) {
    bound found;
    found.most = (uint32_t)(number.mantissa < 0 ? -number.mantissa : number.mantissa);
    found.exponent = number.exponent;
    return found;
}

/* The least exponent in which a number within the bound has at most `bits` bits, with SLACK to spare. */
static int32_t exponent_for(bound b, uint32_t bits) {
    uint32_t count = bits_of(b.most);
    uint32_t scaled = count > bits ? halved_up(b.most, count - bits) : b.most << (bits - count);
    return b.exponent + (int32_t)count - (int32_t)bits + (scaled + SLACK > UINT32_C(1) << bits);
}

/* ---- expressions ---- */

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
    const tailcut_integer_leaf *leaf = m->model->leaves + op->leaf;
    uint32_t n = op->leaf - m->stage->first_leaf, k;
    if (!leaf->is_narrow) {
        m->mix[0] = (int16_t)scale.mantissa;
        return scale.exponent;
    }
    cosines_of(m->cosines[n], leaf->num_channels, leaf->first + channel, leaf->map.channels, m->mix);
    for (k = 0; k < leaf->map.channels; k++) m->mix[k] = (int16_t)rounded(m->mix[k] * scale.mantissa, op->mix_shift);
    return scale.exponent - 14 + op->mix_shift;
}

static const tailcut_integer_op unchanged = {NULL, NULL, (ONE << 8) + 128 - 14, 128, 0, TAILCUT_OP_SCALE, 0};

/* The linear operation behind a leaf, which is done with it, or none: that of a measured batch norm is its own. */
static const tailcut_integer_op *linear_of(const machine *m, const tailcut_integer_op *op,
                                           const tailcut_integer_op *end) {
    if (TAILCUT_HAS_STATS && m->model->leaves[op->leaf].norm != TAILCUT_NONE) return &unchanged;
    return TAILCUT_HAS_SCALE && op + 1 < end && op[1].kind == TAILCUT_OP_SCALE ? op + 1 : &unchanged;
}

/* The scale (`which` 0) or shift (1) of a channel of a leaf: measured, or of the linear operation behind it. */
static parts factor_of(const machine *m, const tailcut_integer_op *op, const tailcut_integer_op *linear,
                       uint32_t channel, uint32_t which) {
    const tailcut_integer_leaf *leaf = m->model->leaves + op->leaf;
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
    const tailcut_integer_leaf *leaf = m->model->leaves + op->leaf;
    const int16_t *largest = m->largest[op->leaf - m->stage->first_leaf];
    uint32_t k, count = leaf->is_narrow ? leaf->map.channels : 1;
    bound found = {0, 0};
    found.exponent = make_mix(m, op, factor_of(m, op, linear, channel, 0), channel) + m->arena[leaf->slot];
    if (!leaf->is_narrow) largest += leaf->first + channel;
    for (k = 0; k < count; k++) {
        found.most += (uint32_t)((m->mix[k] < 0 ? -m->mix[k] : m->mix[k]) * (largest[k] + 1));
    }
    return sum_of(found, bound_of(factor_of(m, op, linear, channel, 1)));
}

static bound bound_scaled(bound found, const tailcut_integer_op *op, uint32_t channel) {
    bound scale = bound_of(scale_of(op, channel));
    uint32_t count = bits_of(found.most), less = count > 16 ? count - 16 : 0;
    found.most = halved_up(found.most, less) * scale.most;
    found.exponent += (int32_t)less + scale.exponent;
    if (found.most >> 31) found.most = halved_up(found.most, 1), found.exponent++;
    return sum_of(found, bound_of(shift_of(op, channel)));
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
        } else if (TAILCUT_HAS_SCALE && op->kind == TAILCUT_OP_SCALE) {
            stack[count - 1] = bound_scaled(stack[count - 1], op, own);
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
    for (n = 0; n < stage->num_segments; n++) {
        const tailcut_segment *segment = m->model->segments + stage->first_segment + n;
        for (own = 0; own < segment->channels; own++, channel++) {
            bound found = bound_channel(m, segment, own);
            for (k = 0; TAILCUT_HAS_SCALE && k < stage->num_ops; k++) {
                const tailcut_integer_op *op = m->model->ops + stage->first_op + k;
                if (op->kind != TAILCUT_OP_SCALE) continue;
                found = bound_scaled(found, op, channel);
                make_room(m, found);
            }
        }
    }
    if (m->exponent == NO_EXPONENT) m->exponent = 0; /* zeros alone */
}

/* One row of a leaf, with the linear operation that follows. */
static void read_leaf(machine *m, const tailcut_integer_op *op, const tailcut_integer_op *linear, uint32_t channel,
                      uint32_t y, int32_t *row) {
    const tailcut_integer_leaf *leaf = m->model->leaves + op->leaf;
    uint32_t own = y - leaf->top, width = m->stage->source_width, count = leaf->is_narrow ? leaf->map.channels : 1;
    uint32_t stride = leaf->map.channel_stride, x, k;
    int32_t start = in_units(factor_of(m, op, linear, channel, 1), m->exponent), power;
    const int16_t *rows;
    for (x = 0; (own >= leaf->height || leaf->width != width) && x < width; x++) row[x] = start; /* around the map */
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

static void apply(const machine *m, const tailcut_integer_op *op, uint32_t channel, int32_t *row,
                  const int32_t *other, uint32_t width) {
    parts scale = scale_of(op, channel);
    int32_t factor = scale.mantissa, power = scale.exponent;
    int32_t low = in_units(parts_of(op->low), m->exponent), high = in_units(parts_of(op->high), m->exponent);
    uint32_t x;
    switch (op->kind) {
        case TAILCUT_OP_SCALE: {
            int32_t most = INT32_C(1) << m->stage->row_bits, start = in_units(shift_of(op, channel), m->exponent);
            for (x = 0; TAILCUT_HAS_SCALE && x < width; x++) {
                row[x] = shifted(row[x] * factor, power) + start;
                if (row[x] > most) row[x] = most; /* errors of rounding grow with the factor */
                if (row[x] < -most) row[x] = -most;
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
            for (x = 0; x < width; x++) row[x] += other[x];
            break;
        case TAILCUT_OP_LEAKY:
            if (!TAILCUT_HAS_LEAKY) break;
            for (x = 0; x < width; x++) {
                if (row[x] < 0) row[x] = shifted(row[x] * factor, power);
            }
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
        if (TAILCUT_HAS_ADD && op->kind == TAILCUT_OP_ADD) {
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

/* Which of `count` rows or columns the one at `at` repeats; the first `padding` and those beyond repeat the edge. */
static uint32_t picked(uint32_t at, uint32_t stride, uint32_t padding, uint32_t count) {
    uint32_t place = at * stride;
    place = place < padding ? 0 : place - padding;
    return place < count ? place : count - 1;
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
        evaluate(m, segment, own, picked(y, stage->pool_stride[0], stage->pool_padding[0], stage->source_height),
                 m->before);
        for (x = 0; x < stage->width; x++) {
            row[x] = m->before[picked(x, stage->pool_stride[1], stage->pool_padding[1], width)];
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
    uint32_t n, own, x, y, channel;
    block made;
    if (stage->kind == TAILCUT_STORE) start_out(m, &made, 0);
    for (y = 0; y < stage->height; y++) {
        for (n = 0, channel = 0; n < stage->num_segments; n++) {
            const tailcut_segment *segment = m->model->segments + stage->first_segment + n;
            for (own = 0; own < segment->channels; own++, channel++) {
                input_row(m, segment, own, channel, y, m->row);
                if (TAILCUT_HAS_STORE && stage->kind == TAILCUT_STORE) {
                    made.end = out_row(m, y) + (size_t)channel * stage->out.channel_stride;
                    put(&made, made.end, m->row, stage->width);
                } else {
                    int16_t *into = m->output + stage->output_offset;
                    into += ((size_t)channel * stage->height + y) * stage->width;
                    for (x = 0; x < stage->width; x++) into[x] = (int16_t)m->row[x];
                }
            }
        }
    }
    if (TAILCUT_HAS_STORE && stage->kind == TAILCUT_STORE) {
        end_out(m, &made, m->exponent);
    } else {
        m->exponents[stage->output] = m->exponent;
    }
}

/* ---- batch norm by the input itself ---- */

/* A number times 2^power with the highest bits that 31 bits hold, and its exponent; of a number above 0. */
static bound normalized(uint64_t value, int32_t exponent) {
    bound found;
    while (value >> 31) value >>= 1, exponent++;
    while (value > 0 && value < UINT32_C(1) << 30) value <<= 1, exponent--;
    found.most = (uint32_t)value;
    found.exponent = exponent;
    return found;
}

/* A number in 15 bits and a sign. */
static parts parted(int64_t value, int32_t exponent) {
    parts found;
    int64_t magnitude = value < 0 ? ~value : value;
    uint32_t count = 0;
    while (magnitude >> 15) magnitude >>= 1, count++;
    found.mantissa = (int32_t)(value < 0 ? ~magnitude : magnitude);
    found.exponent = exponent + (int32_t)count;
    return found;
}

static parts sum_of_parts(parts a, parts b) {
    int32_t unit = (a.exponent > b.exponent ? a.exponent : b.exponent) - 14;
    if (a.mantissa == 0) unit = b.exponent - 14;
    if (b.mantissa == 0) unit = a.exponent - 14;
    return parted((int64_t)in_units(a, unit) + in_units(b, unit), unit);
}

/* scale / sqrt(square). */
static parts divided_by_root(parts scale, bound square) {
    uint32_t root = 0, bit = UINT32_C(1) << 15, magnitude;
    parts found;
    square.most >>= square.exponent & 1; /* of 30 or 31 bits */
    square.exponent += square.exponent & 1;
    for (; bit > 0; bit >>= 1) {
        if ((root | bit) * (root | bit) <= square.most) root |= bit;
    }
    magnitude = ((uint32_t)(scale.mantissa < 0 ? -scale.mantissa : scale.mantissa) << 15) / root;
    found = parted((int64_t)magnitude, scale.exponent - 15 - halved(square.exponent, 1));
    if (scale.mantissa < 0) found.mantissa = -found.mantissa;
    return found;
}

/* Sum over all positions of (a - mean_a) * (b - mean_b), of two channels of the map that was written. */
static int64_t product_sum(const machine *m, uint32_t a, uint32_t b, int32_t mean_a, int32_t mean_b) {
    const tailcut_map *out = &m->stage->out;
    int64_t sum = 0;
    uint32_t x, y;
    for (y = 0; y < out->height; y++) {
        const int16_t *one = out_row(m, y) + a * out->channel_stride;
        const int16_t *two = out_row(m, y) + b * out->channel_stride;
        for (x = 0; x < out->width; x++) sum += (one[x] - mean_a) * (two[x] - mean_b);
    }
    return sum;
}

/* Scales and shifts that normalise the channels, from means and covariances of the map that was written. */
static void measure(machine *m) {
    const tailcut_integer_stage *stage = m->stage;
    const tailcut_integer_norm *norm = m->model->norms + stage->norm;
    uint32_t count = stage->out.channels, positions = (uint32_t)stage->out.height * stage->out.width, a, b, c, x, y;
    int32_t *means = take_rows(m, count), *products = take_rows(m, norm->is_narrow ? count * count : count);
    int32_t exponent = m->arena[1 + (m->stage - m->model->stages)], halves = 0;
    const int16_t *table = norm->is_narrow ? make_cosines(m, norm->channels) : NULL;
    int16_t *mix = take(m, count), *into = m->arena + norm->offset;
    int64_t largest = 0;
    for (a = 0; a < count; a++) {
        int32_t sum = 0;
        int64_t square;
        for (y = 0; y < stage->out.height; y++) {
            for (x = 0; x < stage->out.width; x++) sum += out_row(m, y)[a * stage->out.channel_stride + x];
        }
        means[a] = divided(sum, positions);
        square = product_sum(m, a, a, means[a], means[a]);
        if (square > largest) largest = square;
    }
    for (; largest >> 30; largest >>= 1) halves++;
    for (a = 0; a < count; a++) {
        for (b = norm->is_narrow ? 0 : a; b <= a; b++) {
            int64_t sum = product_sum(m, a, b, means[a], means[b]);
            int32_t product = (int32_t)(sum < 0 ? ~(~sum >> halves) : sum >> halves);
            if (!norm->is_narrow) products[a] = product;
            if (norm->is_narrow) products[a * count + b] = products[b * count + a] = product;
        }
    }
    for (c = 0; c < norm->channels; c++) {
        int64_t mean = 0, square = 0;
        bound variance = {0, 0};
        parts scale, shift;
        if (!norm->is_narrow) {
            mean = (int64_t)means[c] * ONE;
            square = products[c];
        } else {
            cosines_of(table, norm->channels, c, count, mix);
            for (a = 0; a < count; a++) {
                int64_t part = 0;
                for (b = 0; b < count; b++) part += (int64_t)products[a * count + b] * mix[b];
                mean += (int64_t)means[a] * mix[a];
                square += (part < 0 ? ~(~part >> 14) : part >> 14) * mix[a];
            }
            square = square < 0 ? 0 : square >> 14;
        }
        if (square > 0) {
            variance = normalized((uint64_t)square, halves + 2 * exponent);
            variance.most /= positions;
        }
        variance = sum_of(variance, bound_of(parts_of(norm->epsilon)));
        variance = normalized(variance.most, variance.exponent);
        scale = divided_by_root(parts_of(norm->gamma != NULL ? norm->gamma[c] : (ONE << 8) + 128 - 14), variance);
        shift = parted(mean, exponent - 14);
        shift = parted(-(int64_t)shift.mantissa * scale.mantissa, shift.exponent + scale.exponent);
        if (norm->beta != NULL) shift = sum_of_parts(shift, parts_of(norm->beta[c]));
        into[4 * c] = (int16_t)scale.mantissa;
        into[4 * c + 1] = (int16_t)scale.exponent;
        into[4 * c + 2] = (int16_t)shift.mantissa;
        into[4 * c + 3] = (int16_t)shift.exponent;
    }
}

/* ---- the whole ---- */

static void run_stage(machine *m) {
    const tailcut_integer_stage *stage = m->stage;
    const tailcut_integer_weight *weight = stage->weight == TAILCUT_NONE ? NULL : m->model->weights + stage->weight;
    if (stage->kind == TAILCUT_CONV || is_transposed(stage)) {
        convolve(m, weight);
        return;
    }
    if (TAILCUT_HAS_WHOLE && stage->kind == TAILCUT_WHOLE) {
        multiply_whole(m, weight);
        return;
    }
    m->mix = take(m, stage->mix);
    m->stack = take_rows(m, (uint32_t)stage->depth * stage->source_width);
    m->before = take_rows(m, stage->resample == TAILCUT_AS_IT_IS ? 0 : 2u * stage->source_width);
    m->row = take_rows(m, stage->width);
    start_leaves(m);
    choose_exponent(m);
    if (TAILCUT_HAS_PROJECT && stage->kind == TAILCUT_PROJECT) {
        project(m);
    } else if (TAILCUT_HAS_MEAN && stage->kind == TAILCUT_MEAN) {
        average(m);
    } else {
        store(m);
    }
}

tailcut_status tailcut_run_integer(const tailcut_integer_model *model, const int16_t *input, int32_t exponent,
                                   int16_t *output, int32_t *exponents, int16_t *arena, int32_t *rows) {
    machine m;
    uint32_t n;
    if (model == NULL || input == NULL || output == NULL || exponents == NULL) return TAILCUT_BAD_ARGUMENT;
    if (arena == NULL || rows == NULL || exponent < -100 || exponent > 100) return TAILCUT_BAD_ARGUMENT;
    m.model = model;
    m.input = input;
    m.output = output;
    m.exponents = exponents;
    m.arena = arena;
    m.arena[0] = (int16_t)exponent;
    for (n = 0; n < model->num_stages; n++) {
        m.stage = model->stages + n;
        m.scratch = arena + m.stage->scratch;
        m.rows = rows;
        run_stage(&m);
        if (!TAILCUT_HAS_STATS || m.stage->norm == TAILCUT_NONE) continue;
        m.scratch = arena + m.stage->scratch;
        m.rows = rows;
        measure(&m);
    }
    return TAILCUT_OK;
}

void tailcut_integer_pixels(const uint8_t *pixels, uint32_t count, int32_t scale, int32_t shift, int16_t *into) {
    uint32_t n;
    for (n = 0; n < count; n++) {
        int32_t value = halved(pixels[n] * scale + shift + 128, 8);
        into[n] = (int16_t)(value > INT16_MAX ? INT16_MAX : value < INT16_MIN ? INT16_MIN : value);
    }
}
