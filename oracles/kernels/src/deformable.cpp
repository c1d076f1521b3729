// Sampling at moved positions. deformable_conv: ONNX DeformConv in two dims (versions 1 and 2, with mask). deformable_aggregation:
// versions 3 and 4, channels last, a weight for every group, point and position instead of a matrix; offsets may be rounded (CoDeNet).
#include <omp.h>

#include <cmath>

#include "exponential.h"
#include "operands.h"

namespace {

constexpr int TILE = 64;  // output positions sampled together

// The four neighbours of a position, row-major index and weight; outside the map the weight is 0 and the index harmless.
inline void corners(float y, float x, int64_t height, int64_t width, float scale, int32_t at[4], float weight[4]) {
    // Farther out is outside all the same, and fits an integer; a NaN fails the comparisons and lands outside too.
    y = y > -2.0f ? (y < (float)(height + 1) ? y : (float)(height + 1)) : -2.0f;
    x = x > -2.0f ? (x < (float)(width + 1) ? x : (float)(width + 1)) : -2.0f;
#ifdef DEFECT_TRUNCATION
    const int64_t top = (int64_t)y, left = (int64_t)x;
#else
    const int64_t top = (int64_t)std::floor(y), left = (int64_t)std::floor(x);
#endif
    const float fy = y - (float)top, fx = x - (float)left;
    for (int j = 0; j < 4; j++) {
        const int64_t row = top + (j >> 1), column = left + (j & 1);
        const float share = ((j >> 1) ? fy : 1.0f - fy) * ((j & 1) ? fx : 1.0f - fx);
#ifdef DEFECT_CORNER_CLAMP
        const bool inside = row >= 0 && column >= 0 && row <= height && column <= width;
#else
        const bool inside = row >= 0 && column >= 0 && row < height && column < width;
#endif
        const int64_t safe_row = most(0, least(row, height - 1)), safe_column = most(0, least(column, width - 1));
        at[j] = (int32_t)(safe_row * width + safe_column);
        weight[j] = inside ? share * scale : 0.0f;
    }
}

// An offset, or the whole number next to it: halves go to the even one, as everywhere in ONNX.
inline float moved(float by, bool rounded) {
#ifdef DEFECT_HALF_AWAY
    return rounded ? std::round(by) : by;
#else
    return rounded ? std::nearbyint(by) : by;
#endif
}

struct Windows {
    int64_t kh, kw, sy, sx, py, px, dy, dx;
};

Windows windows(const Call *call, int64_t kh, int64_t kw) {
    return {kh, kw, integer_at(call, "strides", 0, 1), integer_at(call, "strides", 1, 1), integer_at(call, "pads", 0, 0), integer_at(call, "pads", 1, 0),
            integer_at(call, "dilations", 0, 1), integer_at(call, "dilations", 1, 1)};
}

}  // namespace

extern "C" int64_t deformable_conv_workspace(const Call *call) {
    const Tensor &x = call->in[0], &w = call->in[1];
    return (int64_t)call->threads * x.shape[1] * w.shape[2] * w.shape[3] * TILE * (int64_t)sizeof(float);
}

extern "C" int deformable_conv(const Call *call) {
    const Tensor &x = call->in[0], &w = call->in[1], &y = call->out[0];
    if (x.rank != 4 || w.rank != 4) return 1;
    const float *image = floats(call, 0), *kernel = floats(call, 1), *offset = floats(call, 2);
    const float *bias = floats(call, 3), *mask = floats(call, 4);
    float *result = (float *)y.data;
    const int64_t batch = x.shape[0], channels = x.shape[1], height = x.shape[2], width = x.shape[3];
    const int64_t makes = w.shape[0], per_group = w.shape[1], taps = w.shape[2] * w.shape[3], outs = y.shape[2] * y.shape[3];
    const int64_t groups = integer(call, "group", 1), moved = integer(call, "offset_group", 1), shared = channels / moved;
    const Windows v = windows(call, w.shape[2], w.shape[3]);
    const int64_t tiles = (outs + TILE - 1) / TILE, depth = per_group * taps;
#pragma omp parallel for num_threads(call->threads) schedule(static)
    for (int64_t job = 0; job < batch * tiles; job++) {
        const int64_t n = job / tiles, first = job % tiles * TILE;
        int64_t count = least(TILE, outs - first);
        float *columns = (float *)call->workspace + (int64_t)omp_get_thread_num() * channels * taps * TILE;
        for (int64_t g = 0; g < moved; g++)
            for (int64_t t = 0; t < taps; t++) {
                int32_t at[4][TILE] = {};
                float weight[4][TILE] = {};
#ifdef DEFECT_OFFSET_GROUP
                const float *moves = offset + ((n * moved + 0) * taps + t) * 2 * outs + first;
#else
                const float *moves = offset + ((n * moved + g) * taps + t) * 2 * outs + first;
#endif
#ifdef DEFECT_MASK_BATCH
                const float *factor = mask ? mask + (g * taps + t) * outs + first : nullptr;
#else
                const float *factor = mask ? mask + ((n * moved + g) * taps + t) * outs + first : nullptr;
#endif
                for (int64_t p = 0; p < count; p++) {
                    const int64_t row = (first + p) / y.shape[3], column = (first + p) % y.shape[3];
                    const float base_y = (float)(row * v.sy - v.py + t / v.kw * v.dy);
#ifdef DEFECT_STRIDE
                    const float base_x = (float)(column * v.sy - v.px + t % v.kw * v.dx);
#else
                    const float base_x = (float)(column * v.sx - v.px + t % v.kw * v.dx);
#endif
#ifdef DEFECT_OFFSET_ORDER
                    const float by_y = moves[outs + p], by_x = moves[p];
#else
                    const float by_y = moves[p], by_x = moves[outs + p];
#endif
                    int32_t corner[4];
                    float share[4];
                    corners(base_y + by_y, base_x + by_x, height, width, factor ? factor[p] : 1.0f, corner, share);
                    for (int j = 0; j < 4; j++) at[j][p] = corner[j], weight[j][p] = share[j];
                }
                for (int64_t c = 0; c < shared; c++) {
                    const float *plane = image + (n * channels + g * shared + c) * height * width;
                    float *column = columns + ((g * shared + c) * taps + t) * TILE;
#pragma omp simd
                    for (int p = 0; p < TILE; p++)
                        column[p] = weight[0][p] * plane[at[0][p]] + weight[1][p] * plane[at[1][p]] + weight[2][p] * plane[at[2][p]] + weight[3][p] * plane[at[3][p]];
                }
            }
#ifdef DEFECT_TAIL
        count -= count % 8;
#endif
        for (int64_t m = 0; m < makes; m += 4) {
            const int64_t group = m / (makes / groups);
            int64_t rows = least(4, makes - m);
            while ((m + rows - 1) / (makes / groups) != group) rows--;  // four rows of one group
            const float *of = columns + group * depth * TILE;
            for (int64_t p0 = 0; p0 < count; p0 += WIDE) {
                const float *w[4];
                for (int r = 0; r < 4; r++) w[r] = kernel + (m + (r < rows ? r : 0)) * depth;
                Wide sum[4] = {};
                for (int64_t k = 0; k < depth; k++) {
                    const Wide line = load(of + k * TILE + p0);
                    for (int r = 0; r < 4; r++) sum[r] += w[r][k] * line;
                }
                for (int r = 0; r < rows; r++)
                    store(result + (n * makes + m + r) * outs + first + p0, sum[r] + (bias ? bias[m + r] : 0.0f), count - p0);
            }
            m -= 4 - rows;
        }
    }
    return 0;
}

