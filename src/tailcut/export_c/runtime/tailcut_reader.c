/* A .tailcut file from its first byte to its last. SPEC.md: the whole.
 *
 * The included parts have one job each. They are no files of their own for the compiler, since what is called once can
 * only be inlined within a file: that saves 200 bytes of 7,400 on a Cortex-M4.
 */
#include "tailcut_reader_edits.h"
#include "tailcut_reader_numbers.h"

const char *tailcut_status_name(tailcut_status status) {
    switch (status) {
        case TAILCUT_OK:
            return "ok";
        case TAILCUT_NOT_TAILCUT:
            return "not a tailcut file";
        case TAILCUT_UNSUPPORTED_VERSION:
            return "unsupported version";
        case TAILCUT_TRUNCATED:
            return "truncated";
        case TAILCUT_CHECKSUM_MISMATCH:
            return "checksum mismatch";
        case TAILCUT_CORRUPT:
            return "corrupt";
        case TAILCUT_LIMIT:
            return "limit exceeded";
        case TAILCUT_MODEL_MISMATCH:
            return "model mismatch";
        case TAILCUT_ARENA_TOO_SMALL:
            return "arena too small";
        case TAILCUT_BAD_ARGUMENT:
            return "bad argument";
    }
    return "unknown status";
}

static void read_base(reading *from, tailcut_items *items) {
    tailcut_file *file = from->file;
    const tailcut_network *network = from->network;
    const uint8_t *start;
#if !TAILCUT_READ_OWN_CLASSES
    /* One name and its arguments are taken, byte by byte, so there is no need to look into them. */
    file->base_bytes = tailcut_capped(items, 4096);
    file->base = (const char *)tailcut_take(items, file->base_bytes);
    if (items->status == TAILCUT_OK && file->base_bytes == 0) tailcut_fail(items, TAILCUT_UNSUPPORTED_VERSION);
    if (items->status == TAILCUT_OK && network == NULL) tailcut_fail(items, TAILCUT_BAD_ARGUMENT);
    if (items->status != TAILCUT_OK) return;
    start = tailcut_take(items, network->arguments_bytes);
    if (items->status != TAILCUT_OK) return;
#else
    uint64_t last = 0;
    uint32_t number, n;
    file->base = (const char *)tailcut_text(items, &file->base_bytes);
    if (items->status != TAILCUT_OK || file->base_bytes == 0) return;
    if (network == NULL) {
        tailcut_fail(items, TAILCUT_BAD_ARGUMENT);
        return;
    }
    start = items->at;
    number = tailcut_capped(items, 64);
    for (n = 0; n < number && items->status == TAILCUT_OK; n++) {
        uint64_t place = tailcut_varint(items);
        if (n > 0 && place <= last) tailcut_fail(items, TAILCUT_CORRUPT);
        last = place;
        tailcut_value(items);
    }
    if (items->status != TAILCUT_OK) return;
#endif
    if (strlen(network->base) != file->base_bytes || memcmp(network->base, file->base, file->base_bytes) != 0 ||
        (size_t)(items->at - start) != network->arguments_bytes ||
        memcmp(network->arguments, start, network->arguments_bytes) != 0) {
        tailcut_fail(items, TAILCUT_MODEL_MISMATCH);
    }
}

static void read_metadata(reading *from, tailcut_items *items) {
    tailcut_file *file = from->file;
    const uint8_t *bytes;
    file->metadata_bytes = tailcut_capped(items, 65536);
    bytes = tailcut_take(items, file->metadata_bytes);
    file->metadata = (const char *)bytes;
    if (items->status == TAILCUT_OK && TAILCUT_READ_METADATA && file->metadata_bytes > 0 &&
        !tailcut_is_json_object(bytes, file->metadata_bytes)) {
        tailcut_fail(items, TAILCUT_CORRUPT);
    }
}

static tailcut_items read_header(reading *from, tailcut_items *body) {
    uint64_t word = tailcut_varint(body), stored = word >> 1;
    tailcut_items header;
    const uint8_t *bytes;
    if (stored > MAX_HEADER) tailcut_fail(body, TAILCUT_LIMIT);
    header.at = header.end = body->end;
    if ((word & 1) && !TAILCUT_READ_DEFLATE) {
        header.status = TAILCUT_UNSUPPORTED_VERSION;
    } else if (word & 1) {
        uint32_t expanded = tailcut_capped(body, MAX_HEADER);
        uint8_t *made;
        bytes = tailcut_take(body, stored);
        header.status = body->status;
        if (header.status != TAILCUT_OK) return header;
        made = tailcut_keep(&from->arena, expanded);
        header.status = made == NULL ? TAILCUT_ARENA_TOO_SMALL
                                     : tailcut_inflate(bytes, (size_t)stored, made, expanded, &from->arena);
        header.at = made;
        header.end = made == NULL ? NULL : made + expanded;
    } else {
        bytes = tailcut_take(body, stored);
        header.status = body->status;
        if (header.status != TAILCUT_OK) return header;
        header.at = bytes;
        header.end = bytes + (size_t)stored;
    }
    return header;
}

