/*
 * Block commands of a SCSI disk: SBC-3, 5. Data go between the initiator's scatter lists and the back end directly;
 * VERIFY with a comparison and WRITE SAME of a pattern go through a buffer. Missing: protection information, XOR and
 * atomic writes, FORMAT UNIT, persistent reservations.
 */
#include <errno.h>

#include "base/endian.h"
#include "hw/scsi/scsi_disk.h"

enum { BUFFER_MAX = 256 * KiB, UNMAP_HEADER = 8, UNMAP_DESCRIPTOR = 16, UNMAP_LIST_MAX = UNMAP_HEADER + 255 * UNMAP_DESCRIPTOR };
enum { CDB_PROTECT = 0xe0, CDB_FUA = 0x08, SAME_UNMAP = 0x08, SAME_ANCHOR = 0x10, SAME_NDOB = 0x01, SAME_OBSOLETE = 0x06 };
enum { SAI_READ_CAPACITY = 0x10, SAI_GET_LBA_STATUS = 0x12 };

/* --- checks --- */

static void illegal(ScsiRequest *req, uint8_t asc)
{
    scsi_check(req, SENSE_ILLEGAL, asc, 0);
}

/* The range as bytes; false: it is not on the medium, and the request has ended. */
static bool take_range(ScsiDisk *disk, ScsiRequest *req, uint64_t lba, uint64_t blocks, bool reading)
{
    uint64_t total = scsi_disk_blocks(disk);
    if (lba > total || blocks > total - lba) {
        disk_conf_count_invalid(&disk->conf, reading);
        illegal(req, ASC_LBA_RANGE);
        return false;
    }
    req->offset = lba * scsi_disk_block(disk);
    req->left = blocks * scsi_disk_block(disk);
    return true;
}

/* Of READ, WRITE and VERIFY. */
static bool begin_range(ScsiDisk *disk, ScsiRequest *req, bool reading)
{
    uint64_t lba;
    uint32_t blocks;
    scsi_cdb_range(req->cdb, &lba, &blocks);
    if (scsi_cdb_length(req->cdb) > 6 && (req->cdb[1] & CDB_PROTECT)) {
        illegal(req, ASC_INVALID_FIELD);
        return false;
    }
    if ((uint64_t)blocks * scsi_disk_block(disk) > disk->max_io_size) {
        illegal(req, ASC_INVALID_FIELD);
        return false;
    }
    return take_range(disk, req, lba, blocks, reading);
}

static bool has_fua(const ScsiRequest *req)
{
    return scsi_cdb_length(req->cdb) > 6 && (req->cdb[1] & CDB_FUA);
}

/* --- READ, WRITE --- */

static void read_done(ScsiRequest *req, int ret)
{
    if (ret < 0) {
        scsi_disk_fail(req, ret, true);
    } else {
        req->moved = req->left;
        scsi_good(req);
    }
}

static void read_now(ScsiRequest *req, int ret)
{
    if (ret < 0) {
        scsi_disk_fail(req, ret, false);
        return;
    }
    scsi_cut(req, 0, req->left, false);
    scsi_disk_read(req, req->offset, req->iov, req->iov_count, read_done);
}

static void read_blocks(ScsiDisk *disk, ScsiRequest *req)
{
    if (!begin_range(disk, req, true)) {
        return;
    }
    if (req->left == 0) {
        scsi_good(req);
    } else if (has_fua(req)) { /* what is cached goes to the medium first */
        scsi_disk_flush(req, read_now);
    } else {
        read_now(req, 0);
    }
}

static void write_done(ScsiRequest *req, int ret)
{
    if (ret < 0) {
        scsi_disk_fail(req, ret, false);
    } else {
        req->moved = req->left;
        scsi_good(req);
    }
}

static void begin_write(ScsiRequest *req, bool fua, ScsiStep *step)
{
    scsi_cut(req, 0, req->left, true);
    scsi_disk_write(req, req->offset, req->iov, req->iov_count, fua, step);
}

static void write_blocks(ScsiDisk *disk, ScsiRequest *req)
{
    if (!begin_range(disk, req, false)) {
        return;
    }
    if (req->left == 0) {
        scsi_good(req);
    } else {
        begin_write(req, has_fua(req), write_done);
    }
}

/* --- VERIFY --- */

