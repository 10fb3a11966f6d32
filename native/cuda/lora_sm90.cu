// The fused LoRA forward on Hopper: persistent, warp-specialised. One producer warp moves 64-deep tiles of x, W and (column 0 only) A by TMA through a ring of
// four stages; two consumer warpgroups multiply 64 rows each by wgmma. The rank is one more step of the same ring: tiles of column 0 also accumulate
// t = scale x A^T, publish it, and every tile ends with y += t B^T out of registers, so y is written once.
// Floor at T 8192, k = n = 4096, r 16, bf16: 275 GFLOP = 344 us at 798 TFLOP/s, +0.4 % for the rank, +0.8 % for column 0 (kernels.md 1.1). GPU-pending.
#include "common.cuh"
#if LR_ARCH >= 900 && LR_DTYPE != 1
#include "sm90.cuh"

// y[T,n] = c (.) (x W^T + t B^T) + bias with t = scale x A^T made by the tiles of column 0: t16 [T,RP] in the activations' type for the others, t32 [T,r]
// for backward; flags [2 row_tiles] are zero at the start. a and b map [RP,k] and [n,RP] in the activations' type. Mirror: LoraSm90Args in CudaArgs.cs.
struct LoraSm90Args {
    LrTensorMap x, w, a, b;
    const float *c, *bias;
    void* y;
    float* t32;
    uint32_t* t16;
    int* flags;
    int32_t tokens, n, k, r, row_tiles, col_tiles;
    float scale;
    int32_t reserved;
};

constexpr int BM = 128, BK = 64, Stages = 4, Consumers = 2;

template <int BN, int RP> struct LoraTiles {
    scalar x[Stages][BM * BK], w[Stages][BN * BK], a[Stages][RP * BK];
    uint64_t full[Stages], empty[Stages];
};

// Where a role stands in the ring: `phase` flips each time round
struct Ring {
    int stage = 0, phase = 0;
    LR_DEV void next(Ring& r) {
        if (++r.stage == Stages) r.stage = 0, r.phase ^= 1;
    }
};

template <int BN, int RP> LR_DEV void lora_producer(const LoraSm90Args& p, LoraTiles<BN, RP>& s) {
    Ring ring;
    const int steps = (p.k + BK - 1) / BK;
    for (int tile = LR_BX; tile < p.row_tiles * p.col_tiles; tile += LR_GX) {
        const int tn = tile / p.row_tiles, tm = tile % p.row_tiles; // column 0 first: nobody waits for a tile with a larger number
        for (int step = 0; step < steps; ++step) {
            lr_mbar_wait(&s.empty[ring.stage], ring.phase ^ 1);
            lr_mbar_expect(&s.full[ring.stage], (BM + BN + (tn == 0 ? RP : 0)) * BK * 2);
            lr_tma_load(s.x[ring.stage], &p.x, &s.full[ring.stage], step * BK, tm * BM);
            lr_tma_load(s.w[ring.stage], &p.w, &s.full[ring.stage], step * BK, tn * BN);
            if (tn == 0) lr_tma_load(s.a[ring.stage], &p.a, &s.full[ring.stage], step * BK, 0);
            Ring::next(ring);
        }
        lr_mbar_wait(&s.empty[ring.stage], ring.phase ^ 1);
        lr_mbar_expect(&s.full[ring.stage], BN * BK * 2);
        lr_tma_load(s.w[ring.stage], &p.b, &s.full[ring.stage], 0, tn * BN); // columns past the rank come as zeros
        Ring::next(ring);
    }
}

