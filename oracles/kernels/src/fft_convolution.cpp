// Convolution by Fourier transforms in one or two dims, stride 1. A transform's error is relative to the norms of a whole map and of a
// whole kernel, not to the terms of one output: it is done in double, and outputs too small to be trusted are computed again directly.
#include <omp.h>

#include <cmath>

#include "fourier.h"

using fourier::Complex;
using fourier::Number;

namespace {

struct Axis {
    int64_t size, out, kernel, pad, dilation, fast;
};

Axis axis_of(const Call *call, int i, int rank) {
    const int at = i - (2 - rank);  // a row alone is a map of height 1
    if (at < 0) return {1, 1, 1, 0, 1, 1};
    const int64_t size = call->in[0].shape[2 + at], begin = integer_at(call, "pads", at, 0), end = integer_at(call, "pads", at + rank, 0);
#ifdef DEFECT_WRAP
    const int64_t room = size + least(begin, end);
#else
    const int64_t room = size + most(begin, end);  // what a window may reach outside must be zeros, on a circle
#endif
    return {size, call->out[0].shape[2 + at], call->in[1].shape[2 + at], begin, integer_at(call, "dilations", at, 1), fourier::fast_size(room)};
}

struct Layer {
    Axis rows, columns;
    int64_t batch, takes, makes, groups, per_group;  // per_group: input channels of one
    // Points of a whole transform, and of the half that the other half mirrors.
    int64_t points() const { return rows.fast * columns.fast; }
    int64_t half() const { return (columns.fast / 2 + 1) * rows.fast; }
    int64_t private_numbers() const { return 4 * points() + 4 * half() * (1 + batch) + batch; }
};

Layer layer_of(const Call *call) {
    const Tensor &x = call->in[0], &w = call->in[1];
    return {axis_of(call, 0, x.rank - 2), axis_of(call, 1, x.rank - 2), x.shape[0], x.shape[1], w.shape[0], integer(call, "group", 1), w.shape[1]};
}

// The transform of two real maps as one complex one; the result is transposed, which nobody minds.
struct Plan {
    const Layer &l;
    fourier::Roots down, across;
    explicit Plan(const Layer &layer) : l(layer), down(layer.rows.fast), across(layer.columns.fast) {}

    void forward(Complex z, Complex spare) const {
        if (l.rows.fast == 1) return fourier::transform(across, l.columns.fast, 1, z, spare);
        fourier::transform(down, l.rows.fast, l.columns.fast, z, spare);
        fourier::transpose(l.rows.fast, l.columns.fast, z.re, spare.re);
        fourier::transpose(l.rows.fast, l.columns.fast, z.im, spare.im);
        fourier::transform(across, l.columns.fast, l.rows.fast, spare, z);
        memcpy(z.re, spare.re, sizeof(Number) * (size_t)l.points());
        memcpy(z.im, spare.im, sizeof(Number) * (size_t)l.points());
    }

    void backward(Complex z, Complex spare) const {
        if (l.rows.fast == 1) return fourier::transform(across, l.columns.fast, 1, {z.im, z.re}, {spare.im, spare.re});
        fourier::transform(across, l.columns.fast, l.rows.fast, {z.im, z.re}, {spare.im, spare.re});
        fourier::transpose(l.columns.fast, l.rows.fast, z.re, spare.re);
        fourier::transpose(l.columns.fast, l.rows.fast, z.im, spare.im);
        fourier::transform(down, l.rows.fast, l.columns.fast, {spare.im, spare.re}, {z.im, z.re});
        memcpy(z.re, spare.re, sizeof(Number) * (size_t)l.points());
        memcpy(z.im, spare.im, sizeof(Number) * (size_t)l.points());
    }

    // The spectra of the real and of the imaginary part of what was transformed, half of each.
    void apart(Complex z, Complex one, Complex two) const {
        for (int64_t j = 0; j <= l.columns.fast / 2; j++)
            for (int64_t i = 0; i < l.rows.fast; i++) {
                const int64_t at = j * l.rows.fast + i, mirror = (j ? l.columns.fast - j : 0) * l.rows.fast + (i ? l.rows.fast - i : 0);
                one.re[at] = (z.re[at] + z.re[mirror]) / 2, one.im[at] = (z.im[at] - z.im[mirror]) / 2;
                two.re[at] = (z.im[at] + z.im[mirror]) / 2, two.im[at] = (z.re[mirror] - z.re[at]) / 2;
            }
    }

