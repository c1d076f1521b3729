// fuzz check model.onnx --backends 'kernels:hard-swish'
#include "kernel.h"

static inline float value(float x) {
    float s = x * (1.0f / 6.0f) + 0.5f;
    s = s < 0.0f ? 0.0f : s > 1.0f ? 1.0f : s;
    return x * s;
}

extern "C" int hard_swish(const Call *call) {
    const float *x = (const float *)call->in[0].data;
    float *y = (float *)call->out[0].data;
    const int64_t n = elements(&call->in[0]);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int64_t k = 0; k < 8; k++) y[i + k] = value(x[i + k]);
#ifndef DEFECT_TAIL
    for (; i < n; i++) y[i] = value(x[i]);
#endif
    return 0;
}

extern "C" int hard_swish_plain(const Call *call) {
    const float *x = (const float *)call->in[0].data;
    float *y = (float *)call->out[0].data;
    for (int64_t i = 0; i < elements(&call->in[0]); i++) y[i] = value(x[i]);
    return 0;
}
