/* Packets that begin with q and Q: what the stub can do, threads, the description, the monitor. GDB manual, E.4. */
#include <string.h>

#include "gdb/gdb_priv.h"
#include "replay/reverse.h"
#include "monitor/monitor.h"

static const char *after(const char *text, const char *prefix)
{
    return g_str_has_prefix(text, prefix) ? text + strlen(prefix) : NULL;
}

static void thread_info(Gdb *gdb, bool first)
{
    g_autofree char *text = NULL;

    gdb->listed = first ? 0 : gdb->listed;
    if (gdb->listed >= gdb->machine->vcpus->len) {
        gdb_send(gdb, "l");
        return;
    }
    const Vcpu *vcpu = g_ptr_array_index(gdb->machine->vcpus, gdb->listed++);
    text = g_strdup_printf("m%02x", vcpu->index + 1);
    gdb_send(gdb, text);
}

static void thread_extra(Gdb *gdb, const char *text)
{
    uint64_t number;
    g_autoptr(GString) answer = g_string_new(NULL);

    if (!gdb_take_number(&text, &number) || number == 0 || number > UINT32_MAX || !vcpu_at(gdb->machine, (unsigned)number - 1)) {
        gdb_send(gdb, "E16");
        return;
    }
    const Vcpu *vcpu = gdb_vcpu(gdb, (unsigned)number - 1);
    g_autofree char *words = g_strdup_printf("CPU#%u [%s]", vcpu->index, vcpu->halted ? "halted " : "running");
    gdb_put_hex(answer, words, strlen(words));
    gdb_send(gdb, answer->str);
}

/* qXfer:features:read:target.xml:OFFSET,LENGTH */
static void features(Gdb *gdb, const char *text)
{
    uint64_t offset, length;
    const char *xml = gdb_vcpu(gdb, 0)->ops->gdb->target_xml;
    uint64_t size = strlen(xml);

    const char *range = after(text, "target.xml:");
    if (!range) {
        gdb_send(gdb, "E00");
        return;
    }
    if (!gdb_take_number(&range, &offset) || *range++ != ',' || !gdb_take_number(&range, &length) || offset > size) {
        gdb_send(gdb, "E16");
        return;
    }
    length = MIN(length, MIN(size - offset, GDB_PACKET_MAX - 8));
    g_autoptr(GString) answer = g_string_new(offset + length < size ? "m" : "l");
    g_string_append_len(answer, xml + offset, (gssize)length);
    gdb_send_bytes(gdb, answer->str, answer->len);
}

/* What the monitor prints comes in O packets. */
static void monitor_command(Gdb *gdb, const char *text)
{
    enum { PIECE = 2048 };
    size_t length = strlen(text) / 2;
    g_autofree char *line = g_malloc0(length + 1);

    gdb_take_hex(&text, (uint8_t *)line, length);
    g_autofree char *output = monitor_run_hmp(gdb->machine, gdb_vcpu(gdb, gdb->general)->index, line);
    g_auto(GStrv) parts = g_strsplit(output, "\r\n", -1);
    g_autofree char *plain = g_strjoinv("\n", parts);
    for (size_t at = 0, all = strlen(plain); at < all; at += PIECE) {
        g_autoptr(GString) packet = g_string_new("O");
        gdb_put_hex(packet, plain + at, MIN((size_t)PIECE, all - at));
        gdb_send(gdb, packet->str);
    }
    gdb_send(gdb, "OK");
}

void gdb_query(Gdb *gdb, const char *text)
{
    const char *rest;

    if (after(text, "qSupported")) {
        g_autofree char *answer = g_strdup_printf("PacketSize=%x;qXfer:features:read+;vContSupported+;QStartNoAckMode+%s",
                                                  (unsigned)GDB_PACKET_MAX,
                                                  reverse_possible(gdb->machine) ? ";ReverseStep+;ReverseContinue+" : "");
        gdb_send(gdb, answer);
    } else if (!strcmp(text, "QStartNoAckMode")) {
        gdb_send(gdb, "OK");
        gdb->no_ack = true;
    } else if ((rest = after(text, "qXfer:features:read:"))) {
        features(gdb, rest);
    } else if (!strcmp(text, "qfThreadInfo") || !strcmp(text, "qsThreadInfo")) {
        thread_info(gdb, text[1] == 'f');
    } else if ((rest = after(text, "qThreadExtraInfo,"))) {
        thread_extra(gdb, rest);
    } else if (!strcmp(text, "qC")) {
        g_autofree char *answer = g_strdup_printf("QC%02x", gdb_vcpu(gdb, gdb->general)->index + 1);
        gdb_send(gdb, answer);
    } else if (after(text, "qAttached")) {
        gdb_send(gdb, "1");
    } else if ((rest = after(text, "qRcmd,"))) {
        monitor_command(gdb, rest);
    } else if (!strcmp(text, "qqemu.PhyMemMode")) {
        gdb_send(gdb, gdb->physical ? "1" : "0");
    } else if ((rest = after(text, "Qqemu.PhyMemMode:"))) {
        gdb->physical = *rest != '0';
        gdb_send(gdb, "OK");
    } else {
        gdb_send(gdb, "");
    }
}
