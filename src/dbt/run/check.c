/*
 * Self-check: now and then a block is run by the interpreter first, its effects are noted and taken back, and what
 * the translated code then does must be the same (-accel tcg,x-self-check=N: each Nth block that can be checked).
 *
 * A block can be checked when all of it is translated and all memory it touches is RAM in the soft TLB, so that
 * taking its stores back is exact. Flags are compared where the block left them exact. Code is not linked while
 * checking, so every block passes here. With several CPUs, or devices that write where the block reads, a
 * difference may be theirs.
 */
#include <inttypes.h>

#include "base/log.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/sys.h"
#include "dbt/run/engine.h"

enum { MAX_STORES = FRONT_BLOCK_INSNS, MAX_STORE = 32 };

typedef struct Store {
    uint8_t *at;
    unsigned size;
    uint8_t before[MAX_STORE], after[MAX_STORE];
} Store;

typedef struct State {
    uint64_t gpr[16], rip, rflags;
    X86Vec vec[16];
    uint32_t mxcsr;
} State;

struct DbtCheck {
    uint32_t every, countdown;
    bool armed;
    const DbtBlock *block;
    State start, expected;
    Store stores[MAX_STORES];
    unsigned store_count;
    uint64_t undefined; /* flags that the manual leaves open */
};

void dbt_check_init(Dbt *d, uint32_t every)
{
    d->check = g_new0(DbtCheck, 1);
    d->check->every = d->check->countdown = every;
}

void dbt_check_free(Dbt *d)
{
    g_free(d->check);
    d->check = NULL;
}

void dbt_check_disarm(Dbt *d)
{
    d->check->armed = false;
}

static void keep_state(X86Cpu *cpu, State *s)
{
    memcpy(s->gpr, x86_gpr(cpu), sizeof(s->gpr));
    memcpy(s->vec, cpu->vec, sizeof(s->vec));
    s->rip = x86_hot(cpu)->rip;
    s->rflags = x86_hot(cpu)->rflags;
    s->mxcsr = cpu->fx.mxcsr;
}

static void bring_back(X86Cpu *cpu, const State *s)
{
    memcpy(x86_gpr(cpu), s->gpr, sizeof(s->gpr));
    memcpy(cpu->vec, s->vec, sizeof(s->vec));
    x86_hot(cpu)->rip = s->rip;
    x86_hot(cpu)->rflags = s->rflags;
    cpu->fx.mxcsr = s->mxcsr;
}

static bool note_access(DbtCheck *c, X86Cpu *cpu, uint64_t va, unsigned size, bool write)
{
    uint8_t *at = size == 0 || size > MAX_STORE ? NULL : x86_tlb_hit(cpu, va, size, write);
    if (at == NULL || (write && c->store_count == MAX_STORES)) {
        return false;
    }
    if (write) {
        Store *s = &c->stores[c->store_count++];
        s->at = at;
        s->size = size;
        memcpy(s->before, at, size);
    }
    return true;
}

/* Everything the instruction may touch; false: not to be checked. */
static bool note_accesses(DbtCheck *c, X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t mask = x86_hot(cpu)->mode & X86_MODE_CS64 ? ~0ull : 0xffffffffull;
    for (unsigned i = 0; i < insn->operands; i++) {
        const X86Operand *o = &insn->operand[i];
        if (o->kind == OPND_MEM && !(insn->desc->props & INSN_NO_LINEAR_MEM)) {
            uint64_t base = insn->seg == X86_FS ? x86_hot(cpu)->fs_base : insn->seg == X86_GS ? x86_hot(cpu)->gs_base : 0;
            if (!note_access(c, cpu, (x86_ea_offset(cpu, insn) + base) & mask, o->size, o->flags & OPND_WRITE)) {
                return false;
            }
        }
    }
    const uint64_t *gpr = x86_gpr(cpu);
    unsigned word = mask == ~0ull ? 8 : 4;
    bool leaves = insn->map == 0 && insn->opcode == 0xc9;
    bool stack = insn->desc->cls == CLASS_STACK || leaves || (insn->map == 0 && (insn->opcode == 0xe8 || insn->opcode == 0xc3 ||
                 insn->opcode == 0xc2 || (insn->opcode == 0xff && (insn->modrm >> 3 & 7) == 2)));
    if (!stack) {
        return true;
    }
    uint64_t sp = gpr[leaves ? X86_RBP : X86_RSP] & mask;
    return note_access(c, cpu, (sp - word) & mask, word, true) && note_access(c, cpu, sp, word, false);
}

/* True when a later store of the block covers some of these bytes. */
static bool overwritten(const DbtCheck *c, unsigned n)
{
    const Store *s = &c->stores[n];
    for (unsigned k = n + 1; k < c->store_count; k++) {
        const Store *later = &c->stores[k];
        if (later->at < s->at + s->size && s->at < later->at + later->size) {
            return true;
        }
    }
    return false;
}

