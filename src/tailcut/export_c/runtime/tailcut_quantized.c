/* Codecs 3 to 5: numbers rounded to steps. SPEC.md: "Codec 3, quantized" and the two behind it. */
#include "tailcut_codecs.h"

#include <string.h>

#define NUM_SETS 37
#define NUM_SETS_ALONG_AXES 39
#define MAX_BUCKET 19
#define PER_SET (2 * MAX_BUCKET + 1)      /* Z, then B(0) to B(18), then M(1) to M(19) */
#define NUM_SHARED (2 * (MAX_BUCKET - 1)) /* N, before those of the sets */
#define NUM_LEVELS 32                     /* sets of numbers; of codec 5 as many Y, behind the sets */
#define ODD_LATER 2
#define LINE 256
#define SET_OF_TRANSFORM 32
#define SET_OF_COUNT 35
#define SET_OF_WHOLE 36
#define SET_OF_AXES 37
#define SET_OF_SHIFTS 38
#define MAX_STEP 400
#define MAX_TRANSFORMED 1048576
#define MAX_WHOLE 65536
#define QUANTIZED 10
#define WHOLE 11
/* Above this, rounding to float32 gives infinity: (2 - 2^-24) 2^127. */
#define OVERFLOWS 3.4028235677973366e38

static const uint16_t zero_bit[32] = {
    61568, 59999, 57854, 54967, 51169, 46341, 40503, 33924, 27146, 20830, 15471, 11244, 8068, 5748, 4080, 2891,
    2046,  1447,  1024,  724,   512,   362,   256,   181,   128,   91,    64,    64,    64,   64,   64,   64,
};
static const uint16_t bucket_bit[32] = {
    63490, 62645, 61456, 59788, 57468, 54292, 50065, 44706, 38390, 31612, 25033, 19195, 14367, 10569, 7682, 5537,
    3968,  2832,  2016,  1432,  1016,  720,   510,   361,   256,   181,   128,   90,    64,    64,    64,   64,
};

/* The state after a state and a coded magnitude. */
static const uint8_t trellis[8][2] = {{0, 2}, {7, 5}, {1, 3}, {6, 4}, {2, 0}, {5, 7}, {3, 1}, {4, 6}};

/* What the tensors of one key hand on. */
struct tailcut_key {
    const char *name;
    int32_t axes;    /* the last ones, of codec 4 */
    int64_t last[4]; /* transform, step, offset, count */
    uint32_t mean;
    uint32_t name_bytes;
};

/* What a number stands for: (number + offset) 2^(step / 8). */
struct tailcut_scaling {
    int64_t offset;
    int32_t step;
    uint32_t is_dependent;
};

typedef struct {
    uint64_t sum;
    uint64_t count;
} tally;

/* The numbers of a tensor in this stream. */
typedef struct {
    uint8_t *into;    /* NULL if they are only read */
    double *values;   /* before an inverse DCT, NULL without */
    uint32_t claimed; /* how many follow; the rest are 0 */
    uint32_t count;   /* those that it has so far */
    uint32_t known;   /* of them in the levels below */
    int is_last;      /* no level follows */
    uint32_t axes;    /* a bit for each that the step differs along */
    int32_t *shifts;  /* what comes twice to the step, by the index along each of these */
} span;

static int has_axes(const tailcut_unquantizer *from) { return TAILCUT_READ_ALONG_AXES && from->codec >= 4; }

static int has_states(const tailcut_unquantizer *from) { return TAILCUT_READ_DEPENDENT && from->codec == 5; }

static uint32_t num_sets(const tailcut_unquantizer *from) { return has_axes(from) ? NUM_SETS_ALONG_AXES : NUM_SETS; }

static uint32_t num_contexts(const tailcut_unquantizer *from) {
    return NUM_SHARED + num_sets(from) * PER_SET + (has_states(from) ? NUM_LEVELS : 0);
}

