// What the tiled products share: operand tiles that come by 16-byte copies into a ring of stages in swizzled shared memory, and a block's products out of
// them. An operand lies along its steps (the reduced index side by side in memory) or across them (its rows side by side); both are read as they lie.
#pragma once
#include "common.cuh"

namespace { // the emulator links this file once for each type of activations: nothing of it may be shared

// Runs `use(step, stage)` for every step in order while `load(step, stage)` of the next Stages - 1 steps is on its way; a stage is a byte offset in shared memory.
template <int Stages, int StageBytes, class Load, class Use> LR_DEV void lr_ring(int steps, Load load, Use use) {
    for (int s = 0; s < Stages - 1; ++s) {
        if (s < steps) load(s, s * StageBytes);
        lr_cp_async_commit();
    }
    for (int s = 0; s < steps; ++s) {
        lr_cp_async_wait<Stages - 2>();
        lr_sync(); // all threads' copies of this step are there, and nobody reads the stage of the last one any more
        const int next = s + Stages - 1;
        if (next < steps) load(next, next % Stages * StageBytes);
        lr_cp_async_commit();
        use(s, s % Stages * StageBytes);
    }
    lr_sync(); // shared memory is free
}

// Rows_ rows by Depth_ steps of an operand in shared memory
template <int Rows_, int Depth_, bool Across_> struct OperandTile {
    static constexpr bool Across = Across_;
    static constexpr int Rows = Rows_, Depth = Depth_, Lines = Across ? Depth : Rows, Pitch = (Across ? Rows : Depth) * static_cast<int>(sizeof(scalar)), Bytes = Lines * Pitch;

    // Starts the copy of rows [row, ..) < rows and steps [step, ..) < steps to byte `to`; zeros outside. Lines start on 16 bytes in memory.
    template <int Threads> LR_DEV void copy(const GemmOperand& o, int row, int rows, int step, int steps, int to) {
        constexpr int Pieces = Pitch / 16, All = Lines * Pieces;
        const int first = Across ? step : row, lines = Across ? steps : rows, start = Across ? row : step, end = Across ? rows : steps;
        const int64_t pitch = Across ? o.step_stride : o.row_stride;
        LR_UNROLL
        for (int i = 0; i < (All + Threads - 1) / Threads; ++i) {
            const int at = static_cast<int>(LR_TID) + i * Threads, line = first + at / Pieces, inner = start + at % Pieces * Lanes;
            if (All % Threads && at >= All) break;
            const int left = line < lines ? end - inner : 0;
            lr_cp_async16(lr_smem_addr(LR_SMEM + to) + lr_piece<Pitch>(at / Pieces, at % Pieces), static_cast<const scalar*>(o.data) + line * pitch + inner, left >= Lanes ? 16 : left > 0 ? left * static_cast<int>(sizeof(scalar)) : 0);
        }
    }

#if LR_DTYPE != 1
    // Rows [row, +16) by steps [step, +16) as the left operand of m16n8k16
    LR_DEV void left(uint32_t (&f)[4], int tile, int row, int step) {
        const int lane = LR_TID % 32;
        if (Across) lr_ldmatrix_x4_trans(f, lr_smem_addr(LR_SMEM + tile) + lr_piece<Pitch>(step + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2));
        else lr_ldmatrix_x4(f, lr_smem_addr(LR_SMEM + tile) + lr_piece<Pitch>(row + lane % 16, step / 8 + lane / 16));
    }
    // The same as the right operands of two products: rows [row, +8) in f[0..1], [row + 8, +8) in f[2..3]
    LR_DEV void right(uint32_t (&f)[4], int tile, int row, int step) {
        const int lane = LR_TID % 32;
        if (Across) lr_ldmatrix_x4_trans(f, lr_smem_addr(LR_SMEM + tile) + lr_piece<Pitch>(step + lane / 8 % 2 * 8 + lane % 8, row / 8 + lane / 16));
        else lr_ldmatrix_x4(f, lr_smem_addr(LR_SMEM + tile) + lr_piece<Pitch>(row + lane / 16 * 8 + lane % 8, step / 8 + lane / 8 % 2));
    }
#endif
};

template <int Count> struct alignas(4 * Count) lr_floats {
    float v[Count];
};
// acc[i] of 16 rows by 8 columns each: += left (16 rows) by the N/2 pairs of right operands
#if LR_DTYPE != 1
template <int N> LR_DEV void lr_multiply(float (&acc)[N][4], const uint32_t (&left)[4], const uint32_t (&right)[N / 2][4]) {
    LR_UNROLL
    for (int j = 0; j < N; ++j) {
        const uint32_t half[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
        lr_mma_16816<scalar>(acc[j], left, half);
    }
}
#endif

// Accumulators of a block of Threads threads for A::Rows x B::Rows sums; warps are WarpCols along the columns where tensor cores do the work.
template <class A, class B, int Threads, int WarpCols> struct Products {
#if LR_DTYPE == 1
    // 16 threads along the columns. A thread's rows (columns) come in runs where the operand lies across its steps, else one by one, so that neighbouring
    // threads read neighbouring lines.
    static constexpr int Cols = 16, Rows = Threads / Cols, M = A::Rows / Rows, N = B::Rows / Cols;
    static constexpr int RunM = !A::Across ? 1 : M < 4 ? M : 4, RunN = !B::Across ? 1 : N < 4 ? N : 4;
    float acc[M][N];

    // A warp is 4 threads of rows by 8 of columns.
    LR_DEV int row(int i) { return (i / RunM * Rows + static_cast<int>(LR_TID) / 64 * 4 + static_cast<int>(LR_TID) % 32 / 8) * RunM + i % RunM; }
    LR_DEV int col(int j) { return (j / RunN * Cols + static_cast<int>(LR_TID) / 32 % 2 * 8 + static_cast<int>(LR_TID) % 8) * RunN + j % RunN; }

    // Steps [step, +4) of the run of rows that starts with `row`
    template <class Tile, int Run> LR_DEV void take(float (&f)[Run][4], int tile, int row, int step) {
        if (Tile::Across) {
            LR_UNROLL
            for (int k = 0; k < 4; ++k) {
                const auto run = lr_load<lr_floats<Run>>(LR_SMEM + tile + lr_piece<Tile::Pitch>(step + k, row / 4) + row % 4 * 4);
                LR_UNROLL
                for (int e = 0; e < Run; ++e) f[e][k] = run.v[e];
            }
        } else {
            const auto steps = lr_load<lr_floats<4>>(LR_SMEM + tile + lr_piece<Tile::Pitch>(row, step / 4));
            LR_UNROLL
            for (int k = 0; k < 4; ++k) f[0][k] = steps.v[k];
        }
    }

    // += a b^T over the steps of two tiles; b's step k times factor[k], k < steps, where factor is given
    LR_DEV void add(Products& sums, int a, int b, const float* factor, int steps) {
        LR_ROLLED
        for (int step = 0; step < A::Depth; step += 4) {
            float right[N / RunN][RunN][4];
            LR_UNROLL
            for (int j = 0; j < N / RunN; ++j) {
                take<B>(right[j], b, col(j * RunN), step);
                if (factor)
                    LR_UNROLL
                    for (int e = 0; e < RunN; ++e)
                        LR_UNROLL
                        for (int k = 0; k < 4; ++k) right[j][e][k] *= step + k < steps ? factor[step + k] : 0;
            }
            LR_UNROLL
            for (int i = 0; i < M / RunM; ++i) {
                float left[RunM][4];
                take<A>(left, a, row(i * RunM), step);
                LR_UNROLL
                for (int k = 0; k < 4; ++k)
                    LR_UNROLL
                    for (int e = 0; e < RunM; ++e)
                        LR_UNROLL
                        for (int j = 0; j < N; ++j) sums.acc[i * RunM + e][j] = lr_fma(left[e][k], right[j / RunN][j % RunN][k], sums.acc[i * RunM + e][j]);
            }
        }
    }

    // Leaves the sums in shared memory, [A::Rows][B::Rows] from byte 0 on
    LR_DEV void leave(const Products& sums) {
        LR_UNROLL
        for (int i = 0; i < M; ++i)
            LR_UNROLL
            for (int j = 0; j < N; ++j) *reinterpret_cast<float*>(LR_SMEM + lr_piece<4 * B::Rows>(row(i), col(j) / 4) + col(j) % 4 * 4) = sums.acc[i][j];
    }
#else
    static constexpr int WarpRows = Threads / 32 / WarpCols, M = A::Rows / WarpRows / 16, N = B::Rows / WarpCols / 8;
    float acc[M][N][4];

    LR_DEV int row() { return static_cast<int>(LR_TID) / 32 / WarpCols * 16 * M; }
    LR_DEV int col() { return static_cast<int>(LR_TID) / 32 % WarpCols * 8 * N; }

    LR_DEV void add(Products& sums, int a, int b, const float* factor, int steps) {
        LR_UNROLL
        for (int step = 0; step < A::Depth; step += 16) {
            uint32_t right[N / 2][4];
            LR_UNROLL
            for (int j = 0; j < N / 2; ++j) B::right(right[j], b, col() + 16 * j, step);
            if (factor) {
                LR_UNROLL
                for (int i = 0; i < 2; ++i) { // registers i and i + 2 hold two neighbouring steps
                    const int at = step + 8 * i + 2 * (static_cast<int>(LR_TID) % 4);
                    const float low = at < steps ? factor[at] : 0, high = at + 1 < steps ? factor[at + 1] : 0;
                    LR_UNROLL
                    for (int j = 0; j < N; ++j) {
                        uint32_t& both = right[j / 2][j % 2 * 2 + i];
                        both = lr_pack<scalar>(low * lr_widen(scalar{static_cast<uint16_t>(both)}), high * lr_widen(scalar{static_cast<uint16_t>(both >> 16)}));
                    }
                }
            }
            LR_UNROLL
            for (int i = 0; i < M; ++i) {
                uint32_t left[4];
                A::left(left, a, row() + 16 * i, step);
                lr_multiply<N>(sums.acc[i], left, right);
            }
        }
    }

    LR_DEV void leave(const Products& sums) {
        const int lane = LR_TID % 32;
        LR_UNROLL
        for (int i = 0; i < M; ++i)
            LR_UNROLL
            for (int j = 0; j < N; ++j)
                LR_UNROLL
                for (int h = 0; h < 2; ++h) {
                    const int at = col() + 8 * j + 2 * (lane % 4);
                    lr_store(LR_SMEM + lr_piece<4 * B::Rows>(row() + 16 * i + lane / 4 + 8 * h, at / 4) + at % 4 * 4, lr_floats<2>{{sums.acc[i][j][2 * h], sums.acc[i][j][2 * h + 1]}});
                }
    }
#endif

    LR_DEV void clear(Products& sums) {
        LR_UNROLL
        for (int i = 0; i < static_cast<int>(sizeof(sums.acc) / 4); ++i) reinterpret_cast<float*>(sums.acc)[i] = 0;
    }

    // Calls f(row, col, sums) for every run of Run columns, neighbouring threads on neighbouring runs
    template <int Run, class F> LR_DEV void each(const Products& sums, F f) {
        constexpr int Runs = B::Rows / Run;
        leave(sums);
        lr_sync();
        for (int i = LR_TID; i < A::Rows * Runs; i += Threads) {
            float v[Run];
            LR_UNROLL
            for (int q = 0; q < Run / 4; ++q) {
                const auto four = lr_load<lr_floats<4>>(LR_SMEM + lr_piece<4 * B::Rows>(i / Runs, i % Runs * (Run / 4) + q));
                LR_UNROLL
                for (int e = 0; e < 4; ++e) v[4 * q + e] = four.v[e];
            }
            f(i / Runs, i % Runs * Run, v);
        }
    }
};

} // namespace
