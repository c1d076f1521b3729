/* An example: LeakyRelu on float32. Compiled on demand by fuzz, which brings kernel.h along. */
#include "kernel.h"

extern "C" int leaky_relu(const Call *call) {
    const float *x = (const float *)call->in[0].data;
    float *y = (float *)call->out[0].data;
    const float alpha = (float)real(call, "alpha", 0.01);
    const int64_t n = elements(&call->in[0]);
#ifdef DEFECT_TAIL /* planted: `fuzz gate --kernels 'example-leaky-relu!tail'` has to find it */
    const int64_t end = n - n % 8;
#else
    const int64_t end = n;
#endif
#pragma omp parallel for simd num_threads(call->threads) if (n > 65536)
    for (int64_t i = 0; i < end; i++) y[i] = x[i] < 0.0f ? alpha * x[i] : x[i];
    return 0;
}
