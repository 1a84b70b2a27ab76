/*
 * The CPU as gdb sees it: one 64-bit description in every mode, so that a session lives from reset to user
 * space. Registers and feature names: GDB manual, "Standard Target Features", i386; what gdb has no name for
 * is in a feature of our own.
 *
 * Control registers are written as MOV CRn and WRMSR do it: what these refuse is refused.
 */
#include <string.h>

#include "base/endian.h"
#include "core/vm/debug.h"
#include "cpu/x86/info.h"
#include "cpu/x86/interp.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/seg_priv.h"
#include "cpu/x86/sys.h"

#define REG(name, bits, type) "<reg name=\"" name "\" bitsize=\"" bits "\" type=\"" type "\"/>"
#define R64(name) REG(name, "64", "int64")
#define R32(name) REG(name, "32", "int32")
#define ST(name)  REG(name, "80", "i387_ext")
#define X87(name) "<reg name=\"" name "\" bitsize=\"32\" type=\"int\" group=\"float\"/>"
#define XMM(name) REG(name, "128", "vec128")

static const char target_xml[] =
    "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">"
    "<architecture>i386:x86-64</architecture>"
    "<feature name=\"org.gnu.gdb.i386.core\">"
    "<flags id=\"i386_eflags\" size=\"4\"><field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"\" start=\"1\" end=\"1\"/>"
    "<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"AF\" start=\"4\" end=\"4\"/><field name=\"ZF\" start=\"6\" end=\"6\"/>"
    "<field name=\"SF\" start=\"7\" end=\"7\"/><field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" end=\"9\"/>"
    "<field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"OF\" start=\"11\" end=\"11\"/><field name=\"NT\" start=\"14\" end=\"14\"/>"
    "<field name=\"RF\" start=\"16\" end=\"16\"/><field name=\"VM\" start=\"17\" end=\"17\"/><field name=\"AC\" start=\"18\" end=\"18\"/>"
    "<field name=\"VIF\" start=\"19\" end=\"19\"/><field name=\"VIP\" start=\"20\" end=\"20\"/><field name=\"ID\" start=\"21\" end=\"21\"/>"
    "</flags>" R64("rax") R64("rbx") R64("rcx") R64("rdx") R64("rsi") R64("rdi") REG("rbp", "64", "data_ptr")
    REG("rsp", "64", "data_ptr") R64("r8") R64("r9") R64("r10") R64("r11") R64("r12") R64("r13") R64("r14") R64("r15")
    REG("rip", "64", "code_ptr") REG("eflags", "32", "i386_eflags") R32("cs") R32("ss") R32("ds") R32("es") R32("fs") R32("gs")
    ST("st0") ST("st1") ST("st2") ST("st3") ST("st4") ST("st5") ST("st6") ST("st7") X87("fctrl") X87("fstat") X87("ftag")
    X87("fiseg") X87("fioff") X87("foseg") X87("fooff") X87("fop") "</feature>"
    "<feature name=\"org.gnu.gdb.i386.sse\"><vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
    "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/><vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
    "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/><vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
    "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/><union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>"
    "<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>"
    "<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>"
    "<flags id=\"i386_mxcsr\" size=\"4\"><field name=\"IE\" start=\"0\" end=\"0\"/><field name=\"DE\" start=\"1\" end=\"1\"/>"
    "<field name=\"ZE\" start=\"2\" end=\"2\"/><field name=\"OE\" start=\"3\" end=\"3\"/><field name=\"UE\" start=\"4\" end=\"4\"/>"
    "<field name=\"PE\" start=\"5\" end=\"5\"/><field name=\"DAZ\" start=\"6\" end=\"6\"/><field name=\"FZ\" start=\"15\" end=\"15\"/></flags>"
    XMM("xmm0") XMM("xmm1") XMM("xmm2") XMM("xmm3") XMM("xmm4") XMM("xmm5") XMM("xmm6") XMM("xmm7") XMM("xmm8") XMM("xmm9")
    XMM("xmm10") XMM("xmm11") XMM("xmm12") XMM("xmm13") XMM("xmm14") XMM("xmm15") REG("mxcsr", "32", "i386_mxcsr") "</feature>"
    "<feature name=\"org.gnu.gdb.i386.segments\">" R64("fs_base") R64("gs_base") "</feature>"
    "<feature name=\"org.ostrich.x86.system\">" R64("k_gs_base") R64("cr0") R64("cr2") R64("cr3") R64("cr4") R64("cr8")
    R64("efer") "</feature></target>";

