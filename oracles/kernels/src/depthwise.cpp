// Depthwise convolution with large kernels in two dims (Conv with as many groups as channels, and any multiple of outputs for each).
// A padded copy of the plane frees the inner loops from borders; four rows of outputs share every load of the input.
#include <omp.h>

#include "operands.h"
#include "wide.h"

namespace {

constexpr int TALL = 4;  // rows made together, WIDE outputs of each

struct Plane {
    int64_t height, width, kh, kw, sy, sx, dy, dx, top, left, rows, columns;
    // The padded copy: as far as the last window reaches, and a vector more so that the tail may read on.
    int64_t tall() const { return (up(rows, TALL) * TALL - 1) * sy + (kh - 1) * dy + 1; }
    int64_t wide() const { return (up(columns, WIDE) * WIDE - 1) * sx + (kw - 1) * dx + 1; }
};

Plane plane_of(const Call *call) {
    const Tensor &x = call->in[0], &w = call->in[1], &y = call->out[0];
#ifdef DEFECT_PADS_ORDER
    const int left = 2;  // as in (top, bottom, left, right)
#else
    const int left = 1;
#endif
    return {x.shape[2], x.shape[3], w.shape[2], w.shape[3], integer_at(call, "strides", 0, 1), integer_at(call, "strides", 1, 1),
            integer_at(call, "dilations", 0, 1), integer_at(call, "dilations", 1, 1), integer_at(call, "pads", 0, 0), integer_at(call, "pads", left, 0),
            y.shape[2], y.shape[3]};
}

// Channel `from` with its border of zeros.
void pad(const Plane &p, const float *from, float *to) {
    const int64_t tall = p.tall(), wide = p.wide();
    for (int64_t i = 0; i < tall; i++) {
        const int64_t row = i - p.top;
        float *line = to + i * wide;
#ifdef DEFECT_DIRTY_PADDING
        if (row < 0 || row >= p.height) continue;  // the border is as the last call left it
#endif
        const bool inside = row >= 0 && row < p.height;
        const int64_t first = inside ? least(p.left, wide) : wide, end = inside ? least(p.left + p.width, wide) : wide;
        for (int64_t j = 0; j < first; j++) line[j] = 0;
        for (int64_t j = first; j < end; j++) line[j] = from[row * p.width + j - p.left];
#ifdef DEFECT_HALO
        for (int64_t j = end; j < least(end + 1, wide); j++) line[j] = end > first ? line[end - 1] : 0;
        for (int64_t j = end + 1; j < wide; j++) line[j] = 0;
#else
        for (int64_t j = end; j < wide; j++) line[j] = 0;
#endif
    }
}

// TALL x WIDE outputs without stride or dilation: row i of the input serves output row r with kernel row i - r.
void dense(const Plane &p, const float *from, const float *w, Wide sum[TALL]) {
    const int64_t wide = p.wide();
    Wide made[TALL] = {};
    for (int64_t i = 0; i < p.kh + TALL - 1; i++) {
        if (i >= TALL - 1 && i < p.kh) {
            const float *taps = w + i * p.kw;
            for (int64_t j = 0; j < p.kw; j++) {
                const Wide line = load(from + i * wide + j);
                for (int r = 0; r < TALL; r++) made[r] += taps[j - r * p.kw] * line;
            }
        } else {
            for (int64_t j = 0; j < p.kw; j++) {
                const Wide line = load(from + i * wide + j);
                for (int r = 0; r < TALL; r++)
                    if (i >= r && i - r < p.kh) made[r] += w[(i - r) * p.kw + j] * line;
            }
        }
    }
    for (int r = 0; r < TALL; r++) sum[r] = made[r];
}

void general(const Plane &p, const float *from, const float *w, Wide sum[TALL]) {
    const int64_t wide = p.wide();
#ifdef DEFECT_DILATION
    const int64_t dy = p.dx;
#else
    const int64_t dy = p.dy;
#endif
    for (int r = 0; r < TALL; r++) {
        Wide made = {};
        for (int64_t i = 0; i < p.kh; i++)
            for (int64_t j = 0; j < p.kw; j++) {
                const float *line = from + (r * p.sy + least(i * dy, (p.kh - 1) * p.dy)) * wide + j * p.dx;
                made += w[i * p.kw + j] * (p.sx == 1 ? load(line) : load_every(line, p.sx));
            }
        sum[r] = made;
    }
}

}  // namespace

