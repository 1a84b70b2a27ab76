/*
 * The exact interpreter (T0): runs of decoded instructions, kept by physical address and mode, and
 * what lies between instructions: faults, traps, single-stepping, interrupts. Intel SDM volume
 * 3, 6.9 (priorities), 17.3.1.4 (single step), 6.8.3 (interrupt shadow).
 *
 * A run is consecutive instructions of one page, up to one that ends a block. It stays valid while
 * its page's write counter does (codepage.h); when the counter moved, the bytes are compared, and
 * the run lives on if they are the same. An instruction that crosses a page is decoded each time.
 */
#include "cpu/x86/interp.h"

#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "core/vm/debug.h"
#include "cpu/x86/codepage.h"
#include "cpu/x86/info.h"
#include "cpu/x86/interp_priv.h"
#include "cpu/x86/svm.h"
#include "cpu/x86/sys.h"

enum {
    RUN_MAX = 24, /* instructions in a run */
    RUN_SLOTS = 1 << 16,
    FETCHED_SLOTS = 64,
    POOL_SIZE = 1 << 17, /* decoded instructions, a ring: the oldest runs go first */
};

typedef struct Decoded {
    X86Handler *handler;
    X86Insn insn;
} Decoded;

typedef struct Run {
    uint64_t key; /* ram address of the first byte + 1; RUN_NONE */
    uint32_t mode;
    uint32_t gen; /* of page */
    CodePage *page;
    Decoded *first;
    uint64_t place; /* pool_head when it was made: overwritten when POOL_SIZE more were made */
    uint16_t count, bytes;
} Run;
#define RUN_NONE 0 /* fresh memory need not be touched for it */

/* Bits of the mode word that do not change what an instruction does here. */
#define MODE_KEY (~(uint32_t)(X86_MODE_TF | X86_MODE_AC | X86_MODE_FLAT))

/* A page of code by linear address; good while the mode and the count of flushes are the same. */
typedef struct Fetched {
    uint64_t page;
    uint32_t mode, changes;
    const uint8_t *host;
    RamBlock *block;
    uint64_t offset;
} Fetched;

typedef struct Interp {
    uint64_t target; /* insn_count to stop at; faults count */
    uint32_t start_mode;
    bool stop_on_mode;
    bool stepping;      /* x86_interp_step(): points are not looked at */
    uint64_t pool_head; /* counts decoded instructions ever kept */
    Decoded single;     /* the instruction that is not kept */
    Fetched fetched[FETCHED_SLOTS];
    Run run[RUN_SLOTS];
    Decoded pool[POOL_SIZE];
} Interp;

/* --- choosing handlers --- */

static void refuse_invalid(X86Cpu *cpu, const X86Insn *insn)
{
    x86_ud(cpu);
}

static void refuse_privileged(X86Cpu *cpu, const X86Insn *insn)
{
    x86_gp(cpu, 0);
}

/* With DEBUGCTL.LBR. */
static void recorded_branch(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t from = x86_hot(cpu)->rip, next = cpu->next_rip;
    x86_handlers[insn->op](cpu, insn);
    if (cpu->next_rip != next) {
        cpu->branch.from = from;
        cpu->branch.to = cpu->next_rip;
    }
}

X86Handler *x86_choose_handler(X86Cpu *cpu, const X86Insn *insn)
{
    const X86InsnDesc *d = insn->desc;
    bool absent = d->feature_word != 0xff && !x86_has(cpu, d->feature_word, d->feature_bit);
    if (unlikely(absent && !(d->props & INSN_ELSE))) {
        return refuse_invalid;
    }
    if (unlikely((d->props & INSN_REAL_UD || insn->prefixes & PFX_VEX) && real_or_vm86(cpu))) {
        return refuse_invalid;
    }
    if (d->props & INSN_PRIV && x86_hot(cpu)->mode & X86_MODE_CPL) {
        return refuse_privileged;
    }
    X86Handler *guest = unlikely(x86_hot(cpu)->mode & X86_MODE_SVM) ? x86_svm_handler(insn) : NULL;
    if (guest != NULL) {
        return guest;
    }
    if (unlikely(x86_hot(cpu)->mode & X86_MODE_LBR) && d->cls == CLASS_BRANCH) {
        return recorded_branch;
    }
    return x86_handlers[insn->op];
}

/* --- runs --- */

