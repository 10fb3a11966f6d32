// Values at sorted places of a matrix. Floors: add_sparse writes the matrix once; sample_sparse does 2 tokens nnz FLOPs, two loads for each vector of
// them, so it is bound by what L2 delivers as long as 256 tokens of b fit there; reading a and b once is less.
#include "kernels.h"
#include "linear.h"
#include "vectors.h"

namespace LR_NS {

namespace {

// The first j with idx[j] >= place
int64_t first_from(const int32_t* idx, int64_t nnz, int64_t place) {
    int64_t low = 0, high = nnz;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (idx[middle] < place) low = middle + 1;
        else high = middle;
    }
    return low;
}

constexpr int64_t Stretch = 256; // tokens whose columns are turned into rows at a time

// to[c][Stretch] = from[t0 + t][c] for columns [c0, c1), zeros past the tokens
template <class T> void turn(const T* from, int64_t cols, int64_t t0, int64_t tokens, int64_t c0, int64_t c1, float* to) {
    for (int64_t c = c0; c < c1; c += Lanes) {
        const int64_t have = c1 - c < Lanes ? c1 - c : Lanes;
        for (int64_t t = 0; t < Stretch; t += Lanes) {
            vf rows[Lanes];
            for (int i = 0; i < Lanes; ++i) rows[i] = t + i < tokens ? load_some(from + (t0 + t + i) * cols + c, have) : vf{};
            transpose(rows);
            for (int64_t i = 0; i < have; ++i) store(to + (c + i) * Stretch + t, rows[i]);
        }
    }
}

} // namespace

int32_t add_sparse(const AddSparseArgs* p) {
    const int32_t* idx = static_cast<const int32_t*>(p->idx);
    const float* v = static_cast<const float*>(p->v);
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* x = static_cast<const T*>(p->x);
        T* y = static_cast<T*>(p->y);
        lr::parallel_range(p->count, 1, [&](int64_t i0, int64_t i1) {
            if (x) memcpy(y + i0, x + i0, size_t(i1 - i0) * sizeof(T));
            else memset(y + i0, 0, size_t(i1 - i0) * sizeof(T));
            for (int64_t j = first_from(idx, p->nnz, i0); j < p->nnz && idx[j] < i1; ++j) put(y + idx[j], v[j], true);
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t take_sparse(const TakeSparseArgs* p) {
    const int32_t* idx = static_cast<const int32_t*>(p->idx);
    float* v = static_cast<float*>(p->v);
    const bool known = by_float(p->dtype, [&](auto* type) {
        const auto* x = static_cast<const std::remove_pointer_t<decltype(type)>*>(p->x);
        lr::parallel_range(p->nnz, 8, [&](int64_t j0, int64_t j1) { for (int64_t j = j0; j < j1; ++j) put(v + j, widen(x[idx[j]]), p->add & 1); });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

// Stretches of tokens follow each other, and a place belongs to one chunk: the order of a sum is the same whoever takes it.
int32_t sample_sparse(const SampleSparseArgs* p) {
    const int32_t* idx = static_cast<const int32_t*>(p->idx);
    float* v = static_cast<float*>(p->v);
    const int64_t n = p->n, k = p->k, tokens = p->tokens;
    Workspace memory;
    float *left = memory.take(n * Stretch), *right = memory.take(k * Stretch);
    if (!memory.ok()) return LR_OUT_OF_MEMORY;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        for (int64_t t0 = 0; t0 < tokens || t0 == 0; t0 += Stretch) {
            const int64_t have = least(tokens - t0, Stretch), span = (have + Lanes - 1) / Lanes * Lanes;
            constexpr int64_t Strip = 64;
            lr::parallel_for(ceil_div(n, Strip), [&](int64_t c) { turn(static_cast<const T*>(p->a), n, t0, have, c * Strip, least(c * Strip + Strip, n), left); });
            lr::parallel_for(ceil_div(k, Strip), [&](int64_t c) { turn(static_cast<const T*>(p->b), k, t0, have, c * Strip, least(c * Strip + Strip, k), right); });
            lr::parallel_range(p->nnz, span, [&](int64_t j0, int64_t j1) {
                for (int64_t j = j0; j < j1; ++j) {
                    const float *a = left + idx[j] / k * Stretch, *b = right + idx[j] % k * Stretch;
                    vf dot[4] = {};
                    fan<4>(0, span, [&](auto at, auto c) LR_LAMBDA { dot[c] = fma(at.get(a), at.get(b), dot[c]); });
                    put(v + j, sum(gathered(dot)), t0 > 0 || (p->add & 1));
                }
            });
        }
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

} // namespace LR_NS
