/*
 * Intel 82540EM, 82544GC and 82545EM Gigabit Ethernet controllers (Software Developer's Manual 317453): legacy,
 * context and data transmit descriptors with checksum and segmentation offload, receive filters, VLAN, EEPROM, PHY,
 * interrupt throttling. Missing: receive checksum offload (drivers check themselves), wake-up, flow control.
 */
#include "hw/net/e1000.h"

#include <string.h>

#include "base/endian.h"
#include "base/log.h"
#include "bus/pci.h"
#include "hw/net/e1000_tx.h"
#include "net/net.h"

enum { MMIO_SIZE = 0x20000, IO_SIZE = 0x40, DESC = 16, EEPROM_WORDS = 64, PHY_REGS = 32, MIN_FRAME = 60, TX_BUDGET = 512 };
enum { PHY_CTRL = 0, PHY_STATUS = 1, PHY_ID1 = 2, PHY_ID2 = 3, PHY_ADDRESS = 1, PHY_LINK = BIT(2), PHY_AN_DONE = BIT(5), PHY_AN_RESTART = BIT(9),
       PHY_SPECIFIC_STATUS = 17, PHY_SPECIFIC_LINK = BIT(10) };

typedef struct E1000Kind {
    uint16_t phy_id2;
} E1000Kind;

/* The EEPROM's serial interface. */
typedef struct Microwire {
    uint8_t bits_in, bits_out;
    uint32_t shift_in, old_eecd;
    uint16_t shift_out;
    bool reading;
} Microwire;

typedef struct E1000 {
    PciDevice pci;
    NicConf nic;
    MemRegion mmio, io;
    uint32_t regs[E1000_REGISTERS / 4];
    uint16_t phy[PHY_REGS];
    uint16_t eeprom[EEPROM_WORDS];
    Microwire spi;
    uint32_t io_address;
    Timer throttle;
    Work transmit;
    E1000Packet packet;
    GByteArray *gathered; /* the packet's bytes in a saved state */
} E1000;

static E1000 *of_dev(Device *dev)
{
    return container_of(container_of(dev, PciDevice, dev), E1000, pci);
}

static uint32_t *reg(E1000 *e, uint32_t addr)
{
    return &e->regs[addr / 4];
}

/* --- interrupts --- */

static void update_interrupt(E1000 *e)
{
    uint32_t pending = *reg(e, E1000_ICR) & *reg(e, E1000_IMS);
    if (pending && timer_armed(&e->throttle)) {
        return;
    }
    pci_set_irq(&e->pci, pending != 0);
    if (pending && *reg(e, E1000_ITR)) {
        timer_set(&e->throttle, clock_now(e->pci.dev.machine->clocks, CLOCK_VIRTUAL) + (int64_t)(*reg(e, E1000_ITR) & 0xffff) * 256);
    }
}

static void raise_causes(E1000 *e, uint32_t causes)
{
    *reg(e, E1000_ICR) |= causes;
    update_interrupt(e);
}

static void throttle_over(void *opaque)
{
    update_interrupt(opaque);
}

static uint32_t take_icr(E1000 *e)
{
    uint32_t icr = *reg(e, E1000_ICR);
    *reg(e, E1000_ICR) = 0;
    pci_set_irq(&e->pci, 0);
    return icr;
}

/* --- PHY and EEPROM --- */

static void set_link(E1000 *e)
{
    bool up = !e->nic.port.link_down;
    if (up) {
        *reg(e, E1000_STATUS) |= STATUS_LU;
        e->phy[PHY_STATUS] |= PHY_LINK | PHY_AN_DONE;
        e->phy[PHY_SPECIFIC_STATUS] |= PHY_SPECIFIC_LINK;
    } else {
        *reg(e, E1000_STATUS) &= ~(uint32_t)STATUS_LU;
        e->phy[PHY_STATUS] &= (uint16_t) ~(PHY_LINK | PHY_AN_DONE);
        e->phy[PHY_SPECIFIC_STATUS] &= (uint16_t)~PHY_SPECIFIC_LINK;
    }
}

