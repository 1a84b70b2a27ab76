/* Builds the boards with their parts, resets them, looks at what firmware would find, takes them down. */
#include <stdio.h>

#include "accel/accel.h"
#include "hw/misc/pc_lines.h"
#include "machine/x86/x86_board.h"

typedef struct Fixture {
    Machine *machine;
    char *dir;
} Fixture;

/* A firmware image whose first byte is its number of 64 KiB units and whose last is 0x5a. */
static void make_bios(Fixture *f, const char *name, unsigned units)
{
    size_t size = units * 64 * KiB;
    g_autofree char *data = g_malloc0(size), *path = g_build_filename(f->dir, name, NULL);
    data[0] = (char)units;
    data[size - 1] = 0x5a;
    g_assert_true(g_file_set_contents(path, data, (gssize)size, NULL));
}

static void build(Fixture *f, const char *type_name, uint64_t ram, unsigned cpus)
{
    const MachineType *type;
    MachineConfig *config = machine_config_new();
    error_never(machine_type_lookup(type_name, &type));
    f->dir = g_dir_make_tmp("pc-test-XXXXXX", NULL);
    make_bios(f, "bios-256k.bin", 4);
    make_bios(f, "bios.bin", 2);
    g_ptr_array_add(config->data_dirs, g_strdup(f->dir));
    config->ram_size = ram;
    config->cpus = config->max_cpus = config->sockets = cpus;
    f->machine = machine_new(type, config);
    lock_acquire(&f->machine->lock);
    error_never(accel_start(accel_new(f->machine, accel_type_find("tcg"))));
    error_never(type->build(f->machine));
    if (type->finish) {
        error_never(type->finish(f->machine));
    }
    machine_reset(f->machine, SHUTDOWN_NONE);
}

static void take_down(Fixture *f)
{
    static const char *const names[] = { "bios-256k.bin", "bios.bin" };
    lock_release(&f->machine->lock);
    machine_free(f->machine);
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        g_autofree char *path = g_build_filename(f->dir, names[i], NULL);
        remove(path);
    }
    remove(f->dir);
    g_free(f->dir);
}

static uint64_t load(Fixture *f, uint64_t addr, unsigned size)
{
    uint64_t value;
    (void)mem_load(f->machine->as, addr, size, &value);
    return value;
}

static void store(Fixture *f, uint64_t addr, unsigned size, uint64_t value)
{
    (void)mem_store(f->machine->as, addr, size, value);
}

static uint8_t cmos(Fixture *f, uint8_t index)
{
    return rtc_get_memory(rtc_of(f->machine), index);
}

static void out(Fixture *f, uint16_t port, unsigned size, uint32_t value)
{
    (void)mem_store(f->machine->io_as, port, size, value);
}

static uint32_t in(Fixture *f, uint16_t port, unsigned size)
{
    uint64_t value;
    (void)mem_load(f->machine->io_as, port, size, &value);
    return (uint32_t)value;
}

static void test_memory(void)
{
    Fixture f;
    build(&f, "pc", 64 * MiB, 1);
    g_assert_cmphex(load(&f, 0xffffffff, 1), ==, 0x5a);
    g_assert_cmphex(load(&f, 0xfffc0000, 1), ==, 4);
    g_assert_cmphex(load(&f, 0xfffff, 1), ==, 0x5a);
    store(&f, 0xfffff, 1, 0); /* ROM */
    g_assert_cmphex(load(&f, 0xfffff, 1), ==, 0x5a);
    store(&f, 0x3fffff8, 8, 0x1122334455667788);
    g_assert_cmphex(load(&f, 0x3fffffc, 4), ==, 0x11223344);
    g_assert_cmphex(load(&f, 0x4000000, 4), ==, 0xffffffff);
    /* 640 KiB, 63 MiB extended, 48 MiB above 16. */
    g_assert_cmpuint(cmos(&f, 0x15) | cmos(&f, 0x16) << 8, ==, 640);
    g_assert_cmpuint(cmos(&f, 0x17) | cmos(&f, 0x18) << 8, ==, 63 * 1024);
    g_assert_cmpuint(cmos(&f, 0x34) | cmos(&f, 0x35) << 8, ==, 48 * 16);
    g_assert_cmphex(cmos(&f, 0x3d), ==, 0x12); /* disk, then floppy */
    g_assert_cmphex(cmos(&f, 0x38), ==, 0x30); /* then CD; look for the floppy's signature */
    g_assert_cmphex(cmos(&f, 0x14), ==, 0x06);
    take_down(&f);
}

