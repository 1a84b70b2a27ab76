/*
 * Local APIC and x2APIC (Intel SDM volume 3, chapter 11): the device, its registers and where they are
 * seen. Not modelled: CMCI, thermal and performance LVT entries never fire; arbitration is not by id;
 * EOI-broadcast suppression does not exist.
 *
 * Threads: registers belong to the CPU's own thread, which reaches them without a lock; the page in
 * memory is one region that asks whose thread it is on. Others only set bits of IRR and TMR, atomically,
 * and kick the CPU; what they read of a foreign APIC (id, LDR, TPR, enables) are single loads. The timer
 * has a lock, because it expires on the main loop.
 */
#include "hw/intc/apic_priv.h"

#include <inttypes.h>

#include "hw/intc/i8259.h"
#include "hw/intc/ioapic.h"

/* --- registers --- */

static void apic_eoi(Apic *apic)
{
    int vector = apic_highest_bit(apic->isr);
    if (vector < 0) {
        return;
    }
    apic->isr[vector / 32] &= ~BIT(vector & 31);
    if (atomic_load(&apic->tmr[vector / 32]) >> (vector & 31) & 1) {
        IoApic *ioapic = ioapic_of(apic->all->machine);
        if (ioapic) {
            ioapic_eoi(ioapic, vector);
        }
    }
    apic_reconsider(apic);
}

static void apic_set_svr(Apic *apic, uint32_t value)
{
    apic->svr = value & 0x1ff;
    if (!(value & SVR_ENABLE)) {
        for (unsigned i = 0; i < LVT_COUNT; i++) {
            apic->lvt[i] |= LVT_MASKED;
        }
        apic_timer_set_lvt(apic, apic->lvt[LVT_TIMER]);
    }
    apic_reconsider(apic);
}

static void apic_set_lvt(Apic *apic, unsigned entry, uint32_t value)
{
    static const uint32_t writable[LVT_COUNT] = { 0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff };
    value &= writable[entry];
    if (!(apic->svr & SVR_ENABLE)) {
        value |= LVT_MASKED;
    }
    if (entry == LVT_TIMER) {
        if (!x86_has(apic->x86.cpu, X86_FEAT_1_ECX, 24)) {
            value &= ~LVT_DEADLINE;
        }
        apic_timer_set_lvt(apic, value);
    } else {
        apic->lvt[entry] = value;
        apic_reconsider(apic);
    }
}

static uint32_t apic_logical_id(const Apic *apic)
{
    return apic_is_x2(apic) ? (apic->id >> 4) << 16 | 1u << (apic->id & 15) : apic->ldr;
}

/* False: no such register. */
static bool apic_read_reg(Apic *apic, unsigned reg, uint32_t *ret_value)
{
    switch (reg) {
    case REG_ID:
        *ret_value = apic_is_x2(apic) ? apic->id : apic->id << 24;
        return true;
    case REG_VERSION:
        *ret_value = (LVT_COUNT - 1) << 16 | 0x14;
        return true;
    case REG_TPR:
        *ret_value = atomic_load(&apic->tpr);
        return true;
    case REG_APR:
        *ret_value = 0;
        return !apic_is_x2(apic);
    case REG_PPR:
        *ret_value = apic_ppr(apic);
        return true;
    case REG_EOI:
        *ret_value = 0;
        return !apic_is_x2(apic);
    case REG_LDR:
        *ret_value = apic_logical_id(apic);
        return true;
    case REG_DFR:
        *ret_value = apic->dfr;
        return !apic_is_x2(apic);
    case REG_SVR:
        *ret_value = apic->svr;
        return true;
    case REG_ISR ... REG_ISR + 7:
        *ret_value = apic->isr[reg - REG_ISR];
        return true;
    case REG_TMR ... REG_TMR + 7:
        *ret_value = atomic_load(&apic->tmr[reg - REG_TMR]);
        return true;
    case REG_IRR ... REG_IRR + 7:
        *ret_value = atomic_load(&apic->irr[reg - REG_IRR]);
        return true;
    case REG_ESR:
        *ret_value = apic->esr;
        return true;
    case REG_ICR:
        *ret_value = apic->icr & ~ICR_PENDING;
        return true;
    case REG_ICR_HIGH:
        *ret_value = apic->icr >> 32;
        return !apic_is_x2(apic);
    case REG_LVT ... REG_LVT + LVT_COUNT - 1:
        *ret_value = apic->lvt[reg - REG_LVT];
        return true;
    case REG_INITIAL:
        *ret_value = apic->initial;
        return true;
    case REG_CURRENT:
        *ret_value = apic_timer_current(apic);
        return true;
    case REG_DIVIDE:
        *ret_value = apic->divide;
        return true;
    default:
        return false;
    }
}

