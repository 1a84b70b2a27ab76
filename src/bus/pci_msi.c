/*
 * Message-signalled interrupts: the MSI and MSI-X capabilities.
 *
 * PCI Local Bus Specification 3.0, 6.8. MSI is always 64-bit with per-vector masking; the MSI-X table and
 * its pending bits lie in a BAR of their own.
 */
#include "base/bits.h"
#include "base/checked.h"
#include "base/endian.h"
#include "bus/pci_priv.h"

/* MSI capability, offsets from its start. */
enum { MSI_CONTROL = 2, MSI_ADDR = 4, MSI_DATA = 12, MSI_MASK = 16, MSI_PENDING = 20, MSI_SIZE = 24 };
enum { MSI_ENABLE = 0x1, MSI_64BIT = 0x80, MSI_MASKABLE = 0x100 };
/* MSI-X capability and table entry. */
enum { MSIX_CONTROL = 2, MSIX_TABLE = 4, MSIX_PBA = 8, MSIX_SIZE = 12 };
enum { MSIX_FUNCTION_MASK = 0x4000, MSIX_ENABLE = 0x8000 };
enum { ENTRY_ADDR = 0, ENTRY_DATA = 8, ENTRY_CONTROL = 12, ENTRY_SIZE = 16 };

typedef struct PciMsix PciMsix;
struct PciMsix {
    PciDevice *pci;
    MemRegion region;
    unsigned vectors;
    uint32_t pba_offset;
    uint8_t *table; /* vectors entries */
    uint8_t *pba;   /* whole 64-bit words */
    uint32_t pba_size;
};

void msi_send(Machine *machine, uint64_t addr, uint32_t data)
{
    const MsiSink *sink = machine_service(machine, "msi");
    if (sink) {
        sink->send(sink->opaque, addr, data);
    }
}

bool msi_available(Machine *machine)
{
    return machine_service(machine, "msi") != NULL;
}

/* A message is a memory write, so it needs bus mastering. */
static void deliver(PciDevice *pci, uint64_t addr, uint32_t data)
{
    if (ld16_le(pci->config + PCI_COMMAND) & PCI_COMMAND_MASTER) {
        msi_send(pci->dev.machine, addr, data);
    }
}

/* --- MSI --- */

Error *pci_msi_init(PciDevice *pci, unsigned vectors)
{
    if (!msi_available(pci->dev.machine)) {
        return error_new("MSI needs a local APIC, which this machine does not have");
    }
    assert(IS_POW2(vectors) && vectors <= 32);
    uint8_t cap = pci_add_capability(pci, PCI_CAP_MSI, 0, MSI_SIZE);
    unsigned log2 = (unsigned)__builtin_ctz(vectors);
    pci->msi_cap = cap;
    st16_le(pci->config + cap + MSI_CONTROL, MSI_64BIT | MSI_MASKABLE | log2 << 1);
    st16_le(pci->wmask + cap + MSI_CONTROL, MSI_ENABLE | 7 << 4);
    st32_le(pci->wmask + cap + MSI_ADDR, 0xfffffffc);
    st32_le(pci->wmask + cap + MSI_ADDR + 4, 0xffffffff);
    st16_le(pci->wmask + cap + MSI_DATA, 0xffff);
    st32_le(pci->wmask + cap + MSI_MASK, (uint32_t)(BIT64(vectors) - 1));
    return NULL;
}

bool pci_msi_enabled(const PciDevice *pci)
{
    return pci->msi_cap && (ld16_le(pci->config + pci->msi_cap + MSI_CONTROL) & MSI_ENABLE);
}

/* As many as the device has and the guest allowed. */
static unsigned msi_vectors(const PciDevice *pci)
{
    uint16_t control = ld16_le(pci->config + pci->msi_cap + MSI_CONTROL);
    return 1u << MIN((control >> 4) & 7, (control >> 1) & 7);
}

