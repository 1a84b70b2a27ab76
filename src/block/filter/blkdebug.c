/*
 * Filter "blkdebug", for tests: requests fail, or stop, when a format comes to a named point, by rules
 * from options or from a file; and the child seems to have other limits than it has.
 *
 * A rule belongs to an event, and holds in one state (0: in any). "inject-error" arms an error, which
 * the next request that fits gets; arming at one event forgets what was armed before. "set-state" changes
 * the state after all rules of the event were looked at. A break point is a rule that stops the request.
 *
 * The file: sections "[inject-error]" and "[set-state]" of lines `name = "value"`, # begins a comment.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "block/filter/filter.h"
#include "block/node_priv.h"

enum { IO_READ, IO_WRITE, IO_WRITE_ZEROES, IO_DISCARD, IO_FLUSH, IO_BLOCK_STATUS, IO_TYPES };
static const char *const io_names[IO_TYPES] = { "read",    "write", "write-zeroes",
                                                "discard", "flush", "block-status" };
enum { CONFIG_MAX = 1 << 20, RULES_MAX = 65536 };

typedef enum RuleKind { RULE_INJECT, RULE_STATE, RULE_BREAK } RuleKind;

typedef struct Rule {
    RuleKind kind;
    BlockEvent event;
    uint64_t state; /* 0: any */
    /* inject */
    unsigned io_mask;
    int error;
    int64_t offset; /* -1: anywhere */
    bool once, immediately;
    uint64_t armed; /* the round in which it was armed; 0: never */
    /* set-state */
    uint64_t new_state;
    /* break */
    char *tag;
    ListNode node;
} Rule;

/* A request at a break point. */
typedef struct Stopped {
    const char *tag;
    bool go;
    CoQueue queue;
    ListNode node;
} Stopped;

typedef struct DebugState {
    List rules;   /* Rule, in the order in which they were given */
    List stopped; /* Stopped */
    uint64_t state, round;
    unsigned requests; /* that have not left */
    uint32_t align;
} DebugState;

/* --- rules --- */

static void rule_free(Rule *rule)
{
    list_remove(&rule->node);
    g_free(rule->tag);
    g_free(rule);
}

static void rules_free(DebugState *s)
{
    for (Rule *rule; (rule = LIST_FIRST(&s->rules, Rule, node));) {
        rule_free(rule);
    }
}

static Rule *rule_add(DebugState *s, RuleKind kind, BlockEvent event)
{
    Rule *rule = g_new0(Rule, 1);
    rule->kind = kind;
    rule->event = event;
    list_append(&s->rules, &rule->node);
    return rule;
}

static Error *take_event(KeyValues *opts, BlockEvent *ret)
{
    g_autofree char *name = keyvalues_take(opts, "event");
    if (!name) {
        return error_new("The rule does not name an event: add event=");
    }
    return block_event_find(name, ret) ? NULL : error_new("Invalid event name \"%s\"", name);
}

static Error *take_io_mask(KeyValues *opts, unsigned *ret)
{
    g_autofree char *name = keyvalues_take(opts, "iotype");
    if (!name) {
        *ret = BIT(IO_BLOCK_STATUS) - 1; /* all but asking */
        return NULL;
    }
    for (unsigned i = 0; i < IO_TYPES; i++) {
        if (!strcmp(io_names[i], name)) {
            *ret = BIT(i);
            return NULL;
        }
    }
    return error_new("Invalid iotype value \"%s\"", name);
}

static Error *take_inject(DebugState *s, KeyValues *opts)
{
    BlockEvent event;
    unsigned mask;
    uint64_t state, error, sector;
    bool once, immediately;

    TRY(take_event(opts, &event));
    TRY(take_io_mask(opts, &mask));
    TRY(block_take_num(opts, "state", 0, &state));
    TRY(block_take_num(opts, "errno", EIO, &error));
    g_autofree char *place = keyvalues_take(opts, "sector");
    if (place && strcmp(place, "-1")) {
        keyvalues_set(opts, "sector", place);
    }
    TRY(block_take_num(opts, "sector", UINT64_MAX, &sector));
    TRY(block_take_bool(opts, "once", false, &once));
    TRY(block_take_bool(opts, "immediately", false, &immediately));
    if (error > INT_MAX || (sector != UINT64_MAX && sector > INT64_MAX / 512)) {
        return error_new("errno or sector is too large");
    }
    Rule *rule = rule_add(s, RULE_INJECT, event);
    rule->state = state;
    rule->io_mask = mask;
    rule->error = (int)error;
    rule->offset = sector == UINT64_MAX ? -1 : (int64_t)(sector * 512);
    rule->once = once;
    rule->immediately = immediately;
    return NULL;
}

