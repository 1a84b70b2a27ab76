/*
 * Names for translated code in a debugger on the host (GDB's JIT compilation interface): guest-ADDRESS for each block.
 */
#ifndef OSTRICH_DBT_RUN_GDB_JIT_H
#define OSTRICH_DBT_RUN_GDB_JIT_H

#include "base/base.h"

typedef struct GdbJit GdbJit;

GdbJit *gdb_jit_new(void);
void gdb_jit_free(GdbJit *jit);
/* Code of the block at guest address pc; calls come in ascending order of code. */
void gdb_jit_add(GdbJit *jit, const uint8_t *code, size_t size, uint64_t pc);
/* All code goes. */
void gdb_jit_clear(GdbJit *jit);

#endif
