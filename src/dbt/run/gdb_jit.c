/*
 * GDB's JIT compilation interface ("Debugging with GDB", chapter 30): a list of small ELF images in our memory, each with
 * the symbols of a stretch of translated code, and a function that the debugger puts a breakpoint on to hear of changes.
 *
 * An image is on the list from its first symbol on and grows in place, so that a debugger that comes later finds every
 * block; one that is there all the time reads an image when it is full. An image's section is what its blocks cover, since
 * a debugger wants the sections of several images to lie apart.
 */
#include "dbt/run/gdb_jit.h"

#include <elf.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

enum { IMAGE_SYMBOLS = 2048, NAME_SIZE = 24, FIRST_NAME = 64 };
enum { SECTION_TEXT = 1, SECTION_SYMBOLS, SECTION_NAMES, SECTION_COUNT };

typedef struct Image {
    Elf64_Ehdr header;
    Elf64_Shdr sections[SECTION_COUNT];
    Elf64_Sym symbols[1 + IMAGE_SYMBOLS]; /* the first is none */
    char names[FIRST_NAME + IMAGE_SYMBOLS * NAME_SIZE];
} Image;

/* --- the interface, whose names and layout the debugger knows --- */

typedef enum JitAction { JIT_NOACTION, JIT_REGISTER_FN, JIT_UNREGISTER_FN } JitAction;

struct jit_code_entry {
    struct jit_code_entry *next_entry, *prev_entry;
    const char *symfile_addr;
    uint64_t symfile_size;
};

struct jit_descriptor {
    uint32_t version, action_flag;
    struct jit_code_entry *relevant_entry, *first_entry;
};

/* One of a process: the interface says so. The lock is for it. */
extern struct jit_descriptor __jit_debug_descriptor;
__attribute__((used)) struct jit_descriptor __jit_debug_descriptor = { .version = 1 };
static pthread_mutex_t descriptor_lock = PTHREAD_MUTEX_INITIALIZER;

void __jit_debug_register_code(void);
__attribute__((noinline, used)) void __jit_debug_register_code(void)
{
    __asm__ volatile("" ::: "memory");
}

static void notify(struct jit_code_entry *entry, JitAction action)
{
    __jit_debug_descriptor.relevant_entry = entry;
    __jit_debug_descriptor.action_flag = action;
    __jit_debug_register_code();
    __jit_debug_descriptor.action_flag = JIT_NOACTION;
}

static void entry_link(struct jit_code_entry *entry)
{
    struct jit_descriptor *d = &__jit_debug_descriptor;
    entry->next_entry = d->first_entry;
    if (entry->next_entry != NULL) {
        entry->next_entry->prev_entry = entry;
    }
    d->first_entry = entry;
}

static void entry_unlink(struct jit_code_entry *entry)
{
    if (entry->next_entry != NULL) {
        entry->next_entry->prev_entry = entry->prev_entry;
    }
    if (entry->prev_entry != NULL) {
        entry->prev_entry->next_entry = entry->next_entry;
    } else {
        __jit_debug_descriptor.first_entry = entry->next_entry;
    }
}

/* --- images --- */

typedef struct Stretch {
    struct jit_code_entry entry;
    unsigned count;
    Image image;
} Stretch;

struct GdbJit {
    GPtrArray *stretches; /* Stretch *; the last one grows */
};

static Elf64_Shdr section(unsigned name, uint32_t type, uint64_t flags, size_t offset, size_t size, size_t entry_size)
{
    return (Elf64_Shdr){ .sh_name = name, .sh_type = type, .sh_flags = flags, .sh_offset = offset, .sh_size = size,
                         .sh_entsize = entry_size, .sh_addralign = 8 };
}

