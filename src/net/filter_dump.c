/* -object filter-dump: writes a back end's frames to a file in libpcap's format, version 2.4, Ethernet. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/log.h"
#include "net/filter.h"

enum { PCAP_HEADER = 24, PCAP_RECORD = 16, LINK_ETHERNET = 1 };
#define PCAP_MAGIC 0xa1b2c3d4u

typedef struct FilterDump {
    NetFilter filter;
    char *file;
    uint32_t maxlen;
    int fd;
    bool opened;
} FilterDump;

static bool write_all(int fd, const uint8_t *bytes, size_t length)
{
    while (length) {
        ssize_t put = write(fd, bytes, length);
        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            return false;
        }
        bytes += put;
        length -= (size_t)put;
    }
    return true;
}

/* A file that takes no more ends the dump, not the network. */
static bool dump_take(NetFilter *filter, bool sent, const uint8_t *frame, size_t length)
{
    FilterDump *dump = (FilterDump *)filter;
    uint32_t kept = (uint32_t)MIN(length, (size_t)dump->maxlen);
    int64_t now = clock_now(filter->port->machine->clocks, CLOCK_HOST);
    uint8_t record[PCAP_RECORD + NET_FRAME_MAX];

    if (!dump->opened) {
        return false;
    }
    st32_le(record, (uint32_t)(now / NS_PER_SEC));
    st32_le(record + 4, (uint32_t)(now % NS_PER_SEC / NS_PER_US));
    st32_le(record + 8, kept);
    st32_le(record + 12, (uint32_t)length);
    memcpy(record + PCAP_RECORD, frame, kept);
    if (!write_all(dump->fd, record, PCAP_RECORD + kept)) {
        warn_report("filter-dump '%s': cannot write to '%s' (%s); the dump ends", filter->object.id, dump->file, g_strerror(errno));
        close(dump->fd);
        dump->opened = false;
    }
    return false;
}

static Error *dump_complete(Object *object)
{
    FilterDump *dump = (FilterDump *)object;
    uint8_t header[PCAP_HEADER] = { 0 };

    if (dump->maxlen == 0 || dump->maxlen > NET_FRAME_MAX) {
        return error_new("maxlen is from 1 to %d", NET_FRAME_MAX);
    }
    if (!dump->file) {
        dump->file = g_strdup("qemu-vlan0.pcap");
    }
    TRY(net_filter_attach(&dump->filter));
    dump->fd = open(dump->file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (dump->fd < 0) {
        return error_new_errno(errno, "cannot open '%s'", dump->file);
    }
    dump->opened = true;
    st32_le(header, PCAP_MAGIC);
    st16_le(header + 4, 2);
    st16_le(header + 6, 4);
    st32_le(header + 16, dump->maxlen);
    st32_le(header + 20, LINK_ETHERNET);
    return write_all(dump->fd, header, sizeof(header)) ? NULL : error_new_errno(errno, "cannot write to '%s'", dump->file);
}

static void dump_finalize(Object *object)
{
    FilterDump *dump = (FilterDump *)object;

    net_filter_detach(&dump->filter);
    if (dump->opened) {
        close(dump->fd);
    }
}

static const Prop props[] = {
    PROP_STR("file", FilterDump, file, .help = "the file [qemu-vlan0.pcap]"),
    PROP_U32("maxlen", FilterDump, maxlen, 65536, .help = "bytes that are kept of a frame"),
    { 0 },
};
static const NetFilterType type = {
    .object = { .name = "filter-dump", .parent = &net_filter_object_type, .size = sizeof(FilterDump), .late = true, .props = props,
                .complete = dump_complete, .finalize = dump_finalize },
    .take = dump_take,
};
OBJECT_REGISTER(&type.object);
