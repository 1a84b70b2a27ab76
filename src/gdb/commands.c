/* Packets that look at the machine and move it: registers, memory, points, running. GDB manual, E.2, E.3. */
#include <stdlib.h>
#include <string.h>

#include "gdb/gdb_priv.h"
#include "replay/reverse.h"

enum { POINTS_MAX = 1000, REGISTER_MAX = 64 };

static void ok(Gdb *gdb)
{
    gdb_send(gdb, "OK");
}

static void fail(Gdb *gdb, unsigned number)
{
    g_autofree char *text = g_strdup_printf("E%02x", number & 0xff);
    gdb_send(gdb, text);
}

/* Threads are numbered from 1; 0 and -1 mean any. False: there is no such one. */
static bool take_thread(Gdb *gdb, const char **text, unsigned *ret_index)
{
    uint64_t number;
    if (g_str_has_prefix(*text, "-1")) {
        *text += 2;
        return true;
    }
    if (!gdb_take_number(text, &number) || (number && (number > UINT32_MAX || !vcpu_at(gdb->machine, (unsigned)number - 1)))) {
        return false;
    }
    if (number) {
        *ret_index = (unsigned)number - 1;
    }
    return true;
}

/* --- registers --- */

static void read_registers(Gdb *gdb)
{
    Vcpu *vcpu = gdb_vcpu(gdb, gdb->general);
    const GdbArch *arch = vcpu->ops->gdb;
    g_autoptr(GString) text = g_string_new(NULL);

    for (unsigned n = 0; n < arch->registers; n++) {
        uint8_t bytes[REGISTER_MAX];
        arch->read(vcpu, n, bytes);
        gdb_put_hex(text, bytes, arch->size(n));
    }
    gdb_send(gdb, text->str);
}

static void write_registers(Gdb *gdb, const char *text)
{
    Vcpu *vcpu = gdb_vcpu(gdb, gdb->general);
    const GdbArch *arch = vcpu->ops->gdb;

    for (unsigned n = 0; n < arch->registers; n++) {
        uint8_t bytes[REGISTER_MAX];
        if (gdb_take_hex(&text, bytes, arch->size(n)) < arch->size(n)) {
            break;
        }
        arch->write(vcpu, n, bytes);
    }
    ok(gdb);
}

static void read_register(Gdb *gdb, const char *text)
{
    Vcpu *vcpu = gdb_vcpu(gdb, gdb->general);
    const GdbArch *arch = vcpu->ops->gdb;
    g_autoptr(GString) answer = g_string_new(NULL);
    uint64_t number;
    uint8_t bytes[REGISTER_MAX];

    if (!gdb_take_number(&text, &number) || number >= arch->registers) {
        fail(gdb, 0x14);
        return;
    }
    arch->read(vcpu, (unsigned)number, bytes);
    gdb_put_hex(answer, bytes, arch->size((unsigned)number));
    gdb_send(gdb, answer->str);
}

static void write_register(Gdb *gdb, const char *text)
{
    Vcpu *vcpu = gdb_vcpu(gdb, gdb->general);
    const GdbArch *arch = vcpu->ops->gdb;
    uint64_t number;
    uint8_t bytes[REGISTER_MAX];

    bool good = gdb_take_number(&text, &number) && number < arch->registers && *text++ == '=' &&
                gdb_take_hex(&text, bytes, arch->size((unsigned)number)) == arch->size((unsigned)number) &&
                arch->write(vcpu, (unsigned)number, bytes);
    good ? ok(gdb) : fail(gdb, 0x16);
}

/* --- memory --- */

/* Up to the end of the page; false: nothing is there. */
static bool access_piece(Gdb *gdb, uint64_t addr, uint8_t *buf, uint64_t length, bool write)
{
    Vcpu *vcpu = gdb_vcpu(gdb, gdb->general);
    uint64_t pa = addr;
    MemHit hit;

    if (!gdb->physical && !vcpu->ops->translate(vcpu, addr, &pa)) {
        return false;
    }
    AddressSpace *as = gdb->physical ? gdb->machine->as : vcpu->as;
    mem_lookup(as, pa, &hit);
    if (!hit.region) {
        return false;
    }
    if (!write) {
        return mem_read(as, pa, buf, length) == MEM_OK;
    }
    if (hit.host) {
        mem_write_rom(as, pa, buf, length);
        return true;
    }
    return mem_write(as, pa, buf, length) == MEM_OK;
}

