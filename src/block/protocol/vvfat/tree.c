/*
 * The host's directory, read once: items with their entries, 8.3 names beside the long ones ("FAT: General Overview of On-Disk
 * Format", Microsoft 1.03), and the layout of the volume that holds them.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/endian.h"
#include "block/protocol/vvfat/vvfat.h"

/* --- names --- */

uint8_t fat_name_sum(const uint8_t name[11])
{
    uint8_t sum = 0;
    for (int i = 0; i < 11; i++) {
        sum = (uint8_t)((sum << 7 | sum >> 1) + name[i]);
    }
    return sum;
}

static bool short_char(char c)
{
    return g_ascii_isalnum(c) || (c && strchr("$%'-_@~`!(){}^#&", c));
}

/* Up to `max` characters in upper case; false when something was changed but the case. */
static bool copy_short(uint8_t *out, size_t max, const char *from, size_t length)
{
    bool exact = true;
    size_t made = 0;
    for (size_t i = 0; i < length; i++) {
        if (from[i] == ' ' || from[i] == '.') {
            exact = false;
            continue;
        }
        exact &= short_char(from[i]);
        if (made == max) {
            return false;
        }
        out[made++] = short_char(from[i]) ? (uint8_t)g_ascii_toupper(from[i]) : '_';
    }
    return exact && made;
}

/* "~1" and so on until it is the only one of its directory. taken: the names that are in use, and those that would be, each with the
 * next number to try. */
static void short_name(const char *name, GHashTable *taken, uint8_t out[11])
{
    const char *dot = strrchr(name, '.');
    size_t base = dot && dot != name ? (size_t)(dot - name) : strlen(name);
    memset(out, ' ', 11);
    bool exact = copy_short(out, 8, name, base);
    if (dot && dot != name) {
        exact &= !dot[1] ? false : copy_short(out + 8, 3, dot + 1, strlen(dot + 1));
    }
    g_autofree char *key = g_strndup((char *)out, 11);
    unsigned n = MAX(GPOINTER_TO_UINT(g_hash_table_lookup(taken, key)), 1);
    for (; !exact || g_hash_table_contains(taken, key); n++) {
        char tail[12];
        int length = g_snprintf(tail, sizeof(tail), "~%u", n);
        size_t keep = 0;
        while (keep < (size_t)(8 - length) && key[keep] != ' ') {
            keep++;
        }
        memset(out, ' ', 8);
        memcpy(out, key, keep);
        memcpy(out + keep, tail, (size_t)length);
        g_autofree char *tried = g_strndup((char *)out, 11);
        if (!g_hash_table_contains(taken, tried)) {
            n++;
            break;
        }
    }
    g_hash_table_insert(taken, g_strndup((char *)out, 11), GUINT_TO_POINTER(1));
    g_hash_table_replace(taken, g_steal_pointer(&key), GUINT_TO_POINTER(n));
}

/* What Windows has not in names becomes '_'. NULL: it cannot be said at all. Caller frees. */
static gunichar2 *long_name(const char *name, glong *ret_units)
{
    gunichar2 *units = g_utf8_to_utf16(name, -1, NULL, ret_units, NULL);
    if (!units || *ret_units > FAT_NAME_MAX) {
        g_free(units);
        return NULL;
    }
    for (glong i = 0; i < *ret_units; i++) {
        units[i] = units[i] < 32 || (units[i] < 128 && strchr("\\/:*?\"<>|", units[i])) ? '_' : units[i];
    }
    return units;
}

/* The entries of a long name, which stand before the short one, the last part first. */
static void add_long_name(GByteArray *out, const gunichar2 *units, glong count, uint8_t sum)
{
    static const uint8_t place[13] = { 1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30 };
    unsigned parts = (unsigned)(count + 12) / 13;

    for (unsigned part = parts; part-- > 0;) {
        uint8_t entry[FAT_ENTRY] = { 0 };
        entry[0] = (uint8_t)((part + 1) | (part + 1 == parts ? 0x40 : 0));
        entry[11] = ATTR_LONG_NAME;
        entry[13] = sum;
        for (unsigned i = 0; i < 13; i++) {
            glong at = (glong)part * 13 + i;
            st16_le(entry + place[i], at < count ? units[at] : at == count ? 0 : 0xffff);
        }
        g_byte_array_append(out, entry, sizeof(entry));
    }
}

/* --- entries --- */

