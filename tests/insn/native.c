/*
 * The host side: a child process in which the processor itself runs the sequences.
 *
 * The child maps the code and data windows at their fixed addresses, loads all registers and jumps. A
 * sequence ends with a jump to fuzz_native_exit, or in a signal whose frame holds the state. Cases and
 * results are in memory shared with the parent. The child may make no system calls but read, write,
 * exit and sigreturn, as a sequence may contain anything.
 */
#include "insn_fuzz.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <asm/prctl.h>
#include <ucontext.h>
#include <unistd.h>

typedef struct Shared {
    volatile unsigned count, current; /* cases of the batch; the one under way */
    FuzzCase cases[FUZZ_BATCH];
    FuzzResult results[FUZZ_BATCH];
    uint8_t templates[FUZZ_TEMPLATES][FUZZ_DATA_SIZE];
} Shared;

struct FuzzNative {
    Shared *shared;
    int code_fd;
    uint8_t *code; /* writable view */
    int to_child, from_child;
    uint8_t *stack; /* the child's */
    pid_t pid;
};

/* --- entering and leaving; the registers' homes are reached rip-relatively --- */
FuzzState fuzz_native_state;
uint64_t fuzz_native_host[8];     /* rsp and callee-saved registers */
struct { uint32_t offset; uint16_t selector; } __attribute__((packed)) fuzz_native_far;
void fuzz_native_enter(bool code32);
void fuzz_native_exit(void);
NORETURN void fuzz_native_back(void);

_Static_assert(offsetof(FuzzState, gpr) == 832 && offsetof(FuzzState, rip) == 960, "used below");
__asm__(".text\n"
        ".globl fuzz_native_enter, fuzz_native_exit, fuzz_native_back\n"
        "fuzz_native_enter:\n"
        "  mov %rsp, fuzz_native_host(%rip)\n"
        "  mov %rbx, fuzz_native_host+8(%rip)\n"
        "  mov %rbp, fuzz_native_host+16(%rip)\n"
        "  mov %r12, fuzz_native_host+24(%rip)\n"
        "  mov %r13, fuzz_native_host+32(%rip)\n"
        "  mov %r14, fuzz_native_host+40(%rip)\n"
        "  mov %r15, fuzz_native_host+48(%rip)\n"
        "  mov $7, %eax\n"
        "  xor %edx, %edx\n"
        "  xrstor64 fuzz_native_state(%rip)\n"
        "  test %edi, %edi\n"
        "  push fuzz_native_state+968(%rip)\n"
        "  mov fuzz_native_state+832(%rip), %rax\n"
        "  mov fuzz_native_state+840(%rip), %rcx\n"
        "  mov fuzz_native_state+848(%rip), %rdx\n"
        "  mov fuzz_native_state+856(%rip), %rbx\n"
        "  mov fuzz_native_state+872(%rip), %rbp\n"
        "  mov fuzz_native_state+880(%rip), %rsi\n"
        "  mov fuzz_native_state+888(%rip), %rdi\n"
        "  mov fuzz_native_state+896(%rip), %r8\n"
        "  mov fuzz_native_state+904(%rip), %r9\n"
        "  mov fuzz_native_state+912(%rip), %r10\n"
        "  mov fuzz_native_state+920(%rip), %r11\n"
        "  mov fuzz_native_state+928(%rip), %r12\n"
        "  mov fuzz_native_state+936(%rip), %r13\n"
        "  mov fuzz_native_state+944(%rip), %r14\n"
        "  mov fuzz_native_state+952(%rip), %r15\n"
        "  jnz 1f\n"
        "  popfq\n"
        "  mov fuzz_native_state+864(%rip), %rsp\n"
        "  jmp *fuzz_native_state+960(%rip)\n"
        "1: popfq\n"
        "  mov fuzz_native_state+864(%rip), %rsp\n"
        "  ljmp *fuzz_native_far(%rip)\n"
        "fuzz_native_exit:\n"
        "  mov %rax, fuzz_native_state+832(%rip)\n"
        "  mov %rcx, fuzz_native_state+840(%rip)\n"
        "  mov %rdx, fuzz_native_state+848(%rip)\n"
        "  mov %rbx, fuzz_native_state+856(%rip)\n"
        "  mov %rsp, fuzz_native_state+864(%rip)\n"
        "  mov %rbp, fuzz_native_state+872(%rip)\n"
        "  mov %rsi, fuzz_native_state+880(%rip)\n"
        "  mov %rdi, fuzz_native_state+888(%rip)\n"
        "  mov %r8, fuzz_native_state+896(%rip)\n"
        "  mov %r9, fuzz_native_state+904(%rip)\n"
        "  mov %r10, fuzz_native_state+912(%rip)\n"
        "  mov %r11, fuzz_native_state+920(%rip)\n"
        "  mov %r12, fuzz_native_state+928(%rip)\n"
        "  mov %r13, fuzz_native_state+936(%rip)\n"
        "  mov %r14, fuzz_native_state+944(%rip)\n"
        "  mov %r15, fuzz_native_state+952(%rip)\n"
        "  mov fuzz_native_host(%rip), %rsp\n"
        "  pushfq\n"
        "  pop fuzz_native_state+968(%rip)\n"
        "  pushq $2\n"
        "  popfq\n"
        "  mov $7, %eax\n"
        "  xor %edx, %edx\n"
        "  xsave64 fuzz_native_state(%rip)\n"
        "fuzz_native_back:\n"
        "  mov fuzz_native_host(%rip), %rsp\n"
        "  pushq $2\n"
        "  popfq\n"
        "  cld\n"
        "  fninit\n"
        "  vzeroupper\n"
        "  movl $0x1f80, -8(%rsp)\n"
        "  ldmxcsr -8(%rsp)\n"
        "  mov fuzz_native_host+8(%rip), %rbx\n"
        "  mov fuzz_native_host+16(%rip), %rbp\n"
        "  mov fuzz_native_host+24(%rip), %r12\n"
        "  mov fuzz_native_host+32(%rip), %r13\n"
        "  mov fuzz_native_host+40(%rip), %r14\n"
        "  mov fuzz_native_host+48(%rip), %r15\n"
        "  ret\n");

