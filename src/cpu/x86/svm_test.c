/* SVM: a guest of a few instructions in the test box, entered and left in the ways that matter. */
#include "cpu/x86/svm.h"

#include "cpu/x86/apic.h"
#include "cpu/x86/box_test.h"

enum { VMCB = 0x20000, HSAVE = 0x21000, GUEST = 0x30000, GUEST_STACK = 0x38000, HOST = 0x100, HANDLER = 0x31000,
       NESTED = 0x110000 };
enum { C_EXIT = 0x70, C_INFO1 = 0x78, C_INFO2 = 0x80, C_INT_INFO = 0x88, C_NESTED = 0x90, C_EVENT = 0xa8, C_NCR3 = 0xb0,
       C_NEXT_RIP = 0xc8, S_RIP = 0x578, S_RSP = 0x5d8, S_RAX = 0x5f8 };

static uint64_t vmcb_get(Box *box, unsigned offset)
{
    return box_get(box, VMCB + offset, 8);
}

static void vmcb_seg(Box *box, unsigned offset, const X86Seg *seg)
{
    box_put(box, VMCB + offset, seg->sel, 2);
    box_put(box, VMCB + offset + 2, (seg->attr & 0xff) | (seg->attr >> 4 & 0xf00), 2);
    box_put(box, VMCB + offset + 4, seg->limit, 4);
    box_put(box, VMCB + offset + 8, seg->base, 8);
}

static void intercept(Box *box, unsigned code)
{
    box_put(box, VMCB + code / 32 * 4, box_get(box, VMCB + code / 32 * 4, 4) | BIT(code % 32), 4);
}

/* The guest begins in the host's mode and address space. */
static void make_vmcb(Box *box)
{
    X86Cpu *cpu = box->cpu;
    memset(box->block->host + VMCB, 0, 4096);
    intercept(box, SVM_EXIT_VMRUN);
    intercept(box, SVM_EXIT_VMMCALL);
    box_put(box, VMCB + 0x58, 1, 4); /* ASID */
    vmcb_seg(box, 0x400, &cpu->seg[X86_ES]);
    vmcb_seg(box, 0x410, &cpu->seg[X86_CS]);
    vmcb_seg(box, 0x420, &cpu->seg[X86_SS]);
    vmcb_seg(box, 0x430, &cpu->seg[X86_DS]);
    box_put(box, VMCB + 0x464, cpu->gdt.limit, 4);
    box_put(box, VMCB + 0x468, cpu->gdt.base, 8);
    box_put(box, VMCB + 0x484, cpu->idt.limit, 4);
    box_put(box, VMCB + 0x488, cpu->idt.base, 8);
    box_put(box, VMCB + 0x4d0, cpu->efer, 8);
    box_put(box, VMCB + 0x548, cpu->cr4, 8);
    box_put(box, VMCB + 0x550, cpu->cr3, 8);
    box_put(box, VMCB + 0x558, cpu->cr0, 8);
    box_put(box, VMCB + 0x560, 0x400, 8);
    box_put(box, VMCB + 0x568, 0xffff0ff0, 8);
    box_put(box, VMCB + 0x570, 2, 8);
    box_put(box, VMCB + 0x668, cpu->pat, 8);
    box_put(box, VMCB + S_RIP, GUEST, 8);
    box_put(box, VMCB + S_RSP, GUEST_STACK, 8);
}

static void put_code(Box *box, uint64_t at, const char *bytes, size_t size)
{
    memcpy(box->block->host + at, bytes, size);
    ram_written(box->block, at, size);
}

static Box *svm_box(void)
{
    Box *box = box_new("max,+svm");
    X86Cpu *cpu = box->cpu;
    box_long(box);
    BOX_EXPECT(box, -1, x86_wrmsr(cpu, 0xc0000080, cpu->efer | EFER_SVME));
    BOX_EXPECT(box, -1, x86_wrmsr(cpu, 0xc0010117, HSAVE));
    make_vmcb(box);
    return box;
}

