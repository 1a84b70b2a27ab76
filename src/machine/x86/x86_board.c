/*
 * The common part of PC boards. An ISA interrupt n reaches the 8259 pair and the I/O APIC's pin n, but
 * for the timer, whose line is pin 2.
 */
#include "machine/x86/x86_board.h"

#include "accel/accel.h"
#include "cpu/x86/vcpu_x86.h"
#include "firmware/bootorder.h"
#include "firmware/fw_cfg.h"
#include "hw/acpi/cpu_hotplug.h"
#include "hw/acpi/memory_hotplug.h"
#include "firmware/kernel.h"
#include "hostmem/hostmem.h"
#include "hw/misc/pc_lines.h"

enum { BIOS_UNIT = 64 * 1024, BIOS_MAX = 16 * 1024 * 1024, BIOS_LOW_MAX = 128 * 1024 };

/* --- lines --- */

static void board_set_gsi(void *opaque, int n, int level)
{
    X86Board *board = opaque;
    if (n < 16 && board->pic) {
        i8259_set_irq(board->pic, n, level);
    }
    if (board->ioapic) {
        ioapic_set_irq(board->ioapic, n == 0 ? 2 : n, level);
    }
}

static bool board_edge_waits(void *opaque, unsigned n)
{
    X86Board *board = opaque;
    if (board->machine->accel_type && !board->machine->accel_type->vcpu_thread) {
        return false; /* no CPU will ever take it (-accel qtest) */
    }
    return (n < 16 && board->pic && i8259_edge_waits(board->pic, (int)n)) ||
           (board->ioapic && ioapic_edge_waits(board->ioapic, n == 0 ? 2 : n));
}

static void board_list_watch(void *opaque, PcEdgeWatch *watch)
{
    X86Board *board = opaque;
    unsigned n = atomic_load(&board->edge_watches);
    assert(n < ARRAY_SIZE(board->edge_watch)); /* the HPET's timers and the 8254 */
    board->edge_watch[n] = watch;
    atomic_store(&board->edge_watches, n + 1);
}

/* A CPU has taken a vector: timers that wait to send the next edge do it now, however late the main loop is. */
static void board_vector_taken(void *opaque)
{
    X86Board *board = opaque;
    for (unsigned n = 0, count = atomic_load(&board->edge_watches); n < count; n++) {
        PcEdgeWatch *watch = board->edge_watch[n];
        if (atomic_load(&watch->armed) && !board_edge_waits(board, atomic_load(&watch->gsi)) && atomic_exchange(&watch->armed, false)) {
            watch->taken(watch->opaque);
        }
    }
}

static void board_set_a20(void *opaque, int n, int level)
{
    X86Board *board = opaque;
    board->a20_closed = !level;
    for (guint i = 0; i < board->machine->vcpus->len; i++) {
        x86_set_a20(x86_cpu_of(g_ptr_array_index(board->machine->vcpus, i)), level);
    }
}

static void board_smi(void *opaque, int n, int level)
{
    X86Board *board = opaque;
    if (level && board->machine->vcpus->len) {
        Vcpu *self = vcpu_self();
        vcpu_kick(self ? self : g_ptr_array_index(board->machine->vcpus, 0), VCPU_REQ_SMI);
    }
}

/* Disks may have come or gone since the last boot. */
static void refresh_boot_order(X86Board *board)
{
    Error *err = board->machine->fw_cfg ? bootorder_publish(board->machine) : NULL;
    if (err) {
        error_report(err); /* the old order stays */
    }
}

void x86_board_refresh_tables(X86Board *board)
{
    Error *err = pc_firmware_refresh(board->machine, &board->firmware);

    if (err) {
        error_report(err); /* a file of -acpitable is gone: the guest keeps the old tables */
    }
    if (board->tables_wanted && board->machine->fw_cfg) {
        fw_cfg_on_select(board->machine->fw_cfg, ACPI_LOADER_FILE, board->tables_wanted, board);
    }
}

