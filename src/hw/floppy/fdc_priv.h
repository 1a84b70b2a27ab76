/*
 * The floppy controller's state and what its files share: registers, phases and the device (fdc.c), the
 * commands (fdc_command.c), data on its way between image and guest (fdc_data.c).
 */
#ifndef OSTRICH_HW_FLOPPY_FDC_PRIV_H
#define OSTRICH_HW_FLOPPY_FDC_PRIV_H

#include "hw/floppy/floppy.h"

enum { R_SRA, R_SRB, R_DOR, R_TDR, R_MSR, R_FIFO, R_DIR = 7, R_DSR = R_MSR, R_CCR = R_DIR };
enum { DOR_RESET = 0x04, DOR_DMA = 0x08, DOR_SELECT = 0x03 };
enum { MSR_BUSY = 0x10, MSR_NON_DMA = 0x20, MSR_DIO = 0x40, MSR_RQM = 0x80 };
enum { DSR_POWER_DOWN = 0x40, DSR_RESET = 0x80, DIR_CHANGED = 0x80 };
enum { ST0_ABNORMAL = 0x40, ST0_INVALID = 0x80, ST0_READY_CHANGED = 0xc0, ST0_SEEK_END = 0x20, ST0_CHECK = 0x10 };
enum { ST1_MISSING_MARK = 0x01, ST1_NOT_WRITABLE = 0x02, ST1_NO_DATA = 0x04, ST1_DATA_ERROR = 0x20, ST1_END = 0x80 };
enum { ST2_SCAN_FAILED = 0x04, ST2_SCAN_EQUAL = 0x08, ST2_WRONG_CYLINDER = 0x10, ST2_CONTROL_MARK = 0x40 };
enum { ST3_TWO_SIDES = 0x08, ST3_TRACK0 = 0x10, ST3_READY = 0x20, ST3_PROTECTED = 0x40 };
enum { PARAMS_MAX = 18, RESULTS_MAX = 16, BUFFER_BYTES = 2 * FLOPPY_MAX_SECTORS * FLOPPY_SECTOR };
enum { PENDING_RESETS = 4, SIZE_CODE_512 = 2 };

typedef enum Phase { PHASE_COMMAND, PHASE_EXECUTION, PHASE_RESULT } Phase;
/* What the execution phase does with data. */
typedef enum Action {
    ACTION_NONE, ACTION_READ, ACTION_WRITE, ACTION_FORMAT, ACTION_SCAN_EQUAL, ACTION_SCAN_LOW, ACTION_SCAN_HIGH, ACTION_VERIFY,
} Action;

typedef struct Fdc {
    Device dev;
    FloppyBus floppies;
    uint8_t dor, tdr, dsr, rate;
    uint8_t msr_drives;       /* seeking, until sensed */
    uint8_t st0, pending_resets;
    bool irq_level;
    /* SPECIFY, CONFIGURE, LOCK, PERPENDICULAR MODE, OPTION */
    uint8_t specify[2], config, precomp, perpendicular, option;
    bool lock;
    /* The command under way. */
    uint8_t phase;
    uint8_t param[PARAMS_MAX], params, wanted;
    uint8_t result[RESULTS_MAX], results, result_at;
    uint8_t action;
    uint8_t unit, cylinder, head, sector; /* where it began */
    uint8_t last_sector;      /* EOT, by which the result bytes count */
    bool multi_track;
    uint32_t sectors;         /* that the command may reach */
    uint32_t length, at;      /* bytes of the buffer that count, and of these done */
    bool loaded;              /* the buffer holds what was read */
    uint8_t formatted;        /* sectors that FORMAT has written */
    uint8_t *buffer;
    GByteArray *saved;        /* the buffer in a saved state, when it counts */
    unsigned inflight;        /* block requests that use the buffer */
    unsigned generation;      /* a reset makes completions of older ones void */
    bool waiting;             /* to begin until those are done */
    uint32_t iobase, irq_n, dma_n;
    int kind_a, kind_b, fallback;
    MemRegion low_ports, dir_port;
} Fdc;

/* --- fdc.c --- */

void fdc_set_irq(Fdc *fdc, bool level);
void fdc_set_dreq(Fdc *fdc, bool level);
/* To the command phase. */
void fdc_idle(Fdc *fdc);
/* To the result phase, with these bytes. */
void fdc_results(Fdc *fdc, const uint8_t *bytes, unsigned count);
#define RESULTS(fdc, ...)                                                                          \
    fdc_results(fdc, (const uint8_t[]) { __VA_ARGS__ }, sizeof((const uint8_t[]) { __VA_ARGS__ }))
bool fdc_uses_dma(const Fdc *fdc);
/* NULL: no drive is there. */
FloppyDrive *fdc_drive(const Fdc *fdc, unsigned unit);
/* Ends a command with data: the seven result bytes and the interrupt. `done` sectors were dealt with. */
void fdc_finish(Fdc *fdc, uint8_t st0, uint8_t st1, uint8_t st2, uint32_t done);

/* --- fdc_command.c --- */

/* How many parameters follow a command's first byte. */
unsigned fdc_command_params(uint8_t byte);
/* Runs the command in fdc->param. */
void fdc_command_run(Fdc *fdc);

/* --- fdc_data.c --- */

/* Checks the address of a data command as the hardware finds out: by looking for the sector's mark. */
bool fdc_locate(Fdc *fdc, uint8_t cylinder, uint8_t head, uint8_t sector, uint8_t size_code);
/* A command with fdc->length bytes from fdc's place on begins its execution phase. */
void fdc_begin(Fdc *fdc);
/* The same for the commands whose parameters are an address and an end of track. */
void fdc_start_data(Fdc *fdc, Action action, uint8_t first_sector);
/* IsaDmaFn of the channel. */
uint32_t fdc_dma_transfer(void *opaque, unsigned channel, uint32_t pos, uint32_t count);
/* Without DMA: the data register in the execution phase. */
void fdc_write_pio(Fdc *fdc, uint8_t value);
uint8_t fdc_read_pio(Fdc *fdc);
#endif
