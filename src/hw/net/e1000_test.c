#include "hw/net/e1000.h"

#include <string.h>

#include "base/endian.h"
#include "hw/test_util.h"
#include "net/net.h"

/* A card whose link ends in a port of the test's, which is its driver by DMA and registers. */
typedef struct Fixture {
    PciFixture pc;
    Device *dev;
    uint8_t *mem;
    NetPort wire;
    unsigned frames;
    uint8_t last[2048];
    size_t last_length;
} Fixture;

enum { RAM_SIZE = 1 << 20, MMIO = 0xf0000000, RING = 0x10000, ENTRIES = 8, PACKET = 0x20000 };

static bool wire_receive(NetPort *port, const uint8_t *frame, size_t length)
{
    Fixture *f = port->opaque;
    g_assert_cmpuint(length, <=, sizeof(f->last));
    memcpy(f->last, frame, length);
    f->last_length = length;
    f->frames++;
    return true;
}
static const NetPortOps wire_ops = { .kind = "test", .receive = wire_receive };

static void set(Fixture *f, uint32_t addr, uint32_t value)
{
    (void)mem_store(f->pc.machine->as, MMIO + addr, 4, value);
}

static uint32_t get(Fixture *f, uint32_t addr)
{
    uint64_t value = 0;
    (void)mem_load(f->pc.machine->as, MMIO + addr, 4, &value);
    return (uint32_t)value;
}

static void turn(Fixture *f)
{
    lock_release(&f->pc.machine->lock);
    loop_run_once(f->pc.machine->loop, NS_PER_MS);
    lock_acquire(&f->pc.machine->lock);
}

static void setup(Fixture *f, gconstpointer unused)
{
    uint64_t length = RAM_SIZE;

    pci_fixture_setup(&f->pc, RAM_SIZE);
    net_port_init(&f->wire, f->pc.machine, "wire", &wire_ops, f);
    f->dev = device_new(f->pc.machine, device_type_find("e1000"), "card");
    device_set_str(f->dev, "netdev", "wire");
    device_set_str(f->dev, "romfile", "");
    error_never(device_plug(f->dev, &f->pc.pci->bus));
    device_reset(f->dev);
    const PciDevice *pci = container_of(f->dev, PciDevice, dev);
    (void)mem_store(f->pc.machine->io_as, 0xcf8, 4, 0x80000000 | pci->devfn << 8 | 0x10);
    (void)mem_store(f->pc.machine->io_as, 0xcfc, 4, MMIO);
    pci_fixture_bus_master(&f->pc, pci);
    f->mem = mem_map(f->pc.machine->as, 0, &length, true);
    machine_start(f->pc.machine);
    set(f, E1000_TDBAL, RING);
    set(f, E1000_TDLEN, ENTRIES * 16);
    set(f, E1000_TCTL, TCTL_EN);
}

static void teardown(Fixture *f, gconstpointer unused)
{
    device_unplug(f->dev);
    net_port_fini(&f->wire);
    net_finish(f->pc.machine);
    pci_fixture_teardown(&f->pc);
}

static void describe(Fixture *f, unsigned i, uint64_t addr, uint32_t word2, uint32_t word3)
{
    uint8_t *at = f->mem + RING + 16 * i;
    st64_le(at, addr);
    st32_le(at + 8, word2);
    st32_le(at + 12, word3);
}

/* A TCP checksum from byte 14 on, put at byte 50. */
static void describe_context(Fixture *f, unsigned i)
{
    describe(f, i, (uint64_t)14 << 32 | (uint64_t)50 << 40, TXD_DEXT | TXC_TCP, 0);
}

