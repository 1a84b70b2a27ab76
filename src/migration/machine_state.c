/* Machine, clock and devices as records; see machine_state.h. RAM is in ram.c. */
#include "migration/machine_state.h"

#include <string.h>

#include "block/backend.h"
#include "core/vm/icount.h"
#include "migration/state_priv.h"

/* --- saving --- */

static unsigned block_count(Machine *machine)
{
    unsigned count = 0;
    for (RamBlock *block = NULL; (block = ram_block_next(machine->mem, block));) {
        count++;
    }
    return count;
}

Error *state_write_machine(Machine *machine, StreamWriter *w)
{
    stream_begin(w, RECORD_MACHINE);
    stream_put_str(w, machine->type->name);
    stream_put_u32(w, machine->vcpus->len);
    stream_put_u64(w, machine->config->ram_size);
    stream_put_u32(w, block_count(machine));
    for (RamBlock *block = NULL; (block = ram_block_next(machine->mem, block));) {
        stream_put_str(w, block->name);
        stream_put_u64(w, block->size);
    }
    return stream_end(w);
}

static MUST_USE Error *write_device(Device *dev, StreamWriter *w)
{
    g_autofree char *path = object_path(&dev->object);
    g_autoptr(GByteArray) rows = g_byte_array_new();

    device_save(dev, rows);
    stream_begin(w, RECORD_DEVICE);
    stream_put_str(w, path);
    stream_put_str(w, dev->object.type->name);
    stream_put_u32(w, rows->len);
    stream_put(w, rows->data, rows->len);
    return stream_end(w);
}

/* All come to rest before the first is written: a request that ends raises an interrupt in another device. */
void state_rest_devices(Machine *machine)
{
    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        if (device_type(dev)->saving) {
            device_type(dev)->saving(dev);
        }
    }
}

/* They are in no device's rows: the guest would wait for them for ever. */
static MUST_USE Error *check_held(Machine *machine)
{
    BlockGraph *graph = machine_service(machine, BLOCK_SERVICE);

    for (BlockBackend *blk = NULL; graph && (blk = blk_next(graph, blk));) {
        if (blk_has_held(blk)) {
            return error_hint(error_new("the disk '%s' has requests of the guest that failed and wait to be made again",
                                        blk_device(blk) ? blk_device(blk) : blk_name(blk)),
                              "Mend the cause and continue the machine first.");
        }
    }
    return NULL;
}

Error *state_write_devices(Machine *machine, RunState state, StreamWriter *w)
{
    state_rest_devices(machine);
    TRY(check_held(machine));
    stream_begin(w, RECORD_CLOCK);
    stream_put_u64(w, (uint64_t)clock_now(machine->clocks, CLOCK_VIRTUAL));
    stream_put_str(w, run_state_name(state));
    TRY(stream_end(w));
    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        TRY(write_device(dev, w));
    }
    return NULL;
}

/* A machine that was given none has one of zeroes, which says nothing. */
static bool is_set(const Uuid *uuid)
{
    static const Uuid none;
    return memcmp(uuid, &none, sizeof(none)) != 0;
}

Error *state_write_uuid(Machine *machine, StreamWriter *w)
{
    if (!is_set(&machine->config->uuid)) {
        return NULL;
    }
    stream_begin(w, RECORD_UUID);
    stream_put(w, &machine->config->uuid, sizeof(machine->config->uuid));
    return stream_end(w);
}

Error *state_write_end(StreamWriter *w, bool answer)
{
    stream_begin(w, RECORD_END);
    stream_put_u32(w, answer);
    return stream_end(w);
}

/* --- loading --- */

enum { DEVICES_MAX = 4096 };
#define DEVICE_BYTES_MAX (256 * MiB)

typedef struct LoadedDevice {
    char *path, *type;
    GByteArray *rows;
} LoadedDevice;

struct StateLoader {
    Machine *machine;
    RamLoader ram;
    GPtrArray *devices; /* LoadedDevice */
    GPtrArray *bitmaps; /* GByteArray */
    uint64_t device_bytes;
    Error *(*skip)(void *opaque, StreamReader *r, bool *ret_skipped); /* may be NULL */
    void *skip_opaque;
    int64_t virtual_ns;
    RunState state;
    bool machine_seen, clock_seen, answers, wants_bitmaps;
    StateLoaderMore more;
};

static void loaded_device_free(void *opaque)
{
    LoadedDevice *loaded = opaque;
    g_free(loaded->path);
    g_free(loaded->type);
    if (loaded->rows) {
        g_byte_array_unref(loaded->rows);
    }
    g_free(loaded);
}

StateLoader *state_loader_new(Machine *machine)
{
    StateLoader *loader = g_new0(StateLoader, 1);
    loader->machine = machine;
    ram_loader_init(&loader->ram);
    loader->devices = g_ptr_array_new_with_free_func(loaded_device_free);
    loader->bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);
    return loader;
}

