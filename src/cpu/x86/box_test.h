/*
 * For unit tests of the system side: a CPU with 4 MiB of RAM at 0 and no machine.
 */
#ifndef OSTRICH_CPU_X86_BOX_TEST_H
#define OSTRICH_CPU_X86_BOX_TEST_H

#include "cpu/x86/exc.h"
#include "cpu/x86/guest_box.h"
#include "cpu/x86/seg.h"

#define BOX_RAM (4 * MiB)

typedef GuestBox Box;

static inline Box *box_new(const char *model)
{
    Box *box = g_new(Box, 1);
    guest_box_init(box, BOX_RAM);
    guest_box_check(x86_apply_model(box->cpu, model));
    x86_cpu_reset(box->cpu, false);
    return box;
}

static inline void box_free(Box *box)
{
    guest_box_fini(box);
    g_free(box);
}

static inline uint64_t box_get(Box *box, uint64_t pa, unsigned size)
{
    return ld_le(box->block->host + pa, size);
}

static inline void box_put(Box *box, uint64_t pa, uint64_t value, unsigned size)
{
    st_le(box->block->host + pa, value, size);
}

/* Runs a statement; gives the vector it raised, or -1. The error code is in cpu->fault.error. */
#define BOX_FAULT(box, ...)                                                                        \
    ({                                                                                             \
        jmp_buf jump_;                                                                             \
        volatile int vector_ = -1;                                                                 \
        (box)->cpu->fault_jmp = &jump_;                                                            \
        if (setjmp(jump_) == 0) {                                                                  \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            vector_ = (box)->cpu->fault.vector;                                                    \
        }                                                                                          \
        (box)->cpu->fault_jmp = NULL;                                                              \
        (int)vector_;                                                                              \
    })

#define BOX_EXPECT(box, vector, ...)                                                               \
    do {                                                                                           \
        int raised_ = BOX_FAULT(box, __VA_ARGS__);                                                 \
        g_assert_cmpint(raised_, ==, vector);                                                      \
    } while (0)

/* --- a protected-mode system --- */
enum { BOX_GDT = 0x1000, BOX_LDT = 0x1800, BOX_IDT = 0x2000, BOX_TSS = 0x3000, BOX_TSS2 = 0x3100, BOX_STACK0 = 0x8000,
       BOX_STACK3 = 0xa000 };
enum { BOX_CODE0 = 0x08, BOX_DATA0 = 0x10, BOX_CODE3 = 0x1b, BOX_DATA3 = 0x23, BOX_SEL_TSS = 0x28, BOX_SEL_TSS2 = 0x30,
       BOX_CONFORMING = 0x38, BOX_CODE64 = 0x40, BOX_FREE = 0x50 };

static inline uint64_t box_desc(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

static inline void box_gdt(Box *box, uint16_t selector, uint64_t desc)
{
    box_put(box, BOX_GDT + (selector & ~7u), desc, 8);
}

/* Flat segments, a 32-bit TSS with a ring-0 stack, CPL 0. */
static inline void box_protected(Box *box)
{
    X86Cpu *cpu = box->cpu;
    cpu->gdt.base = BOX_GDT;
    cpu->gdt.limit = 0xff;
    cpu->idt.base = BOX_IDT;
    cpu->idt.limit = 0x7ff;
    box_gdt(box, BOX_CODE0, box_desc(0, 0xfffff, 0x9a, 0xc));
    box_gdt(box, BOX_DATA0, box_desc(0, 0xfffff, 0x92, 0xc));
    box_gdt(box, BOX_CODE3, box_desc(0, 0xfffff, 0xfa, 0xc));
    box_gdt(box, BOX_DATA3, box_desc(0, 0xfffff, 0xf2, 0xc));
    box_gdt(box, BOX_SEL_TSS, box_desc(BOX_TSS, 0x67, 0x89, 0));
    box_gdt(box, BOX_SEL_TSS2, box_desc(BOX_TSS2, 0x67, 0x89, 0));
    box_gdt(box, BOX_CONFORMING, box_desc(0, 0xfffff, 0x9e, 0xc));
    box_gdt(box, BOX_CODE64, box_desc(0, 0xfffff, 0x9a, 0xa));
    box_put(box, BOX_TSS + 4, BOX_STACK0, 4);
    box_put(box, BOX_TSS + 8, BOX_DATA0, 2);
    BOX_EXPECT(box, -1, {
        x86_write_cr(cpu, 0, cpu->cr0 | CR0_PE);
        x86_far_jmp(cpu, BOX_CODE0, 0x100, 4, 0);
        x86_load_seg(cpu, X86_SS, BOX_DATA0);
        x86_load_seg(cpu, X86_DS, BOX_DATA0);
        x86_load_seg(cpu, X86_ES, BOX_DATA0);
        x86_ltr(cpu, BOX_SEL_TSS);
    });
    x86_gpr(cpu)[X86_RSP] = BOX_STACK0;
}

/* To CPL 3 by a return. */
static inline void box_user(Box *box)
{
    X86Cpu *cpu = box->cpu;
    uint64_t sp = BOX_STACK0 - 0x100;
    box_put(box, sp, 0x200, 4);
    box_put(box, sp + 4, BOX_CODE3, 4);
    box_put(box, sp + 8, BOX_STACK3, 4);
    box_put(box, sp + 12, BOX_DATA3, 4);
    x86_gpr(cpu)[X86_RSP] = sp;
    BOX_EXPECT(box, -1, x86_far_ret(cpu, 4, 0));
    g_assert_cmpuint(cpu->cpl, ==, 3);
}

/* 4-level paging with the first 2 MiB mapped to itself by tables at 0x100000, 64-bit code. */
static inline void box_long(Box *box)
{
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    box_put(box, 0x100000, 0x101000 | 7, 8);
    box_put(box, 0x101000, 0x102000 | 7, 8);
    box_put(box, 0x102000, 0x103000 | 7, 8);
    for (unsigned n = 0; n < 512; n++) {
        box_put(box, 0x103000 + 8 * n, n << 12 | 7, 8);
    }
    BOX_EXPECT(box, -1, {
        x86_write_cr(cpu, 4, CR4_PAE | CR4_PGE);
        x86_write_cr(cpu, 3, 0x100000);
        x86_wrmsr(cpu, 0xc0000080, EFER_LME | EFER_NXE | EFER_SCE);
        x86_write_cr(cpu, 0, cpu->cr0 | CR0_PG | CR0_WP);
        x86_far_jmp(cpu, BOX_CODE64, 0x100, 4, 0);
    });
    g_assert_true(x86_hot(cpu)->mode & X86_MODE_CS64);
}

#endif
