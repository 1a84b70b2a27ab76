/*
 * CMOS bytes that PC firmware reads: memory, drives, boot order (the layout is IBM's AT with the
 * extensions that SeaBIOS documents). And the names of ISA parts for the ACPI tables.
 */
#include "hw/floppy/fdc.h"
#include "hw/ide/ide.h"
#include "machine/x86/x86_board.h"

enum {
    CMOS_FLOPPIES = 0x10, CMOS_EQUIPMENT = 0x14, CMOS_BASE_MEMORY = 0x15, CMOS_EXTENDED = 0x17,
    CMOS_EXTENDED_2 = 0x30, CMOS_ABOVE_16M = 0x34, CMOS_BOOT_2 = 0x38, CMOS_BOOT_1 = 0x3d, CMOS_ABOVE_4G = 0x5b,
    CMOS_CPUS = 0x5f, CMOS_DISKS = 0x12, CMOS_DISK_EXTENDED = 0x19, CMOS_DISK_GEOMETRY = 0x1b, CMOS_TRANSLATION = 0x39,
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
    rtc_set_memory(rtc, CMOS_CPUS, board->machine->config->cpus - 1);
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

/* --- hard disks --- */

enum { DISK_TYPE_EXTENDED = 15, DISK_TYPE_USER = 47, GEOMETRY_BYTES = 9 };
enum { TRANS_NONE, TRANS_LBA, TRANS_LARGE };
enum { BIOS_CYLINDERS = 1024 };

static IdeDrive *disk_at(Machine *machine, unsigned channel, unsigned unit)
{
    g_autofree char *name = g_strdup_printf("ide.%u", channel);
    Bus *bus = bus_find(machine, name);
    IdeDevice *dev = bus && bus->type == &ide_bus_type ? container_of(bus, IdeBus, bus)->drives[unit] : NULL;
    return dev && !strcmp(dev->dev.object.type->name, "ide-hd") ? container_of(dev, IdeDrive, ide) : NULL;
}

/* How the BIOS is to fold cylinders beyond 1024 into its own geometry. */
static uint8_t disk_translation(const IdeDrive *disk)
{
    if (disk->chs_trans) {
        return disk->chs_trans - 1; /* as bios-chs-trans says: none, lba, large, rechs */
    }
    if (disk->cyls <= BIOS_CYLINDERS && disk->heads <= 16 && disk->secs <= 63) {
        return TRANS_NONE;
    }
    return (uint64_t)disk->cyls * disk->heads <= 131072 ? TRANS_LARGE : TRANS_LBA;
}

static void put_disks(X86Board *board)
{
    uint8_t types = 0, translation = 0;
    for (unsigned n = 0; n < 4; n++) {
        IdeDrive *disk = disk_at(board->machine, n / 2, n % 2);
        if (!disk) {
            continue;
        }
        translation |= disk_translation(disk) << (2 * n);
        if (n < 2) {
            uint8_t geometry = CMOS_DISK_GEOMETRY + n * GEOMETRY_BYTES;
            types |= DISK_TYPE_EXTENDED << (n ? 0 : 4);
            rtc_set_memory(board->rtc, CMOS_DISK_EXTENDED + n, DISK_TYPE_USER);
            put16(board->rtc, geometry, disk->cyls);
            rtc_set_memory(board->rtc, geometry + 2, disk->heads);
            put16(board->rtc, geometry + 3, 0xffff); /* write precompensation: none */
            rtc_set_memory(board->rtc, geometry + 5, 0xc0 | (disk->heads > 8) << 3);
            put16(board->rtc, geometry + 6, disk->cyls); /* landing zone */
            rtc_set_memory(board->rtc, geometry + 8, disk->secs);
        }
    }
    rtc_set_memory(board->rtc, CMOS_DISKS, types);
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
