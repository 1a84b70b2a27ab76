/* Life of a vCPU's translator, and its loop. See engine.h. */
#include "dbt/run/engine.h"

#include <cpuid.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <x86intrin.h>

#include "base/log.h"
#include "core/vm/debug.h"
#include "core/vm/machine.h"
#include "cpu/x86/codepage.h"
#include "cpu/x86/exc.h"
#include "cpu/x86/info.h"
#include "cpu/x86/mmu.h"
#include "dbt/ir/env.h"

/* Requests that are the thread's business, not the processor's. */
#define THREAD_REQUESTS (VCPU_REQ_WORK | VCPU_REQ_STOP | VCPU_REQ_RESET)

static void *reserve(size_t size, int flags)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Where 32-bit addresses reach. The kernel's own choice is the second GiB; below that a program leaves most free. */
static void *reserve_low(size_t size)
{
    void *p = reserve(size, MAP_32BIT);
    for (uintptr_t at = 16 * MiB; p == NULL && at + size <= 1 * GiB; at += ALIGN_UP(size, (size_t)MiB)) {
        p = mmap((void *)at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (p != MAP_FAILED && (uintptr_t)p != at) { /* a kernel that does not know the flag */
            munmap(p, size);
            p = MAP_FAILED;
        }
        p = p == MAP_FAILED ? NULL : p;
    }
    return p;
}

typedef struct Table {
    size_t member, size;
    bool low; /* code reaches it */
} Table;

static const Table tables[] = {
    { offsetof(Dbt, low), sizeof(DbtLow), true },
    { offsetof(Dbt, blocks), DBT_MAX_BLOCKS * sizeof(DbtBlock), false },
    { offsetof(Dbt, exits), DBT_MAX_EXITS * sizeof(DbtExit), false },
    { offsetof(Dbt, sites), DBT_MAX_SITES * sizeof(DbtSite), false },
    { offsetof(Dbt, faults), DBT_MAX_FAULTS * sizeof(DbtFault), false },
    { offsetof(Dbt, maps), DBT_MAX_MAPS * sizeof(CodeMap), false },
    { offsetof(Dbt, insns), DBT_MAX_INSNS * sizeof(X86Insn), false },
};

static void **table_at(Dbt *d, const Table *t)
{
    return (void **)(void *)((char *)d + t->member);
}

static Error *reserve_tables(Dbt *d)
{
    for (unsigned i = 0; i < ARRAY_SIZE(tables); i++) {
        const Table *t = &tables[i];
        void *p = t->low ? reserve_low(t->size) : reserve(t->size, 0);
        if (p == NULL) {
            return error_new_errno(errno, "cannot reserve the translator's tables");
        }
        *table_at(d, t) = p;
    }
    return NULL;
}

/* So many PAUSE take longer than most locks are held. */
enum { PAUSES = 32 };

/* Whom the guest waits for may be another of its CPUs. */
static bool others_run(Dbt *d)
{
    bool found = true;
    if (pthread_mutex_trylock(&d->group->lock) == 0) {
        found = false;
        for (unsigned i = 0; i < d->group->members->len && !found; i++) {
            const Dbt *other = g_ptr_array_index(d->group->members, i);
            found = other != d && !atomic_load(&other->cpu->vcpu->halted);
        }
        pthread_mutex_unlock(&d->group->lock);
    }
    return found;
}

/*
 * A CPU that has done nothing but PAUSE for a while waits for a time or a device: there is nobody else to be quick for.
 * It sleeps in between then. What it waits for is seen some 100 us late at most, a part of what it has waited already;
 * interrupts come at once.
 */
enum { PAUSE_TICKS = 6000, NAP_AFTER_TICKS = 600 * 1000, NAP_US = 50 };

static void nap(Dbt *d)
{
    uint64_t now = __rdtsc();
    bool waits = now - d->paused_last < (uint64_t)PAUSES * PAUSE_TICKS;
    if (!waits) {
        d->paused_since = now;
    } else if (now - d->paused_since > NAP_AFTER_TICKS && d->cpu->vcpu->machine != NULL && !d->cpu->vcpu->machine->config->cpu_pm) {
        d->stats.naps++;
        vcpu_nap(d->cpu->vcpu, NAP_US);
        now = __rdtsc();
    }
    d->paused_last = now;
}

static void yield_host(void *opaque)
{
    Dbt *d = opaque;
    d->cpu->jit.pauses = PAUSES;
    if (others_run(d)) {
        d->stats.yields++;
        sched_yield();
    } else {
        nap(d);
    }
}

static void make_thunks(Dbt *d)
{
    HostEnv *env = &d->env;
    uint64_t *masks = d->low->masks;
    masks[0] = (uint64_t)(X86_TLB_SIZE - 1) << MEM_PAGE_BITS;
    masks[1] = ~(uint64_t)(MEM_PAGE_SIZE - 1);
    masks[2] = MEM_PAGE_SIZE - 1;
    masks[3] = 15;
    masks[4] = 0x1f80; /* MXCSR for C */
    masks[5] = 31;
    env->masks = (uint32_t)(uintptr_t)masks;
    env->counters = (uint32_t)(uintptr_t)d->low->counters;
    env->turn_counts = (uint32_t)(uintptr_t)d->low->turns;
    env->budgets = (uint32_t)(uintptr_t)d->low->budgets;
    d->next_site = ENV_SITE_FIRST;
    env->slots = (uint32_t)(uintptr_t)d->low->slots;
    env->sites_used = ENV_SITES + (int32_t)offsetof(X86Sites, used);
    env->tlb = (int32_t)offsetof(X86Cpu, tlb) - (int32_t)X86_CPU_AREA;
    env->temp = (int32_t)offsetof(X86Cpu, jit.temp) - (int32_t)X86_CPU_AREA;
    env->flags_kind = (int32_t)offsetof(X86Cpu, jit.flags_kind) - (int32_t)X86_CPU_AREA;
    env->flags_a = (int32_t)offsetof(X86Cpu, jit.flags_a) - (int32_t)X86_CPU_AREA;
    env->flags_b = (int32_t)offsetof(X86Cpu, jit.flags_b) - (int32_t)X86_CPU_AREA;
    env->pauses = (int32_t)offsetof(X86Cpu, jit.pauses) - (int32_t)X86_CPU_AREA;
    env->hosts = (int32_t)offsetof(X86Cpu, jit.host) - (int32_t)X86_CPU_AREA;
    env->hoisted = (int32_t)offsetof(X86Cpu, jit.hoisted) - (int32_t)X86_CPU_AREA;
    env->turns_first = (int32_t)offsetof(X86Cpu, jit.turns_first) - (int32_t)X86_CPU_AREA;
    env->turns = (int32_t)offsetof(X86Cpu, jit.turns) - (int32_t)X86_CPU_AREA;
    env->budget = (int32_t)offsetof(X86Cpu, jit.budget) - (int32_t)X86_CPU_AREA;
    env->held = (int32_t)offsetof(X86Cpu, held) - (int32_t)X86_CPU_AREA;
    env->tsc_aux = (int32_t)offsetof(X86Cpu, tsc_aux) - (int32_t)X86_CPU_AREA;
    env->selectors = (int32_t)offsetof(X86Cpu, seg[0].sel) - (int32_t)X86_CPU_AREA;
    env->selector_stride = sizeof(X86Seg);
    env->vec = (int32_t)offsetof(X86Cpu, vec) - (int32_t)X86_CPU_AREA;
    env->mxcsr = (int32_t)offsetof(X86Cpu, fx.mxcsr) - (int32_t)X86_CPU_AREA;
    env->fx = (int32_t)offsetof(X86Cpu, fx) - (int32_t)X86_CPU_AREA;
    env->bmi2 = __builtin_cpu_supports("bmi2");
    env->avx = __builtin_cpu_supports("avx");
    Asm a = code_cache_asm(&d->cache, 0);
    HostCalls calls = { .yield = yield_host, .slow = dbt_slow, .refill = dbt_refill, .missed = dbt_missed, .flags = dbt_flags, .pushf = dbt_pushf, .rdtsc = dbt_rdtsc, .opaque = d };
    thunks_emit(env, &a, &calls);
    code_cache_start(&d->cache, (size_t)(a.p - d->cache.write));
}

static void hook_unmapped(X86Cpu *cpu, uint64_t va, bool global)
{
    dbt_unmapped(cpu->dbt, va, global);
}

/* --- writes to code --- */

typedef struct Written {
    RamBlock *block;
    uint64_t offset;
    unsigned length;
} Written;

static void written_work(Vcpu *vcpu, void *opaque)
{
    Written *w = opaque;
    X86Cpu *cpu = x86_cpu_of(vcpu);
    if (cpu->dbt != NULL) {
        dbt_code_written(cpu->dbt, w->block, w->offset, w->length);
    }
    g_free(w);
}

static void code_written(void *opaque, X86Cpu *cpu, RamBlock *block, uint64_t offset, unsigned length)
{
    DbtGroup *group = opaque;
    if (cpu != NULL && cpu->dbt != NULL) {
        dbt_code_written(cpu->dbt, block, offset, length);
        if (group->members->len == 1) {
            return;
        }
    }
    Dbt *threadless = NULL; /* in a test */
    pthread_mutex_lock(&group->lock);
    for (unsigned i = 0; i < group->members->len; i++) {
        Dbt *other = g_ptr_array_index(group->members, i);
        if (other->cpu == cpu) {
            continue;
        }
        if (other->cpu->vcpu->machine == NULL) {
            threadless = other;
            continue;
        }
        Written *w = g_new(Written, 1);
        *w = (Written){ block, offset, length };
        vcpu_run_async(other->cpu->vcpu, written_work, w);
    }
    pthread_mutex_unlock(&group->lock);
    if (threadless != NULL) {
        dbt_code_written(threadless, block, offset, length);
    }
}

void dbt_group_init(DbtGroup *group)
{
    pthread_mutex_init(&group->lock, NULL);
    group->members = g_ptr_array_new();
}

void dbt_group_fini(DbtGroup *group)
{
    g_ptr_array_free(group->members, TRUE);
    pthread_mutex_destroy(&group->lock);
}

void dbt_listen(Dbt *d)
{
    x86_code_set_listener(d->cpu, code_written, d->group);
    x86_code_set_hooks(d->cpu, hook_unmapped, NULL);
}

/* The x87 state goes through XSAVE. */
static bool host_has_xsave(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE);
}