void state_loader_free(StateLoader *loader)
{
    if (loader) {
        ram_loader_fini(&loader->ram);
        g_ptr_array_unref(loader->devices);
        g_ptr_array_unref(loader->bitmaps);
        g_free(loader);
    }
}

static MUST_USE Error *read_machine(StateLoader *loader, StreamReader *r)
{
    Machine *machine = loader->machine;
    g_autofree char *name = NULL;
    uint32_t cpus;
    uint64_t ram_size;

    TRY(stream_get_str(r, &name));
    TRY(stream_get_u32(r, &cpus));
    TRY(stream_get_u64(r, &ram_size));
    if (strcmp(name, machine->type->name)) {
        return error_new("the saved machine is of type '%s', this one is of type '%s'", name, machine->type->name);
    }
    if (cpus != machine->vcpus->len) {
        return error_new("the saved machine has %u CPUs, this one has %u", cpus, machine->vcpus->len);
    }
    if (ram_size != machine->config->ram_size) {
        return error_new("the saved machine has %" G_GUINT64_FORMAT " MiB of RAM, this one has %" G_GUINT64_FORMAT " MiB",
                         ram_size / MiB, machine->config->ram_size / MiB);
    }
    loader->machine_seen = true;
    return ram_loader_blocks(&loader->ram, machine, r);
}

static MUST_USE Error *run_state_of(const char *name, RunState *ret_state)
{
    for (RunState state = 0; state < RUN_STATES; state++) {
        if (!strcmp(run_state_name(state), name)) {
            *ret_state = state;
            return NULL;
        }
    }
    return error_new("the saved machine was in the unknown state '%s'", name);
}

static MUST_USE Error *read_clock(StateLoader *loader, StreamReader *r)
{
    g_autofree char *name = NULL;
    uint64_t ns;

    TRY(stream_get_u64(r, &ns));
    TRY(stream_get_str(r, &name));
    TRY(run_state_of(name, &loader->state));
    if (ns > (uint64_t)INT64_MAX / 2) {
        return error_new("the saved machine's clock has an impossible value");
    }
    loader->virtual_ns = (int64_t)ns;
    loader->clock_seen = true;
    return NULL;
}

static MUST_USE Error *read_device(StateLoader *loader, StreamReader *r)
{
    LoadedDevice *loaded = g_new0(LoadedDevice, 1);
    const uint8_t *rows;
    uint32_t length;

    g_ptr_array_add(loader->devices, loaded);
    TRY(stream_get_str(r, &loaded->path));
    TRY(stream_get_str(r, &loaded->type));
    TRY(stream_get_u32(r, &length));
    TRY(stream_get(r, length, &rows));
    loader->device_bytes += length;
    if (loader->devices->len > DEVICES_MAX || loader->device_bytes > DEVICE_BYTES_MAX) {
        return error_new("the saved state has too many devices");
    }
    loaded->rows = g_byte_array_sized_new(length);
    g_byte_array_append(loaded->rows, rows, length);
    return NULL;
}

static MUST_USE Error *read_bitmap(StateLoader *loader, StreamReader *r)
{
    guint length = (guint)(r->end - r->at);

    if (!loader->wants_bitmaps) {
        return error_hint(error_new("the saved state has dirty bitmaps of disks, which were not asked for"),
                          "Switch the migration capability dirty-bitmaps on here, too.");
    }
    loader->device_bytes += length;
    if (loader->bitmaps->len >= DEVICES_MAX || loader->device_bytes > DEVICE_BYTES_MAX) {
        return error_new("the saved state has too many dirty bitmaps");
    }
    GByteArray *bytes = g_byte_array_sized_new(length);
    g_byte_array_append(bytes, r->at, length);
    g_ptr_array_add(loader->bitmaps, bytes);
    r->at = r->end;
    return NULL;
}

static MUST_USE Error *read_uuid(StateLoader *loader, StreamReader *r)
{
    const Uuid *own = &loader->machine->config->uuid;
    const uint8_t *bytes;

    TRY(stream_get(r, sizeof(*own), &bytes));
    return is_set(own) && memcmp(bytes, own, sizeof(*own)) ? error_new("the saved machine has another UUID than this one") : NULL;
}

static MUST_USE Error *read_end(StateLoader *loader, StreamReader *r)
{
    uint32_t answers;
    TRY(stream_get_u32(r, &answers));
    loader->answers = answers & 1;
    return NULL;
}