/* --- the child --- */
static volatile bool child_running;
static volatile unsigned child_ticks;

static void child_signal(int number, siginfo_t *info, void *context)
{
    __asm__ volatile("pushfq; andl $0xfffbffff, (%%rsp); popfq" ::: "memory", "cc"); /* AC off */
    ucontext_t *uc = context;
    FuzzState *s = &fuzz_native_state;
    static const int order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
    if (number == SIGPROF && (!child_running || ++child_ticks < 2)) {
        return;
    }
    if (!child_running) {
        _exit(9);
    }
    for (unsigned i = 0; i < 16; i++) {
        s->gpr[i] = (uint64_t)uc->uc_mcontext.gregs[order[i]];
    }
    s->rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    s->rflags = (uint64_t)uc->uc_mcontext.gregs[REG_EFL];
    s->vector = number == SIGPROF ? FUZZ_HANG : number == SIGSYS ? FUZZ_CRASH : (uint32_t)uc->uc_mcontext.gregs[REG_TRAPNO];
    s->error = (uint32_t)uc->uc_mcontext.gregs[REG_ERR];
    s->cr2 = s->vector == EXC_PF ? (uint64_t)uc->uc_mcontext.gregs[REG_CR2] : 0;
    memcpy(s->xsave, uc->uc_mcontext.fpregs, FUZZ_XSAVE);
    child_running = false;
    fuzz_native_back();
}

static void child_diff(const uint8_t *template, FuzzResult *result)
{
    uint8_t *data = (uint8_t *)FUZZ_DATA;
    unsigned n = 0;
    for (unsigned line = 0; line < FUZZ_LINES; line++) {
        unsigned at = line * FUZZ_LINE;
        if (memcmp(data + at, template + at, FUZZ_LINE) != 0) {
            result->line[n].line = (uint16_t)line;
            memcpy(result->line[n++].bytes, data + at, FUZZ_LINE);
            memcpy(data + at, template + at, FUZZ_LINE);
        }
    }
    result->lines = n;
}

