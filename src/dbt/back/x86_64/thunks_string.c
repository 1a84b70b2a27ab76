/*
 * STOS and MOVS in bulk: where both ends lie in plain RAM that the soft TLB has, the host's own REP STOS and REP MOVS
 * do what fits into one page, page by page. Registers are up to date after each piece. What this cannot have (DF,
 * MMIO, code, an element on two pages, faults) and what may wait (a request behind a piece) is for the interpreter, which
 * takes the instruction up where it stands.
 *
 * A thunk's answer is in rcx: 0 when all is done. Flags are dead. Intel SDM volume 1, 7.3.9.
 */
#include "dbt/back/x86_64/thunks_priv.h"

enum { DF_BYTE = 0x04, PAGE = 4096 };

typedef struct Bulk {
    Asm *a;
    unsigned shift, address; /* log2 of the element; bytes of an address: 4 or 8 */
} Bulk;

/* The TLB entry of the page at `reg` and the offset in it, to ecx and r14; jumps to where a miss is seen to. */
static uint8_t *find_page(const Bulk *b, unsigned reg, bool write)
{
    Asm *a = b->a;
    enc_mov(a, 4, H_RCX, reg);
    enc_mov(a, 8, H_R14, reg);
    enc_shr_imm(a, 4, H_RCX, 12 - ENV_TLB_ENTRY_BITS);
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_RCX), ((1 << ENV_TLB_BITS) - 1) << ENV_TLB_ENTRY_BITS);
    enc_alu(a, ALU_SUB, 8, H_R14, enc_mem_index(H_RBP, H_RCX, 0, write ? ENV_TLB_WRITE : ENV_TLB_READ));
    enc_alu_imm(a, ALU_CMP, 8, enc_reg(H_R14), PAGE - (1 << b->shift));
    return enc_jcc(a, CC_A, NULL);
}

/* Behind find_page(): the host address to `dst`. */
static void host_address(const Bulk *b, unsigned dst)
{
    enc_load(b->a, 8, dst, enc_mem_index(H_RBP, H_RCX, 0, ENV_TLB_HOST));
    enc_alu(b->a, ALU_ADD, 8, dst, enc_reg(H_R14));
}

static void min_to_r14(const Bulk *b, unsigned size, EncRm other)
{
    enc_alu(b->a, ALU_CMP, size, H_R14, other);
    enc_op(b->a, 0x47 | E_0F | (size == 8 ? E_W : 0), H_R14, other); /* cmova */
}

/* Moves a pointer by the elements in r14: to reg from base. */
static void move_on(const Bulk *b, unsigned reg, unsigned base)
{
    enc_lea(b->a, b->address, reg, enc_mem_index(base, H_R14, b->shift, 0));
}

/*
 * One piece: r14 elements, from the pages that were found. In: rbx the target's host address, r14 its page offset; for MOVS
 * rdx the source's host address, and in the spare bytes what its page has left.
 */
static void emit_piece(const HostEnv *env, const Bulk *b, bool moves)
{
    Asm *a = b->a;
    enc_op(a, 0xf7, 3, enc_reg(H_R14)); /* neg: bytes left in the target's page */
    enc_alu_imm(a, ALU_ADD, 4, enc_reg(H_R14), PAGE);
    if (moves) {
        min_to_r14(b, 4, enc_mem(H_RBP, env->temp));
    }
    if (b->shift != 0) {
        enc_shr_imm(a, 4, H_R14, b->shift);
    }
    min_to_r14(b, 8, enc_reg(H_R12));
    enc_mov(a, 8, H_RCX, H_R14);
    enc_op(a, 0x87 | E_W, H_RDI, enc_reg(H_RBX)); /* xchg */
    if (moves) {
        enc_op(a, 0x87 | E_W, H_RSI, enc_reg(H_RDX));
    }
    enc_u8(a, 0xf3);
    if (b->shift == 1) {
        enc_u8(a, 0x66);
    } else if (b->shift == 3) {
        enc_u8(a, 0x48);
    }
    enc_u8(a, (uint8_t)((moves ? 0xa4 : 0xaa) | (b->shift != 0)));
    move_on(b, H_RDI, H_RBX);
    if (moves) {
        move_on(b, H_RSI, H_RDX);
    }
    enc_alu(a, ALU_SUB, b->address, H_R12, enc_reg(H_R14));
}

