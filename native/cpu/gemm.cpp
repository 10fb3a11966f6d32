// Packing of operands, and the plain products: pack, matmul, linear_forward, linear_backward. See gemm.h for the tile.
#include "gemm.h"
#include "kernels.h"
#include "linear.h"

namespace LR_NS {

bool is_activation(int32_t dtype) { return dtype == LR_F32 || dtype == LR_BF16; }

namespace {

template <class T> void panels_of(const T* data, const View& v, int64_t rows, int64_t k, int64_t panel, const float* factor, float* to) {
    const int64_t first = panel * Rows;
    const int64_t have = rows - first < Rows ? rows - first : Rows;
    const T* from = data + first * v.row_stride;
    if (have < Rows) memset(to, 0, static_cast<size_t>(k) * Rows * sizeof(float));
    if (v.step_stride == 1) { // transpose row by row in blocks that stay in L1
        for (int64_t s0 = 0; s0 < k; s0 += 64) {
            const int64_t s1 = s0 + 64 < k ? s0 + 64 : k;
            for (int64_t r = 0; r < have; ++r)
                for (int64_t s = s0; s < s1; ++s) to[s * Rows + r] = widen(from[r * v.row_stride + s]);
        }
    } else {
        for (int64_t s = 0; s < k; ++s)
            for (int64_t r = 0; r < have; ++r) to[s * Rows + r] = widen(from[s * v.step_stride + r * v.row_stride]);
    }
    if (factor)
        for (int64_t s = 0; s < k; ++s)
            for (int r = 0; r < Rows; ++r) to[s * Rows + r] *= factor[s];
}

template <class T> void strip_of(const T* data, const View& v, int64_t columns, int64_t k, int64_t strip, int width, float* to) {
    const int64_t first = strip * width;
    const int64_t have = columns - first < width ? columns - first : width;
    const T* from = data + first * v.row_stride;
    if (have < width) memset(to, 0, static_cast<size_t>(k) * width * sizeof(float));
    if (v.row_stride == 1) {
        for (int64_t s = 0; s < k; ++s)
            for (int64_t c = 0; c < have; ++c) to[s * width + c] = widen(from[s * v.step_stride + c]);
        return;
    }
    for (int64_t s0 = 0; s0 < k; s0 += 32) {
        const int64_t s1 = s0 + 32 < k ? s0 + 32 : k;
        for (int64_t c = 0; c < have; ++c)
            for (int64_t s = s0; s < s1; ++s) to[s * width + c] = widen(from[c * v.row_stride + s * v.step_stride]);
    }
}

} // namespace

void pack_panels(const View& v, int64_t rows, int64_t k, int64_t panel, const float* factor, float* to) {
    if (v.dtype == LR_F32) panels_of(static_cast<const float*>(v.data), v, rows, k, panel, factor, to);
    else panels_of(static_cast<const bf16*>(v.data), v, rows, k, panel, factor, to);
}

void pack_strip(const View& v, int64_t columns, int64_t k, int64_t strip, int width, float* to) {
    if (v.dtype == LR_F32) strip_of(static_cast<const float*>(v.data), v, columns, k, strip, width, to);
    else strip_of(static_cast<const bf16*>(v.data), v, columns, k, strip, width, to);
}

void pack_transposed_strip(const void* w, int32_t dtype, int32_t layout, int64_t n, int64_t k, int64_t strip, float* to) {
    if (layout == LR_ROWS) {
        pack_strip({w, dtype, 1, k}, k, n, strip, Wide, to);
        return;
    }
    const int64_t first = strip * Wide;
    const int64_t have = k - first < Wide ? k - first : Wide;
    if (have < Wide) memset(to, 0, static_cast<size_t>(n) * Wide * sizeof(float));
    for (int64_t n0 = 0; n0 < n; n0 += Wide) {
        const int64_t rows = n - n0 < Wide ? n - n0 : Wide;
        for (int64_t c = 0; c < have; ++c) {
            const int64_t step = first + c;
            if (dtype == LR_F32) {
                const float* from = static_cast<const float*>(w) + (n0 / Wide * k + step) * Wide;
                for (int64_t r = 0; r < rows; ++r) to[(n0 + r) * Wide + c] = from[r];
            } else {
                const bf16* from = static_cast<const bf16*>(w) + ((n0 / Wide * ((k + 1) / 2) + step / 2) * Wide) * 2 + step % 2;
                for (int64_t r = 0; r < rows; ++r) to[(n0 + r) * Wide + c] = widen(from[2 * r]);
            }
        }
    }
}

int32_t pack(const PackArgs* p) {
    if (!is_activation(p->dtype)) return LR_UNSUPPORTED;
    const int64_t n = p->n, k = p->k, k2 = (k + 1) / 2;
    lr::parallel_for(ceil_div(n, Wide), [&](int64_t strip) {
        const int64_t first = strip * Wide, rows = n - first < Wide ? n - first : Wide;
        auto move = [&](auto* src, auto* dst) {
            using T = std::remove_const_t<std::remove_pointer_t<decltype(dst)>>;
            auto panel = [&](int64_t r, int64_t s) { return sizeof(T) == 4 ? (strip * k + s) * Wide + r : ((strip * k2 + s / 2) * Wide + r) * 2 + s % 2; };
            if (p->unpack) {
                for (int64_t r = 0; r < rows; ++r)
                    for (int64_t s = 0; s < k; ++s) dst[(first + r) * k + s] = src[panel(r, s)];
                return;
            }
            for (int64_t s = 0; s < (sizeof(T) == 4 ? k : 2 * k2); ++s)
                for (int64_t r = 0; r < Wide; ++r) dst[panel(r, s)] = r < rows && s < k ? src[(first + r) * k + s] : T{};
        };
        if (p->dtype == LR_F32) move(static_cast<const float*>(p->src), static_cast<float*>(p->dst));
        else move(static_cast<const bf16*>(p->src), static_cast<bf16*>(p->dst));
    });
    return LR_OK;
}

// c[m,n] = scale op(a) op(b)
int32_t matmul(const MatMulArgs* p) {
    if (!is_activation(p->dtype)) return LR_UNSUPPORTED;
    const int64_t m = p->m, n = p->n, k = p->k, panels = ceil_div(m, Rows), strips = ceil_div(n, Wide);
    const View a = p->transpose_a ? View{p->a, p->dtype, 1, m} : View{p->a, p->dtype, k, 1};
    const View b = p->transpose_b ? View{p->b, p->dtype, k, 1} : View{p->b, p->dtype, 1, n};
    float* left = lr::scratch(0, panels * Rows * k + 16);
    float* right = lr::scratch(1, strips * Wide * k + 16);
    if (!left || !right) return LR_OUT_OF_MEMORY;
    lr::parallel_for(panels, [&](int64_t i) { pack_panels(a, m, k, i, nullptr, left + i * Rows * k); });
    lr::parallel_for(strips, [&](int64_t j) { pack_strip(b, n, k, j, Wide, right + j * Wide * k); });
    const float scale = static_cast<float>(p->scale);
    by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* c = static_cast<T*>(p->c);
        multiply({left, k, nullptr, 0}, m, n, false, [&](int64_t j) { return right + j * Wide * k; }, nullptr, [&](const Place& at, const float* sums) {
            for (int r = 0; r < at.rows; ++r)
                for (int e = 0; e < at.cols; ++e) put(c + (at.row + r) * n + at.col + e, scale * sums[r * Wide + e], p->add & 1);
        });
    });
    return LR_OK;
}

