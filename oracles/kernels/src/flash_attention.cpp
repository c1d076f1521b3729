// Attention tile by tile with a running maximum and sum, so that no matrix of scores is kept (ONNX Attention, float32).
#include <omp.h>

#include <cmath>

#include "exponential.h"
#include "operands.h"

namespace {

constexpr int64_t QUERIES = 64;  // of a tile: as many share one transposed copy of the keys
constexpr int64_t MOST_KEYS = 64;

// Rows of (batch, heads, length, size) or (batch, length, heads * size).
struct Rows {
    const float *data;
    int64_t batch, head, row;
    const float *at(int64_t b, int64_t h, int64_t i) const { return data + b * batch + h * head + i * row; }
};

Rows rows_of(const Tensor &t, int64_t heads) {
    const float *data = (const float *)t.data;
    if (t.rank == 4) return {data, t.shape[1] * t.shape[2] * t.shape[3], t.shape[2] * t.shape[3], t.shape[3]};
    return {data, t.shape[1] * t.shape[2], t.shape[2] / heads, t.shape[2]};
}

struct Problem {
    Rows q, k, v, past_k, past_v;
    int64_t batch, heads, shared, queries, keys, past, size, wide;  // shared: query heads that use one key head
    int64_t tile;                                                   // keys taken at once
    const Tensor *mask;
    int64_t mask_step[3], mask_keys;
    float scale, cap;
    bool causal;
    float *y;
    Rows out;

