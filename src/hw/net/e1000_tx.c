#include "hw/net/e1000_tx.h"

#include <string.h>

#include "base/endian.h"

enum { TCP_FIN = 1, TCP_PSH = 8, VLAN_TPID = 0x8100, FRAME_MAX = 16384 };

static uint32_t add_words(uint32_t sum, const uint8_t *data, size_t length)
{
    for (size_t i = 0; i + 1 < length; i += 2) {
        sum += ld16_be(data + i);
    }
    return length & 1 ? sum + (uint32_t)(data[length - 1] << 8) : sum;
}

static uint16_t fold(uint32_t sum)
{
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (uint16_t)sum;
}

void e1000_insert_checksum(uint8_t *frame, size_t length, size_t start, size_t end, size_t at)
{
    size_t stop = end ? MIN(end + 1, length) : length;
    if (at + 2 > length || start >= stop) {
        return;
    }
    st16_be(frame + at, (uint16_t)~fold(add_words(0, frame + start, stop - start)));
}

/* Puts the tag behind the two addresses. */
static void send_frame(const E1000Packet *packet, uint8_t *frame, size_t length,
                       void (*send)(void *opaque, const uint8_t *frame, size_t length), void *opaque)
{
    if (!packet->vlan || length < 14) {
        send(opaque, frame, length);
        return;
    }
    g_autofree uint8_t *tagged = g_malloc(length + 4);
    memcpy(tagged, frame, 12);
    st16_be(tagged + 12, VLAN_TPID);
    st16_be(tagged + 14, packet->vlan_tag);
    memcpy(tagged + 16, frame + 12, length - 12);
    send(opaque, tagged, length + 4);
}

/* Adapts the headers of one segment: lengths, IPv4 identification, TCP sequence and flags. */
static void fix_headers(const E1000Context *c, uint8_t *frame, size_t length, unsigned number, uint32_t done, bool last)
{
    uint16_t tu_length = (uint16_t)(length - c->tucss);

    if (c->ip4 && c->ipcss + 6u <= length) {
        st16_be(frame + c->ipcss + 2, (uint16_t)(length - c->ipcss));
        st16_be(frame + c->ipcss + 4, (uint16_t)(ld16_be(frame + c->ipcss + 4) + number));
    } else if (c->ipcss + 6u <= length) {
        st16_be(frame + c->ipcss + 4, tu_length);
    }
    if (c->tcp && c->tucss + 14u <= length) {
        st32_be(frame + c->tucss + 4, ld32_be(frame + c->tucss + 4) + done);
        if (!last) {
            frame[c->tucss + 13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
        }
    } else if (!c->tcp && c->tucss + 6u <= length) {
        st16_be(frame + c->tucss + 4, tu_length);
    }
    /* The driver left the pseudo header's sum without the length in the checksum field. */
    if (c->tucso + 2u <= length) {
        st16_be(frame + c->tucso, fold((uint32_t)ld16_be(frame + c->tucso) + tu_length));
    }
}

static void insert_checksums(const E1000Packet *packet, uint8_t *frame, size_t length)
{
    const E1000Context *c = &packet->context;
    if (packet->insert_tu) {
        e1000_insert_checksum(frame, length, c->tucss, c->tucse, c->tucso);
    }
    if (packet->insert_ip) {
        if (c->ipcso + 2u <= length) {
            st16_be(frame + c->ipcso, 0);
        }
        e1000_insert_checksum(frame, length, c->ipcss, c->ipcse, c->ipcso);
    }
}

static unsigned send_segments(E1000Packet *packet, void (*send)(void *opaque, const uint8_t *frame, size_t length), void *opaque)
{
    const E1000Context *c = &packet->context;
    uint32_t header = c->hdrlen, total = packet->length - header, done = 0;
    unsigned number;
    uint8_t frame[FRAME_MAX];

    for (number = 0; done < total; number++) {
        uint32_t part = MIN((uint32_t)c->mss, total - done);
        if (header + part > sizeof(frame)) {
            return number;
        }
        memcpy(frame, packet->data, header);
        memcpy(frame + header, packet->data + header + done, part);
        fix_headers(c, frame, header + part, number, done, done + part == total);
        insert_checksums(packet, frame, header + part);
        send_frame(packet, frame, header + part, send, opaque);
        done += part;
    }
    return number;
}

unsigned e1000_packet_send(E1000Packet *packet, void (*send)(void *opaque, const uint8_t *frame, size_t length), void *opaque)
{
    const E1000Context *c = &packet->context;

    if (packet->segment && c->mss && c->hdrlen && packet->length > c->hdrlen) {
        return send_segments(packet, send, opaque);
    }
    if (packet->length) {
        insert_checksums(packet, packet->data, packet->length);
        send_frame(packet, packet->data, packet->length, send, opaque);
        return 1;
    }
    return 0;
}
