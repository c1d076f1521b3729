// Involution: every output position has its own kernel, shared by the channels of a group. One or two spatial dims.
// x (N, C, *space), kernels (N, G, taps, *out) -> (N, C, *out)
#include "operands.h"

namespace {

struct Axis {
    int64_t size, out, kernel, stride, pad, dilation;
    // The outputs whose tap k lies inside the input.
    int64_t first(int64_t k) const { return most(0, up(pad - k * dilation, stride)); }
    int64_t end(int64_t k) const { return least(out, down(size - 1 + pad - k * dilation, stride) + 1); }
    int64_t at(int64_t o, int64_t k) const { return o * stride - pad + k * dilation; }
};

Axis axis(const Call *call, int i, int rank) {
    const int dim = 2 + i, back = i - (2 - rank);  // a row alone is a map of height 1
    if (back < 0) return {1, 1, 1, 1, 0, 1};
    const int from = rank == 1 ? dim - 1 : dim;
    return {call->in[0].shape[from], call->out[0].shape[from], integer_at(call, "kernel_shape", back, 1), integer_at(call, "strides", back, 1),
            integer_at(call, "pads", back, 0), integer_at(call, "dilations", back, 1)};
}

}  // namespace

extern "C" int involution(const Call *call) {
    const Tensor &x = call->in[0], &w = call->in[1];
    const int rank = x.rank - 2;
    const Axis rows = axis(call, 0, rank), columns = axis(call, 1, rank);
    const int64_t channels = x.shape[1], groups = w.shape[1], shared = channels / groups, outs = rows.out * columns.out, space = rows.size * columns.size;
    const int64_t jobs = x.shape[0] * groups * rows.out;
    const float *image = floats(call, 0), *kernels = floats(call, 1);
    float *result = (float *)call->out[0].data;
#pragma omp parallel for num_threads(call->threads) schedule(static) if (jobs * columns.out * shared > 4096)
    for (int64_t job = 0; job < jobs; job++) {
        const int64_t n = job / (groups * rows.out), g = job / rows.out % groups, o = job % rows.out;
        const float *weights = kernels + ((n * groups + g) * rows.kernel * columns.kernel * rows.out + o) * columns.out;  // a tap is `outs` further
        for (int64_t member = 0; member < shared; member++) {
#ifdef DEFECT_INTERLEAVED_GROUPS
            const int64_t c = member * groups + g;
#else
            const int64_t c = g * shared + member;
#endif
            float *__restrict y = result + (n * channels + c) * outs + o * columns.out;
            for (int64_t p = 0; p < columns.out; p++) y[p] = 0;
            for (int64_t i = 0; i < rows.kernel; i++) {
                const int64_t row = rows.at(o, i);
                if (row < 0 || row >= rows.size) continue;
                for (int64_t j = 0; j < columns.kernel; j++) {
                    const float *factor = weights + (i * columns.kernel + j) * outs;
                    const float *line = image + (n * channels + c) * space + row * columns.size - columns.pad + j * columns.dilation;
#ifdef DEFECT_HALO
                    const int64_t first = columns.first(j), end = least(columns.end(j), columns.out - (j + 1 == columns.kernel ? columns.pad + 1 : 0));
#else
                    const int64_t first = columns.first(j), end = columns.end(j);
#endif
#if defined(DEFECT_TAIL)
                    const int64_t last = i + 1 == rows.kernel && end - first >= 8 ? end - (end - first) % 8 : end;
#else
                    const int64_t last = end;
#endif
#if defined(DEFECT_HALF_ACCUMULATOR)
                    for (int64_t p = first; p < last; p++) y[p] = (float)(_Float16)(y[p] + factor[p] * line[p * columns.stride]);
#elif defined(DEFECT_STRIDE)
                    for (int64_t p = first; p < last; p++) y[p] += factor[p] * line[p * (j == 0 ? columns.stride : 1) + (j ? first * (columns.stride - 1) : 0)];
#else
                    if (columns.stride == 1)
                        for (int64_t p = first; p < last; p++) y[p] += factor[p] * line[p];
                    else
                        for (int64_t p = first; p < last; p++) y[p] += factor[p] * line[p * columns.stride];
#endif
                }
            }
        }
    }
    return 0;
}