static bool same_bytes(const Run *run, const uint8_t *host)
{
    for (unsigned i = 0; i < run->count; i++) {
        const X86Insn *insn = &run->first[i].insn;
        if (memcmp(host, insn->bytes, insn->length) != 0) {
            return false;
        }
        host += insn->length;
    }
    return true;
}

/* -d in_asm: each run once, when it is decoded. */
static void log_run(X86Cpu *cpu, const Decoded *first, unsigned count)
{
    GString *text = g_string_new("----------------\nIN: \n");
    uint64_t rip = x86_hot(cpu)->rip;
    for (unsigned i = 0; i < count; i++) {
        x86_insn_list(text, &first[i].insn, cpu->seg[X86_CS].base + rip, rip);
        rip += first[i].insn.length;
    }
    log_printf("%s\n", text->str);
    g_string_free(text, TRUE);
}

/* -d exec and -d cpu: before each instruction. */
static void log_state(X86Cpu *cpu)
{
    const X86Hot *hot = x86_hot(cpu);
    if (log_at(LOG_EXEC, cpu->seg[X86_CS].base + hot->rip)) {
        log_printf("Trace %u: [%016" PRIx64 "/%016" PRIx64 "/%08x/00000000]\n", cpu->vcpu->index,
                   cpu->seg[X86_CS].base, hot->rip, hot->mode);
    }
    if (log_at(LOG_CPU, cpu->seg[X86_CS].base + hot->rip)) {
        g_autofree char *text = x86_describe(cpu, log_enabled(LOG_FPU));
        log_printf("%s", text);
    }
}

/* Decodes from host, which has `room` bytes left in its page; 0: not even one instruction. */
static unsigned decode_run(X86Cpu *cpu, Decoded *to, const uint8_t *host, unsigned room,
                           unsigned *ret_bytes)
{
    unsigned count = 0, bytes = 0;
    while (count < RUN_MAX && bytes < room) {
        Decoded *d = &to[count];
        if (x86_decode(&d->insn, host + bytes, room - bytes, x86_hot(cpu)->mode) != DECODE_OK) {
            break;
        }
        d->handler = x86_hot(cpu)->mode & X86_MODE_LBR ? NULL : x86_fast_handler(&d->insn);
        if (d->handler == NULL) {
            d->handler = x86_choose_handler(cpu, &d->insn);
        }
        bytes += d->insn.length;
        count++;
        if (d->insn.desc->props & INSN_END) {
            break;
        }
    }
    if (count != 0 && log_at(LOG_IN_ASM, cpu->seg[X86_CS].base + x86_hot(cpu)->rip)) {
        log_run(cpu, to, count);
    }
    *ret_bytes = bytes;
    return count;
}

static bool fill_run(X86Cpu *cpu, Interp *it, Run *run, uint64_t key, RamBlock *block,
                     uint64_t offset, const uint8_t *host)
{
    unsigned room = MEM_PAGE_SIZE - (offset & (MEM_PAGE_SIZE - 1)), bytes;
    if (it->pool_head % POOL_SIZE + RUN_MAX > POOL_SIZE) {
        it->pool_head += POOL_SIZE - it->pool_head % POOL_SIZE;
    }
    Decoded *first = &it->pool[it->pool_head % POOL_SIZE];
    run->key = RUN_NONE;
    CodePage *page = x86_code_page(cpu, block, offset);
    uint32_t gen = page->gen;
    unsigned count = decode_run(cpu, first, host, room, &bytes);
    if (count == 0) {
        return false;
    }
    Run made = { key,
                 x86_hot(cpu)->mode & MODE_KEY,
                 gen,
                 page,
                 first,
                 it->pool_head,
                 (uint16_t)count,
                 (uint16_t)bytes };
    if (!x86_code_add(cpu, CODE_INTERP, block, offset, bytes) || page->gen != gen ||
        !same_bytes(&made, host)) {
        return false;
    }
    it->pool_head += count;
    *run = made;
    return true;
}

/* Brings a run up to date after its page was written. */
static bool refresh_run(X86Cpu *cpu, Run *run, RamBlock *block, uint64_t offset,
                        const uint8_t *host)
{
    uint32_t gen = run->page->gen;
    if (!x86_code_add(cpu, CODE_INTERP, block, offset, run->bytes) || !same_bytes(run, host)) {
        return false;
    }
    run->gen = gen;
    return run->page->gen == gen;
}

