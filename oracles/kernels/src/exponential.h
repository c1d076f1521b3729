// exp in float32 without branches, of one number and of sixteen. At most 2 ulp off; what would be below the
// smallest normal number is 0, as such numbers cost a hundred cycles each and every masked score would be one.
#pragma once

#include "wide.h"

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

static inline Wide exponential(Wide x) {
    const WideInt gone = x < -87.33654f;
    x = gone ? spread(-87.33654f) : x;  // NaN passes both comparisons
    x = x > 89.0f ? spread(89.0f) : x;
    const Wide shifted = x * 1.44269504f + 12582912.0f;  // the integer is now in the low bits
    const Wide n = shifted - 12582912.0f;
    const Wide r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts: n times the first is exact
    Wide p = r * 1.98910799e-4f + 1.39337312e-3f;
    p = p * r + 8.33331048e-3f;
    p = p * r + 4.16664630e-2f;
    p = p * r + 1.66666672e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    // In two factors, for the step to infinity.
    const WideInt k = (WideInt)shifted - float_to_bits(12582912.0f), half = k >> 1;
    p = p * (Wide)((half + 127) << 23) * (Wide)((k - half + 127) << 23);
    return gone ? Wide{} : p;
}

static inline float exponential(float x) { return exponential(spread(x))[0]; }