enum { G_RIP = 16, G_FLAGS, G_SEG, G_ST = 24, G_X87 = 32, G_XMM = 40, G_MXCSR = 56, G_FS_BASE, G_GS_BASE, G_SYSTEM, G_COUNT = G_SYSTEM + 7 };

/* gdb's order of the general registers, as the processor numbers them. */
static const uint8_t general[16] = { 0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15 };
static const uint8_t segment[6] = { X86_CS, X86_SS, X86_DS, X86_ES, X86_FS, X86_GS };

static unsigned reg_size(unsigned number)
{
    if (number <= G_RIP || number == G_FS_BASE || number == G_GS_BASE || number >= G_SYSTEM) {
        return 8;
    }
    if (number >= G_ST && number < G_X87) {
        return 10;
    }
    return number >= G_XMM && number < G_MXCSR ? 16 : 4;
}

/* The full tag word from the abridged one: 0 valid, 1 zero, 2 special, 3 empty. */
static uint16_t tag_word(const X86Fx *fx)
{
    unsigned top = fx->fsw >> 11 & 7;
    uint16_t word = 0;
    for (unsigned physical = 0; physical < 8; physical++) {
        const uint8_t *reg = fx->st[(physical - top) & 7];
        uint64_t mantissa = ld64_le(reg);
        unsigned exponent = ld16_le(reg + 8) & 0x7fff, tag = 0;
        if (!(fx->ftw >> physical & 1)) {
            tag = 3;
        } else if (exponent == 0 && mantissa == 0) {
            tag = 1;
        } else if (exponent == 0x7fff || !(mantissa >> 63)) {
            tag = 2;
        }
        word |= (uint16_t)(tag << (2 * physical));
    }
    return word;
}

static uint32_t x87_read(const X86Cpu *cpu, unsigned n)
{
    const X86Fx *fx = &cpu->fx;
    const uint32_t values[8] = { fx->fcw, fx->fsw, tag_word(fx), cpu->fcs, (uint32_t)fx->fip, cpu->fds, (uint32_t)fx->fdp, fx->fop };
    return values[n];
}

static uint64_t system_read(const X86Cpu *cpu, unsigned n)
{
    const uint64_t values[7] = { cpu->kernel_gs_base, cpu->cr0, cpu->cr2, cpu->cr3, cpu->cr4, cpu->cr8, cpu->efer };
    return values[n];
}

static void gdb_read(Vcpu *vcpu, unsigned number, uint8_t *ret_bytes)
{
    X86Cpu *cpu = x86_cpu_of(vcpu);
    const X86Hot *hot = x86_hot(cpu);

    if (number < G_RIP) {
        st64_le(ret_bytes, x86_gpr(cpu)[general[number]]);
    } else if (number == G_RIP) {
        st64_le(ret_bytes, hot->rip);
    } else if (number == G_FLAGS) {
        st32_le(ret_bytes, (uint32_t)hot->rflags);
    } else if (number < G_ST) {
        st32_le(ret_bytes, cpu->seg[segment[number - G_SEG]].sel);
    } else if (number < G_X87) {
        memcpy(ret_bytes, cpu->fx.st[number - G_ST], 10);
    } else if (number < G_XMM) {
        st32_le(ret_bytes, x87_read(cpu, number - G_X87));
    } else if (number < G_MXCSR) {
        memcpy(ret_bytes, cpu->vec[number - G_XMM].b, 16);
    } else if (number == G_MXCSR) {
        st32_le(ret_bytes, cpu->fx.mxcsr);
    } else if (number < G_SYSTEM) {
        st64_le(ret_bytes, cpu->seg[number == G_FS_BASE ? X86_FS : X86_GS].base);
    } else {
        st64_le(ret_bytes, system_read(cpu, number - G_SYSTEM));
    }
}

/* A selector can be set where it means an address by itself. */
static bool segment_write(X86Cpu *cpu, unsigned seg, uint32_t selector)
{
    if (cpu->seg[seg].sel == selector) {
        return true;
    }
    if ((cpu->cr0 & CR0_PE) && !(x86_hot(cpu)->rflags & X86_VM)) {
        return false;
    }
    x86_load_seg_real(cpu, seg, (uint16_t)selector);
    x86_mode_changed(cpu);
    return true;
}

