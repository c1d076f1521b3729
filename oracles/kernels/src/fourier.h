// Discrete Fourier transforms of sizes 2^a 3^b, in double: Stockham's self-sorting form, real and imaginary parts apart.
#pragma once

#include <cmath>
#include <vector>

#include "operands.h"

namespace fourier {

#ifdef DEFECT_SINGLE_PRECISION
typedef float Number;
#else
typedef double Number;
#endif

// The smallest size that is fast and not below n.
static inline int64_t fast_size(int64_t n) {
    int64_t best = 1;
    while (best < n) best *= 2;
    for (int64_t three = 3; three < best; three *= 3) {
        int64_t size = three;
        while (size < n) size *= 2;
        best = least(best, size);
    }
    return best;
}

// exp(-2 pi i k / n)
struct Roots {
    std::vector<Number> re, im;
    explicit Roots(int64_t n) : re((size_t)n), im((size_t)n) {
        for (int64_t k = 0; k < n; k++) {
            const double angle = -2 * 3.14159265358979323846 * (double)k / (double)n;
            re[(size_t)k] = (Number)std::cos(angle), im[(size_t)k] = (Number)std::sin(angle);
        }
    }
};

struct Complex {
    Number *re, *im;
};

// One butterfly of radix R at the points p + m j of every one of `s` interleaved transforms.
template <int R>
static inline void butterfly(const Roots &roots, int64_t p, int64_t m, int64_t s, int64_t turn, Complex x, Complex y) {
    Number cos[R], sin[R];
    for (int k = 0; k < R; k++) cos[k] = roots.re[(size_t)(p * k * turn)], sin[k] = roots.im[(size_t)(p * k * turn)];
    const Number *__restrict xr = x.re, *__restrict xi = x.im;
    Number *__restrict yr = y.re, *__restrict yi = y.im;
#pragma omp simd
    for (int64_t q = 0; q < s; q++) {
        Number ar[R], ai[R], br[R], bi[R];
        for (int j = 0; j < R; j++) ar[j] = xr[q + s * (p + m * j)], ai[j] = xi[q + s * (p + m * j)];
        if (R == 2) {
            br[0] = ar[0] + ar[1], bi[0] = ai[0] + ai[1], br[1] = ar[0] - ar[1], bi[1] = ai[0] - ai[1];
        } else if (R == 3) {
            const Number h = (Number)0.86602540378443864676, sr = ar[1] + ar[2], si = ai[1] + ai[2], dr = h * (ar[1] - ar[2]), di = h * (ai[1] - ai[2]);
            br[0] = ar[0] + sr, bi[0] = ai[0] + si;
            const Number cr = ar[0] - sr / 2, ci = ai[0] - si / 2;
            br[1] = cr + di, bi[1] = ci - dr, br[2 % R] = cr - di, bi[2 % R] = ci + dr;
        } else {
            const Number er = ar[0] + ar[2 % R], ei = ai[0] + ai[2 % R], fr = ar[0] - ar[2 % R], fi = ai[0] - ai[2 % R];
            const Number gr = ar[1] + ar[3 % R], gi = ai[1] + ai[3 % R], hr = ar[1] - ar[3 % R], hi = ai[1] - ai[3 % R];
            br[0] = er + gr, bi[0] = ei + gi, br[2 % R] = er - gr, bi[2 % R] = ei - gi;
            br[1] = fr + hi, bi[1] = fi - hr, br[3 % R] = fr - hi, bi[3 % R] = fi + hr;
        }
        for (int k = 0; k < R; k++) {
            yr[q + s * (R * p + k)] = br[k] * cos[k] - bi[k] * sin[k];
            yi[q + s * (R * p + k)] = br[k] * sin[k] + bi[k] * cos[k];
        }
    }
}

// `batch` interleaved transforms of size n, in place with a buffer of the same size. With re and im exchanged it is the inverse, times n.
static inline void transform(const Roots &roots, int64_t n, int64_t batch, Complex x, Complex buffer) {
    Complex from = x, to = buffer;
    for (int64_t left = n, done = 1; left > 1;) {
        const int radix = left % 4 == 0 ? 4 : left % 2 == 0 ? 2 : 3;
        const int64_t m = left / radix;
        for (int64_t p = 0; p < m; p++)
            if (radix == 4)
                butterfly<4>(roots, p, m, done * batch, done, from, to);
            else if (radix == 2)
                butterfly<2>(roots, p, m, done * batch, done, from, to);
            else
                butterfly<3>(roots, p, m, done * batch, done, from, to);
        const Complex other = from;
        from = to, to = other;
        left = m, done *= radix;
    }
    if (from.re == x.re) return;
    memcpy(x.re, from.re, sizeof(Number) * (size_t)(n * batch));
    memcpy(x.im, from.im, sizeof(Number) * (size_t)(n * batch));
}

// (rows, columns) -> (columns, rows)
static inline void transpose(int64_t rows, int64_t columns, const Number *from, Number *to) {
    for (int64_t i0 = 0; i0 < rows; i0 += 16)
        for (int64_t j = 0; j < columns; j++)
            for (int64_t i = i0; i < least(rows, i0 + 16); i++) to[j * rows + i] = from[i * columns + j];
}

}  // namespace fourier