template <int BN, int RP> LR_DEV void lora_consumer(const LoraSm90Args& p, LoraTiles<BN, RP>& s, int group) {
    const int lane = LR_TID % 32, warp = LR_TID % 128 / 32, pair = lane % 4, steps = (p.k + BK - 1) / BK;
    const bool signals = lane == 0;
    Ring ring;
    for (int tile = LR_BX; tile < p.row_tiles * p.col_tiles; tile += LR_GX) {
        const int tn = tile / p.row_tiles, tm = tile % p.row_tiles;
        float acc[BN / 2], tacc[RP / 2];
        // Zeros in code and scale-d 1 throughout: a run-time scale-d makes ptxas serialise every wgmma (C7515).
        LR_UNROLL
        for (int i = 0; i < BN / 2; ++i) acc[i] = 0;
        LR_UNROLL
        for (int i = 0; i < RP / 2; ++i) tacc[i] = 0;
        int previous = -1;
        for (int step = 0; step < steps; ++step) {
            lr_mbar_wait(&s.full[ring.stage], ring.phase);
            lr_wgmma_fence();
            const uint32_t x = lr_smem_addr(s.x[ring.stage]) + group * 64 * 128, w = lr_smem_addr(s.w[ring.stage]), a = lr_smem_addr(s.a[ring.stage]);
            LR_UNROLL
            for (int kk = 0; kk < BK / 16; ++kk) { // 16 deep = 32 bytes along the swizzled rows
                lr_wgmma_ss<scalar, BN>(acc, lr_descriptor(x + 32 * kk, 1024), lr_descriptor(w + 32 * kk, 1024));
                if (tn == 0) lr_wgmma_ss<scalar, RP>(tacc, lr_descriptor(x + 32 * kk, 1024), lr_descriptor(a + 32 * kk, 1024));
            }
            lr_wgmma_commit();
            lr_wgmma_wait<1>();
            if (previous >= 0 && signals) lr_mbar_arrive(&s.empty[previous]); // its products have retired
            previous = ring.stage;
            Ring::next(ring);
        }
        lr_wgmma_wait<0>();
        if (signals) lr_mbar_arrive(&s.empty[previous]);

        // t as the A operand of the last products: the accumulator's layout is the operand's
        const int row = tm * BM + group * 64 + warp * 16 + lane / 4;
        uint32_t t[RP / 16][4];
        int* flag = p.flags + tm * Consumers + group;
        if (tn == 0) {
            LR_UNROLL
            for (int q = 0; q < RP / 16; ++q)
                LR_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const float low = p.scale * tacc[8 * q + 2 * i], high = p.scale * tacc[8 * q + 2 * i + 1];
                    t[q][i] = lr_pair<scalar>(low, high);
                    const int at = row + 8 * (i & 1), col = 16 * q + 8 * (i >> 1) + 2 * pair;
                    if (at >= p.tokens) continue;
                    p.t16[(at * RP + col) / 2] = t[q][i];
                    if (col < p.r) p.t32[at * p.r + col] = low;
                    if (col + 1 < p.r) p.t32[at * p.r + col + 1] = high;
                }
            lr_fence();
            if (group == 0) lr_bar_sync<1>(128);
            else lr_bar_sync<2>(128);
            if (LR_TID % 128 == 0) lr_st_release(flag, 1);
        } else {
            if (LR_TID % 128 == 0)
                while (!lr_ld_acquire(flag)) lr_spin();
            if (group == 0) lr_bar_sync<1>(128);
            else lr_bar_sync<2>(128);
            LR_UNROLL
            for (int q = 0; q < RP / 16; ++q)
                LR_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const int at = row + 8 * (i & 1), col = 16 * q + 8 * (i >> 1) + 2 * pair;
                    t[q][i] = at < p.tokens ? lr_load4_cg(p.t16 + (at * RP + col) / 2) : 0;
                }
        }
        lr_mbar_wait(&s.full[ring.stage], ring.phase);
        lr_wgmma_fence();
        LR_UNROLL
        for (int q = 0; q < RP / 16; ++q) lr_wgmma_rs<scalar, BN>(acc, t[q], lr_descriptor(lr_smem_addr(s.w[ring.stage]) + 32 * q, 1024));
        lr_wgmma_commit();
        lr_wgmma_wait<0>();
        if (signals) lr_mbar_arrive(&s.empty[ring.stage]);
        Ring::next(ring);

        LR_UNROLL
        for (int j = 0; j < BN / 8; ++j) {
            const int col = tn * BN + 8 * j + 2 * pair;
            if (col >= p.n) continue;
            const float c0 = p.c ? p.c[col] : 1, c1 = p.c && col + 1 < p.n ? p.c[col + 1] : 1, b0 = p.bias ? p.bias[col] : 0, b1 = p.bias && col + 1 < p.n ? p.bias[col + 1] : 0;
            LR_UNROLL
            for (int h = 0; h < 2; ++h) {
                const int at = row + 8 * h;
                if (at >= p.tokens) continue;
                scalar* y = static_cast<scalar*>(p.y) + static_cast<int64_t>(at) * p.n + col;
                const float low = c0 * acc[4 * j + 2 * h] + b0, high = c1 * acc[4 * j + 2 * h + 1] + b1;
                lr_narrow(low, y[0]);
                if (col + 1 < p.n) lr_narrow(high, y[1]);
            }
        }
    }
}

template <int BN, int RP> LR_DEV void lora_forward_sm90(const LoraSm90Args& p) {
    auto& s = *reinterpret_cast<LoraTiles<BN, RP>*>(LR_SMEM);
    if (LR_TID == 0) {
        for (int i = 0; i < Stages; ++i) {
            lr_mbar_init(&s.full[i], 1);
            lr_mbar_init(&s.empty[i], 4 * Consumers); // a warp each
        }
        lr_mbar_fence();
    }
    lr_sync();
    const int group = static_cast<int>(LR_TID) / 128 - 1;
    if (group < 0) {
        lr_setmaxnreg_dec<40>();
        if (LR_TID == 0) lora_producer(p, s);
    } else {
        lr_setmaxnreg_inc<232>();
        lora_consumer(p, s, group);
    }
}

#define LR_LORA(BN, RP) \
    LR_KERNEL(lora_forward_n##BN##_r##RP, LoraSm90Args, 384, 1) { lora_forward_sm90<BN, RP>(p); }
LR_LORA(256, 16)
LR_LORA(256, 32)
LR_LORA(256, 64)
LR_LORA(128, 16)
LR_LORA(128, 32)
LR_LORA(128, 64)
#endif
