/*
 * x86 instructions as text, in Intel syntax: for logs of translated code and the monitor's x/i.
 */
#include <inttypes.h>
#include <string.h>

#include "cpu/x86/cpu.h"
#include "cpu/x86/insn.h"
#include "x86_ops.h"

static const char *const cond_names[16] = { "o", "no", "b", "ae", "e", "ne", "be", "a",
                                            "s", "ns", "p", "np", "l", "ge", "le", "g" };
static const char *const seg_names[8] = { "es", "cs", "ss", "ds", "fs", "gs", "?", "?" };
static const char *const reg_names[16] = { "ax", "cx", "dx", "bx", "sp", "bp", "si", "di",
                                           "8",  "9",  "10", "11", "12", "13", "14", "15" };
static const char *const high_names[8] = { "", "", "", "", "ah", "ch", "dh", "bh" };
static const char *const low_names[4] = { "al", "cl", "dl", "bl" };

static void add_reg(GString *s, unsigned reg, unsigned size, bool high)
{
    if (reg == X86_REG_RIP) {
        g_string_append(s, size == 8 ? "rip" : "eip");
    } else if (high) {
        g_string_append(s, high_names[reg & 7]);
    } else if (reg >= 8) {
        static const char suffix[9] = { [1] = 'b', [2] = 'w', [4] = 'd' };
        g_string_append_printf(s, "r%s", reg_names[reg & 15]);
        if (size <= 4 && suffix[size] != 0) {
            g_string_append_c(s, suffix[size]);
        }
    } else if (size == 1) {
        if (reg < 4) {
            g_string_append(s, low_names[reg]);
        } else {
            g_string_append_printf(s, "%sl", reg_names[reg]);
        }
    } else {
        g_string_append_printf(s, "%s%s", size == 8 ? "r" : size == 4 ? "e" : "", reg_names[reg]);
    }
}

static void add_number(GString *s, uint64_t value, unsigned size)
{
    g_string_append_printf(s, "0x%" PRIx64,
                           (uint64_t)(size < 8 ? value & (~0ull >> (64 - 8 * size)) : value));
}

static const char *size_name(unsigned size)
{
    switch (size) {
    case 1:
        return "BYTE PTR ";
    case 2:
        return "WORD PTR ";
    case 4:
        return "DWORD PTR ";
    case 6:
        return "FWORD PTR ";
    case 8:
        return "QWORD PTR ";
    case 10:
        return "TBYTE PTR ";
    case 16:
        return "XMMWORD PTR ";
    case 32:
        return "YMMWORD PTR ";
    case 64:
        return "ZMMWORD PTR ";
    default:
        return "";
    }
}

static void add_displacement(GString *s, const X86Insn *insn, bool first)
{
    int64_t disp = insn->disp;
    if (first) {
        add_number(s, disp, insn->asize);
    } else if (disp < 0) {
        g_string_append_printf(s, "-0x%" PRIx64, -(uint64_t)disp);
    } else if (disp > 0 || insn->base == X86_REG_RIP) {
        g_string_append_printf(s, "+0x%" PRIx64, disp);
    }
}

static void add_memory(GString *s, const X86Insn *insn, unsigned size, uint64_t pc)
{
    bool vsib = insn->desc->props & INSN_VSIB;
    if (!(insn->desc->props & INSN_NO_LINEAR_MEM)) {
        g_string_append(s, size_name(size));
    }
    bool shown = insn->prefixes & PFX_SEG && (insn->asize != 8 || insn->seg >= X86_FS);
    if (shown || insn->base == X86_NO_REG) {
        g_string_append_printf(s, "%s:", seg_names[insn->seg]);
    }
    bool first = true;
    g_string_append_c(s, '[');
    if (insn->base != X86_NO_REG) {
        add_reg(s, insn->base, insn->asize, false);
        first = false;
    }
    if (insn->index != X86_NO_REG) {
        if (!first) {
            g_string_append_c(s, '+');
        }
        if (vsib) {
            g_string_append_printf(s, "%cmm%u", insn->vex_l ? 'y' : 'x', insn->index);
        } else {
            add_reg(s, insn->index, insn->asize, false);
        }
        if (insn->asize != 2) {
            g_string_append_printf(s, "*%u", 1u << insn->scale);
        }
        first = false;
    }
    add_displacement(s, insn, first);
    g_string_append_c(s, ']');
    if (insn->base == X86_REG_RIP) {
        g_string_append_printf(s, "        # 0x%" PRIx64, pc + insn->length + insn->disp);
    }
}

