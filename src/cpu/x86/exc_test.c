/* Delivery of exceptions and interrupts, events, control registers, MSRs, CPUID, models, SMM. */
#include "core/vm/vcpu.h"
#include "cpu/x86/apic.h"
#include "cpu/x86/box_test.h"
#include "x86_ops.h"

static void put_gate32(Box *box, unsigned vector, uint16_t selector, uint32_t offset, unsigned type, unsigned dpl)
{
    box_put(box, BOX_IDT + 8 * vector, (offset & 0xffff) | (uint64_t)selector << 16, 4);
    box_put(box, BOX_IDT + 8 * vector + 4, (offset & 0xffff0000) | 0x8000 | dpl << 13 | type << 8, 4);
}

static void put_gate64(Box *box, unsigned vector, uint64_t offset, unsigned ist, unsigned type)
{
    uint64_t at = BOX_IDT + 16 * vector;
    box_put(box, at, (offset & 0xffff) | BOX_CODE64 << 16, 4);
    box_put(box, at + 4, (offset & 0xffff0000) | 0x8000 | type << 8 | ist, 4);
    box_put(box, at + 8, offset >> 32, 4);
}

/* --- frames --- */

static void test_real(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    x86_load_seg_real(cpu, X86_SS, 0x1000);
    x86_gpr(cpu)[X86_RSP] = 0x12340100;
    x86_load_seg_real(cpu, X86_CS, 0x2000);
    x86_hot(cpu)->rip = 0x55;
    x86_hot(cpu)->rflags = 2 | X86_IF | X86_CF;
    box_put(box, 0x21 * 4, 0x30004444, 4);
    BOX_EXPECT(box, 0x21, x86_raise_soft(cpu, 0x21, 0x57));
    x86_deliver_fault(cpu);
    g_assert_cmphex(cpu->seg[X86_CS].base, ==, 0x30000);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x4444);
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, 0x123400fa);
    g_assert_cmphex(box_get(box, 0x100fa, 2), ==, 0x57);
    g_assert_cmphex(box_get(box, 0x100fc, 2), ==, 0x2000);
    g_assert_cmphex(box_get(box, 0x100fe, 2), ==, 2 | X86_IF | X86_CF);
    g_assert_false(x86_hot(cpu)->rflags & X86_IF);
    BOX_EXPECT(box, -1, x86_iret(cpu, 2));
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x57);
    g_assert_true(x86_hot(cpu)->rflags & X86_IF);
    box_free(box);
}

static void test_protected_user(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    put_gate32(box, EXC_PF, BOX_CODE0, 0x80001234, 14, 0);
    box_user(box);
    x86_hot(cpu)->rflags = 2 | X86_IF | X86_TF;
    BOX_EXPECT(box, EXC_PF, x86_raise_page_fault(cpu, 0xcafe, 6));
    x86_deliver_fault(cpu);
    static const uint32_t frame[] = { 6, 0x200, BOX_CODE3, 2 | X86_IF | X86_TF | X86_RF, BOX_STACK3, BOX_DATA3 };
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, BOX_STACK0 - sizeof(frame));
    for (unsigned n = 0; n < ARRAY_SIZE(frame); n++) {
        g_assert_cmphex(box_get(box, BOX_STACK0 - sizeof(frame) + 4 * n, 4), ==, frame[n]);
    }
    g_assert_cmphex(cpu->cr2, ==, 0xcafe);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x80001234);
    g_assert_cmphex(x86_hot(cpu)->rflags, ==, 2);
    g_assert_cmpuint(cpu->cpl, ==, 0);
    box_free(box);
}

static void test_soft_privilege(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    put_gate32(box, 0x80, BOX_CODE0, 0x1000, 15, 0);
    put_gate32(box, EXC_GP, BOX_CODE0, 0x2000, 14, 0);
    box_user(box);
    BOX_EXPECT(box, 0x80, x86_raise_soft(cpu, 0x80, 0x202));
    x86_deliver_fault(cpu);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x2000); /* #GP instead */
    g_assert_cmphex(box_get(box, x86_gpr(cpu)[X86_RSP], 4), ==, 0x80 * 8 + 2);
    g_assert_cmphex(box_get(box, x86_gpr(cpu)[X86_RSP] + 4, 4), ==, 0x200);
    box_free(box);
}