/* Where the code of pc's page is. NULL: not in RAM or ROM. Raises the fetch's faults. */
static ALWAYS_INLINE const Fetched *fetch_page(X86Cpu *cpu, Interp *it, uint64_t pc)
{
    uint64_t page = pc & ~(MEM_PAGE_SIZE - 1), pa;
    uint32_t mode = x86_hot(cpu)->mode;
    Fetched *f = &it->fetched[pc >> MEM_PAGE_BITS & (FETCHED_SLOTS - 1)];
    if (likely(f->page == page && f->mode == mode && f->changes == cpu->map_changes)) {
        return f;
    }
    const uint8_t *host = x86_fetch_page(cpu, pc, &pa, &f->block, &f->offset);
    f->host = host;
    f->page = host != NULL ? page : 1; /* no page starts there */
    f->mode = mode;
    f->changes = cpu->map_changes;
    return host != NULL ? f : NULL;
}

static Run *find_run(X86Cpu *cpu, Interp *it, uint64_t pc)
{
    const Fetched *f = fetch_page(cpu, it, pc);
    if (unlikely(f == NULL)) {
        return NULL;
    }
    unsigned in_page = pc & (MEM_PAGE_SIZE - 1);
    const uint8_t *host = f->host;
    RamBlock *block = f->block;
    uint64_t offset = f->offset + in_page, key = block->id + offset + 1;
    Run *run = &it->run[(key ^ key >> 12) & (RUN_SLOTS - 1)];
    if (likely(run->key == key && run->mode == (x86_hot(cpu)->mode & MODE_KEY) &&
               it->pool_head + RUN_MAX - run->place <= POOL_SIZE)) {
        if (likely(run->gen == atomic_load_explicit(&run->page->gen, memory_order_acquire)) ||
            refresh_run(cpu, run, block, offset, host + in_page)) {
            return run;
        }
    }
    return fill_run(cpu, it, run, key, block, offset, host + in_page) ? run : NULL;
}

/* --- execution --- */

static uint64_t linear_pc(X86Cpu *cpu)
{
    const X86Hot *hot = x86_hot(cpu);
    if (hot->mode & X86_MODE_CS64) {
        if (unlikely(!canonical(cpu, hot->rip))) {
            x86_gp(cpu, 0);
        }
        return hot->rip;
    }
    return (uint32_t)(cpu->seg[X86_CS].base + hot->rip);
}

/* The whole instruction must lie inside the code segment. */
static void check_code_limit(X86Cpu *cpu, unsigned length)
{
    const X86Hot *hot = x86_hot(cpu);
    if (!(hot->mode & X86_MODE_CS64) && hot->rip + length - 1 > cpu->seg[X86_CS].limit) {
        x86_gp(cpu, 0);
    }
}

static ALWAYS_INLINE void execute(X86Cpu *cpu, X86Hot *hot, const Decoded *d)
{
    cpu->next_rip = hot->rip + d->insn.length;
    d->handler(cpu, &d->insn);
    hot->rip = cpu->next_rip;
    cpu->insn_count++;
}

/* Fetches and decodes one instruction without keeping it. */
static const Decoded *decode_single(X86Cpu *cpu, Interp *it, uint64_t pc)
{
    uint8_t bytes[15];
    uint64_t pa;
    Decoded *d = &it->single;
    unsigned count = x86_fetch(cpu, pc, bytes, &pa);
    switch (x86_decode(&d->insn, bytes, count, x86_hot(cpu)->mode)) {
    case DECODE_OK:
        break;
    case DECODE_MORE: /* the next page is missing: the fetch there faults */
        check_code_limit(cpu, count + 1);
        x86_fetch(cpu, pc + count, bytes, &pa);
        x86_gp(cpu, 0);
    case DECODE_GP_LENGTH:
        x86_gp(cpu, 0);
    default:
        check_code_limit(cpu, 1);
        x86_ud(cpu);
    }
    check_code_limit(cpu, d->insn.length);
    d->handler = x86_choose_handler(cpu, &d->insn);
    return d;
}

static void execute_one(X86Cpu *cpu, Interp *it, uint16_t *ret_op)
{
    X86Hot *hot = x86_hot(cpu);
    uint64_t pc = linear_pc(cpu);
    const Run *run = find_run(cpu, it, pc);
    const Decoded *d;
    if (run != NULL) {
        d = run->first;
        check_code_limit(cpu, d->insn.length);
    } else {
        d = decode_single(cpu, it, pc);
    }
    *ret_op = d->insn.op;
    execute(cpu, hot, d);
}

