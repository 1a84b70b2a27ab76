/* Texts of numbers, sizes, switches, addresses and identifiers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "object/object.h"

Error *parse_u64(const char *text, uint64_t *ret_value)
{
    char *end;
    if (!g_ascii_isdigit(*text)) {
        return error_new("'%s' is not a number", text);
    }
    errno = 0;
    uint64_t value = g_ascii_strtoull(text, &end, 0);
    if (*end) {
        return error_new("'%s' is not a number", text);
    }
    if (errno == ERANGE) {
        return error_new("'%s' is too large", text);
    }
    *ret_value = value;
    return NULL;
}

static bool suffix_shift(char c, unsigned *ret_shift)
{
    static const char letters[] = "bkmgtpe";
    const char *at = strchr(letters, g_ascii_tolower(c));
    if (!c || !at) {
        return false;
    }
    *ret_shift = 10 * (unsigned)(at - letters);
    return true;
}

Error *parse_size(const char *text, uint64_t unit, uint64_t *ret_size)
{
    char *end = NULL;
    uint64_t scale = unit, whole = 0;
    double fraction = 0;

    errno = 0;
    if (g_ascii_isdigit(*text)) {
        whole = g_ascii_strtoull(text, &end, g_str_has_prefix(text, "0x") ? 16 : 10);
        if (*end == '.') {
            fraction = g_ascii_strtod(end, &end);
        }
    }
    if (!end || errno == EINVAL) {
        return error_hint(error_new("'%s' is not a size", text),
                          "Sizes are numbers with an optional suffix k, M, G, T, P or E, as in 512M.");
    }
    unsigned shift;
    if (*end && suffix_shift(*end, &shift)) {
        scale = BIT64(shift);
        end++;
    }
    if (*end) {
        return error_hint(error_new("'%s' is not a size", text),
                          "Sizes are numbers with an optional suffix k, M, G, T, P or E, as in 512M.");
    }
    uint64_t size;
    if (errno == ERANGE || !checked_mul_u64(whole, scale, &size) ||
        !checked_add_u64(size, (uint64_t)(fraction * (double)scale), &size)) {
        return error_new("the size '%s' is too large", text);
    }
    *ret_size = size;
    return NULL;
}

Error *parse_bool(const char *text, bool *ret_value)
{
    static const char *const yes[] = { "on", "yes", "true", "y", NULL };
    static const char *const no[] = { "off", "no", "false", "n", NULL };
    if (g_strv_contains(yes, text)) {
        *ret_value = true;
    } else if (g_strv_contains(no, text)) {
        *ret_value = false;
    } else {
        return error_new("'%s' is neither 'on' nor 'off'", text);
    }
    return NULL;
}

Error *parse_mac(const char *text, uint8_t ret_mac[6])
{
    uint8_t mac[6];
    const char *p = text;
    for (int i = 0; i < 6; i++) {
        if (!g_ascii_isxdigit(p[0]) || !g_ascii_isxdigit(p[1]) || (i < 5 ? p[2] != ':' && p[2] != '-' : p[2])) {
            return error_new("'%s' is not a MAC address such as 52:54:00:12:34:56", text);
        }
        mac[i] = (uint8_t)(g_ascii_xdigit_value(p[0]) << 4 | g_ascii_xdigit_value(p[1]));
        p += 3;
    }
    memcpy(ret_mac, mac, 6);
    return NULL;
}

Error *parse_uuid(const char *text, uint8_t ret_uuid[16])
{
    if (!g_uuid_string_is_valid(text)) {
        return error_new("'%s' is not a UUID such as 12345678-9abc-def0-1234-56789abcdef0", text);
    }
    for (int i = 0; i < 16; i++, text += 2) {
        if (*text == '-') {
            text++;
        }
        ret_uuid[i] = (uint8_t)(g_ascii_xdigit_value(text[0]) << 4 | g_ascii_xdigit_value(text[1]));
    }
    return NULL;
}

void format_uuid(const uint8_t uuid[16], char text[37])
{
    char *p = text;
    for (int i = 0; i < 16; i++) {
        p += g_snprintf(p, 4, "%02x%s", uuid[i], i == 3 || i == 5 || i == 7 || i == 9 ? "-" : "");
    }
}
