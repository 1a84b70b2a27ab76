/* The system call filter; see sandbox.h. */
#include "core/vm/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/library.h"
#include "core/vm/machine.h"

#define SECCOMP_CALLS(C)                                                                                              \
    C(seccomp_init) C(seccomp_attr_set) C(seccomp_rule_add_array) C(seccomp_syscall_resolve_name)                     \
    C(seccomp_syscall_resolve_num_arch) C(seccomp_load) C(seccomp_release)
typedef struct SeccompApi {
    SECCOMP_CALLS(LIBRARY_POINTER)
} SeccompApi;
#define SECCOMP_CALL(name) LIBRARY_CALL(SeccompApi, name)
static const LibraryCall seccomp_table[] = { SECCOMP_CALLS(SECCOMP_CALL) };
static const Library seccomp_library = { "the system call filter", "libseccomp.so.2", "libseccomp2", seccomp_table,
                                         G_N_ELEMENTS(seccomp_table) };

/* --- what each kind of thread may call: one line a purpose --- */

/* The main loop, workers, migration: everything that is no vCPU. */
static const char *const machine_calls[] = {
    "read", "write", "close", "newfstatat", "lseek", "openat", "fcntl", "ioctl", "pipe2", "dup3", /* descriptors */
    "preadv2", "pwritev2", "fdatasync", "ftruncate", "fallocate",                                /* images */
    "io_uring_enter", "unlink", "readlink", "getdents64",
    "mmap", "mprotect", "munmap", "madvise", "brk", "memfd_create",                              /* memory */
    "poll", "epoll_pwait2", "epoll_ctl", "epoll_create1", "timerfd_create", "timerfd_settime",   /* the loops */
    "eventfd2",
    "clock_gettime", "sched_yield",
    "futex", "clone3", "rseq", "exit", "exit_group", "wait4", /* threads; programs that were started before */
    "prctl", "seccomp", "tgkill", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
    "socket", "connect", "bind", "listen", "accept4", "sendto", "recvfrom",                      /* sockets */
    "sendmsg", "recvmsg", "shutdown", "getsockname", "getpeername", "setsockopt", "getsockopt",
};

/* Guest code, and devices as far as they answer at once: serial lines, sockets of networks, the first step of a disk request. */
static const char *const vcpu_calls[] = {
    "futex", "mmap", "mprotect", "munmap", "madvise", "brk",
    "read", "write", "close", "openat", "newfstatat", "fcntl", "ioctl", "epoll_ctl",
    "lseek", "preadv2", "pwritev2", "io_uring_enter", "timerfd_settime", "sendto", "sendmsg",
    "clock_gettime", "sched_yield", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
    "tgkill", "exit",
};

/* Their callers take "there is no such call" for an answer and go another way. */
static const char *const absent_calls[] = { "statx", "mremap", "set_robust_list" };

/* Groups that -sandbox can allow. */
static const char *const obsolete_calls[] = { "uselib", "ustat", "sysfs", "_sysctl", "query_module", "get_kernel_syms",
                                              "create_module" };
static const char *const privilege_calls[] = { "setuid", "setgid", "setgroups", "setreuid", "setregid", "setresuid", "setresgid",
                                               "setfsuid", "setfsgid" };
static const char *const resource_calls[] = { "setpriority", "sched_setparam", "sched_setscheduler", "sched_setaffinity",
                                              "sched_setattr", "sched_getattr", "sched_getaffinity", "ioprio_set", "setrlimit",
                                              "prlimit64", "set_mempolicy", "mbind" };

enum { MACHINE_CALLS_MAX = 60, VCPU_CALLS_MAX = 30 };
G_STATIC_ASSERT(G_N_ELEMENTS(machine_calls) <= MACHINE_CALLS_MAX);
G_STATIC_ASSERT(G_N_ELEMENTS(vcpu_calls) <= VCPU_CALLS_MAX);

/* --- a call that is in no list --- */

/* A signal handler has nothing else to reach them by. */
static SeccompApi api;
static _Atomic uint64_t told[8]; /* a bit a call, 512 of them */
static struct {
    struct utsname host;
    struct sysinfo memory;
    pid_t process, group;
} known; /* from before the filter */

static long result_of(long rc)
{
    return rc < 0 ? -errno : rc;
}

