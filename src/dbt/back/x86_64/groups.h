/*
 * Groups of accesses: which memory operands of a block lie at known distances from each other, so that one look
 * into the soft TLB serves them all (DBT.md section 7.4).
 */
#ifndef OSTRICH_DBT_BACK_GROUPS_H
#define OSTRICH_DBT_BACK_GROUPS_H

#include "dbt/ir/uop.h"

enum { GROUPS_MAX = 8, GROUP_SPAN_MAX = 256, GROUPS_MAX_UOPS = 160 };

typedef struct AccessPlan {
    uint8_t group;   /* 1..GROUPS_MAX; 0: an access of its own */
    bool leads;      /* makes the check for the group: [low, low + span) from its registers, all in one page */
    bool keep;       /* of a leader: others find the address in the context, because rcx will be used in between */
    bool writes;     /* of a leader that reads: others write, so its check is one for writing */
    bool direct;     /* of a leader: each member's own base register says its address */
    bool loaded;     /* of the others: rcx still holds it */
    int16_t at;      /* bytes from the group's lowest address */
    int32_t low;
    uint16_t span;
} AccessPlan;

/*
 * Fills a plan for each uop (liveness must be known). keeps_flags: leaders can check with flags live; promotes: one that
 * reads may check for others that write.
 */
void groups_plan(const Uop *uops, unsigned count, bool mode64, bool keeps_flags, bool promotes, AccessPlan *ret_plan);

#endif
