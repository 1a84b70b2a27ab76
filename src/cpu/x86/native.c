/*
 * Host stubs for vector and x87 instructions (DBT.md 4.2 NATIVE, 11).
 *
 * A stub is a small function in executable memory: it loads the vector registers that the instruction
 * uses into the host's registers of the same numbers, executes the same instruction with its memory
 * operand replaced by [rsi] and general registers by rax (ModRM.reg) and rcx (ModRM.rm), and stores what
 * was written. MXCSR is the guest's meanwhile when the instruction is a floating-point one. x87 and MMX
 * instructions run between FXRSTOR and FXSAVE of cpu->fx.
 *
 * Stubs are cached by what of the encoding they depend on. The memory is a memfd mapped twice, writable
 * and executable, never both. Legacy SSE leaves the upper halves alone because only the low 16 bytes are
 * loaded and stored; VEX instructions load and store 32 bytes, so the zeroing is the host's own.
 *
 * An unmasked SIMD exception: the host raises it too. native_run_guarded() runs such stubs with a SIGFPE
 * handler in place which takes over MXCSR and leaves through the common fault exit; nothing else is
 * committed, as every store of a stub follows its instruction. A stub's first run is guarded as well: an
 * encoding that the decoder takes and this host does not is #UD, not the end of the program.
 */
#include "cpu/x86/native_priv.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/endian.h"

enum {
    CODE_SIZE = 2 * 1024 * 1024,
    CACHE_BITS = 11, /* sets */
    CACHE_WAYS = 4,
    HOST_RAX = 0, HOST_RCX = 1, HOST_RDX = 2, HOST_RSI = 6, HOST_RDI = 7,
};

typedef struct Native {
    uint8_t *rw, *rx;
    size_t used, start; /* bytes; start: behind the constants and exits */
    uint32_t host_features[X86_FEAT_WORDS];
    NativeStub cache[1 << CACHE_BITS][CACHE_WAYS];
} Native;

unsigned native_pp(const X86Insn *insn)
{
    if (insn->prefixes & PFX_VEX) {
        return insn->bytes[insn->opcode_offset - 1] & 3;
    }
    unsigned pp = 0;
    for (unsigned i = 0; i < insn->opcode_offset; i++) {
        uint8_t b = insn->bytes[i];
        if (b == 0xf3 || b == 0xf2) {
            pp = b == 0xf3 ? 2 : 3;
        } else if (b == 0x66 && pp == 0) {
            pp = 1;
        }
    }
    return pp;
}

#ifdef __x86_64__

/* The last byte names a fourth register: VBLENDV. */
static bool has_is4(const X86Insn *insn)
{
    return (insn->prefixes & PFX_VEX) && insn->map == 3 && insn->opcode >= 0x4a && insn->opcode <= 0x4c;
}

static uint8_t immediate(const X86Insn *insn)
{
    if (has_is4(insn)) {
        return insn->bytes[insn->length - 1];
    }
    return insn->imm_offset ? insn->bytes[insn->imm_offset] : 0;
}

/* --- emitting --- */
typedef struct Emit {
    Native *native;
    uint8_t *p;
} Emit;

static void emit8(Emit *e, uint8_t b)
{
    *e->p++ = b;
}
static void emit32(Emit *e, uint32_t v)
{
    st32_le(e->p, v);
    e->p += 4;
}
static void emit_bytes(Emit *e, const void *bytes, size_t length)
{
    memcpy(e->p, bytes, length);
    e->p += length;
}

/* ModRM and displacement of [rdi + offset]: a field of X86Cpu. */
static void emit_field(Emit *e, unsigned reg, size_t offset)
{
    emit8(e, 0x80 | (reg & 7) << 3 | HOST_RDI);
    emit32(e, (uint32_t)offset);
}

static void emit_gpr(Emit *e, bool store, unsigned host, unsigned guest)
{
    size_t offset = X86_CPU_AREA - sizeof(X86Tail) + offsetof(X86Tail, gpr) + 8 * guest;
    emit8(e, 0x48);
    emit8(e, store ? 0x89 : 0x8b);
    emit_field(e, host, offset);
}

