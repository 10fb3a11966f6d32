// Hopper's matrix product, the one mainloop of every kernel on it: persistent and warp-specialised. One producer thread moves 64-deep tiles of both
// operands by TMA through a ring of stages; consumer warpgroups multiply 64 rows each by wgmma. A rank is more steps of the same ring, with its left
// factor in registers, so y is written once.
// Rate: a 64x256x16 wgmma is 128 cycles; a 128x256 tile of k 4096 is 2 x 256 of them = 65,536 cycles, and its end (64 shuffles and 16 stores of 16 bytes
// a thread) some 400, 0.6 %. Reads of shared memory: (64 + 256) x 32 bytes in 128 cycles = 80 of 128 bytes a cycle.
#pragma once
#include "common.cuh"
#include "sm90.cuh"

// y[m,n] (+)= c[n] (.) (sum_k x w + sum_r t tail) + bias[n]; y0 as y before c and bias. x is [m,k] (K-major) or [k,m]; w [n,k] or [k,n]; tail [n,r] or
// [r,n] as w. t is t16 [m,t_pitch] in the activations' type, r in whole 16s; or where a kernel makes it (RP > 0) t = scale x down^T with down [RP,k], and
// tiles of column 0 write it to t16 [m,RP] for the others and to t32 [m,r] for backward. scale without a rank: of x w. counters: ticket, finished
// blocks, then a flag for each 64 rows; zero before and after. Mirror: Sm90Args in CudaArgs.cs.
struct Sm90Args {
    LrTensorMap x, w, down, tail;
    const float *c, *bias;
    void *y, *y0;
    float* t32;
    uint32_t* t16;
    int* counters;
    int32_t m, n, k, r, t_pitch, row_tiles, col_tiles, group, y_dtype;
    float scale;
    uint32_t add;
};

constexpr int Depth = 64, BlockBytes = Depth * 128, MostStages = 6, SharedBytes = 232448, BarrierBytes = 256;

// A tile of BM rows and BN columns; RP > 0: the rank made in the kernel, padded. XByK, WByK: the operand is MN-major in memory, its rows are steps of k.
template <int BM_, int BN_, int RP_, bool XByK_, bool WByK_, bool F32Out_ = false> struct Tile {
    static constexpr int BM = BM_, BN = BN_, RP = RP_, Consumers = BM / 64, Threads = 128 * (Consumers + 1), StageBytes = (BM + BN + RP) * 128;
    static constexpr int Fit = (SharedBytes - BarrierBytes) / StageBytes, Stages = Fit < MostStages ? Fit : MostStages;
    static constexpr bool XByK = XByK_, WByK = WByK_, F32Out = F32Out_;

    struct Shared {
        unsigned char x[Stages][BM * 128], w[Stages][BN * 128], down[Stages][RP > 0 ? RP * 128 : 1];
        alignas(8) uint64_t full[Stages], empty[Stages], told[2], heard[2];
        int tile[2];
    };
    static_assert(sizeof(Shared) <= Stages * StageBytes + BarrierBytes, "a plan asks for so much");
};

// Where a role stands in a ring of Size places: `phase` flips each time round
template <int Size> struct Ring {
    int place = 0, phase = 0;
    LR_DEV void next(Ring& r) {
        if (++r.place == Size) r.place = 0, r.phase ^= 1;
    }
};

// Tiles go by groups of row tiles, which share x in L2; in a group column by column, column 0 first, so that nobody waits for a tile with a larger number.
struct Place {
    int row, col;
    LR_DEV Place of(const Sm90Args& p, int tile) {
        const int each = p.group * p.col_tiles, first = tile / each * p.group, rows = p.row_tiles - first < p.group ? p.row_tiles - first : p.group;
        return {first + tile % each % rows, tile % each / rows};
    }
};

// Size rows (or columns) of an operand from `first`, Depth steps from `step`, into a stage
template <int Size, bool ByK> LR_DEV void lr_load_operand(unsigned char* to, const LrTensorMap& map, uint64_t* bar, int first, int step) {
    if (ByK) {
        LR_UNROLL
        for (int i = 0; i < Size / 64; ++i) lr_tma_load(to + i * BlockBytes, &map, bar, first + 64 * i, step);
    } else {
        lr_tma_load(to, &map, bar, step, first);
    }
}
// Descriptor of step kk (16 deep) of an operand in a stage. K-major: 32 bytes along the swizzled rows. MN-major: 16 rows of 128 bytes further; 64 columns
// are a block, the next 64 a block on.
template <bool ByK> LR_DEV uint64_t lr_step_descriptor(uint32_t stage, int kk) {
    return ByK ? lr_descriptor(stage + 2048 * kk, 1024, BlockBytes) : lr_descriptor(stage + 32 * kk, 1024);
}

