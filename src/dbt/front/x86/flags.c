/* What x86 instructions do to the arithmetic flags, and which of them code that has not been translated wants. */
#include "dbt/front/x86/front_priv.h"

static uint8_t groups_read(unsigned flags)
{
    return (flags & X86_CF ? FL_C : 0) | (flags & (X86_ARITH & ~X86_CF) ? FL_OSZAP : 0);
}

static const uint8_t cond_reads[8] = { FL_OSZAP, FL_C, FL_OSZAP, FL_ALL, FL_OSZAP, FL_OSZAP, FL_OSZAP, FL_OSZAP };

static bool is_cond(const X86Insn *insn)
{
    if (insn->map == 0) {
        return (insn->opcode & 0xf0) == 0x70;
    }
    return insn->map == 1 && ((insn->opcode & 0xf0) == 0x40 || (insn->opcode & 0xf0) == 0x80 || (insn->opcode & 0xf0) == 0x90);
}

/* Shifts and rotates by an immediate: the count is known. */
static bool is_imm_shift(const X86Insn *insn)
{
    return (insn->map == 0 && (insn->opcode == 0xc0 || insn->opcode == 0xc1)) ||
           (insn->map == 1 && (insn->opcode == 0xa4 || insn->opcode == 0xac));
}

FlagEffect front_flag_effect(const X86Insn *insn)
{
    const X86InsnDesc *d = insn->desc;
    unsigned maybe = d->flags_maybe;
    if (is_imm_shift(insn) && (insn->imm & (insn->osize == 8 ? 63 : 31)) != 0) {
        maybe = 0;
    }
    unsigned written = d->flags_written | d->flags_undefined, sure = written & ~maybe;
    unsigned oszap = X86_ARITH & ~X86_CF;
    return (FlagEffect){
        .uses = is_cond(insn) ? cond_reads[insn->cond >> 1] : groups_read(d->flags_read),
        .defs = (sure & X86_CF ? FL_C : 0) | ((sure & oszap) == oszap ? FL_OSZAP : 0),
        .writes = groups_read(written | d->flags_maybe),
    };
}

/* Other pages may be mapped to something else by the time that the exit is taken. */
static const uint8_t *bytes_at(const FrontBlock *b, uint64_t va, unsigned *ret_available)
{
    if (b->crossing || (va ^ b->pc) >> 12 != 0) {
        return NULL;
    }
    *ret_available = (unsigned)(4096 - (va & 4095));
    return b->bytes + (int64_t)(va - b->pc);
}

/* The block depends on these bytes of its page. False: there are too many such places. */
static bool depends(FrontBlock *b, uint64_t va, const X86Insn *insn)
{
    unsigned offset = va & 4095, length = insn->length;
    uint64_t start = b->pc + (uint64_t)(int64_t)b->low;
    if (va - start < b->length && va - start + length <= b->length) {
        return true;
    }
    for (unsigned n = 0; n < b->ahead_count; n++) {
        FrontAhead *a = &b->ahead[n];
        if (offset >= a->offset && offset + length <= a->offset + a->length) {
            return true;
        }
        if (offset == a->offset + a->length && a->length + length <= sizeof(a->bytes)) {
            memcpy(a->bytes + a->length, insn->bytes, length);
            a->length += length;
            return true;
        }
    }
    if (b->ahead_count == FRONT_MAX_AHEAD) {
        return false;
    }
    FrontAhead *a = &b->ahead[b->ahead_count++];
    a->offset = offset;
    a->length = length;
    memcpy(a->bytes, insn->bytes, length);
    return true;
}

/* Looks a few instructions ahead: which flags are surely read before they are written, and may there be more? */
uint8_t front_exit_live(void *opaque, const Uop *uop, uint64_t target)
{
    FrontBlock *b = opaque;
    uint8_t live = 0, need = FL_ALL;
    uint64_t pc = target;
    if (b->exact) {
        return FL_RECORD;
    }
    for (unsigned n = 0; n < 8 && need != 0; n++) {
        X86Insn insn;
        unsigned available;
        const uint8_t *code = bytes_at(b, pc, &available);
        if (code == NULL || x86_decode(&insn, code, available, b->mode) != DECODE_OK || !depends(b, pc, &insn)) {
            break;
        }
        FlagEffect effect = front_flag_effect(&insn);
        live |= effect.uses & need;
        need &= ~effect.defs;
        pc += insn.length;
        if (insn.map == 0 && (insn.opcode == 0xe9 || insn.opcode == 0xeb)) {
            pc += (uint64_t)insn.imm;
            if (!(b->mode & X86_MODE_CS64)) {
                pc = (uint32_t)pc;
            }
        } else if (insn.desc->props & INSN_END) {
            break;
        }
    }
    return need == 0 ? live : live | FL_RECORD;
}
