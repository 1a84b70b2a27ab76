/*
 * qemu-system-x86_64 and its relatives: command line, machine, main loop, exit status.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/start.h"
#include "io/spawn.h"
#include "main/process.h"

/*
 * The main loop sleeps most of the time and its timers are the guest's: on a busy host a tick that comes 70 ms late makes Linux
 * say "IO-APIC + timer doesn't work!" and stop. A thread that asks for short slices (Linux 6.12; older ones take no notice) is
 * scheduled sooner when it wakes up, and gets no more time by it. vCPU threads, made later, do not inherit that. Who set a
 * priority has ideas of their own.
 */
static void ask_for_short_slices(void)
{
    struct { /* sched_setattr(2), whose declaration in the kernel's header collides with the C library's */
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = { .size = sizeof(attr) };

    if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) == 0 && attr.policy == SCHED_NORMAL && attr.nice >= 0) {
        attr.flags |= SCHED_FLAG_RESET_ON_FORK;
        attr.runtime = 100000; /* ns */
        syscall(SYS_sched_setattr, 0, &attr, 0);
    }
}

static void on_signal(void *opaque, int signo, pid_t pid)
{
    Machine *machine = opaque;

    if (signo != SIGINT || pid != 0) {
        g_autofree char *path = g_strdup_printf("/proc/%d/comm", (int)pid), *name = NULL;
        if (g_file_get_contents(path, &name, NULL, NULL)) {
            g_strchomp(name);
        }
        fprintf(stderr, "%s: terminating on signal %d from pid %d (%s)\n", g_get_prgname(), signo, (int)pid,
                name ? name : "<unknown process>");
    } else {
        fprintf(stderr, "%s: terminating on signal %d\n", g_get_prgname(), signo);
    }
    machine->actions.no_shutdown = false;
    machine_request_shutdown(machine, SHUTDOWN_HOST_SIGNAL);
}

/* --- -run-with --- */

typedef struct Identity {
    uid_t user;
    gid_t group;
    const char *name; /* NULL: it was given by numbers */
} Identity;

/* A name, or UID:GID. */
static MUST_USE Error *find_user(const char *user, Identity *ret_identity)
{
    unsigned uid, gid;
    int used = 0;

    if (sscanf(user, "%u:%u%n", &uid, &gid, &used) == 2 && !user[used]) {
        *ret_identity = (Identity) { .user = uid, .group = gid };
        return NULL;
    }
    const struct passwd *entry = getpwnam(user);
    if (!entry) {
        return error_new("-run-with user=%s: there is no such user (a name, or UID:GID)", user);
    }
    *ret_identity = (Identity) { .user = entry->pw_uid, .group = entry->pw_gid, .name = user };
    return NULL;
}

/* When everything is open, and before the guest runs. Names are looked up while /etc is within reach. */
static MUST_USE Error *give_up_privileges(const Plan *plan)
{
    const char *user = plan->run_user;
    Identity id = { 0 };

    if (user) {
        TRY(find_user(user, &id));
        if ((id.name ? initgroups(id.name, id.group) : setgroups(1, &id.group)) < 0) {
            return error_new_errno(errno, "-run-with user=%s: cannot take the user's groups", user);
        }
    }
    if (plan->run_chroot && (chroot(plan->run_chroot) < 0 || chdir("/") < 0)) {
        return error_new_errno(errno, "-run-with chroot=%s", plan->run_chroot);
    }
    if (user && (setgid(id.group) < 0 || setuid(id.user) < 0)) {
        return error_new_errno(errno, "-run-with user=%s: cannot become that user", user);
    }
    if (user && id.user != 0 && setuid(0) == 0) {
        return error_new("-run-with user=%s: the privileges would come back", user);
    }
    return NULL;
}

static MUST_USE Error *open_log(const Plan *plan)
{
    unsigned mask;

    if (plan->log_file || plan->log_items) {
        TRY(log_open(plan->log_file));
    }
    if (plan->log_items) {
        TRY(log_parse_items(plan->log_items, &mask));
        log_mask = mask;
    }
    return NULL;
}

/* --- -sandbox --- */

/* Programs that libslirp starts by itself would inherit the filter. */
static bool network_starts_programs(const Plan *plan)
{
    for (guint n = 0; n < plan->netdevs->len; n++) {
        const KeyValues *kv = g_ptr_array_index(plan->netdevs, n);
        for (guint i = 0; i < kv->items->len; i++) {
            const KeyValue *item = g_ptr_array_index(kv->items, i);
            if (!strcmp(item->key, "smb") || strstr(item->value, "-cmd:")) {
                return true;
            }
        }
    }
    return false;
}

