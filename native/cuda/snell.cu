// SNELL: distances between the rows of two tables become a weight delta (lowrank.h has the rules). D is made anew by every kernel from 32 rows of each
// table in shared memory, a tile of 32 x 32 a block of 256, four entries a thread, and stored by none. Floor: 3r + 2 operations an entry and pass;
// merge also writes W_eff, backward also reads the gradient of it, which a product left in scratch. Predicted for 4096 x 4096, r = 16, on an H100: 40 us
// a pass. Counts of the selection are integers and partial gradients are added in order, so bits repeat.
#include "common.cuh"

constexpr int Side = 32, Depth = 32, Each = 4; // rows of a table a tile, columns of it at a time, entries a thread

// One table's rows [first, first + 32) of a head, columns [c0, c0 + 32), as [column][row]; zeros outside
LR_DEV void lr_table(const float* rows, int64_t first, int64_t count, int r, int c0, float* to) {
    for (int e = LR_TID; e < Side * Depth; e += 256) {
        const int row = e / Depth, c = e % Depth;
        to[c * Side + row] = first + row < count && c0 + c < r ? rows[(first + row) * r + c0 + c] : 0.0f;
    }
}

LR_DEV float lr_sign(float z) { return z > 0 ? 1.0f : z < 0 ? -1.0f : 0.0f; }
LR_DEV float lr_norm_add(float norm, float sum, float z) { return norm == 2 ? lr_fma(z, z, sum) : norm == 1 ? sum + fabsf(z) : sum + powf(fabsf(z), norm); }
LR_DEV float lr_norm_root(float norm, float sum) { return norm == 2 ? sqrtf(sum) : norm == 1 ? sum : powf(sum, 1 / norm); }
// slope(z) share(g, d) = g d|z|/dz
LR_DEV float lr_norm_slope(float norm, float z) { return norm == 2 ? z : norm == 1 ? lr_sign(z) : z == 0 ? 0.0f : lr_sign(z) * powf(fabsf(z), norm - 1); }
LR_DEV float lr_norm_share(float norm, float g, float d) { return norm == 1 ? g : d > 0 ? g / (norm == 2 ? d : powf(d, norm - 1)) : 0.0f; }

// Distances of both heads: row LR_TID % 32 of `own` from i0 on, rows LR_TID / 32 + 8 t of `other` from j0 on. `memory` has room for 2 x 32 x 32 floats.
LR_DEV void lr_distances(const float* own, int64_t owns, int64_t i0, const float* other, int64_t others, int64_t j0, int r, float norm, float* memory, float (&d)[2][Each]) {
    float *mine = memory, *its = memory + Side * Depth;
    for (int h = 0; h < 2; ++h) {
        float sums[Each] = {};
        for (int c0 = 0; c0 < r; c0 += Depth) {
            lr_sync();
            lr_table(own + h * owns * r, i0, owns, r, c0, mine);
            lr_table(other + h * others * r, j0, others, r, c0, its);
            lr_sync();
            for (int c = 0; c < Depth && c0 + c < r; ++c) {
                const float a = mine[c * Side + LR_TID % 32];
                LR_UNROLL
                for (int t = 0; t < Each; ++t) sums[t] = lr_norm_add(norm, sums[t], a - its[c * Side + LR_TID / 32 + 8 * t]);
            }
        }
        LR_UNROLL
        for (int t = 0; t < Each; ++t) (h ? d[1][t] : d[0][t]) = lr_norm_root(norm, sums[t]); // constant places: d stays in registers
    }
}

// What an entry of D is multiplied by; NaN stays
LR_DEV float lr_factor(int mode, float tau, float d) {
    const float size = fabsf(d);
    return mode == LR_DISTANCES ? 1.0f : size <= tau ? 0.0f : mode == LR_ABOVE ? size - tau : size;
}

#if LR_DTYPE == 1

constexpr int Bins = 2048;
// What the passes of a selection hand on: bits found so far, the rank among entries that begin so, and how many have all bits
struct Selection {
    int64_t rank, equal;
    uint32_t prefix, bad;
};

// f(bits of |D|) for every entry of the tiles of this block
template <class F> LR_DEV void lr_each_bits(const SnellSelectArgs& a, float* memory, F f) {
    const int64_t across = (int64_t(a.k) + Side - 1) / Side, tiles = across * ((int64_t(a.n) + Side - 1) / Side);
    for (int64_t tile = LR_BX; tile < tiles; tile += LR_GX) {
        const int64_t i0 = tile % across * Side, o0 = tile / across * Side;
        float d[2][Each];
        lr_distances(static_cast<const float*>(a.p), a.k, i0, static_cast<const float*>(a.q), a.n, o0, a.r, static_cast<float>(a.norm), memory, d);
        LR_UNROLL
        for (int t = 0; t < Each; ++t)
            if (i0 + LR_TID % 32 < a.k && o0 + LR_TID / 32 + 8 * t < a.n) f(lr_bits(fabsf(static_cast<float>(a.scale) * (d[0][t] - d[1][t]))));
    }
}

