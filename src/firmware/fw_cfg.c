/*
 * Firmware configuration device: selector at port 0x510, data at 0x511, DMA address register at 0x514
 * (64 bits, big endian, the write of the low half starts the transfer). The DMA descriptor lies in guest
 * memory: control (32), length (32), address (64), all big endian.
 */
#include "firmware/fw_cfg.h"

#include <string.h>

#include "base/endian.h"
#include "base/log.h"

enum { DMA_ERROR = BIT(0), DMA_READ = BIT(1), DMA_SKIP = BIT(2), DMA_SELECT = BIT(3), DMA_WRITE = BIT(4) };
enum { NAME_LENGTH = 56, DIR_ENTRY = 64, MAX_FILES = 0x3fe0 };
#define DMA_SIGNATURE 0x51454d5520434647ull /* "QEMU CFG" */

typedef struct Item {
    char *name; /* files only */
    uint8_t *data;
    size_t length;
    bool writable;
    void (*select)(void *opaque);
    void (*written)(void *opaque, size_t offset, size_t length);
    void *opaque;
} Item;

struct FwCfg {
    Device dev;
    MemRegion selector, dma;
    GHashTable *items;  /* key -> Item */
    GPtrArray *files;   /* Item, sorted by name: key = FW_CFG_FILE_FIRST + index */
    uint16_t key;
    uint32_t offset;
    uint64_t dma_addr;
};

static void item_free(gpointer ptr)
{
    Item *item = ptr;
    g_free(item->name);
    g_free(item->data);
    g_free(item);
}

/* The selected item; bit 14 of the key stands for "write" in old interfaces and is ignored. */
static Item *selected(FwCfg *fw)
{
    uint16_t key = fw->key & ~0x4000;
    if (key >= FW_CFG_FILE_FIRST && (guint)(key - FW_CFG_FILE_FIRST) < fw->files->len) {
        return g_ptr_array_index(fw->files, key - FW_CFG_FILE_FIRST);
    }
    return g_hash_table_lookup(fw->items, GUINT_TO_POINTER(key));
}

static void select_key(FwCfg *fw, uint16_t key)
{
    fw->key = key;
    fw->offset = 0;
    Item *item = selected(fw);
    if (item && item->select) {
        item->select(item->opaque);
    }
}

/* --- items --- */

void fw_cfg_give_bytes(FwCfg *fw, uint16_t key, void *data, size_t length)
{
    Item *item = g_new0(Item, 1);
    item->data = data;
    item->length = length;
    g_hash_table_insert(fw->items, GUINT_TO_POINTER(key), item);
}

void fw_cfg_set_bytes(FwCfg *fw, uint16_t key, const void *data, size_t length)
{
    fw_cfg_give_bytes(fw, key, g_memdup2(data, length), length);
}

void fw_cfg_set_u16(FwCfg *fw, uint16_t key, uint16_t value)
{
    uint8_t bytes[2];
    st16_le(bytes, value);
    fw_cfg_set_bytes(fw, key, bytes, sizeof(bytes));
}

void fw_cfg_set_u32(FwCfg *fw, uint16_t key, uint32_t value)
{
    uint8_t bytes[4];
    st32_le(bytes, value);
    fw_cfg_set_bytes(fw, key, bytes, sizeof(bytes));
}

void fw_cfg_set_u64(FwCfg *fw, uint16_t key, uint64_t value)
{
    uint8_t bytes[8];
    st64_le(bytes, value);
    fw_cfg_set_bytes(fw, key, bytes, sizeof(bytes));
}

void fw_cfg_set_str(FwCfg *fw, uint16_t key, const char *text)
{
    fw_cfg_set_bytes(fw, key, text, strlen(text) + 1);
}

/* --- files --- */

static void update_directory(FwCfg *fw)
{
    size_t length = 4 + fw->files->len * DIR_ENTRY;
    g_autofree uint8_t *dir = g_malloc0(length);

    st32_be(dir, fw->files->len);
    for (guint i = 0; i < fw->files->len; i++) {
        const Item *item = g_ptr_array_index(fw->files, i);
        uint8_t *entry = dir + 4 + i * DIR_ENTRY;
        st32_be(entry, (uint32_t)item->length);
        st16_be(entry + 4, (uint16_t)(FW_CFG_FILE_FIRST + i));
        memcpy(entry + 8, item->name, strlen(item->name));
    }
    fw_cfg_set_bytes(fw, FW_CFG_FILE_DIR, dir, length);
}

static Item *find_file(FwCfg *fw, const char *name, guint *ret_place)
{
    guint i = 0;
    for (; i < fw->files->len; i++) {
        Item *item = g_ptr_array_index(fw->files, i);
        int order = strcmp(item->name, name);
        if (order == 0) {
            return item;
        }
        if (order > 0) {
            break;
        }
    }
    *ret_place = i;
    return NULL;
}

