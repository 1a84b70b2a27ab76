/* Watchdogs and panics; see action.h. */
#include "core/vm/action.h"

#include <string.h>

#include "core/vm/machine.h"

static const char *const panic_names[] = { "shutdown", "pause", "exit-failure", "none", NULL };
static const char *const watchdog_names[] = { "reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi", NULL };

static MUST_USE Error *parse(const char *const *names, const char *what, const char *text, unsigned *ret_index)
{
    for (unsigned n = 0; names[n]; n++) {
        if (!strcmp(names[n], text)) {
            *ret_index = n;
            return NULL;
        }
    }
    g_autofree char *list = g_strjoinv(", ", (char **)names);
    return error_hint(error_new("invalid %s action '%s'", what, text), "Possible are %s.", list);
}

Error *panic_action_parse(const char *name, PanicAction *ret_action)
{
    unsigned index;
    TRY(parse(panic_names, "panic", name, &index));
    *ret_action = (PanicAction)index;
    return NULL;
}

Error *watchdog_action_parse(const char *name, WatchdogAction *ret_action)
{
    unsigned index;
    TRY(parse(watchdog_names, "watchdog", name, &index));
    *ret_action = (WatchdogAction)index;
    return NULL;
}

/* The processor that asked goes no further than its next poll; from a timer there is none. */
static void stop_here(Machine *machine, RunState state)
{
    vcpu_stop_self();
    machine_request_stop(machine, state);
}

static void inject_nmi(Machine *machine)
{
    for (guint n = 0; n < machine->vcpus->len; n++) {
        vcpu_kick(g_ptr_array_index(machine->vcpus, n), VCPU_REQ_NMI);
    }
}

void machine_watchdog_expired(Machine *machine)
{
    WatchdogAction action = machine->actions.watchdog;
    g_autofree char *json = g_strdup_printf("{\"action\": \"%s\"}", watchdog_names[action]);

    machine_emit(machine, "WATCHDOG", json);
    switch (action) {
    case WATCHDOG_RESET:
        machine_request_reset(machine, SHUTDOWN_GUEST_RESET);
        break;
    case WATCHDOG_SHUTDOWN:
        machine_request_powerdown(machine);
        break;
    case WATCHDOG_POWEROFF:
        machine_request_shutdown(machine, SHUTDOWN_HOST_ERROR);
        break;
    case WATCHDOG_PAUSE:
        stop_here(machine, RUN_STATE_WATCHDOG);
        break;
    case WATCHDOG_DEBUG:
        warn_report("watchdog: timer fired");
        break;
    case WATCHDOG_NONE:
        break;
    case WATCHDOG_INJECT_NMI:
        inject_nmi(machine);
        break;
    }
}

static void emit_panic(Machine *machine, const char *action)
{
    g_autofree char *json = g_strdup_printf("{\"action\": \"%s\"}", action);
    machine_emit(machine, "GUEST_PANICKED", json);
}

void machine_panicked(Machine *machine)
{
    const RunActions *actions = &machine->actions;

    if (actions->panic == PANIC_NONE) {
        emit_panic(machine, "run");
    } else if (actions->panic == PANIC_PAUSE || (actions->panic == PANIC_SHUTDOWN && actions->no_shutdown)) {
        emit_panic(machine, "pause");
        stop_here(machine, RUN_STATE_GUEST_PANICKED);
    } else {
        emit_panic(machine, "poweroff");
        if (actions->panic == PANIC_EXIT_FAILURE) {
            machine->exit_code = 1;
        }
        vcpu_stop_self();
        machine_request_shutdown(machine, SHUTDOWN_GUEST_PANIC);
    }
}

void machine_crash_loaded(Machine *machine)
{
    machine_emit(machine, "GUEST_CRASHLOADED", "{\"action\": \"run\"}");
}