// Pass `extra` of 11, 10 and 10 bits: work [Selection, 256 bytes][block][2048] counts
LR_KERNEL(snell_count, Planned<SnellSelectArgs>, 256, 2) {
    int* counts = reinterpret_cast<int*>(LR_SMEM);
    float* memory = reinterpret_cast<float*>(LR_SMEM) + Bins;
    const uint32_t prefix = p.extra ? static_cast<const Selection*>(p.work)->prefix : 0;
    const int shift = 20 - 10 * p.extra, width = p.extra ? 10 : 11;
    for (int b = LR_TID; b < Bins; b += 256) counts[b] = 0;
    lr_sync();
    lr_each_bits(p.op, memory, [&](uint32_t bits) {
        if (bits >> (shift + width - 1) >> 1 == prefix) lr_atomic_add(counts + (bits >> shift & ((1u << width) - 1)), 1);
    });
    lr_sync();
    int* out = reinterpret_cast<int*>(static_cast<unsigned char*>(p.work) + 256) + int64_t(LR_BX) * Bins;
    for (int b = LR_TID; b < Bins; b += 256) out[b] = counts[b];
}

// The bin in which the entry of that rank lies; eight bins a thread
LR_KERNEL(snell_pick, Planned<SnellSelectArgs>, 256, 1) {
    int64_t* totals = reinterpret_cast<int64_t*>(LR_SMEM); // [256]
    Selection* s = static_cast<Selection*>(p.work);
    const int* counts = reinterpret_cast<const int*>(static_cast<const unsigned char*>(p.work) + 256);
    int64_t mine[8], sum = 0;
    LR_UNROLL
    for (int e = 0; e < 8; ++e) {
        mine[e] = 0;
        for (int part = 0; part < p.parts; ++part) mine[e] += counts[int64_t(part) * Bins + LR_TID * 8 + e];
        sum += mine[e];
    }
    totals[LR_TID] = sum;
    int64_t rank = p.extra ? s->rank : p.op.rank;
    const uint32_t prefix = p.extra ? s->prefix : 0, bad = p.extra ? s->bad : 0;
    lr_sync();
    int64_t before = 0;
    for (int t = 0; t < static_cast<int>(LR_TID); ++t) before += totals[t];
    int64_t broken = 0; // exponents of infinity and NaN
    for (int t = 0x7F8 / 8; t < 256; ++t) broken += totals[t];
    lr_sync();
    LR_UNROLL
    for (int e = 0; e < 8; ++e) {
        if (rank >= before && rank < before + mine[e]) *s = {rank - before, mine[e], prefix << (p.extra ? 10 : 11) | static_cast<uint32_t>(LR_TID * 8 + e), p.extra ? bad : broken > 0};
        before += mine[e];
    }
}

// The least entry above the one that was found, by block; counts [block]
LR_KERNEL(snell_above, Planned<SnellSelectArgs>, 256, 2) {
    float *memory = reinterpret_cast<float*>(LR_SMEM) + 256;
    int* least = reinterpret_cast<int*>(LR_SMEM); // [256]
    const int found = static_cast<int>(static_cast<const Selection*>(p.work)->prefix);
    int mine = 0x7FFFFFFF;
    lr_each_bits(p.op, memory, [&](uint32_t bits) {
        const int value = static_cast<int>(bits);
        mine = value > found && value < mine ? value : mine;
    });
    least[LR_TID] = mine;
    lr_sync();
    if (LR_TID > 0) return;
    for (int t = 1; t < 256; ++t) mine = least[t] < mine ? least[t] : mine;
    reinterpret_cast<int*>(static_cast<unsigned char*>(p.work) + 256)[LR_BX] = mine;
}

LR_KERNEL(snell_tau, Planned<SnellSelectArgs>, 32, 1) {
    if (LR_TID > 0) return;
    const Selection s = *static_cast<const Selection*>(p.work);
    const int* above = reinterpret_cast<const int*>(static_cast<const unsigned char*>(p.work) + 256);
    const float low = lr_float(s.prefix), fraction = static_cast<float>(p.op.fraction);
    int next = 0x7FFFFFFF;
    for (int part = 0; part < p.parts; ++part) next = above[part] < next ? above[part] : next;
    const float high = fraction > 0 && s.rank + 1 == s.equal ? lr_float(static_cast<uint32_t>(next)) : low;
    *static_cast<float*>(p.op.tau) = s.bad ? lr_float(0x7FC00000u) : low + fraction * (high - low);
}

