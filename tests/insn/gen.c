/*
 * Makes cases from the rows of insn.tab: bytes are put together from a row's encoding, and what the
 * decoder makes of them decides.
 */
#include "insn_fuzz.h"

#include <string.h>

#include "base/endian.h"
#include "x86_ops.h"

struct FuzzGen {
    bool code32, xsave, loops;
    unsigned ac_percent;
    uint32_t mode;
    unsigned *rows, count;   /* rows that may be used */
    unsigned xsave_rows[8], xsave_count;
    uint8_t *seen;           /* by row */
};

/* What the host must not execute, or what has no reproducible result. */
static const char *const excluded[] = {
    "cpuid", "rdtsc", "rdtscp", "rdrand", "rdseed", "rdpid", "rdpmc", "int", "syscall", "sysenter", "sysexit",
    "sysret", "xgetbv", "xsaves", "xrstors", "monitor", "mwait",
    "sgdt", "sidt", "sldt", "str", "smsw", "vmcall", "vmmcall", "rdpkru", "wrpkru", "jmpf", "callf", "iret",
    "retf", "iretd", "iretq", "iretw", "lcall", "ljmp", "xbegin", "xabort", "xend", "xtest", "serialize",
};

static bool is_excluded(const X86InsnDesc *d)
{
    for (unsigned i = 0; i < ARRAY_SIZE(excluded); i++) {
        if (strcmp(d->mnemonic, excluded[i]) == 0) {
            return true;
        }
    }
    /* A far CALL pushes its frame at once: how much of it a fault leaves behind differs. */
    return (d->props & INSN_PRIV) != 0 || d->op == X86_OP_CALL_FAR;
}

/* Only with --class xsave, which sees to RDX:RAX and to areas that can be restored. */
static bool is_xsave(const X86InsnDesc *d)
{
    return strncmp(d->mnemonic, "xsave", 5) == 0 || strncmp(d->mnemonic, "xrstor", 6) == 0;
}

uint32_t gen_class_of(const char *name)
{
    static const struct { const char *name; uint32_t classes; } names[] = {
        { "int", BIT(CLASS_INT) | BIT(CLASS_BRANCH) | BIT(CLASS_STRING) | BIT(CLASS_STACK) | BIT(CLASS_MISC) },
        { "x87", BIT(CLASS_X87) }, { "mmx", BIT(CLASS_MMX) }, { "sse", BIT(CLASS_SSE) }, { "avx", BIT(CLASS_AVX) },
        { "bmi", BIT(CLASS_BMI) }, { "branch", BIT(CLASS_BRANCH) }, { "string", BIT(CLASS_STRING) },
        { "xsave", FUZZ_CLASS_XSAVE }, { "stack", BIT(CLASS_STACK) }, { "misc", BIT(CLASS_MISC) }, { "arith", BIT(CLASS_INT) },
    };
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(name, names[i].name) == 0) {
            return names[i].classes;
        }
    }
    return 0;
}

FuzzGen *gen_new(uint32_t classes, const uint32_t features[X86_FEAT_WORDS], bool code32,
                 unsigned ac_percent, unsigned *ret_skipped)
{
    FuzzGen *gen = g_new0(FuzzGen, 1);
    gen->code32 = code32;
    gen->ac_percent = ac_percent;
    gen->xsave = classes >> 31;
    gen->mode = X86_MODE_PE | X86_MODE_LMA | X86_MODE_PG | X86_MODE_FLAT | 3 << X86_MODE_CPL_SHIFT |
                (code32 ? X86_MODE_CS32 | X86_MODE_SS32 : X86_MODE_CS64 | X86_MODE_SS32);
    gen->rows = g_new(unsigned, x86_insn_count);
    gen->seen = g_new0(uint8_t, x86_insn_count);
    for (unsigned row = 1; row < x86_insn_count; row++) {
        const X86InsnDesc *d = &x86_insn_descs[row];
        bool in_class = is_xsave(d) ? gen->xsave : classes >> d->cls & 1;
        if (!in_class || is_excluded(d) || (d->props & (code32 ? INSN_ONLY64 : INSN_NO64))) {
            continue;
        }
        if (d->feature_word != 0xff && !(features[d->feature_word] >> d->feature_bit & 1)) {
            ++*ret_skipped;
            continue;
        }
        gen->rows[gen->count++] = row;
        if (is_xsave(d) && gen->xsave_count < ARRAY_SIZE(gen->xsave_rows)) {
            gen->xsave_rows[gen->xsave_count++] = row;
        }
    }
    return gen;
}

