/* The sectors of the volume, made as they are read: boot sectors, tables, directories, and what the host's files hold. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/protocol/vvfat/vvfat.h"

enum { DISK_ID = 0x4f535452, BACKUP_BOOT = 6, TYPE_FAT12 = 1, TYPE_FAT16 = 6, TYPE_FAT32_LBA = 12 };

/* --- boot sectors --- */

static void put_signature(uint8_t *sector)
{
    sector[510] = 0x55;
    sector[511] = 0xaa;
}

static void put_chs(const FatLayout *l, uint8_t *out, uint64_t sector)
{
    uint64_t cylinder = sector / (l->heads * l->per_track);
    bool beyond = cylinder > 1023;
    unsigned c = beyond ? 1023 : (unsigned)cylinder;
    out[0] = (uint8_t)(beyond ? l->heads - 1 : sector / l->per_track % l->heads);
    out[1] = (uint8_t)((beyond ? l->per_track : sector % l->per_track + 1) | (c >> 8) << 6);
    out[2] = (uint8_t)c;
}

static void make_mbr(const FatLayout *l, uint8_t *sector)
{
    uint8_t *part = sector + 446;
    st32_le(sector + 440, DISK_ID);
    part[0] = 0x80;
    put_chs(l, part + 1, l->start);
    part[4] = l->bits == 12 ? TYPE_FAT12 : l->bits == 16 ? TYPE_FAT16 : TYPE_FAT32_LBA;
    put_chs(l, part + 5, l->sectors - 1);
    st32_le(part + 8, l->start);
    st32_le(part + 12, l->volume);
    put_signature(sector);
}

static void make_boot(const Fat *fat, uint8_t *s)
{
    const FatLayout *l = &fat->layout;
    unsigned tail = l->bits == 32 ? 64 : 36, code = tail + 26;
    bool small = l->volume < 65536;

    s[0] = 0xeb;
    s[1] = (uint8_t)(code - 2);
    s[2] = 0x90;
    memcpy(s + 3, "MSWIN4.1", 8); /* the one that every system takes */
    st16_le(s + 11, FAT_SECTOR);
    s[13] = (uint8_t)l->per_cluster;
    st16_le(s + 14, (uint16_t)l->reserved);
    s[16] = 2;
    st16_le(s + 17, (uint16_t)l->root_entries);
    st16_le(s + 19, (uint16_t)(small ? l->volume : 0));
    s[21] = l->floppy ? 0xf0 : 0xf8;
    st16_le(s + 22, (uint16_t)(l->bits == 32 ? 0 : l->fat_sectors));
    st16_le(s + 24, (uint16_t)l->per_track);
    st16_le(s + 26, (uint16_t)l->heads);
    st32_le(s + 28, l->start);
    st32_le(s + 32, small ? 0 : l->volume);
    if (l->bits == 32) {
        st32_le(s + 36, l->fat_sectors);
        st32_le(s + 44, 2); /* the root's cluster */
        st16_le(s + 48, 1); /* FSInfo */
        st16_le(s + 50, BACKUP_BOOT);
    }
    s[tail] = l->floppy ? 0 : 0x80;
    s[tail + 2] = 0x29;
    st32_le(s + tail + 3, DISK_ID);
    const char *label = *fat->label ? fat->label : "NO NAME";
    memset(s + tail + 7, ' ', 11);
    memcpy(s + tail + 7, label, strlen(label));
    memcpy(s + tail + 18, l->bits == 12 ? "FAT12   " : l->bits == 16 ? "FAT16   " : "FAT32   ", 8);
    memcpy(s + code, "\xcd\x18\xeb\xfe", 4); /* nothing to boot: the BIOS tries elsewhere */
    put_signature(s);
}

/* How much is free is left to be counted. */
static void make_info(uint8_t *s)
{
    memcpy(s, "RRaA", 4);
    memcpy(s + 484, "rrAa", 4);
    st32_le(s + 488, UINT32_MAX);
    st32_le(s + 492, UINT32_MAX);
    put_signature(s);
}

static void make_reserved(const Fat *fat, uint32_t sector, uint8_t *out)
{
    bool fat32 = fat->layout.bits == 32;
    if (sector == 0 || (fat32 && sector == BACKUP_BOOT)) {
        make_boot(fat, out);
    } else if (fat32 && (sector == 1 || sector == BACKUP_BOOT + 1)) {
        make_info(out);
    }
}