static void reset_phy(E1000 *e)
{
    static const uint16_t values[PHY_REGS] = { [PHY_CTRL] = 0x1140, [PHY_STATUS] = 0x7949, [PHY_ID1] = 0x0141, [4] = 0x0de1, [5] = 0x45e1,
                                               [6] = 0x0001, [9] = 0x0e00, [10] = 0x3c00, [15] = 0x3000, [16] = 0x0068,
                                               [PHY_SPECIFIC_STATUS] = 0xa800, [20] = 0x0d60 };
    const E1000Kind *kind = device_type(&e->pci.dev)->extra;
    memcpy(e->phy, values, sizeof(values));
    e->phy[PHY_ID2] = kind->phy_id2;
    set_link(e);
}

static void phy_write(E1000 *e, unsigned number, uint16_t value)
{
    switch (number) {
    case PHY_CTRL:
        e->phy[PHY_CTRL] = value & 0x7dc0;
        if (value & BIT(15)) {
            reset_phy(e);
        } else if (value & PHY_AN_RESTART) {
            set_link(e);
            raise_causes(e, INT_LSC);
        }
        break;
    case PHY_STATUS:
    case PHY_ID1:
    case PHY_ID2:
    case 5:
    case 10:
    case 15:
    case PHY_SPECIFIC_STATUS:
        break; /* read only */
    default:
        e->phy[number] = value;
        break;
    }
}

static void mdic_wrote(E1000 *e, uint32_t value)
{
    unsigned number = value >> 16 & 31, address = value >> 21 & 31, op = value >> 26 & 3;

    if (address != PHY_ADDRESS) {
        value |= MDIC_ERROR;
    } else if (op == MDIC_READ) {
        value = (value & 0xffff0000) | e->phy[number];
    } else if (op == MDIC_WRITE) {
        phy_write(e, number, (uint16_t)value);
    }
    *reg(e, E1000_MDIC) = (value & ~MDIC_READY) | MDIC_READY;
    if (value & MDIC_INT) {
        raise_causes(e, INT_MDAC);
    }
}

static void fill_eeprom(E1000 *e)
{
    const uint8_t *mac = e->nic.mac.octet;
    uint16_t sum = 0;

    memset(e->eeprom, 0, sizeof(e->eeprom));
    for (int i = 0; i < 3; i++) {
        e->eeprom[i] = ld16_le(mac + 2 * i);
    }
    e->eeprom[0x0a] = 0x4408; /* signature, 64 words */
    e->eeprom[0x0b] = ld16_le(e->pci.config + PCI_SUBSYSTEM_ID);
    e->eeprom[0x0c] = ld16_le(e->pci.config + PCI_SUBSYSTEM_VENDOR);
    e->eeprom[0x0d] = ld16_le(e->pci.config + PCI_DEVICE_ID);
    e->eeprom[0x0e] = ld16_le(e->pci.config + PCI_VENDOR_ID);
    for (int i = 0; i < EEPROM_WORDS - 1; i++) {
        sum = (uint16_t)(sum + e->eeprom[i]);
    }
    e->eeprom[EEPROM_WORDS - 1] = (uint16_t)(0xbaba - sum); /* all words sum to BABAh */
}

static void eerd_wrote(E1000 *e, uint32_t value)
{
    unsigned word = value >> 8 & 0xff;
    if (value & EERD_START) {
        value = (value & 0xff00) | EERD_DONE;
        value |= word < EEPROM_WORDS ? (uint32_t)e->eeprom[word] << 16 : 0;
    }
    *reg(e, E1000_EERD) = value;
}

/* Microwire: a start bit, two of opcode (10: read), six of address in; sixteen of data out, on rising clocks. */
static void eecd_wrote(E1000 *e, uint32_t value)
{
    uint32_t old = e->spi.old_eecd;
    e->spi.old_eecd = value;
    if (!(value & EECD_CS)) {
        e->spi.bits_in = 0;
        e->spi.shift_in = 0;
        e->spi.reading = false;
        return;
    }
    if (!(value & EECD_SK) || (old & EECD_SK)) {
        return;
    }
    if (e->spi.reading) {
        if (e->spi.bits_out == 17) {
            e->spi.bits_out = 16; /* the zero is over */
        } else if (e->spi.bits_out) {
            e->spi.bits_out--;
            e->spi.shift_out = (uint16_t)(e->spi.shift_out << 1);
        }
        return;
    }
    e->spi.shift_in = e->spi.shift_in << 1 | ((value & EECD_DI) != 0);
    if (e->spi.bits_in == 0 && !(value & EECD_DI)) {
        return; /* no start bit yet */
    }
    if (++e->spi.bits_in == 9) {
        unsigned address = e->spi.shift_in & 0x3f;
        e->spi.reading = (e->spi.shift_in >> 6 & 3) == 2;
        e->spi.shift_out = e->eeprom[address];
        e->spi.bits_out = 17; /* a leading zero */
        e->spi.bits_in = 0;
    }
}