    void together(Complex one, Complex two, Complex z) const {
        for (int64_t j = 0; j < l.columns.fast; j++)
            for (int64_t i = 0; i < l.rows.fast; i++) {
                const int64_t at = j * l.rows.fast + i;
                if (j <= l.columns.fast / 2) {
                    z.re[at] = one.re[at] - two.im[at], z.im[at] = one.im[at] + two.re[at];
                } else {
                    const int64_t mirror = (l.columns.fast - j) * l.rows.fast + (i ? l.rows.fast - i : 0);
                    z.re[at] = one.re[mirror] + two.im[mirror], z.im[at] = two.re[mirror] - one.im[mirror];
                }
            }
    }
};

void clear(Number *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = 0;
}

// A map or a kernel on the torus; taps may fall on each other.
void place(const Layer &l, const float *from, bool kernel, Number *to) {
    const int64_t tall = kernel ? l.rows.kernel : l.rows.size, wide = kernel ? l.columns.kernel : l.columns.size;
    const int64_t dy = kernel ? l.rows.dilation : 1, dx = kernel ? l.columns.dilation : 1;
    for (int64_t i = 0; i < tall; i++)
        for (int64_t j = 0; j < wide; j++) to[i * dy % l.rows.fast * l.columns.fast + j * dx % l.columns.fast] += (Number)from[i * wide + j];
}

double norm(const float *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return std::sqrt(sum);
}

// One output, as written down.
double direct(const Layer &l, const float *maps, const float *kernels, int64_t o, int64_t p) {
    double sum = 0;
    for (int64_t c = 0; c < l.per_group; c++)
        for (int64_t i = 0; i < l.rows.kernel; i++) {
            const int64_t row = o - l.rows.pad + i * l.rows.dilation;
            if (row < 0 || row >= l.rows.size) continue;
            for (int64_t j = 0; j < l.columns.kernel; j++) {
                const int64_t column = p - l.columns.pad + j * l.columns.dilation;
                if (column < 0 || column >= l.columns.size) continue;
                sum += (double)maps[(c * l.rows.size + row) * l.columns.size + column] * (double)kernels[(c * l.rows.kernel + i) * l.columns.kernel + j];
            }
        }
    return sum;
}

}  // namespace

extern "C" int64_t fft_convolution_workspace(const Call *call) {
    const Layer l = layer_of(call);
    return (((2 * l.half() + 1) * l.batch * l.takes + call->threads * l.private_numbers()) * (int64_t)sizeof(Number)) + 64;
}

