/* Tailcut where Python is not: a reader of .tailcut files. C99, no allocation, no global state, no recursion.
 *
 * The format is given byte by byte in SPEC.md; what it calls an error has its status here.
 */
#ifndef TAILCUT_H
#define TAILCUT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    TAILCUT_OK = 0,
    TAILCUT_NOT_TAILCUT,         /* the magic is another one: no .tailcut file */
    TAILCUT_UNSUPPORTED_VERSION, /* a version, number type, codec or kind of edit that this reader does not know */
    TAILCUT_TRUNCATED,           /* the file, header or edit ends within an item */
    TAILCUT_CHECKSUM_MISMATCH,   /* bytes were changed or lost on the way */
    TAILCUT_CORRUPT,             /* the checksum holds, but a rule of the format does not */
    TAILCUT_LIMIT,               /* more than a cap allows */
    TAILCUT_MODEL_MISMATCH,      /* the file is sound, the network is another one */
    TAILCUT_ARENA_TOO_SMALL,     /* the arena does not hold what the file needs */
    TAILCUT_BAD_ARGUMENT         /* NULL, a file of a registered network without its description, or no such level */
} tailcut_status;

/* The status as a word, such as "checksum mismatch". Never NULL. */
const char *tailcut_status_name(tailcut_status status);

/* Types of stored numbers, numbered as in the format. */
enum {
    TAILCUT_FLOAT32,
    TAILCUT_FLOAT16,
    TAILCUT_BFLOAT16,
    TAILCUT_FLOAT64,
    TAILCUT_INT64,
    TAILCUT_INT32,
    TAILCUT_INT16,
    TAILCUT_INT8,
    TAILCUT_UINT8,
    TAILCUT_BOOL
};

#define TAILCUT_MAX_AXES 16
#define TAILCUT_MAX_PARAMETERS 0x40000000u /* the usual cap on the numbers of a dense network: 2^30 */

/* One tensor of the network that a file shall fill, as tailcut.export_c.description_text writes it. */
typedef struct {
    const char *name;
    const uint32_t *sizes; /* one for each axis */
    uint8_t num_axes;
    uint8_t is_parameter; /* 1 for a parameter, 0 for a buffer */
    uint8_t type;         /* its type in the network, TAILCUT_FLOAT32 to TAILCUT_BOOL */
} tailcut_slot;

/* The network that a file shall fill. */
typedef struct {
    const char *base;         /* its registered name, "" for an own class */
    const uint8_t *arguments; /* number of arguments and arguments, as they stand in a file; not read without a base */
    uint32_t arguments_bytes;
    const uint8_t
        *edits; /* the edits of a file that change the network's layers (kinds 2 to 4), each as it stands there */
    uint32_t edits_bytes;
    const tailcut_slot
        *slots; /* all tensors of its state_dict in order, tied ones once, before kind 1 and after kinds 2 to 4 */
    uint32_t num_slots;
} tailcut_network;

/* A tensor of an open file: `count` numbers in the order of the format, read by tailcut_number or tailcut_numbers. */
typedef struct {
    const char *name; /* not ended by a zero */
    uint32_t name_bytes;
    const uint32_t *sizes; /* of the dense tensor */
    uint32_t count;        /* of its numbers: the kept coefficients, or all */
    uint8_t num_axes;
    uint8_t type;         /* TAILCUT_FLOAT32 to TAILCUT_BOOL: how the numbers are stored */
    uint8_t is_parameter; /* 1 for a parameter, 0 for a buffer */
    uint8_t is_kept; /* 1 if the numbers are the first coefficients of its DCT, 0 if they are the tensor in row-major
                        order */
    uint16_t axes;   /* bit a is 1 if axis a is transformed */
    const uint8_t *order_weights; /* one for each transformed axis; NULL where all are 1 */
    const uint8_t *numbers; /* byte b (from the lowest) of number i is numbers[i * item_stride + b * byte_stride] */
    ptrdiff_t item_stride;
    ptrdiff_t byte_stride;
    uint8_t stored_type; /* as `type`, or 10 (quantised) or 11 (whole numbers): the type in the file */
} tailcut_tensor;

