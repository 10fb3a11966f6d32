// Values at sorted, distinct places of a matrix. Floor: add_sparse writes the matrix once; sample_sparse reads 2 tokens values for a place, a sector each,
// so 64 bytes a multiply-add: bound by L2. A version on transposed tiles would read a line for 8 tokens.
#include "common.cuh"

LR_KERNEL(add_sparse_base, AddSparseArgs, 256, 4) {
    const scalar* x = static_cast<const scalar*>(p.x);
    scalar* y = static_cast<scalar*>(p.y);
    for (int64_t i = int64_t(LR_BX) * 256 + LR_TID; i < p.count; i += int64_t(LR_GX) * 256) y[i] = x[i];
}

// After the base is in y: places are distinct, so nothing is added twice.
LR_KERNEL(add_sparse, AddSparseArgs, 256, 4) {
    const int32_t* idx = static_cast<const int32_t*>(p.idx);
    for (int64_t j = int64_t(LR_BX) * 256 + LR_TID; j < p.nnz; j += int64_t(LR_GX) * 256) lr_put(static_cast<scalar*>(p.y) + idx[j], static_cast<const float*>(p.v)[j], true);
}

LR_KERNEL(take_sparse, TakeSparseArgs, 256, 4) {
    const int32_t* idx = static_cast<const int32_t*>(p.idx);
    for (int64_t j = int64_t(LR_BX) * 256 + LR_TID; j < p.nnz; j += int64_t(LR_GX) * 256) lr_put(static_cast<float*>(p.v) + j, lr_widen(static_cast<const scalar*>(p.x)[idx[j]]), p.add & 1);
}

// A warp a place
LR_KERNEL(sample_sparse, SampleSparseArgs, 128, 8) {
    const int64_t j = int64_t(LR_BX) * 4 + LR_TID / 32;
    const int32_t place = static_cast<const int32_t*>(p.idx)[j < p.nnz ? j : 0];
    const scalar *a = static_cast<const scalar*>(p.a) + place / p.k, *b = static_cast<const scalar*>(p.b) + place % p.k;
    float dot = 0;
    for (int64_t t = LR_TID % 32; t < p.tokens; t += 32) dot = lr_fma(lr_widen(a[t * p.n]), lr_widen(b[t * p.k]), dot);
    dot = lr_warp_sum(dot);
    if (LR_TID % 32 == 0 && j < p.nnz) lr_put(static_cast<float*>(p.v) + j, dot, p.add & 1);
}
