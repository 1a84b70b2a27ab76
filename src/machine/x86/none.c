/*
 * "none": a machine without anything, by which management tools ask what this program can do.
 */
#include "hostmem/hostmem.h"

typedef struct NoneBoard {
    MemRegion ram;
} NoneBoard;

static Error *none_build(Machine *machine)
{
    NoneBoard *board = machine->board;
    RamBlock *block;
    uint64_t size = machine->config->ram_size;
    if (size) {
        TRY(main_memory_new(machine, "ram", size, &block));
        mem_region_init_ram(&board->ram, "ram", block, 0, size);
        mem_region_map(&machine->memory, 0, &board->ram, 0);
    }
    return NULL;
}

static const MachineType none = {
    .name = "none", .desc = "empty machine", .max_cpus = 1, .block_default = "none", .no_serial = true,
    .no_parallel = true, .no_floppy = true, .no_cdrom = true, .ram_id = "ram", .board_size = sizeof(NoneBoard),
    .build = none_build,
};
MACHINE_REGISTER(&none);
