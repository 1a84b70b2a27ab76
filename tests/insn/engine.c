/* The engines that the tests know. */
#include "engine.h"

#include "cpu/x86/interp.h"

static bool t0_run(X86Cpu *cpu, void *opaque, uint64_t limit)
{
    return x86_interp_run(cpu, limit, false) == X86_EXIT_HALT;
}

static const InsnEngine engine_t0 = { .name = "t0", .run = t0_run };

const InsnEngine *const insn_engines[] = { &engine_t0, NULL };