    const float *key(int64_t b, int64_t h, int64_t j) const { return j < past ? past_k.at(b, h, j) : k.at(b, h, j - past); }
    const float *value(int64_t b, int64_t h, int64_t j) const { return j < past ? past_v.at(b, h, j) : v.at(b, h, j - past); }
    int64_t key_head(int64_t h) const {
#ifdef DEFECT_HEAD_ORDER
        return h % (heads / shared);
#else
        return h / shared;
#endif
    }
    // Keys that query i may see at all: those before this one.
    int64_t frontier(int64_t i) const {
#ifdef DEFECT_CAUSAL_OFFSET
        return causal ? least(keys, i + 1) : keys;
#else
        return causal ? least(keys, i + 1 + past) : keys;
#endif
    }
    // Products with keys [from, from + held) made scores: scaled, capped and masked. Returns how many of them the query may see by position.
    int64_t finish(float *line, int64_t b, int64_t h, int64_t i, int64_t from, int64_t held) const {
        const int64_t seen = most(0, least(held, frontier(i) - from));
        if (cap == 0.0f)
            for (int64_t j = 0; j < seen; j++) line[j] *= scale;
        else
            for (int64_t j = 0; j < seen; j++) line[j] = std::tanh(line[j] * scale / cap) * cap;
        if (!mask) return seen;
        const int64_t at = b * mask_step[0] + h * mask_step[1] + i * mask_step[2] + from, known = most(0, least(seen, mask_keys - from));
        if (mask->type == BOOL) {
            const uint8_t *allowed = (const uint8_t *)mask->data + at;
            for (int64_t j = 0; j < known; j++) line[j] = allowed[j] ? line[j] : -INFINITY;
        } else {
            const float *added = (const float *)mask->data + at;
            for (int64_t j = 0; j < known; j++) line[j] += added[j];
        }
        for (int64_t j = known; j < seen; j++) line[j] = -INFINITY;  // a mask that ends early forbids the rest
        return seen;
    }
};

Problem problem_of(const Call *call) {
    const Tensor &q = call->in[0], &k = call->in[1], &v = call->in[2];
    Problem p = {};
    const bool flat = q.rank == 3;
    p.heads = flat ? integer(call, "q_num_heads", 1) : q.shape[1];
    const int64_t kv = flat ? integer(call, "kv_num_heads", 1) : k.shape[1];
    p.q = rows_of(q, p.heads), p.k = rows_of(k, kv), p.v = rows_of(v, kv), p.out = rows_of(call->out[0], p.heads);
    p.batch = q.shape[0], p.shared = p.heads / kv, p.queries = q.shape[q.rank - 2], p.size = flat ? q.shape[2] / p.heads : q.shape[3];
    p.wide = flat ? v.shape[2] / kv : v.shape[3];
    if (floats(call, 4) && floats(call, 5)) p.past = call->in[4].shape[2], p.past_k = rows_of(call->in[4], kv), p.past_v = rows_of(call->in[5], kv);
    p.keys = p.past + k.shape[k.rank - 2];
    p.tile = p.keys > 128 ? MOST_KEYS : 16;  // a wide tile would be mostly empty
    if (call->n_in > 3 && given(&call->in[3])) {
        const Tensor &m = call->in[3];
        p.mask = &m, p.mask_keys = m.shape[m.rank - 1];
        int64_t step = p.mask_keys;
        for (int back = 2; back <= 4; back++) {
            const int64_t size = back <= m.rank ? m.shape[m.rank - back] : 1;
#ifdef DEFECT_MASK_BROADCAST
            p.mask_step[4 - back] = back <= m.rank ? step : 0;
            if (size == 1 && back < 4) p.mask_step[4 - back] = 0;
#else
            p.mask_step[4 - back] = size == 1 ? 0 : step;
#endif
            step *= size;
        }
#ifdef DEFECT_MASK_BROADCAST
        if (m.rank == 4 && m.shape[1] == 1 && m.shape[0] > 1) p.mask_step[0] = 0;  // one mask for all heads is taken as one for the batch too
#endif
    }
    p.scale = (float)real(call, "scale", 1.0 / std::sqrt((double)p.size)), p.cap = (float)real(call, "softcap", 0.0), p.causal = integer(call, "is_causal", 0) != 0;
    p.y = (float *)call->out[0].data;
    return p;
}

int64_t scratch(const Problem &p) { return p.tile * p.size + QUERIES * p.tile + QUERIES * p.wide + 2 * QUERIES; }

// Four rows by V vectors of sums over n, kept in registers: rows[a][k] times the vectors at line(k).
template <int V, typename Line>
inline void product(const float *const rows[4], int64_t n, Line line, Wide sum[4][V]) {
    Wide made[4][V] = {};
    for (int64_t k = 0; k < n; k++) {
        Wide taken[V];
        for (int v = 0; v < V; v++) taken[v] = line(k, v);
        for (int a = 0; a < 4; a++)
            for (int v = 0; v < V; v++) made[a][v] += rows[a][k] * taken[v];
    }
    for (int a = 0; a < 4; a++)
        for (int v = 0; v < V; v++) sum[a][v] = made[a][v];
}

#ifdef __AVX512F__
constexpr int PAIR = 2;  // vectors at once: as many sums as the registers hold
#else
constexpr int PAIR = 1;
#endif

// Dots of queries with the keys of a tile, four rows at once.
void scores(const Problem &p, int64_t b, int64_t h, int64_t first, int64_t count, const float *keys, float *to) {
    for (int64_t r = 0; r < count; r += 4) {
        const float *rows[4];
        for (int a = 0; a < 4; a++) rows[a] = p.q.at(b, h, first + least(r + a, count - 1));
        for (int64_t j = 0; j < p.tile;) {
            auto line = [&](int64_t c, int v) { return load(keys + c * p.tile + j + v * WIDE); };
            float *at = to + r * p.tile + j;
            if (p.tile - j >= PAIR * WIDE) {
                Wide sum[4][PAIR];
                product<PAIR>(rows, p.size, line, sum);
                for (int a = 0; a < 4; a++)
                    for (int v = 0; v < PAIR; v++) store(at + a * p.tile + v * WIDE, sum[a][v]);
                j += PAIR * WIDE;
            } else {
                Wide sum[4][1];
                product<1>(rows, p.size, line, sum);
                for (int a = 0; a < 4; a++) store(at + a * p.tile, sum[a][0]);
                j += WIDE;
            }
        }
    }
}

// Adds the values, weighted by rows of `share`, to rows of outputs; rows up to the next multiple of four exist.
void combine(const Problem &p, int64_t count, int64_t held, const float *share, const float *const *values, float *to) {
    for (int64_t r = 0; r < count; r += 4) {
        const float *rows[4];
        for (int a = 0; a < 4; a++) rows[a] = share + (r + a) * p.tile;
        const int64_t kept = least(4, count - r);
        for (int64_t c = 0; c < p.wide;) {
            float *at = to + r * p.wide + c;
            if (p.wide - c >= PAIR * WIDE) {
                Wide sum[4][PAIR];
                product<PAIR>(rows, held, [&](int64_t j, int v) { return load(values[j] + c + v * WIDE); }, sum);
                for (int64_t a = 0; a < kept; a++)
                    for (int v = 0; v < PAIR; v++) store(at + a * p.wide + v * WIDE, load(at + a * p.wide + v * WIDE) + sum[a][v]);
                c += PAIR * WIDE;
            } else {
                const int64_t lanes = least(WIDE, p.wide - c);
                Wide sum[4][1];
                product<1>(rows, held, [&](int64_t j, int) { return load(values[j] + c, lanes); }, sum);
                for (int64_t a = 0; a < kept; a++) store(at + a * p.wide, load(at + a * p.wide, lanes) + sum[a][0], lanes);
                c += WIDE;
            }
        }
    }
}

void copy_present(const Call *call, const Problem &p, int which) {
    if (call->n_out <= which || !call->out[which].data) return;
    const Tensor &t = call->out[which];
    float *to = (float *)t.data;
    for (int64_t at = 0; at < t.shape[0] * t.shape[1] * t.shape[2]; at++) {
        const int64_t b = at / (t.shape[1] * t.shape[2]), h = at / t.shape[2] % t.shape[1], j = at % t.shape[2];
        memcpy(to + at * t.shape[3], which == 1 ? p.key(b, h, j) : p.value(b, h, j), sizeof(float) * (size_t)t.shape[3]);
    }
}

}  // namespace

