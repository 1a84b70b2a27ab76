/*
 * The 16550A UART, embedded in ISA and PCI serial ports. Machine lock.
 */
#ifndef OSTRICH_HW_CHAR_UART16550_H
#define OSTRICH_HW_CHAR_UART16550_H

#include "chardev/chardev.h"
#include "core/dev/dev.h"

#define UART_FIFO 16
#define UART_PORTS 8

typedef struct UartFifo {
    uint8_t data[UART_FIFO];
    uint8_t head, count;
} UartFifo;

typedef struct Uart {
    Device *dev;
    CharFront chr;
    IrqLine irq;
    uint32_t baudbase;
    uint16_t divisor;
    uint8_t ier, fcr, lcr, mcr, lsr, msr, scr;
    bool thr_interrupt;   /* THRE went up and nobody has looked */
    bool timeout;         /* the receive FIFO has waited for four characters */
    bool polls_modem;     /* the back end has real modem lines */
    bool wakes;           /* input ends S3 */
    UartFifo rx, tx;      /* without FIFOs one entry of each is used */
    Timer timeout_timer, modem_timer;
    MemRegion ports;
} Uart;

extern const StateField uart_state[];

/* dev's region of UART_PORTS bytes is made here; the owner maps it. */
void uart_init(Uart *uart, Device *dev, IrqLine irq);
void uart_reset(Uart *uart);
void uart_loaded(Uart *uart);

#endif
