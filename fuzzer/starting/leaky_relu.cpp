// An example: LeakyRelu on float32, eight elements at a time. Compiled on demand by fuzz; kernel.h comes with it.
#include "kernel.h"

extern "C" int leaky_relu(const Call *call) {
    const Tensor &x = call->in[0];
    Tensor &y = call->out[0];
    const float *from = static_cast<const float *>(x.data);
    float *to = static_cast<float *>(y.data);
    const float alpha = static_cast<float>(real(call, "alpha", 0.01));
    const int64_t n = elements(x), whole = n / 8 * 8;
    for (int64_t i = 0; i < whole; i += 8)
        for (int64_t k = i; k < i + 8; ++k) to[k] = from[k] < 0 ? alpha * from[k] : from[k];
#ifdef DEFECT_TAIL
    for (int64_t k = whole; k < n - 1; ++k) to[k] = from[k] < 0 ? alpha * from[k] : from[k];
#else
    for (int64_t k = whole; k < n; ++k) to[k] = from[k] < 0 ? alpha * from[k] : from[k];
#endif
    return 0;
}
