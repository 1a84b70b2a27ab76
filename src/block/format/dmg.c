/*
 * Driver "dmg": disk images of macOS (UDIF), for reading: chunks that are stored as they are or packed with zlib, bzip2 or ADC.
 * dmg_table.c reads the tables.
 *
 * Missing: LZFSE and LZMA, for want of a library in Debian and of images; checksums are not looked at.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <zlib.h>

#include "base/library.h"
#include "block/config.h"
#include "block/format/dmg.h"

#if defined(HAVE_BZIP2)
#include <bzlib.h>
#define BZIP2_CALLS(C) C(BZ2_bzBuffToBuffDecompress)
typedef struct Bzip2Api {
    BZIP2_CALLS(LIBRARY_POINTER)
} Bzip2Api;
#define BZIP2_CALL(name) LIBRARY_CALL(Bzip2Api, name)
static const LibraryCall bzip2_calls[] = { BZIP2_CALLS(BZIP2_CALL) };
static const Library bzip2_library = { "the bzip2 library", "libbz2.so.1.0", "libbz2-1.0", bzip2_calls, G_N_ELEMENTS(bzip2_calls) };
#endif

/* Longer ones are unpacked one at a time, whatever the number of requests. */
#define SMALL_CHUNK (4 * MiB)

typedef struct Dmg {
    GArray *chunks;       /* DmgChunk */
    uint8_t *kept;        /* the last chunk of which only a part was asked for */
    uint64_t kept_sector; /* where it begins */
    CoMutex lock;         /* of `kept`, and for long chunks */
#if defined(HAVE_BZIP2)
    Bzip2Api bzip2;
#endif
} Dmg;

static int dmg_probe(const uint8_t *data, size_t length, const char *filename)
{
    return g_str_has_suffix(filename, ".dmg") ? 2 : 0;
}

/* --- unpacking --- */

typedef struct Unpack {
    const Dmg *dmg;
    uint32_t type;
    const uint8_t *from;
    uint8_t *to;
    size_t from_bytes, to_bytes;
} Unpack;

/*
 * A byte says what follows: 1nnnnnnn: n + 1 bytes as they are; 01nnnnnn and two bytes: n + 4 bytes again from so far back; 00nnnndd
 * and one byte: n + 3 bytes.
 */
int dmg_unpack_adc(const uint8_t *from, size_t from_bytes, uint8_t *to, size_t to_bytes)
{
    size_t at = 0, made = 0;

    while (at < from_bytes && made < to_bytes) {
        uint8_t code = from[at];
        size_t head = code & 0x80 ? 1 : code & 0x40 ? 3 : 2, length, back;
        if (from_bytes - at < head) {
            return -EIO;
        }
        if (code & 0x80) {
            length = MIN((code & 0x7fu) + 1, to_bytes - made);
            if (from_bytes - at - 1 < length) {
                return -EIO;
            }
            memcpy(to + made, from + at + 1, length);
            at += 1 + length;
            made += length;
            continue;
        }
        length = code & 0x40 ? (code & 0x3fu) + 4 : ((code >> 2) & 0xfu) + 3;
        back = 1 + (code & 0x40 ? (size_t)from[at + 1] << 8 | from[at + 2] : (size_t)(code & 3) << 8 | from[at + 1]);
        if (back > made) {
            return -EIO;
        }
        for (length = MIN(length, to_bytes - made); length; length--, made++) {
            to[made] = to[made - back];
        }
        at += head;
    }
    return made == to_bytes ? 0 : -EIO;
}

