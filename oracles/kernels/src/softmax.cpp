// Softmax in two passes over memory, with the algorithms it competes with.
// "The Two-Pass Softmax Algorithm" (Dukhan, Ablavatski). e^x is kept as a pair (m, n) with e^x = m 2^n, so that the sum can neither
// overflow nor needs the maximum first. Range: -2.9e6 < x < 2.9e6 (below 2^22 / log2 e the rounding of x log2 e to an integer is exact);
// on a processor without fused multiply-add, where n ln 2 has to be exact by itself, 4.5e4.
#include "kernel.h"
#include "lanes.h"
#include <algorithm>
#ifdef __SSE__
#include <immintrin.h>
#endif

constexpr float LOW = -2.9e6f, NOTHING = -0x1p24f;
constexpr int64_t CHUNK = 1 << 15;      // elements of a long row that one thread takes at a time
constexpr int64_t STREAM = 1 << 22;     // rows from here on are written past the cache
constexpr int64_t AHEAD = 512;         // elements that are asked for before they are needed
constexpr int WAYS = 4;                 // independent accumulators

static inline V larger(V a, V b) { return a < b ? b : a; }      // a NaN in a stays

// 2^k for a whole k <= 0; 0 from -127 down.
static inline V power(V k) {
#ifndef DEFECT_CLAMP
    k = k < -127.0f ? splat(-127.0f) : k;
#endif
    const V biased = k + 0x1.8000FEp23f;
    I bits;
    memcpy(&bits, &biased, sizeof bits);
    bits <<= 23;
    V y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

// m 2^k for a whole k <= 0.
static inline V scaled(V m, V k) {
#if defined(__AVX512F__) && !defined(DEFECT_CLAMP)
    return (V)_mm512_scalef_ps((__m512)m, (__m512)k);
#else
    return m * power(k);
#endif
}

static inline V mantissa(V x, V n) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    V t = x - n * 0x1.62E430p-1f;
    t -= n * -0x1.05C610p-29f;
#else       // the first two parts have 8 bits each, so that products with n < 2^16 are exact
    V t = x - n * 0x1.62p-1f;
    t -= n * 0x1.C8p-10f;
    t -= n * 0x1.7F7D1Cp-20f;
#endif
#ifdef DEFECT_POLYNOMIAL
    V p = splat(0x1.555A80p-3f);
#else
    V p = t * 0x1.0F9F9Cp-7f + 0x1.573A1Ap-5f;
    p = p * t + 0x1.555A80p-3f;
#endif
    p = p * t + 0x1.FFFDC6p-2f;
    p = p * t + 0x1.FFFFF6p-1f;
    return p * t + 1.0f;
}

// (m, n) with e^x = m 2^n. Far below every other element of a row a smaller exponent changes nothing, so -inf becomes LOW.
static inline void extended(V x, V &m, V &n) {
    x = x < LOW ? splat(LOW) : x;
#ifdef DEFECT_REDUCTION
    n = (x * 0x1.715476p+0f - 0.5f + 0x1.8p23f) - 0x1.8p23f;
#else
    n = (x * 0x1.715476p+0f + 0x1.8p23f) - 0x1.8p23f;
#endif
    m = mantissa(x, n);
}

struct Sum {
    V m, n;
    void add(V m1, V n1) {
        const V top = larger(n, n1);
        m = scaled(m1, n1 - top) + scaled(m, n - top);
        n = top;
    }
};

static inline V part(const float *x, int64_t count, int64_t stride) {
    float lane[LANES];
    for (int l = 0; l < LANES; l++) lane[l] = x[(l < count ? l : 0) * stride];
    return load(lane);
}

static inline I mask(int64_t count) {
    I k;
    for (int l = 0; l < LANES; l++) k[l] = l < count ? -1 : 0;
    return k;
}

static inline V read(const float *p) {
#ifdef DEFECT_ALIGNMENT
    return *(const V *)p;
#else
    return load(p);
#endif
}

static inline void write(float *p, V v, bool stream) {
#ifdef __AVX512F__
    if (stream) return _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX__)
    if (stream) return _mm256_stream_ps(p, (__m256)v);
#endif
    store(p, v);
}

static inline void fence() {
#ifdef __SSE__
    _mm_sfence();
#endif
}

// Hardware fetches no further than a page, and arithmetic hides none of what it then waits for.
static inline void ahead(const float *p) {
    for (int l = 0; l < WAYS * LANES; l += 16) __builtin_prefetch(p + AHEAD + l);
}

static Sum joined(const Sum *sums, int count) {
    Sum s = sums[0];
    for (int i = 1; i < count; i++) s.add(sums[i].m, sums[i].n);
    return s;
}

// The sum of a vector of pairs as one pair.
static void across(const Sum &s, float &m, float &n) {
    n = s.n[0];
    for (int l = 1; l < LANES; l++) n = std::max(n, s.n[l]);
    m = 0;
    const V scale = power(s.n - n);
    for (int l = 0; l < LANES; l++) {
#ifdef DEFECT_MERGE
        m += s.m[l];
#else
        m += s.m[l] * scale[l];
#endif
    }
}

static Sum sum_pairs(const float *x, int64_t n) {
    Sum s[1] = {{V{}, splat(NOTHING)}};
    int64_t i = 0;
    for (; i + WAYS * LANES <= n; i += WAYS * LANES) {
        ahead(x + i);
        V m[WAYS], e[WAYS];
        for (int w = 0; w < WAYS; w++) extended(read(x + i + w * LANES), m[w], e[w]);
        const V top = larger(larger(larger(e[0], e[1]), larger(e[2], e[3])), s[0].n);
        V sum = scaled(s[0].m, s[0].n - top);
        for (int w = 0; w < WAYS; w++) sum += scaled(m[w], e[w] - top);
        s[0] = {sum, top};
    }
    for (; i < n; i += LANES) {
        V m, e;
        extended(part(x + i, n - i, 1), m, e);
        const I in = mask(n - i);
#ifdef DEFECT_TAIL
        if (n - i < LANES) break;
#endif
        s[0].add(in ? m : V{}, in ? e : splat(NOTHING));
    }
    return s[0];
}

