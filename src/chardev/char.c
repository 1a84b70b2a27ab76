/*
 * The front-end half of character devices: attaching, writing with back-pressure, the backlog of
 * writers that cannot wait, the log file, events.
 */
#include "chardev/chardev_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG_MAX (64u << 20)

Error *char_front_attach(CharFront *front, Chardev *chr)
{
    if (chr->fronts->len && !chr->mux) {
        return error_hint(error_new("chardev '%s' is already in use", chardev_id(chr)),
                          "A chardev with mux=on can serve several devices.");
    }
    *front = (CharFront) { .chr = chr };
    g_ptr_array_add(chr->fronts, front);
    return NULL;
}

void char_front_open(CharFront *front, const CharFrontOps *ops, void *opaque)
{
    Chardev *chr = front->chr;

    front->ops = ops;
    front->opaque = opaque;
    front->open = true;
    if (!chr) {
        return;
    }
    if (chr->connected) {
        char_tell(front, CHAR_EVENT_OPENED);
    }
    if (chr->mux && front->chr) {
        guint index;
        g_ptr_array_find(chr->fronts, front, &index);
        mux_focus(chr, (int)index);
    }
    char_accept_input(front);
}

void char_front_close(CharFront *front)
{
    Chardev *chr = front->chr;

    if (chr) {
        CharFront *focused = char_focus(chr);
        g_ptr_array_remove(chr->fronts, front);
        chr->focus = -1;
        for (guint n = 0; n < chr->fronts->len; n++) {
            if (g_ptr_array_index(chr->fronts, n) == focused) {
                chr->focus = (int)n;
            }
        }
        if (chr->focus < 0 && chr->fronts->len) {
            mux_focus(chr, 0);
        }
    }
    *front = (CharFront) { 0 };
}

bool char_front_connected(const CharFront *front)
{
    return front->chr && front->chr->connected;
}

/* --- the log --- */

Error *char_log_open(Chardev *chr)
{
    if (!chr->logfile) {
        return NULL;
    }
    int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (chr->logappend ? O_APPEND : O_TRUNC);
    chr->log_fd = open(chr->logfile, flags, 0666);
    if (chr->log_fd < 0) {
        return error_new_errno(errno, "chardev '%s': cannot open logfile '%s'", chardev_id(chr),
                               chr->logfile);
    }
    return NULL;
}

void char_log_close(Chardev *chr)
{
    if (chr->log_fd >= 0) {
        close(chr->log_fd);
        chr->log_fd = -1;
    }
}

/* A full disk or a vanished file must not stop the guest: what cannot be logged is lost. */
static void log_bytes(Chardev *chr, const uint8_t *buf, size_t length)
{
    while (chr->log_fd >= 0 && length > 0) {
        ssize_t done = write(chr->log_fd, buf, length);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return;
        }
        buf += done;
        length -= (size_t)done;
    }
}

/* --- writing --- */

size_t char_back_write(Chardev *chr, const uint8_t *buf, size_t length)
{
    ssize_t done = (ssize_t)length;

    if (length == 0) {
        return 0;
    }
    if (!chr->muted && chardev_type(chr)->write) {
        done = chardev_type(chr)->write(chr, buf, length);
        if (done < 0) {
            done = (ssize_t)length;
        }
    }
    log_bytes(chr, buf, (size_t)done);
    return (size_t)done;
}

static void want_write(Chardev *chr)
{
    if (chardev_type(chr)->want_write) {
        chardev_type(chr)->want_write(chr);
    }
}

static size_t write_some(Chardev *chr, const uint8_t *buf, size_t length)
{
    return chr->mux && chr->mux_timestamps ? mux_write(chr, buf, length)
                                           : char_back_write(chr, buf, length);
}

size_t char_write(CharFront *front, const void *buf, size_t length)
{
    Chardev *chr = front->chr;

    if (!chr || length == 0) {
        return length;
    }
    if (chr->set->takes_all) {
        char_write_all(front, buf, length);
        return length;
    }
    size_t done = chr->backlog->len ? 0 : write_some(chr, buf, length);
    if (done < length) {
        front->wants_write = true;
        want_write(chr);
    }
    return done;
}

