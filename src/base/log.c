#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

const LogItem log_items[] = {
    { "in_asm", LOG_IN_ASM, "guest instructions of each block that is translated" },
    { "out_asm", LOG_OUT_ASM, "host code made for each block" },
    { "op", LOG_OP, "intermediate operations of each block" },
    { "op_opt", LOG_OP_OPT, "intermediate operations after optimization" },
    { "int", LOG_INT, "interrupts and exceptions, one line each" },
    { "exec", LOG_EXEC, "address of each block before it runs (much output)" },
    { "cpu", LOG_CPU, "CPU registers before each block (much output)" },
    { "mmu", LOG_MMU, "page walks, one line each" },
    { "cpu_reset", LOG_CPU_RESET, "CPU state at each reset" },
    { "unimp", LOG_UNIMP, "what the guest used and this program lacks" },
    { "guest_errors", LOG_GUEST_ERRORS, "wrong accesses and commands of the guest" },
    { "page", LOG_PAGE, "guest memory layout at start" },
    { "nochain", LOG_NOCHAIN, "do not link blocks to each other" },
    { "pcall", LOG_PCALL, "far jumps, calls and returns, and returns from interrupts" },
    { "fpu", LOG_FPU, "include FPU registers in the cpu log" },
    { NULL, 0, NULL },
};

_Atomic unsigned log_mask;

static FILE *log_file;
static _Atomic unsigned guest_error_budget = 10000;

Error *log_parse_items(const char *items, unsigned *ret_mask)
{
    g_auto(GStrv) names = g_strsplit(items, ",", -1);
    unsigned mask = 0;

    for (char **name = names; *name; name++) {
        const LogItem *item = log_items;
        while (item->name && strcmp(item->name, *name)) {
            item++;
        }
        if (item->name) {
            mask |= item->mask;
        } else if (!strcmp(*name, "all")) {
            mask |= ~(unsigned)LOG_NOCHAIN;
        } else {
            const char *known[ARRAY_SIZE(log_items)];
            for (size_t i = 0; i < ARRAY_SIZE(log_items); i++) {
                known[i] = log_items[i].name;
            }
            const char *near = nearest_in(*name, known);
            return error_new("-d: unknown log item '%s'%s%s%s (see -d help)", *name,
                             near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
        }
    }
    *ret_mask = mask;
    return NULL;
}

typedef struct LogRange {
    uint64_t first, last;
} LogRange;
static GArray *log_filter; /* LogRange; NULL: everything passes */

static MUST_USE Error *parse_range(const char *text, LogRange *ret_range)
{
    const char *what = "a range is START..LAST, START+SIZE or START-SIZE";
    char *end;
    uint64_t start = g_ascii_strtoull(text, &end, 0);
    char how = *end;

    if (end == text || !how || (how == '.' && end[1] != '.')) {
        return error_new("'%s': %s", text, what);
    }
    const char *second = end + (how == '.' ? 2 : 1);
    uint64_t number = g_ascii_strtoull(second, &end, 0);
    if (end == second || *end || !strchr(".+-", how) || (how != '.' && number == 0)) {
        return error_new("'%s': %s", text, what);
    }
    *ret_range = how == '.'   ? (LogRange) { start, number }
                 : how == '+' ? (LogRange) { start, start + (number - 1) }
                              : (LogRange) { start - (number - 1), start };
    return ret_range->first <= ret_range->last ? NULL : error_new("'%s' is empty", text);
}

Error *log_set_filter(const char *ranges)
{
    g_auto(GStrv) parts = g_strsplit(ranges, ",", -1);
    g_autoptr(GArray) filter = g_array_new(FALSE, FALSE, sizeof(LogRange));

    for (char **part = parts; *part; part++) {
        LogRange range;
        TRY(parse_range(*part, &range));
        g_array_append_val(filter, range);
    }
    if (log_filter) {
        g_array_unref(log_filter);
    }
    log_filter = g_steal_pointer(&filter);
    return NULL;
}

bool log_at(unsigned mask, uint64_t address)
{
    if (!log_enabled(mask)) {
        return false;
    }
    for (guint n = 0; log_filter && n < log_filter->len; n++) {
        const LogRange *range = &g_array_index(log_filter, LogRange, n);
        if (address >= range->first && address <= range->last) {
            return true;
        }
    }
    return log_filter == NULL;
}

Error *log_open(const char *path)
{
    FILE *file = stderr;
    if (path) {
        g_autofree char *name = NULL;
        const char *percent = strstr(path, "%d");
        if (percent) {
            name = g_strdup_printf("%.*s%d%s", (int)(percent - path), path, (int)getpid(),
                                   percent + 2);
        } else {
            name = g_strdup(path);
        }
        file = fopen(name, "we");
        if (!file) {
            return error_new_errno(errno, "-D: cannot write the log file '%s'", name);
        }
        setvbuf(file, NULL, _IOLBF, 0);
    }
    if (log_file && log_file != stderr) {
        fclose(log_file);
    }
    log_file = file;
    return NULL;
}

static void log_vprintf(const char *fmt, va_list ap)
{
    vfprintf(log_file ? log_file : stderr, fmt, ap);
}

void log_printf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_vprintf(fmt, ap);
    va_end(ap);
}

void guest_error(const char *fmt, ...)
{
    if (!log_enabled(LOG_GUEST_ERRORS)) {
        return;
    }
    unsigned left = guest_error_budget;
    do {
        if (left == 0) {
            return;
        }
    } while (!atomic_compare_exchange_weak(&guest_error_budget, &left, left - 1));
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *line = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    log_printf("guest error: %s%s\n", line, left == 1 ? " (no more of these will be shown)" : "");
}

void log_unimp(const char *fmt, ...)
{
    if (!log_enabled(LOG_UNIMP)) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *line = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    log_printf("unimplemented: %s\n", line);
}
