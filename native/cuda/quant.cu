// Quantised matrices, LR_CODES8 and LR_CODES4 of lowrank.h: spelled out into a scratch that every layer shares (dequantize), after which the ordinary
// products run, and the product of a few tokens straight from the codes. 16 bytes of codes a thread and load.
// Floors: dequantize reads n k / 2 bytes of 4 bits and writes 2 n k (4096 x 4096 in bf16: 42 MB, 14 us at 3 TB/s). quant_few reads codes and scales once
// (9.4 MB of NF4, 3.1 us); its lookups, one a weight from 16 words of shared memory that lie in 16 banks, take 2.4 us on 132 multiprocessors at 1.7 GHz.
#include "common.cuh"

constexpr int Piece = 16; // bytes of codes a load

struct Codes {
    const float *table, *scales;
    const uint8_t* codes;
    int64_t count, bytes; // elements; bytes of their codes
    int block;
};
LR_DEV Codes lr_codes(const void* w, bool four, int64_t count) {
    const int64_t bytes = four ? (count + 1) / 2 : count;
    const uint8_t* codes = static_cast<const uint8_t*>(w) + 128;
    return {static_cast<const float*>(w), reinterpret_cast<const float*>(codes + (bytes + 63) / 64 * 64), codes, count, bytes, static_cast<const int*>(w)[16]};
}

// Code i of a word of 4-bit codes, the first in the upper half of the lowest byte; byte i of a word with its sign
LR_DEV uint32_t lr_nibble(uint32_t word, int i) { return word >> (8 * (i / 2) + (i % 2 ? 0 : 4)) & 15; }
LR_DEV float lr_signed_byte(uint32_t word, int i) { return static_cast<float>(static_cast<int>(word << (24 - 8 * i)) >> 24); }

constexpr int Each = 16 / sizeof(scalar); // values of a 16-byte write
struct alignas(16) Values {
    scalar v[Each];
};

// A warp takes 512 bytes of codes, which change hands in shared memory, so that its 16-byte writes are runs of 512 bytes
template <bool Four> LR_DEV void lr_spell_out(const DequantizeArgs& p) {
    float* table = reinterpret_cast<float*>(LR_SMEM); // [16], then 512 bytes a warp
    const Codes w = lr_codes(p.w, Four, int64_t(p.n) * p.k);
    if (LR_TID < 16) table[LR_TID] = w.table[LR_TID];
    lr_sync();
    constexpr int Per = Four ? 2 : 1, Run = 32 * Piece;
    const int lane = LR_TID % 32, warp = LR_TID / 32;
    uint8_t* held = LR_SMEM + 64 + warp * Run;
    scalar* y = static_cast<scalar*>(p.y);
    for (int64_t base = (int64_t(LR_BX) * 8 + warp) * Run; base < w.bytes; base += int64_t(LR_GX) * 8 * Run) {
        if (base + lane * Piece < w.bytes) lr_store(held + lane * Piece, lr_load<lr_u4>(w.codes + base + lane * Piece));
        lr_warp_sync();
        LR_UNROLL
        for (int i = 0; i < Run * Per; i += 32 * Each) {
            const int mine = i + lane * Each;
            const int64_t first = base * Per + mine;
            if (first < w.count) {
                int64_t at = first / w.block;
                int left = w.block - static_cast<int>(first - at * w.block); // codes of this block from here on
                float scale = w.scales[at];
                Values values;
                LR_UNROLL
                for (int j = 0; j < Each; ++j) {
                    const int byte = held[(mine + j) / Per];
                    if (left == 0 && first + j < w.count) {
                        scale = w.scales[++at];
                        left = w.block;
                    }
                    --left;
                    const float code = Four ? table[j % 2 ? byte & 15 : byte >> 4] : static_cast<float>(static_cast<signed char>(byte));
                    lr_narrow(scale * code, values.v[j]);
                }
                if (first + Each <= w.count) lr_store(y + first, values);
                else
                    LR_UNROLL
                    for (int j = 0; j < Each; ++j)
                        if (first + j < w.count) y[first + j] = values.v[j];
            }
        }
        lr_warp_sync();
    }
}

LR_KERNEL(dequantize, DequantizeArgs, 256, 4) {
    if (p.w_layout == LR_CODES4) lr_spell_out<true>(p);
    else lr_spell_out<false>(p);
}

// t[T,r] = scale xa A^T of a few tokens: a warp a rank and token
LR_KERNEL(quant_few_rank, LoraArgs, 128, 8) {
    const int lane = LR_TID % 32, q = LR_BX * 4 + LR_TID / 32, token = LR_BY;
    if (q >= p.r) return;
    const scalar* x = static_cast<const scalar*>(p.xa ? p.xa : p.x) + int64_t(token) * p.k;
    const float* a = static_cast<const float*>(p.a) + int64_t(q) * p.k;
    float sum = 0;
    for (int s = lane; s < p.k; s += 32) sum = lr_fma(a[s], lr_widen(x[s]), sum);
    sum = lr_warp_sum(sum);
    if (lane == 0) static_cast<float*>(p.t)[int64_t(token) * p.r + q] = static_cast<float>(p.scale) * sum;
}

