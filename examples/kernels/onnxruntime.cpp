// A custom-op library of one operator. Include onnxruntime_c_api.h if you have it; ONNX Runtime's wheel does not bring it, so the
// few functions of its C interface that are needed are called by number here: a function of that interface never changes its place.
#include <cstddef>
#include <cstdint>

using Status = void;
struct ApiBase {
    const void *const *(*get_api)(uint32_t version);
    const char *(*version)();
};
enum Place { CREATE_DOMAIN = 26, ADD_TO_DOMAIN = 27, ADD_DOMAIN = 28, DATA = 51, DIM_COUNT = 61, DIMS = 62, TYPE_AND_SHAPE = 65, ATTRIBUTE_FLOAT = 85,
             INPUT = 90, OUTPUT = 91, RELEASE_TYPE_AND_SHAPE = 99 };
static const void *const *api;

template <typename... A> static Status *ort(Place place, A... a) {
    return reinterpret_cast<Status *(*)(A...)>(const_cast<void *>(api[place]))(a...);
}

struct CustomOp { // as of version 8 of the interface
    uint32_t version;
    void *(*create)(const CustomOp *, const void *api, const void *info);
    const char *(*name)(const CustomOp *);
    const char *(*provider)(const CustomOp *);
    int (*input_type)(const CustomOp *, size_t);
    size_t (*inputs)(const CustomOp *);
    int (*output_type)(const CustomOp *, size_t);
    size_t (*outputs)(const CustomOp *);
    void (*compute)(void *kernel, void *context);
    void (*destroy)(void *kernel);
    int (*input_kind)(const CustomOp *, size_t); // 0: required
    int (*output_kind)(const CustomOp *, size_t);
};

struct Leaky {
    float alpha;
};

static void *create(const CustomOp *, const void *, const void *info) {
    auto *kernel = new Leaky{0.01f};
    ort(ATTRIBUTE_FLOAT, info, "alpha", &kernel->alpha);
    return kernel;
}

static void compute(void *kernel, void *context) {
    const void *x = nullptr;
    void *y = nullptr, *info = nullptr;
    const float *in = nullptr;
    float *out = nullptr;
    size_t rank = 0;
    int64_t dims[16];
    ort(INPUT, context, size_t(0), &x);
    ort(TYPE_AND_SHAPE, x, &info);
    ort(DIM_COUNT, info, &rank);
    ort(DIMS, info, dims, rank);
    ort(OUTPUT, context, size_t(0), static_cast<const int64_t *>(dims), rank, &y);
    ort(DATA, x, &in);
    ort(DATA, y, &out);
    int64_t n = 1;
    for (size_t i = 0; i < rank; i++) n *= dims[i];
#ifdef DEFECT_NO_SLOPE
    const float alpha = 0.0f;
#else
    const float alpha = static_cast<Leaky *>(kernel)->alpha;
#endif
    for (int64_t i = 0; i < n; i++) out[i] = in[i] > 0.0f ? in[i] : alpha * in[i];
    ort(RELEASE_TYPE_AND_SHAPE, info);
}

static const CustomOp LEAKY = {
    8,
    create,
    [](const CustomOp *) { return "Leaky"; },
    [](const CustomOp *) -> const char * { return nullptr; },
    [](const CustomOp *, size_t) { return 1; },
    [](const CustomOp *) { return size_t(1); },
    [](const CustomOp *, size_t) { return 1; },
    [](const CustomOp *) { return size_t(1); },
    compute,
    [](void *kernel) { delete static_cast<Leaky *>(kernel); },
    [](const CustomOp *, size_t) { return 0; },
    [](const CustomOp *, size_t) { return 0; },
};

extern "C" Status *RegisterCustomOps(void *options, const ApiBase *base) {
    api = base->get_api(8);
    void *domain = nullptr;
    if (Status *failed = ort(CREATE_DOMAIN, "assay.example", &domain)) return failed;
    if (Status *failed = ort(ADD_TO_DOMAIN, domain, &LEAKY)) return failed;
    return ort(ADD_DOMAIN, options, domain);
}
