/* The model of the crash test: see crash_model.h. */
#include "crash_model.h"

#include <string.h>

static void op_free(void *opaque)
{
    GuestOp *op = opaque;
    g_free(op->data);
    g_free(op);
}

void journal_init(Journal *j, uint64_t size, const uint8_t *initial)
{
    *j = (Journal) { .size = size, .initial = initial };
    j->ops = g_ptr_array_new_with_free_func(op_free);
}

void journal_fini(Journal *j)
{
    g_ptr_array_unref(j->ops);
}

GuestOp *journal_begin(Journal *j, GuestKind kind, uint64_t offset, uint64_t bytes,
                       const uint8_t *data, unsigned log)
{
    GuestOp *op = g_new0(GuestOp, 1);
    *op = (GuestOp) { .kind = kind, .offset = offset, .bytes = bytes, .began = log };
    op->data = data ? g_memdup2(data, bytes) : NULL;
    op->began_seq = j->seq++;
    op->ended = op->ended_seq = CRASH_NEVER;
    g_ptr_array_add(j->ops, op);
    return op;
}

void journal_end(Journal *j, GuestOp *op, unsigned log)
{
    op->ended = log;
    op->ended_seq = j->seq++;
}

/* --- one sector --- */

static void only(Allowed *a, const uint8_t *value)
{
    g_ptr_array_set_size(a->values, 0);
    g_ptr_array_add(a->values, (void *)value);
    a->any = false;
}

static void also(Allowed *a, const uint8_t *value)
{
    g_ptr_array_add(a->values, (void *)value);
}

static void put(Allowed *a, const uint8_t *value, bool certain)
{
    certain ? only(a, value) : also(a, value);
}

/* --- the whole disk --- */

static bool ended_by(const GuestOp *op, unsigned log)
{
    return op->ended != CRASH_NEVER && op->ended <= log;
}

/* Whether a flush that came after the request had ended was itself over. */
static bool durable(const Verdict *v, const GuestOp *op)
{
    if (!ended_by(op, v->log)) {
        return false;
    }
    if (op->kind == GUEST_CREATE || op->kind == GUEST_APPLY || op->kind == GUEST_DELETE) {
        return true; /* these are on the disk when they end */
    }
    for (guint i = 0; i < v->journal->ops->len; i++) {
        const GuestOp *f = g_ptr_array_index(v->journal->ops, i);
        if ((f->kind == GUEST_FLUSH || f->kind == GUEST_CREATE) && ended_by(f, v->log) &&
            f->began_seq > op->ended_seq) {
            return true;
        }
    }
    return false;
}

static const GuestOp *snapshot_made(const Verdict *v, unsigned snapshot)
{
    for (guint i = 0; i < v->journal->ops->len; i++) {
        const GuestOp *op = g_ptr_array_index(v->journal->ops, i);
        if (op->kind == GUEST_CREATE && op->snapshot == snapshot) {
            return op;
        }
    }
    g_assert_not_reached();
}

static void note_resize(Verdict *v, const GuestOp *op, bool certain)
{
    if (certain) {
        v->size_count = 0;
    }
    v->sizes[v->size_count++ % ARRAY_SIZE(v->sizes)] = op->bytes;
    for (uint64_t s = op->offset / SECTOR; s < op->bytes / SECTOR; s++) {
        only(&v->sectors[s], NULL); /* whoever sees it sees zeroes */
    }
    for (uint64_t s = op->bytes / SECTOR; s < op->offset / SECTOR; s++) {
        v->sectors[s].any = true; /* given up: while it is still there, it may be anything */
    }
}

static void note_op(Verdict *v, const GuestOp *op)
{
    bool certain = durable(v, op);
    const uint8_t *data = op->data;

    if (op->kind == GUEST_FLUSH || op->kind == GUEST_CREATE || op->kind == GUEST_DELETE) {
        return;
    }
    if (op->kind == GUEST_RESIZE) {
        note_resize(v, op, certain);
        return;
    }
    uint64_t first = op->offset / SECTOR, bytes = op->bytes;
    if (op->kind == GUEST_APPLY) {
        const GuestOp *made = snapshot_made(v, op->snapshot);
        first = 0;
        bytes = made->bytes;
        data = made->data;
    }
    for (uint64_t i = 0; i < bytes / SECTOR && first + i < v->count; i++) {
        put(&v->sectors[first + i], data ? data + i * SECTOR : NULL,
            certain && op->kind != GUEST_DISCARD);
    }
}

static uint64_t largest(const Journal *j)
{
    uint64_t size = j->size;
    for (guint i = 0; i < j->ops->len; i++) {
        const GuestOp *op = g_ptr_array_index(j->ops, i);
        size = op->kind == GUEST_RESIZE ? MAX(size, op->bytes) : size;
    }
    return size;
}

Verdict *verdict_new(const Journal *j, unsigned log)
{
    Verdict *v = g_new0(Verdict, 1);
    v->journal = j;
    v->log = log;
    v->count = largest(j) / SECTOR;
    v->sectors = g_new0(Allowed, v->count);
    v->sizes[v->size_count++] = j->size;
    for (uint64_t s = 0; s < v->count; s++) {
        v->sectors[s].values = g_ptr_array_new();
        also(&v->sectors[s], s < j->size / SECTOR ? j->initial + s * SECTOR : NULL);
    }
    for (guint i = 0; i < j->ops->len; i++) {
        const GuestOp *op = g_ptr_array_index(j->ops, i);
        if (op->began <= log) {
            note_op(v, op);
        }
    }
    return v;
}

void verdict_free(Verdict *v)
{
    for (uint64_t s = 0; s < v->count; s++) {
        g_ptr_array_unref(v->sectors[s].values);
    }
    g_free(v->sectors);
    g_free(v);
}

static bool is_allowed(const Allowed *a, const uint8_t *data)
{
    static const uint8_t zeroes[SECTOR];
    for (guint i = a->values->len; i-- > 0;) {
        const uint8_t *value = g_ptr_array_index(a->values, i);
        if (!memcmp(data, value ? value : zeroes, SECTOR)) {
            return true;
        }
    }
    return a->any;
}

char *verdict_judge_disk(const Verdict *v, const uint8_t *data, uint64_t size)
{
    bool right_size = false;
    for (unsigned i = 0; i < MIN(v->size_count, ARRAY_SIZE(v->sizes)); i++) {
        right_size |= v->sizes[i] == size;
    }
    if (!right_size) {
        return g_strdup_printf("the disk has %" G_GUINT64_FORMAT " bytes", size);
    }
    for (uint64_t s = 0; s < size / SECTOR; s++) {
        if (!is_allowed(&v->sectors[s], data + s * SECTOR)) {
            return g_strdup_printf("sector %" G_GUINT64_FORMAT " holds %02x %02x..., which is not "
                                   "among %u allowed values",
                                   s, data[s * SECTOR], data[s * SECTOR + 1],
                                   v->sectors[s].values->len);
        }
    }
    return NULL;
}

void verdict_snapshot(const Verdict *v, const GuestOp *create, bool *ret_must, bool *ret_must_not)
{
    *ret_must = ended_by(create, v->log);
    *ret_must_not = create->began > v->log;
    for (guint i = 0; i < v->journal->ops->len; i++) {
        const GuestOp *op = g_ptr_array_index(v->journal->ops, i);
        if (op->kind == GUEST_DELETE && op->snapshot == create->snapshot && op->began <= v->log) {
            *ret_must = false;
            *ret_must_not = ended_by(op, v->log);
        }
    }
}
