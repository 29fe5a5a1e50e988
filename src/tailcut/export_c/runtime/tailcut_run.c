/* The stages of a network, row by row: nothing as wide as a map of the dense network is ever stored. */
#include "tailcut_features.h"
#include "tailcut_run.h"
#include "tailcut_walk.h"

#include <string.h>

#ifndef TAILCUT_MAX_LEAVES
#define TAILCUT_MAX_LEAVES 8 /* of one stage; the export keeps to it */
#endif

/* Less code in place of speed, and nothing prepared. */
#ifndef TAILCUT_SMALL
#ifdef __OPTIMIZE_SIZE__
#define TAILCUT_SMALL 1
#else
#define TAILCUT_SMALL 0
#endif
#endif
#define AT_ONCE (TAILCUT_SMALL ? 1 : 4)    /* channels of an expression, at most */
#define VECTOR 16 /* channels of maps of one number, side by side */
#define NUM_SUMS (TAILCUT_SMALL ? 1u : 16u) /* that grow side by side in place of one */

#define HAS_POOLING (TAILCUT_HAS_MAX || TAILCUT_HAS_AVERAGE)
#define HAS_PICKING (TAILCUT_HAS_PICK || TAILCUT_HAS_NEAREST)
#define HAS_OTHER_SIZES (HAS_PICKING || TAILCUT_HAS_BILINEAR)
#define HAS_RESAMPLING (HAS_POOLING || HAS_OTHER_SIZES)
#define IS_GROUPED(groups) (TAILCUT_HAS_GROUPS && (groups) > 1)
#define is_pooled(stage) (TAILCUT_HAS_POOLED && (stage)->out_pool[0] > 0)
#define HAS_STORE (TAILCUT_HAS_STORE || TAILCUT_HAS_SOFTMAX)

/* What is done with the floats of a prepared buffer. */
enum { PREPARED_READ, PREPARED_COUNT, PREPARED_MAKE };
#define HEAD_FLOATS 2 /* of a prepared buffer, which say whose it is */

/* What is known while a stage runs. */
typedef struct {
    const tailcut_model *model;
    const tailcut_stage *stage;
    const float *input;
    float *output;
    float *arena;
    float *scratch;                           /* free floats */
    const float *cosines[TAILCUT_MAX_LEAVES]; /* of each narrow leaf's channels, see start_cosines */
    const float *up_core[TAILCUT_MAX_LEAVES];
    float *up_rows[TAILCUT_MAX_LEAVES];
    const float *in_cosines; /* of the weight's input channels, NULL where these are whole */
    const float *core;
    uint32_t first; /* output whose weights the core begins with */
    uint32_t end;   /* one behind its last */
    float *line;   /* the weights of one output, where they are decoded one by one */
    float *stack;  /* rows of expressions, but for the lowest */
    float *before; /* rows before their change of size */
    float *row;    /* a row of the stage's input */
    float *mix;    /* factors of one channel */
    float *in_mix; /* of the layer's input, for four channels */
#if !TAILCUT_SMALL
    float *prepared; /* NULL without such a buffer */
    uint64_t kept;   /* floats of it that are used */
    int way;         /* PREPARED_READ, ... */
    int is_vector;   /* whether the stage reads maps of one number */
#endif
} machine;

static float *take(machine *m, uint32_t count) {
    float *found = m->scratch;
    m->scratch += count;
    return found;
}

#if !TAILCUT_SMALL

#define is_prepared(m) ((m)->prepared != NULL)
#define is_making(m) ((m)->prepared == NULL || (m)->way == PREPARED_MAKE) /* of what does not depend on the input */
#define is_running(m) ((m)->way == PREPARED_READ)
#define is_vector(m) ((m)->is_vector)

/* So many floats that do not depend on the input: of the prepared buffer, or of the arena where there is none. */
static float *keep(machine *m, uint32_t count) {
    float *found = m->prepared;
    if (found == NULL) return take(m, count);
    if (m->way != PREPARED_COUNT) found += m->kept;
    m->kept += count;
    return found;
}

#else

#define is_prepared(m) ((void)(m), 0)
#define is_making(m) 1
#define is_vector(m) ((void)(m), 0)
#define keep take

#endif

/* ---- mathematics ---- */

static float root(float value) { /* of 0 or more */
    float guess, least = 1e-30f;
    uint32_t word;
    int n;
    if (value < least) return 0.0f;
    memcpy(&word, &value, sizeof word);
    word = (word >> 1) + 0x1fc00000u;
    memcpy(&guess, &word, sizeof guess);
    for (n = 0; n < 4; n++) guess = 0.5f * (guess + value / guess);
    return guess;
}

static float exponential(float x) {
    float y = x * 1.44269504f, sum;
    int32_t whole;
    uint32_t word;
    if (x > 88.0f) x = 88.0f, y = x * 1.44269504f;
    if (x < -87.0f) return 0.0f;
    whole = (int32_t)(y < 0 ? y - 0.5f : y + 0.5f);
    x = (x - (float)whole * 0.693359375f) + (float)whole * 2.12194440e-4f;
    sum = 1.0f +
          x * (1.0f + x * (0.5f + x * (1.6666667e-1f + x * (4.1666667e-2f + x * (8.3333333e-3f + x * 1.3888889e-3f)))));
    word = (uint32_t)(whole + 127) << 23;
    memcpy(&y, &word, sizeof y);
    return sum * y;
}