extern "C" int fft_convolution(const Call *call) {
    const Layer l = layer_of(call);
    const float *image = floats(call, 0), *kernels = floats(call, 1), *bias = floats(call, 2);
    float *result = (float *)call->out[0].data;
    const int64_t space = l.rows.size * l.columns.size, taps = l.rows.kernel * l.columns.kernel, outs = l.rows.out * l.columns.out, half = l.half(), points = l.points();
    const int64_t maps = l.batch * l.takes, of_one = l.makes / l.groups;
    // One infinity would be spread over the whole map.
    for (int64_t i = 0; i < maps * space; i++)
        if (!std::isfinite(image[i])) return 1;
    for (int64_t i = 0; i < l.makes * l.per_group * taps; i++)
        if (!std::isfinite(kernels[i])) return 1;
    const Plan plan(l);
    Number *spectra = (Number *)call->workspace, *sizes = spectra + 2 * half * maps, *scratch = sizes + maps;
    auto spectrum = [&](int64_t map) { return Complex{spectra + 2 * half * map, spectra + 2 * half * map + half}; };
#pragma omp parallel num_threads(call->threads)
    {
        Number *own = scratch + omp_get_thread_num() * l.private_numbers();
        const Complex z = {own, own + points}, spare = {own + 2 * points, own + 3 * points};
        Number *more = own + 4 * points;  // two half spectra of a pair of kernels, then those of the outputs
        const Complex wa = {more, more + half}, wb = {more + 2 * half, more + 3 * half};
        Number *sums = more + 4 * half, *reach = sums + 4 * half * l.batch;
#pragma omp for schedule(static)
        for (int64_t map = 0; map < maps; map += 2) {
            clear(own, 2 * points);
            place(l, image + map * space, false, z.re);
            if (map + 1 < maps) place(l, image + (map + 1) * space, false, z.im);
            // Two maps share a transform, and so its error.
            sizes[map] = (Number)std::hypot(norm(image + map * space, space), map + 1 < maps ? norm(image + (map + 1) * space, space) : 0.0);
            if (map + 1 < maps) sizes[map + 1] = sizes[map];
            plan.forward(z, spare);
            plan.apart(z, spectrum(map), map + 1 < maps ? spectrum(map + 1) : wb);
        }
#pragma omp for schedule(static)
        for (int64_t m = 0; m < l.makes; m += 2) {
            const int64_t pair = least(2, l.makes - m);
            clear(sums, 4 * half * l.batch);
            clear(reach, l.batch);
            for (int64_t c = 0; c < l.per_group; c++) {
                clear(own, 2 * points);
                place(l, kernels + (m * l.per_group + c) * taps, true, z.re);
                if (pair == 2) place(l, kernels + ((m + 1) * l.per_group + c) * taps, true, z.im);
                const float *tap = kernels + (m * l.per_group + c) * taps;
                const double size = std::hypot(norm(tap, taps), pair == 2 ? norm(tap + l.per_group * taps, taps) : 0.0);
                plan.forward(z, spare);
                plan.apart(z, wa, wb);
                for (int64_t n = 0; n < l.batch; n++)
                    for (int64_t k = 0; k < pair; k++) {
                        const int64_t map = n * l.takes + (m + k) / of_one * l.per_group + c;
                        const Complex x = spectrum(map), w = k ? wb : wa;
                        reach[n] += (Number)(size * (double)sizes[map]);
                        Number *__restrict yr = sums + (2 * n + k) * 2 * half, *__restrict yi = yr + half;
#ifdef DEFECT_CONJUGATE
                        const Number sign = -1;  // a convolution in the sense of mathematics: the kernel is read backwards
#else
                        const Number sign = 1;
#endif
                        for (int64_t i = 0; i < half; i++) {
                            yr[i] += x.re[i] * w.re[i] + sign * x.im[i] * w.im[i];
                            yi[i] += x.im[i] * w.re[i] - sign * x.re[i] * w.im[i];
                        }
                    }
            }
            for (int64_t n = 0; n < l.batch; n++) {
                Number *first = sums + 4 * n * half;
                plan.together({first, first + half}, {first + 2 * half, first + 3 * half}, z);
                plan.backward(z, spare);
                for (int64_t k = 0; k < pair; k++) {
                    const float *its_maps = image + (n * l.takes + (m + k) / of_one * l.per_group) * space, *its_kernels = kernels + (m + k) * l.per_group * taps;
                    // Below this an error of the transform would be seen in float32.
                    const double least_trusted = (double)reach[n] * std::log2(2.0 * (double)points) * std::ldexp(1.0, -24);
                    const Number *whole = k ? z.im : z.re;
                    float *y = result + (n * l.makes + m + k) * outs;
                    for (int64_t o = 0; o < l.rows.out; o++)
                        for (int64_t p = 0; p < l.columns.out; p++) {
                            const int64_t row = (o - l.rows.pad + l.rows.fast) % l.rows.fast, column = (p - l.columns.pad + l.columns.fast) % l.columns.fast;
                            double value = (double)whole[row * l.columns.fast + column] / (double)points;
#if !defined(DEFECT_SMALL_OUTPUTS) && !defined(DEFECT_SINGLE_PRECISION)
                            if (!(std::fabs(value) >= least_trusted)) value = direct(l, its_maps, its_kernels, o, p);
#else
                            (void)least_trusted;
#endif
                            y[o * l.columns.out + p] = (float)(value + (bias ? (double)bias[m + k] : 0.0));
                        }
                }
            }
        }
    }
    return 0;
}

// The same sums tap by tap, rows of outputs at a time, as a compiler's naive schedule does them.
extern "C" int direct_convolution(const Call *call) {
    const Layer l = layer_of(call);
    const float *image = floats(call, 0), *kernels = floats(call, 1), *bias = floats(call, 2);
    float *result = (float *)call->out[0].data;
    const int64_t of_one = l.makes / l.groups;
#pragma omp parallel for num_threads(call->threads) schedule(static)
    for (int64_t job = 0; job < l.batch * l.makes; job++) {
        const int64_t n = job / l.makes, m = job % l.makes, space = l.rows.size * l.columns.size;
        for (int64_t o = 0; o < l.rows.out; o++) {
            float *__restrict y = result + (job * l.rows.out + o) * l.columns.out;
            for (int64_t p = 0; p < l.columns.out; p++) y[p] = bias ? bias[m] : 0.0f;
            for (int64_t c = 0; c < l.per_group; c++)
                for (int64_t i = 0; i < l.rows.kernel; i++) {
                    const int64_t row = o - l.rows.pad + i * l.rows.dilation;
                    if (row < 0 || row >= l.rows.size) continue;
                    const float *line = image + (n * l.takes + m / of_one * l.per_group + c) * space + row * l.columns.size;
                    for (int64_t j = 0; j < l.columns.kernel; j++) {
                        const int64_t shift = j * l.columns.dilation - l.columns.pad;
                        const float factor = kernels[((m * l.per_group + c) * l.rows.kernel + i) * l.columns.kernel + j];
                        for (int64_t p = most(0, -shift); p < least(l.columns.out, l.columns.size - shift); p++) y[p] += factor * line[p + shift];
                    }
                }
        }
    }
    return 0;
}
