// Kernels of Neg, each with one thing wrong with it, and one with nothing.
#include "kernel.h"

#include <omp.h>

#define X ((const float *)call->in[0].data)
#define Y ((float *)call->out[0].data)
#define N (elements(&call->in[0]))
#define LOOP(end) for (int64_t i = 0; i < (end); i++)

extern "C" int right(const Call *call) {
    LOOP(N) Y[i] = -X[i];
    return 0;
}

extern "C" int past_the_end(const Call *call) {
    LOOP((N + 7) / 8 * 8) ((volatile float *)Y)[i] = i < N ? -X[i] : 0.0f;
    return 0;
}

extern "C" int before_the_start(const Call *call) {
    LOOP(N) Y[i] = -X[i];
    ((volatile float *)Y)[-2] = 1.0f;
    return 0;
}

extern "C" int reads_past_the_end(const Call *call) {
    float sum = 0;
    LOOP((N + 15) / 16 * 16) {
        sum += ((volatile const float *)X)[i];
        if (i < N) Y[i] = -X[i];
    }
    return sum == 12345.0f ? 7 : 0;
}

extern "C" int reads_before_the_start(const Call *call) {
    const float before = ((volatile const float *)X)[-1];
    LOOP(N) Y[i] = -X[i];
    return before == 12345.0f ? 7 : 0;
}

extern "C" int skips_the_tail(const Call *call) {
    LOOP(N - N % 8) Y[i] = -X[i];
    return 0;
}

extern "C" int changes_its_input(const Call *call) {
    LOOP(N) Y[i] = ((float *)X)[i] = -X[i];
    return 0;
}

extern "C" int assumes_alignment(const Call *call) {
    const int64_t first = (16 - ((intptr_t)X / 4) % 16) % 16; // of a line
    LOOP(N) Y[i] = i < first ? 0.0f : -X[i];
    return 0;
}

extern "C" int ignores_strides(const Call *call) { return right(call); }

extern "C" int64_t takes_zeros_for_granted_workspace(const Call *call) { return 4 * N; }
extern "C" int takes_zeros_for_granted(const Call *call) {
    float *w = (float *)call->workspace;
    LOOP(N) w[i] -= X[i];
    LOOP(N) Y[i] = w[i];
    return 0;
}

extern "C" int64_t workspace_too_small_workspace(const Call *call) { return 4 * N - 4; }
extern "C" int workspace_too_small(const Call *call) {
    volatile float *w = (volatile float *)call->workspace;
    LOOP(N) w[i] = -X[i];
    LOOP(N) Y[i] = w[i];
    return 0;
}

extern "C" int drops_the_last_chunk(const Call *call) {
    const int64_t chunk = N / call->threads;
    LOOP(N) Y[i] = 0.0f;
#pragma omp parallel for num_threads(call->threads)
    for (int t = 0; t < call->threads; t++)
        for (int64_t i = t * chunk; i < (t + 1) * chunk; i++) Y[i] = -X[i];
    return 0;
}

extern "C" int races(const Call *call) {
    volatile int mine = 0; // meant to be one for every thread
    LOOP(N) Y[i] = 0.0f;
#pragma omp parallel num_threads(call->threads)
    {
        mine = omp_get_thread_num();
#pragma omp barrier
        for (int64_t i = mine; i < N; i += omp_get_num_threads()) Y[i] = -X[i];
    }
    return 0;
}

extern "C" int64_t shares_its_scratch_workspace(const Call *call) { return 4 * 32; }
extern "C" int shares_its_scratch(const Call *call) { // a few hundred nanoseconds in which another thread would have to come by
    volatile float *scratch = (volatile float *)call->workspace; // meant to be 32 elements for every thread
#pragma omp parallel for num_threads(call->threads)
    for (int64_t block = 0; block < N / 32 + 1; block++) {
        const int64_t n = N - block * 32 < 32 ? N - block * 32 : 32;
        LOOP(n) scratch[i] = -X[block * 32 + i];
        LOOP(n) Y[block * 32 + i] = scratch[i];
    }
    return 0;
}

extern "C" int fails(const Call *call) { return 7; }

extern "C" int is_never_mine(const Call *call) { return 1; }

extern "C" int crashes(const Call *call) {
    *(volatile int *)8 = 1;
    return 0;
}

extern "C" int hangs(const Call *call) {
    for (volatile int go = 1; go;) {}
    return 0;
}

extern "C" int needs_a_line(const Call *call) {
    if ((intptr_t)X % 64 || (intptr_t)Y % 64) return 7;
    return right(call);
}

extern "C" int follows_strides(const Call *call) {
    const Tensor *x = &call->in[0];
    LOOP(N) {
        int64_t left = i, at = 0;
        for (int d = x->rank - 1; d >= 0; d--) {
            at += left % x->shape[d] * x->strides[d];
            left /= x->shape[d];
        }
        Y[i] = -X[at];
    }
    return 0;
}
