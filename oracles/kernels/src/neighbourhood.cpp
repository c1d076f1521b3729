// Neighbourhood attention, dilated or not: every query sees the k (k x k) nearest keys of its residue class, windows pushed inside at
// the borders. q, k, v (N, heads, *space, size), bias (heads, 2 k - 1 for every axis) or nothing -> (N, heads, *space, size of v)
#include <cmath>

#include "exponential.h"
#include "operands.h"

namespace {

constexpr int64_t WINDOW = 256;  // the most keys that a query may see

// First neighbour of position i on an axis, and its index in the table of biases (that of a key at the query itself is k - 1).
inline void window(int64_t i, int64_t length, int64_t k, int64_t d, int64_t *first, int64_t *relative) {
    const int64_t residue = i % d, at = i / d;
#ifdef DEFECT_RESIDUE
    const int64_t members = length / d;
#else
    const int64_t members = up(length - residue, d);
#endif
#ifdef DEFECT_BORDER
    const int64_t start = most(0, least(at - (k - 1) / 2, members - k - 1));
#else
    const int64_t start = most(0, least(at - (k - 1) / 2, members - k));
#endif
    *first = residue + d * start;
#ifdef DEFECT_CENTRED_BIAS
    *relative = (k - 1) / 2;
#else
    *relative = start - at + k - 1;
#endif
}

}  // namespace

extern "C" int neighbourhood_attention(const Call *call) {
    const Tensor &q = call->in[0];
    const int rank = q.rank - 3;
    const int64_t k = integer(call, "kernel_size", 3), d = integer(call, "dilation", 1), heads = q.shape[1], size = q.shape[q.rank - 1];
    const int64_t height = rank == 2 ? q.shape[2] : 1, width = q.shape[q.rank - 2], space = height * width, wide = call->in[2].shape[q.rank - 1];
    const int64_t tall = rank == 2 ? k : 1, seen = tall * k, table = 2 * k - 1;
    if (seen > WINDOW) return 1;
    const float scale = (float)real(call, "scale", 1.0 / std::sqrt((double)size));
    const float *queries = floats(call, 0), *keys = floats(call, 1), *values = floats(call, 2), *bias = floats(call, 3);
    float *result = (float *)call->out[0].data;
    const int64_t jobs = q.shape[0] * heads * space;
#pragma omp parallel for num_threads(call->threads) schedule(static) if (jobs * size > 2048)
    for (int64_t job = 0; job < jobs; job++) {
        const int64_t h = job / space % heads, plane = job / space * space, row = job % space / width, column = job % width;
        int64_t top = 0, up_bias = 0, left, left_bias;
        if (rank == 2) window(row, height, k, d, &top, &up_bias);
        window(column, width, k, d, &left, &left_bias);
        const float *query = queries + job * size;
        float score[WINDOW], highest = -INFINITY;
        for (int64_t i = 0; i < tall; i++)
            for (int64_t j = 0; j < k; j++) {
                const float *key = keys + (plane + (top + i * d) * width + left + j * d) * size;
                float dot = 0;
#ifdef DEFECT_HEAD_TAIL
                const int64_t end = size > 4 ? size - size % 4 : size;
#else
                const int64_t end = size;
#endif
#pragma omp simd reduction(+ : dot)
                for (int64_t c = 0; c < end; c++) dot += query[c] * key[c];
                dot *= scale;
                if (bias) dot += rank == 2 ? bias[(h * table + up_bias + i) * table + left_bias + j] : bias[h * table + left_bias + j];
                score[i * k + j] = dot;
                highest = dot > highest ? dot : highest;
            }
#ifdef DEFECT_SOFTMAX_MAX
        highest = 0;
#endif
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < seen; i++) {
            score[i] = exponential(score[i] - highest);
            total += score[i];
        }
        float *__restrict out = result + job * wide;
        for (int64_t c = 0; c < wide; c++) out[c] = 0;
        for (int64_t i = 0; i < tall; i++)
            for (int64_t j = 0; j < k; j++) {
                const float *value = values + (plane + (top + i * d) * width + left + j * d) * wide, share = score[i * k + j] / total;
                for (int64_t c = 0; c < wide; c++) out[c] += share * value[c];
            }
    }
    return 0;
}
