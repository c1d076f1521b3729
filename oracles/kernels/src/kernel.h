// The C interface of a kernel: destination passing, every pointer owned by the caller. Plain C, for any language that speaks it.
//
//   extern "C" int NAME(const Call *call)                 0: done; 1: these arguments are not mine, ask the reference; else: a failure
//   extern "C" int64_t NAME_workspace(const Call *call)   optional: bytes of scratch wanted; the memory may be dirty
//
// An optional input or output that is left out has data == NULL and rank 0. Outputs are contiguous. Inputs are contiguous, and
// aligned to their element only, unless the declaration says otherwise (`strided`, `aligned`). float16, bfloat16 and float8 are raw
// bits; int4 and smaller take one byte an element; bool is one byte.
#pragma once
#include <stdint.h>
#include <string.h>

typedef struct {
    void *data;
    int32_t type; /* onnx TensorProto.DataType */
    int32_t rank;
    const int64_t *shape;
    const int64_t *strides; /* in elements */
} Tensor;

typedef struct {
    const char *name;
    int64_t n; /* elements of ints or floats, or bytes of text */
    const int64_t *ints;
    const double *floats;
    const char *text; /* unused pointers are NULL */
} Attribute;

typedef struct {
    const Tensor *in;
    int n_in;
    Tensor *out;
    int n_out;
    const Attribute *attrs;
    int n_attrs;
    void *workspace; /* 64-byte aligned; NULL when none was asked for */
    int64_t workspace_bytes;
    int threads; /* at most so many may be used */
} Call;

enum { FLOAT = 1, UINT8 = 2, INT8 = 3, UINT16 = 4, INT16 = 5, INT32 = 6, INT64 = 7, BOOL = 9, FLOAT16 = 10, DOUBLE = 11, UINT32 = 12, UINT64 = 13,
       BFLOAT16 = 16, FLOAT8E4M3FN = 17, FLOAT8E4M3FNUZ = 18, FLOAT8E5M2 = 19, FLOAT8E5M2FNUZ = 20, UINT4 = 21, INT4 = 22 };

static inline int64_t elements(const Tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n;
}

/* Whether the tensor is there: an optional one may have been left out. */
static inline int given(const Tensor *t) { return t->data != 0; }

static inline const Attribute *attribute(const Call *call, const char *name) {
    for (int i = 0; i < call->n_attrs; i++)
        if (!strcmp(call->attrs[i].name, name)) return call->attrs + i;
    return 0;
}

static inline int64_t integer(const Call *call, const char *name, int64_t otherwise) {
    const Attribute *a = attribute(call, name);
    return a && a->ints && a->n > 0 ? a->ints[0] : otherwise;
}

/* Element i of a list of integers. */
static inline int64_t integer_at(const Call *call, const char *name, int i, int64_t otherwise) {
    const Attribute *a = attribute(call, name);
    return a && a->ints && a->n > i ? a->ints[i] : otherwise;
}

static inline double real(const Call *call, const char *name, double otherwise) {
    const Attribute *a = attribute(call, name);
    return a && a->floats && a->n > 0 ? a->floats[0] : otherwise;
}
