/* Between the files that generate thunks. */
#ifndef OSTRICH_DBT_BACK_THUNKS_PRIV_H
#define OSTRICH_DBT_BACK_THUNKS_PRIV_H

#include "dbt/back/x86_64/lower.h"
#include "dbt/ir/env.h"

/* Asks C for the page of the address in r14, with all guest registers kept; the zero flag: it has to be done another way. */
void thunks_call_refill(const HostEnv *env, Asm *a, const HostCalls *calls, bool write);
/* --- thunks_string.c --- */
void thunks_emit_string(HostEnv *env, Asm *a, const HostCalls *calls);

#endif