/* Firmware finds out from the shutdown byte that it wakes up from S3. */
static void board_event(MachineNotifier *notifier, MachineEvent event, void *data)
{
    enum { CMOS_SHUTDOWN = 0x0f, SHUTDOWN_S3 = 0xfe };
    X86Board *board = container_of(notifier, X86Board, notifier);
    if (!board->rtc) {
        return;
    }
    if (event == MACHINE_EVENT_SUSPEND) {
        rtc_set_memory(board->rtc, CMOS_SHUTDOWN, SHUTDOWN_S3);
    } else if (event == MACHINE_EVENT_RESET && *(const ShutdownCause *)data != SHUTDOWN_NONE &&
               rtc_get_memory(board->rtc, CMOS_SHUTDOWN) == SHUTDOWN_S3) {
        rtc_set_memory(board->rtc, CMOS_SHUTDOWN, 0); /* reset in S3: an ordinary boot */
    }
    if (event == MACHINE_EVENT_RESET && *(const ShutdownCause *)data != SHUTDOWN_NONE) {
        refresh_boot_order(board);
    }
    if (event == MACHINE_EVENT_RESET && *(const ShutdownCause *)data != SHUTDOWN_NONE && board->parts_changed) {
        board->parts_changed = false;
        x86_board_refresh_tables(board);
    }
}

/* --- memory --- */

/* Takes the board's regions down when the machine goes, after all devices. */
typedef struct BoardParts {
    Object object;
    X86Board *board;
} BoardParts;

static void board_parts_finalize(Object *obj)
{
    X86Board *board = ((BoardParts *)obj)->board;
    if (board) {
        mem_region_fini(&board->bios_low);
        mem_region_fini(&board->bios);
        mem_region_fini(&board->device_memory.region);
        mem_region_fini(&board->ram);
        for (unsigned n = 0; board->node_ram && n < NUMA_NODES; n++) {
            mem_region_fini(&board->node_ram[n]);
        }
        g_free(board->node_ram);
    }
}

static const ObjectType board_parts_type = {
    .name = "x86-board-parts", .size = sizeof(BoardParts), .finalize = board_parts_finalize,
};

/* One block, or one of each NUMA node that has an object for it. */
static MUST_USE Error *make_ram(X86Board *board, uint64_t size)
{
    Machine *machine = board->machine;
    const Numa *numa = &machine->config->numa;
    const char *id = machine->type->ram_id ? machine->type->ram_id : "ram";
    uint64_t at = 0;
    RamBlock *block;

    if (numa->count == 0 || !numa->nodes[0]->memdev) {
        TRY(main_memory_new(machine, id, size, &block));
        mem_region_init_ram(&board->ram, id, block, 0, size);
        return NULL;
    }
    mem_region_init(&board->ram, machine->mem, id, size);
    board->node_ram = g_new0(MemRegion, NUMA_NODES);
    for (unsigned n = 0; n < numa->count; n++) {
        const NumaNode *node = numa->nodes[n];
        HostMemory *memory;
        if (!node->memdev) {
            continue;
        }
        if (at == 0 && node->size < 2 * MiB) {
            return error_new("-numa: the first node needs 2 MiB of memory at least");
        }
        TRY(host_memory_find(machine, node->memdev, &memory));
        TRY(host_memory_take(memory, machine->mem, &block));
        mem_region_init_ram(&board->node_ram[n], node->memdev, block, 0, node->size);
        mem_region_map(&board->ram, at, &board->node_ram[n], 0);
        at += node->size;
    }
    return NULL;
}

Error *x86_board_init(Machine *machine, uint64_t below_4g_max)
{
    X86Board *board = x86_board(machine);
    uint64_t size = machine->config->ram_size;
    board->machine = machine;
    board->below_4g = MIN(size, below_4g_max);
    board->above_4g = size - board->below_4g;
    for (unsigned n = 0; n < IOAPIC_PINS; n++) {
        irq_line_init(&board->gsi[n], board_set_gsi, board, n);
    }
    irq_line_init(&board->a20, board_set_a20, board, 0);
    irq_line_init(&board->smi, board_smi, board, 0);
    machine_set_service(machine, PC_A20_SERVICE, &board->a20);
    machine_set_service(machine, PC_GSI_SERVICE, board->gsi);
    board->edge_waits = (PcEdgeWaits) { board_edge_waits, board, board_list_watch };
    machine_set_service(machine, PC_EDGE_WAITS_SERVICE, &board->edge_waits);
    BoardParts *parts = (BoardParts *)object_new(&board_parts_type);
    parts->board = board;
    object_add_child(machine->object, "board", &parts->object);
    board->notifier.fn = board_event;
    machine_notifier_add(machine, &board->notifier);

    return make_ram(board, size);
}

