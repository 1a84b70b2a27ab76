/*
 * The vCPU handle: what devices, monitors and the machine know about a CPU. The architectural state
 * lives in cpu/<isa>; the accelerator runs it on the vCPU's own thread.
 */
#ifndef OSTRICH_CORE_VM_VCPU_H
#define OSTRICH_CORE_VM_VCPU_H

#include <pthread.h>

#include "core/dev/dev.h"

typedef struct Vcpu Vcpu;
typedef struct DebugPoints DebugPoints;

/*
 * A CPU to gdb: its description and its registers, numbered from 0 in the order of the description.
 * Functions run while the CPU stands still.
 */
typedef struct GdbArch {
    const char *target_xml; /* annex target.xml */
    unsigned registers;
    unsigned program_counter; /* number */
    unsigned (*size)(unsigned number); /* bytes */
    void (*read)(Vcpu *vcpu, unsigned number, uint8_t *ret_bytes);
    bool (*write)(Vcpu *vcpu, unsigned number, const uint8_t *bytes); /* false: cannot be changed */
} GdbArch;

/*
 * Bits of *vcpu->exit_req. Any thread sets them with vcpu_kick(); the accelerator looks at the word at
 * its poll points and clears what it has dealt with. The values are part of the translator's contract
 * (nonzero: leave translated code soon).
 */
enum {
    VCPU_REQ_IRQ = BIT(0),    /* external interrupt line is up: ask the interrupt controller */
    VCPU_REQ_NMI = BIT(1),
    VCPU_REQ_SMI = BIT(2),
    VCPU_REQ_INIT = BIT(3),
    VCPU_REQ_SIPI = BIT(4),
    VCPU_REQ_WORK = BIT(5),   /* queued work */
    VCPU_REQ_STOP = BIT(6),   /* pause */
    VCPU_REQ_RESET = BIT(7),
    VCPU_REQ_APIC = BIT(8),   /* the local APIC has a deliverable vector */
    VCPU_REQ_DEBUG = BIT(9),
    VCPU_REQ_TIMER = BIT(10),
    VCPU_REQ_TLB = BIT(11),   /* flush the soft TLB */
    VCPU_REQ_MCE = BIT(12),
    VCPU_REQ_VIRQ = BIT(13),  /* a hypervisor in the guest has a virtual interrupt for its own guest */
};

/* What cpu/<isa> gives for every CPU of its kind; all functions run on the vCPU's thread or while it is stopped. */
typedef struct CpuOps {
    const char *arch; /* "x86_64" */
    void (*reset)(Vcpu *vcpu);
    char *(*describe)(Vcpu *vcpu, bool fpu);         /* info registers; caller frees */
    char *(*describe_tlb)(Vcpu *vcpu);               /* info tlb */
    char *(*describe_mem)(Vcpu *vcpu);               /* info mem */
    uint64_t (*pc)(Vcpu *vcpu);                      /* linear address of the next instruction */
    /* Guest-virtual to physical without side effects; false: not mapped. */
    bool (*translate)(Vcpu *vcpu, uint64_t va, uint64_t *ret_pa);
    void (*finish)(Vcpu *vcpu);                      /* frees vcpu->arch */
    bool (*has_work)(Vcpu *vcpu);                    /* a halted CPU must wake up */
    /* A register by the name that print and x/i use ("rip", "eax", ...); false: none. */
    bool (*reg)(Vcpu *vcpu, const char *name, uint64_t *ret_value);
    /* The debugger's points changed, see debug.h; NULL: there is none. */
    void (*debug_changed)(Vcpu *vcpu, struct DebugPoints *points);
    /* Executes one instruction, without interrupts. On the CPU's thread, while the machine stands still. */
    void (*step)(Vcpu *vcpu);
    uint64_t (*executed)(Vcpu *vcpu); /* instructions since it was made; moves by the CPU's own thread */
    const struct GdbArch *gdb; /* the registers as gdb sees them */
    void (*core_notes)(Vcpu *vcpu, GByteArray *notes); /* appends its notes of an ELF core file */
} CpuOps;

