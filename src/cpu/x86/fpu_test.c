/*
 * Tests of what the random instructions (tests/insn) cannot reach in user mode of a 64-bit system: CR0 and
 * CR4 bits, absent features, pending exceptions and FERR#, the layouts of 16-bit and real mode, FFXSR.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "cpu/x86/box_test.h"
#include "cpu/x86/fpu.h"
#include "cpu/x86/interp.h"

enum { CODE = 0x4000, DATA = 0x20000 };

static int run_one(Box *box, const X86Insn *insn)
{
    return BOX_FAULT(box, x86_handlers[insn->op](box->cpu, insn));
}

/* Runs the instructions of a hex string, one handler after the other; the first fault's vector, or -1. */
static int run(Box *box, const char *hex)
{
    X86Cpu *cpu = box->cpu;
    X86Hot *hot = x86_hot(cpu);
    uint8_t bytes[64];
    unsigned count = 0, at = 0;
    for (char *end; *hex; hex = end) {
        bytes[count++] = (uint8_t)strtoul(hex, &end, 16);
    }
    hot->rip = CODE;
    while (at < count) {
        X86Insn insn;
        if (x86_decode(&insn, bytes + at, count - at, hot->mode) != DECODE_OK) {
            g_error("'%s' does not decode at %u", hex, at);
        }
        cpu->next_rip = hot->rip + insn.length;
        int vector = run_one(box, &insn);
        if (vector >= 0) {
            return vector;
        }
        at += insn.length;
        hot->rip += insn.length;
    }
    return -1;
}

static void set_cr(Box *box, uint64_t cr0, uint64_t cr4)
{
    box->cpu->cr0 = (box->cpu->cr0 & ~(uint64_t)(CR0_EM | CR0_MP | CR0_TS | CR0_NE)) | cr0;
    box->cpu->cr4 = (box->cpu->cr4 & ~(uint64_t)(CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE)) | cr4;
    x86_mode_changed(box->cpu);
}

static Box *box_with_fpu(void)
{
    Box *box = box_new("max");
    box_protected(box);
    box->cpu->xcr0 = 7;
    set_cr(box, CR0_NE, CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE);
    x86_gpr(box->cpu)[X86_RBX] = DATA;
    x86_gpr(box->cpu)[X86_RAX] = 7;
    x86_gpr(box->cpu)[X86_RDX] = 0;
    g_assert_cmpint(run(box, "db e3"), ==, -1);
    return box;
}

static bool host_has_avx(Box *box)
{
    return x86_has(box->cpu, X86_FEAT_1_ECX, 28);
}

/* --- CR0.EM, MP, TS; CR4.OSFXSR, OSXSAVE --- */
#define FXSR CR4_OSFXSR
#define XSAVE CR4_OSXSAVE
static const struct {
    const char *code;
    uint64_t cr0, cr4;
    int vector;
} checks[] = {
    { "d9 e8", 0, 0, -1 },                         /* fld1 */
    { "d9 e8", CR0_EM, 0, EXC_NM },
    { "d9 e8", CR0_TS, 0, EXC_NM },
    { "d9 e8", CR0_MP, 0, -1 },
    { "db e3", CR0_TS, 0, EXC_NM },                /* fninit */
    { "df e0", CR0_EM, 0, EXC_NM },                /* fnstsw ax */
    { "9b", CR0_TS, 0, -1 },                       /* fwait */
    { "9b", CR0_MP, 0, -1 },
    { "9b", CR0_EM, 0, -1 },
    { "9b", CR0_TS | CR0_MP, 0, EXC_NM },
    { "0f fc c1", 0, 0, -1 },                      /* paddb mm0, mm1 */
    { "0f fc c1", CR0_EM, 0, EXC_UD },
    { "0f fc c1", CR0_TS, 0, EXC_NM },
    { "0f 77", CR0_EM, 0, EXC_UD },                /* emms */
    { "0f 77", CR0_TS, 0, EXC_NM },
    { "0f 58 c1", 0, FXSR, -1 },                   /* addps */
    { "0f 58 c1", 0, 0, EXC_UD },
    { "0f 58 c1", CR0_EM, FXSR, EXC_UD },
    { "0f 58 c1", CR0_TS, FXSR, EXC_NM },
    { "0f 58 c1", CR0_EM | CR0_TS, FXSR, EXC_UD },
    { "0f ae 13", 0, 0, EXC_UD },                  /* ldmxcsr */
    { "0f ae 1b", CR0_TS, FXSR, EXC_NM },          /* stmxcsr */
    { "0f ae 03", CR0_EM, FXSR, EXC_NM },          /* fxsave */
    { "0f ae 0b", CR0_TS, FXSR, EXC_NM },          /* fxrstor */
    { "0f ae 03", 0, 0, -1 },
    { "0f ae 23", 0, XSAVE, -1 },                  /* xsave */
    { "0f ae 23", 0, 0, EXC_UD },
    { "0f ae 23", CR0_TS, XSAVE, EXC_NM },
    { "0f ae 23", CR0_EM, XSAVE, -1 },
};

