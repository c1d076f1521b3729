// Scaled product of 8-bit floats: "FP8 Formats for Deep Learning". The codes are decoded by table, products summed in float32, the sums
// scaled: y[m][n] = scale_a * scale_b[n] * sum over k of a[m][k] b[k][n]. a (M, K), b (K, N), each in any of the four formats.
#include "float8.h"
#include "lanes.h"
#include <algorithm>

struct Operands {
    const uint8_t *a, *b;
    const float *scale_a, *scale_b;
    float *y, from_a[256], from_b[256];
    int64_t m, n, k;
    explicit Operands(const Call *call) {
        const Tensor *in = call->in;
        a = (const uint8_t *)in[0].data, b = (const uint8_t *)in[1].data, scale_a = (const float *)in[2].data, scale_b = (const float *)in[3].data;
        y = (float *)call->out[0].data, m = in[0].shape[0], k = in[0].shape[1], n = in[1].shape[1];
#ifdef DEFECT_FORMAT
        const Float8 fa = float8(in[0].type), fb = fa;
#else
        const Float8 fa = float8(in[0].type), fb = float8(in[1].type);
#endif
        for (int i = 0; i < 256; i++) from_a[i] = decode((uint8_t)i, fa), from_b[i] = decode((uint8_t)i, fb);
    }
    int threads(const Call *call) const { return m * n * k < (1 << 15) ? 1 : call->threads; }
};

static inline float narrow(float v) {       // to bfloat16, for a planted defect
    return float_of((bits_of(v) + 0x7FFFu + (bits_of(v) >> 16 & 1)) & 0xFFFF0000u);
}

extern "C" int float8_matmul(const Call *call) {
    const Operands p(call);
    float *a = (float *)call->workspace, *b = a + p.m * p.k;        // b as tiles of outputs: [tile][k][WIDE]
    const int64_t tiles = (p.n + WIDE - 1) / WIDE;
#ifdef DEFECT_TAIL
    const int64_t terms = p.k > 8 ? p.k / 8 * 8 : p.k;
#else
    const int64_t terms = p.k;
#endif
    for (int64_t i = 0; i < p.m * p.k; i++) a[i] = p.from_a[p.a[i]];
#pragma omp parallel for num_threads(p.threads(call))
    for (int64_t t = 0; t < tiles; t++) {
        float *packed = b + t * p.k * WIDE;
        for (int64_t k = 0; k < p.k; k++)
            for (int64_t l = 0; l < WIDE; l++) packed[k * WIDE + l] = t * WIDE + l < p.n ? p.from_b[p.b[k * p.n + t * WIDE + l]] : 0.0f;
        for (int64_t i = 0; i < p.m; i += PIXELS) {
            const float *row[PIXELS];
            for (int64_t r = 0; r < PIXELS; r++) row[r] = a + std::min(i + r, p.m - 1) * p.k;
            float acc[PIXELS * WIDE];
            const int64_t zero = 0;
#ifdef DEFECT_ACCUMULATOR
            for (int64_t r = 0; r < PIXELS; r++)
                for (int64_t l = 0; l < WIDE; l++) {
                    float sum = 0;
                    for (int64_t k = 0; k < terms; k++) sum = narrow(sum + row[r][k] * packed[k * WIDE + l]);
                    acc[r * WIDE + l] = sum;
                }
            (void)zero;
#else
            tile(row, &zero, 1, terms, 1, packed, acc);
            (void)narrow;
#endif
            for (int64_t r = 0; r < std::min<int64_t>(PIXELS, p.m - i); r++)
                for (int64_t l = 0; l < std::min<int64_t>(WIDE, p.n - t * WIDE); l++) {
#ifdef DEFECT_SCALE
                    const float scale = p.scale_a[0] * p.scale_b[0];
#else
                    const float scale = p.scale_a[0] * p.scale_b[t * WIDE + l];
#endif
#ifdef DEFECT_SATURATION
                    p.y[(i + r) * p.n + t * WIDE + l] = std::max(-448.0f, std::min(acc[r * WIDE + l], 448.0f)) * scale;
#else
                    p.y[(i + r) * p.n + t * WIDE + l] = acc[r * WIDE + l] * scale;
#endif
                }
        }
    }
    return 0;
}

extern "C" int64_t float8_matmul_workspace(const Call *call) {
    const Tensor *in = call->in;
    return (in[0].shape[0] * in[0].shape[1] + in[1].shape[0] * whole(in[1].shape[1], WIDE)) * (int64_t)sizeof(float);
}

// Decoded on the way, one result after the other.
extern "C" int plain_float8_matmul(const Call *call) {
    const Operands p(call);
#pragma omp parallel for num_threads(p.threads(call))
    for (int64_t i = 0; i < p.m; i++)
        for (int64_t n = 0; n < p.n; n++) {
            float sum = 0;
            for (int64_t k = 0; k < p.k; k++) sum += p.from_a[p.a[i * p.k + k]] * p.from_b[p.b[k * p.n + n]];
            p.y[i * p.n + n] = sum * (p.scale_a[0] * p.scale_b[n]);
        }
    return 0;
}
