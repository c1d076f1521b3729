// The smallest kernel: max(x, 0), eight at a time with a tail.
#include "kernel.h"

extern "C" int relu(const Call *call) {
    const float *x = (const float *)call->in[0].data;
    float *y = (float *)call->out[0].data;
    const int64_t n = elements(&call->in[0]);
#ifdef DEFECT_TAIL
    const int64_t end = n - n % 8;
#else
    const int64_t end = n;
#endif
#pragma omp parallel for simd num_threads(call->threads) if (n > 65536)
    for (int64_t i = 0; i < end; i++) y[i] = x[i] < 0.0f ? 0.0f : x[i];
    return 0;
}
