/* What file names mean: paths, "protocol:" in front, "json:", names relative to an image. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "block/backend.h"
#include "block/node_priv.h"
#include "value/json.h"

void block_graph_set_open_special(BlockGraph *graph, int (*fn)(void *opaque, const char *path, int flags), void *opaque)
{
    graph->open_special = fn;
    graph->open_opaque = opaque;
}

int block_open_path(BlockGraph *graph, const char *path, int flags)
{
    if (g_str_has_prefix(path, "/dev/fdset/")) {
        return graph->open_special ? graph->open_special(graph->open_opaque, path, flags) : -ENOENT;
    }
    int fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

const char *block_skip_protocol(const char *name)
{
    const char *p = name;
    while (g_ascii_isalnum(*p) || *p == '+' || *p == '-' || *p == '.') {
        p++;
    }
    return p > name && *p == ':' ? p + 1 : NULL;
}

char *block_resolve_backing(const char *image, const char *backing)
{
    const char *slash = strrchr(image, '/');
    if (backing[0] == '/' || !slash || g_str_has_prefix(backing, "json:") ||
        block_skip_protocol(backing)) {
        return g_strdup(backing);
    }
    return g_strdup_printf("%.*s%s", (int)(slash + 1 - image), image, backing);
}

bool block_name_is_relative(const char *name)
{
    return name[0] != '/' && !g_str_has_prefix(name, "json:") && !block_skip_protocol(name);
}

Error *block_options_from_filename(const char *filename, KeyValues *opts)
{
    struct stat st;
    const char *path = filename;

    if (g_str_has_prefix(filename, "json:")) {
        Value *value;
        g_autoptr(KeyValues) parsed = NULL;
        Error *err = json_parse(filename + 5, strlen(filename + 5), &value);
        if (err) {
            return error_prefix(err, "Could not parse the JSON options of '%s': ", filename);
        }
        err = keyvalues_from_value(value, &parsed);
        value_free(value);
        TRY(err);
        const char *driver = keyvalues_get(parsed, "driver"), *wanted = keyvalues_get(opts, "driver");
        if (wanted && driver && strcmp(wanted, driver)) {
            keyvalues_set(opts, "file.filename", filename); /* a format above it */
            return NULL;
        }
        for (guint i = 0; i < parsed->items->len; i++) {
            KeyValue *item = g_ptr_array_index(parsed->items, i);
            if (!keyvalues_has(opts, item->key)) {
                keyvalues_set(opts, item->key, item->value);
            }
        }
        return NULL;
    }
    const char *rest = block_skip_protocol(filename);
    if (rest && memchr(filename, '/', (size_t)(rest - filename)) == NULL) {
        g_autofree char *protocol = g_strndup(filename, (gsize)(rest - 1 - filename));
        const BlockDriver *driver = block_driver_for_scheme(protocol);
        if (!strcmp(protocol, "file")) {
            path = rest;
        } else if (driver) {
            keyvalues_set(opts, "driver", driver->name);
            if (driver->parse_filename) {
                return driver->parse_filename(filename, opts);
            }
            keyvalues_set(opts, "filename", rest);
            return NULL;
        } else {
            return error_new("Unknown protocol '%s'", protocol);
        }
    }
    bool device = stat(path, &st) == 0 && (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode));
    keyvalues_set(opts, "driver", device ? "host_device" : "file");
    keyvalues_set(opts, "filename", path);
    return NULL;
}
