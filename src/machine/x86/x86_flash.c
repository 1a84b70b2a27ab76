/*
 * Flashes instead of a firmware ROM: the first one ends at 4 GiB, the second one lies below it. The last 128 KiB of the first one are also seen
 * below 1 MiB, as what they are at start: firmware is shadowed there, and never runs from there while it programs the flash.
 */
#include <string.h>

#include "block/drive.h"
#include "cpu/x86/vcpu_x86.h"
#include "hw/block/pflash_cfi01.h"
#include "machine/x86/x86_board.h"

#define FLASH_MAX (8 * MiB) /* of all: below it are chipset registers */
enum { SECTOR = 4096, LOW_MAX = 128 * 1024 };

/* Which drive is which flash: both ways of saying it end in board->pflash[]. */
static MUST_USE Error *take_drives(X86Board *board, BlockGraph *graph)
{
    for (unsigned unit = 0; unit < G_N_ELEMENTS(board->pflash); unit++) {
        Drive *drive = graph ? block_drive_get(graph, DRIVE_IF_PFLASH, 0, unit) : NULL;
        if (!drive) {
            continue;
        }
        if (board->pflash[unit]) {
            return error_new("-drive if=pflash,unit=%u and -machine pflash%u=%s both name the flash: give one of them", unit, unit,
                             board->pflash[unit]);
        }
        drive->claimed = true;
        board->pflash[unit] = g_strdup(drive->id);
    }
    return board->pflash[1] && !board->pflash[0] ? error_new("pflash1 (unit=1) is there for a flash below pflash0 (unit=0), which is missing")
                                                 : NULL;
}

static MUST_USE Error *size_of(BlockGraph *graph, unsigned unit, const char *name, uint64_t *ret_size)
{
    BlockBackend *blk = graph ? blk_find(graph, name) : NULL;
    BlockNode *node = blk ? blk_node(blk) : graph ? block_node_find(graph, name) : NULL;

    if (!node) {
        return error_new("pflash%u: there is no block node or drive '%s' with a medium", unit, name);
    }
    if (node->size == 0 || node->size % SECTOR) {
        return error_new("pflash%u: the image '%s' has %" G_GUINT64_FORMAT " bytes, a flash has a multiple of %d", unit, name,
                         (uint64_t)node->size, SECTOR);
    }
    *ret_size = node->size;
    return NULL;
}

/* Firmware switches its secure flash in system management mode. Qtest has no CPU that could be in it. */
static bool in_smm(void *opaque)
{
    Vcpu *vcpu = vcpu_self();
    return vcpu && x86_cpu_of(vcpu)->smm;
}

static MUST_USE Error *show_low(X86Board *board, MemRegion *memory, const Pflash *flash, uint64_t size)
{
    uint64_t low = MIN(size, (uint64_t)LOW_MAX);

    TRY(ram_block_new(board->machine->mem, "isa-bios", low, NULL, &board->bios_block));
    memcpy(board->bios_block->host, pflash_content(flash) + size - low, low);
    mem_region_init_rom(&board->bios_low, "isa-bios", board->bios_block, 0, low, NULL, NULL);
    mem_region_map(memory, 1 * MiB - low, &board->bios_low, 1);
    return NULL;
}

Error *x86_board_add_flash(X86Board *board, MemRegion *memory, bool *ret_there)
{
    BlockGraph *graph = machine_service(board->machine, BLOCK_SERVICE);
    uint64_t total = 0;

    TRY(take_drives(board, graph));
    *ret_there = board->pflash[0] != NULL;
    for (unsigned unit = 0; unit < G_N_ELEMENTS(board->pflash) && board->pflash[unit]; unit++) {
        g_autofree char *name = g_strdup_printf("system.flash%u", unit);
        uint64_t size;
        Pflash *flash;
        TRY(size_of(graph, unit, board->pflash[unit], &size));
        total += size;
        if (total > FLASH_MAX) {
            return error_new("the flashes have %" G_GUINT64_FORMAT " bytes together, there is room for %llu", total,
                             (unsigned long long)FLASH_MAX);
        }
        TRY(pflash_create(board->machine, name, board->pflash[unit], size, SECTOR, in_smm, NULL, &flash));
        mem_region_map(memory, 4 * GiB - total, pflash_region(flash), 1);
        if (unit == 0) {
            TRY(show_low(board, memory, flash, size));
        }
    }
    return NULL;
}
