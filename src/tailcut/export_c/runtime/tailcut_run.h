/* Tailcut where Python is not: runs a network that `tailcut export --to c` wrote, without building the dense weights of
 * truncated layers; those that integers alone need dense are so in flash already, and the export names them.
 *
 * C99, no allocation, no global that is written, no recursion. `model.c` holds the network as constants of these types.
 */
#ifndef TAILCUT_RUN_H
#define TAILCUT_RUN_H

#include "tailcut.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TAILCUT_INPUT (-1) /* the offset of the map that the caller gives */
#define TAILCUT_NONE (-1)
/* A type of numbers: whole ones of at most 16 bits in an adaptive code, and three zero bytes. */
#define TAILCUT_CODED 12

/* Numbers in flash, in the narrowest type that holds them: a number is `step` times what is stored. */
typedef struct {
    const void *numbers; /* TAILCUT_FLOAT32, TAILCUT_FLOAT16 (its bits), TAILCUT_INT16, TAILCUT_INT8, TAILCUT_CODED */
    float step;          /* of coefficients: divided by the square root of the product of all transformed axes' sizes */
    uint32_t count;
    uint8_t type;
} tailcut_array;

/* A weight (out channels, in channels of a group, rows, columns) as its first coefficients, or dense. */
typedef struct {
    tailcut_array array;
    uint16_t sizes[4];
    uint16_t corner[4]; /* sizes of the low-frequency corner that holds the coefficients; `sizes` for a dense one */
    uint8_t order_weights[4];
    uint8_t axes;         /* bit a is 1 if axis a is transformed; 0 for a dense one */
    uint8_t is_truncated; /* kept as coefficients */
    uint8_t is_swapped;   /* stored as (in, out, rows, columns), as transposed convolutions are */
} tailcut_weight;

/* A map in memory: number (channel, y, x) is at offset + y * row_stride + channel * channel_stride + x. */
typedef struct {
    int32_t offset; /* in the arena, in floats, or TAILCUT_INPUT */
    uint32_t row_stride;
    uint32_t channel_stride;
    uint16_t channels;
    uint16_t height;
    uint16_t width;
} tailcut_map;

/* A map as an expression reads it: wide channel c is the sum of map[a] cos(pi (2 c + 1) a / (2 num_channels)) if it is
 * narrow. */
typedef struct {
    tailcut_map map;
    int32_t stats; /* scales, then shifts of its channels in the arena, or TAILCUT_NONE */
    int16_t up; /* the weight of a transposed convolution that spreads each position over its kernel, or TAILCUT_NONE */
    int16_t top;           /* rows of zeros before the first */
    int16_t left;          /* columns of zeros before the first */
    uint16_t num_channels; /* before a part of them is taken */
    uint16_t first;        /* the first channel that is taken */
    uint16_t height;       /* of the map as it is read, without zeros around */
    uint16_t width;
    uint8_t is_narrow;
} tailcut_leaf;

enum {
    TAILCUT_OP_LEAF,
    TAILCUT_OP_ZERO,
    TAILCUT_OP_SCALE,
    TAILCUT_OP_CLAMP,
    TAILCUT_OP_ADD,
    TAILCUT_OP_MULTIPLY,
    TAILCUT_OP_LEAKY,
    TAILCUT_OP_SIGMOID,
    TAILCUT_OP_TANH,
    TAILCUT_OP_SILU,
    TAILCUT_OP_HARDSWISH,
    TAILCUT_OP_GELU,
    TAILCUT_OP_GELU_TANH,
    TAILCUT_OP_ELU,
    TAILCUT_OP_SOFTPLUS,
    TAILCUT_OP_MISH,
    TAILCUT_OP_UNIT, /* integers alone have these two */
    TAILCUT_OP_FUNCTION
};

/* A step of an expression, on a stack of rows. */
typedef struct {
    const float *scale; /* of SCALE and LEAKY, for each channel; NULL for `low` in all */
    const float *shift; /* of SCALE, for each channel; NULL for `high` in all */
    float low; /* of ELU, low (exp(high x) - 1) below 0; of SOFTPLUS, log(1 + exp(low x)) / low up to low x = high */
    float high;
    uint16_t leaf;
    uint8_t kind;
} tailcut_op;

/* Some channels of a layer's input, and the operations that make them. */
typedef struct {
    uint16_t channels;
    uint16_t first_op;
    uint16_t num_ops;
} tailcut_segment;

