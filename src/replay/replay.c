/* Recording and replaying; see replay.h. */
#include "replay/replay_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

#include "base/endian.h"
#include "core/vm/icount.h"

#define MAGIC "OSTRICH replay 2" /* 16 bytes: the last is the version */
enum { KIND_HEADER = 100, KIND_END = 101, HEAD = 31, PAYLOAD_MAX = 1 << 20 };

Replay *replay_of(Machine *machine)
{
    return machine_service(machine, REPLAY_SERVICE);
}

static void event_free(void *opaque)
{
    ReplayEvent *event = opaque;
    g_bytes_unref(event->payload);
    g_free(event);
}

static ReplayEvent *event_new(unsigned kind, GBytes *payload)
{
    ReplayEvent *event = g_new0(ReplayEvent, 1);
    event->kind = (uint8_t)kind;
    event->payload = payload;
    return event;
}

static Vcpu *running_vcpu(Replay *replay)
{
    Vcpu *self = vcpu_self();
    const GPtrArray *vcpus = replay->inlet.machine->vcpus;
    return self || !vcpus->len ? self : g_ptr_array_index(vcpus, 0);
}

/* Where the guest is now. */
static void place(Replay *replay, ReplayEvent *event)
{
    Machine *machine = replay->inlet.machine;
    Vcpu *vcpu = running_vcpu(replay);
    event->count = icount_count(machine->icount);
    event->ns = clock_now(machine->clocks, CLOCK_VIRTUAL);
    event->pc = vcpu ? vcpu->ops->pc(vcpu) : 0;
    event->cpu = vcpu ? (uint16_t)vcpu->index : 0;
}

/* --- the file --- */

static uint32_t sum_of(uint32_t number, const uint8_t *head, GBytes *payload)
{
    uint8_t bytes[4];
    st32_le(bytes, number);
    uint32_t sum = (uint32_t)crc32_z(crc32_z(0, bytes, 4), head, HEAD);
    gsize length;
    const void *data = g_bytes_get_data(payload, &length);
    return length ? (uint32_t)crc32_z(sum, data, length) : sum;
}

static void write_event(Replay *replay, const ReplayEvent *event)
{
    uint8_t head[HEAD], sum[4];
    gsize length = g_bytes_get_size(event->payload);

    if (!replay->file) {
        return;
    }
    head[0] = event->kind;
    st64_le(head + 1, event->count);
    st64_le(head + 9, (uint64_t)event->ns);
    st64_le(head + 17, event->pc);
    st32_le(head + 25, (uint32_t)length);
    st16_le(head + 29, event->cpu);
    st32_le(sum, sum_of(replay->number++, head, event->payload));
    if (fwrite(head, HEAD, 1, replay->file) != 1 ||
        (length && fwrite(g_bytes_get_data(event->payload, NULL), length, 1, replay->file) != 1) ||
        fwrite(sum, 4, 1, replay->file) != 1) {
        warn_report("replay: cannot write %s: %s; the recording ends here", replay->path, g_strerror(errno));
        fclose(replay->file);
        replay->file = NULL;
    }
}

static MUST_USE Error *cut(const Replay *replay)
{
    return error_new("%s: the recording is cut short: its end mark is missing", replay->path);
}

static MUST_USE Error *read_event(Replay *replay, FILE *file, ReplayEvent **ret_event)
{
    uint8_t head[HEAD], sum[4];
    if (fread(head, HEAD, 1, file) != 1) {
        return cut(replay);
    }
    uint32_t length = ld32_le(head + 25);
    if (length > PAYLOAD_MAX) {
        return error_new("%s: record %u is damaged", replay->path, replay->number);
    }
    uint8_t *data = g_malloc(length + 1);
    GBytes *payload = g_bytes_new_take(data, length);
    if ((length && fread(data, length, 1, file) != 1) || fread(sum, 4, 1, file) != 1) {
        g_bytes_unref(payload);
        return cut(replay);
    }
    if (ld32_le(sum) != sum_of(replay->number, head, payload)) {
        g_bytes_unref(payload);
        return error_new("%s: record %u is damaged: its checksum is wrong", replay->path, replay->number);
    }
    replay->number++;
    ReplayEvent *event = event_new(head[0], payload);
    event->count = ld64_le(head + 1);
    event->ns = (int64_t)ld64_le(head + 9);
    event->pc = ld64_le(head + 17);
    event->cpu = ld16_le(head + 29);
    *ret_event = event;
    return NULL;
}

