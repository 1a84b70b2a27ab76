/*
 * The monitor for people: sessions, parsing of command lines, help, completion. The commands are in
 * hmp_*.c; almost all of them run a QMP command and print its result.
 */
#include <stdio.h>
#include <string.h>

#include "base/version.h"
#include "block/drive.h"
#include "chardev/chardev.h"
#include "input/keys.h"
#include "monitor/hmp_priv.h"

static const HmpCommand *const info_tables[] = { hmp_info_commands, hmp_info_more, hmp_info_migrate, hmp_info_block,
                                                 hmp_info_virtio, hmp_info_debug };
static const HmpCommand *const tables[] = { hmp_commands_monitor, hmp_commands_machine, hmp_commands_device,
                                            hmp_commands_memory,  hmp_commands_migrate, hmp_commands_block,
                                            hmp_commands_debug };

/* --- for the commands --- */

void hmp_printf(Hmp *hmp, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_string_append_vprintf(hmp->out, fmt, ap);
    va_end(ap);
}

void hmp_error(Hmp *hmp, Error *err)
{
    if (err) {
        hmp_printf(hmp, "Error: %s\n", error_message(err));
        if (error_hint_text(err)) {
            hmp_printf(hmp, "%s\n", error_hint_text(err));
        }
        error_free(err);
    }
}

bool hmp_qmp(Hmp *hmp, const char *command, Value *args, Value **ret)
{
    QmpContext ctx = { .machine = hmp->machine, .monitor = hmp->monitor };
    g_autoptr(Value) owned G_GNUC_UNUSED = args;
    Value *result = NULL;
    Error *err = monitor_run_qmp(&ctx, command, args, &result);

    if (err) {
        hmp_error(hmp, err);
        value_free(result);
        return false;
    }
    if (ret) {
        *ret = result ? result : value_dict();
    } else {
        value_free(result);
    }
    return true;
}

Error *hmp_options(const char *text, const char *implied, Value **ret_dict)
{
    g_autoptr(KeyValues) kv = NULL;
    Value *dict = value_dict();

    Error *err = keyvalues_parse(text, implied, &kv);
    for (guint n = 0; !err && n < kv->items->len; n++) {
        const KeyValue *item = g_ptr_array_index(kv->items, n);
        value_put_str(dict, item->key, item->value);
    }
    if (err) {
        value_free(dict);
        return err;
    }
    *ret_dict = dict;
    return NULL;
}

Value *hmp_dict(const char *key, ...)
{
    Value *dict = value_dict();
    va_list ap;

    va_start(ap, key);
    for (; key; key = va_arg(ap, const char *)) {
        const char *text = va_arg(ap, const char *);
        if (text) {
            value_put_str(dict, key, text);
        }
    }
    va_end(ap);
    return dict;
}

Vcpu *hmp_cpu(Hmp *hmp)
{
    return vcpu_at(hmp->machine, hmp->cpu_index);
}

void hmp_on_cpu(Vcpu *vcpu, void (*fn)(Vcpu *vcpu, void *opaque), void *opaque)
{
    machine_pause_vcpus(vcpu->machine);
    fn(vcpu, opaque);
    machine_resume_vcpus(vcpu->machine);
}

/* --- command lines --- */

static bool name_matches(const char *names, const char *name, size_t length)
{
    while (*names) {
        size_t own = strcspn(names, "|");
        if (own == length && !strncmp(names, name, length)) {
            return true;
        }
        names += own + (names[own] == '|');
    }
    return false;
}

const HmpCommand *hmp_find(const HmpCommand *table, const char *name, size_t length)
{
    for (; table->name; table++) {
        if (name_matches(table->name, name, length)) {
            return table;
        }
    }
    return NULL;
}

static const HmpCommand *find_command(const char *name, size_t length)
{
    for (size_t n = 0; n < ARRAY_SIZE(tables); n++) {
        const HmpCommand *found = hmp_find(tables[n], name, length);
        if (found) {
            return found;
        }
    }
    return NULL;
}

static const HmpCommand *find_info(const char *name, size_t length)
{
    for (size_t n = 0; n < ARRAY_SIZE(info_tables); n++) {
        const HmpCommand *found = hmp_find(info_tables[n], name, length);
        if (found) {
            return found;
        }
    }
    return NULL;
}