enum {
    TAILCUT_CONV,
    TAILCUT_CONV_TRANSPOSED,
    TAILCUT_FLAT,
    TAILCUT_WHOLE,
    TAILCUT_PROJECT,
    TAILCUT_STORE,
    TAILCUT_MEAN,
    TAILCUT_OUTPUT,
    TAILCUT_SOFTMAX,
    TAILCUT_LOG_SOFTMAX,
    TAILCUT_SOFTMAX_OF_PLACES,
    TAILCUT_LAYER_NORM,
    TAILCUT_RMS_NORM,
    TAILCUT_GROUP_NORM,
    TAILCUT_PERMUTE,
    TAILCUT_GRU,
    TAILCUT_LSTM,
    TAILCUT_RNN_TANH,
    TAILCUT_RNN_RELU,
    TAILCUT_TABLE,
    TAILCUT_ATTENTION
};
enum { TAILCUT_AS_IT_IS, TAILCUT_MAX, TAILCUT_AVERAGE, TAILCUT_PICK, TAILCUT_NEAREST, TAILCUT_BILINEAR };

/* One pass: expressions, a change of size, further operations, then a layer whose (narrow) output is stored. */
typedef struct {
    tailcut_map out;
    int32_t stats; /* where scales and shifts of batch norm by this very input are written, or TAILCUT_NONE */
    const float *gamma; /* of recurrent layers the input's bias, or the sum of both */
    const float *beta;  /* of a GRU the state's bias */
    float epsilon;      /* of norms */
    uint32_t scratch;       /* what the stage needs for itself begins here in the arena, in floats */
    uint32_t mix;           /* factors of one channel, at most */
    uint32_t detail;        /* of TAILCUT_OUTPUT, the place in the caller's output; of TAILCUT_PERMUTE, from a column to
                             * the next; of TAILCUT_TABLE, the row of the first numbers; of TAILCUT_ATTENTION, channels
                             * of the queries; of recurrent layers, the input's weight, behind which is the state's */
    int16_t weight; /* of TAILCUT_TABLE what is added, of TAILCUT_ATTENTION to the scores */
    uint16_t groups; /* of TAILCUT_ATTENTION heads */
    uint16_t channels;
    uint16_t source_height; /* of the expressions */
    uint16_t source_width;
    uint16_t height; /* after the change of size */
    uint16_t width;
    uint16_t first_segment;
    uint16_t num_segments;
    uint16_t first_op; /* after the change of size */
    uint16_t num_ops;
    uint16_t first_leaf; /* those that its segments read stand together */
    uint16_t part;       /* outputs of a convolution that are made at a time, so that their core alone is in memory */
    uint8_t num_leaves;
    uint8_t kind;
    uint8_t resample;
    uint8_t counts_padding; /* of averages; of bilinear maps: corners are aligned; picked ones: reflected */
    uint8_t depth;          /* rows on the stack */
    uint8_t kernel[2];
    uint8_t stride[2];
    uint8_t padding[2];
    uint8_t dilation[2];
    uint8_t pool_kernel[2];
    uint8_t pool_stride[2];
    uint8_t pool_padding[2];
    uint8_t is_reversed; /* of recurrent layers: from the last step to the first; of attention: no later token is read */
    uint8_t out_pool[2]; /* of a convolution that stores the largest number of each such part of its output; else 0 */
} tailcut_stage;

typedef struct {
    const tailcut_stage *stages;
    const tailcut_segment *segments;
    const tailcut_op *ops;
    const tailcut_leaf *leaves;
    const tailcut_weight *weights;
    uint32_t arena_floats;
    uint32_t input_floats;
    uint32_t output_floats;
    uint16_t num_stages;
} tailcut_model;

/* Run the network on one input.
 *
 * input: (channels, height, width) as the export says. output: all outputs, one after the other; where model.h has
 * MODEL_IN_PLACE_FLOATS, one buffer of so many may be both.
 * arena: of `arena_floats` floats (model.h has the bytes as MODEL_ARENA_BYTES), aligned for floats.
 * Returns TAILCUT_BAD_ARGUMENT if one of them is NULL or misaligned, else TAILCUT_OK.
 */
tailcut_status tailcut_run(const tailcut_model *model, const float *input, float *output, void *arena);

/* Make once what does not depend on the input, so that all later runs are faster: coefficients decoded, cosines, dense
 * weights as floats. This and tailcut_run_prepared are left out of a runtime of less code (-Os, -DTAILCUT_SMALL=1);
 * -DTAILCUT_SMALL=0 has them at -Os too.
 *
 * prepared, prepared_bytes: memory that stays; model.h has what is needed as MODEL_PREPARED_BYTES. arena: as for a run.
 * Returns TAILCUT_BAD_ARGUMENT if a pointer is NULL or misaligned, TAILCUT_ARENA_TOO_SMALL if `prepared` is, else
 * TAILCUT_OK.
 */
tailcut_status tailcut_prepare(const tailcut_model *model, void *prepared, size_t prepared_bytes, void *arena);

/* As tailcut_run, with the same outputs bit for bit. prepared: what tailcut_prepare made of this model, at this address
 * or copied; TAILCUT_BAD_ARGUMENT if it is of another one. */
tailcut_status tailcut_run_prepared(const tailcut_model *model, const void *prepared, const float *input,
                                    float *output, void *arena);

#ifdef __cplusplus
}
#endif

#endif