Error *fw_cfg_add_file_callback(FwCfg *fw, const char *name, const void *data, size_t length,
                                void (*select)(void *opaque),
                                void (*written)(void *opaque, size_t offset, size_t length), void *opaque,
                                bool writable)
{
    guint place;
    if (strlen(name) >= NAME_LENGTH) {
        return error_new("fw_cfg: the name '%s' is longer than %d characters", name, NAME_LENGTH - 1);
    }
    if (length > UINT32_MAX) {
        return error_new("fw_cfg: '%s' is larger than 4 GiB", name);
    }
    Item *item = find_file(fw, name, &place);
    if (!item) {
        if (fw->files->len == MAX_FILES) {
            return error_new("fw_cfg: no room for '%s': there are %d files already", name, MAX_FILES);
        }
        item = g_new0(Item, 1);
        item->name = g_strdup(name);
        g_ptr_array_insert(fw->files, (int)place, item);
    }
    g_free(item->data);
    item->data = g_memdup2(data, length);
    item->length = length;
    item->select = select;
    item->written = written;
    item->opaque = opaque;
    item->writable = writable;
    update_directory(fw);
    return NULL;
}

Error *fw_cfg_add_file(FwCfg *fw, const char *name, const void *data, size_t length)
{
    return fw_cfg_add_file_callback(fw, name, data, length, NULL, NULL, NULL, false);
}

void fw_cfg_on_select(FwCfg *fw, const char *name, void (*select)(void *opaque), void *opaque)
{
    guint place;
    Item *item = find_file(fw, name, &place);
    if (item) {
        item->select = select;
        item->opaque = opaque;
    }
}

uint8_t *fw_cfg_file_data(FwCfg *fw, const char *name, size_t *ret_length)
{
    guint place;
    Item *item = find_file(fw, name, &place);
    if (!item) {
        return NULL;
    }
    *ret_length = item->length;
    return item->data;
}

Error *fw_cfg_add_user_item(FwCfg *fw, const char *argument)
{
    g_auto(GStrv) parts = g_strsplit(argument, ",", -1);
    const char *name = NULL, *file = NULL, *text = NULL;

    for (char **part = parts; *part; part++) {
        if (g_str_has_prefix(*part, "name=")) {
            name = *part + strlen("name=");
        } else if (g_str_has_prefix(*part, "file=")) {
            file = *part + strlen("file=");
        } else if (g_str_has_prefix(*part, "string=")) {
            text = *part + strlen("string=");
        } else if (part == parts && !strchr(*part, '=')) {
            name = *part;
        } else {
            return error_new("-fw_cfg: '%s' is none of name=, file=, string=", *part);
        }
    }
    if (!name || !*name || (!file == !text)) {
        return error_new("-fw_cfg needs name= and either file= or string=");
    }
    if (!g_str_has_prefix(name, "opt/")) {
        warn_report("-fw_cfg: the name '%s' should begin with \"opt/\", other names are the firmware's", name);
    }
    if (text) {
        return fw_cfg_add_file(fw, name, text, strlen(text));
    }
    g_autofree char *content = NULL;
    g_autoptr(GError) gerr = NULL;
    gsize length;
    if (!g_file_get_contents(file, &content, &length, &gerr)) {
        return error_new("-fw_cfg: cannot read '%s': %s", file, gerr->message);
    }
    return fw_cfg_add_file(fw, name, content, length);
}

/* --- ports --- */

static uint64_t selector_read(void *opaque, uint64_t addr, unsigned size)
{
    FwCfg *fw = opaque;
    if (addr == 0) {
        return 0;
    }
    Item *item = selected(fw);
    return item && fw->offset < item->length ? item->data[fw->offset++] : 0;
}

static void selector_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    if (addr == 0 && size == 2) {
        select_key(opaque, (uint16_t)value);
    }
}

/* A word at the selector; bytes at the data port. */
static const MemOps selector_ops = { .read = selector_read, .write = selector_write, .min = 1, .max = 2 };