static uint64_t access_memory(Gdb *gdb, uint64_t addr, uint8_t *buf, uint64_t length, bool write)
{
    uint64_t done = 0;
    while (done < length) {
        uint64_t at = addr + done, piece = MIN(length - done, MEM_PAGE_SIZE - (at & (MEM_PAGE_SIZE - 1)));
        if (!access_piece(gdb, at, buf + done, piece, write)) {
            break;
        }
        done += piece;
    }
    return done;
}

static bool take_range(const char **text, uint64_t *ret_addr, uint64_t *ret_length, char end)
{
    return gdb_take_number(text, ret_addr) && *(*text)++ == ',' && gdb_take_number(text, ret_length) && *(*text)++ == end;
}

static void read_memory(Gdb *gdb, const char *text)
{
    uint64_t addr, length;
    if (!take_range(&text, &addr, &length, '\0') || length > GDB_PACKET_MAX / 2) {
        fail(gdb, 0x16);
        return;
    }
    g_autofree uint8_t *buf = g_malloc(length + 1);
    uint64_t done = access_memory(gdb, addr, buf, length, false);
    if (!done && length) {
        fail(gdb, 0x0e);
        return;
    }
    g_autoptr(GString) answer = g_string_new(NULL);
    gdb_put_hex(answer, buf, done);
    gdb_send(gdb, answer->str);
}

static void write_memory(Gdb *gdb, const char *text, const char *end, bool binary)
{
    uint64_t addr, length;
    if (!take_range(&text, &addr, &length, ':') || length > GDB_PACKET_MAX) {
        fail(gdb, 0x16);
        return;
    }
    g_autofree uint8_t *buf = g_malloc(length + 1);
    bool whole;
    if (binary) {
        whole = (uint64_t)(end - text) == length;
        memcpy(buf, text, whole ? length : 0);
    } else {
        whole = gdb_take_hex(&text, buf, length) == length;
    }
    if (!whole) {
        fail(gdb, 0x16);
    } else if (access_memory(gdb, addr, buf, length, true) < length) {
        fail(gdb, 0x0e);
    } else {
        ok(gdb);
    }
}

/* --- points --- */

static bool add_point(GArray *points, const DebugPoint *point)
{
    for (guint n = 0; n < points->len; n++) {
        const DebugPoint *old = &g_array_index(points, DebugPoint, n);
        if (old->kind == point->kind && old->addr == point->addr && old->length == point->length) {
            return true; /* set twice is set once */
        }
    }
    if (points->len >= POINTS_MAX) {
        return false;
    }
    g_array_append_val(points, *point);
    return true;
}

static bool remove_point(GArray *points, const DebugPoint *point)
{
    for (guint n = 0; n < points->len; n++) {
        const DebugPoint *old = &g_array_index(points, DebugPoint, n);
        if (old->kind == point->kind && old->addr == point->addr && old->length == point->length) {
            g_array_remove_index_fast(points, n);
            return true;
        }
    }
    return true;
}

static void change_point(Gdb *gdb, const char *text, bool add)
{
    static const DebugKind kinds[] = { DEBUG_EXEC, DEBUG_EXEC, DEBUG_WRITE, DEBUG_READ, DEBUG_ACCESS };
    unsigned type = (unsigned)(*text - '0');
    DebugPoint point;

    if (type >= ARRAY_SIZE(kinds)) {
        gdb_send(gdb, "");
        return;
    }
    point.kind = kinds[type];
    text++;
    if (*text++ != ',' || !gdb_take_number(&text, &point.addr) || *text++ != ',' || !gdb_take_number(&text, &point.length) ||
        point.length == 0 || point.length > MEM_PAGE_SIZE || point.addr + point.length < point.addr) {
        fail(gdb, 0x16);
        return;
    }
    point.length = point.kind == DEBUG_EXEC ? 1 : point.length;
    machine_pause_vcpus(gdb->machine); /* gdb may set points while the machine runs */
    GArray *points = gdb->points.points;
    bool good = add ? add_point(points, &point) : remove_point(points, &point);
    gdb->points.data = 0;
    for (guint n = 0; n < points->len; n++) {
        gdb->points.data += g_array_index(points, DebugPoint, n).kind != DEBUG_EXEC;
    }
    debug_points_changed(gdb->machine, points->len ? &gdb->points : NULL);
    machine_resume_vcpus(gdb->machine);
    good ? ok(gdb) : fail(gdb, 0x1c);
}