/* --- tables --- */

static FatItem *item_of(const Fat *fat, uint32_t cluster)
{
    guint low = 0, high = fat->with_clusters;
    while (low < high) {
        guint middle = low + (high - low) / 2;
        FatItem *item = g_ptr_array_index(fat->items, middle);
        if (cluster < item->first) {
            high = middle;
        } else if (cluster - item->first >= item->clusters) {
            low = middle + 1;
        } else {
            return item;
        }
    }
    return NULL;
}

static uint32_t table_entry(const Fat *fat, uint32_t cluster)
{
    uint32_t mask = fat->layout.bits == 32 ? 0x0fffffff : (1u << fat->layout.bits) - 1;
    if (cluster < 2) {
        return cluster == 1 ? mask : (mask & ~0xffu) | (fat->layout.floppy ? 0xf0 : 0xf8);
    }
    const FatItem *item = item_of(fat, cluster);
    return !item ? 0 : cluster - item->first + 1 < item->clusters ? cluster + 1 : mask;
}

static void make_table(const Fat *fat, uint32_t sector, uint8_t *out)
{
    if (fat->layout.bits == 12) {
        for (uint32_t i = 0, at = sector * FAT_SECTOR; i < FAT_SECTOR; i++, at++) {
            uint32_t pair = table_entry(fat, at / 3 * 2) | table_entry(fat, at / 3 * 2 + 1) << 12;
            out[i] = (uint8_t)(pair >> 8 * (at % 3));
        }
        return;
    }
    uint32_t width = fat->layout.bits / 8;
    for (uint32_t i = 0; i < FAT_SECTOR / width; i++) {
        uint32_t value = table_entry(fat, sector * (FAT_SECTOR / width) + i);
        if (width == 2) {
            st16_le(out + 2 * i, (uint16_t)value);
        } else {
            st32_le(out + 4 * i, value);
        }
    }
}

/* --- data --- */

static void copy_entries(const FatItem *dir, uint64_t offset, uint64_t bytes, uint8_t *out)
{
    if (offset < dir->entries->len) {
        memcpy(out, dir->entries->data + offset, (size_t)MIN(bytes, dir->entries->len - offset));
    }
}

