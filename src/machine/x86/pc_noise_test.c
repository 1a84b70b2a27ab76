/*
 * A "pc" with every PCI device that needs no back end, against random accesses to ports, configuration space and
 * memory. Nothing is expected but survival; run it under the sanitizers for its worth.
 *
 * Then the state: what such a machine saves, a fresh one loads and saves again the same, byte for byte; and whatever
 * random bytes are put into a saved device, the machine that loads them survives.
 */
#include <glib/gstdio.h>

#include "accel/accel.h"
#include "block/backend.h"
#include "bus/pci.h"
#include "chardev/chardev.h"
#include "migration/machine_state.h"
#include "ui/console.h"

enum { ROUNDS = 400000, HOSTILE_TURNS = 10000, DISK_SIZE = 1 << 20 };

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
    bool everything; /* devices that need back ends, too */
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

static void add_null_chardev(Machine *machine, const char *id)
{
    g_autoptr(KeyValues) kv = keyvalues_new();
    keyvalues_add(kv, "backend", "null");
    keyvalues_add(kv, "id", id);
    must(chardev_add(machine_service(machine, "chardevs"), kv, NULL));
}

static void add_with_back_ends(Noise *noise)
{
    static const char *const serials[] = { "isa-serial", "pci-serial", "pci-serial-2x", "pci-serial-4x", "isa-parallel" };
    static const char *const isa[] = { "isa-debug-exit", "pc-testdev" };
    Machine *machine = noise->machine;

    add_disk(noise, "ide-cd", "ide.1", 0);
    add_disk(noise, "virtio-blk-pci", "pci.0", OPEN_WRITE);
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
        must(device_plug(dev, NULL));
    }
    for (unsigned n = 0; n < G_N_ELEMENTS(isa); n++) {
        if (device_type_find(isa[n])) {
            must(device_plug(device_new(machine, device_type_find(isa[n]), NULL), NULL));
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
    if (!noise->rand) {
        noise->rand = g_rand_new_with_seed(g_test_rand_int());
    }
    noise->dir = g_dir_make_tmp("noise-XXXXXX", NULL);
    noise->disk = g_build_filename(noise->dir, "disk", NULL);
    g_autofree char *zeroes = g_malloc0(DISK_SIZE);
    g_assert_true(g_file_set_contents(noise->disk, zeroes, DISK_SIZE, NULL));
    lock_acquire(&noise->machine->lock);
    noise->graph = block_graph_new(noise->machine->loop);
    machine_set_service(noise->machine, BLOCK_SERVICE, noise->graph);
    machine_set_service(noise->machine, "chardevs",
                        chardevs_new(object_container_at(noise->machine->root, "/chardevs"), noise->machine->loop));
    add_accel(noise->machine);
    must(type->build(noise->machine));
    add_devices(noise->machine);
    add_disk(noise, "ide-hd", "ide.0", OPEN_WRITE);
    if (noise->everything) {
        add_with_back_ends(noise);
    }
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

static void tear_down(Noise *noise)
{
    g_unlink(noise->disk);
    g_rmdir(noise->dir);
    g_free(noise->disk);
    g_free(noise->dir);
    /* Devices first, then the back ends that they used, then the loop that those ran on. */
    mem_update_begin(noise->machine->mem);
    for (Device *dev; (dev = g_queue_peek_tail(noise->machine->device_order));) {
        object_unparent(&dev->object);
    }
    mem_update_end(noise->machine->mem);
    chardevs_free(machine_service(noise->machine, "chardevs"));
    lock_release(&noise->machine->lock);
    block_graph_free(noise->graph);
    machine_free(noise->machine);
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
    g_rand_free(noise.rand);
    tear_down(&noise);
}

/* --- state --- */

static Error *to_array(void *opaque, const void *data, size_t length)
{
    g_byte_array_append(opaque, data, (guint)length);
    return NULL;
}

typedef struct Source {
    const GByteArray *bytes;
    size_t at;
} Source;

static Error *from_array(void *opaque, void *data, size_t length)
{
    Source *source = opaque;
    if (source->bytes->len - source->at < length) {
        return error_new("the saved state ends too early");
    }
    memcpy(data, source->bytes->data + source->at, length);
    source->at += length;
    return NULL;
}

static GByteArray *save(Machine *machine)
{
    GByteArray *out = g_byte_array_new();
    StreamWriter w;
    stream_writer_init(&w, to_array, out);
    must(stream_write_header(&w));
    must(state_write_machine(machine, &w));
    must(state_write_devices(machine, RUN_STATE_PAUSED, &w));
    RamSaver *ram = ram_saver_new(machine, false);
    must(ram_saver_send(ram, &w, UINT32_MAX));
    ram_saver_free(ram);
    must(state_write_end(&w, false));
    stream_writer_fini(&w);
    return out;
}

static MUST_USE Error *load(Machine *machine, const GByteArray *bytes)
{
    Source source = { bytes, 0 };
    StreamReader r;
    RunState state;
    StateLoader *loader = state_loader_new(machine);
    stream_reader_init(&r, from_array, &source);
    Error *err = state_loader_read(loader, &r);
    if (!err) {
        err = state_loader_finish(loader, &state);
    }
    stream_reader_fini(&r);
    state_loader_free(loader);
    return err;
}

/* Each device by itself, so that a difference has a name. */
static unsigned compare_devices(Machine *a, Machine *b)
{
    unsigned devices = 0;
    Device *other = NULL;
    for (Device *dev = NULL; (dev = machine_device_next(a, dev));) {
        g_autoptr(GByteArray) x = g_byte_array_new(), y = g_byte_array_new();
        other = machine_device_next(b, other);
        device_save(dev, x);
        device_save(other, y);
        if (x->len != y->len || memcmp(x->data, y->data, x->len)) {
            guint at = 0;
            while (at < x->len && at < y->len && x->data[at] == y->data[at]) {
                at++;
            }
            g_autoptr(GString) near = g_string_new(NULL);
            for (guint i = at > 60 ? at - 60 : 0; i < MIN(at + 20, x->len); i++) {
                g_string_append_c(near, g_ascii_isprint(x->data[i]) ? (char)x->data[i] : ' ');
            }
            g_error("%s: saved again, byte %u of %u differs: near '%s'", dev->object.type->name, at, x->len, near->str);
        }
        devices++;
    }
    return devices;
}

static void make_noise(Noise *noise, unsigned rounds, int64_t *now)
{
    for (unsigned round = 0; round < rounds; round++) {
        one_round(noise);
        if (round % 16 == 0) {
            *now += dice(noise, 1000000);
            clocks_set_virtual(noise->machine->clocks, *now);
            lock_release(&noise->machine->lock);
            loop_run_once(noise->machine->loop, 0);
            lock_acquire(&noise->machine->lock);
        }
    }
}

/* The noise may have ejected cards. */
static void unplug_what_went(Machine *one, Machine *two)
{
    for (Device *dev = machine_device_next(two, NULL), *next; dev; dev = next) {
        g_autofree char *path = object_path(&dev->object);
        next = machine_device_next(two, dev);
        if (!device_find(one, path)) {
            device_unplug(dev);
        }
    }
}

static void test_saved(void)
{
    Noise one = { .everything = true };
    int64_t now = 0;
    if (!setup(&one)) {
        g_test_skip("SeaBIOS is not installed");
        return;
    }
    for (unsigned turn = 0; turn < 8; turn++) {
        make_noise(&one, 2000 * turn, &now);
        Noise two = { .everything = true, .rand = one.rand };
        g_autoptr(GByteArray) first = save(one.machine);
        lock_release(&one.machine->lock);
        g_assert_true(setup(&two));
        unplug_what_went(one.machine, two.machine);
        must(load(two.machine, first));
        g_autoptr(GByteArray) second = save(two.machine);
        unsigned devices = compare_devices(one.machine, two.machine);
        if (first->len != second->len || memcmp(first->data, second->data, first->len)) {
            g_error("saved again, the machine is not the same");
        }
        if (turn == 0) {
            g_test_message("%u devices, %u bytes", devices, first->len);
        }
        tear_down(&two);
        lock_acquire(&one.machine->lock);
    }
    g_rand_free(one.rand);
    tear_down(&one);
}

/* Rows of a random device with random bytes in them: refused or taken, and the machine goes on. */
static void test_hostile(void)
{
    Noise noise = { .everything = true };
    int64_t now = 0;
    unsigned refused = 0;
    if (!setup(&noise)) {
        g_test_skip("SeaBIOS is not installed");
        return;
    }
    for (unsigned turn = 0; turn < HOSTILE_TURNS; turn++) {
        Device *dev = g_queue_peek_nth(noise.machine->device_order, dice(&noise, g_queue_get_length(noise.machine->device_order)));
        g_autoptr(GByteArray) rows = g_byte_array_new();
        device_save(dev, rows);
        for (unsigned n = dice(&noise, 4) + 1; n > 0 && rows->len > 4; n--) {
            rows->data[4 + dice(&noise, rows->len - 4)] = (uint8_t)g_rand_int(noise.rand);
        }
        Error *err = device_load(dev, rows->data, rows->len);
        refused += err != NULL;
        if (err) { /* the real program ends here */
            error_free(err);
            machine_reset(noise.machine, SHUTDOWN_NONE);
        }
        make_noise(&noise, 20, &now);
    }
    g_test_message("%u of %d were refused", refused, HOSTILE_TURNS);
    g_rand_free(noise.rand);
    tear_down(&noise);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pc/saved", test_saved);
    g_test_add_func("/pc/hostile", test_hostile);
    g_test_add_func("/pc/noise", test_noise);
    return g_test_run();
}
