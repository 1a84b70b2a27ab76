#include "chardev/telnet.h"

enum {
    IAC = 255, DONT = 254, DO = 253, WONT = 252, WILL = 251, SB = 250, BREAK = 243, SE = 240,
    OPT_BINARY = 0, OPT_ECHO = 1, OPT_SGA = 3, /* RFC 856, 857, 858 */
};

const uint8_t telnet_hello[12] = {
    IAC, WILL, OPT_ECHO, IAC, WILL, OPT_SGA, IAC, WILL, OPT_BINARY, IAC, DO, OPT_BINARY,
};

static bool data_byte(Telnet *telnet, uint8_t byte)
{
    /* CR NUL is how a client sends a carriage return. */
    bool drop = telnet->was_cr && byte == 0;
    telnet->was_cr = byte == '\r';
    return !drop;
}

size_t telnet_filter(Telnet *telnet, uint8_t *buf, size_t length, unsigned *ret_breaks)
{
    size_t out = 0;

    *ret_breaks = 0;
    for (size_t n = 0; n < length; n++) {
        uint8_t byte = buf[n];
        switch (telnet->state) {
        case TELNET_DATA:
            if (byte == IAC) {
                telnet->state = TELNET_IAC;
            } else if (data_byte(telnet, byte)) {
                buf[out++] = byte;
            }
            break;
        case TELNET_IAC:
            telnet->state = TELNET_DATA;
            if (byte == IAC) {
                buf[out++] = IAC;
            } else if (byte == SB) {
                telnet->state = TELNET_SUB;
            } else if (byte >= WILL && byte <= DONT) {
                telnet->state = TELNET_OPTION;
            } else if (byte == BREAK) {
                ++*ret_breaks;
            }
            break;
        case TELNET_OPTION: /* the answer to the hello; nothing to negotiate further */
            telnet->state = TELNET_DATA;
            break;
        case TELNET_SUB:
            telnet->state = byte == IAC ? TELNET_SUB_IAC : TELNET_SUB;
            break;
        case TELNET_SUB_IAC:
            telnet->state = byte == SE ? TELNET_DATA : TELNET_SUB;
            break;
        }
    }
    return out;
}