/* sendmmsg() by sendmsg(): how many went, or the error of the first. */
static long send_each(int fd, struct mmsghdr *messages, unsigned count, unsigned flags)
{
    for (unsigned n = 0; n < count; n++) {
        ssize_t sent = sendmsg(fd, &messages[n].msg_hdr, (int)flags);
        if (sent < 0) {
            return n ? n : -errno;
        }
        messages[n].msg_len = (unsigned)sent;
    }
    return count;
}

/* access() by stat(): whether it is there. Who may not use it finds out when he does. */
static long look_up(const char *path)
{
    struct stat st;
    return result_of(syscall(SYS_newfstatat, AT_FDCWD, path, &st, 0));
}

/* A sleep is a wait that nobody ends; one that a signal cut off starts over. */
static long sleep_until(clockid_t clock, long flags, const struct timespec *when, struct timespec *ret_left)
{
    uint32_t word = 0;
    int op = flags & TIMER_ABSTIME ? FUTEX_WAIT_BITSET | (clock == CLOCK_REALTIME ? FUTEX_CLOCK_REALTIME : 0) : FUTEX_WAIT;
    long rc = result_of(syscall(SYS_futex, &word, op | FUTEX_PRIVATE_FLAG, 0, when, NULL, FUTEX_BITSET_MATCH_ANY));

    if (rc == -EINTR && ret_left && !(flags & TIMER_ABSTIME)) {
        *ret_left = *when;
    }
    return rc == -ETIMEDOUT ? 0 : rc;
}

static long random_bytes(void *buf, size_t length)
{
    long fd = result_of(syscall(SYS_openat, AT_FDCWD, "/dev/urandom", O_RDONLY | O_CLOEXEC));
    if (fd < 0) {
        return -ENOSYS;
    }
    long got = result_of(syscall(SYS_read, fd, buf, length));
    syscall(SYS_close, fd);
    return got;
}

/* "PROCESS/task/THREAD" is where the kernel has the calling thread. */
static long thread_number(void)
{
    char text[64];
    ssize_t length = syscall(SYS_readlink, "/proc/thread-self", text, sizeof(text) - 1);
    long number = 0;

    for (ssize_t n = 0; n < length; n++) {
        number = text[n] == '/' ? 0 : g_ascii_isdigit(text[n]) ? 10 * number + (text[n] - '0') : number;
    }
    return length < 0 ? -errno : number;
}

/*
 * Calls of libraries, and rare ones of ours, that another of the list does as well or whose answer is known. True: *ret_result
 * is what the kernel would have given. Runs in a signal handler.
 */
static bool stands_in(int number, const greg_t *regs, long *ret_result)
{
    const long a = regs[REG_RDI], b = regs[REG_RSI], c = regs[REG_RDX], d = regs[REG_R10];
    struct iovec one = { .iov_base = (void *)b, .iov_len = (size_t)c };

    switch (number) {
    case SYS_pread64:
        *ret_result = result_of(syscall(SYS_preadv2, a, &one, 1, d, 0, 0));
        return true;
    case SYS_pwrite64:
        *ret_result = result_of(syscall(SYS_pwritev2, a, &one, 1, d, 0, 0));
        return true;
    case SYS_clock_nanosleep:
        *ret_result = sleep_until((clockid_t)a, b, (const struct timespec *)c, (struct timespec *)d);
        return true;
    case SYS_getrandom:
        *ret_result = random_bytes((void *)a, (size_t)b);
        return true;
    case SYS_gettid:
        *ret_result = thread_number();
        return true;
    case SYS_accept:
        *ret_result = result_of(syscall(SYS_accept4, a, b, c, 0));
        return true;
    case SYS_sendmmsg:
        *ret_result = send_each((int)a, (struct mmsghdr *)b, (unsigned)c, (unsigned)d);
        return true;
    case SYS_kill: /* a program that was started before: its first thread */
        *ret_result = a > 0 ? result_of(syscall(SYS_tgkill, a, a, b)) : -EPERM;
        return true;
    case SYS_access:
        *ret_result = look_up((const char *)a);
        return true;
    case SYS_uname:
        memcpy((void *)a, &known.host, sizeof(known.host));
        *ret_result = 0;
        return true;
    case SYS_sysinfo:
        memcpy((void *)a, &known.memory, sizeof(known.memory));
        *ret_result = 0;
        return true;
    case SYS_getpid:
        *ret_result = known.process;
        return true;
    case SYS_getpgrp:
        *ret_result = known.group;
        return true;
    default:
        return false;
    }
}