static void *request_buffer(ScsiRequest *req, uint64_t wanted)
{
    if (!req->buffer) {
        req->buffer_length = (uint32_t)MIN(wanted, (uint64_t)MAX(BUFFER_MAX, scsi_disk_block(scsi_disk_of(req->dev))));
        req->buffer = g_malloc(req->buffer_length);
    }
    return req->buffer;
}

/* Whether the buffer has the initiator's data from `at` on; with BYTCHK 11b one block is compared with each. */
static bool same_as_given(ScsiRequest *req, uint64_t at, uint32_t bytes)
{
    uint32_t block = scsi_disk_block(scsi_disk_of(req->dev));
    bool one = (req->cdb[1] >> 1 & 3) == 3;
    for (uint32_t done = 0; done < bytes; done += block) {
        size_t inside = 0;
        scsi_cut(req, one ? 0 : at + done, block, true);
        for (unsigned i = 0; i < req->iov_count; inside += req->iov[i++].iov_len) {
            if (memcmp(req->buffer + done + inside, req->iov[i].iov_base, req->iov[i].iov_len)) {
                return false;
            }
        }
    }
    return true;
}

static void verify_next(ScsiRequest *req);

static void verify_read(ScsiRequest *req, int ret)
{
    uint32_t bytes = (uint32_t)req->iov[0].iov_len;
    if (ret < 0) {
        scsi_disk_fail(req, ret, true);
        return;
    }
    if (!same_as_given(req, req->moved, bytes)) {
        req->moved = 0;
        scsi_check(req, SENSE_MISCOMPARE, ASC_MISCOMPARE, 0);
        return;
    }
    req->offset += bytes;
    req->left -= bytes;
    req->moved += bytes;
    verify_next(req);
}

static void verify_next(ScsiRequest *req)
{
    if (req->left == 0) {
        if ((req->cdb[1] >> 1 & 3) == 3) {
            req->moved = scsi_disk_block(scsi_disk_of(req->dev));
        }
        scsi_good(req);
        return;
    }
    void *buffer = request_buffer(req, req->left);
    g_free(req->iov);
    req->iov = g_new(struct iovec, 1);
    req->iov[0] = (struct iovec) { buffer, MIN(req->left, (uint64_t)req->buffer_length) };
    scsi_disk_read(req, req->offset, req->iov, 1, verify_read);
}

static void verify_blocks(ScsiDisk *disk, ScsiRequest *req)
{
    unsigned check = req->cdb[1] >> 1 & 3;
    if (check == 2) {
        illegal(req, ASC_INVALID_FIELD);
        return;
    }
    if (!begin_range(disk, req, true)) {
        return;
    }
    if (check == 0 || req->left == 0) { /* the medium is always readable as far as its length says */
        scsi_good(req);
    } else {
        verify_next(req);
    }
}

static void verify_written(ScsiRequest *req, int ret)
{
    if (ret < 0) {
        scsi_disk_fail(req, ret, false);
    } else if ((req->cdb[1] >> 1 & 3) == 1) {
        verify_next(req);
    } else {
        write_done(req, 0);
    }
}

/* The data are on the medium when this ends, so that verifying means something. */
static void write_and_verify(ScsiDisk *disk, ScsiRequest *req)
{
    if ((req->cdb[1] >> 1 & 3) > 1) {
        illegal(req, ASC_INVALID_FIELD);
        return;
    }
    if (!begin_range(disk, req, false)) {
        return;
    }
    if (req->left == 0) {
        scsi_good(req);
    } else {
        begin_write(req, true, verify_written);
    }
}

/* --- WRITE SAME --- */

static void same_next(ScsiRequest *req);

static void same_written(ScsiRequest *req, int ret)
{
    if (ret < 0) {
        scsi_disk_fail(req, ret, false);
        return;
    }
    req->offset += req->iov[0].iov_len;
    req->left -= req->iov[0].iov_len;
    same_next(req);
}

static void same_next(ScsiRequest *req)
{
    if (req->left == 0) {
        scsi_good(req);
        return;
    }
    req->iov[0] = (struct iovec) { req->buffer, MIN(req->left, (uint64_t)req->buffer_length) };
    scsi_disk_write(req, req->offset, req->iov, 1, false, same_written);
}

static void same_zeroed(ScsiRequest *req, int ret)
{
    if (ret < 0) {
        scsi_disk_fail(req, ret, false);
    } else {
        scsi_good(req);
    }
}

static bool is_zero(const uint8_t *data, size_t length)
{
    return data[0] == 0 && !memcmp(data, data + 1, length - 1);
}

