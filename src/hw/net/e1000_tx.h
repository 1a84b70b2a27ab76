/*
 * Transmit offloads of the 8254x: checksum insertion and TCP segmentation, on a frame in memory.
 */
#ifndef OSTRICH_HW_NET_E1000_TX_H
#define OSTRICH_HW_NET_E1000_TX_H

#include "base/base.h"

enum { E1000_TX_MAX = 0x20000 }; /* bytes gathered for one packet */

/* A context descriptor's content. */
typedef struct E1000Context {
    uint8_t ipcss, ipcso, tucss, tucso, hdrlen;
    uint16_t ipcse, tucse, mss;
    uint32_t paylen;
    bool ip4, tcp;
} E1000Context;

typedef struct E1000Packet {
    E1000Context context; /* of the last context descriptor */
    bool insert_ip, insert_tu, segment, vlan;
    uint16_t vlan_tag;
    uint32_t length;
    uint8_t data[E1000_TX_MAX];
} E1000Packet;

/* Puts the ones' complement sum of [start, end] (end 0: to the last byte) at `at`; fields outside are ignored. */
void e1000_insert_checksum(uint8_t *frame, size_t length, size_t start, size_t end, size_t at);
/* Calls send() with each frame that the packet makes. Returns their number. */
unsigned e1000_packet_send(E1000Packet *packet, void (*send)(void *opaque, const uint8_t *frame, size_t length), void *opaque);

#endif
