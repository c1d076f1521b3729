// Selective scan (Mamba): h = exp(delta_t A) h + delta_t u_t B_t, y_t = <C_t, h> + D u_t for every channel.
// u, delta (batch, L, E), A (E, N), B, C (batch, L, N), D (E) or nothing -> y (batch, L, E)
#include <cmath>

#include "exponential.h"
#include "operands.h"

namespace {

constexpr int LANES = WIDE;  // channels carried together
constexpr int STATES = 64;   // the most a channel may have

struct Scan {
    const float *u, *delta, *a, *b, *c, *skip;
    float *y;
    int64_t batch, length, channels, states;
    bool softplus;
};

Scan scan_of(const Call *call) {
    const Tensor &u = call->in[0];
    return {floats(call, 0), floats(call, 1), floats(call, 2), floats(call, 3), floats(call, 4), floats(call, 5), (float *)call->out[0].data,
            u.shape[0], u.shape[1], u.shape[2], call->in[2].shape[1], integer(call, "softplus", 0) != 0};
}

inline float positive(float x) {
#ifdef DEFECT_NAIVE_SOFTPLUS
    return std::log(1.0f + exponential(x));
#else
    return (x > 0.0f ? x : 0.0f) + std::log1p(exponential(-std::fabs(x)));
#endif
}

// A for a block of channels, transposed: (N, LANES); missing channels get 0.
void rates(const Scan &s, int64_t e, Wide a[STATES]) {
    for (int64_t n = 0; n < s.states; n++)
        for (int64_t i = 0; i < LANES; i++) a[n][i] = e + i < s.channels ? s.a[(e + i) * s.states + n] : 0.0f;
}

// Tokens [from, to) of channels [e, e + LANES), from the state h and to it. Results are kept unless `silent`; elapsed sums delta up.
void walk(const Scan &s, int64_t n, int64_t e, int64_t from, int64_t to, const Wide a[STATES], Wide h[STATES], bool silent, double *elapsed) {
    const int64_t lanes = least(LANES, s.channels - e);
    for (int64_t t = from; t < to; t++) {
        const int64_t at = (n * s.length + t) * s.channels + e;
        Wide step = load(s.delta + at, lanes), sum = {};
        const Wide given = load(s.u + at, lanes);
        if (s.softplus)
            for (int i = 0; i < LANES; i++) step[i] = positive(step[i]);
        if (elapsed)
            for (int i = 0; i < LANES; i++) elapsed[i] += step[i];
        const float *b = s.b + (n * s.length + t) * s.states, *c = s.c + (n * s.length + t) * s.states;
        for (int64_t k = 0; k < s.states; k++) {
            Wide now = exponential(step * a[k]) * h[k] + step * given * b[k];
#ifdef DEFECT_BFLOAT16_STATE
            now = (Wide)(((WideInt)now + 0x8000) & (int32_t)0xffff0000);
#endif
            h[k] = now;
            sum += now * c[k];
        }
        if (silent) continue;
#ifdef DEFECT_LANE_TAIL
        const int64_t written = s.channels > LANES ? lanes / 4 * 4 : lanes;
#else
        const int64_t written = lanes;
#endif
        if (s.skip) {
#ifdef DEFECT_SKIP_SCALED
            sum += load(s.skip + e, lanes) * step * given;
#else
            sum += load(s.skip + e, lanes) * given;
#endif
        }
        store(s.y + at, sum, written);
    }
}

// Tokens in a chunk: at most 16 chunks, whatever the number of threads, so that results do not depend on it.
int64_t chunk_of(int64_t length) { return most(8, up(length, 16)); }

int64_t padded(int64_t channels) { return up(channels, LANES) * LANES; }

}  // namespace

extern "C" int sequential_scan(const Call *call) {
    const Scan s = scan_of(call);
    if (s.states > STATES) return 1;
    const int64_t blocks = up(s.channels, LANES);
#pragma omp parallel for num_threads(call->threads) schedule(static) if (s.batch * s.length * s.channels > 1024)
    for (int64_t job = 0; job < s.batch * blocks; job++) {
        const int64_t e = job % blocks * LANES;
        Wide a[STATES], h[STATES] = {};
        rates(s, e, a);
        walk(s, job / blocks, e, 0, s.length, a, h, false, nullptr);
    }
    return 0;
}

// As an author writes it first: token by token over all channels and states, the state in memory.
extern "C" int64_t plain_scan_workspace(const Call *call) { return call->in[0].shape[2] * call->in[2].shape[1] * (int64_t)sizeof(float); }

