#include "bus/pci.h"

#include "base/endian.h"
#include "bus/pci_bridge.h"

typedef struct Toy {
    PciDevice pci;
    MemRegion mmio, ports;
    RamBlock *ram;
    uint32_t reg;
    bool msix;
} Toy;

static uint64_t toy_read(void *opaque, uint64_t addr, unsigned size)
{
    return ((Toy *)opaque)->reg + addr;
}

static void toy_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    ((Toy *)opaque)->reg = (uint32_t)value;
}

static const MemOps toy_ops = { .read = toy_read, .write = toy_write };

static Error *toy_plug(Device *dev)
{
    Toy *toy = container_of(dev, Toy, pci.dev);
    device_region_io(dev, &toy->mmio, "toy-mmio", 0x2000, &toy_ops);
    device_region_io(dev, &toy->ports, "toy-ports", 0x20, &toy_ops);
    toy->mmio.opaque = toy->ports.opaque = toy;
    pci_bar(&toy->pci, 0, PCI_BAR_MEM64 | PCI_BAR_PREFETCH, &toy->mmio);
    pci_bar(&toy->pci, 2, PCI_BAR_IO, &toy->ports);
    if (toy->msix) {
        TRY(pci_msix_init(&toy->pci, 3, 3));
        TRY(pci_msi_init(&toy->pci, 4));
    }
    return NULL;
}

static const Prop toy_props[] = { PROP_BOOL("msix", Toy, msix, false), { 0 } };
static const PciIdent toy_ident = { .vendor = 0x1234, .device = 0xabcd, .class_code = 0x020000, .interrupt_pin = 1 };
DEVICE_TYPE(toy, PCI_DEVICE_OBJECT("test-pci-toy", Toy, toy_props), .desc = "Toy", .category = DEV_MISC,
            .bus = &pci_bus_type, .pci = &toy_ident, .plug = toy_plug, .hotplug = true);

static Error *test_bridge_plug(Device *dev)
{
    pci_bridge_init(container_of(dev, PciBridge, pci.dev));
    return NULL;
}
static void test_bridge_unplug(Device *dev)
{
    pci_bridge_fini(container_of(dev, PciBridge, pci.dev));
}
static const PciIdent bridge_ident = { .vendor = 0x1234, .device = 0xb1d6, .class_code = 0x060400 };
DEVICE_TYPE(test_bridge, PCI_DEVICE_OBJECT("test-bridge", PciBridge, NULL), .category = DEV_BRIDGE,
            .bus = &pci_bus_type, .pci = &bridge_ident, .plug = test_bridge_plug, .unplug = test_bridge_unplug);

typedef struct Fixture {
    Machine *machine;
    PciBus bus;
    int irq_level[4];
    uint64_t msi_addr;
    uint32_t msi_data;
    unsigned msi_count;
    MsiSink sink;
} Fixture;

static const MachineType test_machine = { .name = "test", .desc = "test machine" };

static unsigned map_irq(void *opaque, PciDevice *pci, unsigned pin)
{
    return (pin + PCI_SLOT(pci->devfn)) & 3;
}

static void set_irq(void *opaque, unsigned irq, int level)
{
    ((Fixture *)opaque)->irq_level[irq] = level;
}

static void sink_send(void *opaque, uint64_t addr, uint32_t data)
{
    Fixture *f = opaque;
    f->msi_addr = addr;
    f->msi_data = data;
    f->msi_count++;
}

static void setup(Fixture *f, gconstpointer data)
{
    f->machine = machine_new(&test_machine, machine_config_new());
    lock_acquire(&f->machine->lock);
    f->sink = (MsiSink) { sink_send, f };
    machine_set_service(f->machine, "msi", &f->sink);
    pci_bus_init(&f->bus, f->machine, NULL, "pci.0", &f->machine->memory, &f->machine->io);
    f->bus.map_irq = map_irq;
    f->bus.set_irq = set_irq;
    f->bus.irq_opaque = f;
}

static void teardown(Fixture *f, gconstpointer data)
{
    bus_fini(&f->bus.bus);
    lock_release(&f->machine->lock);
    machine_free(f->machine);
}

