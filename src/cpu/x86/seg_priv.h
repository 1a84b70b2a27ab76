/*
 * Private to exc.c, seg*.c, task.c, syscall.c: descriptors and stack frames.
 */
#ifndef OSTRICH_CPU_X86_SEG_PRIV_H
#define OSTRICH_CPU_X86_SEG_PRIV_H

#include <inttypes.h>

#include "cpu/x86/exc.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/seg.h"

/* An 8-byte descriptor. */
typedef struct Desc {
    uint32_t lo, hi;
} Desc;
enum { /* in hi */
    DESC_A = BIT(8),
    DESC_RW = BIT(9),   /* data: writable, code: readable */
    DESC_CE = BIT(10),  /* data: expand-down, code: conforming */
    DESC_CODE = BIT(11),
    DESC_S = BIT(12),
    DESC_P = BIT(15),
    DESC_L = BIT(21),
    DESC_DB = BIT(22),
    DESC_GRAN = BIT(23),
};
enum { /* system types */
    SYS_TSS16 = 1, SYS_LDT = 2, SYS_TSS16_BUSY = 3, SYS_CALL16 = 4, SYS_TASK = 5, SYS_INT16 = 6,
    SYS_TRAP16 = 7, SYS_TSS32 = 9, SYS_TSS32_BUSY = 11, SYS_CALL32 = 12, SYS_INT32 = 14, SYS_TRAP32 = 15,
};

static inline unsigned desc_type(const Desc *d) { return d->hi >> 8 & 15; }
static inline unsigned desc_dpl(const Desc *d) { return d->hi >> 13 & 3; }
static inline bool desc_present(const Desc *d) { return d->hi & DESC_P; }
static inline bool desc_is_code(const Desc *d)
{
    return (d->hi & (DESC_S | DESC_CODE)) == (DESC_S | DESC_CODE);
}
static inline bool desc_is_data(const Desc *d) { return (d->hi & (DESC_S | DESC_CODE)) == DESC_S; }
static inline bool desc_is_conforming(const Desc *d) { return desc_is_code(d) && (d->hi & DESC_CE); }
static inline bool desc_is_writable(const Desc *d) { return desc_is_data(d) && (d->hi & DESC_RW); }
static inline uint32_t desc_base(const Desc *d)
{
    return d->lo >> 16 | (d->hi & 0xff) << 16 | (d->hi & 0xff000000);
}
static inline uint32_t desc_limit(const Desc *d)
{
    uint32_t limit = (d->lo & 0xffff) | (d->hi & 0xf0000);
    return d->hi & DESC_GRAN ? limit << 12 | 0xfff : limit;
}

/* False: null table or outside its limit. *ret_addr is the descriptor's linear address. */
bool desc_fetch(X86Cpu *cpu, uint16_t selector, Desc *ret_desc, uint64_t *ret_addr);
/* Bits 63..32 of the base in the second half of a 16-byte system descriptor; false: outside the limit or bad. */
bool desc_fetch_upper(X86Cpu *cpu, uint16_t selector, uint32_t *ret_upper);
/* Sets the accessed bit in memory when it is clear. */
void desc_set_accessed(X86Cpu *cpu, uint64_t addr);
/* The hidden part that this descriptor gives. */
void seg_from_desc(X86Seg *ret_seg, uint16_t selector, const Desc *desc);
/* A segment's attributes packed into 12 bits, as state-save maps and VMCBs keep them. */
static inline uint16_t seg_pack_attr(uint16_t attr)
{
    return (uint16_t)((attr & 0xff) | (attr >> 4 & 0xf00));
}
static inline uint16_t seg_unpack_attr(uint64_t packed)
{
    return (uint16_t)((packed & 0xff) | (packed & 0xf00) << 4);
}
/* Loads a register (with the copy of FS's and GS's base); the caller calls x86_mode_changed(). */
void seg_set(X86Cpu *cpu, unsigned n, const X86Seg *seg);
/* After the privilege dropped: DS, ES, FS, GS that the new level may not use become null. */
void seg_revoke(X86Cpu *cpu);
/* Whether [offset, offset + length) lies in the segment. */
bool seg_contains(const X86Seg *seg, uint32_t offset, uint32_t length);

/* Stack pointer of an inner level from the TSS; `extern_bit` goes into error codes. */
void tss_stack(X86Cpu *cpu, unsigned level, uint32_t extern_bit, uint16_t *ret_ss, uint64_t *ret_sp);
/* RSP0..2 (index 0 to 2) or IST1..7 (index 4 to 10) of a 64-bit TSS. */
uint64_t tss_stack64(X86Cpu *cpu, unsigned index, uint32_t extern_bit);
/* Checks a stack segment from the TSS for level cpl (#TS, #SS). Returns the descriptor's address. */
uint64_t stack_segment(X86Cpu *cpu, uint16_t selector, unsigned cpl, uint32_t extern_bit, X86Seg *ret_ss);

/*
 * A stack frame being built: pushes are gathered, then checked and written together, so that a fault
 * leaves no trace. The stack may be one that is not loaded yet.
 */
enum { FRAME_SLOTS = 48 };
typedef struct Frame {
    X86Cpu *cpu;
    X86Seg ss;
    uint64_t sp, mask;
    unsigned size, as_who, count;
    uint64_t slot[FRAME_SLOTS];
} Frame;
void frame_begin(Frame *frame, X86Cpu *cpu, const X86Seg *ss, uint64_t sp, unsigned size, unsigned as_who);
static inline void frame_push(Frame *frame, uint64_t value)
{
    assert(frame->count < FRAME_SLOTS);
    frame->slot[frame->count++] = value;
}
/* Raises `vector` with `error` when the frame does not fit, page faults; else writes and moves frame->sp. */
void frame_write(Frame *frame, unsigned vector, uint32_t error);
/* Commits frame->sp to RSP, by the width of that stack. */
void frame_set_rsp(const Frame *frame);

/* Reads slot n (of `size` bytes) above the current stack pointer. */
uint64_t stack_peek(X86Cpu *cpu, unsigned n, unsigned size);
/* The same at an offset in bytes. */
uint64_t stack_peek_at(X86Cpu *cpu, uint64_t offset, unsigned size);
void stack_set(X86Cpu *cpu, uint64_t sp);
static inline bool mode64(const X86Cpu *cpu)
{
    return x86_hot((X86Cpu *)cpu)->mode & X86_MODE_CS64;
}
static inline bool real_or_vm86(const X86Cpu *cpu)
{
    return (x86_hot((X86Cpu *)cpu)->mode & (X86_MODE_PE | X86_MODE_VM86)) != X86_MODE_PE;
}
bool x86_canonical(const X86Cpu *cpu, uint64_t va);

/* A task gate in the IDT. */
void task_gate(X86Cpu *cpu, uint16_t selector, uint64_t return_rip, uint64_t flags, bool has_error,
               uint32_t error, uint32_t extern_bit);
/* JMP or CALL to a TSS or task gate selector, privileges checked by the caller. */
void task_transfer(X86Cpu *cpu, uint16_t selector, X86TaskSwitch kind, uint64_t next_rip);

#endif
