// Tiles of rows of Width elements in shared memory, and the two products of a warp's 16 rows with them: dots (rows by rows, over the width) and mixes
// (weights by rows, over the rows). 16-bit types on tensor cores (m16n8k16), F32 by exact FMA; both keep sums where m16n8 keeps its own: element e of
// group j is row lane/4 + 8 (e/2), column 8 j + 2 (lane%4) + e%2, so weights made from dots are the left operand of a mix without leaving registers.
// Width is a constant of the file that includes this.
#pragma once
#include "common.cuh"

constexpr int Pieces = Width / Lanes, RowBytes = Width * static_cast<int>(sizeof(scalar)); // a row is Pieces of 16 bytes

struct alignas(2 * sizeof(scalar)) lr_pair {
    scalar v[2];
};

// Rows of a matrix in memory: row i at data + i pitch, `dim` columns of which a tile holds all; rows past `rows` and columns past `dim` read as zero
struct Rows {
    const scalar* data;
    int64_t pitch;
    int rows, dim;
    bool whole; // rows are whole pieces, and aligned
};

// Rows [first, first + Count) on their way to a tile at byte `to` of shared memory, by `Threads` threads; whole pieces come by cp.async
template <int Count, int Threads> LR_DEV void lr_fetch(const Rows& from, int first, uint32_t to) {
    if (from.whole) {
        LR_UNROLL
        for (int i = 0; i < (Count * Pieces + Threads - 1) / Threads; ++i) {
            const int row = (static_cast<int>(LR_TID) + Threads * i) / Pieces, piece = static_cast<int>(LR_TID) % Pieces;
            const bool inside = first + row < from.rows && piece * Lanes < from.dim;
            if (row < Count) lr_cp_async16(lr_smem_addr(LR_SMEM + to) + lr_piece<RowBytes>(row, piece), inside ? from.data + (first + row) * from.pitch + piece * Lanes : from.data, inside ? 16 : 0);
        }
        return;
    }
    LR_ROLLED
    for (int i = LR_TID; i < Count * Width; i += Threads) {
        const int row = i / Width, col = i % Width;
        scalar value;
        lr_narrow(0.0f, value);
        if (first + row < from.rows && col < from.dim) value = from.data[(first + row) * from.pitch + col];
        reinterpret_cast<scalar*>(LR_SMEM + to + lr_piece<RowBytes>(row, col / Lanes))[col % Lanes] = value;
    }
}

#if LR_DTYPE == 1
LR_DEV float lr_dot4(const lanes& a, const lanes& b, float sum) { return lr_fma(a.v[3], b.v[3], lr_fma(a.v[2], b.v[2], lr_fma(a.v[1], b.v[1], lr_fma(a.v[0], b.v[0], sum)))); }

// A warp's 16 rows of a tile, as the left operand of dots
template <bool Held> struct Strip {
    uint32_t tile;
    int row;
};
template <bool Held> LR_DEV void lr_take(uint32_t tile, int first, Strip<Held>& strip) {
    strip.tile = tile;
    strip.row = first + static_cast<int>(LR_TID) % 32 / 4;
}

// s[m] += rows of strip m by the N rows of a tile
template <int N, bool Held, int M> LR_DEV void lr_dots(const Strip<Held> (&a)[M], uint32_t tile, float (&s)[M][N / 8][4]) {
    const int pair = 2 * (LR_TID % 4);
    for (int piece = 0; piece < Pieces; ++piece) {
        const unsigned char *even = LR_SMEM + tile + lr_piece<RowBytes>(pair, piece), *odd = LR_SMEM + tile + lr_piece<RowBytes>(pair + 1, piece);
        LR_UNROLL
        for (int m = 0; m < M; ++m) {
            const unsigned char* left = LR_SMEM + a[m].tile + lr_piece<RowBytes>(a[m].row, piece);
            const lanes a0 = lr_load<lanes>(left), a1 = lr_load<lanes>(left + 8 * RowBytes);
            LR_UNROLL
            for (int j = 0; j < N / 8; ++j) {
                const lanes b0 = lr_load<lanes>(even + 8 * j * RowBytes), b1 = lr_load<lanes>(odd + 8 * j * RowBytes);
                s[m][j][0] = lr_dot4(a0, b0, s[m][j][0]);
                s[m][j][1] = lr_dot4(a0, b1, s[m][j][1]);
                s[m][j][2] = lr_dot4(a1, b0, s[m][j][2]);
                s[m][j][3] = lr_dot4(a1, b1, s[m][j][3]);
            }
        }
    }
}

