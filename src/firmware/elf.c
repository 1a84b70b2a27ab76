#include "firmware/elf.h"

#include <elf.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"

bool elf_is(const uint8_t *data, size_t size)
{
    return size >= sizeof(Elf32_Ehdr) && !memcmp(data, ELFMAG, SELFMAG) && data[EI_DATA] == ELFDATA2LSB;
}

static ElfSegment segment32(const uint8_t *p)
{
    return (ElfSegment) { ld32_le(p), ld32_le(p + 4), ld32_le(p + 8), ld32_le(p + 12), ld32_le(p + 16),
                          ld32_le(p + 20) };
}

static ElfSegment segment64(const uint8_t *p)
{
    return (ElfSegment) { ld32_le(p), ld64_le(p + 8), ld64_le(p + 16), ld64_le(p + 24), ld64_le(p + 32),
                          ld64_le(p + 40) };
}

Error *elf_parse(const char *path, const uint8_t *data, size_t size, ElfImage *ret_image)
{
    bool is64 = data[EI_CLASS] == ELFCLASS64;
    if (is64 && size < sizeof(Elf64_Ehdr)) {
        return error_new("'%s' ends inside its ELF header", path);
    }
    uint64_t table = is64 ? ld64_le(data + 32) : ld32_le(data + 28);
    unsigned entry_size = ld16_le(data + (is64 ? 54 : 42)), count = ld16_le(data + (is64 ? 56 : 44));
    unsigned needed = is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if (entry_size < needed || !range_inside(table, (uint64_t)entry_size * count, size)) {
        return error_new("'%s' has a broken ELF program header table", path);
    }
    GArray *segments = g_array_new(FALSE, FALSE, sizeof(ElfSegment));
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *p = data + table + (uint64_t)i * entry_size;
        ElfSegment segment = is64 ? segment64(p) : segment32(p);
        if (!range_inside(segment.offset, segment.file_size, size)) {
            g_array_unref(segments);
            return error_new("'%s' is cut short: a segment lies behind its end", path);
        }
        g_array_append_val(segments, segment);
    }
    *ret_image = (ElfImage) { is64, ld16_le(data + 18), is64 ? ld64_le(data + 24) : ld32_le(data + 24), segments };
    return NULL;
}

void elf_fini(ElfImage *image)
{
    g_clear_pointer(&image->segments, g_array_unref);
}

Error *elf_flatten(const char *path, const uint8_t *data, const ElfImage *image, uint64_t limit, uint8_t **ret_memory,
                   uint64_t *ret_start, uint64_t *ret_size)
{
    uint64_t start = UINT64_MAX, end = 0, top;

    for (guint i = 0; i < image->segments->len; i++) {
        const ElfSegment *s = &g_array_index(image->segments, ElfSegment, i);
        if (s->type == ELF_LOAD && s->mem_size) {
            if (!checked_add_u64(s->paddr, MAX(s->mem_size, s->file_size), &top)) {
                return error_new("'%s' has a segment at an impossible address", path);
            }
            start = MIN(start, s->paddr);
            end = MAX(end, top);
        }
    }
    if (start >= end) {
        return error_new("'%s' has nothing to load", path);
    }
    if (end > limit) {
        return error_hint(error_new("'%s' loads up to address 0x%" G_GINT64_MODIFIER "x, beyond the guest's memory", path,
                                    end),
                          "Give the guest more memory with -m.");
    }
    uint8_t *memory = g_try_malloc0(end - start);
    if (!memory) {
        return error_new("'%s': not enough memory to load it", path);
    }
    for (guint i = 0; i < image->segments->len; i++) {
        const ElfSegment *s = &g_array_index(image->segments, ElfSegment, i);
        if (s->type == ELF_LOAD && s->mem_size) {
            memcpy(memory + (s->paddr - start), data + s->offset, s->file_size);
        }
    }
    *ret_memory = memory;
    *ret_start = start;
    *ret_size = end - start;
    return NULL;
}

uint64_t elf_physical(const ElfImage *image, uint64_t addr)
{
    for (guint i = 0; i < image->segments->len; i++) {
        const ElfSegment *s = &g_array_index(image->segments, ElfSegment, i);
        if (s->type == ELF_LOAD && addr >= s->vaddr && addr - s->vaddr < s->mem_size) {
            return addr - s->vaddr + s->paddr;
        }
    }
    return addr;
}
