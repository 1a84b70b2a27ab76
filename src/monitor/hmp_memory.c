/* HMP: looking into memory and ports: x, xp, print, i, o, sum, memsave, gpa2hva, gva2gpa. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include <string.h>

#include "cpu/x86/cpu.h"
#include "cpu/x86/insn.h"
#include "monitor/hmp_priv.h"

/* How a value of size bytes looks, as wide as its kind needs. */
static void print_value(Hmp *hmp, char format, unsigned size, uint64_t value)
{
    unsigned bits = size * 8;
    int64_t number = (int64_t)(value << (64 - bits)) >> (64 - bits);

    switch (format) {
    case 'o':
        hmp_printf(hmp, "%#*" G_GINT64_MODIFIER "o", (int)(bits + 2) / 3, (guint64)value);
        break;
    case 'd':
        hmp_printf(hmp, "%*" G_GINT64_FORMAT, size == 8 ? 20 : size == 4 ? 10 : size == 2 ? 5 : 3, (gint64)number);
        break;
    case 'u':
        hmp_printf(hmp, "%*" G_GUINT64_FORMAT, size == 8 ? 20 : size == 4 ? 10 : size == 2 ? 5 : 3, (guint64)value);
        break;
    case 'c': {
        uint8_t c = (uint8_t)value;
        hmp_printf(hmp, c == '\'' || c == '\\' ? "'\\%c'" : c >= 32 && c < 127 ? "'%c'" : "'\\x%02x'", c);
        break;
    }
    default:
        hmp_printf(hmp, "0x%0*" G_GINT64_MODIFIER "x", (int)size * 2, (guint64)value);
    }
}

typedef struct Access {
    Hmp *hmp;
    Vcpu *vcpu; /* NULL: physical */
} Access;

/* Page by page; false where nothing is mapped. */
static bool read_memory(const Access *access, uint64_t addr, uint8_t *buf, uint64_t length)
{
    while (length > 0) {
        uint64_t pa = addr, piece = MIN(length, MEM_PAGE_SIZE - (addr & (MEM_PAGE_SIZE - 1)));
        if (access->vcpu && !access->vcpu->ops->translate(access->vcpu, addr, &pa)) {
            return false;
        }
        mem_read(access->vcpu ? access->vcpu->as : access->hmp->machine->as, pa, buf, piece);
        addr += piece;
        buf += piece;
        length -= piece;
    }
    return true;
}

static void print_instructions(const Access *access, uint64_t addr, unsigned count)
{
    Vcpu *vcpu = hmp_cpu(access->hmp);

    if (!vcpu || !vcpu->arch || !g_str_has_prefix(vcpu->ops->arch, "x86")) {
        hmp_printf(access->hmp, "instructions of this CPU cannot be shown\n");
        return;
    }
    for (; count > 0; count--) {
        uint8_t bytes[15] = { 0 };
        char text[128];
        X86Insn insn = { 0 };
        unsigned available = sizeof(bytes);
        while (available > 0 && !read_memory(access, addr, bytes, available)) {
            available--;
        }
        if (available == 0) {
            hmp_printf(access->hmp, "0x%08" G_GINT64_MODIFIER "x:  Cannot access memory\n", (guint64)addr);
            return;
        }
        int rc = x86_decode(&insn, bytes, available, x86_mode(x86_cpu_of(vcpu)));
        unsigned length = rc == DECODE_OK || insn.length ? MAX(insn.length, 1) : 1;
        hmp_printf(access->hmp, "0x%08" G_GINT64_MODIFIER "x:  ", (guint64)addr);
        for (unsigned n = 0; n < length; n++) {
            hmp_printf(access->hmp, "%02x ", bytes[n]);
        }
        hmp_printf(access->hmp, "%*s %s\n", (int)(3 * (8 - MIN(length, 8))), "",
                   rc == DECODE_OK ? x86_insn_text(&insn, addr, text, sizeof(text)) : "(bad)");
        addr += length;
    }
}

static void print_string(const Access *access, uint64_t addr)
{
    uint8_t c;

    hmp_printf(access->hmp, "%016" G_GINT64_MODIFIER "x: \"", (guint64)addr);
    for (unsigned n = 0; n < 4096 && read_memory(access, addr + n, &c, 1) && c; n++) {
        hmp_printf(access->hmp, c >= 32 && c < 127 ? "%c" : "\\x%02x", c);
    }
    hmp_printf(access->hmp, "\"\n");
}

static void dump(const Access *access, uint64_t addr, char format, unsigned size, unsigned count)
{
    unsigned per_line = format == 'c' ? 8 : MAX(16 / size, 1);
    unsigned line = 0;

    for (; count > 0; count--, addr += size) {
        uint8_t bytes[8] = { 0 };
        uint64_t value = 0;
        if (line == 0) {
            hmp_printf(access->hmp, "%016" G_GINT64_MODIFIER "x:", (guint64)addr);
        }
        if (!read_memory(access, addr, bytes, size)) {
            hmp_printf(access->hmp, " Cannot access memory\n");
            return;
        }
        for (unsigned n = size; n-- > 0;) {
            value = value << 8 | bytes[n];
        }
        hmp_printf(access->hmp, " ");
        print_value(access->hmp, format, size, value);
        line = (line + 1) % per_line;
        if (line == 0 || count == 1) {
            hmp_printf(access->hmp, "\n");
        }
    }
}

