// Merges of K models, one tensor at a time (lowrank.h has the formulas): a block of 256 threads owns 2048 elements of every model, eight a thread, and reads
// them again from cache where an election needs them twice. Thresholds are exact order statistics by counts of bit patterns, 11 bits a pass. Floor: merge
// K + 1 models read and one written, merge_count K + 1 read a pass. Predicted for four models of 4096 x 4096 in bf16 on an H100 at 3 TB/s: 70 us a merge,
// 60 us a pass. Counts are integers and figures sums of a block in a fixed order, so bits repeat.
#include "common.cuh"

#if LR_DTYPE == 1

constexpr int Each = LR_MERGE_BLOCK / 256, Bins = LR_MERGE_BINS, All = 1 << 24;

// Element e of a thread in a block of elements: groups of four that share a counter
LR_DEV int64_t lr_place(int64_t block, int e) { return block * LR_MERGE_BLOCK + (int64_t(e / 4) * 256 + LR_TID) * 4 + e % 4; }

LR_DEV float lr_any(const void* x, int dtype, int64_t i) {
    return dtype == LR_F32 ? static_cast<const float*>(x)[i] : dtype == LR_BF16 ? lr_widen(static_cast<const bf16*>(x)[i]) : lr_widen(static_cast<const f16*>(x)[i]);
}

// x - start of a thread's elements, zeros past the end
template <class Args> LR_DEV void lr_difference(const Args& p, const MergeInput& in, int64_t block, float (&v)[Each]) {
    LR_UNROLL
    for (int e = 0; e < Each; ++e) {
        const int64_t i = lr_place(block, e);
        v[e] = i < p.count ? lr_any(in.x, in.dtype, i) - (p.start ? lr_any(p.start, p.start_dtype, i) : 0.0f) : 0.0f;
    }
}

// What mask and draws drop becomes 0, the rest is multiplied by the factor
LR_DEV void lr_drop(const MergeInput& in, int64_t block, int64_t count, float (&v)[Each]) {
    const float factor = static_cast<float>(in.factor);
    LR_UNROLL
    for (int g = 0; g < Each; g += 4) {
        uint32_t c[4] = {};
        if (in.from > 0 || in.to < All) lr_philox(static_cast<uint64_t>(lr_place(block, g)) / 4, in.seed, in.stream, c);
        LR_UNROLL
        for (int e = 0; e < 4; ++e) {
            const int64_t i = lr_place(block, g + e);
            const int draw = static_cast<int>(c[e] >> 8);
            const bool stays = i < count && (!in.keep || static_cast<const uint8_t*>(in.keep)[i]) && (in.from == 0 || draw >= in.from) && (in.to == All || draw < in.to);
            v[g + e] = stays ? factor * v[g + e] : 0.0f;
        }
    }
}

LR_DEV void lr_trim(const MergeInput& in, int64_t block, float (&v)[Each]) {
    const float least = static_cast<float>(in.least);
    LR_UNROLL
    for (int e = 0; e < Each; ++e) v[e] = fabsf(v[e]) > least || (fabsf(v[e]) == least && lr_place(block, e) < in.cut) ? v[e] : 0.0f;
}

LR_DEV double lr_magnitudes(const float (&v)[Each]) {
    double sum = 0;
    LR_UNROLL
    for (int e = 0; e < Each; ++e) sum += static_cast<double>(fabsf(v[e]));
    return sum;
}

// The sum over the block to a place in memory
LR_DEV void lr_figure(double v, double* parts, double* to) {
    v = lr_block_total(v, parts);
    if (LR_TID == 0) *to = v;
}

// What the models moved from start, or from their mean
LR_DEV void lr_moves(const MergeArgs& p, int t, int64_t block, const float (&mean)[Each], float (&v)[Each]) {
    lr_difference(p, p.inputs[t], block, v);
    LR_UNROLL
    for (int e = 0; e < Each; ++e) v[e] -= mean[e];
}

