// Convolutions whose products are integers: in dynamic fixed point, and of signs.
//
// "Mixed Precision Training of Convolutional Neural Networks using Integer Operations": a tensor is int16 with one exponent,
// e = floor(log2 max |x|) in -40..40, i = clip(round(x 2^-(e - P + 2))). Pairs of products go to int32 in chains so short that no sum can
// overflow (2^(31 - 2 (P - 1)) terms), and the chains to float32.
//
// "XNOR-Net" (and "Binarized Neural Architecture Search"): y = mean |w| * conv(sign x, sign w), the signs 64 to a word, a product being
// an exclusive or and a population count. The sign of 0 is +1; what lies outside of the image counts nothing.
#include "kernel.h"
#include <algorithm>
#include <cmath>
#include <vector>

struct Shape {
    const float *x, *w;
    float *y;
    int64_t n, c, h, width, o, kh, kw, oh, ow, stride, pad, group, cg, og;
    explicit Shape(const Call *call) {
        const Tensor &tx = call->in[0], &tw = call->in[1], &ty = call->out[0];
        x = (const float *)tx.data, w = (const float *)tw.data, y = (float *)ty.data;
        n = tx.shape[0], c = tx.shape[1], h = tx.shape[2], width = tx.shape[3], o = tw.shape[0], kh = tw.shape[2], kw = tw.shape[3];
        oh = ty.shape[2], ow = ty.shape[3], stride = integer(call, "stride", 1), pad = integer(call, "pad", 0);
        group = integer(call, "group", 1), cg = c / group, og = o / group;
    }
    bool inside(int64_t row, int64_t column) const {
#ifdef DEFECT_BOUNDS
        return row >= 0 && row < h && column >= 0 && column <= width && row * width + column < h * width;
#else
        return row >= 0 && row < h && column >= 0 && column < width;
#endif
    }
    int threads(const Call *call) const { return n * o * oh * ow * cg * kh * kw < (1 << 15) ? 1 : call->threads; }
};

// Dynamic fixed point ---------------------------------------------------------------------------------------------------
// Exponent of the unit of the last place; 0 for a tensor of zeros.
static int unit(const float *p, int64_t n, int bits) {
    float top = 0;
    for (int64_t i = 0; i < n; i++) top = std::max(top, std::fabs(p[i]));
    if (top == 0) return 0;
    const float clamped = std::max(0x1p-40f, std::min(top, 0x1p40f));
#ifdef DEFECT_EXPONENT
    return (int)std::ceil(std::log2(clamped)) - (bits - 2);      // a power of two gets one bit less room than it needs
#else
    return std::ilogb(clamped) - (bits - 2);
#endif
}

static int16_t quantised(float v, int exponent, int bits) {
    const float limit = (float)((1 << (bits - 1)) - 1), scaled = std::ldexp(v, -exponent);
#if defined(DEFECT_ROUNDING)
    return (int16_t)std::max(-limit, std::min(std::trunc(scaled), limit));
#elif defined(DEFECT_CLIP)
    return (int16_t)((int32_t)((uint32_t)(int32_t)std::nearbyint(scaled) << (32 - bits)) >> (32 - bits));        // two's complement of so many bits
#else
    return (int16_t)std::max(-limit, std::min(std::nearbyint(scaled), limit));
#endif
}

constexpr int64_t TILE = 16;        // outputs whose pairs lie side by side