static bool apic_write_reg(Apic *apic, unsigned reg, uint32_t value)
{
    switch (reg) {
    case REG_ID:
        if (!apic_is_x2(apic)) {
            apic->id = value >> 24;
        }
        return !apic_is_x2(apic);
    case REG_TPR:
        atomic_store(&apic->tpr, value & 0xff);
        apic_reconsider(apic);
        return true;
    case REG_EOI:
        apic_eoi(apic);
        return true;
    case REG_LDR:
        if (!apic_is_x2(apic)) {
            apic->ldr = value & 0xff000000;
        }
        return !apic_is_x2(apic);
    case REG_DFR:
        if (!apic_is_x2(apic)) {
            apic->dfr = value | 0x0fffffff;
        }
        return !apic_is_x2(apic);
    case REG_SVR:
        apic_set_svr(apic, value);
        return true;
    case REG_ESR:
        apic->esr = atomic_exchange(&apic->errors, 0);
        return true;
    case REG_ICR:
        apic->icr = (apic->icr & ~0xffffffffull) | (value & ICR_WRITABLE);
        apic_send(apic);
        return true;
    case REG_ICR_HIGH:
        apic->icr = (uint64_t)(value & ICR_HIGH_WRITABLE) << 32 | (uint32_t)apic->icr;
        return true;
    case REG_LVT ... REG_LVT + LVT_COUNT - 1:
        apic_set_lvt(apic, reg - REG_LVT, value);
        return true;
    case REG_INITIAL:
        apic_timer_set_initial(apic, value);
        return true;
    case REG_DIVIDE:
        apic_timer_set_divide(apic, value);
        return true;
    default:
        return false;
    }
}

/* --- the page in memory --- */

/* Whose page it is: the running CPU's, if its APIC is there and answers. */
static Apic *apic_here(Apics *all, bool moved)
{
    Vcpu *vcpu = vcpu_self();
    X86Apic *x86 = vcpu && vcpu->machine == all->machine ? x86_cpu_of(vcpu)->apic : NULL;
    if (!x86) {
        return NULL;
    }
    Apic *apic = apic_of(x86);
    return (apic->base & BASE_ENABLE) && !apic_is_x2(apic) && apic->moved == moved ? apic : NULL;
}

static uint64_t page_load(Apic *apic, uint64_t addr)
{
    uint32_t value = 0;
    if (apic && (addr & 15) == 0 && !apic_read_reg(apic, addr >> 4, &value)) {
        apic_error(apic, ESR_REGISTER);
    }
    return apic ? value : 0xffffffff;
}

static void page_store(Apics *all, Apic *apic, uint64_t addr, uint32_t value)
{
    if (!apic && addr < 0x1000 && vcpu_self()) {
        return; /* a CPU's store to registers that are turned off */
    }
    if (!apic) {
        apics_msi(all, APIC_DEFAULT_BASE | addr, value); /* somebody's message, not a register access */
    } else if ((addr & 15) == 0 && !apic_write_reg(apic, addr >> 4, value)) {
        apic_error(apic, ESR_REGISTER);
    }
}

static uint64_t page_read(void *opaque, uint64_t addr, unsigned size)
{
    Apics *all = opaque;
    return page_load(addr < 0x1000 ? apic_here(all, false) : NULL, addr);
}

static void page_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Apics *all = opaque;
    page_store(all, addr < 0x1000 ? apic_here(all, false) : NULL, addr, value);
}

/* The first page holds registers; the whole megabyte takes messages. */
static const MemOps page_ops = { .read = page_read, .write = page_write, .min = 4, .max = 4 };

static uint64_t moved_read(void *opaque, uint64_t addr, unsigned size)
{
    Apic *apic = opaque;
    return page_load(apic_here(apic->all, true) == apic ? apic : NULL, addr);
}

static void moved_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Apic *apic = opaque;
    if (apic_here(apic->all, true) == apic) {
        page_store(apic->all, apic, addr, value);
    }
}

static const MemOps moved_ops = { .read = moved_read, .write = moved_write, .min = 4, .max = 4 };

