// Residual blocks of three convolutions computed tile by tile, the wide middle never leaving the cache.
// "On the Efficiency of Convolutional Neural Networks": ConvFirst is a (grouped) convolution, then a pointwise pair around an activation;
// MBConv expands first and repeats that on the halo of every tile, so what lies outside the image must be zero after the activation.
// The baselines run the same code with one tile as large as the image and all of the middle at once: layer after layer.
#include "kernel.h"
#include "lanes.h"
#include <algorithm>
#ifdef _OPENMP
#include <omp.h>
#endif

constexpr int64_t ROWS = 8, COLUMNS = 14, CHUNK = 2 * WIDE;

struct Block {
    const float *x, *w1, *b1, *w2, *b2, *w3, *b3;
    float *y;
    int64_t n, c, h, w, k, stride, width, o, oh, ow, depth;     // width: channels of the middle; depth: channels of a group of the first
    bool silu, residual;
    int64_t rows, columns, chunk;       // of one tile of results, and channels of the middle at a time

    Block(const Call *call, bool first, bool fused) {
        const Tensor *in = call->in, &ty = call->out[0];
        x = (const float *)in[0].data, w1 = (const float *)in[1].data, b1 = (const float *)in[2].data, w2 = (const float *)in[3].data;
        b2 = (const float *)in[4].data, w3 = (const float *)in[5].data, b3 = (const float *)in[6].data, y = (float *)ty.data;
        n = in[0].shape[0], c = in[0].shape[1], h = in[0].shape[2], w = in[0].shape[3];
        k = in[first ? 1 : 3].shape[2], stride = integer(call, "stride", 1);
        width = in[3].shape[0], o = ty.shape[1], oh = ty.shape[2], ow = ty.shape[3], depth = in[first ? 1 : 3].shape[1];
        const Attribute *a = attribute(call, "activation");
        silu = a && a->text && !strncmp(a->text, "Silu", 4);
        residual = integer(call, "residual", 1);
        rows = fused ? even(oh, ROWS) : oh, columns = fused ? even(ow, COLUMNS) : ow, chunk = std::min(fused ? CHUNK : width, whole(width, WIDE));
        chunk = whole(chunk, WIDE);
    }
    // As few tiles as the largest allows, all about as large.
    static int64_t even(int64_t size, int64_t most) { return size ? (size + (size + most - 1) / most - 1) / ((size + most - 1) / most) : 1; }
    bool empty() const { return n * o * oh * ow == 0; }
    int64_t halo_rows() const { return (rows - 1) * stride + k; }
    int64_t halo_columns() const { return (columns - 1) * stride + k; }
    int64_t halo() const { return halo_rows() * halo_columns(); }
    int64_t pixels() const { return whole(rows * columns, PIXELS); }
    int64_t tiles() const { return n * ((oh + rows - 1) / rows) * ((ow + columns - 1) / columns); }
    int threads(const Call *call) const { return tiles() * rows * columns * width * (c + o) < (1 << 16) ? 1 : (int)std::min<int64_t>(call->threads, tiles()); }
};

static void activate(float *p, const float *bias, int64_t count, bool silu) {       // of the channels of one pixel
    for (int64_t i = 0; i < count; i += LANES) {
        const V v = load(p + i) + load(bias + i);
        store(p + i, silu ? v / (1.0f + exponential_of(-v)) : v < 0.0f ? V{} : v);
    }
}

// y[pixel][out] (+)= x[pixel][.] w for all pixels; y and x have their channels last, `rows` outputs are a multiple of WIDE.
static void product(const float *x, int64_t x_step, const float *packed, int64_t packed_step, int64_t terms, float *y, int64_t y_step,
                    int64_t rows, int64_t pixels, bool add) {
    const int64_t zero = 0;
    for (int64_t b = 0; b < rows; b += WIDE)
        for (int64_t i = 0; i < pixels; i += PIXELS) {
            const float *pixel[PIXELS];
            for (int64_t p = 0; p < PIXELS; p++) pixel[p] = x + std::min(i + p, pixels - 1) * x_step;
            float acc[PIXELS * WIDE];
            tile(pixel, &zero, 1, terms, 1, packed + b / WIDE * packed_step, acc);
            for (int64_t p = 0; p < std::min<int64_t>(PIXELS, pixels - i); p++)
                for (int64_t l = 0; l < WIDE; l++) {
                    float *to = y + (i + p) * y_step + b + l;
                    *to = add ? *to + acc[p * WIDE + l] : acc[p * WIDE + l];
                }
        }
}