static const struct {
    const char *code;
    uint64_t cr0, cr4, xcr0;
    int vector;
} avx_checks[] = {
    { "c5 f0 58 c2", 0, XSAVE, 7, -1 },            /* vaddps */
    { "c5 f0 58 c2", 0, 0, 7, EXC_UD },
    { "c5 f0 58 c2", 0, XSAVE, 3, EXC_UD },
    { "c5 f0 58 c2", CR0_TS, XSAVE, 7, EXC_NM },
    { "c5 f0 58 c2", CR0_EM, XSAVE, 7, -1 },
    { "c5 f8 77", CR0_TS, XSAVE, 7, EXC_NM },      /* vzeroupper */
    { "c5 f8 ae 1b", 0, 0, 7, EXC_UD },            /* vstmxcsr */
};

static void test_checks(void)
{
    Box *box = box_with_fpu();
    for (unsigned i = 0; i < ARRAY_SIZE(checks); i++) {
        set_cr(box, checks[i].cr0 | CR0_NE, checks[i].cr4);
        g_test_message("%s cr0 %" PRIx64 " cr4 %" PRIx64, checks[i].code, checks[i].cr0, checks[i].cr4);
        g_assert_cmpint(run(box, checks[i].code), ==, checks[i].vector);
    }
    for (unsigned i = 0; host_has_avx(box) && i < ARRAY_SIZE(avx_checks); i++) {
        box->cpu->xcr0 = avx_checks[i].xcr0;
        set_cr(box, avx_checks[i].cr0 | CR0_NE, avx_checks[i].cr4);
        g_test_message("%s cr0 %" PRIx64 " cr4 %" PRIx64, avx_checks[i].code, avx_checks[i].cr0, avx_checks[i].cr4);
        g_assert_cmpint(run(box, avx_checks[i].code), ==, avx_checks[i].vector);
    }
    box_free(box);
}

static void test_features(void)
{
    Box *box = box_with_fpu();
    box->cpu->features[X86_FEAT_1_ECX] &= ~BIT(0);
    g_assert_cmpint(run(box, "66 0f 7c c1"), ==, EXC_UD); /* haddpd without SSE3 */
    g_assert_cmpint(run(box, "66 0f 58 c1"), ==, -1);
    box_free(box);
}

/* --- pending x87 exceptions --- */
#define DIVIDE_BY_ZERO "db e3 d9 2b d9 e8 d9 ee de f9" /* fninit; fldcw [rbx]; fld1; fldz; fdivp */