static uint32_t eecd_read(const E1000 *e)
{
    uint32_t value = (e->spi.old_eecd & (EECD_SK | EECD_CS | EECD_DI | EECD_REQ)) | EECD_PRES;
    value |= value & EECD_REQ ? EECD_GNT : 0;
    bool data = !e->spi.reading || (e->spi.bits_out <= 16 && e->spi.shift_out >> 15);
    return value | (data ? EECD_DO : 0);
}

/* --- receiving --- */

static bool filter_multicast(E1000 *e, const uint8_t *frame)
{
    static const uint8_t shifts[] = { 4, 3, 2, 0 };
    unsigned hash = (unsigned)(frame[5] << 8 | frame[4]) >> shifts[*reg(e, E1000_RCTL) >> 12 & 3] & 0xfff;
    return *reg(e, E1000_MTA + 4 * (hash >> 5)) >> (hash & 31) & 1;
}

static bool filter_exact(E1000 *e, const uint8_t *frame)
{
    for (unsigned i = 0; i < 16; i++) {
        uint32_t low = *reg(e, E1000_RA + 8 * i), high = *reg(e, E1000_RA + 8 * i + 4);
        if ((high & BIT(31)) && ld32_le(frame) == low && ld16_le(frame + 4) == (uint16_t)high) {
            return true;
        }
    }
    return false;
}

static bool is_tagged(E1000 *e, const uint8_t *frame)
{
    return ld16_be(frame + 12) == (uint16_t)*reg(e, E1000_VET);
}

static bool wanted(E1000 *e, const uint8_t *frame)
{
    uint32_t rctl = *reg(e, E1000_RCTL);

    if ((rctl & RCTL_VFE) && is_tagged(e, frame)) {
        unsigned vlan = ld16_be(frame + 14) & 0xfff;
        if (!(*reg(e, E1000_VFTA + 4 * (vlan >> 5)) >> (vlan & 31) & 1)) {
            return false;
        }
    }
    if (nic_is_broadcast(frame)) {
        return (rctl & (RCTL_BAM | RCTL_MPE)) || filter_exact(e, frame);
    }
    if (nic_is_multicast(frame)) {
        return (rctl & RCTL_MPE) || filter_exact(e, frame) || filter_multicast(e, frame);
    }
    return (rctl & RCTL_UPE) || filter_exact(e, frame);
}

static uint32_t buffer_size(uint32_t rctl)
{
    uint32_t size = 2048u >> (rctl >> 16 & 3);
    return rctl & RCTL_BSEX ? size * 16 : size;
}

static uint64_t ring_base(E1000 *e, uint32_t low)
{
    return ((uint64_t)*reg(e, low + 4) << 32 | *reg(e, low)) & ~15ull;
}

static uint32_t ring_free(E1000 *e)
{
    uint32_t count = *reg(e, E1000_RDLEN) / DESC, head = *reg(e, E1000_RDH), tail = *reg(e, E1000_RDT);
    return head < count && tail < count ? (tail + count - head) % count : 0;
}

/* Counters stay at their maximum. */
static void count(E1000 *e, uint32_t addr, uint32_t more)
{
    uint32_t sum;
    *reg(e, addr) = __builtin_add_overflow(*reg(e, addr), more, &sum) ? UINT32_MAX : sum;
}

/* Those of 64 bits. */
static void count_octets(E1000 *e, uint32_t low, size_t more)
{
    uint64_t sum;
    if (__builtin_add_overflow((uint64_t)*reg(e, low + 4) << 32 | *reg(e, low), more, &sum)) {
        sum = UINT64_MAX;
    }
    *reg(e, low) = (uint32_t)sum;
    *reg(e, low + 4) = (uint32_t)(sum >> 32);
}

