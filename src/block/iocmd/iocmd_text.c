/* qemu-io commands: numbers in and out, reports, dumps. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/iocmd/iocmd_priv.h"

void io_printf(IoSession *io, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    io->print(io->opaque, text);
}

void io_complain(IoSession *io, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    io->complain(io->opaque, text);
}

int io_fail(IoSession *io, Error *err)
{
    io->report(io->opaque, err);
    return -EINVAL;
}

/* --- numbers --- */

static bool looks_like_number(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits > 0 &&
           (!text[digits] || (strchr("bkmgtpeBKMGTPE", text[digits]) && !text[digits + 1]));
}

bool io_parse_number(IoSession *io, const char *text, uint64_t *ret_value)
{
    uint64_t value;
    Error *err = block_parse_size(text, &value);
    bool large = err ? looks_like_number(text) : value > INT64_MAX;

    if (!err && !large) {
        *ret_value = value;
        return true;
    }
    error_free(err);
    io_printf(io, "Parsing error: %s -- %s\n",
              large ? "argument too large"
                    : "non-numeric argument, or extraneous/unrecognized suffix",
              text);
    return false;
}

bool io_parse_pattern(IoSession *io, const char *text, uint8_t *ret_byte)
{
    char *end;
    long value = strtol(text, &end, 0);
    if (end == text || *end || value < 0 || value > 255) {
        io_printf(io, "%s is not a valid pattern byte\n", text);
        return false;
    }
    *ret_byte = (uint8_t)value;
    return true;
}

struct iovec *io_parse_lengths(IoSession *io, char **text, unsigned count, uint64_t *ret_total)
{
    g_autofree struct iovec *iov = g_new0(struct iovec, count);
    uint64_t total = 0;

    for (unsigned i = 0; i < count; i++) {
        uint64_t length;
        if (!io_parse_number(io, text[i], &length)) {
            return NULL;
        }
        if (length > IO_MAX_LENGTH || total + length > IO_MAX_LENGTH) {
            io_printf(io, "Argument '%s' exceeds maximum size %" PRIu64 "\n", text[i],
                      (uint64_t)IO_MAX_LENGTH);
            return NULL;
        }
        iov[i].iov_len = (size_t)length;
        total += length;
    }
    *ret_total = total;
    return g_steal_pointer(&iov);
}

/* --- buffers --- */

enum { BUFFER_ALIGN = 4096, MISALIGN = 16 };

uint8_t *io_buffer_new(const IoSession *io, size_t size, uint8_t fill)
{
    void *whole;
    if (posix_memalign(&whole, BUFFER_ALIGN, size + BUFFER_ALIGN)) {
        return NULL;
    }
    uint8_t *buffer = (uint8_t *)whole + (io->misalign ? MISALIGN : 0);
    memset(buffer, fill, size);
    return buffer;
}

void io_buffer_free(const IoSession *io, uint8_t *buffer)
{
    if (buffer) {
        free(buffer - (io->misalign ? MISALIGN : 0));
    }
}

void io_lay_out(struct iovec *iov, unsigned count, uint8_t *buffer)
{
    for (unsigned i = 0; i < count; i++) {
        iov[i].iov_base = buffer;
        buffer += iov[i].iov_len;
    }
}

/* --- reports --- */

int64_t io_now(const IoSession *io)
{
    return clock_now(loop_clocks(block_graph_loop(io->graph)), CLOCK_REALTIME_NS);
}

/* Decimals only where there are any. */
static char *trimmed(double value, int decimals, const char *unit)
{
    g_autofree char *text = g_strdup_printf("%.*f", decimals, value);
    char *point = strchr(text, '.');
    if (point && strspn(point + 1, "0") == strlen(point + 1)) {
        *point = 0;
    }
    return g_strdup_printf("%s %s", text, unit);
}

char *io_size_text(double bytes)
{
    static const char *const units[] = { "EiB", "PiB", "TiB", "GiB", "MiB", "KiB" };
    for (unsigned i = 0; i < ARRAY_SIZE(units); i++) {
        double unit = (double)BIT64(60 - 10 * i);
        if (bytes >= unit) {
            return trimmed(bytes / unit, 3, units[i]);
        }
    }
    return trimmed(bytes, 6, "bytes");
}

static char *time_text(int64_t ns, bool fixed)
{
    uint64_t seconds = (uint64_t)(ns / NS_PER_SEC), cents = (uint64_t)(ns % NS_PER_SEC) / 10000000;
    if (fixed || seconds >= 60) {
        return g_strdup_printf("%" PRIu64 ":%02u:%02u.%02u", seconds / 3600,
                               (unsigned)(seconds / 60 % 60), (unsigned)(seconds % 60),
                               (unsigned)cents);
    }
    return g_strdup_printf("%02u.%02u sec", (unsigned)seconds, (unsigned)cents);
}

void io_report(IoSession *io, const IoReport *r)
{
    int64_t took = MAX(io_now(io) - r->start, 1);
    double seconds = (double)took / (double)NS_PER_SEC;
    double byte_rate = (double)r->done / seconds, rate = 1 / seconds;
    g_autofree char *time = time_text(took, r->machine);

    if (r->machine) {
        io_printf(io, "%" PRIu64 ",1,%s,%.3f,%.3f\n", r->done, time, byte_rate, rate);
        return;
    }
    g_autofree char *size = io_size_text((double)r->done), *speed = io_size_text(byte_rate);
    io_printf(io, "%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", r->verb, r->done,
              r->asked, r->offset);
    io_printf(io, "%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n", size, time, speed, rate);
}

void io_dump(IoSession *io, const uint8_t *buffer, uint64_t offset, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 16) {
        size_t n = MIN(bytes - at, 16);
        g_autoptr(GString) line = g_string_new(NULL);
        g_string_printf(line, "%08" PRIx64 ":  ", offset + at);
        for (size_t i = 0; i < n; i++) {
            g_string_append_printf(line, "%02x ", buffer[at + i]);
        }
        g_string_append_c(line, ' ');
        for (size_t i = 0; i < n; i++) {
            g_string_append_c(line, g_ascii_isalnum(buffer[at + i]) ? (char)buffer[at + i] : '.');
        }
        g_string_append_c(line, '\n');
        io->print(io->opaque, line->str);
    }
}

bool io_verify(IoSession *io, const uint8_t *buffer, uint8_t pattern, uint64_t offset, size_t bytes)
{
    if (!bytes || (buffer[0] == pattern && !memcmp(buffer, buffer + 1, bytes - 1))) {
        return true;
    }
    io_printf(io, "Pattern verification failed at offset %" PRIu64 ", %zu bytes\n", offset, bytes);
    return false;
}

int io_check_range(const IoSession *io, uint64_t offset, uint64_t bytes)
{
    return bytes <= io->node->size && offset <= io->node->size - bytes ? 0 : -EIO;
}
