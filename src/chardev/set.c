/* All character devices of a program: adding by options, finding, removing, listing. */
#include "chardev/chardev_priv.h"

#include <stdlib.h>
#include <string.h>

static const Prop chardev_props[] = {
    PROP_BOOL("mux", Chardev, mux, false, .help = "several devices share it; Ctrl-a c switches the input"),
    PROP_STR("logfile", Chardev, logfile, .help = "file that gets a copy of the output"),
    PROP_BOOL("logappend", Chardev, logappend, false, .help = "add to the log file instead of replacing it"),
    { 0 },
};

const ObjectType chardev_object_type = {
    .name = "chardev",
    .size = sizeof(Chardev),
    .abstract = true,
    .props = chardev_props,
};

Chardevs *chardevs_new(Object *container, Loop *loop)
{
    Chardevs *set = g_new0(Chardevs, 1);
    set->container = container;
    set->loop = loop;
    set->escape = 1;
    return set;
}

Error *chardevs_take_stdio(Chardevs *set, const char *who)
{
    if (!set->stdio_user) {
        set->stdio_user = who;
        return NULL;
    }
    if (!strcmp(set->stdio_user, who)) {
        return error_hint(error_new("standard input and output serve another character device already"),
                          "mon:stdio or a chardev with mux=on serves several devices.");
    }
    return error_new("the terminal of %s is in use by %s already", who, set->stdio_user);
}

void chardevs_give_stdio(Chardevs *set)
{
    set->stdio_user = NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const ChardevType *const *)a)->name, (*(const ChardevType *const *)b)->name);
}

/* NULL-terminated, sorted; caller frees. */
static const ChardevType **types_sorted(void)
{
    GPtrArray *types = g_ptr_array_new();
    SECTION_FOREACH(chardev_types, ChardevType, it) {
        if (!(*it)->internal) {
            g_ptr_array_add(types, (gpointer)*it);
        }
    }
    qsort(types->pdata, types->len, sizeof(gpointer), by_name);
    g_ptr_array_add(types, NULL);
    return (const ChardevType **)g_ptr_array_free(types, FALSE);
}

static const char *next_type_name(void *opaque)
{
    const ChardevType ***cursor = opaque;
    return **cursor ? (*(*cursor)++)->name : NULL;
}

