/*
 * Comparing the two results of a case, and showing a case.
 */
#include "insn_fuzz.h"

#include <inttypes.h>
#include <string.h>

#include "base/endian.h"

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

typedef struct Diff {
    GString *text;
    bool equal;
} Diff;

static void differ(Diff *d, const char *name, uint64_t native, uint64_t ours)
{
    d->equal = false;
    if (d->text) {
        g_string_append_printf(d->text, "  %-8s host %016" PRIx64 "  ours %016" PRIx64 "\n", name, native, ours);
    }
}

static void compare_value(Diff *d, const char *name, uint64_t native, uint64_t ours)
{
    if (native != ours) {
        differ(d, name, native, ours);
    }
}

static void compare_bytes(Diff *d, const char *name, unsigned n, const uint8_t *native, const uint8_t *ours, unsigned size)
{
    if (memcmp(native, ours, size) == 0) {
        return;
    }
    d->equal = false;
    if (!d->text) {
        return;
    }
    g_string_append_printf(d->text, "  %s%-4u host ", name, n);
    for (int i = (int)size - 1; i >= 0; i--) {
        g_string_append_printf(d->text, "%02x%s", native[i], i % 8 ? "" : " ");
    }
    g_string_append(d->text, "\n         ours ");
    for (int i = (int)size - 1; i >= 0; i--) {
        g_string_append_printf(d->text, "%02x%s", ours[i], i % 8 ? "" : " ");
    }
    g_string_append_c(d->text, '\n');
}

/* Flags that are undefined where the run ended; anywhere when that is not the start of an instruction. */
static uint16_t undefined_flags(const FuzzCase *c, unsigned slot, uint64_t rip)
{
    uint64_t offset = rip - (FUZZ_CODE + slot * FUZZ_SLOT);
    uint16_t all = c->undefined, here = c->undefined;
    bool known = offset == c->length, returns = false;
    for (unsigned i = 0; i < c->count; i++) {
        if (offset == c->offset[i]) {
            here = c->insn[i].undefined;
            known = true;
        }
        all |= c->insn[i].undefined;
        returns |= c->insn[i].returns; /* may have come back to what a branch skipped */
    }
    return known && !returns ? here : all;
}

static void compare_x87(Diff *d, const uint8_t *n, const uint8_t *o)
{
    static const struct { const char *name; uint8_t offset, size; } fields[] = {
        { "fcw", 0, 2 }, { "fsw", 2, 2 }, { "ftw", 4, 1 }, { "fop", 6, 2 }, { "fip", 8, 8 }, { "fdp", 16, 8 },
        { "mxcsr", 24, 4 },
    };
    for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
        compare_value(d, fields[i].name, ld_le(n + fields[i].offset, fields[i].size),
                      ld_le(o + fields[i].offset, fields[i].size));
    }
    for (unsigned i = 0; i < 8; i++) {
        compare_bytes(d, "st", i, n + 32 + 16 * i, o + 32 + 16 * i, 10);
    }
}

static void compare_memory(Diff *d, const FuzzResult *native, const FuzzResult *ours)
{
    unsigned n = 0, o = 0;
    while (n < native->lines || o < ours->lines) {
        unsigned nl = n < native->lines ? native->line[n].line : ~0u, ol = o < ours->lines ? ours->line[o].line : ~0u;
        if (nl == ol) {
            compare_bytes(d, "line", nl, native->line[n++].bytes, ours->line[o++].bytes, FUZZ_LINE);
        } else {
            differ(d, nl < ol ? "only host wrote line" : "only ours wrote line", MIN(nl, ol), 0);
            n += nl < ol;
            o += ol < nl;
        }
    }
}

/* Whether the mnemonic of the instruction at rip has this text in it. */
static bool insn_is(const FuzzCase *c, unsigned slot, uint64_t rip, const char *text)
{
    for (unsigned i = 0; i < c->count; i++) {
        X86Insn insn;
        if (rip - (FUZZ_CODE + slot * FUZZ_SLOT) == c->offset[i] &&
            x86_decode(&insn, c->insn[i].bytes, c->insn[i].length, c->code32 ? X86_MODE_CS32 : X86_MODE_CS64) == DECODE_OK) {
            return strstr(insn.desc->mnemonic, text) != NULL;
        }
    }
    return false;
}

/*
 * A sequence that reads the jump behind its own end has an address in this program: on the host there is something, in
 * the guest nothing.
 */
