/*
 * No interrupt gets lost: two threads post vectors, each the next one when the last was handled, to a CPU whose hypervisor
 * enters and leaves a guest, opens windows for interrupts, injects events and halts. Whoever is not heard waits for ever.
 */
#include <stdatomic.h>
#include <sched.h>
#include <string.h>

#include "cpu/x86/apic.h"
#include "cpu/x86/box_test.h"
#include "cpu/x86/svm.h"
#include "dbt/run/engine.h"

enum { VMCB = 0x20000, HSAVE = 0x21000, GUEST = 0x30000, GUEST_STACK = 0x38000, HOST = 0x100, HANDLER = 0x31000, IRET = 0x31100 };
enum { LEAVE = 0x9000, LEFT = 0x9008, EOI_MSR = 0x80b }; /* bytes in memory that host and test exchange */
enum { LOW = 0xec, HIGH = 0xfb, INJECTED = 0x40, SENDERS = 2, ROUNDS = 3000, PATIENCE = 60 };

static const uint8_t senders_vector[SENDERS] = { LOW, HIGH };

/* Of a local APIC: a bit a sender, requested and in service. */
typedef struct TestApic {
    X86Apic x86;
    _Atomic uint32_t requested;
    uint32_t servicing;
    _Atomic uint32_t handled[SENDERS];
} TestApic;

/* 1: sender 1's may be taken now; -1: none. The second one interrupts the first. */
static int deliverable(TestApic *apic)
{
    uint32_t requested = atomic_load(&apic->requested);
    int best = requested & 2 ? 1 : requested & 1 ? 0 : -1;
    return apic->servicing >> (best + (best < 0)) == 0 ? best : -1;
}

static bool apic_pending(void *opaque)
{
    return deliverable(opaque) >= 0;
}

static int apic_take(void *opaque)
{
    TestApic *apic = opaque;
    int best = deliverable(apic);
    if (best < 0) {
        return -1;
    }
    atomic_fetch_and(&apic->requested, ~BIT(best));
    apic->servicing |= BIT(best);
    return senders_vector[best];
}

static bool apic_msr_write(void *opaque, uint32_t index, uint64_t value)
{
    TestApic *apic = opaque;
    g_assert_cmphex(index, ==, EOI_MSR);
    unsigned n = apic->servicing & 2 ? 1 : 0;
    g_assert_true(apic->servicing & BIT(n));
    apic->servicing &= ~BIT(n);
    if (apic_pending(apic)) {
        atomic_fetch_or(&x86_hot(apic->x86.cpu)->exit_req, VCPU_REQ_APIC);
    }
    atomic_fetch_add(&apic->handled[n], 1);
    return true;
}

static const X86ApicOps apic_ops = { .take = apic_take, .pending = apic_pending, .msr_write = apic_msr_write };

/* --- the programs --- */

/*
 * loop: clgi; sti; vmrun; cli; stgi; sti; incq r12; cli; mov EXITCODE(rax),rbx
 * CPUID: its rip is moved on, and a virtual interrupt asks for a window (V_IRQ).
 * HLT: its rip is moved on; sti; hlt; cli.
 * VINTR: V_IRQ goes, an event is injected.
 * Then cmpb $0,LEAVE; je loop; sti; cli; clgi; movq $2,LEFT; hlt
 */
static const uint8_t host_code[] = {
    0x0f, 0x01, 0xdd, 0xfb, 0x0f, 0x01, 0xd8, 0xfa, 0x0f, 0x01, 0xdc, 0xfb, 0x49, 0xff, 0xc4, 0xfa, 0x48, 0x8b, 0x58, 0x70,
    0x48, 0x83, 0xfb, 0x72, 0x74, 0x29, 0x48, 0x83, 0xfb, 0x78, 0x74, 0x16, 0x48, 0x83, 0xfb, 0x64, 0x75, 0x29, 0x80, 0x60,
    0x61, 0xfe, 0xc7, 0x80, 0xa8, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x80, 0xeb, 0x19, 0x48, 0x83, 0x80, 0x78, 0x05, 0x00,
    0x00, 0x01, 0xfb, 0xf4, 0xfa, 0xeb, 0x0c, 0x48, 0x83, 0x80, 0x78, 0x05, 0x00, 0x00, 0x02, 0x80, 0x48, 0x61, 0x01, 0x80,
    0x3c, 0x25, 0x00, 0x90, 0x00, 0x00, 0x00, 0x74, 0xa7, 0xfb, 0xfa, 0x0f, 0x01, 0xdd, 0x48, 0xc7, 0x04, 0x25, 0x08, 0x90,
    0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0xf4, 0xeb, 0xfd,
};

