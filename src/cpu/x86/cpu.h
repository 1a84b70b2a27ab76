/*
 * Architectural state of an x86 CPU, laid out for the translator (DBT.md sections 5 and 7).
 *
 * The struct is a whole number of pages and is followed in memory by the soft TLB of context 0. Its last
 * 192 bytes are what translated code reaches with short displacements from its context pointer rbp,
 * which points just behind the struct, at the TLB:
 *
 *     rbp-192  gpr[0..7]     rbp-128  gpr[8..15]     rbp-64  hot     rbp+0  tlb[]
 *
 * More contexts (address spaces, privilege levels) map the same pages again in front of another TLB, so
 * that selecting one is one load of rbp. cpu->tlb is the current one's, as the interpreter uses it.
 *
 * Threads: only the vCPU's own thread, except hot.exit_req and fields marked any thread.
 */
#ifndef OSTRICH_CPU_X86_CPU_H
#define OSTRICH_CPU_X86_CPU_H

#include <setjmp.h>

#include "core/vm/vcpu.h"

enum { X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RSP, X86_RBP, X86_RSI, X86_RDI, X86_R8, X86_R15 = 15 };
enum { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_SEG_COUNT };

/* RFLAGS */
enum {
    X86_CF = BIT(0),
    X86_PF = BIT(2),
    X86_AF = BIT(4),
    X86_ZF = BIT(6),
    X86_SF = BIT(7),
    X86_TF = BIT(8),
    X86_IF = BIT(9),
    X86_DF = BIT(10),
    X86_OF = BIT(11),
    X86_IOPL = 3 << 12,
    X86_NT = BIT(14),
    X86_RF = BIT(16),
    X86_VM = BIT(17),
    X86_AC = BIT(18),
    X86_VIF = BIT(19),
    X86_VIP = BIT(20),
    X86_ID = BIT(21),
    X86_ARITH = X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF,
};

/* Control registers */
enum {
    CR0_PE = BIT(0),
    CR0_MP = BIT(1),
    CR0_EM = BIT(2),
    CR0_TS = BIT(3),
    CR0_ET = BIT(4),
    CR0_NE = BIT(5),
    CR0_WP = BIT(16),
    CR0_AM = BIT(18),
    CR0_NW = BIT(29),
    CR0_CD = BIT(30),
    CR0_PG = BIT(31),
};
enum {
    CR4_VME = BIT(0),
    CR4_PVI = BIT(1),
    CR4_TSD = BIT(2),
    CR4_DE = BIT(3),
    CR4_PSE = BIT(4),
    CR4_PAE = BIT(5),
    CR4_MCE = BIT(6),
    CR4_PGE = BIT(7),
    CR4_PCE = BIT(8),
    CR4_OSFXSR = BIT(9),
    CR4_OSXMMEXCPT = BIT(10),
    CR4_UMIP = BIT(11),
    CR4_LA57 = BIT(12),
    CR4_VMXE = BIT(13),
    CR4_SMXE = BIT(14),
    CR4_FSGSBASE = BIT(16),
    CR4_PCIDE = BIT(17),
    CR4_OSXSAVE = BIT(18),
    CR4_SMEP = BIT(20),
    CR4_SMAP = BIT(21),
    CR4_PKE = BIT(22),
    CR4_PKS = BIT(24),
};
enum {
    EFER_SCE = BIT(0),
    EFER_LME = BIT(8),
    EFER_LMA = BIT(10),
    EFER_NXE = BIT(11),
    EFER_SVME = BIT(12),
    EFER_FFXSR = BIT(14),
};

/* Exception vectors */
enum {
    EXC_DE = 0, EXC_DB = 1, EXC_NMI = 2, EXC_BP = 3, EXC_OF = 4, EXC_BR = 5, EXC_UD = 6, EXC_NM = 7,
    EXC_DF = 8, EXC_TS = 10, EXC_NP = 11, EXC_SS = 12, EXC_GP = 13, EXC_PF = 14, EXC_MF = 16,
    EXC_AC = 17, EXC_MC = 18, EXC_XM = 19,
};

/*
 * A segment register with its hidden part. attr holds descriptor bits 40..55 of the access byte and flags:
 * bits 0-3 type, 4 S, 5-6 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G. limit is in bytes, G applied.
 */
typedef struct X86Seg {
    uint16_t sel;
    uint16_t attr;
    uint32_t limit;
    uint64_t base;
} X86Seg;
enum { SEG_TYPE = 15, SEG_S = BIT(4), SEG_P = BIT(7), SEG_L = BIT(13), SEG_DB = BIT(14), SEG_G = BIT(15) };
#define SEG_DPL(attr) (((attr) >> 5) & 3)

