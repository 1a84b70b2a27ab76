/*
 * Saved state that every PCI device has: configuration space, level of the interrupt pin, MSI-X table.
 *
 * What a device decides itself (identity, capabilities, sizes) is not taken from the stream, so a stream cannot make
 * a device that this program would not make.
 */
#include "base/checked.h"
#include "base/endian.h"
#include "bus/pci_priv.h"

static void put_u32(GByteArray *out, uint32_t value)
{
    uint8_t bytes[4];
    st32_le(bytes, value);
    g_byte_array_append(out, bytes, 4);
}

void pci_device_save(Device *dev, GByteArray *out)
{
    PciDevice *pci = pci_of(dev);
    uint32_t table_size = 0, pba_size = 0;
    uint8_t *pba = NULL, *table = pci_msix_memory(pci, &table_size, &pba, &pba_size);
    put_u32(out, pci->config_size);
    g_byte_array_append(out, pci->config, pci->config_size);
    put_u32(out, pci->intx_level);
    put_u32(out, table_size);
    if (table) {
        g_byte_array_append(out, table, table_size);
        g_byte_array_append(out, pba, pba_size);
    }
}

/* Takes `size` bytes off the stream; NULL: it is too short. */
static const uint8_t *take(const uint8_t **data, const uint8_t *end, uint64_t size)
{
    const uint8_t *at = *data;
    if ((uint64_t)(end - at) < size) {
        return NULL;
    }
    *data += size;
    return at;
}

static bool take_u32(const uint8_t **data, const uint8_t *end, uint32_t *ret_value)
{
    const uint8_t *at = take(data, end, 4);
    if (at) {
        *ret_value = ld32_le(at);
    }
    return at != NULL;
}

Error *pci_device_load(Device *dev, const uint8_t **data, const uint8_t *end)
{
    PciDevice *pci = pci_of(dev);
    uint32_t config_size, level, table_size, own_table_size = 0, pba_size = 0;
    uint8_t *pba = NULL, *table = pci_msix_memory(pci, &own_table_size, &pba, &pba_size);
    const uint8_t *config, *entries = NULL, *pending = NULL;
    if (!take_u32(data, end, &config_size) || config_size != pci->config_size ||
        !(config = take(data, end, config_size)) || !take_u32(data, end, &level) ||
        !take_u32(data, end, &table_size) || table_size != own_table_size ||
        (table && (!(entries = take(data, end, table_size)) || !(pending = take(data, end, pba_size))))) {
        return error_new("%s: the saved PCI state does not fit this device", device_label(dev));
    }
    if (ld32_le(config) != ld32_le(pci->config)) {
        return error_new("%s: the saved state is of PCI device %04x:%04x, this is %04x:%04x", device_label(dev),
                         ld16_le(config), ld16_le(config + 2), ld16_le(pci->config), ld16_le(pci->config + 2));
    }
    for (uint32_t i = 0; i < config_size; i++) {
        uint8_t mask = pci->wmask[i] | pci->w1cmask[i];
        pci->config[i] = (pci->config[i] & ~mask) | (config[i] & mask);
    }
    if (table) {
        memcpy(table, entries, table_size);
        memcpy(pba, pending, pba_size);
    }
    pci_update_mappings(pci);
    pci_set_irq(pci, level != 0);
    if (pci->config_written) {
        pci->config_written(pci, 0, pci->config_size);
    }
    return NULL;
}
