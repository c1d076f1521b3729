// What the two-pass softmax competes with, for the last axis: three passes, with the exponentials computed again or stored, and the
// online softmax, whose one pass carries a maximum and a sum. Included by softmax.cpp, whose vectors, loops and exponential they share.
#pragma once

static inline V exponential(V x) {      // of x <= 0
    V m, n;
    extended(x, m, n);
    return scaled(m, n);
}

static V maximum(const float *x, int64_t n) {
    V top[WAYS];
    for (auto &t : top) t = splat(x[0]);
    int64_t i = 0;
    for (; i + WAYS * LANES <= n; i += WAYS * LANES) {
        ahead(x + i);
        for (int w = 0; w < WAYS; w++) top[w] = larger(top[w], load(x + i + w * LANES));
    }
    for (; i < n; i += LANES) top[0] = larger(top[0], part(x + i, n - i, 1));
    return larger(larger(top[0], top[1]), larger(top[2], top[3]));
}

// The sum of e^(x - top) for every lane; `keep` is where the terms are stored, if anywhere.
static V sum_exponentials(const float *x, int64_t n, V top, float *keep) {
    V s[WAYS] = {};
    int64_t i = 0;
    for (; i + WAYS * LANES <= n; i += WAYS * LANES) {
        ahead(x + i);
        for (int w = 0; w < WAYS; w++) {
            const V e = exponential(load(x + i + w * LANES) - top);
            if (keep) store(keep + i + w * LANES, e);
            s[w] += e;
        }
    }
    for (; i < n; i += LANES) {
        const V e = exponential(part(x + i, n - i, 1) - top);
        s[0] += mask(n - i) ? e : V{};
        if (keep)
            for (int64_t l = 0; l < std::min<int64_t>(LANES, n - i); l++) keep[i + l] = e[l];
    }
    return s[0] + s[1] + (s[2] + s[3]);
}

static float highest(V v) {
    float m = v[0];
    for (int l = 1; l < LANES; l++) m = std::max(m, v[l]);
    return m;
}

static float total(V v) {
    float s = 0;
    for (int l = 0; l < LANES; l++) s += v[l];
    return s;
}

// A long row in chunks, a short one whole: what f(x, y, n, chunk) does with a piece.
template <class F> static void pieces(const Call *c, int64_t n, F f) {
    const int64_t chunks = (n + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(n < (1 << 15) ? 1 : c->threads)
    for (int64_t k = 0; k < chunks; k++) f(k * CHUNK, std::min(CHUNK, n - k * CHUNK), k);
}

enum Way { RECOMPUTE, RELOAD, ONLINE };

template <Way WAY> static int competitor(const Call *c) {
    const Rows r(c);
    if (r.inner > 1) return 1;
    if (r.empty()) return 0;
    const bool stream = r.n >= STREAM;
    const int64_t chunks = (r.n + CHUNK - 1) / CHUNK;
    V *tops = (V *)whole((int64_t)c->workspace, alignof(V)), *sums = tops + chunks;
    for (int64_t i = 0; i < r.outer; i++) {
        const float *x = r.x + i * r.n;
        float *y = r.y + i * r.n;
        float top, s = 0;
        if (WAY == ONLINE) {
            pieces(c, r.n, [=](int64_t at, int64_t n, int64_t k) {
                V t = splat(x[at]), sum = {};
                for (int64_t j = 0; j < n; j += LANES) {
                    const V v = n - j < LANES ? part(x + at + j, n - j, 1) : load(x + at + j);
                    const V higher = larger(t, v);
                    const V e = exponential(v - higher);
                    sum = sum * exponential(t - higher) + (n - j < LANES ? (mask(n - j) ? e : V{}) : e);
                    t = higher;
                }
                tops[k] = t, sums[k] = sum;
            });
            V t = tops[0];
            for (int64_t k = 1; k < chunks; k++) t = larger(t, tops[k]);
            top = highest(t);
            for (int64_t k = 0; k < chunks; k++) s += total(sums[k] * exponential(tops[k] - top));
        } else {
            pieces(c, r.n, [=](int64_t at, int64_t n, int64_t k) { tops[k] = maximum(x + at, n); });
            V t = tops[0];
            for (int64_t k = 1; k < chunks; k++) t = larger(t, tops[k]);
            top = highest(t);
            pieces(c, r.n, [=](int64_t at, int64_t n, int64_t k) { sums[k] = sum_exponentials(x + at, n, splat(top), WAY == RELOAD ? y + at : nullptr); });
            for (int64_t k = 0; k < chunks; k++) s += total(sums[k]);
        }
        const float scale = 1.0f / s;
        pieces(c, r.n, [=](int64_t at, int64_t n, int64_t) {
            if (WAY == RELOAD)
                map(y + at, y + at, n, false, [=](V v) { return v * scale; });
            else
                map(x + at, y + at, n, stream, [=](V v) { return exponential(v - top) * scale; });
        });
    }
    return 0;
}

extern "C" int three_pass_recompute(const Call *c) { return competitor<RECOMPUTE>(c); }
extern "C" int three_pass_reload(const Call *c) { return competitor<RELOAD>(c); }
extern "C" int online_softmax(const Call *c) { return competitor<ONLINE>(c); }
static int64_t two_vectors(const Call *c) { return 2 * (Rows(c).n / CHUNK + 2) * (int64_t)sizeof(V); }
extern "C" int64_t three_pass_recompute_workspace(const Call *c) { return two_vectors(c); }
extern "C" int64_t three_pass_reload_workspace(const Call *c) { return two_vectors(c); }
extern "C" int64_t online_softmax_workspace(const Call *c) { return two_vectors(c); }
