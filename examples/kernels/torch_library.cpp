#include <torch/library.h>
#include <ATen/ATen.h>

static at::Tensor elu(const at::Tensor &x, double alpha) {
#ifdef DEFECT_SIGN
    alpha = -alpha;
#endif
    return at::where(x > 0, x, at::expm1(x) * alpha);
}

#define LIBRARY(name, m) TORCH_LIBRARY(name, m) // for TORCH_EXTENSION_NAME to be expanded
LIBRARY(TORCH_EXTENSION_NAME, m) { m.def("elu(Tensor x, float alpha) -> Tensor", elu); }
