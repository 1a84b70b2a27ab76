/*
 * Where translated code finds the guest's state, relative to the context pointer (cpu/x86/cpu.h, which
 * front/x86 checks these numbers against). The soft TLB lies at the pointer itself.
 */
#ifndef OSTRICH_DBT_IR_ENV_H
#define OSTRICH_DBT_IR_ENV_H

enum {
    ENV_GPR = -192,
    ENV_EXIT_REQ = -64,
    ENV_MODE = -60,
    ENV_RFLAGS = -56,
    ENV_RIP = -48,
    ENV_FS_BASE = -40,
    ENV_GS_BASE = -32,
    ENV_RESUME = -24,   /* thunks: where to go on */
    ENV_PAYLOAD = -16,  /* thunks: return address or exit number */
    ENV_VEC_LIVE = -8,  /* byte: guest vectors are in host registers */
    ENV_VEC_WAS = -7,   /* byte: thunks */
    ENV_VEC_WIDE = -6,  /* byte: vectors have 256 bits */
    ENV_X87_LIVE = -5, ENV_X87_WAS = -4,
    ENV_TLB_ENTRY_BITS = 5, ENV_TLB_BITS = 10,
    ENV_TLB_READ = 0, ENV_TLB_WRITE = 8, ENV_TLB_HOST = 16,
    ENV_ARITH_FLAGS = 0x8d5,
    ENV_IF_FLAG = 0x200,
};

#endif
