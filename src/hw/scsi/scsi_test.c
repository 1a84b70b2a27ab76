#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#include "base/endian.h"
#include "hw/scsi/scsi_disk.h"
#include "hw/test_util.h"

/* A machine with a SCSI bus whose host adapter is this test: a disk at 0:0, a CD at 1:0. */
typedef struct Fixture {
    Machine *machine;
    BlockGraph *graph;
    ScsiBus bus;
    char *dir, *disk_path, *cd_path;
    ScsiDisk *disk, *cd;
    unsigned events;
} Fixture;

enum { BLOCK = 512, DISK_BLOCKS = 4096, CD_BLOCKS = 300 };

typedef struct Call {
    ScsiRequest req;
    bool ended;
    struct iovec out, in;
} Call;

static const MachineType test_machine = { .name = "test", .desc = "test machine" };

static ScsiDisk *add_unit(Fixture *f, const char *type, const char *id, const char *path, unsigned flags, uint32_t target, uint32_t lun)
{
    BlockBackend *blk = test_drive(f->machine, f->graph, id, path, flags);
    Device *dev = device_new(f->machine, device_type_find(type), id);
    device_set_str(dev, "drive", id);
    device_set_str(dev, "serial", "S1");
    device_set_u64(dev, "scsi-id", target);
    device_set_u64(dev, "lun", lun);
    error_never(device_plug(dev, &f->bus.bus));
    blk_unref(blk);
    return container_of(dev, ScsiDisk, scsi.dev);
}

static void unit_event(ScsiBus *bus, ScsiDevice *dev)
{
    container_of(bus, Fixture, bus)->events++;
}

static void unit_changed(ScsiBus *bus, ScsiDevice *dev, ScsiSense why)
{
    container_of(bus, Fixture, bus)->events++;
}
static const ScsiHostOps host_ops = { .plugged = unit_event, .unplugged = unit_event, .changed = unit_changed };

static void setup(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("scsi-test-XXXXXX", NULL);
    f->disk_path = test_image(f->dir, "disk", DISK_BLOCKS * BLOCK);
    f->cd_path = test_image(f->dir, "cd", CD_BLOCKS * CD_BLOCK);
    f->machine = machine_new(&test_machine, machine_config_new());
    lock_acquire(&f->machine->lock);
    f->graph = block_graph_new(f->machine->loop);
    machine_set_service(f->machine, BLOCK_SERVICE, f->graph);
    scsi_bus_init(&f->bus, f->machine, NULL, &host_ops, 0, 7, 16383);
    f->bus.queueing = true;
    f->disk = add_unit(f, "scsi-hd", "hd", f->disk_path, OPEN_WRITE, 0, 0);
    f->cd = add_unit(f, "scsi-cd", "cd", f->cd_path, 0, 1, 0);
}

static void teardown(Fixture *f, gconstpointer data)
{
    bus_fini(&f->bus.bus);
    lock_release(&f->machine->lock);
    block_graph_free(f->graph);
    machine_free(f->machine);
    g_unlink(f->disk_path);
    g_unlink(f->cd_path);
    g_rmdir(f->dir);
    g_free(f->disk_path);
    g_free(f->cd_path);
    g_free(f->dir);
}

/* --- requests --- */

static void ended(ScsiRequest *req)
{
    container_of(req, Call, req)->ended = true;
}

static void begin(Fixture *f, Call *call, uint32_t target, uint32_t lun, const uint8_t *cdb, size_t length, void *data, size_t bytes,
                  bool to_device)
{
    *call = (Call) { .req = { .done = ended } };
    memcpy(call->req.cdb, cdb, length);
    call->out = call->in = (struct iovec) { data, bytes };
    if (to_device && bytes) {
        call->req.out = &call->out;
        call->req.out_count = 1;
        call->req.out_bytes = bytes;
    } else if (bytes) {
        call->req.in = &call->in;
        call->req.in_count = 1;
        call->req.in_bytes = bytes;
    }
    scsi_submit(&f->bus, 0, target, lun, &call->req);
}