void gen_free(FuzzGen *gen)
{
    g_free(gen->rows);
    g_free(gen->seen);
    g_free(gen);
}

unsigned gen_rows(const FuzzGen *gen)
{
    return gen->count;
}

unsigned gen_covered(const FuzzGen *gen)
{
    unsigned n = 0;
    for (unsigned i = 0; i < gen->count; i++) {
        n += gen->seen[gen->rows[i]];
    }
    return n;
}

/* --- one instruction --- */
typedef struct Build {
    FuzzGen *gen;
    Rng *rng;
    uint8_t *p;
    unsigned rex;      /* W R X B */
    bool xsave_area, edge;
    bool flags_open; /* an earlier instruction left flags undefined */
    bool rip_relative; /* the displacement is at disp */
    uint8_t *disp;
} Build;

static void put(Build *b, uint8_t byte)
{
    *b->p++ = byte;
}

static uint32_t data_offset(Rng *rng)
{
    return rng_chance(rng, 80) ? rng_below(rng, FUZZ_DATA_SIZE - 256) & ~15u : rng_below(rng, FUZZ_DATA_SIZE + FUZZ_RO_SIZE);
}

static int32_t displacement(Rng *rng)
{
    int32_t d = (int32_t)rng_below(rng, 2048) - 1024;
    return rng_chance(rng, 75) ? d & ~15 : d;
}

/* Base registers that hold addresses; 12 and 13 need REX.B. */
static unsigned pick_base(Build *b)
{
    static const uint8_t bases[] = { X86_RBX, X86_RBP, X86_RSI, X86_RDI, 12, 13, X86_RSP };
    if (rng_chance(b->rng, 8)) {
        return rng_below(b->rng, b->gen->code32 ? 8 : 16);
    }
    return bases[rng_below(b->rng, b->gen->code32 ? 4 : ARRAY_SIZE(bases))];
}

static void put_disp32(Build *b, uint32_t v)
{
    b->disp = b->p;
    st32_le(b->p, v);
    b->p += 4;
}

/* reg: value of the reg field. */
static void build_memory(Build *b, unsigned reg)
{
    Rng *rng = b->rng;
    bool displaced = true;
    if (b->xsave_area) { /* [rbx + 0 or 64] */
        b->rex &= 8;
        put(b, (uint8_t)(0x40 | reg << 3 | X86_RBX));
        put(b, (uint8_t)(rng_chance(rng, 80) ? 0 : 64));
        return;
    }
    unsigned form = rng_below(rng, 20);
    if (b->edge && form >= 4) { /* [base] or [base + a little] */
        form = 19;
        displaced = rng_chance(rng, 30);
    }
    if (form == 0) { /* disp32: rip-relative in 64-bit code */
        put(b, (uint8_t)(reg << 3 | 5));
        b->rip_relative = !b->gen->code32;
        put_disp32(b, (uint32_t)FUZZ_DATA + data_offset(rng));
        return;
    }
    if (form == 1) { /* absolute through SIB */
        put(b, (uint8_t)(reg << 3 | 4));
        put(b, 0x25);
        b->rex &= ~2u;
        put_disp32(b, (uint32_t)FUZZ_DATA + data_offset(rng));
        return;
    }
    unsigned base = pick_base(b), mod = displaced ? rng_below(rng, 3) : 0;
    b->rex = (b->rex & ~1u) | base >> 3;
    bool sib = (base & 7) == 4 || form < 8;
    if (mod == 0 && (base & 7) == 5) {
        mod = 1;
    }
    put(b, (uint8_t)(mod << 6 | reg << 3 | (sib ? 4 : base & 7)));
    if (sib) {
        unsigned index = 4; /* none */
        b->rex &= ~2u;
        if (displaced && rng_chance(rng, 70)) {
            index = rng_chance(rng, 70) || b->gen->code32 ? X86_RCX : 10;
            index = rng_chance(rng, 10) ? rng_below(rng, 8) : index;
            b->rex |= index & 8 ? 2 : 0;
        }
        put(b, (uint8_t)(rng_below(rng, 4) << 6 | (index & 7) << 3 | (base & 7)));
    }
    if (mod == 1 && !displaced) {
        put(b, 0);
    } else if (mod == 1) {
        put(b, (uint8_t)(rng_chance(rng, 60) ? (displacement(rng) & 0x70) : rng_next(rng)));
    } else if (mod == 2) {
        put_disp32(b, (uint32_t)displacement(rng));
    }
}

