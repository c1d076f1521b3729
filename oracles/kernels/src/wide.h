// Sixteen floats as one value: one register with AVX-512, two with AVX2, four with SSE. Loops that the compiler does not turn into
// vector code by itself (accumulators in registers, bit tricks) are written with it.
#pragma once

#include <stdint.h>
#include <string.h>

typedef float Wide __attribute__((vector_size(64)));
typedef int32_t WideInt __attribute__((vector_size(64)));

constexpr int WIDE = 16;

static inline Wide load(const float *p) {
    Wide v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The first `count` of them; the others are 0. */
static inline Wide load(const float *p, int64_t count) {
    if (count >= WIDE) return load(p);
    Wide v = {};
    if (count > 0) memcpy(&v, p, sizeof(float) * (size_t)count);
    return v;
}

/* Every `step`th. */
static inline Wide load_every(const float *p, int64_t step) {
    Wide v;
    for (int i = 0; i < WIDE; i++) v[i] = p[i * step];
    return v;
}

static inline void store(float *p, Wide v) { memcpy(p, &v, sizeof v); }

static inline void store(float *p, Wide v, int64_t count) {
    if (count >= WIDE)
        store(p, v);
    else if (count > 0)
        memcpy(p, &v, sizeof(float) * (size_t)count);
}

static inline Wide spread(float x) { return x - Wide{}; }

static inline float sum_of(Wide v) {
    float total = 0;
    for (int i = 0; i < WIDE; i++) total += v[i];
    return total;
}

static inline float largest_of(Wide v) {
    float top = v[0];
    for (int i = 1; i < WIDE; i++) top = v[i] > top ? v[i] : top;
    return top;
}

static inline Wide larger(Wide a, Wide b) { return a > b ? a : b; }