void char_write_all(CharFront *front, const void *buf, size_t length)
{
    Chardev *chr = front->chr;

    if (!chr) {
        return;
    }
    size_t done = chr->backlog->len ? 0 : write_some(chr, buf, length);
    size_t rest = length - done;
    if (rest > 0 && chr->backlog->len + rest <= BACKLOG_MAX) {
        g_byte_array_append(chr->backlog, (const uint8_t *)buf + done, (guint)rest);
        want_write(chr);
    }
}

void char_printf(CharFront *front, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    char_write_all(front, text, strlen(text));
}

size_t char_pending(const CharFront *front)
{
    return front->chr ? front->chr->backlog->len : 0;
}

void char_back_writable(Chardev *chr)
{
    if (chr->backlog->len) {
        size_t done = write_some(chr, chr->backlog->data, chr->backlog->len);
        g_byte_array_remove_range(chr->backlog, 0, (guint)done);
        if (chr->backlog->len) {
            want_write(chr);
            return;
        }
    }
    for (guint n = 0; n < chr->fronts->len; n++) {
        CharFront *front = g_ptr_array_index(chr->fronts, n);
        if (front->wants_write) {
            front->wants_write = false;
            if (front->open && front->ops->writable) {
                front->ops->writable(front->opaque);
            }
        }
    }
}

/* --- input --- */

/* NAME/INDEX of the front end; true: the hook took what is for it. */
static bool posted(CharFront *front, CharEvent event, const uint8_t *buf, size_t length)
{
    const ChardevHooks *hooks = &front->chr->set->hooks;
    guint index;
    if (!front->guest || !hooks->post || !g_ptr_array_find(front->chr->fronts, front, &index)) {
        return false;
    }
    g_autofree char *name = g_strdup_printf("%s/%u", chardev_id(front->chr), index);
    return hooks->post(hooks->opaque, name, event, buf, length);
}

void char_deliver(CharFront *front, const uint8_t *buf, size_t length)
{
    if (posted(front, CHAR_EVENTS, buf, length)) {
        front->posted = true;
    } else {
        front->ops->receive(front->opaque, buf, length);
    }
}

void char_tell(CharFront *front, CharEvent event)
{
    if (front && front->open && front->ops->event && !posted(front, event, NULL, 0)) {
        front->ops->event(front->opaque, event);
    }
}

void char_take(Chardevs *set, const char *name, CharEvent event, const uint8_t *buf, size_t length)
{
    const char *slash = strrchr(name, '/');
    g_autofree char *id = slash ? g_strndup(name, (gsize)(slash - name)) : NULL;
    Chardev *chr = id ? chardev_find(set, id) : NULL;
    uint64_t index;
    if (!chr || !g_ascii_string_to_unsigned(slash + 1, 10, 0, UINT32_MAX, &index, NULL) || index >= chr->fronts->len) {
        return;
    }
    CharFront *front = g_ptr_array_index(chr->fronts, index);
    if (event == CHAR_EVENTS && front->open && front->ops->receive) {
        front->posted = false;
        front->ops->receive(front->opaque, buf, length);
        char_accept_input(front);
    } else if (event != CHAR_EVENTS && front->open && front->ops->event) {
        front->ops->event(front->opaque, event);
    }
}

size_t char_deliver_room(CharFront *front)
{
    if (front->posted) {
        return 0;
    }
    return front->open && front->ops->can_receive ? front->ops->can_receive(front->opaque) : 0;
}

size_t char_back_room(Chardev *chr)
{
    CharFront *front = char_focus(chr);

    if (!front) {
        return 0;
    }
    size_t room = char_deliver_room(front);
    if (!chr->mux) {
        return room;
    }
    /* A multiplexer goes on reading a little, so that its escape keys work when the guest is stuck. */
    return front->queued == 0 && room > 0 ? room : sizeof(front->queue) - front->queued;
}