template <class T> LR_DEV void produce(const Sm90Args& p, typename T::Shared& s) {
    lr_prefetch_map(&p.x);
    lr_prefetch_map(&p.w);
    Ring<T::Stages> ring;
    Ring<2> tickets;
    for (;;) {
        // A ticket, not a stride: every tile with a smaller number is done or runs on a resident block, whatever the order of blocks.
        const int tile = lr_atomic_add(p.counters, 1);
        lr_mbar_wait(&s.heard[tickets.place], tickets.phase ^ 1);
        s.tile[tickets.place] = tile;
        lr_mbar_arrive(&s.told[tickets.place]);
        Ring<2>::next(tickets);
        if (tile >= p.row_tiles * p.col_tiles) return;
        const Place at = Place::of(p, tile);
        for (int k = 0; k < p.k; k += Depth) {
            lr_mbar_wait(&s.empty[ring.place], ring.phase ^ 1);
            lr_mbar_expect(&s.full[ring.place], (T::BM + T::BN + (at.col == 0 ? T::RP : 0)) * 128);
            lr_load_operand<T::BM, T::XByK>(s.x[ring.place], p.x, &s.full[ring.place], at.row * T::BM, k);
            lr_load_operand<T::BN, T::WByK>(s.w[ring.place], p.w, &s.full[ring.place], at.col * T::BN, k);
            if (T::RP > 0 && at.col == 0) lr_tma_load(s.down[ring.place], &p.down, &s.full[ring.place], k, 0);
            Ring<T::Stages>::next(ring);
        }
        for (int rank = 0; rank < p.r; rank += Depth) { // what lies past the rank comes as zeros
            lr_mbar_wait(&s.empty[ring.place], ring.phase ^ 1);
            lr_mbar_expect(&s.full[ring.place], T::BN * 128);
            lr_load_operand<T::BN, T::WByK>(s.w[ring.place], p.tail, &s.full[ring.place], at.col * T::BN, rank);
            Ring<T::Stages>::next(ring);
        }
    }
}