/* VMRUN and HLT of the host; gives the exit code. */
static uint64_t vmrun_again(Box *box, const char *guest, size_t size)
{
    X86Cpu *cpu = box->cpu;
    put_code(box, HOST, "\x0f\x01\xd8\xf4", 4);
    put_code(box, GUEST, guest, size);
    x86_gpr(cpu)[X86_RAX] = VMCB;
    x86_gpr(cpu)[X86_RSP] = BOX_STACK0;
    x86_hot(cpu)->rip = HOST;
    x86_hot(cpu)->rflags = 2;
    box->vcpu.halted = false;
    g_assert_cmpint(x86_interp_run(cpu, 1000, false), ==, X86_EXIT_HALT);
    g_assert_false(cpu->svm.guest);
    g_assert_true(cpu->svm.gif_off);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, HOST + 4);
    g_assert_cmphex(x86_gpr(cpu)[X86_RAX], ==, VMCB);
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, BOX_STACK0);
    return vmcb_get(box, C_EXIT);
}

/* The same with nothing cached from before. */
static uint64_t vmrun(Box *box, const char *guest, size_t size)
{
    x86_tlb_flush_all_asids(box->cpu);
    return vmrun_again(box, guest, size);
}
#define VMRUN(box, code) vmrun(box, code, sizeof(code) - 1)

static void finish(Box *box)
{
    x86_interp_free(box->cpu);
    box_free(box);
}

static void test_exits(void)
{
    Box *box = svm_box();
    /* mov $5,%eax; vmmcall */
    g_assert_cmphex(VMRUN(box, "\xb8\5\0\0\0\x0f\x01\xd9"), ==, SVM_EXIT_VMMCALL);
    g_assert_cmphex(vmcb_get(box, S_RAX), ==, 5);
    g_assert_cmphex(vmcb_get(box, S_RIP), ==, GUEST + 5);
    g_assert_cmphex(vmcb_get(box, C_NEXT_RIP), ==, GUEST + 8);
    /* nop; cpuid: not intercepted, then intercepted */
    box_put(box, VMCB + S_RIP, GUEST, 8);
    g_assert_cmphex(VMRUN(box, "\x90\x0f\xa2\x0f\x01\xd9"), ==, SVM_EXIT_VMMCALL);
    intercept(box, SVM_EXIT_CPUID);
    box_put(box, VMCB + S_RIP, GUEST, 8);
    g_assert_cmphex(VMRUN(box, "\x90\x0f\xa2\x0f\x01\xd9"), ==, SVM_EXIT_CPUID);
    g_assert_cmphex(vmcb_get(box, S_RIP), ==, GUEST + 1);
    /* mov %cr3,%rbx: the register is told */
    intercept(box, SVM_EXIT_CR_READ + 3);
    box_put(box, VMCB + S_RIP, GUEST, 8);
    g_assert_cmphex(VMRUN(box, "\x0f\x20\xdb"), ==, SVM_EXIT_CR_READ + 3);
    g_assert_cmphex(vmcb_get(box, C_INFO1), ==, BIT64(63) | X86_RBX);
    /* mov $2,%eax; invpcid 0x40010,%rax */
    intercept(box, SVM_EXIT_INVPCID);
    box_put(box, VMCB + S_RIP, GUEST, 8);
    g_assert_cmphex(VMRUN(box, "\xb8\2\0\0\0\x66\x0f\x38\x82\x04\x25\x10\0\x04\0"), ==, SVM_EXIT_INVPCID);
    g_assert_cmphex(vmcb_get(box, C_INFO1), ==, 0x40010);
    g_assert_cmphex(vmcb_get(box, C_INFO2), ==, 2);
    /* ud2 */
    intercept(box, SVM_EXIT_EXCEPTION + EXC_UD);
    box_put(box, VMCB + S_RIP, GUEST, 8);
    g_assert_cmphex(VMRUN(box, "\x0f\x0b"), ==, SVM_EXIT_EXCEPTION + EXC_UD);
    finish(box);
}

static void test_refused(void)
{
    Box *box = svm_box();
    X86Cpu *cpu = box->cpu;
    box_put(box, VMCB + 0x58, 0, 4); /* ASID 0 is the host's */
    g_assert_cmphex(VMRUN(box, "\x0f\x01\xd9"), ==, SVM_EXIT_INVALID);
    make_vmcb(box);
    box_put(box, VMCB + 0x558, cpu->cr0 | BIT64(32), 8);
    g_assert_cmphex(VMRUN(box, "\x0f\x01\xd9"), ==, SVM_EXIT_INVALID);
    make_vmcb(box);
    box_put(box, VMCB + C_EVENT, BIT64(31) | 3 << 8 | 0x40, 8); /* no such exception */
    g_assert_cmphex(VMRUN(box, "\x0f\x01\xd9"), ==, SVM_EXIT_INVALID);
    BOX_EXPECT(box, EXC_GP, x86_wrmsr(cpu, 0xc0010117, 0x123));
    finish(box);
}

