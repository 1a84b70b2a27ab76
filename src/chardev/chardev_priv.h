/* Shared by the files of this folder: the multiplexer, and the descriptor pump of simple back ends. */
#ifndef OSTRICH_CHARDEV_CHARDEV_PRIV_H
#define OSTRICH_CHARDEV_CHARDEV_PRIV_H

#include "chardev/chardev.h"

/* --- multiplexer (mux.c) --- */
CharFront *char_focus(const Chardev *chr); /* who gets input; NULL: nobody */
void mux_focus(Chardev *chr, int index);
void mux_input(Chardev *chr, const uint8_t *buf, size_t length);
void mux_drain(CharFront *front);
size_t mux_write(Chardev *chr, const uint8_t *buf, size_t length);

/* --- front ends (char.c) --- */
size_t char_deliver_room(CharFront *front);
/* To the front end, or to whoever posts for it. */
void char_deliver(CharFront *front, const uint8_t *buf, size_t length);
void char_tell(CharFront *front, CharEvent event); /* accepts NULL */
/* Straight to the back end and the log; no backlog. */
size_t char_back_write(Chardev *chr, const uint8_t *buf, size_t length);
/* Writes what waits, as far as the back end takes it within a second: the last words before it closes. */
void char_drain(Chardev *chr);
Error *char_log_open(Chardev *chr) MUST_USE;
void char_log_close(Chardev *chr);

/*
 * A descriptor to read and one to write (may be the same, -1: none), pumped by the loop. Descriptors
 * that cannot be polled (regular files, /dev/null) are read by deferred work and written directly.
 */
typedef struct CharPump {
    Chardev *chr;
    int in, out;
    bool in_polls, out_polls, eof;
    unsigned credit;        /* bytes that out takes without waiting, as far as is known */
    bool keep_open;         /* the descriptors belong to somebody else */
    LoopFd *in_source, *out_source;
    Work read_work;
    /* Called at end of input or a read error; NULL: the CLOSED event is sent and reading stops. */
    void (*ended)(Chardev *chr);
} CharPump;

void pump_start(CharPump *pump, Chardev *chr, int in, int out);
void pump_stop(CharPump *pump);
ssize_t pump_write(CharPump *pump, const uint8_t *buf, size_t length);
void pump_want_write(CharPump *pump);
void pump_accept_input(CharPump *pump);

/* --- terminals (tty.c) --- */
void tty_make_raw(int fd, bool signals);
/* The process's own terminal on fd 0: raw now, given back at exit, while stopped, and on tty_release(). */
void tty_claim(bool signals);
void tty_set_echo(bool on);
void tty_release(void);

#endif