/* MOVUPS xmm or VMOVUPS ymm. */
static void emit_vec(Emit *e, bool store, bool wide, unsigned n)
{
    if (wide) {
        emit8(e, 0xc5);
        emit8(e, (n & 8 ? 0x00 : 0x80) | 0x7c);
    } else {
        if (n & 8) {
            emit8(e, 0x44);
        }
        emit8(e, 0x0f);
    }
    emit8(e, store ? 0x11 : 0x10);
    emit_field(e, n, offsetof(X86Cpu, vec) + sizeof(X86Vec) * n);
}

static void emit_mxcsr(Emit *e, bool store)
{
    emit8(e, 0x0f);
    emit8(e, 0xae);
    emit_field(e, store ? 3 : 2, offsetof(X86Cpu, fx.mxcsr));
}

/* LDMXCSR from the constant at the start of the code. */
static void emit_host_mxcsr(Emit *e)
{
    emit8(e, 0x0f);
    emit8(e, 0xae);
    emit8(e, 0x15);
    emit32(e, (uint32_t)(e->native->rw - (e->p + 4)));
}

static void emit_fx(Emit *e, bool save)
{
    emit8(e, 0x48);
    emit8(e, 0x0f);
    emit8(e, 0xae);
    emit_field(e, save ? 0 : 1, offsetof(X86Cpu, fx));
}

/* --- what an instruction uses --- */
typedef struct Use {
    uint32_t vec_load, vec_store; /* bit n: register n */
    int gpr_reg, gpr_rm;          /* guest register in that ModRM field, -1: none */
    bool gpr_reg_write, gpr_rm_write;
    bool pcmpestr, pcmpstri; /* implicit rax, rdx; implicit rcx result */
    bool mmx, x87, mem;
    bool mxcsr, flags_in, flags_out;
} Use;

/* Opcodes whose general register, if any, is in ModRM.reg. */
static bool gpr_is_in_reg(const X86Insn *insn)
{
    if (insn->map != 1) {
        return false;
    }
    switch (insn->opcode) {
    case 0x2c:
    case 0x2d:
    case 0x50:
    case 0xc3:
    case 0xc5:
    case 0xd7:
        return true;
    default:
        return false;
    }
}

static bool uses_mxcsr(const X86Insn *insn)
{
    uint8_t op = insn->opcode;
    switch (insn->map) {
    case 1:
        return (op >= 0x2a && op <= 0x2f && op != 0x2b) || op == 0x51 || (op >= 0x58 && op <= 0x5f) ||
               op == 0x7c || op == 0x7d || op == 0xc2 || op == 0xd0 || op == 0xe6;
    case 2:
        return op == 0x13 || (op >= 0x96 && op <= 0xbf && (op & 15) >= 6);
    case 3:
        return (op >= 0x08 && op <= 0x0b) || op == 0x40 || op == 0x41 || op == 0x1d;
    default:
        return false;
    }
}

static void use_implicit(const X86Insn *insn, Use *use)
{
    bool vex = insn->prefixes & PFX_VEX;
    uint8_t op = insn->opcode;
    if (insn->map == 2 && !vex && (op == 0x10 || op == 0x14 || op == 0x15 || op == 0xcb)) {
        use->vec_load |= 1;
    }
    if (insn->map == 3 && op >= 0x60 && op <= 0x63 && native_pp(insn) == 1) {
        use->pcmpestr = op < 0x62;
        use->pcmpstri = op & 1;
        if (!use->pcmpstri) {
            use->vec_store |= 1;
            use->vec_load |= 1;
        }
    }
}

static void use_of(const X86Insn *insn, Use *use)
{
    *use = (Use) { .gpr_reg = -1, .gpr_rm = -1 };
    use->x87 = insn->desc->cls == CLASS_X87;
    use->mem = native_has_mem(insn);
    for (unsigned i = 0; i < insn->operands; i++) {
        const X86Operand *o = &insn->operand[i];
        switch (o->kind) {
        case OPND_XMM:
            use->vec_load |= BIT(o->reg & 15);
            use->vec_store |= o->flags & OPND_WRITE ? BIT(o->reg & 15) : 0;
            break;
        case OPND_MMX:
            use->mmx = true;
            break;
        case OPND_REG:
            if (use->x87) {
                break;
            }
            if (gpr_is_in_reg(insn)) {
                use->gpr_reg = o->reg;
                use->gpr_reg_write = o->flags & OPND_WRITE;
            } else {
                use->gpr_rm = o->reg;
                use->gpr_rm_write = o->flags & OPND_WRITE;
            }
            break;
        }
    }
    use_implicit(insn, use);
    use->mxcsr = !use->x87 && uses_mxcsr(insn);
    use->flags_in = use->x87 && (insn->opcode == 0xda || insn->opcode == 0xdb) && !use->mem;
    use->flags_out = (insn->desc->flags_written & X86_ARITH) != 0;
}