static tailcut_status read_body(reading *from, size_t length) {
    tailcut_items body = from->blocks[0], header;
    payload streams[NUM_TYPES + 1];
    const uint8_t *digest = tailcut_take(&body, 4);
    uint32_t number = 0, level;
    if (body.status != TAILCUT_OK) return body.status;
    memset(streams, 0, sizeof streams);
    header = read_header(from, &body);
    if (header.status == TAILCUT_OK) read_base(from, &header);
    if (header.status == TAILCUT_OK) read_metadata(from, &header);
    if (header.status == TAILCUT_OK) read_edits(from, &header);
    if (header.status == TAILCUT_OK) {
        if (is_own(from)) {
            read_others(from, &header);
        } else {
            others_from_slots(from, &header);
        }
    }
    if (header.status == TAILCUT_OK) read_types(from, &header);
    if (header.status == TAILCUT_OK) number = read_streams(from, &header, streams);
    if (header.status == TAILCUT_OK && header.at != header.end) tailcut_fail(&header, TAILCUT_CORRUPT);
    if (TAILCUT_READ_LEVELS && from->file->version == 3 && !from->has_coefficients) {
        tailcut_fail(&header, TAILCUT_CORRUPT);
    }
    for (level = 2; TAILCUT_READ_LEVELS && level <= from->file->level && header.status == TAILCUT_OK; level++) {
        tailcut_items block = from->blocks[level - 1];
        payload further[NUM_TYPES + 1];
        memcpy(further, streams, sizeof further);
        read_level_head(from, &block, further, number);
        if (block.status != TAILCUT_OK) tailcut_fail(&header, block.status);
    }
    if (header.status == TAILCUT_OK) check_caps(from, &header, length);
    check_digest(from, &header, word_at(digest));
    check_types(from, &header);
    return header.status == TAILCUT_OK ? read_levels(from, &body, streams, number) : header.status;
}

#if TAILCUT_READ_LEVELS
/* The contents of the levels up to `level`, or of all that are there for 0; which is the highest of them. */
static tailcut_status split_levels(reading *from, tailcut_items file, uint32_t level) {
    const uint8_t *covered = file.at;
    uint32_t number = tailcut_byte(&file), n, crc = 0;
    if (number < 2 || number > MAX_LEVELS) return TAILCUT_LIMIT;
    from->parts = tailcut_take(&file, number - 1);
    for (n = 0; file.status == TAILCUT_OK && n + 1 < number; n++) {
        if (from->parts[n] == 0) return TAILCUT_CORRUPT;
    }
    if (level > number) return TAILCUT_BAD_ARGUMENT;
    for (n = 0; n < (level ? level : number) && (n == 0 || level || file.at != file.end); n++) {
        tailcut_items *block = from->blocks + n;
        uint64_t size = tailcut_varint(&file);
        block->at = tailcut_take(&file, size);
        block->end = file.at;
        tailcut_take(&file, 4);
        if (file.status != TAILCUT_OK) return file.status;
        block->status = TAILCUT_OK;
        crc = tailcut_crc32(crc, covered, (size_t)(block->end - covered));
        covered = block->end;
        if (crc != word_at(covered)) return TAILCUT_CHECKSUM_MISMATCH;
    }
    from->file->num_levels = number;
    from->file->level = n;
    return !level && file.at != file.end ? TAILCUT_CORRUPT : TAILCUT_OK;
}

uint32_t tailcut_whole_levels(const void *bytes, size_t length) {
    const uint8_t *at = bytes;
    tailcut_items file;
    uint32_t number, n;
    if (at == NULL || length < 6 || memcmp(at, magic, sizeof magic) != 0 || at[4] != 3) return 0;
    file.at = at + 6;
    file.end = at + length;
    file.status = TAILCUT_OK;
    number = at[5];
    if (number < 2 || number > MAX_LEVELS) return 0;
    tailcut_take(&file, number - 1);
    for (n = 0; n < number; n++) {
        tailcut_take(&file, tailcut_varint(&file));
        tailcut_take(&file, 4);
        if (file.status != TAILCUT_OK) break;
    }
    return n;
}
#endif