static Error *take_set_state(DebugState *s, KeyValues *opts)
{
    BlockEvent event;
    uint64_t state, new_state;

    TRY(take_event(opts, &event));
    TRY(block_take_num(opts, "state", 0, &state));
    TRY(block_take_num(opts, "new_state", 0, &new_state));
    Rule *rule = rule_add(s, RULE_STATE, event);
    rule->state = state;
    rule->new_state = new_state;
    return NULL;
}

typedef Error *TakeFn(DebugState *s, KeyValues *opts);

static TakeFn *section_fn(const char *name, size_t length)
{
    return length == 12 && !strncmp(name, "inject-error", 12) ? take_inject
           : length == 9 && !strncmp(name, "set-state", 9)    ? take_set_state
                                                              : NULL;
}

static Error *take_section(DebugState *s, TakeFn *fn, KeyValues *opts)
{
    TRY(fn(s, opts));
    if (opts->items->len) {
        const KeyValue *item = g_ptr_array_index(opts->items, 0);
        return error_new("Invalid parameter '%s'", item->key);
    }
    return NULL;
}

/* Rules among the options: "inject-error.0.event" and so on. */
static Error *take_inline(DebugState *s, KeyValues *opts, const char *name)
{
    TakeFn *fn = section_fn(name, strlen(name));
    for (unsigned i = 0; i < RULES_MAX; i++) {
        g_autofree char *prefix = g_strdup_printf("%s.%u.", name, i);
        g_autoptr(KeyValues) sub = block_take_prefix(opts, prefix);
        if (!sub->items->len) {
            break;
        }
        TRY(take_section(s, fn, sub));
    }
    g_autofree char *prefix = g_strconcat(name, ".", NULL); /* the only one needs no number */
    g_autoptr(KeyValues) only = block_take_prefix(opts, prefix);
    return only->items->len ? take_section(s, fn, only) : NULL;
}

/* --- the file --- */

/* `name = "value"` */
static bool parse_assignment(const char *line, KeyValues *opts)
{
    const char *equals = strchr(line, '=');
    if (!equals) {
        return false;
    }
    g_autofree char *key = g_strstrip(g_strndup(line, (gsize)(equals - line)));
    g_autofree char *value = g_strstrip(g_strdup(equals + 1));
    size_t length = strlen(value);
    if (!*key || length < 2 || value[0] != '"' || value[length - 1] != '"') {
        return false;
    }
    value[length - 1] = 0;
    keyvalues_set(opts, key, value + 1);
    return true;
}

static Error *parse_config(DebugState *s, char **lines)
{
    g_autoptr(KeyValues) opts = keyvalues_new();
    TakeFn *fn = NULL;

    for (unsigned i = 0; lines[i]; i++) {
        char *line = g_strstrip(lines[i]);
        size_t length = strlen(line);
        if (!length || *line == '#') {
            continue;
        }
        if (*line == '[' && line[length - 1] == ']') {
            if (fn) {
                TRY(take_section(s, fn, opts));
            }
            fn = section_fn(line + 1, length - 2);
            if (!fn) {
                return error_new("line %u: there is no group %s", i + 1, line);
            }
        } else if (!fn) {
            return error_new("line %u: no group defined", i + 1);
        } else if (!parse_assignment(line, opts)) {
            return error_new("line %u: parse error", i + 1);
        }
    }
    return fn ? take_section(s, fn, opts) : NULL;
}

typedef struct ConfigFile {
    const char *path;
    char *text;
    gsize size;
    GError *error;
} ConfigFile;

static int load_config(void *opaque)
{
    ConfigFile *file = opaque;
    return g_file_get_contents(file->path, &file->text, &file->size, &file->error);
}

/* On a worker, because the file may be a pipe that nobody writes to. */
static Error *read_config_co(DebugState *s, const char *path)
{
    ConfigFile file = { .path = path };

    bool ok = co_blocking_long(load_config, &file);
    g_autofree char *text = file.text;
    g_autoptr(GError) gerr = file.error;
    if (!ok) {
        return error_new_errno(g_error_matches(gerr, G_FILE_ERROR, G_FILE_ERROR_NOENT) ? -ENOENT : -EIO,
                               "The configuration file of blkdebug cannot be read");
    }
    if (file.size > CONFIG_MAX) {
        return error_new("The blkdebug config file '%s' is too long", path);
    }
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    Error *err = parse_config(s, lines);
    return err ? error_prefix(err, "Could not parse blkdebug config file: ") : NULL;
}