/* PIT -> IRQ 0 -> I/O APIC pin 2 -> local APIC, and through the 8259 to LINT0. */
static void test_interrupts(void)
{
    Fixture f;
    build(&f, "pc", 16 * MiB, 2);
    IrqLine *gsi = machine_service(f.machine, PC_GSI_SERVICE);
    Vcpu *first = g_ptr_array_index(f.machine->vcpus, 0), *second = g_ptr_array_index(f.machine->vcpus, 1);
    X86Apic *bsp = x86_cpu_of(first)->apic, *ap = x86_cpu_of(second)->apic;
    g_assert_cmphex(bsp->ops->get_base(bsp), ==, 0xfee00900);
    g_assert_cmphex(ap->ops->get_base(ap), ==, 0xfee00800);

    out(&f, 0x20, 1, 0x11);
    out(&f, 0x21, 1, 0x08);
    out(&f, 0x21, 1, 0x04);
    out(&f, 0x21, 1, 0x01);
    out(&f, 0x21, 1, 0x00);
    irq_set(&gsi[3], 1);
    g_assert_true(bsp->ops->pending(bsp));
    g_assert_false(ap->ops->pending(ap));
    g_assert_cmpint(bsp->ops->take(bsp), ==, 0x0b);
    irq_set(&gsi[3], 0);
    out(&f, 0x20, 1, 0x20);
    out(&f, 0x21, 1, 0xff);

    /* Messages arrive only at an APIC that software enabled: here through the x2APIC registers. */
    g_assert_false(ap->ops->msr_write(ap, 0x80f, 0x1ff));
    x86_cpu_of(second)->features[X86_FEAT_1_ECX] |= BIT(21);
    g_assert_true(ap->ops->set_base(ap, 0xfee00c00));
    g_assert_false(ap->ops->set_base(ap, 0xfee00800)); /* only by way of disabling it */
    g_assert_true(ap->ops->msr_write(ap, 0x80f, 0x1ff));
    store(&f, 0xfec00000, 4, 0x10 + 2 * 4 + 1); /* pin 4: edge, physical, vector 0x51 */
    store(&f, 0xfec00010, 4, 1u << 24);
    store(&f, 0xfec00000, 4, 0x10 + 2 * 4);
    store(&f, 0xfec00010, 4, 0x51);
    irq_pulse(&gsi[4]);
    g_assert_cmpint(ap->ops->take(ap), ==, 0x51);
    g_assert_cmpint(ap->ops->take(ap), ==, -1);
    irq_pulse(&gsi[4]);
    g_assert_false(ap->ops->pending(ap)); /* in service */
    g_assert_true(ap->ops->msr_write(ap, 0x80b, 0));
    g_assert_cmpint(ap->ops->take(ap), ==, 0x51);
    g_assert_true(ap->ops->msr_write(ap, 0x80b, 0));

    /* Level: asserted again after EOI while the line is up. */
    store(&f, 0xfec00000, 4, 0x10 + 2 * 10 + 1);
    store(&f, 0xfec00010, 4, 1u << 24);
    store(&f, 0xfec00000, 4, 0x10 + 2 * 10);
    store(&f, 0xfec00010, 4, 0x8061);
    irq_set(&gsi[10], 1);
    g_assert_cmpint(ap->ops->take(ap), ==, 0x61);
    g_assert_cmphex(load(&f, 0xfec00010, 4) & 0x4000, ==, 0x4000);
    g_assert_true(ap->ops->msr_write(ap, 0x80b, 0));
    g_assert_cmpint(ap->ops->take(ap), ==, 0x61);
    irq_set(&gsi[10], 0);
    g_assert_true(ap->ops->msr_write(ap, 0x80b, 0));
    g_assert_cmpint(ap->ops->take(ap), ==, -1);

    /* Priorities: a raised TPR holds a vector back; a self-IPI; an MSI. */
    ap->ops->set_tpr(ap, 0x70);
    g_assert_true(ap->ops->msr_write(ap, 0x83f, 0x62));
    g_assert_false(ap->ops->pending(ap));
    store(&f, 0xfee01000, 4, 0x0081);
    g_assert_cmpint(ap->ops->take(ap), ==, 0x81);
    g_assert_true(ap->ops->msr_write(ap, 0x80b, 0));
    ap->ops->set_tpr(ap, 0);
    g_assert_cmpint(ap->ops->take(ap), ==, 0x62);

    /* INIT and start-up by ICR, to all but self: the first CPU is asked. */
    g_assert_true(ap->ops->msr_write(ap, 0x830, 0x000c4500));
    g_assert_cmphex(*first->exit_req & VCPU_REQ_INIT, ==, VCPU_REQ_INIT);
    g_assert_true(ap->ops->msr_write(ap, 0x830, 0x0000000000000699));
    g_assert_cmphex(*first->exit_req & VCPU_REQ_SIPI, ==, VCPU_REQ_SIPI);
    g_assert_cmphex(x86_cpu_of(first)->sipi_vector, ==, 0x99);
    take_down(&f);
}

