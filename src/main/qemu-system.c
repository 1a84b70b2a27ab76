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

/* --- signals: the handler knows only a pipe --- */

static int signal_pipe[2] = { -1, -1 };

typedef struct SignalNote {
    int signo;
    pid_t pid;
} SignalNote;

static void on_signal(int signo, siginfo_t *info, void *context)
{
    SignalNote note = { signo, info ? info->si_pid : 0 };
    int saved = errno;
    ssize_t done = write(signal_pipe[1], &note, sizeof(note));
    (void)done; /* a full pipe holds a signal already */
    errno = saved;
}

static void signal_arrived(void *opaque, unsigned events)
{
    Machine *machine = opaque;
    SignalNote note;

    if (read(signal_pipe[0], &note, sizeof(note)) != sizeof(note)) {
        return;
    }
    if (note.signo != SIGINT || note.pid != 0) {
        g_autofree char *path = g_strdup_printf("/proc/%d/comm", (int)note.pid), *name = NULL;
        if (g_file_get_contents(path, &name, NULL, NULL)) {
            g_strchomp(name);
        }
        fprintf(stderr, "%s: terminating on signal %d from pid %d (%s)\n", g_get_prgname(), note.signo,
                (int)note.pid, name ? name : "<unknown process>");
    } else {
        fprintf(stderr, "%s: terminating on signal %d\n", g_get_prgname(), note.signo);
    }
    machine->no_shutdown = false;
    machine_request_shutdown(machine, SHUTDOWN_HOST_SIGNAL);
}

static LoopFd *catch_signals(Machine *machine)
{
    struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };

    if (pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) < 0) {
        return NULL;
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    return loop_add_fd(machine->loop, signal_pipe[0], LOOP_READ, signal_arrived, machine);
}

/* --- -daemonize: the parent waits until the child is up, then leaves with its status --- */

static int parent_pipe = -1;

static void go_to_background(void)
{
    int fds[2];
    char status = 1;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        return;
    }
    pid_t pid = fork();
    if (pid < 0) {
        error_report(error_new_errno(errno, "cannot fork"));
        exit(1);
    }
    if (pid > 0) {
        close(fds[1]);
        while (read(fds[0], &status, 1) < 0 && errno == EINTR) {
        }
        _exit(status);
    }
    close(fds[0]);
    parent_pipe = fds[1];
    setsid();
    umask(027);
    signal(SIGTSTP, SIG_IGN);
    signal(SIGTTOU, SIG_IGN);
    signal(SIGTTIN, SIG_IGN);
}

/* Standard descriptors go to /dev/null; a log that goes to standard error stays there. */
static void tell_parent(const Plan *plan)
{
    char ok = 0;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (chdir("/") < 0 || null < 0) {
        return;
    }
    dup2(null, 0);
    dup2(null, 1);
    if (!plan->log_items || plan->log_file) {
        dup2(null, 2);
    }
    close(null);
    ssize_t done = write(parent_pipe, &ok, 1);
    (void)done;
    close(parent_pipe);
    parent_pipe = -1;
}

/* --- -run-with --- */

/* A name, or UID:GID. */
static MUST_USE Error *become_user(const char *user)
{
    unsigned uid, gid;
    int used = 0;

    if (sscanf(user, "%u:%u%n", &uid, &gid, &used) == 2 && !user[used]) {
        if (setgroups(1, &(gid_t) { gid }) < 0 || setgid(gid) < 0 || setuid(uid) < 0) {
            return error_new_errno(errno, "-run-with user=%s: cannot become that user", user);
        }
    } else {
        const struct passwd *entry = getpwnam(user);
        if (!entry) {
            return error_new("-run-with user=%s: there is no such user (a name, or UID:GID)", user);
        }
        uid = entry->pw_uid;
        if (initgroups(user, entry->pw_gid) < 0 || setgid(entry->pw_gid) < 0 || setuid(uid) < 0) {
            return error_new_errno(errno, "-run-with user=%s: cannot become that user", user);
        }
    }
    return uid != 0 && setuid(0) == 0 ? error_new("-run-with user=%s: the privileges would come back", user) : NULL;
}

/* When everything is open, and before the guest runs. */
static MUST_USE Error *give_up_privileges(const Plan *plan)
{
    if (plan->run_user && !strchr(plan->run_user, ':') && !getpwnam(plan->run_user)) {
        return become_user(plan->run_user); /* its message; /etc/passwd may be out of reach below */
    }
    const struct passwd *entry = plan->run_user && !strchr(plan->run_user, ':') ? getpwnam(plan->run_user) : NULL;
    g_autofree char *numbers = entry ? g_strdup_printf("%u:%u", entry->pw_uid, entry->pw_gid) : g_strdup(plan->run_user);
    if (entry && initgroups(plan->run_user, entry->pw_gid) < 0) {
        return error_new_errno(errno, "-run-with user=%s: cannot take its groups", plan->run_user);
    }
    if (plan->run_chroot && (chroot(plan->run_chroot) < 0 || chdir("/") < 0)) {
        return error_new_errno(errno, "-run-with chroot=%s", plan->run_chroot);
    }
    return numbers ? become_user(numbers) : NULL;
}

/* --- -pidfile --- */

static MUST_USE Error *write_pidfile(const char *path)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    g_autofree char *text = g_strdup_printf("%d\n", (int)getpid());
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0644);

    if (fd < 0) {
        return error_new_errno(errno, "cannot create PID file '%s'", path);
    }
    if (fcntl(fd, F_SETLK, &lock) < 0) {
        Error *err = error_new_errno(errno, "cannot lock PID file '%s'", path);
        close(fd);
        return err;
    }
    if (ftruncate(fd, 0) < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        Error *err = error_new_errno(errno, "cannot write PID file '%s'", path);
        close(fd);
        return err;
    }
    return NULL; /* stays open: the lock says that the process lives */
}

/* A caller may have closed them; what opens next must not take their numbers. */
static void open_standard_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) < 0) {
            exit(1);
        }
    }
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

static MUST_USE Error *run(Plan *plan, Machine **ret_machine)
{
    TRY(open_log(plan));
    if (plan->daemonize) {
        if (plan->nographic) {
            return error_new("-nographic cannot be used with -daemonize");
        }
        go_to_background();
    }
    TRY(cli_start(plan, ret_machine));
    if (plan->pidfile) {
        TRY(write_pidfile(plan->pidfile));
    }
    TRY(give_up_privileges(plan));
    Machine *machine = *ret_machine;
    lock_acquire(&machine->lock);
    LoopFd *signals = catch_signals(machine);
    machine_launch_vcpus(machine);
    if (!machine->start_paused && machine->state == RUN_STATE_PRELAUNCH) {
        machine_start(machine);
    }
    lock_release(&machine->lock);
    if (plan->daemonize) {
        tell_parent(plan);
    }
    loop_run(machine->loop);
    lock_acquire(&machine->lock);
    loop_del_fd(signals);
    lock_release(&machine->lock);
    return NULL;
}

int main(int argc, char **argv)
{
    open_standard_descriptors();
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
        err = run(plan, &machine);
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
