// The low-rank part of a batch whose tokens have adapters of their own, after the base product has written y: shrink makes t = scale x a_i^T, expand
// adds t b_i to the rows of y. A block takes a piece: up to 64 tokens of one adapter, in tiles of 16; empty tiles are skipped, so one token costs one.
// Floor, bytes: r(k + n) entries of every adapter that occurs, x once, the rows of y twice. 64 adapters of r = 16 at 4096 x 4096, bf16: 16.8 MB + 1.6 MB,
// 6.1 us at 3.0 TB/s. Long pieces read a block's share of an adapter again from L2, and y twice more than a product that held it in registers would:
// T = 8192, n = 4096: 134 MB, 45 us beside a base product of 344 us.
// y is rounded by the base product, then once more here: the sum itself is float32. t is rounded to the activations' type, as in every 16-bit product.
// Order of sums: t by slices of 1024 steps, in each by four warps, added in that order; the rank in steps of 16 (F32: of 1). A row's bits depend on x,
// the adapter, k and n alone, not on its piece. No shared memory is needed for x, a and b: lanes load 16 bytes of a row, and the product's steps
// (columns of b) are renumbered so that they are what the matrix instruction wants.
#include "common.cuh"

constexpr int Threads = 128, Warps = 4, Tokens = 64;
constexpr int Slice = 1024; // steps of k a block
constexpr int Group = 32;   // ranks a block
constexpr int Columns = 512;

typedef Planned<MultiLoraArgs> MultiLora; // work: partial t [slice][T][most_rank], `parts` slices

LR_DEV int lr_least(int a, int b) { return a < b ? a : b; }

// Token `row` of the piece, rank q of the adapter: the partial sums added in order
LR_DEV float lr_t(const MultiLora& p, int64_t token, int q) {
    const float* from = static_cast<const float*>(p.work) + token * p.op.most_rank + q;
    float sum = 0;
    for (int part = 0; part < p.parts; ++part) sum += from[part * int64_t(p.op.tokens) * p.op.most_rank];
    return sum;
}

#if LR_DTYPE == 1
struct Four {
    float v[4];
};
// Elements [at, at + 4) of a row of `end`; zeros past it, and where there is no row
LR_DEV Four lr_four(const float* row, int64_t at, int64_t end, bool aligned) {
    Four f = {};
    if (row && aligned && at + 4 <= end) {
        const lr_u4 w = lr_load<lr_u4>(row + at);
        f.v[0] = lr_float(w.x), f.v[1] = lr_float(w.y), f.v[2] = lr_float(w.z), f.v[3] = lr_float(w.w);
    } else if (row) {
        LR_UNROLL
        for (int e = 0; e < 4; ++e)
            if (at + e < end) f.v[e] = row[at + e];
    }
    return f;
}

// Piece LR_BX, slice LR_BY, ranks 32 LR_BZ..: a warp makes 4 tokens x 4 ranks at a time, its lanes along k
LR_KERNEL(multi_lora_shrink, MultiLora, 128, 4) {
    const MultiLoraArgs& o = p.op;
    const LoraPiece piece = o.pieces[LR_BX];
    const LoraRange range = o.ranges[piece.adapter];
    const int q0 = LR_BZ * Group, ranks = lr_least(range.rank - q0, Group), warp = LR_TID / 32, lane = LR_TID % 32;
    if (ranks <= 0) return;
    const int64_t k = o.k, k0 = int64_t(LR_BY) * Slice, k1 = k0 + Slice < k ? k0 + Slice : k;
    const bool aligned = k % 4 == 0;
    const float *x = static_cast<const float*>(o.x) + piece.first * k, *a = static_cast<const float*>(o.a) + (range.first + q0) * k;
    float* to = static_cast<float*>(p.work) + (int64_t(LR_BY) * o.tokens + piece.first) * o.most_rank + q0;
    const int quads = (ranks + 3) / 4, jobs = quads * ((piece.tokens + 3) / 4);
    for (int job = warp; job < jobs; job += Warps) {
        const int i0 = job / quads * 4, j0 = job % quads * 4;
        float sums[4][4] = {};
        for (int64_t s = k0 + 4 * lane; s < k1; s += 128) {
            Four left[4];
            LR_UNROLL
            for (int i = 0; i < 4; ++i) left[i] = lr_four(i0 + i < piece.tokens ? x + (i0 + i) * k : nullptr, s, k1, aligned);
            LR_UNROLL
            for (int j = 0; j < 4; ++j) {
                const Four right = lr_four(j0 + j < ranks ? a + (j0 + j) * k : nullptr, s, k1, aligned);
                LR_UNROLL
                for (int i = 0; i < 4; ++i)
                    LR_UNROLL
                    for (int e = 0; e < 4; ++e) sums[i][j] = lr_fma(left[i].v[e], right.v[e], sums[i][j]);
            }
        }
        LR_UNROLL
        for (int i = 0; i < 4; ++i)
            LR_UNROLL
            for (int j = 0; j < 4; ++j) {
                const float sum = static_cast<float>(range.scale) * lr_warp_sum(sums[i][j]);
                if (lane == 0 && i0 + i < piece.tokens && j0 + j < ranks) to[(i0 + i) * o.most_rank + j0 + j] = sum;
            }
    }
}