static const char *skip_space(const char *text)
{
    while (*text == ' ' || *text == '\t') {
        text++;
    }
    return text;
}

/* A word, or a text in double quotes with \n \r \\ \' \" escapes. */
static MUST_USE Error *take_word(const char **text, char **ret_word)
{
    const char *at = skip_space(*text);
    GString *word = g_string_new(NULL);

    if (*at != '"') {
        size_t length = strcspn(at, " \t");
        g_string_append_len(word, at, (gssize)length);
        *text = at + length;
        *ret_word = g_string_free(word, FALSE);
        return NULL;
    }
    for (at++; *at && *at != '"'; at++) {
        if (*at == '\\' && at[1]) {
            at++;
            g_string_append_c(word, *at == 'n' ? '\n' : *at == 'r' ? '\r' : *at);
        } else {
            g_string_append_c(word, *at);
        }
    }
    if (*at != '"') {
        g_string_free(word, TRUE);
        return error_new("unterminated string literal");
    }
    *text = at + 1;
    *ret_word = g_string_free(word, FALSE);
    return NULL;
}

/* /NFS: count, format, size in any order; what is not said stays as it was in the last command. */
static MUST_USE Error *take_format(Hmp *hmp, const char **text, HmpArgs *args)
{
    Monitors *set = monitors_of(hmp->machine);
    const char *at = skip_space(*text);

    args->count = 1;
    args->format = set->format;
    args->size = set->size;
    if (*at != '/') {
        return NULL;
    }
    at++;
    if (g_ascii_isdigit(*at)) {
        char *end;
        args->count = (unsigned)MIN(g_ascii_strtoull(at, &end, 10), 1u << 20);
        at = end;
    }
    for (; *at && *at != ' '; at++) {
        if (strchr("oduxcis", *at)) {
            args->format = *at;
        } else if (strchr("bhwg", *at)) {
            args->size = *at;
        } else {
            return error_new("a format has no letter '%c'", *at);
        }
    }
    set->format = args->format;
    set->size = args->size;
    *text = at;
    return NULL;
}

static void take_flags(const char **text, const char *spec, HmpArgs *args)
{
    for (;;) {
        const char *at = skip_space(*text);
        if (at[0] != '-' || !g_ascii_isalpha(at[1]) || (at[2] && at[2] != ' ')) {
            return;
        }
        char flag[3] = { '-', at[1], 0 };
        if (!strstr(spec, flag)) {
            return;
        }
        args->flag[(unsigned char)at[1]] = true;
        *text = at + 2;
    }
}

static MUST_USE Error *take_argument(Hmp *hmp, char kind, const char **text, HmpArgs *args, unsigned slot,
                                     GPtrArray *owned)
{
    char *word;

    if (kind == 'S') {
        word = g_strdup(skip_space(*text));
        *text += strlen(*text);
    } else if (kind == 'e') {
        const char *at = skip_space(*text), *start = at;
        TRY(hmp_expression(hmp, &at, &args->number[slot]));
        word = g_strndup(start, at - start);
        *text = at;
    } else {
        TRY(take_word(text, &word));
    }
    g_ptr_array_add(owned, word);
    args->text[slot] = word;
    return NULL;
}

static MUST_USE Error *parse_args(Hmp *hmp, const HmpCommand *command, const char *text, HmpArgs *args,
                                  GPtrArray *owned)
{
    unsigned slot = 0;
    bool optional = false;

    take_flags(&text, command->args, args);
    for (const char *spec = command->args; *spec; spec++) {
        if (*spec == '-') {
            spec++;
        } else if (*spec == '?') {
            optional = true;
        } else if (*spec == '/') {
            TRY(take_format(hmp, &text, args));
        } else if (*skip_space(text)) {
            TRY(take_argument(hmp, *spec, &text, args, slot++, owned));
        } else if (!optional) {
            return error_new("%s: parameter expected (usage: %s %s)", command->name, command->name, command->params);
        }
        take_flags(&text, command->args, args);
    }
    if (*skip_space(text)) {
        return error_new("extraneous characters at the end of line");
    }
    return NULL;
}

