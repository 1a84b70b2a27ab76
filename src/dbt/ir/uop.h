/*
 * Micro-operations: what lies between decoded guest instructions and host code (DBT.md section 4).
 *
 * Guest registers are first-class operands, and the arithmetic flags are an implicit value in two groups
 * that liveness tracks. UOP_OP carries a host instruction (its opcode with the meaning of the register
 * fields); everything with a meaning of its own has its own kind. The table in uop.c is the specification
 * that the verifier and the text form use.
 */
#ifndef OSTRICH_DBT_IR_UOP_H
#define OSTRICH_DBT_IR_UOP_H

#include "base/base.h"

typedef enum UopKind {
    UOP_NOP,
    UOP_OP,       /* host instruction: reg field, r/m (register or memory), immediate */
    UOP_MOVI,     /* reg = imm */
    UOP_LEA,      /* reg = address */
    UOP_BYTES,    /* host instruction without ModRM on rax, rdx and flags: imm holds the bytes; code, disp: what they mean */
    UOP_BSWAP,    /* reg */
    UOP_SHIFT_CL, /* as OP, the count is guest CL */
    UOP_CMPXCHG_PAIR, /* CMPXCHG8B, CMPXCHG16B */
    UOP_BIT_MEM,  /* BT, BTS, BTR, BTC of bit reg of the string at the memory operand */
    UOP_PUSH,     /* reg, or imm */
    UOP_PUSH_MEM,
    UOP_POP,      /* reg */
    UOP_LEAVE,
    UOP_VEC,      /* as OP; xmm registers where the attributes say */
    UOP_X87,      /* opcode D8..DF: memory by attr, else imm is the ModRM byte */
    UOP_FLDCW,    /* refused when it unmasks an exception */
    UOP_LDMXCSR,  /* likewise */
    UOP_BMI,      /* VEX-encoded on general registers: reg, vex_v, r/m */
    UOP_FLAG_IF,  /* imm: new value of IF; CPL and IOPL allow it */
    UOP_FLAG_DF,  /* imm: new value of DF */
    UOP_STRING,   /* STOS, with UA_RM_R MOVS, of size bytes by addresses of asize bytes; imm 1: REP */
    UOP_PUSHF,
    UOP_RDTSC,    /* imm 1: RDTSCP */
    UOP_PAUSE,    /* now and then gives the host CPU away: who is waited for may need it */
    UOP_READ_SEL, /* reg = selector of segment register imm */
    UOP_INTERP,   /* the interpreter executes the guest instruction; control comes back */
    /* Ends of a block. */
    UOP_JCC,      /* to imm when cond; a side exit: the block goes on */
    UOP_JCXZ,     /* to imm when the count register (size bytes) is 0; kind in cond: 0 JCXZ, 1 LOOP, 2 LOOPE, 3 LOOPNE */
    UOP_JMP,      /* to imm */
    UOP_CALL,     /* pushes disp, goes to imm */
    UOP_RET,      /* pops; imm more bytes */
    UOP_JMP_REG, UOP_JMP_MEM, UOP_CALL_REG, UOP_CALL_MEM, /* indirect; CALL: imm is the return address */
    UOP_INTERP_END, /* the interpreter executes it, then the dispatcher looks where it went */
    UOP_KINDS,
} UopKind;

/* Groups of arithmetic flags. FL_RECORD: code that follows may ask the record of them (env.h). */
enum { FL_C = 1, FL_OSZAP = 2, FL_ALL = 3, FL_RECORD = 4 };

enum { /* Uop.attr */
    UA_MEM = BIT(0),      /* r/m is memory: base, index, scale, disp, seg */
    UA_REG_R = BIT(1), UA_REG_W = BIT(2), /* the reg field is a register, read, written */
    UA_RM_R = BIT(3), UA_RM_W = BIT(4),
    UA_REG_HIGH = BIT(5), UA_RM_HIGH = BIT(6), /* AH CH DH BH */
    UA_NO_MEM_FORM = BIT(7), /* the memory form means something else than the register form: BT, XCHG */
    UA_REG_XMM = BIT(8), UA_RM_XMM = BIT(9),
    UA_ALIGN = BIT(10),   /* memory operand must be aligned to its size */
    UA_TRAPS = BIT(11),   /* the host instruction may raise SIGFPE: DIV */
    UA_VEX = BIT(12),     /* VEX encoding: vex fields */
    UA_YMM = BIT(13),
    UA_REG_GPR32 = BIT(14),
    UA_BACKWARD = BIT(15), /* a branch that needs a poll */
    UA_X87 = BIT(16),      /* needs the x87 registers: x87 and MMX */
    UA_XMM = BIT(17),      /* needs the vector registers */
    UA_INSIDE = BIT(18),   /* of a region: a branch to another part of it, whose number is in part */
    UA_HOISTED = BIT(19),  /* of a region: its address is checked before the loop */
};

enum { UOP_NO_REG = 0xff };

typedef struct Uop {
    uint8_t kind;
    uint8_t insn;       /* index of the guest instruction in the block */
    uint8_t size;       /* operand size in bytes */
    uint8_t mem_size;   /* bytes accessed */
    uint32_t attr;
    uint8_t reg, rm;    /* guest registers 0..15, or the opcode extension in reg */
    uint32_t code;      /* opcode, as back/x86_64/encode.h writes it: map and prefix bits included */
    uint8_t imm_size;   /* bytes of imm to append */
    uint8_t cond;
    uint8_t uses, defs; /* FL_*; defs: surely written */
    uint8_t writes;     /* FL_*: perhaps written */
    uint8_t live_in;    /* FL_*: by uop_liveness() */
    uint8_t exit_live;  /* at a branch that is taken: groups that EFLAGS hold; FL_RECORD: the record holds all */
    bool record;        /* the record is to be made behind it */
    uint8_t part;       /* UA_INSIDE: where it goes */
    uint8_t base, index, scale, seg; /* seg: 0 flat, 1 FS, 2 GS */
    uint8_t asize;
    uint8_t vex_v, vex_w;
    int64_t disp;
    uint64_t imm;
} Uop;

/*
 * A region is a loop: parts that are entered at their first uop only and end with a jump. The first is the head. Branches
 * inside lead to later parts, or back to the head.
 */
enum { UOP_MAX_PARTS = 24 };
typedef struct UopPart {
    uint16_t first, count; /* its uops */
} UopPart;

/* How much is known about the flags where a block leaves: groups that are read there, and FL_RECORD when more may be. */
typedef uint8_t UopExitLive(void *opaque, const Uop *uop, uint64_t target);
/*
 * Fills live_in, exit_live and record, from the last uop to the first; returns what is live at the block's
 * entry. exit_live says which groups matter at a target; it is only asked where the answer changes code.
 * Indirect jumps, returns and the interpreter find all flags in the record.
 */
uint8_t uop_liveness(Uop *uops, unsigned count, UopExitLive *exit_live, void *opaque);
/* The same for a region; returns what is live at its head. */
uint8_t uop_region_liveness(Uop *uops, const UopPart *parts, unsigned part_count, UopExitLive *exit_live, void *opaque);
/* True when the uop contains an inline check, jump-cache probe or poll that would destroy live flags. */
bool uop_clobbers(const Uop *uop);
static inline bool uop_ends_block(const Uop *uop)
{
    return uop->kind >= UOP_JMP;
}
/* NULL, or what is wrong with the sequence. */
const char *uop_verify(const Uop *uops, unsigned count);
/* One line per uop. Caller frees. */
char *uop_text(const Uop *uops, unsigned count);

#endif
