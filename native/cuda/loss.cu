// Losses. Floor: logits read once forward (twice through L2 here: maximum, then sum), read and gradient written once backward. Sums over rows are made in
// float64 in the order of rows by one block.
#include "common.cuh"

// A block a row: lse, and the row's loss to work [rows]
LR_KERNEL(cross_entropy_rows, Planned<CrossEntropyArgs>, 256, 4) {
    float* parts = reinterpret_cast<float*>(LR_SMEM); // [8]
    const CrossEntropyArgs& a = p.op;
    const int64_t row = LR_BX;
    const scalar* x = static_cast<const scalar*>(a.logits) + row * a.cols;
    const int label = static_cast<const int32_t*>(a.labels)[row];
    float top = lr_widen(x[0]), mean = 0, exps = 0;
    for (int c = LR_TID; c < a.cols; c += 256) {
        const float v = lr_widen(x[c]);
        top = v > top || v != v ? v : top;
        mean += v;
    }
    top = lr_block_max<256>(top, parts);
    for (int c = LR_TID; c < a.cols; c += 256) exps += expf(lr_widen(x[c]) - top);
    exps = lr_block_sum<256>(exps, parts);
    mean = lr_block_sum<256>(mean, parts);
    if (LR_TID > 0) return;
    const float log = top + logf(exps), smoothing = static_cast<float>(a.smoothing);
    static_cast<float*>(a.lse)[row] = log;
    static_cast<float*>(p.work)[row] = label == a.ignore ? 0.0f : log - (1.0f - smoothing) * lr_widen(x[label]) - smoothing * (mean / static_cast<float>(a.cols));
}

// The sum of v over a block of 256, in float64
LR_DEV double lr_block_total(double v, double* parts) {
    parts[LR_TID] = v;
    for (int half = 128; half > 0; half /= 2) {
        lr_sync();
        if (static_cast<int>(LR_TID) < half) parts[LR_TID] += parts[LR_TID + half];
    }
    lr_sync();
    const double total = parts[0];
    lr_sync();
    return total;
}

// One block: the mean of the rows that count
LR_KERNEL(cross_entropy_mean, Planned<CrossEntropyArgs>, 256, 1) {
    double* parts = reinterpret_cast<double*>(LR_SMEM); // [256]
    const CrossEntropyArgs& a = p.op;
    double sum = 0, counted = 0;
    for (int r = LR_TID; r < a.rows; r += 256) {
        sum += static_cast<const float*>(p.work)[r];
        counted += static_cast<const int32_t*>(a.labels)[r] != a.ignore;
    }
    sum = lr_block_total(sum, parts);
    counted = lr_block_total(counted, parts);
    if (LR_TID > 0) return;
    *static_cast<float*>(a.loss) = counted > 0 ? static_cast<float>(sum / counted) : 0.0f;
    *static_cast<float*>(a.valid) = static_cast<float>(counted);
}

LR_KERNEL(cross_entropy_backward, CrossEntropyGradArgs, 256, 4) {
    const int64_t row = LR_BX;
    const scalar* x = static_cast<const scalar*>(p.logits) + row * p.cols;
    scalar* dx = static_cast<scalar*>(p.dlogits) + row * p.cols;
    const int label = static_cast<const int32_t*>(p.labels)[row];
    const float lse = static_cast<const float*>(p.lse)[row], scale = *static_cast<const float*>(p.dloss) / *static_cast<const float*>(p.valid);
    const float even = static_cast<float>(p.smoothing / p.cols), peak = static_cast<float>(1 - p.smoothing);
    for (int c = LR_TID; c < p.cols; c += 256) {
        const float q = even + (c == label ? peak : 0.0f);
        lr_put(dx + c, label == p.ignore ? 0.0f : scale * (expf(lr_widen(x[c]) - lse) - q), p.add & 1);
    }
}

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
