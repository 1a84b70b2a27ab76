/*
 * FXSAVE, FXRSTOR, the XSAVE family, MXCSR. SDM volume 1 chapter 13, volume 2.
 *
 * Components: x87, SSE, AVX and PKRU. Whether one is in use (XINUSE) is found by comparing it with its
 * initial state; XSAVEOPT and XSAVES use that and do not track modifications.
 */
#include "base/bits.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/native_priv.h"
#include "cpu/x86/sys.h"

enum { XC_X87, XC_SSE, XC_AVX, XC_PKRU = 9 };
enum { X_X87 = BIT(XC_X87), X_SSE = BIT(XC_SSE), X_AVX = BIT(XC_AVX), X_PKRU = BIT(XC_PKRU) };
#define X_COMPACTED BIT64(63)

/* Fields of the legacy region and what follows. */
enum {
    AREA_MXCSR = 24, AREA_ST = 32, AREA_XMM = 160, AREA_HEADER = 512, AREA_EXTENDED = 576, AREA_MAX = 2696,
};

unsigned x86_xsave_offset(unsigned component)
{
    return component == XC_AVX ? 576 : component == XC_PKRU ? 2688 : 0;
}

unsigned x86_xsave_size(unsigned component)
{
    return component == XC_AVX ? 256 : component == XC_PKRU ? 8 : 0;
}

unsigned x86_xsave_area_size(uint64_t components, bool compacted)
{
    unsigned size = AREA_EXTENDED;
    for (unsigned i = XC_AVX; i <= XC_PKRU; i++) {
        if (components >> i & 1) {
            size = compacted ? size + x86_xsave_size(i) : x86_xsave_offset(i) + x86_xsave_size(i);
        }
    }
    return size;
}

uint64_t x86_xcr0_supported(const X86Cpu *cpu)
{
    if (!x86_has(cpu, X86_FEAT_1_ECX, 26)) {
        return 0;
    }
    uint64_t mask = X_X87 | X_SSE;
    mask |= x86_has(cpu, X86_FEAT_1_ECX, 28) ? X_AVX : 0;
    mask |= x86_has(cpu, X86_FEAT_7_ECX, 3) ? X_PKRU : 0;
    return mask;
}

uint64_t x86_xss_supported(const X86Cpu *cpu)
{
    return 0;
}

static bool code64(X86Cpu *cpu)
{
    return x86_hot(cpu)->mode & X86_MODE_CS64;
}
static unsigned vector_count(X86Cpu *cpu)
{
    return code64(cpu) ? 16 : 8;
}

static bool all_zero(const void *p, size_t length)
{
    const uint8_t *b = p;
    return length == 0 || (b[0] == 0 && memcmp(b, b + 1, length - 1) == 0);
}

/* Components that are not in their initial state. */
static uint64_t in_use(X86Cpu *cpu)
{
    const X86Fx *fx = &cpu->fx;
    uint64_t mask = 0;
    bool fpu_init = fx->fcw == 0x37f && !fx->fsw && !fx->ftw && !fx->fop && !fx->fip && !fx->fdp && !cpu->fcs &&
                    !cpu->fds && all_zero(fx->st, sizeof(fx->st));
    mask |= fpu_init ? 0 : X_X87;
    for (unsigned i = 0; i < vector_count(cpu); i++) {
        mask |= all_zero(cpu->vec[i].b, 16) ? 0 : X_SSE;
        mask |= all_zero(cpu->vec[i].b + 16, 16) ? 0 : X_AVX;
    }
    mask |= cpu->pkru ? X_PKRU : 0;
    return mask & cpu->xcr0;
}

uint64_t x86_xgetbv(X86Cpu *cpu, uint32_t index)
{
    if (index == 0) {
        return cpu->xcr0;
    }
    if (index != 1 || !x86_has(cpu, X86_FEAT_D_1_EAX, 2)) {
        x86_gp(cpu, 0);
    }
    return in_use(cpu);
}