static void build_modrm(Build *b, const X86Encoding *e)
{
    unsigned reg = e->reg == 0xff ? rng_below(b->rng, 8) : e->reg;
    unsigned rm = e->rm == 0xff ? rng_below(b->rng, 8) : e->rm;
    bool memory = e->mod == 0xff ? rng_chance(b->rng, 50) : e->mod == 0;
    if (memory) {
        build_memory(b, reg);
    } else {
        put(b, (uint8_t)(0xc0 | reg << 3 | rm));
    }
}

static unsigned pick_prefix(Build *b, const X86Encoding *e)
{
    unsigned allowed = e->prefixes & 15;
    if ((allowed & 1) && rng_chance(b->rng, allowed & 2 ? 65 : 95)) {
        return 0;
    }
    for (;;) {
        unsigned pp = rng_below(b->rng, 4);
        if (allowed >> pp & 1) {
            if (pp >= 2 && (allowed & 3) && rng_chance(b->rng, 70)) {
                return allowed & 1 ? 0 : 1;
            }
            return pp;
        }
    }
}

static void build_legacy_prefixes(Build *b, const X86InsnDesc *d)
{
    static const uint8_t segments64[] = { 0x26, 0x2e, 0x36, 0x3e, 0x65 }, segments32[] = { 0x26, 0x2e, 0x36, 0x3e };
    if (rng_chance(b->rng, 4)) {
        put(b, b->gen->code32 ? segments32[rng_below(b->rng, 4)] : segments64[rng_below(b->rng, 5)]);
    }
    if (rng_chance(b->rng, 3)) {
        put(b, 0x67);
    }
    if (rng_chance(b->rng, d->props & INSN_LOCKABLE ? 10 : 1)) {
        put(b, 0xf0);
    }
}

/* Puts an instruction of this row into bytes[]; immediates are random. */
static void build_row(Build *b, unsigned row, uint8_t *bytes)
{
    static const uint8_t pp_byte[4] = { 0, 0x66, 0xf3, 0xf2 };
    const X86Encoding *e = &x86_encodings[row];
    Rng *rng = b->rng;
    uint8_t body[32];
    /* The body comes first: it may change REX. */
    b->p = body;
    b->rex = b->gen->code32 ? 0 : rng_below(rng, 16);
    if (e->wide != 0xff) {
        b->rex = (b->rex & 7) | (e->wide ? 8 : 0);
    } else if (rng_chance(rng, 50)) {
        b->rex &= 7;
    }
    put(b, (uint8_t)(e->opcode + (e->opcodes > 1 ? rng_below(rng, e->opcodes) : 0)));
    if (e->modrm) {
        build_modrm(b, e);
    }
    unsigned body_length = (unsigned)(b->p - body), pp = pick_prefix(b, e), disp = b->disp ? (unsigned)(b->disp - body) : 0;
    b->p = bytes;
    build_legacy_prefixes(b, &x86_insn_descs[row]);
    if (e->vex) {
        unsigned vvvv = rng_chance(rng, 50) ? 0 : rng_below(rng, b->gen->code32 ? 8 : 16);
        unsigned l = e->vex_l == 0xff ? rng_below(rng, 2) : e->vex_l;
        if (rng_chance(rng, 50)) {
            vvvv = 0; /* 1111 in the inverted field: not used */
        }
        unsigned w = b->rex >> 3;
        if (b->gen->code32 && e->wide == 0xff) {
            w = rng_below(rng, 2);
        }
        put(b, 0xc4);
        put(b, (uint8_t)((~b->rex & 7) << 5 | e->map));
        put(b, (uint8_t)(w << 7 | (~vvvv & 15) << 3 | l << 2 | pp));
    } else {
        if (pp) {
            put(b, pp_byte[pp]);
        }
        if (!b->gen->code32 && (b->rex || rng_chance(rng, 10))) {
            put(b, (uint8_t)(0x40 | b->rex));
        }
        static const char maps[4][3] = { "", "\x0f", "\x0f\x38", "\x0f\x3a" };
        for (const char *m = maps[e->map & 3]; *m; m++) {
            put(b, (uint8_t)*m);
        }
    }
    if (b->disp) {
        b->disp = b->p + disp;
    }
    memcpy(b->p, body, body_length);
    b->p += body_length;
    for (unsigned i = 0; i < 8; i++) {
        put(b, (uint8_t)rng_next(rng));
    }
}

