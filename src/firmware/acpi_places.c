/* Methods that all places share whose content comes and goes, CPUs and memory slots: ACPI 6.4, 6.3. */
#include "firmware/acpi.h"

void acpi_status_method(Aml *a, const AcpiPlaces *places, const char *method)
{
    aml_method(a, method, 1, true);
    aml_acquire(a, places->mutex);
    aml_store(a, AML_ARG0, places->select);
    aml_set_local0(a, 0);
    aml_if(a);
    aml_path(a, places->enabled);
    aml_set_local0(a, 0xf);
    aml_end(a);
    aml_release(a, places->mutex);
    aml_op(a, AML_RETURN);
    aml_op(a, AML_LOCAL0);
    aml_end(a);
}

void acpi_notify_method(Aml *a, const AcpiPlaces *places, const char *method, unsigned count)
{
    aml_method(a, method, 2, false);
    for (unsigned place = 0; place < count; place++) {
        char name[5];
        g_snprintf(name, sizeof(name), places->name, place);
        aml_if(a);
        aml_op(a, AML_LEQUAL);
        aml_op(a, AML_ARG0);
        aml_int(a, place);
        aml_op(a, AML_NOTIFY);
        aml_path(a, name);
        aml_op(a, AML_ARG1);
        aml_end(a);
    }
    aml_end(a);
}