static void put_times(uint8_t entry[FAT_ENTRY], time_t seconds)
{
    struct tm tm;
    if (!localtime_r(&seconds, &tm) || tm.tm_year < 80 || tm.tm_year > 80 + 127) {
        tm = (struct tm) { .tm_year = 80, .tm_mday = 1 };
    }
    uint16_t date = (uint16_t)((tm.tm_year - 80) << 9 | (tm.tm_mon + 1) << 5 | tm.tm_mday);
    uint16_t time_of_day = (uint16_t)(tm.tm_hour << 11 | tm.tm_min << 5 | MIN(tm.tm_sec, 59) / 2);
    st16_le(entry + 14, time_of_day);
    st16_le(entry + 16, date);
    st16_le(entry + 18, date);
    st16_le(entry + 22, time_of_day);
    st16_le(entry + 24, date);
}

static void put_entry(GByteArray *out, const uint8_t name[11], unsigned attributes, time_t seconds, uint64_t size)
{
    uint8_t entry[FAT_ENTRY] = { 0 };
    memcpy(entry, name, 11);
    entry[11] = (uint8_t)attributes;
    put_times(entry, seconds);
    st32_le(entry + 28, (uint32_t)size);
    g_byte_array_append(out, entry, sizeof(entry));
}

/* Where a child's entry is, so that its cluster can be written there. */
typedef struct Link {
    FatItem *in;
    guint offset;
    FatItem *child;
} Link;

typedef struct Scan {
    Fat *fat;
    GPtrArray *items;
    GArray *links; /* Link */
    struct { dev_t dev; ino_t ino; } above[FAT_MAX_DEPTH];
} Scan;

static void item_free(gpointer opaque)
{
    FatItem *item = opaque;
    g_free(item->path);
    g_free(item->guest_path);
    if (item->entries) {
        g_byte_array_unref(item->entries);
    }
    g_free(item);
}

static FatItem *item_new(Scan *scan, const char *path, const char *guest_path, bool directory, uint64_t size)
{
    FatItem *item = g_new0(FatItem, 1);
    item->path = g_strdup(path);
    item->guest_path = g_strdup(guest_path);
    item->directory = directory;
    item->size = size;
    item->entries = directory ? g_byte_array_new() : NULL;
    g_ptr_array_add(scan->items, item);
    return item;
}

/* "." and ".." */
static void put_dots(Scan *scan, FatItem *dir, FatItem *parent, time_t seconds)
{
    uint8_t name[11];
    memset(name, ' ', sizeof(name));
    for (unsigned dots = 1; dots <= 2; dots++) {
        name[dots - 1] = '.';
        Link link = { dir, dir->entries->len, dots == 1 ? dir : parent };
        put_entry(dir->entries, name, ATTR_DIRECTORY, seconds, 0);
        g_array_append_val(scan->links, link);
    }
}

static Error *scan_directory(Scan *scan, FatItem *dir, int fd, unsigned depth);

static Error *scan_below(Scan *scan, FatItem *item, int parent_fd, const char *name, const struct stat *st,
                         unsigned depth)
{
    for (unsigned i = 0; i < depth; i++) {
        if (scan->above[i].dev == st->st_dev && scan->above[i].ino == st->st_ino) {
            return NULL; /* a link upwards: shown without contents */
        }
    }
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return error_new_errno(errno, "Could not read the directory '%s/%s'", scan->fat->dir, item->path);
    }
    scan->above[depth].dev = st->st_dev;
    scan->above[depth].ino = st->st_ino;
    return scan_directory(scan, item, fd, depth);
}

