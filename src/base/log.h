/*
 * The -d log: one mask of items, one destination. guest_error() is for what a guest did wrong; it is
 * silent unless -d guest_errors, and rate limited so that a guest cannot fill the host's disk.
 * Any thread.
 */
#ifndef OSTRICH_BASE_LOG_H
#define OSTRICH_BASE_LOG_H

#include <stdatomic.h>
#include <stdio.h>

#include "base/base.h"
#include "base/error.h"

enum {
    LOG_IN_ASM = BIT(0),
    LOG_OUT_ASM = BIT(1),
    LOG_OP = BIT(2),
    LOG_OP_OPT = BIT(3),
    LOG_INT = BIT(4),
    LOG_EXEC = BIT(5),
    LOG_CPU = BIT(6),
    LOG_MMU = BIT(7),
    LOG_CPU_RESET = BIT(8),
    LOG_UNIMP = BIT(9),
    LOG_GUEST_ERRORS = BIT(10),
    LOG_PAGE = BIT(11),
    LOG_NOCHAIN = BIT(12),
    LOG_PCALL = BIT(13),
    LOG_FPU = BIT(15),
};

typedef struct LogItem {
    const char *name;
    unsigned mask;
    const char *help;
} LogItem;
extern const LogItem log_items[]; /* ends with a NULL name */

/* For what has a guest address: -dfilter. Without ranges every address passes. */
bool log_at(unsigned mask, uint64_t address);
/* "start..last,start+size,start-size": the addresses that log_at() lets pass; before any thread logs. */
Error *log_set_filter(const char *ranges) MUST_USE;

extern _Atomic unsigned log_mask;

static inline bool log_enabled(unsigned mask)
{
    return unlikely((atomic_load_explicit(&log_mask, memory_order_relaxed) & mask) != 0);
}

/* Comma-separated items of -d; `help` is the caller's business. */
Error *log_parse_items(const char *items, unsigned *ret_mask) MUST_USE;
/* Where -D says; NULL is stderr. %d in the name becomes the process id. */
Error *log_open(const char *path) MUST_USE;
void log_printf(const char *fmt, ...) PRINTF(1, 2);
void guest_error(const char *fmt, ...) PRINTF(1, 2);
/* Something a guest asked for that this program does not do (-d unimp). */
void log_unimp(const char *fmt, ...) PRINTF(1, 2);

#endif
