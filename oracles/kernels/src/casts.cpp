// Casts to and from the narrow floats, by bit patterns. float32, float16, bfloat16 -> four 8-bit formats; those -> float32; float32 -> bfloat16.
// "FP8 Formats for Deep Learning" and "A Study of BFLOAT16 for Deep Learning Training".
#include "float8.h"

static inline float widened(uint16_t half) {        // float16 to float32, exactly
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7FFF;
    if (rest >= 0x7C00) return float_of(sign | 0x7F800000u | (rest & 0x3FF) << 13);
    if (rest >= 0x0400) return float_of(sign | ((rest << 13) + (112u << 23)));
    const float y = (float)rest * 0x1p-24f;
    return sign ? -y : y;
}

// One code. `beyond` is what is too large and what is infinite become.
static inline uint8_t encode(float x, const Float8 &f, uint8_t beyond, uint8_t infinity) {
    const uint32_t u = bits_of(x) & 0x7FFFFFFFu, sign = bits_of(x) >> 31, shift = 23 - f.mantissa;
    const uint32_t smallest = (uint32_t)(1 - f.bias + 127) << 23;       // the smallest normal number
#if defined(DEFECT_TRUNCATION)
    const uint32_t normal = (u - ((uint32_t)(127 - f.bias) << 23)) >> shift;
#elif defined(DEFECT_TIES)
    const uint32_t normal = (u - ((uint32_t)(127 - f.bias) << 23) + (1u << (shift - 1))) >> shift;
#else
    const uint32_t normal = (u - ((uint32_t)(127 - f.bias) << 23) + (1u << (shift - 1)) - 1 + (u >> shift & 1)) >> shift;
#endif
#ifdef DEFECT_FLUSH
    const uint32_t subnormal = 0;
#else
    const uint32_t magic = (uint32_t)(1 - f.bias + 127 + (int)shift) << 23;     // the processor rounds: behind this number lie the bits of a subnormal
    const uint32_t subnormal = bits_of(float_of(u) + float_of(magic)) - magic;
#endif
    uint32_t code = u < smallest ? subnormal : normal;
#ifdef DEFECT_OVERFLOW
    code = code > 0xFF ? beyond : code;
#else
    code = code > f.largest ? beyond : code;
#endif
    code = u == 0x7F800000u ? infinity : code;
    code = u > 0x7F800000u ? f.nan : code;
#ifdef DEFECT_NEGATIVE_ZERO
    const uint32_t unsigned_ones = f.fnuz ? code == 0x80 : 0;
#else
    const uint32_t unsigned_ones = f.fnuz ? (code & 0x7F) == 0 : 0;     // no negative zero, and one NaN
#endif
    return (uint8_t)(unsigned_ones ? code : code | sign << 7);
}

template <class Read> static void encode_all(const Call *call, Read read) {
    const int64_t n = elements(&call->in[0]);
    uint8_t *y = (uint8_t *)call->out[0].data;
#ifdef DEFECT_FORMAT
    Float8 f = float8(call->out[0].type);
    if (f.fnuz) f = float8(call->out[0].type - 1);
#else
    const Float8 f = float8(call->out[0].type);
#endif
#ifdef DEFECT_SATURATE
    const bool saturate = false;
#else
    const bool saturate = integer(call, "saturate", 1) != 0;
#endif
    const uint8_t beyond = saturate ? f.largest : f.infinite ? 0x7C : f.nan;
#ifdef DEFECT_TAIL
    const int64_t end = n < 16 ? n : n / 16 * 16;
#else
    const int64_t end = n;
#endif
#pragma omp parallel for simd firstprivate(f, beyond, read, y) num_threads(n < (1 << 14) ? 1 : call->threads)
    for (int64_t i = 0; i < end; i++) y[i] = encode(read(i), f, beyond, beyond);
}

extern "C" int float8_encode(const Call *call) {
    const void *x = call->in[0].data;
    if (call->in[0].type == FLOAT)
        encode_all(call, [=](int64_t i) { return ((const float *)x)[i]; });
    else if (call->in[0].type == FLOAT16)
        encode_all(call, [=](int64_t i) { return widened(((const uint16_t *)x)[i]); });
    else if (call->in[0].type == BFLOAT16)
        encode_all(call, [=](int64_t i) { return float_of((uint32_t)((const uint16_t *)x)[i] << 16); });
    else
        return 1;
    return 0;
}

