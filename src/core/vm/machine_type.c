/* The list of machine types. */
#include <string.h>

#include "core/vm/machine.h"

const MachineType *machine_type_find(const char *name)
{
    SECTION_FOREACH (machine_types, MachineType, it) {
        const MachineType *type = *it;
        if (!strcmp(type->name, name) || (type->alias && !strcmp(type->alias, name))) {
            return type;
        }
    }
    return NULL;
}

static int compare_names(gconstpointer a, gconstpointer b)
{
    const MachineType *const *x = a, *const *y = b;
    /* Newest version first among names that differ in their number only. */
    return -strverscmp((*x)->name, (*y)->name);
}

Error *machine_type_lookup(const char *name, const MachineType **ret_type)
{
    const MachineType *type = machine_type_find(name);
    if (type) {
        *ret_type = type;
        return NULL;
    }
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    SECTION_FOREACH (machine_types, MachineType, it) {
        g_ptr_array_add(names, (void *)(*it)->name);
        if ((*it)->alias) {
            g_ptr_array_add(names, (void *)(*it)->alias);
        }
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_in(name, (const char *const *)names->pdata);
    if (near) {
        return error_new("unsupported machine type '%s', did you mean '%s'?", name, near);
    }
    return error_hint(error_new("unsupported machine type '%s'", name),
                      "-machine help lists the machines.");
}

char *machine_types_help(void)
{
    g_autoptr(GPtrArray) types = g_ptr_array_new();
    GString *out = g_string_new("Supported machines are:\n");

    SECTION_FOREACH (machine_types, MachineType, it) {
        g_ptr_array_add(types, (void *)*it);
    }
    g_ptr_array_sort(types, compare_names);
    for (guint i = 0; i < types->len; i++) {
        const MachineType *type = g_ptr_array_index(types, i);
        if (type->alias) {
            g_string_append_printf(out, "%-20s %s (alias of %s)\n", type->alias, type->desc, type->name);
        }
        g_string_append_printf(out, "%-20s %s%s%s\n", type->name, type->desc, type->is_default ? " (default)" : "",
                               type->deprecated ? " (deprecated)" : "");
    }
    return g_string_free(out, FALSE);
}