/* --- whether an instruction is wanted --- */
static bool writes_pointer(const X86Insn *insn)
{
    static const uint32_t pointers = BIT(X86_RBX) | BIT(X86_RBP) | BIT(X86_RSI) | BIT(X86_RDI) | BIT(12) | BIT(13) |
                                     BIT(X86_RSP);
    for (unsigned i = 0; i < insn->operands; i++) {
        const X86Operand *o = &insn->operand[i];
        unsigned reg = o->flags & OPND_HIGH8 ? o->reg & 3 : o->reg & 15;
        if (o->kind == OPND_REG && (o->flags & OPND_WRITE) && (pointers >> reg & 1)) {
            return true;
        }
    }
    return false;
}

/*
 * XINUSE may be 1 for a component that holds its initial values (SDM volume 1, 13.6), so that only these
 * sequences have one result: vector code and saving while a register that nobody writes keeps the component
 * in use; then restoring and saving, which say exactly what is in use; then vector code without saving.
 */
typedef enum XsavePhase { XSAVE_FULL, XSAVE_EXACT, XSAVE_OVER } XsavePhase;

static bool writes_kept_vector(const X86Insn *insn)
{
    for (unsigned i = 0; i < insn->operands; i++) {
        const X86Operand *o = &insn->operand[i];
        if (o->kind == OPND_XMM && (o->flags & OPND_WRITE) && o->reg == FUZZ_XSAVE_VEC) {
            return true;
        }
    }
    return false;
}

static XsavePhase next_phase(XsavePhase phase, const X86InsnDesc *d)
{
    if (is_xsave(d)) {
        return strncmp(d->mnemonic, "xrstor", 6) == 0 ? XSAVE_EXACT : phase;
    }
    return phase == XSAVE_EXACT ? XSAVE_OVER : phase;
}

static bool fits_phase(XsavePhase phase, const X86Insn *insn)
{
    if (phase == XSAVE_OVER) {
        return !is_xsave(insn->desc);
    }
    if (phase == XSAVE_EXACT) { /* XSAVEOPT may leave out what that XRSTOR brought, though the area has changed since */
        return strncmp(insn->desc->mnemonic, "xsaveopt", 8) != 0;
    }
    return !writes_kept_vector(insn);
}

/* RAX and RDX select what XSAVE and XRSTOR do. */
static bool touches_mask(const X86Insn *insn)
{
    for (unsigned i = 0; i < insn->operands; i++) {
        const X86Operand *o = &insn->operand[i];
        if (o->kind == OPND_REG && (o->flags & OPND_WRITE) && (o->reg == X86_RAX || o->reg == X86_RDX || o->flags & OPND_HIGH8)) {
            return true;
        }
    }
    return insn->desc->cls == CLASS_INT;
}

static bool writes_counter(const X86Insn *insn)
{
    for (unsigned i = 0; i < insn->operands; i++) {
        const X86Operand *o = &insn->operand[i];
        if (o->kind == OPND_REG && (o->flags & OPND_WRITE) && o->reg == LOOP_COUNTER) {
            return true;
        }
    }
    return insn->vex_v == LOOP_COUNTER;
}

