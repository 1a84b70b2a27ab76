/* The pc of noise tests; see test_pc.h. */
#include "machine/x86/test_pc.h"

#include <glib/gstdio.h>

#include "accel/accel.h"
#include "bus/pci.h"
#include "chardev/chardev.h"
#include "hw/test_util.h"
#include "migration/machine_state.h"

enum { DISK_SIZE = 1 << 20, PCI_EJECT = 0xae00, TESTDEV_IRQS = 0x2000 };

/* Ports where something interesting lives; accesses go up to 16 beyond. */
static const uint16_t ports[] = {
    0x000, 0x020, 0x040, 0x060, 0x070, 0x081, 0x092, 0x0a0, 0x0b2, 0x0c0, 0x170, 0x1ce, 0x1f0, 0x3b0, 0x376,
    0x3c0, 0x3d0, 0x3f0, 0x510, 0x600, 0x700, 0xcf8, 0xae00, 0xafe0, 0xc000,
};

static void add_disk(TestPc *pc, const char *type, const char *bus, unsigned flags)
{
    BlockBackend *blk = test_drive(pc->machine, pc->graph, type, pc->disk, flags);
    Device *dev = device_new(pc->machine, device_type_find(type), NULL);
    device_set_str(dev, "drive", type);
    device_set_str(dev, "share-rw", "on");
    error_never(device_plug(dev, bus_find(pc->machine, bus)));
    blk_unref(blk);
}

/* Types that want a back end or are made by the board refuse; the rest stay. */
static void add_devices(Machine *machine)
{
    g_autofree const DeviceType **all = device_types_sorted();
    for (unsigned i = 0; all[i]; i++) {
        if (all[i]->bus == &pci_bus_type && all[i]->category != DEV_INTERNAL &&
            !g_str_has_suffix(all[i]->object.name, "-ide")) {
            error_free(device_plug(device_new(machine, all[i], NULL), NULL));
        }
    }
}

static void add_null_chardev(Machine *machine, const char *id)
{
    g_autoptr(KeyValues) kv = keyvalues_new();
    keyvalues_add(kv, "backend", "null");
    keyvalues_add(kv, "id", id);
    error_never(chardev_add(machine_service(machine, "chardevs"), kv, NULL));
}

static void add_with_back_ends(TestPc *pc)
{
    static const char *const serials[] = { "isa-serial", "pci-serial", "pci-serial-2x", "pci-serial-4x", "isa-parallel" };
    static const char *const isa[] = { "isa-debug-exit", "pc-testdev" };
    Machine *machine = pc->machine;

    add_disk(pc, "ide-cd", "ide.1", 0);
    add_disk(pc, "virtio-blk-pci", "pci.0", OPEN_WRITE);
    for (unsigned n = 0; n < G_N_ELEMENTS(serials); n++) {
        const DeviceType *type = device_type_find(serials[n]);
        if (!type) {
            continue;
        }
        Device *dev = device_new(machine, type, NULL);
        for (unsigned i = 1; i <= 4; i++) {
            g_autofree char *prop = i == 1 ? g_strdup("chardev") : NULL;
            g_autofree char *numbered = g_strdup_printf("chardev%u", i), *id = g_strdup_printf("c%u%u", n, i);
            const char *name = prop && object_prop_find(dev->object.type, prop) ? prop : numbered;
            if (object_prop_find(dev->object.type, name)) {
                add_null_chardev(machine, id);
                device_set_str(dev, name, id);
            }
        }
        error_never(device_plug(dev, NULL));
    }
    for (unsigned n = 0; n < G_N_ELEMENTS(isa); n++) {
        if (device_type_find(isa[n])) {
            error_never(device_plug(device_new(machine, device_type_find(isa[n]), NULL), NULL));
        }
    }
}

bool test_pc_setup(TestPc *pc)
{
    MachineConfig *config = machine_config_new();
    const MachineType *type;
    g_autofree char *bios = NULL;
    config->ram_size = 16 * MiB;
    g_ptr_array_add(config->data_dirs, g_strdup("/usr/share/seabios"));
    error_never(machine_type_lookup("pc", &type));
    pc->machine = machine_new(type, config);
    g_autoptr(Error) missing = machine_find_file(pc->machine, "bios-256k.bin", &bios);
    if (missing) {
        machine_free(pc->machine);
        return false;
    }
    if (!pc->rand) {
        pc->rand = g_rand_new_with_seed(g_test_rand_int());
    }
    pc->dir = g_dir_make_tmp("noise-XXXXXX", NULL);
    pc->disk = g_build_filename(pc->dir, "disk", NULL);
    g_autofree char *zeroes = g_malloc0(DISK_SIZE);
    g_assert_true(g_file_set_contents(pc->disk, zeroes, DISK_SIZE, NULL));
    lock_acquire(&pc->machine->lock);
    pc->graph = block_graph_new(pc->machine->loop);
    machine_set_service(pc->machine, BLOCK_SERVICE, pc->graph);
    machine_set_service(pc->machine, "chardevs",
                        chardevs_new(object_container_at(pc->machine->root, "/chardevs"), pc->machine->loop));
    error_never(accel_start(accel_new(pc->machine, accel_type_find("tcg"))));
    error_never(type->build(pc->machine));
    add_devices(pc->machine);
    add_disk(pc, "ide-hd", "ide.0", OPEN_WRITE);
    if (pc->everything) {
        add_with_back_ends(pc);
    }
    machine_reset(pc->machine, SHUTDOWN_NONE);
    return true;
}

unsigned test_pc_dice(TestPc *pc, unsigned sides)
{
    return (unsigned)g_rand_int_range(pc->rand, 0, (int)sides);
}

