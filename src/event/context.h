/* Switching between stacks. Folder-private. */
#ifndef OSTRICH_EVENT_CONTEXT_H
#define OSTRICH_EVENT_CONTEXT_H

#include "base/base.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

typedef struct Context {
#if defined(__x86_64__)
    void *sp;
#else
    ucontext_t uc;
#endif
    /* For the sanitizers, which must know where the stack is. */
    void *fiber;
    void *fake_stack;
    const void *stack_bottom;
    size_t stack_size;
} Context;

typedef void ContextFn(void *opaque);

/* Makes a context that runs fn(opaque) on the stack; fn must never return. */
void context_make(Context *context, void *stack, size_t size, ContextFn *fn, void *opaque);
/* Leaves `from` and continues `to`. */
void context_switch(Context *from, Context *to);
/* First thing inside a fresh context. `from` is who switched to it. */
void context_entered(Context *from);
/* Last switch of a context that will not be continued. */
NORETURN void context_leave(Context *from, Context *to);
void context_fini(Context *context);

#endif
