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
    ENV_TLB_ENTRY_BITS = 5, ENV_TLB_BITS = 14,
    ENV_TLB_READ = 0, ENV_TLB_WRITE = 8, ENV_TLB_HOST = 16, ENV_TLB_META = 24,
    ENV_SITES = 1 << (ENV_TLB_BITS + ENV_TLB_ENTRY_BITS), /* X86Site: what single places found in the TLB last */
    ENV_SITE_BITS = 5, ENV_SITE_TAG = 0, ENV_SITE_HOST = 8, ENV_SITE_META = 16, ENV_SITE_ADDEND = 24,
    ENV_SITE_STACK = 0, /* the site of all reads of the stack, and the next one of all writes */
    ENV_SITE_FIRST = 2, ENV_SITE_COUNT = 256, /* of hot blocks' own */
    ENV_ARITH_FLAGS = 0x8d5,
    ENV_IF_FLAG = 0x200,
    ENV_DF_FLAG = 0x400,
};

/*
 * The record of the arithmetic flags: what made them, from which the run-time makes them anew when somebody
 * asks. Code writes it where flags might be read behind an indirect jump or in code not seen yet, which
 * hardly ever comes true, so that it need not keep EFLAGS alive over its address checks.
 *
 * flags_kind is FlagsRecord | log2 of the operand size << 4; with FLAGS_IMM the second operand is the signed
 * number in bits 8 to 31, else it is flags_b.
 */
typedef enum FlagsRecord {
    FLAGS_VALUE,   /* a: the flags themselves, in their places */
    FLAGS_RAW,     /* a: SETO in bits 0 to 7, LAHF in bits 8 to 15 */
    FLAGS_LOGIC,   /* a: the result of AND, OR, XOR */
    FLAGS_TEST,    /* a AND b */
    FLAGS_CMP,     /* a - b */
    FLAGS_SUB,     /* a: the difference, b: what was subtracted */
    FLAGS_ADD,     /* a: the sum, b: what was added */
    FLAGS_NEG,     /* a: the result */
    FLAGS_IMM = 128,
} FlagsRecord;

#endif
