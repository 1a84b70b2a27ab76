/* The arithmetic flags that a record stands for (ir/env.h), made by the host's own instructions. */
#include "cpu/x86/sys.h"
#include "dbt/ir/env.h"
#include "dbt/run/engine.h"

#define AFTER(op, type)                                                                                          \
    do {                                                                                                         \
        type left_ = (type)left, right_ = (type)right;                                                           \
        __asm__(op " %2, %1\n\tpushfq\n\tpopq %0" : "=r"(flags), "+q"(left_) : "q"(right_) : "cc", "memory");      \
    } while (0)

#define AFTER_SIZED(op)                                                                                          \
    switch (size) {                                                                                              \
    case 0:                                                                                                      \
        AFTER(op "b", uint8_t);                                                                                  \
        break;                                                                                                   \
    case 1:                                                                                                      \
        AFTER(op "w", uint16_t);                                                                                 \
        break;                                                                                                   \
    case 2:                                                                                                      \
        AFTER(op "l", uint32_t);                                                                                 \
        break;                                                                                                   \
    default:                                                                                                     \
        AFTER(op "q", uint64_t);                                                                                 \
        break;                                                                                                   \
    }

typedef enum Operation { OP_TEST, OP_CMP, OP_ADD } Operation;

static uint64_t flags_after(Operation op, unsigned size, uint64_t left, uint64_t right)
{
    uint64_t flags = 0;
    if (op == OP_TEST) {
        AFTER_SIZED("test");
    } else if (op == OP_CMP) {
        AFTER_SIZED("cmp");
    } else {
        AFTER_SIZED("add");
    }
    return flags & ENV_ARITH_FLAGS;
}

uint64_t dbt_flags(void *opaque)
{
    const Dbt *d = opaque;
    uint32_t kind = d->cpu->jit.flags_kind;
    unsigned size = kind >> 4 & 3;
    uint64_t a = d->cpu->jit.flags_a;
    uint64_t b = kind & FLAGS_IMM ? (uint64_t)(int64_t)((int32_t)kind >> 8) : d->cpu->jit.flags_b;
    switch ((FlagsRecord)(kind & 15)) {
    case FLAGS_RAW:
        return (a >> 8 & ENV_ARITH_FLAGS & 0xff) | (a & 1) << 11;
    case FLAGS_LOGIC:
        return flags_after(OP_TEST, size, a, a);
    case FLAGS_TEST:
        return flags_after(OP_TEST, size, a, b);
    case FLAGS_CMP:
        return flags_after(OP_CMP, size, a, b);
    case FLAGS_SUB:
        return flags_after(OP_CMP, size, a + b, b);
    case FLAGS_ADD:
        return flags_after(OP_ADD, size, a - b, b);
    case FLAGS_NEG:
        return flags_after(OP_CMP, size, 0, -a);
    default:
        return a & ENV_ARITH_FLAGS;
    }
}

uint64_t dbt_pushf(void *opaque)
{
    const Dbt *d = opaque;
    return (x86_hot(d->cpu)->rflags & ~(uint64_t)(ENV_ARITH_FLAGS | X86_VM | X86_RF)) | dbt_flags(opaque);
}

uint64_t dbt_rdtsc(void *opaque)
{
    Dbt *d = opaque;
    X86Cpu *cpu = d->cpu;
    cpu->jit.temp = !(cpu->cr4 & CR4_TSD) || cpu->cpl == 0;
    return cpu->jit.temp ? x86_tsc(cpu) : 0;
}

void dbt_flags_from_record(Dbt *d)
{
    X86Hot *hot = x86_hot(d->cpu);
    hot->rflags = (hot->rflags & ~(uint64_t)ENV_ARITH_FLAGS) | dbt_flags(d);
}

void dbt_record_flags(Dbt *d)
{
    d->cpu->jit.flags_kind = FLAGS_VALUE;
    d->cpu->jit.flags_a = x86_hot(d->cpu)->rflags;
}
