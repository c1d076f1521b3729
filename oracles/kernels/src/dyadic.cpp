// Requantisation with integers alone: "HAWQV3: Dyadic Neural Network Quantization". A ratio of scales is m / 2^c; a result is
// (acc m + 2^(c-1)) >> c, clipped, with the product in 64 bits: |acc| < 2^31 and 0 < m <= 2^31 leave room for the rounding term.
//
// DyadicRequantize: acc (N, C, ...) int32, m (C) int64, c (C) int64 in 1..62 -> int8 or uint8, clipped to [low, high].
// DyadicAdd: the same for two operands with one ratio each, added before the clip: a residual sum that never leaves the integers.
#include "kernel.h"
#include <algorithm>

static inline int64_t scaled(int64_t acc, int64_t m, int64_t c) {
#if defined(DEFECT_OVERFLOW)
    return (int64_t)((int32_t)((uint32_t)acc * (uint32_t)m)) >> std::min<int64_t>(c, 31);
#elif defined(DEFECT_TRUNCATION)
    return acc * m >> c;
#elif defined(DEFECT_ROUNDING)
    const int64_t product = acc * m, half = (int64_t)1 << (c - 1);      // half away from zero
    return product < 0 ? -((-product + half) >> c) : (product + half) >> c;
#elif defined(DEFECT_DIVISION)
    return (acc * m + ((int64_t)1 << (c - 1))) / ((int64_t)1 << c);
#elif defined(DEFECT_FLOAT)
    return (int64_t)__builtin_floorf((float)acc * ((float)m / (float)((int64_t)1 << c)) + 0.5f);
#else
    return (acc * m + ((int64_t)1 << (c - 1))) >> c;
#endif
}

template <class T> static inline void put(T *y, int64_t v, int64_t low, int64_t high) {
#ifdef DEFECT_CLIP
    v = (T)v;
#endif
    *y = (T)(v < low ? low : v > high ? high : v);
}

template <class T> static void requantize(const Call *call) {
    const Tensor &t = call->in[0];
    const int32_t *acc = (const int32_t *)t.data;
    T *y = (T *)call->out[0].data;
    const int64_t *m = (const int64_t *)call->in[1].data, *c = (const int64_t *)call->in[2].data;
    const int64_t channels = t.shape[1], n = elements(&t), inner = n ? n / t.shape[0] / channels : 0;
    const int64_t low = integer(call, "low", -128), high = integer(call, "high", 127);
#pragma omp parallel for num_threads(n < (1 << 14) ? 1 : call->threads)
    for (int64_t k = 0; k < (inner ? n / inner : 0); k++) {
#ifdef DEFECT_CHANNEL
        const int64_t at = 0;
#else
        const int64_t at = k % channels;
#endif
#ifdef DEFECT_TAIL
        const int64_t end = inner > 8 ? inner / 8 * 8 : inner;
#else
        const int64_t end = inner;
#endif
        const int64_t ratio = m[at], shift = c[at], least = low, most = high;
        const int32_t *from = acc + k * inner;
        T *to = y + k * inner;
#pragma omp simd
        for (int64_t i = 0; i < end; i++) put(to + i, scaled(from[i], ratio, shift), least, most);
    }
}

extern "C" int dyadic_requantize(const Call *call) {
    if (call->out[0].type == UINT8)
        requantize<uint8_t>(call);
    else
        requantize<int8_t>(call);
    return 0;
}

template <class T> static void add(const Call *call) {
    const int32_t *a = (const int32_t *)call->in[0].data, *b = (const int32_t *)call->in[1].data;
    const int64_t *m = (const int64_t *)call->in[2].data, *c = (const int64_t *)call->in[3].data;
    T *y = (T *)call->out[0].data;
    const int64_t n = elements(&call->out[0]), low = integer(call, "low", -128), high = integer(call, "high", 127);
    const int64_t ma = m[0], mb = m[1], ca = c[0], cb = c[1];
#pragma omp parallel for simd firstprivate(a, b, y, ma, mb, ca, cb, low, high) num_threads(n < (1 << 14) ? 1 : call->threads)
    for (int64_t i = 0; i < n; i++) {
#ifdef DEFECT_SHARED_SHIFT
        put(y + i, scaled(a[i], ma, ca) + scaled(b[i], mb, ca), low, high);
        (void)cb;
#elif defined(DEFECT_EARLY_CLIP)
        put(y + i, std::max(low, std::min(high, scaled(a[i], ma, ca))) + scaled(b[i], mb, cb), low, high);
#else
        put(y + i, scaled(a[i], ma, ca) + scaled(b[i], mb, cb), low, high);
#endif
    }
}

extern "C" int dyadic_add(const Call *call) {
    if (call->out[0].type == UINT8)
        add<uint8_t>(call);
    else
        add<int8_t>(call);
    return 0;
}

// Through float64, as simulated quantisation does: exact here, because |acc m| < 2^53 is asked for.
extern "C" int simulated_requantize(const Call *call) {
    const Tensor &t = call->in[0], &y = call->out[0];
    const int32_t *acc = (const int32_t *)t.data;
    const int64_t *m = (const int64_t *)call->in[1].data, *c = (const int64_t *)call->in[2].data;
    const int64_t channels = t.shape[1], n = elements(&t), inner = n ? n / t.shape[0] / channels : 0;
    const int64_t low = integer(call, "low", -128), high = integer(call, "high", 127);
    for (int64_t i = 0; i < n; i++)
        if ((acc[i] < 0 ? -(int64_t)acc[i] : acc[i]) * m[i / inner % channels] >= (int64_t)1 << 53) return 1;
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = i / inner % channels;
        const int64_t v = (int64_t)__builtin_floor((double)acc[i] * (double)m[at] / (double)((int64_t)1 << c[at]) + 0.5);
        if (y.type == UINT8)
            put((uint8_t *)y.data + i, v, low, high);
        else
            put((int8_t *)y.data + i, v, low, high);
    }
    return 0;
}
