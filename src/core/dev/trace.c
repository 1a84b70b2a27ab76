/* Trace events: see trace.h. */
#include "core/dev/trace.h"

#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "schema/qmp_commands.h"
#include "value/keyvalues.h"

#define TRACE_SERVICE "trace"

typedef struct Trace {
    Object object;
    const DeviceType **types; /* sorted; event 2n is reading of type n, 2n + 1 writing */
    _Atomic bool *on;
    unsigned enabled; /* how many are on */
} Trace;

static void trace_finalize(Object *obj)
{
    Trace *trace = (Trace *)obj;
    g_free(trace->types);
    g_free((void *)trace->on);
}

static const ObjectType trace_type = { .name = "trace", .size = sizeof(Trace), .finalize = trace_finalize };

static unsigned types_count(const DeviceType *const *types)
{
    unsigned count = 0;
    while (types[count]) {
        count++;
    }
    return count;
}

static char *event_name(const DeviceType *type, bool write)
{
    char *name = g_strconcat(type->object.name, write ? "_write" : "_read", NULL);
    for (char *c = name; *c; c++) {
        *c = *c == '-' || *c == '.' ? '_' : *c;
    }
    return name;
}

unsigned trace_event_count(void)
{
    g_autofree const DeviceType **types = device_types_sorted();
    return 2 * types_count(types);
}

char *trace_event_name(unsigned event)
{
    g_autofree const DeviceType **types = device_types_sorted();
    return event_name(types[event / 2], event & 1);
}

char *trace_events_help(void)
{
    g_autofree const DeviceType **types = device_types_sorted();
    GString *out = g_string_new(NULL);
    for (unsigned event = 0; event < 2 * types_count(types); event++) {
        g_autofree char *name = event_name(types[event / 2], event & 1);
        g_string_append_printf(out, "%s\n", name);
    }
    return g_string_free(out, FALSE);
}

/* --- accesses --- */

static void accessed(void *opaque, MemRegion *region, uint64_t offset, unsigned size, uint64_t value, bool write)
{
    Trace *trace = opaque;
    const Device *dev = region->owner;
    const DeviceType *type = dev ? device_type(dev) : NULL;
    unsigned n = 0;

    while (trace->types[n] && trace->types[n] != type) {
        n++;
    }
    if (!trace->types[n] || !trace->on[2 * n + write]) {
        return;
    }
    g_autofree char *name = event_name(type, write);
    const char *reg = region->ops == &reg_bank_ops ? reg_bank_name(region->opaque, offset) : NULL;
    log_printf("%s %s+0x%" PRIx64 " %s%s%u %s 0x%" PRIx64 "\n", name, region->name, offset, reg ? reg : "", reg ? " " : "",
               size, write ? "<-" : "->", value);
}

static Trace *trace_of(Machine *machine)
{
    Trace *trace = machine_service(machine, TRACE_SERVICE);
    if (!trace) {
        trace = (Trace *)object_new(&trace_type);
        trace->types = device_types_sorted();
        trace->on = g_new0(_Atomic bool, 2 * types_count(trace->types));
        object_add_child(machine->object, TRACE_SERVICE, &trace->object);
        machine_set_service(machine, TRACE_SERVICE, trace);
    }
    return trace;
}

bool trace_event_enabled(Machine *machine, unsigned event)
{
    return trace_of(machine)->on[event];
}

/* --- switching --- */

static MUST_USE Error *no_event(const char *pattern)
{
    g_autofree char *all = trace_events_help();
    g_auto(GStrv) names = g_strsplit(g_strchomp(all), "\n", -1);
    const char *near = nearest_in(pattern, (const char *const *)names);
    return error_new("trace event '%s' does not exist%s%s%s (-trace help lists them)", pattern, near ? ", did you mean '" : "",
                     near ? near : "", near ? "'?" : "");
}