static void child_case(Shared *shared, unsigned slot, int *template)
{
    const FuzzCase *c = &shared->cases[slot];
    FuzzResult *result = &shared->results[slot];
    const uint8_t *initial = shared->templates[c->template];
    if (*template != c->template) {
        memcpy((void *)FUZZ_DATA, initial, FUZZ_DATA_SIZE);
        *template = c->template;
    }
    memcpy(&fuzz_native_state, &c->in, sizeof(FuzzState));
    fuzz_native_state.vector = FUZZ_END;
    fuzz_native_state.rip = FUZZ_CODE + slot * FUZZ_SLOT;
    fuzz_native_far.offset = (uint32_t)fuzz_native_state.rip;
    fuzz_native_far.selector = 0x23;
    child_ticks = 0;
    child_running = true;
    fuzz_native_enter(c->code32);
    child_running = false;
    memcpy(&result->out, &fuzz_native_state, sizeof(FuzzState));
    if (result->out.vector == FUZZ_END) {
        result->out.rip = FUZZ_CODE + slot * FUZZ_SLOT + c->length;
    }
    child_diff(initial, result);
}

static void map_at(uint64_t address, size_t size, int prot, int fd)
{
    int flags = MAP_FIXED_NOREPLACE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
    if (mmap((void *)address, size, prot, flags, fd, 0) != (void *)address) {
        perror("mmap of a window");
        _exit(8);
    }
}

void fuzz_exit_code(uint8_t code[16])
{
    uint64_t to = (uintptr_t)fuzz_native_exit;
    memcpy(code, "\xff\x25\2\0\0\0\0\0", 8); /* jmp [rip + 2]: aligned, as AC may be set */
    memcpy(code + 8, &to, 8);
}

static void child_map(FuzzNative *native)
{
    map_at(FUZZ_CODE, FUZZ_BATCH * FUZZ_SLOT, PROT_READ | PROT_EXEC, native->code_fd);
    map_at(FUZZ_DATA, FUZZ_DATA_SIZE, PROT_READ | PROT_WRITE, -1);
    map_at(FUZZ_RO, FUZZ_RO_SIZE, PROT_READ | PROT_WRITE, -1);
    gen_readonly((uint8_t *)FUZZ_RO);
    mprotect((void *)FUZZ_RO, FUZZ_RO_SIZE, PROT_READ);
    map_at(FUZZ_EXIT32, 4096, PROT_READ | PROT_WRITE, -1);
    uint8_t *exit32 = (uint8_t *)FUZZ_EXIT32;
    fuzz_exit_code(exit32);
    mprotect(exit32, 4096, PROT_READ | PROT_EXEC);
}

static void child_confine(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog prog = { ARRAY_SIZE(filter), filter };
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0) {
        perror("seccomp");
        _exit(8);
    }
}

/*
 * What the kernel puts below the end of user space goes, the first stack included: operands reach there, by a scaled
 * index from the canonical boundary for one, and in the guest nothing is mapped. Everything else of ours lies below it,
 * out of reach. The loop ends when the list has no more such line: unmapping changes the list.
 */
static void child_unmap_top(void)
{
    char line[512];
    bool again = true;
    for (unsigned round = 0; again && round < 16; round++) {
        FILE *maps = fopen("/proc/self/maps", "re");
        if (maps == NULL) {
            perror("/proc/self/maps");
            _exit(8);
        }
        again = false;
        while (!again && fgets(line, sizeof(line), maps) != NULL) {
            unsigned long start, end;
            bool kernels = strstr(line, "[stack]") || strstr(line, "[vdso]") || strstr(line, "[vvar");
            again = kernels && sscanf(line, "%lx-%lx", &start, &end) == 2 && munmap((void *)start, end - start) == 0;
        }
        fclose(maps);
    }
}

typedef struct ChildArgs {
    FuzzNative *native;
    int in[2], out[2];
} ChildArgs;