static void test_long(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_long(box);
    cpu->idt.limit = 0xfff;
    box_put(box, BOX_TSS + 36, 0x9000, 8); /* IST1 */
    put_gate64(box, EXC_GP, 0xffff800000001000, 0, 14);
    put_gate64(box, EXC_DF, 0xffff800000002000, 1, 14);
    x86_gpr(cpu)[X86_RSP] = 0x7ff9;
    x86_hot(cpu)->rip = 0x4000;
    BOX_EXPECT(box, EXC_GP, x86_gp(cpu, 0x18));
    x86_deliver_fault(cpu);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0xffff800000001000);
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, 0x7ff0 - 48); /* aligned */
    static const uint64_t frame[] = { 0x18, 0x4000, BOX_CODE64, 0, 0x7ff9, BOX_DATA0 };
    for (unsigned n = 0; n < 6; n++) {
        if (n != 3) {
            g_assert_cmphex(box_get(box, 0x7ff0 - 48 + 8 * n, 8), ==, frame[n]);
        }
    }
    /* #GP whose stack is not canonical: #SS has no gate, so it becomes a double fault on IST1. */
    x86_gpr(cpu)[X86_RSP] = 0x800000000010;
    BOX_EXPECT(box, EXC_GP, x86_gp(cpu, 0));
    x86_deliver_fault(cpu);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0xffff800000002000);
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, 0x9000 - 48);
    box_free(box);
}

static void test_triple(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_protected(box); /* an IDT of zeros */
    BOX_EXPECT(box, EXC_UD, x86_ud(cpu));
    x86_deliver_fault(cpu);
    g_assert_true(cpu->shutdown);
    g_assert_true(box->vcpu.halted);
    box_free(box);
}

static void test_gate_task(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    box_put(box, BOX_IDT + 8 * EXC_DF, (uint64_t)BOX_SEL_TSS2 << 16, 4);
    box_put(box, BOX_IDT + 8 * EXC_DF + 4, 0x8500, 4);
    box_put(box, BOX_TSS2 + 0x20, 0x777, 4);
    box_put(box, BOX_TSS2 + 0x38, 0x9000, 4);
    box_put(box, BOX_TSS2 + 0x4c, BOX_CODE0, 2);
    box_put(box, BOX_TSS2 + 0x50, BOX_DATA0, 2);
    BOX_EXPECT(box, EXC_GP, x86_gp(cpu, 0)); /* no gate for #GP: #DF, a task */
    x86_deliver_fault(cpu);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x777);
    g_assert_cmphex(x86_gpr(cpu)[X86_RSP], ==, 0x9000 - 4);
    g_assert_cmphex(box_get(box, 0x9000 - 4, 4), ==, 0);
    g_assert_true(x86_hot(cpu)->rflags & X86_NT);
    box_free(box);
}

/* --- events --- */

typedef struct FakeApic {
    X86Apic apic;
    int vector;
} FakeApic;
static int fake_take(void *apic)
{
    FakeApic *fake = apic;
    int vector = fake->vector;
    fake->vector = -1;
    return vector;
}
static bool fake_pending(void *apic)
{
    return ((FakeApic *)apic)->vector >= 0;
}
static uint64_t fake_base(void *apic)
{
    return 0xfee00800;
}
static const X86ApicOps fake_ops = { .take = fake_take, .pending = fake_pending, .get_base = fake_base };

static void test_events(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    X86Hot *hot = x86_hot(cpu);
    FakeApic fake = { { &fake_ops, cpu }, 0x30 };
    cpu->apic = &fake;
    box_protected(box);
    put_gate32(box, 0x30, BOX_CODE0, 0x3000, 14, 0);
    put_gate32(box, EXC_NMI, BOX_CODE0, 0x2000, 14, 0);
    hot->exit_req = VCPU_REQ_IRQ;
    hot->rflags = 2;
    g_assert_false(x86_take_events(cpu)); /* IF = 0: held, and does not keep the CPU from running */
    g_assert_cmphex(hot->exit_req, ==, 0);
    box->vcpu.halted = true;
    g_assert_false(x86_has_work(cpu));
    hot->rflags |= X86_IF;
    g_assert_true(x86_has_work(cpu));
    g_assert_cmphex(hot->exit_req, ==, VCPU_REQ_IRQ);
    cpu->int_shadow = 1;
    g_assert_false(x86_take_events(cpu));
    cpu->int_shadow = 0;
    g_assert_true(x86_take_events(cpu));
    g_assert_cmphex(hot->rip, ==, 0x3000);
    g_assert_false(box->vcpu.halted);
    /* NMI, and none inside it until IRET. */
    hot->exit_req = VCPU_REQ_NMI;
    g_assert_true(x86_take_events(cpu));
    g_assert_cmphex(hot->rip, ==, 0x2000);
    hot->exit_req = VCPU_REQ_NMI;
    g_assert_false(x86_take_events(cpu));
    g_assert_cmphex(hot->exit_req, ==, 0);
    BOX_EXPECT(box, -1, x86_iret(cpu, 4));
    g_assert_cmphex(hot->exit_req, ==, VCPU_REQ_NMI);
    /* A second one that comes before the first is taken waits for its end; a third is lost. */
    x86_send_nmi(cpu);
    x86_send_nmi(cpu);
    g_assert_true(x86_take_events(cpu));
    g_assert_cmphex(hot->exit_req, ==, VCPU_REQ_NMI);
    g_assert_false(x86_take_events(cpu));
    BOX_EXPECT(box, -1, x86_iret(cpu, 4));
    g_assert_true(x86_take_events(cpu));
    g_assert_cmphex(hot->exit_req, ==, 0);
    cpu->apic = NULL;
    box_free(box);
}