/* Where a CPU sits; -1: not chosen yet. */
typedef struct CpuPlace {
    int32_t socket, die, core, thread;
} CpuPlace;

struct Vcpu {
    Device dev; /* CPUs are devices: /machine/unattached/device[N] */
    Machine *machine;
    unsigned index;
    uint32_t apic_id; /* x86: also its id in ACPI tables and topology */
    CpuPlace place;
    int32_t node_id;  /* NUMA node, -1: none */
    char *options;    /* ",feature=on..." beyond the machine's -cpu; may be NULL */
    const CpuOps *ops;
    void *arch; /* X86Cpu * */
    void *accel_data;
    AddressSpace *as, *io; /* what the CPU sees */
    _Atomic uint32_t *exit_req; /* in the architectural state's hot header */

    /* Thread and pause protocol; guarded by run_lock. */
    pthread_t thread;
    pid_t thread_id;
    pthread_mutex_t run_lock;
    pthread_cond_t wake;    /* the vCPU waits here when halted or stopped */
    pthread_cond_t stopped_cond;
    bool created, stop, stopped, exit;
    bool sandboxed; /* its own thread's: the filter of its kind is loaded */
    _Atomic bool halted;    /* HLT or waiting for SIPI */
    _Atomic bool naps;      /* in vcpu_nap() */
    List work;              /* VcpuWork */
};

/* Sets request bits and wakes the CPU if it is halted or naps. Any thread; also async signal safe but for the wake. */
void vcpu_kick(Vcpu *vcpu, uint32_t requests);
/* Queues fn(vcpu, opaque) to run on the CPU's thread at its next poll point, with no lock held. */
void vcpu_run_async(Vcpu *vcpu, void (*fn)(Vcpu *vcpu, void *opaque), void *opaque);
/* The same and waits; on the CPU's own thread it runs at once. Caller holds no device lock but the machine's. */
void vcpu_run_sync(Vcpu *vcpu, void (*fn)(Vcpu *vcpu, void *opaque), void *opaque);
/* The vCPU whose thread this is, if any, goes no further than to its next poll, until machine_resume_vcpus(). */
void vcpu_stop_self(void);
/* The vCPU whose thread this is, or NULL. */
Vcpu *vcpu_self(void);
/* Sets up and tears down the thread protocol's fields; for whoever makes a Vcpu (cpu/<isa>). */
void vcpu_init(Vcpu *vcpu, Machine *machine, unsigned index);
/* Into and out of machine->vcpus, which is sorted by index. While all vCPUs stand still. */
void vcpu_enter(Vcpu *vcpu);
void vcpu_leave(Vcpu *vcpu);
void vcpu_fini(Vcpu *vcpu);

/* The CPU with that index, or NULL: indexes have holes where none is plugged in. */
Vcpu *vcpu_at(const Machine *machine, unsigned index);

/* What a board does about CPUs that come and go; machine->cpu_board. All vCPUs stand still. */
typedef struct CpuBoard {
    /* Gives a new CPU what belongs to it (interrupt controller, lines), and tells the guest of a hot-plugged one. */
    Error *(*plugged)(Vcpu *vcpu);
    /* The user wants it gone; the guest is asked. */
    Error *(*unplug_request)(Vcpu *vcpu);
    void (*unplugged)(Machine *machine, unsigned index);
} CpuBoard;

/* --- for accelerators --- */
/* Runs queued work; called by the vCPU thread when it sees VCPU_REQ_WORK. */
void vcpu_run_queued(Vcpu *vcpu);
/*
 * Sleeps while the CPU is halted without work or the machine is paused; handles stop, reset and exit
 * requests. Returns false when the thread must end. Called between runs, no lock held.
 */
bool vcpu_wait_until_runnable(Vcpu *vcpu);
/* Gives the host CPU away until something is asked of the CPU, for so long at most. In the middle of a run, no lock held. */
void vcpu_nap(Vcpu *vcpu, unsigned us);

#endif
