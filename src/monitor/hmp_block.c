/* HMP: drives, block jobs, snapshots into overlays, the NBD server, single requests (qemu-io). */
#include <stdio.h>
#include <string.h>

#include "block/drive.h"
#include "block/iocmd/iocmd.h"
#include "monitor/hmp_priv.h"

static BlockGraph *graph_of(Hmp *hmp)
{
    return machine_service(hmp->machine, BLOCK_SERVICE);
}

/* --- qemu-io --- */

/* A session lives until its asynchronous requests are done, which may be after the command. */
typedef struct IoCall {
    IoSession session;
    Hmp *hmp; /* NULL: the command is over, or a program asked */
    const char *line;
    BlockNode *node;
    Error *err;
} IoCall;

/* A program that asks gets an empty answer, and the text goes to the standard output as with qemu-io itself (-q: none). */
static void io_print(void *opaque, const char *text)
{
    IoCall *call = opaque;
    if (call->hmp) {
        hmp_printf(call->hmp, "%s", text);
    } else {
        fputs(text, stdout);
        fflush(stdout);
    }
}

static void io_report(void *opaque, Error *err)
{
    IoCall *call = opaque;
    if (!call->err) {
        call->err = err;
    } else {
        error_free(err);
    }
}

static void io_finish_co(void *opaque)
{
    IoCall *call = opaque;
    BlockEdge *root = call->session.root;

    io_session_fini_co(&call->session);
    block_root_detach(root);
    node_unref_co(call->node);
    error_free(call->err);
    g_free(call);
}

static void io_command_run_co(void *opaque)
{
    IoCall *call = opaque;
    call->err = block_root_attach(call->node, "qemu-io", 0, CLAIM_ALL, &call->session.root);
    if (!call->err) {
        call->session.node = call->node;
        io_command_co(&call->session, call->line);
    }
}

static void hmp_qemu_io(Hmp *hmp, const HmpArgs *args)
{
    BlockBackend *blk = blk_find(graph_of(hmp), args->text[0]);
    if (args->flag['d'] && !blk) {
        blk = blk_find_device(graph_of(hmp), args->text[0]);
    }
    BlockNode *node = blk ? blk_node(blk) : block_node_find(graph_of(hmp), args->text[0]);
    if (!node) {
        hmp_error(hmp, blk ? error_new("Device '%s' has no medium", args->text[0])
                           : error_new("Cannot find device='' nor node-name='%s'", args->text[0]));
        return;
    }
    IoCall *call = g_new0(IoCall, 1);
    io_session_init(&call->session, graph_of(hmp));
    call->session.print = call->session.complain = io_print;
    call->session.report = io_report;
    call->session.opaque = call;
    call->session.claimed = blk != NULL;
    call->hmp = hmp->monitor && !hmp->monitor->control ? hmp : NULL;
    call->line = args->text[1];
    call->node = node_ref(node);
    co_run(hmp->machine->loop, io_command_run_co, call);
    call->hmp = NULL;
    if (call->err) { /* the command's own words, as the program says them */
        hmp_printf(hmp, "%s\n", error_message(call->err));
        g_clear_pointer(&call->err, error_free);
    }
    co_start(hmp->machine->loop, io_finish_co, call);
}

/* --- drives --- */

static void warn_line(const char *text)
{
    warn_report("%s", text);
}

static Error *add_node(Hmp *hmp, const char *text)
{
    g_autoptr(KeyValues) kv = NULL;
    BlockNode *node; /* the monitor's, until drive_del or blockdev-del */

    TRY(keyvalues_parse(text, "driver", &kv));
    if (!keyvalues_has(kv, "node-name")) {
        return error_new("Say which node: give 'node-name'");
    }
    return block_open_options(graph_of(hmp), kv, &node);
}

static Error *add_drive(Hmp *hmp, const char *text)
{
    g_autoptr(KeyValues) kv = NULL;
    Drive *drive;

    TRY(keyvalues_parse(text, "file", &kv));
    TRY(block_drive_new(graph_of(hmp), kv, DRIVE_IF_NONE, false, warn_line, &drive));
    if (drive->interface != DRIVE_IF_NONE) {
        block_drive_free(drive);
        return error_new("Can't hot-add drive to type %s: use if=none and device_add",
                         drive_interface_name(drive->interface));
    }
    return NULL;
}

