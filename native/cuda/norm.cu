// LayerNorm, and RMSNorm as the same with a mean of 0. Floor: x read, y written at copy bandwidth; a warp owns a row, whose second and third reading come from L1. Backward: x and dy read, dx
// written; the sums over rows are made by parts of rows and added in order.
#include "common.cuh"

constexpr int Warps = 4; // rows a block

LR_KERNEL(layer_norm_forward, LayerNormArgs, 128, 8) {
    const int64_t row = int64_t(LR_BX) * Warps + LR_TID / 32;
    if (row >= p.rows) return;
    const int lane = LR_TID % 32;
    const scalar* x = static_cast<const scalar*>(p.x) + row * p.cols;
    scalar* y = static_cast<scalar*>(p.y) + row * p.cols;
    const float *weight = static_cast<const float*>(p.weight), *bias = static_cast<const float*>(p.bias);
    float sum = 0, squares = 0;
    for (int c = lane; c < p.cols; c += 32) sum += lr_widen(x[c]);
    const float mean = p.rms ? 0 : lr_warp_sum(sum) / static_cast<float>(p.cols);
    for (int c = lane; c < p.cols; c += 32) {
        const float d = lr_widen(x[c]) - mean;
        squares = lr_fma(d, d, squares);
    }
    const float rstd = 1.0f / sqrtf(lr_warp_sum(squares) / static_cast<float>(p.cols) + static_cast<float>(p.eps));
    for (int c = lane; c < p.cols; c += 32) {
        float v = (lr_widen(x[c]) - mean) * rstd;
        if (weight) v *= weight[c];
        if (bias) v += bias[c];
        lr_narrow(v, y[c]);
    }
    if (lane == 0) {
        static_cast<float*>(p.stats)[2 * row] = mean;
        static_cast<float*>(p.stats)[2 * row + 1] = rstd;
    }
}

LR_KERNEL(layer_norm_backward_x, LayerNormGradArgs, 128, 8) {
    const int64_t row = int64_t(LR_BX) * Warps + LR_TID / 32;
    if (row >= p.rows) return;
    const int lane = LR_TID % 32;
    const scalar *x = static_cast<const scalar*>(p.x) + row * p.cols, *dy = static_cast<const scalar*>(p.dy) + row * p.cols;
    scalar* dx = static_cast<scalar*>(p.dx) + row * p.cols;
    const float* weight = static_cast<const float*>(p.weight);
    const float mean = static_cast<const float*>(p.stats)[2 * row], rstd = static_cast<const float*>(p.stats)[2 * row + 1];
    float g1 = 0, g2 = 0;
    for (int c = lane; c < p.cols; c += 32) {
        const float g = weight ? lr_widen(dy[c]) * weight[c] : lr_widen(dy[c]);
        g1 += g;
        g2 = lr_fma(g, (lr_widen(x[c]) - mean) * rstd, g2);
    }
    g1 = p.rms ? 0 : lr_warp_sum(g1) / static_cast<float>(p.cols);
    g2 = lr_warp_sum(g2) / static_cast<float>(p.cols);
    for (int c = lane; c < p.cols; c += 32) {
        const float g = weight ? lr_widen(dy[c]) * weight[c] : lr_widen(dy[c]), hat = (lr_widen(x[c]) - mean) * rstd;
        lr_put(dx + c, rstd * (g - g1 - hat * g2), p.add & 1);
    }
}

// Part LR_BY of the rows, 32 columns: 8 threads a column; work [2][parts][cols]
LR_KERNEL(layer_norm_backward_w, Planned<LayerNormGradArgs>, 256, 4) {
    float* sums = reinterpret_cast<float*>(LR_SMEM); // [2][8][32]
    const LayerNormGradArgs& a = p.op;
    const int lane = LR_TID % 32, row = LR_TID / 32;
    const int64_t c = int64_t(LR_BX) * 32 + lane, each = (int64_t(a.rows) + p.parts - 1) / p.parts;
    const int64_t begin = LR_BY * each, end = begin + each < a.rows ? begin + each : a.rows;
    const scalar *x = static_cast<const scalar*>(a.x), *dy = static_cast<const scalar*>(a.dy);
    const float* stats = static_cast<const float*>(a.stats);
    float dw = 0, db = 0;
    if (c < a.cols)
        for (int64_t r = begin + row; r < end; r += 8) {
            const float up = lr_widen(dy[r * a.cols + c]);
            dw = lr_fma(up, (lr_widen(x[r * a.cols + c]) - stats[2 * r]) * stats[2 * r + 1], dw);
            db += up;
        }
    sums[row * 32 + lane] = dw;
    sums[256 + row * 32 + lane] = db;
    lr_sync();
    if (row > 1 || c >= a.cols) return;
    float sum = 0;
    LR_UNROLL
    for (int r = 0; r < 8; ++r) sum += sums[row * 256 + r * 32 + lane];
    static_cast<float*>(p.work)[(int64_t(row) * p.parts + LR_BY) * a.cols + c] = sum;
}
