/*
 * What follows when the guest's watchdog runs out or its kernel says that it died: -action, set-action.
 *
 * Threads: machine lock. A vCPU whose write led here executes nothing more when the machine is to stand still.
 */
#ifndef OSTRICH_CORE_VM_ACTION_H
#define OSTRICH_CORE_VM_ACTION_H

#include "base/error.h"

typedef struct Machine Machine;

typedef enum PanicAction { PANIC_SHUTDOWN, PANIC_PAUSE, PANIC_EXIT_FAILURE, PANIC_NONE } PanicAction;

typedef enum WatchdogAction {
    WATCHDOG_RESET,
    WATCHDOG_SHUTDOWN, /* the power button */
    WATCHDOG_POWEROFF,
    WATCHDOG_PAUSE,
    WATCHDOG_DEBUG,    /* a line on standard error */
    WATCHDOG_NONE,
    WATCHDOG_INJECT_NMI,
} WatchdogAction;

typedef struct RunActions {
    bool no_reboot, no_shutdown; /* reboot=shutdown, shutdown=pause */
    PanicAction panic;
    WatchdogAction watchdog;
} RunActions;

/* Names as QMP spells them; the error lists what is possible. */
Error *panic_action_parse(const char *name, PanicAction *ret_action) MUST_USE;
Error *watchdog_action_parse(const char *name, WatchdogAction *ret_action) MUST_USE;

void machine_watchdog_expired(Machine *machine);
void machine_panicked(Machine *machine);
/* The dying kernel saves itself into a dump and will restart on its own. */
void machine_crash_loaded(Machine *machine);

#endif
