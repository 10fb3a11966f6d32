// Optimisers over one flat pack. Floor: AdamW reads p, g, m, v and writes p, m, v: 28 bytes a parameter at copy bandwidth (107 G parameters/s on an H100).
// Blocks stride over tiles of 4096 elements of all segments; clipping reads the squared norm from device memory, so no step waits for the host.
#include "common.cuh"

#if LR_DTYPE == 1

constexpr int64_t Tile = 4096;

// f(segment, begin, end, tile) for the tiles of this block; every thread of the block calls it
template <class F> LR_DEV void lr_tiles(const Segment* segments, int count, F f) {
    int64_t before = 0;
    int64_t tile = LR_BX;
    for (int s = 0; s < count; ++s) {
        const Segment segment = segments[s];
        const int64_t tiles = (segment.count + Tile - 1) / Tile, last = segment.start + segment.count;
        for (; tile < before + tiles; tile += LR_GX) {
            const int64_t begin = segment.start + (tile - before) * Tile;
            f(segment, begin, begin + Tile < last ? begin + Tile : last, tile);
        }
        before += tiles;
    }
}

LR_DEV float lr_clip(const void* norm2, double max_norm) {
    if (!norm2 || max_norm <= 0) return 1;
    const double c = max_norm / (sqrt(*static_cast<const double*>(norm2)) + 1e-6);
    return c < 1 ? static_cast<float>(c) : 1.0f;
}

// {lr, step}: as the launch says, or as memory does
struct Pace {
    double lr, step;
};
template <class Args> LR_DEV Pace lr_pace(const Args& p) {
    const double* now = static_cast<const double*>(p.progress);
    return now ? Pace{now[0], now[1]} : Pace{p.lr, static_cast<double>(p.step)};
}

// Partial sums by block in float64: work [parts]
LR_KERNEL(square_sum_parts, Planned<SquareSumArgs>, 256, 4) {
    const float* g = static_cast<const float*>(p.op.g);
    double sum = 0;
    lr_tiles(p.op.segments, p.op.segment_count, [&](const Segment&, int64_t begin, int64_t end, int64_t) {
        for (int64_t i = begin + LR_TID; i < end; i += 256) sum += static_cast<double>(g[i]) * g[i];
    });
    sum = lr_block_total(sum, reinterpret_cast<double*>(LR_SMEM));
    if (LR_TID == 0) static_cast<double*>(p.work)[LR_BX] = sum;
}
LR_KERNEL(square_sum_total, Planned<SquareSumArgs>, 32, 1) {
    if (LR_TID > 0) return;
    double sum = 0;
    for (int i = 0; i < p.parts; ++i) sum += static_cast<const double*>(p.work)[i];
    *static_cast<double*>(p.op.norm2) = sum;
}

LR_KERNEL(adamw, AdamWArgs, 256, 4) {
    float *w = static_cast<float*>(p.p), *m = static_cast<float*>(p.m), *v = static_cast<float*>(p.v);
    const float* g = static_cast<const float*>(p.g);
    const float clip = lr_clip(p.norm2, p.max_norm), b1 = static_cast<float>(p.beta1), b2 = static_cast<float>(p.beta2), c1 = static_cast<float>(1 - p.beta1), c2 = static_cast<float>(1 - p.beta2);
    const Pace pace = lr_pace(p);
    const double correction1 = 1 - pow(p.beta1, pace.step), correction2 = 1 - pow(p.beta2, pace.step);
    const float root = static_cast<float>(sqrt(correction2)), eps = static_cast<float>(p.eps);
    lr_tiles(p.segments, p.segment_count, [&](const Segment& s, int64_t begin, int64_t end, int64_t) {
        const double lr = pace.lr * s.lr_scale;
        const float keep = static_cast<float>(1 - lr * s.weight_decay), step = static_cast<float>(lr / correction1), decay = static_cast<float>(s.weight_decay);
        for (int64_t i = begin + LR_TID; i < end; i += 256) {
            float x = w[i], d = clip * g[i];
            if (p.coupled) d = lr_fma(decay, x, d);
            else x *= keep;
            const float first = lr_fma(b1, m[i], c1 * d), second = lr_fma(b2, v[i], c2 * d * d);
            m[i] = first;
            v[i] = second;
            w[i] = x - step * first / (sqrtf(second) / root + eps);
        }
    });
}

LR_KERNEL(sgd, SgdArgs, 256, 4) {
    float *w = static_cast<float*>(p.p), *buffer = static_cast<float*>(p.buf);
    const float* g = static_cast<const float*>(p.g);
    const float clip = lr_clip(p.norm2, p.max_norm), momentum = static_cast<float>(p.momentum), enter = static_cast<float>(1 - p.dampening);
    const Pace pace = lr_pace(p);
    lr_tiles(p.segments, p.segment_count, [&](const Segment& s, int64_t begin, int64_t end, int64_t) {
        const float lr = static_cast<float>(pace.lr * s.lr_scale), decay = static_cast<float>(s.weight_decay);
        for (int64_t i = begin + LR_TID; i < end; i += 256) {
            const float d = lr_fma(decay, w[i], clip * g[i]);
            float move = d;
            if (buffer) {
                const float b = pace.step == 1 ? d : lr_fma(momentum, buffer[i], enter * d);
                buffer[i] = b;
                move = p.nesterov ? lr_fma(momentum, b, d) : b;
            }
            w[i] -= lr * move;
        }
    });
}
#endif