static bool is_ours(uint64_t va)
{
    extern const char __executable_start[], end[]; /* the linker's */
    return va >= (uintptr_t)__executable_start && va < (uintptr_t)end;
}

bool compare_results(const FuzzCase *c, unsigned slot, const FuzzResult *native, const FuzzResult *ours, GString *text)
{
    const FuzzState *n = &native->out, *o = &ours->out;
    if (n->vector == FUZZ_HANG || n->vector == FUZZ_CRASH) {
        return true; /* nothing to compare with */
    }
    if (n->vector == EXC_PF && n->cr2 >> 12 == 0x7ffffffff && (o->vector == EXC_GP || o->vector == EXC_SS)) {
        return true; /* an operand that begins below the canonical boundary: which part faults first is open */
    }
    if (n->vector == EXC_AC && (o->vector == EXC_GP || o->vector == EXC_SS) && (n->rflags & X86_AC)) {
        return true; /* misaligned and crossing that boundary */
    }
    if (n->vector != EXC_GP && o->vector == EXC_GP && insn_is(c, slot, o->rip, "xrstor")) {
        return true; /* the host's XCR0 has components that ours has not */
    }
    if (o->vector == EXC_PF && is_ours(o->cr2)) {
        return true;
    }
    Diff d = { text, true };
    compare_value(&d, "vector", n->vector, o->vector);
    compare_value(&d, "rip", n->rip, o->rip);
    if (n->vector != FUZZ_END) {
        /* The kernel's part of the host's address space may be mapped or not. */
        uint32_t mask = n->vector == EXC_PF && n->cr2 >= 0x7ffffffff000 ? ~1u : ~0u;
        compare_value(&d, "error", n->error & mask, o->error & mask);
        if (n->cr2 != o->cr2 && (n->cr2 >> 12 != o->cr2 >> 12 || !insn_is(c, slot, n->rip, "maskmov"))) {
            differ(&d, "cr2", n->cr2, o->cr2);
        }
    }
    uint64_t mask = ~(uint64_t)(undefined_flags(c, slot, n->rip) | (n->vector == FUZZ_END ? X86_RF : 0));
    compare_value(&d, "rflags", n->rflags & mask, o->rflags & mask);
    for (unsigned i = 0; i < 16; i++) {
        compare_value(&d, gpr_names[i], n->gpr[i], o->gpr[i]);
    }
    compare_x87(&d, n->xsave, o->xsave);
    for (unsigned i = 0; i < 16; i++) {
        compare_bytes(&d, "xmm", i, n->xsave + 160 + 16 * i, o->xsave + 160 + 16 * i, 16);
        compare_bytes(&d, "ymmh", i, n->xsave + 576 + 16 * i, o->xsave + 576 + 16 * i, 16);
    }
    compare_memory(&d, native, ours);
    return d.equal;
}

void compare_print_case(const FuzzCase *c, GString *text)
{
    uint32_t mode = X86_MODE_PE | X86_MODE_LMA | (c->code32 ? X86_MODE_CS32 | X86_MODE_SS32 : X86_MODE_CS64 | X86_MODE_SS32);
    for (unsigned i = 0; i < c->count; i++) {
        const uint8_t *p = c->code + c->offset[i];
        unsigned length = c->insn[i].length;
        X86Insn insn;
        char buf[128];
        g_string_append_printf(text, "  +%03x ", c->offset[i]);
        for (unsigned k = 0; k < 15; k++) {
            g_string_append_printf(text, k < length ? "%02x" : "  ", p[MIN(k, length - 1)]);
        }
        bool ok = x86_decode(&insn, p, length, mode) == DECODE_OK;
        g_string_append_printf(text, " %s\n", ok ? x86_insn_text(&insn, FUZZ_CODE + c->offset[i], buf, sizeof(buf)) : "?");
    }
    for (unsigned i = 0; i < 16; i++) {
        g_string_append_printf(text, "  %-3s %016" PRIx64 "%s", gpr_names[i], c->in.gpr[i], i % 4 == 3 ? "\n" : "");
    }
    const uint8_t *x = c->in.xsave;
    g_string_append_printf(text, "  rflags %06" PRIx64 " fcw %04x fsw %04x ftw %02x mxcsr %08x\n", c->in.rflags, ld16_le(x),
                           ld16_le(x + 2), x[4], ld32_le(x + 24));
}
