/* The file system as the guest has left it: its directories read and checked, names put together again. */
#include <string.h>

#include "base/endian.h"
#include "block/protocol/vvfat/walk.h"

enum { MAX_DIRECTORY = 65536 * FAT_ENTRY, DELETED = 0xe5, STANDS_FOR_DELETED = 5, LOWER_BASE = 8, LOWER_EXTENSION = 16 };

static void seen_free(gpointer opaque)
{
    FatSeen *seen = opaque;
    g_free(seen->path);
    g_free(seen);
}

/* --- chains --- */

static bool in_range(const Walk *w, uint32_t cluster)
{
    return cluster >= 2 && cluster - 2 < w->fat->layout.clusters;
}

/* What the first table says of the cluster; 0, which ends no chain, when it cannot be read. */
static uint32_t next_cluster(Walk *w, uint32_t cluster)
{
    const FatLayout *l = &w->fat->layout;
    uint64_t at = (uint64_t)cluster * l->bits / 8, sector = l->start + l->reserved + at / FAT_SECTOR;

    if (w->window_at != sector) {
        w->window_at = 0;
        if (fat_read(w->fat, sector, 2, w->window) < 0) { /* behind the first table there is always a sector */
            return 0;
        }
        w->window_at = sector;
    }
    const uint8_t *p = w->window + at % FAT_SECTOR;
    return l->bits == 32   ? ld32_le(p) & 0x0fffffff
           : l->bits == 16 ? ld16_le(p)
           : cluster & 1   ? ld16_le(p) >> 4
                           : ld16_le(p) & 0xfff;
}

static bool is_last(const Walk *w, uint32_t value)
{
    unsigned bits = w->fat->layout.bits;
    return value >= (bits == 32 ? 0x0ffffff8 : bits == 16 ? 0xfff8u : 0xff8u);
}

/* Takes the chain's clusters for its owner; false: it is broken, or somebody else's. */
static bool take_chain(Walk *w, uint32_t first, uint64_t *ret_clusters)
{
    uint64_t count = 0;
    for (uint32_t at = first; !is_last(w, at) || !count; at = next_cluster(w, at)) {
        if (!in_range(w, at) || (w->used[at / 8] & BIT(at % 8))) {
            return false;
        }
        w->used[at / 8] |= (uint8_t)BIT(at % 8);
        count++;
    }
    *ret_clusters = count;
    return true;
}

bool fat_chain_is_dirty(Walk *w, uint32_t first)
{
    const FatLayout *l = &w->fat->layout;
    for (uint32_t at = first; in_range(w, at); at = next_cluster(w, at)) {
        uint64_t sector = fat_cluster_sector(l, at);
        for (uint64_t i = sector; i < sector + l->per_cluster; i++) {
            if (w->fat->dirty[i / 8] & BIT(i % 8)) {
                return true;
            }
        }
    }
    return false;
}

uint32_t fat_read_chain(Walk *w, uint32_t first, uint8_t *data)
{
    const FatLayout *l = &w->fat->layout;
    return fat_read(w->fat, fat_cluster_sector(l, first), l->per_cluster, data) < 0 ? 0 : next_cluster(w, first);
}

/* --- names --- */

typedef struct LongName {
    gunichar2 units[20 * 13];
    unsigned next; /* the part that comes next; 0: it is whole, or there is none */
    unsigned parts;
    uint8_t sum;
} LongName;

static void take_part(LongName *name, const uint8_t *entry)
{
    static const uint8_t place[13] = { 1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30 };
    unsigned number = entry[0] & 0x3f;

    if (entry[0] & 0x40) {
        *name = (LongName) { .parts = number, .next = number, .sum = entry[13] };
    }
    if (!number || number > 20 || number != name->next || entry[13] != name->sum) {
        name->parts = 0;
        return;
    }
    for (unsigned i = 0; i < 13; i++) {
        name->units[(number - 1) * 13 + i] = ld16_le(entry + place[i]);
    }
    name->next--;
}

static char *short_text(const uint8_t *entry)
{
    GString *text = g_string_new(NULL);
    for (int part = 0; part < 2; part++) {
        const uint8_t *from = entry + (part ? 8 : 0);
        int length = part ? 3 : 8;
        bool lower = entry[12] & (part ? LOWER_EXTENSION : LOWER_BASE);
        while (length && from[length - 1] == ' ') {
            length--;
        }
        if (part && length) {
            g_string_append_c(text, '.');
        }
        for (int i = 0; i < length; i++) {
            char c = (char)(!part && !i && from[i] == STANDS_FOR_DELETED ? DELETED : from[i]);
            c = (uint8_t)c >= 0x80 ? '_' : c; /* of a code page that is not known */
            g_string_append_c(text, lower ? g_ascii_tolower(c) : c);
        }
    }
    return g_string_free(text, FALSE);
}

/* NULL: it is no name for a file of the host. Caller frees. */
static char *entry_name(LongName *name, const uint8_t *entry)
{
    g_autofree char *text = NULL;
    if (name->parts && !name->next && name->sum == fat_name_sum(entry)) {
        glong count = 0;
        while (count < (glong)name->parts * 13 && name->units[count]) {
            count++;
        }
        text = g_utf16_to_utf8(name->units, count, NULL, NULL, NULL);
    } else {
        text = short_text(entry);
    }
    if (!text || !*text || strchr(text, '/') || !strcmp(text, ".") || !strcmp(text, "..") || strlen(text) > FAT_NAME_MAX) {
        return NULL;
    }
    return g_steal_pointer(&text);
}