static void run_command(Hmp *hmp, const HmpCommand *command, const char *rest)
{
    g_autoptr(GPtrArray) owned = g_ptr_array_new_with_free_func(g_free);
    HmpArgs args = { 0 };
    Error *err = parse_args(hmp, command, rest, &args, owned);

    if (err) {
        hmp_printf(hmp, "%s\n", error_message(err));
        error_free(err);
        return;
    }
    command->run(hmp, &args);
}

void hmp_run_line(Hmp *hmp, const char *line)
{
    line = skip_space(line);
    size_t length = strcspn(line, " \t/");
    if (*line == '#' || !*line) {
        return;
    }
    const HmpCommand *command = find_command(line, length);
    if (!command) {
        hmp_printf(hmp, "unknown command: '%.*s'\n", (int)length, line);
        return;
    }
    const char *rest = line + length;
    if (command->complete == 'i') {
        rest = skip_space(rest);
        size_t sub_length = strcspn(rest, " \t");
        const HmpCommand *sub = find_info(rest, sub_length);
        if (sub) {
            run_command(hmp, sub, rest + sub_length);
            return;
        }
    }
    run_command(hmp, command, rest);
}

/* --- help --- */

static void print_help(Hmp *hmp, const char *prefix, const HmpCommand *command)
{
    hmp_printf(hmp, "%s%s %s -- %s\n", prefix, command->name, command->params, command->help);
}

static void hmp_help(Hmp *hmp, const HmpArgs *args)
{
    if (args->text[0] && !strcmp(args->text[0], "info")) {
        for (size_t n = 0; n < ARRAY_SIZE(info_tables); n++) {
            for (const HmpCommand *command = info_tables[n]; command->name; command++) {
                print_help(hmp, "info ", command);
            }
        }
        return;
    }
    if (args->text[0]) {
        const HmpCommand *command = find_command(args->text[0], strlen(args->text[0]));
        if (command) {
            print_help(hmp, "", command);
        } else {
            hmp_printf(hmp, "unknown command: '%s'\n", args->text[0]);
        }
        return;
    }
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    for (size_t n = 0; n < ARRAY_SIZE(tables); n++) {
        for (const HmpCommand *command = tables[n]; command->name; command++) {
            g_ptr_array_add(all, (gpointer)command);
        }
    }
    /* Sorted by name: the name is the first member. */
    for (guint i = 1; i < all->len; i++) {
        for (guint k = i; k > 0; k--) {
            const HmpCommand **a = (const HmpCommand **)&all->pdata[k - 1], **b = (const HmpCommand **)&all->pdata[k];
            if (strcmp((*a)->name, (*b)->name) <= 0) {
                break;
            }
            const HmpCommand *swap = *a;
            *a = *b;
            *b = swap;
        }
    }
    for (guint n = 0; n < all->len; n++) {
        print_help(hmp, "", g_ptr_array_index(all, n));
    }
}

static void hmp_info(Hmp *hmp, const HmpArgs *args)
{
    if (args->text[0]) {
        hmp_printf(hmp, "unknown command: 'info %s'\n", args->text[0]);
    } else {
        hmp_help(hmp, &(HmpArgs) { .text = { "info" } });
    }
}

const HmpCommand hmp_commands_monitor[] = {
    { "help|?", "?s", "[cmd]", "show the help", hmp_help, 'c' },
    { "info", "?S", "[subcommand]", "tell about a part of the machine ('info' alone lists the "
                                    "parts)", hmp_info, 'i' },
    { 0 },
};

/* --- completion --- */

static void offer(GPtrArray *words, const char *typed, const char *word)
{
    if (word && g_str_has_prefix(word, typed)) {
        g_ptr_array_add(words, g_strdup(word));
    }
}

static void offer_names(GPtrArray *words, const char *typed, const HmpCommand *table)
{
    for (; table->name; table++) {
        g_auto(GStrv) names = g_strsplit(table->name, "|", 0);
        for (char **name = names; *name; name++) {
            offer(words, typed, *name);
        }
    }
}

