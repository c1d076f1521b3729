// Soft-NMS: boxes in the order in which they are chosen, with scores that decay for every overlap with a box chosen before.
// boxes (N, 4) as corners, scores (N) -> chosen boxes (N, 4), their scores (N), their indices (N, int64); what fell below the
// threshold before it was chosen comes out as zeros and index -1.
#include <cmath>
#include <initializer_list>

#include "exponential.h"
#include "operands.h"

extern "C" int64_t soft_nms_workspace(const Call *call) { return 7 * call->in[1].shape[0] * (int64_t)sizeof(float); }

extern "C" int soft_nms(const Call *call) {
    const int64_t n = call->in[1].shape[0];
    const bool gaussian = text_is(call, "method", "gaussian");
    const float sigma = (float)real(call, "sigma", 0.5), most_overlap = (float)real(call, "iou_threshold", 0.3), least_score = (float)real(call, "score_threshold", 0.001);
    const float *boxes = floats(call, 0), *scores = floats(call, 1);
    float *chosen = (float *)call->out[0].data, *kept = (float *)call->out[1].data;
    int64_t *order = (int64_t *)call->out[2].data;
    float *x1 = (float *)call->workspace, *y1 = x1 + n, *x2 = y1 + n, *y2 = x2 + n, *area = y2 + n, *left = area + n, *index = left + n;
    for (int64_t i = 0; i < n; i++) {
        x1[i] = boxes[4 * i], y1[i] = boxes[4 * i + 1], x2[i] = boxes[4 * i + 2], y2[i] = boxes[4 * i + 3];
#ifdef DEFECT_PIXEL_AREA
        area[i] = (x2[i] - x1[i] + 1) * (y2[i] - y1[i] + 1);
#else
        area[i] = (x2[i] - x1[i]) * (y2[i] - y1[i]);
#endif
        left[i] = scores[i], index[i] = bits_to_float((int32_t)i);
    }
    for (int64_t step = 0; step < n; step++) {
        // The best of those that are left stands at `step` from here on: boxes are swapped, not removed.
        int64_t best = step;
        for (int64_t i = step + 1; i < n; i++)
#ifdef DEFECT_LAST_OF_TIES
            if (left[i] >= left[best]) best = i;
#else
            if (left[i] > left[best] || (left[i] == left[best] && float_to_bits(index[i]) < float_to_bits(index[best]))) best = i;
#endif
        for (float *column : {x1, y1, x2, y2, area, left, index}) {
#ifdef DEFECT_STALE_AREA
            if (column == area) continue;
#endif
            const float other = column[step];
            column[step] = column[best], column[best] = other;
        }
        const bool alive = left[step] >= least_score;
        chosen[4 * step] = alive ? x1[step] : 0, chosen[4 * step + 1] = alive ? y1[step] : 0;
        chosen[4 * step + 2] = alive ? x2[step] : 0, chosen[4 * step + 3] = alive ? y2[step] : 0;
        kept[step] = alive ? left[step] : 0, order[step] = alive ? float_to_bits(index[step]) : -1;
        if (!alive) continue;
        const float ax = x1[step], ay = y1[step], bx = x2[step], by = y2[step], size = area[step];
#ifdef DEFECT_VECTOR_TAIL
        const int64_t end = n - step > 8 ? n - (n - step - 1) % 8 : n;
#else
        const int64_t end = n;
#endif
        for (int64_t i = step + 1; i < end; i++) {
            const float wide = std::fmin(bx, x2[i]) - std::fmax(ax, x1[i]), tall = std::fmin(by, y2[i]) - std::fmax(ay, y1[i]);
            const float both = (wide > 0 ? wide : 0) * (tall > 0 ? tall : 0), either = area[i] + size - both;
#ifdef DEFECT_EMPTY_UNION
            const float overlap = both / either;
#else
            const float overlap = either > 0 ? both / either : 0;
#endif
#ifdef DEFECT_SIGMA
            left[i] *= gaussian ? exponential(-overlap * overlap / (2 * sigma * sigma)) : overlap < most_overlap ? 1.0f : 1.0f - overlap;
#else
            left[i] *= gaussian ? exponential(-overlap * overlap / sigma) : overlap < most_overlap ? 1.0f : 1.0f - overlap;
#endif
        }
    }
    return 0;
}
