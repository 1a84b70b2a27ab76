/*
 * "isapc": a PC without PCI, APIC or ACPI, for systems that know nothing else.
 */
#include "firmware/fw_cfg.h"
#include "machine/x86/x86_board.h"

#define RAM_MAX (4 * GiB - 32 * MiB)

typedef struct IsaPc {
    X86Board board;
    IsaBus isa;
} IsaPc;


static Error *add_ide(Machine *machine, const char *iobase, const char *iobase2, const char *irq)
{
    const DeviceType *type;
    TRY(device_type_lookup("isa-ide", &type));
    Device *ide = device_new(machine, type, NULL);
    TRY(device_set(ide, "iobase", iobase));
    TRY(device_set(ide, "iobase2", iobase2));
    TRY(device_set(ide, "irq", irq));
    return device_plug(ide, &isa_bus_of(machine)->bus);
}

static Error *isapc_build(Machine *machine)
{
    IsaPc *pc = machine->board;
    X86Board *board = &pc->board;
    if (machine->config->ram_size > RAM_MAX) {
        return error_new("machine isapc holds at most %u MiB of memory", (unsigned)(RAM_MAX / MiB));
    }
    TRY(x86_board_init(machine, RAM_MAX));
    mem_region_map(&machine->memory, 0, &board->ram, 0);
    TRY(x86_board_load_bios(board, "bios.bin", &machine->memory, true));
    isa_bus_init(&pc->isa, machine, NULL, &machine->memory, &machine->io);
    memcpy(pc->isa.irqs, board->gsi, sizeof(pc->isa.irqs));
    TRY(x86_board_add_isa_parts(board));
    TRY(add_ide(machine, "0x1f0", "0x3f6", "14"));
    TRY(add_ide(machine, "0x170", "0x376", "15"));
    TRY(x86_board_add_cpus(board));
    fw_cfg_create(machine);
    board->firmware.ram_below_4g = board->below_4g;
    board->firmware.acpi.ports = board->ports;
    board->firmware.smbios.manufacturer = "QEMU";
    board->firmware.smbios.product = machine->type->desc;
    board->firmware.smbios.version = machine->type->name;
    machine->config->acpi = false;
    return pc_firmware_begin(machine, &board->firmware);
}

static Error *isapc_finish(Machine *machine)
{
    X86Board *board = x86_board(machine);
    x86_board_fill_cmos(board);
    x86_board_list_ports(board);
    TRY(x86_board_add_isa_vga_rom(board));
    return pc_firmware_finish(machine, &board->firmware);
}

static const MachineType isapc = {
    .name = "isapc", .desc = "ISA-only PC", .max_cpus = 1, .default_ram = 128 * MiB, .default_cpu = "486",
    .default_nic = "ne2k_isa", .default_display = "std", .block_default = "ide", .ram_id = "pc.ram",
    .board_size = sizeof(IsaPc), .build = isapc_build, .finish = isapc_finish,
};
MACHINE_REGISTER(&isapc);
