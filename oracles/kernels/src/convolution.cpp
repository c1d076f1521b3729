// Convolution over one or two spatial axes by windows in order, and the algorithms it competes with; all share one register tile.
// "Im2win: An Efficient Convolution Paradigm on GPU": for every output row the input rows of its windows are interleaved column by
// column, so that each window is one contiguous piece and neighbouring windows share what they overlap in.
#include "kernel.h"
#include "lanes.h"
#include <algorithm>
#include <vector>

struct Shape {
    const float *x, *w, *bias;
    float *y;
    int64_t n, c, h, width, o, kh, kw, oh, ow, group, sh = 1, sw = 1, dh = 1, dw = 1, top = 0, left = 0;
    int64_t cg, og, taps, blocks;   // channels and outputs of a group, products of an output, tiles of outputs of a group

    explicit Shape(const Call *call) {
        const Tensor &tx = call->in[0], &tw = call->in[1], &ty = call->out[0];
        const bool flat = tx.rank == 3;
        x = (const float *)tx.data, w = (const float *)tw.data, y = (float *)ty.data;
        bias = call->n_in > 2 ? (const float *)call->in[2].data : nullptr;
        n = tx.shape[0], c = tx.shape[1], h = flat ? 1 : tx.shape[2], width = tx.shape[tx.rank - 1];
        o = tw.shape[0], kh = flat ? 1 : tw.shape[2], kw = tw.shape[tw.rank - 1];
        oh = flat ? 1 : ty.shape[2], ow = ty.shape[ty.rank - 1];
        group = integer(call, "group", 1);
        const int last = flat ? 0 : 1;
        sw = integer_at(call, "strides", last, 1), dw = integer_at(call, "dilations", last, 1), left = integer_at(call, "pads", last, 0);
        if (!flat) sh = integer_at(call, "strides", 0, 1), dh = integer_at(call, "dilations", 0, 1), top = integer_at(call, "pads", 0, 0);
        const Attribute *a = attribute(call, "auto_pad");
        if (a && a->text && strncmp(a->text, "NOTSET", 6)) {
            const bool valid = !strncmp(a->text, "VALID", 5), upper = !strncmp(a->text, "SAME_UPPER", 10);
            const int64_t rows = std::max<int64_t>(0, (oh - 1) * sh + (kh - 1) * dh + 1 - h);
            const int64_t columns = std::max<int64_t>(0, (ow - 1) * sw + (kw - 1) * dw + 1 - width);
            top = valid || flat ? 0 : upper ? rows / 2 : rows - rows / 2;
            left = valid ? 0 : upper ? columns / 2 : columns - columns / 2;
        }
        cg = c / group, og = o / group, taps = cg * kh * kw, blocks = (og + WIDE - 1) / WIDE;
    }
    bool empty() const { return n * o * oh * ow == 0; }
    int64_t padded_rows() const { return (oh - 1) * sh + (kh - 1) * dh + 1; }
    int64_t padded_columns() const { return (ow - 1) * sw + (kw - 1) * dw + 1; }
    int threads(const Call *call) const { return n * o * oh * ow * taps < (1 << 15) ? 1 : call->threads; }
};

// The filters with the outputs of a tile innermost; in each channel the taps row by row, or column by column.
static void pack(const Shape &s, float *packed, bool by_column) {
    for (int64_t g = 0; g < s.group; g++)
        for (int64_t b = 0; b < s.blocks; b++)
            for (int64_t c = 0; c < s.cg; c++)
                for (int64_t t = 0; t < s.kh * s.kw; t++) {
                    const int64_t u = by_column ? t % s.kh : t / s.kw, v = by_column ? t / s.kh : t % s.kw;
                    for (int64_t l = 0; l < WIDE; l++, packed++) {
                        const int64_t o = b * WIDE + l;
                        *packed = o < s.og ? s.w[(((g * s.og + o) * s.cg + c) * s.kh + u) * s.kw + v] : 0.0f;
                    }
                }
}
static int64_t packed_size(const Shape &s) { return s.group * s.blocks * s.taps * WIDE; }