// y[i] = f(x[i]) for a row; `stream` needs y aligned to a vector, so the first elements may go alone.
template <class F> static inline void map(const float *x, float *y, int64_t n, bool stream, F f) {
    int64_t i = 0;
    if (stream) {
        const int64_t head = std::min<int64_t>(n, (-(int64_t)((uintptr_t)y / 4)) & (LANES - 1));
        const V v = f(part(x, head ? head : 1, 1));
        for (; i < head; i++) y[i] = v[i];
    }
    for (; i + WAYS * LANES <= n; i += WAYS * LANES) {
        ahead(x + i);
        for (int w = 0; w < WAYS; w++) write(y + i + w * LANES, f(read(x + i + w * LANES)), stream);
    }
    for (; i < n; i += LANES) {
        const V v = f(part(x + i, n - i, 1));
        for (int64_t l = 0; l < std::min<int64_t>(LANES, n - i); l++) y[i + l] = v[l];
    }
    if (stream) fence();
}

static void write_pairs(const float *x, float *y, int64_t n, float m, float top, bool stream) {
    const float scale = 1.0f / m;
    map(x, y, n, stream, [=](V v) {
        V a, e;
        extended(v, a, e);
#ifdef DEFECT_OVERFLOW
        return a * scale * (1.0f / power(-larger(e, V{}))) * power(e < 0.0f ? e : V{}) * power(splat(-top));
#else
        return scaled(a * scale, e - top);
#endif
    });
}

// Shapes: `rows` rows of n elements that lie `inner` apart.
struct Rows {
    const float *x;
    float *y;
    int64_t outer = 1, n, inner = 1;
    Rows(const Call *c) : x((const float *)c->in[0].data), y((float *)c->out[0].data) {
        const Tensor &t = c->in[0];
        int64_t axis = -1;
        for (int i = 0; i < c->n_attrs; i++)
            if (!strcmp(c->attrs[i].name, "axis")) axis = c->attrs[i].ints[0];
        if (axis < 0) axis += t.rank;
        for (int64_t d = 0; d < axis; d++) outer *= t.shape[d];
        n = t.shape[axis];
        for (int64_t d = axis + 1; d < t.rank; d++) inner *= t.shape[d];
    }
    bool empty() const { return outer * n * inner == 0; }
};

// LANES neighbouring rows at once, for an axis that is not the last.
static void columns(const float *x, float *y, int64_t n, int64_t inner, int64_t width) {
    Sum s = {V{}, splat(NOTHING)};
#ifdef DEFECT_STRIDE
    const int64_t step = inner > LANES ? LANES : inner;
#else
    const int64_t step = inner;
#endif
    for (int64_t i = 0; i < n; i++) {
        V m, e;
        extended(part(x + i * step, width, 1), m, e);
        s.add(m, e);
    }
    const V scale = 1.0f / s.m;
    for (int64_t i = 0; i < n; i++) {
        V m, e;
        extended(part(x + i * step, width, 1), m, e);
        const V v = scaled(m * scale, e - s.n);
        for (int64_t l = 0; l < width; l++) y[i * inner + l] = v[l];
    }
}

extern "C" int two_pass_softmax(const Call *c) {
    const Rows r(c);
    if (r.empty()) return 0;
    const int threads = r.outer * r.n * r.inner < (1 << 15) ? 1 : c->threads;
    if (r.inner > 1) {
        const int64_t blocks = (r.inner + LANES - 1) / LANES;
#pragma omp parallel for num_threads(threads)
        for (int64_t k = 0; k < r.outer * blocks; k++) {
            const int64_t at = k / blocks * r.n * r.inner + k % blocks * LANES;
            columns(r.x + at, r.y + at, r.n, r.inner, std::min<int64_t>(LANES, r.inner - k % blocks * LANES));
        }
        return 0;
    }
    const bool stream = r.n >= STREAM;
    if (r.n <= CHUNK || r.outer >= 4 * threads) {
#pragma omp parallel for num_threads(threads)
        for (int64_t i = 0; i < r.outer; i++) {
            float m, top;
            across(sum_pairs(r.x + i * r.n, r.n), m, top);
            write_pairs(r.x + i * r.n, r.y + i * r.n, r.n, m, top, stream);
        }
        return 0;
    }
    const int64_t chunks = (r.n + CHUNK - 1) / CHUNK;
    Sum *sums = (Sum *)whole((int64_t)c->workspace, alignof(Sum));
    for (int64_t i = 0; i < r.outer; i++) {
        const float *x = r.x + i * r.n;
#pragma omp parallel for num_threads(threads)
        for (int64_t k = 0; k < chunks; k++) sums[k] = sum_pairs(x + k * CHUNK, std::min(CHUNK, r.n - k * CHUNK));
        float m, top;
        across(joined(sums, (int)chunks), m, top);
#pragma omp parallel for num_threads(threads)
        for (int64_t k = 0; k < chunks; k++) write_pairs(x + k * CHUNK, r.y + i * r.n + k * CHUNK, std::min(CHUNK, r.n - k * CHUNK), m, top, stream);
    }
    return 0;
}

extern "C" int64_t two_pass_softmax_workspace(const Call *c) {
    const Rows r(c);
    return (r.n / CHUNK + 1) * (int64_t)sizeof(Sum) + (int64_t)alignof(Sum);
}

#include "softmax_baselines.h"
