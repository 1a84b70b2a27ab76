/*
 * Several front ends on one back end: output of all goes out, input goes to the one that has the focus.
 * The escape character (Ctrl-a, -echr) starts a command: h help, x quit, s save disks, t time stamps,
 * b break, c next front end, the escape itself sends it.
 */
#include "chardev/chardev_priv.h"

#include <string.h>

CharFront *char_focus(const Chardev *chr)
{
    int index = chr->mux ? chr->focus : 0;
    return index >= 0 && index < (int)chr->fronts->len ? g_ptr_array_index(chr->fronts, index) : NULL;
}

void mux_focus(Chardev *chr, int index)
{
    char_tell(char_focus(chr), CHAR_EVENT_MUX_OUT);
    chr->focus = index;
    char_tell(char_focus(chr), CHAR_EVENT_MUX_IN);
}

void mux_drain(CharFront *front)
{
    while (front->chr && front->queued > 0) {
        size_t room = char_deliver_room(front);
        size_t count = MIN(room, front->queued);
        if (count == 0) {
            return;
        }
        uint8_t bytes[sizeof(front->queue)];
        memcpy(bytes, front->queue, count);
        front->queued -= (unsigned)count;
        memmove(front->queue, front->queue + count, front->queued);
        char_deliver(front, bytes, count);
    }
}

static void deliver(Chardev *chr, uint8_t byte)
{
    CharFront *front = char_focus(chr);

    if (!front) {
        return;
    }
    mux_drain(front);
    if (front->chr && front->queued == 0 && char_deliver_room(front) > 0) {
        char_deliver(front, &byte, 1);
    } else if (front->queued < sizeof(front->queue)) {
        front->queue[front->queued++] = byte;
    }
}

static void say(Chardev *chr, const char *text)
{
    char_back_write(chr, (const uint8_t *)text, strlen(text));
}

static void show_help(Chardev *chr)
{
    char key[16];
    unsigned escape = chr->set->escape;

    if (escape > 0 && escape < 27) {
        g_snprintf(key, sizeof(key), "C-%c", 'a' + (int)escape - 1);
    } else {
        g_snprintf(key, sizeof(key), "0x%02x", escape);
    }
    g_autofree char *text = g_strdup_printf("\r\n"
                                            "%s h    this help\r\n"
                                            "%s x    quit the emulator\r\n"
                                            "%s s    save disk data to file (with -snapshot)\r\n"
                                            "%s t    toggle time stamps\r\n"
                                            "%s b    send a break\r\n"
                                            "%s c    switch between console and monitor\r\n"
                                            "%s %s  send %s\r\n",
                                            key, key, key, key, key, key, key, key, key);
    say(chr, text);
}

static void next_focus(Chardev *chr)
{
    for (guint step = 1; step <= chr->fronts->len; step++) {
        int index = (chr->focus + (int)step) % (int)chr->fronts->len;
        if (((CharFront *)g_ptr_array_index(chr->fronts, index))->open) {
            mux_focus(chr, index);
            return;
        }
    }
}

static void command(Chardev *chr, uint8_t byte)
{
    const ChardevHooks *hooks = &chr->set->hooks;

    switch (byte) {
    case 'h':
    case '?':
        show_help(chr);
        break;
    case 'x':
        say(chr, "QEMU: Terminated\r\n");
        if (hooks->quit) {
            hooks->quit(hooks->opaque);
        }
        break;
    case 's':
        if (hooks->commit) {
            hooks->commit(hooks->opaque);
        }
        break;
    case 'b':
        char_tell(char_focus(chr), CHAR_EVENT_BREAK);
        break;
    case 'c':
        next_focus(chr);
        break;
    case 't':
        chr->mux_timestamps = !chr->mux_timestamps;
        chr->mux_start = clock_now(loop_clocks(chr->set->loop), CLOCK_REALTIME_NS);
        chr->mux_line_start = true;
        break;
    default:
        if (byte == chr->set->escape) {
            deliver(chr, byte);
        }
    }
}

void mux_input(Chardev *chr, const uint8_t *buf, size_t length)
{
    for (size_t n = 0; n < length; n++) {
        if (chr->mux_escape) {
            chr->mux_escape = false;
            command(chr, buf[n]);
        } else if (buf[n] == chr->set->escape) {
            chr->mux_escape = true;
        } else {
            deliver(chr, buf[n]);
        }
    }
}

/* Output with a time stamp in front of each line. */
size_t mux_write(Chardev *chr, const uint8_t *buf, size_t length)
{
    size_t done = 0;

    while (done < length) {
        if (chr->mux_line_start) {
            int64_t ms = (clock_now(loop_clocks(chr->set->loop), CLOCK_REALTIME_NS) - chr->mux_start) /
                         NS_PER_MS;
            g_autofree char *stamp =
                g_strdup_printf("[%02d:%02d:%02d.%03d] ", (int)(ms / 3600000), (int)(ms / 60000 % 60),
                                (int)(ms / 1000 % 60), (int)(ms % 1000));
            say(chr, stamp);
            chr->mux_line_start = false;
        }
        const uint8_t *newline = memchr(buf + done, '\n', length - done);
        size_t want = newline ? (size_t)(newline - buf) + 1 - done : length - done;
        size_t wrote = char_back_write(chr, buf + done, want);
        done += wrote;
        if (wrote < want) {
            break;
        }
        chr->mux_line_start = newline != NULL;
    }
    return done;
}