/* --- events --- */

static void say(BlockNode *node, const char *what, const char *tag)
{
    BlockGraph *graph = node->graph;
    if (graph->debug_say) {
        g_autofree char *text = g_strdup_printf("blkdebug: %s request '%s'\n", what, tag);
        graph->debug_say(graph->debug_say_opaque, text);
    }
}

static void stop_co(BlockNode *node, char *tag)
{
    DebugState *s = node->state;
    Stopped stopped = { .tag = tag };
    co_queue_init(&stopped.queue);
    list_append(&s->stopped, &stopped.node);
    say(node, "Suspended", tag);
    while (!stopped.go) {
        co_queue_wait(&stopped.queue);
    }
    g_free(tag);
}

static void debug_event_co(BlockNode *node, BlockEvent event)
{
    DebugState *s = node->state;
    uint64_t state = s->state, new_state = state;
    bool armed = false;
    g_autoptr(GPtrArray) tags = NULL;

    LIST_FOREACH_SAFE (rule, &s->rules, Rule, node) {
        if (rule->event != event || (rule->state && rule->state != state)) {
            continue;
        }
        switch (rule->kind) {
        case RULE_INJECT:
            s->round += !armed;
            armed = true;
            rule->armed = s->round;
            break;
        case RULE_STATE:
            new_state = rule->new_state;
            break;
        case RULE_BREAK:
            if (!tags) {
                tags = g_ptr_array_new();
            }
            g_ptr_array_add(tags, g_steal_pointer(&rule->tag));
            rule_free(rule); /* once */
            break;
        }
    }
    s->state = new_state;
    for (guint i = 0; tags && i < tags->len; i++) {
        s->requests++;
        stop_co(node, g_ptr_array_index(tags, i));
        s->requests--;
    }
}

/* The error that is armed for such a request: 0 or -errno. */
static int inject_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned io)
{
    DebugState *s = node->state;
    Rule *found = NULL;
    LIST_FOREACH (rule, &s->rules, Rule, node) {
        bool here = rule->offset < 0 || ((uint64_t)rule->offset >= offset &&
                                         (uint64_t)rule->offset - offset < bytes);
        if (rule->kind == RULE_INJECT && rule->armed && rule->armed == s->round && here &&
            (rule->io_mask & BIT(io))) {
            found = rule;
        }
    }
    if (!found) {
        return 0;
    }
    int error = found->error;
    bool immediately = found->immediately;
    if (found->once && error) {
        rule_free(found);
    }
    if (error && !immediately) {
        co_sleep_ns(CLOCK_REALTIME_NS, 0);
    }
    return -error;
}

/* --- break points --- */

static int debug_break(BlockNode *node, const char *event_name, const char *tag)
{
    BlockEvent event;
    if (!block_event_find(event_name, &event)) {
        return -ENOENT;
    }
    rule_add(node->state, RULE_BREAK, event)->tag = g_strdup(tag);
    return 0;
}

/* One, or all of that name. */
static int go_on(BlockNode *node, const char *tag, bool all)
{
    DebugState *s = node->state;
    int ret = -ENOENT;
    LIST_FOREACH (stopped, &s->stopped, Stopped, node) {
        if (!stopped->go && (!tag || !strcmp(stopped->tag, tag))) {
            stopped->go = true;
            say(node, "Resuming", stopped->tag);
            ret = 0;
            if (!all) {
                break;
            }
        }
    }
    LIST_FOREACH_SAFE (stopped, &s->stopped, Stopped, node) {
        if (stopped->go) {
            list_remove(&stopped->node);
            co_queue_wake_all(&stopped->queue);
        }
    }
    return ret;
}

static int debug_resume(BlockNode *node, const char *tag)
{
    return go_on(node, tag, false);
}

static int debug_remove_break(BlockNode *node, const char *tag)
{
    DebugState *s = node->state;
    int ret = -ENOENT; /* also when only a request stands there, which goes on */
    LIST_FOREACH_SAFE (rule, &s->rules, Rule, node) {
        if (rule->kind == RULE_BREAK && !strcmp(rule->tag, tag)) {
            rule_free(rule);
            ret = 0;
        }
    }
    go_on(node, tag, true);
    return ret;
}

