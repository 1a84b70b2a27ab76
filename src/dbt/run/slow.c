/*
 * What translated code calls when its fast path fails, and the signals that it may raise.
 */
#include <signal.h>
#include <stdatomic.h>
#include <ucontext.h>

#include "cpu/x86/exc.h"
#include "cpu/x86/mmu.h"
#include "dbt/ir/env.h"
#include "dbt/run/engine.h"

static THREAD_LOCAL Dbt *current;

void dbt_set_current(Dbt *d)
{
    current = d;
}

static bool canonical(uint64_t va)
{
    return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

/* The instruction of a site: kept, or read again from the page it came from. False: its bytes changed. */
static bool site_insn(Dbt *d, const DbtSite *site, X86Insn *buf, const X86Insn **ret_insn)
{
    if (site->insn != NULL) {
        *ret_insn = site->insn;
        return true;
    }
    const DbtBlock *b = &d->blocks[site->block];
    const CodeMap *m = &d->maps[b->map];
    *ret_insn = buf;
    return b->valid && x86_decode(buf, m->host + (b->pc & (MEM_PAGE_SIZE - 1)) + site->offset, site->length, m->mode) == DECODE_OK &&
           buf->length == site->length;
}

static uint64_t site_pc(const Dbt *d, const DbtSite *site)
{
    uint64_t pc = d->blocks[site->block].pc + (uint64_t)(int64_t)site->offset;
    return d->mode & X86_MODE_CS64 ? pc : (uint32_t)pc;
}

/* True when execution may go on behind the instruction in the same block. */
static bool interpret(Dbt *d, const DbtSite *site)
{
    X86Cpu *cpu = d->cpu;
    X86Hot *hot = x86_hot(cpu);
    X86Insn buf;
    const X86Insn *insn;
    uint64_t next = hot->rip + site->length;
    if (!(d->mode & X86_MODE_CS64)) {
        next = (uint32_t)next;
    }
    if (!site_insn(d, site, &buf, &insn)) {
        return false; /* the dispatcher starts again at this instruction */
    }
    d->interp_counts[insn->desc - x86_insn_descs]++;
    /* A fault goes to the run loop, past the translated code's frame, whose registers are all saved. */
    cpu->next_rip = next;
    cpu->interp_stop = false; /* REP looks at it */
    (site->handler != NULL ? site->handler : x86_choose_handler(cpu, insn))(cpu, insn);
    cpu->jit.budget -= cpu->counted;
    hot->rip = cpu->next_rip;
    if (unlikely(cpu->int_shadow != 0 || atomic_load_explicit(&hot->exit_req, memory_order_relaxed) != 0)) {
        if (!site->shadow || atomic_load_explicit(&hot->exit_req, memory_order_relaxed) != 0) {
            return false;
        }
        cpu->int_shadow = 0; /* of STI: the block goes on, and nobody interrupts it in its next instruction */
    }
    if (insn->desc->cls == CLASS_BRANCH) {
        return false; /* a CALL of what follows it is at `next` too, but the block ends here */
    }
    return hot->rip == next && dbt_mode(cpu) == d->mode && d->blocks[site->block].valid && !d->flush_wanted;
}

bool dbt_refill(void *opaque, uint64_t va, bool write)
{
    Dbt *d = opaque;
    const X86Tlbe *e = &d->cpu->tlb[(va >> MEM_PAGE_BITS) & (X86_TLB_SIZE - 1)];
    if (va - (write ? e->wtag : e->rtag) < MEM_PAGE_SIZE || !canonical(va) || !canonical(va + 63)) {
        return false; /* it is there, and the access crosses pages or is misaligned; or it is #GP */
    }
    d->stats.refills++;
    return x86_tlb_refill(d->cpu, va, write);
}

const uint8_t *dbt_slow(void *opaque, uint64_t va, const uint8_t *return_address, uint64_t kind)
{
    Dbt *d = opaque;
    X86Cpu *cpu = d->cpu;
    const DbtSite *site = &d->sites[lower_site_at(return_address, (unsigned)kind)];
    if (unlikely(dbt_env_byte(cpu, ENV_X87_WAS))) {
        dbt_fix_fip(d);
    }
    x86_hot(cpu)->rip = site_pc(d, site);
    dbt_give_back(d, site);
    if (site->live & FL_RECORD) {
        dbt_flags_from_record(d);
    } else if (unlikely(d->stress != 0)) {
        dbt_stress_flags(d, site->live);
    }
    if (!(kind & SLOW_INTERP) && !site->trap) {
        bool write = (kind & SLOW_WRITE) && !site->reads; /* who writes raises its own fault */
        X86Tlbe *e = &cpu->tlb[(va >> MEM_PAGE_BITS) & (X86_TLB_SIZE - 1)];
        if (canonical(va) && canonical(va + 63) && !(va & site->align) && !site->exact_fault &&
            va - (write ? e->wtag : e->rtag) >= MEM_PAGE_SIZE) {
            uint64_t pa;
            d->stats.slow_miss++;
            x86_mmu_fill(cpu, va, write ? X86_WRITE : X86_READ, X86_AS_CPL, &pa);
            if (va - (write ? e->wtag : e->rtag) < MEM_PAGE_SIZE) {
                dbt_take_again(d, site);
                return return_address; /* a jump to the check */
            }
        }
    }
    if (site->leads) {
        dbt_take_again(d, site); /* the code there gives it back */
        return return_address + LOWER_LEAD_ELSEWHERE;
    }
    d->stats.slow_interp++;
    bool goes_on = interpret(d, site);
    dbt_record_flags(d);
    if (goes_on) {
        cpu->jit.budget -= cpu->counted ? site->left - 1 : 0;
        return d->cache.run + site->resume;
    }
    return d->env.leave[LEAVE_DISPATCH];
}

void dbt_interpret_site(Dbt *d, uint32_t number)
{
    const DbtSite *site = &d->sites[number];
    X86Cpu *cpu = d->cpu;
    X86Hot *hot = x86_hot(cpu);
    hot->rip = site_pc(d, site);
    cpu->next_rip = hot->rip + site->length;
    if (!(d->mode & X86_MODE_CS64)) {
        cpu->next_rip = (uint32_t)cpu->next_rip;
    }
    cpu->interp_stop = false;
    dbt_give_back(d, site);
    d->interp_counts[site->insn->desc - x86_insn_descs]++;
    site->handler(cpu, site->insn);
    cpu->jit.budget -= cpu->counted;
    hot->rip = cpu->next_rip;
}

void dbt_check_jump(Dbt *d, uint32_t number)
{
    X86Cpu *cpu = d->cpu;
    X86Hot *hot = x86_hot(cpu);
    if (likely(canonical(hot->rip) || (cpu->cr4 & CR4_LA57))) {
        return; /* with 57 bits the fetch says it, a little late */
    }
    const DbtSite *site = &d->sites[number];
    dbt_give_back(d, site);
    x86_gpr(cpu)[X86_RSP] -= (uint64_t)(int64_t)site->stack;
    hot->rip = site_pc(d, site);
    x86_gp(cpu, 0);
}

/* --- signals --- */

static struct sigaction old_fpe;

static const DbtFault *fault_at(const Dbt *d, uint64_t at)
{
    uint64_t offset = at - (uint64_t)(uintptr_t)d->cache.run;
    if (offset >= d->cache.hot) {
        return NULL;
    }
    uint32_t lo = 0, hi = d->fault_count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (d->faults[mid].at < offset) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < d->fault_count && d->faults[lo].at == offset ? &d->faults[lo] : NULL;
}

void dbt_fix_fip(Dbt *d)
{
    const DbtFault *fault = fault_at(d, d->cpu->fx.fip);
    if (fault != NULL) {
        d->cpu->fx.fip = site_pc(d, &d->sites[fault->site]);
    }
}

static void on_fpe(int signal_number, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    if (current != NULL) {
        const DbtFault *fault = fault_at(current, (uint64_t)uc->uc_mcontext.gregs[REG_RIP]);
        if (fault != NULL && fault->stub != 0) {
            uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)(current->cache.run + fault->stub);
            return;
        }
    }
    if ((old_fpe.sa_flags & SA_SIGINFO) && old_fpe.sa_sigaction != NULL) {
        old_fpe.sa_sigaction(signal_number, info, context);
        return;
    }
    signal(signal_number, SIG_DFL); /* not ours: end as without us */
}

void dbt_catch_signals(void)
{
    static atomic_flag done = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&done)) {
        struct sigaction action = { .sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO | SA_NODEFER };
        sigaction(SIGFPE, &action, &old_fpe);
    }
}
