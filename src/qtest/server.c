/* Connections of a test program: lines in, answers out, the log of both. See qtest.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "qtest/qtest_priv.h"

#define LINE_MAX_BYTES (160 * MiB) /* a write of 64 MiB in hex digits fits */

static void note(Qtest *qtest, char who, const char *text)
{
    if (qtest->log) {
        int64_t ns = clock_now(qtest->machine->clocks, CLOCK_REALTIME_NS) - qtest->started;
        fprintf(qtest->log, "[%c +%d.%06d] %s\n", who, (int)(ns / NS_PER_SEC), (int)(ns % NS_PER_SEC / 1000), text);
        fflush(qtest->log);
    }
}

/* What later lines count from: the time of the day. */
static void note_beginning(Qtest *qtest)
{
    if (qtest->log) {
        int64_t us = g_get_real_time();
        fprintf(qtest->log, "[I %" PRId64 ".%06d] OPENED\n", us / G_USEC_PER_SEC, (int)(us % G_USEC_PER_SEC));
        fflush(qtest->log);
    }
}

static void note_end(Qtest *qtest)
{
    if (qtest->started) {
        note(qtest, 'I', "CLOSED");
        qtest->started = 0;
    }
}

void qtest_send(Qtest *qtest, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_autofree char *line = g_strconcat(text, "\n", NULL);
    note(qtest, 'S', text);
    char_write_all(&qtest->front, line, strlen(line));
}

static size_t can_receive(void *opaque)
{
    const Machine *machine = ((const Qtest *)opaque)->machine;
    return (machine->launched && !machine->starting) || machine->preconfig ? 65536 : 0;
}

static void end_line(Qtest *qtest)
{
    if (qtest->too_long) {
        qtest_send(qtest, "FAIL the line is too long");
    } else {
        note(qtest, 'R', qtest->line->str);
        qtest_command(qtest, qtest->line->str);
    }
    qtest->too_long = false;
    g_string_truncate(qtest->line, 0);
}

static void receive(void *opaque, const uint8_t *buf, size_t length)
{
    Qtest *qtest = opaque;

    while (length > 0) {
        const uint8_t *end = memchr(buf, '\n', length);
        size_t piece = end ? (size_t)(end - buf) : length;
        qtest->too_long |= qtest->line->len + piece > LINE_MAX_BYTES;
        if (!qtest->too_long) {
            g_string_append_len(qtest->line, (const char *)buf, (gssize)piece);
        }
        piece += end != NULL;
        buf += piece;
        length -= piece;
        if (end) {
            end_line(qtest);
        }
    }
}

static void connection(void *opaque, CharEvent event)
{
    Qtest *qtest = opaque;

    if (event == CHAR_EVENT_OPENED) {
        g_string_truncate(qtest->line, 0);
        qtest->started = clock_now(qtest->machine->clocks, CLOCK_REALTIME_NS);
        note_beginning(qtest);
    } else if (event == CHAR_EVENT_CLOSED) {
        note_end(qtest);
        qtest_forget(qtest);
    }
}

static const CharFrontOps front_ops = { .can_receive = can_receive, .receive = receive, .event = connection };

/* --- life --- */

static MUST_USE Error *open_chardev(Qtest *qtest, const char *device, Chardev **ret_chr)
{
    Chardevs *set = machine_service(qtest->machine, "chardevs");
    g_autoptr(KeyValues) kv = NULL;
    bool wants_monitor;

    TRY(chardev_parse_short(device, "qtest", &kv, &wants_monitor));
    if (!kv || wants_monitor) {
        return error_new("-qtest: '%s' is not a device to talk on", device);
    }
    if (!keyvalues_get(kv, "backend")) {
        *ret_chr = chardev_find(set, keyvalues_get(kv, "id"));
        return *ret_chr ? NULL : error_new("-qtest: there is no chardev '%s'", keyvalues_get(kv, "id"));
    }
    TRY(chardev_add(set, kv, ret_chr));
    qtest->own_chardev = g_strdup(chardev_id(*ret_chr));
    return NULL;
}

static MUST_USE Error *open_log(Qtest *qtest, const char *log)
{
    if (!log) {
        qtest->log = stderr;
    } else if (strcmp(log, "none")) {
        qtest->log = fopen(log, "we");
        if (!qtest->log) {
            return error_new_errno(errno, "-qtest-log: cannot open '%s'", log);
        }
    }
    return NULL;
}

static void qtest_free(Qtest *qtest)
{
    char_front_close(&qtest->front);
    if (qtest->own_chardev) {
        error_free(chardev_remove(machine_service(qtest->machine, "chardevs"), qtest->own_chardev));
    }
    if (qtest->log && qtest->log != stderr) {
        fclose(qtest->log);
    }
    g_free(qtest->own_chardev);
    g_string_free(qtest->line, TRUE);
    g_free(qtest);
}

Error *qtest_start(Machine *machine, const char *device, const char *log)
{
    Qtest *qtest = g_new0(Qtest, 1);
    Chardev *chr;

    qtest->machine = machine;
    qtest->line = g_string_new(NULL);
    Error *err = open_log(qtest, log);
    if (!err) {
        err = open_chardev(qtest, device, &chr);
    }
    if (!err) {
        err = char_front_attach(&qtest->front, chr);
    }
    if (err) {
        qtest_free(qtest);
        return err;
    }
    machine_set_service(machine, QTEST_SERVICE, qtest);
    char_front_open(&qtest->front, &front_ops, qtest);
    return NULL;
}

void qtest_serve(Machine *machine)
{
    Qtest *qtest = machine_service(machine, QTEST_SERVICE);
    if (qtest) {
        char_accept_input(&qtest->front);
    }
}

void qtest_stop(Machine *machine)
{
    Qtest *qtest = machine_service(machine, QTEST_SERVICE);

    if (qtest) {
        machine_set_service(machine, QTEST_SERVICE, NULL);
        note_end(qtest);
        qtest_forget(qtest);
        qtest_free(qtest);
    }
}