static void write_same(ScsiDisk *disk, ScsiRequest *req)
{
    uint32_t block = scsi_disk_block(disk), blocks;
    bool unmap = req->cdb[1] & SAME_UNMAP, no_data = req->cdb[1] & SAME_NDOB; /* the short form knows NDOB, too, in practice */
    unsigned bad = CDB_PROTECT | SAME_ANCHOR | SAME_OBSOLETE;
    uint64_t lba;

    scsi_cdb_range(req->cdb, &lba, &blocks);
    if ((req->cdb[1] & bad) || blocks == 0 || (unmap && !scsi_disk_discards(disk))) {
        illegal(req, ASC_INVALID_FIELD);
        return;
    }
    if (!take_range(disk, req, lba, blocks, false)) {
        return;
    }
    /* Whole blocks, as many as fit the buffer. */
    uint64_t room = MAX(BUFFER_MAX / block, 1u) * (uint64_t)block;
    req->buffer_length = no_data ? 0 : (uint32_t)MIN(req->left, room);
    req->buffer = no_data ? NULL : g_malloc(req->buffer_length);
    if (no_data || (scsi_take(req, req->buffer, block) == block && is_zero(req->buffer, block))) {
        scsi_disk_zero(req, req->offset, req->left, unmap, same_zeroed);
        return;
    }
    for (uint32_t at = block; at < req->buffer_length; at += block) {
        memcpy(req->buffer + at, req->buffer, block);
    }
    req->iov = g_new(struct iovec, 1);
    same_next(req);
}

/* --- UNMAP --- */

static void unmap_next(ScsiRequest *req, int ret)
{
    ScsiDisk *disk = scsi_disk_of(req->dev);
    uint32_t block = scsi_disk_block(disk), end = UNMAP_HEADER + ld16_be(req->buffer + 2) / UNMAP_DESCRIPTOR * UNMAP_DESCRIPTOR;

    if (ret < 0 && ret != -ENOTSUP) { /* a host that cannot discard keeps the data, which is allowed */
        scsi_disk_fail(req, ret, false);
        return;
    }
    while (req->index < end) {
        const uint8_t *descriptor = req->buffer + req->index;
        uint64_t lba = ld64_be(descriptor), blocks = ld32_be(descriptor + 8);
        req->index += UNMAP_DESCRIPTOR;
        if (blocks) {
            scsi_disk_discard(req, lba * block, blocks * block, unmap_next);
            return;
        }
    }
    scsi_good(req);
}

/* All descriptors are looked at before the first one takes effect. 0, or the ASC. */
static uint8_t check_unmap_list(ScsiDisk *disk, const uint8_t *list, uint32_t length)
{
    uint32_t data = ld16_be(list), descriptors = ld16_be(list + 2);
    uint64_t total = scsi_disk_blocks(disk), sum = 0;

    if (data + 2 > length || descriptors + UNMAP_HEADER > length || descriptors % UNMAP_DESCRIPTOR) {
        return ASC_LIST_LENGTH;
    }
    for (uint32_t at = UNMAP_HEADER; at + UNMAP_DESCRIPTOR <= UNMAP_HEADER + descriptors; at += UNMAP_DESCRIPTOR) {
        uint64_t lba = ld64_be(list + at), blocks = ld32_be(list + at + 8);
        sum += blocks;
        if (lba > total || blocks > total - lba) {
            return ASC_LBA_RANGE;
        }
    }
    return sum > disk->max_unmap_size / scsi_disk_block(disk) ? ASC_INVALID_PARAMETER : 0;
}

static void unmap_blocks(ScsiDisk *disk, ScsiRequest *req)
{
    uint32_t length = ld16_be(req->cdb + 7);

    if ((req->cdb[1] & 1) || !scsi_disk_discards(disk)) { /* ANCHOR */
        illegal(req, ASC_INVALID_FIELD);
        return;
    }
    if (length == 0) {
        scsi_good(req);
        return;
    }
    req->buffer = g_malloc0(UNMAP_LIST_MAX);
    if (length < UNMAP_HEADER || length > UNMAP_LIST_MAX || scsi_take(req, req->buffer, length) != length) {
        illegal(req, ASC_LIST_LENGTH);
        return;
    }
    uint8_t asc = check_unmap_list(disk, req->buffer, length);
    if (asc) {
        disk_conf_count_invalid(&disk->conf, false);
        illegal(req, asc);
        return;
    }
    req->index = UNMAP_HEADER;
    unmap_next(req, 0);
}