/* A file that has become shorter, or went, reads as zeroes. */
static int read_file(Fat *fat, const FatItem *item, uint64_t offset, uint64_t bytes, uint8_t *out)
{
    if (fat->open_item != item) {
        if (fat->open_fd >= 0) {
            close(fat->open_fd);
        }
        fat->open_fd = openat(fat->dir_fd, item->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        fat->open_item = fat->open_fd >= 0 ? item : NULL;
    }
    if (fat->open_fd < 0) {
        return errno == ENOENT ? 0 : -errno;
    }
    bytes = MIN(bytes, item->size - MIN(offset, item->size));
    while (bytes) {
        ssize_t got = pread(fat->open_fd, out, (size_t)bytes, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? -errno : 0;
        }
        offset += (uint64_t)got;
        bytes -= (uint64_t)got;
        out += got;
    }
    return 0;
}

/* Sectors of one sort from the first on, at most `count`: how many were made, or -errno. `out` is cleared. */
static int64_t make_data(Fat *fat, uint32_t sector, uint64_t count, uint8_t *out)
{
    const FatLayout *l = &fat->layout;
    uint32_t cluster = 2 + sector / l->per_cluster;
    const FatItem *item = cluster < l->clusters + 2 ? item_of(fat, cluster) : NULL;
    if (!item) {
        return (int64_t)MIN(count, l->per_cluster - sector % l->per_cluster);
    }
    uint64_t in = sector - (uint64_t)(item->first - 2) * l->per_cluster;
    count = MIN(count, (uint64_t)item->clusters * l->per_cluster - in);
    int ret = 0;
    if (item->directory) {
        copy_entries(item, in * FAT_SECTOR, count * FAT_SECTOR, out);
    } else if (!item->gone) {
        ret = read_file(fat, item, in * FAT_SECTOR, count * FAT_SECTOR, out);
    }
    return ret < 0 ? ret : (int64_t)count;
}

static int64_t make_sectors(Fat *fat, uint64_t sector, uint64_t count, uint8_t *out)
{
    const FatLayout *l = &fat->layout;

    if (sector < l->start) {
        if (sector == 0) {
            make_mbr(l, out);
        }
        return 1;
    }
    uint32_t at = (uint32_t)(sector - l->start);
    if (at < l->reserved) {
        make_reserved(fat, at, out);
        return 1;
    }
    at -= l->reserved;
    if (at < 2 * l->fat_sectors) {
        make_table(fat, at % l->fat_sectors, out);
        return 1;
    }
    at -= 2 * l->fat_sectors;
    if (at < l->root_sectors) {
        copy_entries(fat->root, (uint64_t)at * FAT_SECTOR, FAT_SECTOR, out);
        return 1;
    }
    return make_data(fat, at - l->root_sectors, count, out);
}

/* --- the overlay --- */

static bool has_bit(const uint8_t *bits, uint64_t n)
{
    return bits && (bits[n / 8] & BIT(n % 8));
}

static int read_overlay(const Fat *fat, uint64_t sector, uint64_t count, uint8_t *data)
{
    ssize_t got;
    do {
        got = pread(fat->overlay_fd, data, (size_t)count * FAT_SECTOR, (off_t)(sector * FAT_SECTOR));
    } while (got < 0 && errno == EINTR);
    return got == (ssize_t)(count * FAT_SECTOR) ? 0 : got < 0 ? -errno : -EIO;
}

static int write_overlay(Fat *fat, uint64_t sector, uint64_t count, const uint8_t *data)
{
    for (uint64_t done = 0; done < count * FAT_SECTOR;) {
        ssize_t put = pwrite(fat->overlay_fd, data + done, (size_t)(count * FAT_SECTOR - done), (off_t)(sector * FAT_SECTOR + done));
        if (put < 0 && errno != EINTR) {
            return -errno;
        }
        done += put > 0 ? (uint64_t)put : 0;
    }
    for (uint64_t i = sector; i < sector + count; i++) {
        fat->written[i / 8] |= (uint8_t)BIT(i % 8);
    }
    return 0;
}

int fat_read(Fat *fat, uint64_t sector, uint64_t count, uint8_t *data)
{
    while (count) {
        bool written = has_bit(fat->written, sector);
        uint64_t run = 1;
        while (run < count && has_bit(fat->written, sector + run) == written) {
            run++;
        }
        int64_t done = (int64_t)run;
        if (written) {
            int ret = read_overlay(fat, sector, run, data);
            done = ret < 0 ? ret : done;
        } else {
            memset(data, 0, (size_t)run * FAT_SECTOR);
            done = make_sectors(fat, sector, run, data);
        }
        if (done < 0) {
            return (int)done;
        }
        sector += (uint64_t)done;
        count -= (uint64_t)done;
        data += done * FAT_SECTOR;
    }
    return 0;
}

int fat_write(Fat *fat, uint64_t sector, uint64_t count, const uint8_t *data)
{
    int ret = write_overlay(fat, sector, count, data);
    for (uint64_t i = sector; ret == 0 && i < sector + count; i++) {
        fat->dirty[i / 8] |= (uint8_t)BIT(i % 8);
    }
    fat->changed |= ret == 0;
    return ret;
}

uint64_t fat_free_run(const Fat *fat, uint64_t sector, uint64_t count)
{
    const FatItem *last = fat->with_clusters ? g_ptr_array_index(fat->items, fat->with_clusters - 1) : NULL;
    uint64_t run = 0;
    if (sector >= fat_cluster_sector(&fat->layout, last ? last->first + last->clusters : 2)) {
        while (run < count && !has_bit(fat->written, sector + run)) {
            run++;
        }
    }
    return run;
}

int fat_let_go(Fat *fat, FatItem *item)
{
    const FatLayout *l = &fat->layout;
    g_autofree uint8_t *data = g_malloc(fat_cluster_bytes(l));

    for (uint32_t i = 0; i < item->clusters && !item->gone && !item->directory; i++) {
        uint64_t first = fat_cluster_sector(l, item->first + i);
        int ret = fat_read(fat, first, l->per_cluster, data);
        ret = ret < 0 ? ret : write_overlay(fat, first, l->per_cluster, data);
        if (ret < 0) {
            return ret;
        }
    }
    item->gone = true;
    return 0;
}
