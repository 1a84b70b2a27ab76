#include "bus/scsi.h"
#include "hw/block/disk_conf.h"
#include "hw/virtio/test_driver.h"

typedef Driver Fixture;

enum { CONTROL = 0, EVENTS = 1, REQUESTS = 2, HEADER = 51, RESPONSE = 108, DATA = DRIVER_DATA };

static void add_disk(Fixture *f, const char *id)
{
    g_autoptr(KeyValues) options = keyvalues_new();
    BlockNode *node;
    keyvalues_set(options, "driver", "null-co");
    keyvalues_set(options, "node-name", id);
    keyvalues_set(options, "size", "1M");
    keyvalues_set(options, "read-zeroes", "on");
    lock_release(&f->pc.machine->lock);
    error_never(block_open_options(f->pc.graph, options, &node));
    lock_acquire(&f->pc.machine->lock);
    Device *dev = device_new(f->pc.machine, device_type_find("scsi-hd"), id);
    device_set_str(dev, "drive", id);
    error_never(device_plug(dev, NULL));
}

static void start_driver(Fixture *f)
{
    driver_start(f, BIT64(VIRTIO_F_INDIRECT_DESC) | 6);
}

static void setup(Fixture *f, gconstpointer unused)
{
    driver_setup(f, "virtio-scsi-pci", NULL);
    add_disk(f, "d0");
    start_driver(f);
}

static void teardown(Fixture *f, gconstpointer unused)
{
    driver_teardown(f);
}

/* Header at DATA, response behind it, data at DATA + 0x1000. Returns the response. */
static const uint8_t *request(Fixture *f, const uint8_t *lun, const uint8_t *cdb, unsigned length, uint32_t bytes, bool write)
{
    uint8_t *header = f->mem + DATA;
    uint16_t count = driver_used(f, REQUESTS) + 1;
    memset(header, 0, 0x400);
    memcpy(header, lun, 8);
    memcpy(header + 19, cdb, length);
    driver_desc(f, REQUESTS, 0, DATA, HEADER, NEXT, write ? 2 : 1);
    driver_desc(f, REQUESTS, 2, DATA + 0x1000, bytes, NEXT | (write ? 0 : WRITE), 1);
    driver_desc(f, REQUESTS, 1, DATA + 0x200, RESPONSE, WRITE | (bytes && !write ? NEXT : 0), 2);
    if (!write) {
        driver_desc(f, REQUESTS, 2, DATA + 0x1000, bytes, WRITE, 0);
    }
    driver_offer(f, REQUESTS, 0);
    virtio_queue_notified(f->vdev, REQUESTS);
    driver_wait_used(f, REQUESTS, count);
    return header + 0x200;
}

static const uint8_t lun0[8] = { 1, 0, 0x40 }, nobody[8] = { 1, 77 };

static void clear_attention(Fixture *f)
{
    static const uint8_t ready[6] = { 0 };
    const uint8_t *response = request(f, lun0, ready, 6, 0, false);
    g_assert_cmphex(response[10], ==, SCSI_CHECK_CONDITION);
    g_assert_cmphex(response[12 + 12], ==, ASC_RESET);
}

static void test_requests(Fixture *f, gconstpointer unused)
{
    static const uint8_t inquiry[6] = { 0x12, 0, 0, 0, 96 }, write[10] = { 0x2a, [8] = 1 }, huge[10] = { 0x28, [7] = 2 };
    clear_attention(f);
    const uint8_t *response = request(f, lun0, inquiry, 6, 96, false);
    g_assert_cmphex(response[10], ==, SCSI_GOOD);
    g_assert_cmphex(response[11], ==, 0);
    g_assert_cmpuint(ld32_le(response + 4), ==, 60); /* residual */
    g_assert_cmpint(memcmp(f->mem + DATA + 0x1000 + 8, "QEMU", 4), ==, 0);
    response = request(f, lun0, write, 10, 512, true);
    g_assert_cmphex(response[10], ==, SCSI_GOOD);
    g_assert_cmpuint(ld32_le(response + 4), ==, 0);
    g_assert_cmpuint(request(f, lun0, huge, 10, 512, false)[11], ==, 1); /* overrun */
    g_assert_cmpuint(request(f, nobody, inquiry, 6, 96, false)[11], ==, 3); /* bad target */
}

static uint8_t manage(Fixture *f, uint32_t function, const uint8_t *lun)
{
    uint16_t count = driver_used(f, CONTROL) + 1;
    uint8_t *at = f->mem + DATA + 0x800;
    memset(at, 0, 24);
    st32_le(at + 4, function);
    memcpy(at + 8, lun, 8);
    driver_desc(f, CONTROL, 0, DATA + 0x800, 24, NEXT, 1);
    driver_desc(f, CONTROL, 1, DATA + 0x900, 1, WRITE, 0);
    driver_offer(f, CONTROL, 0);
    virtio_queue_notified(f->vdev, CONTROL);
    driver_wait_used(f, CONTROL, count);
    return f->mem[DATA + 0x900];
}

