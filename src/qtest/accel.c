/* -accel qtest: no CPU runs, and guest time is what the test says. */
#include <stdatomic.h>

#include "accel/accel.h"
#include "qtest/qtest_priv.h"

typedef struct QtestAccel {
    Accel accel;
    _Atomic int64_t now; /* ns of the virtual clock */
} QtestAccel;

static int64_t now(void *opaque)
{
    return atomic_load(&((QtestAccel *)opaque)->now);
}

static Error *init(Accel *accel)
{
    clocks_set_virtual_source(accel->machine->clocks, now, accel);
    return NULL;
}

static void fini(Accel *accel)
{
    clocks_set_virtual_source(accel->machine->clocks, NULL, NULL);
}

static const AccelType qtest_type = {
    .name = "qtest", .desc = "no CPU: a test drives the machine", .size = sizeof(QtestAccel), .init = init, .fini = fini,
};
ACCEL_REGISTER(&qtest_type);

bool qtest_clock_set(Machine *machine, int64_t ns)
{
    if (machine->accel_type != &qtest_type) {
        return false;
    }
    atomic_store(&((QtestAccel *)machine->accel)->now, ns);
    clocks_virtual_moved(machine->clocks);
    return true;
}
