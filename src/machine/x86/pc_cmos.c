/*
 * CMOS bytes that PC firmware reads: memory, drives, boot order (the layout is IBM's AT with the
 * extensions that SeaBIOS documents). And the names of ISA parts for the ACPI tables.
 */
#include "firmware/fw_cfg.h"
#include "hw/floppy/fdc.h"
#include "hw/ide/ide.h"
#include "machine/x86/x86_board.h"

enum {
    CMOS_FLOPPIES = 0x10, CMOS_EQUIPMENT = 0x14, CMOS_BASE_MEMORY = 0x15, CMOS_EXTENDED = 0x17,
    CMOS_EXTENDED_2 = 0x30, CMOS_ABOVE_16M = 0x34, CMOS_BOOT_2 = 0x38, CMOS_BOOT_1 = 0x3d, CMOS_ABOVE_4G = 0x5b,
    CMOS_CPUS = 0x5f,
};
enum { EQUIPMENT_FLOPPY = 0x01, EQUIPMENT_FPU = 0x02, EQUIPMENT_MOUSE = 0x04 };

static void put16(Rtc *rtc, unsigned index, uint64_t value)
{
    value = MIN(value, 0xffff);
    rtc_set_memory(rtc, index, value);
    rtc_set_memory(rtc, index + 1, value >> 8);
}

static void put_memory(X86Board *board)
{
    Rtc *rtc = board->rtc;
    uint64_t low = board->below_4g;
    put16(rtc, CMOS_BASE_MEMORY, MIN(low / KiB, 640));
    put16(rtc, CMOS_EXTENDED, low > MiB ? (low - MiB) / KiB : 0);
    put16(rtc, CMOS_EXTENDED_2, low > MiB ? (low - MiB) / KiB : 0);
    put16(rtc, CMOS_ABOVE_16M, low > 16 * MiB ? (low - 16 * MiB) / (64 * KiB) : 0);
    for (unsigned i = 0; i < 3; i++) {
        rtc_set_memory(rtc, CMOS_ABOVE_4G + i, board->above_4g / (64 * KiB) >> (8 * i));
    }
}

void x86_board_tell_cpus(X86Board *board)
{
    const Machine *machine = board->machine;
    if (board->rtc && machine->vcpus->len) {
        rtc_set_memory(board->rtc, CMOS_CPUS, (uint8_t)(machine->vcpus->len - 1));
    }
    if (machine->fw_cfg) {
        fw_cfg_set_u16(machine->fw_cfg, FW_CFG_NB_CPUS, (uint16_t)machine->vcpus->len);
    }
}

static void put_floppies(X86Board *board)
{
    FloppyDriveKind a = fdc_drive_kind(board->machine, 0), b = fdc_drive_kind(board->machine, 1);
    unsigned count = (a != FLOPPY_NONE) + (b != FLOPPY_NONE);
    uint8_t equipment = EQUIPMENT_FPU | EQUIPMENT_MOUSE;
    rtc_set_memory(board->rtc, CMOS_FLOPPIES, a << 4 | b);
    if (count) {
        equipment |= EQUIPMENT_FLOPPY | (count - 1) << 6;
    }
    rtc_set_memory(board->rtc, CMOS_EQUIPMENT, equipment);
}

