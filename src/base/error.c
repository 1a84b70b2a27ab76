#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct Error {
    ErrorClass error_class;
    int err;
    char *message;
    char *hint;
};

static Error *error_make(ErrorClass error_class, int err, char *message)
{
    Error *e = g_new0(Error, 1);
    e->error_class = error_class;
    e->err = err;
    e->message = message;
    return e;
}

Error *error_new(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return error_make(ERROR_GENERIC, 0, text);
}

Error *error_new_class(ErrorClass error_class, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return error_make(error_class, 0, text);
}

Error *error_new_errno(int err, const char *fmt, ...)
{
    va_list ap;
    err = err < 0 ? -err : err;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return error_make(ERROR_GENERIC, err, g_strdup_printf("%s: %s", text, g_strerror(err)));
}

Error *error_prefix(Error *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    char *whole = g_strconcat(text, err->message, NULL);
    g_free(err->message);
    err->message = whole;
    return err;
}

Error *error_hint(Error *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (err->hint) {
        g_autofree char *old = err->hint, *line = text;
        err->hint = g_strconcat(old, "\n", line, NULL);
    } else {
        err->hint = text;
    }
    return err;
}

const char *error_message(const Error *err)
{
    return err->message;
}

const char *error_hint_text(const Error *err)
{
    return err->hint;
}

ErrorClass error_class(const Error *err)
{
    return err->error_class;
}

int error_errno(const Error *err)
{
    return err->err;
}

void error_free(Error *err)
{
    if (err) {
        g_free(err->message);
        g_free(err->hint);
        g_free(err);
    }
}

/* Set once by main() before any thread starts. */
static const char *program_name = "ostrich";

void error_set_program(const char *name)
{
    const char *slash = strrchr(name, '/');
    program_name = slash ? slash + 1 : name;
}

static bool show_timestamps;
static const char *guest_name;

void error_set_decoration(bool timestamps, const char *guest)
{
    show_timestamps = timestamps;
    guest_name = guest;
}

static void print_decoration(void)
{
    if (show_timestamps) {
        g_autoptr(GDateTime) now = g_date_time_new_now_utc();
        g_autofree char *text = g_date_time_format(now, "%Y-%m-%dT%H:%M:%S");
        fprintf(stderr, "%s.%06dZ ", text, g_date_time_get_microsecond(now));
    }
    if (guest_name) {
        fprintf(stderr, "%s ", guest_name);
    }
}

void error_never(Error *err)
{
    if (err) {
        g_error("%s", error_message(err));
    }
}

void error_report(Error *err)
{
    print_decoration();
    fprintf(stderr, "%s: %s\n", program_name, err->message);
    if (err->hint) {
        fprintf(stderr, "%s\n", err->hint);
    }
    error_free(err);
}

void warn_report(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    print_decoration();
    fprintf(stderr, "%s: warning: %s\n", program_name, text);
}

/* Edit distance with transpositions, over at most 63 characters. */
static unsigned edit_distance(const char *a, const char *b)
{
    enum { MAX = 64 };
    unsigned row[3][MAX];
    size_t la = strlen(a), lb = strlen(b);

    if (la >= MAX || lb >= MAX) {
        return UINT_MAX;
    }
    for (size_t j = 0; j <= lb; j++) {
        row[0][j] = (unsigned)j;
    }
    for (size_t i = 1; i <= la; i++) {
        unsigned *cur = row[i % 3], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3];
        cur[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned same = g_ascii_tolower(a[i - 1]) == g_ascii_tolower(b[j - 1]) ? 0 : 1;
            unsigned best = MIN(MIN(up[j] + 1, cur[j - 1] + 1), up[j - 1] + same);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                best = MIN(best, up2[j - 2] + 1);
            }
            cur[j] = best;
        }
    }
    return row[la % 3][lb];
}

const char *nearest_name(const char *typed, const char *(*next)(void *opaque), void *opaque)
{
    unsigned length = (unsigned)strlen(typed), limit = length <= 3 ? 1 : length / 3 + 1, best = limit + 1;
    const char *found = NULL, *name;

    while ((name = next(opaque))) {
        unsigned distance = edit_distance(typed, name);
        if (distance < best) {
            best = distance;
            found = name;
        }
    }
    return found;
}

static const char *next_in_array(void *opaque)
{
    const char *const **cursor = opaque;
    return **cursor ? *(*cursor)++ : NULL;
}

const char *nearest_in(const char *typed, const char *const *names)
{
    return nearest_name(typed, next_in_array, &names);
}