extern "C" int64_t flash_attention_workspace(const Call *call) { return call->threads * scratch(problem_of(call)) * (int64_t)sizeof(float); }

extern "C" int flash_attention(const Call *call) {
    const Problem p = problem_of(call);
    const int64_t tiles = up(p.queries, QUERIES);
#pragma omp parallel for num_threads(call->threads) schedule(dynamic)
    for (int64_t job = 0; job < p.batch * p.heads * tiles; job++) {
        const int64_t b = job / (p.heads * tiles), h = job / tiles % p.heads, of = p.key_head(h), first = job % tiles * QUERIES;
        const int64_t count = least(QUERIES, p.queries - first);
        float *keys = (float *)call->workspace + omp_get_thread_num() * scratch(p), *s = keys + p.tile * p.size, *y = s + QUERIES * p.tile;
        float *highest = y + QUERIES * p.wide, *total = highest + QUERIES;
        for (int64_t i = 0; i < count * p.wide; i++) y[i] = 0;
        for (int64_t i = 0; i < count; i++) {
#ifdef DEFECT_FIRST_MAXIMUM
            highest[i] = 0;
#else
            highest[i] = -INFINITY;
#endif
            total[i] = 0;
        }
        const int64_t reach = p.frontier(first + count - 1);
        for (int64_t from = 0; from < reach; from += p.tile) {
            const int64_t held = least(p.tile, p.keys - from);
            for (int64_t j = 0; j < p.tile; j++) {
                const float *key = j < held ? p.key(b, of, from + j) : nullptr;
                for (int64_t c = 0; c < p.size; c++) keys[c * p.tile + j] = key ? key[c] : 0.0f;
            }
            scores(p, b, h, first, count, keys, s);
            for (int64_t r = 0; r < count; r++) {
                float *line = s + r * p.tile, *out = y + r * p.wide;
                const int64_t seen = p.finish(line, b, h, first + r, from, held);
#ifdef DEFECT_KEY_TAIL
                for (int64_t j = seen; j < held; j++) line[j] = -INFINITY;
#else
                for (int64_t j = seen; j < p.tile; j++) line[j] = -INFINITY;
#endif
                Wide tops = load(line);
                for (int64_t j = WIDE; j < p.tile; j += WIDE) tops = larger(tops, load(line + j));
                const float top = std::fmax(highest[r], largest_of(tops));
                if (top == -INFINITY) {  // no key so far that this query may see
                    for (int64_t j = 0; j < p.tile; j++) line[j] = 0;
                    continue;
                }
                Wide sum = {};
                for (int64_t j = 0; j < p.tile; j += WIDE) {
                    Wide share = exponential(load(line + j) - top);
#ifdef DEFECT_BFLOAT16_WEIGHTS
                    share = (Wide)(((WideInt)share + 0x8000) & (int32_t)0xffff0000);
#endif
                    store(line + j, share);
                    sum += share;
                }
                const float shrink = exponential(highest[r] - top);
                total[r] = total[r] * shrink + sum_of(sum);
#ifndef DEFECT_RESCALE
                for (int64_t c = 0; c < p.wide; c++) out[c] *= shrink;
#endif
                highest[r] = top;
            }
            const float *values[MOST_KEYS];
            for (int64_t j = 0; j < held; j++) values[j] = p.value(b, of, from + j);
            combine(p, count, held, s, values, y);
        }
        for (int64_t r = 0; r < count; r++) {
            float *out = (float *)p.out.at(b, h, first + r);
#ifdef DEFECT_EMPTY_ROW
            for (int64_t c = 0; c < p.wide; c++) out[c] = y[r * p.wide + c] / total[r];
#else
            for (int64_t c = 0; c < p.wide; c++) out[c] = total[r] > 0 ? y[r * p.wide + c] / total[r] : 0.0f;
#endif
        }
    }
    copy_present(call, p, 1);
    copy_present(call, p, 2);
    return 0;
}