static void count_received(E1000 *e, const uint8_t *frame, size_t length)
{
    count(e, E1000_GPRC, 1);
    count(e, E1000_TPR, 1);
    count_octets(e, E1000_GORCL, length);
    count_octets(e, E1000_TORL, length);
    if (nic_is_broadcast(frame)) {
        count(e, E1000_BPRC, 1);
    } else if (nic_is_multicast(frame)) {
        count(e, E1000_MPRC, 1);
    }
}

/* Fills one descriptor; data runs out or the buffer does. Returns the bytes put. */
static uint32_t fill_descriptor(E1000 *e, uint64_t at, const uint8_t *data, uint32_t left, uint32_t size, uint32_t status, uint16_t special)
{
    uint8_t desc[DESC];
    uint32_t part = MIN(left, size);

    pci_dma_read(&e->pci, at, desc, DESC);
    if (part && ld64_le(desc)) {
        pci_dma_write(&e->pci, ld64_le(desc), data, part);
    }
    st16_le(desc + 8, (uint16_t)part);
    st16_le(desc + 10, 0);
    desc[12] = (uint8_t)(status | RXD_DD | RXD_IXSM | (part == left ? RXD_EOP : 0));
    desc[13] = 0;
    st16_le(desc + 14, special);
    pci_dma_write(&e->pci, at, desc, DESC);
    return part;
}

static bool e1000_receive(NetPort *port, const uint8_t *frame, size_t length)
{
    E1000 *e = port->opaque;
    uint32_t rctl = *reg(e, E1000_RCTL), size = buffer_size(rctl), status = 0;
    uint8_t padded[16384 + 8];
    uint16_t special = 0;

    if (!(rctl & RCTL_EN) || !(*reg(e, E1000_STATUS) & STATUS_LU)) {
        return true;
    }
    if (length < 14 || length > ((rctl & RCTL_LPE) ? 16384u : 1522u)) {
        return true;
    }
    memset(padded, 0, MIN_FRAME + 8);
    memcpy(padded, frame, length);
    if (!wanted(e, padded)) {
        return true;
    }
    if ((*reg(e, E1000_CTRL) & CTRL_VME) && is_tagged(e, padded) && length >= 18) {
        special = ld16_be(padded + 14);
        status |= RXD_VP;
        memmove(padded + 12, padded + 16, length - 16);
        length -= 4;
    }
    /* The checksum at the end is counted unless it is stripped; its bytes are zero. */
    uint32_t total = (uint32_t)MAX(length, (size_t)MIN_FRAME);
    if (!(rctl & RCTL_SECRC)) {
        memset(padded + total, 0, 4);
        total += 4;
    }
    uint32_t needed = (total + size - 1) / size;
    if (ring_free(e) < needed) {
        raise_causes(e, INT_RXO);
        return false;
    }
    uint32_t count = *reg(e, E1000_RDLEN) / DESC;
    for (uint32_t done = 0; done < total;) {
        uint32_t head = *reg(e, E1000_RDH);
        done += fill_descriptor(e, ring_base(e, E1000_RDBAL) + (uint64_t)head * DESC, padded + done, total - done, size, status, special);
        *reg(e, E1000_RDH) = head + 1 == count ? 0 : head + 1;
    }
    count_received(e, padded, total);
    uint32_t threshold = count >> ((rctl >> 8 & 3) + 1);
    raise_causes(e, INT_RXT0 | (ring_free(e) <= threshold ? INT_RXDMT0 : 0u));
    return true;
}

static void e1000_link_changed(NetPort *port)
{
    E1000 *e = port->opaque;
    set_link(e);
    raise_causes(e, INT_LSC);
}

static char *e1000_describe(NetPort *port)
{
    E1000 *e = port->opaque;
    const uint8_t *m = e->nic.mac.octet;
    return g_strdup_printf("model=%s,macaddr=%02x:%02x:%02x:%02x:%02x:%02x", e->pci.dev.object.type->name, m[0], m[1], m[2], m[3], m[4], m[5]);
}