void char_back_input(Chardev *chr, const uint8_t *buf, size_t length)
{
    if (chr->mux) {
        mux_input(chr, buf, length);
        return;
    }
    CharFront *front = char_focus(chr);
    if (front && front->open && front->ops->receive && length) {
        char_deliver(front, buf, length);
    }
}

void char_drain(Chardev *chr)
{
    enum { PATIENCE_MS = 1000 };
    for (unsigned waited = 0; chr->backlog->len && waited < PATIENCE_MS;) {
        size_t done = write_some(chr, chr->backlog->data, chr->backlog->len);
        g_byte_array_remove_range(chr->backlog, 0, (guint)done);
        if (done == 0) {
            g_usleep(1000);
            waited++;
        }
    }
}

void char_accept_input(CharFront *front)
{
    Chardev *chr = front->chr;

    if (!chr) {
        return;
    }
    if (chr->mux) {
        mux_drain(front);
    }
    if (front->chr && chardev_type(chr)->accept_input) {
        chardev_type(chr)->accept_input(chr);
    }
}

void char_back_event(Chardev *chr, CharEvent event)
{
    if (event == CHAR_EVENT_OPENED || event == CHAR_EVENT_CLOSED) {
        bool connected = event == CHAR_EVENT_OPENED;
        if (chr->connected == connected) {
            return;
        }
        chr->connected = connected;
        if (!connected) {
            g_byte_array_set_size(chr->backlog, 0);
        }
    }
    /* Front ends may come and go in their callbacks. */
    g_autoptr(GPtrArray) fronts = g_ptr_array_new();
    for (guint n = 0; n < chr->fronts->len; n++) {
        g_ptr_array_add(fronts, g_ptr_array_index(chr->fronts, n));
    }
    for (guint n = 0; n < fronts->len; n++) {
        CharFront *front = g_ptr_array_index(fronts, n);
        if (g_ptr_array_find(chr->fronts, front, NULL)) {
            char_tell(front, event);
        }
    }
    if (event == CHAR_EVENT_CLOSED) {
        char_back_writable(chr);
    }
}

/* --- the rest is passed through --- */

void char_set_echo(CharFront *front, bool on)
{
    if (front->chr && chardev_type(front->chr)->set_echo) {
        chardev_type(front->chr)->set_echo(front->chr, on);
    }
}

void char_disconnect(CharFront *front)
{
    if (front->chr && chardev_type(front->chr)->disconnect) {
        chardev_type(front->chr)->disconnect(front->chr);
    }
}

int char_set_line(CharFront *front, const CharLine *line)
{
    const ChardevType *type = front->chr ? chardev_type(front->chr) : NULL;
    return type && type->set_line ? type->set_line(front->chr, line) : -ENOTSUP;
}

int char_set_break(CharFront *front, bool on)
{
    const ChardevType *type = front->chr ? chardev_type(front->chr) : NULL;
    return type && type->set_break ? type->set_break(front->chr, on) : -ENOTSUP;
}

int char_set_modem(CharFront *front, unsigned dtr_rts)
{
    const ChardevType *type = front->chr ? chardev_type(front->chr) : NULL;
    return type && type->set_modem ? type->set_modem(front->chr, dtr_rts) : -ENOTSUP;
}

int char_get_modem(CharFront *front, unsigned *ret_lines)
{
    const ChardevType *type = front->chr ? chardev_type(front->chr) : NULL;
    return type && type->get_modem ? type->get_modem(front->chr, ret_lines) : -ENOTSUP;
}

int char_take_fd(CharFront *front)
{
    const ChardevType *type = front->chr ? chardev_type(front->chr) : NULL;
    return type && type->take_fd ? type->take_fd(front->chr) : -1;
}

int char_take_socket(CharFront *front)
{
    const ChardevType *type = front->chr ? chardev_type(front->chr) : NULL;
    return type && type->take_socket ? type->take_socket(front->chr) : -1;
}
