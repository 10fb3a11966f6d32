// LayerNorm. Floor: x read, y written; a row stays in L1 between the passes. Backward reads x and dy, writes dx; the sums over rows are made in
// fixed blocks of rows and added in order.
#include "kernels.h"
#include "pool.h"
#include "simd.h"

namespace LR_NS {

int32_t layer_norm_forward(const LayerNormArgs* p) {
    const float *weight = static_cast<const float*>(p->weight), *bias = static_cast<const float*>(p->bias);
    float* stats = static_cast<float*>(p->stats);
    const int64_t cols = p->cols;
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->rows, cols * 2, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r) {
                const T* x = static_cast<const T*>(p->x) + r * cols;
                T* y = static_cast<T*>(p->y) + r * cols;
                vf total{}, squares{};
                float rest = 0;
                int64_t i = 0;
                for (; i + Lanes <= cols; i += Lanes) total = total + load(x + i);
                for (; i < cols; ++i) rest += widen(x[i]);
                const float mean = (sum(total) + rest) / float(cols);
                rest = 0;
                for (i = 0; i + Lanes <= cols; i += Lanes) {
                    const vf d = load(x + i) - splat(mean);
                    squares = fma(d, d, squares);
                }
                for (; i < cols; ++i) rest += (widen(x[i]) - mean) * (widen(x[i]) - mean);
                const float rstd = float(1 / __builtin_sqrt(double(sum(squares) + rest) / double(cols) + p->eps));
                for (i = 0; i + Lanes <= cols; i += Lanes) {
                    vf v = (load(x + i) - splat(mean)) * splat(rstd);
                    if (weight) v = v * load(weight + i);
                    if (bias) v = v + load(bias + i);
                    store(y + i, v);
                }
                for (; i < cols; ++i) {
                    float v = (widen(x[i]) - mean) * rstd;
                    if (weight) v *= weight[i];
                    if (bias) v += bias[i];
                    narrow(v, y[i]);
                }
                stats[2 * r] = mean;
                stats[2 * r + 1] = rstd;
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t layer_norm_backward(const LayerNormGradArgs* p) {
    constexpr int64_t Rows = 32; // a block of the sums over rows
    const float *weight = static_cast<const float*>(p->weight), *stats = static_cast<const float*>(p->stats);
    float *dweight = static_cast<float*>(p->dweight), *dbias = static_cast<float*>(p->dbias);
    const int64_t cols = p->cols, blocks = (p->rows + Rows - 1) / Rows;
    float* partial = lr::scratch(0, blocks * 2 * cols + 16);
    if (!partial) return LR_OUT_OF_MEMORY;
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_for(blocks, [&](int64_t block) {
            float *sw = partial + block * 2 * cols, *sb = sw + cols;
            memset(sw, 0, size_t(2 * cols) * sizeof(float));
            for (int64_t r = block * Rows; r < (block + 1) * Rows && r < p->rows; ++r) {
                const T *x = static_cast<const T*>(p->x) + r * cols, *dy = static_cast<const T*>(p->dy) + r * cols;
                const float mean = stats[2 * r], rstd = stats[2 * r + 1];
                vf v1{}, v2{};
                float g1 = 0, g2 = 0;
                int64_t i = 0;
                for (; i + Lanes <= cols; i += Lanes) {
                    const vf up = load(dy + i), hat = (load(x + i) - splat(mean)) * splat(rstd), g = weight ? up * load(weight + i) : up;
                    v1 = v1 + g;
                    v2 = fma(g, hat, v2);
                    store(sw + i, fma(up, hat, load(sw + i)));
                    store(sb + i, load(sb + i) + up);
                }
                for (; i < cols; ++i) {
                    const float up = widen(dy[i]), hat = (widen(x[i]) - mean) * rstd, g = weight ? up * weight[i] : up;
                    g1 += g;
                    g2 += g * hat;
                    sw[i] += up * hat;
                    sb[i] += up;
                }
                if (!p->dx) continue;
                T* dx = static_cast<T*>(p->dx) + r * cols;
                g1 = (g1 + sum(v1)) / float(cols);
                g2 = (g2 + sum(v2)) / float(cols);
                for (i = 0; i + Lanes <= cols; i += Lanes) {
                    const vf up = load(dy + i), hat = (load(x + i) - splat(mean)) * splat(rstd), g = weight ? up * load(weight + i) : up;
                    put(dx + i, splat(rstd) * (g - splat(g1) - hat * splat(g2)), p->add & 1);
                }
                for (; i < cols; ++i) {
                    const float hat = (widen(x[i]) - mean) * rstd, g = weight ? widen(dy[i]) * weight[i] : widen(dy[i]);
                    put(dx + i, rstd * (g - g1 - hat * g2), p->add & 1);
                }
            }
        });
    });
    if (!known) return LR_UNSUPPORTED;
    if (dweight || dbias)
        lr::parallel_range(cols, blocks * 2, [&](int64_t c0, int64_t c1) {
            for (int64_t c = c0; c < c1; ++c) {
                float sw = 0, sb = 0;
                for (int64_t b = 0; b < blocks; ++b) {
                    sw += partial[b * 2 * cols + c];
                    sb += partial[b * 2 * cols + cols + c];
                }
                if (dweight) put(dweight + c, sw, p->add >> 1 & 1);
                if (dbias) put(dbias + c, sb, p->add >> 2 & 1);
            }
        });
    return LR_OK;
}

} // namespace LR_NS