static void test_mf(void)
{
    Box *box = box_with_fpu();
    box_put(box, DATA, 0x37b, 2); /* ZM clear */
    g_assert_cmpint(run(box, DIVIDE_BY_ZERO), ==, -1);
    g_assert_cmphex(box->cpu->fx.fsw & 0x8084, ==, 0x8084);
    g_assert_cmpint(run(box, "df e0 db e2"), ==, -1); /* fnstsw and fnclex do not wait */
    g_assert_cmphex(x86_gpr(box->cpu)[X86_RAX] & 0x84, ==, 0x84);
    g_assert_cmpint(run(box, "d9 e8"), ==, -1);
    static const char *const waiting[] = { "9b", "d9 e8", "d9 2b", "0f fc c1", "0f 77", "d9 c9" };
    for (unsigned i = 0; i < ARRAY_SIZE(waiting); i++) {
        g_assert_cmpint(run(box, DIVIDE_BY_ZERO), ==, -1);
        g_assert_cmpint(run(box, waiting[i]), ==, EXC_MF);
    }
    g_assert_cmpint(run(box, "0f 58 c1"), ==, -1); /* SSE does not care */
    g_assert_cmpint(run(box, "d9 3b db e3"), ==, -1); /* nor fnstcw, fninit */
    box_free(box);
}

static void ferr_changed(void *opaque, int n, int level)
{
    int *seen = opaque;
    seen[level]++;
}

static void test_ferr(void)
{
    Box *box = box_with_fpu();
    int seen[2] = { 0 };
    IrqLine line;
    irq_line_init(&line, ferr_changed, seen, 13);
    x86_fpu_set_ferr(box->cpu, &line);
    set_cr(box, 0, CR4_OSFXSR);
    box_put(box, DATA, 0x37b, 2);
    x86_hot(box->cpu)->rflags &= ~(uint64_t)X86_IF;
    g_assert_cmpint(run(box, DIVIDE_BY_ZERO), ==, -1);
    g_assert_cmpint(seen[1], ==, 0);
    g_assert_cmpint(run(box, "9b d9 e8"), ==, -1); /* interrupts are off: ignored, but signalled */
    g_assert_cmpint(seen[1], >=, 1);
    seen[0] = 0;
    g_assert_cmpint(run(box, "db e2"), ==, -1);
    g_assert_cmpint(seen[0], ==, 1);
    box_free(box);
}

/* --- SIMD exceptions --- */
static void test_xm(void)
{
    Box *box = box_with_fpu();
    X86Cpu *cpu = box->cpu;
    box_put(box, DATA, 0x1d80, 4); /* ZM clear */
    for (unsigned i = 0; i < 4; i++) {
        cpu->vec[0].d[i] = 0x3f800000;
        cpu->vec[1].d[i] = 0;
    }
    g_assert_cmpint(run(box, "0f ae 13 0f 5e c1"), ==, EXC_XM); /* ldmxcsr; divps */
    g_assert_cmphex(cpu->vec[0].d[0], ==, 0x3f800000);
    g_assert_cmphex(cpu->fx.mxcsr, ==, 0x1d84);
    set_cr(box, CR0_NE, CR4_OSFXSR);
    g_assert_cmpint(run(box, "0f 5e c1"), ==, EXC_UD);
    box_put(box, DATA, 0x1f80, 4);
    g_assert_cmpint(run(box, "0f ae 13 0f 5e c1"), ==, -1);
    g_assert_cmphex(cpu->vec[0].d[0], ==, 0x7f800000);
    box_put(box, DATA, 0x10000, 4);
    g_assert_cmpint(run(box, "0f ae 13"), ==, EXC_GP);
    box_free(box);
}

/* --- environments --- */
static void test_environment(void)
{
    Box *box = box_with_fpu();
    X86Cpu *cpu = box->cpu;
    g_assert_cmpint(run(box, "db e3 d9 e8 d9 ee d9 33"), ==, -1); /* fld1; fldz; fnstenv [rbx] */
    static const uint32_t wide[] = { 0xffff037f, 0xffff3000, 0xffff1fff, CODE + 4 };
    for (unsigned i = 0; i < ARRAY_SIZE(wide); i++) {
        g_assert_cmphex(box_get(box, DATA + 4 * i, 4), ==, wide[i]);
    }
    g_assert_cmphex(box_get(box, DATA + 24, 4), ==, 0xffff0000 | cpu->fds);
    g_assert_cmpint(run(box, "66 d9 33"), ==, -1);
    static const uint16_t narrow[] = { 0x37f, 0x3000, 0x1fff, CODE + 4 };
    for (unsigned i = 0; i < ARRAY_SIZE(narrow); i++) {
        g_assert_cmphex(box_get(box, DATA + 2 * i, 2), ==, narrow[i]);
    }
    box_free(box);
}

