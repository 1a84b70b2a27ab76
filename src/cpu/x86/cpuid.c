/*
 * CPUID. Intel SDM volume 2 (CPUID), AMD64 manual volume 3 appendix E.
 */
#include "base/bits.h"
#include "cpu/x86/apic.h"
#include "cpu/x86/fpu.h"
#include "cpu/x86/sys.h"

/* eax ebx ecx edx */
enum { A, B, C, D };

static bool is_intel(const X86Cpu *cpu)
{
    return strcmp(cpu->vendor, "GenuineIntel") == 0;
}

static bool is_amd(const X86Cpu *cpu)
{
    return strcmp(cpu->vendor, "AuthenticAMD") == 0 || strcmp(cpu->vendor, "HygonGenuine") == 0;
}

static void put_text(uint32_t *reg, const char *text)
{
    memcpy(reg, text, 4);
}

uint32_t x86_signature(const X86Cpu *cpu)
{
    uint32_t family = cpu->family > 15 ? (cpu->family - 15) << 20 | 0xf00 : cpu->family << 8;
    return family | (cpu->model_id & 15) << 4 | (cpu->model_id >> 4) << 16 | cpu->stepping;
}

/* Bits needed to number n things. */
static unsigned width_of(unsigned n)
{
    return n > 1 ? 32 - (unsigned)__builtin_clz(n - 1) : 0;
}

static unsigned thread_bits(const X86Cpu *cpu) { return width_of(cpu->threads); }
static unsigned core_bits(const X86Cpu *cpu) { return width_of(cpu->cores) + thread_bits(cpu); }
static unsigned package_bits(const X86Cpu *cpu) { return width_of(cpu->dies) + core_bits(cpu); }
static unsigned package_threads(const X86Cpu *cpu) { return cpu->dies * cpu->cores * cpu->threads; }

static bool apic_enabled(const X86Cpu *cpu)
{
    X86Apic *apic = cpu->apic;
    return !apic || (apic->ops->get_base(apic) & BIT(11));
}

static void leaf_vendor(const X86Cpu *cpu, uint32_t leaf, uint32_t r[4])
{
    r[A] = leaf;
    put_text(&r[B], cpu->vendor);
    put_text(&r[D], cpu->vendor + 4);
    put_text(&r[C], cpu->vendor + 8);
}

static void leaf_1(const X86Cpu *cpu, uint32_t r[4])
{
    unsigned threads = package_threads(cpu);
    r[A] = x86_signature(cpu);
    r[B] = cpu->apic_id << 24 | 8 << 8;
    r[C] = cpu->features[X86_FEAT_1_ECX];
    r[D] = cpu->features[X86_FEAT_1_EDX];
    if (threads > 1) {
        r[B] |= threads << 16;
        r[D] |= BIT(28);
    }
    if (cpu->cr4 & CR4_OSXSAVE) {
        r[C] |= BIT(27);
    }
    if (!apic_enabled(cpu)) {
        r[D] &= ~BIT(9);
    }
}

/* --- caches --- */

typedef struct Cache {
    uint8_t type, level; /* type 1 data, 2 instructions, 3 both */
    uint32_t kib, ways, line;
    bool package; /* shared by all of a package, else by a core */
    bool inclusive;
} Cache;
static const Cache caches[] = {
    { 1, 1, 32, 8, 64, false, false },
    { 2, 1, 32, 8, 64, false, false },
    { 3, 2, 4096, 16, 64, false, false },
    { 3, 3, 16384, 16, 64, true, true },
};
static const Cache amd_caches[] = {
    { 1, 1, 64, 2, 64, false, true },
    { 2, 1, 64, 2, 64, false, true },
    { 3, 2, 512, 16, 64, false, false },
    { 3, 3, 16384, 16, 64, true, true },
};

static unsigned cache_count(const X86Cpu *cpu)
{
    return cpu->l3_cache ? 4 : 3;
}

static void leaf_cache(const X86Cpu *cpu, const Cache *c, uint32_t r[4])
{
    uint32_t sharing = c->package ? BIT(package_bits(cpu)) - 1 : BIT(thread_bits(cpu)) - 1;
    uint32_t sets = c->kib * 1024 / c->ways / c->line;
    r[A] = c->type | c->level << 5 | BIT(8) | MIN(sharing, 0xfffu) << 14;
    r[B] = (c->line - 1) | (c->ways - 1) << 22;
    r[C] = sets - 1;
    r[D] = BIT(0) | (c->inclusive ? BIT(1) : 0) | (c->package ? BIT(2) : 0);
}

static void leaf_4(const X86Cpu *cpu, uint32_t subleaf, uint32_t r[4])
{
    if (!is_amd(cpu) && subleaf < cache_count(cpu)) {
        leaf_cache(cpu, &caches[subleaf], r);
        unsigned cores = BIT(package_bits(cpu) - thread_bits(cpu));
        r[A] |= MIN(cores - 1, 63u) << 26;
    }
}