/* Drive type 47 ("user defined") with its table, for the first two disks; how BIOS addresses map, for four. */
static void put_disks(X86Board *board)
{
    enum { CMOS_DISK_TYPES = 0x12, CMOS_DISK_EXTENDED = 0x19, CMOS_DISK_TABLE = 0x1b, CMOS_TRANSLATION = 0x39 };
    enum { TYPE_EXTENDED = 0x0f, TYPE_USER = 47, TABLE_BYTES = 9 };
    uint8_t types = 0, translation = 0;
    for (unsigned n = 0; n < 4; n++) {
        IdeGeometry geometry;
        if (!ide_disk_geometry(board->machine, n / 2, n % 2, &geometry)) {
            continue;
        }
        translation |= geometry.translation << (2 * n);
        if (n < 2) {
            unsigned at = CMOS_DISK_TABLE + n * TABLE_BYTES;
            types |= n == 0 ? TYPE_EXTENDED << 4 : TYPE_EXTENDED;
            rtc_set_memory(board->rtc, CMOS_DISK_EXTENDED + n, TYPE_USER);
            put16(board->rtc, at, geometry.cyls);
            rtc_set_memory(board->rtc, at + 2, geometry.heads);
            put16(board->rtc, at + 3, 0xffff); /* no write precompensation */
            rtc_set_memory(board->rtc, at + 5, 0xc0 | (geometry.heads > 8 ? 0x08 : 0));
            put16(board->rtc, at + 6, geometry.cyls); /* landing zone */
            rtc_set_memory(board->rtc, at + 8, geometry.secs);
        }
    }
    rtc_set_memory(board->rtc, CMOS_DISK_TYPES, types);
    rtc_set_memory(board->rtc, CMOS_TRANSLATION, translation);
}

/* Codes of the boot nibbles. */
static uint8_t boot_code(char letter)
{
    switch (letter) {
    case 'a':
    case 'b':
        return 1;
    case 'c':
        return 2;
    case 'd':
        return 3;
    case 'n':
        return 4;
    default:
        return 0;
    }
}

static void put_boot_order(X86Board *board, const char *order)
{
    uint8_t code[3] = { 0 };
    for (unsigned i = 0; i < 3 && order[i]; i++) {
        code[i] = boot_code(order[i]);
    }
    rtc_set_memory(board->rtc, CMOS_BOOT_1, code[1] << 4 | code[0]);
    rtc_set_memory(board->rtc, CMOS_BOOT_2, code[2] << 4 | (board->machine->config->fd_bootchk ? 0 : 1));
}

/* The monitor's boot_set, for the boots to come. */
static void set_boot_order(Machine *machine, const char *order)
{
    put_boot_order(x86_board(machine), order);
}

static const char *usual_order(X86Board *board)
{
    const char *order = board->machine->config->boot_order;
    return order ? order : "cad";
}

/* -boot once= holds for the first boot only. */
static void boot_once_over(void *opaque)
{
    X86Board *board = opaque;
    if (board->resets++ == 1) {
        put_boot_order(board, usual_order(board));
    }
}

void x86_board_fill_cmos(X86Board *board)
{
    const char *once = board->machine->config->boot_once;
    put_memory(board);
    x86_board_tell_cpus(board);
    put_floppies(board);
    put_disks(board);
    put_boot_order(board, once ? once : usual_order(board));
    machine_set_service(board->machine, "boot-set", set_boot_order);
    if (once) {
        machine_add_reset(board->machine, &board->boot_once, boot_once_over, board);
    }
}

void x86_board_list_ports(X86Board *board)
{
    static const char *const serial[] = { "COM1", "COM2", "COM3", "COM4" };
    static const char *const parallel[] = { "LPT1", "LPT2", "LPT3" };
    unsigned serials = 0, parallels = 0, count = 0;
    for (Device *dev = NULL; (dev = machine_device_next(board->machine, dev));) {
        const char *type = dev->object.type->name, *name = NULL;
        if (!strcmp(type, "isa-serial") && serials < ARRAY_SIZE(serial)) {
            name = serial[serials++];
        } else if (!strcmp(type, "isa-parallel") && parallels < ARRAY_SIZE(parallel)) {
            name = parallel[parallels++];
        } else if (!strcmp(type, "isa-fdc")) {
            name = "FDC0";
        } else if (!strcmp(type, "i8042")) {
            name = "KBD";
        }
        if (name && count < ARRAY_SIZE(board->ports) - 1) {
            board->ports[count++] = name;
        }
    }
    board->ports[count] = NULL;
}
