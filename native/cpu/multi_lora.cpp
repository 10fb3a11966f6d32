// A batch whose tokens have adapters of their own: y = x W^T + bias, plus scale (x a_i^T) b_i where a token has adapter i.
// Floor (T tokens, n x k weight, ranks r): 2T(nk + r(n + k)) FLOPs; x, W and y once, and r(n + k) entries of every adapter that occurs: 64 adapters of
// r = 16 at 4096 x 4096 are 33.6 MB in F32 beside W's 67 MB.
// t = scale x a^T is made first, by dot products along rows as they lie. The base product is that of linear_forward; a tile takes its low-rank part
// while its sums are hot, before bias and the one rounding of y, and tiles of tokens without adapter are not touched.
// A row's sums depend on its own x, its adapter and the shape of W alone: t on k, the low-rank part on the rank, whatever the blocking.
#include "kernels.h"
#include "linear.h"

namespace LR_NS {

namespace {

constexpr int64_t MostRank = 128, Group = 16; // ranks: of an adapter; of a job of t
constexpr int Few = Lanes == 16 ? 4 : 2;      // tokens at a time that leave the accumulators in registers

// t[i][q] = scale x_i . a_q for I tokens and J ranks, summed lane by lane
template <int I, int J, class T, class U> LR_INLINE void dots(const T* x, const U* a, int64_t k, float scale, float* t, int64_t pitch) {
    vf sums[I][J] = {};
    const auto add = [&](auto&& get) LR_LAMBDA {
        vf left[I];
        unroll<I>([&](auto i) LR_LAMBDA { left[i] = get(x + i * k); });
        unroll<J>([&](auto j) LR_LAMBDA {
            const vf right = get(a + j * k);
            unroll<I>([&](auto i) LR_LAMBDA { sums[i][j] = fma(left[i], right, sums[i][j]); });
        });
    };
    int64_t s = 0;
    for (; s + Lanes <= k; s += Lanes) add([s](const auto* row) LR_LAMBDA { return load(row + s); });
    if (s < k) add([s, k](const auto* row) LR_LAMBDA { return load_some(row + s, k - s); });
    unroll<I>([&](auto i) LR_LAMBDA { unroll<J>([&](auto j) LR_LAMBDA { t[i * pitch + j] = scale * sum(sums[i][j]); }); });
}

// The tokens of a piece by J ranks
template <int J, class T, class U> void low_ranks(const T* x, int64_t tokens, const U* a, int64_t k, float scale, float* t, int64_t pitch) {
    int64_t i = 0;
    for (; i + Few <= tokens; i += Few) dots<Few, J>(x + i * k, a, k, scale, t + i * pitch, pitch);
    for (; i < tokens; ++i) dots<1, J>(x + i * k, a, k, scale, t + i * pitch, pitch);
}

// t[T][most_rank] at the tokens of the pieces
template <class T, class U> void shrink(const MultiLoraArgs* p, float* t) {
    const int64_t k = p->k, pitch = p->most_rank, groups = ceil_div(pitch, Group);
    lr::parallel_range(p->piece_count * groups, 4 * k, [&](int64_t first, int64_t last) {
        for (int64_t job = first; job < last; ++job) {
            const LoraPiece& piece = p->pieces[job / groups];
            const LoraRange& range = p->ranges[piece.adapter];
            const T* x = static_cast<const T*>(p->x) + piece.first * k;
            const U* a = static_cast<const U*>(p->a) + range.first * k;
            const float scale = static_cast<float>(range.scale);
            int64_t q = job % groups * Group;
            const int64_t end = least(q + Group, range.rank);
            for (; q + 4 <= end; q += 4) low_ranks<4>(x, piece.tokens, a + q * k, k, scale, t + piece.first * pitch + q, pitch);
            for (; q < end; ++q) low_ranks<1>(x, piece.tokens, a + q * k, k, scale, t + piece.first * pitch + q, pitch);
        }
    });
}

// sums[I][32] += t[I][rank] b[rank][32], b's rows `step` apart
template <int I> LR_INLINE void expand(int64_t rank, const float* t, int64_t pitch, const float* b, int64_t step, float* sums) {
    for (int j = 0; j < Wide; j += 2 * Lanes) {
        vf low[I][2] = {};
        for (int64_t q = 0; q < rank; ++q) {
            const vf right[2] = {load(b + q * step + j), load(b + q * step + j + Lanes)};
            unroll<I>([&](auto i) LR_LAMBDA {
                const vf left = splat(t[i * pitch + q]);
                low[i][0] = fma(left, right[0], low[i][0]);
                low[i][1] = fma(left, right[1], low[i][1]);
            });
        }
        unroll<I>([&](auto i) LR_LAMBDA { unroll<2>([&](auto h) LR_LAMBDA { put(sums + i * Wide + j + h * Lanes, low[i][h], true); }); });
    }
}

// The first piece that reaches past a token
int64_t piece_at(const MultiLoraArgs* p, int64_t token) {
    int64_t low = 0, high = p->piece_count;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (p->pieces[middle].first + p->pieces[middle].tokens > token) high = middle;
        else low = middle + 1;
    }
    return low;
}

// The low-rank part of a tile
template <class U> void add_low(const MultiLoraArgs* p, const float* t, const Place& at, float* sums) {
    const int64_t n = p->n, pitch = p->most_rank, end = at.row + at.rows;
    alignas(64) float wide[MostRank * Wide];
    for (int64_t i = piece_at(p, at.row); i < p->piece_count && p->pieces[i].first < end; ++i) {
        const LoraPiece& piece = p->pieces[i];
        const LoraRange& range = p->ranges[piece.adapter];
        const U* b = static_cast<const U*>(p->b) + range.first * n + at.col;
        const float* strip = wide;
        int64_t step = Wide, row = piece.first > at.row ? piece.first : at.row;
        const int64_t last = least(piece.first + piece.tokens, end);
        if (std::is_same_v<U, float> && at.cols == Wide) {
            strip = reinterpret_cast<const float*>(b);
            step = n;
        } else {
            for (int64_t q = 0; q < range.rank; ++q)
                for (int64_t e = 0; e < Wide; e += Lanes) {
                    const int64_t count = at.cols - e;
                    store(wide + q * Wide + e, count >= Lanes ? load(b + q * n + e) : load_some(b + q * n + e, count > 0 ? count : 0));
                }
        }
        for (; row + 4 <= last; row += 4) expand<4>(range.rank, t + row * pitch, pitch, strip, step, sums + (row - at.row) * Wide);
        for (; row < last; ++row) expand<1>(range.rank, t + row * pitch, pitch, strip, step, sums + (row - at.row) * Wide);
    }
}

template <class Dot, class T, class U> int32_t forward(const MultiLoraArgs* p) {
    Workspace memory;
    float* t = memory.take(int64_t(p->tokens) * p->most_rank);
    const ForwardProduct<Dot> product(memory, p->x, p->dtype, p->tokens, {p->w, p->w_dtype, p->w_layout, p->n, p->k});
    if (!memory.ok()) return LR_OUT_OF_MEMORY;
    shrink<T, U>(p, t);
    product.pack([](auto&&...) {});
    T* y = static_cast<T*>(p->y);
    const float* bias = floats(p->bias);
    product.run({}, [&](const Place& at, float* sums) {
        add_low<U>(p, t, at, sums);
        by_rows(at, sums, [&](int64_t row, int64_t col, vf v, auto count) LR_LAMBDA {
            if (bias) v = v + load_some(bias + col, count);
            store_some(y + row * p->n + col, v, count);
        });
    });
    return LR_OK;
}

template <class Dot> int32_t by_types(const MultiLoraArgs* p) {
    if (p->dtype == LR_F32) return forward<Dot, float, float>(p);
    return p->ab_dtype == LR_F32 ? forward<Dot, bf16, float>(p) : forward<Dot, bf16, bf16>(p);
}

} // namespace

int32_t multi_lora_forward(const MultiLoraArgs* p) {
    if (!is_activation(p->dtype) || !is_weight(p->w_dtype, p->w_layout) || (p->ab_dtype != LR_F32 && p->ab_dtype != p->dtype)) return LR_UNSUPPORTED;
#if defined(__AVX512BF16__)
    if (paired(p->dtype, p->w_dtype, p->w_layout)) return by_types<Pairs>(p);
#endif
    return by_types<Floats>(p);
}

} // namespace LR_NS