static tailcut_status open_level(const void *bytes, size_t length, const tailcut_network *network,
                                 uint32_t max_parameters, uint32_t level, void *arena, size_t arena_bytes,
                                 tailcut_file *file) {
    const uint8_t *at = bytes;
    size_t skipped;
    reading from;
    tailcut_status status;
    if (bytes == NULL || arena == NULL || file == NULL) return TAILCUT_BAD_ARGUMENT;
    memset(file, 0, sizeof *file);
    if (length == 0 || memcmp(at, magic, length < 4 ? length : 4) != 0) return TAILCUT_NOT_TAILCUT;
    if (length > 8 * (uint64_t)max_parameters + 1048597) return TAILCUT_LIMIT;
    if (length < 5) return TAILCUT_TRUNCATED;
    file->version = at[4];
    if (file->version < 1 || file->version > (TAILCUT_READ_LEVELS ? 3 : 2)) return TAILCUT_UNSUPPORTED_VERSION;
    if (length < 13) return TAILCUT_TRUNCATED;
    memset(&from, 0, sizeof from);
    from.file = file;
    from.network = network;
    from.max_parameters = max_parameters;
    file->level = file->num_levels = 1;
    from.blocks[0].at = at + 9;
    from.blocks[0].end = at + length;
#if TAILCUT_READ_LEVELS
    if (file->version == 3) {
        from.blocks[0].at = at + 5;
        status = split_levels(&from, from.blocks[0], level);
        if (status != TAILCUT_OK) return status;
    } else
#endif
    {
        if (tailcut_crc32(0, at + 9, length - 9) != word_at(at + 5)) return TAILCUT_CHECKSUM_MISMATCH;
        if (level > 1) return TAILCUT_BAD_ARGUMENT;
    }
    skipped = (8 - ((uintptr_t)arena & 7)) & 7;
    if (skipped > arena_bytes) return TAILCUT_ARENA_TOO_SMALL;
    from.arena.base = (uint8_t *)arena + skipped;
    from.arena.size = (arena_bytes - skipped) & ~(size_t)7;
    from.arena.top = from.arena.size;
    if (network != NULL) {
        from.taken = tailcut_keep(&from.arena, network->num_slots);
        if (from.taken == NULL) return TAILCUT_ARENA_TOO_SMALL;
        memset(from.taken, 0, network->num_slots);
    }
    status = read_body(&from, length);
    file->arena_used = from.arena.bottom + skipped;
    file->arena_peak = from.arena.peak + skipped;
    return status;
}

tailcut_status tailcut_open(const void *bytes, size_t length, const tailcut_network *network, uint32_t max_parameters,
                            void *arena, size_t arena_bytes, tailcut_file *file) {
    return open_level(bytes, length, network, max_parameters, 0, arena, arena_bytes, file);
}

#if TAILCUT_READ_LEVELS
tailcut_status tailcut_open_level(const void *bytes, size_t length, const tailcut_network *network,
                                  uint32_t max_parameters, uint32_t level, void *arena, size_t arena_bytes,
                                  tailcut_file *file) {
    return open_level(bytes, length, network, max_parameters, level, arena, arena_bytes, file);
}
#endif

const tailcut_tensor *tailcut_find(const tailcut_file *file, const char *name) {
    uint32_t n;
    for (n = 0; n < file->num_tensors; n++) {
        const tailcut_tensor *tensor = file->tensors + n;
        if (strlen(name) == tensor->name_bytes && memcmp(name, tensor->name, tensor->name_bytes) == 0) return tensor;
    }
    return NULL;
}

uint32_t tailcut_number_bytes(const tailcut_tensor *tensor) { return number_bytes[tensor->type]; }

uint8_t tailcut_number_byte(const tailcut_tensor *tensor, uint32_t place, uint32_t byte) {
    return tensor->numbers[(ptrdiff_t)place * tensor->item_stride + (ptrdiff_t)byte * tensor->byte_stride];
}

static float float_of_word(uint32_t word) {
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static float half_of_word(uint32_t word) {
    uint32_t sign = word >> 15 << 31, exponent = word >> 10 & 31, fraction = word & 1023;
    if (exponent == 31) return float_of_word(sign | 0x7f800000u | fraction << 13);
    if (exponent > 0) return float_of_word(sign | (exponent + 112) << 23 | fraction << 13);
    return (sign ? -1.0f : 1.0f) * (float)fraction * 5.9604644775390625e-8f; /* 2^-24 */
}

float tailcut_number(const tailcut_tensor *tensor, uint32_t place) {
    uint64_t word = item_word(tensor, place);
    double value;
    switch (tensor->type) {
        case TAILCUT_FLOAT32:
            return float_of_word((uint32_t)word);
        case TAILCUT_FLOAT16:
            return half_of_word((uint32_t)word);
        case TAILCUT_BFLOAT16:
            return float_of_word((uint32_t)word << 16);
        case TAILCUT_FLOAT64:
            /* Where rounding gives infinity, C leaves open what a conversion does. */
            if ((word & ~(UINT64_C(1) << 63)) >= UINT64_C(0x47effffff0000000)) {
                int is_nan = (word & ~(UINT64_C(1) << 63)) > UINT64_C(0x7ff0000000000000);
                return float_of_word((word >> 63 ? 0xff800000u : 0x7f800000u) | (is_nan ? 0x400000u : 0));
            }
            memcpy(&value, &word, sizeof value);
            return (float)value;
        case TAILCUT_UINT8:
        case TAILCUT_BOOL:
            return (float)(uint32_t)word;
        default: {
            /* Two's complement of so many bytes; a bit that is lost on the way marks its place, for the rounding. */
            uint32_t unused = 64u - 8u * number_bytes[tensor->type], shift = 127;
            int is_negative;
            word <<= unused;
            is_negative = word >> 63 ? 1 : 0;
            word = (is_negative ? ~word : word) >> unused;
            word += (uint32_t)is_negative;
            for (; word >> 32; shift++) word = word >> 1 | (word & 1);
            return (is_negative ? -1.0f : 1.0f) * (float)(uint32_t)word * float_of_word(shift << 23);
        }
    }
}
