// Products of two-bit codes by table look-up: "DeepGEMM: Accelerated Ultra Low-Precision Inference on CPU Architectures using Lookup
// Tables". All 16 products of a weight and an activation lie in one vector register; an index is (weight << 2) | activation, and one
// byte shuffle looks up as many products as a vector has bytes. Sums: entries are moved to 0..255, added eight at a time, moved back.
//
// a (M, K) uint8, of which the two low bits count; w (N, ceil(K / 4)) uint8, four codes a byte, the first in the low bits; table (16) int8.
// y[m][n] = sum over k of table[4 w[n][k] + a[m][k]], int32. The codes behind K in the last byte of a row are anything.
#include "kernel.h"
#include <algorithm>
#ifdef __SSSE3__
#include <immintrin.h>
#endif

#if defined(__AVX512BW__)
typedef __m512i Bytes;
static inline Bytes fetch(const uint8_t *p) { return _mm512_loadu_si512(p); }
static inline Bytes look_up(Bytes table, Bytes index) { return _mm512_shuffle_epi8(table, index); }
static inline Bytes either(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
static inline Bytes add_eights(Bytes sum, Bytes v) { return _mm512_add_epi64(sum, _mm512_sad_epu8(v, _mm512_setzero_si512())); }
static inline int64_t total(Bytes sum) { return _mm512_reduce_add_epi64(sum); }
#elif defined(__AVX2__)
typedef __m256i Bytes;
static inline Bytes fetch(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline Bytes look_up(Bytes table, Bytes index) { return _mm256_shuffle_epi8(table, index); }
static inline Bytes either(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
static inline Bytes add_eights(Bytes sum, Bytes v) { return _mm256_add_epi64(sum, _mm256_sad_epu8(v, _mm256_setzero_si256())); }
static inline int64_t total(Bytes sum) {
    int64_t lane[4];
    _mm256_storeu_si256((__m256i *)lane, sum);
    return lane[0] + lane[1] + lane[2] + lane[3];
}
#else       // sixteen bytes, one after the other
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef uint64_t Longs __attribute__((vector_size(16)));
static inline Bytes fetch(const uint8_t *p) {
    Bytes v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline Bytes look_up(Bytes table, Bytes index) {
    Bytes found;
    for (int i = 0; i < 16; i++) found[i] = table[index[i]];
    return found;
}
static inline Bytes either(Bytes a, Bytes b) { return a | b; }
static inline Bytes add_eights(Bytes sum, Bytes v) {
    uint64_t half[2] = {0, 0};
    for (int i = 0; i < 16; i++) half[i / 8] += v[i];
    return (Bytes)((Longs)sum + Longs{half[0], half[1]});
}
static inline int64_t total(Bytes sum) { return (int64_t)(((Longs)sum)[0] + ((Longs)sum)[1]); }
#endif

constexpr int64_t STEP = sizeof(Bytes), ROWS = 4;

struct Product {
    const uint8_t *a, *w;
    const int8_t *table;
    int32_t *y;
    int64_t m, n, k, bytes, steps;
    explicit Product(const Call *call) {
        a = (const uint8_t *)call->in[0].data, w = (const uint8_t *)call->in[1].data, table = (const int8_t *)call->in[2].data;
        y = (int32_t *)call->out[0].data;
        m = call->in[0].shape[0], k = call->in[0].shape[1], n = call->in[1].shape[0], bytes = call->in[1].shape[1];
        steps = (k + STEP - 1) / STEP * STEP;
    }
    int threads(const Call *call) const { return m * n * k < (1 << 15) ? 1 : call->threads; }
};

// A row of packed codes as one byte each, moved up by two bits; zero behind the last.
static void unpack(const Product &p, const uint8_t *w, uint8_t *codes) {
#ifdef DEFECT_ORDER
    for (int64_t i = 0; i < p.k; i++) codes[i] = (uint8_t)((w[i / 4] >> (6 - 2 * (i % 4)) & 3) << 2);
#elif defined(DEFECT_SIGN)
    for (int64_t i = 0; i < p.k; i++) codes[i] = (uint8_t)(((int8_t)w[i / 4] / (1 << 2 * (i % 4)) & 3) << 2);
#else
    for (int64_t i = 0; i < p.bytes; i++) {     // four codes of a byte, each in its own (little-endian)
        const uint32_t v = w[i], four = ((v | v << 6 | v << 12 | v << 18) & 0x03030303u) << 2;
        memcpy(codes + 4 * i, &four, sizeof four);
    }
#endif
    for (int64_t i = p.k; i < p.steps; i++) codes[i] = 0;
}

extern "C" int lookup_matmul(const Call *call) {
    const Product p(call);
    uint8_t *a = (uint8_t *)call->workspace, *rows = a + p.m * p.steps;
    for (int64_t i = 0; i < p.m; i++)
        for (int64_t j = 0; j < p.steps; j++) {
#ifdef DEFECT_MASK
            a[i * p.steps + j] = j < p.k ? p.a[i * p.k + j] & 15 : 0;
#else
            a[i * p.steps + j] = j < p.k ? p.a[i * p.k + j] & 3 : 0;
#endif
        }
    uint8_t entries[STEP];
    for (int64_t i = 0; i < STEP; i++) entries[i] = (uint8_t)(p.table[i % 16] + 128);
    const Bytes table = fetch(entries);
#ifdef DEFECT_PADDING
    const int64_t offset = 128 * p.steps;
#else
    const int64_t offset = 128 * p.steps + (p.steps - p.k) * p.table[0];      // behind the last code the table's first entry is added
#endif
#pragma omp parallel for num_threads(p.threads(call))
    for (int64_t n = 0; n < p.n; n++) {
        uint8_t *w = rows + n * p.steps;
        unpack(p, p.w + n * p.bytes, w);
        for (int64_t m = 0; m < p.m; m += ROWS) {
            Bytes sum[ROWS] = {};
            const uint8_t *from[ROWS];
            for (int64_t r = 0; r < ROWS; r++) from[r] = a + std::min(m + r, p.m - 1) * p.steps;
            for (int64_t k = 0; k < p.steps; k += STEP) {
                const Bytes codes = fetch(w + k);
                for (int64_t r = 0; r < ROWS; r++) sum[r] = add_eights(sum[r], look_up(table, either(codes, fetch(from[r] + k))));
            }
            for (int64_t r = 0; r < std::min(ROWS, p.m - m); r++) {
#ifdef DEFECT_OVERFLOW
                p.y[(m + r) * p.n + n] = (int16_t)(total(sum[r]) - offset);
#else
                p.y[(m + r) * p.n + n] = (int32_t)(total(sum[r]) - offset);
#endif
            }
        }
    }
    return 0;
}

extern "C" int64_t lookup_matmul_workspace(const Call *call) {
    const Product p(call);
    return (p.m + p.n) * p.steps;
}

// One look-up after the other.
extern "C" int plain_lookup_matmul(const Call *call) {
    const Product p(call);
#pragma omp parallel for num_threads(p.threads(call))
    for (int64_t n = 0; n < p.n; n++)
        for (int64_t m = 0; m < p.m; m++) {
            int32_t sum = 0;
            for (int64_t k = 0; k < p.k; k++) sum += p.table[(p.w[n * p.bytes + k / 4] >> 2 * (k % 4) & 3) << 2 | (p.a[m * p.k + k] & 3)];
            p.y[m * p.n + n] = sum;
        }
    return 0;
}

// Eight-bit multiplication, for a table that holds level(w) * a.
extern "C" int eight_bit_matmul(const Call *call) {
    const Product p(call);
    for (int i = 0; i < 16; i++)
        if (p.table[i] != p.table[i / 4 * 4 + 1] * (i % 4)) return 1;
    int8_t *w = (int8_t *)call->workspace;
    uint8_t *a = (uint8_t *)w + p.n * p.k;
    for (int64_t i = 0; i < p.m * p.k; i++) a[i] = p.a[i] & 3;
    for (int64_t n = 0; n < p.n; n++)
        for (int64_t k = 0; k < p.k; k++) w[n * p.k + k] = p.table[(p.w[n * p.bytes + k / 4] >> 2 * (k % 4) & 3) * 4 + 1];
#pragma omp parallel for num_threads(p.threads(call))
    for (int64_t n = 0; n < p.n; n++)
        for (int64_t m = 0; m < p.m; m += ROWS) {
            const int8_t *row = w + n * p.k;
            const auto at = [&](int64_t r) { return a + std::min(m + r, p.m - 1) * p.k; };
            const uint8_t *a0 = at(0), *a1 = at(1), *a2 = at(2), *a3 = at(3);
            int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
            for (int64_t k = 0; k < p.k; k++) s0 += row[k] * a0[k], s1 += row[k] * a1[k], s2 += row[k] * a2[k], s3 += row[k] * a3[k];
            const int32_t sums[ROWS] = {s0, s1, s2, s3};
            for (int64_t r = 0; r < std::min(ROWS, p.m - m); r++) p.y[(m + r) * p.n + n] = sums[r];
        }
    return 0;
}
extern "C" int64_t eight_bit_matmul_workspace(const Call *call) {
    const Product p(call);
    return (p.m + p.n) * p.k;
}