/* --- the legacy region --- */
static void x87_pack(const X86Cpu *cpu, const X86Insn *insn, uint8_t *buf)
{
    const X86Fx *fx = &cpu->fx;
    st16_le(buf, fx->fcw);
    st16_le(buf + 2, fx->fsw);
    buf[4] = fx->ftw;
    buf[5] = 0;
    st16_le(buf + 6, fx->fop & 0x7ff);
    if (insn->rex & 8) {
        st64_le(buf + 8, fx->fip);
        st64_le(buf + 16, fx->fdp);
    } else {
        st64_le(buf + 8, (uint32_t)fx->fip | (uint64_t)cpu->fcs << 32);
        st64_le(buf + 16, (uint32_t)fx->fdp | (uint64_t)cpu->fds << 32);
    }
    for (unsigned i = 0; i < 8; i++) {
        memcpy(buf + AREA_ST + 16 * i, fx->st[i], 10);
        memset(buf + AREA_ST + 16 * i + 10, 0, 6);
    }
}

static void x87_unpack(X86Cpu *cpu, const X86Insn *insn, const uint8_t *buf)
{
    X86Fx *fx = &cpu->fx;
    fx->fcw = (ld16_le(buf) & 0x1f3f) | 0x40;
    fx->fsw = ld16_le(buf + 2);
    fx->ftw = buf[4];
    fx->fop = ld16_le(buf + 6) & 0x7ff;
    if (insn->rex & 8) {
        fx->fip = sign_extend64(ld64_le(buf + 8), 57);
        fx->fdp = ld64_le(buf + 16);
        cpu->fcs = cpu->fds = 0;
    } else {
        fx->fip = ld32_le(buf + 8);
        fx->fdp = ld32_le(buf + 16);
        bool zero = x86_has(cpu, X86_FEAT_7_EBX, 13);
        cpu->fcs = zero ? 0 : ld16_le(buf + 12);
        cpu->fds = zero ? 0 : ld16_le(buf + 20);
    }
    for (unsigned i = 0; i < 8; i++) {
        memcpy(fx->st[i], buf + AREA_ST + 16 * i, 10);
        memset(fx->st[i] + 10, 0, 6);
    }
    fpu_update_summary(cpu);
}

static void x87_init(X86Cpu *cpu)
{
    X86Fx *fx = &cpu->fx;
    fx->fcw = 0x37f;
    fx->fsw = fx->fop = 0;
    fx->ftw = 0;
    fx->fip = fx->fdp = 0;
    cpu->fcs = cpu->fds = 0;
    memset(fx->st, 0, sizeof(fx->st));
    fpu_ferr_update(cpu);
}

static void xmm_pack(X86Cpu *cpu, uint8_t *buf, unsigned half)
{
    for (unsigned i = 0; i < vector_count(cpu); i++) {
        memcpy(buf + 16 * i, cpu->vec[i].b + 16 * half, 16);
    }
}

/* buf NULL: the initial state. */
static void xmm_unpack(X86Cpu *cpu, const uint8_t *buf, unsigned half)
{
    for (unsigned i = 0; i < vector_count(cpu); i++) {
        if (buf) {
            memcpy(cpu->vec[i].b + 16 * half, buf + 16 * i, 16);
        } else {
            memset(cpu->vec[i].b + 16 * half, 0, 16);
        }
    }
}

/* --- MXCSR --- */
void x86_op_ldmxcsr(X86Cpu *cpu, const X86Insn *insn)
{
    if (insn->prefixes & PFX_VEX) {
        x86_fpu_check_avx(cpu);
    } else {
        x86_fpu_check_sse(cpu);
    }
    uint32_t value = (uint32_t)x86_load(cpu, x86_ea(cpu, insn, 4, false), 4);
    if (value & ~MXCSR_MASK) {
        x86_gp(cpu, 0);
    }
    cpu->fx.mxcsr = value;
}

void x86_op_stmxcsr(X86Cpu *cpu, const X86Insn *insn)
{
    if (insn->prefixes & PFX_VEX) {
        x86_fpu_check_avx(cpu);
    } else {
        x86_fpu_check_sse(cpu);
    }
    x86_store(cpu, x86_ea(cpu, insn, 4, true), cpu->fx.mxcsr, 4);
}