/* --- hypercalls --- */

static void test_hypercall(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    uint64_t *gpr = x86_gpr(cpu);
    box_protected(box);
    gpr[X86_RAX] = ~0ull;
    BOX_EXPECT(box, -1, x86_op_vmmcall(cpu, NULL));
    g_assert_cmphex(gpr[X86_RAX], ==, 0xfffffc18); /* -1000: no such call */
    gpr[X86_RAX] = 10;
    BOX_EXPECT(box, -1, x86_op_vmcall(cpu, NULL));
    g_assert_cmphex(gpr[X86_RAX], ==, 0); /* there is no APIC to send to */
    box_user(box);
    BOX_EXPECT(box, -1, x86_op_vmcall(cpu, NULL));
    g_assert_cmphex(gpr[X86_RAX], ==, 0xffffffff);
    cpu->features[X86_FEAT_1_ECX] &= ~BIT(31);
    BOX_EXPECT(box, EXC_UD, x86_op_vmmcall(cpu, NULL));
    box_free(box);
}

/* --- registers --- */

static void test_control_registers(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    BOX_EXPECT(box, EXC_GP, x86_write_cr(cpu, 0, CR0_PG));           /* without PE */
    BOX_EXPECT(box, EXC_GP, x86_write_cr(cpu, 0, CR0_NW));           /* without CD */
    BOX_EXPECT(box, EXC_GP, x86_write_cr(cpu, 0, 1ull << 32));
    BOX_EXPECT(box, EXC_GP, x86_write_cr(cpu, 4, CR4_VMXE));         /* not offered */
    BOX_EXPECT(box, EXC_GP, x86_write_cr(cpu, 4, CR4_PCIDE));        /* outside long mode */
    BOX_EXPECT(box, EXC_GP, x86_write_cr(cpu, 8, 16));
    BOX_EXPECT(box, EXC_UD, x86_write_cr(cpu, 1, 0));
    BOX_EXPECT(box, EXC_GP, x86_wrmsr(cpu, 0xc0000080, EFER_SVME | BIT(1)));
    box_long(box);
    BOX_EXPECT(box, EXC_GP, x86_write_cr(cpu, 4, 0));                /* PAE is needed */
    BOX_EXPECT(box, EXC_GP, x86_write_cr(cpu, 4, cpu->cr4 | CR4_LA57));
    BOX_EXPECT(box, EXC_GP, x86_write_cr(cpu, 0, CR0_PE));           /* not from 64-bit code */
    BOX_EXPECT(box, EXC_GP, x86_write_cr(cpu, 3, 1ull << 50));
    BOX_EXPECT(box, EXC_GP, x86_wrmsr(cpu, 0xc0000080, 0));          /* LME while paging */
    BOX_EXPECT(box, -1, x86_write_cr(cpu, 4, cpu->cr4 | CR4_PCIDE));
    BOX_EXPECT(box, -1, x86_write_cr(cpu, 3, 0x100000 | 5 | 1ull << 63));
    g_assert_cmphex(cpu->cr3, ==, 0x100005);
    box_free(box);
}

static void test_debug_registers(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    BOX_EXPECT(box, -1, x86_write_dr(cpu, 6, 0));
    g_assert_cmphex(cpu->dr[6], ==, 0xffff0ff0);
    BOX_EXPECT(box, -1, x86_write_dr(cpu, 5, 0)); /* DR7 by its old name */
    g_assert_cmphex(cpu->dr[7], ==, 0x400);
    cpu->cr4 |= CR4_DE;
    BOX_EXPECT(box, EXC_UD, x86_write_dr(cpu, 5, 0));
    BOX_EXPECT(box, -1, x86_write_dr(cpu, 7, BIT(13)));
    BOX_EXPECT(box, EXC_DB, x86_read_dr(cpu, 0)); /* general detect */
    g_assert_cmphex(cpu->fault.dr6, ==, BIT(13));
    box_free(box);
}