/* --- what the medium is --- */

static void read_capacity_10(ScsiDisk *disk, ScsiRequest *req)
{
    uint8_t reply[8];
    uint64_t blocks = scsi_disk_blocks(disk);
    if (!(req->cdb[8] & 1) && ld32_be(req->cdb + 2)) { /* PMI: obsolete */
        illegal(req, ASC_INVALID_FIELD);
        return;
    }
    if (blocks == 0) {
        scsi_check(req, SENSE_NOT_READY, ASC_NO_MEDIUM, 0);
        return;
    }
    st32_be(reply, (uint32_t)MIN(blocks - 1, (uint64_t)UINT32_MAX));
    st32_be(reply + 4, scsi_disk_block(disk));
    scsi_reply(req, reply, sizeof(reply), sizeof(reply));
}

static void read_capacity_16(ScsiDisk *disk, ScsiRequest *req)
{
    uint8_t reply[32] = { 0 };
    uint64_t blocks = scsi_disk_blocks(disk);
    if (blocks == 0) {
        scsi_check(req, SENSE_NOT_READY, ASC_NO_MEDIUM, 0);
        return;
    }
    st64_be(reply, blocks - 1);
    st32_be(reply + 8, scsi_disk_block(disk));
    reply[13] = (uint8_t)__builtin_ctzll(MAX(disk->conf.physical_block_size / scsi_disk_block(disk), 1u));
    reply[14] = scsi_disk_discards(disk) ? 0x80 : 0; /* LBPME */
    scsi_reply(req, reply, sizeof(reply), ld32_be(req->cdb + 10));
}

/* One descriptor: from the block asked for to the end, mapped as far as is known (SBC-3, 5.11). */
static void get_lba_status(ScsiDisk *disk, ScsiRequest *req)
{
    uint8_t reply[24] = { 0 };
    uint64_t lba = ld64_be(req->cdb + 2), blocks = scsi_disk_blocks(disk);
    if (lba >= blocks) {
        illegal(req, ASC_LBA_RANGE);
        return;
    }
    st32_be(reply, sizeof(reply) - 4);
    st64_be(reply + 8, lba);
    st32_be(reply + 16, (uint32_t)MIN(blocks - lba, (uint64_t)UINT32_MAX));
    scsi_reply(req, reply, sizeof(reply), ld32_be(req->cdb + 10));
}

static void service_action_in(ScsiDisk *disk, ScsiRequest *req)
{
    switch (req->cdb[1] & 0x1f) {
    case SAI_READ_CAPACITY:
        read_capacity_16(disk, req);
        break;
    case SAI_GET_LBA_STATUS:
        get_lba_status(disk, req);
        break;
    default:
        illegal(req, ASC_INVALID_FIELD);
        break;
    }
}

/* --- the rest --- */

static void good(ScsiDisk *disk, ScsiRequest *req)
{
    scsi_good(req);
}

static void flush_done(ScsiRequest *req, int ret)
{
    if (ret < 0) {
        scsi_disk_fail(req, ret, false);
    } else {
        scsi_good(req);
    }
}

static void synchronize_cache(ScsiDisk *disk, ScsiRequest *req)
{
    uint64_t lba;
    uint32_t blocks;
    scsi_cdb_range(req->cdb, &lba, &blocks);
    if (take_range(disk, req, lba, blocks, false)) {
        scsi_disk_flush(req, flush_done);
    }
}

static void seek(ScsiDisk *disk, ScsiRequest *req)
{
    uint64_t lba;
    uint32_t blocks;
    scsi_cdb_range(req->cdb, &lba, &blocks);
    if (take_range(disk, req, lba, 1, true)) {
        scsi_good(req);
    }
}

/* The tray, and locking it, as CD drives do it; a disk that cannot be removed has nothing to do. */
static void start_or_prevent(ScsiDisk *disk, ScsiRequest *req)
{
    uint8_t reply[MMC_REPLY_MAX];
    MmcOutcome outcome = { .kind = MMC_GOOD };
    if (disk->removable) {
        mmc_command(&disk->mmc, req->cdb, reply, &outcome);
    }
    if (outcome.kind == MMC_CHECK) {
        scsi_check(req, outcome.sense.key, outcome.sense.asc, outcome.sense.ascq);
    } else {
        scsi_good(req);
    }
}

