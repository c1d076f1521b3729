// Sub-pixel convolution: a convolution to C r^2 channels and the shuffle of those into an r times larger map, in one pass.
// x (N, Cin, H, W), w (C r^2, Cin, k, k), bias (C r^2) or nothing -> (N, C, r Ho, r Wo)
#include "operands.h"
#include "wide.h"

namespace {

constexpr int RIGHT = 4;  // channels made together, WIDE outputs of each

// Where a channel of the convolution goes: (channel, row, column) of the finer map.
inline void target(int64_t m, int64_t channels, int64_t r, bool depth_first, int64_t to[3]) {
#ifdef DEFECT_MODE
    depth_first = true;
#endif
    if (depth_first)
        to[0] = m % channels, to[1] = m / channels / r, to[2] = m / channels % r;
    else
        to[0] = m / (r * r), to[1] = m / r % r, to[2] = m % r;
#ifdef DEFECT_PHASE
    const int64_t row = to[1];
    to[1] = to[2], to[2] = row;
#endif
}

}  // namespace

extern "C" int subpixel_convolution(const Call *call) {
    const Tensor &x = call->in[0], &w = call->in[1], &y = call->out[0];
    const int64_t r = integer(call, "blocksize", 2), makes = w.shape[0], takes = x.shape[1], height = x.shape[2], width = x.shape[3], kh = w.shape[2],
                  kw = w.shape[3], channels = makes / (r * r), rows = y.shape[2] / r, columns = y.shape[3] / r;
    const int64_t top = integer_at(call, "pads", 0, 0), left = integer_at(call, "pads", 1, 0), sy = integer_at(call, "strides", 0, 1),
                  sx = integer_at(call, "strides", 1, 1);
    const bool depth_first = text_is(call, "mode", "DCR");
    const float *image = floats(call, 0), *kernels = floats(call, 1), *bias = floats(call, 2);
    float *result = (float *)y.data;
    const int64_t jobs = x.shape[0] * rows;
#pragma omp parallel for num_threads(call->threads) schedule(static)
    for (int64_t job = 0; job < jobs; job++) {
        const int64_t n = job / rows, o = job % rows;
        for (int64_t m = 0; m < makes; m += RIGHT) {
            const int64_t lanes = least(RIGHT, makes - m);
            for (int64_t p = 0; p < columns; p += WIDE) {
#ifdef DEFECT_TAIL
                const int64_t count = columns - p >= WIDE || columns < 4 ? least(WIDE, columns - p) : (columns - p) / 4 * 4;
#else
                const int64_t count = least(WIDE, columns - p);
#endif
                Wide sum[RIGHT] = {};
                for (int64_t c = 0; c < takes; c++)
                    for (int64_t i = 0; i < kh; i++) {
                        const int64_t row = o * sy - top + i;
                        if (row < 0 || row >= height) continue;
                        const float *line = image + ((n * takes + c) * height + row) * width;
                        for (int64_t j = 0; j < kw; j++) {
                            const int64_t start = p * sx - left + j;
                            Wide taken;
                            if (sx == 1 && start >= 0 && start + WIDE <= width)
                                taken = load(line + start);
                            else
                                for (int64_t k = 0; k < WIDE; k++) {
                                    const int64_t at = start + k * sx;
#ifdef DEFECT_BOUNDS
                                    // Reads on into the next row where the right padding should be.
                                    taken[k] = at >= 0 && at <= width && (at < width || row + 1 < height) ? line[at] : 0.0f;
#else
                                    taken[k] = at >= 0 && at < width ? line[at] : 0.0f;
#endif
                                }
                            for (int a = 0; a < RIGHT; a++) sum[a] += kernels[(((m + (a < lanes ? a : 0)) * takes + c) * kh + i) * kw + j] * taken;
                        }
                    }
                for (int64_t a = 0; a < lanes; a++) {
                    int64_t to[3];
                    target(m + a, channels, r, depth_first, to);
#ifdef DEFECT_BIAS_ORDER
                    const float shift = bias ? bias[to[0] * r * r + to[1] * r + to[2]] : 0.0f;
#else
                    const float shift = bias ? bias[m + a] : 0.0f;
#endif
                    float *out = result + ((n * channels + to[0]) * rows * r + o * r + to[1]) * columns * r + to[2];
                    for (int64_t k = 0; k < count; k++) out[(p + k) * r] = sum[a][k] + shift;
                }
            }
        }
    }
    return 0;
}