static const uint8_t *e1000_mac(NetPort *port)
{
    return ((E1000 *)port->opaque)->nic.mac.octet;
}
static const NetPortOps port_ops = { .kind = "nic", .receive = e1000_receive, .link_changed = e1000_link_changed, .mac = e1000_mac,
                                     .describe = e1000_describe };

/* --- transmitting --- */

static void put_on_wire(void *opaque, const uint8_t *frame, size_t length)
{
    E1000 *e = opaque;
    uint8_t padded[MIN_FRAME] = { 0 };

    if (length < MIN_FRAME) {
        memcpy(padded, frame, length);
        frame = padded;
        length = MIN_FRAME;
    }
    count(e, E1000_GPTC, 1);
    count(e, E1000_TPT, 1);
    count_octets(e, E1000_GOTCL, length);
    count_octets(e, E1000_TOTL, length);
    net_send(&e->nic.port, frame, length);
}

static void take_context(E1000Packet *packet, const uint8_t desc[DESC])
{
    uint32_t word2 = ld32_le(desc + 8), word3 = ld32_le(desc + 12);
    packet->context = (E1000Context) {
        .ipcss = desc[0], .ipcso = desc[1], .ipcse = ld16_le(desc + 2), .tucss = desc[4], .tucso = desc[5], .tucse = ld16_le(desc + 6),
        .paylen = word2 & 0xfffff, .tcp = (word2 & TXC_TCP) != 0, .ip4 = (word2 & TXC_IP) != 0, .hdrlen = (uint8_t)(word3 >> 8),
        .mss = (uint16_t)(word3 >> 16),
    };
}

static void append(E1000 *e, uint64_t addr, uint32_t length)
{
    E1000Packet *packet = &e->packet;
    uint32_t room = E1000_TX_MAX - packet->length;
    length = MIN(length, room);
    if (length) {
        pci_dma_read(&e->pci, addr, packet->data + packet->length, length);
        packet->length += length;
    }
}

static void legacy_checksum(E1000Packet *packet, uint32_t word2, const uint8_t desc[DESC])
{
    if (word2 & TXD_IC) {
        e1000_insert_checksum(packet->data, packet->length, desc[13], 0, desc[10]);
    }
}

/* Returns the number of frames that went out. */
static unsigned transmit_descriptor(E1000 *e, uint8_t desc[DESC])
{
    E1000Packet *packet = &e->packet;
    uint32_t word2 = ld32_le(desc + 8), word3 = ld32_le(desc + 12);
    bool extended = (word2 & TXD_DEXT) != 0;

    if (extended && (word2 >> 20 & 15) == TXD_TYPE_CONTEXT) {
        take_context(packet, desc);
        return 0;
    }
    if (packet->length == 0 && extended) {
        packet->insert_ip = (word3 & TXD_POPT_IXSM) != 0;
        packet->insert_tu = (word3 & TXD_POPT_TXSM) != 0;
        packet->segment = (word2 & TXD_TSE) != 0;
    } else if (packet->length == 0) {
        packet->insert_ip = packet->insert_tu = packet->segment = false;
    }
    append(e, ld64_le(desc), extended ? word2 & 0xfffff : word2 & 0xffff);
    if (!(word2 & TXD_EOP)) {
        return 0;
    }
    packet->vlan = (word2 & TXD_VLE) && (*reg(e, E1000_CTRL) & CTRL_VME);
    packet->vlan_tag = (uint16_t)(word3 >> 16);
    if (!extended) {
        legacy_checksum(packet, word2, desc);
    }
    unsigned frames = e1000_packet_send(packet, put_on_wire, e);
    packet->length = 0;
    return frames;
}