// Eight neighbouring elements of a row, `have` of them inside the matrix; whole: all or none, on 16 bytes. One by one they pass through 128 bits.
LR_DEV void lr_get_eight(const scalar* p, int have, bool whole, uint32_t (&word)[4]) {
    if (whole) {
        if (have > 0) lr_words(word, lr_load<lr_u4>(p));
        return;
    }
    uint64_t low = 0, high = 0;
    LR_ROLLED
    for (int i = 0; i < 8; ++i) {
        low = low >> 16 | high << 48;
        high = high >> 16 | (i < have ? uint64_t(p[i].bits) << 48 : 0);
    }
    lr_words(word, lr_u4{uint32_t(low), uint32_t(low >> 32), uint32_t(high), uint32_t(high >> 32)});
}
LR_DEV void lr_set_eight(scalar* p, int have, bool whole, const uint32_t (&word)[4]) {
    if (whole) {
        if (have > 0) lr_store(p, lr_u4{word[0], word[1], word[2], word[3]});
        return;
    }
    uint64_t low = word[0] | uint64_t(word[1]) << 32, high = word[2] | uint64_t(word[3]) << 32;
    LR_ROLLED
    for (int i = 0; i < 8 && i < have; ++i) {
        p[i].bits = static_cast<uint16_t>(low);
        low = low >> 16 | high << 48;
        high >>= 16;
    }
}
// Values of the columns that a lane has in four stretches of eight; what lies past the end is never stored
LR_DEV void lr_columns(const float* values, int col, int n, float (&v)[4][2]) {
    LR_UNROLL
    for (int b = 0; b < 4; ++b)
        LR_UNROLL
        for (int e = 0; e < 2; ++e) {
            const int at = col + 8 * b + e;
            v[b][e] = values[at < n ? at : n - 1];
        }
}
// y (+)= c (.) acc + bias, y0 = acc; without a rank acc counts scale times. A lane has two columns of a row in each 8; four lanes exchange four such words,
// so that each has eight neighbours, 16 bytes. Gradients (WByK) have no c, bias and y0, and a kernel that makes t does not add.
template <class T> LR_DEV void lr_store_halves(const Sm90Args& p, const float (&acc)[T::BN / 2], int row, int col0) {
    const int quad = LR_TID % 4;
    const bool whole = p.n % 8 == 0, add = T::RP == 0 && p.add & 1;
    LR_UNROLL
    for (int j = 0; j < T::BN / 8; j += 4) {
        float c[4][2], bias[4][2];
        LR_UNROLL
        for (int i = 0; i < 8; ++i) c[i / 2][i % 2] = 1, bias[i / 2][i % 2] = 0;
        if (!T::WByK && p.c) lr_columns(p.c, col0 + 8 * j + 2 * quad, p.n, c);
        if (!T::WByK && p.bias) lr_columns(p.bias, col0 + 8 * j + 2 * quad, p.n, bias);
        LR_UNROLL
        for (int h = 0; h < 2; ++h) {
            const int at = row + 8 * h, mine = col0 + 8 * (j + quad), have = at < p.m ? p.n - mine : 0;
            const int64_t place = static_cast<int64_t>(at) * p.n + mine;
            scalar* y = static_cast<scalar*>(p.y) + place;
            uint32_t word[4] = {};
            if (add) {
                lr_get_eight(y, have, whole, word);
                lr_quad_transpose(word);
            }
            LR_UNROLL
            for (int b = 0; b < 4; ++b) {
                const scalar low = {static_cast<uint16_t>(word[b])}, high = {static_cast<uint16_t>(word[b] >> 16)}; // zeros where nothing is added to
                const float *v = &acc[4 * (j + b) + 2 * h], scale = T::RP > 0 ? 1 : p.scale;
                word[b] = lr_pair<scalar>(lr_fma(scale * c[b][0], v[0], bias[b][0]) + lr_widen(low), lr_fma(scale * c[b][1], v[1], bias[b][1]) + lr_widen(high));
            }
            lr_quad_transpose(word);
            lr_set_eight(y, have, whole, word);
            if (T::WByK || !p.y0) continue;
            LR_UNROLL
            for (int b = 0; b < 4; ++b) word[b] = lr_pair<scalar>(acc[4 * (j + b) + 2 * h], acc[4 * (j + b) + 2 * h + 1]);
            lr_quad_transpose(word);
            lr_set_eight(static_cast<scalar*>(p.y0) + place, have, whole, word);
        }
    }
}
// As lr_store_halves for an F32 y without c, bias and y0: two lanes exchange two words and each stores four columns.
template <class T> LR_DEV void lr_store_floats(const Sm90Args& p, const float (&acc)[T::BN / 2], int row, int col0) {
    const int quad = LR_TID % 4;
    const bool odd = quad & 1, wide = p.n % 4 == 0;
    LR_UNROLL
    for (int j = 0; j < T::BN / 8; j += 2)
        LR_UNROLL
        for (int h = 0; h < 2; ++h) {
            const int at = row + 8 * h, mine = col0 + 8 * (j + odd) + 4 * (quad / 2);
            float v[4];
            LR_UNROLL
            for (int e = 0; e < 2; ++e) {
                const float first = p.scale * acc[4 * j + 2 * h + e], second = p.scale * acc[4 * j + 4 + 2 * h + e], other = lr_shfl_xor(odd ? first : second, 1);
                v[e] = odd ? other : first;
                v[2 + e] = odd ? second : other;
            }
            if (at >= p.m) continue;
            float* y = static_cast<float*>(p.y) + static_cast<int64_t>(at) * p.n + mine;
            if (wide && mine < p.n) {
                lr_u4 old = {};
                if (p.add & 1) old = lr_load<lr_u4>(y);
                lr_store(y, lr_u4{lr_bits(v[0] + lr_float(old.x)), lr_bits(v[1] + lr_float(old.y)), lr_bits(v[2] + lr_float(old.z)), lr_bits(v[3] + lr_float(old.w))});
            } else {
                LR_UNROLL
                for (int e = 0; e < 4; ++e)
                    if (mine + e < p.n) lr_put(y + e, v[e], p.add & 1);
            }
        }
}

