// The general matrix product: any strides, any mix of types, ragged everywhere; what product.cu falls back on where lines do not start on 16 bytes. A block makes a 64x64 tile of y:
// 16-bit types on tensor cores (m16n8k16, f32 accumulator, 4 warps of 32x32), F32 by exact FMA (256 accumulators of 4x8 a thread).
// Floor 2mnk FLOPs; this version moves operands element by element and is bound by that.
#include "common.cuh"

constexpr int Side = 64, Depth = 32;
#if LR_DTYPE == 1
typedef float stored; // what a tile holds
constexpr int Pitch = Depth + 1;
#else
typedef scalar stored;
constexpr int Pitch = Depth + 8; // 80 bytes: rows of 16-byte pieces without bank conflicts
#endif

struct GemmTiles {
    stored a[Side * Pitch], b[Side * Pitch];
};

LR_DEV float lr_element(const void* data, int32_t dtype, int64_t i) {
    if (dtype == LR_F32) return static_cast<const float*>(data)[i];
    if (dtype == LR_BF16) return lr_widen(static_cast<const bf16*>(data)[i]);
    return lr_widen(static_cast<const f16*>(data)[i]);
}

// Rows [first, first + 64) x steps [from, from + 32) of an operand; zeros outside. Neighbouring threads take neighbouring elements of memory.
LR_DEV void lr_gather_tile(const GemmOperand& o, int64_t first, int64_t rows, int64_t from, int64_t steps, float scale, stored* to) {
    const bool by_row = o.row_stride == 1 && o.step_stride != 1;
    for (int i = LR_TID; i < Side * Depth; i += 128) {
        const int row = by_row ? i % Side : i / Depth, step = by_row ? i / Side : i % Depth;
        float v = 0;
        if (first + row < rows && from + step < steps) {
            v = scale * lr_element(o.data, o.dtype, (first + row) * o.row_stride + (from + step) * o.step_stride);
            if (o.factor) v *= static_cast<const float*>(o.factor)[from + step];
        }
        lr_narrow(v, to[row * Pitch + step]);
    }
}