static MUST_USE Error *type_lookup(const char *name, const ChardevType **ret_type)
{
    SECTION_FOREACH(chardev_types, ChardevType, it) {
        if (!strcmp((*it)->name, name) || ((*it)->alias && !strcmp((*it)->alias, name))) {
            *ret_type = *it;
            return NULL;
        }
    }
    g_autofree const ChardevType **types = types_sorted();
    const ChardevType **cursor = types;
    const char *near = nearest_name(name, next_type_name, &cursor);
    return error_new("'%s' is not a valid char driver%s%s%s (see -chardev help)", name,
                     near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

char *chardev_types_help(void)
{
    GString *out = g_string_new("Available chardev backend types:\n");
    g_autofree const ChardevType **types = types_sorted();
    for (const ChardevType **type = types; *type; type++) {
        g_string_append_printf(out, "  %-10s %s\n", (*type)->name, (*type)->desc);
    }
    return g_string_free(out, FALSE);
}

Chardev *chardev_find(Chardevs *set, const char *id)
{
    return (Chardev *)object_child(set->container, id);
}

Chardev *chardev_next(Chardevs *set, Chardev *after)
{
    ListNode *next = after ? after->object.sibling.next : set->container->children.head.next;
    if (next == &set->container->children.head) {
        return NULL;
    }
    return (Chardev *)container_of(next, Object, sibling);
}

static MUST_USE Error *set_options(Chardev *chr, const KeyValues *kv)
{
    for (guint n = 0; n < kv->items->len; n++) {
        const KeyValue *item = g_ptr_array_index(kv->items, n);
        if (strcmp(item->key, "backend") && strcmp(item->key, "id")) {
            TRY(object_set(&chr->object, item->key, item->value));
        }
    }
    return NULL;
}

static void chardev_close(Chardev *chr)
{
    if (chr->object.realized && chr->connected) {
        char_drain(chr);
    }
    chr->muted = true;
    while (chr->fronts->len) {
        char_front_close(g_ptr_array_index(chr->fronts, 0));
    }
    if (chardev_type(chr)->close && chr->object.realized) {
        chardev_type(chr)->close(chr);
    }
    char_log_close(chr);
    g_clear_pointer(&chr->fronts, g_ptr_array_unref);
    g_clear_pointer(&chr->backlog, g_byte_array_unref);
}

static MUST_USE Error *open_it(Chardev *chr, const KeyValues *kv)
{
    TRY(set_options(chr, kv));
    TRY(char_log_open(chr));
    chr->object.realized = true; /* from here on close() is due */
    return chardev_type(chr)->open(chr);
}

static bool id_is_wellformed(const char *id)
{
    if (!g_ascii_isalpha(id[0])) {
        return false;
    }
    for (const char *c = id; *c; c++) {
        if (!g_ascii_isalnum(*c) && !strchr("-._", *c)) {
            return false;
        }
    }
    return true;
}

Error *chardev_add(Chardevs *set, const KeyValues *options, Chardev **ret_chr)
{
    g_autoptr(KeyValues) kv = keyvalues_copy(options);
    const char *id = keyvalues_get(kv, "id"), *backend = keyvalues_get(kv, "backend");
    const ChardevType *type = NULL;

    if (!backend) {
        return error_new("character device '%s' needs a kind (backend=)", id ? id : "");
    }
    TRY(type_lookup(backend, &type));
    if (!id) {
        return error_new("a character device needs id=");
    }
    if (!id_is_wellformed(id)) {
        return error_hint(error_new("Parameter 'id' expects an identifier, not '%s'", id),
                          "An id begins with a letter; letters, digits, '-', '.' and '_' may follow.");
    }
    if (chardev_find(set, id)) {
        return error_new("there is a character device '%s' already", id);
    }
    Chardev *chr = (Chardev *)object_new(&type->object);
    chr->set = set;
    chr->fronts = g_ptr_array_new();
    chr->backlog = g_byte_array_new();
    chr->focus = -1;
    chr->log_fd = -1;
    object_add_child(set->container, id, &chr->object);
    Error *err = open_it(chr, kv);
    if (err) {
        chardev_close(chr);
        object_unparent(&chr->object);
        return err;
    }
    if (ret_chr) {
        *ret_chr = chr;
    }
    return NULL;
}

/* The one front end of `from` goes on with `to`. */
static void move_front(Chardev *from, Chardev *to)
{
    if (from->fronts->len == 0) {
        return;
    }
    CharFront *front = g_ptr_array_index(from->fronts, 0);
    bool was_connected = from->connected;
    g_ptr_array_set_size(from->fronts, 0);
    front->chr = to;
    g_ptr_array_add(to->fronts, front);
    if (!front->open) {
        return;
    }
    if (was_connected && front->ops->event) {
        front->ops->event(front->opaque, CHAR_EVENT_CLOSED);
    }
    if (to->connected && front->ops->event) {
        front->ops->event(front->opaque, CHAR_EVENT_OPENED);
    }
    char_accept_input(front);
}

Error *chardev_change(Chardevs *set, const KeyValues *options, Chardev **ret_chr)
{
    g_autoptr(KeyValues) kv = keyvalues_copy(options);
    g_autofree char *id = g_strdup(keyvalues_get(kv, "id"));
    Chardev *old = id ? chardev_find(set, id) : NULL, *chr = NULL;

    if (!old) {
        return error_new("Chardev '%s' does not exist", id ? id : "");
    }
    if (old->mux || keyvalues_has(kv, "mux")) {
        return error_new("a multiplexed chardev cannot be changed");
    }
    g_autofree char *temporary = g_strdup_printf("%s-new", id);
    keyvalues_set(kv, "id", temporary);
    TRY(chardev_add(set, kv, &chr));
    move_front(old, chr);
    chardev_close(old);
    object_unparent(&old->object);
    g_free(chr->object.id);
    chr->object.id = g_steal_pointer(&id);
    *ret_chr = chr;
    return NULL;
}

Error *chardev_remove(Chardevs *set, const char *id)
{
    Chardev *chr = chardev_find(set, id);

    if (!chr) {
        return error_new("Chardev '%s' not found", id);
    }
    if (chr->fronts->len) {
        return error_new("Chardev '%s' is busy", id);
    }
    chardev_close(chr);
    object_unparent(&chr->object);
    return NULL;
}

void chardevs_free(Chardevs *set)
{
    Chardev *chr;

    if (!set) {
        return;
    }
    while ((chr = chardev_next(set, NULL))) {
        chardev_close(chr);
        object_unparent(&chr->object);
    }
    g_free(set);
}

char *chardev_describe(Chardev *chr)
{
    const ChardevType *type = chardev_type(chr);
    if (chr->mux) {
        return g_strdup("mux");
    }
    return type->describe ? type->describe(chr) : g_strdup(type->name);
}