// The input of a tile and its border, channels last, zero outside of the image.
static void fetch(const Block &s, int64_t n, int64_t top, int64_t left, float *halo) {
    const int64_t columns = s.halo_columns();
    for (int64_t i = 0; i < s.halo_rows(); i++)
        for (int64_t j = 0; j < columns; j++) {
            const int64_t row = top + i, column = left + j;
#ifdef DEFECT_HALO
            const bool inside = row >= 0 && row < s.h && column >= 0 && column < s.w && (s.k == 1 || j + 1 < columns);
#else
            const bool inside = row >= 0 && row < s.h && column >= 0 && column < s.w;
#endif
            float *to = halo + (i * columns + j) * s.c;
            for (int64_t c = 0; c < s.c; c++) to[c] = inside ? s.x[((n * s.c + c) * s.h + row) * s.w + column] : 0.0f;
        }
}

static void deliver(const Block &s, int64_t n, int64_t row, int64_t column, const float *acc, int64_t step) {
    const int64_t rows = std::min(s.rows, s.oh - row), columns = std::min(s.columns, s.ow - column);
#ifdef DEFECT_TILE_TAIL
    if (rows < s.rows && columns < s.columns) return;
#endif
    for (int64_t o = 0; o < s.o; o++)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) {
                const int64_t at = ((n * s.o + o) * s.oh + row + i) * s.ow + column + j;
#ifdef DEFECT_RESIDUAL
                const int64_t from = ((n * s.o + o) * s.oh + row + i) * s.ow + std::min(column + j + (column > 0), s.ow - 1);
#else
                const int64_t from = at;
#endif
                s.y[at] = acc[(i * s.columns + j) * step + o] + s.b3[o] + (s.residual ? s.x[from] : 0.0f);
            }
}

// Depthwise: d[pixel][e] = sum over taps of h[tap of pixel][e] w[tap][e], for `count` channels.
static void depthwise(const Block &s, const float *h, int64_t h_step, const float *taps, int64_t taps_step, float *d, int64_t d_step, int64_t count) {
    for (int64_t i = 0; i < s.rows; i++)
        for (int64_t j = 0; j < s.columns; j++)
            for (int64_t e = 0; e < count; e += LANES) {
                V sum = {};
                for (int64_t u = 0; u < s.k; u++)
                    for (int64_t v = 0; v < s.k; v++) {
                        const float *from = h + ((i * s.stride + u) * s.halo_columns() + j * s.stride + v) * h_step + e;
                        sum += load(from) * load(taps + (u * s.k + v) * taps_step + e);
                    }
                store(d + (i * s.columns + j) * d_step + e, sum);
            }
}

static float *spread(const float *bias, int64_t count, float *to) {     // with zeros up to a whole tile
    for (int64_t i = 0; i < whole(count, WIDE); i++) to[i] = i < count ? bias[i] : 0.0f;
    return to;
}

// Scratch: the packed weights, then for each thread the halo, the two stages and the sums of a tile.
struct Room {
    int64_t one, two, three, biases, halo, early, middle, sums;
    Room(const Block &s, bool first) {
        const int64_t e = whole(s.width, WIDE), c = whole(s.c, WIDE), taps = s.k * s.k;
        const int64_t groups = first ? s.c / s.depth : 1, of = first ? whole(s.depth, WIDE) : 0;
        one = first ? (s.depth == 1 ? c * taps : groups * of * s.depth * taps) : e * s.c;
        two = first ? e * s.c : e * taps;
        three = whole(s.o, WIDE) * s.width, biases = 2 * std::max(e, c);
        halo = s.halo() * s.c + WIDE;
        early = first ? s.pixels() * c : s.halo() * s.chunk;
        middle = s.pixels() * s.chunk, sums = s.pixels() * whole(s.o, WIDE);
    }
    int64_t shared() const { return one + two + three + biases; }
    int64_t each() const { return whole(halo + early + middle + sums, LANES); }
    int64_t bytes(int threads) const { return (shared() + LANES + threads * each()) * (int64_t)sizeof(float); }
};

