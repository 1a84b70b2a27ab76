/* Addresses of memory operands, and the inline look into the soft TLB (DBT.md section 7). */
#include "dbt/back/x86_64/lower_priv.h"

void lower_address(Lower *l, const Uop *u, unsigned dst)
{
    Asm *a = l->hot;
    unsigned base = u->base < 16 ? l->home[u->base] : ENC_ABS;
    unsigned index = u->index < 16 ? l->home[u->index] : ENC_NONE;
    unsigned size = u->asize == 8 ? 8 : 4;
    unsigned had = 0;
    if (u->index < 16 && lower_spilled(l, u->index)) {
        had = lower_had(l, u->index);
        index = had != 0 ? had : H_RCX;
    }
    if (u->base < 16 && lower_spilled(l, u->base)) {
        base = lower_had(l, u->base);
        if (base == 0) {
            base = had == H_R14 ? H_RCX : H_R14;
            enc_load(a, 8, base, lower_slot(u->base));
        }
    }
    if (index == H_RCX && had == 0) {
        if (base == H_RCX) {
            index = H_R14;
        }
        enc_load(a, 8, index, lower_slot(u->index));
    }
    if (base == ENC_ABS && index == ENC_NONE) {
        enc_mov_imm(a, dst, size == 4 ? (uint32_t)u->disp : (uint64_t)u->disp);
    } else if (index == ENC_NONE && u->disp == 0) {
        if (base != dst || size == 4) {
            enc_mov(a, size, dst, base);
        }
    } else {
        enc_lea(a, size, dst, enc_mem_index(base, index, u->scale, (int32_t)u->disp));
    }
}

static void add_segment(Lower *l, const Uop *u)
{
    if (u->seg == 0) {
        return;
    }
    EncRm base = lower_env(u->seg == 1 ? ENV_FS_BASE : ENV_GS_BASE);
    if (lower_flags_live(u)) {
        enc_load(l->hot, 8, H_RCX, base);
        enc_lea(l->hot, 8, H_R14, enc_mem_index(H_R14, H_RCX, 0, 0));
    } else {
        enc_alu(l->hot, ALU_ADD, 8, H_R14, base);
    }
}

void lower_tlb_index(Lower *l)
{
    Asm *a = l->hot;
    if (l->env->bmi2) {
        enc_rorx(a, 4, H_RCX, H_R14, 12 - ENV_TLB_ENTRY_BITS);
    } else {
        enc_mov(a, 4, H_RCX, H_R14);
        enc_shr_imm(a, 4, H_RCX, 12 - ENV_TLB_ENTRY_BITS);
    }
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_RCX), ((1 << ENV_TLB_BITS) - 1) << ENV_TLB_ENTRY_BITS);
}

/* Section 7.1: r14 address -> page offset in r14, host page in rcx; destroys flags. */
static void check_plain(Lower *l, unsigned size, bool write, bool align)
{
    Asm *a = l->hot;
    const uint8_t *retry = enc_here(a);
    int32_t tag = write ? ENV_TLB_WRITE : ENV_TLB_READ;
    lower_tlb_index(l);
    enc_alu(a, ALU_SUB, 8, H_R14, enc_mem_index(H_RBP, H_RCX, 0, tag));
    enc_alu_imm(a, ALU_CMP, 8, enc_reg(H_R14), 4096 - (int)size);
    const uint8_t *stub = lower_slow_stub(l, write ? SLOW_WRITE : 0, retry);
    enc_jcc(a, CC_A, stub);
    if (align) {
        enc_op(a, 0xf6 | E_BYTE_RM, 0, enc_reg(H_R14)); /* test r14b, size - 1 */
        enc_u8(a, size - 1);
        enc_jcc(a, CC_NE, stub);
    }
    enc_load(a, 8, H_RCX, enc_mem_index(H_RBP, H_RCX, 0, ENV_TLB_HOST));
}

