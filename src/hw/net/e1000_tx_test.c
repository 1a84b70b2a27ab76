#include "hw/net/e1000_tx.h"

#include <string.h>

#include "base/endian.h"

typedef struct Sent {
    unsigned count;
    uint8_t frame[8][2048];
    size_t length[8];
} Sent;

static void record(void *opaque, const uint8_t *frame, size_t length)
{
    Sent *sent = opaque;
    g_assert_cmpuint(sent->count, <, 8);
    memcpy(sent->frame[sent->count], frame, length);
    sent->length[sent->count++] = length;
}

/* Sum of all words of a range, folded: ffff when its checksum is right. */
static uint16_t sum(const uint8_t *p, size_t length, uint32_t start)
{
    uint32_t s = start;
    for (size_t i = 0; i < length; i++) {
        s += i & 1 ? p[i] : (uint32_t)p[i] << 8;
    }
    while (s >> 16) {
        s = (s & 0xffff) + (s >> 16);
    }
    return (uint16_t)s;
}

static void make_tcp(E1000Packet *packet, unsigned payload)
{
    uint8_t *f = packet->data;
    memset(packet, 0, sizeof(*packet));
    st16_be(f + 12, 0x0800);
    f[14] = 0x45;
    f[22] = 64;
    f[23] = 6;
    st16_be(f + 18, 100); /* identification */
    st32_be(f + 26, 0x0a00020f);
    st32_be(f + 30, 0x0a000202);
    st32_be(f + 38, 1000); /* sequence */
    f[46] = 0x50;
    f[47] = 0x19; /* ACK PSH FIN */
    for (unsigned i = 0; i < payload; i++) {
        f[54 + i] = (uint8_t)(i * 7);
    }
    packet->length = 54 + payload;
    packet->context = (E1000Context) { .ipcss = 14, .ipcso = 24, .ipcse = 33, .tucss = 34, .tucso = 50, .hdrlen = 54, .mss = 1000, .ip4 = true,
                                       .tcp = true };
    /* Pseudo header without the length. */
    st16_be(f + 50, sum(f + 26, 8, 6));
}

static void test_segments(void)
{
    g_autofree E1000Packet *packet = g_new(E1000Packet, 1);
    g_autofree Sent *sent = g_new0(Sent, 1);
    make_tcp(packet, 2500);
    packet->segment = packet->insert_ip = packet->insert_tu = true;
    e1000_packet_send(packet, record, sent);
    g_assert_cmpuint(sent->count, ==, 3);
    for (unsigned i = 0; i < 3; i++) {
        const uint8_t *f = sent->frame[i];
        size_t payload = i < 2 ? 1000 : 500;
        g_assert_cmpuint(sent->length[i], ==, 54 + payload);
        g_assert_cmpuint(ld16_be(f + 16), ==, 40 + payload);
        g_assert_cmpuint(ld16_be(f + 18), ==, 100 + i);
        g_assert_cmpuint(ld32_be(f + 38), ==, 1000 + 1000 * i);
        g_assert_cmphex(f[47], ==, i < 2 ? 0x10 : 0x19);
        g_assert_cmphex(sum(f + 14, 20, 0), ==, 0xffff);
        g_assert_cmphex(sum(f + 34, 20 + payload, sum(f + 26, 8, (uint32_t)(6 + 20 + payload))), ==, 0xffff);
    }
}

static void test_vlan_and_bounds(void)
{
    g_autofree E1000Packet *packet = g_new(E1000Packet, 1);
    g_autofree Sent *sent = g_new0(Sent, 1);
    make_tcp(packet, 10);
    packet->vlan = true;
    packet->vlan_tag = 0x2005;
    packet->insert_tu = true;
    packet->context.tucso = 200; /* behind the end: nothing is written */
    e1000_packet_send(packet, record, sent);
    g_assert_cmpuint(sent->count, ==, 1);
    g_assert_cmpuint(sent->length[0], ==, 68);
    g_assert_cmphex(ld32_be(sent->frame[0] + 12), ==, 0x81002005);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/hw/net/e1000/segments", test_segments);
    g_test_add_func("/hw/net/e1000/vlan-and-bounds", test_vlan_and_bounds);
    return g_test_run();
}