/* As many instructions of the run at rip as nothing stands against. */
static ALWAYS_INLINE void execute_run(X86Cpu *cpu, Interp *it)
{
    X86Hot *hot = x86_hot(cpu);
    uint64_t pc = linear_pc(cpu);
    const Run *run = find_run(cpu, it, pc);
    cpu->interp_stop = false;
    if (unlikely(run == NULL || (!(hot->mode & X86_MODE_CS64) &&
                                 hot->rip + run->bytes - 1 > cpu->seg[X86_CS].limit))) {
        uint16_t op;
        execute_one(cpu, it, &op);
        return;
    }
    const Decoded *d = run->first, *end = d + MIN(run->count, it->target - cpu->insn_count);
    do {
        execute(cpu, hot, d);
        d++;
    } while (d != end && !cpu->interp_stop &&
             likely(atomic_load_explicit(&hot->exit_req, memory_order_relaxed) == 0));
    if (unlikely(!(hot->mode & X86_MODE_CS64))) {
        hot->rip = (uint32_t)hot->rip;
    }
}

static bool loads_ss(const X86Cpu *cpu, uint16_t op)
{
    return cpu->int_shadow != 0 && op != X86_OP_STI;
}

static bool is_string(uint16_t op)
{
    return op == X86_OP_MOVS || op == X86_OP_STOS || op == X86_OP_LODS || op == X86_OP_SCAS ||
           op == X86_OP_CMPS || op == X86_OP_INS || op == X86_OP_OUTS;
}

/* Where a debugger wants to stop. */
static bool debugger_stops(X86Cpu *cpu)
{
    const DebugPoint *point = debug_point_find(cpu->debug, linear_pc(cpu), 1, DEBUG_EXEC);
    if (point) {
        debug_hit((DebugPoints *)cpu->debug, cpu->vcpu, point);
    }
    return point != NULL;
}

/* One instruction with code breakpoints, RF, TF and the interrupt shadow. */
static void step(X86Cpu *cpu, Interp *it)
{
    X86Hot *hot = x86_hot(cpu);
    uint64_t flags = hot->rflags, before = hot->rip;
    uint16_t op;
    cpu->int_shadow = 0;
    cpu->interp_stop = false;
    if (cpu->dr[7] & 0xff && !(flags & X86_RF)) {
        uint64_t bits = x86_debug_match(cpu, linear_pc(cpu), 1, X86_EXEC);
        if (bits != 0) {
            hot->rflags |= X86_RF; /* pushed as set, so that the handler can return here */
            x86_raise_debug(cpu, bits);
        }
    }
    if (log_enabled(LOG_EXEC | LOG_CPU)) {
        log_state(cpu);
    }
    execute_one(cpu, it, &op);
    if (!(hot->mode & X86_MODE_CS64)) {
        hot->rip = (uint32_t)hot->rip;
    }
    if (op == X86_OP_VMRUN && cpu->svm.guest) {
        return; /* the flags are the guest's; the step ends behind #VMEXIT */
    }
    if (flags & X86_RF && op != X86_OP_IRET) {
        hot->rflags &= ~(uint64_t)X86_RF;
    }
    if (op == X86_OP_SYSCALL) { /* steps by the flags that it leaves; SYSRET sees to it itself */
        flags = hot->rflags;
    }
    if (flags & X86_TF && !loads_ss(cpu, op) && op != X86_OP_SYSRET) {
        if (hot->rip == before && is_string(op)) { /* between elements */
            hot->rflags |= X86_RF;
        }
        x86_raise_debug(cpu, BIT(14));
    }
}

/* Something stands between this instruction and the next. True: *ret_exit is why to leave. */
static bool between(X86Cpu *cpu, Interp *it, X86Exit *ret_exit)
{
    X86Hot *hot = x86_hot(cpu);
    if (hot->exit_req & (VCPU_REQ_WORK | VCPU_REQ_STOP | VCPU_REQ_RESET)) {
        *ret_exit = X86_EXIT_REQUEST;
        return true;
    }
    if (hot->exit_req != 0) {
        bool moved = x86_take_events(cpu);
        if (cpu->vcpu->halted) {
            *ret_exit = X86_EXIT_HALT;
            return true;
        }
        if (moved) {
            return false;
        }
    }
    if (unlikely(cpu->debug != NULL) && !it->stepping && debugger_stops(cpu)) {
        *ret_exit = X86_EXIT_DEBUG;
        return true;
    }
    step(cpu, it);
    return false;
}