/* With flags preserved: JRCXZ, whose field this returns, jumps when the address in r14 hits. */
static uint8_t *pext_hit(Lower *l, unsigned size, bool write)
{
    Asm *a = l->hot;
    enc_pext(a, 4, H_RCX, H_R14, enc_abs(l->env->masks));
    enc_lea(a, 4, H_RCX, enc_mem_index(ENC_ABS, H_RCX, 3, 0));
    enc_load(a, 8, H_RCX, enc_mem_index(H_RBP, H_RCX, 2, write ? ENV_TLB_WRITE : ENV_TLB_READ));
    enc_not(a, 8, H_RCX);
    enc_lea(a, 8, H_RCX, enc_mem_index(H_RCX, H_R14, 0, (int32_t)size)); /* offset + size - 1 */
    enc_pext(a, 8, H_RCX, H_RCX, enc_abs(l->env->masks + 8));
    return enc_jrcxz(a);
}

/* Behind a hit: the host page to rcx, the offset to r14. */
static void pext_host(Lower *l)
{
    Asm *a = l->hot;
    enc_pext(a, 4, H_RCX, H_R14, enc_abs(l->env->masks));
    enc_lea(a, 4, H_RCX, enc_mem_index(ENC_ABS, H_RCX, 3, 0));
    enc_load(a, 8, H_RCX, enc_mem_index(H_RBP, H_RCX, 2, ENV_TLB_HOST));
    enc_pext(a, 4, H_R14, H_R14, enc_abs(l->env->masks + 16));
}

/* The check with flags preserved, by PEXT. */
static void check_pext(Lower *l, unsigned size, bool write, bool align)
{
    Asm *a = l->hot;
    const uint8_t *retry = enc_here(a);
    const uint8_t *stub = lower_slow_stub(l, SLOW_FLAGS | (write ? SLOW_WRITE : 0), retry);
    uint8_t *hit = pext_hit(l, size, write);
    enc_jmp(a, stub);
    enc_here_rel8(a, hit);
    if (align) {
        enc_pext(a, 4, H_RCX, H_R14, enc_abs(l->env->masks + (size == 32 ? 40 : 24)));
        uint8_t *aligned = enc_jrcxz(a);
        enc_jmp(a, stub);
        enc_here_rel8(a, aligned);
    }
    pext_host(l);
}

/* The same on hosts without PEXT. */
static void check_pushf(Lower *l, unsigned size, bool write, bool align)
{
    Asm *a = l->hot;
    const uint8_t *retry = enc_here(a);
    int32_t tag = write ? ENV_TLB_WRITE : ENV_TLB_READ;
    uint8_t *misaligned = NULL;
    enc_u8(a, 0x9c);
    enc_mov(a, 4, H_RCX, H_R14);
    if (align) {
        enc_op(a, 0xf6 | E_BYTE_RM, 0, enc_reg(H_R14));
        enc_u8(a, size - 1);
        misaligned = enc_jcc8(a, CC_NE);
    }
    enc_shr_imm(a, 4, H_RCX, 12 - ENV_TLB_ENTRY_BITS);
    enc_alu_imm(a, ALU_AND, 4, enc_reg(H_RCX), ((1 << ENV_TLB_BITS) - 1) << ENV_TLB_ENTRY_BITS);
    enc_alu(a, ALU_SUB, 8, H_R14, enc_mem_index(H_RBP, H_RCX, 0, tag));
    enc_alu_imm(a, ALU_CMP, 8, enc_reg(H_R14), 4096 - (int)size);
    uint8_t *hit = enc_jcc8(a, CC_BE);
    enc_alu(a, ALU_ADD, 8, H_R14, enc_mem_index(H_RBP, H_RCX, 0, tag));
    if (misaligned != NULL) {
        enc_here_rel8(a, misaligned);
    }
    enc_u8(a, 0x9d);
    enc_jmp(a, lower_slow_stub(l, SLOW_FLAGS | (write ? SLOW_WRITE : 0), retry));
    enc_here_rel8(a, hit);
    enc_load(a, 8, H_RCX, enc_mem_index(H_RBP, H_RCX, 0, ENV_TLB_HOST));
    enc_u8(a, 0x9d);
}

