/*
 * National PC16550D UART (data sheet TL/C/8652): registers, FIFOs, interrupts, modem lines, loopback,
 * break. Bytes leave at once, as fast as the back end takes them; the baud rate decides the receive
 * time-out and what a real serial line behind the chardev is set to.
 *
 * OUT2 does not gate the interrupt, as guests exist that rely on it. Not modelled: parity and framing
 * errors (a chardev has none), DMA mode pins.
 */
#include "hw/char/uart16550.h"

#include <errno.h>

#include "core/vm/machine.h"

enum { R_DATA, R_IER, R_IIR, R_LCR, R_MCR, R_LSR, R_MSR, R_SCR, R_FCR = R_IIR };
enum { IER_RDI = 0x01, IER_THRI = 0x02, IER_RLSI = 0x04, IER_MSI = 0x08 };
enum { IIR_NONE = 0x01, IIR_MSI = 0x00, IIR_THRI = 0x02, IIR_RDI = 0x04, IIR_RLSI = 0x06, IIR_CTI = 0x0c, IIR_FIFOS = 0xc0 };
enum { FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_CLEAR_TX = 0x04 };
enum { LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 0x01, MCR_RTS = 0x02, MCR_OUT1 = 0x04, MCR_OUT2 = 0x08, MCR_LOOP = 0x10 };
enum { LSR_DR = 0x01, LSR_OE = 0x02, LSR_BI = 0x10, LSR_THRE = 0x20, LSR_TEMT = 0x40, LSR_ERRORS = 0x1e };
enum { MSR_DELTAS = 0x0f, MSR_TERI = 0x04, MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

#define MODEM_POLL_NS (10 * NS_PER_MS)

static void fifo_put(UartFifo *fifo, uint8_t byte)
{
    fifo->data[(fifo->head + fifo->count) % UART_FIFO] = byte;
    fifo->count++;
}

static uint8_t fifo_get(UartFifo *fifo)
{
    uint8_t byte = fifo->data[fifo->head];
    fifo->head = (fifo->head + 1) % UART_FIFO;
    fifo->count--;
    return byte;
}

static bool uart_has_fifos(const Uart *uart)
{
    return uart->fcr & FCR_ENABLE;
}

static unsigned uart_depth(const Uart *uart)
{
    return uart_has_fifos(uart) ? UART_FIFO : 1;
}

static unsigned uart_trigger(const Uart *uart)
{
    static const uint8_t levels[4] = { 1, 4, 8, 14 };
    return uart_has_fifos(uart) ? levels[uart->fcr >> 6] : 1;
}

/* Bits of a character on the line, and what one takes. */
static int64_t uart_char_ns(const Uart *uart)
{
    unsigned bits = 1 + 5 + (uart->lcr & 3) + (uart->lcr & 8 ? 1 : 0) + (uart->lcr & 4 ? 2 : 1);
    unsigned divisor = uart->divisor ? uart->divisor : 1;
    return (int64_t)bits * divisor * NS_PER_SEC / MAX(uart->baudbase, 1u);
}

static uint8_t uart_interrupt(const Uart *uart)
{
    if ((uart->ier & IER_RLSI) && (uart->lsr & LSR_ERRORS)) {
        return IIR_RLSI;
    }
    if ((uart->ier & IER_RDI) && uart->timeout) {
        return IIR_CTI;
    }
    if ((uart->ier & IER_RDI) && (uart->lsr & LSR_DR) && uart->rx.count >= uart_trigger(uart)) {
        return IIR_RDI;
    }
    if ((uart->ier & IER_THRI) && uart->thr_interrupt) {
        return IIR_THRI;
    }
    if ((uart->ier & IER_MSI) && (uart->msr & MSR_DELTAS)) {
        return IIR_MSI;
    }
    return IIR_NONE;
}

static void uart_update_irq(Uart *uart)
{
    irq_set(&uart->irq, uart_interrupt(uart) != IIR_NONE);
}

/* --- receiver --- */

static void uart_arm_timeout(Uart *uart)
{
    if (uart_has_fifos(uart) && uart->rx.count) {
        int64_t now = clock_now(uart->dev->machine->clocks, CLOCK_VIRTUAL);
        timer_set(&uart->timeout_timer, now + 4 * uart_char_ns(uart));
    } else {
        timer_cancel(&uart->timeout_timer);
    }
}

static void uart_timed_out(void *opaque)
{
    Uart *uart = opaque;
    uart->timeout = uart->rx.count > 0;
    uart_update_irq(uart);
}

static void uart_put_received(Uart *uart, uint8_t byte)
{
    if (uart->rx.count >= uart_depth(uart)) {
        uart->lsr |= LSR_OE;
        if (!uart_has_fifos(uart)) {
            uart->rx.data[uart->rx.head] = byte; /* the newer byte replaces the one in the register */
        }
    } else {
        fifo_put(&uart->rx, byte);
    }
    uart->lsr |= LSR_DR;
}

static size_t uart_can_receive(void *opaque)
{
    Uart *uart = opaque;
    return uart->mcr & MCR_LOOP ? 0 : uart_depth(uart) - MIN(uart->rx.count, uart_depth(uart));
}

static void uart_receive(void *opaque, const uint8_t *buf, size_t length)
{
    Uart *uart = opaque;
    if (uart->wakes && uart->dev->machine->state == RUN_STATE_SUSPENDED) {
        machine_request_wakeup(uart->dev->machine, WAKE_OTHER);
    }
    for (size_t i = 0; i < length; i++) {
        uart_put_received(uart, buf[i]);
    }
    uart_arm_timeout(uart);
    uart_update_irq(uart);
}

static uint8_t uart_read_data(Uart *uart)
{
    uint8_t byte = 0;
    if (uart->rx.count) {
        byte = fifo_get(&uart->rx);
    }
    if (uart->rx.count == 0) {
        uart->lsr &= ~(LSR_DR | LSR_BI);
    }
    uart->timeout = false;
    uart_arm_timeout(uart);
    uart_update_irq(uart);
    if (!(uart->mcr & MCR_LOOP)) {
        char_accept_input(&uart->chr);
    }
    return byte;
}

/* --- transmitter --- */

static void uart_sent(Uart *uart)
{
    if (uart->tx.count == 0 && !(uart->lsr & LSR_THRE)) {
        uart->lsr |= LSR_THRE | LSR_TEMT;
        uart->thr_interrupt = true;
    }
}

/* Passes on what waits; what the back end has no room for stays until uart_writable(). */
static void uart_transmit(Uart *uart)
{
    while (uart->tx.count) {
        if (uart->mcr & MCR_LOOP) {
            uart_put_received(uart, fifo_get(&uart->tx));
            uart_arm_timeout(uart);
            continue;
        }
        if (char_write(&uart->chr, &uart->tx.data[uart->tx.head], 1) == 0) {
            break;
        }
        fifo_get(&uart->tx);
    }
    uart_sent(uart);
    uart_update_irq(uart);
}

static void uart_writable(void *opaque)
{
    uart_transmit(opaque);
}

static void uart_write_data(Uart *uart, uint8_t byte)
{
    uart->thr_interrupt = false;
    uart->lsr &= ~(LSR_THRE | LSR_TEMT);
    if (uart->tx.count >= uart_depth(uart)) {
        fifo_get(&uart->tx); /* the guest did not wait: something is lost, the oldest as well as any */
    }
    fifo_put(&uart->tx, byte);
    uart_transmit(uart);
}

/* --- line and modem --- */

static void uart_set_line(Uart *uart)
{
    CharLine line = {
        .speed = uart->divisor ? uart->baudbase / uart->divisor : 0,
        .parity = !(uart->lcr & 8) ? 'N' : uart->lcr & 0x10 ? 'E' : 'O',
        .data_bits = 5 + (uart->lcr & 3),
        .stop_bits = uart->lcr & 4 ? 2 : 1,
    };
    if (line.speed) {
        char_set_line(&uart->chr, &line);
    }
}

/* New levels of the four inputs: deltas are remembered; RI counts only when it goes away. */
static void uart_set_modem_inputs(Uart *uart, uint8_t lines)
{
    uint8_t old = uart->msr & 0xf0, changed = old ^ lines;
    uint8_t deltas = changed >> 4 & ~MSR_TERI;
    if ((old & MSR_RI) && !(lines & MSR_RI)) {
        deltas |= MSR_TERI;
    }
    uart->msr = lines | ((uart->msr | deltas) & MSR_DELTAS);
}

static uint8_t uart_loop_lines(const Uart *uart)
{
    uint8_t mcr = uart->mcr;
    return (mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) | (mcr & MCR_OUT1 ? MSR_RI : 0) |
           (mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void uart_poll_modem(void *opaque)
{
    Uart *uart = opaque;
    unsigned lines = 0;
    if (uart->mcr & MCR_LOOP) {
        uart_set_modem_inputs(uart, uart_loop_lines(uart));
    } else if (char_get_modem(&uart->chr, &lines) < 0) {
        uart->polls_modem = false;
        uart_set_modem_inputs(uart, MSR_CTS | MSR_DSR | MSR_DCD);
    } else {
        uart->polls_modem = true;
        uart_set_modem_inputs(uart, (lines & CHAR_CTS ? MSR_CTS : 0) | (lines & CHAR_DSR ? MSR_DSR : 0) |
                                        (lines & CHAR_RI ? MSR_RI : 0) | (lines & CHAR_DCD ? MSR_DCD : 0));
        if (uart->ier & IER_MSI) {
            timer_set(&uart->modem_timer, clock_now(uart->dev->machine->clocks, CLOCK_VIRTUAL) + MODEM_POLL_NS);
        }
    }
    uart_update_irq(uart);
}

static void uart_write_mcr(Uart *uart, uint8_t value)
{
    uint8_t changed = uart->mcr ^ value;
    uart->mcr = value & 0x1f;
    if (changed & (MCR_DTR | MCR_RTS) && !(value & MCR_LOOP)) {
        char_set_modem(&uart->chr, (value & MCR_DTR ? CHAR_DTR : 0) | (value & MCR_RTS ? CHAR_RTS : 0));
    }
    if ((value & MCR_LOOP) || (changed & MCR_LOOP)) {
        uart_poll_modem(uart);
    }
    if ((changed & MCR_LOOP) && !(value & MCR_LOOP)) {
        char_accept_input(&uart->chr);
    }
}

static void uart_event(void *opaque, CharEvent event)
{
    Uart *uart = opaque;
    if (event == CHAR_EVENT_BREAK && !(uart->mcr & MCR_LOOP)) {
        uart_put_received(uart, 0);
        uart->lsr |= LSR_BI;
        uart_update_irq(uart);
    }
}

/* --- ports --- */

static void uart_write_fcr(Uart *uart, uint8_t value)
{
    bool toggled = (value ^ uart->fcr) & FCR_ENABLE;
    if (!(value & FCR_ENABLE)) {
        value = 0;
    }
    if (toggled || (value & FCR_CLEAR_RX)) {
        uart->rx = (UartFifo) { 0 };
        uart->lsr &= ~(LSR_DR | LSR_BI);
        uart->timeout = false;
        timer_cancel(&uart->timeout_timer);
    }
    if (toggled || (value & FCR_CLEAR_TX)) {
        uart->tx = (UartFifo) { 0 };
        uart_sent(uart);
    }
    uart->fcr = value & 0xc9;
    uart_update_irq(uart);
    char_accept_input(&uart->chr);
}

static void uart_write_ier(Uart *uart, uint8_t value)
{
    uint8_t raised = value & ~uart->ier;
    uart->ier = value & 0x0f;
    if ((raised & IER_THRI) && (uart->lsr & LSR_THRE)) {
        uart->thr_interrupt = true;
    }
    if (raised & IER_MSI) {
        uart_poll_modem(uart);
    }
    uart_update_irq(uart);
}

static void uart_write_lcr(Uart *uart, uint8_t value)
{
    uint8_t changed = uart->lcr ^ value;
    uart->lcr = value;
    if (changed & 0x3f) {
        uart_set_line(uart);
    }
    if (changed & LCR_BREAK) {
        char_set_break(&uart->chr, value & LCR_BREAK);
        if ((value & LCR_BREAK) && (uart->mcr & MCR_LOOP)) {
            uart_put_received(uart, 0);
            uart->lsr |= LSR_BI;
            uart_update_irq(uart);
        }
    }
}

static uint8_t uart_read_iir(Uart *uart)
{
    uint8_t value = uart_interrupt(uart);
    if (value == IIR_THRI) {
        uart->thr_interrupt = false;
        uart_update_irq(uart);
    }
    return value | (uart_has_fifos(uart) ? IIR_FIFOS : 0);
}

static uint8_t uart_read_msr(Uart *uart)
{
    if (uart->polls_modem) {
        uart_poll_modem(uart);
    }
    uint8_t value = uart->msr;
    uart->msr &= ~MSR_DELTAS;
    uart_update_irq(uart);
    return value;
}

static uint64_t uart_read(void *opaque, uint64_t addr, unsigned size)
{
    Uart *uart = opaque;
    bool dlab = uart->lcr & LCR_DLAB;
    switch (addr) {
    case R_DATA:
        return dlab ? uart->divisor & 0xff : uart_read_data(uart);
    case R_IER:
        return dlab ? uart->divisor >> 8 : uart->ier;
    case R_IIR:
        return uart_read_iir(uart);
    case R_LCR:
        return uart->lcr;
    case R_MCR:
        return uart->mcr;
    case R_LSR: {
        uint8_t value = uart->lsr;
        if (value & LSR_ERRORS) {
            uart->lsr &= ~LSR_ERRORS;
            uart_update_irq(uart);
        }
        return value;
    }
    case R_MSR:
        return uart_read_msr(uart);
    default:
        return uart->scr;
    }
}

static void uart_write(void *opaque, uint64_t addr, uint64_t value, unsigned size)
{
    Uart *uart = opaque;
    bool dlab = uart->lcr & LCR_DLAB;
    switch (addr) {
    case R_DATA:
        if (dlab) {
            uart->divisor = (uart->divisor & 0xff00) | value;
            uart_set_line(uart);
        } else {
            uart_write_data(uart, value);
        }
        break;
    case R_IER:
        if (dlab) {
            uart->divisor = (uart->divisor & 0xff) | value << 8;
            uart_set_line(uart);
        } else {
            uart_write_ier(uart, value);
        }
        break;
    case R_FCR:
        uart_write_fcr(uart, value);
        break;
    case R_LCR:
        uart_write_lcr(uart, value);
        break;
    case R_MCR:
        uart_write_mcr(uart, value);
        break;
    case R_SCR:
        uart->scr = value;
        break;
    default: /* LSR and MSR are written in factory tests only */
        break;
    }
}

static const MemOps uart_ops = { .read = uart_read, .write = uart_write, .max = 1 };
static const CharFrontOps uart_front = {
    .can_receive = uart_can_receive, .receive = uart_receive, .event = uart_event, .writable = uart_writable,
};

/* --- life --- */

static void uart_gone(void *opaque)
{
    Uart *uart = opaque;
    char_front_close(&uart->chr);
}

void uart_init(Uart *uart, Device *dev, IrqLine irq)
{
    uart->dev = dev;
    uart->irq = irq;
    device_timer_init(dev, &uart->timeout_timer, CLOCK_VIRTUAL, uart_timed_out);
    uart->timeout_timer.opaque = uart;
    device_timer_init(dev, &uart->modem_timer, CLOCK_VIRTUAL, uart_poll_modem);
    uart->modem_timer.opaque = uart;
    device_region_io(dev, &uart->ports, "serial", UART_PORTS, &uart_ops);
    uart->ports.opaque = uart;
    char_front_open(&uart->chr, &uart_front, uart);
    device_on_unplug(dev, uart_gone, uart);
}

void uart_reset(Uart *uart)
{
    uart->divisor = 12; /* 9600 bits a second */
    uart->ier = uart->fcr = uart->lcr = uart->scr = 0;
    uart->mcr = MCR_OUT2;
    uart->lsr = LSR_THRE | LSR_TEMT;
    uart->thr_interrupt = uart->timeout = false;
    uart->rx = uart->tx = (UartFifo) { 0 };
    timer_cancel(&uart->timeout_timer);
    timer_cancel(&uart->modem_timer);
    uart->msr = 0;
    uart_poll_modem(uart);
    uart->msr &= ~MSR_DELTAS;
    uart_update_irq(uart);
    char_accept_input(&uart->chr);
}

void uart_loaded(Uart *uart)
{
    uart_set_line(uart);
    uart_arm_timeout(uart);
    if (uart->tx.count) { /* else nothing changes, and the line, which others may drive as well, has its level from the controllers */
        uart_transmit(uart);
    }
    char_accept_input(&uart->chr); /* what was here before may have been full */
}

static const StateField fifo_state[] = {
    STATE_BYTES(UartFifo, data), STATE_RANGE(UartFifo, head, 0, UART_FIFO - 1), STATE_RANGE(UartFifo, count, 0, UART_FIFO),
    { 0 },
};

const StateField uart_state[] = {
    STATE_U16(Uart, divisor), STATE_U8(Uart, ier), STATE_U8(Uart, fcr), STATE_U8(Uart, lcr), STATE_U8(Uart, mcr),
    STATE_U8(Uart, lsr), STATE_U8(Uart, msr), STATE_U8(Uart, scr), STATE_BOOL(Uart, thr_interrupt),
    STATE_BOOL(Uart, timeout), STATE_STRUCT(Uart, rx, fifo_state), STATE_STRUCT(Uart, tx, fifo_state),
    STATE_NOT(Uart, dev, "wiring"), STATE_NOT(Uart, chr, "host"), STATE_NOT(Uart, irq, "wiring"),
    STATE_NOT(Uart, baudbase, "configuration"), STATE_NOT(Uart, wakes, "configuration"),
    STATE_NOT(Uart, polls_modem, "asked again"),
    STATE_NOT(Uart, timeout_timer, "armed again after loading"), STATE_NOT(Uart, modem_timer, "host polling"),
    STATE_NOT(Uart, ports, "fixed"),
    { 0 },
};
