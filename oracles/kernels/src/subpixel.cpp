// Sub-pixel convolution: a convolution to C r^2 channels and the shuffle of those into an r times larger map, in one pass.
// x (N, Cin, H, W), w (C r^2, Cin, k, k), bias (C r^2) or nothing -> (N, C, r Ho, r Wo)
#include <omp.h>

#include "operands.h"
#include "wide.h"

namespace {

#ifdef __AVX512F__
constexpr int RIGHT = 8;  // channels made together, WIDE outputs of each
#else
constexpr int RIGHT = 4;
#endif

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

struct Layer {
    int64_t batch, takes, makes, height, width, kh, kw, top, left, sy, sx, r, rows, columns;
    // Of a padded row: as far as the last vector of outputs reads.
    int64_t wide() const { return (up(columns, WIDE) * WIDE - 1) * sx + kw; }
    int64_t scratch() const { return takes * kh * wide(); }
};

Layer layer_of(const Call *call) {
    const Tensor &x = call->in[0], &w = call->in[1], &y = call->out[0];
    const int64_t r = integer(call, "blocksize", 2);
    return {x.shape[0], x.shape[1], w.shape[0], x.shape[2], x.shape[3], w.shape[2], w.shape[3], integer_at(call, "pads", 0, 0), integer_at(call, "pads", 1, 0),
            integer_at(call, "strides", 0, 1), integer_at(call, "strides", 1, 1), r, y.shape[2] / r, y.shape[3] / r};
}

// The rows of all channels that output row o needs, with their borders of zeros.
void pad(const Layer &l, const float *image, int64_t o, float *to) {
    const int64_t wide = l.wide(), end = least(wide, l.left + l.width);
    for (int64_t c = 0; c < l.takes; c++)
        for (int64_t i = 0; i < l.kh; i++, to += wide) {
            const int64_t row = o * l.sy - l.top + i;
            if (row < 0 || row >= l.height) {
                for (int64_t k = 0; k < wide; k++) to[k] = 0;
                continue;
            }
            const float *line = image + (c * l.height + row) * l.width;
            for (int64_t k = 0; k < least(l.left, wide); k++) to[k] = 0;
            for (int64_t k = l.left; k < end; k++) to[k] = line[k - l.left];
            for (int64_t k = most(0, end); k < wide; k++) to[k] = 0;
#ifdef DEFECT_BOUNDS
            if (end < wide && row + 1 < l.height) to[end] = line[l.width];  // reads on into the next row where the padding should be
#endif
        }
}

}  // namespace

extern "C" int64_t subpixel_convolution_workspace(const Call *call) { return call->threads * layer_of(call).scratch() * (int64_t)sizeof(float); }

extern "C" int subpixel_convolution(const Call *call) {
    const Layer l = layer_of(call);
    const int64_t channels = l.makes / (l.r * l.r), wide = l.wide(), depth = l.takes * l.kh * l.kw;
    const bool depth_first = text_is(call, "mode", "DCR");
    const float *image = floats(call, 0), *kernels = floats(call, 1), *bias = floats(call, 2);
    float *result = (float *)call->out[0].data;
#pragma omp parallel for num_threads(call->threads) schedule(static) if (l.batch * l.rows * l.columns * l.makes * depth > 65536)
    for (int64_t job = 0; job < l.batch * l.rows; job++) {
        const int64_t n = job / l.rows, o = job % l.rows;
        float *rows = (float *)call->workspace + omp_get_thread_num() * l.scratch();
        pad(l, image + n * l.takes * l.height * l.width, o, rows);
        for (int64_t m = 0; m < l.makes; m += RIGHT) {
            const int64_t lanes = least(RIGHT, l.makes - m);
            for (int64_t p = 0; p < l.columns; p += WIDE) {
#ifdef DEFECT_TAIL
                const int64_t count = l.columns - p >= WIDE || l.columns < 4 ? least(WIDE, l.columns - p) : (l.columns - p) / 4 * 4;
#else
                const int64_t count = least(WIDE, l.columns - p);
#endif
                const float *w[RIGHT];
                for (int a = 0; a < RIGHT; a++) w[a] = kernels + (m + (a < lanes ? a : 0)) * depth;
                Wide sum[RIGHT] = {};
                for (int64_t line = 0, k = 0; line < l.takes * l.kh; line++)
                    for (int64_t j = 0; j < l.kw; j++, k++) {
                        const float *at = rows + line * wide + p * l.sx + j;
                        const Wide taken = l.sx == 1 ? load(at) : load_every(at, l.sx);
                        for (int a = 0; a < RIGHT; a++) sum[a] += w[a][k] * taken;
                    }
                for (int64_t a = 0; a < lanes; a++) {
                    int64_t to[3];
                    target(m + a, channels, l.r, depth_first, to);
#ifdef DEFECT_BIAS_ORDER
                    const float shift = bias ? bias[to[0] * l.r * l.r + to[1] * l.r + to[2]] : 0.0f;
#else
                    const float shift = bias ? bias[m + a] : 0.0f;
#endif
                    float *out = result + ((n * channels + to[0]) * l.rows * l.r + o * l.r + to[1]) * l.columns * l.r + to[2];
                    for (int64_t k = 0; k < count; k++) out[(p + k) * l.r] = sum[a][k] + shift;
                }
            }
        }
    }
    return 0;
}
