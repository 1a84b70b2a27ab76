/*
 * The "pc" boards: i440FX host bridge, PIIX3 ISA bridge and IDE, PIIX4 power management, ISA parts,
 * 8259 and I/O APIC. Versions differ in defaults of devices only.
 */
#include "base/endian.h"
#include "cpu/x86/sys.h"
#include "firmware/fw_cfg.h"
#include "hw/acpi/pci_hotplug.h"
#include "hw/acpi/pm.h"
#include "hw/isa/piix.h"
#include "hw/pci_host/i440fx.h"
#include "machine/x86/x86_board.h"

/* RAM that would reach the PCI window near 4 GiB continues above it, from 3 GiB on to keep 1 GiB pages whole. */
#define LOW_RAM_LIMIT 0xe0000000ull
#define LOW_RAM_SPLIT 0xc0000000ull
#define PCI_HOLE_END  0xfec00000ull
#define PCI_HOLE64    (2 * GiB)
enum { PM_BASE = 0x600, GPE_BASE = 0xafe0, GPE_BYTES = 4, SCI_IRQ = 9 };

static void describe_firmware(X86Board *board)
{
    Machine *machine = board->machine;
    PcFirmwareInfo *info = &board->firmware;
    const AcpiPm *pm = acpi_pm_of(machine);
    info->ram_below_4g = board->below_4g;
    info->ram_above_4g = board->above_4g;
    info->acpi = (AcpiPcInfo) {
        .pci_hole_start = board->below_4g,
        .pci_hole_end = PCI_HOLE_END,
        .hpet = machine->config->hpet,
        .smm = machine->config->smm != AUTO_OFF,
        .s3 = pm && !pm->options.disable_s3,
        .s4 = pm && !pm->options.disable_s4,
        .s4_type = pm ? pm->options.s4_type : 0,
        .ioapic = true,
        .pm_base = PM_BASE,
        .gpe_base = GPE_BASE,
        .gpe_bytes = GPE_BYTES,
        .ports = board->ports,
    };
    uint64_t memory_end = board->device_memory.slots ? board->device_memory.base + board->device_memory.size : 4 * GiB + board->above_4g;
    info->acpi.pci_hole64_start = ALIGN_UP(memory_end, 1 * GiB);
    info->reserved_end = board->device_memory.slots ? info->acpi.pci_hole64_start : 0;
    info->acpi.pci_hole64_end = info->acpi.pci_hole64_start + PCI_HOLE64;
    info->smbios.manufacturer = "QEMU";
    info->smbios.product = "Standard PC (i440FX + PIIX, 1996)";
    info->smbios.version = machine->type->name;
}

/* The end of the highest 64-bit BAR beyond `end`, whether it is decoded at this moment or not. */
static uint64_t end_of_bars(Machine *machine, uint64_t end)
{
    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        if (!dev->bus || dev->bus->type != &pci_bus_type) {
            continue;
        }
        const PciDevice *pci = (const PciDevice *)dev;
        for (unsigned n = 0; n + 1 < PCI_BARS; n++) {
            const struct PciBar *bar = &pci->bar[n];
            uint64_t addr = ld64_le(pci->config + 0x10 + 4 * n) & ~0xfull;
            if (bar->region && bar->type & PCI_BAR_MEM64 && addr < BIT64(46) && addr + bar->size > end) {
                end = addr + bar->size;
            }
        }
    }
    return end;
}

/*
 * Firmware programs the power management's ports (SeaBIOS at 600h, OVMF at B000h) and large BARs where it likes, before it reads
 * the tables; they say what it did.
 */
static void tables_wanted(void *opaque)
{
    X86Board *board = opaque;
    AcpiPcInfo *info = &board->firmware.acpi;
    const AcpiPm *pm = acpi_pm_of(board->machine);
    uint16_t pm_base = pm && pm->io.mapped ? (uint16_t)pm->io.offset : PM_BASE;
    uint64_t hole64_end = ALIGN_UP(end_of_bars(board->machine, info->pci_hole64_start + PCI_HOLE64), 1 * GiB);

    if (pm_base == info->pm_base && hole64_end == info->pci_hole64_end) {
        return;
    }
    info->pm_base = pm_base;
    info->pci_hole64_end = hole64_end;
    x86_board_refresh_tables(board);
}