/* --- the instruction itself --- */
static void emit_modrm(Emit *e, const X86Insn *insn, const Use *use)
{
    uint8_t modrm = insn->modrm;
    if (use->mem) {
        modrm = (modrm & 0x38) | HOST_RSI;
    } else if (use->gpr_rm >= 0) {
        modrm = (modrm & 0xf8) | HOST_RCX;
    }
    if (use->gpr_reg >= 0) {
        modrm = (modrm & 0xc7) | HOST_RAX << 3;
    }
    emit8(e, modrm);
}

/* Opcodes whose VEX.W selects the size of a general register: it means nothing outside 64-bit mode. */
static bool w_is_gpr_size(const X86Insn *insn)
{
    uint8_t op = insn->opcode;
    if (insn->map == 1) {
        return op == 0x2a || op == 0x2c || op == 0x2d || op == 0x6e || (op == 0x7e && native_pp(insn) == 1);
    }
    return insn->map == 3 && (op == 0x16 || op == 0x22 || op == 0x60 || op == 0x61);
}

/* REX.WRXB as the host needs them: no index, renamed registers below 8. */
static unsigned host_rex(const X86Insn *insn, const Use *use, bool code64)
{
    unsigned rex = insn->rex & 15;
    rex &= ~2u;
    if (use->mem || use->gpr_rm >= 0) {
        rex &= ~1u;
    }
    if (use->gpr_reg >= 0) {
        rex &= ~4u;
    }
    if (!code64 && w_is_gpr_size(insn)) {
        rex &= ~8u;
    }
    return rex;
}

static void emit_insn(Emit *e, const X86Insn *insn, const Use *use, bool code64)
{
    static const uint8_t pp_byte[4] = { 0, 0x66, 0xf3, 0xf2 };
    unsigned rex = host_rex(insn, use, code64);
    unsigned pp = native_pp(insn);
    if (use->x87) {
        emit8(e, insn->opcode);
    } else if (insn->prefixes & PFX_VEX) {
        unsigned vvvv = insn->vex_v & (code64 ? 15 : 7);
        emit8(e, 0xc4);
        emit8(e, (rex & 4 ? 0 : 0x80) | 0x40 | (rex & 1 ? 0 : 0x20) | insn->map);
        emit8(e, (rex & 8 ? 0x80 : 0) | (~vvvv & 15) << 3 | (insn->vex_l ? 4 : 0) | pp);
        emit8(e, insn->opcode);
    } else {
        if (pp) {
            emit8(e, pp_byte[pp]);
        }
        if (rex) {
            emit8(e, 0x40 | rex);
        }
        emit8(e, 0x0f);
        if (insn->map >= 2) {
            emit8(e, insn->map == 2 ? 0x38 : 0x3a);
        }
        emit8(e, insn->opcode);
    }
    if (insn->modrm_offset) {
        emit_modrm(e, insn, use);
    }
    if (has_is4(insn)) {
        emit8(e, immediate(insn) & (code64 ? 0xff : 0x7f));
    } else if (insn->imm_offset) {
        emit8(e, immediate(insn));
    }
}