// The whole matrix of scores of a head, then its softmax, then the product.
extern "C" int64_t plain_attention_workspace(const Call *call) {
    const Problem p = problem_of(call);
    return call->threads * (up(p.queries, 4) * 4 * up(p.keys, p.tile) * p.tile + p.tile * p.size) * (int64_t)sizeof(float);
}

extern "C" int plain_attention(const Call *call) {
    const Problem p = problem_of(call);
    const int64_t wide = up(p.keys, p.tile) * p.tile;
#pragma omp parallel for num_threads(call->threads) schedule(static)
    for (int64_t job = 0; job < p.batch * p.heads; job++) {
        const int64_t b = job / p.heads, h = job % p.heads, of = p.key_head(h);
        float *keys = (float *)call->workspace + omp_get_thread_num() * (up(p.queries, 4) * 4 * wide + p.tile * p.size), *s = keys + p.tile * p.size;
        for (int64_t from = 0; from < p.keys; from += p.tile) {
            for (int64_t j = 0; j < p.tile; j++) {
                const float *key = from + j < p.keys ? p.key(b, of, from + j) : nullptr;
                for (int64_t c = 0; c < p.size; c++) keys[c * p.tile + j] = key ? key[c] : 0.0f;
            }
            float tile[QUERIES * MOST_KEYS];
            for (int64_t first = 0; first < p.queries; first += QUERIES) {
                const int64_t count = least(QUERIES, p.queries - first);
                scores(p, b, h, first, count, keys, tile);
                for (int64_t r = 0; r < count; r++) memcpy(s + (first + r) * wide + from, tile + r * p.tile, sizeof(float) * (size_t)p.tile);
            }
        }
        for (int64_t i = 0; i < p.queries; i++) {
            float *line = s + i * wide, top = -INFINITY;
            for (int64_t j = p.finish(line, b, h, i, 0, p.keys); j < wide; j++) line[j] = -INFINITY;
            for (int64_t j = 0; j < p.keys; j++) top = line[j] > top ? line[j] : top;
            if (top == -INFINITY) {
                for (int64_t j = 0; j < wide; j++) line[j] = 0;
                continue;
            }
            Wide total = {};
            for (int64_t j = 0; j < wide; j += WIDE) {
                const Wide share = exponential(load(line + j) - top);
                store(line + j, share);
                total += share;
            }
            const float all = sum_of(total);
            for (int64_t j = 0; j < p.keys; j++) line[j] /= all;
        }
        for (int64_t i = 0; i < p.queries; i++) {
            float *out = (float *)p.out.at(b, h, i);
            for (int64_t c = 0; c < p.wide; c += WIDE) {
                const int64_t lanes = least(WIDE, p.wide - c);
                Wide sum = {};
                for (int64_t j = 0; j < p.keys; j++) sum += s[i * wide + j] * load(p.value(b, of, j) + c, lanes);
                store(out + c, sum, lanes);
            }
        }
    }
    copy_present(call, p, 1);
    copy_present(call, p, 2);
    return 0;
}
