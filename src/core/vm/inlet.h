/*
 * Where input from outside enters a machine that counts instructions, when it is recorded or replayed: what a
 * back end has for the guest is posted here, and delivered between two instructions. Without an inlet
 * (machine->inlet is NULL) it goes to the device at once.
 *
 * Threads: inlet_post() with the machine lock, on any thread. Handlers run on a vCPU's thread with the machine lock.
 */
#ifndef OSTRICH_CORE_VM_INLET_H
#define OSTRICH_CORE_VM_INLET_H

#include "core/vm/machine.h"

/* The numbers are part of the recording's format. */
typedef enum InletKind {
    INLET_CHAR = 1,   /* bytes for the front end of a chardev; id: the chardev's */
    INLET_CHAR_EVENT, /* one byte: CharEvent */
    INLET_NET,        /* a frame for a card; id: the port's name */
    INLET_INPUT,      /* a key, a button, a movement; empty: the end of a group */
    INLET_REQUEST,    /* one byte: MachineRequest, and one: its cause */
    INLET_BLOCK,   /* a disk's request completes: its number, u64, and the result, i32 */
    INLET_KINDS,
} InletKind;

typedef void InletFn(Machine *machine, const char *id, const uint8_t *data, size_t length);

/* Replaying: whether what the recording has next has come to pass here. */
typedef bool InletReady(Machine *machine, const uint8_t *data, size_t length);

typedef struct Inlet Inlet;
struct Inlet {
    Machine *machine;
    void (*post)(Inlet *inlet, InletKind kind, const char *id, const void *data, size_t length);
    /* The rest is for core/vm/icount.c, on the thread of the vCPU whose turn it is. */
    void (*deliver)(Inlet *inlet);     /* what belongs here */
    uint64_t (*until)(Inlet *inlet);   /* instructions to the next stop; UINT64_MAX: none is known */
    bool (*came)(Inlet *inlet);        /* whether what `blocked` waits for is there; machine lock */
    int64_t (*next_ns)(Inlet *inlet);  /* virtual time of what comes without another instruction; INT64_MAX: nothing */
    InletFn *handlers[INLET_KINDS];
    InletReady *ready[INLET_KINDS]; /* NULL: always */
    unsigned awaited; /* requests whose completion will be posted */
    bool blocked;     /* set by deliver(): what belongs here is not there yet, no instruction may follow */
    void *block; /* of INLET_BLOCK */
    bool replays;
    bool fresh; /* set before deliver(): no vCPU began to run at this count or took an interrupt at it */
    bool fresh_runs; /* likewise: the vCPU can run, so no other one has the turn at this count */
    bool delivering;
};

/* False: there is no inlet, the caller gives it to the device itself. */
static inline bool inlet_post(Machine *machine, InletKind kind, const char *id, const void *data, size_t length)
{
    Inlet *inlet = machine->inlet;
    if (!inlet || inlet->delivering) {
        return false;
    }
    inlet->post(inlet, kind, id, data, length);
    return true;
}
static inline void inlet_set_handler(Machine *machine, InletKind kind, InletFn *fn)
{
    if (machine->inlet) {
        machine->inlet->handlers[kind] = fn;
    }
}
static inline bool inlet_replays(const Machine *machine)
{
    return machine->inlet && machine->inlet->replays;
}

#endif