static bool needs_step(X86Cpu *cpu)
{
    const X86Hot *hot = x86_hot(cpu);
    return unlikely(log_enabled(LOG_EXEC | LOG_CPU) ||
                    atomic_load_explicit(&hot->exit_req, memory_order_relaxed) != 0 ||
                    hot->rflags & (X86_TF | X86_RF) || cpu->int_shadow != 0 || cpu->dr[7] & 0xff ||
                    cpu->debug != NULL);
}

static X86Exit run_loop(X86Cpu *cpu, Interp *it)
{
    X86Exit exit = X86_EXIT_NONE;
    while (cpu->insn_count < it->target) {
        if (needs_step(cpu)) {
            if (between(cpu, it, &exit)) {
                return exit;
            }
        } else {
            execute_run(cpu, it);
        }
        if (cpu->interp_stop) {
            if (cpu->vcpu->halted) {
                return X86_EXIT_HALT;
            }
        }
        if (unlikely(it->stop_on_mode) && x86_hot(cpu)->mode != it->start_mode) {
            return X86_EXIT_MODE;
        }
    }
    return X86_EXIT_NONE;
}

void x86_interp_new(X86Cpu *cpu)
{
    if (cpu->interp == NULL) {
        Interp *it = g_malloc0(sizeof(*it));
        for (unsigned i = 0; i < FETCHED_SLOTS; i++) {
            it->fetched[i].page = 1;
        }
        cpu->interp = it;
        x86_code_attach(cpu);
    }
}

void x86_interp_free(X86Cpu *cpu)
{
    g_free(cpu->interp);
    cpu->interp = NULL;
    x86_code_detach(cpu);
}

X86Exit x86_interp_run(X86Cpu *cpu, uint64_t count, bool stop_on_mode_change)
{
    x86_interp_new(cpu);
    Interp *it = cpu->interp;
    it->target = count > ~cpu->insn_count ? ~0ull : cpu->insn_count + count;
    it->start_mode = x86_hot(cpu)->mode;
    it->stop_on_mode = stop_on_mode_change;

    jmp_buf *volatile outer = cpu->fault_jmp;
    jmp_buf here;
    cpu->fault_jmp = &here;
    if (setjmp(here) == X86_JMP_FAULT) {
        cpu->insn_count++; /* an endless chain of faults uses up the count, too */
        x86_deliver_fault(cpu);
    }
    X86Exit exit;
    if (cpu->vcpu->halted && !x86_take_events(cpu) && cpu->vcpu->halted) {
        exit = X86_EXIT_HALT;
    } else {
        exit = run_loop(cpu, it);
    }
    cpu->fault_jmp = outer;
    return exit;
}

void x86_interp_step(X86Cpu *cpu)
{
    x86_interp_new(cpu);
    Interp *it = cpu->interp;
    uint32_t waiting = atomic_exchange(&x86_hot(cpu)->exit_req, 0);
    it->stepping = true;
    x86_interp_run(cpu, 1, false);
    it->stepping = false;
    atomic_fetch_or(&x86_hot(cpu)->exit_req, waiting);
}

bool x86_interp_one(X86Cpu *cpu, const X86Insn *insn)
{
    X86Hot *hot = x86_hot(cpu);
    jmp_buf *volatile outer = cpu->fault_jmp;
    jmp_buf here;
    cpu->fault_jmp = &here;
    int how = setjmp(here);
    if (how != 0) {
        cpu->fault_jmp = outer;
        if (how == X86_JMP_FAULT) {
            x86_deliver_fault(cpu);
        }
        return false;
    }
    uint64_t next = hot->rip + insn->length;
    if (!(hot->mode & X86_MODE_CS64)) {
        next = (uint32_t)next;
    }
    cpu->next_rip = next;
    x86_choose_handler(cpu, insn)(cpu, insn);
    hot->rip = cpu->next_rip;
    cpu->insn_count++;
    cpu->fault_jmp = outer;
    return hot->rip == next;
}