static void tell(int number)
{
    unsigned bit = (unsigned)number % 512;
    char line[160];

    if (atomic_fetch_or(&told[bit / 64], 1ull << (bit % 64)) >> (bit % 64) & 1) {
        return;
    }
    char *name = api.seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number);
    int length = snprintf(line, sizeof(line), "%s: the system call filter refused %s (%d) in %s; see -sandbox\n", g_get_prgname(),
                          name ? name : "a call", number, vcpu_self() ? "the thread of a CPU" : "a thread of the machine");
    free(name);
    ssize_t done = write(STDERR_FILENO, line, (size_t)MIN(length, (int)sizeof(line) - 1));
    (void)done;
}

static void refused(int signo, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    int saved = errno;
    long result = -EPERM;

    if (!stands_in(info->si_syscall, uc->uc_mcontext.gregs, &result)) {
        tell(info->si_syscall);
    }
    errno = saved;
    uc->uc_mcontext.gregs[REG_RAX] = result; /* what the call returns */
}

/* --- loading --- */

static void answer(scmp_filter_ctx filter, uint32_t action, const char *const *names, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        int number = api.seccomp_syscall_resolve_name(names[n]);
        if (number != __NR_SCMP_ERROR) { /* one that the library does not know, the kernel may not have either */
            api.seccomp_rule_add_array(filter, action, number, 0, NULL);
        }
    }
}

#define ALLOW(filter, names) answer(filter, SCMP_ACT_ALLOW, names, G_N_ELEMENTS(names))
#define ABSENT(filter, names) answer(filter, SCMP_ACT_ERRNO(ENOSYS), names, G_N_ELEMENTS(names))

static MUST_USE Error *load(scmp_filter_ctx filter, bool all_threads)
{
    int rc = all_threads ? api.seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1) : 0;
    rc = rc ? rc : api.seccomp_load(filter);
    api.seccomp_release(filter);
    return rc ? error_new_errno(-rc, "cannot set up the system call filter") : NULL;
}

static void vcpu_filter_now(Vcpu *vcpu, void *opaque)
{
    sandbox_enter_vcpu(vcpu);
}

Error *sandbox_enter(Machine *machine, const SandboxOptions *options)
{
    struct sigaction action = { .sa_sigaction = refused, .sa_flags = SA_SIGINFO | SA_NODEFER };

    TRY(library_open(&seccomp_library, &api));
    uname(&known.host);
    sysinfo(&known.memory);
    known.process = getpid();
    known.group = getpgrp();
    sigaction(SIGSYS, &action, NULL);
    scmp_filter_ctx filter = api.seccomp_init(SCMP_ACT_TRAP);
    if (!filter) {
        return error_new("cannot set up the system call filter");
    }
    ALLOW(filter, machine_calls);
    ABSENT(filter, absent_calls);
    if (options->obsolete) {
        ALLOW(filter, obsolete_calls);
    }
    if (options->elevate_privileges) {
        ALLOW(filter, privilege_calls);
    }
    if (options->resource_control) {
        ALLOW(filter, resource_calls);
    }
    TRY(load(filter, true));
    machine->sandboxed = true;
    for (guint n = 0; n < machine->vcpus->len; n++) {
        Vcpu *vcpu = g_ptr_array_index(machine->vcpus, n);
        if (vcpu->created) {
            vcpu_run_sync(vcpu, vcpu_filter_now, NULL);
        }
    }
    return NULL;
}

void sandbox_enter_vcpu(Vcpu *vcpu)
{
    if (!vcpu->machine->sandboxed || vcpu->sandboxed) {
        return;
    }
    vcpu->sandboxed = true; /* a second filter could not be loaded: that is among the refused calls */
    scmp_filter_ctx filter = api.seccomp_init(SCMP_ACT_TRAP);
    if (!filter) {
        return;
    }
    ALLOW(filter, vcpu_calls);
    ABSENT(filter, absent_calls);
    Error *err = load(filter, false);
    if (err) {
        error_report(err);
    }
}