static Error *add_power_management(X86Board *board, PciBus *pci)
{
    const MachineConfig *config = board->machine->config;
    Device *pm;
    if (!config->acpi) {
        return NULL;
    }
    return piix4_pm_create(board->machine, pci, &board->gsi[SCI_IRQ],
                           config->smm == AUTO_OFF ? NULL : &board->smi, &pm);
}

/* -usb: the controller in the PIIX3's function 2. */
static Error *add_usb(Machine *machine, PciBus *pci)
{
    const DeviceType *type;
    if (!machine->config->usb) {
        return NULL;
    }
    Error *err = device_type_lookup("piix3-usb-uhci", &type);
    if (err) {
        return error_prefix(err, "-usb: ");
    }
    Device *usb = device_new(machine, type, NULL);
    TRY(device_set(usb, "addr", "1.2"));
    return device_plug(usb, &pci->bus);
}

static Error *pc_build(Machine *machine)
{
    X86Board *board = x86_board(machine);
    uint64_t split = machine->config->ram_size >= LOW_RAM_LIMIT ? LOW_RAM_SPLIT : LOW_RAM_LIMIT;
    PciBus *pci;
    IsaBus *isa;
    MemRegion *pci_memory;
    const DeviceType *type;
    bool flash;

    if (machine->config->vmport == AUTO_ON) {
        return error_new("vmport=on: this program has no VMware port; vmport=auto and off do without it");
    }
    TRY(x86_board_init(machine, split));
    TRY(x86_board_add_device_memory(board));
    TRY(i440fx_create(machine, &board->ram, board->below_4g, &pci, &pci_memory));
    TRY(x86_board_add_flash(board, pci_memory, &flash));
    if (!flash) {
        TRY(x86_board_load_bios(board, "bios-256k.bin", pci_memory, false));
    } else if (machine->config->firmware) {
        warn_report("-bios %s is not used: the flash of -pflash or pflash0= is the firmware", machine->config->firmware);
    }
    device_add_builtin(machine, "ioapic", NULL);
    board->ioapic = ioapic_of(machine);
    TRY(piix3_create(machine, pci, board->gsi, &isa));
    TRY(x86_board_add_isa_parts(board));
    if (machine->config->hpet) {
        device_add_builtin(machine, "hpet", NULL);
    }
    TRY(x86_board_add_cpus(board));
    if (device_type_lookup("piix3-ide", &type) == NULL) {
        Device *ide = device_new(machine, type, NULL);
        TRY(device_set(ide, "addr", "1.1"));
        TRY(device_plug(ide, &pci->bus));
    }
    TRY(add_usb(machine, pci));
    TRY(add_power_management(board, pci));
    fw_cfg_create(machine);
    describe_firmware(board);
    return pc_firmware_begin(machine, &board->firmware);
}

/* Firmware and drivers without ACPI look here for the port. */
static MUST_USE Error *tell_pvpanic(Machine *machine)
{
    const uint16_t *port = machine_service(machine, ISA_PVPANIC_SERVICE);
    uint8_t bytes[2];

    if (!port) {
        return NULL;
    }
    st16_le(bytes, *port);
    return fw_cfg_add_file(machine->fw_cfg, "etc/pvpanic-port", bytes, sizeof(bytes));
}

static Error *pc_finish(Machine *machine)
{
    X86Board *board = x86_board(machine);
    uint32_t regs[4];
    const X86Cpu *cpu = x86_cpu_of(g_ptr_array_index(machine->vcpus, 0));
    if (board->device_memory.slots && board->device_memory.base + board->device_memory.size > BIT64(cpu->phys_bits)) {
        return error_new("-m maxmem=: the memory slots end beyond the %u address bits of the CPU; see its phys-bits", cpu->phys_bits);
    }
    x86_cpuid((X86Cpu *)cpu, 1, 0, regs);
    board->firmware.smbios.cpuid_signature = regs[0];
    board->firmware.smbios.cpuid_features = regs[3];
    x86_board_fill_cmos(board);
    x86_board_list_ports(board);
    TRY(x86_board_add_isa_vga_rom(board));
    acpi_pci_hotplug_ready(machine);
    TRY(tell_pvpanic(machine));
    board->tables_wanted = tables_wanted;
    TRY(pc_firmware_finish(machine, &board->firmware));
    fw_cfg_on_select(machine->fw_cfg, ACPI_LOADER_FILE, tables_wanted, board);
    return NULL;
}