static void transmit(void *opaque)
{
    E1000 *e = opaque;
    uint32_t count = *reg(e, E1000_TDLEN) / DESC, causes = 0;
    unsigned done = 0;
    uint8_t desc[DESC];

    if (!machine_running(e->pci.dev.machine)) {
        return; /* e1000_resumed() comes back to it */
    }
    if (!(*reg(e, E1000_TCTL) & TCTL_EN) || count == 0 || *reg(e, E1000_TDT) >= count || *reg(e, E1000_TDH) >= count) {
        return;
    }
    while (*reg(e, E1000_TDH) != *reg(e, E1000_TDT) && done < TX_BUDGET) {
        uint32_t head = *reg(e, E1000_TDH);
        uint64_t at = ring_base(e, E1000_TDBAL) + (uint64_t)head * DESC;
        pci_dma_read(&e->pci, at, desc, DESC);
        done += 1 + transmit_descriptor(e, desc);
        if (ld32_le(desc + 8) & TXD_RS) {
            desc[12] |= TXD_STATUS_DD;
            pci_dma_write(&e->pci, at + 12, desc + 12, 4);
            causes |= INT_TXDW;
        }
        *reg(e, E1000_TDH) = head + 1 == count ? 0 : head + 1;
    }
    if (*reg(e, E1000_TDH) == *reg(e, E1000_TDT)) {
        causes |= INT_TXQE;
    } else {
        work_schedule(&e->transmit);
    }
    raise_causes(e, causes);
}

/* --- registers --- */

static void software_reset(E1000 *e)
{
    static const struct {
        uint16_t addr;
        uint32_t value;
    } defaults[] = { { E1000_CTRL, 0x00140240 }, { E1000_STATUS, 0x80080783 & ~STATUS_LU }, { E1000_PBA, 0x00100030 }, { E1000_LEDCTL, 0x00000602 },
                     { E1000_MANC, 0x00002200 } };

    work_cancel(&e->transmit);
    timer_cancel(&e->throttle);
    memset(e->regs, 0, sizeof(e->regs));
    memset(&e->spi, 0, sizeof(e->spi));
    e->packet.length = 0;
    memset(&e->packet.context, 0, sizeof(e->packet.context));
    for (size_t i = 0; i < ARRAY_SIZE(defaults); i++) {
        *reg(e, defaults[i].addr) = defaults[i].value;
    }
    *reg(e, E1000_RA) = ld32_le(e->nic.mac.octet);
    *reg(e, E1000_RA + 4) = ld16_le(e->nic.mac.octet + 4) | BIT(31);
    set_link(e);
    pci_set_irq(&e->pci, 0);
}

static bool is_statistic(uint32_t addr)
{
    return addr >= E1000_STATISTICS && addr < E1000_STATISTICS_END;
}

/* Reading a counter clears it; one of 64 bits with its upper half, which drivers read last. */
static void read_clears(E1000 *e, uint32_t addr)
{
    static const uint16_t wide[] = { E1000_GORCL, E1000_GOTCL, E1000_TORL, E1000_TOTL };

    for (size_t i = 0; i < ARRAY_SIZE(wide); i++) {
        if (addr == wide[i]) {
            return;
        }
        if (addr == wide[i] + 4u) {
            *reg(e, wide[i]) = 0;
        }
    }
    *reg(e, addr) = 0;
}

static uint64_t mmio_read(void *opaque, uint64_t addr, unsigned size)
{
    E1000 *e = opaque;
    uint32_t value;

    if (addr >= E1000_REGISTERS) {
        log_unimp("e1000: read of register 0x%x", (unsigned)addr);
        return 0;
    }
    switch (addr) {
    case E1000_ICR:
        return take_icr(e);
    case E1000_EECD:
        return eecd_read(e);
    case E1000_ICS:
    case E1000_IMC:
        return 0;
    default:
        value = *reg(e, (uint32_t)addr);
        if (is_statistic((uint32_t)addr)) {
            read_clears(e, (uint32_t)addr);
        }
        return value;
    }
}

static void control_wrote(E1000 *e, uint32_t value)
{
    if (value & CTRL_RST) {
        software_reset(e);
        return;
    }
    if (value & CTRL_PHY_RST) {
        reset_phy(e);
    }
    *reg(e, E1000_CTRL) = value & ~(uint32_t)CTRL_PHY_RST;
}