static void msi_fire(PciDevice *pci, unsigned vector)
{
    uint8_t *cap = pci->config + pci->msi_cap;
    unsigned vectors = msi_vectors(pci);
    if (vector >= vectors) {
        vector = 0;
    }
    if (ld32_le(cap + MSI_MASK) & BIT(vector)) {
        st32_le(cap + MSI_PENDING, ld32_le(cap + MSI_PENDING) | BIT(vector));
        return;
    }
    deliver(pci, ld64_le(cap + MSI_ADDR), (ld16_le(cap + MSI_DATA) & ~(vectors - 1)) | vector);
}

static void msi_written(PciDevice *pci)
{
    uint8_t *cap = pci->config + pci->msi_cap;
    if (!pci_msi_enabled(pci)) {
        return;
    }
    uint32_t ready = ld32_le(cap + MSI_PENDING) & ~ld32_le(cap + MSI_MASK);
    st32_le(cap + MSI_PENDING, ld32_le(cap + MSI_PENDING) & ~ready);
    for (unsigned vector = 0; vector < 32; vector++) {
        if (ready & BIT(vector)) {
            msi_fire(pci, vector);
        }
    }
}

/* --- MSI-X --- */

bool pci_msix_enabled(const PciDevice *pci)
{
    return pci->msix_cap && (ld16_le(pci->config + pci->msix_cap + MSIX_CONTROL) & MSIX_ENABLE);
}

static bool msix_masked(const PciMsix *msix, unsigned vector)
{
    const PciDevice *pci = msix->pci;
    return (ld16_le(pci->config + pci->msix_cap + MSIX_CONTROL) & MSIX_FUNCTION_MASK) ||
           (msix->table[vector * ENTRY_SIZE + ENTRY_CONTROL] & 1);
}

static void msix_fire(PciMsix *msix, unsigned vector)
{
    if (msix_masked(msix, vector)) {
        __atomic_fetch_or(&msix->pba[vector / 8], BIT(vector % 8), __ATOMIC_RELAXED);
        return;
    }
    const uint8_t *entry = msix->table + vector * ENTRY_SIZE;
    deliver(msix->pci, ld64_le(entry + ENTRY_ADDR), ld32_le(entry + ENTRY_DATA));
}

static void msix_fire_pending(PciMsix *msix, unsigned vector)
{
    uint8_t bit = BIT(vector % 8);
    if ((msix->pba[vector / 8] & bit) && pci_msix_enabled(msix->pci) && !msix_masked(msix, vector)) {
        __atomic_fetch_and(&msix->pba[vector / 8], (uint8_t)~bit, __ATOMIC_RELAXED);
        msix_fire(msix, vector);
    }
}

static uint64_t msix_read(void *opaque, uint64_t addr, unsigned size)
{
    PciMsix *msix = opaque;
    if (range_inside(addr, size, msix->vectors * ENTRY_SIZE)) {
        return ld_le(msix->table + addr, size);
    }
    if (addr >= msix->pba_offset && range_inside(addr - msix->pba_offset, size, msix->pba_size)) {
        return ld_le(msix->pba + addr - msix->pba_offset, size);
    }
    return 0;
}

static void msix_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    PciMsix *msix = opaque;
    if (!range_inside(addr, size, msix->vectors * ENTRY_SIZE)) {
        return; /* the pending bits are read-only */
    }
    st_le(msix->table + addr, value, size);
    msix_fire_pending(msix, (unsigned)(addr / ENTRY_SIZE));
}

static const MemOps msix_ops = { .read = msix_read, .write = msix_write, .min = 4, .max = 8 };