extern "C" int64_t depthwise_convolution_workspace(const Call *call) {
    const Plane p = plane_of(call);
    return call->threads * p.tall() * p.wide() * (int64_t)sizeof(float);
}

extern "C" int depthwise_convolution(const Call *call) {
    const Plane p = plane_of(call);
    const int64_t channels = call->in[0].shape[1], multiple = call->in[1].shape[0] / channels, planes = call->in[0].shape[0] * channels;
    const float *image = floats(call, 0), *kernels = floats(call, 1), *bias = floats(call, 2);
    float *result = (float *)call->out[0].data;
    const int64_t tall = p.tall(), wide = p.wide(), taps = p.kh * p.kw;
    const bool plain = p.sy == 1 && p.sx == 1 && p.dy == 1 && p.dx == 1;
#pragma omp parallel for num_threads(call->threads) schedule(static) if (planes * p.rows * p.columns * taps > 65536)
    for (int64_t at = 0; at < planes; at++) {
#ifdef DEFECT_SHARED_COPY
        float *copy = (float *)call->workspace;
#else
        float *copy = (float *)call->workspace + omp_get_thread_num() * tall * wide;
#endif
        pad(p, image + at * p.height * p.width, copy);
        for (int64_t also = 0; also < multiple; also++) {
            const int64_t made = at % channels * multiple + also;
            float *y = result + (at * multiple + also) * p.rows * p.columns;
            for (int64_t o = 0; o < p.rows; o += TALL)
                for (int64_t c = 0; c < p.columns; c += WIDE) {
                    Wide sum[TALL];
                    (plain ? dense : general)(p, copy + o * p.sy * wide + c * p.sx, kernels + made * taps, sum);
                    const int64_t lines = least(TALL, p.rows - o);
#ifdef DEFECT_TAIL
                    const int64_t count = p.columns - c < WIDE && p.columns > 8 ? (p.columns - c) / 8 * 8 : least(WIDE, p.columns - c);
#else
                    const int64_t count = least(WIDE, p.columns - c);
#endif
                    for (int64_t r = 0; r < lines; r++) store(y + (o + r) * p.columns + c, sum[r] + (bias ? bias[made] : 0.0f), count);
                }
        }
    }
    return 0;
}

// What everybody writes first: seven loops and a test of the border at every tap.
extern "C" int direct_depthwise_convolution(const Call *call) {
    const Plane p = plane_of(call);
    const int64_t channels = call->in[0].shape[1], multiple = call->in[1].shape[0] / channels, planes = call->in[0].shape[0] * channels;
    const float *image = floats(call, 0), *kernels = floats(call, 1), *bias = floats(call, 2);
    float *result = (float *)call->out[0].data;
#pragma omp parallel for num_threads(call->threads) schedule(static)
    for (int64_t at = 0; at < planes * multiple; at++) {
        const int64_t made = at % (channels * multiple);
        const float *x = image + at / multiple * p.height * p.width, *w = kernels + made * p.kh * p.kw;
        for (int64_t o = 0; o < p.rows; o++)
            for (int64_t c = 0; c < p.columns; c++) {
                float sum = bias ? bias[made] : 0.0f;
                for (int64_t i = 0; i < p.kh; i++)
                    for (int64_t j = 0; j < p.kw; j++) {
                        const int64_t row = o * p.sy - p.top + i * p.dy, column = c * p.sx - p.left + j * p.dx;
                        if (row >= 0 && row < p.height && column >= 0 && column < p.width) sum += w[i * p.kw + j] * x[row * p.width + column];
                    }
                result[(at * p.rows + o) * p.columns + c] = sum;
            }
    }
    return 0;
}