// Up to PIXELS neighbouring results of one tile of outputs (`block` counts over all groups): pixel[] points at what their windows start at.
// Tiles of outputs are the outer loop everywhere, so that one packed filter stays in the cache.
struct Place {
    const int64_t *segment;
    int64_t segments, length, step;
};

static void outputs(const Shape &s, const float *packed, int64_t n, int64_t block, int64_t at, int64_t left, const float *const *pixel, const Place &place) {
    float acc[PIXELS * WIDE];
    const int64_t g = block / s.blocks, b = block % s.blocks, count = std::min<int64_t>(PIXELS, left), end = std::min<int64_t>(WIDE, s.og - b * WIDE);
    tile(pixel, place.segment, place.segments, place.length, place.step, packed + block * s.taps * WIDE, acc);
#ifdef DEFECT_CHANNELS
    for (int64_t l = 0; l < (end < LANES ? end : end / LANES * LANES); l++) {
#else
    for (int64_t l = 0; l < end; l++) {
#endif
        const int64_t o = g * s.og + b * WIDE + l;
#ifdef DEFECT_BIAS
        const float bias = s.bias ? s.bias[b * WIDE + l] : 0.0f;
#else
        const float bias = s.bias ? s.bias[o] : 0.0f;
#endif
        float *y = s.y + ((n * s.o + o) * s.oh * s.ow) + at;
#ifdef DEFECT_OVERRUN
        for (int p = 0; p < (b + 1 == s.blocks && l + 1 == end ? PIXELS : count); p++) y[p] = acc[p * WIDE + l] + bias;
#else
        for (int64_t p = 0; p < count; p++) y[p] = acc[p * WIDE + l] + bias;
#endif
    }
}

// Windows in order ------------------------------------------------------------------------------------------------------
static int64_t window_size(const Shape &s) { return s.c * s.oh * s.padded_columns() * s.kh; }

static void order(const Shape &s, const float *image, float *windows, int64_t c) {
    const int64_t columns = s.padded_columns();
    for (int64_t m = 0; m < s.oh; m++)
        for (int64_t u = 0; u < s.kh; u++) {
#ifdef DEFECT_DILATION
            const int64_t row = m * s.sh + u - s.top;
#else
            const int64_t row = m * s.sh + u * s.dh - s.top;
#endif
            float *to = windows + ((c * s.oh + m) * columns) * s.kh + u;
#ifdef DEFECT_BOUNDS
            const bool inside = row >= 0 && row <= s.h && c * s.h + row < s.c * s.h;
#else
            const bool inside = row >= 0 && row < s.h;
#endif
            const float *from = image + (c * s.h + row) * s.width;
            const int64_t first = std::max<int64_t>(0, std::min(columns, s.left)), last = std::max(first, std::min(columns, s.width + s.left));
            if (!inside) {
                for (int64_t j = 0; j < columns; j++) to[j * s.kh] = 0.0f;
                continue;
            }
#ifndef DEFECT_WORKSPACE
            for (int64_t j = 0; j < first; j++) to[j * s.kh] = 0.0f;
#endif
#ifdef DEFECT_HALO
            for (int64_t j = first; j < last; j++) to[j * s.kh] = j == last - 1 && s.left && j > first ? 0.0f : from[j - s.left];
#else
            for (int64_t j = first; j < last; j++) to[j * s.kh] = from[j - s.left];
#endif
            for (int64_t j = last; j < columns; j++) to[j * s.kh] = 0.0f;
        }
}

extern "C" int im2win_convolution(const Call *call) {
    const Shape s(call);
    if (s.empty()) return 0;
    float *packed = (float *)call->workspace, *windows = packed + packed_size(s);
    pack(s, packed, true);
    const int64_t columns = s.padded_columns(), tiles = (s.ow + PIXELS - 1) / PIXELS;
    // Without dilation along the row all taps of a channel are one piece; with it one piece for each column of the kernel.
    const int64_t pieces = s.dw == 1 ? 1 : s.kw, length = s.kh * (s.dw == 1 ? s.kw : 1);
    std::vector<int64_t> segments(s.cg * pieces);
    for (int64_t c = 0; c < s.cg; c++)
        for (int64_t v = 0; v < pieces; v++) segments[c * pieces + v] = c * s.oh * columns * s.kh + v * s.dw * s.kh;
    const Place place = {segments.data(), (int64_t)segments.size(), length, 1};
    for (int64_t n = 0; n < s.n; n++) {
        const float *image = s.x + n * s.c * s.h * s.width;
#pragma omp parallel num_threads(s.threads(call))
        {
#ifdef DEFECT_RACE
#pragma omp for schedule(static, 1) nowait
#else
#pragma omp for schedule(static)
#endif
            for (int64_t c = 0; c < s.c; c++) order(s, image, windows, c);
#pragma omp for schedule(static)
            for (int64_t k = 0; k < s.group * s.blocks * s.oh; k++) {
                const int64_t block = k / s.oh, g = block / s.blocks, m = k % s.oh;
#ifdef DEFECT_GROUP
                const float *row = windows + m * columns * s.kh;
#else
                const float *row = windows + (g * s.cg * s.oh + m) * columns * s.kh;
#endif
#ifdef DEFECT_TAIL
                for (int64_t t = 0; t < std::max<int64_t>(1, s.ow / PIXELS); t++) {
#else
                for (int64_t t = 0; t < tiles; t++) {
#endif
                    const float *pixel[PIXELS];
#ifdef DEFECT_STRIDE
                    const int64_t step = s.sh;
#else
                    const int64_t step = s.sw;
#endif
                    for (int64_t p = 0; p < PIXELS; p++) pixel[p] = row + std::min(t * PIXELS + p, s.ow - 1) * std::min(step, s.sw) * s.kh;
                    outputs(s, packed, n, block, m * s.ow + t * PIXELS, s.ow - t * PIXELS, pixel, place);
                }
            }
        }
    }
    return 0;
}

extern "C" int64_t im2win_convolution_workspace(const Call *call) {
    const Shape s(call);
    return s.empty() ? 0 : (packed_size(s) + window_size(s)) * (int64_t)sizeof(float);
}

// The matrix of unfolded windows ----------------------------------------------------------------------------------------
extern "C" int im2col_convolution(const Call *call) {
    const Shape s(call);
    if (s.empty()) return 0;
    float *packed = (float *)call->workspace, *columns = packed + packed_size(s);
    pack(s, packed, false);
    const int64_t zero = 0, pixels = s.oh * s.ow, taps = s.kh * s.kw, tiles = (pixels + PIXELS - 1) / PIXELS;
    const Place place = {&zero, 1, s.taps, 1};
    for (int64_t n = 0; n < s.n; n++) {
        const float *image = s.x + n * s.c * s.h * s.width;
#pragma omp parallel num_threads(s.threads(call))
        {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < pixels; i++) {
                const int64_t row = i / s.ow * s.sh - s.top, column = i % s.ow * s.sw - s.left;
                const bool within = row >= 0 && row + (s.kh - 1) * s.dh < s.h && column >= 0 && column + (s.kw - 1) * s.dw < s.width;
                for (int64_t c = 0; c < s.c; c++) {
                    float *to = columns + ((c / s.cg * pixels + i) * s.cg + c % s.cg) * taps;
                    const float *from = image + (c * s.h + row) * s.width + column;
                    for (int64_t u = 0; u < s.kh; u++, from += s.dh * s.width)
                        for (int64_t v = 0; v < s.kw; v++, to++) {
                            const int64_t y = row + u * s.dh, x = column + v * s.dw;
                            *to = within || (y >= 0 && y < s.h && x >= 0 && x < s.width) ? from[v * s.dw] : 0.0f;
                        }
                }
            }
#pragma omp for schedule(static)
            for (int64_t k = 0; k < s.group * s.blocks * tiles; k++) {
                const int64_t block = k / tiles, g = block / s.blocks, at = k % tiles * PIXELS;
                const float *pixel[PIXELS];
                for (int64_t p = 0; p < PIXELS; p++) pixel[p] = columns + (g * pixels + std::min(at + p, pixels - 1)) * s.taps;
                outputs(s, packed, n, block, at, pixels - at, pixel, place);
            }
        }
    }
    return 0;
}

extern "C" int64_t im2col_convolution_workspace(const Call *call) {
    const Shape s(call);
    return s.empty() ? 0 : (packed_size(s) + s.c * s.kh * s.kw * s.oh * s.ow) * (int64_t)sizeof(float);
}

// Straight from a padded copy of the image ------------------------------------------------------------------------------
extern "C" int direct_convolution(const Call *call) {
    const Shape s(call);
    if (s.empty()) return 0;
    const int64_t rows = s.padded_rows(), columns = s.padded_columns();
    float *packed = (float *)call->workspace, *padded = packed + packed_size(s);
    pack(s, packed, false);
    std::vector<int64_t> segments(s.cg * s.kh);
    for (int64_t c = 0; c < s.cg; c++)
        for (int64_t u = 0; u < s.kh; u++) segments[c * s.kh + u] = (c * rows + u * s.dh) * columns;
    const Place place = {segments.data(), (int64_t)segments.size(), s.kw, s.dw};
    for (int64_t n = 0; n < s.n; n++) {
#pragma omp parallel num_threads(s.threads(call))
        {
#pragma omp for schedule(static)
            for (int64_t k = 0; k < s.c * rows; k++) {
                const int64_t row = k % rows - s.top;
                const float *from = s.x + ((n * s.c + k / rows) * s.h + row) * s.width;
                for (int64_t j = 0; j < columns; j++) {
                    const bool inside = row >= 0 && row < s.h && j >= s.left && j - s.left < s.width;
                    padded[k * columns + j] = inside ? from[j - s.left] : 0.0f;
                }
            }
#pragma omp for schedule(static)
            for (int64_t k = 0; k < s.group * s.blocks * s.oh; k++) {
                const int64_t block = k / s.oh, g = block / s.blocks, m = k % s.oh;
                const float *row = padded + (g * s.cg * rows + m * s.sh) * columns;
                for (int64_t t = 0; t < s.ow; t += PIXELS) {
                    const float *pixel[PIXELS];
                    for (int64_t p = 0; p < PIXELS; p++) pixel[p] = row + std::min(t + p, s.ow - 1) * s.sw;
                    outputs(s, packed, n, block, m * s.ow + t, s.ow - t, pixel, place);
                }
            }
        }
    }
    return 0;
}

extern "C" int64_t direct_convolution_workspace(const Call *call) {
    const Shape s(call);
    return s.empty() ? 0 : (packed_size(s) + s.c * s.padded_rows() * s.padded_columns()) * (int64_t)sizeof(float);
}

// Seven loops, as the definition has them.
extern "C" int naive_convolution(const Call *call) {
    const Shape s(call);
#pragma omp parallel for num_threads(s.threads(call))
    for (int64_t k = 0; k < s.n * s.o * s.oh; k++) {
        const int64_t n = k / s.oh / s.o, o = k / s.oh % s.o, m = k % s.oh;
        for (int64_t j = 0; j < s.ow; j++) {
            float sum = s.bias ? s.bias[o] : 0.0f;
            for (int64_t c = 0; c < s.cg; c++)
                for (int64_t u = 0; u < s.kh; u++)
                    for (int64_t v = 0; v < s.kw; v++) {
                        const int64_t row = m * s.sh + u * s.dh - s.top, column = j * s.sw + v * s.dw - s.left;
                        if (row < 0 || row >= s.h || column < 0 || column >= s.width) continue;
                        sum += s.x[((n * s.c + o / s.og * s.cg + c) * s.h + row) * s.width + column] * s.w[((o * s.cg + c) * s.kh + u) * s.kw + v];
                    }
            s.y[k * s.ow + j] = sum;
        }
    }
    return 0;
}