static void test_environment_real(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    x86_gpr(cpu)[X86_RBX] = 0x800;
    x86_load_seg_real(cpu, X86_DS, 0x2000);
    x86_load_seg_real(cpu, X86_CS, 0x1234);
    cpu->features[X86_FEAT_7_EBX] &= ~(BIT(6) | BIT(13)); /* FDP and selectors always */
    g_assert_cmpint(run(box, "db e3 d9 07"), ==, -1); /* fld dword [bx] */
    g_assert_cmphex(cpu->fcs, ==, 0x1234);
    g_assert_cmpint(run(box, "d9 37"), ==, -1);
    uint32_t ip = 0x12340 + CODE + 2, dp = 0x20800;
    g_assert_cmphex(box_get(box, 0x20800 + 6, 2), ==, ip & 0xffff);
    g_assert_cmphex(box_get(box, 0x20800 + 8, 2) >> 12, ==, ip >> 16);
    g_assert_cmphex(box_get(box, 0x20800 + 10, 2), ==, dp & 0xffff);
    g_assert_cmphex(box_get(box, 0x20800 + 12, 2), ==, (dp >> 16) << 12);
    g_assert_cmpint(run(box, "66 d9 37"), ==, -1);
    g_assert_cmphex(box_get(box, 0x20800 + 12, 2), ==, ip & 0xffff);
    g_assert_cmphex(box_get(box, 0x20800 + 16, 4) >> 12, ==, ip >> 16);
    g_assert_cmpint(run(box, "d9 27"), ==, -1); /* fldenv: 20-bit linear addresses come back */
    box_free(box);
}

/* FNSAVE, FRSTOR keep stack order whatever TOP is. */
static void test_save_restore(void)
{
    Box *box = box_with_fpu();
    X86Cpu *cpu = box->cpu;
    uint8_t st[8][16];
    g_assert_cmpint(run(box, "db e3 d9 e8 d9 eb d9 ee"), ==, -1);
    memcpy(st, cpu->fx.st, sizeof(st));
    g_assert_cmpint(run(box, "dd 33"), ==, -1);
    g_assert_cmphex(cpu->fx.fcw, ==, 0x37f);
    g_assert_cmphex(cpu->fx.ftw, ==, 0);
    g_assert_cmpint(run(box, "dd 23"), ==, -1);
    g_assert_cmphex(cpu->fx.fsw, ==, 0x2800);
    g_assert_cmphex(cpu->fx.ftw, ==, 0xe0);
    g_assert_cmpmem(cpu->fx.st, 48, st, 48);
    /* FINCSTP turns the stack, registers stay. */
    g_assert_cmpint(run(box, "d9 f7"), ==, -1);
    g_assert_cmpmem(cpu->fx.st[0], 10, st[1], 10);
    box_free(box);
}

/* --- FXSAVE, XSAVE --- */
static void test_fxsave(void)
{
    Box *box = box_with_fpu();
    X86Cpu *cpu = box->cpu;
    memset(cpu->vec, 0x5a, sizeof(cpu->vec));
    memset(box->block->host + DATA, 0xee, 1024);
    g_assert_cmpint(run(box, "0f ae 03"), ==, -1);
    g_assert_cmphex(box_get(box, DATA + 160 + 16 * 7, 4), ==, 0x5a5a5a5a);
    g_assert_cmphex(box_get(box, DATA + 160 + 16 * 8, 4), ==, 0xeeeeeeee); /* XMM8 is not there in 32-bit code */
    g_assert_cmphex(box_get(box, DATA + 28, 4), ==, 0xffff);
    g_assert_cmphex(box_get(box, DATA + 511, 1), ==, 0xee);
    box_put(box, DATA + 24, 0x80000000, 4);
    g_assert_cmpint(run(box, "0f ae 0b"), ==, EXC_GP);
    x86_gpr(cpu)[X86_RBX] = DATA + 8;
    g_assert_cmpint(run(box, "0f ae 03"), ==, EXC_GP);
    box_free(box);
}