/*
 * One soft TLB entry (DBT.md 7.1). tag: the page's virtual address, or X86_TLB_INVALID(index): an
 * address that would be looked up elsewhere, as would its neighbours, so that none at all hits. rtag
 * serves data reads, wtag writes. host is the page's host address. A tag is invalid where the access needs
 * the slow path: MMIO, ROM and clean pages or pages with code for writes, watchpoints.
 * Entry of va: index (va >> 12) & (X86_TLB_SIZE - 1).
 */
typedef struct X86Tlbe {
    uint64_t rtag, wtag;
    uint64_t host;
    uint64_t meta; /* bits 12..: physical page address; low bits: X86_TLB_* */
} X86Tlbe;
#define X86_TLB_BITS    14
#define X86_TLB_SIZE    (1u << X86_TLB_BITS)
#define X86_TLB_INVALID(index) (1ull << 63 | (uint64_t)((index) ^ X86_TLB_SIZE / 2) << 12)
enum { X86_TLB_GLOBAL = 1, X86_TLB_LARGE = 2, X86_TLB_NX = 4 };

/*
 * What one place of translated code, or a few, found in the TLB last: the page whose read (or write) tag it was,
 * where it lies, the entry's meta, and how far host addresses are from the guest's. It needs no index, and pages that
 * compete for an entry do not compete here. A site without a page has a tag that no canonical address has, and for whoever tries that one a page
 * of nothing.
 */
typedef struct X86Site {
    uint64_t tag, host, meta, addend;
} X86Site;
#define X86_SITES    256u
#define X86_SITE_TAG 0xaf5e3c1a97b4d000ull
typedef struct X86Sites {
    X86Site site[X86_SITES];
    uint64_t used[X86_SITES / 64]; /* bit n: site n has a page; perhaps */
    uint8_t nothing[4096];
} X86Sites;

/*
 * The mode word (DBT.md 8): everything besides the bytes and the address that decides what an instruction
 * means. Made by x86_mode() alone, kept in hot.mode by whoever changes what it depends on.
 */
enum {
    X86_MODE_CS32 = BIT(0),     /* CS.D in legacy and compatibility mode */
    X86_MODE_CS64 = BIT(1),     /* 64-bit code */
    X86_MODE_SS32 = BIT(2),     /* SS.B: stack pointer width (64-bit mode: set too) */
    X86_MODE_PE = BIT(3),       /* protected mode */
    X86_MODE_VM86 = BIT(4),
    X86_MODE_LMA = BIT(5),      /* long mode active */
    X86_MODE_CPL_SHIFT = 6,     /* 2 bits */
    X86_MODE_CPL = 3 << 6,
    X86_MODE_FLAT = BIT(8),     /* CS, DS, ES, SS: base 0 and no limit to check (64-bit: always) */
    X86_MODE_TS = BIT(9),       /* CR0.TS */
    X86_MODE_EM = BIT(10),      /* CR0.EM */
    X86_MODE_MP = BIT(11),      /* CR0.MP */
    X86_MODE_OSFXSR = BIT(12),
    X86_MODE_OSXSAVE = BIT(13), /* CR4.OSXSAVE */
    X86_MODE_AVX = BIT(14),     /* XCR0 has SSE and AVX */
    X86_MODE_AC = BIT(15),      /* alignment checks on: CR0.AM, EFLAGS.AC, CPL 3 */
    X86_MODE_TF = BIT(16),      /* single-step */
    X86_MODE_IOPL_OK = BIT(17), /* CPL <= IOPL */
    X86_MODE_SMM = BIT(18),
    X86_MODE_PG = BIT(19),
    X86_MODE_UMIP = BIT(20),
    X86_MODE_NE = BIT(21),      /* CR0.NE */
    X86_MODE_OSXMMEXCPT = BIT(22),
    X86_MODE_FSGSBASE = BIT(23),
    X86_MODE_DF = BIT(24),      /* reserved for translated code that assumes DF = 0; x86_mode() never sets it */
    X86_MODE_AVX512 = BIT(25),
    X86_MODE_SVM = BIT(26),     /* in a guest of SVM */
    X86_MODE_LBR = BIT(27),     /* branches are recorded (DEBUGCTL.LBR); interpreted only */
};

