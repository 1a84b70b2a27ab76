/*
 * The few macros that every file may use: sizes, alignment, containers, compile-time checks.
 */
#ifndef OSTRICH_BASE_BASE_H
#define OSTRICH_BASE_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

#define ARRAY_SIZE(a)      (sizeof(a) / sizeof((a)[0]))
#define BIT(n)             (1u << (n))
#define BIT64(n)           (1ull << (n))
/* Bits lo..hi inclusive. */
#define BITS64(hi, lo)     ((~0ull >> (63 - (hi))) & (~0ull << (lo)))
#define ALIGN_DOWN(x, a)   ((x) & ~((__typeof__(x))(a)-1))
#define ALIGN_UP(x, a)     ALIGN_DOWN((x) + (__typeof__(x))(a)-1, a)
#define IS_ALIGNED(x, a)   (((x) & ((__typeof__(x))(a)-1)) == 0)
#define IS_POW2(x)         ((x) != 0 && ((x) & ((x)-1)) == 0)
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define likely(x)          __builtin_expect(!!(x), 1)
#define unlikely(x)        __builtin_expect(!!(x), 0)
#define MUST_USE           __attribute__((warn_unused_result))
#define PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#define NORETURN           __attribute__((noreturn))
#define THREAD_LOCAL       _Thread_local

#define KiB ((uint64_t)1024)
#define MiB (1024 * KiB)
#define GiB (1024 * MiB)

#define NS_PER_SEC 1000000000ll
#define NS_PER_MS  1000000ll
#define NS_PER_US  1000ll

/*
 * Constant descriptors (device types, drivers, options, commands) register by placing a pointer in a
 * linker section. SECTION_FOREACH walks the pointers; their order is the linker's, so whoever shows
 * them sorts by name.
 */
#define SECTION_ENTRY(sect, type, ptr)                                                             \
    static const type *const SECTION_NAME_(section_entry_, __COUNTER__)                            \
        __attribute__((used, retain, section(#sect))) = (ptr)
#define SECTION_NAME_(a, b) G_PASTE(a, b)
#define SECTION_DECLARE(sect, type)                                                                \
    extern const type *const __start_##sect[] __attribute__((weak));                               \
    extern const type *const __stop_##sect[] __attribute__((weak))
#define SECTION_FOREACH(sect, type, it)                                                            \
    for (const type *const *it = __start_##sect; it < __stop_##sect; it++)

#endif