static void test_msrs(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    uint64_t value = 0;
    BOX_EXPECT(box, EXC_GP, x86_rdmsr(cpu, 0x12345678, &value));
    BOX_EXPECT(box, EXC_GP, x86_wrmsr(cpu, 0x277, 0x0202020202020202)); /* PAT type 2 does not exist */
    BOX_EXPECT(box, -1, x86_wrmsr(cpu, 0x277, 0x0606060606060606));
    BOX_EXPECT(box, EXC_GP, x86_wrmsr(cpu, 0xc0000082, 1ull << 60)); /* LSTAR: canonical */
    BOX_EXPECT(box, EXC_GP, x86_wrmsr(cpu, 0x2ff, 0x1000));          /* MTRR default type: reserved */
    BOX_EXPECT(box, -1, x86_wrmsr(cpu, 0x2ff, 0xc06));
    BOX_EXPECT(box, EXC_GP, x86_wrmsr(cpu, 0x200, 2));
    BOX_EXPECT(box, EXC_GP, x86_wrmsr(cpu, 0xfe, 0));
    BOX_EXPECT(box, -1, x86_wrmsr(cpu, 0xc0000100, 0xffff800012345678));
    g_assert_cmphex(x86_hot(cpu)->fs_base, ==, 0xffff800012345678);
    BOX_EXPECT(box, -1, x86_wrmsr(cpu, 0x10, 1000));
    BOX_EXPECT(box, -1, x86_rdmsr(cpu, 0x10, &value));
    g_assert_cmpuint(value, >=, 1000);
    g_assert_cmpuint(value, <, 1000000000);
    BOX_EXPECT(box, EXC_GP, x86_wrmsr(cpu, 0xc0000103, 1ull << 32));
    box_free(box);
}

/* --- CPUID and models --- */

static void test_models(void)
{
    uint32_t r[4];
    for (const X86Model *m = x86_models; m->name; m++) {
        Box *box = box_new(m->name);
        X86Cpu *cpu = box->cpu;
        x86_cpuid(cpu, 0, 0, r);
        g_assert_cmpuint(r[0], ==, cpu->cpuid_level);
        g_assert_cmpint(memcmp(&r[1], cpu->vendor, 4), ==, 0);
        x86_cpuid(cpu, 1, 0, r);
        g_assert_cmphex(r[0], ==, x86_signature(cpu));
        g_assert_true(r[3] & 1);
        g_assert_cmphex(x86_gpr(cpu)[X86_RDX], ==, r[0]);
        box_free(box);
    }
}

#define CPU_MODEL(model) model,
static const char *const type_names[] = {
#include "cpu/x86/model_names.inc"
    NULL,
};

/* Each name of the table is a type of device, and no other. */
static void test_model_names(void)
{
    guint count = 2; /* base, max */
    for (const X86Model *m = x86_models; m->name; m++) {
        g_assert_true(g_strv_contains(type_names, m->name));
        g_assert_true(!m->alias || g_strv_contains(type_names, m->alias));
        count += 1 + (m->alias != NULL) + g_str_has_suffix(m->name, "-v1");
    }
    g_assert_cmpuint(count, ==, g_strv_length((char **)type_names));
}

static void expect_model_error(X86Cpu *cpu, const char *spec, const char *part)
{
    Error *err = x86_apply_model(cpu, spec);
    g_assert_nonnull(err);
    g_assert_nonnull(strstr(error_message(err), part));
    error_free(err);
}

static void test_model_options(void)
{
    Box *box = box_new("qemu64,+smep,-nx,level=7,model-id=Some CPU,vendor=GenuineIntel,family=6");
    X86Cpu *cpu = box->cpu;
    g_assert_true(x86_has(cpu, X86_FEAT_7_EBX, 7));
    g_assert_false(x86_has(cpu, X86_FEAT_8000_0001_EDX, 20));
    g_assert_cmpuint(cpu->family, ==, 6);
    uint32_t r[4];
    x86_cpuid(cpu, 0x80000002, 0, r);
    g_assert_cmpint(memcmp(r, "Some CPU", 8), ==, 0);
    x86_cpuid(cpu, 0x40000000, 0, r);
    g_assert_cmpint(memcmp(&r[1], "TCGTCGTCGTCG", 12), ==, 0);
    expect_model_error(cpu, "qemu46", "qemu46");
    expect_model_error(cpu, "qemu64,+smpe", "smpe");
    expect_model_error(cpu, "qemu64,level=many", "");
    expect_model_error(cpu, "qemu64,nx=perhaps", "nx");
    expect_model_error(cpu, "qemu64,+vmx,enforce", "support");
    box_free(box);
}