typedef struct X86Hot {
    _Atomic uint32_t exit_req; /* VCPU_REQ_*; any thread; rbp-64 */
    uint32_t mode;             /* rbp-60 */
    uint64_t rflags;           /* rbp-56: all RFLAGS bits; bit 1 is always set */
    uint64_t rip;              /* rbp-48: of the instruction under way (virtual, without CS.base) */
    uint64_t fs_base, gs_base; /* rbp-40, rbp-32: copies of seg[].base */
    uint64_t scratch[3];       /* rbp-24: the translator's */
} X86Hot;

typedef union X86Vec {
    uint8_t b[64];
    uint16_t w[32];
    uint32_t d[16];
    uint64_t q[8];
    float ss[16];
    double sd[8];
} X86Vec;

/* x87 and SSE in the FXSAVE64 image's own layout, so that host instructions load and store it directly. */
typedef struct X86Fx {
    uint16_t fcw, fsw;
    uint8_t ftw; /* abridged tag: bit set = register in use */
    uint8_t reserved;
    uint16_t fop;
    uint64_t fip, fdp; /* 64-bit pointers; selectors are kept in X86Cpu.fcs, fds */
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];  /* st(i) relative to TOP, 80 bits used */
    uint8_t xmm[16][16]; /* scratch for host loads; the guest's XMM live in X86Cpu.vec */
    uint8_t unused[96];
} X86Fx;
_Static_assert(sizeof(X86Fx) == 512, "FXSAVE image");

typedef struct X86Model X86Model;

/* Leaf/subleaf answers of CPUID are made by x86_cpuid() from these feature words. */
enum {
    X86_FEAT_1_EDX, X86_FEAT_1_ECX, X86_FEAT_7_EBX, X86_FEAT_7_ECX, X86_FEAT_7_EDX, X86_FEAT_7_1_EAX,
    X86_FEAT_8000_0001_EDX, X86_FEAT_8000_0001_ECX, X86_FEAT_8000_0007_EDX, X86_FEAT_8000_0008_EBX,
    X86_FEAT_D_1_EAX, X86_FEAT_6_EAX, X86_FEAT_SVM, X86_FEAT_KVM, X86_FEAT_HV, X86_FEAT_ARCH_CAPS,
    X86_FEAT_KVM_HINTS, X86_FEAT_C000_0001_EDX, X86_FEAT_12_0_EAX, X86_FEAT_12_0_EBX, X86_FEAT_12_1_EAX, X86_FEAT_CORE_CAPS,
    X86_FEAT_14_0_ECX, X86_FEAT_PERF_CAPS, X86_FEAT_VMX_PIN, X86_FEAT_VMX_PROC, X86_FEAT_VMX_PROC2, X86_FEAT_VMX_EXIT,
    X86_FEAT_VMX_ENTRY, X86_FEAT_VMX_MISC, X86_FEAT_VMX_EPT, X86_FEAT_VMX_VPID, X86_FEAT_VMX_BASIC, X86_FEAT_VMX_VMFUNC,
    X86_FEAT_WORDS,
};

/* What #VMEXIT gives back to the host. */
typedef struct X86BranchRecord { /* DEBUGCTL and the last branch and interrupt: MSRs 1D9h, 1DBh to 1DEh */
    uint64_t control, from, to, int_from, int_to;
} X86BranchRecord;

typedef struct X86SvmHost {
    X86Seg es, cs, ss, ds;
    X86BranchRecord branch;
    uint64_t gdt_base, idt_base;
    uint32_t gdt_limit, idt_limit;
    uint64_t efer, cr0, cr3, cr4, rflags, rip, rsp, rax, pat;
} X86SvmHost;

/* SVM (svm.h). All zero: no guest, GIF set. */
typedef struct X86Svm {
    bool guest;   /* between VMRUN and #VMEXIT */
    bool gif_off; /* global interrupt flag clear */
    bool guest_in_smm; /* an SMI came in the guest: RSM returns there */
    bool nested_paging, intr_masking, own_branches; /* own_branches: LBR virtualization */
    bool v_irq, v_ignore_tpr, v_gif_enabled, v_gif;
    uint8_t v_tpr, v_priority, v_vector;
    uint16_t pause_count, pause_threshold, pause_left;
    uint32_t intercept[6]; /* bit n: exit code n */
    uint32_t asid;
    uint64_t vmcb, iopm, msrpm, nested_cr3, tsc_offset;
    uint64_t pause_last;   /* TSC of the last PAUSE */
    uint64_t delivering;   /* the event whose delivery is under way, as EXITINTINFO has it */
    uint64_t npf_info, npf_address; /* of the last nested page fault */
    X86SvmHost host;
} X86Svm;