/* on NULL: only looks. */
static MUST_USE Error *match(const DeviceType *const *types, const char *pattern, Trace *trace, bool on)
{
    bool any = false;
    for (unsigned event = 0; event < 2 * types_count(types); event++) {
        g_autofree char *name = event_name(types[event / 2], event & 1);
        if (!g_pattern_match_simple(pattern, name)) {
            continue;
        }
        any = true;
        if (trace && trace->on[event] != on) {
            trace->on[event] = on;
            trace->enabled += on ? 1u : -1u;
        }
    }
    return any ? NULL : no_event(pattern);
}

Error *trace_pattern_add(const char *pattern, GPtrArray *patterns)
{
    g_autofree const DeviceType **types = device_types_sorted();

    TRY(match(types, pattern[0] == '-' ? pattern + 1 : pattern, NULL, false));
    g_ptr_array_add(patterns, g_strdup(pattern));
    return NULL;
}

Error *trace_set(Machine *machine, const char *pattern, bool on)
{
    Trace *trace = trace_of(machine);
    TRY(match(trace->types, pattern, trace, on));
    mem_set_trace(machine->mem, trace->enabled ? accessed : NULL, trace);
    return NULL;
}

/* --- the option --- */

/* A pattern a line; '#' starts a comment. */
static MUST_USE Error *read_patterns(const char *path, GPtrArray *patterns)
{
    g_autofree char *text = NULL;
    GError *gerror = NULL;

    if (!g_file_get_contents(path, &text, NULL, &gerror)) {
        Error *err = error_new("%s", gerror->message);
        g_error_free(gerror);
        return err;
    }
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        const char *pattern = g_strstrip(*line);
        if (*pattern && *pattern != '#') {
            TRY(trace_pattern_add(pattern, patterns));
        }
    }
    return NULL;
}

Error *trace_option(const char *text, GPtrArray *patterns, char **ret_file, char **ret_help)
{
    static const char *const known[] = { "enable", "events", "file", NULL };
    g_autoptr(KeyValues) kv = NULL;

    *ret_file = *ret_help = NULL;
    TRY(keyvalues_parse(text, "enable", &kv));
    const char *pattern = keyvalues_get(kv, "enable"), *events = keyvalues_get(kv, "events");
    const char *file = keyvalues_get(kv, "file");
    if (kv->help || g_strcmp0(pattern, "help") == 0) {
        *ret_help = trace_events_help();
        return NULL;
    }
    TRY(keyvalues_check_used(kv, "-trace", known));
    if (pattern) {
        TRY(trace_pattern_add(pattern, patterns));
    }
    if (events) {
        TRY(read_patterns(events, patterns));
    }
    *ret_file = g_strdup(file);
    return NULL;
}

Error *trace_start(Machine *machine, const GPtrArray *patterns)
{
    for (guint n = 0; n < patterns->len; n++) {
        const char *pattern = g_ptr_array_index(patterns, n);
        TRY(trace_set(machine, pattern[0] == '-' ? pattern + 1 : pattern, pattern[0] != '-'));
    }
    return NULL;
}

/* --- QMP --- */

Error *qmp_trace_event_get_state(QmpContext *ctx, const QmpTraceEventGetStateArgs *args, Value **ret)
{
    Trace *trace = trace_of(ctx->machine);

    TRY(match(trace->types, args->name, NULL, false));
    *ret = value_list();
    for (unsigned event = 0; event < 2 * types_count(trace->types); event++) {
        g_autofree char *name = event_name(trace->types[event / 2], event & 1);
        if (g_pattern_match_simple(args->name, name)) {
            Value *info = value_dict();
            value_put_str(info, "name", name);
            value_put_str(info, "state", trace->on[event] ? "enabled" : "disabled");
            value_append(*ret, info);
        }
    }
    return NULL;
}

Error *qmp_trace_event_set_state(QmpContext *ctx, const QmpTraceEventSetStateArgs *args, Value **ret)
{
    Error *err = trace_set(ctx->machine, args->name, args->enable);
    if (err && args->has_ignore_unavailable && args->ignore_unavailable) {
        error_free(err);
        err = NULL;
    }
    return err;
}