static void image_init(Image *image, const uint8_t *code)
{
    static const char section_names[FIRST_NAME] = "\0.text\0.symtab\0.strtab";
    memcpy(image->header.e_ident, ELFMAG, SELFMAG);
    image->header.e_ident[EI_CLASS] = ELFCLASS64;
    image->header.e_ident[EI_DATA] = ELFDATA2LSB;
    image->header.e_ident[EI_VERSION] = EV_CURRENT;
    image->header.e_type = ET_EXEC; /* symbols have addresses */
    image->header.e_machine = EM_X86_64;
    image->header.e_version = EV_CURRENT;
    image->header.e_ehsize = sizeof(Elf64_Ehdr);
    image->header.e_shoff = offsetof(Image, sections);
    image->header.e_shentsize = sizeof(Elf64_Shdr);
    image->header.e_shnum = SECTION_COUNT;
    image->header.e_shstrndx = SECTION_NAMES;
    memcpy(image->names, section_names, sizeof(section_names));
    image->sections[SECTION_TEXT] = section(1, SHT_NOBITS, SHF_ALLOC | SHF_EXECINSTR, 0, 0, 0);
    image->sections[SECTION_TEXT].sh_addr = (uintptr_t)code;
    image->sections[SECTION_SYMBOLS] = section(7, SHT_SYMTAB, 0, offsetof(Image, symbols), sizeof(Elf64_Sym), sizeof(Elf64_Sym));
    image->sections[SECTION_SYMBOLS].sh_link = SECTION_NAMES;
    image->sections[SECTION_SYMBOLS].sh_info = 1; /* all but the first are global */
    image->sections[SECTION_NAMES] = section(15, SHT_STRTAB, 0, offsetof(Image, names), sizeof(image->names), 0);
}

static Stretch *stretch_new(GdbJit *jit, const uint8_t *code)
{
    Stretch *s = g_new0(Stretch, 1);
    image_init(&s->image, code);
    s->entry.symfile_addr = (const char *)&s->image;
    s->entry.symfile_size = sizeof(s->image);
    g_ptr_array_add(jit->stretches, s);
    pthread_mutex_lock(&descriptor_lock);
    entry_link(&s->entry);
    pthread_mutex_unlock(&descriptor_lock);
    return s;
}

/* The name and the symbol are there before they count. */
static void stretch_add(Stretch *s, const uint8_t *code, size_t size, uint64_t pc)
{
    Image *image = &s->image;
    unsigned name = FIRST_NAME + s->count * NAME_SIZE;
    snprintf(image->names + name, NAME_SIZE, "guest-%" PRIx64, pc);
    s->count++;
    image->symbols[s->count] = (Elf64_Sym){ .st_name = name, .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC), .st_shndx = SECTION_TEXT,
                                            .st_value = (uintptr_t)code, .st_size = size };
    image->sections[SECTION_TEXT].sh_size = (uintptr_t)code + size - image->sections[SECTION_TEXT].sh_addr;
    image->sections[SECTION_SYMBOLS].sh_size = (1 + s->count) * sizeof(Elf64_Sym);
}

GdbJit *gdb_jit_new(void)
{
    GdbJit *jit = g_new(GdbJit, 1);
    jit->stretches = g_ptr_array_new();
    return jit;
}

void gdb_jit_add(GdbJit *jit, const uint8_t *code, size_t size, uint64_t pc)
{
    Stretch *s = jit->stretches->len == 0 ? NULL : g_ptr_array_index(jit->stretches, jit->stretches->len - 1);
    if (s == NULL || s->count == IMAGE_SYMBOLS) {
        s = stretch_new(jit, code);
    }
    stretch_add(s, code, size, pc);
    if (s->count == IMAGE_SYMBOLS) {
        pthread_mutex_lock(&descriptor_lock);
        notify(&s->entry, JIT_REGISTER_FN);
        pthread_mutex_unlock(&descriptor_lock);
    }
}

void gdb_jit_clear(GdbJit *jit)
{
    pthread_mutex_lock(&descriptor_lock);
    for (unsigned i = 0; i < jit->stretches->len; i++) {
        Stretch *s = g_ptr_array_index(jit->stretches, i);
        entry_unlink(&s->entry);
        notify(&s->entry, JIT_UNREGISTER_FN);
        g_free(s);
    }
    pthread_mutex_unlock(&descriptor_lock);
    g_ptr_array_set_size(jit->stretches, 0);
}

void gdb_jit_free(GdbJit *jit)
{
    if (jit != NULL) {
        gdb_jit_clear(jit);
        g_ptr_array_free(jit->stretches, TRUE);
        g_free(jit);
    }
}