LR_DEV void lr_compare(const MergeArgs& p, int64_t block, double* parts, double* conflicts, double* products) {
    float mean[Each] = {}, v[Each], w[Each];
    int above = 0, below = 0; // a bit an element
    for (int t = 0; !p.start && t < p.input_count; ++t) {
        lr_difference(p, p.inputs[t], block, v);
        LR_UNROLL
        for (int e = 0; e < Each; ++e) mean[e] += v[e];
    }
    LR_UNROLL
    for (int e = 0; e < Each; ++e) mean[e] /= static_cast<float>(p.input_count);
    for (int a = 0; a < p.input_count; ++a) {
        lr_moves(p, a, block, mean, v);
        LR_UNROLL
        for (int e = 0; e < Each; ++e) above |= (v[e] > 0) << e, below |= (v[e] < 0) << e;
        for (int b = 0; b <= a; ++b) {
            lr_moves(p, b, block, mean, w);
            double sum = 0;
            LR_UNROLL
            for (int e = 0; e < Each; ++e) sum += static_cast<double>(v[e] * w[e]);
            lr_figure(sum, parts, products++);
        }
    }
    lr_figure(static_cast<double>(lr_popcount(static_cast<uint32_t>(above & below))), parts, conflicts);
}

LR_KERNEL(merge_models, MergeArgs, 256, 2) {
    double* parts = reinterpret_cast<double*>(LR_SMEM); // [256]
    const int64_t block = LR_BX;
    double* figures = static_cast<double*>(p.figures) + block * (LR_MERGE_FIGURES + 2 * p.input_count + int64_t(p.input_count) * (p.input_count + 1) / 2);
    float all[Each] = {}, v[Each];
    for (int t = 0; t < p.input_count; ++t) {
        const MergeInput& in = p.inputs[t];
        lr_difference(p, in, block, v);
        lr_figure(lr_magnitudes(v), parts, figures + LR_MERGE_FIGURES + 2 * t);
        lr_drop(in, block, p.count, v);
        lr_trim(in, block, v);
        lr_figure(lr_magnitudes(v), parts, figures + LR_MERGE_FIGURES + 2 * t + 1);
        LR_UNROLL
        for (int e = 0; e < Each; ++e) all[e] += static_cast<float>(in.weight) * v[e];
    }
    if (p.compares) lr_compare(p, block, parts, figures + 2, figures + LR_MERGE_FIGURES + 2 * p.input_count);
    else if (LR_TID == 0) {
        figures[2] = 0;
        for (int i = 0; i < p.input_count * (p.input_count + 1) / 2; ++i) figures[LR_MERGE_FIGURES + 2 * p.input_count + i] = 0;
    }
    double signs = 0, zeros = 0;
    if (p.rule != LR_MERGE_SUM) {
        float total[Each] = {}, shares[Each] = {};
        for (int t = 0; t < p.input_count; ++t) {
            const MergeInput& in = p.inputs[t];
            lr_difference(p, in, block, v);
            lr_drop(in, block, p.count, v);
            lr_trim(in, block, v);
            LR_UNROLL
            for (int e = 0; e < Each; ++e) {
                const float u = static_cast<float>(in.weight) * v[e];
                const bool plus = all[e] > 0 || (all[e] == 0 && p.even > 0), agrees = plus ? u > 0 : u < 0;
                total[e] = p.rule == LR_MERGE_LARGEST ? fmaxf(total[e], agrees ? fabsf(u) : 0.0f) : total[e] + (agrees ? u : 0.0f);
                shares[e] += agrees ? static_cast<float>(in.share) : 0.0f;
            }
        }
        LR_UNROLL
        for (int e = 0; e < Each; ++e) {
            const bool inside = lr_place(block, e) < p.count;
            signs += inside ? (all[e] > 0) - (all[e] < 0) : 0;
            zeros += inside && all[e] == 0;
            if (p.rule == LR_MERGE_MEAN && shares[e] != 0) total[e] /= shares[e];
            if (p.rule == LR_MERGE_LARGEST) total[e] *= all[e] == 0 ? static_cast<float>(p.even) : all[e] > 0 ? 1.0f : -1.0f;
            all[e] = total[e];
        }
    }
    lr_figure(signs, parts, figures);
    lr_figure(zeros, parts, figures + 1);
    double moved = 0, squares = 0;
    float most = 0;
    LR_UNROLL
    for (int e = 0; e < Each; ++e) {
        const int64_t i = lr_place(block, e);
        if (i >= p.count || !p.y) continue;
        const float from = p.start ? lr_any(p.start, p.start_dtype, i) : 0.0f;
        const float change = static_cast<float>(p.lambda) * all[e] * (p.scale ? static_cast<const float*>(p.scale)[i] : 1.0f), y = p.lambda != 0 ? from + change : from;
        if (p.y_dtype == LR_F32) static_cast<float*>(p.y)[i] = y;
        else if (p.y_dtype == LR_BF16) lr_narrow(y, static_cast<bf16*>(p.y)[i]);
        else lr_narrow(y, static_cast<f16*>(p.y)[i]);
        const float off = fabsf((from - lr_any(p.y, p.y_dtype, i)) + change);
        moved += static_cast<double>(change * change);
        squares += static_cast<double>(off * off);
        most = fmaxf(most, off);
    }
    lr_figure(moved, parts, figures + 3);
    lr_figure(squares, parts, figures + 5);
    most = lr_block_max<256>(most, reinterpret_cast<float*>(LR_SMEM));
    if (LR_TID == 0) figures[4] = static_cast<double>(most);
}

