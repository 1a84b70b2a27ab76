/*
 * The translator as an accelerator: -accel tcg.
 *
 * Each vCPU has a translator of its own. thread=single lets one vCPU run at a time, taking turns; so does
 * -icount, where the turns are of fixed numbers of instructions (core/vm/icount.h).
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "accel/accel.h"
#include "core/vm/icount.h"
#include "cpu/x86/cpu.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/interp.h"
#include "dbt/run/engine.h"

enum { THREAD_AUTO, THREAD_MULTI, THREAD_SINGLE };
enum { ENGINE_AUTO, ENGINE_INTERP };

static const EnumName thread_names[] = { { "multi", THREAD_MULTI }, { "single", THREAD_SINGLE }, { NULL, 0 } };
static const EnumName engine_names[] = { { "auto", ENGINE_AUTO }, { "interp", ENGINE_INTERP }, { NULL, 0 } };

typedef struct TcgAccel {
    Accel accel;
    int thread, engine;
    uint32_t tb_size; /* MiB; 0: default */
    uint32_t self_check, stress;
    bool one_insn_per_tb, split_wx, perf_map, gdb_jit;
    DbtGroup group;
    pthread_mutex_t turn; /* thread=single: who holds it runs */
    _Atomic unsigned waiting; /* vCPUs that wait for it */
} TcgAccel;

static const Prop props[] = {
    PROP_ENUM("thread", TcgAccel, thread, thread_names, THREAD_AUTO, .help = "one host thread for each vCPU, or one at a time"),
    PROP_U32("tb-size", TcgAccel, tb_size, 0, .help = "size of the code cache in MiB"),
    PROP_BOOL("one-insn-per-tb", TcgAccel, one_insn_per_tb, false, .help = "run one instruction at a time, untranslated"),
    PROP_BOOL("split-wx", TcgAccel, split_wx, false, .help = "map the code cache twice, never writable and executable"),
    PROP_ENUM("engine", TcgAccel, engine, engine_names, ENGINE_AUTO, .flags = PROP_UNSTABLE, .help = "what executes instructions"),
    PROP_BOOL("x-perf-map", TcgAccel, perf_map, false, .flags = PROP_UNSTABLE,
              .help = "write /tmp/perf-PID.map, so that perf names translated code by guest addresses"),
    PROP_BOOL("x-gdb-jit", TcgAccel, gdb_jit, false, .flags = PROP_UNSTABLE,
              .help = "tell a debugger of this process the guest addresses of translated code"),
    PROP_U32("x-self-check", TcgAccel, self_check, 0, .flags = PROP_UNSTABLE,
             .help = "run each Nth block in the interpreter too and log differences"),
    PROP_U32("x-stress", TcgAccel, stress, 0, .flags = PROP_UNSTABLE,
             .help = "1 request at each poll, 2 no links, 4 empty TLB, 8 emptied cache, 16 dead flags inverted, 32 all blocks hot"),
    { 0 },
};

enum { DEFAULT_TB_MIB = 128, MIN_TB_MIB = 1, MAX_TB_MIB = 1024 };

static TcgAccel *tcg_of(const Vcpu *vcpu)
{
    return (TcgAccel *)vcpu->machine->accel;
}

static Error *init(Accel *accel)
{
    TcgAccel *tcg = (TcgAccel *)accel;
    if (accel->machine->icount && tcg->thread == THREAD_MULTI) {
        return error_new("-icount lets one vCPU run at a time: thread=multi cannot be had with it");
    }
    if (accel->machine->icount && tcg->self_check) {
        return error_new("x-self-check does not work with -icount");
    }
    pthread_mutex_init(&tcg->turn, NULL);
    dbt_group_init(&tcg->group);
    return NULL;
}

static void fini(Accel *accel)
{
    TcgAccel *tcg = (TcgAccel *)accel;
    dbt_group_fini(&tcg->group);
    pthread_mutex_destroy(&tcg->turn);
}

static bool interprets(const TcgAccel *tcg)
{
    return tcg->engine == ENGINE_INTERP || tcg->one_insn_per_tb;
}

static Error *vcpu_init_tcg(Accel *accel, Vcpu *vcpu)
{
    TcgAccel *tcg = (TcgAccel *)accel;
    X86Cpu *cpu = x86_cpu_of(vcpu);
    vcpu->exit_req = &x86_hot(cpu)->exit_req;
    if (interprets(tcg)) {
        return NULL;
    }
    uint32_t mib = tcg->tb_size == 0 ? DEFAULT_TB_MIB : MIN(MAX(tcg->tb_size, (uint32_t)MIN_TB_MIB), (uint32_t)MAX_TB_MIB);
    Dbt *dbt = NULL;
    TRY(dbt_new(cpu, &tcg->group, mib * MiB, tcg->split_wx, &dbt));
    if (tcg->self_check != 0) {
        dbt_check_init(dbt, tcg->self_check);
    }
    dbt->stress = tcg->stress & DBT_STRESS_ALL;
    dbt->gdb_jit = tcg->gdb_jit ? gdb_jit_new() : NULL;
    if (tcg->perf_map) {
        g_autofree char *path = g_strdup_printf("/tmp/perf-%d.map", (int)getpid());
        dbt->perf_map = fopen(path, "ae");
        if (dbt->perf_map == NULL) {
            Error *err = error_new_errno(errno, "cannot write %s", path);
            dbt_free(dbt);
            return err;
        }
    }
    vcpu->accel_data = dbt;
    return NULL;
}

static void vcpu_fini_tcg(Vcpu *vcpu)
{
    dbt_free(vcpu->accel_data);
    vcpu->accel_data = NULL;
}