static float rounded(float v) {         // to bfloat16, for a planted defect
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    bits &= 0xFFFF0000u;
    memcpy(&v, &bits, sizeof v);
    return v;
}

template <bool FIRST> static int run(const Call *call, bool fused) {
    const Block s(call, FIRST, fused);
    if (s.empty()) return 0;
    const Room room(s, FIRST);
    const int64_t e = whole(s.width, WIDE), cw = whole(s.c, WIDE), ow = whole(s.o, WIDE), taps = s.k * s.k;
    float *one = (float *)call->workspace, *two = one + room.one, *three = two + room.two, *biases = three + room.three;
    float *bias1 = spread(s.b1, FIRST ? s.c : s.width, biases), *bias2 = spread(s.b2, s.width, biases + room.biases / 2);
    float *scratch = one + whole(room.shared(), LANES);
    const float *dw = FIRST ? s.w1 : s.w2;
    const bool separate = FIRST && s.depth == 1;
    if (FIRST && !separate) {
        for (int64_t g = 0; g < s.c / s.depth; g++)         // taps outermost, so that a window is one piece for each tap
            for (int64_t b = 0; b < s.depth; b += WIDE)
                for (int64_t t = 0; t < taps; t++)
                    for (int64_t i = 0; i < s.depth; i++)
                        for (int64_t l = 0; l < WIDE; l++)
                            one[(((g * whole(s.depth, WIDE) / WIDE + b / WIDE) * taps + t) * s.depth + i) * WIDE + l] =
                                b + l < s.depth ? s.w1[((g * s.depth + b + l) * s.depth + i) * taps + t] : 0.0f;
    } else {
        float *to = FIRST ? one : two;
        const int64_t count = FIRST ? s.c : s.width, step = FIRST ? cw : e;
        for (int64_t t = 0; t < taps; t++)
            for (int64_t i = 0; i < step; i++) to[t * step + i] = i < count ? dw[i * taps + t] : 0.0f;
    }
    pack_rows(FIRST ? s.w2 : s.w1, s.width, s.c, FIRST ? two : one);
    pack_rows(s.w3, s.o, s.width, three);
    const int64_t down = (s.oh + s.rows - 1) / s.rows, across = (s.ow + s.columns - 1) / s.columns, pad = (s.k - 1) / 2;
#pragma omp parallel for schedule(dynamic) num_threads(s.threads(call))
    for (int64_t tile_at = 0; tile_at < s.tiles(); tile_at++) {
#if defined(_OPENMP) && !defined(DEFECT_RACE)
        float *halo = scratch + omp_get_thread_num() * room.each();
#else
        float *halo = scratch;
#endif
        float *early = halo + room.halo, *middle = early + room.early, *sums = middle + room.middle;
        const int64_t n = tile_at / (down * across), row = tile_at / across % down * s.rows, column = tile_at % across * s.columns;
        const int64_t top = row * s.stride - pad, left = column * s.stride - pad, pixels = s.rows * s.columns;
        fetch(s, n, top, left, halo);
        for (int64_t i = 0; i < pixels * ow; i++) sums[i] = 0.0f;
        if (separate) {
            // The halo's channels are not padded to whole vectors: the last vector of a pixel reads into the next, and is not used.
            depthwise(s, halo, s.c, one, cw, early, cw, s.c);
        } else if (FIRST) {
            int64_t segment[15 * 15];
            for (int64_t t = 0; t < taps; t++) segment[t] = (t / s.k * s.halo_columns() + t % s.k) * s.c;
            for (int64_t g = 0; g < s.c / s.depth; g++)
                for (int64_t b = 0; b < s.depth; b += WIDE)
                    for (int64_t i = 0; i < pixels; i += PIXELS) {
                        const float *pixel[PIXELS];
                        for (int64_t p = 0; p < PIXELS; p++) {
                            const int64_t q = std::min(i + p, pixels - 1);
                            pixel[p] = halo + (q / s.columns * s.halo_columns() + q % s.columns) * s.c + g * s.depth;
                        }
                        float acc[PIXELS * WIDE];
                        tile(pixel, segment, taps, s.depth, 1, one + (g * whole(s.depth, WIDE) / WIDE + b / WIDE) * taps * s.depth * WIDE, acc);
                        for (int64_t p = 0; p < std::min<int64_t>(PIXELS, pixels - i); p++)
                            for (int64_t l = 0; l < std::min<int64_t>(WIDE, s.depth - b); l++) early[(i + p) * cw + g * s.depth + b + l] = acc[p * WIDE + l];
                    }
        }
        if (FIRST)
            for (int64_t i = 0; i < pixels; i++)
                for (int64_t c = 0; c < s.c; c++) early[i * cw + c] += bias1[c];
#ifdef DEFECT_CHUNK
        for (int64_t at = 0; at < std::max(s.chunk, s.width / s.chunk * s.chunk); at += s.chunk) {
#else
        for (int64_t at = 0; at < s.width; at += s.chunk) {
#endif
            const int64_t count = std::min(s.chunk, s.width - at), full = whole(count, WIDE);
            if (FIRST) {
                product(early, cw, two + at * s.c, s.c * WIDE, s.c, middle, s.chunk, full, pixels, false);
            } else {
                product(halo, s.c, one + at * s.c, s.c * WIDE, s.c, early, s.chunk, full, s.halo(), false);
                for (int64_t i = 0; i < s.halo(); i++) {
                    const int64_t r = top + i / s.halo_columns(), q = left + i % s.halo_columns();
                    activate(early + i * s.chunk, bias1 + at, full, s.silu);
#ifndef DEFECT_PADDING
                    if (r < 0 || r >= s.h || q < 0 || q >= s.w)
                        for (int64_t l = 0; l < full; l++) early[i * s.chunk + l] = 0.0f;
#endif
                }
                depthwise(s, early, s.chunk, two + at, e, middle, s.chunk, full);
            }
            for (int64_t i = 0; i < pixels; i++) activate(middle + i * s.chunk, bias2 + at, full, s.silu);
#ifdef DEFECT_NARROW
            for (int64_t i = 0; i < pixels * s.chunk; i++) middle[i] = rounded(middle[i]);
#else
            (void)rounded;
#endif
            product(middle, s.chunk, three + at * WIDE, s.width * WIDE, count, sums, ow, ow, pixels, true);
#ifdef DEFECT_BIAS
            if (at)
                for (int64_t i = 0; i < pixels; i++)
                    for (int64_t o = 0; o < s.o; o++) sums[i * ow + o] += s.b3[o];
#endif
        }
        deliver(s, n, row, column, sums, ow);
    }
    return 0;
}

template <bool FIRST> static int64_t wanted(const Call *call, bool fused) {
    const Block s(call, FIRST, fused);
    return s.empty() ? 0 : Room(s, FIRST).bytes(s.threads(call));
}

extern "C" int conv_first_block(const Call *call) { return run<true>(call, true); }
extern "C" int conv_first_layers(const Call *call) { return run<true>(call, false); }
extern "C" int mobile_block(const Call *call) { return run<false>(call, true); }
extern "C" int mobile_layers(const Call *call) { return run<false>(call, false); }
extern "C" int64_t conv_first_block_workspace(const Call *call) { return wanted<true>(call, true); }
extern "C" int64_t conv_first_layers_workspace(const Call *call) { return wanted<true>(call, false); }
extern "C" int64_t mobile_block_workspace(const Call *call) { return wanted<false>(call, true); }
extern "C" int64_t mobile_layers_workspace(const Call *call) { return wanted<false>(call, false); }