typedef struct {
    uint32_t version;
    const char *base; /* the registered name, not ended by a zero; no bytes for an own class */
    uint32_t base_bytes;
    const char *metadata; /* JSON, not ended by a zero; may be empty */
    uint32_t metadata_bytes;
    uint32_t num_edits;
    uint32_t num_kept; /* tensors kept as coefficients: the first ones of `tensors` */
    uint32_t num_tensors;
    uint32_t level;      /* whose network this is, from 1, the smallest; 1 in a file without levels */
    uint32_t num_levels; /* of the whole file, those that are not there too; 1 without levels */
    tailcut_tensor *tensors;
    size_t arena_used; /* bytes of the arena that hold the tensors; the rest is free again */
    size_t arena_peak; /* bytes that the reading needed */
} tailcut_file;

/* Read a whole file and check all of it; of a file with levels the highest level that is there. Nothing is written but
 * `arena` and `file`.
 *
 * bytes, length: the file; must stay as long as `file` is used, since numbers stored as they are are read from there.
 * network: what the file shall fill; NULL for an own class to read the file as it is.
 * max_parameters: the most numbers that the dense network may have, TAILCUT_MAX_PARAMETERS for the usual cap. Together
 * with the arena it bounds the time: quantised numbers under a DCT take a product for each number and coefficient of an
 * axis. arena, arena_bytes: memory of any alignment; what is needed is told by `file->arena_peak` after a reading
 * with enough of it, for example on a PC. file: the result; not to be used unless TAILCUT_OK is returned.
 */
tailcut_status tailcut_open(const void *bytes, size_t length, const tailcut_network *network, uint32_t max_parameters,
                            void *arena, size_t arena_bytes, tailcut_file *file);

/* Read the network of one level of a file with levels (version 3), else as tailcut_open, which takes the highest one
 * that is there. What follows the level in the file may be missing, and is not looked at.
 *
 * level: from 1, the smallest; TAILCUT_BAD_ARGUMENT if the file has fewer, a file without levels more than 1. 0 for the
 * highest that is there: then the file must be whole, or end at the end of a level.
 */
tailcut_status tailcut_open_level(const void *bytes, size_t length, const tailcut_network *network,
                                  uint32_t max_parameters, uint32_t level, void *arena, size_t arena_bytes,
                                  tailcut_file *file);

/* How many levels are whole in the first `length` bytes of a file; 0 for a file without levels. Nothing else is
 * checked: it only says when a next tailcut_open_level is worth while. */
uint32_t tailcut_whole_levels(const void *bytes, size_t length);

/* The tensor of that name, NULL if there is none. */
const tailcut_tensor *tailcut_find(const tailcut_file *file, const char *name);

/* Number `place` (below `count`) of a tensor as the nearest float. */
float tailcut_number(const tailcut_tensor *tensor, uint32_t place);

/* Bytes of one stored number. */
uint32_t tailcut_number_bytes(const tailcut_tensor *tensor);

/* Byte `byte` (from the lowest) of number `place`. */
uint8_t tailcut_number_byte(const tailcut_tensor *tensor, uint32_t place, uint32_t byte);

/* Runs over the coefficients of a tensor in the order of the format. Do not look inside. */
typedef struct {
    uint32_t remaining[TAILCUT_MAX_AXES + 1];
    uint32_t most[TAILCUT_MAX_AXES + 1];
    uint32_t index[TAILCUT_MAX_AXES]; /* of the coefficient, one for each axis of the tensor */
    uint32_t level;
    const uint32_t *sizes;
    uint8_t weights[TAILCUT_MAX_AXES];
    uint8_t inner[TAILCUT_MAX_AXES]; /* the transformed axes */
    uint8_t outer[TAILCUT_MAX_AXES]; /* the others */
    uint8_t num_inner, num_outer;
} tailcut_order;

/* Stand on coefficient 0. The sizes of the transformed axes, each times its weight, must add up to less than 2^32. */
void tailcut_order_start(tailcut_order *order, const tailcut_tensor *tensor);

/* Go to the next one; only while there is one. */
void tailcut_order_next(tailcut_order *order);

#ifdef __cplusplus
}
#endif

#endif