static void examine(const Access *access, const HmpArgs *args)
{
    char format = args->format;
    unsigned size = args->size == 'b' ? 1 : args->size == 'h' ? 2 : args->size == 'g' ? 8 : 4;

    machine_pause_vcpus(access->hmp->machine);
    if (format == 'i') {
        print_instructions(access, args->number[0], args->count);
    } else if (format == 's') {
        print_string(access, args->number[0]);
    } else {
        dump(access, args->number[0], format, format == 'c' ? 1 : size, args->count);
    }
    machine_resume_vcpus(access->hmp->machine);
}

static void hmp_x(Hmp *hmp, const HmpArgs *args)
{
    Access access = { hmp, hmp_cpu(hmp) };

    if (!access.vcpu || !access.vcpu->ops || !access.vcpu->ops->translate) {
        hmp_printf(hmp, "There is no CPU whose memory could be shown\n");
        return;
    }
    examine(&access, args);
}

static void hmp_xp(Hmp *hmp, const HmpArgs *args)
{
    Access access = { hmp, NULL };
    examine(&access, args);
}

static void hmp_print(Hmp *hmp, const HmpArgs *args)
{
    char format = args->format;

    if (format == 'x' || format == 'i' || format == 's') {
        hmp_printf(hmp, "%#" G_GINT64_MODIFIER "x\n", (guint64)args->number[0]);
    } else if (format == 'o') {
        hmp_printf(hmp, "%#" G_GINT64_MODIFIER "o\n", (guint64)args->number[0]);
    } else if (format == 'u') {
        hmp_printf(hmp, "%" G_GUINT64_FORMAT "\n", (guint64)args->number[0]);
    } else if (format == 'c') {
        print_value(hmp, 'c', 1, args->number[0]);
        hmp_printf(hmp, "\n");
    } else {
        hmp_printf(hmp, "%" G_GINT64_FORMAT "\n", (gint64)args->number[0]);
    }
}

static unsigned port_size(const HmpArgs *args)
{
    return args->size == 'h' ? 2 : args->size == 'w' ? 4 : 1;
}

static void hmp_in(Hmp *hmp, const HmpArgs *args)
{
    unsigned size = port_size(args);
    uint64_t port = args->number[0] & 0xffff, value = 0;

    if (args->text[1]) {
        mem_store(hmp->machine->io_as, port, 1, args->number[1] & 0xff);
        port++;
    }
    mem_load(hmp->machine->io_as, port, size, &value);
    hmp_printf(hmp, "port%c[0x%04x] = 0x%0*" G_GINT64_MODIFIER "x\n", size == 1 ? 'b' : size == 2 ? 'w' : 'l',
               (unsigned)port, (int)size * 2, (guint64)value);
}

static void hmp_out(Hmp *hmp, const HmpArgs *args)
{
    mem_store(hmp->machine->io_as, args->number[0] & 0xffff, port_size(args), args->number[1]);
}

/* The 16-bit sum with rotation of BSD's sum(1). */
static void hmp_sum(Hmp *hmp, const HmpArgs *args)
{
    uint16_t sum = 0;
    uint64_t size = MIN(args->number[1], 1 * GiB);

    for (uint64_t n = 0; n < size; n++) {
        uint8_t byte;
        mem_read(hmp->machine->as, args->number[0] + n, &byte, 1);
        sum = (uint16_t)((sum >> 1 | sum << 15) + byte);
    }
    hmp_printf(hmp, "%05u\n", sum);
}

static void save(Hmp *hmp, const HmpArgs *args, const char *command)
{
    Value *request = hmp_dict("filename", args->text[2], NULL);

    value_put(request, "val", value_uint(args->number[0]));
    value_put(request, "size", value_uint(args->number[1]));
    if (!strcmp(command, "memsave")) {
        value_put_int(request, "cpu-index", hmp->cpu_index);
    }
    hmp_qmp(hmp, command, request, NULL);
}

static void hmp_memsave(Hmp *hmp, const HmpArgs *args)
{
    save(hmp, args, "memsave");
}

static void hmp_pmemsave(Hmp *hmp, const HmpArgs *args)
{
    save(hmp, args, "pmemsave");
}

static void hmp_gpa2hva(Hmp *hmp, const HmpArgs *args)
{
    MemHit hit;

    mem_lookup(hmp->machine->as, args->number[0], &hit);
    if (!hit.host) {
        hmp_printf(hmp, "No memory is mapped at address 0x%" G_GINT64_MODIFIER "x\n", (guint64)args->number[0]);
        return;
    }
    hmp_printf(hmp, "Host virtual address for 0x%" G_GINT64_MODIFIER "x (%s) is %p\n", (guint64)args->number[0],
               hit.region->name, (void *)hit.host);
}