// y[m] += weights p[m] [16, N] by the N rows of a tile
template <int N, int M> LR_DEV void lr_mix(const float (&p)[M][N / 8][4], uint32_t tile, float (&y)[M][Width / 8][4]) {
    const int quad = LR_TID % 32 & ~3, pair = 2 * (LR_TID % 4);
    // Of lr_piece(8 j + e, 2 d + pair / 4) only the piece's lowest bit depends on the lane.
    const unsigned char* rows[2] = {LR_SMEM + tile + pair / 4 * 16 + pair % 4 * 4, LR_SMEM + tile + (pair / 4 ^ 1) * 16 + pair % 4 * 4};
    LR_UNROLL
    for (int j = 0; j < N / 8; ++j)
        LR_UNROLL
        for (int e = 0; e < 8; ++e)
            LR_UNROLL
            for (int m = 0; m < M; ++m) {
                const float w0 = lr_shfl(p[m][j][e % 2], quad + e / 2), w1 = lr_shfl(p[m][j][2 + e % 2], quad + e / 2);
                LR_UNROLL
                for (int d = 0; d < Width / 8; ++d) {
                    const lr_pair b = lr_load<lr_pair>(rows[e % 2] + (8 * j + e) * RowBytes + (d ^ e / 2) * 32);
                    y[m][d][0] = lr_fma(w0, b.v[0], y[m][d][0]);
                    y[m][d][1] = lr_fma(w0, b.v[1], y[m][d][1]);
                    y[m][d][2] = lr_fma(w1, b.v[0], y[m][d][2]);
                    y[m][d][3] = lr_fma(w1, b.v[1], y[m][d][3]);
                }
            }
}
#else
// A warp's 16 rows of a tile, as the left operand of dots: in registers where Held, else read again for every product
template <bool Held> struct Strip {
    uint32_t at, a[Held ? Width / 16 : 1][4];
};
template <bool Held> LR_DEV void lr_take(uint32_t tile, int first, Strip<Held>& strip) {
    const int lane = LR_TID % 32;
    strip.at = lr_smem_addr(LR_SMEM + tile) + lr_piece<RowBytes>(first + lane % 16, lane / 16);
    if (Held)
        LR_UNROLL
        for (int k = 0; k < Width / 16; ++k) lr_ldmatrix_x4(strip.a[Held ? k : 0], strip.at ^ 32 * k);
}

// s[m] += rows of strip m by the N rows of a tile
template <int N, bool Held, int M> LR_DEV void lr_dots(Strip<Held> (&a)[M], uint32_t tile, float (&s)[M][N / 8][4]) {
    const int lane = LR_TID % 32;
    const uint32_t at = lr_smem_addr(LR_SMEM + tile) + lr_piece<RowBytes>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    LR_UNROLL
    for (int k = 0; k < Width / 16; ++k) {
        if (!Held)
            LR_UNROLL
            for (int m = 0; m < M; ++m) lr_ldmatrix_x4(a[m].a[0], a[m].at ^ 32 * k);
        LR_UNROLL
        for (int j = 0; j < N / 16; ++j) {
            uint32_t b[4];
            lr_ldmatrix_x4(b, (at ^ 32 * k) + 16 * RowBytes * j);
            const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
            LR_UNROLL
            for (int m = 0; m < M; ++m) {
                lr_mma_16816<scalar>(s[m][2 * j], a[m].a[Held ? k : 0], left);
                lr_mma_16816<scalar>(s[m][2 * j + 1], a[m].a[Held ? k : 0], right);
            }
        }
    }
}

// y[m] += weights p[m] [16, N], rounded to the type of the tile, by its N rows
template <int N, int M> LR_DEV void lr_mix(const float (&p)[M][N / 8][4], uint32_t tile, float (&y)[M][Width / 8][4]) {
    const int lane = LR_TID % 32;
    const uint32_t at = lr_smem_addr(LR_SMEM + tile) + lr_piece<RowBytes>(lane % 16, lane / 16);
    LR_UNROLL
    for (int t = 0; t < N / 16; ++t) {
        uint32_t a[M][4];
        LR_UNROLL
        for (int m = 0; m < M; ++m)
            LR_UNROLL
            for (int i = 0; i < 4; ++i) a[m][i] = lr_pack<scalar>(p[m][2 * t + i / 2][i % 2 * 2], p[m][2 * t + i / 2][i % 2 * 2 + 1]);
        LR_UNROLL
        for (int d = 0; d < Width / 16; ++d) {
            uint32_t b[4];
            lr_ldmatrix_x4_trans(b, (at ^ 32 * d) + 16 * RowBytes * t);
            const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
            LR_UNROLL
            for (int m = 0; m < M; ++m) {
                lr_mma_16816<scalar>(y[m][2 * d], a[m], left);
                lr_mma_16816<scalar>(y[m][2 * d + 1], a[m], right);
            }
        }
    }
}
#endif

// A strip's sums, row i times scale of its half, to (or added to) rows of memory; rows past `rows` and columns past `dim` are dropped
LR_DEV void lr_put_strip(const float (&sums)[Width / 8][4], const float (&scale)[2], const Rows& to, int first, bool add) {
    const int pair = 2 * (LR_TID % 4);
    LR_UNROLL
    for (int h = 0; h < 2; ++h) {
        const int row = first + static_cast<int>(LR_TID) % 32 / 4 + 8 * h;
        if (row >= to.rows) continue;
        scalar* y = const_cast<scalar*>(to.data) + row * to.pitch + pair;
        LR_UNROLL
        for (int j = 0; j < Width / 8; ++j) {
            if (8 * j + pair >= to.dim) continue;
            const float low = scale[h] * sums[j][2 * h], high = scale[h] * sums[j][2 * h + 1];
            lr_pair both{};
            if (add && to.whole) {
                both = lr_load<lr_pair>(y + 8 * j);
            } else if (add) {
                both.v[0] = y[8 * j];
                if (8 * j + pair + 1 < to.dim) both.v[1] = y[8 * j + 1];
            }
            lr_narrow(add ? lr_widen(both.v[0]) + low : low, both.v[0]);
            lr_narrow(add ? lr_widen(both.v[1]) + high : high, both.v[1]);
            if (to.whole) {
                lr_store(y + 8 * j, both);
            } else {
                y[8 * j] = both.v[0];
                if (8 * j + pair + 1 < to.dim) y[8 * j + 1] = both.v[1];
            }
        }
    }
}