static void offer_files(GPtrArray *words, const char *typed)
{
    const char *slash = strrchr(typed, '/');
    g_autofree char *dir_name = slash ? g_strndup(typed, slash - typed + 1) : g_strdup("");
    GDir *dir = g_dir_open(*dir_name ? dir_name : ".", 0, NULL);
    const char *entry;

    while (dir && (entry = g_dir_read_name(dir))) {
        g_autofree char *path = g_strconcat(dir_name, entry, NULL);
        g_autofree char *shown = g_strconcat(path, g_file_test(path, G_FILE_TEST_IS_DIR) ? "/" : "", NULL);
        offer(words, typed, shown);
    }
    if (dir) {
        g_dir_close(dir);
    }
}

static void offer_children(GPtrArray *words, const char *typed, Object *container)
{
    LIST_FOREACH (child, &container->children, Object, sibling) {
        offer(words, typed, child->id);
    }
}

static void offer_argument(Machine *machine, char kind, const char *typed, GPtrArray *words)
{
    switch (kind) {
    case 'c':
        for (size_t n = 0; n < ARRAY_SIZE(tables); n++) {
            offer_names(words, typed, tables[n]);
        }
        break;
    case 'i':
        for (size_t n = 0; n < ARRAY_SIZE(info_tables); n++) {
            offer_names(words, typed, info_tables[n]);
        }
        break;
    case 'd':
        offer_children(words, typed, object_container_at(machine->root, "/machine/peripheral"));
        break;
    case 'h':
        offer_children(words, typed, object_container_at(machine->root, "/chardevs"));
        break;
    case 'D':
        SECTION_FOREACH (device_types, DeviceType, it) {
            if ((*it)->category != DEV_INTERNAL) {
                offer(words, typed, (*it)->object.name);
            }
        }
        break;
    case 'b': {
        BlockGraph *graph = machine_service(machine, BLOCK_SERVICE);
        for (BlockBackend *blk = NULL; graph && (blk = blk_next(graph, blk));) {
            offer(words, typed, blk_name(blk));
        }
        break;
    }
    case 'k':
        for (unsigned n = 0; n < KEY_COUNT; n++) {
            offer(words, typed, input_keys[n].name);
        }
        break;
    case 'f':
        offer_files(words, typed);
        break;
    }
}

void hmp_complete(Machine *machine, const char *text, GPtrArray *words)
{
    text = skip_space(text);
    const char *space = strchr(text, ' ');

    if (!space) {
        offer_argument(machine, 'c', text, words);
        return;
    }
    const HmpCommand *command = find_command(text, (size_t)(space - text));
    const char *first = skip_space(space);
    if (command && !strchr(first, ' ')) {
        offer_argument(machine, command->complete, first, words);
    }
}

/* --- sessions --- */

char *monitor_run_hmp(Machine *machine, unsigned cpu_index, const char *line)
{
    Hmp hmp = { .machine = machine, .cpu_index = cpu_index, .out = g_string_new(NULL) };

    hmp_run_line(&hmp, line);
    g_autofree char *text = g_string_free(hmp.out, FALSE);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    return g_strjoinv("\r\n", lines);
}

static void session_print(void *opaque, const char *text)
{
    Monitor *monitor = opaque;
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autofree char *joined = g_strjoinv("\r\n", lines);
    char_write_all(&monitor->front, joined, strlen(joined));
}

static void session_line(void *opaque, const char *line)
{
    Monitor *monitor = opaque;
    Hmp hmp = { .machine = monitor->set->machine, .monitor = monitor, .cpu_index = monitor->cpu_index,
                .out = g_string_new(NULL) };

    monitor->dispatching = true;
    hmp_run_line(&hmp, line);
    monitor->dispatching = false;
    monitor->cpu_index = hmp.cpu_index;
    session_print(monitor, hmp.out->str);
    g_string_free(hmp.out, TRUE);
    if (!loop_is_quitting(hmp.machine->loop) && !monitor->waits) {
        readline_show_prompt(monitor->readline);
    }
}

/* --- commands that take their time --- */

enum { WAIT_MS = 100 };