static void mmio_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    E1000 *e = opaque;
    uint32_t v = (uint32_t)value;

    if (addr >= E1000_REGISTERS) {
        log_unimp("e1000: write to register 0x%x", (unsigned)addr);
        return;
    }
    switch (addr) {
    case E1000_CTRL:
    case E1000_CTRL + 4:
        control_wrote(e, v);
        break;
    case E1000_STATUS:
        break;
    case E1000_EECD:
        eecd_wrote(e, v);
        break;
    case E1000_EERD:
        eerd_wrote(e, v);
        break;
    case E1000_MDIC:
        mdic_wrote(e, v);
        break;
    case E1000_ICR:
        *reg(e, E1000_ICR) &= ~v;
        update_interrupt(e);
        break;
    case E1000_ICS:
        raise_causes(e, v);
        break;
    case E1000_IMS:
        *reg(e, E1000_IMS) |= v;
        update_interrupt(e);
        break;
    case E1000_IMC:
        *reg(e, E1000_IMS) &= ~v;
        update_interrupt(e);
        break;
    case E1000_RCTL:
        *reg(e, E1000_RCTL) = v;
        net_port_ready(&e->nic.port);
        break;
    case E1000_RDT:
        *reg(e, E1000_RDT) = v & 0xffff;
        net_port_ready(&e->nic.port);
        break;
    case E1000_RDH:
    case E1000_TDH:
        *reg(e, (uint32_t)addr) = v & 0xffff;
        break;
    case E1000_RDLEN:
    case E1000_TDLEN:
        *reg(e, (uint32_t)addr) = v & 0xfff80;
        break;
    case E1000_TDT:
        *reg(e, E1000_TDT) = v & 0xffff;
        work_schedule(&e->transmit);
        break;
    case E1000_TCTL:
        *reg(e, E1000_TCTL) = v;
        work_schedule(&e->transmit);
        break;
    default:
        if (!is_statistic((uint32_t)addr)) {
            *reg(e, (uint32_t)addr) = v;
        }
        break;
    }
}
static const MemOps mmio_ops = { .read = mmio_read, .write = mmio_write, .min = 4, .max = 4 };

/* I/O window: an address register and a data register. */
static uint64_t io_read(void *opaque, uint64_t addr, unsigned size)
{
    E1000 *e = opaque;
    return addr == 0 ? e->io_address : addr == 4 ? mmio_read(e, e->io_address & ~3u, 4) : 0;
}

static void io_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    E1000 *e = opaque;
    if (addr == 0) {
        e->io_address = (uint32_t)value & (MMIO_SIZE - 1);
    } else if (addr == 4) {
        mmio_write(e, e->io_address & ~3u, value, 4);
    }
}
static const MemOps io_ops = { .read = io_read, .write = io_write, .min = 4, .max = 4 };

/* --- life --- */

static Error *e1000_plug(Device *dev)
{
    E1000 *e = of_dev(dev);

    device_timer_init(dev, &e->throttle, CLOCK_VIRTUAL, throttle_over);
    e->throttle.opaque = e;
    device_work_init(dev, &e->transmit, transmit);
    e->transmit.opaque = e;
    TRY(nic_attach(&e->nic, dev, &port_ops, e));
    mem_region_init_io(&e->mmio, dev->machine->mem, "e1000-mmio", MMIO_SIZE, &mmio_ops, e);
    device_region_own(dev, &e->mmio);
    mem_region_init_io(&e->io, dev->machine->mem, "e1000-io", IO_SIZE, &io_ops, e);
    device_region_own(dev, &e->io);
    pci_bar(&e->pci, 0, PCI_BAR_MEM32, &e->mmio);
    pci_bar(&e->pci, 1, PCI_BAR_IO, &e->io);
    fill_eeprom(e);
    return NULL;
}

static void e1000_unplug(Device *dev)
{
    nic_detach(&of_dev(dev)->nic);
    g_clear_pointer(&of_dev(dev)->gathered, g_byte_array_unref);
}

static void e1000_reset(Device *dev)
{
    E1000 *e = of_dev(dev);
    software_reset(e);
    reset_phy(e);
    net_port_flush_waiting(&e->nic.port);
}

static Error *e1000_loaded(Device *dev)
{
    E1000 *e = of_dev(dev);
    E1000Packet *packet = &e->packet;

    set_link(e);
    packet->length = e->gathered ? e->gathered->len : 0;
    if (packet->length) {
        memcpy(packet->data, e->gathered->data, packet->length);
    }
    g_clear_pointer(&e->gathered, g_byte_array_unref);
    return NULL;
}