typedef struct X86Cpu X86Cpu;
struct X86Cpu {
    Vcpu *vcpu;
    AddressSpace *as, *io;

    /* Segments and system tables. seg[].base of FS and GS is mirrored in hot. */
    X86Seg seg[X86_SEG_COUNT], ldt, tr;
    struct { uint64_t base; uint32_t limit; } gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8;
    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t dr[8];
    uint64_t pat, tsc_offset, tsc_aux, tsc_adjust, misc_enable, apic_base, smbase, feature_control;
    uint64_t tsc_deadline;
    uint64_t mtrr_def, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
    uint64_t mcg_status, mcg_ctl, mc_banks[4 * 10];
    uint64_t xcr0, xss, pkru, pkrs, spec_ctrl;
    uint8_t cpl;
    bool smm, nmi_blocked, in_wait_for_sipi;
    uint8_t int_shadow; /* instructions left during which interrupts are held off (STI, MOV SS) */
    bool a20;           /* false: bit 20 of physical addresses is forced to 0 */
    uint64_t phys_mask; /* of valid physical address bits */

    /* FPU and vectors. */
    X86Fx fx __attribute__((aligned(64)));
    uint8_t fx_xsave[64]; /* makes fx an XSAVE area for the translator: the header behind the legacy region */
    uint16_t fcs, fds;
    X86Vec vec[32] __attribute__((aligned(64)));
    uint64_t opmask[8];

    /* Model. */
    uint32_t features[X86_FEAT_WORDS];
    const X86Model *model;
    uint32_t cpuid_level, cpuid_xlevel, family, model_id, stepping;
    char vendor[13], model_name[49];
    uint32_t cores, threads, dies;
    uint32_t apic_id;
    uint8_t sipi_vector;
    _Atomic bool nmi_again; /* exc: a second NMI came before the first was taken; any thread */

    /* Faults: see exc.h. fault_jmp is where x86_raise() goes. */
    jmp_buf *fault_jmp;
    struct { uint8_t vector; bool has_error, soft, is_int; uint32_t error; uint64_t next_rip; uint64_t dr6; } fault;

    /* Rarely used state of the files named. */
    uint64_t pdpte[4];       /* mmu: PAE page-directory pointers, loaded with CR3 */
    uint64_t debug_pending;  /* exc: DR6 bits of data and I/O breakpoints to report after the instruction */
    uint64_t power_ctl, tsx_ctrl; /* msr */
    X86BranchRecord branch; /* msr */
    uint64_t therm_interrupt, therm2, misc_features, vm_hsave_pa, vm_cr;
    uint8_t phys_bits;
    bool bsp;                /* bootstrap processor */
    uint8_t phys_bits_wanted; /* models: -cpu options */
    uint32_t min_level, min_xlevel, min_xlevel2, cpuid_xlevel2;
    bool legacy_cache, l3_cache, check_cpuid, enforce_cpuid, host_phys_bits, kvm_signature, tcg_signature;
    bool leaf_b, auto_level, migratable, pmu, lmce;
    bool smi_in_halt;        /* smm: SMI interrupted HLT */
    bool smm_in_nmi;         /* smm: NMIs were blocked when it came */
    bool shutdown;           /* after a triple fault: only NMI, SMI, INIT and RESET wake it */
    uint32_t held;           /* exc: VCPU_REQ_* that cannot be taken now; see x86_release_requests() */
    const DebugPoints *debug; /* of a debugger, NULL: none; see core/vm/debug.h */
    X86Svm svm;
    AddressSpace *normal_as; /* smm: what `as` was outside SMM */
    void *time;              /* tsc.c: the machine's common time-stamp counter */
    void *split;             /* mmu: the machine's split-lock mutex */

    /* Soft TLB and its bookkeeping (mmu.c). */
    X86Tlbe *tlb;       /* of the current context */
    unsigned context;
    void *mmu;          /* X86Mmu, private to mmu.c */
    void *interp;       /* decoded-instruction cache, private to interp.c */
    uint64_t next_rip;  /* interpreter: where the instruction under way goes on; handlers that branch set it */
    uint32_t map_changes; /* mmu.c: counts flushes of translations, of any kind */
    bool interp_stop;   /* interpreter: leave the run of decoded instructions after this one */
    void *code;         /* codepage.c */
    void *dbt;          /* the translator's */
    void *apic;         /* the local APIC device (hw/intc), through apic.h */
    void *native;       /* host stubs of vector and x87 instructions, private to native.c */
    const IrqLine *ferr; /* borrowed; NULL: not wired */