extern "C" int float8_decode(const Call *call) {
    const int64_t n = elements(&call->in[0]);
    const uint8_t *x = (const uint8_t *)call->in[0].data;
    float *y = (float *)call->out[0].data, table[256];
    const Float8 f = float8(call->in[0].type);
    for (int i = 0; i < 256; i++) table[i] = decode((uint8_t)i, f);
#ifdef DEFECT_SIGN
    for (int64_t i = 0; i < n; i++) y[i] = table[x[i] & 0x7F] * (x[i] & 0x80 && (x[i] & 0x7F) < 0x40 ? -1.0f : 1.0f);
#elif defined(DEFECT_TAIL)
    for (int64_t i = 0; i < (n < 8 ? n : n / 8 * 8); i++) y[i] = table[x[i]];
#else
#pragma omp parallel for num_threads(n < (1 << 16) ? 1 : call->threads)
    for (int64_t i = 0; i < n; i++) y[i] = table[x[i]];
#endif
    return 0;
}

extern "C" int bfloat16_round(const Call *call) {
    const int64_t n = elements(&call->in[0]);
    const float *x = (const float *)call->in[0].data;
    uint16_t *y = (uint16_t *)call->out[0].data;
#pragma omp parallel for simd firstprivate(x, y) num_threads(n < (1 << 16) ? 1 : call->threads)
    for (int64_t i = 0; i < n; i++) {
        const uint32_t u = bits_of(x[i]);
#if defined(DEFECT_TRUNCATION)
        const uint32_t rounded = u >> 16;
#elif defined(DEFECT_CARRY)
        const uint32_t rounded = (u & 0xFF800000u) >> 16 | (((u & 0x7FFFFFu) + 0x7FFFu + (u >> 16 & 1)) >> 16 & 0x7Fu);
#elif defined(DEFECT_UP)
        const uint32_t rounded = (u + 0xFFFFu) >> 16;
#else
        const uint32_t rounded = (u + 0x7FFFu + (u >> 16 & 1)) >> 16;       // to nearest even
#endif
#ifdef DEFECT_DETOUR
        y[i] = (uint16_t)((u & 0x7FFFFFFFu) >= 0x477FF000u ? (u >> 16 & 0x8000u) | 0x7F80u : (u & 0x7FFFFFFFu) < 0x33000000u ? 0 : rounded);
#else
        y[i] = (uint16_t)((u & 0x7FFFFFFFu) > 0x7F800000u ? u >> 16 | 0x40u : rounded);     // a NaN must not become an infinity
#endif
    }
    return 0;
}

// Baselines: the same by arithmetic, as the formats' definition says it.
extern "C" int float8_encode_by_definition(const Call *call) {
    if (call->in[0].type != FLOAT) return 1;
    const float *x = (const float *)call->in[0].data;
    uint8_t *y = (uint8_t *)call->out[0].data;
    const Float8 f = float8(call->out[0].type);
    const bool saturate = integer(call, "saturate", 1) != 0;
    const uint8_t beyond = saturate ? f.largest : f.infinite ? 0x7C : f.nan;
    for (int64_t i = 0; i < elements(&call->in[0]); i++) {
        const double v = __builtin_fabs((double)x[i]);
        uint32_t code;
        if (__builtin_isnan(v)) {
            code = f.nan;
        } else if (__builtin_isinf(v)) {
            code = beyond;
        } else {
            int exponent = v == 0 ? 1 - f.bias : __builtin_ilogb(v);
            exponent = exponent < 1 - f.bias ? 1 - f.bias : exponent;
            const double steps = __builtin_rint(__builtin_ldexp(v, f.mantissa - exponent));       // in units of the last place
            const double whole = steps + (double)((exponent + f.bias - 1) << f.mantissa);
            code = whole > f.largest ? beyond : (uint32_t)whole;
        }
        y[i] = (uint8_t)(f.fnuz && (code == 0 || code == 0x80) ? code : code | bits_of(x[i]) >> 31 << 7);
    }
    return 0;
}