static void test_versions(void)
{
    Fixture f;
    build(&f, "pc-i440fx-2.4", 16 * MiB, 1);
    /* The south bridge answers, and its reset control register. */
    out(&f, 0xcf8, 4, 0x80000800);
    g_assert_cmphex(in(&f, 0xcfc, 4), ==, 0x70008086);
    out(&f, 0xcf8, 4, 0x80000b00);
    g_assert_cmphex(in(&f, 0xcfc, 4), ==, 0x71138086);
    take_down(&f);
}

/* Whatever a guest writes where, the machine stands and can be reset. */
static void test_noise(void)
{
    static const struct {
        uint32_t start, end;
    } ports[] = {
        { 0x00, 0x100 }, { 0x170, 0x178 }, { 0x1f0, 0x1f8 }, { 0x376, 0x377 }, { 0x3b0, 0x3e0 }, { 0x3f0, 0x400 },
        { 0x480, 0x4d2 }, { 0x510, 0x514 }, { 0x600, 0x640 }, { 0xae00, 0xae20 }, { 0xafe0, 0xafe4 }, { 0xcf8, 0xd00 },
    };
    static const struct {
        uint64_t start;
        uint32_t size;
    } pages[] = { { 0xfec00000, 0x50 }, { 0xfed00000, 0x180 }, { 0xfee00000, 0x2000 }, { 0xa0000, 0x20000 } };
    Fixture f;
    build(&f, "pc", 16 * MiB, 2);
    for (unsigned i = 0; i < 60000; i++) {
        unsigned size = 1u << g_test_rand_int_range(0, 3);
        uint32_t value = g_test_rand_bit() ? (uint32_t)g_test_rand_int() : (uint32_t)g_test_rand_int_range(0, 256);
        if (g_test_rand_int_range(0, 4)) {
            unsigned range = g_test_rand_int_range(0, ARRAY_SIZE(ports));
            uint16_t port = g_test_rand_int_range(ports[range].start, ports[range].end);
            g_test_rand_bit() ? out(&f, port, size, value) : (void)in(&f, port, size);
        } else {
            unsigned page = g_test_rand_int_range(0, ARRAY_SIZE(pages));
            uint64_t addr = pages[page].start + (g_test_rand_int_range(0, pages[page].size) & ~(size - 1));
            g_test_rand_bit() ? store(&f, addr, size, value) : (void)load(&f, addr, size);
        }
        if (i % 256 == 0) {
            lock_release(&f.machine->lock);
            for (unsigned round = 0; round < 4 && loop_run_once(f.machine->loop, 0); round++) {
            }
            lock_acquire(&f.machine->lock);
        }
    }
    machine_reset(f.machine, SHUTDOWN_NONE);
    g_assert_cmphex(load(&f, 0xffffffff, 1), ==, 0x5a);
    g_assert_cmphex(in(&f, 0x64, 1) & 0x11, ==, 0x10);
    take_down(&f);
}

static void test_isapc(void)
{
    Fixture f;
    build(&f, "isapc", 8 * MiB, 1);
    Vcpu *cpu = g_ptr_array_index(f.machine->vcpus, 0);
    X86Apic *apic = x86_cpu_of(cpu)->apic;
    g_assert_cmphex(load(&f, 0xfffff, 1), ==, 0x5a);
    g_assert_cmphex(apic->ops->get_base(apic) & 0x800, ==, 0); /* a 486 has none */
    out(&f, 0x20, 1, 0x11);
    out(&f, 0x21, 1, 0x08);
    out(&f, 0x21, 1, 0x04);
    out(&f, 0x21, 1, 0x01);
    out(&f, 0x21, 1, 0x00);
    irq_set(&isa_bus_of(f.machine)->irqs[5], 1);
    g_assert_cmpint(apic->ops->take(apic), ==, 0x0d);
    take_down(&f);
}

static void test_none(void)
{
    Fixture f;
    build(&f, "none", 0, 1);
    g_assert_cmphex(in(&f, 0x60, 1), ==, 0xff);
    take_down(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pc/memory", test_memory);
    g_test_add_func("/pc/interrupts", test_interrupts);
    g_test_add_func("/pc/versions", test_versions);
    g_test_add_func("/pc/noise", test_noise);
    g_test_add_func("/pc/isapc", test_isapc);
    g_test_add_func("/pc/none", test_none);
    return g_test_run();
}