static bool debug_is_suspended(BlockNode *node, const char *tag)
{
    DebugState *s = node->state;
    LIST_FOREACH (stopped, &s->stopped, Stopped, node) {
        if (!strcmp(stopped->tag, tag)) {
            return true;
        }
    }
    return false;
}

/* --- opening --- */

/* "blkdebug:CONFIG:IMAGE" */
static Error *parse_filename(const char *filename, KeyValues *opts)
{
    const char *config = filename + strlen("blkdebug:"), *colon = strchr(config, ':');
    if (!colon) {
        return error_new("blkdebug: needs a configuration file and an image: blkdebug:CONFIG:IMAGE");
    }
    if (colon != config) {
        g_autofree char *path = g_strndup(config, (gsize)(colon - config));
        keyvalues_set(opts, "config", path);
    }
    keyvalues_set(opts, "image.filename", colon + 1);
    return NULL;
}

/* With rules in a file, or without any. */
static char *make_filename(BlockNode *node)
{
    for (guint i = 0; i < node->options->items->len; i++) {
        const KeyValue *item = g_ptr_array_index(node->options->items, i);
        if (g_str_has_prefix(item->key, "inject-error.") || g_str_has_prefix(item->key, "set-state.")) {
            return NULL;
        }
    }
    const char *config = keyvalues_get(node->options, "config");
    g_autofree char *image = node_plain_filename(node->file->node);
    return image ? g_strdup_printf("blkdebug:%s:%s", config ? config : "", image) : NULL;
}

/* A limit that is given must be a multiple of `unit`. */
static Error *take_limit(KeyValues *opts, const char *name, uint64_t unit, uint64_t max, uint64_t *ret)
{
    uint64_t value;
    TRY(block_take_size(opts, name, 0, &value));
    if (value && (value % unit || value > max)) {
        return error_new("Cannot meet constraints with %s %" PRIu64, name, value);
    }
    *ret = value;
    return NULL;
}

static Error *take_limits(BlockNode *node, KeyValues *opts)
{
    DebugState *s = node->state;
    uint64_t align, transfer, zero_unit, zero_max, discard_unit, discard_max;

    TRY(block_take_size(opts, "align", 0, &align));
    if (align && (align >= INT_MAX || (align & (align - 1)))) {
        return error_new("Cannot meet constraints with align %" PRIu64, align);
    }
    s->align = (uint32_t)align;
    align = MAX(MAX(align, 1), filter_child(node)->limits.request_align);
    TRY(take_limit(opts, "max-transfer", align, INT_MAX, &transfer));
    TRY(take_limit(opts, "opt-write-zero", align, INT_MAX, &zero_unit));
    TRY(take_limit(opts, "max-write-zero", MAX(zero_unit, align), INT64_MAX, &zero_max));
    TRY(take_limit(opts, "opt-discard", align, INT_MAX, &discard_unit));
    TRY(take_limit(opts, "max-discard", MAX(discard_unit, align), INT64_MAX, &discard_max));
    BlockLimits *l = &node->limits;
    l->request_align = (uint32_t)align;
    l->max_transfer = transfer ? (uint32_t)transfer : l->max_transfer;
    l->zeroes_align = zero_unit ? (uint32_t)zero_unit : l->zeroes_align;
    l->max_zeroes = zero_max ? zero_max : l->max_zeroes;
    l->discard_align = discard_unit ? (uint32_t)discard_unit : l->discard_align;
    l->max_discard = discard_max ? discard_max : l->max_discard;
    return NULL;
}

static Error *take_claims(KeyValues *opts, const char *name, unsigned *ret)
{
    static const char *const names[] = { "consistent-read", "write", "write-unchanged", "resize" };
    for (unsigned i = 0;; i++) {
        g_autofree char *key = g_strdup_printf("%s.%u", name, i);
        g_autofree char *claim = keyvalues_take(opts, key);
        if (!claim) {
            return NULL;
        }
        unsigned bit = 0;
        while (bit < CLAIM_BITS && strcmp(names[bit], claim)) {
            bit++;
        }
        if (bit == CLAIM_BITS && strcmp(claim, "none")) {
            return error_new("Parameter '%s' does not accept value '%s'", key, claim);
        }
        *ret |= bit < CLAIM_BITS ? BIT(bit) : 0;
    }
}

static Error *take_options_co(BlockNode *node, KeyValues *opts)
{
    DebugState *s = node->state;
    g_autofree char *config = keyvalues_take(opts, "config");
    TRY(filter_open(node));
    if (config && *config) {
        TRY(read_config_co(s, config));
    }
    TRY(take_inline(s, opts, "inject-error"));
    TRY(take_inline(s, opts, "set-state"));
    TRY(take_limits(node, opts));
    TRY(take_claims(opts, "take-child-perms", &node->file->also_used));
    return take_claims(opts, "unshare-child-perms", &node->file->not_shared);
}

