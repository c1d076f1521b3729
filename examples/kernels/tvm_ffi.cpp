#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

void thresholded_relu(tvm::ffi::TensorView x, tvm::ffi::TensorView y, double alpha) {
    int64_t n = 1;
    for (int i = 0; i < x.ndim(); i++) n *= x.size(i);
    const float *in = static_cast<const float *>(x.data_ptr());
    float *out = static_cast<float *>(y.data_ptr());
    const float limit = static_cast<float>(alpha);
#ifdef DEFECT_TAIL
    n -= n % 4;
#endif
    for (int64_t i = 0; i < n; i++) out[i] = in[i] > limit ? in[i] : 0.0f;
}