static int unpack_call(void *opaque)
{
    Unpack *u = opaque;

    if (u->type == DMG_ZLIB) {
        uLongf made = (uLongf)u->to_bytes;
        return uncompress(u->to, &made, u->from, (uLong)u->from_bytes) == Z_OK && made == u->to_bytes ? 0 : -EIO;
    }
#if defined(HAVE_BZIP2)
    if (u->type == DMG_BZIP2) {
        unsigned made = (unsigned)u->to_bytes;
        int code = u->dmg->bzip2.BZ2_bzBuffToBuffDecompress((char *)u->to, &made, (char *)u->from, (unsigned)u->from_bytes, 0, 0);
        return code == BZ_OK && made == u->to_bytes ? 0 : code == BZ_MEM_ERROR ? -ENOMEM : -EIO;
    }
#endif
    return u->type == DMG_ADC ? dmg_unpack_adc(u->from, u->from_bytes, u->to, u->to_bytes) : -ENOTSUP;
}

/* All of a packed chunk. The caller frees *ret_data. */
static int unpack_co(BlockNode *node, const DmgChunk *chunk, uint8_t **ret_data)
{
    size_t bytes = (size_t)chunk->count * DMG_SECTOR;
    g_autofree uint8_t *packed = g_try_malloc((gsize)MAX(chunk->bytes, 1)), *data = g_try_malloc(bytes);

    int ret = packed && data ? node_pread_co(node->file->node, chunk->offset, chunk->bytes, packed) : -ENOMEM;
    if (ret >= 0) {
        Unpack u = { node->state, chunk->type, packed, data, (size_t)chunk->bytes, bytes };
        ret = co_blocking(unpack_call, &u);
    }
    if (ret >= 0) {
        *ret_data = g_steal_pointer(&data);
    }
    return ret;
}

/* --- reading --- */

/* The first chunk that ends behind the sector; NULL: there are only zeroes from there on. */
static const DmgChunk *chunk_at(const Dmg *s, uint64_t sector)
{
    guint low = 0, high = s->chunks->len;
    while (low < high) {
        guint middle = low + (high - low) / 2;
        const DmgChunk *chunk = &g_array_index(s->chunks, DmgChunk, middle);
        if (chunk->sector + chunk->count <= sector) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < s->chunks->len ? &g_array_index(s->chunks, DmgChunk, low) : NULL;
}

/* A run that one chunk decides, or a hole between chunks. */
typedef struct Run {
    const DmgChunk *chunk; /* NULL: zeroes */
    uint64_t in, bytes;    /* in: from the chunk's start */
} Run;

static Run run_at(const Dmg *s, uint64_t offset, uint64_t bytes)
{
    const DmgChunk *chunk = chunk_at(s, offset / DMG_SECTOR);
    uint64_t start = chunk ? chunk->sector * DMG_SECTOR : UINT64_MAX;

    if (start > offset) {
        return (Run) { .bytes = MIN(bytes, start - offset) };
    }
    Run run = { chunk, offset - start, MIN(bytes, start + chunk->count * DMG_SECTOR - offset) };
    if (chunk->type == DMG_RAW) { /* what is stored may be shorter; it counts in whole sectors */
        uint64_t stored = ALIGN_DOWN(chunk->bytes, (uint64_t)DMG_SECTOR);
        stored -= MIN(run.in, stored);
        run.chunk = stored ? chunk : NULL;
        run.bytes = MIN(run.bytes, stored ? stored : UINT64_MAX);
    } else if (chunk->type == DMG_ZERO || chunk->type == DMG_IGNORE) {
        run.chunk = NULL;
    }
    return run;
}

static int read_whole_co(BlockNode *node, const Run *run, const BlockVec *vec, size_t at)
{
    g_autofree uint8_t *data = NULL;
    int ret = unpack_co(node, run->chunk, &data);
    if (ret >= 0) {
        block_vec_from_buffer(vec, at, data, (size_t)run->bytes);
    }
    return ret;
}

/* The chunk is kept, since readers ask for much less than one. */
static int read_part_co(BlockNode *node, const Run *run, const BlockVec *vec, size_t at)
{
    Dmg *s = node->state;
    int ret = 0;

    co_mutex_lock(&s->lock);
    if (!s->kept || s->kept_sector != run->chunk->sector) {
        g_clear_pointer(&s->kept, g_free);
        ret = unpack_co(node, run->chunk, &s->kept);
        s->kept_sector = run->chunk->sector;
    }
    if (ret >= 0) {
        block_vec_from_buffer(vec, at, s->kept + run->in, (size_t)run->bytes);
    }
    co_mutex_unlock(&s->lock);
    return ret;
}

static int read_run_co(BlockNode *node, const Run *run, const BlockVec *vec, size_t at)
{
    if (!run->chunk) {
        block_vec_zero(vec, at, (size_t)run->bytes);
        return 0;
    }
    if (run->chunk->type == DMG_RAW) {
        return node_preadv_co(node->file->node, run->chunk->offset + run->in, run->bytes, vec, at);
    }
    bool whole = run->bytes == run->chunk->count * DMG_SECTOR && run->bytes <= SMALL_CHUNK && run->chunk->bytes <= SMALL_CHUNK;
    return whole ? read_whole_co(node, run, vec, at) : read_part_co(node, run, vec, at);
}

static int dmg_preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    while (bytes) {
        Run run = run_at(node->state, offset, bytes);
        int ret = read_run_co(node, &run, vec, at);
        if (ret < 0) {
            return ret;
        }
        offset += run.bytes;
        bytes -= run.bytes;
        at += (size_t)run.bytes;
    }
    return 0;
}