static void e1000_saving(Device *dev)
{
    E1000 *e = of_dev(dev);

    g_clear_pointer(&e->gathered, g_byte_array_unref);
    if (e->packet.length) {
        e->gathered = g_byte_array_append(g_byte_array_new(), e->packet.data, e->packet.length);
    }
}

static void e1000_resumed(Device *dev)
{
    work_schedule(&of_dev(dev)->transmit);
}

static const Prop props[] = { NIC_CONF_PROPS(E1000, nic, pci.dev), { 0 } };
static const StateField context_state[] = {
    STATE_U8(E1000Context, ipcss), STATE_U8(E1000Context, ipcso), STATE_U8(E1000Context, tucss), STATE_U8(E1000Context, tucso),
    STATE_U8(E1000Context, hdrlen), STATE_U16(E1000Context, ipcse), STATE_U16(E1000Context, tucse), STATE_U16(E1000Context, mss),
    STATE_U32(E1000Context, paylen), STATE_BOOL(E1000Context, ip4), STATE_BOOL(E1000Context, tcp), { 0 },
};
static const StateField spi_state[] = {
    STATE_RANGE(Microwire, bits_in, 0, 8), STATE_RANGE(Microwire, bits_out, 0, 17), STATE_U32(Microwire, shift_in),
    STATE_U32(Microwire, old_eecd), STATE_U16(Microwire, shift_out), STATE_BOOL(Microwire, reading), { 0 },
};
/* Drivers keep a context in force for many packets, and may post a packet in parts. */
static const StateField packet_state[] = {
    STATE_STRUCT(E1000Packet, context, context_state), STATE_BOOL(E1000Packet, insert_ip), STATE_BOOL(E1000Packet, insert_tu),
    STATE_BOOL(E1000Packet, segment), STATE_BOOL(E1000Packet, vlan), STATE_U16(E1000Packet, vlan_tag),
    STATE_NOT(E1000Packet, length, "of what is gathered"), STATE_NOT(E1000Packet, data, "what is gathered"), { 0 },
};
static const StateField state[] = {
    STATE_U32_ARRAY(E1000, regs),
    STATE_U16_ARRAY(E1000, phy),
    STATE_U32(E1000, io_address),
    STATE_TIMER(E1000, throttle),
    STATE_NOT(E1000, nic, "configuration"),
    STATE_NOT(E1000, eeprom, "made from the address"),
    STATE_STRUCT(E1000, spi, spi_state),
    STATE_STRUCT(E1000, packet, packet_state),
    STATE_BUFFER(E1000, gathered, E1000_TX_MAX, 2),
    { 0 },
};

static const E1000Kind kind_82540em = { .phy_id2 = 0x0c20 }, kind_82544gc = { .phy_id2 = 0x0c30 }, kind_82545em = { .phy_id2 = 0x0c20 };
#define IDENT(id) { .vendor = 0x8086, .device = id, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .class_code = 0x020000,      \
                    .revision = 3, .interrupt_pin = 1, .rom = "efi-e1000.rom" }
static const PciIdent ident_82540em = IDENT(0x100e), ident_82544gc = IDENT(0x1008), ident_82545em = IDENT(0x100f);

#define E1000_TYPE(ident, nm, als, chip, text)                                                     \
    DEVICE_TYPE(ident, PCI_DEVICE_OBJECT(nm, E1000, props), .alias = als, .desc = text, .category = DEV_NETWORK, .bus = &pci_bus_type, \
                .pci = &ident_##chip, .state = state, .hotplug = true, .plug = e1000_plug, .unplug = e1000_unplug,                  \
                .state_version = 2, .state_min_version = 2, .reset = e1000_reset, .saving = e1000_saving, .loaded = e1000_loaded, \
                .resumed = e1000_resumed, .extra = &kind_##chip)
E1000_TYPE(e1000, "e1000", "e1000-82540em", 82540em, "Intel Gigabit Ethernet");
E1000_TYPE(e1000_82544gc, "e1000-82544gc", NULL, 82544gc, "Intel Gigabit Ethernet");
E1000_TYPE(e1000_82545em, "e1000-82545em", NULL, 82545em, "Intel Gigabit Ethernet");