static bool x87_write(X86Cpu *cpu, unsigned n, uint32_t value)
{
    X86Fx *fx = &cpu->fx;
    switch (n) {
    case 0:
        fx->fcw = (uint16_t)((value & 0x1f7f) | 0x40);
        return true;
    case 1:
        fx->fsw = (uint16_t)value;
        return true;
    case 2:
        fx->ftw = 0;
        for (unsigned i = 0; i < 8; i++) {
            fx->ftw |= (uint8_t)(((value >> (2 * i) & 3) != 3) << i);
        }
        return true;
    default:
        return x87_read(cpu, n) == value;
    }
}

/* 0 k_gs_base, then CR0, CR2, CR3, CR4, CR8, EFER. */
static bool system_write(X86Cpu *cpu, unsigned n, uint64_t value)
{
    static const uint8_t control[] = { 0, 0, 2, 3, 4, 8 };
    enum { SYS_KERNEL_GS, SYS_CR2 = 2, SYS_EFER = 6 };
    jmp_buf *outer = cpu->fault_jmp;
    jmp_buf here;

    if (system_read(cpu, n) == value) {
        return true;
    }
    if (n == SYS_CR2) {
        cpu->cr2 = value;
        return true;
    }
    cpu->fault_jmp = &here;
    bool good = setjmp(here) == 0;
    if (good && n == SYS_KERNEL_GS) {
        x86_wrmsr(cpu, 0xc0000102, value);
    } else if (good && n == SYS_EFER) {
        x86_wrmsr(cpu, 0xc0000080, value);
    } else if (good) {
        x86_write_cr(cpu, control[n], value);
    }
    cpu->fault_jmp = outer;
    return good;
}

static bool base_write(X86Cpu *cpu, unsigned seg, uint64_t base)
{
    if (!x86_canonical(cpu, base)) {
        return false;
    }
    cpu->seg[seg].base = base;
    *(seg == X86_FS ? &x86_hot(cpu)->fs_base : &x86_hot(cpu)->gs_base) = base;
    return true;
}

static bool gdb_write(Vcpu *vcpu, unsigned number, const uint8_t *bytes)
{
    const uint32_t flags = X86_ARITH | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT | X86_RF | X86_AC | X86_ID;
    X86Cpu *cpu = x86_cpu_of(vcpu);
    X86Hot *hot = x86_hot(cpu);

    if (number < G_RIP) {
        x86_gpr(cpu)[general[number]] = ld64_le(bytes);
    } else if (number == G_RIP) {
        hot->rip = hot->mode & X86_MODE_LMA ? ld64_le(bytes) : ld32_le(bytes);
    } else if (number == G_FLAGS) {
        hot->rflags = (hot->rflags & ~(uint64_t)flags) | (ld32_le(bytes) & flags);
        x86_mode_changed(cpu);
        x86_release_requests(cpu);
    } else if (number < G_ST) {
        return segment_write(cpu, segment[number - G_SEG], ld32_le(bytes));
    } else if (number < G_X87) {
        memcpy(cpu->fx.st[number - G_ST], bytes, 10);
    } else if (number < G_XMM) {
        return x87_write(cpu, number - G_X87, ld32_le(bytes));
    } else if (number < G_MXCSR) {
        memcpy(cpu->vec[number - G_XMM].b, bytes, 16);
    } else if (number == G_MXCSR) {
        cpu->fx.mxcsr = ld32_le(bytes) & 0xffff;
    } else if (number < G_SYSTEM) {
        return base_write(cpu, number == G_FS_BASE ? X86_FS : X86_GS, ld64_le(bytes));
    } else {
        return system_write(cpu, number - G_SYSTEM, ld64_le(bytes));
    }
    return true;
}

const GdbArch x86_gdb_arch = {
    .target_xml = target_xml, .registers = G_COUNT, .program_counter = G_RIP, .size = reg_size, .read = gdb_read, .write = gdb_write,
};

void x86_debug_changed(Vcpu *vcpu, DebugPoints *points)
{
    X86Cpu *cpu = x86_cpu_of(vcpu);
    cpu->debug = points;
    x86_tlb_drop_rights(cpu);
    x86_mmu_map_changed(cpu);
}

void x86_debug_step(Vcpu *vcpu)
{
    x86_interp_step(x86_cpu_of(vcpu));
}
