/* Driver "vmdk": making images. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/endian.h"
#include "block/format/vmdk.h"

enum { DESCRIPTOR_SECTORS = 20, EXTENT_SECTORS_MAX = 4194304 /* 2 GiB */ };

#define SPARSE_MAX (64ull << 40)

typedef struct VmdkShape {
    uint64_t size;
    const char *subformat;
    char *adapter, *hwversion, *toolsversion, *backing;
    bool flat, split, compressed, zeroed_grain;
    uint32_t parent_cid;
} VmdkShape;

const BlockOption vmdk_create_options[] = {
    { "adapter_type", OPT_STR,
      "Disk controller to note in the image: ide (default), lsilogic, buslogic or legacyESX" },
    { "backing_file", OPT_STR, "File name of a base image" },
    { "backing_fmt", OPT_STR, "Format of the base image, 'vmdk' only" },
    { "compat6", OPT_BOOL, "VMDK version 6 image" },
    { "hwversion", OPT_STR, "VMDK hardware version" },
    { "size", OPT_SIZE, "Virtual disk size" },
    { "subformat", OPT_STR,
      "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | "
      "twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized}" },
    { "toolsversion", OPT_STR, "Version of the VMware tools in the guest" },
    { "zeroed_grain", OPT_BOOL, "Store grains of zeros as a mark in the grain table" },
    { 0 },
};

/* --- sparse extents --- */

static int write_directory_co(BlockNode *file, uint64_t at, uint64_t tables, uint64_t first)
{
    g_autofree uint8_t *d = g_try_malloc0(ALIGN_UP(4 * tables, 512ull));
    if (!d) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < tables; i++) {
        st32_le(d + 4 * i, (uint32_t)(first + i * (VMDK_GT_ENTRIES * 4 / 512)));
    }
    return node_pwrite_co(file, at * 512, ALIGN_UP(4 * tables, 512ull), d, 0);
}

/* Header, directory and tables twice; descriptor: NULL when it has a file of its own. */
static Error *write_sparse_co(BlockNode *file, const VmdkShape *shape, uint64_t size,
                              const char *descriptor)
{
    uint64_t grains = (size + VMDK_GRAIN - 1) / VMDK_GRAIN;
    uint64_t tables = (grains + VMDK_GT_ENTRIES - 1) / VMDK_GT_ENTRIES;
    uint64_t directory = ALIGN_UP(4 * tables, 512ull) / 512,
             all = tables * VMDK_GT_ENTRIES * 4 / 512;
    uint64_t rgd = 1 + (descriptor ? DESCRIPTOR_SECTORS : 0), gd = rgd + directory + all;
    uint64_t overhead = ALIGN_UP(gd + directory + all, (uint64_t)VMDK_GRAIN / 512);
    uint8_t h[VMDK_HEADER] = { 0 };
    unsigned flags = VMDK_FLAG_NEWLINES | VMDK_FLAG_REDUNDANT |
                     (shape->zeroed_grain ? VMDK_FLAG_ZEROED_GRAIN : 0) |
                     (shape->compressed ? VMDK_FLAG_COMPRESSED | VMDK_FLAG_MARKERS : 0);

    st32_le(h, VMDK_MAGIC);
    st32_le(h + H_VERSION, shape->compressed ? 3 : shape->zeroed_grain ? 2 : 1);
    st32_le(h + H_FLAGS, flags);
    st64_le(h + H_CAPACITY, size / 512);
    st64_le(h + H_GRAIN, VMDK_GRAIN / 512);
    st64_le(h + H_DESC_OFFSET, descriptor ? 1 : 0);
    st64_le(h + H_DESC_SIZE, descriptor ? DESCRIPTOR_SECTORS : 0);
    st32_le(h + H_GT_ENTRIES, VMDK_GT_ENTRIES);
    st64_le(h + H_RGD, rgd);
    st64_le(h + H_GD, gd);
    st64_le(h + H_OVERHEAD, overhead);
    memcpy(h + H_CHECK, "\n \r\n", 4); /* damaged by a transfer as text */
    st16_le(h + H_COMPRESSION, shape->compressed ? 1 : 0);
    int ret = node_pwrite_co(file, 0, sizeof(h), h, 0);
    ret = ret < 0 ? ret : node_write_zeroes_co(file, 512, overhead * 512 - 512, 0);
    ret = ret < 0 || !tables ? ret : write_directory_co(file, rgd, tables, rgd + directory);
    ret = ret < 0 || !tables ? ret : write_directory_co(file, gd, tables, gd + directory);
    if (ret == 0 && descriptor) {
        ret = node_pwrite_co(file, 512, strlen(descriptor), descriptor, 0);
    }
    return ret < 0 ? error_new_errno(ret, "Could not write the VMDK extent") : NULL;
}