/* --- directories --- */

static bool walk_directory(Walk *w, const FatSeen *dir, unsigned depth);

static bool take_entry(Walk *w, const FatSeen *dir, LongName *name, const uint8_t *entry, unsigned depth)
{
    uint64_t clusters = 0;
    g_autofree char *text = entry_name(name, entry);
    if (!text || w->seen->len >= FAT_MAX_ITEMS) {
        return false;
    }
    FatSeen *seen = g_new0(FatSeen, 1);
    g_ptr_array_add(w->seen, seen);
    seen->path = *dir->path ? g_strconcat(dir->path, "/", text, NULL) : g_strdup(text);
    seen->directory = entry[11] & ATTR_DIRECTORY;
    seen->first = (w->fat->layout.bits == 32 ? (uint32_t)ld16_le(entry + 20) << 16 : 0) | ld16_le(entry + 26);
    seen->size = seen->directory ? 0 : ld32_le(entry + 28);
    seen->date = ld16_le(entry + 24);
    seen->time = ld16_le(entry + 22);
    if (!g_hash_table_add(w->paths, seen->path) || (seen->first && !take_chain(w, seen->first, &clusters)) ||
        clusters * fat_cluster_bytes(&w->fat->layout) < seen->size) {
        return false;
    }
    return !seen->directory || (seen->first && walk_directory(w, seen, depth + 1));
}

static bool walk_entries(Walk *w, const FatSeen *dir, const uint8_t *entries, size_t bytes, unsigned depth)
{
    LongName name = { .parts = 0 };

    for (size_t at = 0; at < bytes && entries[at]; at += FAT_ENTRY) {
        const uint8_t *entry = entries + at;
        if (entry[0] == DELETED) {
            name.parts = 0;
        } else if ((entry[11] & 0x3f) == ATTR_LONG_NAME) {
            take_part(&name, entry);
        } else {
            bool dots = entry[0] == '.' || (entry[11] & ATTR_LABEL);
            if (!dots && !take_entry(w, dir, &name, entry, depth)) {
                return false;
            }
            name.parts = 0;
        }
    }
    return true;
}

static bool walk_directory(Walk *w, const FatSeen *dir, unsigned depth)
{
    const FatLayout *l = &w->fat->layout;
    g_autoptr(GByteArray) entries = g_byte_array_new();

    if (depth >= FAT_MAX_DEPTH) {
        return false;
    }
    if (!dir->first) { /* the root of FAT12 and FAT16 */
        g_byte_array_set_size(entries, l->root_sectors * FAT_SECTOR);
        if (fat_read(w->fat, l->start + l->reserved + 2 * l->fat_sectors, l->root_sectors, entries->data) < 0) {
            return false;
        }
    }
    for (uint32_t at = dir->first; at && !is_last(w, at);) { /* the chain was found to be good */
        guint before = entries->len;
        if (before >= MAX_DIRECTORY) {
            return false;
        }
        g_byte_array_set_size(entries, before + fat_cluster_bytes(l));
        at = fat_read_chain(w, at, entries->data + before);
        if (!at) {
            return false;
        }
    }
    return walk_entries(w, dir, entries->data, entries->len, depth);
}

/* --- the whole --- */

/* The guest may have made another file system, or other partitions. */
static bool same_layout(Walk *w)
{
    const FatLayout *l = &w->fat->layout;
    uint8_t sectors[2][FAT_SECTOR];
    uint64_t place[2] = { 0, l->start };

    for (int i = 0; i < 2; i++) {
        if (fat_read(w->fat, place[i], 1, sectors[i]) < 0) {
            return false;
        }
    }
    const uint8_t *boot = sectors[1], *part = sectors[0] + 446;
    bool fat32 = l->bits == 32;
    return (!l->start || (ld32_le(part + 8) == l->start && ld32_le(part + 12) == l->volume)) &&
           ld16_le(boot + 11) == FAT_SECTOR && boot[13] == l->per_cluster && ld16_le(boot + 14) == l->reserved && boot[16] == 2 &&
           ld16_le(boot + 17) == l->root_entries && (fat32 ? ld32_le(boot + 36) : ld16_le(boot + 22)) == l->fat_sectors &&
           (!fat32 || ld32_le(boot + 44) == 2);
}

bool fat_walk(Walk *w, Fat *fat)
{
    const FatLayout *l = &fat->layout;
    uint64_t clusters;

    *w = (Walk) { .fat = fat };
    w->seen = g_ptr_array_new_with_free_func(seen_free);
    w->paths = g_hash_table_new(g_str_hash, g_str_equal);
    w->used = g_try_malloc0(l->clusters / 8 + 2);
    FatSeen root = { .path = (char *)"", .directory = true, .first = l->bits == 32 ? 2 : 0 };
    return w->used && same_layout(w) && (!root.first || take_chain(w, root.first, &clusters)) && walk_directory(w, &root, 0);
}

void fat_walk_fini(Walk *w)
{
    g_hash_table_unref(w->paths);
    g_ptr_array_unref(w->seen);
    g_free(w->used);
}