extern "C" int fixed_point_convolution(const Call *call) {
    const Shape s(call);
    if (s.n * s.o * s.oh * s.ow == 0) return 0;
    const int bits = (int)integer(call, "bits", 16);
    const int64_t terms = s.cg * s.kh * s.kw, pairs = (terms + 1) / 2, tiles = (s.og + TILE - 1) / TILE;
#ifdef DEFECT_OVERFLOW
    const int64_t chain = pairs;
#else
    const int64_t chain = std::max<int64_t>(1, ((int64_t)1 << (31 - 2 * (bits - 1))) / 2);      // pairs
#endif
    const int ex = unit(s.x, s.n * s.c * s.h * s.width, bits), ew = unit(s.w, s.o * terms, bits);
    std::vector<int16_t> weights((size_t)(s.group * tiles * pairs * TILE * 2), 0), image((size_t)(s.n * s.c * s.h * s.width));
    for (int64_t i = 0; i < (int64_t)image.size(); i++) image[i] = quantised(s.x[i], ex, bits);
    for (int64_t o = 0; o < s.o; o++)
        for (int64_t t = 0; t < terms; t++) {
            const int64_t g = o / s.og, tile = o % s.og / TILE, lane = o % s.og % TILE;
            weights[(((g * tiles + tile) * pairs + t / 2) * TILE + lane) * 2 + t % 2] = quantised(s.w[o * terms + t], ew, bits);
        }
    const float scale = std::ldexp(1.0f, ex + ew);
#pragma omp parallel num_threads(s.threads(call))
    {
        std::vector<int16_t> window((size_t)(2 * pairs), 0);
#pragma omp for schedule(static)
        for (int64_t k = 0; k < s.n * s.group * s.oh * s.ow; k++) {
            const int64_t at = k % (s.oh * s.ow), g = k / (s.oh * s.ow) % s.group, n = k / (s.oh * s.ow) / s.group;
            int64_t t = 0;
            for (int64_t c = 0; c < s.cg; c++)
                for (int64_t u = 0; u < s.kh; u++)
                    for (int64_t v = 0; v < s.kw; v++, t++) {
                        const int64_t row = at / s.ow * s.stride + u - s.pad, column = at % s.ow * s.stride + v - s.pad;
                        window[t] = s.inside(row, column) ? image[((n * s.c + g * s.cg + c) * s.h + row) * s.width + column] : 0;
                    }
            for (int64_t tile = 0; tile < tiles; tile++) {
                const int16_t *w = weights.data() + (g * tiles + tile) * pairs * TILE * 2;
                float sum[TILE] = {};
#ifdef DEFECT_ODD
                const int64_t end = terms / 2;
#else
                const int64_t end = pairs;
#endif
                for (int64_t first = 0; first < end; first += chain) {
                    int32_t part[TILE] = {};
                    for (int64_t p = first; p < std::min(first + chain, end); p++)
                        for (int64_t l = 0; l < TILE; l++) {
                            const int16_t *pair = w + (p * TILE + l) * 2;
                            const int32_t one = window[2 * p] * pair[0], two = window[2 * p + 1] * pair[1];
                            part[l] = (int32_t)((uint32_t)part[l] + (uint32_t)one + (uint32_t)two);
                        }
                    for (int64_t l = 0; l < TILE; l++) sum[l] += (float)part[l];
                }
                float *y = s.y + (n * s.o + g * s.og + tile * TILE) * s.oh * s.ow + at;
                for (int64_t l = 0; l < std::min(TILE, s.og - tile * TILE); l++) y[l * s.oh * s.ow] = sum[l] * scale;
            }
        }
    }
    return 0;
}

// Signs -----------------------------------------------------------------------------------------------------------------
extern "C" int binary_convolution(const Call *call) {
    const Shape s(call);
    if (s.n * s.o * s.oh * s.ow == 0) return 0;
    const int64_t words = (s.cg + 63) / 64, taps = s.kh * s.kw;
    uint64_t *image = (uint64_t *)call->workspace, *filters = image + s.n * s.group * s.h * s.width * words;
    float *alpha = (float *)(filters + s.o * taps * words);
#ifdef DEFECT_ZERO_SIGN
    const auto positive = [](float v) { return (uint64_t)(v > 0); };
#elif defined(DEFECT_SIGN_BIT)
    const auto positive = [](float v) { return (uint64_t)!std::signbit(v); };       // -0 is negative for the bit, not for the sign
#else
    const auto positive = [](float v) { return (uint64_t)(v >= 0); };
#endif
    for (int64_t i = 0; i < s.n * s.group * s.h * s.width; i++) {
        const int64_t at = i % (s.h * s.width), g = i / (s.h * s.width);
        for (int64_t q = 0; q < words; q++) {
            uint64_t word = 0;
            for (int64_t c = q * 64; c < std::min(s.cg, q * 64 + 64); c++) word |= positive(s.x[(g * s.cg + c) * s.h * s.width + at]) << (c % 64);
            image[i * words + q] = word;
        }
    }
    for (int64_t o = 0; o < s.o; o++) {
        float sum = 0;
        for (int64_t i = 0; i < s.cg * taps; i++) sum += std::fabs(s.w[o * s.cg * taps + i]);
#ifdef DEFECT_MEAN
        alpha[o] = sum / (float)(words * 64 * taps);
#else
        alpha[o] = sum / (float)(s.cg * taps);
#endif
        for (int64_t t = 0; t < taps; t++)
            for (int64_t q = 0; q < words; q++) {
                uint64_t word = 0;
                for (int64_t c = q * 64; c < std::min(s.cg, q * 64 + 64); c++) word |= positive(s.w[(o * s.cg + c) * taps + t]) << (c % 64);
                filters[(o * taps + t) * words + q] = word;
            }
    }
#pragma omp parallel for num_threads(s.threads(call))
    for (int64_t k = 0; k < s.n * s.o * s.oh; k++) {
        const int64_t m = k % s.oh, o = k / s.oh % s.o, n = k / s.oh / s.o, g = o / s.og;
        for (int64_t j = 0; j < s.ow; j++) {
            int64_t differ = 0, counted = 0;
            for (int64_t u = 0; u < s.kh; u++)
                for (int64_t v = 0; v < s.kw; v++) {
                    const int64_t row = m * s.stride + u - s.pad, column = j * s.stride + v - s.pad;
                    if (!s.inside(row, column)) continue;
                    counted += s.cg;
                    const uint64_t *a = image + (((n * s.group + g) * s.h + row) * s.width + column) * words;
                    const uint64_t *b = filters + ((o * s.kh + u) * s.kw + v) * words;
                    for (int64_t q = 0; q < words; q++) differ += __builtin_popcountll(a[q] ^ b[q]);
                }
#ifdef DEFECT_PADDING
            counted = s.cg * taps;
#endif
            s.y[k * s.ow + j] = alpha[o] * (float)(counted - 2 * differ);
        }
    }
    return 0;
}