static uint32_t assoc_code(uint32_t ways)
{
    return ways == 1 ? 1 : ways == 2 ? 2 : ways == 4 ? 4 : ways == 8 ? 6 : 8;
}

/* --- topology --- */

static void leaf_topology(const X86Cpu *cpu, uint32_t subleaf, bool dies, uint32_t r[4])
{
    r[C] = subleaf & 0xff;
    r[D] = cpu->apic_id;
    if (subleaf == 0) {
        r[A] = thread_bits(cpu);
        r[B] = cpu->threads;
        r[C] |= 1 << 8;
    } else if (subleaf == 1) {
        r[A] = dies ? core_bits(cpu) : package_bits(cpu);
        r[B] = dies ? cpu->cores * cpu->threads : package_threads(cpu);
        r[C] |= 2 << 8;
    } else if (subleaf == 2 && dies) {
        r[A] = package_bits(cpu);
        r[B] = package_threads(cpu);
        r[C] |= 5 << 8;
    }
}

/* --- XSAVE --- */

static void leaf_d(const X86Cpu *cpu, uint32_t subleaf, uint32_t r[4])
{
    uint64_t allowed = x86_xcr0_supported(cpu), supervisor = x86_xss_supported(cpu);
    if (!x86_has(cpu, X86_FEAT_1_ECX, 26)) {
        return;
    }
    if (subleaf == 0) {
        r[A] = (uint32_t)allowed;
        r[B] = x86_xsave_area_size(cpu->xcr0, false);
        r[C] = x86_xsave_area_size(allowed, false);
        r[D] = (uint32_t)(allowed >> 32);
        return;
    }
    if (subleaf == 1) {
        r[A] = cpu->features[X86_FEAT_D_1_EAX];
        r[C] = (uint32_t)supervisor;
        r[B] = r[A] & 10 ? x86_xsave_area_size(cpu->xcr0 | cpu->xss, true) : 0;
        return;
    }
    if (subleaf < 63 && ((allowed | supervisor) >> subleaf & 1)) {
        bool own = supervisor >> subleaf & 1;
        r[A] = x86_xsave_size(subleaf);
        r[B] = own ? 0 : x86_xsave_offset(subleaf);
        r[C] = own ? 1 : 0;
    }
}

/* --- ranges --- */

static void basic_leaf(const X86Cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    switch (leaf) {
    case 0:
        leaf_vendor(cpu, cpu->cpuid_level, r);
        break;
    case 1:
        leaf_1(cpu, r);
        break;
    case 2:
        if (!is_amd(cpu)) { /* descriptors: 2 MiB L2, 32 KiB L1, 16 MiB L3 */
            r[A] = 1;
            r[C] = cpu->l3_cache ? 0x4d : 0;
            r[D] = 0x002c307d;
        }
        break;
    case 4:
        leaf_4(cpu, subleaf, r);
        break;
    case 5: /* MONITOR: smallest and largest line */
        if (x86_has(cpu, X86_FEAT_1_ECX, 3)) {
            r[A] = r[B] = 64;
            r[C] = 3;
        }
        break;
    case 6:
        r[A] = cpu->features[X86_FEAT_6_EAX];
        break;
    case 7:
        if (subleaf == 0) {
            r[A] = cpu->features[X86_FEAT_7_1_EAX] ? 1 : 0;
            r[B] = cpu->features[X86_FEAT_7_EBX];
            r[C] = cpu->features[X86_FEAT_7_ECX] | (cpu->cr4 & CR4_PKE ? BIT(4) : 0);
            r[D] = cpu->features[X86_FEAT_7_EDX];
        } else if (subleaf == 1) {
            r[A] = cpu->features[X86_FEAT_7_1_EAX];
        }
        break;
    case 0xb:
        if (cpu->leaf_b) {
            leaf_topology(cpu, subleaf, false, r);
        }
        break;
    case 0xd:
        leaf_d(cpu, subleaf, r);
        break;
    case 0x1f:
        if (cpu->dies > 1) {
            leaf_topology(cpu, subleaf, true, r);
        }
        break;
    }
}

static void leaf_ext_1(const X86Cpu *cpu, uint32_t r[4])
{
    /* AMD repeats these bits of leaf 1. */
    static const uint32_t repeated = 0x0183f3ff;
    r[A] = x86_signature(cpu);
    r[C] = cpu->features[X86_FEAT_8000_0001_ECX];
    r[D] = cpu->features[X86_FEAT_8000_0001_EDX];
    if (is_amd(cpu)) {
        r[D] |= cpu->features[X86_FEAT_1_EDX] & repeated;
        if (!apic_enabled(cpu)) {
            r[D] &= ~BIT(9);
        }
    } else if (is_intel(cpu) && !(x86_hot((X86Cpu *)cpu)->mode & X86_MODE_CS64)) {
        r[D] &= ~BIT(11); /* Intel has SYSCALL in 64-bit mode only */
    }
    if (package_threads(cpu) > 1 && !is_intel(cpu)) {
        r[C] |= BIT(1);
    }
}

