/* How programs announce the image that they are about to make: "Formatting 'x.qcow2', fmt=qcow2 cluster_size=65536 ...". */
#include <inttypes.h>
#include <string.h>

#include "block/node.h"

static void add_option(GString *text, const char *key, const char *value)
{
    uint64_t bytes;
    bool is_size = !strcmp(key, "size") || !strcmp(key, "cluster_size") || !strcmp(key, "extent_size_hint");
    Error *err = is_size ? block_parse_size(value, &bytes) : NULL;

    if (is_size && !err) {
        g_string_append_printf(text, " %s=%" PRIu64, key, bytes);
    } else { /* as an option text has it */
        g_auto(GStrv) parts = g_strsplit(value, ",", -1);
        g_autofree char *escaped = g_strjoinv(",,", parts);
        g_string_append_printf(text, " %s=%s", key, escaped);
    }
    error_free(err);
}

static bool has_option(const BlockOption *options, const char *name)
{
    for (; options && options->name; options++) {
        if (!strcmp(options->name, name)) {
            return true;
        }
    }
    return false;
}

char *block_create_text(const BlockDriver *driver, const char *filename, KeyValues *opts)
{
    /* The order in which people know it: defaults of the format among what was given, then what the file takes. */
    static const char *const order[] = { "encryption", "encrypt.format", "encrypt.key-secret", "encrypt.cipher-alg",
                                         "encrypt.cipher-mode", "encrypt.ivgen-alg", "encrypt.ivgen-hash-alg",
                                         "encrypt.hash-alg", "encrypt.iter-time", "cluster_size", "extended_l2",
                                         "preallocation", "compression_type", "size", "key-secret", "cipher-alg",
                                         "cipher-mode", "ivgen-alg", "ivgen-hash-alg", "hash-alg", "iter-time",
                                         "backing_file", "backing_fmt", "compat", "data_file", "data_file_raw",
                                         "lazy_refcounts", "refcount_bits", "nocow", "preallocation", "extent_size_hint" };
    enum { OF_FILE = 3 }; /* the last ones are printed when the format does not have them */
    static const struct {
        const char *key, *value;
    } defaults[] = { { "cluster_size", "65536" },
                     { "extended_l2", "off" },
                     { "compression_type", "zlib" },
                     { "lazy_refcounts", "off" },
                     { "refcount_bits", "16" } };
    GString *text = g_string_new(NULL);
    g_string_printf(text, "Formatting '%s', fmt=%s", filename, driver->name);
    for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
        bool of_file = i >= ARRAY_SIZE(order) - OF_FILE;
        const char *value = keyvalues_get(opts, order[i]);
        if (has_option(driver->create_options, order[i]) == of_file) {
            continue;
        }
        for (size_t d = 0; d < ARRAY_SIZE(defaults) && !value; d++) {
            value = strcmp(defaults[d].key, order[i]) ? NULL : defaults[d].value;
        }
        if (value) {
            add_option(text, order[i], value);
        }
    }
    return g_string_free(text, FALSE);
}
