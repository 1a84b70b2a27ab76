/*
 * ACPI fixed hardware: PM1a event and control blocks, PM timer, GPE0 block, power button, sleep states,
 * and the APM command ports 0xb2 and 0xb3. Embedded in the power management function of a chipset
 * (PIIX4, ICH9), which says where the blocks lie.
 *
 *     acpi_pm_init(&pm, dev, &options);                 in plug
 *     mem_region_map(machine_io, base, &pm.io, 0);      when the guest programs PMBASE
 *     mem_region_map(machine_io, 0xafe0, &pm.gpe_io, 0);
 *     acpi_pm_reset(&pm);                               in reset
 *     STATE_STRUCT(MyDevice, pm, acpi_pm_state)         in the state table
 *     acpi_pm_loaded(&pm);                              in loaded
 *
 * Threads: the machine lock; the PM timer is read without a lock.
 */
#ifndef OSTRICH_HW_ACPI_PM_H
#define OSTRICH_HW_ACPI_PM_H

#include "core/vm/machine.h"

#define ACPI_PM_SERVICE "acpi-pm"
#define ACPI_PM_TIMER_HZ 3579545
#define ACPI_GPE_BYTES_MAX 16

enum { /* PM1 status and enable */
    PM1_TMR = BIT(0), PM1_GBL = BIT(5), PM1_PWRBTN = BIT(8), PM1_SLPBTN = BIT(9), PM1_RTC = BIT(10), PM1_WAK = BIT(15),
};
enum { PM1_SCI_EN = BIT(0), PM1_SLP_TYP_SHIFT = 10, PM1_SLP_EN = BIT(13) }; /* PM1 control */

typedef struct AcpiPmOptions {
    unsigned gpe_bytes;  /* of the GPE0 block: status half and enable half together; 0: none */
    bool disable_s3, disable_s4;
    uint8_t s4_type;     /* SLP_TYP of S4; S3 is 1 and S5 is 0 */
    void (*apm_written)(void *owner, uint8_t command); /* port 0xb2 was written; may be NULL */
} AcpiPmOptions;

typedef struct AcpiPm {
    Device *dev;
    AcpiPmOptions options;
    IrqLine sci;
    uint16_t sts, en, cnt;
    uint8_t gpe[ACPI_GPE_BYTES_MAX]; /* status bytes, then enable bytes */
    uint8_t apm_control, apm_status;
    int64_t timer_boundary; /* ticks of the next toggle of the PM timer's top bit */
    Timer overflow;
    MachineNotifier notifier;
    MemRegion io;        /* 64 bytes: PM1 event 0..3, control 4..5, timer 8..11 */
    MemRegion blocks, timer;
    MemRegion gpe_io;    /* options.gpe_bytes */
    MemRegion apm_io;    /* 2 bytes for ports 0xb2, 0xb3 */
} AcpiPm;

extern const StateField acpi_pm_state[];

/* Sets the machine's service ACPI_PM_SERVICE. The regions belong to dev. */
void acpi_pm_init(AcpiPm *pm, Device *dev, const AcpiPmOptions *options, IrqLine sci);
void acpi_pm_reset(AcpiPm *pm);
void acpi_pm_loaded(AcpiPm *pm);
/* PM1_CNT.SCI_EN, as SMI handlers of ACPI_ENABLE and ACPI_DISABLE set it. */
void acpi_pm_set_sci_enabled(AcpiPm *pm, bool enabled);
/* Raises a general-purpose event: its status bit, and SCI if enabled. */
void acpi_gpe_raise(AcpiPm *pm, unsigned event);
/* The real-time clock's alarm goes off: RTC_STS, and the end of S3 if enabled. pm may be NULL. */
void acpi_pm_rtc_alarm(AcpiPm *pm);
/* NULL when the machine has no ACPI hardware. */
static inline AcpiPm *acpi_pm_of(Machine *machine)
{
    return (AcpiPm *)machine_service(machine, ACPI_PM_SERVICE);
}

#endif
