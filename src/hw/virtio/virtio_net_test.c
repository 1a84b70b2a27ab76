#include "hw/virtio/test_driver.h"
#include "net/net.h"

/* The card's link ends in a port of the test's. */
typedef struct Fixture {
    Driver d;
    NetPort wire;
    unsigned drained;
} Fixture;

enum { RX = 0, F_MRG_RXBUF = 15, HEADER = 12, SMALL = 512 };

static bool wire_receive(NetPort *port, const uint8_t *frame, size_t length)
{
    return true;
}

static void wire_drained(NetPort *port)
{
    ++*(unsigned *)port->opaque;
}
static const NetPortOps wire_ops = { .kind = "test", .receive = wire_receive, .drained = wire_drained };

static void configure(Driver *d, Device *dev)
{
    Fixture *f = container_of(d, Fixture, d);
    net_port_init(&f->wire, d->pc.machine, "wire", &wire_ops, &f->drained);
    device_set_str(dev, "netdev", "wire");
    device_set_str(dev, "romfile", "");
    device_set_str(dev, "packed", "on");
}

static void setup(Fixture *f, gconstpointer unused)
{
    driver_setup(&f->d, "virtio-net-pci", configure);
}

static void teardown(Fixture *f, gconstpointer unused)
{
    device_unplug(&f->d.vdev->dev);
    net_port_fini(&f->wire);
    net_finish(f->d.pc.machine);
    driver_teardown(&f->d);
}

static void fill(uint8_t *frame, size_t length, uint8_t seed)
{
    for (size_t i = 0; i < length; i++) {
        frame[i] = (uint8_t)(seed + i * 3);
    }
    memset(frame, 0xff, 6); /* to everybody */
}

static void add_buffers(Fixture *f, unsigned first, unsigned count)
{
    for (unsigned i = first; i < first + count; i++) {
        driver_desc(&f->d, RX, i, DRIVER_DATA + i * SMALL, SMALL, WRITE, 0);
        driver_offer(&f->d, RX, (uint16_t)i);
    }
}

static void check_frame(Fixture *f, unsigned first, unsigned buffers, const uint8_t *frame, size_t length)
{
    const uint8_t *at = f->d.mem + DRIVER_DATA + first * SMALL;
    g_assert_cmpuint(ld16_le(at + 10), ==, buffers);
    g_assert_cmpint(memcmp(at + HEADER, frame, length), ==, 0);
}

/* A frame that needs several buffers comes when there are enough of them. */
static void test_merged(Fixture *f, gconstpointer unused)
{
    uint8_t frame[1400];

    driver_start(&f->d, BIT64(F_MRG_RXBUF));
    fill(frame, sizeof(frame), 1);
    add_buffers(f, 0, 2);
    net_send(&f->wire, frame, sizeof(frame));
    g_assert_cmpuint(driver_used(&f->d, RX), ==, 0);
    g_assert_true(net_congested(&f->wire));
    add_buffers(f, 2, 2);
    virtio_queue_notified(f->d.vdev, RX);
    g_assert_cmpuint(driver_used(&f->d, RX), ==, 3);
    g_assert_cmpuint(f->drained, ==, 1);
    check_frame(f, 0, 3, frame, sizeof(frame));
    const uint8_t *used = driver_ring(&f->d, RX, 2) + 4;
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpuint(ld32_le(used + 8 * i), ==, i);
        g_assert_cmpuint(ld32_le(used + 8 * i + 4), ==, i < 2 ? SMALL : sizeof(frame) + HEADER - 2 * SMALL);
    }
    fill(frame, 100, 2);
    net_send(&f->wire, frame, 100);
    g_assert_cmpuint(driver_used(&f->d, RX), ==, 4);
    check_frame(f, 3, 1, frame, 100);
}

/* With indices of events a driver tells of buffers only from where the device asked it to. */
static void test_event_index(Fixture *f, gconstpointer unused)
{
    uint8_t frame[1400];
    const uint8_t *asked = driver_ring(&f->d, RX, 2) + 4 + 8 * DRIVER_ENTRIES;

    driver_start(&f->d, BIT64(F_MRG_RXBUF) | BIT64(VIRTIO_F_EVENT_IDX));
    fill(frame, sizeof(frame), 1);
    add_buffers(f, 0, 2);
    net_send(&f->wire, frame, sizeof(frame));
    g_assert_cmpuint(driver_used(&f->d, RX), ==, 0);
    g_assert_cmpuint(ld16_le(asked), ==, 2); /* the next one that is added, not one that is there */
}

enum { PACKED_AVAIL = BIT(7), PACKED_USED = BIT(15) };

/* Buffers of a packed ring over its end: the driver sees the first one as used last of all. */
static void test_packed(Fixture *f, gconstpointer unused)
{
    uint8_t frame[1400], *ring = driver_ring(&f->d, RX, 0);

    driver_start(&f->d, BIT64(F_MRG_RXBUF) | BIT64(VIRTIO_F_RING_PACKED));
    for (unsigned i = 0; i < DRIVER_ENTRIES; i++) {
        driver_desc(&f->d, RX, i, DRIVER_DATA + i * SMALL, SMALL, 0, 0);
        st16_le(ring + 16 * i + 12, (uint16_t)i);
        st16_le(ring + 16 * i + 14, WRITE | PACKED_AVAIL);
    }
    for (unsigned n = 0; n < 62; n++) {
        fill(frame, 60, (uint8_t)n);
        net_send(&f->wire, frame, 60);
        check_frame(f, n, 1, frame, 60);
    }
    st32_le(ring + 8, SMALL); /* once more, on the second way round */
    st16_le(ring + 14, WRITE | PACKED_USED);
    fill(frame, sizeof(frame), 9);
    net_send(&f->wire, frame, sizeof(frame));
    g_assert_cmpuint(ld16_le(f->d.mem + DRIVER_DATA + 62 * SMALL + 10), ==, 3);
    for (unsigned i = 62; i < 65; i++) {
        const uint8_t *d = ring + 16 * (i % DRIVER_ENTRIES);
        g_assert_cmphex(ld16_le(d + 14), ==, WRITE | (i < 64 ? PACKED_AVAIL | PACKED_USED : 0));
        g_assert_cmpuint(ld16_le(d + 12), ==, i % DRIVER_ENTRIES);
        g_assert_cmpuint(ld32_le(d + 8), ==, i < 64 ? SMALL : sizeof(frame) + HEADER - 2 * SMALL);
    }
}

#define ADD(path, fn) g_test_add("/virtio-net/" path, Fixture, NULL, setup, fn, teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("merged", test_merged);
    ADD("event-index", test_event_index);
    ADD("packed", test_packed);
    return g_test_run();
}