Error *dbt_new(X86Cpu *cpu, DbtGroup *group, size_t cache_size, bool split, Dbt **ret_dbt)
{
    if (!host_has_xsave()) {
        return error_new("translation needs a host processor with XSAVE; without it, -accel tcg,one-insn-per-tb=on");
    }
    Dbt *d = reserve(sizeof(Dbt), 0);
    if (d == NULL) {
        return error_new_errno(errno, "cannot allocate the translator");
    }
    d->cpu = cpu;
    d->group = group;
    Error *err = reserve_tables(d);
    if (err == NULL) {
        err = code_cache_init(&d->cache, cache_size, split);
    }
    if (err != NULL) {
        dbt_free(d);
        return err;
    }
    make_thunks(d);
    dbt_flush(d);
    d->interp_counts = g_new0(uint32_t, x86_insn_count);
    cpu->dbt = d;
    dbt_listen(d);
    pthread_mutex_lock(&group->lock);
    g_ptr_array_add(group->members, d);
    pthread_mutex_unlock(&group->lock);
    dbt_catch_signals();
    *ret_dbt = d;
    return NULL;
}

void dbt_free(Dbt *d)
{
    if (d == NULL) {
        return;
    }
    pthread_mutex_lock(&d->group->lock);
    g_ptr_array_remove(d->group->members, d);
    pthread_mutex_unlock(&d->group->lock);
    if (d->cpu->dbt == d) {
        x86_code_set_hooks(d->cpu, NULL, NULL);
        d->cpu->dbt = NULL;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(tables); i++) {
        void *p = *table_at(d, &tables[i]);
        if (p != NULL) {
            munmap(p, tables[i].size);
        }
    }
    code_cache_fini(&d->cache);
    g_free(d->interp_counts);
    dbt_check_free(d);
    if (d->perf_map != NULL) {
        fclose(d->perf_map);
    }
    gdb_jit_free(d->gdb_jit);
    munmap(d, sizeof(Dbt));
}