/* Notes what the stores left, and takes everything back. */
static void undo(DbtCheck *c, X86Cpu *cpu)
{
    for (unsigned i = 0; i < c->store_count; i++) {
        memcpy(c->stores[i].after, c->stores[i].at, c->stores[i].size);
    }
    for (unsigned i = c->store_count; i-- > 0;) {
        memcpy(c->stores[i].at, c->stores[i].before, c->stores[i].size);
    }
    bring_back(cpu, &c->start);
}

/* The block by the interpreter. False: it met something that cannot be taken back. */
static __attribute__((noinline)) bool interpret_block(Dbt *d, DbtCheck *c, const DbtBlock *b)
{
    X86Cpu *cpu = d->cpu;
    X86Hot *hot = x86_hot(cpu);
    const CodeMap *m = &d->maps[b->map];
    unsigned offset = 0;
    for (unsigned n = 0; n < b->insn_count; n++) {
        X86Insn insn;
        if (x86_decode(&insn, m->host + b->offset + offset, b->length - offset, m->mode) != DECODE_OK) {
            return false;
        }
        if (n + 1 == b->insn_count && b->ends_interpreted) {
            break;
        }
        if (!note_accesses(c, cpu, &insn)) {
            return false;
        }
        c->undefined = (c->undefined & ~(uint64_t)insn.desc->flags_written) | insn.desc->flags_undefined;
        uint64_t next = hot->rip + insn.length;
        cpu->next_rip = m->mode & X86_MODE_CS64 ? next : (uint32_t)next;
        uint64_t straight = cpu->next_rip;
        x86_choose_handler(cpu, &insn)(cpu, &insn);
        hot->rip = cpu->next_rip;
        offset += insn.length;
        if (hot->rip != straight) {
            break;
        }
    }
    return true;
}

/* The same, with faults caught: they are for the translated code to raise. */
static bool interpret_quietly(Dbt *d, DbtCheck *c, const DbtBlock *b)
{
    jmp_buf back, *was = d->cpu->fault_jmp;
    d->cpu->fault_jmp = &back;
    volatile bool done = false;
    if (setjmp(back) == 0) {
        done = interpret_block(d, c, b);
    }
    d->cpu->fault_jmp = was;
    return done;
}

void dbt_check_before(Dbt *d, const DbtBlock *b)
{
    DbtCheck *c = d->check;
    X86Cpu *cpu = d->cpu;
    if (b == NULL || !b->checkable || x86_hot(cpu)->rip != b->pc || --c->countdown != 0) {
        c->countdown += c->countdown == 0;
        return;
    }
    c->countdown = c->every;
    c->store_count = 0;
    c->undefined = 0;
    c->block = b;
    keep_state(cpu, &c->start);
    bool done = interpret_quietly(d, c, b);
    keep_state(cpu, &c->expected);
    undo(c, cpu);
    c->armed = done;
}

static void complain(Dbt *d, const char *what, uint64_t expected, uint64_t got)
{
    d->stats.check_differs++;
    log_printf("self-check: block 0x%" PRIx64 ": %s is 0x%" PRIx64 ", interpreted 0x%" PRIx64 "\n", d->check->block->pc, what,
               got, expected);
}

/* flags: the arithmetic ones are exact. */
void dbt_check_after(Dbt *d, uint64_t rip, bool flags)
{
    DbtCheck *c = d->check;
    X86Cpu *cpu = d->cpu;
    if (!c->armed) {
        return;
    }
    c->armed = false;
    d->stats.checks++;
    State got;
    keep_state(cpu, &got);
    if (rip != c->expected.rip) {
        complain(d, "next address", c->expected.rip, rip);
        return;
    }
    static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
    for (unsigned r = 0; r < 16; r++) {
        if (got.gpr[r] != c->expected.gpr[r]) {
            complain(d, names[r], c->expected.gpr[r], got.gpr[r]);
        }
        if (memcmp(got.vec[r].b, c->expected.vec[r].b, 32) != 0) {
            complain(d, "a vector register", c->expected.vec[r].q[0], got.vec[r].q[0]);
        }
    }
    if (flags && ((got.rflags ^ c->expected.rflags) & X86_ARITH & ~c->undefined)) {
        complain(d, "rflags", c->expected.rflags, got.rflags);
    }
    if (got.mxcsr != c->expected.mxcsr) {
        complain(d, "mxcsr", c->expected.mxcsr, got.mxcsr);
    }
    for (unsigned i = 0; i < c->store_count; i++) {
        if (!overwritten(c, i) && memcmp(c->stores[i].at, c->stores[i].after, c->stores[i].size) != 0) {
            complain(d, "memory", c->stores[i].after[0], c->stores[i].at[0]);
        }
    }
}