/* --- FXSAVE, FXRSTOR --- */
static uint64_t fx_address(X86Cpu *cpu, const X86Insn *insn, bool write)
{
    x86_fpu_check_x87(cpu, false);
    fpu_check_ac(cpu, x86_ea(cpu, insn, 1, write), 4);
    fpu_check_alignment(cpu, insn, 16);
    uint64_t va = x86_ea(cpu, insn, 512, write);
    x86_check(cpu, fpu_ea_at(cpu, insn, 511, 1, write), 1, write ? X86_WRITE : X86_READ, X86_AS_CPL);
    return va;
}

/* AMD's fast FXSAVE leaves the XMM registers out at CPL 0. */
static bool fx_without_xmm(X86Cpu *cpu)
{
    return (cpu->efer & EFER_FFXSR) && cpu->cpl == 0 && code64(cpu);
}

void x86_op_fxsave(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t va = fx_address(cpu, insn, true);
    uint8_t buf[416];
    x87_pack(cpu, insn, buf);
    st32_le(buf + AREA_MXCSR, cpu->fx.mxcsr);
    st32_le(buf + AREA_MXCSR + 4, MXCSR_MASK);
    xmm_pack(cpu, buf + AREA_XMM, 0);
    unsigned length = fx_without_xmm(cpu) ? AREA_XMM : AREA_XMM + 16 * vector_count(cpu);
    x86_check(cpu, va, 512, X86_WRITE, X86_AS_CPL);
    x86_store_bytes(cpu, va, buf, length, X86_AS_CPL);
}

void x86_op_fxrstor(X86Cpu *cpu, const X86Insn *insn)
{
    uint64_t va = fx_address(cpu, insn, false);
    uint8_t buf[512];
    x86_load_bytes(cpu, va, buf, sizeof(buf), X86_AS_CPL);
    uint32_t mxcsr = ld32_le(buf + AREA_MXCSR);
    if (mxcsr & ~MXCSR_MASK) {
        x86_gp(cpu, 0);
    }
    cpu->fx.mxcsr = mxcsr;
    x87_unpack(cpu, insn, buf);
    if (!fx_without_xmm(cpu)) {
        xmm_unpack(cpu, buf + AREA_XMM, 0);
    }
}

/* --- XSAVE --- */
static void xsave_check(X86Cpu *cpu)
{
    uint32_t mode = x86_hot(cpu)->mode;
    if (!(mode & X86_MODE_OSXSAVE)) {
        x86_ud(cpu);
    }
    if (mode & X86_MODE_TS) {
        x86_raise(cpu, EXC_NM);
    }
}

static uint64_t requested(X86Cpu *cpu)
{
    const uint64_t *gpr = x86_gpr(cpu);
    return (uint32_t)gpr[X86_RAX] | gpr[X86_RDX] << 32;
}

/* probe: byte of the area that the processor tries first, which shows in CR2. */
static uint64_t xsave_address(X86Cpu *cpu, const X86Insn *insn, unsigned size, bool write, unsigned probe)
{
    fpu_check_ac(cpu, x86_ea(cpu, insn, 1, write), 4);
    fpu_check_alignment(cpu, insn, 64);
    uint64_t va = x86_ea(cpu, insn, size, write);
    x86_check(cpu, fpu_ea_at(cpu, insn, probe, 1, write), 1, write ? X86_WRITE : X86_READ, X86_AS_CPL);
    return va;
}

static void store_component(X86Cpu *cpu, uint64_t va, unsigned component)
{
    uint8_t buf[256];
    unsigned size = x86_xsave_size(component);
    if (component == XC_AVX) {
        size = 16 * vector_count(cpu);
        xmm_pack(cpu, buf, 1);
    } else {
        st64_le(buf, cpu->pkru);
    }
    x86_store_bytes(cpu, va, buf, size, X86_AS_CPL);
}