/* --- sites: what one place, or a few, found last, instead of the TLB --- */

enum { NO_SITE = -1 };

/* The site for an operand, by its displacement from the context; NO_SITE: it looks into the TLB. */
static int32_t site_of(Lower *l, const Uop *operand, bool write)
{
    unsigned n = ENV_SITE_STACK + write;
    if (lower_flags_live(l->u)) {
        return NO_SITE;
    }
    if (operand->base != 4 || operand->index != UOP_NO_REG || operand->seg != 0) {
        if (!l->block->hot || (l->block->plain[l->index / 64] >> (l->index % 64) & 1)) {
            return NO_SITE;
        }
        n = l->out->next_site++;
        l->out->site_owner[l->out->site_owners++] = l->index;
        if (l->out->next_site == ENV_SITE_COUNT) {
            l->out->next_site = ENV_SITE_FIRST;
        }
    }
    return ENV_SITES + (int32_t)(n << ENV_SITE_BITS);
}

/* One register says the address, and it is there in full. */
static bool is_direct(const Lower *l, const Uop *operand)
{
    bool base = operand->base != UOP_NO_REG, index = operand->index != UOP_NO_REG;
    return operand->asize == 8 && operand->seg == 0 && base != index &&
           !lower_spilled(l, base ? operand->base : operand->index);
}

/*
 * Such an operand, where rcx says how far addresses on the host are from the guest's: what depends on the access does
 * not wait for the check.
 */
static EncRm direct_operand(const Lower *l, const Uop *operand)
{
    int32_t disp = (int32_t)operand->disp;
    if (operand->base == UOP_NO_REG) {
        return enc_mem_index(H_RCX, l->home[operand->index], operand->scale, disp);
    }
    return enc_mem_index(H_RCX, l->home[operand->base], 0, disp + (operand->base == 4 ? l->stack_by : 0));
}

/* Behind a check by a site: the operand, by host registers that do not wait for it wherever they can say its address. */
static EncRm site_operand(Lower *l, const Uop *operand, int32_t site)
{
    Asm *a = l->hot;
    bool full = operand->asize == 8 && operand->seg == 0;
    if (is_direct(l, operand)) {
        enc_load(a, 8, H_RCX, lower_env(site + ENV_SITE_ADDEND));
        return direct_operand(l, operand);
    }
    if (full && operand->base < 16 && operand->index < 16 && !lower_spilled(l, operand->base) && !lower_spilled(l, operand->index)) {
        enc_load(a, 8, H_RCX, lower_env(site + ENV_SITE_ADDEND));
        enc_alu(a, ALU_ADD, 8, H_RCX, enc_reg(l->home[operand->base]));
        return enc_mem_index(H_RCX, l->home[operand->index], operand->scale, (int32_t)operand->disp);
    }
    enc_load(a, 8, H_RCX, lower_env(site + ENV_SITE_HOST));
    return enc_mem_index(H_RCX, H_R14, 0, 0);
}

/* Checks the address in r14, which is that of the operand. */
static EncRm check_site(Lower *l, const Uop *operand, int32_t site, unsigned size, bool write, bool align)
{
    Asm *a = l->hot, *c = l->cold;
    const uint8_t *retry = enc_here(a), *back = lower_cold_back(l, retry), *stub = enc_here(c);
    enc_alu(a, ALU_SUB, 8, H_R14, lower_env(site + ENV_SITE_TAG));
    enc_alu_imm(a, ALU_CMP, 8, enc_reg(H_R14), 4096 - (int)size);
    enc_jcc(a, CC_A, stub);
    if (align) {
        enc_op(a, 0xf6 | E_BYTE_RM, 0, enc_reg(H_R14)); /* test r14b, size - 1 */
        enc_u8(a, size - 1);
        enc_jcc(a, CC_NE, stub);
    }
    EncRm mem = site_operand(l, operand, site);
    lower_cold_out(l);
    enc_alu(c, ALU_ADD, 8, H_R14, lower_env(site + ENV_SITE_TAG));
    enc_mov_imm(c, H_RCX, (uint32_t)site);
    uint32_t number = lower_new_site(l, write ? SLOW_WRITE : 0);
    enc_call(c, l->env->site_miss[write]);
    enc_jmp(c, back);
    enc_u32(c, l->block->first_site + number);
    return mem;
}

