/*
 * What a guest may see after a crash, sector by sector. The journal has every request of the guest
 * with the moments at which it began and ended, as positions in the recorder's log; a crash is a
 * position in that log.
 *
 * What a completed flush covers must be there. Of what came later, any request may or may not have
 * reached the disk, each sector by itself.
 */
#ifndef OSTRICH_TESTS_CRASH_MODEL_H
#define OSTRICH_TESTS_CRASH_MODEL_H

#include "base/base.h"

enum { SECTOR = 512, CRASH_NEVER = -1u };

typedef enum GuestKind {
    GUEST_WRITE,
    GUEST_ZERO,
    GUEST_DISCARD, /* old contents or zeroes */
    GUEST_FLUSH,
    GUEST_RESIZE,  /* bytes: the new size; offset: the old one */
    GUEST_CREATE,  /* a snapshot: data is what it holds, bytes its size */
    GUEST_APPLY,
    GUEST_DELETE,
} GuestKind;

typedef struct GuestOp {
    GuestKind kind;
    uint64_t offset, bytes;
    uint8_t *data;                  /* owned; NULL where the kind has none */
    unsigned snapshot;              /* number, for GUEST_CREATE and the like */
    unsigned began, ended;          /* positions in the log */
    unsigned began_seq, ended_seq;  /* order among the requests */
} GuestOp;

typedef struct Journal {
    GPtrArray *ops; /* GuestOp */
    uint64_t size;  /* of the disk at the start */
    const uint8_t *initial;
    unsigned seq;
} Journal;

void journal_init(Journal *j, uint64_t size, const uint8_t *initial);
void journal_fini(Journal *j);
/* data is copied. */
GuestOp *journal_begin(Journal *j, GuestKind kind, uint64_t offset, uint64_t bytes,
                       const uint8_t *data, unsigned log);
void journal_end(Journal *j, GuestOp *op, unsigned log);

/* What one sector may hold. */
typedef struct Allowed {
    GPtrArray *values; /* const uint8_t *, a sector each; NULL: zeroes */
    bool any;
} Allowed;

typedef struct Verdict {
    unsigned log;        /* the crash */
    Allowed *sectors;
    uint64_t count;      /* sectors that the largest possible disk has */
    uint64_t sizes[8];   /* possible sizes */
    unsigned size_count;
    const Journal *journal;
} Verdict;

Verdict *verdict_new(const Journal *j, unsigned log);
void verdict_free(Verdict *v);
/* NULL, or what is wrong. Caller frees. */
char *verdict_judge_disk(const Verdict *v, const uint8_t *data, uint64_t size);
/* must: it has to be there; must_not: it may not. Neither: either is right. */
void verdict_snapshot(const Verdict *v, const GuestOp *create, bool *ret_must, bool *ret_must_not);

#endif