/* Stores the components in `mask`; extended ones lie where `layout` (compacted) or the standard says. */
static void store_components(X86Cpu *cpu, const X86Insn *insn, uint64_t va, uint64_t mask, uint64_t layout)
{
    uint8_t buf[AREA_HEADER];
    if (mask & X_X87) {
        x87_pack(cpu, insn, buf);
        x86_store_bytes(cpu, va, buf, AREA_MXCSR, X86_AS_CPL);
        x86_store_bytes(cpu, va + AREA_ST, buf + AREA_ST, AREA_XMM - AREA_ST, X86_AS_CPL);
    }
    if (mask & X_SSE) {
        xmm_pack(cpu, buf, 0);
        x86_store_bytes(cpu, va + AREA_XMM, buf, 16 * vector_count(cpu), X86_AS_CPL);
    }
    unsigned offset = AREA_EXTENDED;
    for (unsigned i = XC_AVX; i <= XC_PKRU; i++) {
        if (mask >> i & 1) {
            store_component(cpu, va + (layout ? offset : x86_xsave_offset(i)), i);
        }
        offset += layout >> i & 1 ? x86_xsave_size(i) : 0;
    }
}

static void store_mxcsr(X86Cpu *cpu, uint64_t va)
{
    uint8_t buf[8];
    st32_le(buf, cpu->fx.mxcsr);
    st32_le(buf + 4, MXCSR_MASK);
    x86_store_bytes(cpu, va + AREA_MXCSR, buf, 8, X86_AS_CPL);
}

static void xsave_standard(X86Cpu *cpu, const X86Insn *insn, bool optimized)
{
    xsave_check(cpu);
    uint64_t rfbm = requested(cpu) & cpu->xcr0;
    unsigned size = x86_xsave_area_size(rfbm, false);
    uint64_t va = xsave_address(cpu, insn, size, true, size - 1);
    unsigned first = rfbm & X_X87 ? 0 : rfbm & (X_SSE | X_AVX) ? AREA_MXCSR : AREA_HEADER;
    x86_check(cpu, va + first, size - first, X86_WRITE, X86_AS_CPL);
    uint64_t used = in_use(cpu), old = x86_load(cpu, va + AREA_HEADER, 8);
    store_components(cpu, insn, va, optimized ? rfbm & used : rfbm, 0);
    if (rfbm & (X_SSE | X_AVX)) {
        store_mxcsr(cpu, va);
    }
    x86_store(cpu, va + AREA_HEADER, (old & ~rfbm) | (used & rfbm), 8);
}

void x86_op_xsave(X86Cpu *cpu, const X86Insn *insn)
{
    xsave_standard(cpu, insn, false);
}

void x86_op_xsaveopt(X86Cpu *cpu, const X86Insn *insn)
{
    xsave_standard(cpu, insn, true);
}

static void xsave_compacted(X86Cpu *cpu, const X86Insn *insn, uint64_t rfbm)
{
    unsigned size = x86_xsave_area_size(rfbm, true);
    uint64_t va = xsave_address(cpu, insn, size, true, size - 1);
    unsigned first = rfbm & X_X87 ? 0 : rfbm & X_SSE ? AREA_MXCSR : AREA_HEADER;
    x86_check(cpu, va + first, size - first, X86_WRITE, X86_AS_CPL);
    uint64_t used = in_use(cpu);
    used |= cpu->fx.mxcsr != MXCSR_DEFAULT ? X_SSE : 0;
    store_components(cpu, insn, va, rfbm & used, rfbm | X_COMPACTED);
    if (rfbm & used & X_SSE) {
        store_mxcsr(cpu, va);
    }
    x86_store(cpu, va + AREA_HEADER, rfbm & used, 8);
    x86_store(cpu, va + AREA_HEADER + 8, rfbm | X_COMPACTED, 8);
}

void x86_op_xsavec(X86Cpu *cpu, const X86Insn *insn)
{
    xsave_check(cpu);
    xsave_compacted(cpu, insn, requested(cpu) & cpu->xcr0);
}

void x86_op_xsaves(X86Cpu *cpu, const X86Insn *insn)
{
    xsave_check(cpu);
    if (cpu->cpl != 0) {
        x86_gp(cpu, 0);
    }
    xsave_compacted(cpu, insn, requested(cpu) & (cpu->xcr0 | cpu->xss));
}

/* --- XRSTOR --- */
typedef struct XHeader {
    uint64_t bv, comp;
} XHeader;

