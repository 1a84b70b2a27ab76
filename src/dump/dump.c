/*
 * dump-guest-memory: an ELF core file of the guest, for gdb and crash. One PT_NOTE segment with what each CPU's
 * architecture gives (its registers), then one PT_LOAD a range of RAM, at its guest-physical address.
 *
 * System V ABI, AMD64 supplement, and the ELF specification. The machine stands still while it is written; detached,
 * the writing happens on a worker thread.
 *
 * Missing: virtual addresses in the headers (paging), the compressed kdump forms, Windows dumps.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "core/vm/machine.h"
#include "core/vm/fdset.h"
#include "schema/qmp_commands.h"
#include "value/json.h"

#define DUMP_SERVICE "dump"
enum { PIECE = 4 * MiB };

/* A range of RAM in the guest's physical memory. */
typedef struct DumpRange {
    uint64_t start, length;
    const uint8_t *host;
} DumpRange;

typedef enum DumpState { DUMP_NONE, DUMP_ACTIVE, DUMP_COMPLETED, DUMP_FAILED } DumpState;

typedef struct Dump {
    Object object;
    Machine *machine;
    GArray *ranges; /* DumpRange */
    GByteArray *head; /* all that stands before the memory */
    int fd;
    RunState state_before;
    DumpState state;
    uint64_t total;
    _Atomic uint64_t completed;
    Error *err;
} Dump;

static const char *const state_names[] = { "none", "active", "completed", "failed" };

static void dump_clear(Dump *dump)
{
    g_clear_pointer(&dump->ranges, g_array_unref);
    g_clear_pointer(&dump->head, g_byte_array_unref);
    if (dump->fd >= 0) {
        close(dump->fd);
        dump->fd = -1;
    }
}

static void dump_finalize(Object *obj)
{
    Dump *dump = (Dump *)obj;
    dump_clear(dump);
    error_free(dump->err);
}

static const ObjectType dump_type = { .name = "dump", .size = sizeof(Dump), .finalize = dump_finalize };

/* The machine's record of the last dump; made at the first. */
static Dump *dump_of(Machine *machine)
{
    Dump *dump = machine_service(machine, DUMP_SERVICE);
    if (!dump) {
        dump = (Dump *)object_new(&dump_type);
        dump->machine = machine;
        dump->fd = -1;
        object_add_child(machine->object, DUMP_SERVICE, &dump->object);
        machine_set_service(machine, DUMP_SERVICE, dump);
    }
    return dump;
}

static Value *dump_result(const Dump *dump)
{
    Value *result = value_dict();
    value_put(result, "total", value_uint(dump->total));
    value_put_str(result, "status", state_names[dump->state]);
    value_put(result, "completed", value_uint(atomic_load(&dump->completed)));
    return result;
}

/* --- what goes into the file --- */

typedef struct Window {
    GArray *ranges;
    uint64_t begin, end; /* end exclusive */
} Window;

static void collect(void *opaque, uint64_t start, const MemHit *hit)
{
    Window *window = opaque;
    if (!hit->block || hit->region->kind != MEM_RAM) {
        return;
    }
    uint64_t from = MAX(start, window->begin), to = MIN(start + hit->length, window->end);
    if (from < to) {
        DumpRange range = { from, to - from, hit->host + (from - start) };
        g_array_append_val(window->ranges, range);
    }
}

static void make_head(Dump *dump)
{
    g_autoptr(GByteArray) notes = g_byte_array_new();
    uint16_t count = (uint16_t)(dump->ranges->len + 1);
    uint64_t offset = sizeof(Elf64_Ehdr) + count * sizeof(Elf64_Phdr);
    Elf64_Ehdr ehdr = {
        .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
        .e_type = ET_CORE, .e_machine = EM_X86_64, .e_version = EV_CURRENT, .e_phoff = sizeof(ehdr),
        .e_ehsize = sizeof(ehdr), .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = count,
    };
    for (guint n = 0; n < dump->machine->vcpus->len; n++) {
        Vcpu *vcpu = g_ptr_array_index(dump->machine->vcpus, n);
        if (vcpu->ops && vcpu->ops->core_notes) {
            vcpu->ops->core_notes(vcpu, notes);
        }
    }
    Elf64_Phdr note = { .p_type = PT_NOTE, .p_offset = offset, .p_filesz = notes->len, .p_memsz = notes->len };
    g_byte_array_append(dump->head, (const guint8 *)&ehdr, sizeof(ehdr));
    g_byte_array_append(dump->head, (const guint8 *)&note, sizeof(note));
    offset += notes->len;
    for (guint n = 0; n < dump->ranges->len; n++) {
        const DumpRange *range = &g_array_index(dump->ranges, DumpRange, n);
        Elf64_Phdr load = { .p_type = PT_LOAD, .p_offset = offset, .p_paddr = range->start, .p_filesz = range->length,
                            .p_memsz = range->length };
        g_byte_array_append(dump->head, (const guint8 *)&load, sizeof(load));
        offset += range->length;
    }
    g_byte_array_append(dump->head, notes->data, notes->len);
}

static int write_all(int fd, const uint8_t *data, uint64_t length)
{
    while (length) {
        ssize_t done = write(fd, data, MIN(length, (uint64_t)PIECE));
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return done < 0 ? -errno : -EIO;
        }
        data += done;
        length -= (uint64_t)done;
    }
    return 0;
}

