// Small things that kernels over float32 tensors share: operands that may be left out, whole-number arithmetic.
#pragma once

#include "kernel.h"

/* Input i, or NULL when it is left out. */
static inline float *floats(const Call *call, int i) { return i < call->n_in ? (float *)call->in[i].data : 0; }

static inline int text_is(const Call *call, const char *name, const char *wanted) {
    const Attribute *a = attribute(call, name);
    return a && a->text && a->n == (int64_t)strlen(wanted) && !strncmp(a->text, wanted, (size_t)a->n);
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Floor and ceiling of a quotient; b is positive. */
static inline int64_t down(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
static inline int64_t up(int64_t a, int64_t b) { return -down(-a, b); }