#endif

// y[n,k] = w + S^T in the activations' type; w, of that type, may be y itself
LR_KERNEL(snell_merge, SnellArgs, 256, 4) {
    const int64_t i = int64_t(LR_BX) * Side + LR_TID % 32, o = int64_t(LR_BY) * Side + LR_TID / 32;
    float d[2][Each];
    lr_distances(static_cast<const float*>(p.p), p.k, int64_t(LR_BX) * Side, static_cast<const float*>(p.q), p.n, int64_t(LR_BY) * Side, p.r, static_cast<float>(p.norm), reinterpret_cast<float*>(LR_SMEM), d);
    const float tau = p.mode == LR_DISTANCES ? 0.0f : *static_cast<const float*>(p.tau);
    LR_UNROLL
    for (int t = 0; t < Each; ++t) {
        const int64_t row = o + 8 * t, at = row * p.k + i;
        if (i >= p.k || row >= p.n) continue;
        const float delta = static_cast<float>(p.scale) * (d[0][t] - d[1][t]);
        lr_put(static_cast<scalar*>(p.y) + at, delta * lr_factor(p.mode, tau, delta) + (p.w ? lr_widen(static_cast<const scalar*>(p.w)[at]) : 0.0f), false);
    }
}

// Gradient of one table, p where `extra` is 0, else q, from that of W_eff: op.dy [n,k] in F32. A block owns 32 rows of the table and part LR_BY of the
// other one's; work [part][2][rows][r]
LR_KERNEL(snell_tables, Planned<SnellGradArgs>, 256, 2) {
    const SnellGradArgs& a = p.op;
    float *memory = reinterpret_cast<float*>(LR_SMEM), *mine = memory, *its = memory + Side * Depth, *shares = memory + 2 * Side * Depth; // [2][other 32][own 32]
    const bool second = p.extra != 0;
    const float *own = static_cast<const float*>(second ? a.q : a.p), *other = static_cast<const float*>(second ? a.p : a.q);
    const int64_t owns = second ? a.n : a.k, others = second ? a.k : a.n, i0 = int64_t(LR_BX) * Side, i = i0 + LR_TID % 32;
    const int64_t tiles = (others + Side - 1) / Side, each = (tiles + p.parts - 1) / p.parts, end = (LR_BY + 1) * each < tiles ? (LR_BY + 1) * each : tiles;
    const float norm = static_cast<float>(a.norm), scale = static_cast<float>(a.scale), tau = a.mode == LR_DISTANCES ? 0.0f : *static_cast<const float*>(a.tau);
    float* out = static_cast<float*>(p.work) + int64_t(LR_BY) * 2 * owns * a.r;
    for (int64_t tile = LR_BY * each; tile < end; ++tile) {
        const int64_t j0 = tile * Side;
        float d[2][Each];
        lr_distances(own, owns, i0, other, others, j0, a.r, norm, memory, d);
        LR_UNROLL
        for (int t = 0; t < Each; ++t) {
            const int64_t j = j0 + LR_TID / 32 + 8 * t;
            const bool inside = i < owns && j < others;
            const float delta = scale * (d[0][t] - d[1][t]);
            const float g = inside ? static_cast<const float*>(a.dy)[second ? i * a.k + j : j * a.k + i] * lr_factor(a.mode, tau, delta) * scale : 0.0f;
            shares[(LR_TID / 32 + 8 * t) * Side + LR_TID % 32] = lr_norm_share(norm, g, d[0][t]);
            shares[Side * Side + (LR_TID / 32 + 8 * t) * Side + LR_TID % 32] = -lr_norm_share(norm, g, d[1][t]);
        }
        for (int h = 0; h < 2; ++h)
            for (int c0 = 0; c0 < a.r; c0 += Depth) {
                lr_sync();
                lr_table(own + h * owns * a.r, i0, owns, a.r, c0, mine);
                lr_table(other + h * others * a.r, j0, others, a.r, c0, its);
                lr_sync();
                for (int c = LR_TID / 32; c < Depth && c0 + c < a.r; c += 8) {
                    const float left = mine[c * Side + LR_TID % 32];
                    float sum = 0;
                    for (int b = 0; b < Side; ++b) sum = lr_fma(shares[(h * Side + b) * Side + LR_TID % 32], lr_norm_slope(norm, left - its[c * Side + b]), sum);
                    if (i < owns) lr_put(out + (h * owns + i) * a.r + c0 + c, sum, tile > LR_BY * each);
                }
            }
    }
}