static void emit_stub(Emit *e, const X86Insn *insn, const Use *use, bool code64)
{
    bool vex = insn->prefixes & PFX_VEX, fx = use->x87 || use->mmx;
    if (fx) {
        emit_fx(e, false);
    } else if (use->mxcsr) {
        emit_mxcsr(e, false);
    }
    for (unsigned n = 0; n < 16; n++) {
        if (use->vec_load & BIT(n)) {
            emit_vec(e, false, vex, n);
        }
    }
    if (use->flags_in) {
        emit_bytes(e, "\x52\x9d", 2); /* push rdx; popfq */
    }
    if (use->gpr_reg >= 0) {
        emit_gpr(e, false, HOST_RAX, use->gpr_reg);
    }
    if (use->gpr_rm >= 0) {
        emit_gpr(e, false, HOST_RCX, use->gpr_rm);
    }
    if (use->pcmpestr) {
        emit_gpr(e, false, HOST_RAX, X86_RAX);
        emit_gpr(e, false, HOST_RDX, X86_RDX);
    }
    emit_insn(e, insn, use, code64);
    if (use->flags_out) {
        emit_bytes(e, "\x9c\x5a", 2); /* pushfq; pop rdx */
    }
    if (use->gpr_reg_write) {
        emit_gpr(e, true, HOST_RAX, use->gpr_reg);
    }
    if (use->gpr_rm_write) {
        emit_gpr(e, true, HOST_RCX, use->gpr_rm);
    }
    if (use->pcmpstri) {
        emit_gpr(e, true, HOST_RCX, X86_RCX);
    }
    for (unsigned n = 0; n < 16; n++) {
        if (use->vec_store & BIT(n)) {
            emit_vec(e, true, vex, n);
        }
    }
    if (fx) {
        emit_fx(e, true);
        emit_bytes(e, "\xdb\xe3", 2); /* fninit */
        emit_host_mxcsr(e);
    } else if (use->mxcsr) {
        emit_mxcsr(e, true);
        emit_host_mxcsr(e);
    }
    if (vex) {
        emit_bytes(e, "\xc5\xf8\x77", 3); /* vzeroupper */
    }
    if (use->flags_out) {
        emit_bytes(e, "\x48\x89\xd0", 3); /* mov rax, rdx */
    }
    emit8(e, 0xc3);
}