/* The common miss, as in emit_slow(); goes back to `again` when it helped. */
static void emit_miss(const HostEnv *env, Asm *a, const HostCalls *calls, unsigned reg, bool write, const uint8_t *again)
{
    enc_mov(a, 8, H_R14, reg);
    thunks_call_refill(env, a, calls, write);
    enc_jcc(a, CC_NE, again);
}

static void emit_end(Asm *a, uint32_t answer)
{
    enc_pop(a, H_RBX);
    enc_pop(a, H_RDX);
    enc_mov_imm(a, H_RCX, answer);
    enc_u8(a, 0xc3);
}

static const uint8_t *emit_repeated(const HostEnv *env, Asm *a, const HostCalls *calls, bool moves, unsigned shift,
                                    unsigned address)
{
    const Bulk bulk = { a, shift, address }, *b = &bulk;
    enc_align(a, 16);
    const uint8_t *thunk = enc_here(a);
    enc_push(a, H_RDX);
    enc_push(a, H_RBX);
    enc_op(a, 0xf6 | E_BYTE_RM, 0, enc_mem(H_RBP, ENV_RFLAGS + 1)); /* test */
    enc_u8(a, DF_BYTE);
    uint8_t *backward = enc_jcc(a, CC_NE, NULL);
    if (address == 4) {
        enc_mov(a, 4, H_R12, H_R12);
        enc_mov(a, 4, H_RDI, H_RDI);
        if (moves) {
            enc_mov(a, 4, H_RSI, H_RSI);
        }
    }
    enc_op(a, 0x85 | E_W, H_R12, enc_reg(H_R12));
    uint8_t *nothing = enc_jcc(a, CC_E, NULL);
    const uint8_t *again = enc_here(a);
    uint8_t *no_source = NULL;
    if (moves) {
        no_source = find_page(b, H_RSI, false);
        host_address(b, H_RDX);
        enc_mov_imm(a, H_RCX, PAGE);
        enc_alu(a, ALU_SUB, 4, H_RCX, enc_reg(H_R14));
        enc_store(a, 4, enc_mem(H_RBP, env->temp), H_RCX);
    }
    const uint8_t *target = enc_here(a); /* the source's page may have to give way in the TLB: not again */
    uint8_t *no_target = find_page(b, H_RDI, true);
    host_address(b, H_RBX);
    emit_piece(env, b, moves);
    uint8_t *done = enc_jcc(a, CC_E, NULL);
    enc_alu_imm(a, ALU_CMP, 4, enc_mem(H_RBP, ENV_EXIT_REQ), 0);
    enc_jcc(a, CC_E, again);
    enc_patch_rel32(backward, a->run_delta, enc_here(a));
    const uint8_t *give_up = enc_here(a);
    emit_end(a, 1);
    enc_patch_rel32(nothing, a->run_delta, enc_here(a));
    enc_patch_rel32(done, a->run_delta, enc_here(a));
    emit_end(a, 0);
    enc_patch_rel32(no_target, a->run_delta, enc_here(a));
    emit_miss(env, a, calls, H_RDI, true, target);
    enc_jmp(a, give_up);
    if (moves) {
        enc_patch_rel32(no_source, a->run_delta, enc_here(a));
        emit_miss(env, a, calls, H_RSI, false, again);
        enc_jmp(a, give_up);
    }
    return thunk;
}

/* Without REP: once, whatever rcx is. */
static const uint8_t *emit_once(Asm *a, const uint8_t *repeated)
{
    enc_align(a, 16);
    const uint8_t *thunk = enc_here(a);
    enc_push(a, H_R12);
    enc_mov_imm(a, H_R12, 1);
    enc_call(a, repeated);
    enc_pop(a, H_R12);
    enc_u8(a, 0xc3);
    return thunk;
}

void thunks_emit_string(HostEnv *env, Asm *a, const HostCalls *calls)
{
    for (unsigned n = 0; n < STRING_KINDS; n += 2) {
        env->string[n] = emit_repeated(env, a, calls, n & STRING_MOVES, n >> STRING_SHIFT & 3, n & STRING_LONG ? 8 : 4);
        env->string[n | STRING_ONCE] = emit_once(a, env->string[n]);
    }
}