// acc += t tail^T for up to 64 ranks: one stage. Where the rank is known at run time only, one instruction in code makes its steps one after another, some
// 50 cycles of waiting each: four of them in branches took the assembler as long as the rest of the kernel. They use t up.
template <class T> LR_DEV void lr_tail_step(typename T::Shared& s, Ring<T::Stages>& ring, float (&acc)[T::BN / 2], uint32_t (*t)[4], int ranks, bool signals) {
    lr_mbar_wait(&s.full[ring.place], ring.phase);
    lr_wgmma_fence();
    const uint32_t w = lr_smem_addr(s.w[ring.place]);
    if constexpr (T::RP > 0) {
        LR_UNROLL
        for (int q = 0; q < 4; ++q)
            if (16 * q < ranks) lr_wgmma_rs<scalar, T::BN, T::WByK>(acc, t[q], lr_step_descriptor<T::WByK>(w, q));
        lr_wgmma_commit();
        lr_wgmma_wait<0>();
    } else {
        LR_ROLLED
        for (int q = 0; q < 4 && 16 * q < ranks; ++q) {
            lr_wgmma_rs<scalar, T::BN, T::WByK>(acc, t[0], lr_step_descriptor<T::WByK>(w, q));
            lr_wgmma_commit();
            lr_wgmma_wait<0>();
            LR_UNROLL
            for (int i = 0; i < 12; ++i) t[i / 4][i % 4] = t[i / 4 + 1][i % 4]; // registers have no index at run time
            lr_wgmma_fence();
        }
    }
    if (signals) lr_mbar_arrive(&s.empty[ring.place]);
    Ring<T::Stages>::next(ring);
}

template <int Groups> LR_DEV void lr_group_sync(int group) {
    if (Groups == 1 || group == 0) lr_bar_sync<1>(128); // a barrier's number must be a constant
    else lr_bar_sync<2>(128);
}

template <class T> LR_DEV void consume(const Sm90Args& p, typename T::Shared& s, int group) {
    const int lane = LR_TID % 32, warp = LR_TID % 128 / 32, quad = lane % 4;
    const bool signals = lane == 0;
    Ring<T::Stages> ring;
    Ring<2> tickets;
    for (;;) {
        lr_mbar_wait(&s.told[tickets.place], tickets.phase);
        const int tile = s.tile[tickets.place];
        lr_warp_sync();
        if (signals) lr_mbar_arrive(&s.heard[tickets.place]);
        Ring<2>::next(tickets);
        if (tile >= p.row_tiles * p.col_tiles) return;
        const Place at = Place::of(p, tile);

        float acc[T::BN / 2], tacc[T::RP > 0 ? T::RP / 2 : 1];
        // Zeros in code and scale-d 1 throughout: a run-time scale-d makes ptxas serialise every wgmma (C7515).
        LR_UNROLL
        for (int i = 0; i < T::BN / 2; ++i) acc[i] = 0;
        LR_UNROLL
        for (int i = 0; i < T::RP / 2; ++i) tacc[i] = 0;
        int previous = -1;
        for (int k = 0; k < p.k; k += Depth) {
            lr_mbar_wait(&s.full[ring.place], ring.phase);
            lr_wgmma_fence();
            const uint32_t x = lr_smem_addr(s.x[ring.place]) + group * BlockBytes, w = lr_smem_addr(s.w[ring.place]); // 64 rows of x are a block either way
            LR_UNROLL
            for (int kk = 0; kk < Depth / 16; ++kk) {
                const uint64_t left = lr_step_descriptor<T::XByK>(x, kk);
                lr_wgmma_ss<scalar, T::BN, T::XByK, T::WByK>(acc, left, lr_step_descriptor<T::WByK>(w, kk));
                if constexpr (T::RP > 0)
                    if (at.col == 0) lr_wgmma_ss<scalar, T::RP, T::XByK>(tacc, left, lr_step_descriptor<false>(lr_smem_addr(s.down[ring.place]), kk));
            }
            lr_wgmma_commit();
            lr_wgmma_wait<1>();
            if (previous >= 0 && signals) lr_mbar_arrive(&s.empty[previous]); // its products have retired
            previous = ring.place;
            Ring<T::Stages>::next(ring);
        }
        lr_wgmma_wait<0>();
        if (signals) lr_mbar_arrive(&s.empty[previous]);

        // t as the A operand of the last products: the accumulator's layout is the operand's
        const int row = at.row * T::BM + group * 64 + warp * 16 + lane / 4;
        if constexpr (T::RP > 0) {
            uint32_t t[T::RP / 16 < 4 ? 4 : T::RP / 16][4];
            int* flag = p.counters + 2 + at.row * T::Consumers + group;
            if (at.col == 0) {
                LR_UNROLL
                for (int q = 0; q < T::RP / 16; ++q)
                    LR_UNROLL
                    for (int i = 0; i < 4; ++i) {
                        const float low = p.scale * tacc[8 * q + 2 * i], high = p.scale * tacc[8 * q + 2 * i + 1];
                        t[q][i] = lr_pair<scalar>(low, high);
                        const int64_t to = row + 8 * (i & 1);
                        const int col = 16 * q + 8 * (i >> 1) + 2 * quad;
                        if (to >= p.m) continue;
                        p.t16[(to * T::RP + col) / 2] = t[q][i];
                        if (col < p.r) p.t32[to * p.r + col] = low;
                        if (col + 1 < p.r) p.t32[to * p.r + col + 1] = high;
                    }
                lr_fence();
                lr_group_sync<T::Consumers>(group);
                if (LR_TID % 128 == 0) lr_st_release(flag, 1);
            } else {
                if (LR_TID % 128 == 0)
                    while (!lr_ld_acquire(flag)) lr_spin();
                lr_group_sync<T::Consumers>(group);
                LR_UNROLL
                for (int q = 0; q < T::RP / 16; ++q)
                    LR_UNROLL
                    for (int i = 0; i < 4; ++i) {
                        const int64_t from = row + 8 * (i & 1);
                        t[q][i] = from < p.m ? lr_load4_cg(p.t16 + (from * T::RP + 16 * q + 8 * (i >> 1) + 2 * quad) / 2) : 0;
                    }
            }
            LR_UNROLL
            for (int rank = 0; rank < T::RP; rank += Depth)
                if (rank < p.r) lr_tail_step<T>(s, ring, acc, t + rank / 16, T::RP - rank, signals);
        } else {
            for (int rank = 0; rank < p.r; rank += Depth) {
                uint32_t t[4][4];
                LR_UNROLL
                for (int q = 0; q < 4; ++q)
                    LR_UNROLL
                    for (int i = 0; i < 4; ++i) {
                        const int64_t from = row + 8 * (i & 1);
                        const bool inside = from < p.m && rank + 16 * q < p.r;
                        t[q][i] = inside ? p.t16[(from * p.t_pitch + rank + 16 * q + 8 * (i >> 1) + 2 * quad) / 2] : 0;
                    }
                lr_tail_step<T>(s, ring, acc, t, p.r - rank, signals);
            }
        }
        if (T::F32Out && p.y_dtype == LR_F32) lr_store_floats<T>(p, acc, row, at.col * T::BN);
        else lr_store_halves<T>(p, acc, row, at.col * T::BN);
    }
}

