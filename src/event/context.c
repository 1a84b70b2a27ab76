/*
 * Stack switching: by hand for x86-64 (the registers that a call preserves), with ucontext
 * elsewhere. The address and thread sanitizers are told of every switch.
 */
#include "event/context.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

static void sanitizer_leave(Context *from, Context *to, bool for_good)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? NULL : &from->fake_stack, to->stack_bottom,
                                   to->stack_size);
#endif
#if defined(__SANITIZE_THREAD__)
    if (!from->fiber) {
        from->fiber = __tsan_get_current_fiber();
    }
    __tsan_switch_to_fiber(to->fiber, 0);
#endif
}

/* `self` continues; `from` is who was left, and its stack's place is learnt here. */
static void sanitizer_arrive(Context *self, Context *from)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self ? self->fake_stack : NULL,
                                    from ? &from->stack_bottom : NULL,
                                    from ? &from->stack_size : NULL);
#endif
}

static void sanitizer_make(Context *context, void *stack, size_t size)
{
    context->stack_bottom = stack;
    context->stack_size = size;
    context->fake_stack = NULL;
    context->fiber = NULL;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack, size);
#endif
#if defined(__SANITIZE_THREAD__)
    context->fiber = __tsan_create_fiber(0);
#endif
}

void context_fini(Context *context)
{
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(context->fiber);
#endif
}

#if defined(__x86_64__)

/* context_jump(&from_sp, to_sp): the call-preserved registers go to the old stack, then the stack
 * changes. */
void context_jump(void **from_sp, void *to_sp);
void context_start(void);
__asm__(".text\n"
        ".p2align 4\n"
        ".globl context_jump\n"
        ".hidden context_jump\n"
        ".type context_jump, @function\n"
        "context_jump:\n"
        ".cfi_startproc\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".cfi_endproc\n"
        ".size context_jump, . - context_jump\n"
        /* The bottom frame: fn in rbx, its argument in r12; no return address above it. */
        ".p2align 4\n"
        ".globl context_start\n"
        ".hidden context_start\n"
        ".type context_start, @function\n"
        "context_start:\n"
        ".cfi_startproc\n"
        ".cfi_undefined rip\n"
        "    movq %r12, %rdi\n"
        "    xorl %ebp, %ebp\n"
        "    callq *%rbx\n"
        "    ud2\n"
        ".cfi_endproc\n"
        ".size context_start, . - context_start\n");

void context_make(Context *context, void *stack, size_t size, ContextFn *fn, void *opaque)
{
    sanitizer_make(context, stack, size);
    void **sp = (void **)((char *)stack + size);
    *--sp = NULL;
    *--sp = NULL;
    *--sp = (void *)context_start;
    *--sp = NULL;       /* rbp */
    *--sp = (void *)fn; /* rbx */
    *--sp = opaque;     /* r12 */
    *--sp = NULL;       /* r13 */
    *--sp = NULL;       /* r14 */
    *--sp = NULL;       /* r15 */
    context->sp = sp;
}

static void jump(Context *from, Context *to)
{
    context_jump(&from->sp, to->sp);
}

#else

static void start(unsigned fn_low, unsigned fn_high, unsigned arg_low, unsigned arg_high)
{
    ContextFn *fn = (ContextFn *)(uintptr_t)((uint64_t)fn_high << 32 | fn_low);
    fn((void *)(uintptr_t)((uint64_t)arg_high << 32 | arg_low));
}

void context_make(Context *context, void *stack, size_t size, ContextFn *fn, void *opaque)
{
    uint64_t f = (uintptr_t)fn, a = (uintptr_t)opaque;

    sanitizer_make(context, stack, size);
    getcontext(&context->uc);
    context->uc.uc_stack.ss_sp = stack;
    context->uc.uc_stack.ss_size = size;
    context->uc.uc_link = NULL;
    makecontext(&context->uc, (void (*)(void))start, 4, (unsigned)f, (unsigned)(f >> 32),
                (unsigned)a, (unsigned)(a >> 32));
}

static void jump(Context *from, Context *to)
{
    swapcontext(&from->uc, &to->uc);
}

#endif

void context_switch(Context *from, Context *to)
{
    sanitizer_leave(from, to, false);
    jump(from, to);
    sanitizer_arrive(from, NULL);
}

void context_entered(Context *from)
{
    sanitizer_arrive(NULL, from);
}

void context_leave(Context *from, Context *to)
{
    sanitizer_leave(from, to, true);
    jump(from, to);
    __builtin_unreachable();
}