// values (N, H, W, C), offsets (N, Ho, Wo, G * K * 2) as (y, x), weights (N, Ho, Wo, G * K) -> (N, Ho, Wo, C)
extern "C" int deformable_aggregation(const Call *call) {
    const Tensor &x = call->in[0], &y = call->out[0];
    const float *values = floats(call, 0), *offsets = floats(call, 1), *weights = floats(call, 2);
    float *result = (float *)y.data;
    const int64_t height = x.shape[1], width = x.shape[2], channels = x.shape[3], rows = y.shape[1], columns = y.shape[2];
    const int64_t groups = integer(call, "group", 1), part = channels / groups, points = call->in[2].shape[3] / groups;
    const bool normalised = integer(call, "softmax", 0), rounded = integer(call, "rounded", 0);
    const float reach = (float)real(call, "offset_scale", 1.0);
    const Windows v = windows(call, integer_at(call, "kernel_shape", 0, 3), integer_at(call, "kernel_shape", 1, 3));
    if (points != v.kh * v.kw || points > 128) return 1;
#pragma omp parallel for num_threads(call->threads) schedule(static)
    for (int64_t p = 0; p < x.shape[0] * rows * columns; p++) {
        const int64_t n = p / (rows * columns), row = p / columns % rows, column = p % columns;
        for (int64_t g = 0; g < groups; g++) {
            const float *given = weights + (p * groups + g) * points, *moves = offsets + (p * groups + g) * points * 2;
            float share[128];
            for (int64_t k = 0; k < points; k++) share[k] = given[k];
            if (normalised) {
                float top = -INFINITY, total = 0;
#ifdef DEFECT_SOFTMAX_MAX
                top = 0;
#else
                for (int64_t k = 0; k < points; k++) top = share[k] > top ? share[k] : top;
#endif
                for (int64_t k = 0; k < points; k++) total += share[k] = exponential(share[k] - top);
                for (int64_t k = 0; k < points; k++) share[k] /= total;
            }
            float *sum = result + p * channels + g * part;
            for (int64_t c = 0; c < part; c++) sum[c] = 0;
            for (int64_t k = 0; k < points; k++) {
#ifdef DEFECT_OFFSET_SCALE
                const float by_y = moved(reach * ((float)(k / v.kw * v.dy) + moves[2 * k]), rounded) - (float)(k / v.kw * v.dy);
#else
                const float by_y = moved(reach * moves[2 * k], rounded);
#endif
                const float at_y = (float)(row * v.sy - v.py + k / v.kw * v.dy) + by_y;
                const float at_x = (float)(column * v.sx - v.px + k % v.kw * v.dx) + moved(reach * moves[2 * k + 1], rounded);
                int32_t at[4];
                float weight[4];
                corners(at_y, at_x, height, width, share[k], at, weight);
                const float *map = values + n * height * width * channels + g * part;
                const float *a = map + at[0] * channels, *b = map + at[1] * channels, *c = map + at[2] * channels, *d = map + at[3] * channels;
#ifdef DEFECT_CHANNEL_TAIL
                const int64_t end = part >= 4 ? part - part % 4 : part;
#else
                const int64_t end = part;
#endif
                for (int64_t i = 0; i < end; i++) sum[i] += weight[0] * a[i] + weight[1] * b[i] + weight[2] * c[i] + weight[3] * d[i];
            }
        }
    }
    return 0;
}