/* --- the header: what both runs must have in common --- */

typedef struct Header {
    uint32_t shift, sleep, cpus;
    uint64_t ram, random;
    int64_t date;
    char machine[64];
} Header;
enum { HEADER_SIZE = 12 + 24 + 64 };

static int64_t date_now(const MachineConfig *config)
{
    if (config->rtc_base == RTC_BASE_DATE) {
        return config->rtc_date;
    }
    time_t now = time(NULL);
    struct tm tm;
    return config->rtc_base == RTC_BASE_LOCALTIME && localtime_r(&now, &tm) ? now + tm.tm_gmtoff : now;
}

static Header header_of(Machine *machine)
{
    const IcountConfig *config = icount_config(machine->icount);
    Header header = {
        .shift = config->shift,
        .sleep = config->sleep,
        .cpus = machine->config->cpus,
        .ram = machine->config->ram_size,
        .random = icount_random_state(machine->icount),
        .date = date_now(machine->config),
    };
    g_strlcpy(header.machine, machine->type->name, sizeof(header.machine));
    return header;
}

static void write_header(Replay *replay, const Header *header)
{
    uint8_t *bytes = g_malloc0(HEADER_SIZE);
    st32_le(bytes, header->shift);
    st32_le(bytes + 4, header->sleep);
    st32_le(bytes + 8, header->cpus);
    st64_le(bytes + 12, header->ram);
    st64_le(bytes + 20, header->random);
    st64_le(bytes + 28, (uint64_t)header->date);
    memcpy(bytes + 36, header->machine, sizeof(header->machine));
    ReplayEvent *event = event_new(KIND_HEADER, g_bytes_new_take(bytes, HEADER_SIZE));
    write_event(replay, event);
    event_free(event);
}

static MUST_USE Error *check_header(Replay *replay, const ReplayEvent *event, Header *ours)
{
    const uint8_t *bytes = g_bytes_get_data(event->payload, NULL);
    if (event->kind != KIND_HEADER || g_bytes_get_size(event->payload) != HEADER_SIZE || bytes[HEADER_SIZE - 1]) {
        return error_new("%s: the recording has no header", replay->path);
    }
    const char *machine = (const char *)bytes + 36;
    if (strcmp(machine, ours->machine)) {
        return error_new("%s was recorded on machine '%s', this one is '%s'", replay->path, machine, ours->machine);
    }
    if (ld32_le(bytes) != ours->shift || ld32_le(bytes + 8) != ours->cpus || ld64_le(bytes + 12) != ours->ram) {
        return error_new("%s was recorded with shift=%u, %u CPUs and %" PRIu64 " MiB of RAM; this machine has shift=%u, %u CPUs and %"
                         PRIu64 " MiB", replay->path, ld32_le(bytes), ld32_le(bytes + 8), ld64_le(bytes + 12) / MiB, ours->shift,
                         ours->cpus, ours->ram / MiB);
    }
    ours->random = ld64_le(bytes + 20);
    ours->date = (int64_t)ld64_le(bytes + 28);
    return NULL;
}

static MUST_USE Error *read_all(Replay *replay, FILE *file, Header *header)
{
    char magic[16];
    ReplayEvent *event;

    if (fread(magic, sizeof(magic), 1, file) != 1 || memcmp(magic, MAGIC, 15)) {
        return error_new("%s is no recording", replay->path);
    }
    if (magic[15] != MAGIC[15]) {
        return error_new("%s has version '%c' of the format, this program knows version '%c'", replay->path, magic[15], MAGIC[15]);
    }
    TRY(read_event(replay, file, &event));
    Error *err = check_header(replay, event, header);
    event_free(event);
    TRY(err);
    do {
        TRY(read_event(replay, file, &event));
        g_ptr_array_add(replay->events, event);
        if (event->kind != KIND_END && (event->kind == 0 || event->kind >= INLET_KINDS ||
                                        !memchr(g_bytes_get_data(event->payload, NULL), 0, g_bytes_get_size(event->payload)))) {
            return error_new("%s: record %u is of an unknown kind", replay->path, replay->number - 1);
        }
    } while (event->kind != KIND_END);
    return fgetc(file) == EOF ? NULL : error_new("%s: something follows the end of the recording", replay->path);
}

