// Products with few columns, the rank of an adapter: t = s x A^T and u = s e B (long sums, few columns), dA = u^T x and dB = e^T t (sums over tokens, few rows).
// A block makes 128 rows by all columns, so the large operand is read once, 128 bytes of a line at a time; long sums are cut into parts, a function of the
// shape alone, which another launch adds in order.
// Floor at T 8192, k 4096, r 16, bf16: 1.07 GFLOP, 67.1 MB = 22.4 us at 3.0 TB/s (H100); about 27 us predicted with 54 KB on their way a block, two blocks a
// multiprocessor. Backward of an adapter reads dY once for u, dB and dbias (lora_dy: 67.1 MB and 2 x 8.4 MB of parts, which stay in L2), and x once for dA.
// Rounding: A, B, t and u are rounded to the activations' type once; sums are F32. GPU-pending.
#include "products.cuh"

// Sum v of row `row`, column `col` to where it belongs: to y in F32, and to `rounded` [rows, pitch] in the activations' type, zeros past the columns
LR_DEV void lr_end(const SkinnyEndArgs& p, int row, int col, float v) {
    v *= static_cast<float>(p.scale);
    if (p.factor) v *= p.factor[row];
    if (p.y && col < p.cols) lr_put(p.y + row * p.y_row_stride + col * p.y_col_stride, v, p.add & 1);
    if (p.rounded) lr_narrow(col < p.cols ? v : 0.0f, static_cast<scalar*>(p.rounded)[int64_t(row) * p.pitch + col]);
}

// The parts [count][rows][pitch] added in order; a grid row a matrix
LR_KERNEL(skinny_end, SkinnyEndsArgs, 256, 4) {
    const SkinnyEndArgs& e = p.each[LR_BY];
    const int64_t all = int64_t(e.rows) * e.pitch;
    for (int64_t i = int64_t(LR_BX) * 256 + LR_TID; i < all; i += int64_t(LR_GX) * 256) {
        float sum = 0;
        for (int part = 0; part < e.count; ++part) sum += e.parts[part * all + i];
        lr_end(e, static_cast<int>(i / e.pitch), static_cast<int>(i % e.pitch), sum);
    }
}

// F32 matrices in the activations' type and a larger shape, zeros outside, row i times factor[i]; a grid row a matrix
LR_KERNEL(skinny_round, SkinnyRoundArgs, 256, 4) {
    const RoundedMatrix& m = p.each[LR_BY];
    const int64_t all = int64_t(m.rows) * m.cols;
    for (int64_t i = int64_t(LR_BX) * 256 + LR_TID; i < all; i += int64_t(LR_GX) * 256) {
        const int64_t row = i / m.cols, col = i % m.cols;
        float v = row < m.from_rows && col < m.from_cols ? m.from[row * m.from_cols + col] : 0.0f;
        if (m.factor && row < m.from_rows) v *= m.factor[row];
        lr_narrow(v, static_cast<scalar*>(m.to)[i]);
    }
}

// Grid: blocks of 128 rows, parts of the sum, and (ranks above 128) stretches of RP columns
template <int RP, bool AcrossA, bool AcrossB> LR_DEV void skinny(const SkinnyArgs& p) {
    constexpr int Depth = 128 / sizeof(scalar), Threads = 256;
    typedef OperandTile<128, Depth, AcrossA> A;
    typedef OperandTile<RP, Depth, AcrossB> B;
    typedef Products<A, B, Threads, 1> Sums;
    const int m0 = LR_BX * 128, n0 = LR_BZ * RP, first = LR_BY * p.depth, end = p.k - first < p.depth ? p.k : first + p.depth;
    Sums sums;
    Sums::clear(sums);
    lr_ring<3, A::Bytes + B::Bytes>(
        (end - first + Depth - 1) / Depth,
        [&](int step, int stage) {
            A::template copy<Threads>(p.a, m0, p.end.rows, first + step * Depth, end, stage);
            B::template copy<Threads>(p.b, n0, p.end.pitch, first + step * Depth, end, stage + A::Bytes);
        },
        [&](int, int stage) { Sums::add(sums, stage, stage + A::Bytes, nullptr, 0); });
    Sums::template each<4>(sums, [&](int row, int col, float (&v)[4]) {
        row += m0, col += n0;
        if (row >= p.end.rows) return;
        if (p.parts) {
            lr_store(p.parts + (int64_t(LR_BY) * p.end.rows + row) * p.end.pitch + col, lr_floats<4>{{v[0], v[1], v[2], v[3]}});
        } else {
            LR_UNROLL
            for (int e = 0; e < 4; ++e) lr_end(p.end, row, col + e, v[e]);
        }
    });
}