static float hyperbolic_tangent(float x) {
    float e, xx = x * x;
    if (xx < 0.01f) return x * (1.0f - xx * (0.33333333f - xx * (0.13333333f - xx * 0.053968254f)));
    e = exponential(-2.0f * (x < 0 ? -x : x));
    e = (1.0f - e) / (1.0f + e);
    return x < 0 ? -e : e;
}

static float sigmoid(float x) {
    return x < 0 ? 1.0f - 1.0f / (1.0f + exponential(x)) : 1.0f / (1.0f + exponential(-x));
}

static float gelu(float x) { /* by the error function: Abramowitz and Stegun 7.1.28 squared up, to 3e-7 */
    float z = (x < 0 ? -x : x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
    float tail = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    tail *= exponential(-z * z);
    return x < 0 ? 0.5f * x * tail : x * (1.0f - 0.5f * tail);
}

/* ---- rows ---- */

#define LARGEST 3.4028235e38f

static void clear(float *row, uint32_t count) { memset(row, 0, count * sizeof *row); }

/* What is done to the sums that rows become, in the same pass: row = clamp(start + scale * sum). */
typedef struct {
    float scale[AT_ONCE];
    float start[AT_ONCE];
    float low;
    float high;
} finish;

#if !TAILCUT_SMALL
static const finish unbounded = {{0}, {0}, -LARGEST, LARGEST};
#endif

static float clamped(float value, const finish *last) {
    value = value < last->low ? last->low : value;
    return value > last->high ? last->high : value;
}

/* row = clamp(start + sum of factors[a] * rows[a * stride]), four at a time so that `row` is touched less. */
static void combine(float *row, const float *rows, uint32_t stride, const float *factors, uint32_t count,
                    uint32_t width, float start, const finish *last) {
    uint32_t a = 0, x;
    for (x = 0; x < width; x++) row[x] = start;
    for (; a + 4 <= count; a += 4, rows += 4 * (size_t)stride) {
        const float *r0 = rows, *r1 = rows + stride, *r2 = r1 + stride, *r3 = r2 + stride;
        float f0 = factors[a], f1 = factors[a + 1], f2 = factors[a + 2], f3 = factors[a + 3];
        for (x = 0; x < width; x++) {
            float sum = row[x] + (f0 * r0[x] + f1 * r1[x] + (f2 * r2[x] + f3 * r3[x]));
            row[x] = a + 4 == count ? clamped(sum, last) : sum;
        }
    }
    for (; a < count; a++, rows += stride) {
        float f = factors[a];
        for (x = 0; x < width; x++) {
            float sum = row[x] + f * rows[x];
            row[x] = a + 1 == count ? clamped(sum, last) : sum;
        }
    }
}

#if !TAILCUT_SMALL

#define SUM(j) (f[j][0] * z0 + f[j][1] * z1 + (f[j][2] * z2 + f[j][3] * z3))

/* factors[a * along + j * across] of four rows a from `first` on, for four rows j; 0 where a is not below `count`. */
static void take_factors(float f[4][4], const float *factors, uint32_t across, uint32_t along, uint32_t first,
                         uint32_t count) {
    uint32_t j, k;
    for (k = 0; k < 4; k++) {
        for (j = 0; j < 4; j++) f[j][k] = first + k < count ? factors[(first + k) * along + j * across] : 0.0f;
    }
}

/* Four rows of `into` += sum over a of factors[a * along + j * across] * rows[a], which are read once for all four. */
static void multiply_four(float *restrict into, uint32_t pitch, const float *restrict rows, uint32_t stride,
                          uint32_t count, const float *factors, uint32_t across, uint32_t along, uint32_t width) {
    float *i0 = into, *i1 = i0 + pitch, *i2 = i1 + pitch, *i3 = i2 + pitch;
    uint32_t a, x;
    for (a = 0; a < count; a += 4, rows += 4 * (size_t)stride) {
        const float *r0 = rows, *r1 = a + 1 < count ? r0 + stride : r0, *r2 = a + 2 < count ? r1 + stride : r0,
                    *r3 = a + 3 < count ? r2 + stride : r0;
        float f[4][4];
        take_factors(f, factors, across, along, a, count);
        for (x = 0; x < width; x++) {
            float z0 = r0[x], z1 = r1[x], z2 = r2[x], z3 = r3[x];
            i0[x] += SUM(0);
            i1[x] += SUM(1);
            i2[x] += SUM(2);
            i3[x] += SUM(3);
        }
    }
}

/* As `combine`, for four rows with factors one after the other. */
static void combine_four(float *restrict into, uint32_t pitch, const float *restrict rows, uint32_t stride,
                         const float *factors, uint32_t count, uint32_t width, const finish *last) {
    finish own = *last; /* which no row overlaps */
    float *i0 = into, *i1 = i0 + pitch, *i2 = i1 + pitch, *i3 = i2 + pitch;
    uint32_t j, x;
    if (count == 4) {
        const float *r0 = rows, *r1 = r0 + stride, *r2 = r1 + stride, *r3 = r2 + stride;
        float f[4][4];
        take_factors(f, factors, 4, 1, 0, 4);
        for (x = 0; x < width; x++) {
            float z0 = r0[x], z1 = r1[x], z2 = r2[x], z3 = r3[x];
            i0[x] = clamped(own.start[0] + SUM(0), &own);
            i1[x] = clamped(own.start[1] + SUM(1), &own);
            i2[x] = clamped(own.start[2] + SUM(2), &own);
            i3[x] = clamped(own.start[3] + SUM(3), &own);
        }
        return;
    }
    for (j = 0; j < 4; j++) {
        for (x = 0; x < width; x++) into[j * pitch + x] = own.start[j];
    }
    multiply_four(into, pitch, rows, stride, count, factors, count, 1, width);
    for (j = 0; j < 4; j++) {
        for (x = 0; x < width; x++) into[j * pitch + x] = clamped(into[j * pitch + x], &own);
    }
}

#endif

/* into[b * width] += sum over c of mix[c * count + b] * rows[c * width], for up to four rows. */
static void spread_rows(float *into, uint32_t count, const float *mix, const float *rows, uint32_t num_rows,
                        uint32_t width) {
    uint32_t b = 0, c, x;
#if !TAILCUT_SMALL
    for (; b + 4 <= count; b += 4, into += 4 * (size_t)width) {
        multiply_four(into, width, rows, width, num_rows, mix + b, 1, count, width);
    }
#endif
    for (; b < count; b++, into += width) {
        if (num_rows == 4) {
            const float *r1 = rows + width, *r2 = r1 + width, *r3 = r2 + width;
            float f0 = mix[b], f1 = mix[count + b], f2 = mix[2 * count + b], f3 = mix[3 * count + b];
            for (x = 0; x < width; x++) into[x] += f0 * rows[x] + f1 * r1[x] + (f2 * r2[x] + f3 * r3[x]);
        } else {
            for (c = 0; c < num_rows; c++) {
                float f = mix[c * count + b];
                for (x = 0; x < width; x++) into[x] += f * rows[c * width + x];
            }
        }
    }
}

/* cos(pi / 2 * n / size) for n from 0 to `size`. */
static const float *make_cosines(machine *m, uint32_t size) {
    float *table = take(m, size + 1);
    uint32_t n, k;
    for (n = 0; n <= size; n++) {
        uint32_t is_sine = 2 * n > size; /* of the rest: both series end soon below pi / 4 */
        float x = 1.57079633f * (float)(is_sine ? size - n : n) / (float)size, term = is_sine ? x : 1.0f, sum = term;
        for (k = 1 + is_sine; k < 10; k += 2) {
            term *= -x * x / (float)(k * (k + 1));
            sum += term;
        }
        table[n] = sum;
    }
    return table;
}

/* cos(pi (2 place + 1) k / (2 size)) for k below `count`. */
static void cosines_of(const float *table, uint32_t size, uint32_t place, uint32_t count, float *into) {
    uint32_t step = 2 * place + 1, angle = 0, k;
    for (k = 0; k < count; k++) {
        uint32_t turn = angle > 2 * size ? 4 * size - angle : angle;
        float cosine = table[turn > size ? 2 * size - turn : turn];
        into[k] = turn > size ? -cosine : cosine;
        angle += step;
        angle -= angle >= 4 * size ? 4 * size : 0;
    }
}

/* What `factors_of` takes: the cosines of a long axis, or where they are prepared all factors: (size, count), or for
 * `read_vector` (count, size). */
static const float *start_cosines(machine *m, uint32_t size, uint32_t count, int is_of_vector) {
#if !TAILCUT_SMALL
    if (is_prepared(m)) {
        float *factors = keep(m, size * count), *after = m->scratch;
        if (is_making(m)) {
            const float *table = make_cosines(m, size);
            uint32_t place, k;
            for (place = 0; place < size; place++) {
                cosines_of(table, size, place, count, is_of_vector ? m->mix : factors + place * count);
                for (k = 0; is_of_vector && k < count; k++) factors[k * size + place] = m->mix[k];
            }
            m->scratch = after;
        }
        return factors;
    }
#endif
    (void)count;
    (void)is_of_vector;
    return make_cosines(m, size);
}

/* As `cosines_of`: where they are prepared, else in `into`. */
static const float *factors_of(const machine *m, const float *cosines, uint32_t size, uint32_t place, uint32_t count,
                               float *into) {
    if (is_prepared(m)) return cosines + (size_t)place * count;
    cosines_of(cosines, size, place, count, into);
    return into;
}

/* ---- weights ---- */

/* Number `place` as it is stored, for the step to be multiplied by. */
static float number(const tailcut_array *array, uint32_t place) {
    uint32_t half, word;
    float value;
    if (TAILCUT_HAS_FLOAT32 && array->type == TAILCUT_FLOAT32) return ((const float *)array->numbers)[place];
    if (TAILCUT_HAS_INT16 && array->type == TAILCUT_INT16) return (float)((const int16_t *)array->numbers)[place];
    if (TAILCUT_HAS_INT8 && array->type == TAILCUT_INT8) return (float)((const int8_t *)array->numbers)[place];
    if (!TAILCUT_HAS_FLOAT16) return 0.0f;
    half = ((const uint16_t *)array->numbers)[place];
    word = ((half >> 10 & 31) + 112) << 23 | (half & 1023) << 13;
    memcpy(&value, &word, sizeof value);
    if ((half >> 10 & 31) == 0) value = (float)(half & 1023) * 5.9604644775390625e-8f; /* 2^-24 */
    return half >> 15 ? -value : value;
}

/* cos(pi (2 place + 1) k / (2 size)) of a short axis. */
static float cosine_at(const float *table, uint32_t size, uint32_t place, uint32_t k) {
    uint32_t angle = (2 * place + 1) * k % (4 * size), turn = angle > 2 * size ? 4 * size - angle : angle;
    return turn > size ? -table[2 * size - turn] : table[turn];
}

static float next_number(walk *w) {
#if TAILCUT_HAS_CODED
    if (w->weight->array.type == TAILCUT_CODED) return (float)coded_number(w);
#endif
    return number(&w->weight->array, w->place);
}

/* The next coefficient times the scales of its cosines; 0 behind the last one. */
static int step(walk *w, float *value) {
    const tailcut_weight *weight = w->weight;
    uint32_t axis;
    if (w->place == weight->array.count) return 0;
    if (w->place > 0) tailcut_order_next(&w->order);
    *value = weight->array.step * next_number(w);
    w->place++;
    /* Cosine 0 of an axis is scaled by 1 / sqrt(size), which is in the step, the others by sqrt(2) times as much. */
    for (axis = 0; axis < 4; axis++) {
        if (w->order.index[axis] > 0 && weight->axes >> axis & 1) *value *= 1.41421356f;
    }
    return 1;
}

/* Cosine `k` of an axis of the kernel at `place`; of an axis that is whole, whether it is there. */
static float kernel_cosine(const tailcut_weight *weight, uint32_t axis, const float *table, uint32_t place,
                           uint32_t k) {
    return weight->axes >> axis & 1 ? cosine_at(table, weight->sizes[axis], place, k) : k == place ? 1.0f : 0.0f;
}

/* The core (num_out, num_in, rows, columns) of a truncated weight, with the scales of all cosines in it: `count`
 * outputs from `first` on, which are those of the narrow axis, or the wide ones. */
static const float *make_core(machine *m, const tailcut_weight *weight, uint32_t first, uint32_t count, int is_wide) {
    uint32_t taps = (uint32_t)weight->sizes[2] * weight->sizes[3], size = weight->corner[1] * taps, axis, k, y, x, a;
    float *core = keep(m, count * size), *after = m->scratch, *narrow = core, *lines[2], value;
    uint32_t wide = first, num_wide = count;
    const float *tables[2];
    walk w;
    if (!is_making(m)) return core;
    if (TAILCUT_HAS_POOLED && is_wide) {
        first = 0;
        count = weight->corner[0];
        narrow = take(m, count * size);
    }
    for (axis = 0; axis < 2; axis++) {
        tables[axis] = make_cosines(m, weight->sizes[2 + axis]);
        lines[axis] = take(m, weight->sizes[2 + axis]);
    }
    clear(narrow, count * size);
    start_walk(&w, weight);
    while (step(&w, &value)) {
        float *at;
        a = w.order.index[w.out_axis] - first;
        if (TAILCUT_HAS_PARTS && a >= count) continue;
        at = narrow + a * size + w.order.index[w.in_axis] * taps;
        for (axis = 0; axis < 2; axis++) {
            for (k = 0; k < weight->sizes[2 + axis]; k++) {
                lines[axis][k] = kernel_cosine(weight, 2 + axis, tables[axis], k, w.order.index[2 + axis]);
            }
        }
        for (y = 0; y < weight->sizes[2]; y++) {
            for (x = 0; x < weight->sizes[3]; x++) *at++ += value * lines[0][y] * lines[1][x];
        }
    }
    if (TAILCUT_HAS_POOLED && is_wide) {
        const float *cosines = make_cosines(m, weight->sizes[0]);
        clear(core, num_wide * size);
        for (a = 0; a < num_wide * count; a++) {
            float factor = cosine_at(cosines, weight->sizes[0], wide + a / count, a % count);
            for (k = 0; k < size; k++) core[a / count * size + k] += factor * narrow[a % count * size + k];
        }
    }
    m->scratch = after;
    return core;
}

static int is_narrow_out(const tailcut_weight *weight) { return weight->axes >> (weight->is_swapped ? 1 : 0) & 1; }

static int is_narrow_in(const tailcut_weight *weight) { return weight->axes >> (weight->is_swapped ? 0 : 1) & 1; }

/* The weights (num_in, rows, columns) of output `a`. */
static const float *core_of(machine *m, const tailcut_weight *weight, uint32_t a) {
    uint32_t count = (uint32_t)weight->corner[1] * weight->sizes[2] * weight->sizes[3], n;
    if (!TAILCUT_HAS_DENSE || m->core != NULL) return m->core + (size_t)(a - m->first) * count;
    for (n = 0; n < count; n++) m->line[n] = weight->array.step * number(&weight->array, a * count + n);
    return m->line;
}

/* The weights (in channels of a group, taps) of one output channel of a grouped convolution. */
static const float *grouped_weights(machine *m, const tailcut_weight *weight, uint32_t channel,
                                    const float *out_cosines, float *into) {
    uint32_t num_in = weight->corner[1], inner = weight->sizes[1], taps = (uint32_t)weight->sizes[2] * weight->sizes[3];
    uint32_t a, b, i, t, first = channel, last = channel + 1;
    float *in_mix = m->mix + weight->corner[0];
    if (!weight->is_truncated) return core_of(m, weight, channel);
    if (!is_making(m)) return m->core + (size_t)channel * inner * taps;
    if (out_cosines != NULL) {
        cosines_of(out_cosines, weight->sizes[0], channel, weight->corner[0], m->mix);
        first = 0;
        last = weight->corner[0];
    }
    clear(into, inner * taps);
    for (i = 0; i < inner; i++) {
        if (m->in_cosines != NULL) cosines_of(m->in_cosines, inner, i, num_in, in_mix);
        for (a = first; a < last; a++) {
            for (b = m->in_cosines != NULL ? 0 : i; b < (m->in_cosines != NULL ? num_in : i + 1); b++) {
                float factor = (out_cosines ? m->mix[a] : 1.0f) * (m->in_cosines ? in_mix[b] : 1.0f);
                for (t = 0; t < taps; t++) into[i * taps + t] += factor * m->core[(a * num_in + b) * taps + t];
            }
        }
    }
    return into;
}

#if !TAILCUT_SMALL && TAILCUT_HAS_GROUPS

/* The weights of all output channels of a truncated grouped convolution. */
static void prepare_groups(machine *m, const tailcut_weight *weight) {
    uint32_t count = (uint32_t)weight->sizes[1] * weight->sizes[2] * weight->sizes[3], a;
    float *kept = keep(m, m->stage->out.channels * count), *after = m->scratch, *prepared = m->prepared;
    if (is_making(m)) {
        const float *out_cosines = is_narrow_out(weight) ? make_cosines(m, weight->sizes[0]) : NULL;
        m->prepared = NULL; /* so that the core is made in the arena */
        m->core = make_core(m, weight, 0, weight->corner[0], 0);
        for (a = 0; a < m->stage->out.channels; a++) grouped_weights(m, weight, a, out_cosines, kept + a * count);
        m->prepared = prepared;
        m->scratch = after;
    }
    m->core = kept;
}

#endif

#if !TAILCUT_SMALL && TAILCUT_HAS_DENSE

static const float *prepare_dense(machine *m, const tailcut_array *array) {
    float *kept = keep(m, array->count);
    uint32_t n;
    for (n = 0; is_making(m) && n < array->count; n++) kept[n] = array->step * number(array, n);
    return kept;
}

#endif

/* The core of a truncated weight; a dense one is read where it lies, or output by output into a line. */
static void start_weight(machine *m, const tailcut_weight *weight) {
    m->core = NULL;
    m->end = m->stage->out.channels;
    if (TAILCUT_HAS_PARTS && !is_prepared(m) && m->end - m->first > m->stage->part) m->end = m->first + m->stage->part;
    if (m->stage->kind == TAILCUT_PROJECT || m->stage->kind == TAILCUT_WHOLE) return;
    if (TAILCUT_HAS_TRUNCATED && (!TAILCUT_HAS_DENSE || weight->is_truncated)) {
        uint32_t count = IS_GROUPED(m->stage->groups) ? weight->corner[0] : m->end - m->first;
#if !TAILCUT_SMALL && TAILCUT_HAS_GROUPS
        if (is_prepared(m) && m->stage->groups > 1) {
            prepare_groups(m, weight);
            return;
        }
#endif
        m->core = make_core(m, weight, m->first, count, is_pooled(m->stage) && is_narrow_out(weight));
    } else if (weight->array.type == TAILCUT_FLOAT32) {
        m->core = weight->array.numbers;
#if !TAILCUT_SMALL && TAILCUT_HAS_DENSE
    } else if (is_prepared(m)) {
        m->core = prepare_dense(m, &weight->array);
#endif
    } else if (m->stage->kind != TAILCUT_FLAT) {
        m->line = take(m, (uint32_t)weight->corner[1] * weight->sizes[2] * weight->sizes[3]);
    }
}

/* ---- expressions ---- */

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

/* `num` channels of a leaf with one number each, scaled by `linear` and within the bounds of `last`. */
static void read_vector(machine *m, const tailcut_op *linear, uint32_t number_of_leaf, uint32_t channel, uint32_t num,
                        float *row, const finish *last) {
    const tailcut_leaf *leaf = m->model->leaves + number_of_leaf;
    const float *values = row_of(m, &leaf->map, 0), *cosines = m->cosines[number_of_leaf - m->stage->first_leaf];
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
                    read_vector(m, linear, leaf, channel, num, top, &last);
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

static void pool(machine *m, const tailcut_segment *segment, uint32_t channel, uint32_t num, uint32_t y,
                 float *row) {
    const tailcut_stage *stage = m->stage;
    int is_max = !TAILCUT_HAS_AVERAGE || (TAILCUT_HAS_MAX && stage->resample == TAILCUT_MAX);
    uint32_t size = num * stage->source_width, rows = 0, columns = 0, dy, dx, x, j;
    float *sum = m->before, *next = sum;
    for (dy = 0; dy < stage->pool_kernel[0]; dy++) {
        uint32_t from = y * stage->pool_stride[0] + dy - stage->pool_padding[0];
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
            columns = 0;
            for (dx = 0; dx < stage->pool_kernel[1]; dx++) {
                uint32_t at = x * stage->pool_stride[1] + dx - stage->pool_padding[1];
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

/* Which of `count` rows or columns the one at `at` repeats; the first `padding` and those beyond repeat the edge. */
static uint32_t picked(uint32_t at, uint32_t stride, uint32_t padding, uint32_t count) {
    uint32_t place = at * stride;
    place = place < padding ? 0 : place - padding;
    return place < count ? place : count - 1;
}

static void enlarge(machine *m, const tailcut_segment *segment, uint32_t channel, uint32_t y, float *row) {
    const tailcut_stage *stage = m->stage;
    uint32_t x, first, width = stage->source_width;
    float down = 0.0f, right;
    if (TAILCUT_HAS_PICK && stage->resample == TAILCUT_PICK) {
        evaluate(m, segment, channel, 1,
                 picked(y, stage->pool_stride[0], stage->pool_padding[0], stage->source_height), m->before);
        for (x = 0; x < stage->width; x++)
            row[x] = m->before[picked(x, stage->pool_stride[1], stage->pool_padding[1], width)];
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

/* ---- layers ---- */

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

/* A linear layer over all numbers of a map, in the order channel, row, column. */
static void multiply_flat(machine *m, const tailcut_weight *weight) {
    const tailcut_stage *stage = m->stage;
    const tailcut_segment *segment = m->model->segments + stage->first_segment;
    uint32_t size = (uint32_t)stage->channels * stage->height * stage->width, num_in = weight->corner[1];
    uint32_t n, own, x, y, a, b, channel = 0;
    float *narrow = m->in_cosines ? take(m, num_in) : NULL, *out = m->arena + stage->out.offset;
    clear(m->in_cosines ? narrow : out, m->in_cosines ? num_in : stage->out.channels);
    for (n = 0; n < stage->num_segments; n++, segment++) {
        for (own = 0; own < segment->channels; own++, channel++) {
            for (y = 0; y < stage->height; y++) {
                uint32_t place = (channel * stage->height + y) * stage->width;
                spread_leaves(m, y);
                input_row(m, segment, own, channel, y, m->row);
                for (x = 0; x < stage->width; x++, place++) {
                    if (m->in_cosines != NULL) {
                        const float *mix = factors_of(m, m->in_cosines, size, place, num_in, m->mix);
                        for (b = 0; b < num_in; b++) narrow[b] += mix[b] * m->row[x];
                    } else if (m->core != NULL) {
                        for (a = 0; a < stage->out.channels; a++)
                            out[a] += m->core[(size_t)a * size + place] * m->row[x];
                    } else {
                        for (a = 0; a < stage->out.channels; a++)
                            out[a] += weight->array.step * number(&weight->array, a * size + place) * m->row[x];
                    }
                }
            }
        }
    }
    if (m->in_cosines == NULL) return;
    for (a = 0; a < stage->out.channels; a++) {
        out[a] = 0.0f;
        for (b = 0; b < num_in; b++) out[a] += m->core[(size_t)a * num_in + b] * narrow[b];
    }
}

/* Whether narrow numbers are (in channels, rows, columns), not (rows, columns, in channels): the longer one inside. */
static int has_columns_inside(const tailcut_weight *weight) {
    return TAILCUT_SMALL || weight->corner[3] > weight->corner[1] || !is_narrow_in(weight);
}

/* The place among the narrow numbers of the coefficient that a walk is at. */
static uint32_t narrow_place(const walk *w) {
    const uint32_t *at = w->order.index;
    const uint16_t *corner = w->weight->corner;
    if (has_columns_inside(w->weight)) return (at[w->in_axis] * corner[2] + at[2]) * corner[3] + at[3];
    return (at[2] * corner[3] + at[3]) * corner[1] + at[w->in_axis];
}

#if TAILCUT_SMALL

/* Add a row of one input channel to narrow numbers: to those of in channels `first` to `last`, by the factors `mix`. */
static void add_whole(machine *m, const tailcut_weight *weight, const float *of_rows, const float *of_columns,
                      uint32_t y, const float *row, const float *mix, uint32_t first, uint32_t last, float *narrow) {
    uint32_t rows = weight->corner[2], columns = weight->corner[3], b, k, l, x;
    for (l = 0; l < columns; l++) {
        float sum = 0.0f;
        for (x = 0; x < m->stage->width; x++) sum += row[x] * kernel_cosine(weight, 3, of_columns, x, l);
        for (k = 0; k < rows; k++) {
            float part = sum * kernel_cosine(weight, 2, of_rows, y, k);
            for (b = first; b < last; b++) narrow[(b * rows + k) * columns + l] += mix[b] * part;
        }
    }
}

#define start_kernel(m, weight, axis) make_cosines(m, (weight)->sizes[axis])

#else

/* What `kernel_factors` takes, see `start_cosines`. */
static const float *start_kernel(machine *m, const tailcut_weight *weight, uint32_t axis) {
    uint32_t size = weight->sizes[axis], count = weight->corner[axis], n;
    float *factors, *after;
    if (!is_prepared(m)) return make_cosines(m, size);
    factors = keep(m, size * count);
    after = m->scratch;
    if (is_making(m)) {
        const float *table = make_cosines(m, size);
        for (n = 0; n < size * count; n++) factors[n] = kernel_cosine(weight, axis, table, n / count, n % count);
        m->scratch = after;
    }
    return factors;
}

/* The factors of `num` places of the kernel's columns: where they are prepared, else in `into`. */
static const float *kernel_factors(const machine *m, const tailcut_weight *weight, const float *cosines,
                                   uint32_t place, uint32_t num, float *into) {
    uint32_t count = weight->corner[3], n;
    if (is_prepared(m)) return cosines + place * count;
    for (n = 0; n < num * count; n++) into[n] = kernel_cosine(weight, 3, cosines, place + n / count, n % count);
    return into;
}

static void add_row(float *into, const float *row, float factor, uint32_t width) {
    uint32_t x;
    for (x = 0; x < width; x++) into[x] += factor * row[x];
}

/* Add a row of one input channel to narrow numbers: to those of in channels `first` to `last`, by the factors `mix`.
 * Behind the narrow numbers there is room for five lines of columns. */
static void add_whole(machine *m, const tailcut_weight *weight, const float *of_rows, const float *of_columns,
                      uint32_t y, const float *row, const float *mix, uint32_t first, uint32_t last, float *narrow) {
    uint32_t num_in = weight->corner[1], rows = weight->corner[2], columns = weight->corner[3], b, k, l, x;
    float *sums = narrow + num_in * rows * columns, *line = sums + columns;
    clear(sums, columns);
    for (x = 0; x < m->stage->width; x += 4) {
        uint32_t num = m->stage->width - x < 4 ? m->stage->width - x : 4;
        spread_rows(sums, 1, row + x, kernel_factors(m, weight, of_columns, x, num, line), num, columns);
    }
    for (k = 0; k < rows; k++) {
        float factor = is_prepared(m) ? of_rows[y * rows + k] : kernel_cosine(weight, 2, of_rows, y, k);
        for (l = 0; l < columns; l++) line[l] = sums[l] * factor;
        if (has_columns_inside(weight)) {
            for (b = first; b < last; b++) add_row(narrow + (b * rows + k) * columns, line, mix[b], columns);
        } else {
            for (l = 0; l < columns; l++) add_row(narrow + (k * columns + l) * num_in, mix, line[l], num_in);
        }
    }
}

/* A coefficient of a weight whose axes are all projected: a product of one narrow number for one output. */
typedef struct {
    float value;
    uint32_t in;
    uint32_t out;
} term;
#define TERM_FLOATS 3

/* The coefficients of such a weight as terms, where these are prepared. */
static const float *start_terms(machine *m, const tailcut_weight *weight) {
    float *terms = keep(m, TERM_FLOATS * weight->array.count), *at = terms, value;
    walk w;
    if (!is_making(m)) return terms;
    start_walk(&w, weight);
    for (; step(&w, &value); at += TERM_FLOATS) {
        const term made = {value, narrow_place(&w), w.order.index[w.out_axis]};
        memcpy(at, &made, sizeof made);
    }
    return terms;
}

/* Project the channels of maps of one number, four at a time so that `narrow` is touched less. */
static void project_vector(machine *m, uint32_t num_in, float *narrow) {
    const tailcut_stage *stage = m->stage;
    const tailcut_segment *segment = m->model->segments + stage->first_segment, *end = segment + stage->num_segments;
    uint32_t own, num, c, n, channel = 0;
    for (; segment < end; segment++) {
        for (own = 0; own < segment->channels; own += num, channel += num) {
            num = at_once(m, segment, own, 1);
            input_rows(m, segment, own, channel, num, 0, m->row);
            for (c = 0; c < num; c += 4) {
                uint32_t four = num - c < 4 ? num - c : 4;
                const float *mix = is_prepared(m) ? m->in_cosines + (channel + c) * num_in : m->mix;
                for (n = 0; !is_prepared(m) && n < four; n++) {
                    cosines_of(m->in_cosines, stage->channels, channel + c + n, num_in, m->mix + n * num_in);
                }
                spread_rows(narrow, 1, m->row + c, mix, four, num_in);
            }
        }
    }
}

#endif

/* A truncated layer whose kernel is its whole input, or a linear one: all axes are projected, no core is made. */
static void multiply_whole(machine *m, const tailcut_weight *weight) {
    const tailcut_stage *stage = m->stage;
    const tailcut_segment *segment = m->model->segments + stage->first_segment;
    uint32_t num_in = weight->corner[1], n, own, y, channel;
    const float *rows = start_kernel(m, weight, 2), *columns = start_kernel(m, weight, 3);
    float *narrow = m->scratch, *out = m->arena + stage->out.offset, value;
    walk w;
#if !TAILCUT_SMALL
    uint32_t ready = 0, num = 0;
    const float *terms = is_prepared(m) ? start_terms(m, weight) : NULL;
    if (!is_running(m)) return;
#endif
    clear(narrow, num_in * weight->corner[2] * weight->corner[3]);
#if !TAILCUT_SMALL
    if (is_vector(m) && m->in_cosines != NULL) project_vector(m, num_in, narrow);
#endif
    for (y = 0; !(is_vector(m) && m->in_cosines != NULL) && y < stage->height; y++) {
        segment = m->model->segments + stage->first_segment;
        spread_leaves(m, y);
        for (n = 0, channel = 0; n < stage->num_segments; n++, segment++) {
            for (own = 0; own < segment->channels; own++, channel++) {
                uint32_t first = m->in_cosines != NULL ? 0 : channel,
                         last = m->in_cosines != NULL ? num_in : channel + 1;
                const float *mix = m->mix, *row = m->row;
#if TAILCUT_SMALL
                input_row(m, segment, own, channel, y, m->row);
#else
                if (ready == 0) {
                    ready = num = at_once(m, segment, own, m->in_cosines != NULL ? AT_ONCE : 1);
                    input_rows(m, segment, own, channel, num, y, m->row);
                }
                row += (num - ready--) * stage->width;
#endif
                if (m->in_cosines != NULL) {
                    mix = factors_of(m, m->in_cosines, stage->channels, channel, num_in, m->mix);
                } else {
                    m->mix[channel] = 1.0f;
                }
                add_whole(m, weight, rows, columns, y, row, mix, first, last, narrow);
            }
        }
    }
    clear(out, stage->out.channels);
#if !TAILCUT_SMALL
    for (n = 0; terms != NULL && n < weight->array.count; n++, terms += TERM_FLOATS) {
        term one;
        memcpy(&one, terms, sizeof one);
        out[one.out] += one.value * narrow[one.in];
    }
    if (is_prepared(m)) return;
#endif
    start_walk(&w, weight);
    while (step(&w, &value)) out[w.order.index[w.out_axis]] += value * narrow[narrow_place(&w)];
}

static void store(machine *m) {
    const tailcut_stage *stage = m->stage;
    const tailcut_segment *segment = m->model->segments + stage->first_segment;
    uint32_t n, own, x, y, channel;
    for (y = 0; y < stage->height; y++) {
        segment = m->model->segments + stage->first_segment;
        spread_leaves(m, y);
        for (n = 0, channel = 0; n < stage->num_segments; n++, segment++) {
            for (own = 0; own < segment->channels; own++, channel++) {
                input_row(m, segment, own, channel, y, m->row);
                if ((!TAILCUT_HAS_MEAN && !HAS_STORE) || stage->kind == TAILCUT_OUTPUT) {
                    size_t at = stage->output_offset + ((size_t)channel * stage->height + y) * stage->width;
                    memcpy(m->output + at, m->row, stage->width * sizeof(float));
                } else if (TAILCUT_HAS_MEAN && (!HAS_STORE || stage->kind == TAILCUT_MEAN)) {
                    float *mean = m->arena + stage->out.offset + channel, sum = 0.0f;
                    for (x = 0; x < stage->width; x++) sum += m->row[x];
                    *mean = (y == 0 ? 0.0f : *mean) + sum / ((float)stage->height * (float)stage->width);
                } else {
                    float *into = m->arena + stage->out.offset + y * stage->out.row_stride;
                    memcpy(into + channel * (size_t)stage->out.channel_stride, m->row, stage->width * sizeof(float));
                }
            }
        }
    }
}

static void soften(machine *m) {
    const tailcut_map *out = &m->stage->out;
    uint32_t x, y, n;
    for (y = 0; y < out->height; y++) {
        for (x = 0; x < out->width; x++) {
            float *at = m->arena + out->offset + y * out->row_stride + x, most = at[0], sum = 0.0f;
            for (n = 1; n < out->channels; n++)
                most = at[n * out->channel_stride] > most ? at[n * out->channel_stride] : most;
            for (n = 0; n < out->channels; n++) {
                at[n * out->channel_stride] = exponential(at[n * out->channel_stride] - most);
                sum += at[n * out->channel_stride];
            }
            for (n = 0; n < out->channels; n++) at[n * out->channel_stride] /= sum;
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

/* Whether all maps that a stage reads are of one number, at their place. */
static int reads_vectors(const machine *m) {
    const tailcut_stage *stage = m->stage;
    const tailcut_leaf *leaf = m->model->leaves + stage->first_leaf, *end = leaf + stage->num_leaves;
    int found = stage->resample == TAILCUT_AS_IT_IS && stage->source_height == 1 && stage->source_width == 1;
    for (; leaf < end; leaf++) {
        found = found && leaf->up == TAILCUT_NONE && leaf->height == 1 && leaf->width == 1;
        found = found && leaf->top == 0 && leaf->left == 0 && leaf->map.channel_stride == 1;
    }
    return found;
}

#endif

static void run_stage(machine *m) {
    const tailcut_stage *stage = m->stage;
    const tailcut_weight *weight = stage->weight == TAILCUT_NONE ? NULL : m->model->weights + stage->weight;
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
        m->scratch = start;
        return;
    }
#endif
    switch (stage->kind) {
        case TAILCUT_CONV:
            if (TAILCUT_HAS_CONV) convolve(m, weight);
            while (TAILCUT_HAS_PARTS && m->end < stage->out.channels) {
                m->first = m->end;
                m->scratch = own;
                start_weight(m, weight);
                convolve(m, weight);
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
            store(m);
            if (TAILCUT_HAS_SOFTMAX && stage->kind == TAILCUT_SOFTMAX) soften(m);
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