static MUST_USE Error *read_record(StateLoader *loader, StreamReader *r)
{
    if (r->kind != RECORD_MACHINE && !loader->machine_seen) {
        return error_new("the saved state is damaged: it does not begin with the machine");
    }
    switch (r->kind) {
    case RECORD_MACHINE:
        return loader->machine_seen ? error_new("the saved state is damaged: two machines") : read_machine(loader, r);
    case RECORD_RAM:
        return ram_loader_pages(&loader->ram, r);
    case RECORD_CLOCK:
        return read_clock(loader, r);
    case RECORD_DEVICE:
        return read_device(loader, r);
    case RECORD_END:
        return read_end(loader, r);
    case RECORD_BITMAP:
        return read_bitmap(loader, r);
    case RECORD_UUID:
        return read_uuid(loader, r);
    case RECORD_RAM_PACKED:
    case RECORD_RAM_ZSTD:
        return ram_loader_packed(&loader->ram, r);
    default:
        if (r->kind <= RECORD_LAST && loader->more.record) {
            return loader->more.record(loader->more.opaque, r);
        }
    }
    return error_new("the saved state has a record of kind %u, which this program does not know", r->kind);
}

void state_loader_set_skip(StateLoader *loader, Error *(*skip)(void *opaque, StreamReader *r, bool *ret_skipped), void *opaque)
{
    loader->skip = skip;
    loader->skip_opaque = opaque;
}

const GPtrArray *state_loader_blocks(const StateLoader *loader)
{
    return loader->ram.blocks;
}

Error *state_loader_read(StateLoader *loader, StreamReader *r)
{
    TRY(stream_read_header(r));
    do {
        bool skipped = false;
        if (loader->skip) {
            TRY(loader->skip(loader->skip_opaque, r, &skipped));
        }
        if (skipped) {
            continue;
        }
        TRY(stream_next(r));
        if (loader->more.check) {
            TRY(loader->more.check(loader->more.opaque));
        }
        TRY(read_record(loader, r));
        if (r->at != r->end) {
            return error_new("the saved state is damaged: record %u is too long", r->number - 1);
        }
    } while (r->kind != RECORD_END && r->kind != RECORD_RUN);
    return loader->clock_seen ? NULL : error_new("the saved state is damaged: it has no clock");
}

void state_loader_set_more(StateLoader *loader, const StateLoaderMore *more)
{
    loader->more = *more;
}

RamLoader *state_loader_ram(StateLoader *loader)
{
    return &loader->ram;
}

void state_loader_want_bitmaps(StateLoader *loader)
{
    loader->wants_bitmaps = true;
}

const GPtrArray *state_loader_bitmaps(const StateLoader *loader)
{
    return loader->bitmaps;
}

bool state_loader_answers(const StateLoader *loader)
{
    return loader->answers;
}

/* Devices here and in the stream must be the same ones. */
static MUST_USE Error *match_devices(StateLoader *loader, Device ***ret_devices)
{
    Machine *machine = loader->machine;
    g_autofree Device **found = g_new0(Device *, loader->devices->len + 1);
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);

    for (guint n = 0; n < loader->devices->len; n++) {
        const LoadedDevice *loaded = g_ptr_array_index(loader->devices, n);
        found[n] = device_find(machine, loaded->path);
        if (!found[n] || strcmp(found[n]->object.type->name, loaded->type)) {
            return error_hint(error_new("the saved state has a device %s at '%s', this machine has none there",
                                        loaded->type, loaded->path),
                              "Both sides must be started with the same devices.");
        }
        if (!g_hash_table_add(seen, found[n])) {
            return error_new("the saved state has the device '%s' twice", loaded->path);
        }
    }
    for (Device *dev = NULL; (dev = machine_device_next(machine, dev));) {
        if (!g_hash_table_contains(seen, dev)) {
            g_autofree char *path = object_path(&dev->object);
            return error_new("the saved state has no device %s at '%s'", dev->object.type->name, path);
        }
    }
    *ret_devices = g_steal_pointer(&found);
    return NULL;
}

static MUST_USE Error *load_devices(StateLoader *loader, Device **devices)
{
    for (guint n = 0; n < loader->devices->len; n++) {
        const LoadedDevice *loaded = g_ptr_array_index(loader->devices, n);
        Error *err = device_load_rows(devices[n], loaded->rows->data, loaded->rows->len);
        if (err) {
            return error_prefix(err, "%s: ", loaded->path);
        }
    }
    for (guint n = 0; n < loader->devices->len; n++) {
        const LoadedDevice *loaded = g_ptr_array_index(loader->devices, n);
        Error *err = device_load_finish(devices[n]);
        if (err) {
            return error_prefix(err, "%s: ", loaded->path);
        }
    }
    return NULL;
}

Error *state_loader_finish(StateLoader *loader, RunState *ret_state)
{
    Machine *machine = loader->machine;
    g_autofree Device **devices = NULL;

    TRY(match_devices(loader, &devices));
    if (machine->icount) {
        icount_set(machine->icount, icount_count(machine->icount), loader->virtual_ns);
    }
    clocks_set_virtual(machine->clocks, loader->virtual_ns);
    mem_update_begin(machine->mem);
    Error *err = load_devices(loader, devices);
    mem_update_end(machine->mem);
    if (!err) {
        *ret_state = loader->state;
    }
    return err;
}
