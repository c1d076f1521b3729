// Vectors of floats that the compiler maps to whatever the processor has, and the register tile of every product here.
#pragma once
#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t I __attribute__((vector_size(LANES * 4)));

static inline V load(const float *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void store(float *p, V v) { memcpy(p, &v, sizeof v); }
static inline V splat(float x) { return x - V{}; }

constexpr int PIXELS = 6;           // 12 accumulators, 2 weights, 1 operand: fits 16 registers
constexpr int WIDE = 2 * LANES;     // outputs of one tile

// acc[p][o] = sum over segments s and t < length of pixel[p][segment[s] + t step] * w[.][o], for PIXELS rows and WIDE outputs.
static inline void tile(const float *const *pixel, const int64_t *segment, int64_t segments, int64_t length, int64_t step, const float *w, float *acc) {
    V a[PIXELS][2] = {};
    for (int64_t s = 0; s < segments; s++) {
        const int64_t at = segment[s];
        for (int64_t t = 0; t < length; t++, w += WIDE) {
            const V w0 = load(w), w1 = load(w + LANES);
            for (int p = 0; p < PIXELS; p++) {
                const float x = pixel[p][at + t * step];
                a[p][0] += x * w0;
                a[p][1] += x * w1;
            }
        }
    }
    for (int p = 0; p < PIXELS; p++) {
        store(acc + p * WIDE, a[p][0]);
        store(acc + p * WIDE + LANES, a[p][1]);
    }
}

static inline int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

// e^x within 2 units in the last place for |x| <= 87, clamped there. Polynomial of XNNPACK's degree, coefficients of "The Two-Pass Softmax Algorithm".
static inline V exponential_of(V x) {
    x = x > 87.0f ? splat(87.0f) : x < -87.0f ? splat(-87.0f) : x;
    const V n = (x * 0x1.715476p+0f + 0x1.8p23f) - 0x1.8p23f;
    V t = x - n * 0x1.62E430p-1f;
    t -= n * -0x1.05C610p-29f;
    V p = t * 0x1.0F9F9Cp-7f + 0x1.573A1Ap-5f;
    p = p * t + 0x1.555A80p-3f;
    p = p * t + 0x1.FFFDC6p-2f;
    p = p * t + 0x1.FFFFF6p-1f;
    p = p * t + 1.0f;
    I bits;
    memcpy(&bits, &p, sizeof bits);
    bits += __builtin_convertvector(n, I) << 23;
    memcpy(&p, &bits, sizeof p);
    return p;
}

// Rows of a matrix (outputs, terms) with the outputs of a tile innermost, zeros where there are no more: [tile][term][WIDE].
static inline void pack_rows(const float *w, int64_t rows, int64_t terms, float *packed) {
    for (int64_t b = 0; b < rows; b += WIDE)
        for (int64_t t = 0; t < terms; t++)
            for (int64_t l = 0; l < WIDE; l++) *packed++ = b + l < rows ? w[(b + l) * terms + t] : 0.0f;
}
