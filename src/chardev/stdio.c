/*
 * -chardev stdio: the process's standard input and output. A terminal is made raw; with signal=off
 * Ctrl-C and its friends reach the guest.
 */
#include "chardev/chardev_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

typedef struct Stdio {
    Chardev chr;
    bool signal;
    CharPump pump;
} Stdio;

static const Prop stdio_props[] = {
    PROP_BOOL("signal", Stdio, signal, true, .help = "Ctrl-C ends the emulator instead of reaching the guest"),
    { 0 },
};

static Error *stdio_open(Chardev *chr)
{
    Stdio *s = (Stdio *)chr;

    TRY(chardevs_take_stdio(chr->set, "a character device"));
    int in = fcntl(0, F_DUPFD_CLOEXEC, 3), out = fcntl(1, F_DUPFD_CLOEXEC, 3);
    if (in >= 0) {
        tty_claim(s->signal);
    }
    pump_start(&s->pump, chr, in, out);
    char_back_event(chr, CHAR_EVENT_OPENED);
    return NULL;
}

static void stdio_close(Chardev *chr)
{
    Stdio *s = (Stdio *)chr;
    if (s->pump.chr) {
        pump_stop(&s->pump);
        tty_release();
        chardevs_give_stdio(chr->set);
    }
}

static ssize_t stdio_write(Chardev *chr, const uint8_t *buf, size_t length)
{
    return pump_write(&((Stdio *)chr)->pump, buf, length);
}

static void stdio_want_write(Chardev *chr)
{
    pump_want_write(&((Stdio *)chr)->pump);
}

static void stdio_accept_input(Chardev *chr)
{
    pump_accept_input(&((Stdio *)chr)->pump);
}

static void stdio_set_echo(Chardev *chr, bool on)
{
    tty_set_echo(on);
}

CHARDEV_TYPE(stdio, .object = { .name = "chardev-stdio", .parent = &chardev_object_type,
                                .size = sizeof(Stdio), .props = stdio_props },
             .name = "stdio", .desc = "standard input and output", .open = stdio_open,
             .close = stdio_close, .write = stdio_write, .want_write = stdio_want_write,
             .accept_input = stdio_accept_input, .set_echo = stdio_set_echo);