/* Puts the APIC's page where its base register says. Machine lock. */
static void apic_place_page(Apic *apic)
{
    uint64_t address = apic->base & ~0xfffull;
    bool moved = address != APIC_DEFAULT_BASE;
    if (apic->moved) {
        mem_region_unmap(&apic->page);
    }
    if (moved && !apic->page.name) {
        device_region_io(&apic->dev, &apic->page, "apic", 0x1000, &moved_ops);
        apic->page.opaque = apic;
        mem_region_set_lock(&apic->page, NULL);
    }
    if (moved) {
        mem_region_map(&apic->all->machine->memory, address, &apic->page, 0x1001);
    }
    apic->moved = moved;
}

/* --- what the CPU calls --- */

static int take(Apic *apic)
{
    int vector = apic_deliverable(apic);
    if (vector >= 0) {
        atomic_fetch_and(&apic->irr[vector / 32], ~BIT(vector & 31));
        apic->isr[vector / 32] |= BIT(vector & 31);
        return vector;
    }
    I8259 *pic = i8259_of(apic->all->machine);
    return pic && apic_extint_pending(apic) ? i8259_take(pic) : -1;
}

static int apic_take(void *opaque)
{
    Apic *apic = apic_of(opaque);
    int vector = take(apic);
    if (vector >= 0 && apic->all->taken) {
        apic->all->taken(apic->all->taken_opaque);
    }
    return vector;
}

static bool apic_pending(void *opaque)
{
    Apic *apic = apic_of(opaque);
    return apic_deliverable(apic) >= 0 || apic_extint_pending(apic);
}

static uint8_t apic_get_tpr(void *opaque)
{
    return atomic_load(&apic_of(opaque)->tpr);
}

static void apic_set_tpr(void *opaque, uint8_t tpr)
{
    Apic *apic = apic_of(opaque);
    atomic_store(&apic->tpr, tpr);
    apic_reconsider(apic);
}

static uint64_t apic_get_base(void *opaque)
{
    return apic_of(opaque)->base;
}

static void apic_clear(Apic *apic);

static bool apic_set_base(void *opaque, uint64_t value)
{
    Apic *apic = apic_of(opaque);
    bool has_x2 = x86_has(apic->x86.cpu, X86_FEAT_1_ECX, 21);
    uint64_t modes = BASE_ENABLE | BASE_X2, allowed = 0xffffffff000ull & apic->x86.cpu->phys_mask;
    allowed |= BASE_BSP | BASE_ENABLE | (has_x2 ? BASE_X2 : 0);
    if (value & ~allowed) {
        return false;
    }
    uint64_t from = apic->base & modes, to = value & modes;
    bool legal = to != BASE_X2 && !(from == modes && to == BASE_ENABLE) && !(from == 0 && to == modes);
    if (!legal) {
        return false;
    }
    bool move = (apic->base ^ value) & ~0xfffull;
    apic->base = value;
    if (from && !to) {
        apic_clear(apic);
        apic->id = apic->x86.cpu->vcpu->apic_id;
    } else if (to == modes && from != to) {
        apic->id = apic->x86.cpu->vcpu->apic_id; /* what software wrote to it in xAPIC mode is gone */
    }
    if (move) {
        Lock *lock = &apic->all->machine->lock;
        bool held = lock_held(lock);
        if (!held) {
            lock_acquire(lock);
        }
        apic_place_page(apic);
        if (!held) {
            lock_release(lock);
        }
    }
    apic_reconsider(apic);
    return true;
}

static bool apic_msr_read(void *opaque, uint32_t index, uint64_t *ret_value)
{
    Apic *apic = apic_of(opaque);
    unsigned reg = index - 0x800;
    uint32_t value;
    if (!apic_is_x2(apic) || reg > 0xff || reg == REG_SELF_IPI || !apic_read_reg(apic, reg, &value)) {
        return false;
    }
    *ret_value = reg == REG_ICR ? apic->icr & ~(uint64_t)ICR_PENDING : value;
    return true;
}

static bool apic_msr_write(void *opaque, uint32_t index, uint64_t value)
{
    Apic *apic = apic_of(opaque);
    unsigned reg = index - 0x800;
    if (!apic_is_x2(apic) || reg > 0xff || (reg != REG_ICR && value >> 32)) {
        return false;
    }
    switch (reg) {
    case REG_ICR:
        if ((uint32_t)value & ~(ICR_WRITABLE | ICR_PENDING)) {
            return false;
        }
        apic->icr = value & ~(uint64_t)ICR_PENDING;
        apic_send(apic);
        return true;
    case REG_SELF_IPI:
        apic_send_to_self(apic, value);
        return value <= 0xff;
    case REG_EOI:
    case REG_ESR:
        return value == 0 && apic_write_reg(apic, reg, 0);
    case REG_ICR_HIGH:
        return false;
    case REG_TPR:
        return value <= 0xff && apic_write_reg(apic, reg, value);
    default:
        return apic_write_reg(apic, reg, value);
    }
}