EncRm lower_check(Lower *l, unsigned size, bool write, bool align)
{
    if (!lower_flags_live(l->u)) {
        check_plain(l, size, write, align);
    } else if (l->env->bmi2) {
        check_pext(l, size, write, align);
    } else {
        check_pushf(l, size, write, align);
    }
    return enc_mem_index(H_RCX, H_R14, 0, 0);
}

/*
 * The cold half of a group's check: r14 is the range's lowest address. On a miss the leader's own address is looked up;
 * what that does not bring in (MMIO, a page with code), and a range on two pages, is left to a copy of the code
 * from here on without groups.
 */
static void group_missed(Lower *l, const AccessPlan *plan, bool write, int32_t site_at, const uint8_t *back)
{
    Asm *c = l->cold;
    bool keep = lower_flags_live(l->u);
    lower_cold_out(l);
    enc_lea(c, 4, H_RCX, enc_mem(H_R14, plan->span - 1));
    if (keep) {
        enc_u8(c, 0x9c); /* pushfq */
    }
    enc_alu(c, ALU_XOR, 4, H_RCX, enc_reg(H_R14));
    enc_shr_imm(c, 4, H_RCX, 12);
    uint8_t *straddles = enc_jcc8(c, CC_NE);
    if (keep) {
        enc_u8(c, 0x9d);
    }
    if (plan->at != 0) {
        enc_lea(c, l->block->mode64 ? 8 : 4, H_R14, enc_mem(H_R14, plan->at));
    }
    unsigned kind = (keep ? SLOW_FLAGS : 0) | (write ? SLOW_WRITE : 0);
    uint32_t site = lower_new_site(l, SLOW_LEAD | kind | (plan->writes ? SLOW_READS : 0));
    if (site_at != NO_SITE) {
        enc_mov_imm(c, H_RCX, (uint32_t)site_at);
        enc_call(c, l->env->site_miss[kind]);
    } else {
        enc_call(c, keep ? l->env->slow[kind] : l->env->slow_va[kind]);
    }
    enc_jmp(c, back);
    enc_u32(c, l->block->first_site + site);
    const uint8_t *elsewhere = enc_here(c); /* LOWER_LEAD_ELSEWHERE behind the call */
    if (l->block->counts != 0) { /* what is not executed of this block */
        EncRm budget = lower_env(l->env->budget);
        enc_load(c, 8, H_RCX, budget);
        enc_lea(c, 8, H_RCX, enc_mem(H_RCX, (int32_t)(l->block->counts - l->u->insn)));
        enc_store(c, 8, budget, H_RCX);
    }
    uint8_t *field = enc_jmp(c, NULL);
    unsigned n = lower_generic_exit(l);
    l->out->exits[n].field = field;
    enc_patch_rel32(field, c->run_delta, l->out->exits[n].stub);
    enc_here_rel8(c, straddles);
    if (keep) {
        enc_u8(c, 0x9d);
    }
    enc_jmp(c, elsewhere);
}

/*
 * The check of a group: its whole range, from low behind the operand's registers, lies in one page. The result is the host
 * address of its lowest byte, in rcx, or for a direct one what is added to the guest's.
 */