Error *x86_board_load_bios(X86Board *board, const char *default_name, MemRegion *memory, bool writable)
{
    Machine *machine = board->machine;
    const char *name = machine->config->firmware ? machine->config->firmware : default_name;
    g_autofree char *path = NULL;
    g_autofree uint8_t *data = NULL;
    size_t size;
    TRY(machine_find_file(machine, name, &path));
    TRY(kernel_read_file("-bios", path, &data, &size));
    if (size == 0 || size > BIOS_MAX || size % BIOS_UNIT) {
        return error_new("-bios %s: the size of a firmware image is a multiple of 64 KiB, at most 16 MiB; "
                         "this one has %zu bytes", path, size);
    }
    TRY(ram_block_new(machine->mem, "pc.bios", size, NULL, &board->bios_block));
    memcpy(board->bios_block->host, data, size);
    if (writable) {
        mem_region_init_ram(&board->bios, "pc.bios", board->bios_block, 0, size);
    } else {
        mem_region_init_rom(&board->bios, "pc.bios", board->bios_block, 0, size, NULL, NULL);
    }
    mem_region_map(memory, 4 * GiB - size, &board->bios, 1);
    uint64_t low = MIN(size, BIOS_LOW_MAX);
    mem_region_init_alias(&board->bios_low, "isa-bios", &board->bios, size - low, low);
    mem_region_map(memory, 1 * MiB - low, &board->bios_low, 1);
    return NULL;
}

/* --- memory that is a device --- */

static Error *dimm_plugged(PcDimm *dimm)
{
    Machine *machine = dimm->dev.machine;
    AcpiMemoryHotplug *acpi = acpi_memory_hotplug_of(machine);
    if (!acpi) {
        return error_new("the guest learns of memory devices by ACPI, which this machine has not");
    }
    if (dimm->dev.hotplugged) {
        acpi_memory_hotplug_added(acpi, (unsigned)dimm->slot);
    }
    return NULL;
}

static Error *dimm_unplug_request(PcDimm *dimm)
{
    acpi_memory_hotplug_request_eject(acpi_memory_hotplug_of(dimm->dev.machine), (unsigned)dimm->slot);
    return NULL;
}

static void dimm_unplugged(Machine *machine, unsigned slot)
{
    AcpiMemoryHotplug *acpi = acpi_memory_hotplug_of(machine);
    if (acpi) {
        acpi_memory_hotplug_removed(acpi, slot);
    }
}

/* Each slot gets another 1 GiB of addresses, so that a module finds a place that fits its size. */
Error *x86_board_add_device_memory(X86Board *board)
{
    Machine *machine = board->machine;
    const MachineConfig *config = machine->config;
    DeviceMemory *memory = &board->device_memory;

    if (config->ram_slots == 0) {
        return NULL;
    }
    memory->machine = machine;
    memory->base = ALIGN_UP(4 * GiB + board->above_4g, 1 * GiB);
    memory->space = config->max_ram_size - config->ram_size;
    memory->slots = config->ram_slots;
    memory->size = ALIGN_UP(memory->space, 1 * GiB) + memory->slots * GiB;
    if (memory->base + memory->size > BIT64(46)) {
        return error_new("-m maxmem=: a machine of this kind has room for 64 TiB");
    }
    memory->plugged = dimm_plugged;
    memory->unplug_request = dimm_unplug_request;
    memory->unplugged = dimm_unplugged;
    mem_region_init(&memory->region, machine->mem, "device-memory", memory->size);
    mem_region_map(&machine->memory, memory->base, &memory->region, 0);
    machine_set_service(machine, DEVICE_MEMORY_SERVICE, memory);
    return NULL;
}

/* --- parts --- */