// Piece LR_BX, columns 512 LR_BY..: a thread has 4 columns, 8 tokens at a time
LR_KERNEL(multi_lora_expand, MultiLora, 128, 4) {
    const MultiLoraArgs& o = p.op;
    const LoraPiece piece = o.pieces[LR_BX];
    const LoraRange range = o.ranges[piece.adapter];
    const int rank = range.rank;
    if (rank == 0) return;
    float* t = reinterpret_cast<float*>(LR_SMEM); // [64][rank]
    for (int i = LR_TID; i < Tokens * rank; i += Threads) t[i] = i / rank < piece.tokens ? lr_t(p, piece.first + i / rank, i % rank) : 0.0f;
    lr_sync();
    const int64_t n = o.n, col = int64_t(LR_BY) * Columns + 4 * LR_TID;
    const bool aligned = n % 4 == 0;
    const float* b = static_cast<const float*>(o.b) + range.first * n;
    for (int i0 = 0; i0 < piece.tokens; i0 += 8) {
        float sums[8][4] = {};
        for (int q = 0; q < rank; ++q) {
            const Four right = lr_four(b + q * n, col, n, aligned);
            LR_UNROLL
            for (int i = 0; i < 8; ++i)
                LR_UNROLL
                for (int e = 0; e < 4; ++e) sums[i][e] = lr_fma(t[(i0 + i) * rank + q], right.v[e], sums[i][e]);
        }
        LR_UNROLL
        for (int i = 0; i < 8; ++i) {
            if (i0 + i >= piece.tokens) break;
            float* y = static_cast<float*>(o.y) + (piece.first + i0 + i) * n;
            LR_UNROLL
            for (int e = 0; e < 4; ++e)
                if (col + e < n) y[col + e] += sums[i][e];
        }
    }
}
#else
LR_DEV uint32_t lr_pair(float low, float high) {
    scalar a, b;
    lr_narrow(low, a);
    lr_narrow(high, b);
    return a.bits | uint32_t(b.bits) << 16;
}
LR_DEV uint32_t lr_element_bits(const scalar* p) { return p->bits; }
LR_DEV uint32_t lr_element_bits(const float* p) {
    scalar s;
    lr_narrow(*p, s);
    return s.bits;
}
LR_DEV lr_u4 lr_eight_of(const scalar* p) { return lr_load<lr_u4>(p); }
LR_DEV lr_u4 lr_eight_of(const float* p) {
    const lr_u4 low = lr_load<lr_u4>(p), high = lr_load<lr_u4>(p + 4);
    return {lr_pair(lr_float(low.x), lr_float(low.y)), lr_pair(lr_float(low.z), lr_float(low.w)), lr_pair(lr_float(high.x), lr_float(high.y)), lr_pair(lr_float(high.z), lr_float(high.w))};
}
template <class T> LR_DEV uint32_t lr_two_of(const T* row, int64_t at, int64_t end) {
    return (at < end ? lr_element_bits(row + at) : 0) | (at + 1 < end ? lr_element_bits(row + at + 1) << 16 : 0);
}
// Elements [at, at + 8) of a row of `end` in the activations' type; zeros past it, and where there is no row
template <class T> LR_DEV lr_u4 lr_eight(const T* row, int64_t at, int64_t end, bool aligned) {
    if (!row) return {0, 0, 0, 0};
    if (aligned && at + 8 <= end) return lr_eight_of(row + at);
    return {lr_two_of(row, at, end), lr_two_of(row, at + 2, end), lr_two_of(row, at + 4, end), lr_two_of(row, at + 6, end)};
}

constexpr int PartPitch = Group + 4; // floats
constexpr int TPitch = 128 + 8;     // of the largest rank;  272 bytes: rows of 16-byte pieces without bank conflicts