/* An injected #GP finds its gate; the same with the gate's page missing is reported with the event. */
static void test_injection(void)
{
    Box *box = svm_box();
    uint64_t gate = BOX_IDT + 16 * EXC_GP, event = BIT64(31) | BIT(11) | 3 << 8 | EXC_GP | 0x55ull << 32;
    box_put(box, gate, (HANDLER & 0xffff) | BOX_CODE64 << 16, 4);
    box_put(box, gate + 4, (HANDLER & 0xffff0000) | 0x8e00, 4);
    box_put(box, gate + 8, 0, 8);
    put_code(box, HANDLER, "\x0f\x01\xd9", 3);
    box_put(box, VMCB + C_EVENT, event, 8);
    g_assert_cmphex(VMRUN(box, "\xf4"), ==, SVM_EXIT_VMMCALL);
    g_assert_cmphex(vmcb_get(box, S_RIP), ==, HANDLER);
    g_assert_cmphex(box_get(box, vmcb_get(box, S_RSP), 8), ==, 0x55);
    g_assert_cmphex(vmcb_get(box, C_EVENT) >> 31 & 1, ==, 0);
    make_vmcb(box);
    intercept(box, SVM_EXIT_EXCEPTION + EXC_PF);
    box_put(box, VMCB + 0x488, 0x400000, 8); /* nothing is mapped there */
    box_put(box, VMCB + C_EVENT, event, 8);
    g_assert_cmphex(VMRUN(box, "\xf4"), ==, SVM_EXIT_EXCEPTION + EXC_PF);
    g_assert_cmphex(vmcb_get(box, C_INFO2), ==, 0x400000 + 16 * EXC_GP);
    g_assert_cmphex(vmcb_get(box, C_INT_INFO), ==, event);
    finish(box);
}

/* Nested tables that map the first 2 MiB to themselves but for one page each without W, with NX, without P. */
static void nested_tables(Box *box)
{
    box_put(box, NESTED, (NESTED + 0x1000) | 7, 8);
    box_put(box, NESTED + 0x1000, (NESTED + 0x2000) | 7, 8);
    box_put(box, NESTED + 0x2000, (NESTED + 0x3000) | 7, 8);
    for (uint64_t n = 0; n < 512; n++) {
        box_put(box, NESTED + 0x3000 + 8 * n, n << 12 | 7, 8);
    }
    box_put(box, NESTED + 0x3000 + 8 * 0x40, 0x40000 | 5, 8);
    box_put(box, NESTED + 0x3000 + 8 * 0x41, 0x41000 | 7 | BIT64(63), 8);
    box_put(box, NESTED + 0x3000 + 8 * 0x42, 0, 8);
    box_put(box, NESTED + 0x3000 + 8 * 0x43, 0x50000 | 7, 8); /* elsewhere */
    box_put(box, VMCB + C_NESTED, 1, 8);
    box_put(box, VMCB + C_NCR3, NESTED, 8);
    box_put(box, VMCB + S_RIP, GUEST, 8);
}

static void test_nested(void)
{
    Box *box = svm_box();
    nested_tables(box);
    box_put(box, 0x50008, 0x1234, 8);
    /* mov 0x43008,%eax; mov 0x40000,%ebx; vmmcall: reads go through */
    g_assert_cmphex(VMRUN(box, "\x8b\x04\x25\x08\x30\x04\0\x8b\x1c\x25\0\0\x04\0\x0f\x01\xd9"), ==, SVM_EXIT_VMMCALL);
    g_assert_cmphex(vmcb_get(box, S_RAX), ==, 0x1234);
    g_assert_cmphex(box_get(box, NESTED + 0x3000 + 8 * 0x43, 8) & 0x60, ==, 0x20); /* accessed, clean */
    /* mov %eax,0x40010 */
    nested_tables(box);
    g_assert_cmphex(VMRUN(box, "\x8b\x04\x25\0\0\x04\0\x89\x04\x25\x10\0\x04\0"), ==, SVM_EXIT_NPF);
    g_assert_cmphex(vmcb_get(box, C_INFO1), ==, SVM_NPF_FINAL | SVM_NPF_P | SVM_NPF_W | SVM_NPF_U);
    g_assert_cmphex(vmcb_get(box, C_INFO2), ==, 0x40010);
    g_assert_cmphex(vmcb_get(box, S_RIP), ==, GUEST + 7);
    /* jmp 0x41000 */
    nested_tables(box);
    g_assert_cmphex(VMRUN(box, "\xe9\xfb\x0f\x01\0"), ==, SVM_EXIT_NPF);
    g_assert_cmphex(vmcb_get(box, C_INFO1), ==, SVM_NPF_FINAL | SVM_NPF_P | SVM_NPF_U | SVM_NPF_I);
    /* a page table that is not there */
    nested_tables(box);
    box_put(box, VMCB + 0x550, 0x42000, 8);
    g_assert_cmphex(VMRUN(box, "\xf4"), ==, SVM_EXIT_NPF);
    g_assert_cmphex(vmcb_get(box, C_INFO1), ==, SVM_NPF_TABLE | SVM_NPF_W | SVM_NPF_U);
    finish(box);
}