// The last block to finish leaves the counters as it found them, so the launch can be replayed with the same arguments.
template <class T> LR_DEV void lr_clean(const Sm90Args& p) {
    lr_bar_sync<3>(128 * T::Consumers);
    if (LR_TID / 32 != 4) return;
    int last = 0;
    if (LR_TID % 32 == 0) {
        lr_fence();
        last = lr_atomic_add(p.counters + 1, 1) == static_cast<int>(LR_GX) - 1;
        lr_fence();
    }
    if (!lr_shfl(last, 0)) return;
    const int count = 2 + (T::RP > 0 ? p.row_tiles * T::Consumers : 0);
    for (int i = LR_TID % 32; i < count; i += 32) p.counters[i] = 0;
}

template <class T> LR_DEV void lr_multiply_sm90(const Sm90Args& p) {
    auto& s = *reinterpret_cast<typename T::Shared*>(LR_SMEM);
    if (LR_TID == 0) {
        for (int i = 0; i < T::Stages; ++i) {
            lr_mbar_init(&s.full[i], 1);
            lr_mbar_init(&s.empty[i], 4 * T::Consumers); // a warp each
        }
        for (int i = 0; i < 2; ++i) {
            lr_mbar_init(&s.told[i], 1);
            lr_mbar_init(&s.heard[i], 4 * T::Consumers);
        }
        lr_mbar_fence();
    }
    lr_sync();
    const int group = static_cast<int>(LR_TID) / 128 - 1;
    if (group < 0) {
        lr_setmaxnreg_dec<40>();
        if (LR_TID == 0) produce<T>(p, s);
    } else {
        lr_setmaxnreg_inc<232>();
        consume<T>(p, s, group);
        lr_clean<T>(p);
    }
}

#define LR_MULTIPLY(name, ...) \
    using name##_tile = Tile<__VA_ARGS__>; \
    LR_KERNEL(name, Sm90Args, name##_tile::Threads, 1) { lr_multiply_sm90<name##_tile>(p); }
