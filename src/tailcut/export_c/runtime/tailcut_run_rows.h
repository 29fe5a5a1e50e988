/* Mathematics, sums of rows, and cosines. A part of tailcut_run.c. */
#ifndef TAILCUT_RUN_ROWS_H
#define TAILCUT_RUN_ROWS_H

#include "tailcut_run_machine.h"

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

static float exponential_near_0(float x) { /* exp(x) - 1 of -0.35 to 0.35 */
    return x *
           (1.0f + x * (0.5f + x * (1.6666667e-1f + x * (4.1666667e-2f + x * (8.3333333e-3f + x * 1.3888889e-3f)))));
}

static float exponential(float x) {
    float y = x * 1.44269504f, sum;
    int32_t whole;
    uint32_t word;
    if (x > 88.0f) x = 88.0f, y = x * 1.44269504f;
    if (x < -87.0f) return 0.0f;
    whole = (int32_t)(y < 0 ? y - 0.5f : y + 0.5f);
    x = (x - (float)whole * 0.693359375f) + (float)whole * 2.12194440e-4f;
    sum = 1.0f + exponential_near_0(x);
    word = (uint32_t)(whole + 127) << 23;
    memcpy(&y, &word, sizeof y);
    return sum * y;
}

static float exponential_less_1(float x) {
    return x > -0.34f && x < 0.34f ? exponential_near_0(x) : exponential(x) - 1.0f;
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

static float gelu_by_tanh(float x) { return x * sigmoid(1.59576912f * x * (1.0f + 0.044715f * x * x)); }

static float log_of_one_and(float y) { /* log(1 + y) of 0 to 1, by the series of 2 artanh(y / (2 + y)) */
    float s = y / (2.0f + y), ss = s * s, sum = 0.09090909f + ss * 0.07692308f;
    return 2.0f * s * (1.0f + ss * (0.33333333f + ss * (0.2f + ss * (0.14285714f + ss * (0.11111111f + ss * sum)))));
}

static float logarithm(float x) { /* of 1 or more */
    float halvings = 0.0f;
    for (; x > 2.0f; x *= 0.5f) halvings += 1.0f;
    return halvings * 0.69314718f + log_of_one_and(x - 1.0f);
}

static float softplus(float x, float beta, float threshold) {
    float y = x * beta;
    if (y > threshold) return x;
    return ((y < 0 ? 0.0f : y) + log_of_one_and(exponential(y < 0 ? y : -y))) / beta;
}

static float mish(float x) { /* x tanh(log(1 + e)) of e = exp(x) */
    float e = exponential(x > 20.0f ? 20.0f : x), square = e * (e + 2.0f);
    return x * (square / (square + 2.0f)); /* x times a square may be infinite */
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

#endif