/* --- reset --- */

/* What INIT resets: everything but the id and the base register. */
static void apic_clear(Apic *apic)
{
    apic->ldr = 0;
    apic->dfr = 0xffffffff;
    apic->svr = 0xff;
    apic->tpr = 0;
    apic->esr = 0;
    apic->errors = 0;
    apic->icr = 0;
    for (unsigned i = 0; i < 8; i++) {
        apic->isr[i] = 0;
        apic->irr[i] = 0;
        apic->tmr[i] = 0;
    }
    for (unsigned i = 0; i < LVT_COUNT; i++) {
        apic->lvt[i] = LVT_MASKED;
    }
    if (apic->base & BASE_BSP) {
        /* Virtual wire mode, as boot firmware sets it up; firmware that never touches the APIC needs it. */
        apic->lvt[LVT_LINT0] = APIC_EXTINT << 8;
    }
    apic_timer_clear(apic);
}

static void apic_init_reset(void *opaque)
{
    apic_clear(apic_of(opaque));
}

static void apic_reset(Device *dev)
{
    Apic *apic = (Apic *)dev;
    Vcpu *vcpu = apic->x86.cpu->vcpu;
    apic->base = APIC_DEFAULT_BASE | BASE_ENABLE | (vcpu->index == 0 ? BASE_BSP : 0);
    if (!x86_has(apic->x86.cpu, X86_FEAT_1_EDX, 9)) {
        apic->base &= ~(uint64_t)BASE_ENABLE; /* a CPU without APIC: the 8259 talks to it directly */
    }
    apic->id = vcpu->apic_id;
    apic_place_page(apic);
    apic_clear(apic);
}

static void apic_tsc_moved(void *opaque)
{
    apic_timer_restart(apic_of(opaque));
}

static const X86ApicOps apic_ops = {
    .take = apic_take,
    .pending = apic_pending,
    .get_tpr = apic_get_tpr,
    .set_tpr = apic_set_tpr,
    .get_base = apic_get_base,
    .set_base = apic_set_base,
    .msr_read = apic_msr_read,
    .msr_write = apic_msr_write,
    .set_tsc_deadline = apic_timer_set_deadline,
    .tsc_moved = apic_tsc_moved,
    .send = apic_send_to,
    .init_reset = apic_init_reset,
};

/* --- text --- */

static void describe_vectors(GString *text, const char *name, const uint32_t words[8])
{
    g_string_append_printf(text, "%s\t", name);
    bool any = false;
    for (unsigned vector = 0; vector < 256; vector++) {
        if (words[vector / 32] >> (vector & 31) & 1) {
            g_string_append_printf(text, " %u", vector);
            any = true;
        }
    }
    g_string_append(text, any ? "\n" : " (none)\n");
}

static char *apic_describe(Device *dev)
{
    static const char *const names[LVT_COUNT] = { "LVTT", "LVTTHMR", "LVTPC", "LVT0", "LVT1", "LVTERR" };
    Apic *apic = (Apic *)dev;
    GString *text = g_string_new(NULL);
    uint32_t irr[8];
    for (unsigned i = 0; i < 8; i++) {
        irr[i] = atomic_load(&apic->irr[i]);
    }
    g_string_append_printf(text, "dumping local APIC state for CPU %u\n\n", apic->x86.cpu->vcpu->index);
    for (unsigned i = 0; i < LVT_COUNT; i++) {
        g_string_append_printf(text, "%s\t 0x%08x\n", names[i], apic->lvt[i]);
    }
    g_string_append_printf(text, "Timer\t DCR=0x%x initial_count = %u current_count = %u\n", apic->divide,
                           apic->initial, apic_timer_current(apic));
    g_string_append_printf(text, "SPIV\t 0x%08x APIC %s, vec %u\n", apic->svr,
                           apic_enabled(apic) ? "enabled" : "disabled", apic->svr & 0xff);
    g_string_append_printf(text, "ICR\t 0x%016" PRIx64 "\nESR\t 0x%08x\n", apic->icr, apic->esr);
    describe_vectors(text, "ISR", apic->isr);
    describe_vectors(text, "IRR", irr);
    g_string_append_printf(text, "\nBASE 0x%" PRIx64 " ID %u LDR 0x%08x DFR 0x%08x TPR 0x%02x PPR 0x%02x\n",
                           apic->base, apic->id, apic_logical_id(apic), apic->dfr, atomic_load(&apic->tpr),
                           apic_ppr(apic));
    return g_string_free(text, FALSE);
}

