/* The stages of a network in integers alone. docs/integer-arithmetic.md says why no sum overflows.
 *
 * The included parts are no files of their own for the compiler, as in tailcut_run.c. */
#include "tailcut_integer_layers.h"

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
    if ((TAILCUT_HAS_CONV && stage->kind == TAILCUT_CONV) ||
        (TAILCUT_HAS_CONV_TRANSPOSED && stage->kind == TAILCUT_CONV_TRANSPOSED)) {
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