/* Linux tells root the frame behind a page of ours. */
static MUST_USE Error *frame_of(const void *host, uint64_t *ret_pa)
{
    enum { PAGE_SHIFT = 12 };
    uint64_t entry = 0, va = (uintptr_t)host;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return error_new_errno(errno, "Cannot open /proc/self/pagemap");
    }
    /* A page that was never touched has no frame yet. */
    (void)*(const volatile uint8_t *)host;
    ssize_t got = pread(fd, &entry, sizeof(entry), (off_t)((va >> PAGE_SHIFT) * sizeof(entry)));
    close(fd);
    if (got != sizeof(entry) || !(entry >> 63)) {
        return error_new("Page not present");
    }
    uint64_t frame = entry & ((UINT64_C(1) << 55) - 1);
    if (!frame) {
        return error_new("the host does not tell physical addresses (that needs CAP_SYS_ADMIN)");
    }
    *ret_pa = frame << PAGE_SHIFT | (va & ((1u << PAGE_SHIFT) - 1));
    return NULL;
}

static void hmp_gpa2hpa(Hmp *hmp, const HmpArgs *args)
{
    MemHit hit;
    uint64_t pa = 0;

    mem_lookup(hmp->machine->as, args->number[0], &hit);
    if (!hit.host) {
        hmp_printf(hmp, "No memory is mapped at address 0x%" G_GINT64_MODIFIER "x\n", (guint64)args->number[0]);
        return;
    }
    Error *err = frame_of(hit.host, &pa);
    if (err) {
        hmp_error(hmp, err);
        return;
    }
    hmp_printf(hmp, "Host physical address for 0x%" G_GINT64_MODIFIER "x (%s) is 0x%" G_GINT64_MODIFIER "x\n", (guint64)args->number[0],
               hit.region->name, (guint64)pa);
}

static void hmp_dump_guest_memory(Hmp *hmp, const HmpArgs *args)
{
    Value *request = value_dict();

    if (args->flag['z'] || args->flag['l'] || args->flag['s'] || args->flag['w']) {
        value_put_str(request, "format", args->flag['z'] ? "kdump-zlib" : args->flag['l'] ? "kdump-lzo" : args->flag['s'] ? "kdump-snappy"
                                                                                                                      : "win-dmp");
    }
    value_put(request, "protocol", value_strf("file:%s", args->text[0]));
    value_put_bool(request, "paging", args->flag['p']);
    value_put_bool(request, "detach", args->flag['d']);
    if (args->text[1]) {
        value_put_int(request, "begin", (int64_t)args->number[1]);
    }
    if (args->text[2]) {
        value_put_int(request, "length", (int64_t)args->number[2]);
    }
    hmp_qmp(hmp, "dump-guest-memory", request, NULL);
}

static void hmp_gva2gpa(Hmp *hmp, const HmpArgs *args)
{
    Vcpu *vcpu = hmp_cpu(hmp);
    uint64_t pa = 0;
    bool mapped = false;

    if (!vcpu || !vcpu->ops || !vcpu->ops->translate) {
        hmp_printf(hmp, "No cpu\n");
        return;
    }
    machine_pause_vcpus(hmp->machine);
    mapped = vcpu->ops->translate(vcpu, args->number[0], &pa);
    machine_resume_vcpus(hmp->machine);
    if (mapped) {
        hmp_printf(hmp, "gpa: %#" G_GINT64_MODIFIER "x\n", (guint64)pa);
    } else {
        hmp_printf(hmp, "Unmapped\n");
    }
}

const HmpCommand hmp_commands_memory[] = {
    { "x", "/e", "/fmt addr", "show virtual memory from an address on", hmp_x },
    { "xp", "/e", "/fmt addr", "show physical memory from an address on", hmp_xp },
    { "print|p", "/e", "/fmt expr", "show what an expression amounts to ($NAME: register of the "
                                    "CPU)", hmp_print },
    { "i", "/e?e", "/fmt addr [index]", "I/O port read", hmp_in },
    { "o", "/ee", "/fmt addr value", "I/O port write", hmp_out },
    { "sum", "ee", "addr size", "sum of the bytes in a range of physical memory", hmp_sum },
    { "memsave", "ees", "addr size file", "write a range of virtual memory to a file",
                                          hmp_memsave },
    { "pmemsave", "ees", "addr size file", "write a range of physical memory to a file",
                                           hmp_pmemsave },
    { "gpa2hva", "e", "addr", "print the host virtual address of a guest physical address", hmp_gpa2hva },
    { "gpa2hpa", "e", "addr", "print the host physical address of a guest physical address", hmp_gpa2hpa },
    { "dump-guest-memory", "-p-d-z-l-s-ws?ee", "[-p] [-d] [-z|-l|-s|-w] filename [begin length]", "dump guest memory into an ELF core file",
      hmp_dump_guest_memory, 'f' },
    { "gva2gpa", "e", "addr", "print the guest physical address of a guest virtual address", hmp_gva2gpa },
    { 0 },
};