/* A virtual interrupt waits for IF; the physical one that is intercepted leaves the guest. */
static void test_virtual_interrupt(void)
{
    Box *box = svm_box();
    uint64_t gate = BOX_IDT + 16 * 0x40;
    box_put(box, gate, (HANDLER & 0xffff) | BOX_CODE64 << 16, 4);
    box_put(box, gate + 4, (HANDLER & 0xffff0000) | 0x8e00, 4);
    put_code(box, HANDLER, "\x0f\x01\xd9", 3);
    box_put(box, VMCB + 0x60, 1 << 8 | 0xfull << 16 | BIT64(24) | 0x40ull << 32, 8); /* V_IRQ, masking */
    /* nop; sti; nop; nop */
    g_assert_cmphex(VMRUN(box, "\x90\xfb\x90\x90\x90"), ==, SVM_EXIT_VMMCALL);
    g_assert_cmphex(vmcb_get(box, S_RIP), ==, HANDLER);
    g_assert_cmphex(vmcb_get(box, 0x60) >> 8 & 1, ==, 0);
    g_assert_cmphex(box_get(box, vmcb_get(box, S_RSP), 8), ==, GUEST + 3); /* behind the shadow */
    make_vmcb(box);
    intercept(box, SVM_EXIT_VINTR);
    box_put(box, VMCB + 0x60, 1 << 8 | 0xfull << 16 | BIT64(24) | 0x40ull << 32, 8);
    g_assert_cmphex(VMRUN(box, "\x90\xfb\x90\x90\x90"), ==, SVM_EXIT_VINTR);
    g_assert_cmphex(vmcb_get(box, 0x60) >> 8 & 1, ==, 1);
    finish(box);
}

/* An APIC at which an interrupt arrives just after it was asked whether there is one, once. */
typedef struct LateApic {
    X86Apic apic;
    bool asked, taken;
} LateApic;

static bool late_pending(void *opaque)
{
    LateApic *late = opaque;
    bool there = late->asked && !late->taken;
    if (!late->asked) {
        late->asked = true;
        atomic_fetch_or(&x86_hot(late->apic.cpu)->exit_req, VCPU_REQ_IRQ);
    }
    return there;
}

static int late_take(void *opaque)
{
    LateApic *late = opaque;
    bool there = late->asked && !late->taken;
    late->taken |= there;
    return there ? 0x40 : -1;
}

static uint8_t late_tpr(void *opaque)
{
    return 0;
}

/* It is the host's whenever it comes: the guest does not get it. */
static void test_late_interrupt(void)
{
    static const X86ApicOps ops = { .take = late_take, .pending = late_pending, .get_tpr = late_tpr };
    Box *box = svm_box();
    LateApic late = { .apic = { .ops = &ops, .cpu = box->cpu } };
    intercept(box, SVM_EXIT_INTR);
    box->cpu->apic = &late.apic;
    atomic_fetch_or(&x86_hot(box->cpu)->exit_req, VCPU_REQ_IRQ); /* somebody asked, and took it back */
    /* sti; nop; nop; nop; vmmcall */
    g_assert_cmphex(VMRUN(box, "\xfb\x90\x90\x90\x0f\x01\xd9"), ==, SVM_EXIT_INTR);
    g_assert_true(late.asked);
    g_assert_false(late.taken);
    box->cpu->apic = NULL;
    finish(box);
}

