/*
 * "pci-bridge": a standard PCI-to-PCI bridge with an identity of its own.
 *
 * Interface: QEMU's docs/specs/pci-ids (1b36:0001). Missing: the standard hot-plug controller; devices behind it
 * come and go only while the guest does not run.
 */
#include "bus/pci_bridge.h"

enum { CAP_SLOT_ID = 0x04, CAP_SUBSYSTEM = 0x0d };

typedef struct PciBridgeDev {
    PciBridge bridge;
    uint8_t chassis_nr;
    int msi; /* OnOffAuto */
    bool shpc;
} PciBridgeDev;

static Error *bridge_plug(Device *dev)
{
    PciBridgeDev *bridge = container_of(dev, PciBridgeDev, bridge.pci.dev);
    PciDevice *pci = &bridge->bridge.pci;
    if (bridge->chassis_nr == 0) {
        return error_new("The bridge has no chassis number: give each bridge one of its own above "
                         "0 (chassis_nr=)");
    }
    if (bridge->shpc) {
        return error_new("%s: this program has no standard hot-plug controller; use shpc=off", device_label(dev));
    }
    pci_bridge_init(&bridge->bridge);
    if (bridge->msi != AUTO_OFF) {
        Error *err = pci_msi_init(pci, 1);
        if (err && bridge->msi == AUTO_ON) {
            return err;
        }
        error_free(err);
    }
    /* Chassis number, with no expansion slots behind it. */
    uint8_t cap = pci_add_capability(pci, CAP_SLOT_ID, 0, 4);
    pci->config[cap + 3] = bridge->chassis_nr;
    return NULL;
}

static void bridge_unplug(Device *dev)
{
    pci_bridge_fini(container_of(dev, PciBridge, pci.dev));
}

static const Prop bridge_props[] = {
    PROP_U8("chassis_nr", PciBridgeDev, chassis_nr, 0, .help = "number of the chassis, unique among bridges"),
    PROP_ON_OFF_AUTO("msi", PciBridgeDev, msi, AUTO_AUTO, .help = "on/off/auto"),
    PROP_BOOL("shpc", PciBridgeDev, shpc, false, .help = "standard hot-plug controller"),
    { 0 },
};

static const StateField bridge_state[] = {
    STATE_NOT(PciBridgeDev, bridge.control, "from configuration space"),
    { 0 },
};

static const PciIdent bridge_ident = {
    .vendor = 0x1b36, .device = 0x0001, .class_code = 0x060400, .interrupt_pin = 1,
};

DEVICE_TYPE(pci_bridge, PCI_DEVICE_OBJECT("pci-bridge", PciBridgeDev, bridge_props), .desc = "Standard PCI Bridge",
            .category = DEV_BRIDGE, .bus = &pci_bus_type, .pci = &bridge_ident, .state = bridge_state,
            .plug = bridge_plug, .unplug = bridge_unplug);