static Error *try_toy(Fixture *f, const char *addr, bool multi, bool msix, Toy **ret_toy)
{
    Device *dev = device_new(f->machine, device_type_find("test-pci-toy"), NULL);
    if (addr) {
        device_set_str(dev, "addr", addr);
    }
    device_set_str(dev, "multifunction", multi ? "on" : "off");
    device_set_str(dev, "msix", msix ? "on" : "off");
    TRY(device_plug(dev, NULL));
    *ret_toy = container_of(dev, Toy, pci.dev);
    return NULL;
}

static Toy *add_toy(Fixture *f, const char *addr, bool multi, bool msix)
{
    Toy *toy = NULL;
    Error *err = try_toy(f, addr, multi, msix, &toy);
    g_assert_null(err);
    return toy;
}

static void refuse_toy(Fixture *f, const char *addr, const char *message)
{
    Toy *toy = NULL;
    g_autoptr(Error) err = try_toy(f, addr, false, false, &toy);
    g_assert_nonnull(err);
    g_assert_nonnull(strstr(error_message(err), message));
}

static uint32_t cfg_read(Fixture *f, Toy *toy, uint32_t addr, unsigned size)
{
    return pci_config_read(&f->bus, 0, toy->pci.devfn, addr, size);
}

static void cfg_write(Fixture *f, Toy *toy, uint32_t addr, uint32_t value, unsigned size)
{
    pci_config_write(&f->bus, 0, toy->pci.devfn, addr, value, size);
}

static void test_places(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(add_toy(f, NULL, false, false)->pci.devfn, ==, PCI_DEVFN(0, 0));
    g_assert_cmpuint(add_toy(f, "2.0", true, false)->pci.devfn, ==, PCI_DEVFN(2, 0));
    g_assert_cmpuint(add_toy(f, "2.3", false, false)->pci.devfn, ==, PCI_DEVFN(2, 3));
    g_assert_cmpuint(add_toy(f, "0x1f.1", false, false)->pci.devfn, ==, PCI_DEVFN(31, 1));
    g_assert_cmpuint(add_toy(f, NULL, false, false)->pci.devfn, ==, PCI_DEVFN(1, 0));
    refuse_toy(f, "2", "taken by test-pci-toy");
    refuse_toy(f, "1.1", "multifunction=on for the device at function 0");
    refuse_toy(f, "1f.0", "there is a device at 1f.1");
    Device *dev = device_new(f->machine, device_type_find("test-pci-toy"), NULL);
    const char *const bad[] = { "20.0", "1.8", "x", "", "1.", "1.0.0" };
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(Error) err = device_set(dev, "addr", bad[i]);
        g_assert_nonnull(err);
    }
    object_free(&dev->object);
    for (unsigned slot = 3; slot < 31; slot++) {
        add_toy(f, NULL, false, false);
    }
    refuse_toy(f, NULL, "no free slot left");
    g_assert_cmphex(pci_config_read(&f->bus, 0, PCI_DEVFN(2, 1), 0, 4), ==, 0xffffffff);
    g_assert_cmphex(pci_config_read(&f->bus, 1, 0, 0, 4), ==, 0xffffffff);
}

static void test_config(Fixture *f, gconstpointer data)
{
    Toy *toy = add_toy(f, "4", false, false);
    g_assert_cmphex(cfg_read(f, toy, 0, 4), ==, 0xabcd1234);
    g_assert_cmphex(cfg_read(f, toy, 8, 4), ==, 0x02000000);
    g_assert_cmphex(cfg_read(f, toy, 0x2c, 4), ==, 0x11001af4);
    cfg_write(f, toy, 0, 0, 4);
    g_assert_cmphex(cfg_read(f, toy, 0, 2), ==, 0x1234);
    cfg_write(f, toy, PCI_BAR0, 0xffffffff, 4);
    cfg_write(f, toy, PCI_BAR0 + 4, 0xffffffff, 4);
    g_assert_cmphex(cfg_read(f, toy, PCI_BAR0, 4), ==, 0xffffe00c);
    g_assert_cmphex(cfg_read(f, toy, PCI_BAR0 + 4, 4), ==, 0xffffffff);
    cfg_write(f, toy, PCI_BAR0 + 8, 0xffffffff, 4);
    g_assert_cmphex(cfg_read(f, toy, PCI_BAR0 + 8, 4), ==, 0xffffffe1);
    g_assert_cmphex(cfg_read(f, toy, PCI_BAR0 + 12, 4), ==, 0);
    g_assert_cmphex(cfg_read(f, toy, 255, 2), ==, 0xffff); /* beyond the end */
    cfg_write(f, toy, 255, 0xffff, 2);
}