/* --- running --- */

static void resume(Gdb *gdb)
{
    gdb->points.vcpu = NULL;
    RunState state = gdb->machine->state;
    if (state == RUN_STATE_SHUTDOWN || state == RUN_STATE_INTERNAL_ERROR || state == RUN_STATE_INMIGRATE ||
        state == RUN_STATE_FINISH_MIGRATE) {
        gdb_send_stop(gdb); /* it cannot run on */
        return;
    }
    if (reverse_possible(gdb->machine)) {
        Error *err = reverse_begin(gdb->machine);
        if (err) {
            error_report(err);
        }
    }
    gdb->resumed = true;
    machine_start(gdb->machine);
}

static void step_vcpu(Vcpu *vcpu, void *opaque)
{
    vcpu->ops->step(vcpu);
}

/* --- in a replayed run --- */

typedef enum Move { MOVE_STEP, MOVE_BACK, MOVE_BACK_TO_POINT } Move;

static MUST_USE Error *move_in_replay(Gdb *gdb, Move move, bool *ret_begin)
{
    TRY(reverse_begin(gdb->machine));
    switch (move) {
    case MOVE_STEP:
        return reverse_step_forward(gdb->machine, &gdb->points);
    case MOVE_BACK:
        return reverse_step(gdb->machine, &gdb->points, ret_begin);
    default:
        return reverse_continue(gdb->machine, &gdb->points, ret_begin);
    }
}

static void move(Gdb *gdb, Move move)
{
    bool begin = false;
    gdb->points.vcpu = NULL;
    gdb->busy = true;
    Error *err = move_in_replay(gdb, move, &begin);
    gdb->busy = false;
    machine_set_state(gdb->machine, RUN_STATE_DEBUG);
    if (err) {
        error_report(err);
        fail(gdb, 0x05);
    } else if (begin) {
        gdb_send(gdb, "T05replaylog:begin;");
    } else {
        gdb_send_stop(gdb);
    }
}

static void go_back(Gdb *gdb, char how)
{
    if (!reverse_possible(gdb->machine)) {
        fail(gdb, 0x14);
    } else if (how == 's' || how == 'c') {
        move(gdb, how == 's' ? MOVE_BACK : MOVE_BACK_TO_POINT);
    } else {
        gdb_send(gdb, "");
    }
}

/* The other vCPUs stand still meanwhile. */
static void step(Gdb *gdb, unsigned index)
{
    Machine *machine = gdb->machine;

    if (reverse_possible(machine)) {
        move(gdb, MOVE_STEP);
        return;
    }
    gdb->points.vcpu = NULL;
    vcpu_run_sync(gdb_vcpu(gdb, index), step_vcpu, NULL);
    machine->requested_stop = false; /* a watchpoint was met: said in the answer */
    machine_set_state(machine, RUN_STATE_DEBUG);
    gdb->general = gdb->control = index;
    gdb_send_stop(gdb);
}

static void set_address(Gdb *gdb, const char *text)
{
    Vcpu *vcpu = gdb_vcpu(gdb, gdb->control);
    uint64_t addr;
    if (gdb_take_number(&text, &addr)) {
        uint8_t bytes[REGISTER_MAX] = { 0 };
        for (unsigned i = 0; i < 8; i++) {
            bytes[i] = (uint8_t)(addr >> (8 * i));
        }
        vcpu->ops->gdb->write(vcpu, vcpu->ops->gdb->program_counter, bytes);
    }
}

/* vCont;ACTION[:THREAD];...: one that steps is stepped; else all go on. */
static void continue_threads(Gdb *gdb, const char *text)
{
    bool steps = false, runs = false;
    unsigned stepped = gdb->control;

    while (*text == ';') {
        char action = *++text;
        uint64_t signo;
        unsigned index = gdb->control;
        if (!action) {
            break;
        }
        text++;
        if (action == 'C' || action == 'S') {
            gdb_take_number(&text, &signo);
        }
        if (*text == ':') {
            text++;
            if (!take_thread(gdb, &text, &index)) {
                fail(gdb, 0x16);
                return;
            }
        }
        if ((action == 's' || action == 'S') && !steps) {
            steps = true;
            stepped = index;
        }
        runs |= action == 'c' || action == 'C';
    }
    if (*text) {
        fail(gdb, 0x16);
    } else if (steps) {
        step(gdb, stepped);
    } else if (runs) {
        resume(gdb);
    } else {
        fail(gdb, 0x16);
    }
}

