// LayerNorm, and RMSNorm as the same with a mean of 0. Floor: x read, y written, at copy bandwidth; backward x and dy read, dx written. A team of threads
// owns a row, a warp up to 1024 columns, else a block, and holds 32 elements a thread in registers: up to 8192 columns the row is read once, what lies
// past that once a pass. The sums over rows are made by parts of rows and added in order.
#include "common.cuh"

constexpr int Held = 32 / Lanes; // vectors a thread

template <int Team> LR_DEV void lr_norm(const LayerNormArgs& p) {
    float* parts = reinterpret_cast<float*>(LR_SMEM); // [8] where a block owns the row
    const int64_t row = Team == 32 ? int64_t(LR_BX) * 4 + LR_TID / 32 : LR_BX;
    if (row >= p.rows) return;
    const scalar* x = static_cast<const scalar*>(p.x) + row * p.cols;
    scalar* y = static_cast<scalar*>(p.y) + row * p.cols;
    const float *weight = static_cast<const float*>(p.weight), *bias = static_cast<const float*>(p.bias);
    const bool whole = lr_aligned(x) && lr_aligned(y), params = lr_aligned(weight) && lr_aligned(bias);
    float held[Held][Lanes];
    LR_UNROLL
    for (int i = 0; i < Held; ++i) {
        const int g = static_cast<int>(LR_TID) % Team + Team * i;
        lr_get(x + g * Lanes, lr_group(g, p.cols), whole, held[i]);
    }
    auto each = [&](auto f) { // f(group, its elements: zero past the end)
        LR_UNROLL
        for (int i = 0; i < Held; ++i) f(static_cast<int>(LR_TID) % Team + Team * i, held[i]);
        for (int g = static_cast<int>(LR_TID) % Team + Team * Held; g * Lanes < p.cols; g += Team) {
            float v[Lanes];
            lr_get(x + g * Lanes, lr_group(g, p.cols), whole, v);
            f(g, v);
        }
    };
    float sum = 0, squares = 0;
    each([&](int, const float(&v)[Lanes]) {
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) sum += v[e];
    });
    const float mean = p.rms ? 0 : lr_team_sum<Team>(sum, parts) / static_cast<float>(p.cols);
    each([&](int g, const float(&v)[Lanes]) {
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) {
            const float d = g * Lanes + e < p.cols ? v[e] - mean : 0.0f;
            squares = lr_fma(d, d, squares);
        }
    });
    const float rstd = 1.0f / sqrtf(lr_team_sum<Team>(squares, parts) / static_cast<float>(p.cols) + static_cast<float>(p.eps));
    each([&](int g, const float(&v)[Lanes]) {
        const int have = lr_group(g, p.cols);
        float out[Lanes], w[Lanes] = {}, b[Lanes] = {};
        if (weight) lr_get(weight + g * Lanes, have, params, w);
        if (bias) lr_get(bias + g * Lanes, have, params, b);
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) {
            out[e] = (v[e] - mean) * rstd;
            if (weight) out[e] *= w[e];
            if (bias) out[e] += b[e];
        }
        lr_set(y + g * Lanes, have, whole, out, false);
    });
    if (LR_TID % Team > 0) return;
    static_cast<float*>(p.stats)[2 * row] = mean;
    static_cast<float*>(p.stats)[2 * row + 1] = rstd;
}
LR_KERNEL(layer_norm_forward, LayerNormArgs, 128, 4) { lr_norm<32>(p); }
LR_KERNEL(layer_norm_forward_wide, LayerNormArgs, 256, 2) { lr_norm<256>(p); }

template <int Team> LR_DEV void lr_norm_back(const LayerNormGradArgs& p) {
    float* parts = reinterpret_cast<float*>(LR_SMEM); // [8] where a block owns the row
    const int64_t row = Team == 32 ? int64_t(LR_BX) * 4 + LR_TID / 32 : LR_BX;
    if (row >= p.rows) return;
    const scalar *x = static_cast<const scalar*>(p.x) + row * p.cols, *dy = static_cast<const scalar*>(p.dy) + row * p.cols;
    scalar* dx = static_cast<scalar*>(p.dx) + row * p.cols;
    const float* weight = static_cast<const float*>(p.weight);
    const bool whole = lr_aligned(x) && lr_aligned(dy) && lr_aligned(dx), params = lr_aligned(weight);
    const float mean = static_cast<const float*>(p.stats)[2 * row], rstd = static_cast<const float*>(p.stats)[2 * row + 1];
    auto get = [&](int g, float(&hat)[Lanes], float(&up)[Lanes]) { // (x - mean) rstd, and dy times the weight
        const int have = lr_group(g, p.cols);
        lr_get(x + g * Lanes, have, whole, hat);
        lr_get(dy + g * Lanes, have, whole, up);
        float w[Lanes] = {};
        if (weight) lr_get(weight + g * Lanes, have, params, w);
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) {
            hat[e] = (hat[e] - mean) * rstd;
            if (weight) up[e] *= w[e];
        }
    };
    float hats[Held][Lanes], ups[Held][Lanes];
    LR_UNROLL
    for (int i = 0; i < Held; ++i) get(static_cast<int>(LR_TID) % Team + Team * i, hats[i], ups[i]);
    auto each = [&](auto f) {
        LR_UNROLL
        for (int i = 0; i < Held; ++i) f(static_cast<int>(LR_TID) % Team + Team * i, hats[i], ups[i]);
        for (int g = static_cast<int>(LR_TID) % Team + Team * Held; g * Lanes < p.cols; g += Team) {
            float hat[Lanes], up[Lanes];
            get(g, hat, up);
            f(g, hat, up);
        }
    };
    float g1 = 0, g2 = 0;
    each([&](int, const float(&hat)[Lanes], const float(&up)[Lanes]) { // past the end up is zero
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) {
            g1 += up[e];
            g2 = lr_fma(up[e], hat[e], g2);
        }
    });
    g1 = p.rms ? 0 : lr_team_sum<Team>(g1, parts) / static_cast<float>(p.cols);
    g2 = lr_team_sum<Team>(g2, parts) / static_cast<float>(p.cols);
    each([&](int g, const float(&hat)[Lanes], const float(&up)[Lanes]) {
        float out[Lanes];
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) out[e] = rstd * (up[e] - g1 - hat[e] * g2);
        lr_set(dx + g * Lanes, lr_group(g, p.cols), whole, out, p.add & 1);
    });
}
LR_KERNEL(layer_norm_backward_x, LayerNormGradArgs, 128, 4) { lr_norm_back<32>(p); }
LR_KERNEL(layer_norm_backward_x_wide, LayerNormGradArgs, 256, 2) { lr_norm_back<256>(p); }

// Part LR_BY of the rows, 32 columns: 8 threads a column; work [2][parts][cols]
LR_KERNEL(layer_norm_backward_w, Planned<LayerNormGradArgs>, 256, 4) {
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
    float* sums = reinterpret_cast<float*>(LR_SMEM); // [2][8][32]
    dw = lr_column_sum(dw, sums);
    db = lr_column_sum(db, sums + 256);
    if (row > 0 || c >= a.cols) return;
    static_cast<float*>(p.work)[LR_BY * int64_t(a.cols) + c] = dw;
    static_cast<float*>(p.work)[(int64_t(p.parts) + LR_BY) * a.cols + c] = db;
}
