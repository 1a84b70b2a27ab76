/*
 * Stress: makes rare things happen at every turn of the loop, so that state which is not exact where translated code
 * is left shows at once (-accel tcg,x-stress=BITS, insn-fuzz --stress). What the guest sees must not change.
 */
#include <stdatomic.h>

#include "cpu/x86/mmu.h"
#include "cpu/x86/sys.h"
#include "dbt/run/engine.h"

enum { RARELY = 1024 };

void dbt_stress_before(Dbt *d)
{
    X86Cpu *cpu = d->cpu;
    d->stress_turns++;
    if (d->stress & DBT_STRESS_POLL) { /* the request asks for nothing */
        atomic_fetch_or(&x86_hot(cpu)->exit_req, VCPU_REQ_TIMER);
    }
    if ((d->stress & DBT_STRESS_FLUSH) && d->stress_turns % RARELY == 0) {
        d->flush_wanted = true;
    }
}

/* Not before each block: the second page of an instruction would never be there. */
void dbt_stress_turn(Dbt *d)
{
    if (d->stress & DBT_STRESS_TLB) {
        x86_tlb_flush_all(d->cpu);
    }
}

void dbt_stress_flags(Dbt *d, uint8_t exact)
{
    uint64_t garbage = (exact & FL_C ? 0 : X86_CF) | (exact & FL_OSZAP ? 0 : X86_ARITH & ~(uint64_t)X86_CF);
    if (d->stress & DBT_STRESS_DEAD_FLAGS) {
        x86_hot(d->cpu)->rflags ^= garbage;
    }
}
