/* Looking up accelerators by name; as types of objects they are "tcg-accel". */
#include "accel/accel.h"

#include "core/dev/dev_qmp.h"

const AccelType *accel_type_find(const char *name)
{
    SECTION_FOREACH(accel_types, AccelType, it) {
        if (strcmp((*it)->name, name) == 0) {
            return *it;
        }
    }
    return NULL;
}

Accel *accel_new(Machine *machine, const AccelType *type)
{
    Accel *accel = g_malloc0(type->size);

    accel->type = type;
    accel->machine = machine;
    for (const Prop *prop = type->props; prop && prop->name; prop++) {
        prop->kind->set_default((Object *)accel, prop);
    }
    return accel;
}

Error *accel_start(Accel *accel)
{
    Machine *machine = accel->machine;

    machine->accel = accel;
    machine->accel_type = accel->type;
    Error *err = accel->type->init(accel);
    if (err) {
        machine->accel = NULL;
        machine->accel_type = NULL;
        g_free(accel);
    }
    return err;
}

static int by_name(const void *a, const void *b)
{
    const AccelType *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

char *accel_types_help(void)
{
    g_autoptr(GPtrArray) types = g_ptr_array_new();
    SECTION_FOREACH(accel_types, AccelType, it) {
        if ((*it)->usable == NULL) {
            g_ptr_array_add(types, (gpointer)*it);
            continue;
        }
        Error *err = (*it)->usable();
        if (err == NULL) {
            g_ptr_array_add(types, (gpointer)*it);
        }
        error_free(err);
    }
    g_ptr_array_sort(types, by_name);
    GString *text = g_string_new("Accelerators supported in QEMU binary:\n");
    for (unsigned i = 0; i < types->len; i++) {
        const AccelType *type = g_ptr_array_index(types, i);
        g_string_append_printf(text, "%s\n", type->name);
    }
    return g_string_free(text, FALSE);
}

/* --- introspection --- */

static void list_accels(TypeListFn *fn, void *opaque)
{
    fn(opaque, "accel", "object", true);
    SECTION_FOREACH (accel_types, AccelType, it) {
        g_autofree char *name = g_strconcat((*it)->name, "-accel", NULL);
        fn(opaque, name, "accel", false);
    }
}

static bool list_accel_props(const char *name, void (*fn)(void *opaque, const Prop *prop), void *opaque)
{
    SECTION_FOREACH (accel_types, AccelType, it) {
        g_autofree char *full = g_strconcat((*it)->name, "-accel", NULL);
        if (strcmp(name, full) == 0) {
            for (const Prop *prop = (*it)->props; prop && prop->name; prop++) {
                fn(opaque, prop);
            }
            return true;
        }
    }
    return strcmp(name, "accel") == 0;
}

static const TypeFamily accels = { list_accels, list_accel_props };
SECTION_ENTRY(type_families, TypeFamily, &accels);