static Error *open_co(BlockNode *node, KeyValues *opts)
{
    DebugState *s = node->state;
    list_init(&s->rules);
    list_init(&s->stopped);
    s->state = 1;
    Error *err = take_options_co(node, opts);
    if (err) {
        rules_free(s);
        return err;
    }
    debug_event_co(node, BLOCK_EVENT_NONE);
    return NULL;
}

static void close_co(BlockNode *node)
{
    DebugState *s = node->state;
    go_on(node, NULL, true);
    while (s->requests) {
        co_sleep_ns(CLOCK_REALTIME_NS, NS_PER_MS);
    }
    rules_free(s);
}

/* --- requests --- */

static int preadv_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at)
{
    int ret = inject_co(node, offset, bytes, IO_READ);
    return ret < 0 ? ret : filter_preadv_co(node, offset, bytes, vec, at);
}

static int pwritev_co(BlockNode *node, uint64_t offset, uint64_t bytes, const BlockVec *vec, size_t at,
                      unsigned flags)
{
    int ret = inject_co(node, offset, bytes, IO_WRITE);
    return ret < 0 ? ret : filter_pwritev_co(node, offset, bytes, vec, at, flags);
}

static int write_zeroes_co(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    DebugState *s = node->state;
    if (s->align && bytes < s->align) {
        return -ENOTSUP;
    }
    int ret = inject_co(node, offset, bytes, IO_WRITE_ZEROES);
    return ret < 0 ? ret : filter_write_zeroes_co(node, offset, bytes, flags);
}

static int discard_co(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    int ret = inject_co(node, offset, bytes, IO_DISCARD);
    return ret < 0 ? ret : filter_discard_co(node, offset, bytes);
}

static int flush_co(BlockNode *node)
{
    int ret = inject_co(node, 0, 0, IO_FLUSH);
    return ret < 0 ? ret : node_flush_co(filter_child(node));
}

static int status_co(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *ret_status)
{
    int ret = inject_co(node, offset, bytes, IO_BLOCK_STATUS);
    return ret < 0 ? ret : filter_status_co(node, offset, bytes, ret_status);
}

static const BlockOption options[] = {
    { "config", OPT_STR, "File with rules" },
    { "inject-error", OPT_STR, "Rules that make requests fail: event, iotype, state, errno, sector, once, immediately" },
    { "set-state", OPT_STR, "Rules that change the state: event, state, new_state" },
    { "align", OPT_SIZE, "What requests seem to have to be a multiple of" },
    { "max-transfer", OPT_SIZE, "How much one read or write seems to be able to move" },
    { "opt-write-zero", OPT_SIZE, "What zeroing seems to have to be a multiple of" },
    { "max-write-zero", OPT_SIZE, "How much seems to be zeroed at once" },
    { "opt-discard", OPT_SIZE, "What discards seem to have to be a multiple of" },
    { "max-discard", OPT_SIZE, "How much seems to be discarded at once" },
    { "take-child-perms", OPT_STR, "Claims to make on the image beyond those that are needed" },
    { "unshare-child-perms", OPT_STR, "Claims of others on the image that are not tolerated" },
    { 0 },
};

static const char *const schemes[] = { "blkdebug", NULL };

BLOCK_DRIVER(blkdebug, .filter = true, .make_filename = make_filename, .name = "blkdebug", .desc = "Filter: errors and stops, for tests", .deciding = (const char *const[]) { "config", "inject-error.", "set-state.", NULL },
             .state_size = sizeof(DebugState), .child_name = "image", .schemes = schemes,
             .parse_filename = parse_filename, .options = options, .open_co = open_co, .close_co = close_co,
             .preadv_co = preadv_co, .pwritev_co = pwritev_co, .write_zeroes_co = write_zeroes_co,
             .discard_co = discard_co, .flush_co = flush_co, .status_co = status_co,
             .truncate_co = filter_truncate_co, /* no REQ_FUA: rules see the flush */
             .write_flags = REQ_COMPRESSED | REQ_WRITE_UNCHANGED,
             .debug_event_co = debug_event_co, .debug_break = debug_break,
             .debug_remove_break = debug_remove_break, .debug_resume = debug_resume,
             .debug_is_suspended = debug_is_suspended);
