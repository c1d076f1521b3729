// The four 8-bit float formats, by integers: round to nearest even, subnormals kept.
// "FP8 Formats for Deep Learning"; FNUZ has no negative zero, no infinity, and its only NaN where negative zero would be.
#pragma once
#include "kernel.h"

struct Float8 {
    int mantissa, bias;
    bool fnuz, infinite;    // infinite: IEEE's specials (E5M2); the others keep only NaN
    uint8_t largest, nan;
};

static inline Float8 float8(int32_t type) {
    switch (type) {
    case FLOAT8E4M3FN: return {3, 7, false, false, 0x7E, 0x7F};
    case FLOAT8E4M3FNUZ: return {3, 8, true, false, 0x7F, 0x80};
    case FLOAT8E5M2: return {2, 15, false, true, 0x7B, 0x7F};
    default: return {2, 16, true, false, 0x7F, 0x80};
    }
}

static inline uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float decode(uint8_t code, const Float8 &f) {
    if (f.fnuz ? code == 0x80 : (code & 0x7F) > f.largest + (f.infinite ? 1 : 0)) return float_of(0x7FC00000u);
    if (f.infinite && (code & 0x7F) == 0x7C) return float_of(code & 0x80 ? 0xFF800000u : 0x7F800000u);
    const int exponent = (code & 0x7F) >> f.mantissa, fraction = code & ((1 << f.mantissa) - 1);
    float y;
    if (exponent)
        y = float_of((uint32_t)(exponent - f.bias + 127) << 23 | (uint32_t)fraction << (23 - f.mantissa));
    else
#ifdef DEFECT_SUBNORMAL
        y = 0.0f;
#else
        y = (float)fraction * float_of((uint32_t)(1 - f.bias - f.mantissa + 127) << 23);
#endif
    return code & 0x80 ? -y : y;
}