static XHeader load_header(X86Cpu *cpu, uint64_t va, uint64_t allowed, bool compacted_only)
{
    uint8_t raw[64];
    x86_load_bytes(cpu, va + AREA_HEADER, raw, sizeof(raw), X86_AS_CPL);
    XHeader h = { ld64_le(raw), ld64_le(raw + 8) };
    bool compacted = h.comp >> 63, bad;
    if (compacted) {
        bad = !x86_has(cpu, X86_FEAT_D_1_EAX, 1) || (h.comp & ~(allowed | X_COMPACTED)) || (h.bv & ~h.comp) ||
              !all_zero(raw + 16, 48);
    } else {
        bad = compacted_only || h.comp || (h.bv & ~allowed) || !all_zero(raw + 16, 8);
    }
    if (bad) {
        x86_gp(cpu, 0);
    }
    return h;
}

/* One component: from the area when `present`, else its initial state. */
static void restore_component(X86Cpu *cpu, const X86Insn *insn, unsigned component, const uint8_t *legacy,
                              const uint8_t *data, bool present)
{
    switch (component) {
    case XC_X87:
        if (present) {
            x87_unpack(cpu, insn, legacy);
        } else {
            x87_init(cpu);
        }
        break;
    case XC_SSE:
        xmm_unpack(cpu, present ? legacy + AREA_XMM : NULL, 0);
        break;
    case XC_AVX:
        xmm_unpack(cpu, present ? data : NULL, 1);
        break;
    case XC_PKRU:
        cpu->pkru = present ? ld32_le(data) : 0;
        x86_tlb_flush_all(cpu);
        break;
    }
}

static void xrstor(X86Cpu *cpu, const X86Insn *insn, uint64_t allowed, bool compacted_only)
{
    uint64_t rfbm = requested(cpu) & allowed;
    uint64_t va = xsave_address(cpu, insn, AREA_EXTENDED, false, AREA_HEADER + 8);
    if (rfbm & X_AVX) {
        x86_check(cpu, va + AREA_MXCSR, 4, X86_READ, X86_AS_CPL);
    }
    XHeader h = load_header(cpu, va, allowed, compacted_only);
    bool compacted = h.comp >> 63;
    uint8_t legacy[AREA_HEADER], data[XC_PKRU + 1][256];
    x86_load_bytes(cpu, va, legacy, sizeof(legacy), X86_AS_CPL);
    unsigned offset = AREA_EXTENDED;
    for (unsigned i = XC_AVX; i <= XC_PKRU; i++) {
        if (rfbm & h.bv & BIT64(i)) {
            uint64_t at = va + (compacted ? offset : x86_xsave_offset(i));
            x86_load_bytes(cpu, at, data[i], x86_xsave_size(i), X86_AS_CPL);
        }
        offset += h.comp >> i & 1 ? x86_xsave_size(i) : 0;
    }
    /* MXCSR goes with SSE, in the standard format also with AVX and whatever the header says. */
    bool load_mxcsr = compacted ? (rfbm & h.bv & X_SSE) : (rfbm & (X_SSE | X_AVX)) != 0;
    uint32_t mxcsr = ld32_le(legacy + AREA_MXCSR);
    if (load_mxcsr && (mxcsr & ~MXCSR_MASK)) {
        x86_gp(cpu, 0);
    }
    if (load_mxcsr) {
        cpu->fx.mxcsr = mxcsr;
    } else if (compacted && (rfbm & X_SSE)) {
        cpu->fx.mxcsr = MXCSR_DEFAULT;
    }
    for (unsigned i = 0; i <= XC_PKRU; i++) {
        if (rfbm >> i & 1) {
            restore_component(cpu, insn, i, legacy, data[i], h.bv >> i & 1);
        }
    }
}

void x86_op_xrstor(X86Cpu *cpu, const X86Insn *insn)
{
    xsave_check(cpu);
    xrstor(cpu, insn, cpu->xcr0, false);
}

void x86_op_xrstors(X86Cpu *cpu, const X86Insn *insn)
{
    xsave_check(cpu);
    if (cpu->cpl != 0) {
        x86_gp(cpu, 0);
    }
    xrstor(cpu, insn, cpu->xcr0 | cpu->xss, true);
}