/* push rax; push rcx; push rdx; mov $EOI_MSR,ecx; xor eax,eax; xor edx,edx; wrmsr; pop rdx; pop rcx; pop rax; iretq */
static const uint8_t handler_code[] = {
    0x50, 0x51, 0x52, 0xb9, 0x0b, 0x08, 0x00, 0x00, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30, 0x5a, 0x59, 0x58, 0x48, 0xcf,
};
static const uint8_t iret_code[] = { 0x48, 0xcf };

/*
 * 1: cli; mov $50,ecx; 2: pause; dec ecx; jnz 2b; cpuid; sti; mov $200,ecx; 3: dec ecx; jnz 3b; incq r13; testb $7,r13b; jne 1b;
 * hlt; jmp 1b
 */
static const uint8_t guest_code[] = {
    0xfa, 0xb9, 0x32, 0x00, 0x00, 0x00, 0xf3, 0x90, 0xff, 0xc9, 0x75, 0xfa, 0x0f, 0xa2, 0xfb, 0xb9, 0xc8, 0x00, 0x00, 0x00,
    0xff, 0xc9, 0x75, 0xfc, 0x49, 0xff, 0xc5, 0x41, 0xf6, 0xc5, 0x07, 0x75, 0xdf, 0xf4, 0xeb, 0xdc,
};
/* 1: pause; jmp 1b: nothing but an interrupt ends it */
static const uint8_t endless_code[] = { 0xf3, 0x90, 0xeb, 0xfc };

static void gate(Box *box, unsigned vector, uint64_t handler)
{
    box_put(box, BOX_IDT + 16 * vector, (handler & 0xffff) | BOX_CODE64 << 16, 4);
    box_put(box, BOX_IDT + 16 * vector + 4, (handler & 0xffff0000) | 0x8e00, 4);
    box_put(box, BOX_IDT + 16 * vector + 8, 0, 8);
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

/* The guest is in the host's address space, with interrupts on. */
static void make_vmcb(Box *box)
{
    static const uint8_t codes[] = { SVM_EXIT_VMRUN, SVM_EXIT_INTR, SVM_EXIT_VINTR, SVM_EXIT_CPUID, SVM_EXIT_HLT };
    const X86Cpu *cpu = box->cpu;
    for (unsigned n = 0; n < ARRAY_SIZE(codes); n++) {
        intercept(box, codes[n]);
    }
    box_put(box, VMCB + 0x58, 1, 4); /* ASID */
    box_put(box, VMCB + 0x60, BIT64(24) | 0xfull << 16 | (uint64_t)INJECTED << 32, 8); /* V_INTR_MASKING, priority 15 */
    vmcb_seg(box, 0x400, &cpu->seg[X86_ES]);
    vmcb_seg(box, 0x410, &cpu->seg[X86_CS]);
    vmcb_seg(box, 0x420, &cpu->seg[X86_SS]);
    vmcb_seg(box, 0x430, &cpu->seg[X86_DS]);
    box_put(box, VMCB + 0x464, cpu->gdt.limit, 4);
    box_put(box, VMCB + 0x468, cpu->gdt.base, 8);
    box_put(box, VMCB + 0x484, 0xfff, 4);
    box_put(box, VMCB + 0x488, cpu->idt.base, 8);
    box_put(box, VMCB + 0x4d0, cpu->efer, 8);
    box_put(box, VMCB + 0x548, cpu->cr4, 8);
    box_put(box, VMCB + 0x550, cpu->cr3, 8);
    box_put(box, VMCB + 0x558, cpu->cr0, 8);
    box_put(box, VMCB + 0x560, 0x400, 8);
    box_put(box, VMCB + 0x568, 0xffff0ff0, 8);
    box_put(box, VMCB + 0x570, 0x202, 8);
    box_put(box, VMCB + 0x578, GUEST, 8);
    box_put(box, VMCB + 0x5d8, GUEST_STACK, 8);
    box_put(box, VMCB + 0x668, cpu->pat, 8);
}

static Box *hypervisor(const uint8_t *guest, size_t size)
{
    Box *box = box_new("max,+svm");
    X86Cpu *cpu = box->cpu;
    box_long(box);
    cpu->idt.limit = 0xfff;
    BOX_EXPECT(box, -1, x86_wrmsr(cpu, 0xc0000080, cpu->efer | EFER_SVME));
    BOX_EXPECT(box, -1, x86_wrmsr(cpu, 0xc0010117, HSAVE));
    gate(box, LOW, HANDLER);
    gate(box, HIGH, HANDLER);
    gate(box, INJECTED, IRET);
    make_vmcb(box);
    memcpy(box->host + HOST, host_code, sizeof(host_code));
    memcpy(box->host + HANDLER, handler_code, sizeof(handler_code));
    memcpy(box->host + IRET, iret_code, sizeof(iret_code));
    memcpy(box->host + GUEST, guest, size);
    x86_gpr(cpu)[X86_RAX] = VMCB;
    x86_gpr(cpu)[X86_RSP] = BOX_STACK0;
    x86_hot(cpu)->rip = HOST;
    x86_hot(cpu)->rflags = 2;
    return box;
}

/* --- senders --- */

typedef struct Sender {
    TestApic *apic;
    unsigned n;
    pthread_t thread;
    _Atomic bool done;
} Sender;

static void post(TestApic *apic, unsigned n)
{
    atomic_fetch_or(&apic->requested, BIT(n));
    atomic_fetch_or(&x86_hot(apic->x86.cpu)->exit_req, VCPU_REQ_APIC);
}

static void *sender(void *opaque)
{
    Sender *s = opaque;
    g_autoptr(GRand) rand = g_rand_new_with_seed(7 + s->n);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        gint64 until = g_get_monotonic_time() + PATIENCE * G_USEC_PER_SEC;
        for (int32_t spin = g_rand_int_range(rand, 0, 3000); spin > 0; spin--) {
            atomic_load(&s->apic->handled[s->n]);
        }
        post(s->apic, s->n);
        while (atomic_load(&s->apic->handled[s->n]) != round) {
            sched_yield();
            if (g_get_monotonic_time() > until) {
                const X86Cpu *cpu = s->apic->x86.cpu;
                g_error("interrupt %u of sender %u is not taken: requests %x, held %x, guest %d, GIF off %d, halted %d", round, s->n,
                        *cpu->vcpu->exit_req, cpu->held, cpu->svm.guest, cpu->svm.gif_off, cpu->vcpu->halted);
            }
        }
    }
    atomic_store(&s->done, true);
    atomic_fetch_or(s->apic->x86.cpu->vcpu->exit_req, VCPU_REQ_WORK);
    return NULL;
}

