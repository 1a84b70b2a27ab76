/*
 * Record and replay of disks: a request of a device completes between two instructions of the guest, at a place that is
 * recorded (core/vm/inlet.h), and completes there again when the run is replayed.
 *
 * Requests are numbered in the order in which devices make them, which repeats by itself. When one has its result in the
 * host it is kept, and the completion is posted; only where that is delivered does the guest see data and interrupt. So
 * that this is all it sees, data go through a copy: what is written is what the guest's memory held when it asked, what
 * is read comes into its memory at the completion. A replay makes each request again, on images that have to be as they
 * were when the recording began, and waits at the recorded place for those that the host has not finished.
 *
 * What a device drains (reset) completes right there, in the order of the numbers; its records are passed over.
 */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "block/backend_priv.h"
#include "core/vm/inlet.h"

enum { RECORD_SIZE = 12 };

static BlockBackend *first_backend(BlockGraph *graph)
{
    return LIST_FIRST(&graph->backends, BlockBackend, node_in_graph);
}

/* NULL: it was drained. */
static BlkRequest *find_request(BlockGraph *graph, uint64_t number)
{
    for (BlockBackend *blk = first_backend(graph); blk; blk = blk_next(graph, blk)) {
        LIST_FOREACH (req, &blk->requests, BlkRequest, node) {
            if (req->number == number) {
                return req;
            }
        }
    }
    return NULL;
}

static bool moves_data(const BlkRequest *req)
{
    return req->op == BLK_READ || req->op == BLK_WRITE;
}

void blk_replay_begin(BlkRequest *req)
{
    BlockGraph *graph = req->blk->graph;
    if (!graph->inlet) {
        return;
    }
    req->awaited = true;
    graph->inlet->awaited++;
    if (req->number) { /* was held after an error, and is made again */
        return;
    }
    req->number = ++graph->recorded;
    if (!moves_data(req) || !(req->copy = g_try_malloc(req->bytes))) {
        return;
    }
    req->guest = req->vec;
    req->copy_iov = (struct iovec) { req->copy, req->bytes };
    req->vec = (BlockVec) { &req->copy_iov, 1 };
    if (req->op == BLK_WRITE) {
        block_vec_to_buffer(&req->guest, 0, req->copy, req->bytes);
    }
}

void blk_replay_held(BlkRequest *req)
{
    if (req->blk->graph->inlet && req->awaited) {
        req->blk->graph->inlet->awaited--;
    }
    req->awaited = false;
}

bool blk_replay_finished(BlkRequest *req)
{
    Inlet *inlet = req->blk->graph->inlet;
    uint8_t record[RECORD_SIZE];

    if (!inlet || !req->number) {
        return false;
    }
    blk_replay_held(req);
    req->finished = true;
    st64_le(record, req->number);
    st32_le(record + 8, (uint32_t)req->ret);
    inlet->post(inlet, INLET_BLOCK, "", record, sizeof(record));
    pthread_cond_broadcast(&req->blk->idle);
    return true;
}

static void complete(BlkRequest *req)
{
    if (req->copy && req->op == BLK_READ && req->ret >= 0) {
        block_vec_from_buffer(&req->guest, 0, req->copy, req->bytes);
    }
    blk_request_complete(req);
}

bool blk_replay_drained(BlockBackend *blk)
{
    if (!blk->graph->inlet) {
        return false;
    }
    LIST_FOREACH (req, &blk->requests, BlkRequest, node) {
        if (!req->finished) {
            return false;
        }
    }
    complete(LIST_FIRST(&blk->requests, BlkRequest, node));
    return true;
}

/* --- the inlet's side --- */

static bool completion_ready(Machine *machine, const uint8_t *data, size_t length)
{
    const BlkRequest *req = length == RECORD_SIZE
        ? find_request(machine->inlet->block, ld64_le(data)) : NULL;
    return !req || req->finished;
}

static void take_completion(Machine *machine, const char *id, const uint8_t *data, size_t length)
{
    BlkRequest *req = length == RECORD_SIZE
        ? find_request(machine->inlet->block, ld64_le(data)) : NULL;
    if (!req || !req->finished) {
        return;
    }
    int32_t ret = (int32_t)ld32_le(data + 8);
    if (ret >= 0 && req->ret < 0) {
        warn_report("replay: a request to '%s' fails which worked when it was recorded: %s",
                    blk_device(req->blk) ? blk_device(req->blk) : blk_name(req->blk), g_strerror(-req->ret));
    } else {
        req->ret = ret;
    }
    complete(req);
}

static BlkRequest *first_finished(BlockBackend *blk)
{
    LIST_FOREACH (req, &blk->requests, BlkRequest, node) {
        if (req->finished) {
            return req;
        }
    }
    return NULL;
}

/* The recording has ended: nothing waits for its place any more. */
static void complete_finished(BlockGraph *graph)
{
    for (BlockBackend *blk = first_backend(graph); blk; blk = blk_next(graph, blk)) {
        blk_ref(blk);
        for (BlkRequest *req; (req = first_finished(blk));) {
            complete(req);
        }
        blk_unref(blk);
    }
}

void block_graph_set_inlet(BlockGraph *graph, Machine *machine)
{
    graph->inlet = machine->inlet;
    if (machine->inlet) {
        machine->inlet->block = graph;
        machine->inlet->ready[INLET_BLOCK] = completion_ready;
        inlet_set_handler(machine, INLET_BLOCK, take_completion);
    } else {
        complete_finished(graph);
    }
}
