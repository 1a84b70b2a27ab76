/*
 * A machine that is held: it stands still while it is saved, restored, dumped or moved, and what clients ask for
 * meanwhile (stop, cont, reset, sleep) comes true afterwards. Monitors are served during all of these.
 */
#include "core/vm/machine.h"

RunState machine_hold(Machine *machine, RunState state)
{
    RunState before = machine->state;

    if (machine->holds == 0) {
        machine->goes_on = before == RUN_STATE_RUNNING || before == RUN_STATE_SUSPENDED;
        machine_stop(machine, state);
    } else {
        machine_set_state(machine, state);
    }
    machine->holds++;
    return before;
}

/* What was asked for meanwhile is due. */
static bool last_hold(Machine *machine)
{
    if (--machine->holds > 0) {
        return false;
    }
    machine_handle_later(machine);
    return true;
}

void machine_release(Machine *machine, RunState before)
{
    bool last = last_hold(machine);

    if (machine->state == RUN_STATE_SHUTDOWN) {
        return; /* the program ends */
    }
    if (last && machine->goes_on) {
        machine_start(machine);
    } else if (last && (before == RUN_STATE_RUNNING || before == RUN_STATE_SUSPENDED)) {
        machine_set_state(machine, RUN_STATE_PAUSED);
    } else {
        machine_set_state(machine, before);
    }
}

void machine_release_still(Machine *machine, RunState state)
{
    last_hold(machine);
    if (machine->state != RUN_STATE_SHUTDOWN) {
        machine_set_state(machine, state);
    }
}
