// RandLoRA's scaled bases. Floor: s written once, and read once by the backward pass; a, lambda and gamma are r + n rows of it against r n.
#include "kernels.h"
#include "pool.h"
#include "vectors.h"

namespace LR_NS {

int32_t scale_bases_forward(const ScaleBasesArgs* p) {
    if (p->dtype != LR_F32) return LR_UNSUPPORTED;
    const float *a = static_cast<const float*>(p->a), *lambda = static_cast<const float*>(p->lambda), *gamma = static_cast<const float*>(p->gamma);
    float* s = static_cast<float*>(p->s);
    const int64_t n = p->n, d = p->d, pitch = p->pitch;
    lr::parallel_range(p->r * n, d, [&](int64_t p0, int64_t p1) {
        for (int64_t row = p0; row < p1; ++row) {
            const vf scale = splat(lambda[row]);
            sweep(0, d, [&](auto at) LR_LAMBDA { at.set(s + row * d, scale * at.get(a + row / n * pitch) * at.get(gamma + row % n * d)); });
        }
    });
    return LR_OK;
}

// A chunk owns bases b, so that the sum over k runs in its order whoever takes it.
int32_t scale_bases_backward(const ScaleBasesGradArgs* p) {
    if (p->dtype != LR_F32) return LR_UNSUPPORTED;
    const float *a = static_cast<const float*>(p->a), *lambda = static_cast<const float*>(p->lambda), *gamma = static_cast<const float*>(p->gamma);
    const float* ds = static_cast<const float*>(p->ds);
    float *dlambda = static_cast<float*>(p->dlambda), *dgamma = static_cast<float*>(p->dgamma);
    const int64_t r = p->r, n = p->n, d = p->d, pitch = p->pitch;
    lr::parallel_range(n, r * d, [&](int64_t b0, int64_t b1) {
        for (int64_t b = b0; b < b1; ++b) {
            const float* g = gamma + b * d;
            for (int64_t k = 0; k < r; ++k) {
                const float *up = ds + (k * n + b) * d, *base = a + k * pitch;
                const vf scale = splat(lambda[k * n + b]);
                if (dgamma) sweep(0, d, [&](auto at) LR_LAMBDA { at.put(dgamma + b * d, scale * at.get(up) * at.get(base), k > 0 || (p->add >> 1 & 1)); });
                if (!dlambda) continue;
                double total = 0; // vectors of float32 over stretches of 1024, the stretches in float64
                for (int64_t i = 0; i < d; i += 1024) {
                    vf dot[4] = {};
                    fan<4>(i, i + 1024 < d ? i + 1024 : d, [&](auto at, auto c) LR_LAMBDA { dot[c] = fma(at.get(up) * at.get(base), at.get(g), dot[c]); });
                    total += sum(gathered(dot));
                }
                put(dlambda + k * n + b, float(total), p->add & 1);
            }
        }
    });
    return LR_OK;
}

} // namespace LR_NS
