/* The engines that the tests know. */
#include "engine.h"

#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>

#include "base/error.h"
#include "cpu/x86/interp.h"
#include "dbt/run/engine.h"

static bool t0_run(X86Cpu *cpu, void *opaque, uint64_t limit)
{
    return x86_interp_run(cpu, limit, false) == X86_EXIT_HALT;
}

static void t0_code_changed(X86Cpu *cpu, void *opaque)
{
    x86_interp_free(cpu);
}

static const InsnEngine engine_t0 = { .name = "t0", .code_changed = t0_code_changed, .run = t0_run };

/* --- the translator --- */

enum { ALARM_US = 1000, HANG_ALARMS = 500 };

uint32_t insn_engine_stress;
bool insn_engine_verbose;
static DbtGroup group;
static X86Cpu *running;

static void on_alarm(int signal_number)
{
    if (running != NULL) {
        atomic_fetch_or(&x86_hot(running)->exit_req, VCPU_REQ_STOP);
    }
}

static void *t1_attach(X86Cpu *cpu)
{
    Dbt *dbt;
    dbt_group_init(&group);
    Error *err = dbt_new(cpu, &group, 64 * MiB, false, &dbt);
    if (err != NULL) {
        error_report(err);
        exit(2);
    }
    dbt->stress = insn_engine_stress & DBT_STRESS_ALL;
    running = cpu;
    signal(SIGPROF, on_alarm);
    struct itimerval often = { { 0, ALARM_US }, { 0, ALARM_US } }; /* of CPU time: a busy host is no hang */
    setitimer(ITIMER_PROF, &often, NULL);
    return dbt;
}

static void t1_detach(X86Cpu *cpu, void *opaque)
{
    const Dbt *dbt = opaque;
    if (insn_engine_verbose) {
        printf("%" PRIu64 " blocks, %" PRIu64 " regions with %" PRIu64 " hoisted accesses\n", dbt->stats.blocks,
               dbt->stats.regions, dbt->stats.hoisted);
    }
    running = NULL;
    dbt_free(opaque);
    dbt_group_fini(&group);
}

static void t1_code_changed(X86Cpu *cpu, void *opaque)
{
    x86_interp_free(cpu);
    dbt_listen(opaque);
    dbt_flush(opaque);
}

/* Code is asked to leave at its next poll a thousand times a second; what runs through half a second hangs. */
static bool t1_run(X86Cpu *cpu, void *opaque, uint64_t limit)
{
    for (unsigned alarms = 0; alarms < HANG_ALARMS && !atomic_load(&cpu->vcpu->halted); alarms++) {
        dbt_run(opaque);
        atomic_fetch_and(&x86_hot(cpu)->exit_req, ~(uint32_t)VCPU_REQ_STOP);
    }
    return atomic_load(&cpu->vcpu->halted);
}

static const InsnEngine engine_t1 = { .name = "t1", .dead_flags = true, .attach = t1_attach, .detach = t1_detach, .code_changed = t1_code_changed,
                                        .run = t1_run };

const InsnEngine *const insn_engines[] = { &engine_t0, &engine_t1, NULL };