/* Moves `left` bytes between the item and guest memory. True when all went well. */
static bool transfer(FwCfg *fw, uint32_t control, uint32_t left, uint64_t addr)
{
    AddressSpace *as = fw->dev.machine->as;
    Item *item = selected(fw);
    size_t have = item && fw->offset < item->length ? item->length - fw->offset : 0;
    uint32_t step = (uint32_t)MIN(left, have);
    MemResult result = MEM_OK;

    if (control & DMA_READ) {
        static const uint8_t zeros[4096];
        result = step ? mem_write(as, addr, item->data + fw->offset, step) : MEM_OK;
        for (uint64_t done = step; done < left && result == MEM_OK;) {
            uint64_t chunk = MIN(left - done, sizeof(zeros));
            result = mem_write(as, addr + done, zeros, chunk);
            done += chunk;
        }
    } else if (control & DMA_WRITE) {
        if (!item || !item->writable || step < left) {
            return false;
        }
        result = mem_read(as, addr, item->data + fw->offset, step);
        if (item->written) {
            item->written(item->opaque, fw->offset, step);
        }
    }
    fw->offset += step;
    return result == MEM_OK;
}

static void run_dma(FwCfg *fw)
{
    AddressSpace *as = fw->dev.machine->as;
    uint8_t descriptor[16], status[4];
    uint64_t at = fw->dma_addr;
    bool good;

    fw->dma_addr = 0;
    if (mem_read(as, at, descriptor, sizeof(descriptor)) != MEM_OK) {
        guest_error("fw_cfg: the DMA descriptor is not in memory");
        st32_be(status, DMA_ERROR);
        mem_write(as, at, status, sizeof(status));
        return;
    }
    uint32_t control = ld32_be(descriptor), length = ld32_be(descriptor + 4);
    if (control & DMA_SELECT) {
        select_key(fw, (uint16_t)(control >> 16));
    }
    good = !(control & (DMA_READ | DMA_WRITE | DMA_SKIP)) ||
           transfer(fw, control, length, ld64_be(descriptor + 8));
    st32_be(status, good ? 0 : DMA_ERROR);
    mem_write(as, at, status, sizeof(status));
}

static uint64_t dma_read(void *opaque, uint64_t addr, unsigned size)
{
    uint64_t value = DMA_SIGNATURE << (8 * addr);
    return value >> (64 - 8 * size);
}

static void dma_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    FwCfg *fw = opaque;
    if (size == 4 && addr == 0) {
        fw->dma_addr = value << 32;
    } else if (size == 4 && addr == 4) {
        fw->dma_addr |= value;
        run_dma(fw);
    } else if (size == 8 && addr == 0) {
        fw->dma_addr = value;
        run_dma(fw);
    }
}
static const MemOps dma_ops = { .read = dma_read, .write = dma_write, .min = 1, .max = 8, .big_endian = true };

static Error *fw_cfg_plug(Device *dev)
{
    FwCfg *fw = container_of(dev, FwCfg, dev);
    fw->items = g_hash_table_new_full(NULL, NULL, NULL, item_free);
    fw->files = g_ptr_array_new_with_free_func(item_free);
    device_region_io(dev, &fw->selector, "fwcfg", 2, &selector_ops);
    device_region_io(dev, &fw->dma, "fwcfg.dma", 8, &dma_ops);
    mem_region_map(&dev->machine->io, 0x510, &fw->selector, 0);
    mem_region_map(&dev->machine->io, 0x514, &fw->dma, 0);
    fw_cfg_set_bytes(fw, FW_CFG_SIGNATURE, "QEMU", 4);
    fw_cfg_set_u32(fw, FW_CFG_ID, 3); /* traditional interface and DMA */
    update_directory(fw);
    return NULL;
}

static void fw_cfg_unplug(Device *dev)
{
    FwCfg *fw = container_of(dev, FwCfg, dev);
    g_clear_pointer(&fw->items, g_hash_table_unref);
    g_clear_pointer(&fw->files, g_ptr_array_unref);
    dev->machine->fw_cfg = NULL;
}

static void fw_cfg_reset(Device *dev)
{
    FwCfg *fw = container_of(dev, FwCfg, dev);
    fw->dma_addr = 0;
    select_key(fw, 0);
}

static const StateField state[] = {
    STATE_U16(FwCfg, key),
    STATE_U32(FwCfg, offset),
    STATE_U64(FwCfg, dma_addr),
    STATE_NOT(FwCfg, selector, "made by plug"),
    STATE_NOT(FwCfg, dma, "made by plug"),
    STATE_NOT(FwCfg, items, "made from the configuration"),
    STATE_NOT(FwCfg, files, "made from the configuration"),
    { 0 },
};

DEVICE_TYPE(fw_cfg, DEVICE_OBJECT("fw_cfg_io", FwCfg, NULL), .desc = "Firmware configuration",
            .category = DEV_INTERNAL, .state = state, .plug = fw_cfg_plug, .reset = fw_cfg_reset,
            .unplug = fw_cfg_unplug);

FwCfg *fw_cfg_create(Machine *machine)
{
    FwCfg *fw = container_of(device_add_builtin(machine, "fw_cfg_io", NULL), FwCfg, dev);
    machine->fw_cfg = fw;
    return fw;
}