static void hmp_drive_add(Hmp *hmp, const HmpArgs *args)
{
    Error *err = args->flag['n'] ? add_node(hmp, args->text[1]) : add_drive(hmp, args->text[1]);
    if (err) {
        hmp_error(hmp, err);
    } else if (!args->flag['n']) {
        hmp_printf(hmp, "OK\n");
    }
}

/* The medium goes; a device that has the drive finds no medium in it from now on. */
static void hmp_drive_del(Hmp *hmp, const HmpArgs *args)
{
    const char *id = args->text[0];
    Drive *drive = block_drive_find(graph_of(hmp), id);
    BlockBackend *blk = drive ? drive->blk : NULL;

    if (!drive) {
        if (block_node_find(graph_of(hmp), id)) {
            hmp_qmp(hmp, "blockdev-del", hmp_dict("node-name", id, NULL), NULL);
        } else {
            hmp_error(hmp, error_new("Device '%s' not found", id));
        }
        return;
    }
    blk_drain(blk);
    Error *err = blk_insert(blk, NULL);
    if (err) {
        hmp_error(hmp, err);
        return;
    }
    blk_set_on_error(blk, BLK_ON_ERROR_REPORT, BLK_ON_ERROR_REPORT);
    blk_forget_name(blk); /* a new drive may have it */
    block_drive_free(drive);
}

static void hmp_block_resize(Hmp *hmp, const HmpArgs *args)
{
    size_t length = strlen(args->text[1]);
    bool plain = length && g_ascii_isdigit(args->text[1][length - 1]);
    g_autofree char *size = g_strconcat(args->text[1], plain ? "M" : "", NULL);
    uint64_t bytes;

    Error *err = block_parse_size(size, &bytes);
    if (err) {
        hmp_error(hmp, err);
        return;
    }
    Value *request = hmp_dict("device", args->text[0], NULL);
    value_put_int(request, "size", (int64_t)MIN(bytes, INT64_MAX));
    hmp_qmp(hmp, "block_resize", request, NULL);
}

static void hmp_block_set_io_throttle(Hmp *hmp, const HmpArgs *args)
{
    static const char *const names[] = { "bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr" };
    Value *request = hmp_dict("device", args->text[0], NULL);

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        value_put_int(request, names[i], (int64_t)args->number[1 + i]);
    }
    hmp_qmp(hmp, "block_set_io_throttle", request, NULL);
}

/* --- jobs --- */

/* What drive_mirror and drive_backup have in common: [-n] [-f] device target [format] */
static Value *copy_request(const HmpArgs *args)
{
    Value *request = hmp_dict("device", args->text[0], "target", args->text[1], "format", args->text[2],
                              "sync", args->flag['f'] ? "full" : "top", "mode", args->flag['n'] ? "existing" : "absolute-paths", NULL);
    return request;
}

static void hmp_drive_mirror(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "drive-mirror", copy_request(args), NULL);
}

static void hmp_drive_backup(Hmp *hmp, const HmpArgs *args)
{
    Value *request = copy_request(args);
    if (args->flag['c']) {
        value_put_bool(request, "compress", true);
    }
    hmp_qmp(hmp, "drive-backup", request, NULL);
}

static void hmp_block_stream(Hmp *hmp, const HmpArgs *args)
{
    Value *request = hmp_dict("device", args->text[0], "base", args->text[2], NULL);
    if (args->text[1]) {
        value_put_int(request, "speed", (int64_t)args->number[1]);
    }
    hmp_qmp(hmp, "block-stream", request, NULL);
}

static void hmp_job_set_speed(Hmp *hmp, const HmpArgs *args)
{
    Value *request = hmp_dict("device", args->text[0], NULL);
    value_put_int(request, "speed", (int64_t)args->number[1]);
    hmp_qmp(hmp, "block-job-set-speed", request, NULL);
}

static void hmp_job_cancel(Hmp *hmp, const HmpArgs *args)
{
    Value *request = hmp_dict("device", args->text[0], NULL);
    value_put_bool(request, "force", args->flag['f']);
    hmp_qmp(hmp, "block-job-cancel", request, NULL);
}

static void hmp_job_complete(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "block-job-complete", hmp_dict("device", args->text[0], NULL), NULL);
}

