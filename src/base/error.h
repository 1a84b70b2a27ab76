/*
 * Errors that a person reads.
 *
 * A function that can fail for a reason worth a sentence returns `Error *`: NULL is success, anything
 * else is owned by the caller, who passes it up (TRY), adds context (error_prefix) or reports it at the
 * boundary. Outputs go through ret_ pointers, written only on success.
 *
 *     Error *disk_open(const char *path, Disk **ret_disk)
 *     {
 *         TRY(file_open(path, &fd));
 *         ...
 *         return error_new("%s: not a disk image (the first bytes are zero)", path);
 *     }
 */
#ifndef OSTRICH_BASE_ERROR_H
#define OSTRICH_BASE_ERROR_H

#include "base/base.h"

typedef struct Error Error;

/* The class a QMP client sees; ERROR_GENERIC unless said otherwise. */
typedef enum ErrorClass {
    ERROR_GENERIC,
    ERROR_COMMAND_NOT_FOUND,
    ERROR_DEVICE_NOT_ACTIVE,
    ERROR_DEVICE_NOT_FOUND,
    ERROR_KVM_MISSING_CAP,
} ErrorClass;

MUST_USE Error *error_new(const char *fmt, ...) PRINTF(1, 2);
MUST_USE Error *error_new_class(ErrorClass error_class, const char *fmt, ...) PRINTF(2, 3);
/* "<text>: <strerror(err)>"; err is a positive or negative errno. error_errno() gives it back, positive. */
MUST_USE Error *error_new_errno(int err, const char *fmt, ...) PRINTF(2, 3);

/* Puts text in front of the message. Returns err. */
MUST_USE Error *error_prefix(Error *err, const char *fmt, ...) PRINTF(2, 3);
/* Adds a line of advice that people see and QMP clients do not. Returns err. */
MUST_USE Error *error_hint(Error *err, const char *fmt, ...) PRINTF(2, 3);

const char *error_message(const Error *err); /* borrowed until err is freed */
const char *error_hint_text(const Error *err); /* NULL when there is none */
ErrorClass error_class(const Error *err);
int error_errno(const Error *err); /* 0 when no errno was given */
void error_free(Error *err);       /* accepts NULL */

/* For what only a mistake in the program can make fail: ends it with the message. Accepts NULL. */
void error_never(Error *err);

/* Prints "program: message" and the hint to stderr and frees err. For main/, the monitor and tools; of a server, for whom it turns away. */
void error_report(Error *err);
void error_set_program(const char *name);
/* -msg: what stands in front of messages. guest is borrowed, NULL: not shown. Before any thread starts. */
void error_set_decoration(bool timestamps, const char *guest);
void warn_report(const char *fmt, ...) PRINTF(1, 2);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Error, error_free)

#define TRY(expr)                                                                                  \
    do {                                                                                           \
        Error *try_err_ = (expr);                                                                  \
        if (unlikely(try_err_ != NULL)) {                                                          \
            return try_err_;                                                                       \
        }                                                                                          \
    } while (0)

/*
 * The candidate nearest to what the user typed, or NULL when none is near. next() returns successive
 * candidates and NULL at the end.
 */
const char *nearest_name(const char *typed, const char *(*next)(void *opaque), void *opaque);
/* The same over a NULL-terminated array. */
const char *nearest_in(const char *typed, const char *const *names);

#endif
