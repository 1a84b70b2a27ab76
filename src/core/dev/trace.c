/* Trace events: see trace.h. */
#include "core/dev/trace.h"

#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "schema/qmp_commands.h"

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

Error *trace_check(const char *pattern)
{
    g_autofree const DeviceType **types = device_types_sorted();
    return match(types, pattern, NULL, false);
}

Error *trace_set(Machine *machine, const char *pattern, bool on)
{
    Trace *trace = trace_of(machine);
    TRY(match(trace->types, pattern, trace, on));
    mem_set_trace(machine->mem, trace->enabled ? accessed : NULL, trace);
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