/* --- the inlet --- */

static void post(Inlet *inlet, InletKind kind, const char *id, const void *data, size_t length)
{
    Replay *replay = container_of(inlet, Replay, inlet);
    size_t id_length = strlen(id) + 1;
    if (inlet->replays || id_length + length > PAYLOAD_MAX) {
        icount_look(inlet->machine->icount); /* the recording has it, and may wait for it */
        return;
    }
    uint8_t *bytes = g_malloc(id_length + length);
    memcpy(bytes, id, id_length);
    memcpy(bytes + id_length, data, length);
    g_queue_push_tail(&replay->posted, event_new(kind, g_bytes_new_take(bytes, id_length + length)));
    for (guint n = 0; n < inlet->machine->vcpus->len; n++) {
        vcpu_kick(g_ptr_array_index(inlet->machine->vcpus, n), VCPU_REQ_WORK);
    }
}

static void hand_over(Inlet *inlet, const ReplayEvent *event)
{
    gsize size;
    const char *id = g_bytes_get_data(event->payload, &size);
    size_t id_length = strlen(id) + 1;
    if (inlet->handlers[event->kind]) {
        inlet->delivering = true;
        inlet->handlers[event->kind](inlet->machine, id, (const uint8_t *)id + id_length, size - id_length);
        inlet->delivering = false;
    }
}

static void deliver_posted(Replay *replay)
{
    for (ReplayEvent *event; (event = g_queue_pop_head(&replay->posted));) {
        place(replay, event);
        write_event(replay, event);
        hand_over(&replay->inlet, event);
        event_free(event);
    }
}

static const ReplayEvent *next_event(const Replay *replay)
{
    return replay->events && replay->at < replay->events->len ? g_ptr_array_index(replay->events, replay->at) : NULL;
}

static void stop_replay(Replay *replay, const char *why)
{
    warn_report("replay: %s at instruction %" PRIu64, why, icount_count(replay->inlet.machine->icount));
    replay->ended = true;
    machine_request_stop(replay->inlet.machine, RUN_STATE_PAUSED);
}

static void differs(Replay *replay, const ReplayEvent *recorded, const ReplayEvent *now)
{
    g_autofree char *why = g_strdup_printf("this run is not the recorded one: CPU %u is at 0x%" PRIx64 ", recorded was CPU %u at 0x%"
                                           PRIx64 " behind instruction %" PRIu64 ", so it differs", now->cpu, now->pc, recorded->cpu,
                                           recorded->pc, recorded->count);
    stop_replay(replay, why);
}

/* A request of a disk may take longer than when it was recorded. */
static bool event_ready(const Replay *replay, const ReplayEvent *event)
{
    const Inlet *inlet = &replay->inlet;
    if (event->kind >= INLET_KINDS || !inlet->ready[event->kind]) {
        return true;
    }
    gsize size;
    const char *id = g_bytes_get_data(event->payload, &size);
    size_t id_length = strlen(id) + 1;
    return inlet->ready[event->kind](inlet->machine, (const uint8_t *)id + id_length, size - id_length);
}

static bool came(Inlet *inlet)
{
    const Replay *replay = container_of(inlet, Replay, inlet);
    const ReplayEvent *event = next_event(replay);
    return !event || event_ready(replay, event);
}

static void deliver_recorded(Replay *replay)
{
    const ReplayEvent *event;
    ReplayEvent now = { 0 };

    replay->inlet.blocked = false;
    while (!replay->ended && (event = next_event(replay))) {
        place(replay, &now);
        if (now.count < event->count || (now.count == event->count && now.ns < event->ns)) {
            return;
        }
        if (now.count == event->count && now.cpu != event->cpu && event->kind != KIND_END && !replay->inlet.fresh_runs) {
            return; /* another CPU looks at this count, too */
        }
        if (now.count != event->count || (now.cpu != event->cpu && event->kind != KIND_END) || now.ns != event->ns || now.pc != event->pc) {
            event->kind == KIND_END ? stop_replay(replay, "the recording ends") : differs(replay, event, &now);
            return;
        }
        if (!event_ready(replay, event)) {
            replay->inlet.blocked = true;
            return;
        }
        replay->at++;
        if (event->kind == KIND_END) {
            stop_replay(replay, "the recording ends");
            return;
        }
        hand_over(&replay->inlet, event);
    }
}

