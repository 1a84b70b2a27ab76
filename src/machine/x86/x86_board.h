/*
 * What all PC boards share: CPUs, interrupt wiring, ISA parts, firmware, CMOS contents.
 */
#ifndef OSTRICH_MACHINE_X86_X86_BOARD_H
#define OSTRICH_MACHINE_X86_X86_BOARD_H

#include "bus/isa.h"
#include "firmware/pc.h"
#include "hw/intc/apic.h"
#include "hw/intc/i8259.h"
#include "hw/intc/ioapic.h"
#include "hw/mem/device_memory.h"
#include "hw/misc/pc_lines.h"
#include "hw/timer/mc146818rtc.h"

typedef struct X86Board {
    Machine *machine;
    RamBlock *bios_block;
    MemRegion ram, bios, bios_low;
    MemRegion *node_ram; /* of each NUMA node with a memory object; NULL: memory is one block */
    uint64_t below_4g, above_4g;
    I8259 *pic;
    IoApic *ioapic;
    Rtc *rtc;
    IrqLine gsi[IOAPIC_PINS];
    PcEdgeWaits edge_waits;
    PcEdgeWatch *edge_watch[40]; /* of timers; the count is read by CPUs that take vectors */
    _Atomic unsigned edge_watches;
    IrqLine a20, smi;
    bool a20_closed;
    void (*tables_wanted)(void *board); /* when firmware selects the ACPI loader script; NULL: nothing */
    bool parts_changed; /* CPUs or memory, since the firmware's tables were built */
    PcFirmwareInfo firmware;
    DeviceMemory device_memory; /* -m slots=; base 0: none */
    char *pflash[2]; /* drives or nodes of the flashes below 4 GiB, the upper one first; NULL: none */
    const char *ports[16];
    MachineNotifier notifier;
    ResetHandler boot_once;
    unsigned resets;
} X86Board;

static inline X86Board *x86_board(Machine *machine)
{
    return machine->board;
}

/* Sets up lines, RAM (not mapped), the first interrupt inputs. */
Error *x86_board_init(Machine *machine, uint64_t below_4g_max) MUST_USE;
/*
 * The firmware image at the top of 4 GiB and, the last 128 KiB, below 1 MiB of `memory`. writable: without a
 * bridge that shadows it in RAM, firmware expects to be able to change its own variables.
 */
Error *x86_board_load_bios(X86Board *board, const char *default_name, MemRegion *memory, bool writable) MUST_USE;
/*
 * The flashes instead of it, when board->pflash[] or drives with if=pflash say so: otherwise *ret_there is false and nothing is
 * done.
 */
Error *x86_board_add_flash(X86Board *board, MemRegion *memory, bool *ret_there) MUST_USE;
/* PIC, PIT, RTC, DMA, keyboard controller, speaker, port 92h, FERR on the machine's ISA bus. */
Error *x86_board_add_isa_parts(X86Board *board) MUST_USE;
/* The window for memory devices, above all other memory. After x86_board_init(). */
Error *x86_board_add_device_memory(X86Board *board) MUST_USE;
/* The vCPUs with their local APICs. After the ISA parts. */
Error *x86_board_add_cpus(X86Board *board) MUST_USE;
/* An ISA display adapter has no ROM of its own bus to keep its BIOS in: firmware gets it as a file. */
Error *x86_board_add_isa_vga_rom(X86Board *board) MUST_USE;
/* The ACPI tables again, after something changed that they tell. */
void x86_board_refresh_tables(X86Board *board);
/* What firmware reads of the number of CPUs, which changes. */
void x86_board_tell_cpus(X86Board *board);
/* CMOS bytes that firmware reads; when all devices are there. */
void x86_board_fill_cmos(X86Board *board);
/* Fills board->ports with the names of ISA parts for the ACPI tables. */
void x86_board_list_ports(X86Board *board);

#endif