// Eight activations in a row
LR_DEV void lr_eight(const scalar* x, float (&v)[8]) {
    LR_UNROLL
    for (int i = 0; i < 8; i += Each) {
        const Values some = lr_load<Values>(x + i);
        LR_UNROLL
        for (int j = 0; j < Each; ++j) v[i + j] = lr_widen(some.v[j]);
    }
}

// y of T tokens and R rows of W a warp: eight codes at a time of each row meet the eight activations of each token; a piece's sums are scaled once.
template <bool Four, int T, int R> LR_DEV void lr_few(const LoraArgs& p) {
    float* table = reinterpret_cast<float*>(LR_SMEM);
    const Codes w = lr_codes(p.w, Four, int64_t(p.n) * p.k);
    if (LR_TID < 16) table[LR_TID] = w.table[LR_TID];
    lr_sync();
    constexpr int Per = Four ? 2 : 1, Step = Piece * Per;
    const int lane = LR_TID % 32, row = (LR_BX * 8 + LR_TID / 32) * R;
    if (row >= p.n) return;
    const scalar* x = static_cast<const scalar*>(p.x);
    float total[R][T];
    LR_UNROLL
    for (int i = 0; i < R; ++i)
        LR_UNROLL
        for (int t = 0; t < T; ++t) total[i][t] = 0;
    for (int s = lane * Step; s < p.k; s += 32 * Step) {
        uint32_t words[R][4];
        float sums[R][T];
        LR_UNROLL
        for (int i = 0; i < R; ++i) {
            const int line = row + i < p.n ? row + i : p.n - 1;
            const lr_u4 piece = lr_load<lr_u4>(w.codes + (int64_t(line) * p.k + s) / Per);
            words[i][0] = piece.x, words[i][1] = piece.y, words[i][2] = piece.z, words[i][3] = piece.w;
            LR_UNROLL
            for (int t = 0; t < T; ++t) sums[i][t] = 0;
        }
        LR_UNROLL
        for (int g = 0; g < Step / 8; ++g) {
            float weights[R][8];
            LR_UNROLL
            for (int i = 0; i < R; ++i)
                LR_UNROLL
                for (int j = 0; j < 8; ++j) weights[i][j] = Four ? table[lr_nibble(words[i][g], j)] : lr_signed_byte(words[i][(2 * g + j / 4) % 4], j % 4);
            LR_UNROLL
            for (int t = 0; t < T; ++t) {
                float some[8];
                lr_eight(x + int64_t(t < p.tokens ? t : p.tokens - 1) * p.k + s + 8 * g, some);
                LR_UNROLL
                for (int i = 0; i < R; ++i)
                    LR_UNROLL
                    for (int j = 0; j < 8; ++j) sums[i][t] = lr_fma(weights[i][j], some[j], sums[i][t]);
            }
        }
        LR_UNROLL
        for (int i = 0; i < R; ++i) {
            const int line = row + i < p.n ? row + i : p.n - 1;
            const float scale = Four ? w.scales[(int64_t(line) * p.k + s) / w.block] : w.scales[line];
            LR_UNROLL
            for (int t = 0; t < T; ++t) total[i][t] = lr_fma(scale, sums[i][t], total[i][t]);
        }
    }
    const float *c = static_cast<const float*>(p.c), *bias = static_cast<const float*>(p.bias), *low = static_cast<const float*>(p.t), *b = static_cast<const float*>(p.b);
    LR_UNROLL
    for (int i = 0; i < R; ++i)
        LR_UNROLL
        for (int t = 0; t < T; ++t) {
            float v = lr_warp_sum(total[i][t]);
            if (lane != i * T + t || row + i >= p.n || t >= p.tokens) continue;
            for (int q = 0; q < p.r; ++q) v = lr_fma(low[t * p.r + q], b[int64_t(row + i) * p.r + q], v);
            const int64_t at = int64_t(t) * p.n + row + i;
            if (p.y0) lr_narrow(v, static_cast<scalar*>(p.y0)[at]);
            if (c) v *= c[row + i];
            if (bias) v += bias[row + i];
            lr_narrow(v, static_cast<scalar*>(p.y)[at]);
        }
}

LR_KERNEL(quant4_few1, LoraArgs, 256, 2) { lr_few<true, 1, 4>(p); }
LR_KERNEL(quant4_few8, LoraArgs, 256, 1) { lr_few<true, 8, 2>(p); }
LR_KERNEL(quant8_few1, LoraArgs, 256, 2) { lr_few<false, 1, 4>(p); }
LR_KERNEL(quant8_few8, LoraArgs, 256, 1) { lr_few<false, 8, 2>(p); }