/* --- the CPU --- */

/* Held is what is blocked and nothing else, between any two instructions. */
static void check_held(const X86Cpu *cpu)
{
    g_assert_cmphex(cpu->held & ~x86_blocked_requests(cpu), ==, 0);
}

static void run_cpu(Box *box, Dbt *dbt)
{
    if (dbt) {
        dbt_run(dbt);
    } else {
        unsigned n = 0;
        do {
            x86_interp_run(box->cpu, 1, false);
            check_held(box->cpu);
        } while (!box->vcpu.halted && ++n < 1000);
    }
}

/* As the thread of a CPU does it. */
static void run_until_left(Box *box, Dbt *dbt, Sender senders[SENDERS])
{
    X86Cpu *cpu = box->cpu;
    while (box->host[LEFT] != 2) {
        if (atomic_load(&senders[0].done) && atomic_load(&senders[1].done)) {
            box->host[LEAVE] = 1;
            post(senders[0].apic, 0); /* out of the guest, for good */
            atomic_store(&senders[0].done, false);
        }
        if (box->vcpu.halted && !x86_has_work(cpu)) {
            sched_yield();
            continue;
        }
        atomic_fetch_and(box->vcpu.exit_req, ~(uint32_t)(VCPU_REQ_WORK | VCPU_REQ_STOP | VCPU_REQ_RESET));
        run_cpu(box, dbt);
    }
}

static void exchange(const uint8_t *guest, size_t size, bool translate)
{
    Box *box = hypervisor(guest, size);
    TestApic apic = { .x86 = { .ops = &apic_ops, .cpu = box->cpu } };
    Sender senders[SENDERS] = { { .apic = &apic, .n = 0 }, { .apic = &apic, .n = 1 } };
    DbtGroup group;
    Dbt *dbt = NULL;
    box->vcpu.exit_req = &x86_hot(box->cpu)->exit_req;
    box->cpu->apic = &apic.x86;
    if (translate) {
        dbt_group_init(&group);
        guest_box_check(dbt_new(box->cpu, &group, 16 * MiB, false, &dbt));
    }
    for (unsigned n = 0; n < SENDERS; n++) {
        pthread_create(&senders[n].thread, NULL, sender, &senders[n]);
    }
    run_until_left(box, dbt, senders);
    for (unsigned n = 0; n < SENDERS; n++) {
        pthread_join(senders[n].thread, NULL);
    }
    g_test_message("%" G_GUINT64_FORMAT " exits", x86_gpr(box->cpu)[12]);
    if (translate) {
        dbt_free(dbt);
        dbt_group_fini(&group);
    }
    box->cpu->apic = NULL;
    box_free(box);
}

static void test_guest(gconstpointer translate)
{
    exchange(guest_code, sizeof(guest_code), translate != NULL);
}

static void test_endless(gconstpointer translate)
{
    exchange(endless_code, sizeof(endless_code), translate != NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/interrupt/interpreter/guest", NULL, test_guest);
    g_test_add_data_func("/interrupt/interpreter/endless", NULL, test_endless);
    g_test_add_data_func("/interrupt/translator/guest", "", test_guest);
    g_test_add_data_func("/interrupt/translator/endless", "", test_endless);
    return g_test_run();
}
