/* HMP: info block, info block-jobs. */
#include <inttypes.h>
#include <string.h>

#include "block/backend.h"
#include "block/info.h"
#include "monitor/hmp_priv.h"

static const char *text_of(const Value *dict, const char *name)
{
    const char *text = value_find_str(dict, name);
    return text ? text : "";
}

static void print_limits(Hmp *hmp, const Value *inserted)
{
    static const char *const names[] = { "bps", "bps_rd", "bps_wr", "bps_max", "bps_rd_max", "bps_wr_max",
                                         "iops", "iops_rd", "iops_wr", "iops_max", "iops_rd_max", "iops_wr_max", "iops_size" };
    if (!value_find(inserted, "group")) {
        return;
    }
    hmp_printf(hmp, "    I/O throttling:  ");
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        hmp_printf(hmp, " %s=%" PRId64, names[i], value_find_int(inserted, names[i], 0));
    }
    hmp_printf(hmp, " group=%s\n", text_of(inserted, "group"));
}

static void print_image(Hmp *hmp, const Value *inserted)
{
    BlockGraph *graph = machine_service(hmp->machine, BLOCK_SERVICE);
    BlockNode *node = block_node_find(graph, text_of(inserted, "node-name"));

    hmp_printf(hmp, "\nImages:\n");
    for (; node; node = node->backing ? node->backing->node : NULL) {
        g_autofree char *text = block_image_text(node);
        hmp_printf(hmp, "%s", text);
        if (node->backing) {
            hmp_printf(hmp, "\n");
        }
    }
}

static void print_inserted(Hmp *hmp, const Value *inserted, bool verbose)
{
    const Value *cache = value_find(inserted, "cache");
    const char *zeroes = text_of(inserted, "detect_zeroes");

    hmp_printf(hmp, "    Cache mode:       %s%s%s\n", value_find_bool(cache, "writeback", true) ? "writeback" : "writethrough",
               value_find_bool(cache, "direct", false) ? ", direct" : "",
               value_find_bool(cache, "no-flush", false) ? ", ignore flushes" : "");
    if (value_find_str(inserted, "backing_file")) {
        hmp_printf(hmp, "    Backing file:     %s (chain depth: %" PRId64 ")\n", value_find_str(inserted, "backing_file"),
                   value_find_int(inserted, "backing_file_depth", 0));
    }
    if (*zeroes && strcmp(zeroes, "off")) {
        hmp_printf(hmp, "    Detect zeroes:    %s\n", zeroes);
    }
    print_limits(hmp, inserted);
    if (verbose) {
        print_image(hmp, inserted);
    }
}

static void print_file(Hmp *hmp, const Value *inserted)
{
    hmp_printf(hmp, ": %s (%s%s%s)\n", text_of(inserted, "file"), text_of(inserted, "drv"),
               value_find_bool(inserted, "ro", false) ? ", read-only" : "",
               value_find_bool(inserted, "encrypted", false) ? ", encrypted" : "");
}

static void print_device(Hmp *hmp, const Value *item, bool verbose)
{
    const Value *inserted = value_find(item, "inserted");
    const char *name = text_of(item, "device"), *qdev = value_find_str(item, "qdev");

    hmp_printf(hmp, "%s", *name ? name : qdev ? qdev : "");
    if (inserted) {
        if (text_of(inserted, "node-name")[0]) {
            hmp_printf(hmp, " (%s)", text_of(inserted, "node-name"));
        }
        print_file(hmp, inserted);
    } else {
        hmp_printf(hmp, ": [not inserted]\n");
    }
    if (qdev) {
        hmp_printf(hmp, "    Attached to:      %s\n", qdev);
    }
    const char *status = text_of(item, "io-status");
    if (*status && strcmp(status, "ok")) {
        hmp_printf(hmp, "    I/O status:       %s\n", status);
    }
    if (value_find_bool(item, "removable", false)) {
        hmp_printf(hmp, "    Removable device: %slocked, tray %s\n", value_find_bool(item, "locked", false) ? "" : "not ",
                   value_find_bool(item, "tray_open", false) ? "open" : "closed");
    }
    if (inserted) {
        print_inserted(hmp, inserted, verbose);
    }
}

static bool is_wanted(const Value *item, const char *name)
{
    const Value *inserted = value_find(item, "inserted");
    return !name || !strcmp(text_of(item, "device"), name) || !g_strcmp0(value_find_str(item, "qdev"), name) ||
           (inserted && !strcmp(text_of(inserted, "node-name"), name));
}

static void info_nodes(Hmp *hmp, const char *name, bool verbose)
{
    g_autoptr(Value) list = NULL;
    bool any = false;

    if (!hmp_qmp(hmp, "query-named-block-nodes", NULL, &list)) {
        return;
    }
    for (size_t n = 0; n < value_length(list); n++) {
        const Value *item = value_at(list, n);
        if (!name || !strcmp(text_of(item, "node-name"), name)) {
            hmp_printf(hmp, "%s%s", any ? "\n" : "", text_of(item, "node-name"));
            print_file(hmp, item);
            print_inserted(hmp, item, verbose);
            any = true;
        }
    }
}

static void info_block(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) list = NULL;
    bool any = false;

    if (args->flag['n']) {
        info_nodes(hmp, args->text[0], args->flag['v']);
        return;
    }
    if (!hmp_qmp(hmp, "query-block", NULL, &list)) {
        return;
    }
    for (size_t n = 0; n < value_length(list); n++) {
        if (is_wanted(value_at(list, n), args->text[0])) {
            hmp_printf(hmp, "%s", any ? "\n" : "");
            print_device(hmp, value_at(list, n), args->flag['v']);
            any = true;
        }
    }
    if (!any && args->text[0]) {
        info_nodes(hmp, args->text[0], args->flag['v']);
    }
}

static void info_block_jobs(Hmp *hmp, const HmpArgs *args)
{
    g_autoptr(Value) list = NULL;

    if (!hmp_qmp(hmp, "query-block-jobs", NULL, &list)) {
        return;
    }
    if (!value_length(list)) {
        hmp_printf(hmp, "No active jobs\n");
    }
    for (size_t n = 0; n < value_length(list); n++) {
        const Value *job = value_at(list, n);
        if (!strcmp(text_of(job, "type"), "stream")) {
            hmp_printf(hmp, "Streaming device %s:", text_of(job, "device"));
        } else {
            hmp_printf(hmp, "Type %s, device %s:", text_of(job, "type"), text_of(job, "device"));
        }
        hmp_printf(hmp, " Completed %" PRId64 " of %" PRId64 " bytes, speed limit %" PRId64 " bytes/s\n",
                   value_find_int(job, "offset", 0), value_find_int(job, "len", 0), value_find_int(job, "speed", 0));
    }
}

const HmpCommand hmp_info_block[] = {
    { "block", "-n-v?s", "[-n] [-v] [device]", "show info of one block device or all (-n: named nodes; -v: more details)", info_block },
    { "block-jobs", "", "", "block jobs and how far they are", info_block_jobs },
    { 0 },
};