/* The interpreter alone, until the thread is asked for something or the CPU halts. */
static void interpret(X86Cpu *cpu)
{
    for (;;) {
        uint32_t requests = atomic_load(&x86_hot(cpu)->exit_req);
        if (requests & (VCPU_REQ_WORK | VCPU_REQ_STOP | VCPU_REQ_RESET)) {
            return;
        }
        if (requests != 0) {
            x86_take_events(cpu);
        }
        if (atomic_load(&cpu->vcpu->halted)) {
            return;
        }
        X86Exit why = x86_interp_run(cpu, 1 << 20, false);
        if (why == X86_EXIT_HALT || why == X86_EXIT_REQUEST || why == X86_EXIT_DEBUG) {
            return;
        }
    }
}

/* --- counted instructions --- */

/* The interpreter alone, for so many instructions at most. */
static void interpret_counted(X86Cpu *cpu, uint64_t count)
{
    uint64_t end = cpu->insn_count + count;
    while (cpu->insn_count < end) {
        uint32_t requests = atomic_load(&x86_hot(cpu)->exit_req);
        if (requests & (VCPU_REQ_WORK | VCPU_REQ_STOP | VCPU_REQ_RESET)) {
            return;
        }
        if (requests != 0) {
            x86_take_events(cpu);
        }
        if (atomic_load(&cpu->vcpu->halted)) {
            return;
        }
        X86Exit why = x86_interp_run(cpu, end - cpu->insn_count, false);
        if (why == X86_EXIT_HALT || why == X86_EXIT_REQUEST || why == X86_EXIT_DEBUG) {
            return;
        }
    }
}

static void translate_counted(Dbt *d, uint64_t count)
{
    X86Cpu *cpu = d->cpu;
    cpu->jit.granted = count;
    cpu->jit.budget = (int64_t)count;
    dbt_run(d);
    cpu->insn_count += cpu->jit.granted - (uint64_t)cpu->jit.budget;
    cpu->jit.granted = 0;
    cpu->jit.budget = 0;
}

static void counted_thread(Vcpu *vcpu)
{
    while (vcpu_wait_until_runnable(vcpu)) {
        uint64_t count = icount_begin(vcpu);
        if (count == 0) {
            continue;
        }
        if (vcpu->accel_data == NULL) {
            interpret_counted(x86_cpu_of(vcpu), count);
        } else {
            translate_counted(vcpu->accel_data, count);
        }
        icount_end(vcpu);
    }
    icount_leave(vcpu);
}

/* --- threads --- */

enum { TURN_NS = 5000000 };

/* thread=single: waits for the turn; who has it is asked to give it up after a while. */
static void take_turn(TcgAccel *tcg, Vcpu *vcpu)
{
    atomic_fetch_add(&tcg->waiting, 1);
    for (;;) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += TURN_NS;
        if (until.tv_nsec >= NS_PER_SEC) {
            until.tv_nsec -= NS_PER_SEC;
            until.tv_sec++;
        }
        if (pthread_mutex_timedlock(&tcg->turn, &until) == 0) {
            break;
        }
        for (unsigned i = 0; i < vcpu->machine->vcpus->len; i++) {
            Vcpu *other = g_ptr_array_index(vcpu->machine->vcpus, i);
            if (other != vcpu && other->exit_req != NULL) {
                atomic_fetch_or(other->exit_req, VCPU_REQ_WORK);
            }
        }
    }
    atomic_fetch_sub(&tcg->waiting, 1);
}

static void give_turn(TcgAccel *tcg)
{
    pthread_mutex_unlock(&tcg->turn);
    if (atomic_load(&tcg->waiting) != 0) {
        g_usleep(20); /* the mutex is not fair: let the other one have it */
    }
}

static void vcpu_thread(Vcpu *vcpu)
{
    TcgAccel *tcg = tcg_of(vcpu);
    X86Cpu *cpu = x86_cpu_of(vcpu);
    if (vcpu->machine->icount) {
        counted_thread(vcpu);
        return;
    }
    while (vcpu_wait_until_runnable(vcpu)) {
        if (tcg->thread == THREAD_SINGLE) {
            take_turn(tcg, vcpu);
        }
        if (vcpu->accel_data == NULL) {
            interpret(cpu);
        } else {
            dbt_run(vcpu->accel_data);
        }
        if (tcg->thread == THREAD_SINGLE) {
            give_turn(tcg);
        }
    }
}

static void debug_changed(Vcpu *vcpu)
{
    Dbt *d = vcpu->accel_data;
    if (d != NULL) {
        d->flush_wanted = true;
    }
}

static char *describe(Accel *accel)
{
    GString *text = g_string_new(NULL);
    GPtrArray *vcpus = accel->machine->vcpus;
    for (unsigned i = 0; vcpus != NULL && i < vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(vcpus, i);
        if (vcpu->accel_data != NULL) {
            g_autofree char *one = dbt_describe(vcpu->accel_data);
            g_string_append_printf(text, "CPU %u\n%s", i, one);
        }
    }
    if (accel->machine->icount) {
        g_autofree char *counted = icount_describe(accel->machine->icount);
        g_string_append(text, counted);
    } else if (text->len == 0) {
        g_string_append(text, "nothing is translated\n");
    }
    return g_string_free(text, FALSE);
}

static const AccelType tcg_type = {
    .name = "tcg",
    .desc = "dynamic translation",
    .size = sizeof(TcgAccel),
    .props = props,
    .init = init,
    .fini = fini,
    .vcpu_init = vcpu_init_tcg,
    .vcpu_fini = vcpu_fini_tcg,
    .vcpu_thread = vcpu_thread,
    .debug_changed = debug_changed,
    .describe = describe,
};
ACCEL_REGISTER(&tcg_type);
