/* Names of CPU features (features.c), and which of them can be had (model_limits.c). */
#ifndef OSTRICH_CPU_X86_FEATURES_H
#define OSTRICH_CPU_X86_FEATURES_H

#include "cpu/x86/cpu.h"

/* Any of a bit's names; letter case does not matter. */
bool x86_feature_find(const char *name, size_t length, unsigned *ret_word, unsigned *ret_bit);
/* Adds the features of a list of names separated by spaces; -name removes one. */
void x86_features_parse(const char *text, uint32_t features[X86_FEAT_WORDS]);
/*
 * Limits what a CPU was given to what can be offered, and sets the width of its addresses. What goes is told unless quiet;
 * with enforce it is an error.
 */
Error *x86_model_limit(X86Cpu *cpu, bool quiet) MUST_USE;

#endif