    uint64_t saved_tsc;       /* state.c: only valid in a saved state */
    uint32_t saved_requests;

    uint64_t insn_count; /* instructions retired by the interpreter */
    bool counted;        /* the machine counts instructions (core/vm/icount.h) */
    struct { /* what translated code keeps beside registers (dbt/ir/env.h) */
        uint64_t temp;
        uint64_t flags_a, flags_b; /* the record of the arithmetic flags: see FlagsRecord there */
        uint32_t flags_kind;
        uint32_t pauses;  /* PAUSE instructions until the host CPU is given away */
        int64_t budget;   /* counted: instructions that translated code may still begin */
        uint64_t granted; /* what it was, less what the interpreter took of it */
        uint64_t host[8]; /* where groups of accesses lie (dbt/back/x86_64/groups.c) */
        uint64_t turns_first; /* what the number of turns was, while a region is on trial */
        uint64_t hoisted[8], turns; /* of the loop under way: the same, and how many turns are left (dbt/back/x86_64/region.h) */
    } jit;

    uint8_t pad_[0] __attribute__((aligned(64)));
};

/*
 * The whole allocation: X86Cpu lies at the start of a page-multiple area whose end holds gpr and hot.
 * Both are reached through the accessors below, which compile to fixed displacements.
 */
#define X86_CPU_AREA 8192u /* bytes from X86Cpu to the TLB of context 0 */
typedef struct X86Tail {
    uint64_t gpr[16];
    X86Hot hot;
} X86Tail;
_Static_assert(sizeof(X86Tail) == 192, "translated code depends on it");
_Static_assert(sizeof(X86Cpu) <= X86_CPU_AREA - sizeof(X86Tail), "raise X86_CPU_AREA by pages");

static inline X86Tail *x86_tail(X86Cpu *cpu)
{
    return (X86Tail *)((char *)cpu + X86_CPU_AREA - sizeof(X86Tail));
}
#define x86_gpr(cpu) (x86_tail(cpu)->gpr)
#define x86_hot(cpu) (&x86_tail(cpu)->hot)

/* Contexts: the same X86Cpu pages mapped again every X86_CONTEXT_STRIDE bytes, each with its own TLB. */
#define X86_CONTEXT_AREA   (X86_CPU_AREA + X86_TLB_SIZE * sizeof(X86Tlbe) + sizeof(X86Sites))
#define X86_CONTEXT_STRIDE (1 * MiB)
enum {
    X86_CTX_KERNEL = 0,  /* supervisor; SMAP enforced when CR4.SMAP */
    X86_CTX_KERNEL_AC,   /* supervisor with EFLAGS.AC = 1 */
    X86_CTX_USER,        /* CPL 3 */
    X86_CTX_COUNT,
};
static inline X86Tlbe *x86_context_tlb(X86Cpu *cpu, unsigned context)
{
    return (X86Tlbe *)((char *)cpu + context * X86_CONTEXT_STRIDE + X86_CPU_AREA);
}

static inline X86Sites *x86_context_sites(X86Cpu *cpu, unsigned context)
{
    return (X86Sites *)(x86_context_tlb(cpu, context) + X86_TLB_SIZE);
}

/* The memory area is a memfd mapped X86_CTX_COUNT times. Registers are as after power-on. */
Error *x86_cpu_new(Vcpu *vcpu, X86Cpu **ret_cpu) MUST_USE;
void x86_cpu_free(X86Cpu *cpu);
void x86_cpu_reset(X86Cpu *cpu, bool init); /* init: INIT signal, keeps what INIT keeps */
/* The A20 gate: takes effect before the CPU's next instruction. Any thread. */
void x86_set_a20(X86Cpu *cpu, bool on);
/* Start-up interrupt: starts a CPU that waits for it, ignored by others. Any thread. */
void x86_sipi(X86Cpu *cpu, uint8_t vector);
/* A non-maskable interrupt. Two may wait until the first is taken, one while its handler runs. Any thread. */
void x86_send_nmi(X86Cpu *cpu);
static inline X86Cpu *x86_cpu_of(Vcpu *vcpu)
{
    return vcpu->arch;
}
/* Computes the mode word from the state. */
uint32_t x86_mode(const X86Cpu *cpu);
/* To be called after any change of CPL, CR0, CR4, EFER, CS, SS, DS, ES, FLAGS.{AC,VM,TF,IOPL}, XCR0: sets
 * hot.mode and selects the context and cpu->tlb. */
void x86_mode_changed(X86Cpu *cpu);
extern const CpuOps x86_cpu_ops;

#endif