#define LR_SKINNY(RP, blocks) \
    LR_KERNEL(skinny_##RP##_kk, SkinnyArgs, 256, blocks) { skinny<RP, false, false>(p); } \
    LR_KERNEL(skinny_##RP##_km, SkinnyArgs, 256, blocks) { skinny<RP, false, true>(p); } \
    LR_KERNEL(skinny_##RP##_mm, SkinnyArgs, 256, blocks) { skinny<RP, true, true>(p); }
LR_SKINNY(16, 2)
LR_SKINNY(32, 2)
LR_SKINNY(64, 2)
LR_SKINNY(128, 1)

#if LR_DTYPE != 1
// One read of dY [T,n] for u = e B, dB = e^T t and dbias: a block owns `subs` stretches of 128 columns and `tiles` tiles of 128 tokens. A tile multiplies B as
// it lies (u, finished with the tile) and t as it lies across (dB, kept in registers to the end); column sums are a product with ones.
template <int RP> LR_DEV void lora_dy(const LoraDyArgs& p) {
    constexpr int Threads = 256, Stages = RP <= 32 ? 3 : 2, MostSubs = 4, Side = 128, Groups = RP / 8;
    typedef OperandTile<Side, Side, false> Along; // dY: rows are tokens, steps are columns
    typedef OperandTile<Side, Side, true> Across; // the same bytes: rows are columns, steps are tokens
    typedef OperandTile<RP, Side, true> Factor;
    constexpr int T0 = Stages * Along::Bytes, B0 = T0 + Stages * Factor::Bytes;
    const int lane = LR_TID % 32, warp = LR_TID / 32, n0 = LR_BX * p.subs * Side, token0 = LR_BY * p.tiles * Side;
    const int left = (p.tokens - token0 + Side - 1) / Side, tiles = left < p.tiles ? left : p.tiles;
    const GemmOperand dy = {p.dy, nullptr, p.n, 1, 0, 0}, t = {p.t, nullptr, 1, RP, 0, 0}, b = {p.b, nullptr, 1, RP, 0, 0};
    const uint32_t one = lr_pack<scalar>(1.0f, 1.0f), ones[2] = {one, one};
    float u[Groups][4], db[MostSubs][Groups][4], sum[MostSubs][4];
    LR_UNROLL
    for (int i = 0; i < MostSubs * Groups * 4; ++i) reinterpret_cast<float*>(db)[i] = 0;
    LR_UNROLL
    for (int i = 0; i < MostSubs * 4; ++i) reinterpret_cast<float*>(sum)[i] = 0;

    for (int sub = 0; sub < p.subs; ++sub) Factor::template copy<Threads>(b, 0, RP, n0 + sub * Side, p.n, B0 + sub * Factor::Bytes); // part of the first step's copies
    lr_ring<Stages, Along::Bytes>(
        tiles * p.subs,
        [&](int step, int stage) {
            const int tile = step / p.subs, sub = step % p.subs, token = token0 + tile * Side;
            Along::template copy<Threads>(dy, token, p.tokens, n0 + sub * Side, p.n, stage);
            if (sub == 0) Factor::template copy<Threads>(t, 0, RP, token, p.tokens, T0 + tile % Stages * Factor::Bytes);
        },
        [&](int step, int stage) {
            const int tile = step / p.subs, sub = step % p.subs;
            if (sub == 0)
                LR_UNROLL
                for (int i = 0; i < Groups * 4; ++i) reinterpret_cast<float*>(u)[i] = 0;
            LR_UNROLL
            for (int k = 0; k < Side; k += 16) {
                uint32_t a[4], f[Groups / 2][4];
                Along::left(a, stage, 16 * warp, k);
                LR_UNROLL
                for (int j = 0; j < Groups / 2; ++j) Factor::right(f[j], B0 + sub * Factor::Bytes, 16 * j, k);
                lr_multiply<Groups>(u, a, f);
            }
            LR_UNROLL
            for (int q = 0; q < MostSubs; ++q) { // registers have no index at run time
                if (q != sub) continue;
                LR_UNROLL
                for (int k = 0; k < Side; k += 16) {
                    uint32_t a[4], f[Groups / 2][4];
                    Across::left(a, stage, 16 * warp, k);
                    LR_UNROLL
                    for (int j = 0; j < Groups / 2; ++j) Factor::right(f[j], T0 + tile % Stages * Factor::Bytes, 16 * j, k);
                    lr_multiply<Groups>(db[q], a, f);
                    if (p.sums) lr_mma_16816<scalar>(sum[q], a, ones);
                }
            }
            if (sub + 1 < p.subs) return;
            LR_UNROLL
            for (int h = 0; h < 2; ++h) {
                const int token = token0 + tile * Side + 16 * warp + lane / 4 + 8 * h;
                if (token >= p.tokens) continue;
                float* row = p.u + (int64_t(LR_BX) * p.tokens + token) * RP + lane % 4 * 2;
                LR_UNROLL
                for (int j = 0; j < Groups; ++j) lr_store(row + 8 * j, lr_floats<2>{{u[j][2 * h], u[j][2 * h + 1]}});
            }
        });
    LR_UNROLL
    for (int q = 0; q < MostSubs; ++q)
        LR_UNROLL
        for (int h = 0; h < 2; ++h) {
            const int col = n0 + q * Side + 16 * warp + lane / 4 + 8 * h;
            if (q >= p.subs || col >= p.n) continue;
            const int64_t at = int64_t(LR_BY) * p.n + col;
            LR_UNROLL
            for (int j = 0; j < Groups; ++j) lr_store(p.db + at * RP + 8 * j + lane % 4 * 2, lr_floats<2>{{db[q][j][2 * h], db[q][j][2 * h + 1]}});
            if (p.sums && lane % 4 == 0) p.sums[at] = sum[q][2 * h];
        }
}
LR_KERNEL(lora_dy_16, LoraDyArgs, 256, 1) { lora_dy<16>(p); }
LR_KERNEL(lora_dy_32, LoraDyArgs, 256, 1) { lora_dy<32>(p); }
LR_KERNEL(lora_dy_64, LoraDyArgs, 256, 1) { lora_dy<64>(p); }
#endif
