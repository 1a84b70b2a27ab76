/*
 * Intel 82371AB (PIIX4), function 3: power management and SMBus.
 *
 * 82371AB data sheet (order number 290562), 7.1: registers of function 3; 7.2: power management I/O space;
 * 11.2: SMBus (piix4_smbus.c). The ACPI blocks, APM ports and sleep states are hw/acpi/pm.h's. Beside the chip's
 * own registers: GPE0 at 0xafe0, the hot-plug registers of PCI at 0xae00, of CPUs at 0xaf00 and of memory at 0xa00, which
 * the machine's ACPI tables name.
 * Missing: device monitors, throttling, stop clock.
 */
#include "base/endian.h"
#include "hw/acpi/cpu_hotplug.h"
#include "hw/acpi/memory_hotplug.h"
#include "hw/acpi/pci_hotplug.h"
#include "hw/acpi/pm.h"
#include "hw/isa/piix.h"
#include "hw/isa/piix4_smbus.h"

/* Configuration registers. */
enum { PMBA = 0x40, DEVACTB = 0x58, PMREGMISC = 0x80, SMBBA = 0x90, SMBHSTCFG = 0xd2 };
enum { DEVACTB_APMC_EN = 1 << 25, PMREGMISC_PMIOSE = 1, SMBHSTCFG_EN = 1 };
/* Power management I/O space. */
enum { GLBCTL = 0x28 };
enum { APM_PORT = 0xb2, GPE0_PORT = 0xafe0, GPE0_BYTES = 4, HOTPLUG_PORT = 0xae00, CPU_HOTPLUG_PORT = 0xaf00 };
enum { GPE_PCI_HOTPLUG = 1, GPE_CPU_HOTPLUG = 2, GPE_MEMORY_HOTPLUG = 3 };
enum { APM_ACPI_ENABLE = 0xf1, APM_ACPI_DISABLE = 0xf0 };

typedef struct Piix4Pm {
    PciDevice pci;
    AcpiPm pm;
    Piix4Smbus smbus;
    AcpiPciHotplug hotplug;
    AcpiCpuHotplug cpu_hotplug;
    AcpiMemoryHotplug memory_hotplug;
    MemRegion misc; /* of the PM I/O space: what hw/acpi/pm.h leaves */
    uint32_t glbctl;
    IrqLine sci, smi;
    bool smm;
    uint8_t disable_s3, disable_s4, s4_val;
    bool hotplug_bridges, hotplug_root;
} Piix4Pm;

static Piix4Pm *piix4_of(Device *dev)
{
    return container_of(dev, Piix4Pm, pci.dev);
}

/* --- APM --- */

static void apm_written(void *owner, uint8_t command)
{
    Piix4Pm *piix = piix4_of(owner);
    if (command == APM_ACPI_ENABLE || command == APM_ACPI_DISABLE) {
        acpi_pm_set_sci_enabled(&piix->pm, command == APM_ACPI_ENABLE);
    }
    /* GLBCTL's SMI_EN does not gate it: on the way out of S3, firmware asks for an SMI before it has put PMBA back. */
    if (ld32_le(piix->pci.config + DEVACTB) & DEVACTB_APMC_EN) {
        irq_set(&piix->smi, 1);
    }
}

static uint64_t misc_read(void *opaque, uint64_t addr, unsigned size)
{
    Piix4Pm *piix = opaque;
    return addr == GLBCTL ? piix->glbctl : 0;
}

static void misc_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Piix4Pm *piix = opaque;
    if (addr == GLBCTL) {
        piix->glbctl = (uint32_t)value;
    }
}

static const MemOps misc_ops = { .read = misc_read, .write = misc_write, .min = 4, .max = 4 };

/* --- configuration --- */

static void place(MemRegion *io, MemRegion *region, bool on, uint16_t base)
{
    if (region->mapped && (!on || region->offset != base)) {
        mem_region_unmap(region);
    }
    if (on && !region->mapped) {
        mem_region_map(io, base, region, 0);
    }
}