static void leaf_ext_8(const X86Cpu *cpu, uint32_t r[4])
{
    if (x86_has(cpu, X86_FEAT_8000_0001_EDX, 29)) {
        r[A] = cpu->phys_bits | (x86_has(cpu, X86_FEAT_7_ECX, 16) ? 57u : 48u) << 8;
    } else {
        r[A] = cpu->phys_bits;
    }
    r[B] = cpu->features[X86_FEAT_8000_0008_EBX];
    if (package_threads(cpu) > 1) {
        r[C] = package_bits(cpu) << 12 | (package_threads(cpu) - 1);
    }
}

static void ext_cache_leaves(const X86Cpu *cpu, uint32_t leaf, uint32_t r[4])
{
    const Cache *c = amd_caches;
    if (leaf == 0x80000005) { /* TLBs of 2M/4M and 4K pages, L1 caches */
        r[A] = 0x01ff01ff;
        r[B] = 0x01ff01ff;
        r[C] = c[0].kib << 24 | c[0].ways << 16 | 1 << 8 | c[0].line;
        r[D] = c[1].kib << 24 | c[1].ways << 16 | 1 << 8 | c[1].line;
        return;
    }
    r[B] = 0x42004200;
    r[C] = c[2].kib << 16 | assoc_code(c[2].ways) << 12 | 1 << 8 | c[2].line;
    if (cpu->l3_cache) {
        r[D] = (c[3].kib / 512) << 18 | assoc_code(c[3].ways) << 12 | 1 << 8 | c[3].line;
    }
}

static void extended_leaf(const X86Cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    switch (leaf) {
    case 0x80000000:
        leaf_vendor(cpu, cpu->cpuid_xlevel, r);
        break;
    case 0x80000001:
        leaf_ext_1(cpu, r);
        break;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
        memcpy(r, cpu->model_name + (leaf - 0x80000002) * 16, 16);
        break;
    case 0x80000005:
        if (!is_intel(cpu)) {
            ext_cache_leaves(cpu, leaf, r);
        }
        break;
    case 0x80000006:
        ext_cache_leaves(cpu, leaf, r);
        break;
    case 0x80000007:
        r[D] = cpu->features[X86_FEAT_8000_0007_EDX];
        break;
    case 0x80000008:
        leaf_ext_8(cpu, r);
        break;
    case 0x8000000a:
        if (x86_has(cpu, X86_FEAT_8000_0001_ECX, 2)) {
            r[A] = 1;
            r[B] = 16;
            r[D] = cpu->features[X86_FEAT_SVM];
        }
        break;
    case 0x8000001d:
        if (x86_has(cpu, X86_FEAT_8000_0001_ECX, 22) && subleaf < cache_count(cpu)) {
            leaf_cache(cpu, &amd_caches[subleaf], r);
        }
        break;
    case 0x8000001e:
        if (x86_has(cpu, X86_FEAT_8000_0001_ECX, 22)) {
            r[A] = cpu->apic_id;
            r[B] = (cpu->threads - 1) << 8 | ((cpu->apic_id >> thread_bits(cpu)) & (BIT(width_of(cpu->cores)) - 1));
            r[C] = (cpu->dies - 1) << 8 | (cpu->apic_id >> core_bits(cpu) & 0xff);
        }
        break;
    }
}

static bool hypervisor_leaf(const X86Cpu *cpu, uint32_t leaf, uint32_t r[4])
{
    if (!x86_has(cpu, X86_FEAT_1_ECX, 31) || !cpu->tcg_signature) {
        return false;
    }
    if (leaf == 0x40000000) {
        r[A] = 0x40000001;
        put_text(&r[B], "TCGT");
        put_text(&r[C], "CGTC");
        put_text(&r[D], "GTCG");
    }
    return leaf == 0x40000000 || leaf == 0x40000001;
}

void x86_cpuid(const X86Cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t ret_regs[4])
{
    memset(ret_regs, 0, 4 * sizeof(uint32_t));
    if (leaf >= 0x40000000 && leaf < 0x50000000 && hypervisor_leaf(cpu, leaf, ret_regs)) {
        return;
    }
    if (leaf >= 0xc0000000 && leaf <= cpu->cpuid_xlevel2) { /* VIA's; none of its features */
        ret_regs[A] = leaf == 0xc0000000 ? cpu->cpuid_xlevel2 : 0;
        return;
    }
    bool extended = leaf >= 0x80000000;
    uint32_t limit = extended ? cpu->cpuid_xlevel : cpu->cpuid_level;
    if (leaf > limit) { /* beyond the end: Intel repeats the last basic leaf, others give zeros */
        if (!is_intel(cpu)) {
            return;
        }
        leaf = cpu->cpuid_level;
        extended = false;
    }
    if (extended) {
        extended_leaf(cpu, leaf, subleaf, ret_regs);
    } else {
        basic_leaf(cpu, leaf, subleaf, ret_regs);
    }
}
