/* From x86 instructions to uops, a superblock at a time. See front.h. */
#include "dbt/front/x86/front_priv.h"

#include "cpu/x86/svm.h"
#include "cpu/x86/sys.h"
#include "dbt/ir/env.h"

#define TAIL(member) ((int)offsetof(X86Tail, member) - (int)sizeof(X86Tail))
_Static_assert(TAIL(gpr) == ENV_GPR && TAIL(hot.exit_req) == ENV_EXIT_REQ && TAIL(hot.mode) == ENV_MODE &&
                   TAIL(hot.rflags) == ENV_RFLAGS && TAIL(hot.rip) == ENV_RIP && TAIL(hot.fs_base) == ENV_FS_BASE &&
                   TAIL(hot.gs_base) == ENV_GS_BASE && TAIL(hot.scratch) == ENV_RESUME,
               "context layout");
_Static_assert(sizeof(X86Tlbe) == 1 << ENV_TLB_ENTRY_BITS && X86_TLB_BITS == ENV_TLB_BITS &&
                   offsetof(X86Tlbe, wtag) == ENV_TLB_WRITE && offsetof(X86Tlbe, host) == ENV_TLB_HOST,
               "soft TLB layout");
_Static_assert(sizeof(X86Site) == 1 << ENV_SITE_BITS && offsetof(X86Site, host) == ENV_SITE_HOST &&
                   offsetof(X86Site, meta) == ENV_SITE_META && offsetof(X86Site, addend) == ENV_SITE_ADDEND &&
                   offsetof(X86Tlbe, meta) == ENV_TLB_META && X86_SITES == ENV_SITE_COUNT, "site layout");

bool front_mode_ok(uint32_t mode)
{
    if (mode & (X86_MODE_TF | X86_MODE_AC | X86_MODE_VM86 | X86_MODE_LBR)) {
        return false;
    }
    if (mode & X86_MODE_CS64) {
        return true;
    }
    return (mode & X86_MODE_CS32) && (mode & X86_MODE_SS32) && (mode & X86_MODE_FLAT) && (mode & X86_MODE_PE);
}
/* --- blocks --- */

bool front_has_feature(const Front *f)
{
    const X86InsnDesc *d = f->insn->desc;
    return d->feature_word == 0xff || x86_has(f->b->cpu, d->feature_word, d->feature_bit);
}

/*
 * VEX instructions that would do something else in the host's 64-bit code: VEX.W selects a general register's
 * size only there, VZEROALL has eight registers more, and so has the one that imm8[7:4] names.
 */
static bool vex_means_less(const X86Insn *insn)
{
    if (insn->desc->cls == CLASS_BMI) {
        return insn->rex & 8;
    }
    switch (insn->map << 8 | insn->opcode) {
    case 0x177:
        return true;
    case 0x12a:
    case 0x12c:
    case 0x12d:
    case 0x16e:
    case 0x17e:
    case 0x316:
    case 0x322:
    case 0x360:
    case 0x361:
        return insn->rex & 8;
    case 0x34a:
    case 0x34b:
    case 0x34c:
        return insn->bytes[insn->length - 1] & 0x80;
    default:
        return false;
    }
}

static bool native_insn(Front *f)
{
    X86Insn *insn = f->insn;
    if ((insn->prefixes & PFX_VEX) && !(f->b->mode & X86_MODE_CS64) && vex_means_less(insn)) {
        return false;
    }
    bool otherwise = insn->map == 1 && (insn->opcode == 0xbc || insn->opcode == 0xbd); /* TZCNT, LZCNT: BSF, BSR */
    if ((!front_has_feature(f) && !otherwise) || (insn->prefixes & PFX_EVEX)) {
        return false;
    }
    if (unlikely(f->b->mode & X86_MODE_SVM) && x86_svm_handler(insn) != NULL) {
        return false; /* a hypervisor may want to see it */
    }
    if (insn->map == 1 && insn->opcode == 0xae && insn->modrm >= 0xe8 &&
        !(insn->prefixes & (PFX_REP | PFX_REPNE | PFX_OPSIZE | PFX_LOCK))) {
        return front_fence(f);
    }
    if (insn->map == 1 && insn->opcode == 0xae && !(insn->prefixes & (PFX_REP | PFX_REPNE | PFX_OPSIZE)) &&
        insn->modrm < 0xc0 && (insn->modrm >> 4 & 3) == 1) {
        return front_mxcsr(f);
    }
    bool general = (insn->map == 1 && (insn->opcode == 0xc3 || insn->opcode == 0xb8)) ||
                   (insn->map == 2 && insn->opcode >= 0xf0);
    if ((insn->desc->cls == CLASS_SSE || insn->desc->cls == CLASS_AVX) && !general) {
        return front_vec(f);
    }
    if (insn->desc->cls == CLASS_BMI && (insn->prefixes & PFX_VEX)) {
        return front_bmi(f);
    }
    if (insn->desc->cls == CLASS_MMX) {
        return front_vec(f);
    }
    if (insn->map == 0 && insn->opcode == 0x9b) { /* FWAIT: with all masked nothing is pending */
        return !(f->b->mode & (X86_MODE_TS | X86_MODE_EM | FRONT_MODE_NO_X87));
    }
    if (insn->desc->cls == CLASS_X87 && insn->map == 0 && insn->opcode >= 0xd8 && insn->opcode <= 0xdf) {
        return front_x87(f);
    }
    if ((insn->prefixes & PFX_VEX) || insn->desc->cls == CLASS_X87) {
        return false;
    }
    switch (insn->map) {
    case 0:
        return front_one_byte(f);
    case 1:
        return front_0f(f);
    case 2:
        return front_0f38(f);
    default:
        return false;
    }
}