static bool wanted(Build *b, const X86Insn *insn, uint16_t undefined, XsavePhase phase)
{
    if (b->gen->loops && (writes_counter(insn) || (insn->desc->cls == CLASS_BRANCH && insn->operand[0].kind != OPND_REL))) {
        return false;
    }
    if (insn->length > 15 || is_excluded(insn->desc) || (insn->desc->flags_read & undefined)) {
        return false;
    }
    if (b->flags_open && insn->desc->cls == CLASS_BRANCH && insn->operand[0].kind != OPND_REL) {
        return false; /* may go back to what reads flags before they were undefined */
    }
    for (unsigned i = 0; i + 1 < insn->opcode_offset; i++) {
        if (insn->bytes[i] == 0x64 || (b->gen->code32 && insn->bytes[i] == 0x65)) {
            return false; /* FS belongs to the C library */
        }
    }
    if (b->gen->xsave) {
        /* After these the processor's XINUSE depends on more than the values. */
        return fits_phase(phase, insn) && !writes_pointer(insn) && !touches_mask(insn) && strncmp(insn->desc->mnemonic, "vzero", 5) != 0 &&
               strcmp(insn->desc->mnemonic, "fwait") != 0;
    }
    return !writes_pointer(insn) || rng_chance(b->rng, 12);
}

static void note_branch(Build *b, const X86Insn *insn, unsigned index, unsigned count, FuzzInsn *f)
{
    f->target = -1;
    f->returns = insn->desc->cls == CLASS_BRANCH && insn->operand[0].kind != OPND_REL;
    for (unsigned i = 0; i < insn->operands; i++) {
        if (insn->operand[i].kind == OPND_REL) {
            f->target_offset = insn->imm_offset;
            f->target_size = insn->length - insn->imm_offset;
            f->target = (int8_t)(index + 1 + rng_below(b->rng, count - index));
        }
    }
}

/*
 * Follows the undefined flags over one instruction. What a branch may skip (up to *skip) does not define
 * anything.
 */
static void note_flags(uint16_t *undefined, int *skip, FuzzCase *c, unsigned index, const X86InsnDesc *d)
{
    FuzzInsn *f = &c->insn[index];
    f->undefined = *undefined;
    if ((int)index >= *skip) {
        *undefined &= (uint16_t)~(d->flags_written & ~d->flags_maybe);
    }
    *undefined |= d->flags_undefined;
    *skip = MAX(*skip, f->target);
}

bool gen_follow_flags(FuzzCase *c)
{
    uint16_t undefined = 0;
    int skip = -1;
    for (unsigned i = 0; i < c->count; i++) {
        X86Insn insn;
        uint32_t mode = c->code32 ? X86_MODE_CS32 | X86_MODE_SS32 : X86_MODE_CS64 | X86_MODE_SS32;
        if (x86_decode(&insn, c->insn[i].bytes, c->insn[i].length, mode | X86_MODE_PE | X86_MODE_LMA) != DECODE_OK ||
            (insn.desc->flags_read & undefined)) {
            return false;
        }
        note_flags(&undefined, &skip, c, i, insn.desc);
    }
    c->undefined = c->loop ? 0 : undefined;
    return true;
}

static void gen_insn(FuzzGen *gen, Rng *rng, FuzzCase *c, unsigned index, int *skip_to, XsavePhase *phase)
{
    FuzzInsn *f = &c->insn[index];
    int skip = *skip_to;
    for (;;) {
        unsigned row = gen->rows[rng_below(rng, gen->count)];
        if (gen->xsave && rng_chance(rng, 40)) {
            row = gen->xsave_rows[rng_below(rng, gen->xsave_count)];
        }
        uint8_t bytes[48];
        bool step = gen->loops && rng_chance(rng, 35);
        Build b = { .gen = gen, .rng = rng, .edge = c->edge, .flags_open = c->flags_open, .xsave_area = is_xsave(&x86_insn_descs[row]) };
        step ? (void)loop_step(rng, bytes) : build_row(&b, row, bytes);
        X86Insn insn;
        if (x86_decode(&insn, bytes, 15, gen->mode) != DECODE_OK || (!step && !wanted(&b, &insn, c->undefined, *phase))) {
            continue;
        }
        gen->seen[insn.desc - x86_insn_descs] = 1;
        memcpy(f->bytes, bytes, insn.length);
        f->length = insn.length;
        f->rip_offset = b.rip_relative ? (uint8_t)(b.disp - bytes) : 0;
        f->rip_target = b.rip_relative ? ld32_le(b.disp) : 0;
        note_branch(&b, &insn, index, c->count, f);
        note_flags(&c->undefined, &skip, c, index, insn.desc);
        c->flags_open |= insn.desc->flags_undefined != 0;
        *skip_to = skip;
        *phase = next_phase(*phase, insn.desc);
        return;
    }
}