/* --- the code memory --- */
static Error *code_map(Native *native)
{
    int fd = memfd_create("x86-native-stubs", MFD_CLOEXEC);
    if (fd < 0) {
        return error_new_errno(errno, "cannot create the memory for native instruction stubs");
    }
    void *rw = MAP_FAILED, *rx = MAP_FAILED;
    int err = 0;
    if (ftruncate(fd, CODE_SIZE) != 0 ||
        (rw = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED ||
        (rx = mmap(NULL, CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0)) == MAP_FAILED) {
        err = errno;
    }
    close(fd);
    if (err) {
        if (rw != MAP_FAILED) {
            munmap(rw, CODE_SIZE);
        }
        return error_new_errno(err, "cannot map executable memory for native instruction stubs");
    }
    native->rw = rw;
    native->rx = rx;
    return NULL;
}

enum { FAULT_EXIT = 16 }; /* offset of the fault exit in the code */

static void code_start(Native *native)
{
    Emit e = { native, native->rw };
    emit32(&e, MXCSR_DEFAULT);
    e.p = native->rw + FAULT_EXIT;
    emit_bytes(&e, "\xdb\xe3", 2); /* fninit */
    if (native->host_features[X86_FEAT_1_ECX] & BIT(28)) {
        emit_bytes(&e, "\xc5\xf8\x77", 3); /* vzeroupper */
    }
    emit_host_mxcsr(&e);
    emit8(&e, 0xc3);
    native->start = native->used = ALIGN_UP((size_t)(e.p - native->rw), 16);
}

Error *x86_fpu_init(X86Cpu *cpu)
{
    g_autofree Native *native = g_malloc0(sizeof(*native));
    TRY(code_map(native));
    x86_fpu_supported_features(native->host_features);
    native->host_features[X86_FEAT_1_EDX] |= BIT(15); /* FCMOV, FCOMI: CMOV is everywhere */
    code_start(native);
    cpu->native = g_steal_pointer(&native);
    return NULL;
}

void x86_fpu_fini(X86Cpu *cpu)
{
    Native *native = cpu->native;
    if (native) {
        munmap(native->rw, CODE_SIZE);
        munmap(native->rx, CODE_SIZE);
        g_free(native);
        cpu->native = NULL;
    }
}

/* --- looking up and building --- */
static uint64_t stub_key(const X86Insn *insn, uint32_t mode)
{
    bool mem = native_has_mem(insn);
    uint8_t modrm = mem ? insn->modrm & 0x38 : insn->modrm;
    unsigned rex = mem ? insn->rex & 12 : insn->rex & 15;
    uint64_t key = insn->opcode | (uint64_t)modrm << 8 | (uint64_t)immediate(insn) << 16 | (uint64_t)rex << 24 |
                   (uint64_t)insn->op << 28;
    key |= (uint64_t)(insn->vex_v & 15) << 44 | (uint64_t)(insn->vex_l & 1) << 48 | (uint64_t)native_pp(insn) << 49;
    key |= (uint64_t)mem << 51 | (uint64_t)((insn->prefixes & PFX_VEX) != 0) << 52;
    key |= (uint64_t)((mode & X86_MODE_CS64) != 0) << 53 | (uint64_t)(insn->map & 15) << 54;
    return key | 1ull << 63;
}

static void stub_set_checks(NativeStub *stub, const X86Insn *insn, bool mmx)
{
    bool avx = insn->prefixes & PFX_VEX;
    if (avx) {
        stub->mode_set = X86_MODE_OSXSAVE | X86_MODE_AVX | X86_MODE_PE;
        stub->mode_clear = X86_MODE_VM86 | X86_MODE_TS;
    } else {
        stub->mode_set = insn->desc->cls == CLASS_SSE && !mmx ? X86_MODE_OSFXSR : 0;
        stub->mode_clear = X86_MODE_EM | X86_MODE_TS;
    }
}

static void stub_set_operand(NativeStub *stub, const X86Insn *insn)
{
    for (unsigned i = 0; i < insn->operands; i++) {
        const X86Operand *o = &insn->operand[i];
        if (o->kind == OPND_MEM) {
            stub->mem_size = o->size;
            stub->props |= o->flags & OPND_WRITE ? STUB_MEM_WRITE : 0;
            stub->props |= insn->desc->props & INSN_ALIGN ? STUB_ALIGN : 0;
        }
    }
}

/* VCVTPH2PS, VCVTPS2PH. */
static bool is_half_float(const X86Insn *insn)
{
    return (insn->map == 2 && insn->opcode == 0x13) || (insn->map == 3 && insn->opcode == 0x1d);
}

static bool feature_present(X86Cpu *cpu, const X86Insn *insn)
{
    const Native *native = cpu->native;
    const X86InsnDesc *d = insn->desc;
    if (d->feature_word == 0xff) {
        return true;
    }
    uint32_t both = cpu->features[d->feature_word] & native->host_features[d->feature_word];
    return both >> d->feature_bit & 1;
}

static void stub_build(X86Cpu *cpu, const X86Insn *insn, NativeStub *stub)
{
    Native *native = cpu->native;
    Use use;
    use_of(insn, &use);
    stub_set_checks(stub, insn, use.mmx);
    stub_set_operand(stub, insn);
    stub->handler = fpu_special_handler(insn);
    if (!feature_present(cpu, insn)) {
        stub->props = STUB_UD;
        return;
    }
    if (use.x87 ? (insn->desc->props & INSN_X87_WAIT) : use.mmx || stub->handler == fpu_op_emms) {
        stub->props |= STUB_WAITS;
    }
    if (stub->handler) {
        return;
    }
    stub->props |= use.mmx || use.x87 ? STUB_FX : 0;
    stub->props |= use.mmx && !use.vec_load ? STUB_MMX : 0;
    stub->props |= is_half_float(insn) ? STUB_NO_AC : 0;
    stub->props |= STUB_NEW;
    stub->props |= use.flags_out ? STUB_FLAGS_OUT : 0;
    stub->props |= use.mxcsr ? STUB_MXCSR : 0;
    stub->flags_mask = insn->desc->flags_written & X86_ARITH;
    stub->props |= use.x87 ? STUB_X87 : 0;
    Emit e = { native, native->rw + native->used };
    stub->run = (NativeFn *)(native->rx + native->used);
    emit_stub(&e, insn, &use, x86_hot(cpu)->mode & X86_MODE_CS64);
    native->used = ALIGN_UP((size_t)(e.p - native->rw), 16);
}

const NativeStub *native_stub(X86Cpu *cpu, const X86Insn *insn)
{
    Native *native = cpu->native;
    uint64_t key = stub_key(insn, x86_hot(cpu)->mode);
    NativeStub *set = native->cache[key * 0x9e3779b97f4a7c15ull >> (64 - CACHE_BITS)];
    for (unsigned way = 0; way < CACHE_WAYS; way++) {
        if (likely(set[way].key == key)) {
            return &set[way];
        }
    }
    if (native->used + NATIVE_STUB_MAX > CODE_SIZE) {
        native->used = native->start;
        memset(native->cache, 0, sizeof(native->cache));
    }
    NativeStub *stub = &set[0];
    for (unsigned way = 1; way < CACHE_WAYS && stub->key; way++) {
        stub = &set[way];
    }
    if (stub->key) { /* full: the oldest leaves */
        memmove(&set[0], &set[1], (CACHE_WAYS - 1) * sizeof(*set));
    }
    memset(stub, 0, sizeof(*stub));
    stub_build(cpu, insn, stub);
    stub->key = key;
    return stub;
}

/* --- running with the host's exceptions caught --- */
typedef struct Guard {
    const uint8_t *code;
    uint32_t mxcsr;
    NativeOutcome outcome;
} Guard;

/* Only meaningful inside native_run_guarded(): which stub run of this thread a signal belongs to. */
static THREAD_LOCAL Guard *guard_active;
static struct sigaction guard_previous[2]; /* SIGFPE, SIGILL */

static void guard_pass_on(int signal, siginfo_t *info, void *context)
{
    const struct sigaction *previous = &guard_previous[signal == SIGILL];
    if (previous->sa_flags & SA_SIGINFO) {
        previous->sa_sigaction(signal, info, context);
    } else if (previous->sa_handler != SIG_DFL && previous->sa_handler != SIG_IGN) {
        previous->sa_handler(signal);
    } else {
        struct sigaction dfl = { .sa_handler = SIG_DFL };
        sigaction(signal, &dfl, NULL); /* the instruction faults again and ends the program */
    }
}

static void guard_signal(int signal, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    Guard *guard = guard_active;
    uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    if (!guard || rip - (uintptr_t)guard->code >= CODE_SIZE) {
        guard_pass_on(signal, info, context);
        return;
    }
    guard->mxcsr = uc->uc_mcontext.fpregs->mxcsr;
    guard->outcome = signal == SIGFPE ? NATIVE_SIMD_EXCEPTION : NATIVE_INVALID;
    uc->uc_mcontext.fpregs->mxcsr = MXCSR_DEFAULT;
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)(guard->code + FAULT_EXIT);
}