static NORETURN void child_main(FuzzNative *native, int in, int out)
{
    static uint8_t alt[256 * 1024];
    static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGPROF, SIGSYS };
    stack_t ss = { .ss_sp = alt, .ss_size = sizeof(alt) };
    sigaltstack(&ss, NULL);
    struct sigaction sa = { .sa_sigaction = child_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++) {
        sigaction(signals[i], &sa, NULL);
    }
    child_unmap_top();
    child_map(native);
    syscall(SYS_arch_prctl, ARCH_SET_GS, FUZZ_GS_BASE);
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(0x2b)); /* for 32-bit code */
    struct itimerval tick = { { 0, 100000 }, { 0, 100000 } };
    setitimer(ITIMER_PROF, &tick, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    child_confine();
    int template = -1;
    char byte;
    for (;;) {
        ssize_t got = read(in, &byte, 1);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got != 1) {
            _exit(0);
        }
        Shared *shared = native->shared;
        for (unsigned i = 0; i < shared->count; i++) {
            shared->current = i;
            child_case(shared, i, &template);
        }
        while (write(out, &byte, 1) < 0 && errno == EINTR) {
        }
    }
}

static int child_entry(void *opaque)
{
    const ChildArgs *args = opaque;
    close(args->in[1]);
    close(args->out[0]);
    child_main(args->native, args->in[0], args->out[1]);
}

/* --- the parent --- */
enum { CHILD_STACK = 1 << 20 };

static void child_start(FuzzNative *native)
{
    int to[2], from[2];
    if (pipe(to) != 0 || pipe(from) != 0) {
        perror("pipe");
        exit(2);
    }
    static ChildArgs args; /* not on the stack, which the child gives up */
    args = (ChildArgs){ native, { to[0], to[1] }, { from[0], from[1] } };
    native->pid = clone(child_entry, native->stack + CHILD_STACK, SIGCHLD, &args);
    if (native->pid < 0) {
        perror("clone");
        exit(2);
    }
    close(to[0]);
    close(from[1]);
    native->to_child = to[1];
    native->from_child = from[0];
}

static void child_stop(FuzzNative *native)
{
    close(native->to_child);
    close(native->from_child);
    waitpid(native->pid, NULL, 0);
}

FuzzNative *native_new(void)
{
    FuzzNative *native = g_new0(FuzzNative, 1);
    native->shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    native->code_fd = memfd_create("fuzz-code", MFD_CLOEXEC);
    size_t size = FUZZ_BATCH * FUZZ_SLOT;
    if (native->shared == MAP_FAILED || native->code_fd < 0 || ftruncate(native->code_fd, size) != 0) {
        perror("memory for the native side");
        exit(2);
    }
    native->stack = mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (native->stack == MAP_FAILED) {
        perror("the child's stack");
        exit(2);
    }
    native->code = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, native->code_fd, 0);
    for (unsigned i = 0; i < FUZZ_TEMPLATES; i++) {
        gen_template(i, native->shared->templates[i]);
    }
    signal(SIGPIPE, SIG_IGN);
    child_start(native);
    return native;
}

void native_free(FuzzNative *native)
{
    child_stop(native);
    munmap(native->shared, sizeof(Shared));
    munmap(native->stack, CHILD_STACK);
    munmap(native->code, FUZZ_BATCH * FUZZ_SLOT);
    close(native->code_fd);
    g_free(native);
}

uint64_t fuzz_exit_address(bool code32)
{
    return code32 ? FUZZ_EXIT32 : (uintptr_t)fuzz_native_exit;
}

bool native_run(FuzzNative *native, const FuzzCase *cases, unsigned count, const FuzzResult **ret_results,
                unsigned *ret_died)
{
    Shared *shared = native->shared;
    memcpy(shared->cases, cases, count * sizeof(FuzzCase));
    for (unsigned i = 0; i < count; i++) {
        memcpy(native->code + i * FUZZ_SLOT, cases[i].code, cases[i].total);
    }
    shared->count = count;
    char byte = 0;
    ssize_t got = write(native->to_child, &byte, 1);
    do {
        got = read(native->from_child, &byte, 1);
    } while (got < 0 && errno == EINTR);
    *ret_results = shared->results;
    if (got == 1) {
        return true;
    }
    *ret_died = shared->current;
    child_stop(native);
    child_start(native);
    return false;
}