/* --- life --- */

static Apics *apics_of(Machine *machine)
{
    Apics *all = machine_service(machine, APICS_SERVICE);
    if (all) {
        return all;
    }
    all = g_new0(Apics, 1);
    all->machine = machine;
    all->apics = g_ptr_array_new();
    all->sink = (MsiSink) { .send = apics_msi, .opaque = all };
    mem_region_init_io(&all->page, machine->mem, "apic-msi", 0x100000, &page_ops, all);
    mem_region_set_lock(&all->page, NULL);
    mem_region_map(&machine->memory, APIC_DEFAULT_BASE, &all->page, 0x1000);
    machine_set_service(machine, APICS_SERVICE, all);
    machine_set_service(machine, "msi", &all->sink);
    return all;
}

void apic_on_taken(Machine *machine, void (*taken)(void *opaque), void *opaque)
{
    Apics *all = machine_service(machine, APICS_SERVICE);
    if (all) {
        all->taken = taken;
        all->taken_opaque = opaque;
    }
}

/* The last APIC takes the shared part with it. */
static void apics_free(Apics *all)
{
    machine_set_service(all->machine, APICS_SERVICE, NULL);
    machine_set_service(all->machine, "msi", NULL);
    mem_region_fini(&all->page);
    g_ptr_array_unref(all->apics);
    g_free(all);
}

static void apic_unplug(Device *dev)
{
    Apic *apic = (Apic *)dev;
    if (!apic->all) {
        return;
    }
    Apics *all = apic->all;
    X86Cpu *cpu = apic->x86.cpu;
    if (cpu && cpu->apic == &apic->x86) {
        cpu->apic = NULL;
    }
    g_ptr_array_remove(all->apics, apic);
    lock_fini(&apic->timer_lock);
    if (all->apics->len == 0) {
        apics_free(all);
    }
}

static Error *apic_plug(Device *dev)
{
    Apic *apic = (Apic *)dev;
    apic_timer_init(apic);
    apic->all = apics_of(dev->machine);
    g_ptr_array_add(apic->all->apics, apic);
    return NULL;
}

static Error *apic_loaded(Device *dev)
{
    Apic *apic = (Apic *)dev;
    apic_place_page(apic);
    apic_timer_restart(apic);
    apic_reconsider(apic);
    return NULL;
}

static const StateField state[] = {
    STATE_U64(Apic, base),
    STATE_U32(Apic, id),
    STATE_U32(Apic, ldr),
    STATE_U32(Apic, dfr),
    STATE_U32(Apic, svr),
    STATE_U32(Apic, tpr),
    STATE_U32_ARRAY(Apic, isr),
    STATE_U32_ARRAY(Apic, irr),
    STATE_U32_ARRAY(Apic, tmr),
    STATE_U32(Apic, esr),
    STATE_U32(Apic, errors),
    STATE_U64(Apic, icr),
    STATE_U32_ARRAY(Apic, lvt),
    STATE_U32(Apic, initial),
    STATE_U32(Apic, divide),
    STATE_BOOL(Apic, spent),
    STATE_INT(Apic, started),
    STATE_U64(Apic, deadline),
    STATE_NOT(Apic, x86, "wiring"),
    STATE_NOT(Apic, all, "wiring"),
    STATE_NOT(Apic, timer_lock, "host"),
    STATE_NOT(Apic, timer, "armed again after loading"),
    STATE_NOT(Apic, moved, "computed from base"),
    STATE_NOT(Apic, page, "placed again after loading"),
    { 0 },
};

DEVICE_TYPE(apic, DEVICE_OBJECT("apic", Apic, NULL), .desc = "Local APIC", .category = DEV_INTERNAL, .state = state,
            .plug = apic_plug, .reset = apic_reset, .unplug = apic_unplug, .loaded = apic_loaded,
            .describe = apic_describe);

Error *apic_create(Vcpu *vcpu, Apic **ret_apic)
{
    Apic *apic = (Apic *)device_new(vcpu->machine, device_type_find("apic"), NULL);
    apic->x86.ops = &apic_ops;
    apic->x86.cpu = x86_cpu_of(vcpu);
    object_add_child(&vcpu->dev.object, "lapic", &apic->dev.object);
    TRY(device_plug(&apic->dev, NULL));
    apic->x86.cpu->apic = &apic->x86;
    apic_reset(&apic->dev);
    if (ret_apic) {
        *ret_apic = apic;
    }
    return NULL;
}