static void append_exit(FuzzCase *c)
{
    uint8_t *p = c->code + c->length;
    uint64_t to = fuzz_exit_address(c->code32);
    if (c->code32) { /* far, to 64-bit code */
        memcpy(p, "\xea\0\0\0\0\x33\0", 7);
        st32_le(p + 1, (uint32_t)to);
        c->total = c->length + 7;
        return;
    }
    /* jmp [rip + n]; the pointer is aligned, as AC may be set. */
    unsigned pointer = ALIGN_UP(c->length + 6u, 8);
    memset(p, 0, pointer - c->length);
    memcpy(p, "\xff\x25", 2);
    p[2] = (uint8_t)(pointer - (c->length + 6));
    st64_le(c->code + pointer, to);
    c->total = (uint16_t)(pointer + 8);
}

void gen_assemble(FuzzCase *c, unsigned slot)
{
    unsigned at = 0;
    for (unsigned i = 0; i < c->count; i++) {
        c->offset[i] = (uint16_t)at;
        at += c->insn[i].length;
    }
    c->offset[c->count] = c->length = (uint16_t)at;
    for (unsigned i = 0; i < c->count; i++) {
        const FuzzInsn *f = &c->insn[i];
        uint8_t *p = c->code + c->offset[i];
        unsigned next = c->offset[i] + f->length;
        memcpy(p, f->bytes, f->length);
        if (f->rip_offset) {
            st32_le(p + f->rip_offset, f->rip_target - (uint32_t)(FUZZ_CODE + slot * FUZZ_SLOT + next));
        }
        if (f->target >= 0) {
            unsigned distance = c->offset[MIN(f->target, c->count)] - next;
            if (f->target_size == 1) {
                p[f->target_offset] = distance <= 127 ? (uint8_t)distance : 0;
            } else {
                st_le(p + f->target_offset, distance, f->target_size);
            }
        }
    }
    if (c->loop) {
        loop_append(c);
    }
    append_exit(c);
}

void gen_case(FuzzGen *gen, uint64_t seed, FuzzCase *c)
{
    Rng rng = { seed };
    c->seed = seed;
    c->code32 = gen->code32;
    c->template = (uint8_t)rng_below(&rng, FUZZ_TEMPLATES);
    c->count = (uint8_t)(1 + rng_below(&rng, rng_chance(&rng, 30) ? 3 : FUZZ_INSNS));
    c->undefined = 0;
    c->flags_open = false;
    if (gen->loops) {
        c->count = (uint8_t)(1 + rng_below(&rng, 7));
    }
    c->loop = false;
    c->edge = rng_chance(&rng, 20);
    c->cold = rng_chance(&rng, 10);
    value_state(&rng, gen->code32, c->edge, gen->ac_percent, &c->in);
    if (gen->xsave) {
        memset(c->in.xsave + 160 + 16 * FUZZ_XSAVE_VEC, 0xff, 16);
        memset(c->in.xsave + 576 + 16 * FUZZ_XSAVE_VEC, 0xff, 16);
        c->in.gpr[X86_RAX] = rng_next(&rng) & 7;
        c->in.gpr[X86_RDX] = 0;
        c->in.gpr[X86_RBX] = FUZZ_DATA + 64 * rng_below(&rng, 100);
    }
    int skip = -1;
    XsavePhase phase = XSAVE_FULL;
    for (unsigned i = 0; i < c->count; i++) {
        gen_insn(gen, &rng, c, i, &skip, &phase);
    }
    if (gen->loops) {
        c->loop = true;
        c->by_dec = !(c->undefined & X86_CF) && rng_chance(&rng, 50);
        c->in.gpr[LOOP_COUNTER] = 1 + rng_below(&rng, rng_chance(&rng, 20) ? 300 : 24);
        c->undefined = 0;
    }
}

void gen_set_loops(FuzzGen *gen)
{
    gen->loops = true;
}
