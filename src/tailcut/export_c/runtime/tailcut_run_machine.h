/* What is known while a stage runs, and the memory that it takes. A part of tailcut_run.c. */
#ifndef TAILCUT_RUN_MACHINE_H
#define TAILCUT_RUN_MACHINE_H

#include "tailcut_walk.h"

/* Less code in place of speed, and nothing prepared. */
#ifndef TAILCUT_SMALL
#ifdef __OPTIMIZE_SIZE__
#define TAILCUT_SMALL 1
#else
#define TAILCUT_SMALL 0
#endif
#endif
#define AT_ONCE (TAILCUT_SMALL ? 1 : 4)    /* channels of an expression, at most */
#define VECTOR 16 /* channels of maps of one column, side by side */
#define NUM_SUMS (TAILCUT_SMALL ? 1u : 16u) /* that grow side by side in place of one */

#define HAS_RESAMPLING (HAS_POOLING || HAS_OTHER_SIZES)
#define IS_GROUPED(groups) (TAILCUT_HAS_GROUPS && (groups) > 1)
#define is_pooled(stage) (TAILCUT_HAS_POOLED && (stage)->out_pool[0] > 0)
#define HAS_SOFTENED (TAILCUT_HAS_SOFTMAX || TAILCUT_HAS_LOG_SOFTMAX || TAILCUT_HAS_SOFTMAX_OF_PLACES)
#define HAS_NORMALIZED (TAILCUT_HAS_LAYER_NORM || TAILCUT_HAS_RMS_NORM || TAILCUT_HAS_GROUP_NORM)
#define HAS_PLACES (TAILCUT_HAS_TABLE || TAILCUT_HAS_ATTENTION)
#define HAS_STORE (TAILCUT_HAS_STORE || HAS_SOFTENED || HAS_NORMALIZED || TAILCUT_HAS_PERMUTE || HAS_PLACES)

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
    int is_vector;   /* whether the stage reads maps of one column */
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

#endif
