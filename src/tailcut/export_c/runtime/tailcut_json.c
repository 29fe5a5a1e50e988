/* Whether metadata are a JSON object that can be written again. SPEC.md: "Metadata". */
#include "tailcut_internal.h"

#define MAX_DEPTH 992   /* what a reader can follow; Python's is about that */
#define MAX_DIGITS 4300 /* of an integer, as Python's */

typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} text;

static int next(text *json) { return json->at == json->end ? -1 : *json->at; }

static void skip_space(text *json) {
    while (next(json) == ' ' || next(json) == '\t' || next(json) == '\n' || next(json) == '\r') json->at++;
}

static int skip(text *json, const char *word) {
    for (; *word; word++, json->at++) {
        if (next(json) != *word) return 0;
    }
    return 1;
}

static int32_t hex(text *json) {
    int32_t value = 0;
    int n;
    for (n = 0; n < 4; n++, json->at++) {
        int c = next(json);
        if (c >= '0' && c <= '9') {
            value = 16 * value + c - '0';
        } else if ((c | 32) >= 'a' && (c | 32) <= 'f' && c > 0) {
            value = 16 * value + (c | 32) - 'a' + 10;
        } else {
            return -1;
        }
    }
    return value;
}

static int quoted(text *json) {
    if (!skip(json, "\"")) return 0;
    for (;;) {
        int c = next(json);
        if (c < 0x20) return 0;
        json->at++;
        if (c == '"') return 1;
        if (c != '\\') continue;
        c = next(json);
        if (c < 0) return 0;
        json->at++;
        if (c == 'u') {
            int32_t code = hex(json);
            if (code < 0 || (code >= 0xdc00 && code < 0xe000)) return 0;
            if (code >= 0xd800 && code < 0xdc00) {
                if (!skip(json, "\\u")) return 0;
                code = hex(json);
                if (code < 0xdc00 || code >= 0xe000) return 0;
            }
        } else if (c != '"' && c != '\\' && c != '/' && c != 'b' && c != 'f' && c != 'n' && c != 'r' && c != 't') {
            return 0;
        }
    }
}

static uint32_t digits(text *json) {
    uint32_t count = 0;
    for (; next(json) >= '0' && next(json) <= '9'; json->at++) count++;
    return count;
}

/* Whether a decimal number (digits, a point among them, times 10^exponent) does not round to infinity in a float64. */
static int is_finite(const uint8_t *at, const uint8_t *end, int32_t exponent) {
    static const char limit[] = "1797693134862315807937289714053034150799"; /* times 10^308 / 10^39, rounded up */
    const char *most = limit;
    const uint8_t *place, *first = end;
    int32_t before = 0, zeros = 0, is_behind = 0; /* digits before the point, and before the first that is not 0 */
    for (place = at; place < end; place++) {
        if (*place == '.') {
            is_behind = 1;
            continue;
        }
        if (*place != '0' && first == end) first = place;
        zeros += first == end;
        before += !is_behind;
    }
    exponent += before - 1 - zeros;
    if (first == end || exponent < 308) return 1;
    if (exponent > 308) return 0;
    for (; first < end && *most; first++) {
        if (*first == '.') continue;
        if (*first != *most) return *first < *most;
        most++;
    }
    return *most != 0;
}

static int number(text *json) {
    const uint8_t *start, *end;
    uint32_t count;
    int32_t exponent = 0;
    if (next(json) == '-') json->at++;
    start = json->at;
    if (next(json) == '0') {
        json->at++;
        count = 1;
    } else {
        count = digits(json);
    }
    if (count == 0) return 0;
    if (next(json) != '.' && (next(json) | 32) != 'e') return count <= MAX_DIGITS;
    if (next(json) == '.') {
        json->at++;
        if (digits(json) == 0) return 0;
    }
    end = json->at;
    if (json->at < json->end && (next(json) | 32) == 'e') {
        int is_negative;
        json->at++;
        is_negative = next(json) == '-';
        if (is_negative || next(json) == '+') json->at++;
        for (count = 0; next(json) >= '0' && next(json) <= '9'; json->at++, count++) {
            if (exponent < 10000000) exponent = 10 * exponent + (next(json) - '0');
        }
        if (count == 0) return 0;
        if (is_negative) exponent = -exponent;
    }
    return is_finite(start, end, exponent);
}

static int word(text *json) {
    if (next(json) == 't') return skip(json, "true");
    if (next(json) == 'f') return skip(json, "false");
    return skip(json, "null");
}

static int key(text *json) {
    skip_space(json);
    if (!quoted(json)) return 0;
    skip_space(json);
    return skip(json, ":");
}

int tailcut_is_json_object(const uint8_t *bytes, uint32_t num_bytes) {
    uint8_t is_object[MAX_DEPTH / 8] = {0}; /* a bit for each depth */
    uint32_t depth = 0;
    text json;
    json.at = bytes;
    json.end = bytes + num_bytes;
    if (!tailcut_is_utf8(bytes, num_bytes, 0)) return 0;
    skip_space(&json);
    if (next(&json) != '{') return 0;
    for (;;) {
        /* A value. */
        int c;
        skip_space(&json);
        c = next(&json);
        if (c == '{' || c == '[') {
            uint8_t bit = (uint8_t)(1u << (depth & 7));
            if (depth == MAX_DEPTH) return 0;
            is_object[depth >> 3] = (uint8_t)(c == '{' ? is_object[depth >> 3] | bit : is_object[depth >> 3] & ~bit);
            depth++;
            json.at++;
            skip_space(&json);
            if (next(&json) != (c == '{' ? '}' : ']')) {
                if (c == '{' && !key(&json)) return 0;
                continue;
            }
        } else if (!(c == '"' ? quoted(&json) : c == '-' || (c >= '0' && c <= '9') ? number(&json) : word(&json))) {
            return 0;
        }
        /* What follows it: the ends of lists and objects, or a comma. */
        for (;;) {
            int inside;
            if (depth == 0) break;
            inside = is_object[(depth - 1) >> 3] >> ((depth - 1) & 7) & 1;
            skip_space(&json);
            c = next(&json);
            if (c == (inside ? '}' : ']')) {
                json.at++;
                depth--;
                continue;
            }
            if (c != ',') return 0;
            json.at++;
            if (inside && !key(&json)) return 0;
            break;
        }
        if (depth == 0) {
            skip_space(&json);
            return json.at == json.end;
        }
    }
}