static void check_group(Lower *l, const AccessPlan *plan, const Uop *operand, bool write)
{
    Asm *a = l->hot;
    const uint8_t *back = lower_cold_back(l, enc_here(a));
    int32_t tag = write ? ENV_TLB_WRITE : ENV_TLB_READ;
    l->had = (LowerHeld){ 0 }; /* not so at the second try */
    int32_t site = site_of(l, operand, write);
    Uop lowest = *operand;
    lowest.disp = plan->low;
    bool direct = site != NO_SITE && plan->direct;
    uint32_t bit = 1u << (plan->group - 1);
    l->direct = direct ? l->direct | bit : l->direct & ~bit;
    lower_address(l, &lowest, site != NO_SITE && !direct ? H_RCX : H_R14);
    if (direct) {
        enc_alu(a, ALU_SUB, 8, H_R14, lower_env(site + ENV_SITE_TAG));
        enc_alu_imm(a, ALU_CMP, 8, enc_reg(H_R14), 4096 - (int)plan->span);
        enc_jcc(a, CC_A, enc_here(l->cold));
        enc_alu(l->cold, ALU_ADD, 8, H_R14, lower_env(site + ENV_SITE_TAG));
        enc_load(a, 8, H_RCX, lower_env(site + ENV_SITE_ADDEND));
    } else if (site != NO_SITE) {
        enc_alu(a, ALU_SUB, 8, H_RCX, lower_env(site + ENV_SITE_TAG));
        enc_alu_imm(a, ALU_CMP, 8, enc_reg(H_RCX), 4096 - (int)plan->span);
        enc_jcc(a, CC_A, enc_here(l->cold));
        enc_mov(l->cold, 8, H_R14, H_RCX);
        enc_alu(l->cold, ALU_ADD, 8, H_R14, lower_env(site + ENV_SITE_TAG));
        enc_alu(a, ALU_ADD, 8, H_RCX, lower_env(site + ENV_SITE_HOST));
    } else if (lower_flags_live(l->u)) {
        uint8_t *hit = pext_hit(l, plan->span, write);
        enc_jmp(a, enc_here(l->cold));
        enc_here_rel8(a, hit);
        pext_host(l);
    } else {
        lower_tlb_index(l);
        enc_alu(a, ALU_SUB, 8, H_R14, enc_mem_index(H_RBP, H_RCX, 0, tag));
        enc_alu_imm(a, ALU_CMP, 8, enc_reg(H_R14), 4096 - (int)plan->span);
        enc_jcc(a, CC_A, enc_here(l->cold));
        enc_alu(l->cold, ALU_ADD, 8, H_R14, enc_mem_index(H_RBP, H_RCX, 0, tag));
        enc_load(a, 8, H_RCX, enc_mem_index(H_RBP, H_RCX, 0, ENV_TLB_HOST));
    }
    if (site == NO_SITE) {
        enc_lea(a, 8, H_RCX, enc_mem_index(H_RCX, H_R14, 0, 0));
    }
    if (plan->keep) {
        enc_store(a, 8, lower_env(l->env->hosts + 8 * (plan->group - 1)), H_RCX);
    }
    group_missed(l, plan, write, site, back);
}

/* The access as a member of a group. False: it is none. */
static bool access_group(Lower *l, const Uop *operand, bool write, EncRm *ret)
{
    const AccessPlan *plan = &l->plan[l->index];
    if (plan->group == 0) {
        return false;
    }
    if (plan->leads) {
        check_group(l, plan, operand, write || plan->writes);
    } else if (!plan->loaded) {
        enc_load(l->hot, 8, H_RCX, lower_env(l->env->hosts + 8 * (plan->group - 1)));
    }
    *ret = l->direct >> (plan->group - 1) & 1 ? direct_operand(l, operand) : enc_mem(H_RCX, plan->at);
    return true;
}

