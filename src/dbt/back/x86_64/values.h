/*
 * What is known about registers while uops go by: each holds an unknown value, by number, plus a constant. An unknown
 * result gets a new number; a copy, LEA and the addition of a constant (PUSH and POP included) keep the number and
 * change the distance from it. Two addresses with the same number lie at a known distance from each other.
 */
#ifndef OSTRICH_DBT_BACK_VALUES_H
#define OSTRICH_DBT_BACK_VALUES_H

#include "dbt/ir/uop.h"

typedef struct Value {
    uint32_t number;
    int64_t offset;
} Value;

typedef struct Values {
    Value reg[16];
    uint32_t next;
    unsigned full; /* bytes of a whole register: 8 or 4 */
} Values;

/* The one memory operand of a uop. */
typedef struct Access {
    unsigned base, index, scale; /* UOP_NO_REG: none */
    unsigned size;
    int64_t disp;
    bool write;
} Access;

/* All registers are unknown: register n has number first + n. */
void values_start(Values *v, uint32_t first, unsigned full);
void values_fresh(Values *v, unsigned reg);
void values_fresh_all(Values *v);
/* What the uop leaves in the registers. */
void values_after(Values *v, const Uop *u);
/* True when access.c makes the access of the uop and nothing but the address is to be checked. */
bool values_access(const Uop *u, Access *ret_access);

#endif
