/* The system call filter; see sandbox.h. */
#include "core/vm/sandbox.h"

#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
    "read", "write", "close", "newfstatat", "statx", "lseek", "openat", "fcntl", "ioctl", "pipe2", "dup3", /* descriptors */
    "pread64", "pwrite64", "preadv2", "pwritev2", "fdatasync", "ftruncate", "fallocate",         /* images */
    "io_uring_enter", "unlink", "readlink", "uname", "getdents64",
    "mmap", "mprotect", "munmap", "mremap", "madvise", "brk", "memfd_create", "mbind", "sysinfo", /* memory */
    "poll", "epoll_pwait2", "epoll_ctl", "epoll_create1", "timerfd_create", "timerfd_settime",   /* the loops */
    "eventfd2",
    "clock_gettime", "clock_nanosleep", "sched_yield",
    "futex", "clone3", "set_robust_list", "rseq", "gettid", "getpid", "exit", "exit_group", "wait4", "kill", /* threads; programs that were started before */
    "prctl", "seccomp", "tgkill", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "getpgrp",
    "socket", "connect", "bind", "listen", "accept", "accept4", "sendto", "recvfrom",     /* sockets */
    "sendmsg", "recvmsg", "shutdown", "getsockname", "getpeername", "setsockopt", "getsockopt",
    "sendmmsg", "getrandom", "access",
};

/* Guest code, and devices as far as they answer at once: serial lines, the user network, the first step of a disk request. */
static const char *const vcpu_calls[] = {
    "futex", "mmap", "mprotect", "munmap", "mremap", "madvise", "brk",
    "read", "write", "close", "openat", "newfstatat", "fcntl", "ioctl", "epoll_ctl",
    "lseek", "pread64", "preadv2", "pwritev2", "io_uring_enter", "timerfd_settime",
    "socket", "connect", "bind", "shutdown", "setsockopt", "sendto", "sendmsg", "recvfrom",
    "clock_gettime", "clock_nanosleep", "sched_yield", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
    "tgkill", "exit", "getrandom",
};

/* Groups that -sandbox can allow. */
static const char *const obsolete_calls[] = { "uselib", "ustat", "sysfs", "_sysctl", "query_module", "get_kernel_syms",
                                              "create_module" };
static const char *const privilege_calls[] = { "setuid", "setgid", "setgroups", "setreuid", "setregid", "setresuid", "setresgid",
                                               "setfsuid", "setfsgid" };
static const char *const resource_calls[] = { "setpriority", "sched_setparam", "sched_setscheduler", "sched_setaffinity",
                                              "sched_setattr", "sched_getattr", "sched_getaffinity", "ioprio_set", "setrlimit",
                                              "prlimit64", "set_mempolicy" };

enum { MACHINE_CALLS_MAX = 77, VCPU_CALLS_MAX = 38 };
G_STATIC_ASSERT(G_N_ELEMENTS(machine_calls) <= MACHINE_CALLS_MAX);
G_STATIC_ASSERT(G_N_ELEMENTS(vcpu_calls) <= VCPU_CALLS_MAX);

/* --- a call that is in no list --- */

/* A signal handler has nothing else to reach them by. */
static SeccompApi api;
static _Atomic uint64_t told[8]; /* a bit a call, 512 of them */

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

    tell(info->si_syscall);
    errno = saved;
    uc->uc_mcontext.gregs[REG_RAX] = -EPERM; /* what the call returns */
}

/* --- loading --- */

static void allow(scmp_filter_ctx filter, const char *const *names, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        int number = api.seccomp_syscall_resolve_name(names[n]);
        if (number != __NR_SCMP_ERROR) { /* one that the library does not know, the kernel may not have either */
            api.seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number, 0, NULL);
        }
    }
}

#define ALLOW(filter, names) allow(filter, names, G_N_ELEMENTS(names))

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
    sigaction(SIGSYS, &action, NULL);
    scmp_filter_ctx filter = api.seccomp_init(SCMP_ACT_TRAP);
    if (!filter) {
        return error_new("cannot set up the system call filter");
    }
    ALLOW(filter, machine_calls);
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
    Error *err = load(filter, false);
    if (err) {
        error_report(err);
    }
}
