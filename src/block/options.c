/* Helpers for the options of drivers: typed taking, prefixes, sizes, what is left over. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "block/node_priv.h"

KeyValues *block_take_prefix(KeyValues *opts, const char *prefix)
{
    KeyValues *sub = keyvalues_new();
    size_t length = strlen(prefix);

    for (guint i = 0; i < opts->items->len;) {
        KeyValue *item = g_ptr_array_index(opts->items, i);
        if (g_str_has_prefix(item->key, prefix) && item->key[length]) {
            g_autofree char *key = g_strdup(item->key);
            g_autofree char *value = keyvalues_take(opts, key);
            keyvalues_remove(opts, key);
            keyvalues_set(sub, key + length, value);
        } else {
            i++;
        }
    }
    return sub;
}

bool block_has_prefix(const KeyValues *opts, const char *prefix)
{
    for (guint i = 0; i < opts->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(opts->items, i);
        if (g_str_has_prefix(item->key, prefix)) {
            return true;
        }
    }
    return false;
}

static char *take(KeyValues *opts, const char *key)
{
    char *value = keyvalues_take(opts, key);
    keyvalues_remove(opts, key); /* older values of the same key */
    return value;
}

Error *block_take_bool(KeyValues *opts, const char *key, bool fallback, bool *ret_value)
{
    g_autofree char *value = take(opts, key);
    if (!value) {
        *ret_value = fallback;
    } else if (!strcmp(value, "on") || !strcmp(value, "true") || !strcmp(value, "yes") ||
               !strcmp(value, "y")) {
        *ret_value = true;
    } else if (!strcmp(value, "off") || !strcmp(value, "false") || !strcmp(value, "no") ||
               !strcmp(value, "n")) {
        *ret_value = false;
    } else {
        return error_new("Parameter '%s' expects 'on' or 'off'", key); /* image tests compare this */
    }
    return NULL;
}

Error *block_parse_size(const char *text, uint64_t *ret_bytes)
{
    static const char suffixes[] = "bkmgtpe";
    char *end;
    uint64_t whole;

    if (!g_ascii_isdigit(text[0])) {
        goto invalid;
    }
    errno = 0;
    whole = strtoull(text, &end, 0);
    if (errno == ERANGE) {
        goto too_large;
    }
    double fraction = 0;
    if (*end == '.') {
        char *fraction_end;
        if (!g_ascii_isdigit(end[1])) {
            goto invalid;
        }
        fraction = g_ascii_strtod(end, &fraction_end);
        end = fraction_end;
    }
    unsigned shift = 0;
    if (*end) {
        const char *suffix = strchr(suffixes, g_ascii_tolower(*end));
        if (!suffix || end[1]) {
            goto invalid;
        }
        shift = 10 * (unsigned)(suffix - suffixes);
    }
    if (fraction != 0 && shift == 0) {
        goto invalid;
    }
    uint64_t bytes;
    if (__builtin_mul_overflow(whole, 1ull << shift, &bytes) ||
        __builtin_add_overflow(bytes, (uint64_t)(fraction * (double)(1ull << shift)), &bytes)) {
        goto too_large;
    }
    *ret_bytes = bytes;
    return NULL;
invalid:
    return error_hint(
        error_new("'%s' is not a size", text),
        "A size is a number of bytes; k, M, G, T, P or E behind it stand for kilobytes, "
        "megabytes, gigabytes, terabytes, petabytes and exabytes (powers of 1024).");
too_large:
    return error_new("The size '%s' is too large", text);
}

Error *block_take_size(KeyValues *opts, const char *key, uint64_t fallback, uint64_t *ret_value)
{
    g_autofree char *value = take(opts, key);
    if (!value) {
        *ret_value = fallback;
        return NULL;
    }
    Error *err = block_parse_size(value, ret_value);
    return err ? error_prefix(err, "Parameter '%s': ", key) : NULL;
}

Error *block_take_disk_size(KeyValues *opts, uint64_t *ret_size, bool *ret_as_given)
{
    TRY(block_take_bool(opts, "x-as-given", false, ret_as_given));
    return block_take_size(opts, "size", 0, ret_size);
}

Error *block_round_disk_size(uint64_t *size, bool as_given)
{
    if (as_given && !IS_ALIGNED(*size, 512ull)) {
        return error_new("Image size must be a multiple of 512 bytes"); /* iotests compare it */
    }
    *size = ALIGN_UP(*size, 512ull);
    return NULL;
}

Error *block_take_num(KeyValues *opts, const char *key, uint64_t fallback, uint64_t *ret_value)
{
    g_autofree char *value = take(opts, key);
    if (!value) {
        *ret_value = fallback;
        return NULL;
    }
    char *end;
    errno = 0;
    uint64_t number = strtoull(value, &end, 0);
    if (!g_ascii_isdigit(value[0]) || *end || errno) {
        return error_new("Parameter '%s' expects a number, not '%s'", key, value);
    }
    *ret_value = number;
    return NULL;
}

static const char *const preallocation_names[] = { "off", "metadata", "falloc", "full", NULL };

const char *block_preallocation_name(Preallocation p)
{
    return preallocation_names[p];
}

Error *block_parse_preallocation(const char *text, Preallocation *ret)
{
    for (int i = 0; preallocation_names[i]; i++) {
        if (!strcmp(text, preallocation_names[i])) {
            *ret = (Preallocation)i;
            return NULL;
        }
    }
    return error_new(
        "Invalid parameter '%s' for preallocation: off, metadata, falloc or full is expected",
        text);
}

static const char *const common_options[] = {
    "driver",         "node-name", "read-only",     "auto-read-only", "force-share", "active", "cache.direct",
    "cache.no-flush", "discard",   "detect-zeroes", "file",           "backing",     "filename",
};

Error *block_check_leftover(const KeyValues *opts, const BlockNode *node)
{
    if (!opts->items->len) {
        return NULL;
    }
    const KeyValue *item = g_ptr_array_index(opts->items, 0);
    g_autoptr(GPtrArray) known = g_ptr_array_new();
    for (size_t i = 0; i < ARRAY_SIZE(common_options); i++) {
        g_ptr_array_add(known, (void *)common_options[i]);
    }
    for (const BlockOption *o = node->driver->options; o && o->name; o++) {
        g_ptr_array_add(known, (void *)o->name);
    }
    g_ptr_array_add(known, NULL);
    const char *near = nearest_in(item->key, (const char *const *)known->pdata);
    return error_new("Block format '%s' does not support the option '%s'%s%s%s", node->driver->name,
                     item->key, near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}