// 32 steps at a time a warp: lane (g, c) holds steps 8 c.. of row g, of which the first product takes the first half and the second one the other
template <class U> LR_DEV void lr_shrink(const MultiLora& p, const LoraPiece& piece, const LoraRange& range, int q0, int ranks) {
    const MultiLoraArgs& o = p.op;
    const int warp = LR_TID / 32, g = LR_TID % 32 / 4, c = LR_TID % 4;
    const int64_t k = o.k, k0 = int64_t(LR_BY) * Slice, k1 = k0 + Slice < k ? k0 + Slice : k;
    const bool aligned = k % 8 == 0;
    const scalar* x = static_cast<const scalar*>(o.x) + piece.first * k;
    const U* a = static_cast<const U*>(o.a) + (range.first + q0) * k;
    float sums[Tokens / 16][Group / 8][4] = {};
    for (int64_t s = k0 + 32 * warp + 8 * c; s < k1 + 8 * c; s += 32 * Warps) {
        lr_u4 right[Group / 8];
        LR_UNROLL
        for (int j = 0; j < Group / 8; ++j) right[j] = lr_eight(8 * j + g < ranks ? a + (8 * j + g) * k : nullptr, s, k1, aligned);
        LR_UNROLL
        for (int i = 0; i < Tokens / 16; ++i) {
            if (16 * i >= piece.tokens) break;
            const int row = 16 * i + g;
            const lr_u4 low = lr_eight(row < piece.tokens ? x + row * k : nullptr, s, k1, aligned), high = lr_eight(row + 8 < piece.tokens ? x + (row + 8) * k : nullptr, s, k1, aligned);
            const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
            LR_UNROLL
            for (int j = 0; j < Group / 8; ++j) {
                if (8 * j >= ranks) break;
                const uint32_t one[2] = {right[j].x, right[j].y}, two[2] = {right[j].z, right[j].w};
                lr_mma_16816<scalar>(sums[i][j], first, one);
                lr_mma_16816<scalar>(sums[i][j], second, two);
            }
        }
    }
    float* parts = reinterpret_cast<float*>(LR_SMEM); // [warp][64][36]
    LR_UNROLL
    for (int i = 0; i < Tokens / 16; ++i)
        LR_UNROLL
        for (int j = 0; j < Group / 8; ++j)
            LR_UNROLL
            for (int e = 0; e < 4; ++e) parts[(warp * Tokens + 16 * i + g + 8 * (e / 2)) * PartPitch + 8 * j + 2 * c + e % 2] = sums[i][j][e];
    lr_sync();
    float* to = static_cast<float*>(p.work) + (int64_t(LR_BY) * o.tokens + piece.first) * o.most_rank + q0;
    for (int i = LR_TID; i < piece.tokens * ranks; i += Threads) {
        const int row = i / ranks, q = i % ranks;
        float sum = 0;
        LR_UNROLL
        for (int w = 0; w < Warps; ++w) sum += parts[(w * Tokens + row) * PartPitch + q];
        to[row * o.most_rank + q] = static_cast<float>(range.scale) * sum;
    }
}

// Piece LR_BX, slice LR_BY, ranks 32 LR_BZ..
LR_KERNEL(multi_lora_shrink, MultiLora, 128, 3) {
    const LoraPiece piece = p.op.pieces[LR_BX];
    const LoraRange range = p.op.ranges[piece.adapter];
    const int q0 = LR_BZ * Group, ranks = lr_least(range.rank - q0, Group);
    if (ranks <= 0) return;
    if (p.op.ab_dtype == LR_F32) lr_shrink<float>(p, piece, range, q0, ranks);
    else lr_shrink<scalar>(p, piece, range, q0, ranks);
}

// Half j of eight 16-bit values
template <int J> LR_DEV uint32_t lr_half(const lr_u4& v) {
    const uint32_t word = J / 2 == 0 ? v.x : J / 2 == 1 ? v.y : J / 2 == 2 ? v.z : v.w;
    return J % 2 ? word >> 16 : word & 0xFFFF;
}
// Column j of eight columns of four ranks times the tiles' t
template <int J> LR_DEV void lr_column(const lr_u4 (&b)[4], const uint32_t (&t)[2][4], float (&sums)[2][8][4]) {
    const uint32_t right[2] = {lr_half<J>(b[0]) | lr_half<J>(b[1]) << 16, lr_half<J>(b[2]) | lr_half<J>(b[3]) << 16};
    lr_mma_16816<scalar>(sums[0][J], t[0], right);
    lr_mma_16816<scalar>(sums[1][J], t[1], right);
    if constexpr (J < 7) lr_column<J + 1>(b, t, sums);
}

