/*
 * The system call filter (-sandbox): each kind of thread may make the calls of its list in sandbox.c and no others. What needs
 * more than a list can hold (a window, programs that libslirp starts) is refused with it; unless it was asked for, a machine with
 * such a thing runs without the filter.
 *
 * A call outside of the list fails with EPERM, and the first of each number says so on standard error.
 */
#ifndef OSTRICH_CORE_VM_SANDBOX_H
#define OSTRICH_CORE_VM_SANDBOX_H

#include "base/error.h"

typedef struct Machine Machine;
struct Vcpu;

typedef struct SandboxOptions {
    bool off, demanded; /* neither: on where it is possible */
    /* Groups of calls beyond the list; each is denied by default. */
    bool obsolete, elevate_privileges, resource_control;
    bool no_spawn; /* no programs are started: not even by the process that was left outside */
} SandboxOptions;

/* For all threads there are and will be. Main thread, no lock; once. Fails when the host has no libseccomp. */
Error *sandbox_enter(Machine *machine, const SandboxOptions *options) MUST_USE;
/* Fewer calls for the thread of a vCPU, which is the calling one. Nothing happens while the filter is off. */
void sandbox_enter_vcpu(struct Vcpu *vcpu);

#endif