static void wait_end(Fixture *f, Call *call)
{
    for (unsigned i = 0; !call->ended; i++) {
        g_assert_cmpuint(i, <, 10000);
        lock_release(&f->machine->lock);
        loop_run_once(f->machine->loop, 10 * NS_PER_MS);
        lock_acquire(&f->machine->lock);
    }
}

static Call run(Fixture *f, uint32_t target, uint32_t lun, const uint8_t *cdb, size_t length, void *data, size_t bytes, bool to_device)
{
    Call call;
    begin(f, &call, target, lun, cdb, length, data, bytes, to_device);
    wait_end(f, &call);
    return call;
}

#define READ_(f, target, lun, data, bytes, ...) run(f, target, lun, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }), data, bytes, false)
#define WRITE_(f, target, lun, data, bytes, ...) run(f, target, lun, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }), data, bytes, true)

static void assert_good(Call call)
{
    g_assert_cmpint(call.req.end, ==, SCSI_ENDED);
    g_assert_cmphex(call.req.status, ==, SCSI_GOOD);
}

static void assert_sense(Call call, uint8_t key, uint8_t asc, uint8_t ascq)
{
    g_assert_cmpint(call.req.end, ==, SCSI_ENDED);
    g_assert_cmphex(call.req.status, ==, SCSI_CHECK_CONDITION);
    g_assert_cmphex(call.req.sense[0], ==, 0x70);
    g_assert_cmphex(call.req.sense[2], ==, key);
    g_assert_cmphex(call.req.sense[12], ==, asc);
    g_assert_cmphex(call.req.sense[13], ==, ascq);
}

static void clear_attention(Fixture *f, uint32_t target)
{
    assert_sense(READ_(f, target, 0, NULL, 0, 0), SENSE_ATTENTION, ASC_RESET, 0);
    assert_good(READ_(f, target, 0, NULL, 0, 0));
}

/* --- tests --- */

