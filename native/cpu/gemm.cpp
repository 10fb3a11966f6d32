// The plain products: matmul, linear_forward, linear_backward. See gemm.h for the tile.
#include "kernels.h"
#include "linear.h"

namespace LR_NS {

namespace {

// c[m,n] (+)= scale a b: both operands packed whole, lines x k steps
int32_t product(const View& a, const View& b, int64_t m, int64_t n, int64_t k, float scale, void* c, int32_t c_dtype, bool add) {
    const int64_t panels = ceil_div(m, Rows), strips = ceil_div(n, Wide);
    Workspace memory;
    float *left = memory.take(panels * Rows * k), *right = memory.take(strips * Wide * k);
    if (!memory.ok()) return LR_OUT_OF_MEMORY;
    lr::parallel_range(panels, Rows * k, [&](int64_t i0, int64_t i1) { for (int64_t i = i0; i < i1; ++i) pack_group<Rows>(a, m, k, i, nullptr, left + i * Rows * k); });
    lr::parallel_range(strips, Wide * k, [&](int64_t j0, int64_t j1) { for (int64_t j = j0; j < j1; ++j) pack_group<Wide>(b, n, k, j, nullptr, right + j * Wide * k); });
    by_type(c_dtype, [&](auto* type) {
        auto* to = static_cast<decltype(type)>(c);
        multiply<Floats>(m, n, k, {}, Passing::Strips, packed_left(left, k), packed_right(right, k), [&](const Place& at, const float* sums) {
            by_rows(at, sums, [&](int64_t row, int64_t col, vf v, auto count) LR_LAMBDA { put_some(to + row * n + col, splat(scale) * v, count, add); });
        });
    });
    return LR_OK;
}

} // namespace

// c[m,n] = scale op(a) op(b)
int32_t matmul(const MatMulArgs* p) {
    if (!is_activation(p->dtype)) return LR_UNSUPPORTED;
    const View a = p->transpose_a ? View{p->a, p->dtype, 1, p->m} : View{p->a, p->dtype, p->k, 1};
    const View b = p->transpose_b ? View{p->b, p->dtype, p->k, 1} : View{p->b, p->dtype, 1, p->n};
    return product(a, b, p->m, p->n, p->k, static_cast<float>(p->scale), p->c, p->dtype, p->add & 1);
}

int32_t linear_forward(const LinearArgs* p) {
    const LoraArgs same = {p->x, nullptr, p->w, nullptr, nullptr, p->bias, nullptr, p->y, nullptr, nullptr, p->tokens, p->n, p->k, 0, 0, p->dtype, p->w_dtype, p->w_layout};
    return lora_forward(&same);
}

int32_t linear_backward(const LinearGradArgs* p) {
    if (!is_activation(p->dtype) || !is_weight(p->w_dtype, p->w_layout)) return LR_UNSUPPORTED;
    const uint32_t add = (p->add & 1) | (p->add >> 2 & 1) << 4;
    LoraGradArgs same = {};
    same.w = p->w, same.dy = p->dy, same.dx = p->dx, same.dbias = p->dbias, same.tokens = p->tokens, same.n = p->n, same.k = p->k, same.dtype = p->dtype;
    same.w_dtype = p->w_dtype, same.w_layout = p->w_layout, same.add = add;
    if (const int32_t status = lora_backward(&same); status != LR_OK || !p->dw) return status;
    // dw[n,k] = dy^T x: trained weights are F32 beside bf16 activations
    return product({p->dy, p->dtype, 1, p->n}, {p->x, p->dtype, 1, p->k}, p->n, p->k, p->tokens, 1, p->dw, p->w_dtype, p->add >> 1 & 1);
}

} // namespace LR_NS