static Error *make_extent_co(BlockGraph *graph, const char *path, const VmdkShape *shape,
                             uint64_t size)
{
    g_autofree char *text = g_strdup_printf("%" PRIu64, shape->flat ? size : 0);
    g_autoptr(KeyValues) opts = keyvalues_new();
    BlockNode *file;
    BlockEdge *edge;

    keyvalues_set(opts, "size", text);
    TRY(block_create_co(graph, path, block_driver_find("file"), opts));
    if (shape->flat) {
        return NULL;
    }
    TRY(block_open_file_co(graph, path, NULL, OPEN_PROTOCOL | OPEN_WRITE | OPEN_NO_FLUSH, NULL,
                           &file));
    Error *err = block_root_attach(file, "create", CLAIM_READ, CLAIM_ALL, &edge);
    if (!err) {
        err = write_sparse_co(file, shape, size, NULL);
        block_root_detach(edge);
    }
    node_unref_co(file);
    return err;
}

/* --- descriptors --- */

static void append_extents(GString *d, const VmdkShape *shape, const char *name, const char *stem)
{
    if (!shape->flat && !shape->split) {
        g_string_append_printf(d, "RW %" PRIu64 " SPARSE \"%s\"\n", shape->size / 512, name);
        return;
    }
    uint64_t left = shape->size / 512, most = shape->split ? EXTENT_SECTORS_MAX : UINT64_MAX;
    for (unsigned n = 1; left || n == 1; n++) {
        uint64_t part = MIN(left, most);
        if (shape->split) {
            g_string_append_printf(d, "RW %" PRIu64 " %s \"%s-%c%03u.vmdk\"%s\n", part,
                                   shape->flat ? "FLAT" : "SPARSE", stem, shape->flat ? 'f' : 's',
                                   n, shape->flat ? " 0" : "");
        } else {
            g_string_append_printf(d, "RW %" PRIu64 " FLAT \"%s-flat.vmdk\" 0\n", part, stem);
        }
        left -= part;
    }
}

static char *make_descriptor(const VmdkShape *shape, const char *name, const char *stem)
{
    bool ide = !strcmp(shape->adapter, "ide");
    unsigned heads = ide ? 16 : 255;
    GString *d = g_string_new(NULL);

    g_string_append_printf(d,
                           "# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=%08x\n"
                           "createType=\"%s\"\n",
                           g_random_int() & 0x7fffffff, shape->parent_cid, shape->subformat);
    if (shape->backing) {
        g_string_append_printf(d, "parentFileNameHint=\"%s\"\n", shape->backing);
    }
    g_string_append(d, "\n# Extent description\n");
    append_extents(d, shape, name, stem);
    g_string_append_printf(d,
                           "\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"%s\"\n"
                           "ddb.geometry.cylinders = \"%" PRIu64 "\"\nddb.geometry.heads = \"%u\"\n"
                           "ddb.geometry.sectors = \"63\"\nddb.adapterType = \"%s\"\n"
                           "ddb.toolsVersion = \"%s\"\n",
                           shape->hwversion, shape->size / 512 / 63 / heads, heads, shape->adapter,
                           shape->toolsversion);
    return g_string_free(d, FALSE);
}

/* --- the whole --- */

static Error *take_subformat(KeyValues *opts, VmdkShape *shape)
{
    static const struct {
        const char *name;
        bool flat, split, compressed;
    } known[] = {
        { "monolithicSparse", false, false, false },    { "monolithicFlat", true, false, false },
        { "twoGbMaxExtentSparse", false, true, false }, { "twoGbMaxExtentFlat", true, true, false },
        { "streamOptimized", false, false, true },
    };
    g_autofree char *text = keyvalues_take(opts, "subformat");
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (!strcmp(text ? text : "monolithicSparse", known[i].name)) {
            shape->subformat = known[i].name;
            shape->flat = known[i].flat;
            shape->split = known[i].split;
            shape->compressed = known[i].compressed;
            return NULL;
        }
    }
    return error_new("Invalid parameter '%s' for subformat", text);
}

static Error *take_texts(KeyValues *opts, VmdkShape *shape)
{
    static const char *const adapters[] = { "ide", "lsilogic", "buslogic", "legacyESX", NULL };
    bool compat6;

    TRY(block_take_bool(opts, "compat6", false, &compat6));
    shape->adapter = keyvalues_take(opts, "adapter_type");
    shape->adapter = shape->adapter ? shape->adapter : g_strdup("ide");
    shape->hwversion = keyvalues_take(opts, "hwversion");
    if (shape->hwversion && !strcmp(shape->hwversion, "undefined")) {
        g_clear_pointer(&shape->hwversion, g_free);
    }
    if (compat6 && shape->hwversion) {
        return error_new("compat6 chooses the hardware version itself: leave out hwversion");
    }
    shape->hwversion = shape->hwversion ? shape->hwversion : g_strdup(compat6 ? "6" : "4");
    shape->toolsversion = keyvalues_take(opts, "toolsversion");
    shape->toolsversion = shape->toolsversion ? shape->toolsversion : g_strdup("2147483647");
    const char *texts[] = { shape->adapter, shape->hwversion, shape->toolsversion };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        if (strlen(texts[i]) > 64 || strpbrk(texts[i], "\"\r\n")) {
            return error_new("'%s' cannot stand in a VMDK descriptor", texts[i]);
        }
    }
    for (size_t i = 0; adapters[i]; i++) {
        if (!strcmp(adapters[i], shape->adapter)) {
            return NULL;
        }
    }
    return error_new("Unknown adapter type: %s", shape->adapter);
}

