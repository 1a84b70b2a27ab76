/*
 * A "pc" with every PCI device that needs no back end, against random accesses to ports, configuration space and
 * memory. Nothing is expected but survival; run it under the sanitizers for its worth.
 */
#include <glib/gstdio.h>

#include "accel/accel.h"
#include "block/backend.h"
#include "bus/pci.h"
#include "ui/console.h"

enum { ROUNDS = 400000, DISK_SIZE = 1 << 20 };

/* Ports where something interesting lives; accesses go up to 16 beyond. */
static const uint16_t ports[] = {
    0x000, 0x020, 0x040, 0x060, 0x070, 0x081, 0x092, 0x0a0, 0x0b2, 0x0c0, 0x170, 0x1ce, 0x1f0, 0x3b0, 0x376,
    0x3c0, 0x3d0, 0x3f0, 0x510, 0x600, 0x700, 0xcf8, 0xae00, 0xafe0, 0xc000,
};

typedef struct Noise {
    Machine *machine;
    BlockGraph *graph;
    char *dir, *disk;
    GRand *rand;
} Noise;

static void must(Error *err)
{
    if (err) {
        g_error("%s", error_message(err));
    }
}

static void add_accel(Machine *machine)
{
    const AccelType *type = accel_type_find("tcg");
    Accel *accel = g_malloc0(type->size);
    accel->type = type;
    accel->machine = machine;
    for (const Prop *prop = type->props; prop && prop->name; prop++) {
        prop->kind->set_default((Object *)accel, prop);
    }
    machine->accel = accel;
    machine->accel_type = type;
    must(type->init(accel));
}

static void add_disk(Noise *noise, const char *type, const char *bus, unsigned flags)
{
    BlockNode *node;
    BlockBackend *blk = blk_new(noise->graph, type);
    lock_release(&noise->machine->lock);
    must(block_open_file(noise->graph, noise->disk, "raw", flags, NULL, &node));
    must(blk_insert(blk, node));
    lock_acquire(&noise->machine->lock);
    node_unref(node);
    Device *dev = device_new(noise->machine, device_type_find(type), NULL);
    device_set_str(dev, "drive", type);
    device_set_str(dev, "share-rw", "on");
    must(device_plug(dev, bus_find(noise->machine, bus)));
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

static bool setup(Noise *noise)
{
    MachineConfig *config = machine_config_new();
    const MachineType *type;
    g_autofree char *bios = NULL;
    config->ram_size = 16 * MiB;
    g_ptr_array_add(config->data_dirs, g_strdup("/usr/share/seabios"));
    must(machine_type_lookup("pc", &type));
    noise->machine = machine_new(type, config);
    g_autoptr(Error) missing = machine_find_file(noise->machine, "bios-256k.bin", &bios);
    if (missing) {
        machine_free(noise->machine);
        return false;
    }
    noise->rand = g_rand_new_with_seed(g_test_rand_int());
    noise->dir = g_dir_make_tmp("noise-XXXXXX", NULL);
    noise->disk = g_build_filename(noise->dir, "disk", NULL);
    g_autofree char *zeroes = g_malloc0(DISK_SIZE);
    g_assert_true(g_file_set_contents(noise->disk, zeroes, DISK_SIZE, NULL));
    lock_acquire(&noise->machine->lock);
    noise->graph = block_graph_new(noise->machine->loop);
    machine_set_service(noise->machine, BLOCK_SERVICE, noise->graph);
    add_accel(noise->machine);
    must(type->build(noise->machine));
    add_devices(noise->machine);
    add_disk(noise, "ide-hd", "ide.0", OPEN_WRITE);
    machine_reset(noise->machine, SHUTDOWN_NONE);
    return true;
}

static unsigned dice(Noise *noise, unsigned sides)
{
    return (unsigned)g_rand_int_range(noise->rand, 0, (int)sides);
}

static void access_at(Noise *noise, AddressSpace *as, uint64_t addr)
{
    unsigned size = 1u << dice(noise, 3);
    uint64_t value = g_rand_int(noise->rand);
    if (dice(noise, 3)) {
        (void)mem_store(as, addr, size, dice(noise, 3) ? value : value & 0xff);
    } else {
        (void)mem_load(as, addr, size, &value);
    }
}

static void access_config(Noise *noise)
{
    AddressSpace *io = noise->machine->io_as;
    uint32_t devfn = dice(noise, 256), reg = dice(noise, 2) ? dice(noise, 0x40) : dice(noise, 0x100);
    (void)mem_store(io, 0xcf8, 4, 0x80000000u | devfn << 8 | (reg & 0xfc));
    access_at(noise, io, 0xcfc + dice(noise, 4));
}

static void access_bar(Noise *noise)
{
    PciDevice *pci = pci_find(pci_bus_of(noise->machine), 0, (uint8_t)dice(noise, 256));
    for (unsigned n = 0; pci && n < PCI_BARS; n++) {
        const struct PciBar *bar = &pci->bar[n];
        if (bar->region && bar->addr != UINT64_MAX) {
            access_at(noise, bar->type & PCI_BAR_IO ? noise->machine->io_as : noise->machine->as,
                      bar->addr + g_rand_int(noise->rand) % bar->size);
        }
    }
}

static void scribble(Noise *noise)
{
    uint8_t bytes[64];
    for (unsigned i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)g_rand_int(noise->rand);
    }
    (void)mem_write(noise->machine->as, g_rand_int(noise->rand) & 0xffffff, bytes, sizeof(bytes));
}