static Error *add_part(Machine *machine, const char *name, Bus *bus, Device **ret_dev)
{
    const DeviceType *type;
    TRY(device_type_lookup(name, &type));
    Device *dev = device_new(machine, type, NULL);
    TRY(device_plug(dev, bus));
    if (ret_dev) {
        *ret_dev = dev;
    }
    return NULL;
}

Error *x86_board_add_isa_parts(X86Board *board)
{
    Machine *machine = board->machine;
    const MachineConfig *config = machine->config;
    Bus *isa = &isa_bus_of(machine)->bus;

    TRY(add_part(machine, "i8257", isa, NULL));
    if (config->pic) {
        TRY(add_part(machine, "isa-i8259", isa, NULL));
        board->pic = i8259_of(machine);
    }
    TRY(add_part(machine, "mc146818rtc", isa, NULL));
    board->rtc = rtc_of(machine);
    if (config->pit) {
        TRY(add_part(machine, "isa-pit", isa, NULL));
    }
    TRY(add_part(machine, "isa-pcspk", isa, NULL));
    TRY(add_part(machine, "isa-ferr", isa, NULL));
    if (config->i8042) {
        TRY(add_part(machine, "i8042", isa, NULL));
    }
    return add_part(machine, "port92", isa, NULL);
}

/* --- CPUs --- */

static Error *cpu_plugged(Vcpu *vcpu)
{
    Machine *machine = vcpu->machine;
    X86Board *board = x86_board(machine);
    TRY(apic_create(vcpu, NULL));
    apic_on_taken(machine, board_vector_taken, board);
    x86_cpu_of(vcpu)->ferr = machine_service(machine, PC_FERR_SERVICE);
    x86_set_a20(x86_cpu_of(vcpu), !board->a20_closed);
    x86_board_tell_cpus(board);
    if (vcpu->dev.hotplugged) {
        AcpiCpuHotplug *acpi = acpi_cpu_hotplug_of(machine);
        if (!acpi) {
            return error_new("CPUs come and go by ACPI, which this machine has not");
        }
        acpi_cpu_hotplug_added(acpi, vcpu->index);
        board->parts_changed = true;
    }
    return NULL;
}

static Error *cpu_unplug_request(Vcpu *vcpu)
{
    AcpiCpuHotplug *acpi = acpi_cpu_hotplug_of(vcpu->machine);
    if (!acpi) {
        return error_new("CPUs come and go by ACPI, which this machine has not");
    }
    acpi_cpu_hotplug_request_eject(acpi, vcpu->index);
    return NULL;
}

static void cpu_unplugged(Machine *machine, unsigned index)
{
    AcpiCpuHotplug *acpi = acpi_cpu_hotplug_of(machine);
    if (acpi) {
        acpi_cpu_hotplug_removed(acpi, index);
    }
    x86_board(machine)->parts_changed = true;
    x86_board_tell_cpus(x86_board(machine));
}

static const CpuBoard cpu_board = { cpu_plugged, cpu_unplug_request, cpu_unplugged };

Error *x86_board_add_cpus(X86Board *board)
{
    Machine *machine = board->machine;
    machine->cpu_board = &cpu_board;
    for (unsigned index = 0; index < machine->config->cpus; index++) {
        TRY(x86_vcpu_create(machine, index));
    }
    if (board->pic) {
        i8259_connect(board->pic, (IrqLine) { apic_set_intr, machine, 0 });
    }
    return NULL;
}

Error *x86_board_add_isa_vga_rom(X86Board *board)
{
    static const struct {
        const char *device, *rom;
    } cards[] = { { "isa-vga", "vgabios-isavga.bin" }, { "isa-cirrus-vga", "vgabios-cirrus.bin" } };
    Machine *machine = board->machine;
    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        for (size_t i = 0; i < ARRAY_SIZE(cards); i++) {
            g_autofree char *path = NULL, *name = g_strconcat("vgaroms/", cards[i].rom, NULL);
            g_autofree uint8_t *data = NULL;
            size_t size;
            if (strcmp(dev->object.type->name, cards[i].device)) {
                continue;
            }
            TRY(machine_find_file(machine, cards[i].rom, &path));
            TRY(kernel_read_file(cards[i].device, path, &data, &size));
            return fw_cfg_add_file(machine->fw_cfg, name, data, size);
        }
    }
    return NULL;
}