static uint64_t load(AddressSpace *as, uint64_t addr)
{
    uint64_t value = 0;
    (void)mem_load(as, addr, 4, &value);
    return value;
}

static void test_bars(Fixture *f, gconstpointer data)
{
    Toy *toy = add_toy(f, "4", false, false);
    toy->reg = 0x100;
    cfg_write(f, toy, PCI_BAR0, 0xe0000000, 4);
    cfg_write(f, toy, PCI_BAR0 + 8, 0xc100, 4);
    g_assert_cmphex(load(f->machine->as, 0xe0000004), ==, 0xffffffff);
    cfg_write(f, toy, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    g_assert_cmphex(load(f->machine->as, 0xe0000004), ==, 0x104);
    g_assert_cmphex(load(f->machine->io_as, 0xc108), ==, 0xffffffff);
    cfg_write(f, toy, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_IO, 2);
    g_assert_cmphex(load(f->machine->io_as, 0xc108), ==, 0x108);
    cfg_write(f, toy, PCI_BAR0 + 4, 0x10, 4); /* above 4 GiB */
    g_assert_cmphex(load(f->machine->as, 0xe0000004), ==, 0xffffffff);
    g_assert_cmphex(load(f->machine->as, 0x10e0000004), ==, 0x104);
    g_autofree char *text = pci_describe(f->machine);
    g_assert_nonnull(strstr(text, "BAR0: 64 bit prefetchable memory at 0x10e0000000 [0x10e0001fff]."));
    g_assert_nonnull(strstr(text, "BAR2: I/O at 0xc100 [0xc11f]."));
    bus_reset(&f->bus.bus);
    g_assert_cmphex(load(f->machine->as, 0x10e0000004), ==, 0xffffffff);
    g_assert_cmphex(cfg_read(f, toy, PCI_BAR0, 4), ==, 0xc);
}

static void test_intx(Fixture *f, gconstpointer data)
{
    Toy *one = add_toy(f, "4", false, false), *two = add_toy(f, "8", false, false);
    pci_set_irq(&one->pci, 1);
    g_assert_true(f->irq_level[0]);
    g_assert_true(cfg_read(f, one, PCI_STATUS, 2) & 8);
    pci_set_irq(&two->pci, 1);
    pci_set_irq(&two->pci, 1);
    pci_set_irq(&one->pci, 0);
    g_assert_true(f->irq_level[0]);
    cfg_write(f, two, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, 2);
    g_assert_false(f->irq_level[0]);
    g_assert_true(cfg_read(f, two, PCI_STATUS, 2) & 8);
    cfg_write(f, two, PCI_COMMAND, 0, 2);
    g_assert_true(f->irq_level[0]);
    device_unplug(&two->pci.dev);
    g_assert_false(f->irq_level[0]);
}

static void test_msix(Fixture *f, gconstpointer data)
{
    Toy *toy = add_toy(f, "5", false, true);
    AddressSpace *as = f->machine->as;
    unsigned cap = toy->pci.msix_cap;
    cfg_write(f, toy, PCI_BAR0 + 12, 0xe1000000, 4);
    cfg_write(f, toy, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    g_assert_cmphex(cfg_read(f, toy, cap, 1), ==, 0x11);
    g_assert_cmphex(cfg_read(f, toy, cap + 2, 2), ==, 2);
    g_assert_cmphex(load(as, 0xe100000c), ==, 1); /* masked after reset */
    (void)mem_store(as, 0xe1000010, 4, 0xfee01000);
    (void)mem_store(as, 0xe1000018, 4, 0x42);
    pci_msi_notify(&toy->pci, 1);
    g_assert_cmpuint(f->msi_count, ==, 0);
    cfg_write(f, toy, cap + 2, 0x8000, 2);
    pci_msi_notify(&toy->pci, 1);
    g_assert_cmpuint(f->msi_count, ==, 0);
    g_assert_cmphex(load(as, 0xe1000800), ==, 2); /* pending */
    (void)mem_store(as, 0xe100001c, 4, 0);
    g_assert_cmpuint(f->msi_count, ==, 1);
    g_assert_cmphex(f->msi_addr, ==, 0xfee01000);
    g_assert_cmphex(f->msi_data, ==, 0x42);
    g_assert_cmphex(load(as, 0xe1000800), ==, 0);
    cfg_write(f, toy, cap + 2, 0xc000, 2); /* function mask */
    pci_msi_notify(&toy->pci, 1);
    pci_msi_notify(&toy->pci, 99);
    g_assert_cmpuint(f->msi_count, ==, 1);
    cfg_write(f, toy, cap + 2, 0x8000, 2);
    g_assert_cmpuint(f->msi_count, ==, 2);
}

static void test_msi(Fixture *f, gconstpointer data)
{
    Toy *toy = add_toy(f, "5", false, true);
    unsigned cap = toy->pci.msi_cap;
    cfg_write(f, toy, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
    cfg_write(f, toy, cap + 4, 0xfee00003, 4);
    cfg_write(f, toy, cap + 12, 0x1241, 2);
    cfg_write(f, toy, cap + 2, 0x0021, 2); /* four vectors */
    pci_msi_notify(&toy->pci, 2);
    g_assert_cmphex(f->msi_addr, ==, 0xfee00000);
    g_assert_cmphex(f->msi_data, ==, 0x1242);
    cfg_write(f, toy, cap + 16, 4, 4);
    pci_msi_notify(&toy->pci, 2);
    g_assert_cmpuint(f->msi_count, ==, 1);
    g_assert_cmphex(cfg_read(f, toy, cap + 20, 4), ==, 4);
    cfg_write(f, toy, cap + 16, 0, 4);
    g_assert_cmpuint(f->msi_count, ==, 2);
    pci_notify(&toy->pci, 1);
    g_assert_cmpuint(f->msi_count, ==, 3);
}

static void test_dma(Fixture *f, gconstpointer data)
{
    Toy *toy = add_toy(f, "5", false, false);
    RamBlock *block;
    MemRegion ram;
    uint8_t buf[4] = { 1, 2, 3, 4 };
    g_assert_null(ram_block_new(f->machine->mem, "ram", 0x10000, NULL, &block));
    mem_region_init_ram(&ram, "ram", block, 0, 0x10000);
    mem_region_map(&f->machine->memory, 0, &ram, 0);
    g_assert_cmpint(pci_dma_write(&toy->pci, 0x100, buf, 4), !=, MEM_OK);
    g_assert_cmphex(block->host[0x100], ==, 0);
    cfg_write(f, toy, PCI_BAR0, 0xe0000000, 4);
    cfg_write(f, toy, PCI_COMMAND, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY, 2);
    g_assert_cmpint(pci_dma_write(&toy->pci, 0x100, buf, 4), ==, MEM_OK);
    g_assert_cmphex(block->host[0x103], ==, 4);
    g_assert_cmpint(pci_dma_write(&toy->pci, 0xe0000000, buf, 4), ==, MEM_ERROR);
    g_assert_cmphex(toy->reg, ==, 0);
    mem_region_fini(&ram);
}

static void test_state(Fixture *f, gconstpointer data)
{
    Toy *toy = add_toy(f, "5", false, true);
    g_autoptr(GByteArray) saved = g_byte_array_new();
    cfg_write(f, toy, PCI_BAR0, 0xe0000000, 4);
    cfg_write(f, toy, PCI_BAR0 + 12, 0xe1000000, 4);
    cfg_write(f, toy, PCI_COMMAND, 6, 2);
    (void)mem_store(f->machine->as, 0xe1000018, 4, 0x42);
    pci_set_irq(&toy->pci, 1);
    device_save(&toy->pci.dev, saved);
    bus_reset(&f->bus.bus);
    g_assert_cmphex(load(f->machine->as, 0xe0000004), ==, 0xffffffff);
    g_assert_null(device_load(&toy->pci.dev, saved->data, saved->len));
    g_assert_cmphex(load(f->machine->as, 0xe0000004), ==, 4);
    g_assert_cmphex(load(f->machine->as, 0xe1000018), ==, 0x42);
    g_assert_true(f->irq_level[1]);
    /* Cut short, or of another device. */
    for (unsigned length = 0; length < saved->len; length += 7) {
        g_autoptr(Error) err = device_load(&toy->pci.dev, saved->data, length);
        g_assert_nonnull(err);
    }
    uint8_t *id = memmem(saved->data, saved->len, "\x34\x12\xcd\xab", 4);
    id[2]++;
    g_autoptr(Error) err = device_load(&toy->pci.dev, saved->data, saved->len);
    g_assert_nonnull(err);
    pci_set_irq(&toy->pci, 0);
}

static void test_bridge(Fixture *f, gconstpointer data)
{
    AddressSpace *as = f->machine->as;
    uint8_t bridge = PCI_DEVFN(3, 0), behind = PCI_DEVFN(2, 0);
    Device *dev = device_new(f->machine, device_type_find("test-bridge"), "br");
    device_set_str(dev, "addr", "3");
    g_assert_null(device_plug(dev, NULL));
    dev = device_new(f->machine, device_type_find("test-pci-toy"), NULL);
    device_set_str(dev, "addr", "2");
    g_assert_null(device_plug(dev, bus_find(f->machine, "br")));
    Toy *toy = container_of(dev, Toy, pci.dev);
    g_assert_cmphex(pci_config_read(&f->bus, 7, behind, 0, 4), ==, 0xffffffff);
    pci_config_write(&f->bus, 0, bridge, 0x18, 0x00090700, 4); /* secondary 7, subordinate 9 */
    g_assert_cmphex(pci_config_read(&f->bus, 7, behind, 0, 4), ==, 0xabcd1234);
    g_assert_cmphex(pci_config_read(&f->bus, 8, behind, 0, 4), ==, 0xffffffff);
    toy->reg = 0x500;
    pci_config_write(&f->bus, 7, behind, PCI_BAR0, 0xe0100000, 4);
    pci_config_write(&f->bus, 7, behind, PCI_COMMAND, 2, 2);
    g_assert_cmphex(load(as, 0xe0100008), ==, 0xffffffff);
    pci_config_write(&f->bus, 0, bridge, 0x20, 0xe010e010, 4); /* window of 1 MiB */
    pci_config_write(&f->bus, 0, bridge, PCI_COMMAND, 7, 2);
    g_assert_cmphex(load(as, 0xe0100008), ==, 0x508);
    pci_config_write(&f->bus, 0, bridge, 0x20, 0xe020e020, 4);
    g_assert_cmphex(load(as, 0xe0100008), ==, 0xffffffff);
    /* INTA of slot 2 behind slot 3: (0 + 2) on the bridge, (2 + 3) & 3 at the root. */
    pci_set_irq(&toy->pci, 1);
    g_assert_true(f->irq_level[1]);
    pci_set_irq(&toy->pci, 0);
    /* A loop of bus numbers leads nowhere. */
    pci_config_write(&f->bus, 0, bridge, 0x18, 0x00ff0000, 4);
    g_assert_cmphex(pci_config_read(&f->bus, 7, behind, 0, 4), ==, 0xffffffff);
    g_autofree char *text = pci_describe(f->machine);
    g_assert_nonnull(strstr(text, "PCI bridge: PCI device 1234:b1d6"));
    pci_config_write(&f->bus, 0, bridge, 0x20, 0xe010e010, 4);
    bus_reset(&f->bus.bus);
    g_assert_cmphex(load(as, 0xe0100008), ==, 0xffffffff);
}

/* Whatever a guest writes to configuration space must be survived. */
static void test_noise(Fixture *f, gconstpointer data)
{
    Toy *toys[3] = { add_toy(f, "5", true, true), add_toy(f, "5.1", false, true), add_toy(f, "6", false, false) };
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    for (unsigned i = 0; i < 3000; i++) {
        Toy *toy = toys[g_rand_int_range(rand, 0, 3)];
        uint32_t addr = g_rand_int_range(rand, 0, 256);
        cfg_write(f, toy, addr, g_rand_int(rand), 1u << g_rand_int_range(rand, 0, 3));
        cfg_read(f, toy, addr, 4);
        pci_set_irq(&toy->pci, g_rand_boolean(rand));
        pci_msi_notify(&toy->pci, g_rand_int_range(rand, 0, 8));
    }
    bus_reset(&f->bus.bus);
    for (unsigned i = 0; i < 4; i++) {
        g_assert_false(f->irq_level[i]);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add("/pci/" #name, Fixture, NULL, setup, test_##name, teardown)
    ADD(places);
    ADD(config);
    ADD(bars);
    ADD(intx);
    ADD(msix);
    ADD(msi);
    ADD(dma);
    ADD(state);
    ADD(bridge);
    ADD(noise);
    return g_test_run();
}