/* Any thread: the machine stands still and its RAM stays. */
static int write_file(void *opaque)
{
    Dump *dump = opaque;
    int status = write_all(dump->fd, dump->head->data, dump->head->len);
    for (guint n = 0; status == 0 && n < dump->ranges->len; n++) {
        const DumpRange *range = &g_array_index(dump->ranges, DumpRange, n);
        for (uint64_t at = 0; status == 0 && at < range->length;) {
            uint64_t piece = MIN(range->length - at, (uint64_t)PIECE);
            status = write_all(dump->fd, range->host + at, piece);
            at += piece;
            atomic_fetch_add(&dump->completed, piece);
        }
    }
    if (close(dump->fd) < 0 && status == 0) {
        status = -errno;
    }
    dump->fd = -1;
    return status;
}

static void finished(Dump *dump, int status)
{
    dump->state = status ? DUMP_FAILED : DUMP_COMPLETED;
    if (status) {
        dump->err = error_new_errno(-status, "the memory could not be written to the dump");
    }
    dump_clear(dump);
    machine_release(dump->machine, dump->state_before);
}

static void finished_detached(void *opaque, int status)
{
    Dump *dump = opaque;
    g_autoptr(Value) data = value_dict();

    finished(dump, status);
    value_put(data, "result", dump_result(dump));
    if (dump->err) {
        value_put_str(data, "error", error_message(dump->err));
    }
    g_autofree char *json = json_write(data, false);
    machine_emit(dump->machine, "DUMP_COMPLETED", json);
}

/* --- commands --- */

/* "file:PATH" or "fd:NAME" of getfd. */
static MUST_USE Error *open_target(Machine *machine, const char *protocol, int *ret_fd)
{
    if (g_str_has_prefix(protocol, "fd:")) {
        *ret_fd = named_fd_take(machine, protocol + 3);
        return *ret_fd >= 0 ? NULL : error_new("File descriptor named '%s' has not been found", protocol + 3);
    }
    if (!g_str_has_prefix(protocol, "file:")) {
        return error_new("protocol must start with 'file:' or 'fd:'");
    }
    *ret_fd = open(protocol + 5, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    return *ret_fd >= 0 ? NULL : error_new_errno(errno, "Could not open '%s'", protocol + 5);
}

static MUST_USE Error *check_args(const Dump *dump, const QmpDumpGuestMemoryArgs *args)
{
    if (dump->state == DUMP_ACTIVE) {
        return error_new("A dump is under way: wait for its end.");
    }
    if (args->paging) {
        return error_new("paging=true is not supported: the core file has physical addresses");
    }
    if (args->has_format && strcmp(args->format, "elf")) {
        return error_new("the format '%s' is not supported: elf is", args->format);
    }
    if (args->has_begin != args->has_length) {
        return error_new("'begin' and 'length' must be specified together");
    }
    if (args->has_begin && (args->begin < 0 || args->length <= 0)) {
        return error_new("'begin' must not be negative and 'length' must be positive");
    }
    return NULL;
}

Error *qmp_dump_guest_memory(QmpContext *ctx, const QmpDumpGuestMemoryArgs *args, Value **ret)
{
    Dump *dump = dump_of(ctx->machine);
    int fd = -1;

    TRY(check_args(dump, args));
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(DumpRange));
    Window window = { ranges, 0, UINT64_MAX };
    if (args->has_begin) {
        window.begin = (uint64_t)args->begin;
        window.end = window.begin + (uint64_t)args->length;
    }
    mem_walk(ctx->machine->as, collect, &window);
    if (ranges->len == 0) {
        return error_new("the range for the dump holds no memory of the guest");
    }
    if (ranges->len >= PN_XNUM - 1) {
        return error_new("dump: too many ranges of memory for an ELF file");
    }
    TRY(open_target(ctx->machine, args->protocol, &fd));
    error_free(dump->err);
    dump->err = NULL;
    dump->fd = fd;
    dump->ranges = g_steal_pointer(&ranges);
    dump->head = g_byte_array_new();
    dump->state = DUMP_ACTIVE;
    dump->total = 0;
    atomic_store(&dump->completed, 0);
    for (guint n = 0; n < dump->ranges->len; n++) {
        dump->total += g_array_index(dump->ranges, DumpRange, n).length;
    }
    dump->state_before = machine_hold(ctx->machine, RUN_STATE_SAVE_VM);
    make_head(dump);
    if (args->has_detach && args->detach) {
        loop_submit_blocking(ctx->machine->loop, write_file, finished_detached, dump);
        return NULL;
    }
    finished(dump, write_file(dump));
    return dump->err ? error_new("%s", error_message(dump->err)) : NULL;
}

Error *qmp_query_dump(QmpContext *ctx, const QmpQueryDumpArgs *args, Value **ret)
{
    *ret = dump_result(dump_of(ctx->machine));
    return NULL;
}

Error *qmp_query_dump_guest_memory_capability(QmpContext *ctx, const QmpQueryDumpGuestMemoryCapabilityArgs *args, Value **ret)
{
    Value *formats = value_list();
    value_append(formats, value_str("elf"));
    *ret = value_dict();
    value_put(*ret, "formats", formats);
    return NULL;
}
