/*
 * A QMP session: greeting, capabilities negotiation, one response a command in order, events between. A client that enabled "oob"
 * is read on while a command runs: what it sends by exec-oob is carried out at once, other commands queue.
 */
#include <stdio.h>
#include <string.h>

#include "base/version.h"
#include "monitor/monitor_priv.h"
#include "schema/qmp_commands.h"

/* Above this much unread output no more commands are read. */
#define OUTPUT_HIGH (1u << 20)
/* With so many commands that wait, no more is read. */
#define QUEUE_HIGH 8

static const QmpCommand *command_find(const char *name)
{
    for (const QmpCommand *command = qmp_commands; command->name; command++) {
        if (!strcmp(command->name, name)) {
            return command;
        }
    }
    return NULL;
}

bool monitor_has_command(const Monitors *set, const QmpCommand *command)
{
    return !set || !set->daemon || command->daemon;
}

void qmp_send(Monitor *monitor, const Value *message)
{
    g_autoptr(GString) text = g_string_new(NULL);

    json_write_to(text, message, monitor->pretty);
    g_string_append(text, "\r\n");
    char_write_all(&monitor->front, text->str, text->len);
}

static void send_error(Monitor *monitor, const Value *id, Error *err)
{
    static const char *const classes[] = {
        [ERROR_GENERIC] = "GenericError",
        [ERROR_COMMAND_NOT_FOUND] = "CommandNotFound",
        [ERROR_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
        [ERROR_DEVICE_NOT_FOUND] = "DeviceNotFound",
        [ERROR_KVM_MISSING_CAP] = "KVMMissingCap",
    };
    g_autoptr(Value) message = value_dict();
    Value *body = value_dict();

    if (id) {
        value_put(message, "id", value_copy(id));
    }
    value_put_str(body, "class", classes[error_class(err)]);
    value_put_str(body, "desc", error_message(err));
    value_put(message, "error", body);
    qmp_send(monitor, message);
    error_free(err);
}

Error *monitor_run_qmp(QmpContext *ctx, const char *name, const Value *args, Value **ret_value)
{
    const QmpCommand *command = command_find(name);
    g_autoptr(Value) none = value_dict();

    if (!command || !monitor_has_command(monitors_of(ctx->machine), command)) {
        return error_new_class(ERROR_COMMAND_NOT_FOUND, "The command %s has not been found: there "
                                                        "is none of this name, or not in this state",
                                                        name);
    }
    g_autofree void *filled = g_malloc0(command->args_size);
    TRY(qmp_check_args(command, args ? args : none, filled));
    *ret_value = NULL;
    return command->fn(ctx, filled, ret_value);
}

static MUST_USE Error *check_request(const Value *request, const char **ret_command)
{
    static const char *const known[] = { "execute", "exec-oob", "arguments", "id", NULL };

    if (value_kind(request) != VALUE_DICT) {
        return error_new("A request is a JSON object");
    }
    for (size_t n = 0; n < value_length(request); n++) {
        if (!g_strv_contains(known, value_key_at(request, n))) {
            return error_new("A request has no member '%s'", value_key_at(request, n));
        }
    }
    const Value *execute = value_find(request, "execute"), *oob = value_find(request, "exec-oob");
    const Value *arguments = value_find(request, "arguments");
    if (execute && oob) {
        return error_new("QMP input member 'exec-oob' clashes with 'execute'");
    }
    if (!execute && !oob) {
        return error_new("The request names no command: it needs 'execute'");
    }
    *ret_command = value_get_str(execute ? execute : oob);
    if (!*ret_command) {
        return error_new("The member '%s' of a request is a string",
                         execute ? "execute" : "exec-oob");
    }
    if (arguments && value_kind(arguments) != VALUE_DICT) {
        return error_new("The 'arguments' of a request are an object");
    }
    return NULL;
}

/* What can be asked for before the machine is made (-preconfig). */
static const char *const before_machine[] = {
    "add-fd", "closefd", "getfd", "object-add", "object-del", "query-command-line-options", "query-commands", "query-fdsets",
    "query-hotpluggable-cpus", "query-machines", "query-name", "query-qmp-schema", "query-status", "query-target", "query-uuid",
    "query-version", "qmp_capabilities", "quit", "remove-fd", "set-numa-node", "x-exit-preconfig", NULL,
};

static MUST_USE Error *check_stage(const Monitor *monitor, const char *name, bool oob)
{
    bool negotiate = !strcmp(name, "qmp_capabilities");

    if (!monitor->negotiated && !negotiate) {
        return error_new_class(ERROR_COMMAND_NOT_FOUND, "A session begins with 'qmp_capabilities': "
                                                        "send that first");
    }
    if (monitor->negotiated && negotiate) {
        return error_new_class(ERROR_COMMAND_NOT_FOUND,
                               "qmp_capabilities was given before, and once is enough: nothing "
                               "changed");
    }
    const QmpCommand *command = command_find(name);
    if (monitor->set->machine->preconfig && command && !g_strv_contains(before_machine, name)) {
        return error_hint(error_new_class(ERROR_COMMAND_NOT_FOUND, "%s works on a machine, which is not made yet", name),
                          "x-exit-preconfig makes it.");
    }
    if (oob && !monitor->oob) {
        return error_new("QMP input member 'exec-oob' is unexpected");
    }
    if (oob && command && !command->oob) {
        return error_new("The command %s cannot run out of band: use 'execute'", name);
    }
    return NULL;
}

static MUST_USE Error *run_request(Monitor *monitor, const Value *request, Value **ret_value)
{
    QmpContext ctx = { .machine = monitor->set->machine, .monitor = monitor };
    const char *command = NULL;

    TRY(check_request(request, &command));
    TRY(check_stage(monitor, command, value_find(request, "exec-oob") != NULL));
    return monitor_run_qmp(&ctx, command, value_find(request, "arguments"), ret_value);
}

/* What a client sent: a value, or why there is none. */
typedef struct Request {
    Value *value;
    Error *err;
} Request;

static void request_free(gpointer data)
{
    Request *request = data;
    value_free(request->value);
    error_free(request->err);
    g_free(request);
}

static void answer(Monitor *monitor, Request *request)
{
    const Value *id = request->value && value_kind(request->value) == VALUE_DICT ? value_find(request->value, "id") : NULL;
    Value *result = NULL;
    Error *err = g_steal_pointer(&request->err);

    if (!err) {
        err = run_request(monitor, request->value, &result);
    }
    if (err) {
        value_free(result);
        send_error(monitor, id, err);
        return;
    }
    g_autoptr(Value) message = value_dict();
    value_put(message, "return", result ? result : value_dict());
    if (id) {
        value_put(message, "id", value_copy(id));
    }
    qmp_send(monitor, message);
}

static bool jumps_queue(const Monitor *monitor, const Value *value)
{
    return monitor->oob && value && value_kind(value) == VALUE_DICT && value_find(value, "exec-oob");
}

static void on_json(void *opaque, Value *value, Error *err)
{
    Monitor *monitor = opaque;
    Request *request = g_new0(Request, 1);

    *request = (Request){ value, err };
    if (jumps_queue(monitor, value)) {
        answer(monitor, request);
        request_free(request);
    } else {
        g_queue_push_tail(&monitor->requests, request);
    }
}

static size_t qmp_can_receive(void *opaque)
{
    const Monitor *monitor = opaque;
    bool waits = monitor->dispatching && (!monitor->oob || monitor->requests.length >= QUEUE_HIGH);

    return monitor_serves(monitor) && !waits && char_pending(&monitor->front) < OUTPUT_HIGH ? 4096 : 0;
}

static void session_begin(Monitor *monitor);
static void session_end(Monitor *monitor);

/* A command may run the loop while it waits, and the peer be gone by then: the commands that it sent are
 * still carried out. */
static void qmp_receive(void *opaque, const uint8_t *buf, size_t length)
{
    Monitor *monitor = opaque;
    Request *request;

    json_stream_feed(monitor->json, (const char *)buf, length);
    if (monitor->dispatching) {
        return;
    }
    monitor->dispatching = true;
    while ((request = g_queue_pop_head(&monitor->requests))) {
        answer(monitor, request);
        request_free(request);
    }
    monitor->dispatching = false;
    if (monitor->close_waits) {
        session_end(monitor);
    }
    if (monitor->open_waits) {
        session_begin(monitor);
    }
    char_accept_input(&monitor->front);
}

static void qmp_writable(void *opaque)
{
    char_accept_input(&((Monitor *)opaque)->front);
}

static Value *version_value(void)
{
    Value *triple = value_dict(), *version = value_dict();
    unsigned major = 0, minor = 0, micro = 0;

    sscanf(COMPAT_VERSION, "%u.%u.%u", &major, &minor, &micro);
    value_put_int(triple, "micro", micro);
    value_put_int(triple, "minor", minor);
    value_put_int(triple, "major", major);
    value_put(version, "qemu", triple);
    value_put_str(version, "package", "ostrich-" OSTRICH_VERSION);
    return version;
}

static void send_greeting(Monitor *monitor)
{
    g_autoptr(Value) message = value_dict();
    Value *body = value_dict(), *capabilities = value_list();

    value_append(capabilities, value_str("oob"));
    value_put(body, "version", version_value());
    value_put(body, "capabilities", capabilities);
    value_put(message, "QMP", body);
    qmp_send(monitor, message);
}

static void session_begin(Monitor *monitor)
{
    monitor->open_waits = monitor->dispatching;
    if (!monitor->dispatching) {
        monitor->negotiated = monitor->oob = false;
        send_greeting(monitor);
    }
}

static void session_end(Monitor *monitor)
{
    monitor->close_waits = monitor->dispatching;
    monitor->open_waits = false;
    if (!monitor->dispatching) {
        monitor->negotiated = false;
        json_stream_free(monitor->json);
        monitor->json = json_stream_new(on_json, monitor);
    }
}

static void qmp_event(void *opaque, CharEvent event)
{
    Monitor *monitor = opaque;

    if (event == CHAR_EVENT_OPENED) {
        session_begin(monitor);
    } else if (event == CHAR_EVENT_CLOSED) {
        session_end(monitor);
    }
}

const CharFrontOps qmp_front_ops = {
    .can_receive = qmp_can_receive, .receive = qmp_receive, .event = qmp_event, .writable = qmp_writable,
};

void qmp_monitor_open(Monitor *monitor)
{
    monitor->json = json_stream_new(on_json, monitor);
    g_queue_init(&monitor->requests);
    char_set_echo(&monitor->front, true);
}

void qmp_monitor_close(Monitor *monitor)
{
    g_clear_pointer(&monitor->json, json_stream_free);
    g_queue_clear_full(&monitor->requests, request_free);
}

/* --- handlers about the protocol --- */

Error *qmp_qmp_capabilities(QmpContext *ctx, const QmpQmpCapabilitiesArgs *args, Value **ret)
{
    Monitor *monitor = ctx->monitor;

    if (monitor) {
        monitor->oob = args->has_enable && value_length(args->enable) > 0;
        monitor->negotiated = true;
    }
    return NULL;
}

Error *qmp_query_version(QmpContext *ctx, const QmpQueryVersionArgs *args, Value **ret)
{
    *ret = version_value();
    return NULL;
}

Error *qmp_query_commands(QmpContext *ctx, const QmpQueryCommandsArgs *args, Value **ret)
{
    *ret = value_list();
    for (const QmpCommand *command = qmp_commands; command->name; command++) {
        if (!monitor_has_command(monitors_of(ctx->machine), command)) {
            continue;
        }
        Value *info = value_dict();
        value_put_str(info, "name", command->name);
        value_append(*ret, info);
    }
    return NULL;
}

Error *qmp_human_monitor_command(QmpContext *ctx, const QmpHumanMonitorCommandArgs *args, Value **ret)
{
    unsigned cpu = args->has_cpu_index ? (unsigned)args->cpu_index : 0;

    if (args->has_cpu_index && (args->cpu_index < 0 || args->cpu_index > UINT32_MAX || !vcpu_at(ctx->machine, cpu))) {
        return error_new("Parameter 'cpu-index' expects a CPU number");
    }
    *ret = value_take_str(monitor_run_hmp(ctx->machine, cpu, args->command_line));
    return NULL;
}

Error *qmp_quit(QmpContext *ctx, const QmpQuitArgs *args, Value **ret)
{
    if (monitors_of(ctx->machine)->daemon) {
        loop_quit(ctx->machine->loop);
        return NULL;
    }
    ctx->machine->actions.no_shutdown = false;
    machine_shutdown(ctx->machine, SHUTDOWN_HOST_QMP_QUIT); /* clients get the event before the answer */
    return NULL;
}