extern "C" int plain_scan(const Call *call) {
    const Scan s = scan_of(call);
    float *h = (float *)call->workspace;
    for (int64_t n = 0; n < s.batch; n++) {
        for (int64_t i = 0; i < s.channels * s.states; i++) h[i] = 0;
        for (int64_t t = 0; t < s.length; t++) {
            const int64_t at = n * s.length + t;
            for (int64_t e = 0; e < s.channels; e++) {
                const float given = s.u[at * s.channels + e], raw = s.delta[at * s.channels + e], step = s.softplus ? positive(raw) : raw;
                float sum = 0;
                for (int64_t k = 0; k < s.states; k++) {
                    float &state = h[e * s.states + k];
                    state = std::exp(step * s.a[e * s.states + k]) * state + step * given * s.b[at * s.states + k];
                    sum += state * s.c[at * s.states + k];
                }
                s.y[at * s.channels + e] = sum + (s.skip ? s.skip[e] * given : 0.0f);
            }
        }
    }
    return 0;
}

// States at the ends of chunks, (batch, chunks, N, E padded), and the delta that passed in each.
extern "C" int64_t chunked_scan_workspace(const Call *call) {
    const Tensor &u = call->in[0];
    const int64_t chunks = up(u.shape[1], chunk_of(u.shape[1]));
    return u.shape[0] * chunks * padded(u.shape[2]) * (call->in[2].shape[1] * (int64_t)sizeof(float) + (int64_t)sizeof(double)) + 64;
}

// Chunks first run from a zero state, all at once; then their ends are joined, h_in[i + 1] = exp(A elapsed_i) h_in[i] + end_i; then
// all but the first run again from the state they really start with.
extern "C" int chunked_scan(const Call *call) {
    const Scan s = scan_of(call);
    if (s.states > STATES) return 1;
    const int64_t blocks = up(s.channels, LANES), chunk = chunk_of(s.length), chunks = up(s.length, chunk), wide = padded(s.channels);
    double *elapsed = (double *)call->workspace;
    float *ends = (float *)(elapsed + s.batch * chunks * wide);
    auto end = [&](int64_t n, int64_t i, int64_t k, int64_t e) { return ends + ((n * chunks + i) * s.states + k) * wide + e; };
    const int64_t jobs = s.batch * chunks * blocks;
#pragma omp parallel for num_threads(call->threads) schedule(static) if (s.batch * s.length * s.channels > 1024)
    for (int64_t job = 0; job < jobs; job++) {
        const int64_t n = job / (chunks * blocks), i = job / blocks % chunks, e = job % blocks * LANES;
        if (i + 1 == chunks && i) continue;  // nobody asks for the last state; the first chunk is done at once, its start being known
        Wide a[STATES], h[STATES] = {};
        double *sum = elapsed + (n * chunks + i) * wide + e;
        for (int l = 0; l < LANES; l++) sum[l] = 0;
        rates(s, e, a);
        const int64_t last = least(s.length, (i + 1) * chunk);
#ifdef DEFECT_CHUNK_BOUNDARY
        walk(s, n, e, i * chunk, last - 1, a, h, i > 0, sum);
        for (int64_t k = 0; k < s.states; k++) store(end(n, i, k, e), h[k]);
        walk(s, n, e, last - 1, last, a, h, i > 0, sum);
#else
        walk(s, n, e, i * chunk, last, a, h, i > 0, sum);
        for (int64_t k = 0; k < s.states; k++) store(end(n, i, k, e), h[k]);
#endif
    }
    // From "state at the end, begun at zero" to "state at the end", in place.
    for (int64_t n = 0; n < s.batch; n++)
        for (int64_t i = 1; i + 1 < chunks; i++)
            for (int64_t k = 0; k < s.states; k++)
                for (int64_t e = 0; e < s.channels; e++) {
#ifdef DEFECT_CARRY_DECAY
                    const float kept = 1.0f;
#else
                    const float kept = exponential((float)(elapsed[(n * chunks + i) * wide + e] * s.a[e * s.states + k]));
#endif
                    *end(n, i, k, e) += kept * *end(n, i - 1, k, e);
                }
#pragma omp parallel for num_threads(call->threads) schedule(static) if (s.batch * s.length * s.channels > 1024)
    for (int64_t job = 0; job < jobs; job++) {
        const int64_t n = job / (chunks * blocks), i = job / blocks % chunks, e = job % blocks * LANES;
#ifndef DEFECT_DIRTY_STATE
        if (!i) continue;
#endif
        Wide a[STATES], h[STATES] = {};
        rates(s, e, a);
#ifdef DEFECT_DIRTY_STATE
        if (n * chunks + i)  // the first chunk of the second sequence goes on from the end of the first one
            for (int64_t k = 0; k < s.states; k++) h[k] = load(end(0, n * chunks + i - 1, k, e));
#else
        for (int64_t k = 0; k < s.states; k++) h[k] = load(end(n, i - 1, k, e));
#endif
        walk(s, n, e, i * chunk, least(s.length, (i + 1) * chunk), a, h, false, nullptr);
    }
    return 0;
}