static void start_contexts(const tailcut_unquantizer *from) {
    tailcut_context *contexts = from->contexts;
    uint32_t set, e, number = num_contexts(from);
    for (e = 0; e < number; e++) {
        contexts[e].zero = 32768;
        contexts[e].seen = 8;
    }
    for (e = 0; has_states(from) && e < NUM_LEVELS; e++) {
        contexts[number - NUM_LEVELS + e].zero = zero_bit[e + ODD_LATER < NUM_LEVELS ? e + ODD_LATER : NUM_LEVELS - 1];
    }
    for (set = 0; set < num_sets(from); set++) {
        tailcut_context *own = contexts + NUM_SHARED + set * PER_SET;
        uint32_t level = set < 32 ? set : set == 33 ? 13 : set == SET_OF_SHIFTS ? 10 : 6;
        own->zero = zero_bit[level];
        for (e = 0; e < MAX_BUCKET; e++) own[1 + e].zero = bucket_bit[level > 2 * e ? level - 2 * e : 0];
    }
}

/* In an odd state of the trellis "is it 0" has another context. */
static int32_t read_number_in(tailcut_unquantizer *from, uint32_t set, int is_odd) {
    tailcut_context *shared = from->contexts, *own = shared + NUM_SHARED + set * PER_SET, *zero = own;
    uint32_t is_negative, e = 0, magnitude = 1, place;
    if (TAILCUT_READ_DEPENDENT && is_odd) zero = shared + num_contexts(from) - NUM_LEVELS + set;
    if (!tailcut_coded_bit(&from->coder, zero, 64)) return 0;
    is_negative = tailcut_plain_bit(&from->coder);
    while (e < MAX_BUCKET && tailcut_coded_bit(&from->coder, own + 1 + e, 64)) e++;
    for (place = e; place-- > 0;) {
        uint32_t bit;
        if (place + 1 == e) {
            bit = tailcut_coded_bit(&from->coder, own + MAX_BUCKET + e, 64);
        } else if (place + 2 == e) {
            bit = tailcut_coded_bit(&from->coder, shared + 2 * (e - 2) + (magnitude & 1), 64);
        } else {
            bit = tailcut_plain_bit(&from->coder);
        }
        magnitude = magnitude << 1 | bit;
    }
    return is_negative ? -(int32_t)magnitude : (int32_t)magnitude;
}

static int32_t read_number(tailcut_unquantizer *from, uint32_t set) { return read_number_in(from, set, 0); }

/* A logarithm in sixteenths, of 1 to 2^28 - 1: magnitudes are below 2^20, and means 256 times as large. */
static int32_t logarithm(uint32_t value) {
    int32_t n = 0;
    while (value >> n > 1) n++;
    return 16 * n + (int32_t)(16 * value >> n) - 16;
}

/* Rounds down, below 0 too. */
static int32_t shifted(int32_t value, unsigned bits) { return value < 0 ? -((-value - 1) >> bits) - 1 : value >> bits; }

/* value / by, below 2^28, without the long division of 64 bits that small cores have no instruction for. */
static uint32_t quotient(uint64_t value, uint64_t by) {
    uint32_t found = 0, bit;
    if ((value | by) >> 32 == 0) return (uint32_t)value / (uint32_t)by;
    for (bit = 28; bit-- > 0;) {
        if (value >> bit < by) continue;
        value -= by << bit;
        found |= UINT32_C(1) << bit;
    }
    return found;
}

static tailcut_key *key_of(tailcut_unquantizer *from, const tailcut_tensor *tensor) {
    const char *name = tensor->name;
    uint32_t n, name_bytes = tensor->name_bytes;
    tailcut_key *found;
    for (n = 0; n < tensor->name_bytes; n++) {
        if (tensor->name[n] == '.') {
            name = tensor->name + n + 1;
            name_bytes = tensor->name_bytes - n - 1;
        }
    }
    if (tensor->is_kept) name_bytes = 0;
    for (n = 0; n < from->num_keys; n++) {
        found = from->keys + n;
        if (found->name_bytes == name_bytes && memcmp(found->name, name, name_bytes) == 0) return found;
    }
    found = tailcut_borrow(from->arena, sizeof *found); /* right below the last one */
    if (found == NULL) return NULL;
    memset(found, 0, sizeof *found);
    found->name = name;
    found->name_bytes = name_bytes;
    found->mean = 1024;
    from->keys = found;
    from->num_keys++;
    return found;
}

