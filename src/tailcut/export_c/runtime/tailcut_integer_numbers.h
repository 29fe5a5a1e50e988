/* What is known while a stage runs, numbers in 16 and 32 bits, cosines, and what is written. A part of
 * tailcut_run_integer.c. */
#ifndef TAILCUT_INTEGER_NUMBERS_H
#define TAILCUT_INTEGER_NUMBERS_H

#include "tailcut_run_integer.h"
#include "tailcut_walk.h"

#define HAS_STAGE_OPS (TAILCUT_HAS_SCALE || TAILCUT_HAS_CLAMP || TAILCUT_HAS_LEAKY || TAILCUT_HAS_FUNCTION)
#define HAS_BOUND_OPS (TAILCUT_HAS_SCALE || TAILCUT_HAS_CLAMP_BOUND || TAILCUT_HAS_FUNCTION) /* that change a bound */
#define SLACK 16                  /* what rounding may add to the number of a row */
#define ONE 16384                 /* cosine 1 */
#define LARGEST (INT32_C(1) << 30) /* what a scaled number is limited to */
#define NO_EXPONENT (-32768)
#define TAILCUT_MAX_UNITS 16 /* of one stage; the export keeps to it */

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
    int32_t units[TAILCUT_HAS_UNIT ? TAILCUT_MAX_UNITS : 1]; /* exponents of the stage's other rows */
    uint32_t unit;                              /* whose exponent that is */
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

static int32_t limited(int32_t value, int32_t most) { return value > most ? most : value < -most ? -most : value; }

/* value * 2^power within `most`; |value| <= 2^30. */
static int32_t saturated(int32_t value, int32_t power, int32_t most) {
    if (power > 0) {
        int32_t limit = power > 30 ? 0 : most >> power;
        if (value <= limit && value >= -limit) return shifted(value, power);
        return value > 0 ? most : -most;
    }
    return limited(rounded(value, (uint32_t)-power), most);
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
    return saturated(number.mantissa, number.exponent - exponent, LARGEST);
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

static bound product_of(bound a, bound b) {
    uint32_t count = bits_of(a.most), less = count > 16 ? count - 16 : 0, other;
    bound product;
    count = bits_of(b.most);
    other = count > 15 ? count - 15 : 0;
    product.most = halved_up(a.most, less) * halved_up(b.most, other);
    product.exponent = a.exponent + (int32_t)less + b.exponent + (int32_t)other;
    if (product.most >> 31) product.most = halved_up(product.most, 1), product.exponent++;
    return product;
}

static bound bound_of(parts number) {
    bound found;
    found.most = (uint32_t)(number.mantissa < 0 ? -number.mantissa : number.mantissa);
    found.exponent = number.exponent;
    return found;
}

static int is_above(bound a, bound b) {
    uint32_t bits = bits_of(a.most), other = bits_of(b.most);
    int32_t more = a.exponent + (int32_t)bits - b.exponent - (int32_t)other;
    if (a.most == 0 || b.most == 0) return a.most > 0;
    return more > 0 || (more == 0 && a.most << (32 - bits) > b.most << (32 - other));
}

/* Numbers within a bound, limited to `low` and `high`: as large as these make them, and no larger than they allow. */
static bound bound_clamped(bound found, parts low, parts high) {
    bound least = bound_of(low), most = bound_of(high);
    if (low.mantissa > 0 && is_above(least, found)) found = least;
    if (high.mantissa < 0 && is_above(most, found)) found = most;
    if (is_above(least, most)) most = least;
    return is_above(found, most) ? most : found;
}

/* The least exponent in which a number within the bound has at most `bits` bits, with SLACK to spare. */
static int32_t exponent_for(bound b, uint32_t bits) {
    uint32_t count = bits_of(b.most);
    uint32_t scaled = count > bits ? halved_up(b.most, count - bits) : b.most << (bits - count);
    return b.exponent + (int32_t)count - (int32_t)bits + (scaled + SLACK > UINT32_C(1) << bits);
}

#endif