static void send_diagnostic(ScsiDisk *disk, ScsiRequest *req)
{
    if ((req->cdb[1] & 0x04) || ld16_be(req->cdb + 3) == 0) { /* self-test: passed */
        scsi_good(req);
    } else {
        illegal(req, ASC_INVALID_FIELD);
    }
}

static const ScsiCommand commands[] = {
    { 0x00, good, NEEDS_MEDIUM },                                           /* TEST UNIT READY */
    { 0x01, good, NEEDS_MEDIUM },                                           /* REZERO UNIT */
    { 0x08, read_blocks, NEEDS_MEDIUM, LENGTH_BLOCKS },                     /* READ(6) */
    { 0x0a, write_blocks, NEEDS_MEDIUM | WRITES | TO_DEVICE, LENGTH_BLOCKS }, /* WRITE(6) */
    { 0x0b, seek, NEEDS_MEDIUM },                                           /* SEEK(6) */
    { 0x12, scsi_inquiry, 0, LENGTH_BE16_AT_3 },
    { 0x15, scsi_mode_select, TO_DEVICE, LENGTH_BYTE4 },
    { 0x16, good },                                                         /* RESERVE(6): there is one initiator */
    { 0x17, good },                                                         /* RELEASE(6) */
    { 0x1a, scsi_mode_sense, 0, LENGTH_BYTE4 },
    { 0x1b, start_or_prevent },                                             /* START STOP UNIT */
    { 0x1d, send_diagnostic },
    { 0x1e, start_or_prevent },                                             /* PREVENT ALLOW MEDIUM REMOVAL */
    { 0x25, read_capacity_10, NEEDS_MEDIUM, LENGTH_EIGHT },
    { 0x28, read_blocks, NEEDS_MEDIUM, LENGTH_BLOCKS },
    { 0x2a, write_blocks, NEEDS_MEDIUM | WRITES | TO_DEVICE, LENGTH_BLOCKS },
    { 0x2b, seek, NEEDS_MEDIUM },
    { 0x2e, write_and_verify, NEEDS_MEDIUM | WRITES | TO_DEVICE, LENGTH_BLOCKS },
    { 0x2f, verify_blocks, NEEDS_MEDIUM | TO_DEVICE, LENGTH_COMPARE },
    { 0x35, synchronize_cache, NEEDS_MEDIUM },
    { 0x41, write_same, NEEDS_MEDIUM | WRITES | TO_DEVICE, LENGTH_ONE_BLOCK },
    { 0x42, unmap_blocks, NEEDS_MEDIUM | WRITES | TO_DEVICE, LENGTH_BE16_AT_7 },
    { 0x55, scsi_mode_select, TO_DEVICE, LENGTH_BE16_AT_7 },
    { 0x5a, scsi_mode_sense, 0, LENGTH_BE16_AT_7 },
    { 0x88, read_blocks, NEEDS_MEDIUM, LENGTH_BLOCKS },
    { 0x8a, write_blocks, NEEDS_MEDIUM | WRITES | TO_DEVICE, LENGTH_BLOCKS },
    { 0x8e, write_and_verify, NEEDS_MEDIUM | WRITES | TO_DEVICE, LENGTH_BLOCKS },
    { 0x8f, verify_blocks, NEEDS_MEDIUM | TO_DEVICE, LENGTH_COMPARE },
    { 0x91, synchronize_cache, NEEDS_MEDIUM },
    { 0x93, write_same, NEEDS_MEDIUM | WRITES | TO_DEVICE, LENGTH_ONE_BLOCK },
    { 0x9e, service_action_in, NEEDS_MEDIUM, LENGTH_BE32_AT_10 },
    { 0xa8, read_blocks, NEEDS_MEDIUM, LENGTH_BLOCKS },
    { 0xaa, write_blocks, NEEDS_MEDIUM | WRITES | TO_DEVICE, LENGTH_BLOCKS },
    { 0xae, write_and_verify, NEEDS_MEDIUM | WRITES | TO_DEVICE, LENGTH_BLOCKS },
    { 0xaf, verify_blocks, NEEDS_MEDIUM | TO_DEVICE, LENGTH_COMPARE },
};

const ScsiCommand *scsi_rw_find(uint8_t opcode)
{
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (commands[i].opcode == opcode) {
            return &commands[i];
        }
    }
    return NULL;
}