void front_reset_uop(Uop *u, unsigned insn)
{
    memset(u, 0, sizeof(*u));
    u->insn = insn;
    u->base = u->index = UOP_NO_REG;
}

/*
 * Instructions that end a run of the interpreter, but mostly leave the mode alone: the run-time looks
 * whether the block may go on.
 */
static bool goes_on(const X86Insn *insn)
{
    if (insn->map == 0) { /* POPF, STI */
        return insn->opcode == 0x9d || insn->opcode == 0xfb;
    }
    /* SWAPGS, CLAC, STAC */
    return insn->map == 1 && insn->opcode == 0x01 && (insn->modrm == 0xf8 || insn->modrm == 0xca || insn->modrm == 0xcb);
}

static void set_flag_effect(Uop *u, FlagEffect effect)
{
    u->uses = effect.uses;
    u->defs = effect.defs;
    u->writes = effect.writes;
}

/* Adds the uop of one instruction. True: the block ends with it. */
bool front_add_insn(FrontBlock *b, X86Insn *insn, unsigned index, uint64_t next)
{
    Uop *u = &b->uops[b->uop_count++];
    Front f = { .b = b, .insn = insn, .u = u, .next = next };
    front_reset_uop(u, index);
    u->size = insn->operands > 0 && insn->operand[0].size <= 8 ? insn->operand[0].size : insn->osize;
    FlagEffect effect = front_flag_effect(insn);
    if (native_insn(&f)) {
        set_flag_effect(u, effect);
        return uop_ends_block(u);
    }
    front_reset_uop(u, index);
    set_flag_effect(u, effect);
    u->kind = (insn->desc->props & INSN_END && !goes_on(insn)) || insn->desc->cls == CLASS_X87 ||
                      (insn->desc->cls == CLASS_SSE && insn->map == 1 && insn->opcode == 0xae)
                  ? UOP_INTERP_END
                  : UOP_INTERP;
    return uop_ends_block(u);
}

bool front_translate(FrontBlock *b)
{
    b->insn_count = b->uop_count = b->length = b->ahead_count = b->part_count = 0;
    b->low = 0;
    bool ended = false;
    unsigned limit = b->crossing ? 1 : FRONT_BLOCK_INSNS;
    while (b->insn_count < limit && !ended) {
        X86Insn *insn = &b->insns[b->insn_count];
        if (x86_decode(insn, b->bytes + b->length, b->available - b->length, b->mode) != DECODE_OK) {
            break;
        }
        b->offset[b->insn_count] = b->length;
        b->length += insn->length;
        uint64_t next = b->pc + b->length;
        ended = front_add_insn(b, insn, b->insn_count, b->mode & X86_MODE_CS64 ? next : (uint32_t)next);
        b->insn_count++;
        const Uop *u = &b->uops[b->uop_count - 1];
        if ((u->kind == UOP_JCC || u->kind == UOP_JCXZ) && ((u->attr & UA_BACKWARD) || b->cpu->counted)) {
            break; /* counted: a block is executed to its end or not at all */
        }
    }
    if (b->insn_count == 0) {
        return false;
    }
    b->offset[b->insn_count] = b->length;
    if (!ended) {
        Uop *u = &b->uops[b->uop_count++];
        front_reset_uop(u, b->insn_count);
        u->kind = UOP_JMP;
        u->size = 8;
        u->imm = b->pc + b->length;
        if (!(b->mode & X86_MODE_CS64)) {
            u->imm = (uint32_t)u->imm;
        }
    }
    b->flags_in = uop_liveness(b->uops, b->uop_count, front_exit_live, b);
    return true;
}
