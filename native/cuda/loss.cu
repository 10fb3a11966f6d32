// Losses. Floor: logits read once forward (maximum and sum of powers are kept online), read and gradient written once backward. Sums over rows are made
// in float64 in the order of rows by one block; a double addition and conversion an element stay below memory's time where float64 has 1/64 of the rate.
#include "common.cuh"

// z = cap tanh(x/cap), or x where there is no cap, and dz/dx by z
LR_DEV float lr_capped(float x, float cap) { return cap > 0 ? cap * tanhf(x / cap) : x; }
LR_DEV float lr_cap_slope(float z, float cap) { return cap > 0 ? (1 - z / cap) * (1 + z / cap) : 1.0f; }

// dx (+)= scale (softmax - q) dz/dx of a row [cols], by its log-sum-exp; 0 where its label does not count
template <int Team, class Args> LR_DEV void lr_entropy_slope(const Args& p, const scalar* x, scalar* dx, int label, float lse, float scale, bool add) {
    const bool whole = lr_aligned(x) && lr_aligned(dx);
    const float even = static_cast<float>(p.smoothing / p.cols), peak = static_cast<float>(1 - p.smoothing), cap = static_cast<float>(p.cap);
    for (int g = static_cast<int>(LR_TID) % Team; g * Lanes < p.cols; g += Team) {
        const int have = lr_group(g, p.cols);
        float v[Lanes];
        lr_get(x + g * Lanes, have, whole, v);
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) {
            const float q = even + (g * Lanes + e == label ? peak : 0.0f), z = lr_capped(v[e], cap);
            v[e] = label == p.ignore ? 0.0f : scale * lr_cap_slope(z, cap) * (expf(z - lse) - q);
        }
        lr_set(dx + g * Lanes, have, whole, v, add);
    }
}

// A team of threads a row, a warp up to 1024 columns, else a block: lse, the row's loss, and its gradient where that is wanted
template <int Team> LR_DEV void lr_entropy(const CrossEntropyArgs& a) {
    float* parts = reinterpret_cast<float*>(LR_SMEM); // [8] where a block owns the row
    const int64_t row = Team == 32 ? int64_t(LR_BX) * 4 + LR_TID / 32 : LR_BX;
    if (row >= a.rows) return;
    const scalar* x = static_cast<const scalar*>(a.logits) + row * a.cols;
    const int label = static_cast<const int32_t*>(a.labels)[a.first + row];
    const bool whole = lr_aligned(x);
    const float none = -lr_infinity(), cap = static_cast<float>(a.cap), own = label == a.ignore ? 0.0f : lr_capped(lr_widen(x[label]), cap);
    float top = none, mean = 0, exps = 0;
    for (int g = static_cast<int>(LR_TID) % Team; g * Lanes < a.cols; g += Team) {
        const int have = lr_group(g, a.cols);
        float v[Lanes], next = top;
        lr_get(x + g * Lanes, have, whole, v);
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) {
            v[e] = lr_capped(v[e], cap);
            if (e < have) next = fmaxf(next, v[e]); // a NaN is not seen here: it stays in its power
        }
        const float level = next == none ? 0.0f : next;
        exps *= expf(top - level);
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) {
            mean += v[e];
            exps += e < have ? expf(v[e] - level) : 0.0f;
        }
        top = next;
    }
    const float most = lr_team_max<Team>(top, parts), level = most == none ? 0.0f : most;
    exps = lr_team_sum<Team>(exps * expf(top - level), parts);
    mean = lr_team_sum<Team>(mean, parts);
    const float log = level + logf(exps), smoothing = static_cast<float>(a.smoothing);
    if (LR_TID % Team == 0) {
        static_cast<float*>(a.lse)[a.first + row] = log;
        static_cast<float*>(a.losses)[a.first + row] = label == a.ignore ? 0.0f : log - (1.0f - smoothing) * own - smoothing * (mean / static_cast<float>(a.cols));
    }
    if (!a.dlogits) return;
    lr_warp_sync(); // dlogits may be logits: the label's is read before
    lr_entropy_slope<Team>(a, x, static_cast<scalar*>(a.dlogits) + row * a.cols, label, log, 1 / *static_cast<const float*>(a.valid), false);
}
LR_KERNEL(cross_entropy_rows, CrossEntropyArgs, 128, 8) { lr_entropy<32>(p); }
LR_KERNEL(cross_entropy_rows_wide, CrossEntropyArgs, 256, 4) { lr_entropy<256>(p); }