/* --- the loop --- */

/* False: leave dbt_run(). */
static bool handle_requests(Dbt *d)
{
    X86Cpu *cpu = d->cpu;
    uint32_t requests = atomic_load(&x86_hot(cpu)->exit_req);
    if (requests & THREAD_REQUESTS) {
        return false;
    }
    x86_take_events(cpu);
    return !atomic_load(&cpu->vcpu->halted);
}

/* Instructions that no block holds: other modes, page crossings, interrupt shadows. */
static bool interpret_some(Dbt *d, uint64_t count)
{
    if (d->cpu->counted) {
        count = MIN(count, (uint64_t)MAX(d->cpu->jit.budget, 0));
    }
    uint64_t before = d->cpu->insn_count;
    X86Exit why = x86_interp_run(d->cpu, count, true);
    uint64_t done = d->cpu->insn_count - before;
    d->stats.interp_insns += done;
    if (d->cpu->counted) { /* the interpreter's own counter has them */
        d->cpu->jit.budget -= (int64_t)done;
        d->cpu->jit.granted -= done;
    }
    d->cpu->fault_jmp = &d->jmp;
    return why == X86_EXIT_NONE || why == X86_EXIT_MODE;
}

static const uint8_t *code_for(Dbt *d)
{
    uint64_t pc = x86_hot(d->cpu)->rip;
    const JumpCache *cache = &d->low->jump_cache[d->mode_index];
    uint32_t n = jump_cache_index(pc);
    if (likely(cache->va[n] == pc)) {
        d->stats.jump_hits++;
        return cache->code[n]; /* the guard there sees to the mapping */
    }
    d->stats.jump_misses++;
    DbtBlock *b = dbt_find(d);
    return b == NULL ? NULL : d->cache.run + b->entry;
}