static void many_letters(Gdb *gdb, const char *text)
{
    if (!strcmp(text, "vCont?")) {
        gdb_send(gdb, "vCont;c;C;s;S");
    } else if (g_str_has_prefix(text, "vCont")) {
        continue_threads(gdb, text + strlen("vCont"));
    } else if (g_str_has_prefix(text, "vKill")) {
        ok(gdb);
        machine_request_shutdown(gdb->machine, SHUTDOWN_HOST_QMP_QUIT);
    } else {
        gdb_send(gdb, "");
    }
}

static void detach(Gdb *gdb)
{
    gdb_forget_points(gdb);
    ok(gdb);
    gdb->resumed = false;
    if (gdb->machine->state == RUN_STATE_PAUSED || gdb->machine->state == RUN_STATE_DEBUG ||
        gdb->machine->state == RUN_STATE_PRELAUNCH) {
        machine_start(gdb->machine);
    }
}

static void choose_thread(Gdb *gdb, const char *text)
{
    char kind = *text ? *text++ : '\0';
    if (!take_thread(gdb, &text, kind == 'c' ? &gdb->control : &gdb->general)) {
        fail(gdb, 0x16);
        return;
    }
    ok(gdb);
}

static void thread_alive(Gdb *gdb, const char *text)
{
    unsigned index = 0;
    take_thread(gdb, &text, &index) ? ok(gdb) : fail(gdb, 0x16);
}

static void dispatch(Gdb *gdb, const char *text, size_t length)
{
    const char *rest = text + (length > 0);

    switch (*text) {
    case '?':
        gdb_send_stop(gdb);
        break;
    case 'g':
        read_registers(gdb);
        break;
    case 'G':
        write_registers(gdb, rest);
        break;
    case 'p':
        read_register(gdb, rest);
        break;
    case 'P':
        write_register(gdb, rest);
        break;
    case 'm':
        read_memory(gdb, rest);
        break;
    case 'M':
        write_memory(gdb, rest, text + length, false);
        break;
    case 'X':
        write_memory(gdb, rest, text + length, true);
        break;
    case 'Z':
    case 'z':
        change_point(gdb, rest, *text == 'Z');
        break;
    case 'c':
        set_address(gdb, rest);
        resume(gdb);
        break;
    case 'C':
        resume(gdb);
        break;
    case 's':
        set_address(gdb, rest);
        step(gdb, gdb->control);
        break;
    case 'b':
        go_back(gdb, *rest);
        break;
    case 'H':
        choose_thread(gdb, rest);
        break;
    case 'T':
        thread_alive(gdb, rest);
        break;
    case 'D':
        detach(gdb);
        break;
    case 'k':
        machine_request_shutdown(gdb->machine, SHUTDOWN_HOST_QMP_QUIT);
        break;
    case 'v':
        many_letters(gdb, text);
        break;
    case 'q':
    case 'Q':
        gdb_query(gdb, text);
        break;
    default:
        gdb_send(gdb, "");
        break;
    }
}

/* A packet to move the machine comes while it runs: its answer will be the only one. False: it cannot stop now. */
static bool stand_still(Gdb *gdb)
{
    if (machine_running(gdb->machine)) {
        gdb->resumed = false;
        machine_stop(gdb->machine, RUN_STATE_PAUSED);
    }
    return !machine_running(gdb->machine);
}

/* gdb waits for the machine to stop before it looks at it, but others may have let it run, and not every peer is gdb. */
void gdb_command(Gdb *gdb, const char *text, size_t length)
{
    bool moves = *text && (strchr("cCsb", *text) || g_str_has_prefix(text, "vCont;"));
    bool looks = *text && strchr("gGpPmMX", *text);

    if (moves && !stand_still(gdb)) {
        fail(gdb, 0x16);
        return;
    }
    if (looks) {
        machine_pause_vcpus(gdb->machine);
    }
    dispatch(gdb, text, length);
    if (looks) {
        machine_resume_vcpus(gdb->machine);
    }
}