static void update_ports(Piix4Pm *piix)
{
    const uint8_t *config = piix->pci.config;
    MemRegion *io = piix->pci.bus->io;
    uint16_t pm_base = ld32_le(config + PMBA) & 0xffc0, smb_base = ld32_le(config + SMBBA) & 0xfff0;
    mem_update_begin(piix->pci.dev.machine->mem);
    place(io, &piix->pm.io, (config[PMREGMISC] & PMREGMISC_PMIOSE) && pm_base, pm_base);
    place(io, &piix->smbus.io, (config[SMBHSTCFG] & SMBHSTCFG_EN) && smb_base, smb_base);
    mem_update_end(piix->pci.dev.machine->mem);
}

static void piix4_config_written(PciDevice *pci, uint32_t addr, unsigned size)
{
    update_ports(container_of(pci, Piix4Pm, pci));
}

static void piix4_reset(Device *dev)
{
    Piix4Pm *piix = piix4_of(dev);
    uint8_t *config = piix->pci.config;
    memset(config + 0x40, 0, 256 - 0x40);
    config[PMBA] = 1;
    config[SMBBA] = 1;
    if (!piix->smm) {
        /* Firmware takes this for SMM that was set up already, and leaves it alone. */
        st32_le(config + DEVACTB, DEVACTB_APMC_EN);
    }
    piix->glbctl = 0;
    acpi_pm_reset(&piix->pm);
    piix4_smbus_reset(&piix->smbus);
    acpi_pci_hotplug_reset(&piix->hotplug);
    acpi_cpu_hotplug_reset(&piix->cpu_hotplug);
    acpi_memory_hotplug_reset(&piix->memory_hotplug);
    update_ports(piix);
}

static void raise_hotplug(void *opaque)
{
    acpi_gpe_raise(&((Piix4Pm *)opaque)->pm, GPE_PCI_HOTPLUG);
}

static void raise_cpu_hotplug(void *opaque)
{
    acpi_gpe_raise(&((Piix4Pm *)opaque)->pm, GPE_CPU_HOTPLUG);
}

static void raise_memory_hotplug(void *opaque)
{
    acpi_gpe_raise(&((Piix4Pm *)opaque)->pm, GPE_MEMORY_HOTPLUG);
}

static Error *piix4_plug(Device *dev)
{
    Piix4Pm *piix = piix4_of(dev);
    PciDevice *pci = &piix->pci;
    MemRegion *io = pci->bus->io;
    st16_le(pci->wmask + PCI_COMMAND, PCI_COMMAND_IO);
    st16_le(pci->config + PCI_STATUS, 0x0280);
    st32_le(pci->wmask + PMBA, 0xffc0);
    st32_le(pci->wmask + SMBBA, 0xfff0);
    pci->config_written = piix4_config_written;

    AcpiPmOptions options = {
        .gpe_bytes = GPE0_BYTES, .disable_s3 = piix->disable_s3, .disable_s4 = piix->disable_s4,
        .s4_type = piix->s4_val, .apm_written = apm_written,
    };
    acpi_pm_init(&piix->pm, dev, &options, piix->sci);
    mem_region_init_io(&piix->misc, dev->machine->mem, "piix4-pm", 64, &misc_ops, piix);
    device_region_own(dev, &piix->misc);
    mem_region_map(&piix->pm.io, 0, &piix->misc, -1);
    mem_region_map(io, APM_PORT, &piix->pm.apm_io, 0);
    mem_region_map(io, GPE0_PORT, &piix->pm.gpe_io, 0);
    piix4_smbus_init(&piix->smbus, dev);
    acpi_pci_hotplug_init(&piix->hotplug, dev, pci->bus, piix->hotplug_root, piix->hotplug_bridges, raise_hotplug, piix);
    mem_region_map(io, HOTPLUG_PORT, &piix->hotplug.io, 0);
    acpi_cpu_hotplug_init(&piix->cpu_hotplug, dev, raise_cpu_hotplug, piix);
    mem_region_map(io, CPU_HOTPLUG_PORT, &piix->cpu_hotplug.io, 0);
    if (device_memory_of(dev->machine)) {
        acpi_memory_hotplug_init(&piix->memory_hotplug, dev, raise_memory_hotplug, piix);
        mem_region_map(io, ACPI_MEMORY_HOTPLUG_PORT, &piix->memory_hotplug.io, 0);
    }
    return NULL;
}

