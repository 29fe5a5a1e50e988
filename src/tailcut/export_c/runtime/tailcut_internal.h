/* What the parts of the reader share. Not for users. */
#ifndef TAILCUT_INTERNAL_H
#define TAILCUT_INTERNAL_H

#include "tailcut.h"

/* What a program may leave out to save flash, as -DTAILCUT_READ_OWN_CLASSES=0. What is not there is refused: a file
 * that needs it as TAILCUT_UNSUPPORTED_VERSION. */
#ifndef TAILCUT_READ_OWN_CLASSES
#define TAILCUT_READ_OWN_CLASSES 1 /* files of own classes; registered networks, described by the caller, stay */
#endif
#ifndef TAILCUT_READ_DEFLATE
#define TAILCUT_READ_DEFLATE 1 /* codec 1, and packed headers */
#endif
#ifndef TAILCUT_READ_RANGE
#define TAILCUT_READ_RANGE 1 /* codec 2 */
#endif
#ifndef TAILCUT_READ_QUANTIZED
#define TAILCUT_READ_QUANTIZED 1 /* codecs 3 to 5 */
#endif
#ifndef TAILCUT_READ_ALONG_AXES
#define TAILCUT_READ_ALONG_AXES 1 /* codec 4, and with it codec 5 */
#endif
#ifndef TAILCUT_READ_DEPENDENT
#define TAILCUT_READ_DEPENDENT 1 /* codec 5 */
#endif
#ifndef TAILCUT_READ_LEVELS
#define TAILCUT_READ_LEVELS 1 /* version 3: files with levels */
#endif
#ifndef TAILCUT_READ_METADATA
#define TAILCUT_READ_METADATA 1 /* whether metadata are looked at: 0 takes any bytes */
#endif

/* Bytes that are read from front to end. The first error stays; after it every item is 0. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
    tailcut_status status;
} tailcut_items;

/* Memory from both ends: results from the bottom, what is needed for a while from the top. */
typedef struct {
    uint8_t *base;
    size_t bottom;
    size_t top;
    size_t size;
    size_t peak;
} tailcut_arena;

void tailcut_fail(tailcut_items *items, tailcut_status status);
const uint8_t *tailcut_take(tailcut_items *items, uint64_t count);
uint32_t tailcut_byte(tailcut_items *items);
uint64_t tailcut_varint(tailcut_items *items);
uint32_t tailcut_capped(tailcut_items *items, uint32_t most); /* a varint, TAILCUT_LIMIT above `most` */
uint64_t tailcut_float64(tailcut_items *items);               /* its bits */
const uint8_t *tailcut_text(tailcut_items *items, uint32_t *num_bytes);
void tailcut_value(tailcut_items *items);
int tailcut_is_json_object(const uint8_t *bytes, uint32_t num_bytes);
int tailcut_is_utf8(const uint8_t *bytes, uint32_t num_bytes, int refuses_controls);

/* Of what has the CRC-32 `before` (0 for nothing), with these bytes behind it. */
uint32_t tailcut_crc32(uint32_t before, const uint8_t *bytes, size_t num_bytes);

void *tailcut_keep(tailcut_arena *arena, uint64_t num_bytes);   /* from the bottom, aligned; NULL if there is no room */
void *tailcut_borrow(tailcut_arena *arena, uint64_t num_bytes); /* from the top; give back by setting `top` again */

/* BLAKE2b with a digest of four bytes. */
typedef struct {
    uint64_t state[8];
    uint8_t block[128];
    uint64_t num_bytes;
    uint32_t filled;
} tailcut_digest;

void tailcut_digest_start(tailcut_digest *digest);
void tailcut_digest_add(tailcut_digest *digest, const void *bytes, uint32_t num_bytes);
uint32_t tailcut_digest_end(tailcut_digest *digest); /* its four bytes, read as a little-endian number */

/* A raw DEFLATE stream that expands to just `expanded` bytes and ends with its last byte. */
tailcut_status tailcut_inflate(const uint8_t *bytes, size_t num_bytes, uint8_t *into, size_t expanded,
                               tailcut_arena *arena);
/* How many coefficients a tensor has in level `low`, from their count in level `high`. parts: of all levels. */
#if TAILCUT_READ_LEVELS
uint32_t tailcut_count_below(uint32_t count, const uint8_t *parts, uint32_t high, uint32_t low);
#else
#define tailcut_count_below(count, parts, high, low) (count)
#endif

#endif