/* An address known now: index and tag are immediates. */
static EncRm check_constant(Lower *l, uint64_t va, unsigned size, bool write)
{
    Asm *a = l->hot;
    uint64_t page = va & ~0xfffull;
    int32_t entry = (int32_t)((va >> 12 & ((1 << ENV_TLB_BITS) - 1)) << ENV_TLB_ENTRY_BITS);
    int32_t tag = entry + (write ? ENV_TLB_WRITE : ENV_TLB_READ);
    const uint8_t *back = lower_cold_back(l, enc_here(a));
    if (page == (uint64_t)(int32_t)page) {
        enc_op(a, 0x81 | E_W, ALU_CMP, lower_env(tag));
        enc_u32(a, (uint32_t)page);
    } else {
        enc_mov_imm(a, H_R14, page);
        enc_alu(a, ALU_CMP, 8, H_R14, lower_env(tag));
    }
    const uint8_t *stub = enc_here(l->cold);
    lower_cold_out(l);
    enc_mov_imm(l->cold, H_R14, va);
    uint32_t site = lower_new_site(l, write ? SLOW_WRITE : 0);
    enc_call(l->cold, l->env->slow_va[write]);
    enc_jmp(l->cold, back);
    enc_u32(l->cold, l->block->first_site + site);
    enc_jcc(a, CC_NE, stub);
    enc_load(a, 8, H_RCX, lower_env(entry + ENV_TLB_HOST));
    return enc_mem(H_RCX, (int32_t)(va & 0xfff));
}

EncRm lower_access_mem(Lower *l, bool write)
{
    const Uop *u = l->u;
    bool align = (u->attr & UA_ALIGN) != 0;
    EncRm grouped;
    if (u->attr & UA_HOISTED) {
        return lower_hoisted(l);
    }
    if (access_group(l, u, write, &grouped)) {
        return grouped;
    }
    if (u->base >= 16 && u->index >= 16 && u->seg == 0 && !lower_flags_live(u)) {
        uint64_t va = u->asize == 8 ? (uint64_t)u->disp : (uint32_t)u->disp;
        bool aligned = !align || (va & (u->mem_size - 1)) == 0;
        if ((va & 0xfff) + u->mem_size <= 4096 && aligned) {
            return check_constant(l, va, u->mem_size, write);
        }
    }
    lower_address(l, u, H_R14);
    add_segment(l, u);
    int32_t site = site_of(l, u, write);
    if (site != NO_SITE) {
        return check_site(l, u, site, u->mem_size, write, align);
    }
    return lower_check(l, u->mem_size, write, align);
}

EncRm lower_access_stack(Lower *l, int32_t disp, unsigned size, bool write)
{
    unsigned width = l->block->mode64 ? 8 : 4;
    EncRm grouped;
    Uop top = { .base = 4, .index = UOP_NO_REG, .asize = width, .disp = disp };
    if (access_group(l, &top, write, &grouped)) {
        return grouped;
    }
    if (disp == 0) {
        enc_mov(l->hot, width, H_R14, H_R13);
    } else {
        enc_lea(l->hot, width, H_R14, enc_mem(H_R13, disp));
    }
    int32_t site = site_of(l, &top, write);
    if (site != NO_SITE) {
        return check_site(l, &top, site, size, write, false);
    }
    return lower_check(l, size, write, false);
}

void lower_move_stack_now(Lower *l, int32_t by)
{
    by += l->stack_by;
    l->stack_by = 0;
    if (by != 0) {
        enc_lea(l->hot, l->block->mode64 ? 8 : 4, H_R13, enc_mem(H_R13, by));
    }
}

/* Behind the check of a group nothing leaves the block until the next uop that is not its member. */
void lower_move_stack(Lower *l, int32_t by)
{
    if (l->plan[l->index].group != 0) {
        l->stack_by += by;
    } else {
        lower_move_stack_now(l, by);
    }
}

EncRm lower_without_r14(Lower *l, EncRm mem)
{
    return mem.base == H_R14 || mem.index == H_R14 ? lower_only_rcx(l, mem) : mem;
}

EncRm lower_only_rcx(Lower *l, EncRm mem)
{
    if (mem.index == ENC_NONE && mem.base == H_RCX) {
        return mem;
    }
    enc_lea(l->hot, 8, H_RCX, mem);
    return enc_mem(H_RCX, 0);
}