// One block: valid, the labels that count; its first thread gets the number
LR_DEV double lr_valid(const CrossEntropyArgs& p) {
    double counted = 0;
    for (int r = LR_TID; r < p.total; r += 256) counted += static_cast<const int32_t*>(p.labels)[r] != p.ignore;
    counted = lr_block_total(counted, reinterpret_cast<double*>(LR_SMEM)); // [256]
    if (LR_TID == 0) *static_cast<float*>(p.valid) = static_cast<float>(counted);
    return counted;
}
LR_KERNEL(cross_entropy_count, CrossEntropyArgs, 256, 1) { lr_valid(p); }
// One block: the mean of the rows whose labels count
LR_KERNEL(cross_entropy_mean, CrossEntropyArgs, 256, 1) {
    double sum = 0;
    for (int r = LR_TID; r < p.total; r += 256) sum += static_cast<const float*>(p.losses)[r];
    sum = lr_block_total(sum, reinterpret_cast<double*>(LR_SMEM)); // [256]
    const double counted = lr_valid(p);
    if (LR_TID == 0) *static_cast<float*>(p.loss) = counted > 0 ? static_cast<float>(sum / counted) : 0.0f;
}

template <int Team> LR_DEV void lr_entropy_back(const CrossEntropyGradArgs& p) {
    const int64_t row = Team == 32 ? int64_t(LR_BX) * 4 + LR_TID / 32 : LR_BX;
    if (row >= p.rows) return;
    const float scale = *static_cast<const float*>(p.dloss) / *static_cast<const float*>(p.valid);
    lr_entropy_slope<Team>(p, static_cast<const scalar*>(p.logits) + row * p.cols, static_cast<scalar*>(p.dlogits) + row * p.cols, static_cast<const int32_t*>(p.labels)[row],
                           static_cast<const float*>(p.lse)[row], scale, p.add & 1);
}
LR_KERNEL(cross_entropy_backward, CrossEntropyGradArgs, 128, 8) { lr_entropy_back<32>(p); }
LR_KERNEL(cross_entropy_backward_wide, CrossEntropyGradArgs, 256, 4) { lr_entropy_back<256>(p); }

// Partial sums of f(y, target) in float64: work [parts]
template <class F> LR_DEV void lr_error_parts(const Planned<SquaredErrorArgs>& p, F f) {
    double* parts = reinterpret_cast<double*>(LR_SMEM);
    const scalar *y = static_cast<const scalar*>(p.op.y), *target = static_cast<const scalar*>(p.op.target);
    double sum = 0;
    for (int64_t i = int64_t(LR_BX) * 256 + LR_TID; i < p.op.count; i += int64_t(LR_GX) * 256) sum += static_cast<double>(f(lr_widen(y[i]), lr_widen(target[i])));
    sum = lr_block_total(sum, parts);
    if (LR_TID == 0) static_cast<double*>(p.work)[LR_BX] = sum;
}
LR_KERNEL(squared_error_parts, Planned<SquaredErrorArgs>, 256, 4) {
    lr_error_parts(p, [](float y, float target) { return (y - target) * (y - target); });
}
LR_KERNEL(binary_cross_entropy_parts, Planned<SquaredErrorArgs>, 256, 4) {
    lr_error_parts(p, [](float y, float target) { return (y > 0 ? y : 0.0f) + log1pf(expf(y > 0 ? -y : y)) - y * target; });
}
LR_KERNEL(error_mean, Planned<SquaredErrorArgs>, 32, 1) {
    if (LR_TID > 0) return;
    double sum = 0;
    for (int i = 0; i < p.parts; ++i) sum += static_cast<const double*>(p.work)[i];
    *static_cast<float*>(p.op.loss) = static_cast<float>(p.op.scale * sum / static_cast<double>(p.op.count));
}
LR_KERNEL(binary_cross_entropy_backward, SquaredErrorGradArgs, 256, 4) {
    const scalar *y = static_cast<const scalar*>(p.y), *target = static_cast<const scalar*>(p.target);
    const float scale = *static_cast<const float*>(p.dloss) * static_cast<float>(p.scale / static_cast<double>(p.count));
    for (int64_t i = int64_t(LR_BX) * 256 + LR_TID; i < p.count; i += int64_t(LR_GX) * 256)
        lr_put(static_cast<scalar*>(p.dy) + i, scale * (1.0f / (1.0f + expf(-lr_widen(y[i]))) - lr_widen(target[i])), p.add & 1);
}
LR_KERNEL(squared_error_backward, SquaredErrorGradArgs, 256, 4) {
    const scalar *y = static_cast<const scalar*>(p.y), *target = static_cast<const scalar*>(p.target);
    const float scale = *static_cast<const float*>(p.dloss) * static_cast<float>(2 * p.scale / static_cast<double>(p.count));
    for (int64_t i = int64_t(LR_BX) * 256 + LR_TID; i < p.count; i += int64_t(LR_GX) * 256)
        lr_put(static_cast<scalar*>(p.dy) + i, scale * (lr_widen(y[i]) - lr_widen(target[i])), p.add & 1);
}

