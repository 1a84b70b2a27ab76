#include "main/process.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* --- signals: the handler knows only a pipe --- */

static int signal_pipe[2] = { -1, -1 };
static void (*signal_fn)(void *opaque, int signo, pid_t pid);

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
    SignalNote note;

    if (read(signal_pipe[0], &note, sizeof(note)) == sizeof(note)) {
        signal_fn(opaque, note.signo, note.pid);
    }
}

LoopFd *process_catch_signals(Loop *loop, void (*fn)(void *opaque, int signo, pid_t pid), void *opaque)
{
    struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };

    if (pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) < 0) {
        return NULL;
    }
    signal_fn = fn;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    return loop_add_fd(loop, signal_pipe[0], LOOP_READ, signal_arrived, opaque);
}

/* --- parents and children --- */

Error *process_end_with_parent(pid_t parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0) {
        return error_new_errno(errno, "-run-with exit-with-parent=on");
    }
    return getppid() == parent ? NULL : error_new("-run-with exit-with-parent=on: the parent has ended");
}

/* Shares everything with its parent: no library function that keeps anything. Holds on until the parent has ended. */
__attribute__((no_sanitize("address", "thread", "undefined")))
static int keep_memory(void *opaque)
{
    pid_t parent = (pid_t)(intptr_t)opaque;

    syscall(SYS_close_range, 0, ~0u, 0);
    syscall(SYS_prctl, PR_SET_NAME, "teardown", 0, 0, 0);
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    while (syscall(SYS_getppid) == parent) {
        syscall(SYS_pause);
    }
    return 0;
}

Error *process_leave_memory_to_child(void)
{
    enum { STACK = 16384 };
    sigset_t all, old;
    char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);

    if (stack == MAP_FAILED) {
        return error_new_errno(errno, "-run-with async-teardown=on");
    }
    sigfillset(&all); /* the child's handlers would be ours */
    sigprocmask(SIG_SETMASK, &all, &old);
    /* No signal at its end: nobody waits for it, init does. */
    int pid = clone(keep_memory, stack + STACK, CLONE_VM, (void *)(intptr_t)getpid());
    int err = errno;
    sigprocmask(SIG_SETMASK, &old, NULL);
    return pid < 0 ? error_new_errno(err, "-run-with async-teardown=on") : NULL;
}

/* --- the background --- */

static int parent_pipe = -1, null_device = -1;

void process_go_to_background(void)
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
    null_device = open("/dev/null", O_RDWR | O_CLOEXEC); /* -run-with chroot= may take it away */
    setsid();
    umask(027);
    signal(SIGTSTP, SIG_IGN);
    signal(SIGTTOU, SIG_IGN);
    signal(SIGTTIN, SIG_IGN);
}

void process_tell_parent(bool keep_stderr)
{
    char ok = 0;

    if (chdir("/") < 0 || null_device < 0) {
        return;
    }
    dup2(null_device, 0);
    dup2(null_device, 1);
    if (!keep_stderr) {
        dup2(null_device, 2);
    }
    close(null_device);
    ssize_t done = write(parent_pipe, &ok, 1);
    (void)done;
    close(parent_pipe);
    parent_pipe = -1;
}

/* --- files --- */

Error *process_write_pidfile(const char *path)
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
    return NULL;
}

void process_open_standard_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) < 0) {
            exit(1);
        }
    }
}