/* Control left a block by a direct exit: link it to where it goes. */
static const uint8_t *follow_exit(Dbt *d, uint32_t number)
{
    uint64_t target = d->exits[number].target;
    uint64_t flushes = d->stats.flushes;
    x86_hot(d->cpu)->rip = target;
    DbtBlock *b = d->exits[number].generic ? dbt_find_generic(d) : dbt_find(d);
    if (b == NULL) {
        return NULL;
    }
    if (d->stats.flushes == flushes) {
        dbt_link(d, number, b);
    }
    return d->cache.run + b->entry;
}

/* Where the flags are after code was left: as exit_live of uops. */
static uint8_t flags_kept(const Dbt *d, unsigned why, uint32_t payload)
{
    switch (why) {
    case LEAVE_LINK:
    case LEAVE_POLL:
        return d->exits[payload].live;
    case LEAVE_HOT:
    case LEAVE_BUDGET:
        return d->blocks[payload].flags_in;
    case LEAVE_GUARD: /* see way_in() */
    case LEAVE_INDIRECT:
    case LEAVE_INTERP:
        return FL_RECORD;
    default:
        return FL_ALL; /* the slow path has seen to them */
    }
}

/* Brings hot.rflags up to date after code was left; true when all flags are exact. */
static bool settle_flags(Dbt *d, unsigned why, uint32_t payload)
{
    uint8_t kept = flags_kept(d, why, payload);
    if (kept & FL_RECORD) {
        dbt_flags_from_record(d);
        return true;
    }
    if (unlikely(d->stress != 0)) {
        dbt_stress_flags(d, kept);
    }
    return (kept & FL_ALL) == FL_ALL;
}

static void check_after(Dbt *d, unsigned why, uint32_t payload, bool flags)
{
    X86Hot *hot = x86_hot(d->cpu);
    switch (why) {
    case LEAVE_LINK:
    case LEAVE_POLL:
        if (d->exits[payload].generic) {
            dbt_check_disarm(d); /* it left half way */
        }
        dbt_check_after(d, d->exits[payload].target, flags);
        break;
    case LEAVE_INDIRECT:
        dbt_check_after(d, hot->rip, flags);
        break;
    case LEAVE_INTERP:
        dbt_check_after(d, d->blocks[d->sites[payload].block].pc + d->sites[payload].offset, flags);
        break;
    default:
        dbt_check_disarm(d);
        break;
    }
}

/* -d exec, -d cpu: code that is linked does not come by here; nochain sees to that. */
static void log_entry(X86Cpu *cpu)
{
    if (log_at(LOG_EXEC, cpu->seg[X86_CS].base + x86_hot(cpu)->rip)) {
        log_printf("Trace %u: [%016" PRIx64 "/%016" PRIx64 "/%08x/00000000]\n", cpu->vcpu->index, cpu->seg[X86_CS].base,
                   x86_hot(cpu)->rip, x86_hot(cpu)->mode);
    }
    if (log_at(LOG_CPU, cpu->seg[X86_CS].base + x86_hot(cpu)->rip)) {
        g_autofree char *text = x86_describe(cpu, log_enabled(LOG_FPU));
        log_printf("%s", text);
    }
}