/* The host's interrupts are off: its own one waits for it while the guest gets the virtual one. */
static void test_masked_interrupt(void)
{
    static const X86ApicOps ops = { .take = late_take, .pending = late_pending, .get_tpr = late_tpr };
    Box *box = svm_box();
    X86Cpu *cpu = box->cpu;
    LateApic late = { .apic = { .ops = &ops, .cpu = cpu }, .asked = true };
    uint64_t gate = BOX_IDT + 16 * 0x40;
    intercept(box, SVM_EXIT_INTR);
    box_put(box, gate, (HANDLER & 0xffff) | BOX_CODE64 << 16, 4);
    box_put(box, gate + 4, (HANDLER & 0xffff0000) | 0x8e00, 4);
    put_code(box, HANDLER, "\x0f\x01\xd9", 3);
    box_put(box, VMCB + 0x60, 1 << 8 | 0xfull << 16 | BIT64(24) | 0x40ull << 32, 8); /* V_IRQ, masking */
    cpu->apic = &late.apic;
    atomic_fetch_or(&x86_hot(cpu)->exit_req, VCPU_REQ_APIC);
    /* sti; nop; nop */
    g_assert_cmphex(VMRUN(box, "\xfb\x90\x90\x90"), ==, SVM_EXIT_VMMCALL);
    g_assert_cmphex(vmcb_get(box, S_RIP), ==, HANDLER);
    g_assert_false(late.taken);
    g_assert_cmphex((atomic_load(&x86_hot(cpu)->exit_req) | cpu->held) & (VCPU_REQ_IRQ | VCPU_REQ_APIC), !=, 0);
    g_assert_cmphex((atomic_load(&x86_hot(cpu)->exit_req) | cpu->held) & VCPU_REQ_VIRQ, ==, 0);
    cpu->apic = NULL;
    finish(box);
}

/* What a guest has cached stays over exits, until it is told to go. Reads 0x43008 and tells what was there. */
static uint64_t read_nested(Box *box, unsigned tlb_control)
{
    box_put(box, VMCB + 0x5c, tlb_control, 1);
    box_put(box, VMCB + S_RIP, GUEST, 8);
    g_assert_cmphex(vmrun_again(box, "\x8b\x04\x25\x08\x30\x04\0\x0f\x01\xd9", 10), ==, SVM_EXIT_VMMCALL);
    return vmcb_get(box, S_RAX);
}

static void test_address_spaces(void)
{
    Box *box = svm_box();
    X86Cpu *cpu = box->cpu;
    uint64_t entry = NESTED + 0x3000 + 8 * 0x43;
    static const struct { unsigned control; bool sees_change; } runs[] = {
        { 0, false }, { 3, true }, { 0, false }, { 1, true }, { 7, true }, { 0, false },
    };
    nested_tables(box);
    for (unsigned n = 0; n < 8; n++) {
        box_put(box, 0x50008 + 0x1000 * n, 0x1000 + n, 8);
    }
    unsigned page = 0;
    g_assert_cmphex(read_nested(box, 0), ==, 0x1000);
    for (unsigned n = 0; n < ARRAY_SIZE(runs); n++) {
        box_put(box, entry, (0x51000 + 0x1000 * n) | 7, 8);
        page = runs[n].sees_change ? n + 1 : page;
        g_assert_cmphex(read_nested(box, runs[n].control), ==, 0x1000 + page);
    }
    box_put(box, VMCB + 0x58, 2, 4); /* another ASID has cached nothing, and leaves the first one's alone */
    g_assert_cmphex(read_nested(box, 0), ==, 0x1006);
    box_put(box, VMCB + 0x58, 1, 4);
    g_assert_cmphex(read_nested(box, 0), ==, 0x1000 + page);
    g_assert_cmphex(x86_load(cpu, 0x43008, 8), !=, 0x1006); /* nor does the host see it */
    x86_tlb_flush_asid(cpu, 1);
    g_assert_cmphex(read_nested(box, 0), ==, 0x1006);
    box_put(box, entry, 0x50000 | 7, 8);
    x86_tlb_flush_all_asids(cpu);
    g_assert_cmphex(read_nested(box, 0), ==, 0x1000);
    finish(box);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/x86/svm/exits", test_exits);
    g_test_add_func("/x86/svm/refused", test_refused);
    g_test_add_func("/x86/svm/injection", test_injection);
    g_test_add_func("/x86/svm/nested", test_nested);
    g_test_add_func("/x86/svm/virtual-interrupt", test_virtual_interrupt);
    g_test_add_func("/x86/svm/late-interrupt", test_late_interrupt);
    g_test_add_func("/x86/svm/masked-interrupt", test_masked_interrupt);
    g_test_add_func("/x86/svm/address-spaces", test_address_spaces);
    return g_test_run();
}