int32_t linear_forward(const LinearArgs* p) {
    const LoraArgs same = {p->x, nullptr, p->w, nullptr, nullptr, p->bias, nullptr, p->y, nullptr, nullptr, p->tokens, p->n, p->k, 0, 0, p->dtype, p->w_dtype, p->w_layout};
    return lora_forward(&same);
}

int32_t linear_backward(const LinearGradArgs* p) {
    if (!is_activation(p->dtype) || !is_activation(p->w_dtype)) return LR_UNSUPPORTED;
    const uint32_t add = (p->add & 1) | (p->add >> 2 & 1) << 4;
    LoraGradArgs same = {};
    same.w = p->w, same.dy = p->dy, same.dx = p->dx, same.dbias = p->dbias, same.tokens = p->tokens, same.n = p->n, same.k = p->k, same.dtype = p->dtype;
    same.w_dtype = p->w_dtype, same.w_layout = p->w_layout, same.add = add;
    if (const int32_t status = lora_backward(&same); status != LR_OK || !p->dw) return status;
    // dw[n,k] = dy^T x: trained weights are F32 beside bf16 activations
    const int64_t t = p->tokens, n = p->n, k = p->k, panels = ceil_div(n, Rows), strips = ceil_div(k, Wide);
    float* left = lr::scratch(0, panels * Rows * t + 16);
    float* right = lr::scratch(1, strips * Wide * t + 16);
    if (!left || !right) return LR_OUT_OF_MEMORY;
    lr::parallel_for(panels, [&](int64_t i) { pack_panels({p->dy, p->dtype, 1, n}, n, t, i, nullptr, left + i * Rows * t); });
    lr::parallel_for(strips, [&](int64_t j) { pack_strip({p->x, p->dtype, 1, k}, k, t, j, Wide, right + j * Wide * t); });
    by_type(p->w_dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* dw = static_cast<T*>(p->dw);
        multiply({left, t, nullptr, 0}, n, k, false, [&](int64_t j) { return right + j * Wide * t; }, nullptr, [&](const Place& at, const float* sums) {
            for (int r = 0; r < at.rows; ++r)
                for (int e = 0; e < at.cols; ++e) put(dw + (at.row + r) * k + at.col + e, sums[r * Wide + e], p->add >> 1 & 1);
        });
    });
    return LR_OK;
}

} // namespace LR_NS