/* --- SMM --- */

static void smm_round_trip(const char *model, uint32_t revision)
{
    Box *box = box_new(model);
    X86Cpu *cpu = box->cpu;
    box_protected(box);
    for (unsigned n = 0; n < 8; n++) {
        x86_gpr(cpu)[n] = 0x1000 + n;
    }
    x86_hot(cpu)->rip = 0x4567;
    x86_hot(cpu)->rflags = 2 | X86_IF | X86_CF;
    X86Seg ds = cpu->seg[X86_DS], tr = cpu->tr;
    uint64_t cr0 = cpu->cr0;
    x86_smi_enter(cpu);
    g_assert_true(cpu->smm);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x8000);
    g_assert_cmphex(cpu->seg[X86_CS].base, ==, 0x30000);
    g_assert_false(x86_hot(cpu)->mode & X86_MODE_PE);
    g_assert_cmphex(box_get(box, 0x30000 + 0xfefc, 4), ==, revision);
    box_put(box, 0x30000 + (revision == 0x20064 ? 0xff00 : 0xfef8), 0xa0000, 4); /* SMBASE */
    memset(x86_gpr(cpu), 0, 8 * sizeof(uint64_t));
    BOX_EXPECT(box, -1, x86_rsm(cpu));
    g_assert_false(cpu->smm);
    g_assert_cmphex(cpu->smbase, ==, 0xa0000);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0x4567);
    g_assert_cmphex(x86_hot(cpu)->rflags, ==, 2 | X86_IF | X86_CF);
    for (unsigned n = 0; n < 8; n++) {
        g_assert_cmphex(x86_gpr(cpu)[n], ==, 0x1000 + n);
    }
    g_assert_cmpint(memcmp(&cpu->seg[X86_DS], &ds, sizeof(ds)), ==, 0);
    g_assert_cmpint(memcmp(&cpu->tr, &tr, sizeof(tr)), ==, 0);
    g_assert_cmphex(cpu->cr0, ==, cr0);
    BOX_EXPECT(box, EXC_UD, x86_rsm(cpu));
    box_free(box);
}

static void test_smm(void)
{
    smm_round_trip("max", 0x20064);
    smm_round_trip("pentium3", 0x20000);
}

static void test_reset(void)
{
    Box *box = box_new("max");
    X86Cpu *cpu = box->cpu;
    box_long(box);
    cpu->pat = 0;
    cpu->cr0 &= ~(uint64_t)(CR0_CD | CR0_NW);
    x86_cpu_reset(cpu, true); /* INIT keeps MSRs */
    g_assert_cmphex(cpu->pat, ==, 0);
    g_assert_cmphex(x86_hot(cpu)->rip, ==, 0xfff0);
    g_assert_cmphex(cpu->seg[X86_CS].base, ==, 0xffff0000);
    g_assert_cmphex(cpu->cr0, ==, 0x10);
    x86_cpu_reset(cpu, false);
    g_assert_cmphex(cpu->cr0, ==, 0x60000010);
    g_assert_cmphex(cpu->pat, ==, 0x0007040600070406);
    g_assert_cmphex(x86_hot(cpu)->mode, ==, X86_MODE_IOPL_OK);
    box_free(box);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/x86/exc/real", test_real);
    g_test_add_func("/x86/exc/protected-user", test_protected_user);
    g_test_add_func("/x86/exc/soft-privilege", test_soft_privilege);
    g_test_add_func("/x86/exc/hypercall", test_hypercall);
    g_test_add_func("/x86/exc/long", test_long);
    g_test_add_func("/x86/exc/triple", test_triple);
    g_test_add_func("/x86/exc/gate-task", test_gate_task);
    g_test_add_func("/x86/exc/events", test_events);
    g_test_add_func("/x86/sys/control-registers", test_control_registers);
    g_test_add_func("/x86/sys/debug-registers", test_debug_registers);
    g_test_add_func("/x86/sys/msrs", test_msrs);
    g_test_add_func("/x86/sys/models", test_models);
    g_test_add_func("/x86/sys/models-names", test_model_names);
    g_test_add_func("/x86/sys/model-options", test_model_options);
    g_test_add_func("/x86/sys/smm", test_smm);
    g_test_add_func("/x86/sys/reset", test_reset);
    return g_test_run();
}