static void hmp_job_pause(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "block-job-pause", hmp_dict("device", args->text[0], NULL), NULL);
}

static void hmp_job_resume(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "block-job-resume", hmp_dict("device", args->text[0], NULL), NULL);
}

typedef struct CommitCall {
    BlockNode *node;
    Error *err;
} CommitCall;

static void commit_co(void *opaque)
{
    CommitCall *call = opaque;
    call->err = block_commit_down_co(call->node);
}

/* What a drive's image has goes into its backing image at once. */
static Error *commit_drive(Hmp *hmp, BlockBackend *blk)
{
    CommitCall call = { .node = blk_node(blk) };

    if (!call.node) {
        return error_new("Device '%s' has no medium", blk_name(blk));
    }
    co_run(hmp->machine->loop, commit_co, &call);
    return call.err;
}

static void hmp_commit(Hmp *hmp, const HmpArgs *args)
{
    bool all = !strcmp(args->text[0], "all");

    if (!all) {
        BlockBackend *blk = blk_find(graph_of(hmp), args->text[0]);
        Error *err = blk ? commit_drive(hmp, blk) : error_new("Device '%s' not found", args->text[0]);
        hmp_error(hmp, err ? error_prefix(err, "'commit' error for '%s': ", args->text[0]) : NULL);
        return;
    }
    for (BlockBackend *blk = NULL; (blk = blk_next(graph_of(hmp), blk));) {
        if (blk_node(blk) && blk_node(blk)->backing && !blk_is_readonly(blk)) {
            hmp_error(hmp, commit_drive(hmp, blk));
        }
    }
}

/* --- snapshots --- */

static void hmp_snapshot_blkdev(Hmp *hmp, const HmpArgs *args)
{
    if (!args->text[1]) {
        hmp_error(hmp, error_new("Parameter 'snapshot-file' is missing"));
        return;
    }
    hmp_qmp(hmp, "blockdev-snapshot-sync",
            hmp_dict("device", args->text[0], "snapshot-file", args->text[1], "format", args->text[2],
                     "mode", args->flag['n'] ? "existing" : "absolute-paths", NULL), NULL);
}

static void hmp_snapshot_internal(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "blockdev-snapshot-internal-sync", hmp_dict("device", args->text[0], "name", args->text[1], NULL), NULL);
}

static void hmp_snapshot_delete_internal(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "blockdev-snapshot-delete-internal-sync",
            hmp_dict("device", args->text[0], "name", args->text[1], "id", args->text[2], NULL), NULL);
}

/* --- NBD --- */

/* "unix:PATH", "HOST:PORT", "[IPV6]:PORT", ":PORT" */
static Error *parse_address(const char *text, Value **ret_address)
{
    const char *colon = strrchr(text, ':');
    Value *data;

    if (g_str_has_prefix(text, "unix:")) {
        data = hmp_dict("path", text + 5, NULL);
    } else if (colon && colon[1]) {
        const char *host = text;
        size_t length = (size_t)(colon - text);
        if (length > 1 && host[0] == '[' && host[length - 1] == ']') {
            host++;
            length -= 2;
        }
        g_autofree char *name = g_strndup(host, length);
        data = hmp_dict("host", name, "port", colon + 1, NULL);
    } else {
        return error_new("error parsing address '%s': HOST:PORT or unix:PATH is expected", text);
    }
    *ret_address = hmp_dict("type", g_str_has_prefix(text, "unix:") ? "unix" : "inet", NULL);
    value_put(*ret_address, "data", data);
    return NULL;
}

static bool export_drive(Hmp *hmp, const char *name, bool writable)
{
    Value *request = hmp_dict("device", name, NULL);
    value_put_bool(request, "writable", writable);
    return hmp_qmp(hmp, "nbd-server-add", request, NULL);
}

static void hmp_nbd_server_start(Hmp *hmp, const HmpArgs *args)
{
    Value *request = value_dict(), *address;
    Error *err = args->flag['w'] && !args->flag['a'] ? error_new("-w makes an export of -a "
                                                                 "writable: it needs -a")
                                                     : parse_address(args->text[0], &address);
    if (err) {
        value_free(request);
        hmp_error(hmp, err);
        return;
    }
    value_put(request, "addr", address);
    if (!hmp_qmp(hmp, "nbd-server-start", request, NULL)) {
        return;
    }
    for (BlockBackend *blk = NULL; args->flag['a'] && (blk = blk_next(graph_of(hmp), blk));) {
        if (blk_node(blk) && *blk_name(blk) && !export_drive(hmp, blk_name(blk), args->flag['w'])) {
            hmp_qmp(hmp, "nbd-server-stop", NULL, NULL);
            return;
        }
    }
}