static void wait_more(Monitor *monitor)
{
    int64_t now = clock_now(monitor->set->machine->clocks, CLOCK_REALTIME_NS);
    timer_set(&monitor->wait_timer, now + WAIT_MS * NS_PER_MS);
}

static void look_again(void *opaque)
{
    Monitor *monitor = opaque;

    if (!monitor->waits(monitor)) {
        wait_more(monitor);
        return;
    }
    monitor->waits = NULL;
    readline_show_prompt(monitor->readline);
    g_autoptr(GString) held G_GNUC_UNUSED = monitor->held;
    monitor->held = g_string_new(NULL);
    hmp_front_ops.receive(monitor, (const uint8_t *)held->str, held->len);
    char_accept_input(&monitor->front);
}

void hmp_wait_until(Hmp *hmp, bool (*ended)(Monitor *monitor))
{
    if (hmp->monitor) {
        hmp->monitor->waits = ended;
        wait_more(hmp->monitor);
    }
}

void hmp_session_print(Monitor *monitor, const char *text)
{
    session_print(monitor, text);
}

static void session_complete(void *opaque, const char *text, GPtrArray *words)
{
    hmp_complete(((Monitor *)opaque)->set->machine, text, words);
}

static const ReadlineOps session_ops = {
    .print = session_print, .line = session_line, .complete = session_complete,
};

static size_t session_can_receive(void *opaque)
{
    Monitor *monitor = opaque;
    bool busy = monitor->waits || monitor->dispatching; /* a command that waits for disks lets the loop go on */
    return monitor_serves(monitor) && !busy && char_pending(&monitor->front) < 1 << 20 ? 1024 : 0;
}

static void session_receive(void *opaque, const uint8_t *buf, size_t length)
{
    Monitor *monitor = opaque;
    for (size_t n = 0; n < length; n++) {
        if (monitor->waits) {
            g_string_append_c(monitor->held, (char)buf[n]);
        } else {
            readline_byte(monitor->readline, buf[n]);
        }
    }
    if (!monitor->waits) { /* what was refused while a command ran */
        char_accept_input(&monitor->front);
    }
}

static void greet(Monitor *monitor)
{
    g_autofree char *text = g_strdup_printf("QEMU %s monitor - type 'help' for more information\n", COMPAT_VERSION);
    session_print(monitor, text);
    readline_show_prompt(monitor->readline);
    monitor->greeted = true;
}

/* While the machine is made the input of a multiplexer moves on to the serial line: no greeting then. */
static void greet_later(void *opaque)
{
    Monitor *monitor = opaque;

    if (monitor->focused && monitor->greeted) {
        readline_show_prompt(monitor->readline);
    } else if (monitor->focused) {
        greet(monitor);
    }
}

static void session_event(void *opaque, CharEvent event)
{
    Monitor *monitor = opaque;
    bool mux = monitor->front.chr && monitor->front.chr->mux;

    if (event == CHAR_EVENT_OPENED && !mux) {
        greet(monitor);
    } else if (event == CHAR_EVENT_MUX_IN) {
        monitor->focused = true;
        work_schedule(&monitor->greet);
    } else if (event == CHAR_EVENT_MUX_OUT) {
        monitor->focused = false;
        if (monitor->greeted) {
            session_print(monitor, "\n");
        }
    }
}

static void session_writable(void *opaque)
{
    char_accept_input(&((Monitor *)opaque)->front);
}

const CharFrontOps hmp_front_ops = {
    .can_receive = session_can_receive, .receive = session_receive, .event = session_event,
    .writable = session_writable,
};

void hmp_monitor_open(Monitor *monitor)
{
    monitor->readline = readline_new("(qemu) ", &session_ops, monitor);
    timer_init(&monitor->wait_timer, monitor->set->machine->loop, CLOCK_REALTIME_NS, look_again, monitor);
    monitor->held = g_string_new(NULL);
    work_init(&monitor->greet, monitor->set->machine->loop, greet_later, monitor);
    char_set_echo(&monitor->front, false);
}

void hmp_monitor_close(Monitor *monitor)
{
    work_fini(&monitor->greet);
    timer_fini(&monitor->wait_timer);
    g_string_free(monitor->held, TRUE);
    g_clear_pointer(&monitor->readline, readline_free);
}