extern "C" int64_t binary_convolution_workspace(const Call *call) {
    const Shape s(call);
    return (s.n * s.group * s.h * s.width + s.o * s.kh * s.kw) * ((s.cg + 63) / 64) * 8 + s.o * (int64_t)sizeof(float) + 8;
}

// Baselines: the numbers themselves, in floats, seven loops.
static int plain(const Call *call, const Shape &s, const std::vector<float> &x, const std::vector<float> &w) {
#pragma omp parallel for num_threads(s.threads(call))
    for (int64_t k = 0; k < s.n * s.o * s.oh; k++) {
        const int64_t m = k % s.oh, o = k / s.oh % s.o, n = k / s.oh / s.o;
        for (int64_t j = 0; j < s.ow; j++) {
            float sum = 0;
            for (int64_t c = 0; c < s.cg; c++)
                for (int64_t u = 0; u < s.kh; u++)
                    for (int64_t v = 0; v < s.kw; v++) {
                        const int64_t row = m * s.stride + u - s.pad, column = j * s.stride + v - s.pad;
                        if (row < 0 || row >= s.h || column < 0 || column >= s.width) continue;
                        sum += x[((n * s.c + o / s.og * s.cg + c) * s.h + row) * s.width + column] * w[((o * s.cg + c) * s.kh + u) * s.kw + v];
                    }
            s.y[k * s.ow + j] = sum;
        }
    }
    return 0;
}

template <class F> static std::vector<float> each(const float *p, int64_t n, F f) {
    std::vector<float> y((size_t)n);
    for (int64_t i = 0; i < n; i++) y[i] = f(p[i]);
    return y;
}

extern "C" int simulated_fixed_point_convolution(const Call *call) {
    const Shape s(call);
    const int bits = (int)integer(call, "bits", 16);
    const int64_t n = s.n * s.c * s.h * s.width, terms = s.o * s.cg * s.kh * s.kw;
    const int ex = unit(s.x, n, bits), ew = unit(s.w, terms, bits);
    return plain(call, s, each(s.x, n, [=](float v) { return std::ldexp((float)quantised(v, ex, bits), ex); }),
                 each(s.w, terms, [=](float v) { return std::ldexp((float)quantised(v, ew, bits), ew); }));
}

extern "C" int simulated_binary_convolution(const Call *call) {
    const Shape s(call);
    const int64_t terms = s.cg * s.kh * s.kw;
    const auto sign = [](float v) { return v >= 0 ? 1.0f : -1.0f; };
    plain(call, s, each(s.x, s.n * s.c * s.h * s.width, sign), each(s.w, s.o * terms, sign));
    for (int64_t n = 0; n < s.n; n++)
        for (int64_t o = 0; o < s.o; o++) {
            float sum = 0;
            for (int64_t i = 0; i < terms; i++) sum += std::fabs(s.w[o * terms + i]);
            for (int64_t i = 0; i < s.oh * s.ow; i++) s.y[(n * s.o + o) * s.oh * s.ow + i] *= sum / (float)terms;
        }
    return 0;
}