/* What shows windows pulls in more of the system than a list can hold. */
static bool shows_window(const Plan *plan)
{
    if (plan->display) {
        return !g_str_has_prefix(plan->display, "none") && !g_str_has_prefix(plan->display, "curses");
    }
    return !plan->daemonize && (g_getenv("DISPLAY") || g_getenv("WAYLAND_DISPLAY"));
}

/* What the filter does not go with; NULL: nothing. */
static MUST_USE Error *against_sandbox(const Plan *plan)
{
    if (shows_window(plan)) {
        return error_hint(error_new("-sandbox on: a window needs more of the system than the filter allows"),
                          "Use -display none or curses.");
    }
    if (network_starts_programs(plan)) {
        return error_new("-sandbox on: the filter lets the user network start no programs (smb=, guestfwd=...-cmd:)");
    }
    return NULL;
}

/* What checks for leaks at the end traces its own process. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const bool sanitizers = true;
#elif defined(__has_feature)
static const bool sanitizers = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
static const bool sanitizers = false;
#endif

static MUST_USE Error *enter_sandbox(const Plan *plan, Machine *machine)
{
    const SandboxOptions *box = &plan->sandbox;
    Spawner *spawner;

    if (box->off || (sanitizers && !box->demanded)) {
        return NULL;
    }
    Error *err = against_sandbox(plan);
    if (err) {
        if (box->demanded) {
            return err;
        }
        error_free(err);
        return NULL;
    }
    if (!box->no_spawn) {
        TRY(spawner_new(&spawner));
        machine_set_service(machine, SPAWNER_SERVICE, spawner);
    }
    err = sandbox_enter(machine, box);
    if (err && !box->demanded) {
        warn_report("no system call filter: %s", error_message(err));
        g_clear_pointer(&err, error_free);
    }
    return err;
}

static MUST_USE Error *run(Plan *plan, pid_t parent, Machine **ret_machine)
{
    TRY(open_log(plan));
    if (plan->exit_with_parent && plan->daemonize) {
        return error_new("-run-with exit-with-parent=on: the parent of -daemonize leaves at once");
    }
    if (plan->daemonize) {
        /* The terminal is lost; where nothing is on it, as with -nodefaults, -nographic says nothing. */
        if (plan->nographic && (plan->default_serial || plan->default_parallel || plan->default_monitor)) {
            return error_new("-nographic needs the terminal that -daemonize leaves: use -display "
                             "none");
        }
        process_go_to_background();
    }
    TRY(cli_start(plan, ret_machine));
    if (plan->pidfile) {
        TRY(process_write_pidfile(plan->pidfile));
    }
    if (plan->async_teardown) {
        TRY(process_leave_memory_to_child());
    }
    TRY(give_up_privileges(plan));
    if (plan->exit_with_parent) { /* behind the change of the user, which would undo it */
        TRY(process_end_with_parent(parent));
    }
    Machine *machine = *ret_machine;
    lock_acquire(&machine->lock);
    LoopFd *signals = process_catch_signals(machine->loop, on_signal, machine);
    machine_launch_vcpus(machine);
    lock_release(&machine->lock);
    if (plan->daemonize) {
        process_tell_parent(plan->log_items && !plan->log_file);
    }
    TRY(enter_sandbox(plan, machine));
    lock_acquire(&machine->lock);
    if (!machine->start_paused && machine->state == RUN_STATE_PRELAUNCH) {
        machine_start(machine);
    }
    lock_release(&machine->lock);
    loop_run(machine->loop);
    lock_acquire(&machine->lock);
    loop_del_fd(signals);
    lock_release(&machine->lock);
    return NULL;
}

int main(int argc, char **argv)
{
    pid_t parent = getppid();

    process_open_standard_descriptors();
    ask_for_short_slices();
    g_autofree char *program = g_path_get_basename(argv[0]);
    Plan *plan = plan_new(argv[0]);
    Machine *machine = NULL;

    g_set_prgname(program);
    error_set_program(argv[0]);
    signal(SIGPIPE, SIG_IGN);
    Error *err = cli_parse(plan, argc, argv);
    g_autofree char *guest = err ? NULL : g_strdup(plan->config->name);
    error_set_decoration(plan->timestamps, plan->guest_name_in_messages ? guest : NULL);
    if (!err && plan->print) {
        fputs(plan->print, stdout);
        plan_free(plan);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    if (!err) {
        err = cli_finish(plan);
    }
    for (guint n = 0; n < plan->warnings->len; n++) {
        warn_report("%s", (const char *)g_ptr_array_index(plan->warnings, n));
    }
    if (!err && plan->print) {
        fputs(plan->print, stdout);
        plan_free(plan);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    if (!err) {
        err = run(plan, parent, &machine);
    }
    int status = err ? 1 : machine->exit_code;
    if (err) {
        error_report(err);
    }
    cli_stop(machine);
    if (plan->pidfile && !err) {
        unlink(plan->pidfile);
    }
    plan_free(plan);
    return status;
}