// work [part][K][2048] counts of a part of the blocks of elements
LR_KERNEL(merge_count, Planned<MergeCountArgs>, 256, 2) {
    const MergeCountArgs& a = p.op;
    int* counts = reinterpret_cast<int*>(LR_SMEM); // [2048]
    const int64_t blocks = (a.count + LR_MERGE_BLOCK - 1) / LR_MERGE_BLOCK;
    for (int t = 0; t < a.input_count; ++t) {
        const MergeInput& in = a.inputs[t];
        const uint32_t found = static_cast<uint32_t>(in.found);
        for (int b = LR_TID; b < Bins; b += 256) counts[b] = 0;
        lr_sync();
        for (int64_t block = LR_BX; block < blocks; block += p.parts) {
            float v[Each];
            lr_difference(a, in, block, v);
            lr_drop(in, block, a.count, v);
            LR_UNROLL
            for (int e = 0; e < Each; ++e) {
                const int64_t i = lr_place(block, e);
                const uint32_t bits = lr_bits(v[e]) & 0x7FFFFFFF;
                if (i >= a.count) continue;
                if (a.span > 0) {
                    const int64_t bin = (i - a.origin) / a.span;
                    if (bits == found && i >= a.origin && bin < Bins) lr_atomic_add(counts + bin, 1);
                } else if (static_cast<uint32_t>(static_cast<uint64_t>(bits) >> (a.shift + a.width)) == found) lr_atomic_add(counts + (bits >> a.shift & ((1u << a.width) - 1)), 1);
            }
        }
        lr_sync();
        int* out = static_cast<int*>(p.work) + (int64_t(LR_BX) * a.input_count + t) * Bins;
        for (int b = LR_TID; b < Bins; b += 256) out[b] = counts[b];
        lr_sync();
    }
}
LR_KERNEL(merge_counted, Planned<MergeCountArgs>, 256, 4) {
    const int64_t bins = int64_t(p.op.input_count) * Bins, b = int64_t(LR_BX) * 256 + LR_TID;
    if (b >= bins) return;
    int64_t sum = 0;
    for (int part = 0; part < p.parts; ++part) sum += static_cast<const int*>(p.work)[part * bins + b];
    static_cast<int64_t*>(p.op.counts)[b] += sum;
}

#endif