static const Prop piix4_props[] = {
    PROP_U8("disable_s3", Piix4Pm, disable_s3, 0, .help = "1: no suspend to RAM"),
    PROP_U8("disable_s4", Piix4Pm, disable_s4, 0, .help = "1: no suspend to disk"),
    PROP_U8("s4_val", Piix4Pm, s4_val, 2, .max = 7, .help = "SLP_TYP of suspend to disk"),
    PROP_BOOL("acpi-pci-hotplug-with-bridge-support", Piix4Pm, hotplug_bridges, true,
              .help = "hot-plug also behind bridges"),
    PROP_BOOL("acpi-root-pci-hotplug", Piix4Pm, hotplug_root, true, .help = "hot-plug on the root bus"),
    { 0 },
};

static const StateField piix4_state[] = {
    STATE_STRUCT(Piix4Pm, pm, acpi_pm_state),
    STATE_STRUCT(Piix4Pm, smbus, piix4_smbus_state),
    STATE_STRUCT(Piix4Pm, hotplug, acpi_pci_hotplug_state),
    STATE_STRUCT(Piix4Pm, cpu_hotplug, acpi_cpu_hotplug_state),
    STATE_STRUCT(Piix4Pm, memory_hotplug, acpi_memory_hotplug_state),
    STATE_U32(Piix4Pm, glbctl),
    STATE_NOT(Piix4Pm, misc, "fixed"),
    STATE_NOT(Piix4Pm, sci, "wiring"),
    STATE_NOT(Piix4Pm, smi, "wiring"),
    STATE_NOT(Piix4Pm, smm, "configuration"),
    { 0 },
};

static Error *piix4_loaded(Device *dev)
{
    Piix4Pm *piix = piix4_of(dev);
    acpi_pm_loaded(&piix->pm);
    update_ports(piix);
    return NULL;
}

static const PciIdent piix4_ident = {
    .vendor = 0x8086, .device = 0x7113, .revision = 3, .class_code = 0x068000, .interrupt_pin = 1,
};

DEVICE_TYPE(piix4_pm, PCI_DEVICE_OBJECT("PIIX4_PM", Piix4Pm, piix4_props), .desc = "PM", .category = DEV_INTERNAL,
            .bus = &pci_bus_type, .pci = &piix4_ident, .state = piix4_state, .plug = piix4_plug,
            .reset = piix4_reset, .loaded = piix4_loaded);

Error *piix4_pm_create(Machine *machine, PciBus *bus, const IrqLine *sci, const IrqLine *smi, Device **ret_pm)
{
    const DeviceType *type;
    TRY(device_type_lookup("PIIX4_PM", &type));
    Piix4Pm *piix = piix4_of(device_new(machine, type, NULL));
    piix->sci = *sci;
    piix->smm = smi != NULL;
    if (smi) {
        piix->smi = *smi;
    }
    piix->pci.devfn_opt = PCI_DEVFN(1, 3);
    TRY(device_plug(&piix->pci.dev, &bus->bus));
    *ret_pm = &piix->pci.dev;
    return NULL;
}

void piix4_pm_add_spd(Device *pm, unsigned slot, const uint8_t bytes[256])
{
    SmbusEeprom *eeprom = &piix4_of(pm)->smbus.eeprom[slot];
    assert(slot < SMBUS_EEPROMS);
    eeprom->present = true;
    memcpy(eeprom->bytes, bytes, SMBUS_EEPROM_SIZE);
}