static void test_management(Fixture *f, gconstpointer unused)
{
    static const uint8_t other[8] = { 1, 0, 0x40, 9 };
    clear_attention(f);
    g_assert_cmpuint(manage(f, 1, lun0), ==, 0);    /* ABORT TASK SET */
    g_assert_cmpuint(manage(f, 5, nobody), ==, 3);  /* bad target */
    g_assert_cmpuint(manage(f, 5, other), ==, 12);  /* incorrect LUN */
    g_assert_cmpuint(manage(f, 2, lun0), ==, 11);   /* CLEAR ACA: rejected */
    g_assert_cmpuint(manage(f, 5, lun0), ==, 0);    /* LOGICAL UNIT RESET */
    clear_attention(f);
}

static void test_events(Fixture *f, gconstpointer unused)
{
    const uint8_t *event = f->mem + DATA + 0x400;
    driver_desc(f, EVENTS, 0, DATA + 0x400, 16, WRITE, 0);
    driver_offer(f, EVENTS, 0);
    add_disk(f, "d1");
    driver_wait_used(f, EVENTS, 1);
    g_assert_cmphex(ld32_le(event), ==, 1);
    g_assert_cmphex(event[5], ==, 1); /* target */
    g_assert_cmphex(ld32_le(event + 12), ==, 1);
    /* No buffer: the next one tells that something was missed. */
    device_unplug(device_find(f->pc.machine, "d1"));
    driver_offer(f, EVENTS, 0);
    virtio_queue_notified(f->vdev, EVENTS);
    driver_wait_used(f, EVENTS, 2);
    g_assert_cmphex(ld32_le(event), ==, 0x80000000u);
}

/* --- a hostile driver: rings of random content, some of it nearly right --- */

static void random_descriptors(Fixture *f, GRand *rand, unsigned queue)
{
    for (unsigned i = 0; i < DRIVER_ENTRIES; i++) {
        bool sane = g_rand_int_range(rand, 0, 8) != 0;
        uint64_t addr = sane ? DATA + (uint64_t)g_rand_int_range(rand, 0, 0x10000) : (uint64_t)g_rand_int(rand) << (g_rand_int(rand) % 32);
        uint32_t length = sane ? (uint32_t)g_rand_int_range(rand, 0, 2048) : g_rand_int(rand);
        uint16_t flags = (uint16_t)(g_rand_int(rand) & (sane ? NEXT | WRITE : 7));
        driver_desc(f, queue, i, addr, length, flags, (uint16_t)(g_rand_int(rand) % (sane ? DRIVER_ENTRIES : 65536)));
    }
}

static void test_hostile(Fixture *f, gconstpointer unused)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(11);
    unsigned broken = 0;

    for (unsigned round = 0; round < 20000; round++) {
        unsigned queue = g_rand_int(rand) % 3;
        if (round % 4 == 0) {
            random_descriptors(f, rand, queue);
        } else if (queue == REQUESTS) { /* a chain that begins well */
            driver_desc(f, queue, 5, DATA, HEADER, NEXT, 6);
            driver_desc(f, queue, 6, DATA + 0x200, RESPONSE + g_rand_int(rand) % 4096, WRITE, 0);
        }
        for (unsigned i = 0; i < 64; i++) {
            f->mem[DATA + i] = (uint8_t)g_rand_int(rand);
        }
        f->mem[DATA] = round % 3 ? 1 : f->mem[DATA];
        f->mem[DATA + 1] = 0;
        st16_le(f->mem + DATA + 2, (uint16_t)(g_rand_int(rand) & 0x4000));
        driver_offer(f, queue, (uint16_t)(round % 2 ? 5 : g_rand_int(rand) % (round % 100 ? DRIVER_ENTRIES : 65536)));
        virtio_queue_notified(f->vdev, queue);
        if (round % 16 == 0) {
            driver_turn(f);
        }
        if (f->vdev->broken || round % 500 == 499) {
            broken += f->vdev->broken;
            start_driver(f);
        }
    }
    g_test_message("%u times the adapter had to be reset", broken);
    g_assert_cmpuint(broken, >, 100);
    start_driver(f);
    clear_attention(f);
}

#define ADD(path, fn) g_test_add("/virtio-scsi/" path, Fixture, NULL, setup, fn, teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("requests", test_requests);
    ADD("management", test_management);
    ADD("events", test_events);
    ADD("hostile", test_hostile);
    return g_test_run();
}
