/*
 * The node that a job puts above the one it works on, while it runs: users see it by name, and in a
 * mirror in write-blocking mode it writes to the target what the guest writes.
 *
 * Who copies a range to the target holds it: background copies and writes of the guest never meet in
 * one, so the target never gets older data than it has. Ranges are whole units of the bitmap.
 */
#ifndef OSTRICH_BLOCK_JOB_FILTER_H
#define OSTRICH_BLOCK_JOB_FILTER_H

#include "block/bitmap.h"
#include "block/node.h"

typedef struct CopyRange {
    uint64_t offset, end;
    CoQueue waiters;
    ListNode node;
} CopyRange;

typedef struct CopyRanges {
    List held; /* CopyRange */
} CopyRanges;

void copy_range_hold_co(CopyRanges *ranges, CopyRange *range, uint64_t offset, uint64_t bytes, uint64_t unit);
void copy_range_drop(CopyRange *range);

/* What a filter in write-blocking mode works with. */
typedef struct ActiveMirror {
    BlockNode *target;
    BlockBitmap *todo; /* what the target lacks */
    CopyRanges *ranges;
    bool unmap;
} ActiveMirror;

typedef enum JobFilterKind { JOB_FILTER_MIRROR, JOB_FILTER_COMMIT, JOB_FILTER_BACKUP, JOB_FILTER_STREAM } JobFilterKind;

/* name NULL: a made-up one. active (borrowed until the filter is removed): NULL: it only passes on. The caller
 * owns the reference, which job_filter_remove_co() gives up. */
Error *job_filter_insert(BlockNode *below, JobFilterKind kind, const char *name, ActiveMirror *active,
                         BlockNode **ret_filter) MUST_USE;
void job_filter_remove_co(BlockNode *filter); /* accepts NULL */

#endif