static Error *scan_entry(Scan *scan, FatItem *dir, int fd, const char *name, GHashTable *taken, unsigned depth)
{
    struct stat st;
    glong units;
    if (fstatat(fd, name, &st, 0) < 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))) {
        return NULL; /* it is gone, or nothing that FAT has */
    }
    bool directory = S_ISDIR(st.st_mode);
    g_autofree char *path = *dir->path ? g_strconcat(dir->path, "/", name, NULL) : g_strdup(name);
    g_autofree gunichar2 *wide = long_name(name, &units);
    if (!wide) {
        warn_report("%s/%s is left out: FAT cannot have this name", scan->fat->dir, path);
        return NULL;
    }
    if (!directory && (uint64_t)st.st_size > UINT32_MAX) {
        return error_new("'%s/%s' is longer than FAT allows (4 GiB)", scan->fat->dir, path);
    }
    if (depth >= FAT_MAX_DEPTH || scan->items->len >= FAT_MAX_ITEMS) {
        return error_new("'%s' has too many files (%d), or directories too deep in each other (%d)", scan->fat->dir,
                         FAT_MAX_ITEMS, FAT_MAX_DEPTH);
    }
    uint8_t short_form[11];
    short_name(name, taken, short_form);
    add_long_name(dir->entries, wide, units, fat_name_sum(short_form));
    g_autofree char *guest = g_utf16_to_utf8(wide, units, NULL, NULL, NULL);
    g_autofree char *guest_path = *dir->guest_path ? g_strconcat(dir->guest_path, "/", guest, NULL) : g_strdup(guest);
    FatItem *item = item_new(scan, path, guest_path, directory, directory ? 0 : (uint64_t)st.st_size);
    Link link = { dir, dir->entries->len, item };
    unsigned writable = st.st_mode & 0200 ? 0 : ATTR_READ_ONLY;
    put_entry(dir->entries, short_form, directory ? ATTR_DIRECTORY : ATTR_ARCHIVE | writable, st.st_mtime, item->size);
    g_array_append_val(scan->links, link);
    if (!directory) {
        return NULL;
    }
    put_dots(scan, item, dir, st.st_mtime);
    return scan_below(scan, item, fd, name, &st, depth);
}