// Entropy of predictions: log(p + epsilon) of a share p = e^log, and its slope in p times p
LR_DEV float lr_surprise(float epsilon, float share, float log) { return epsilon > 0 ? logf(share + epsilon) : log; }
LR_DEV float lr_surprise_slope(float epsilon, float share, float log) { return lr_surprise(epsilon, share, log) + (epsilon > 0 ? share / (share + epsilon) : 1.0f); }

// A team of threads a row: its entropy, log-sum-exp and mean slope
template <int Team> LR_DEV void lr_mean_entropy(const MeanEntropyArgs& a) {
    float* parts = reinterpret_cast<float*>(LR_SMEM); // [8] where a block owns the row
    const int64_t row = Team == 32 ? int64_t(LR_BX) * 4 + LR_TID / 32 : LR_BX;
    if (row >= a.rows) return;
    const scalar* x = static_cast<const scalar*>(a.logits) + row * a.cols;
    const float epsilon = static_cast<float>(a.epsilon);
    float top = -lr_infinity(), exps = 0, entropy = 0, mean = 0, all = 0;
    for (int c = static_cast<int>(LR_TID) % Team; c < a.cols; c += Team) top = fmaxf(top, lr_widen(x[c]));
    top = lr_team_max<Team>(top, parts);
    for (int c = static_cast<int>(LR_TID) % Team; c < a.cols; c += Team) exps += expf(lr_widen(x[c]) - top);
    const float lse = top + logf(lr_team_sum<Team>(exps, parts));
    for (int c = static_cast<int>(LR_TID) % Team; c < a.cols; c += Team) {
        const float log = lr_widen(x[c]) - lse, share = expf(log);
        if (share == 0) continue;
        all += share;
        entropy -= share * lr_surprise(epsilon, share, log);
        mean += share * lr_surprise_slope(epsilon, share, log);
    }
    all = lr_team_sum<Team>(all, parts); // 1 but for the rounding of lse, which counts as often as there are nats
    entropy = lr_team_sum<Team>(entropy, parts) / all;
    mean = lr_team_sum<Team>(mean, parts) / all;
    if (LR_TID % Team != 0) return;
    static_cast<float*>(a.losses)[row] = entropy;
    static_cast<float*>(a.stats)[2 * row] = lse;
    static_cast<float*>(a.stats)[2 * row + 1] = mean;
}
LR_KERNEL(mean_entropy_rows, MeanEntropyArgs, 128, 8) { lr_mean_entropy<32>(p); }
LR_KERNEL(mean_entropy_rows_wide, MeanEntropyArgs, 256, 4) { lr_mean_entropy<256>(p); }
LR_KERNEL(mean_entropy_mean, MeanEntropyArgs, 256, 1) {
    double sum = 0;
    for (int r = LR_TID; r < p.rows; r += 256) sum += static_cast<const float*>(p.losses)[r];
    sum = lr_block_total(sum, reinterpret_cast<double*>(LR_SMEM)); // [256]
    if (LR_TID == 0) *static_cast<float*>(p.loss) = static_cast<float>(sum / p.rows);
}
LR_KERNEL(mean_entropy_backward, MeanEntropyGradArgs, 256, 4) {
    const float scale = *static_cast<const float*>(p.dloss) / static_cast<float>(p.rows), epsilon = static_cast<float>(p.epsilon);
    for (int64_t i = int64_t(LR_BX) * 256 + LR_TID; i < int64_t(p.rows) * p.cols; i += int64_t(LR_GX) * 256) {
        const float* stats = static_cast<const float*>(p.stats) + i / p.cols * 2;
        const float log = lr_widen(static_cast<const scalar*>(p.logits)[i]) - stats[0], share = expf(log);
        lr_put(static_cast<scalar*>(p.dlogits) + i, share == 0 ? 0.0f : -scale * share * (lr_surprise_slope(epsilon, share, log) - stats[1]), p.add & 1);
    }
}
