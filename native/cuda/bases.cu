// RandLoRA's scaled bases, s[k n + b, i] = lambda[k,b] a[k,i] gamma[b,i]. Floor: s written once, and read twice by the backward pass, which is a sum over i
// for lambda and one over k for gamma; bound by memory. The bases and both scales are small beside s.
#include "common.cuh"

#if LR_DTYPE == 1
// A block a row of s
LR_KERNEL(scale_bases_forward, ScaleBasesArgs, 256, 4) {
    const int64_t row = LR_BX, k = row / p.n, b = row % p.n;
    const float *a = static_cast<const float*>(p.a) + k * p.pitch, *gamma = static_cast<const float*>(p.gamma) + b * p.d;
    const float scale = static_cast<const float*>(p.lambda)[row];
    float* s = static_cast<float*>(p.s) + row * p.d;
    for (int i = LR_TID; i < p.d; i += 256) s[i] = scale * a[i] * gamma[i];
}

// A block a row of ds
LR_KERNEL(scale_bases_backward_lambda, ScaleBasesGradArgs, 256, 4) {
    const int64_t row = LR_BX, k = row / p.n, b = row % p.n;
    const float *a = static_cast<const float*>(p.a) + k * p.pitch, *gamma = static_cast<const float*>(p.gamma) + b * p.d;
    const float* ds = static_cast<const float*>(p.ds) + row * p.d;
    float dot = 0;
    for (int i = LR_TID; i < p.d; i += 256) dot = lr_fma(ds[i] * a[i], gamma[i], dot);
    dot = lr_block_sum<256>(dot, reinterpret_cast<float*>(LR_SMEM));
    if (LR_TID == 0) lr_put(static_cast<float*>(p.dlambda) + row, dot, p.add & 1);
}

// A thread an element of gamma: the bases are added in their order
LR_KERNEL(scale_bases_backward_gamma, ScaleBasesGradArgs, 256, 4) {
    const int64_t b = LR_BY, i = int64_t(LR_BX) * 256 + LR_TID;
    if (i >= p.d) return;
    const float *a = static_cast<const float*>(p.a) + i, *lambda = static_cast<const float*>(p.lambda) + b, *ds = static_cast<const float*>(p.ds) + b * p.d + i;
    const int64_t next = int64_t(p.n) * p.d;
    float sum = 0;
    for (int k = 0; k < p.r; ++k) sum = lr_fma(ds[k * next] * a[int64_t(k) * p.pitch], lambda[int64_t(k) * p.n], sum);
    lr_put(static_cast<float*>(p.dgamma) + b * p.d + i, sum, p.add >> 1 & 1);
}
#endif
