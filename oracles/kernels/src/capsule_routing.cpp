// Dynamic routing between capsules. u (batch, I, di), W (I, J, dj, di) -> v (batch, J, dj)
#include <omp.h>

#include <cmath>

#include "exponential.h"
#include "operands.h"

namespace {

struct Layer {
    int64_t batch, in, in_size, out, size, rounds;
    int64_t votes() const { return in * out * size; }
    int64_t scratch() const { return votes() + 2 * in * out; }  // votes, logits, couplings of one sample
};

Layer layer_of(const Call *call) {
    const Tensor &u = call->in[0], &w = call->in[1];
    return {u.shape[0], u.shape[1], u.shape[2], w.shape[1], w.shape[2], integer(call, "iterations", 3)};
}

}  // namespace

extern "C" int64_t capsule_routing_workspace(const Call *call) { return call->threads * layer_of(call).scratch() * (int64_t)sizeof(float); }

extern "C" int capsule_routing(const Call *call) {
    const Layer l = layer_of(call);
    const float *capsules = floats(call, 0), *matrices = floats(call, 1);
    float *result = (float *)call->out[0].data;
#pragma omp parallel for num_threads(call->threads) schedule(static)
    for (int64_t n = 0; n < l.batch; n++) {
#ifdef DEFECT_SHARED_VOTES
        float *votes = (float *)call->workspace;
#else
        float *votes = (float *)call->workspace + omp_get_thread_num() * l.scratch();
#endif
        float *logits = votes + l.votes(), *share = logits + l.in * l.out, *v = result + n * l.out * l.size;
        for (int64_t i = 0; i < l.in; i++) {
            const float *u = capsules + (n * l.in + i) * l.in_size;
            for (int64_t j = 0; j < l.out * l.size; j++) {
                const float *row = matrices + (i * l.out * l.size + j) * l.in_size;
                float sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t k = 0; k < l.in_size; k++) sum += row[k] * u[k];
                votes[i * l.out * l.size + j] = sum;
            }
        }
#ifdef DEFECT_STALE_LOGITS
        if (n == 0)
#endif
            for (int64_t i = 0; i < l.in * l.out; i++) logits[i] = 0;
        for (int64_t round = 0; round < l.rounds; round++) {
#ifdef DEFECT_SOFTMAX_AXIS
            for (int64_t j = 0; j < l.out; j++) {
                float top = -INFINITY, total = 0;
                for (int64_t i = 0; i < l.in; i++) top = std::fmax(top, logits[i * l.out + j]);
                for (int64_t i = 0; i < l.in; i++) total += share[i * l.out + j] = exponential(logits[i * l.out + j] - top);
                for (int64_t i = 0; i < l.in; i++) share[i * l.out + j] /= total;
            }
#else
            for (int64_t i = 0; i < l.in; i++) {
                float top = -INFINITY, total = 0;
                for (int64_t j = 0; j < l.out; j++) top = std::fmax(top, logits[i * l.out + j]);
                for (int64_t j = 0; j < l.out; j++) total += share[i * l.out + j] = exponential(logits[i * l.out + j] - top);
                for (int64_t j = 0; j < l.out; j++) share[i * l.out + j] /= total;
            }
#endif
            for (int64_t j = 0; j < l.out * l.size; j++) v[j] = 0;
            for (int64_t i = 0; i < l.in; i++)
                for (int64_t j = 0; j < l.out; j++)
                    for (int64_t k = 0; k < l.size; k++) v[j * l.size + k] += share[i * l.out + j] * votes[(i * l.out + j) * l.size + k];
            for (int64_t j = 0; j < l.out; j++) {
                float *capsule = v + j * l.size, squares = 0;
#ifdef DEFECT_TAIL
                for (int64_t k = 0; k < (l.size > 4 ? l.size / 4 * 4 : l.size); k++) squares += capsule[k] * capsule[k];
#else
                for (int64_t k = 0; k < l.size; k++) squares += capsule[k] * capsule[k];
#endif
#ifdef DEFECT_SQUASH_ZERO
                const float factor = squares / (1 + squares) / std::sqrt(squares);
#else
                const float factor = std::sqrt(squares) / (1 + squares);
#endif
                for (int64_t k = 0; k < l.size; k++) capsule[k] *= factor;
            }
#ifdef DEFECT_ROUNDS
            if (round + 2 >= l.rounds) continue;
#else
            if (round + 1 == l.rounds) continue;
#endif
            for (int64_t i = 0; i < l.in; i++)
                for (int64_t j = 0; j < l.out; j++) {
                    float sum = 0;
                    for (int64_t k = 0; k < l.size; k++) sum += votes[(i * l.out + j) * l.size + k] * v[j * l.size + k];
                    logits[i * l.out + j] += sum;
                }
        }
    }
    return 0;
}