static void deliver(Inlet *inlet)
{
    Replay *replay = container_of(inlet, Replay, inlet);
    if (inlet->replays) {
        deliver_recorded(replay);
    } else if (inlet->fresh) {
        deliver_posted(replay);
    }
    if (icount_count(inlet->machine->icount) >= replay->stop_at) {
        replay->stop_at = UINT64_MAX;
        machine_request_stop(inlet->machine, RUN_STATE_PAUSED);
    }
}

static uint64_t until(Inlet *inlet)
{
    const Replay *replay = container_of(inlet, Replay, inlet);
    const ReplayEvent *event = replay->ended ? NULL : next_event(replay);
    uint64_t now = icount_count(inlet->machine->icount);
    if (!g_queue_is_empty((GQueue *)&replay->posted)) {
        return 1; /* behind this instruction */
    }
    uint64_t next = MIN(event ? event->count : UINT64_MAX, replay->stop_at);
    return next > now ? next - now : 1;
}

static int64_t next_ns(Inlet *inlet)
{
    const Replay *replay = container_of(inlet, Replay, inlet);
    const ReplayEvent *event = replay->ended ? NULL : next_event(replay);
    return event && event->count == icount_count(inlet->machine->icount) ? event->ns : INT64_MAX;
}

/* --- life --- */

static void replay_free(Replay *replay)
{
    if (replay->file) {
        fclose(replay->file);
    }
    if (replay->events) {
        g_ptr_array_unref(replay->events);
    }
    if (replay->saved) {
        g_ptr_array_unref(replay->saved);
    }
    g_queue_clear_full(&replay->posted, event_free);
    g_free(replay->path);
    g_free(replay);
}

static MUST_USE Error *open_file(Replay *replay, Header *header)
{
    bool record = replay->mode == REPLAY_RECORD;
    FILE *file = fopen(replay->path, record ? "wbe" : "rbe");
    if (!file) {
        return error_new_errno(errno, "cannot open the recording '%s'", replay->path);
    }
    if (record) {
        replay->file = file;
        fwrite(MAGIC, 16, 1, file);
        write_header(replay, header);
        return NULL;
    }
    replay->events = g_ptr_array_new_with_free_func(event_free);
    Error *err = read_all(replay, file, header);
    fclose(file);
    return err;
}

Error *replay_start(Machine *machine, ReplayMode mode, const char *path)
{
    Replay *replay = g_new0(Replay, 1);
    Header header = header_of(machine);

    replay->mode = mode;
    replay->path = g_strdup(path);
    replay->stop_at = UINT64_MAX;
    replay->inlet = (Inlet) { .machine = machine, .post = post, .deliver = deliver, .until = until, .next_ns = next_ns,
                              .came = came,
                              .replays = mode == REPLAY_PLAY };
    g_queue_init(&replay->posted);
    Error *err = open_file(replay, &header);
    if (err) {
        replay_free(replay);
        return err;
    }
    icount_set_random_state(machine->icount, header.random);
    machine->config->rtc_base = RTC_BASE_DATE; /* from the recorded date on, by the guest's time */
    machine->config->rtc_date = header.date;
    machine->config->rtc_clock = CLOCK_VIRTUAL;
    machine->inlet = &replay->inlet;
    machine_set_service(machine, REPLAY_SERVICE, replay);
    return NULL;
}

void replay_stop(Machine *machine)
{
    Replay *replay = replay_of(machine);
    if (!replay) {
        return;
    }
    if (replay->mode == REPLAY_RECORD) {
        ReplayEvent *end = event_new(KIND_END, g_bytes_new("", 0));
        place(replay, end);
        write_event(replay, end);
        event_free(end);
    }
    machine->inlet = NULL;
    machine_set_service(machine, REPLAY_SERVICE, NULL);
    replay_free(replay);
}