/* ---- mathematics without a library ---- */

static double power_of_two(int32_t exponent) {
    uint64_t word = (uint64_t)(exponent + 1023) << 52;
    double value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* 2^(step / 8), the same bits everywhere. */
static double step_size(int32_t step) {
    static const double eighths[8] = {
        1.0,
        1.0905077326652577, /* 0x1.172b83c7d517bp+0 */
        1.189207115002721,  /* 0x1.306fe0a31b715p+0 */
        1.2968395546510096, /* 0x1.4bfdad5362a27p+0 */
        1.4142135623730951, /* 0x1.6a09e667f3bcdp+0 */
        1.5422108254079407, /* 0x1.8ace5422aa0dbp+0 */
        1.681792830507429,  /* 0x1.ae89f995ad3adp+0 */
        1.8340080864093424, /* 0x1.d5818dcfba487p+0 */
    };
    return eighths[step & 7] * power_of_two(shifted(step, 3));
}

/* 2^y for y up to 128; 0 far below. */
static double exp2_of(double y) {
    double term = 1.0, sum = 1.0;
    int32_t whole, n;
    if (y < -200.0) return 0.0;
    whole = (int32_t)(y < 0 ? y - 0.5 : y + 0.5);
    y = (y - whole) * 0.69314718055994530942;
    for (n = 1; n < 18; n++) {
        term *= y / n;
        sum += term;
    }
    return sum * power_of_two(whole);
}

/* cos(pi / 2 * m / n) for m from 0 to n. */
static double cosine_of(uint32_t m, uint32_t n) {
    int is_sine = 2 * (uint64_t)m > n;
    double x = 1.57079632679489661923 * (is_sine ? n - m : m) / n, term = is_sine ? x : 1.0, sum = term;
    int k;
    for (k = is_sine ? 2 : 1; k < 24; k += 2) {
        term *= -x * x / (k * (k + 1.0));
        sum += term;
    }
    return sum;
}

static double root_of(double value) { /* of 2^-31 to 2 */
    double root = 1.0;
    int n;
    for (n = 0; n < 32; n++) root = 0.5 * (root + value / root);
    return root;
}

/* The inverse of the orthonormal DCT-II along one axis of a tensor in row-major order. */
static tailcut_status inverse_dct(double *values, uint32_t count, uint32_t size, uint32_t stride,
                                  tailcut_arena *arena) {
    size_t top = arena->top;
    double *cosines = tailcut_borrow(arena, ((uint64_t)size + 1) * sizeof *cosines);
    double *line = tailcut_borrow(arena, (uint64_t)size * sizeof *line);
    double first = root_of(1.0 / size), others = root_of(2.0 / size);
    uint32_t outer, inner, n, k;
    if (cosines == NULL || line == NULL) return TAILCUT_ARENA_TOO_SMALL;
    for (n = 0; n <= size; n++) cosines[n] = cosine_of(n, size);
    for (outer = 0; outer < count; outer += size * stride) {
        for (inner = 0; inner < stride; inner++) {
            double *at = values + outer + inner;
            for (n = 0; n < size; n++) line[n] = 0.0;
            for (k = 0; k < size; k++) {
                double value = at[(size_t)k * stride] * (k == 0 ? first : others);
                uint64_t turn = k, full = 4 * (uint64_t)size; /* (2 n + 1) k, modulo a whole turn */
                if (value == 0.0) continue;
                for (n = 0; n < size; n++) {
                    uint64_t angle = turn > full / 2 ? full - turn : turn;
                    line[n] += value * (angle > size ? -cosines[full / 2 - angle] : cosines[angle]);
                    turn += 2 * (uint64_t)k;
                    if (turn >= full) turn -= full;
                }
            }
            for (n = 0; n < size; n++) at[(size_t)n * stride] = line[n];
        }
    }
    arena->top = top;
    return TAILCUT_OK;
}

static void put_word(uint8_t *into, uint32_t word) {
    into[0] = (uint8_t)word;
    into[1] = (uint8_t)(word >> 8);
    into[2] = (uint8_t)(word >> 16);
    into[3] = (uint8_t)(word >> 24);
}

static void put_float(uint8_t *into, double value) {
    float rounded = (float)value;
    uint32_t word;
    memcpy(&word, &rounded, sizeof word);
    put_word(into, word);
}

static int32_t number_at(const uint8_t *from) {
    return (int32_t)(from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24);
}

/* ---- tensors ---- */

static tailcut_status read_whole(tailcut_unquantizer *from, tailcut_tensor *tensor, int is_taken) {
    uint8_t *into = is_taken ? tailcut_keep(from->arena, 8 * (uint64_t)tensor->count) : NULL;
    uint32_t n;
    if (is_taken && into == NULL) return TAILCUT_ARENA_TOO_SMALL;
    tensor->numbers = into;
    for (n = 0; n < tensor->count; n++) {
        uint32_t byte;
        uint64_t word;
        from->whole += read_number(from, SET_OF_WHOLE);
        word = (uint64_t)from->whole;
        for (byte = 0; is_taken && byte < 8; byte++) *into++ = (uint8_t)(word >> 8 * byte);
    }
    return TAILCUT_OK;
}

/* The sums of magnitudes along the axes, which say what to expect of the next number. */
typedef struct {
    tally *tallies[TAILCUT_MAX_AXES];
    uint8_t axes[TAILCUT_MAX_AXES];
    uint32_t num_axes; /* longer than 1 */
} surroundings;

static tailcut_status start_surroundings(surroundings *around, const tailcut_tensor *tensor, uint32_t count,
                                         tailcut_arena *arena) {
    uint32_t n;
    around->num_axes = 0;
    for (n = 0; n < tensor->num_axes; n++) {
        if (tensor->sizes[n] > 1) around->axes[around->num_axes++] = (uint8_t)n;
    }
    for (n = 0; around->num_axes > 1 && n < around->num_axes; n++) {
        /* No index along an axis is above the number of coefficients before it. */
        uint32_t axis = around->axes[n], size = tensor->sizes[axis];
        if (size > count && tensor->axes >> axis & 1) size = count;
        around->tallies[n] = tailcut_borrow(arena, size * (uint64_t)sizeof(tally));
        if (around->tallies[n] == NULL) return TAILCUT_ARENA_TOO_SMALL;
        memset(around->tallies[n], 0, size * sizeof(tally));
    }
    return TAILCUT_OK;
}

/* The step of the number at an index. */
static double step_at(const span *all, const tailcut_tensor *tensor, const uint32_t *index, int32_t step) {
    const int32_t *shifts = all->shifts;
    uint32_t axis;
    for (axis = 0; TAILCUT_READ_ALONG_AXES && axis < tensor->num_axes; axis++) {
        if (!(all->axes >> axis & 1)) continue;
        step += 2 * shifts[index[axis]];
        shifts += tensor->sizes[axis];
    }
    return step_size(step);
}

/* The multiple of the step that is coded so in an even or odd state. */
static int32_t allowed_number(int32_t coded, int32_t is_odd) {
    return coded == 0 ? 0 : coded < 0 ? 2 * coded + is_odd : 2 * coded - is_odd;
}

/* How many numbers a row has in the trellis, of a tensor that has any. */
static uint32_t row_of(const tailcut_tensor *tensor) {
    if (tensor->is_kept || tensor->num_axes < 2) return UINT32_MAX;
    return tensor->count / tensor->sizes[0];
}

static tailcut_status read_numbers(tailcut_unquantizer *from, const tailcut_tensor *tensor, tailcut_key *key,
                                   const tailcut_scaling *scaling, const span *all) {
    size_t top = from->arena->top;
    surroundings around;
    tailcut_order order;
    uint64_t sum = 0, count = 0;
    uint32_t recent = key->mean;
    double step, offset = (double)scaling->offset;
    uint32_t place, n, followed = all->known + all->claimed;
    uint32_t row = TAILCUT_READ_DEPENDENT && scaling->is_dependent ? UINT32_MAX : 0, in_row = 0, state = 0;
    tailcut_status status;
    if (all->count == 0) return TAILCUT_OK;
    if (row > 0) row = row_of(tensor);
    status = start_surroundings(&around, tensor, all->count, from->arena);
    if (status != TAILCUT_OK) return status;
    tailcut_order_start(&order, tensor);
    step = step_at(all, tensor, order.index, scaling->step);
    for (place = 0; place < all->count; place++) {
        int has_shifts = TAILCUT_READ_ALONG_AXES && all->axes != 0;
        int32_t number = 0;
        double value;
        if (place > 0 && (place < followed || has_shifts)) tailcut_order_next(&order);
        if (place < followed) {
            uint32_t g = quotient(256 * sum + 4 * (uint64_t)key->mean, count + 4), magnitude;
            int32_t u = logarithm((around.num_axes == 1 ? recent : g) + 8), v = 0, level;
            for (n = 0; around.num_axes > 1 && n < around.num_axes; n++) {
                const tally *at = around.tallies[n] + order.index[around.axes[n]];
                v += logarithm(quotient(256 * at->sum + 8 * (uint64_t)g, at->count + 8) + 8) - u;
            }
            level = shifted(u + shifted(3 * v, 2) - 60, 3);
            if (TAILCUT_READ_LEVELS && place < all->known) {
                number = number_at(all->into + 4 * (size_t)place);
                magnitude = (uint32_t)(number < 0 ? -number : number);
                if (row > 0) magnitude = (magnitude + (state & 1)) >> 1;
            } else {
                number = read_number_in(from, level < 0 ? 0 : level > 31 ? 31 : (uint32_t)level, state & 1);
                magnitude = (uint32_t)(number < 0 ? -number : number);
                if (row > 0) number = allowed_number(number, (int32_t)(state & 1));
            }
            if (row > 0) {
                state = trellis[state][magnitude & 1];
                if (++in_row == row) in_row = 0;
                if (in_row % LINE == 0) state = 0;
            }
            sum += magnitude;
            count++;
            recent += (uint32_t)shifted((int32_t)(256 * magnitude) - (int32_t)recent, 3);
            for (n = 0; around.num_axes > 1 && n < around.num_axes; n++) {
                tally *at = around.tallies[n] + order.index[around.axes[n]];
                at->sum += magnitude;
                at->count++;
            }
        }
        if (TAILCUT_READ_LEVELS && !all->is_last) {
            /* A higher level goes on from the numbers themselves. */
            if (all->into != NULL) put_word(all->into + 4 * (size_t)place, (uint32_t)number);
            continue;
        }
        if (has_shifts) step = step_at(all, tensor, order.index, scaling->step);
        value = (number + offset) * step;
        if (all->values != NULL) {
            all->values[place] = value;
            continue;
        }
        if ((key->last[0] & 3) == 1 && !tensor->is_kept) value = value < 128.0 ? exp2_of(value) : 2 * OVERFLOWS;
        if (!(value < OVERFLOWS && value > -OVERFLOWS)) return TAILCUT_CORRUPT;
        put_float(all->into + 4 * (size_t)place, value);
    }
    if (count > 0) key->mean = quotient(256 * sum, count);
    from->arena->top = top;
    return TAILCUT_OK;
}

static tailcut_status read_quantized(tailcut_unquantizer *from, tailcut_tensor *tensor, tailcut_key *key,
                                     const tailcut_scaling *scaling, span *all, int is_taken) {
    uint32_t n, axis, stride = 1;
    int64_t transform = tensor->is_kept ? 0 : key->last[0] & 3;
    tailcut_status status;
    if (TAILCUT_READ_LEVELS && all->known > 0) {
        all->into = from->arena->base + (tensor->numbers - from->arena->base);
    } else if (is_taken) {
        all->into = tailcut_keep(from->arena, 4 * (uint64_t)tensor->count);
        if (all->into == NULL) return TAILCUT_ARENA_TOO_SMALL;
        tensor->numbers = all->into;
    }
    if (transform > 1 && is_taken) {
        if (transform == 3 && tensor->num_axes < 3) return TAILCUT_CORRUPT;
        for (axis = transform == 3 ? 2u : 0u; axis < tensor->num_axes; axis++)
            if (tensor->sizes[axis] > MAX_TRANSFORMED) return TAILCUT_CORRUPT;
        all->values = tailcut_borrow(from->arena, 8 * (uint64_t)tensor->count);
        if (all->values == NULL) return TAILCUT_ARENA_TOO_SMALL;
    }
    status = read_numbers(from, tensor, key, scaling, all);
    if (status != TAILCUT_OK || all->values == NULL) return status;
    for (axis = tensor->num_axes; axis-- > (transform == 3 ? 2u : 0u) && tensor->count > 0;) {
        status = inverse_dct(all->values, tensor->count, tensor->sizes[axis], stride, from->arena);
        if (status != TAILCUT_OK) return status;
        stride *= tensor->sizes[axis];
    }
    for (n = 0; n < tensor->count; n++) {
        if (!(all->values[n] < OVERFLOWS && all->values[n] > -OVERFLOWS)) return TAILCUT_CORRUPT;
        put_float(all->into + 4 * (size_t)n, all->values[n]);
    }
    return TAILCUT_OK;
}

static tailcut_status claim(tailcut_unquantizer *from, uint64_t count) {
    if (count > from->claims_left) return TAILCUT_CORRUPT;
    from->claims_left -= count;
    return TAILCUT_OK;
}

/* The shifts along the axes of a tensor, so many in all. Those of one that is not taken may be any. */
static tailcut_status read_shifts(tailcut_unquantizer *from, const tailcut_tensor *tensor, int32_t step, span *all,
                                  uint64_t count, int is_taken) {
    int32_t *into = tailcut_borrow(from->arena, count * sizeof *into), least = step, most = step;
    uint32_t axis, n;
    if (into == NULL) return TAILCUT_ARENA_TOO_SMALL;
    all->shifts = into;
    for (axis = 0; axis < tensor->num_axes; axis++) {
        int32_t low = 0, high = 0;
        if (!(all->axes >> axis & 1)) continue;
        for (n = 0; n < tensor->sizes[axis]; n++) {
            int32_t shift = read_number(from, SET_OF_SHIFTS);
            if (n == 0 || shift < low) low = shift;
            if (n == 0 || shift > high) high = shift;
            *into++ = shift;
        }
        least += 2 * low;
        most += 2 * high;
    }
    return is_taken && (least < -MAX_STEP || most > MAX_STEP) ? TAILCUT_CORRUPT : TAILCUT_OK;
}

static tailcut_status read_tensor(tailcut_unquantizer *from, tailcut_tensor *tensor, uint32_t place, int others) {
    tailcut_key *key;
    tailcut_scaling scaling;
    tailcut_status status;
    span all;
    uint64_t shifts = 0;
    uint32_t n;
    size_t top;
    int is_taken = others == TAILCUT_TAKE || tensor->is_kept;
    if (tensor->stored_type == WHOLE) {
        status = claim(from, tensor->count);
        return status == TAILCUT_OK ? read_whole(from, tensor, is_taken) : status;
    }
    key = key_of(from, tensor);
    if (key == NULL) return TAILCUT_ARENA_TOO_SMALL;
    memset(&all, 0, sizeof all);
    all.count = tensor->count;
    all.is_last = is_taken;
    if (TAILCUT_READ_LEVELS && tensor->is_kept) {
        all.is_last = from->level == from->taken;
        all.count = tailcut_count_below(tensor->count, from->parts, from->taken, from->level);
        if (from->level > 1) all.known = tailcut_count_below(tensor->count, from->parts, from->taken, from->level - 1);
    }
    if (TAILCUT_READ_LEVELS && all.known > 0) {
        key->last[3] += read_number(from, SET_OF_COUNT);
        scaling = from->scalings[place];
    } else {
        for (n = 0; n < 4; n++) key->last[n] += read_number(from, SET_OF_TRANSFORM + n);
        if (key->last[0] < 0 || key->last[0] > (has_states(from) ? 7 : 3) || (tensor->is_kept && key->last[0] & 3) ||
            key->last[1] < -MAX_STEP || key->last[1] > MAX_STEP) {
            return TAILCUT_CORRUPT;
        }
        scaling.is_dependent = key->last[0] > 3;
        scaling.step = (int32_t)key->last[1];
        scaling.offset = key->last[2];
        if (TAILCUT_READ_LEVELS && tensor->is_kept && !all.is_last) from->scalings[place] = scaling;
    }
    if (key->last[3] < 0 || key->last[3] > (int64_t)(all.count - all.known)) return TAILCUT_CORRUPT;
    all.claimed = key->last[3] ? (uint32_t)key->last[3] - 1 : all.count - all.known;
    if (has_axes(from) && !tensor->is_kept && tensor->num_axes > 1) {
        key->axes += read_number(from, SET_OF_AXES);
        if (key->axes < 0 || key->axes >> tensor->num_axes) return TAILCUT_CORRUPT;
        all.axes = (uint32_t)key->axes;
        for (n = 0; n < tensor->num_axes; n++) {
            if (all.axes >> n & 1) shifts += tensor->sizes[n];
        }
    }
    status = claim(from, all.claimed + shifts);
    top = from->arena->top;
    if (TAILCUT_READ_ALONG_AXES && status == TAILCUT_OK && all.axes != 0) {
        status = read_shifts(from, tensor, scaling.step, &all, shifts, is_taken);
    }
    if (status == TAILCUT_OK) status = read_quantized(from, tensor, key, &scaling, &all, is_taken);
    from->arena->top = top;
    return status;
}

static tailcut_status start(tailcut_unquantizer *from, const tailcut_tensor *tensors, uint32_t num_tensors) {
    uint32_t n;
    from->contexts = tailcut_borrow(from->arena, num_contexts(from) * sizeof *from->contexts);
    if (from->contexts == NULL) return TAILCUT_ARENA_TOO_SMALL;
    start_contexts(from);
    if (TAILCUT_READ_LEVELS && from->taken > 1) {
        for (n = 0; n < num_tensors && tensors[n].is_kept; n++) continue;
        from->scalings = tailcut_borrow(from->arena, n * (uint64_t)sizeof *from->scalings);
        if (from->scalings == NULL) return TAILCUT_ARENA_TOO_SMALL;
    }
    return TAILCUT_OK;
}

tailcut_status tailcut_unquantize(tailcut_unquantizer *from, const uint8_t *bytes, size_t num_bytes,
                                  tailcut_tensor *tensors, uint32_t num_tensors, int others) {
    uint32_t n;
    uint64_t whole = 0;
    tailcut_status status = from->level++ == 0 ? start(from, tensors, num_tensors) : TAILCUT_OK;
    for (n = 0; n < num_tensors; n++) {
        if (tensors[n].stored_type == WHOLE && others != TAILCUT_SKIP) whole += tensors[n].count;
    }
    if (whole > MAX_WHOLE) return TAILCUT_LIMIT;
    tailcut_start_coder(&from->coder, bytes, num_bytes);
    from->claims_left = 6144 * (uint64_t)num_bytes + 49152;
    for (n = 0; n < num_tensors && status == TAILCUT_OK; n++) {
        tailcut_tensor *tensor = tensors + n;
        if (tensor->stored_type < QUANTIZED || (others == TAILCUT_SKIP && !tensor->is_kept)) continue;
        tensor->type = tensor->stored_type == WHOLE ? TAILCUT_INT64 : TAILCUT_FLOAT32;
        tensor->item_stride = tensor->stored_type == WHOLE ? 8 : 4;
        tensor->byte_stride = 1;
        status = read_tensor(from, tensor, n, others);
    }
    return status == TAILCUT_OK ? tailcut_end_coder(&from->coder) : status;
}