/* Takes one turn: runs code from here until it leaves. False: leave dbt_run(). */
static bool turn(Dbt *d, const uint8_t *code)
{
    X86Cpu *cpu = d->cpu;
    while (code != NULL) {
        d->stats.runs++;
        EnterFn *enter = (EnterFn *)(void *)d->env.enter;
        if (unlikely(d->check != NULL)) {
            dbt_check_before(d, code == d->cache.run + d->found->entry ? d->found : NULL);
        }
        if (unlikely(log_enabled(LOG_EXEC | LOG_CPU))) {
            log_entry(cpu);
        }
        dbt_record_flags(d);
        if (unlikely(d->stress != 0)) {
            dbt_stress_before(d);
        }
        uint64_t result = enter(cpu->tlb, code);
        uint32_t payload = (uint32_t)(result >> 32);
        unsigned why = (uint8_t)result;
        d->stats.leave[why]++;
        bool exact = settle_flags(d, why, payload);
        if (unlikely(d->check != NULL)) {
            check_after(d, why, payload, exact);
        }
        code = NULL;
        if (unlikely(dbt_env_byte(cpu, ENV_X87_WAS))) {
            dbt_fix_fip(d);
        }
        switch (why) {
        case LEAVE_LINK:
            code = follow_exit(d, payload);
            if (code == NULL) {
                return interpret_some(d, 1);
            }
            break;
        case LEAVE_POLL:
            x86_hot(cpu)->rip = d->exits[payload].target;
            break;
        case LEAVE_HOT:
            dbt_heat(d, payload);
            __attribute__((fallthrough));
        case LEAVE_GUARD: {
            x86_hot(cpu)->rip = d->blocks[payload].pc;
            DbtBlock *b = dbt_find(d);
            code = b == NULL ? NULL : d->cache.run + b->entry;
            break;
        }
        case LEAVE_INDIRECT:
            dbt_check_jump(d, payload);
            if (unlikely(d->stress & DBT_STRESS_SITES)) {
                dbt_stress_jump(d, payload);
            }
            break;
        case LEAVE_INTERP:
            dbt_interpret_site(d, payload);
            break;
        case LEAVE_BUDGET:
            x86_hot(cpu)->rip = d->blocks[payload].pc;
            cpu->jit.budget += d->blocks[payload].insn_count;
            return interpret_some(d, (uint64_t)cpu->jit.budget);
        }
    }
    return true;
}

void dbt_run(Dbt *d)
{
    X86Cpu *cpu = d->cpu;
    dbt_set_current(d);
    cpu->jit.pauses = PAUSES;
    cpu->fault_jmp = &d->jmp;
    if (setjmp(d->jmp) == X86_JMP_FAULT) {
        if (d->check != NULL) {
            dbt_check_disarm(d);
        }
        cpu->jit.budget -= cpu->counted; /* a fault counts as an instruction, as in the interpreter */
        x86_deliver_fault(cpu);
    }
    cpu->fault_jmp = &d->jmp;
    for (;;) {
        if (unlikely(cpu->counted && cpu->jit.budget <= 0)) {
            break; /* before an interrupt is taken: what the turn's end is for comes first at this count */
        }
        if (unlikely(atomic_load_explicit(&x86_hot(cpu)->exit_req, memory_order_relaxed) != 0) && !handle_requests(d)) {
            break;
        }
        if (unlikely(atomic_load_explicit(&cpu->vcpu->halted, memory_order_relaxed))) {
            break;
        }
        if (unlikely(d->stress != 0)) {
            dbt_stress_turn(d);
        }
        if (unlikely(d->flush_wanted)) {
            dbt_flush(d);
        }
        uint32_t mode = x86_hot(cpu)->mode;
        if (unlikely(!front_mode_ok(mode) || (cpu->dr[7] & 0xff) ||
                     (cpu->debug != NULL && cpu->debug->data != 0))) {
            if (!interpret_some(d, 4096)) {
                break;
            }
            continue;
        }
        if (unlikely(cpu->int_shadow != 0)) {
            if (!interpret_some(d, 1)) {
                break;
            }
            continue;
        }
        x86_hot(cpu)->rflags &= ~(uint64_t)X86_RF; /* no breakpoint is on that it could hold off */
        dbt_select_mode(d);
        const uint8_t *code = code_for(d);
        if (code == NULL ? !interpret_some(d, 1) : !turn(d, code)) {
            break;
        }
    }
    cpu->fault_jmp = NULL;
    dbt_set_current(NULL);
}