static void test_ffxsr(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_long(box);
    set_cr(box, CR0_NE, CR4_OSFXSR);
    x86_gpr(cpu)[X86_RBX] = DATA;
    memset(box->block->host + DATA, 0xee, 512);
    cpu->efer |= EFER_FFXSR;
    memset(cpu->vec, 0x5a, sizeof(cpu->vec));
    g_assert_cmpint(run(box, "48 0f ae 03"), ==, -1);
    g_assert_cmphex(box_get(box, DATA + 160, 4), ==, 0xeeeeeeee);
    cpu->efer &= ~(uint64_t)EFER_FFXSR;
    g_assert_cmpint(run(box, "48 0f ae 03"), ==, -1);
    g_assert_cmphex(box_get(box, DATA + 160 + 16 * 15, 4), ==, 0x5a5a5a5a);
    box_free(box);
}

static void test_xsave(void)
{
    Box *box = box_with_fpu();
    X86Cpu *cpu = box->cpu;
    if (!host_has_avx(box)) {
        g_test_skip("no AVX");
        box_free(box);
        return;
    }
    memset(cpu->vec, 0, sizeof(cpu->vec));
    cpu->vec[1].q[2] = 0x1122334455667788;
    cpu->xcr0 = 7;
    memset(box->block->host + DATA, 0, 1024);
    g_assert_cmpint(run(box, "0f c7 23"), ==, -1); /* xsavec */
    g_assert_cmphex(box_get(box, DATA + 512, 8) & 6, ==, 4); /* SSE is in its initial state */
    g_assert_cmphex(box_get(box, DATA + 520, 8), ==, 0x8000000000000007);
    g_assert_cmphex(box_get(box, DATA + 576 + 16, 8), ==, 0x1122334455667788);
    cpu->vec[0].q[0] = 99;
    cpu->vec[1].q[2] = 0;
    g_assert_cmpint(run(box, "0f ae 2b"), ==, -1); /* xrstor */
    g_assert_cmphex(cpu->vec[0].q[0], ==, 0);
    g_assert_cmphex(cpu->vec[1].q[2], ==, 0x1122334455667788);
    box_put(box, DATA + 536, 1, 8);
    g_assert_cmpint(run(box, "0f ae 2b"), ==, EXC_GP);
    box_put(box, DATA + 536, 0, 8);
    box_put(box, DATA + 512, 8, 8); /* a component that XCOMP_BV lacks */
    g_assert_cmpint(run(box, "0f ae 2b"), ==, EXC_GP);
    g_assert_cmpuint(x86_xsave_area_size(7, false), ==, 832);
    g_assert_cmpuint(x86_xsave_area_size(3, true), ==, 576);
    box_free(box);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    Box *box = box_new("max");
    bool fpu = x86_has(box->cpu, X86_FEAT_1_EDX, 0);
    box_free(box);
    if (!fpu) {
        return 77; /* a host whose instructions cannot be used */
    }
    g_test_add_func("/x86/fpu/checks", test_checks);
    g_test_add_func("/x86/fpu/features", test_features);
    g_test_add_func("/x86/fpu/mf", test_mf);
    g_test_add_func("/x86/fpu/ferr", test_ferr);
    g_test_add_func("/x86/fpu/xm", test_xm);
    g_test_add_func("/x86/fpu/environment", test_environment);
    g_test_add_func("/x86/fpu/environment-real", test_environment_real);
    g_test_add_func("/x86/fpu/save-restore", test_save_restore);
    g_test_add_func("/x86/fpu/fxsave", test_fxsave);
    g_test_add_func("/x86/fpu/ffxsr", test_ffxsr);
    g_test_add_func("/x86/fpu/xsave", test_xsave);
    return g_test_run();
}