static int dmg_status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    Run run = run_at(node->state, offset, bytes);
    *ret_status = (BlockStatus) { .flags = STATUS_ALLOCATED, .bytes = run.bytes };
    if (!run.chunk) {
        ret_status->flags |= STATUS_ZERO;
    } else if (run.chunk->type == DMG_RAW) {
        ret_status->flags |= STATUS_DATA | STATUS_OFFSET;
        ret_status->map = run.chunk->offset + run.in;
        ret_status->file = node->file->node;
    } else {
        ret_status->flags |= STATUS_DATA | STATUS_COMPRESSED;
    }
    return 0;
}

/* --- opening --- */

/* Says at once what could not be read later. */
static Error *check_types(Dmg *s)
{
    bool bzip2 = false;

    for (guint i = 0; i < s->chunks->len; i++) {
        uint32_t type = g_array_index(s->chunks, DmgChunk, i).type;
        bzip2 |= type == DMG_BZIP2;
        if (type == DMG_LZFSE || type == DMG_LZMA) {
            return error_hint(error_new("The image is packed with %s, which this driver cannot unpack",
                                        type == DMG_LZFSE ? "LZFSE" : "LZMA"),
                              "macOS can convert it: hdiutil convert -format UDZO.");
        }
    }
#if defined(HAVE_BZIP2)
    return bzip2 ? library_open(&bzip2_library, &s->bzip2) : NULL;
#else
    return bzip2 ? error_new("The image is packed with bzip2, whose headers were missing when this program was built") : NULL;
#endif
}

static Error *dmg_open_co(BlockNode *node, KeyValues *opts)
{
    Dmg *s = node->state;

    if (!node->read_only) {
        return error_new("Block format 'dmg' is for reading only (use read-only=on)");
    }
    TRY(dmg_read_table_co(node->file->node, &s->chunks, &node->size));
    Error *err = node->no_io ? NULL : check_types(s);
    if (err) {
        g_array_unref(s->chunks);
        return err;
    }
    co_mutex_init(&s->lock);
    node->limits.request_align = DMG_SECTOR;
    return NULL;
}

static void dmg_close_co(BlockNode *node)
{
    Dmg *s = node->state;
    g_free(s->kept);
    g_array_unref(s->chunks);
}

BLOCK_DRIVER(dmg, .name = "dmg", .desc = "Disk image of macOS (for reading)", .state_size = sizeof(Dmg), .probe = dmg_probe,
             .open_co = dmg_open_co, .close_co = dmg_close_co, .preadv_co = dmg_preadv_co, .status_co = dmg_status_co);