static const Prop pc_props[] = {
    PROP_STR("pflash0", X86Board, pflash[0], .help = "block node or drive of the flash that ends at 4 GiB: firmware"),
    PROP_STR("pflash1", X86Board, pflash[1], .help = "block node or drive of the flash below it: the firmware's variables"),
    { 0 },
};

/* --- versions: each has its own differences to the next and all of that one's --- */

#define ONE_BLOCK_QUEUE                                                                            \
    { "virtio-blk-pci", "num-queues", "1" }, { "virtio-blk-pci-transitional", "num-queues", "1" }, \
        { "virtio-blk-pci-non-transitional", "num-queues", "1" }
static const CompatProp compat_5_1[] = { ONE_BLOCK_QUEUE, { 0 } };
static const CompatProp compat_3_0[] = {
    ONE_BLOCK_QUEUE, { "VGA", "edid", "off" }, { "secondary-vga", "edid", "off" }, { 0 },
};

static const CompatProp compat_2_7[] = {
    ONE_BLOCK_QUEUE, { "VGA", "edid", "off" }, { "secondary-vga", "edid", "off" }, { "x86_64-cpu", "full-cpuid-auto-level", "off" }, { 0 },
};

#define PC(ident, number, why, table, ...)                                                         \
    static const MachineType pc_##ident = {                                                        \
        .name = "pc-i440fx-" number, .desc = "Standard PC (i440FX + PIIX, 1996)", .max_cpus = 255, \
        .hotplug_cpus = true,                                                                      \
        .default_ram = 128 * MiB, .default_cpu = "qemu64", .default_nic = "e1000",                 \
        .default_display = "std", .block_default = "ide", .ram_id = "pc.ram", .compat = table,     \
        .deprecated = why, .board_size = sizeof(X86Board), .props = pc_props, .build = pc_build, .finish = pc_finish, \
        ##__VA_ARGS__                                                                              \
    };                                                                                             \
    MACHINE_REGISTER(&pc_##ident)

PC(11_0, "11.0", NULL, NULL);
PC(10_2, "10.2", NULL, NULL);
PC(10_1, "10.1", NULL, NULL);
PC(10_0, "10.0", NULL, NULL);
PC(9_2, "9.2", NULL, NULL);
PC(9_1, "9.1", NULL, NULL);
PC(9_0, "9.0", NULL, NULL);
PC(8_2, "8.2", NULL, NULL);
PC(8_1, "8.1", NULL, NULL);
PC(8_0, "8.0", NULL, NULL);
PC(7_2, "7.2", NULL, NULL, .alias = "pc", .is_default = true);
PC(7_1, "7.1", NULL, NULL);
PC(7_0, "7.0", NULL, NULL);
PC(6_2, "6.2", NULL, NULL);
PC(6_1, "6.1", NULL, NULL);
PC(6_0, "6.0", NULL, NULL);
PC(5_2, "5.2", NULL, NULL);
PC(5_1, "5.1", NULL, compat_5_1);
PC(5_0, "5.0", NULL, compat_5_1, .numa_mem = true);
PC(4_2, "4.2", NULL, compat_5_1, .numa_mem = true);
PC(4_1, "4.1", NULL, compat_5_1, .numa_mem = true);
PC(4_0, "4.0", NULL, compat_5_1, .numa_mem = true);
PC(3_1, "3.1", NULL, compat_5_1, .numa_mem = true);
PC(3_0, "3.0", NULL, compat_3_0, .numa_mem = true);
PC(2_12, "2.12", NULL, compat_3_0, .numa_mem = true);
PC(2_11, "2.11", NULL, compat_3_0, .numa_mem = true);
PC(2_10, "2.10", NULL, compat_3_0, .numa_mem = true);
PC(2_9, "2.9", NULL, compat_3_0, .numa_mem = true);
PC(2_8, "2.8", NULL, compat_3_0, .numa_mem = true);
PC(2_7, "2.7", NULL, compat_2_7, .numa_mem = true);
PC(2_6, "2.6", NULL, compat_2_7, .numa_mem = true);
PC(2_5, "2.5", NULL, compat_2_7, .numa_mem = true);
PC(2_4, "2.4", NULL, compat_2_7, .numa_mem = true);