static Error *take_backing_co(BlockGraph *graph, const char *filename, KeyValues *opts,
                              VmdkShape *shape)
{
    g_autofree char *format = keyvalues_take(opts, "backing_fmt");
    BlockNode *base;

    shape->parent_cid = UINT32_MAX;
    shape->backing = keyvalues_take(opts, "backing_file");
    if (!shape->backing) {
        return NULL;
    }
    if (shape->flat) {
        return error_new("A flat extent holds the whole disk: it cannot have a backing file");
    }
    if (format && strcmp(format, "vmdk")) {
        return error_new("backing_file must be a VMDK image");
    }
    if (strlen(shape->backing) > 1023 || strpbrk(shape->backing, "\"\r\n")) {
        return error_new("'%s' cannot stand in a VMDK descriptor", shape->backing);
    }
    g_autofree char *path = block_resolve_backing(filename, shape->backing);
    TRY(block_open_file_co(graph, path, NULL, OPEN_NO_BACKING, NULL, &base));
    bool vmdk = !strcmp(base->driver->name, "vmdk");
    if (vmdk) {
        shape->parent_cid = ((Vmdk *)base->state)->cid;
    }
    node_unref_co(base);
    return vmdk ? NULL : error_new("Invalid backing file format: vmdk is needed");
}

static Error *make_files_co(BlockGraph *graph, const char *filename, BlockNode *file,
                            VmdkShape *shape)
{
    g_autofree char *name = g_path_get_basename(filename);
    g_autofree char *stem =
        g_str_has_suffix(name, ".vmdk") ? g_strndup(name, strlen(name) - 5) : g_strdup(name);
    g_autofree char *descriptor = make_descriptor(shape, name, stem);

    if (strpbrk(name, "\"\r\n")) {
        return error_new("'%s' cannot stand in a VMDK descriptor", name);
    }
    if (!shape->flat && !shape->split) {
        return strlen(descriptor) > DESCRIPTOR_SECTORS * 512
                   ? error_new("The VMDK image's descriptor is too long")
                   : write_sparse_co(file, shape, shape->size, descriptor);
    }
    const char *cursor = descriptor;
    VmdkExtentLine line;
    while (vmdk_next_extent(&cursor, &line)) {
        g_autofree char *path = block_resolve_backing(filename, line.name);
        TRY(make_extent_co(graph, path, shape, line.sectors * 512));
    }
    int ret = node_pwrite_co(file, 0, strlen(descriptor), descriptor, 0);
    return ret < 0 ? error_new_errno(ret, "Could not write the descriptor") : NULL;
}

static void shape_clear(VmdkShape *shape)
{
    g_free(shape->adapter);
    g_free(shape->hwversion);
    g_free(shape->toolsversion);
    g_free(shape->backing);
}

static Error *create_steps_co(BlockGraph *graph, const char *filename, BlockNode *file,
                              KeyValues *opts, VmdkShape *shape)
{
    bool as_given;
    TRY(block_take_disk_size(opts, &shape->size, &as_given));
    TRY(block_take_bool(opts, "zeroed_grain", false, &shape->zeroed_grain));
    TRY(take_subformat(opts, shape));
    TRY(take_texts(opts, shape));
    TRY(take_backing_co(graph, filename, opts, shape));
    TRY(block_round_disk_size(&shape->size, as_given));
    if (shape->size > SPARSE_MAX && !shape->flat && !shape->split) {
        return error_new("A sparse VMDK image can be 64 TiB at most, of which 2 TiB can have data");
    }
    if (shape->flat && shape->zeroed_grain) { /* iotests compare it */
        return error_new("Flat image can't enable zeroed grain");
    }
    if (shape->split && shape->size / 512 / EXTENT_SECTORS_MAX >= VMDK_MAX_EXTENTS) {
        return error_new("The image would have more than %d extents", VMDK_MAX_EXTENTS);
    }
    return make_files_co(graph, filename, file, shape);
}

Error *vmdk_create_co(BlockGraph *graph, const char *filename, BlockNode *file, KeyValues *opts)
{
    VmdkShape shape = { 0 };
    Error *err = create_steps_co(graph, filename, file, opts, &shape);
    shape_clear(&shape);
    return err;
}