static void add_operand(GString *s, const X86Insn *insn, const X86Operand *o, uint64_t pc)
{
    switch (o->kind) {
    case OPND_REG:
        add_reg(s, o->reg, o->size, o->flags & OPND_HIGH8);
        break;
    case OPND_MEM:
        add_memory(s, insn, o->size, pc);
        break;
    case OPND_IMM:
        add_number(s, insn->imm, o->size);
        break;
    case OPND_IMM2:
        add_number(s, insn->imm2, o->size);
        break;
    case OPND_REL:
        add_number(s, pc + insn->length + insn->imm, o->size);
        break;
    case OPND_SEG:
        g_string_append(s, seg_names[o->reg & 7]);
        break;
    case OPND_CR:
        g_string_append_printf(s, "cr%u", o->reg);
        break;
    case OPND_DR:
        g_string_append_printf(s, "dr%u", o->reg);
        break;
    case OPND_XMM:
        g_string_append_printf(s, "%cmm%u",
                               o->size == 64   ? 'z'
                               : o->size == 32 ? 'y'
                                               : 'x',
                               o->reg);
        break;
    case OPND_MMX:
        g_string_append_printf(s, "mm%u", o->reg);
        break;
    case OPND_ST:
        g_string_append_printf(s, "st(%u)", o->reg);
        break;
    case OPND_KREG:
        g_string_append_printf(s, "k%u", o->reg);
        break;
    default:
        break;
    }
}

static bool is_repe(const X86Insn *insn)
{
    return insn->op == X86_OP_CMPS || insn->op == X86_OP_SCAS;
}

/* Operations whose name depends on the operand size. */
static void add_mnemonic(GString *s, const X86Insn *insn)
{
    static const char suffix[9] = { [1] = 'b', [2] = 'w', [4] = 'd', [8] = 'q' };
    static const char *const extend[9] = { [2] = "cbw", [4] = "cwde", [8] = "cdqe" };
    static const char *const sign[9] = { [2] = "cwd", [4] = "cdq", [8] = "cqo" };
    if (insn->op == X86_OP_CBW || insn->op == X86_OP_CWD) {
        g_string_append(s, (insn->op == X86_OP_CBW ? extend : sign)[insn->osize]);
        return;
    }
    if (insn->op == X86_OP_JCXZ) {
        g_string_append(s, insn->asize == 8 ? "jrcxz" : insn->asize == 4 ? "jecxz" : "jcxz");
        return;
    }
    g_string_append(s, insn->desc->mnemonic);
    if (insn->desc->props & INSN_COND) {
        g_string_append(s, cond_names[insn->cond]);
    }
    if (insn->desc->props & INSN_REP) {
        g_string_append_c(s, suffix[insn->osize]);
    } else if (insn->op == X86_OP_IRET && insn->osize != 2) {
        g_string_append_c(s, suffix[insn->osize]);
    }
}

void x86_insn_list(GString *s, const X86Insn *insn, uint64_t address, uint64_t pc)
{
    char text[128];
    g_string_append_printf(s, "0x%08" PRIx64 ":  ", address);
    for (unsigned k = 0; k < 8 || k < insn->length; k++) {
        g_string_append_printf(s, k < insn->length ? "%02x " : "   ", insn->bytes[k < 15 ? k : 14]);
    }
    g_string_append_printf(s, " %s\n", x86_insn_text(insn, pc, text, sizeof(text)));
}

char *x86_insn_text(const X86Insn *insn, uint64_t pc, char *buf, size_t size)
{
    GString *s = g_string_sized_new(64);
    if (insn->prefixes & PFX_LOCK) {
        g_string_append(s, "lock ");
    }
    if (insn->desc->props & INSN_REP && insn->prefixes & (PFX_REP | PFX_REPNE)) {
        g_string_append(s, insn->prefixes & PFX_REPNE ? "repnz "
                           : is_repe(insn)            ? "repz "
                                                      : "rep ");
    }
    add_mnemonic(s, insn);
    for (unsigned i = 0; i < insn->operands; i++) {
        g_string_append(s, i == 0 ? " " : ",");
        add_operand(s, insn, &insn->operand[i], pc);
    }
    g_strlcpy(buf, s->str, size);
    g_string_free(s, TRUE);
    return buf;
}