static int by_name(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Takes fd. In the order of the names, so that the same directory gives the same image. */
static Error *scan_directory(Scan *scan, FatItem *dir, int fd, unsigned depth)
{
    g_autoptr(GHashTable) taken = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    Error *err = NULL;
    DIR *stream = fdopendir(fd);

    if (!stream) {
        close(fd);
        return error_new_errno(errno, "Could not read the directory '%s/%s'", scan->fat->dir, dir->path);
    }
    for (struct dirent *d; (d = readdir(stream)) && names->len < FAT_MAX_ITEMS;) {
        if (strcmp(d->d_name, ".") && strcmp(d->d_name, "..")) {
            g_ptr_array_add(names, g_strdup(d->d_name));
        }
    }
    g_ptr_array_sort(names, by_name);
    for (guint i = 0; i < names->len && !err; i++) {
        err = scan_entry(scan, dir, fd, g_ptr_array_index(names, i), taken, depth + 1);
    }
    closedir(stream);
    return err;
}

/* --- layout --- */

static uint32_t clusters_of(const FatItem *item, uint32_t cluster_bytes)
{
    uint64_t bytes = item->directory ? item->entries->len : item->size;
    return (uint32_t)((bytes + cluster_bytes - 1) / cluster_bytes);
}

static uint64_t clusters_needed(const Scan *scan, const FatLayout *l)
{
    uint64_t sum = 0;
    for (guint i = 0; i < scan->items->len; i++) {
        FatItem *item = g_ptr_array_index(scan->items, i);
        sum += item == scan->fat->root && l->bits != 32 ? 0 : clusters_of(item, fat_cluster_bytes(l));
    }
    return sum;
}

static void finish_layout(FatLayout *l)
{
    l->volume = (uint32_t)(l->sectors - l->start);
    l->root_sectors = l->root_entries * FAT_ENTRY / FAT_SECTOR;
    uint64_t most = (l->volume - l->reserved - l->root_sectors) / l->per_cluster + 2;
    l->fat_sectors = (uint32_t)((most * l->bits / 8 + FAT_SECTOR) / FAT_SECTOR);
    l->clusters = (l->volume - fat_data_start(l)) / l->per_cluster;
}

static void floppy_layout(FatLayout *l, unsigned bits)
{
    bool extended = bits == 0; /* 2.88 MB unless one asks for FAT12 by name */
    *l = (FatLayout) { .bits = 12, .floppy = true, .sectors = extended ? 5760 : 2880, .heads = 2,
                       .per_track = extended ? 36 : 18, .reserved = 1, .root_entries = extended ? 240 : 224,
                       .per_cluster = extended ? 2 : 1 };
    finish_layout(l);
}

/* 504 MiB, the most that the oldest BIOS knows, or an eighth of a sixteenth of it for FAT12. */
static void disk_layout(FatLayout *l, unsigned bits, uint32_t root_entries)
{
    *l = (FatLayout) { .bits = bits ? bits : 16, .sectors = (bits == 12 ? 64 : 1024) * 16 * 63, .start = 63, .heads = 16,
                       .per_track = 63, .reserved = bits == 32 ? 32 : 1, .root_entries = bits == 32 ? 0 : root_entries,
                       .per_cluster = bits == 32 ? 8 : 16 };
    finish_layout(l);
}

/* FAT32 grows with what it must hold, and an eighth stays free. */
static void grow_layout(const Scan *scan, FatLayout *l)
{
    while (clusters_needed(scan, l) + l->clusters / 8 > l->clusters && l->sectors < UINT32_MAX / 2) {
        l->sectors *= 2;
        l->per_cluster = l->sectors > 32 * GiB / FAT_SECTOR ? 64 : l->sectors > 8 * GiB / FAT_SECTOR ? 16 : 8;
        finish_layout(l);
    }
}

static Error *choose_layout(Scan *scan, unsigned bits, bool floppy)
{
    FatLayout *l = &scan->fat->layout;
    uint32_t root_used = scan->fat->root->entries->len / FAT_ENTRY;

    if (floppy) {
        floppy_layout(l, bits);
    } else {
        disk_layout(l, bits, MAX(512, ALIGN_UP(root_used, 16)));
    }
    if (l->bits == 32) {
        grow_layout(scan, l);
    } else if (root_used > MIN(l->root_entries, 65520)) {
        return error_new("The top directory of '%s' does not fit: it needs %u entries, and has %u", scan->fat->dir, root_used,
                         MIN(l->root_entries, 65520));
    }
    uint64_t needed = clusters_needed(scan, l);
    if (needed > l->clusters) {
        return error_hint(error_new("'%s' does not fit in FAT%u: it needs %" PRIu64 " MiB, there are %" PRIu64, scan->fat->dir,
                                    l->bits, needed * fat_cluster_bytes(l) / MiB, (uint64_t)l->clusters * fat_cluster_bytes(l) / MiB),
                          "fat-type=32 makes a disk as large as it must be.");
    }
    return NULL;
}

static int by_cluster(gconstpointer a, gconstpointer b)
{
    const FatItem *x = *(FatItem *const *)a, *y = *(FatItem *const *)b;
    return x->first - 1 < y->first - 1 ? -1 : x->first - 1 > y->first - 1; /* 0 comes last */
}

static void place_items(Scan *scan)
{
    Fat *fat = scan->fat;
    const FatLayout *l = &fat->layout;
    uint32_t next = 2;

    for (guint i = 0; i < scan->items->len; i++) {
        FatItem *item = g_ptr_array_index(scan->items, i);
        item->clusters = item == fat->root && l->bits != 32 ? 0 : clusters_of(item, fat_cluster_bytes(l));
        item->first = item->clusters ? next : 0;
        next += item->clusters;
        fat->with_clusters += item->clusters != 0;
    }
    for (guint i = 0; i < scan->links->len; i++) {
        const Link *link = &g_array_index(scan->links, Link, i);
        uint8_t *entry = link->in->entries->data + link->offset;
        uint32_t first = link->child == fat->root ? 0 : link->child->first; /* ".." of what is in the root says 0 */
        st16_le(entry + 20, (uint16_t)(first >> 16));
        st16_le(entry + 26, (uint16_t)first);
    }
    g_ptr_array_sort(scan->items, by_cluster);
}

Error *fat_read_tree(Fat *fat, unsigned bits, bool floppy)
{
    g_autoptr(GArray) links = g_array_new(FALSE, FALSE, sizeof(Link));
    struct stat st;
    uint8_t label[11];

    fat->items = g_ptr_array_new_with_free_func(item_free);
    Scan scan = { .fat = fat, .items = fat->items, .links = links };
    fat->root = item_new(&scan, "", "", true, 0);
    memset(label, ' ', sizeof(label));
    memcpy(label, fat->label, strlen(fat->label));
    if (*fat->label) {
        put_entry(fat->root->entries, label, ATTR_LABEL, time(NULL), 0);
    }
    if (fstat(fat->dir_fd, &st) < 0) {
        return error_new_errno(errno, "Could not read the directory '%s'", fat->dir);
    }
    scan.above[0].dev = st.st_dev;
    scan.above[0].ino = st.st_ino;
    int fd = openat(fat->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return error_new_errno(errno, "Could not read the directory '%s'", fat->dir);
    }
    TRY(scan_directory(&scan, fat->root, fd, 0));
    TRY(choose_layout(&scan, bits, floppy));
    place_items(&scan);
    return NULL;
}

void fat_free_tree(Fat *fat)
{
    if (fat->items) {
        g_ptr_array_unref(fat->items);
    }
    fat->items = NULL;
}
