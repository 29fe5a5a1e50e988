/* Tailcut where Python is not, on processors without a floating-point unit: runs a network that
 * `tailcut export --to c --arithmetic integer` wrote. Every number is an integer of 16 or 32 bits, no step uses floats,
 * and no sum can overflow, whatever the input: docs/integer-arithmetic.md gives each operation and its bounds.
 *
 * C99, no allocation, no global that is written, no recursion. `model.c` holds the network as constants of these types.
 */
#ifndef TAILCUT_RUN_INTEGER_H
#define TAILCUT_RUN_INTEGER_H

#include "tailcut_run.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A number: its upper 24 bits, signed, times 2 to the power of its lowest 8 bits - 128. */
typedef int32_t tailcut_scaled;

/* A weight, and how its stored numbers become weights of 16 bits. */
typedef struct {
    tailcut_weight weight; /* its step is not read */
    int16_t exponent;      /* of the weights */
    uint16_t factors[5];   /* the step times sqrt(2)^n, n the cosines of a coefficient that are not constant */
    uint8_t shift;         /* of numbers times factor */
    uint8_t core_shift;    /* of the product with the last cosine */
    uint8_t kernel_shift;  /* of cosines along the kernel of TAILCUT_WHOLE */
} tailcut_integer_weight;

/* A map as an expression reads it, as tailcut_leaf. */
typedef struct {
    tailcut_map map;
    int16_t norm;  /* batch norm that was measured for it, or TAILCUT_NONE */
    uint16_t slot; /* where its exponent is in the arena */
    uint16_t top;
    uint16_t left;
    uint16_t num_channels;
    uint16_t first;
    uint16_t height;
    uint16_t width;
    uint8_t is_narrow;
} tailcut_integer_leaf;

/* A step of an expression, as tailcut_op. The rows that a function or a product reads have exponents of their own,
 * the units of the stage; UNIT says in which of them the rows behind it are. */
typedef struct {
    const tailcut_scaled *scale; /* of SCALE and LEAKY, for each channel; NULL for `low` in all */
    const tailcut_scaled *shift; /* of SCALE, for each channel; NULL for `high` in all */
    tailcut_scaled low;
    tailcut_scaled high;
    uint16_t number; /* of the leaf, the function or the unit; of MULTIPLY the unit of the first factor */
    uint8_t kind;
    uint8_t second; /* of a leaf the shift of its cosines times scale, of FUNCTION and MULTIPLY the (second) unit,
                     * of CLAMP whether it changes what no number exceeds */
} tailcut_integer_op;

/* A function of one number: max(x, 0) or 0, plus lines between values[n] * 2^exponent at x = (first + n) * 2^spacing;
 * the numbers at both ends are those beyond. */
typedef struct {
    const int16_t *values;
    uint16_t count;
    uint16_t most; /* the largest magnitude of the values */
    int16_t first;
    int8_t exponent;
    int8_t spacing;
    uint8_t is_rectified;
} tailcut_integer_function;

/* Batch norm by the statistics of its own input, (channels): gamma and beta may be NULL. */
typedef struct {
    const tailcut_scaled *gamma;
    const tailcut_scaled *beta;
    tailcut_scaled epsilon;
    uint32_t offset; /* in the arena, of four numbers for each channel: scale and shift, mantissa and exponent */
    uint16_t channels;
    uint8_t is_narrow; /* whether these are sums of cosines */
} tailcut_integer_norm;

/* One pass, as tailcut_stage: convolutions and TAILCUT_WHOLE read one map as it is, the others expressions. */
typedef struct {
    tailcut_map out;
    uint32_t scratch;       /* what the stage needs for itself begins here in the arena */
    uint32_t detail;        /* of TAILCUT_OUTPUT, the place in the caller's output; of TAILCUT_PERMUTE, from a column to
                             * the next */
    int16_t weight;
    uint16_t mix; /* factors of one channel, at most */
    uint16_t groups;
    uint16_t channels;
    uint16_t source_height;
    uint16_t source_width;
    uint16_t height;
    uint16_t width;
    uint16_t first_segment;
    uint16_t num_segments;
    uint16_t first_op;
    uint16_t num_ops;
    uint16_t first_leaf;
    uint16_t output; /* which output it is, of TAILCUT_OUTPUT */
    int16_t norm;    /* batch norm that is measured on the map that is written, or TAILCUT_NONE */
    uint8_t num_leaves;
    uint8_t kind;
    uint8_t resample;
    uint8_t counts_padding;
    uint8_t depth;    /* rows on the stack */
    uint8_t row_bits; /* of the rows of expressions; of projected kernels in TAILCUT_WHOLE */
    uint8_t out_bits; /* of the numbers of the map that is written, their sign aside */
    uint8_t in_shift; /* of the products of TAILCUT_PROJECT */
    uint8_t kernel[2];
    uint8_t stride[2];
    uint8_t padding[2];
    uint8_t dilation[2];
    uint8_t pool_kernel[2];
    uint8_t pool_stride[2];
    uint8_t pool_padding[2];
} tailcut_integer_stage;

typedef struct {
    const tailcut_integer_stage *stages;
    const tailcut_segment *segments;
    const tailcut_integer_op *ops;
    const tailcut_integer_leaf *leaves;
    const tailcut_integer_weight *weights;
    const tailcut_integer_norm *norms;
    const tailcut_integer_function *functions;
    uint16_t num_stages;
} tailcut_integer_model;

/* Run the network on one input.
 *
 * input, exponent: (channels, height, width) as the export says; a number of the input is input[n] * 2^exponent.
 * output, exponents: all outputs, one after the other, and the exponent of each.
 * arena, rows: memory of MODEL_ARENA_NUMBERS and MODEL_ROWS_NUMBERS numbers (model.h).
 * Returns TAILCUT_BAD_ARGUMENT if a pointer is NULL or the exponent not within -100 and 100, else TAILCUT_OK.
 */
tailcut_status tailcut_run_integer(const tailcut_integer_model *model, const int16_t *input, int32_t exponent,
                                   int16_t *output, int32_t *exponents, int16_t *arena, int32_t *rows);

/* Make an input of 8-bit pixels: into[n] = (pixels[n] * scale + shift) / 256, rounded, within 16 bits.
 *
 * TAILCUT_PIXEL_SCALE and TAILCUT_PIXEL_SHIFT give both for pixels of 0 to 1 less a mean, by a deviation; the compiler
 * computes them. scale: within 2^21; shift: within 2^30.
 */
void tailcut_integer_pixels(const uint8_t *pixels, uint32_t count, int32_t scale, int32_t shift, int16_t *into);

#define TAILCUT_PIXEL_EXPONENT (-12)
#define TAILCUT_PIXEL_SCALE(deviation) ((int32_t)(4096.0 * 256.0 / 255.0 / (deviation) + 0.5))
#define TAILCUT_PIXEL_SHIFT(mean, deviation) (-(int32_t)(4096.0 * 256.0 * (mean) / (deviation) + 0.5))

#ifdef __cplusplus
}
#endif

#endif