static void guard_install(void)
{
    static gsize once;
    if (g_once_init_enter(&once)) {
        struct sigaction sa = { .sa_sigaction = guard_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
        sigemptyset(&sa.sa_mask);
        sigaction(SIGFPE, &sa, &guard_previous[0]);
        sigaction(SIGILL, &sa, &guard_previous[1]);
        g_once_init_leave(&once, 1);
    }
}

NativeOutcome native_run_guarded(X86Cpu *cpu, const NativeStub *stub, void *mem, uint64_t flags, uint64_t *ret_flags)
{
    Native *native = cpu->native;
    Guard guard = { .code = native->rx, .outcome = NATIVE_DONE };
    guard_install();
    guard_active = &guard;
    __asm__ volatile("" ::: "memory");
    uint64_t result = stub->run(cpu, mem, flags);
    __asm__ volatile("" ::: "memory");
    guard_active = NULL;
    NativeStub *own = (NativeStub *)stub; /* of this CPU's cache */
    if (guard.outcome == NATIVE_SIMD_EXCEPTION) {
        cpu->fx.mxcsr = guard.mxcsr;
    } else if (guard.outcome == NATIVE_INVALID) {
        own->props |= STUB_UD;
    } else {
        *ret_flags = result;
    }
    own->props &= (uint16_t)~STUB_NEW;
    return guard.outcome;
}

#else /* other hosts offer no FPU features, so every instruction of these classes is #UD */

Error *x86_fpu_init(X86Cpu *cpu)
{
    return NULL;
}
void x86_fpu_fini(X86Cpu *cpu)
{
}
const NativeStub *native_stub(X86Cpu *cpu, const X86Insn *insn)
{
    static const NativeStub absent = { .props = STUB_UD };
    return &absent;
}
NativeOutcome native_run_guarded(X86Cpu *cpu, const NativeStub *stub, void *mem, uint64_t flags, uint64_t *ret_flags)
{
    return NATIVE_INVALID;
}

#endif