// y[0 .. 8) += sums[0 .. 8)[e], columns [at, at + 8) of a row of `end`
LR_DEV void lr_add_eight(scalar* row, int64_t at, int64_t end, bool aligned, const float (&sums)[8][4], int e) {
    if (aligned && at + 8 <= end) {
        lr_u4 v = lr_load<lr_u4>(row + at);
        uint32_t* words[4] = {&v.x, &v.y, &v.z, &v.w};
        LR_UNROLL
        for (int h = 0; h < 4; ++h) {
            const scalar low = {static_cast<uint16_t>(*words[h] & 0xFFFF)}, high = {static_cast<uint16_t>(*words[h] >> 16)};
            *words[h] = lr_pair(lr_widen(low) + sums[2 * h][e], lr_widen(high) + sums[2 * h + 1][e]);
        }
        lr_store(row + at, v);
    } else {
        LR_UNROLL
        for (int j = 0; j < 8; ++j)
            if (at + j < end) lr_put(row + at + j, sums[j][e], true);
    }
}

// 64 columns a warp: lane (g, c) loads columns 8 g.. of ranks 2 c, 2 c + 1, 2 c + 8, 2 c + 9; product j takes the j-th of each eight, so that a lane ends
// with columns 16 c .. 16 c + 15 of its rows
template <class U> LR_DEV void lr_expand(const MultiLora& p, const LoraPiece& piece, const LoraRange& range, const scalar* t) {
    const MultiLoraArgs& o = p.op;
    const int warp = LR_TID / 32, lane = LR_TID % 32, g = lane / 4, c = lane % 4, rank = range.rank;
    const int64_t n = o.n, last = int64_t(LR_BY + 1) * Columns;
    const bool aligned = n % 8 == 0;
    const U* b = static_cast<const U*>(o.b) + range.first * n;
    for (int64_t n0 = int64_t(LR_BY) * Columns + 64 * warp; n0 < n && n0 < last; n0 += 64 * Warps)
        for (int m0 = 0; m0 < piece.tokens; m0 += 32) {
            float sums[2][8][4] = {};
            for (int q = 0; q < rank; q += 16) {
                lr_u4 right[4];
                LR_UNROLL
                for (int h = 0; h < 4; ++h) {
                    const int row = q + 2 * c + h % 2 + h / 2 * 8;
                    right[h] = lr_eight(row < rank ? b + row * n : nullptr, n0 + 8 * g, n, aligned);
                }
                uint32_t left[2][4];
                LR_UNROLL
                for (int i = 0; i < 2; ++i) lr_ldmatrix_x4(left[i], lr_smem_addr(t + (m0 + 16 * i + lane % 16) * TPitch + q + lane / 16 * 8));
                lr_column<0>(right, left, sums);
            }
            LR_UNROLL
            for (int i = 0; i < 2; ++i)
                LR_UNROLL
                for (int e = 0; e < 4; ++e) {
                    const int row = m0 + 16 * i + g + e / 2 * 8;
                    if (row < piece.tokens) lr_add_eight(static_cast<scalar*>(o.y) + (piece.first + row) * n, n0 + 16 * c + e % 2 * 8, n, aligned, sums[i], e);
                }
        }
}

// Piece LR_BX, columns 512 LR_BY..
LR_KERNEL(multi_lora_expand, MultiLora, 128, 4) {
    const LoraPiece piece = p.op.pieces[LR_BX];
    const LoraRange range = p.op.ranges[piece.adapter];
    if (range.rank == 0) return;
    scalar* t = reinterpret_cast<scalar*>(LR_SMEM); // [64][136], zeros past the tokens and up to a multiple of 16 ranks
    const int ranks = (range.rank + 15) / 16 * 16, rows = (piece.tokens + 31) / 32 * 32;
    for (int i = LR_TID; i < rows * ranks; i += Threads) {
        const int row = i / ranks, q = i % ranks;
        lr_narrow(row < piece.tokens && q < range.rank ? lr_t(p, piece.first + row, q) : 0.0f, t[row * TPitch + q]);
    }
    lr_sync();
    if (p.op.ab_dtype == LR_F32) lr_expand<float>(p, piece, range, t);
    else lr_expand<scalar>(p, piece, range, t);
}
#endif