static void test_identity(Fixture *f, gconstpointer data)
{
    uint8_t reply[256];
    /* INQUIRY passes the attention that power-on left; it is told once. */
    Call call = READ_(f, 0, 0, reply, 96, 0x12, 0, 0, 0, 96);
    assert_good(call);
    g_assert_cmpuint(call.req.moved, ==, 36);
    g_assert_cmphex(reply[0], ==, 0);
    g_assert_cmphex(reply[7], ==, 0x12);
    g_assert_cmpint(memcmp(reply + 8, "QEMU    QEMU HARDDISK   2.5+", 28), ==, 0);
    clear_attention(f, 0);
    assert_good(READ_(f, 1, 0, reply, 5, 0x12, 0, 0, 0, 5));
    g_assert_cmphex(reply[0], ==, 5);
    g_assert_cmphex(reply[1], ==, 0x80);
    call = READ_(f, 0, 0, reply, 255, 0x12, 1, 0, 0, 255);
    assert_good(call);
    g_assert_cmpuint(call.req.moved, ==, 10);
    g_assert_cmpint(memcmp(reply, "\0\0\0\6\x00\x80\x83\xb0\xb1\xb2", 10), ==, 0);
    assert_good(READ_(f, 0, 0, reply, 255, 0x12, 1, 0x80, 0, 255));
    g_assert_cmpint(memcmp(reply + 3, "\2S1", 3), ==, 0);
    assert_good(READ_(f, 0, 0, reply, 255, 0x12, 1, 0xb0, 0, 255));
    g_assert_cmpuint(ld16_be(reply + 2), ==, 60);
    g_assert_cmpuint(ld32_be(reply + 20), ==, 2097152);
    g_assert_cmpuint(ld32_be(reply + 28), ==, 8);
    assert_sense(READ_(f, 0, 0, reply, 255, 0x12, 1, 0x99, 0, 255), SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
    assert_sense(READ_(f, 1, 0, reply, 255, 0x12, 1, 0xb0, 0, 255), SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
}

static void test_targets(Fixture *f, gconstpointer data)
{
    uint8_t reply[64];
    Call call = READ_(f, 5, 0, NULL, 0, 0);
    g_assert_cmpint(call.req.end, ==, SCSI_NO_TARGET);
    /* A LUN that is not there. */
    assert_good(READ_(f, 0, 9, reply, 36, 0x12, 0, 0, 0, 36));
    g_assert_cmphex(reply[0], ==, 0x7f);
    assert_sense(READ_(f, 0, 9, NULL, 0, 0), SENSE_ILLEGAL, ASC_INVALID_LUN, 0);
    clear_attention(f, 0);
    unsigned before = f->events;
    ScsiDisk *more = add_unit(f, "scsi-hd", "hd2", f->cd_path, 0, 0, 300);
    g_assert_cmpuint(f->events, ==, before + 1);
    assert_sense(READ_(f, 0, 0, NULL, 0, 0), SENSE_ATTENTION, ASC_TARGET_CHANGED, 0x0e);
    assert_good(READ_(f, 0, 0, reply, 64, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64));
    g_assert_cmpuint(ld32_be(reply), ==, 16);
    g_assert_cmphex(ld16_be(reply + 8), ==, 0);
    g_assert_cmphex(ld16_be(reply + 16), ==, 0x4000 | 300);
    device_unplug(&more->scsi.dev);
    g_assert_cmpuint(f->events, ==, before + 2);
    assert_good(READ_(f, 0, 0, reply, 64, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64));
    g_assert_cmpuint(ld32_be(reply), ==, 8);
    /* REQUEST SENSE tells a pending attention, in either format, and takes it. */
    assert_good(READ_(f, 0, 0, reply, 18, 0x03, 1, 0, 0, 18));
    g_assert_cmpint(memcmp(reply, "\x72\x06\x3f\x0e", 4), ==, 0);
    assert_good(READ_(f, 0, 0, reply, 18, 0x03, 0, 0, 0, 18));
    g_assert_cmphex(reply[2], ==, 0);
}

static void test_read_write(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *buffer = g_malloc(64 * BLOCK);
    clear_attention(f, 0);
    Call call = READ_(f, 0, 0, buffer, 64 * BLOCK, 0x28, 0, 0, 0, 1, 0, 0, 0, 3, 0);
    assert_good(call);
    g_assert_cmpuint(call.req.moved, ==, 3 * BLOCK);
    for (unsigned i = 0; i < 3 * BLOCK; i++) {
        g_assert_cmphex(buffer[i], ==, test_pattern(256 * BLOCK + i));
    }
    memset(buffer, 0x5a, 64 * BLOCK);
    assert_good(WRITE_(f, 0, 0, buffer, 2 * BLOCK, 0x8a, 8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0));
    assert_good(READ_(f, 0, 0, buffer, BLOCK, 0x08, 0, 0, 8, 1, 0));
    g_assert_cmphex(buffer[0], ==, 0x5a);
    assert_good(READ_(f, 0, 0, buffer, BLOCK, 0xa8, 8, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0));
    g_assert_cmphex(buffer[1], ==, test_pattern(9 * BLOCK + 1));
    /* The last block, and behind it. */
    assert_good(READ_(f, 0, 0, buffer, BLOCK, 0x28, 0, 0, 0, 0x0f, 0xff, 0, 0, 1, 0));
    assert_sense(READ_(f, 0, 0, buffer, 2 * BLOCK, 0x28, 0, 0, 0, 0x0f, 0xff, 0, 0, 2, 0), SENSE_ILLEGAL, ASC_LBA_RANGE, 0);
    assert_sense(READ_(f, 0, 0, buffer, BLOCK, 0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 1, 0, 0), SENSE_ILLEGAL,
                 ASC_LBA_RANGE, 0);
    /* More than the host's buffers hold: nothing happens. */
    call = READ_(f, 0, 0, buffer, BLOCK, 0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0);
    g_assert_cmpint(call.req.end, ==, SCSI_OVERRUN);
    call = READ_(f, 0, 0, buffer, BLOCK, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0); /* the wrong direction */
    g_assert_cmpint(call.req.end, ==, SCSI_OVERRUN);
    assert_sense(READ_(f, 0, 0, NULL, 0, 0x5e, 0), SENSE_ILLEGAL, ASC_INVALID_OPCODE, 0);
    assert_sense(READ_(f, 0, 0, buffer, BLOCK, 0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0), SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
    /* READ CAPACITY (10) and (16) */
    assert_good(READ_(f, 0, 0, buffer, 8, 0x25));
    g_assert_cmpuint(ld32_be(buffer), ==, DISK_BLOCKS - 1);
    g_assert_cmpuint(ld32_be(buffer + 4), ==, BLOCK);
    call = READ_(f, 0, 0, buffer, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32);
    g_assert_cmpuint(ld64_be(buffer), ==, DISK_BLOCKS - 1);
    g_assert_cmphex(buffer[14], ==, 0x80);
}

static void test_verify(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *buffer = g_malloc(1200 * BLOCK);
    clear_attention(f, 0);
    for (size_t i = 0; i < 1200 * BLOCK; i++) {
        buffer[i] = test_pattern(16 * BLOCK + i);
    }
    /* 1200 blocks: more than the buffer of a step. */
    Call call = WRITE_(f, 0, 0, buffer, 1200 * BLOCK, 0x2f, 2, 0, 0, 0, 16, 0, 1200 >> 8, 1200 & 255, 0);
    assert_good(call);
    g_assert_cmpuint(call.req.moved, ==, 1200 * BLOCK);
    buffer[1199 * BLOCK]++;
    assert_sense(WRITE_(f, 0, 0, buffer, 1200 * BLOCK, 0x2f, 2, 0, 0, 0, 16, 0, 1200 >> 8, 1200 & 255, 0), SENSE_MISCOMPARE,
                 ASC_MISCOMPARE, 0);
    assert_good(WRITE_(f, 0, 0, buffer, 1200 * BLOCK, 0x2e, 2, 0, 0, 0, 16, 0, 1200 >> 8, 1200 & 255, 0));
    assert_good(WRITE_(f, 0, 0, buffer, 1200 * BLOCK, 0x2f, 2, 0, 0, 0, 16, 0, 1200 >> 8, 1200 & 255, 0));
    assert_good(READ_(f, 0, 0, NULL, 0, 0x2f, 0, 0, 0, 0, 16, 0, 0, 1, 0));
    assert_sense(READ_(f, 0, 0, NULL, 0, 0x2f, 4, 0, 0, 0, 16, 0, 0, 1, 0), SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
}

static void test_same_and_unmap(Fixture *f, gconstpointer data)
{
    uint8_t block[BLOCK], back[BLOCK];
    clear_attention(f, 0);
    memset(block, 0x77, BLOCK);
    assert_good(WRITE_(f, 0, 0, block, BLOCK, 0x41, 0, 0, 0, 0, 100, 0, 0x05, 0x00, 0)); /* 1280 blocks */
    assert_good(READ_(f, 0, 0, back, BLOCK, 0x28, 0, 0, 0, 1379 >> 8, 1379 & 255, 0, 0, 1, 0));
    g_assert_cmpint(memcmp(block, back, BLOCK), ==, 0);
    assert_good(READ_(f, 0, 0, back, BLOCK, 0x28, 0, 0, 0, 1380 >> 8, 1380 & 255, 0, 0, 1, 0));
    g_assert_cmphex(back[0], ==, test_pattern(1380 * BLOCK));
    assert_good(WRITE_(f, 0, 0, NULL, 0, 0x93, 0x09, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 4, 0, 0)); /* NDOB, UNMAP */
    assert_good(READ_(f, 0, 0, back, BLOCK, 0x28, 0, 0, 0, 0, 103, 0, 0, 1, 0));
    g_assert_cmphex(back[0], ==, 0);
    assert_sense(WRITE_(f, 0, 0, block, BLOCK, 0x41, 0, 0, 0, 0, 100, 0, 0, 0, 0), SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
    uint8_t list[8 + 32] = { 0, 38, 0, 32 };
    st64_be(list + 8, 10);
    st32_be(list + 16, 5);
    st64_be(list + 24, 200);
    st32_be(list + 32, 9);
    assert_good(WRITE_(f, 0, 0, list, sizeof(list), 0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0));
    st64_be(list + 24, DISK_BLOCKS - 1);
    assert_sense(WRITE_(f, 0, 0, list, sizeof(list), 0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0), SENSE_ILLEGAL, ASC_LBA_RANGE, 0);
    list[3] = 48;
    assert_sense(WRITE_(f, 0, 0, list, sizeof(list), 0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0), SENSE_ILLEGAL, ASC_LIST_LENGTH, 0);
}

static void test_mode(Fixture *f, gconstpointer data)
{
    uint8_t reply[256], list[32] = { 0 };
    clear_attention(f, 0);
    assert_good(READ_(f, 0, 0, reply, 255, 0x1a, 0, 0x3f, 0, 255));
    g_assert_cmpuint(reply[0] + 1u, ==, 4 + 8 + 12 + 24 + 24 + 20);
    g_assert_cmpuint(ld32_be(reply + 4), ==, DISK_BLOCKS);
    assert_good(READ_(f, 0, 0, reply, 255, 0x5a, 8, 0x08, 0, 0, 0, 0, 0, 255));
    g_assert_cmphex(reply[8], ==, 0x08);
    g_assert_cmphex(reply[10], ==, 0x04);
    memcpy(list + 4, reply + 8, 20);
    list[6] = 0;
    assert_good(WRITE_(f, 0, 0, list, 24, 0x15, 0x10, 0, 0, 24));
    g_assert_false(blk_write_cache(disk_blk(&f->disk->conf)));
    list[7] = 1;
    assert_sense(WRITE_(f, 0, 0, list, 24, 0x15, 0x10, 0, 0, 24), SENSE_ILLEGAL, ASC_INVALID_PARAMETER, 0);
    assert_sense(READ_(f, 0, 0, reply, 255, 0x1a, 0, 0x2f, 0, 255), SENSE_ILLEGAL, ASC_INVALID_FIELD, 0);
    assert_sense(READ_(f, 0, 0, reply, 255, 0x1a, 0, 0xc8, 0, 255), SENSE_ILLEGAL, ASC_SAVING_UNSUPPORTED, 0);
    scsi_reset_unit(&f->disk->scsi);
    g_assert_true(blk_write_cache(disk_blk(&f->disk->conf)));
}

static void test_cd(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *buffer = g_malloc(70 * CD_RAW_BLOCK);
    clear_attention(f, 1);
    assert_good(READ_(f, 1, 0, buffer, 8, 0x25));
    g_assert_cmpuint(ld32_be(buffer), ==, CD_BLOCKS - 1);
    assert_good(READ_(f, 1, 0, buffer, 2 * CD_BLOCK, 0x28, 0, 0, 0, 1, 0, 0, 0, 2, 0));
    g_assert_cmphex(buffer[5], ==, test_pattern(256 * CD_BLOCK + 5));
    /* READ CD with everything: 70 blocks take two rounds. */
    Call call = READ_(f, 1, 0, buffer, 70 * CD_RAW_BLOCK, 0xbe, 0, 0, 0, 0, 10, 0, 0, 70, 0xf8);
    assert_good(call);
    g_assert_cmpuint(call.req.moved, ==, 70 * CD_RAW_BLOCK);
    g_assert_cmphex(buffer[69 * CD_RAW_BLOCK + 16 + 7], ==, test_pattern(79 * CD_BLOCK + 7));
    g_assert_cmphex(buffer[69 * CD_RAW_BLOCK + 13], ==, 0x03); /* seconds of block 79 */
    assert_sense(WRITE_(f, 1, 0, buffer, CD_BLOCK, 0x2a, 0, 0, 0, 0, 0, 0, 0, 1), SENSE_DATA_PROTECT, ASC_WRITE_PROTECTED, 0);
    /* Prevent removal, try to eject, allow, eject; the monitor puts it back. */
    assert_good(READ_(f, 1, 0, NULL, 0, 0x1e, 0, 0, 0, 1));
    assert_sense(READ_(f, 1, 0, NULL, 0, 0x1b, 0, 0, 0, 2), SENSE_ILLEGAL, ASC_LOAD_EJECT_FAILED, 2);
    assert_good(READ_(f, 1, 0, NULL, 0, 0x1e, 0, 0, 0, 0));
    assert_good(READ_(f, 1, 0, NULL, 0, 0x1b, 0, 0, 0, 2));
    assert_sense(READ_(f, 1, 0, NULL, 0, 0), SENSE_NOT_READY, ASC_NO_MEDIUM, 2);
    blk_close_tray(disk_blk(&f->cd->conf));
    assert_sense(READ_(f, 1, 0, NULL, 0, 0), SENSE_ATTENTION, ASC_MEDIUM_CHANGED, 0);
    assert_good(READ_(f, 1, 0, NULL, 0, 0));
    assert_good(READ_(f, 1, 0, buffer, 8, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8));
    g_assert_cmphex(buffer[4], ==, MEDIA_EVENT_NEW);
}

static void test_cancel_and_reset(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *buffer = g_malloc(8 * BLOCK);
    const uint8_t cdb[10] = { 0x28, 0, 0, 0, 0, 0, 0, 0, 1 };
    Call call[8];

    clear_attention(f, 0);
    for (unsigned i = 0; i < 8; i++) {
        begin(f, &call[i], 0, 0, cdb, sizeof(cdb), buffer + i * BLOCK, BLOCK, false);
    }
    scsi_cancel(&call[3].req);
    wait_end(f, &call[3]);
    g_assert_cmpint(call[3].req.end, ==, SCSI_CANCELLED);
    scsi_reset_unit(&f->disk->scsi);
    for (unsigned i = 0; i < 8; i++) {
        wait_end(f, &call[i]);
    }
    g_assert_true(list_empty(&f->bus.requests));
    clear_attention(f, 0);
    /* A unit goes while its request is under way. */
    begin(f, &call[0], 0, 0, cdb, sizeof(cdb), buffer, BLOCK, false);
    device_unplug(&f->disk->scsi.dev);
    g_assert_true(call[0].ended);
    g_assert_cmpint(READ_(f, 0, 0, NULL, 0, 0).req.end, ==, SCSI_NO_TARGET);
}

static void test_places(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *id, *lun;
        bool good;
    } cases[] = {
        { "0", "0", false }, { "8", "0", false }, { "0", "16384", false }, { "0", "16383", true }, { "7", "0", true },
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        Device *dev = device_new(f->machine, device_type_find("scsi-cd"), NULL);
        device_set_str(dev, "scsi-id", cases[i].id);
        device_set_str(dev, "lun", cases[i].lun);
        Error *err = device_plug(dev, &f->bus.bus);
        g_assert_cmpint(err == NULL, ==, cases[i].good);
        error_free(err);
    }
    /* The next target, and the next unit of a target. */
    Device *dev = device_new(f->machine, device_type_find("scsi-cd"), NULL);
    error_never(device_plug(dev, &f->bus.bus));
    g_assert_cmpuint(container_of(dev, ScsiDevice, dev)->id, ==, 2);
    dev = device_new(f->machine, device_type_find("scsi-cd"), NULL);
    device_set_str(dev, "scsi-id", "2");
    error_never(device_plug(dev, &f->bus.bus));
    g_assert_cmpuint(container_of(dev, ScsiDevice, dev)->lun, ==, 1);
}

static void test_state(Fixture *f, gconstpointer data)
{
    g_autoptr(GByteArray) saved = g_byte_array_new(), again = g_byte_array_new();
    blk_set_write_cache(disk_blk(&f->disk->conf), false);
    device_save(&f->disk->scsi.dev, saved);
    device_reset(&f->disk->scsi.dev);
    error_never(device_load(&f->disk->scsi.dev, saved->data, saved->len));
    g_assert_false(blk_write_cache(disk_blk(&f->disk->conf)));
    device_save(&f->disk->scsi.dev, again);
    g_assert_cmpmem(saved->data, saved->len, again->data, again->len);
}

/* Any CDB with any data: every request ends, nothing crashes. */
static void test_noise(Fixture *f, gconstpointer data)
{
    static const uint8_t known[] = { 0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x25, 0x28, 0x2a, 0x2e, 0x2f, 0x35, 0x41, 0x42,
                                     0x43, 0x46, 0x4a, 0x51, 0x52, 0x55, 0x5a, 0x88, 0x8a, 0x93, 0x9e, 0xa0, 0xa8, 0xad, 0xb9, 0xbe };
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    g_autofree uint8_t *buffer = g_malloc0(256 * 1024);

    unsigned ends[4] = { 0 }, checks = 0;

    for (unsigned round = 0; round < 20000; round++) {
        uint8_t cdb[SCSI_CDB_MAX] = { 0 };
        uint32_t mask = g_rand_int(rand);
        for (unsigned i = 1; i < sizeof(cdb); i++) {
            cdb[i] = mask >> i & 1 ? (uint8_t)g_rand_int(rand) : 0;
        }
        cdb[0] = round % 4 ? known[g_rand_int_range(rand, 0, ARRAY_SIZE(known))] : (uint8_t)g_rand_int(rand);
        if (round % 3) { /* reachable blocks */
            memset(cdb + 2, 0, 2);
            cdb[4] &= 15;
        }
        for (unsigned i = 0; i < 64; i++) {
            buffer[i] = (uint8_t)g_rand_int_range(rand, 0, round % 2 ? 64 : 256);
        }
        Call call = run(f, (uint32_t)g_rand_int_range(rand, 0, 2), round % 50 == 0, cdb, sizeof(cdb), buffer,
                        (size_t)g_rand_int_range(rand, 0, round % 2 ? 256 * 1024 : 4096), g_rand_boolean(rand));
        ends[call.req.end]++;
        checks += call.req.status == SCSI_CHECK_CONDITION;
        g_assert_cmpuint(call.req.moved, <=, 256 * 1024);
    }
    g_assert_true(list_empty(&f->bus.requests));
    g_test_message("%u ended, %u of them with sense data, %u overran", ends[SCSI_ENDED], checks, ends[SCSI_OVERRUN]);
    g_assert_cmpuint(ends[SCSI_ENDED] - checks, >, 2000);
}

#define ADD(path, fn) g_test_add("/scsi/" path, Fixture, NULL, setup, fn, teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("identity", test_identity);
    ADD("targets", test_targets);
    ADD("read-write", test_read_write);
    ADD("verify", test_verify);
    ADD("same-and-unmap", test_same_and_unmap);
    ADD("mode", test_mode);
    ADD("cd", test_cd);
    ADD("cancel-and-reset", test_cancel_and_reset);
    ADD("places", test_places);
    ADD("state", test_state);
    ADD("noise", test_noise);
    return g_test_run();
}
