/* Functions and products of rows, which have exponents of their own. A part of tailcut_run_integer.c. */
#ifndef TAILCUT_INTEGER_FUNCTIONS_H
#define TAILCUT_INTEGER_FUNCTIONS_H

#include "tailcut_integer_numbers.h"

/* Let the rows that follow be in another unit. */
static void enter_unit(machine *m, uint32_t unit) {
    m->units[m->unit] = m->exponent;
    m->unit = unit;
    m->exponent = m->units[unit];
}

/* What no number exceeds that a function gives. */
static bound bound_function(const machine *m, const tailcut_integer_op *op, bound found) {
    const tailcut_integer_function *function = m->model->functions + op->number;
    bound own;
    own.most = function->most;
    own.exponent = function->exponent;
    return function->is_rectified ? sum_of(found, own) : own;
}

static void apply_function(const machine *m, const tailcut_integer_op *op, int32_t *row, uint32_t width) {
    const tailcut_integer_function *function = m->model->functions + op->number;
    int32_t from = m->units[op->second], most = INT32_C(1) << m->stage->row_bits;
    int32_t low = function->first * ONE, high = low + (function->count - 1) * ONE;
    uint32_t x;
    for (x = 0; x < width; x++) {
        int32_t place = saturated(row[x], from - function->spacing + 14, LARGEST), part, sum;
        const int16_t *at;
        place = (place < low ? low : place > high ? high : place) - low;
        at = function->values + (place >> 14);
        part = place & (ONE - 1);
        sum = part == 0 ? at[0] : at[0] + rounded((at[1] - at[0]) * part, 14);
        sum = saturated(sum, function->exponent - m->exponent, most);
        if (function->is_rectified && row[x] > 0) sum += saturated(row[x], from - m->exponent, most);
        row[x] = limited(sum, most);
    }
}

static void multiply_rows(const machine *m, const tailcut_integer_op *op, int32_t *row, const int32_t *other,
                          uint32_t width) {
    int32_t power = m->units[op->number] + m->units[op->second] - m->exponent;
    uint32_t x;
    for (x = 0; x < width; x++) row[x] = saturated(row[x] * other[x], power, INT32_C(1) << m->stage->row_bits);
}

#endif