static void hmp_nbd_server_add(Hmp *hmp, const HmpArgs *args)
{
    Value *request = hmp_dict("device", args->text[0], "name", args->text[1], NULL);
    value_put_bool(request, "writable", args->flag['w']);
    hmp_qmp(hmp, "nbd-server-add", request, NULL);
}

static void hmp_nbd_server_remove(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "nbd-server-remove", hmp_dict("name", args->text[0], "mode", args->flag['f'] ? "hard" : "safe", NULL), NULL);
}

static void hmp_nbd_server_stop(Hmp *hmp, const HmpArgs *args)
{
    hmp_qmp(hmp, "nbd-server-stop", NULL, NULL);
}

const HmpCommand hmp_commands_block[] = {
    { "block_job_cancel", "-fs", "[-f] device", "stop an active background block operation (-f: even a mirror that is ready)", hmp_job_cancel, 'b' },
    { "block_job_complete", "s", "device", "stop an active background block operation after it is ready", hmp_job_complete, 'b' },
    { "block_job_pause", "s", "device", "stop a block job for a while", hmp_job_pause, 'b' },
    { "block_job_resume", "s", "device", "let a stopped block job go on", hmp_job_resume, 'b' },
    { "block_job_set_speed", "se", "device speed", "set maximum speed for a background block operation (bytes/s)", hmp_job_set_speed, 'b' },
    { "block_resize", "ss", "device size", "resize a block image (MiB, or with a suffix)", hmp_block_resize, 'b' },
    { "block_set_io_throttle", "seeeeee", "device bps bps_rd bps_wr iops iops_rd iops_wr", "change I/O limits of a drive",
      hmp_block_set_io_throttle, 'b' },
    { "block_stream", "s?es", "device [speed [base]]",
      "take the data of the backing files into the image itself", hmp_block_stream, 'b' },
    { "commit", "s", "device|all", "commit changes to the backing file of a drive, or of all", hmp_commit, 'b' },
    { "drive_add", "-nsS", "[-n] [[<domain>:]<bus>:]<slot> options", "add a drive (if=none), or with -n a block node", hmp_drive_add },
    { "drive_backup", "-n-f-css?s", "[-n] [-f] [-c] device target [format]",
      "copy a drive as it is now (-n: into an image that is there; -f: the whole chain; -c: compressed)", hmp_drive_backup, 'b' },
    { "drive_del", "s", "device", "remove a drive from the host's side", hmp_drive_del, 'b' },
    { "drive_mirror", "-n-fss?s", "[-n] [-f] device target [format]",
      "copy a drive and go on with the copy (-n: into an image that is there; -f: the whole chain)", hmp_drive_mirror, 'b' },
    { "nbd_server_add", "-ws?s", "[-w] device [name]", "export a block device by NBD", hmp_nbd_server_add, 'b' },
    { "nbd_server_remove", "-fs", "[-f] name", "remove an export of the NBD server", hmp_nbd_server_remove },
    { "nbd_server_start", "-a-ws", "[-a] [-w] host:port", "serve block devices by NBD (-a: all; -w: writable)", hmp_nbd_server_start },
    { "nbd_server_stop", "", "", "stop serving block devices by NBD", hmp_nbd_server_stop },
    { "qemu-io", "-dss", "[-d] device \"command\"",
      "do one command of qemu-io on an image", hmp_qemu_io, 'b' },
    { "snapshot_blkdev", "-ns?ss", "[-n] device [new-image-file] [format]", "put an overlay over a drive's image", hmp_snapshot_blkdev, 'b' },
    { "snapshot_blkdev_internal", "ss", "device name", "take an internal snapshot of a device", hmp_snapshot_internal, 'b' },
    { "snapshot_delete_blkdev_internal", "ss?s", "device name [id]", "delete an internal snapshot of a device",
      hmp_snapshot_delete_internal, 'b' },
    { 0 },
};