Error *pci_msix_init(PciDevice *pci, unsigned vectors, unsigned bar)
{
    if (!msi_available(pci->dev.machine)) {
        return error_new("MSI-X needs a local APIC, which this machine does not have");
    }
    if (vectors < 1 || vectors > 2048) {
        return error_new("%s: %u MSI-X vectors: must be 1 to 2048", device_label(&pci->dev), vectors);
    }
    PciMsix *msix = g_new0(PciMsix, 1);
    msix->pci = pci;
    msix->vectors = vectors;
    msix->pba_size = ALIGN_UP(vectors, 64) / 8;
    msix->table = g_malloc0(vectors * ENTRY_SIZE);
    msix->pba = g_malloc0(msix->pba_size);
    msix->pba_offset = MAX(2048, ALIGN_UP(vectors * ENTRY_SIZE, 8));
    uint64_t size = 4096;
    while (size < msix->pba_offset + msix->pba_size) {
        size *= 2;
    }
    pci->msix = msix;
    g_autofree char *name = g_strdup_printf("%s msix", device_label(&pci->dev));
    mem_region_init_io(&msix->region, pci->dev.machine->mem, name, size, &msix_ops, msix);
    msix->region.owner = &pci->dev;
    pci_bar(pci, bar, PCI_BAR_MEM32, &msix->region);

    uint8_t cap = pci_add_capability(pci, PCI_CAP_MSIX, 0, MSIX_SIZE);
    pci->msix_cap = cap;
    st16_le(pci->config + cap + MSIX_CONTROL, vectors - 1);
    st16_le(pci->wmask + cap + MSIX_CONTROL, MSIX_ENABLE | MSIX_FUNCTION_MASK);
    st32_le(pci->config + cap + MSIX_TABLE, bar);
    st32_le(pci->config + cap + MSIX_PBA, msix->pba_offset | bar);
    pci_msi_reset(pci);
    return NULL;
}

/* --- both --- */

void pci_msi_notify(PciDevice *pci, unsigned vector)
{
    if (pci_msix_enabled(pci)) {
        if (vector < pci->msix->vectors) {
            msix_fire(pci->msix, vector);
        }
    } else if (pci_msi_enabled(pci)) {
        msi_fire(pci, vector);
    }
}

static bool touches(uint32_t addr, unsigned size, uint32_t start, uint32_t length)
{
    return start != 0 && addr < start + length && start < addr + size;
}

void pci_msi_written(PciDevice *pci, uint32_t addr, unsigned size)
{
    if (touches(addr, size, pci->msi_cap, MSI_SIZE)) {
        msi_written(pci);
    }
    if (touches(addr, size, pci->msix_cap, MSIX_SIZE)) {
        for (unsigned vector = 0; vector < pci->msix->vectors; vector++) {
            msix_fire_pending(pci->msix, vector);
        }
    }
}

void pci_msi_reset(PciDevice *pci)
{
    if (pci->msi_cap) {
        for (unsigned i = 0; i < MSI_SIZE; i++) {
            pci->config[pci->msi_cap + i] &= ~pci->wmask[pci->msi_cap + i];
        }
        st32_le(pci->config + pci->msi_cap + MSI_PENDING, 0);
    }
    if (pci->msix_cap) {
        PciMsix *msix = pci->msix;
        uint8_t *control = pci->config + pci->msix_cap + MSIX_CONTROL;
        st16_le(control, ld16_le(control) & ~(MSIX_ENABLE | MSIX_FUNCTION_MASK));
        memset(msix->pba, 0, msix->pba_size);
        memset(msix->table, 0, msix->vectors * ENTRY_SIZE);
        for (unsigned vector = 0; vector < msix->vectors; vector++) {
            msix->table[vector * ENTRY_SIZE + ENTRY_CONTROL] = 1;
        }
    }
}

uint8_t *pci_msix_memory(PciDevice *pci, uint32_t *ret_table_size, uint8_t **ret_pba, uint32_t *ret_pba_size)
{
    PciMsix *msix = pci->msix;
    if (!msix) {
        return NULL;
    }
    *ret_table_size = msix->vectors * ENTRY_SIZE;
    *ret_pba = msix->pba;
    *ret_pba_size = msix->pba_size;
    return msix->table;
}

void pci_msi_fini(PciDevice *pci)
{
    PciMsix *msix = pci->msix;
    if (msix) {
        mem_region_fini(&msix->region);
        g_free(msix->table);
        g_free(msix->pba);
        g_free(msix);
        pci->msix = NULL;
    }
    pci->msi_cap = pci->msix_cap = 0;
}
