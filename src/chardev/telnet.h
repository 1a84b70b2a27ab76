/* The telnet protocol (RFC 854) on a byte stream, as much as a terminal client needs. Folder-private. */
#ifndef OSTRICH_CHARDEV_TELNET_H
#define OSTRICH_CHARDEV_TELNET_H

#include "base/base.h"

typedef struct Telnet {
    enum { TELNET_DATA, TELNET_IAC, TELNET_OPTION, TELNET_SUB, TELNET_SUB_IAC } state;
    bool was_cr;
} Telnet;

/* What the server says first: it echoes, no go-ahead, binary both ways. */
extern const uint8_t telnet_hello[12];
/* Takes commands out of buf in place; bytes of data left. *ret_break counts BREAK commands. */
size_t telnet_filter(Telnet *telnet, uint8_t *buf, size_t length, unsigned *ret_breaks);

#endif