/* The registers by which a guest ejects a card. */
static bool ejects(const TestPc *pc, const AddressSpace *as, uint64_t addr)
{
    return as == pc->machine->io_as && addr + 8 > PCI_EJECT && addr < PCI_EJECT + 0x18;
}

/* By which pc-testdev drives lines that are others': a loaded device would set its own again. */
static bool drives_lines(const TestPc *pc, const AddressSpace *as, uint64_t addr)
{
    return as == pc->machine->io_as && addr + 8 > TESTDEV_IRQS && addr < TESTDEV_IRQS + 24;
}

static void access_at(TestPc *pc, AddressSpace *as, uint64_t addr)
{
    if (drives_lines(pc, as, addr) || (pc->keeps_cards && ejects(pc, as, addr))) {
        return;
    }
    unsigned size = 1u << test_pc_dice(pc, 3);
    uint64_t value = g_rand_int(pc->rand);
    if (test_pc_dice(pc, 3)) {
        (void)mem_store(as, addr, size, test_pc_dice(pc, 3) ? value : value & 0xff);
    } else {
        (void)mem_load(as, addr, size, &value);
    }
}

static void access_config(TestPc *pc)
{
    AddressSpace *io = pc->machine->io_as;
    uint32_t devfn = test_pc_dice(pc, 256), reg = test_pc_dice(pc, 2) ? test_pc_dice(pc, 0x40) : test_pc_dice(pc, 0x100);
    (void)mem_store(io, 0xcf8, 4, 0x80000000u | devfn << 8 | (reg & 0xfc));
    access_at(pc, io, 0xcfc + test_pc_dice(pc, 4));
}

static void access_bar(TestPc *pc)
{
    PciDevice *pci = pci_find(pci_bus_of(pc->machine), 0, (uint8_t)test_pc_dice(pc, 256));
    for (unsigned n = 0; pci && n < PCI_BARS; n++) {
        const struct PciBar *bar = &pci->bar[n];
        if (bar->region && bar->addr != UINT64_MAX) {
            access_at(pc, bar->type & PCI_BAR_IO ? pc->machine->io_as : pc->machine->as,
                      bar->addr + g_rand_int(pc->rand) % bar->size);
        }
    }
}

static void scribble(TestPc *pc)
{
    uint8_t bytes[64];
    for (unsigned i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)g_rand_int(pc->rand);
    }
    (void)mem_write(pc->machine->as, g_rand_int(pc->rand) & 0xffffff, bytes, sizeof(bytes));
}

void test_pc_access(TestPc *pc)
{
    Machine *machine = pc->machine;
    switch (test_pc_dice(pc, 8)) {
    case 0:
    case 1:
        access_at(pc, machine->io_as, ports[test_pc_dice(pc, G_N_ELEMENTS(ports))] + test_pc_dice(pc, 16));
        break;
    case 2:
        access_at(pc, machine->io_as, test_pc_dice(pc, 0x10000));
        break;
    case 3:
        access_config(pc);
        break;
    case 4:
        access_at(pc, machine->as, 0xa0000 + test_pc_dice(pc, 0x60000));
        break;
    case 5:
        access_at(pc, machine->as, g_rand_int(pc->rand));
        break;
    case 6:
        access_bar(pc);
        break;
    default:
        scribble(pc);
        break;
    }
}

void test_pc_noise(TestPc *pc, unsigned rounds, int64_t *now)
{
    for (unsigned round = 0; round < rounds; round++) {
        test_pc_access(pc);
        if (round % 16 == 0) {
            *now += test_pc_dice(pc, 1000000);
            clocks_set_virtual(pc->machine->clocks, *now);
            lock_release(&pc->machine->lock);
            loop_run_once(pc->machine->loop, 0);
            lock_acquire(&pc->machine->lock);
        }
    }
}

void test_pc_tear_down(TestPc *pc)
{
    g_unlink(pc->disk);
    g_rmdir(pc->dir);
    g_free(pc->disk);
    g_free(pc->dir);
    /* What the last accesses asked for is not carried out on half a machine. */
    machine_hold(pc->machine, RUN_STATE_SHUTDOWN);
    /* Devices first, then the back ends that they used, then the loop that those ran on. */
    mem_update_begin(pc->machine->mem);
    for (Device *dev; (dev = g_queue_peek_tail(pc->machine->device_order));) {
        object_unparent(&dev->object);
    }
    mem_update_end(pc->machine->mem);
    chardevs_free(machine_service(pc->machine, "chardevs"));
    lock_release(&pc->machine->lock);
    block_graph_free(pc->graph);
    machine_free(pc->machine);
}

/* --- state --- */

GByteArray *test_pc_save(Machine *machine)
{
    GByteArray *out = g_byte_array_new();
    StreamWriter w;
    stream_writer_init_array(&w, out);
    error_never(stream_write_header(&w));
    error_never(state_write_machine(machine, &w));
    error_never(state_write_devices(machine, RUN_STATE_PAUSED, &w));
    RamSaver *ram = ram_saver_new(machine, false);
    error_never(ram_saver_send(ram, &w, UINT32_MAX));
    ram_saver_free(ram);
    error_never(state_write_end(&w, false));
    stream_writer_fini(&w);
    return out;
}

Error *test_pc_load(Machine *machine, const GByteArray *bytes)
{
    StreamBytes source = { .data = bytes->data, .length = bytes->len };
    StreamReader r;
    RunState state;
    StateLoader *loader = state_loader_new(machine);
    stream_reader_init_bytes(&r, &source);
    Error *err = state_loader_read(loader, &r);
    if (!err) {
        err = state_loader_finish(loader, &state);
    }
    stream_reader_fini(&r);
    state_loader_free(loader);
    return err;
}