static void one_round(Noise *noise)
{
    Machine *machine = noise->machine;
    switch (dice(noise, 8)) {
    case 0:
    case 1:
        access_at(noise, machine->io_as, ports[dice(noise, G_N_ELEMENTS(ports))] + dice(noise, 16));
        break;
    case 2:
        access_at(noise, machine->io_as, dice(noise, 0x10000));
        break;
    case 3:
        access_config(noise);
        break;
    case 4:
        access_at(noise, machine->as, 0xa0000 + dice(noise, 0x60000));
        break;
    case 5:
        access_at(noise, machine->as, g_rand_int(noise->rand));
        break;
    case 6:
        access_bar(noise);
        break;
    default:
        scribble(noise);
        break;
    }
}

/* Large pictures take long and prove nothing more. */
static void look(Noise *noise)
{
    for (unsigned n = 0; n < console_count(noise->machine); n++) {
        Console *console = console_find(noise->machine, n);
        if (console && console->surface->width * console->surface->height < 1000000) {
            console_refresh(console);
        }
    }
}

static void test_noise(void)
{
    Noise noise = { 0 };
    if (!setup(&noise)) {
        g_test_skip("SeaBIOS is not installed");
        return;
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        one_round(&noise);
        if (round % 64 == 0) {
            lock_release(&noise.machine->lock);
            loop_run_once(noise.machine->loop, 0);
            lock_acquire(&noise.machine->lock);
        }
        if (round % 5000 == 0) {
            look(&noise);
        }
        if (round % 20000 == 19999) {
            machine_reset(noise.machine, SHUTDOWN_HOST_QMP_SYSTEM_RESET);
        }
    }
    g_autofree char *text = pci_describe(noise.machine);
    g_assert_nonnull(strstr(text, "8086:1237"));
    g_unlink(noise.disk);
    g_rmdir(noise.dir);
    g_rand_free(noise.rand);
    g_free(noise.disk);
    g_free(noise.dir);
    /* Devices first, then the back ends that they used, then the loop that those ran on. */
    mem_update_begin(noise.machine->mem);
    for (Device *dev; (dev = g_queue_peek_tail(noise.machine->device_order));) {
        object_unparent(&dev->object);
    }
    mem_update_end(noise.machine->mem);
    lock_release(&noise.machine->lock);
    block_graph_free(noise.graph);
    machine_free(noise.machine);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pc/noise", test_noise);
    return g_test_run();
}
