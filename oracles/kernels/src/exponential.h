// exp in float32 without branches, so that a loop over it becomes vector code. At most 2 ulp off down to the smallest normal number.
#pragma once

#include <cstdint>
#include <cstring>

static inline float bits_to_float(int32_t i) {
    float f;
    memcpy(&f, &i, 4);
    return f;
}

static inline int32_t float_to_bits(float f) {
    int32_t i;
    memcpy(&i, &f, 4);
    return i;
}

static inline float exponential(float x) {
    x = x < -104.0f ? -104.0f : x;  // NaN passes both comparisons
    x = x > 89.0f ? 89.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f;  // the integer is now in the low bits
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts: n times the first is exact
    float p = 1.98910799e-4f;
    p = p * r + 1.39337312e-3f;
    p = p * r + 8.33331048e-3f;
    p = p * r + 4.16664630e-2f;
    p = p * r + 1.66666672e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    // In two factors, for results below the smallest normal number and the step to infinity.
    const int32_t k = float_to_bits(shifted) - float_to_bits(12582912.0f), half = k >> 1;
    return p * bits_to_float((half + 127) << 23) * bits_to_float((k - half + 127) << 23);
}