static uint16_t sum_of(const uint8_t *data, size_t length)
{
    uint32_t sum = 0;
    for (size_t i = 0; i + 1 < length; i += 2) {
        sum += ld16_be(data + i);
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (uint16_t)sum;
}

static void save_and_load(Fixture *f)
{
    g_autoptr(GByteArray) state = g_byte_array_new();
    device_save(f->dev, state);
    device_reset(f->dev);
    error_never(device_load(f->dev, state->data, state->len));
}

/* What the card keeps of a packet and of its context stays through save and load. */
static void test_saved_packet(Fixture *f, gconstpointer unused)
{
    for (unsigned i = 0; i < 200; i++) {
        f->mem[PACKET + i] = (uint8_t)(i * 5);
    }
    st16_be(f->mem + PACKET + 50, 0);
    describe_context(f, 0);
    describe(f, 1, PACKET, TXD_DEXT | BIT(20) | 80, TXD_POPT_TXSM);
    set(f, E1000_TDT, 2);
    turn(f);
    g_assert_cmpuint(get(f, E1000_TDH), ==, 2);
    g_assert_cmpuint(f->frames, ==, 0);
    save_and_load(f);
    describe(f, 2, PACKET + 80, TXD_DEXT | BIT(20) | TXD_EOP | 120, 0);
    set(f, E1000_TDT, 3);
    turn(f);
    g_assert_cmpuint(f->frames, ==, 1);
    g_assert_cmpuint(f->last_length, ==, 200);
    g_assert_cmpint(memcmp(f->last, f->mem + PACKET, 50), ==, 0);
    g_assert_cmpint(memcmp(f->last + 52, f->mem + PACKET + 52, 148), ==, 0);
    g_assert_cmphex(sum_of(f->last + 14, 186), ==, 0xffff);
}

/* A state that claims more bytes than a packet has is refused. */
static void test_long_packet(Fixture *f, gconstpointer unused)
{
    g_autoptr(GByteArray) state = g_byte_array_new();
    static const uint8_t row[] = "\10gathered";

    describe(f, 0, PACKET, 64, 0);
    set(f, E1000_TDT, 1);
    turn(f);
    device_save(f->dev, state);
    uint8_t *at = memmem(state->data, state->len, row, 9);
    g_assert_nonnull(at);
    at += 9 + 9;
    g_assert_cmpuint(ld32_le(at), ==, 64);
    st32_le(at, 1 << 20);
    Error *err = device_load(f->dev, state->data, state->len);
    g_assert_nonnull(err);
    g_assert_nonnull(strstr(error_message(err), "1048576 bytes, more than"));
    error_free(err);
}

/* A machine that stands still sends nothing: its memory may be on its way elsewhere. */
static void test_stopped(Fixture *f, gconstpointer unused)
{
    describe(f, 0, PACKET, TXD_EOP | TXD_RS | 64, 0);
    set(f, E1000_TDT, 1);
    machine_stop(f->pc.machine, RUN_STATE_PAUSED);
    turn(f);
    g_assert_cmpuint(f->frames, ==, 0);
    g_assert_cmphex(f->mem[RING + 12], ==, 0);
    machine_start(f->pc.machine);
    turn(f);
    g_assert_cmpuint(f->frames, ==, 1);
    g_assert_cmphex(f->mem[RING + 12] & 1, ==, 1);
}

/* Counters of 64 bits carry, and are cleared with their upper half. */
static void test_octets(Fixture *f, gconstpointer unused)
{
    describe(f, 0, PACKET, TXD_EOP | 1000, 0);
    for (unsigned i = 1; i < ENTRIES; i++) {
        memcpy(f->mem + RING + 16 * i, f->mem + RING, 16);
    }
    set(f, E1000_TDT, 5);
    turn(f);
    g_assert_cmpuint(get(f, E1000_GPTC), ==, 5);
    g_assert_cmpuint(get(f, E1000_GPTC), ==, 0);
    g_assert_cmpuint(get(f, E1000_GOTCL), ==, 5000);
    g_assert_cmpuint(get(f, E1000_GOTCL), ==, 5000);
    g_assert_cmpuint(get(f, E1000_GOTCH), ==, 0);
    g_assert_cmpuint(get(f, E1000_GOTCL), ==, 0);
}

static void test_short_segments(Fixture *f, gconstpointer unused)
{
    describe(f, 0, (uint64_t)14 << 32 | (uint64_t)50 << 40, TXD_DEXT | TXC_TCP | TXC_IP, 1u << 16 | 54 << 8);
    describe(f, 1, PACKET, TXD_DEXT | BIT(20) | TXD_TSE | TXD_EOP | 4000, TXD_POPT_TXSM);
    describe(f, 2, PACKET, TXD_EOP | 100, 0);
    set(f, E1000_TDT, 3);
    for (unsigned i = 0; get(f, E1000_TDH) != 3; i++) {
        g_assert_cmpuint(i, <, 1000);
        turn(f);
    }
    g_assert_cmpuint(f->frames, ==, 4000 - 54 + 1);
    g_assert_cmpuint(f->last_length, ==, 100);
}

#define ADD(path, fn) g_test_add("/e1000/" path, Fixture, NULL, setup, fn, teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("saved-packet", test_saved_packet);
    ADD("long-packet", test_long_packet);
    ADD("stopped", test_stopped);
    ADD("octets", test_octets);
    ADD("short-segments", test_short_segments);
    return g_test_run();
}