#if LR_DTYPE == 1
// acc[4][8]: rows ty + 16 i, columns tx + 8 j
struct Accumulator {
    float v[4][8];
    LR_DEV int row(int i) { return static_cast<int>(LR_TID) / 8 + 16 * i; }
    LR_DEV int col(int j) { return static_cast<int>(LR_TID) % 8 + 8 * j; }
};
LR_DEV void lr_multiply(const GemmTiles& t, Accumulator& acc) {
    LR_UNROLL
    for (int k = 0; k < Depth; ++k) {
        float a[4], b[8];
        LR_UNROLL
        for (int i = 0; i < 4; ++i) a[i] = t.a[Accumulator::row(i) * Pitch + k];
        LR_UNROLL
        for (int j = 0; j < 8; ++j) b[j] = t.b[Accumulator::col(j) * Pitch + k];
        LR_UNROLL
        for (int i = 0; i < 4; ++i)
            LR_UNROLL
            for (int j = 0; j < 8; ++j) acc.v[i][j] = lr_fma(a[i], b[j], acc.v[i][j]);
    }
}
template <class F> LR_DEV void lr_each(const Accumulator& acc, F f) {
    LR_UNROLL
    for (int i = 0; i < 4; ++i)
        LR_UNROLL
        for (int j = 0; j < 8; ++j) f(Accumulator::row(i), Accumulator::col(j), acc.v[i][j]);
}
#else
// Warp w owns rows 32 (w / 2).., columns 32 (w % 2)..: 2 x 4 products of 16x8
struct Accumulator {
    float v[2][4][4];
};
LR_DEV void lr_multiply(const GemmTiles& t, Accumulator& acc) {
    const int warp = LR_TID / 32, lane = LR_TID % 32, m0 = warp / 2 * 32, n0 = warp % 2 * 32;
    LR_UNROLL
    for (int k = 0; k < Depth; k += 16) {
        uint32_t a[2][4], b[2][4];
        LR_UNROLL
        for (int i = 0; i < 2; ++i) lr_ldmatrix_x4(a[i], lr_smem_addr(&t.a[(m0 + 16 * i + lane % 16) * Pitch + k + lane / 16 * 8]));
        LR_UNROLL
        for (int j = 0; j < 2; ++j) lr_ldmatrix_x4(b[j], lr_smem_addr(&t.b[(n0 + 16 * j + lane % 8 + lane / 16 * 8) * Pitch + k + lane / 8 % 2 * 8]));
        LR_UNROLL
        for (int i = 0; i < 2; ++i)
            LR_UNROLL
            for (int j = 0; j < 4; ++j) {
                const uint32_t right[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                lr_mma_16816<scalar>(acc.v[i][j], a[i], right);
            }
    }
}
template <class F> LR_DEV void lr_each(const Accumulator& acc, F f) {
    const int warp = LR_TID / 32, lane = LR_TID % 32, m0 = warp / 2 * 32, n0 = warp % 2 * 32;
    LR_UNROLL
    for (int i = 0; i < 2; ++i)
        LR_UNROLL
        for (int j = 0; j < 4; ++j)
            LR_UNROLL
            for (int e = 0; e < 4; ++e) f(m0 + 16 * i + lane / 4 + 8 * (e / 2), n0 + 8 * j + 2 * (lane % 4) + e % 2, acc.v[i][j][e]);
}
#endif

LR_DEV void lr_accumulate(const GemmOperand& a, const GemmOperand& b, int64_t m0, int64_t n0, int64_t m, int64_t n, int64_t steps, float scale, GemmTiles& tiles, Accumulator& acc) {
    for (int64_t k0 = 0; k0 < steps; k0 += Depth) {
        lr_sync();
        lr_gather_tile(a, m0, m, k0, steps, 1.0f, tiles.a);
        lr_gather_tile(b, n0, n, k0, steps, 1.0f, tiles.b);
        lr_sync();
        lr_multiply(tiles, acc);
    }
    if (scale == 1.0f) return;
    LR_UNROLL
    for (int i = 0; i < static_cast<int>(sizeof(acc.v) / 4); ++i) reinterpret_cast<float*>(acc.v)[i] *= scale;
}

LR_DEV void lr_write(void* y, int32_t dtype, int64_t at, float value, bool add) {
    if (dtype == LR_F32) lr_put(static_cast<float*>(y) + at, value, add);
    else lr_put(static_cast<scalar*>(y) + at, value, add);
}

LR_KERNEL(gemm, GemmArgs, 128, 4) {
    GemmTiles& tiles = *reinterpret_cast<GemmTiles*>(LR_SMEM);
    const int64_t m0 = int64_t(LR_BY) * Side, n0 = int64_t(LR_BX) * Side;
    Accumulator acc;
    LR_UNROLL
    for (int i = 0; i < static_cast<int>(sizeof(acc.v) / 4); ++i) reinterpret_cast<float*>(acc.v)[i] = 0;
    lr_accumulate(p.a, p.b, m0, n0, p.m, p.n, p.k, static_cast<float>(p.scale), tiles, acc);
    if (p.r > 0) lr_accumulate(p.ta, p.tb, m0, n0, p.m, p.n, p.r, 1.0f, tiles, acc);
    const float *c = static_cast<const float*>(p.c), *bias = static_cast<const float*>(p.bias);
    // Through shared memory, so that neighbouring threads end neighbouring elements of memory, and the compiler sees one element and not one a register.
    float* sums = reinterpret_cast<float*>(LR_SMEM); // [Side][Side + 1]
    lr_sync();
    lr_each(acc, [&](int row, int col, float v) { sums[row * (Side + 1) + col] = v; });
    lr_sync();
    const bool by_row = p.y_row_stride == 1 && p.y_col_stride != 1;
    LR_ROLLED
    for (int i = LR_TID; i < Side * Side; i += 128) {
        const int row = by_row ? i % Side : i / Side, col = by_row ? i / Side : i % Side;
        if (m0 + row >= p.m || n0 + col >= p.n) continue;
        const int64_t at = (m0 + row) * p.y_row_stride + (n0 + col) * p.y_col_stride;
        float v = sums[row * (Side + 1) + col];
        if (p.y0) lr_write(p.y0, p.y_dtype, at, v, false);
        if (p.w) v += lr_element(p.w, p.w_dtype, at);
        if (c) v *= c[n0 + col];
        if (bias) v += bias[n0 + col];
        lr_write(p.y, p.y_dtype, at, v, p.add & 1);
    }
}

// Part LR_BY of the rows: 8 pieces of 16 bytes side by side, 32 rows at a time
LR_KERNEL(column_sums, ColumnSumArgs, 256, 4) {
    constexpr int Cols = 8 * Lanes;
    float* sums = reinterpret_cast<float*>(LR_SMEM); // [2][32][Cols]
    const int row = LR_TID / 8, col = LR_TID % 8 * Lanes;
    const int64_t c = int64_t(LR_BX) * Cols + col, each = (int64_t(p.rows) + p.parts - 1) / p.parts;
    const int64_t begin = LR_BY * each, end = begin + each < p.rows ? begin + each : p.rows;
    const scalar *dy = static_cast<const scalar*>(p.dy), *y0 = static_cast<const scalar*>(p.y0);
    const bool whole = p.cols % Lanes == 0 && lr_aligned(dy) && lr_aligned(y0);
    const int count = c + Lanes <= p.cols ? Lanes : c < p.cols ? static_cast<int>(p.cols - c) : 0;
    float plain[Lanes] = {}, product[Lanes] = {};
    for (int64_t r = begin + row; count > 0 && r < end; r += 32) {
        lanes up = {}, other = {};
        if (whole) {
            up = lr_load<lanes>(dy + r * p.cols + c);
            if (y0) other = lr_load<lanes>(y0 + r * p.cols + c);
        } else {
            LR_UNROLL
            for (int e = 0; e < Lanes; ++e) {
                if (e < count) up.v[e] = dy[r * p.cols + c + e];
                if (e < count && y0) other.v[e] = y0[r * p.cols + c + e];
            }
        }
        LR_UNROLL
        for (int e = 0; e < Lanes; ++e) {
            plain[e] += lr_widen(up.v[e]);
            product[e] = lr_fma(lr_widen(up.v[e]), lr_widen(other.v[e]), product[e]);
        }
    }
    LR_UNROLL
    for (int e = 0; e < Lanes; ++e) {
        sums[row * Cols + col + e] = plain[e];
        sums[(32 + row) * Cols + col + e] = product[e];
    }
    lr_sync();
    const int which = LR_TID / Cols, at = LR_TID % Cols;
    if (which > 1 || int64_t(LR_BX) * Cols + at >= p.cols) return;
    float sum = 0;
    LR_UNROLL
    for (int r = 0; r < 32; ++r) sum += sums[(32 * which + r) * Cols + at];
    p.work[(int64_t(which) * p.parts + LR_BY) * p.cols + int64_t(LR_BX) * Cols + at] = sum;
}

#if LR_DTYPE == 1
// A warp a row: |w_i|^2 where wanted, then |w_i + scale b_i a| from p = w a^T and gram = a a^T
LR_KERNEL(row_norm_end, RowNormEndArgs, 128, 8) {
    const RowNormArgs& a = p.op;
    const int64_t row = int64_t(LR_BX) * 4 + LR_TID / 32;
    if (row >= a.n) return;
    const int lane = LR_TID % 32;
    float* w2 = static_cast<float*>(a.w2);
    float square = 0;
    if (a.want_w2) {
        for (int c = lane; c < a.k; c += 32) {
            const float w = lr_element(a.w, a.w_dtype, row * a.k + c);
            square = lr_fma(w, w, square);
        }
        square = lr_warp_sum(square);
        if (lane == 0) w2[row] = square;
    } else {
        square = w2[row];
    }
    double total = square;
    if (a.a) {
        const float* b = static_cast<const float*>(a.b) + row * a.r;
        float cross = 0, quad = 0;
        for (int q = lane; q < a.r; q += 32) {
            cross = lr_fma(p.p[row * a.r + q], b[q], cross);
            float part = 0;
            for (int s = 0; s < a.r; ++s) part = lr_fma(p.gram[q * a.r + s], b[s], part);
            quad = lr_fma(b[q], part, quad);
        }
        total += 2 * a.scale * lr_warp_sum(cross) + a.scale * a.scale * lr_warp_sum(quad);
    }
    if (lane > 0) return;
    const float norm = static_cast<float>(sqrt(total > 0 ? total : 0));
    if (a.norm) static_cast<float*>(a.norm)[row] = norm;
    if (a.inverse) static_cast<float*>(a.inverse)[row] = 1.0f / (norm > 1e-30f ? norm : 1e-30f);
}
#endif
