// The loop over tiles of a product: chunks of row panels x column strips, each tile summed block by block and handed to an epilogue.
#pragma once
#include "gemm.h"

namespace LR_NS {

// A tile's place in C: rows [row, row+rows), columns [col, col+cols)
struct Place {
    int64_t row, col;
    int rows, cols;
};

// More steps at the end of every tile (the rank): panels [steps][12] and strips [steps][32], so many units apart; steps 0: none
struct Tail {
    const float* panels = nullptr;
    const float* strips = nullptr;
    int64_t steps = 0, panel_pitch = 0, strip_pitch = 0;
};

// The walk over C. One operand's groups stay in L2 while those of the other pass by: "kept" ones are walked innermost.
struct Grid {
    int64_t kept, passing, kept_high, passing_high; // groups in all, groups a chunk
    int64_t chunks() const { return ceil_div(kept, kept_high) * ceil_div(passing, passing_high); }
};

// About 16 chunks or more, of at most `limit` kept groups and some 0.4 ms; a tile's sums are the same in any grid
inline Grid grid(int64_t kept, int64_t passing, int64_t limit, int64_t k) {
    const auto evenly = [](int64_t total, int64_t most) { return ceil_div(total, ceil_div(total, most < 1 ? 1 : most)); };
    const int64_t share = ceil_div(kept * passing, 16);
    const int64_t high = evenly(kept, least(limit, share));
    const int64_t wide = evenly(passing, least(share / high, 65536 / (high * least(k + 1, Block))));
    return {kept, passing, high, wide};
}

constexpr int64_t KeptPanels = 14, KeptStrips = 5; // a block of either is some 650 KiB
constexpr int64_t TileSize = Rows * Wide;

// left(i, s, steps) gives steps [s, s+steps) of panel i, right(j, s, steps) those of strip j, k and s in units; finish(place, sums[12][32]) writes a
// tile. Passing: which operand passes by, asked for once a block, so that it may be made on the spot.
enum class Passing { Strips, Panels };
// Few: rows of a tile that are worked on, where C has but one panel with no more rows. together: so many strips that follow each other and pass by are
// finished by one thread, panel after panel of each, at most KeptPanels of them.
template <class Dot, int Few = Rows, class LeftOf, class RightOf, class Finish>
void multiply(int64_t m, int64_t n, int64_t k, const Tail& tail, Passing passing, LeftOf&& left, RightOf&& right, Finish&& finish, int64_t together = 1) {
    const int64_t panels = ceil_div(m, Rows), strips = ceil_div(n, Wide);
    if (panels == 0 || strips == 0) return;
    const bool by_strips = passing == Passing::Strips;
    const Grid g = by_strips ? grid(panels, strips / together, KeptPanels, k) : grid(strips, panels, KeptStrips, k);
    const int64_t across = ceil_div(g.passing, g.passing_high);
    lr::parallel_for(g.chunks(), [&](int64_t chunk) {
        const int64_t a0 = chunk / across * g.kept_high, a1 = least(a0 + g.kept_high, g.kept);
        const int64_t b0 = chunk % across * g.passing_high * together, b1 = least(b0 + g.passing_high * together, g.passing * together);
        alignas(64) float one[TileSize];
        const int64_t held = k > Block ? TileSize : 0; // tiles of several blocks wait in scratch, others are finished at once
        float* sums = held ? lr::scratch(9, (a1 - a0) * (b1 - b0) * TileSize) : one;
        for (int64_t s = 0; s < k || s == 0; s += Block) {
            const int64_t steps = least(k - s, Block);
            const auto tile_of = [&](int64_t i, int64_t j, int64_t order, const auto& panel, const float* strip) LR_LAMBDA {
                float* c = sums + order * held;
                tile<Dot, Few, Wide>(steps, panel, strip, Wide, c, s > 0);
                if (s + steps < k) return;
                if (tail.steps) tile<Dot, Few, Wide>(tail.steps, Panel<Rows>{tail.panels + i * tail.panel_pitch}, tail.strips + j * tail.strip_pitch, Wide, c, true);
                finish(Place{i * Rows, j * Wide, static_cast<int>(least(m - i * Rows, Rows)), static_cast<int>(least(n - j * Wide, Wide))}, c);
            };
            for (int64_t b = b0; b < b1; ++b) {
                const int64_t order = (b - b0) * (a1 - a0) - a0;
                if (by_strips) {
                    const float* strip = right(b, s, steps);
                    for (int64_t i = a0; i < a1; ++i) tile_of(i, b, order + i, left(i, s, steps), strip);
                } else {
                    const auto panel = left(b, s, steps);
                    for (int64_t j = a0; j < a1; ++j) tile_of(b, j, order + j, panel, right(j, s, steps));
                }
            }
        }
    });
}

// Packed panels [ceil(m/12)][k][12] and strips [ceil(n/32)][k][32] as operands of multiply
LR_INLINE auto packed_left(const float* panels, int64_t k) { return [=](int64_t i, int64_t s, int64_t) { return Panel<Rows>{panels + (i * k + s) * Rows}; }; }
LR_INLINE auto packed_right(const float* strips, int64_t k) { return [=](int64_t j, int64_t s, int64_t) { return strips + (j * k + s) * Wide; }; }

// row(i, e, v, count): the vector of columns e .. e+count-1 of row i of a tile
template <class Row> LR_INLINE void by_rows(const Place& at, const float* sums, Row&& row) {
    for (int i = 0; i < at.rows; ++i) {
        int e = 0;
        for (; e + Lanes <= at.cols; e += Lanes) row(at.row + i, at.col + e, load(sums + i * Wide + e), std::integral_constant<int64_t, Lanes>{});
        if (e < at.cols) row(at.row + i, at.col + e, load(sums + i * Wide + e), static_cast<int64_t>(at.cols - e));
    }
}

// to[j * pitch + i] (+)= sums[i * ld + j], i < rows, j < cols; sums has whole vectors of columns
template <class T> LR_INLINE void put_transposed(const float* sums, int64_t ld, int64_t rows, int64_t cols, T* to, int64_t pitch, bool add) {
    for (int64_t i0 = 0; i0 < rows; i0 += Lanes)
        for (int64_t j0 = 0; j0 < cols; j0 += Lanes) {
            vf v[Lanes];
            unroll<Lanes>([&](auto i) LR_LAMBDA { v[i] = i0 + i < rows ? load(sums + (i0 + i) * ld + j0) : vf{}; });
            transpose(v);
            const int64_t count = least(Lanes, rows - i0);
            unroll<Lanes>([&](auto j) LR_LAMBDA {
                if (j0 + j < cols) put_some(to + (j0 + j) * pitch + i0, v[j], count, add);
            });
        }
}

LR_INLINE const float* floats(const void* p) { return static_cast<const float*>(p); }

template <class Dot> void finish_pack(float* group, int64_t steps, int64_t width) {
    if constexpr (Dot::Paired) to_pairs(group, steps, width);
    else (void)group, (void)steps, (void)width;
}

// Strips of a frozen W [n,k] as right operand of the forward product, k in units: in place where the layout is Dot's own, else made on the spot, or
// once for strips [first, ..) together (`whole`, k units apart) where many panels will ask for them.
template <class Dot> struct WeightStrips {
    const void* w;
    int32_t dtype, layout;
    int64_t n, k;
    const float* whole;
    int64_t first = 0;
    const float* operator()(int64_t j, int64_t s, int64_t steps) const {
        if (whole) return whole + ((j - first) * k + s) * Wide;
        if (is_coded(layout)) {
            const int64_t per = Dot::Paired ? 2 : 1, count = least(steps * per, k - s * per);
            float* to = lr::scratch(8, Block * per * Wide);
            pack_codes(w, layout, n, k, j, s * per, count, to);
            finish_pack<Dot>(to, count, Wide);
            return to;
        }
        if (layout == LR_PANELS && (Dot::Paired || dtype == LR_F32)) return floats(w) + (j * Dot::units(k) + s) * Wide;
        float* to = lr::scratch(8, Block * Wide);
        if (layout == LR_PANELS) widen_strip(static_cast<const bf16*>(w) + j * ceil_div(k, 2) * Wide * 2, s, steps, to);
        else pack_group<Wide>({static_cast<const char*>(w) + s * (dtype == LR_F32 ? 4 : 2), dtype, k, 1}, n, steps, j, nullptr, to);
        return to;
    }
};

// Memory of one kernel call: buffers of the calling thread in slots 0 .. 7
class Workspace {
  public:
    Workspace() = default;
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    ~Workspace() { lr::trim_scratch(); }
    float* take(int64_t units) {
        float* p = lr::scratch(slot++, units + 16);
        if (!p) full = false;
        return p;
    }
    bool ok() const { return full; }

  private:
    int slot = 0;
    bool full = true;
};

// Group of an activation in units of Dot
template <class Dot, int Width> void pack_activation(const View& v, int64_t lines, int64_t steps, int64_t group, const float* factor, float* to) {
    if constexpr (Dot::Paired) pack_pairs<Width>(v, lines, steps, group, factor, to);
    else pack_group<Width>(v, lines, steps, group, factor, to);
}

// The groups of a float matrix in units of Dot, Width * steps units apart: room for the floats they are made from
template <class Dot, int Width> void pack_low(const View& v, int64_t lines, int64_t steps, float* to) {
    lr::parallel_range(ceil_div(lines, Width), Width * steps, [&](int64_t g0, int64_t g1) {
        for (int64_t g = g0; g < g1; ++g) {
            pack_group<Width>(v, lines, steps, g, nullptr, to + g * Width * steps);
            finish_pack<Dot>(to + g * Width * steps, steps, Width);
        }
    });
}

// t of one panel of tokens: rows [T,r] of floats where wanted, and the panel of the tail, of floats still
template <class Dot> void low_rank(const float* panel, int64_t k, const float* strips, int64_t pitch, int64_t r, float scale, int64_t first, int64_t tokens, float* rows, float* tail) {
    alignas(64) float sums[Rows * Narrow];
    for (int64_t q = 0; q < r; q += Narrow) {
        long_tile<Dot, Rows, Narrow>(k, panel, strips + q / Narrow * pitch, sums);
        const int64_t count = least(r - q, Narrow);
        for (int i = 0; i < Rows * Narrow; i += Lanes) store(sums + i, splat(scale) * load(sums + i));
        for (int64_t i = 0; rows && i < least(tokens - first, Rows); ++i) memcpy(rows + (first + i) * r + q, sums + i * Narrow, static_cast<size_t>(count) * sizeof(float));
        put_transposed(sums, Narrow, Rows, count, tail + q * Rows, Rows, false);
    }
}

// True where a product of these operands is one of pairs
LR_INLINE bool paired([[maybe_unused]] int32_t dtype, [[maybe_unused]] int32_t w_dtype, [[maybe_unused]] int32_t w_layout) {
#if defined(__AVX512BF16__)
    return dtype == LR_BF16 && ((w_dtype == LR_BF16 && w_layout == LR_PANELS) || is_coded(w_layout));
#else
    return false;
#endif
}

struct Frozen {
    const void* w; // [n,k]
    int32_t dtype, layout;
    int64_t n, k;
};

// Lines of a quantised W, a multiple of `group` of them, that are floats at a time: some 16 MiB of scratch that every layer shares, which stay in L3
inline int64_t lines_at_once(int64_t lines, int64_t group, int64_t floats_each) { return least(lines, ((int64_t(4) << 20) / floats_each / group + 1) * group); }

// x[T,k] W^T, the base of every forward layer: make it, pack, run. The sums of a row are the same for any T and any rows beside it.
// With another weight `beside`, of the same shape, type and layout and not quantised, both products are made in one walk over x: of each strip of columns
// the tiles of w come before those of the other, up to KeptPanels of them, and strips of the tail lie in this order too.
template <class Dot> class ForwardProduct {
  public:
    ForwardProduct(Workspace& memory, const void* x, int32_t dtype, int64_t tokens, const Frozen& w, const void* beside = nullptr) : x(x), dtype(dtype), t(tokens), w(w), beside(beside) {
        left = memory.take(panels * Rows * k);
        whole = memory.take(repack ? weights * at_once * Wide * w.k : 0);
    }

    // each(i, panel) sees every packed panel of x while it is hot
    template <class Each> void pack(Each&& each) const {
        lr::parallel_range(panels, Rows * k, [&](int64_t i0, int64_t i1) {
            for (int64_t i = i0; i < i1; ++i) {
                float* panel = left + i * Rows * k;
                pack_activation<Dot, Rows>({x, dtype, w.k, 1}, t, w.k, i, nullptr, panel);
                each(i, static_cast<const float*>(panel));
            }
        });
    }

    // finish(place, sums) as in multiply
    template <class Finish> void run(const Tail& tail, Finish&& finish) const {
        for (int64_t first = 0; first < strips; first += at_once) {
            const int64_t count = least(at_once, strips - first);
            if (repack) repack_strips(w.w, first, count, whole);
            const WeightStrips<Dot> weight{w.w, w.dtype, w.layout, w.n, w.k, repack ? whole : nullptr, first};
            const Tail some{tail.panels, tail.strips + first * tail.strip_pitch, tail.steps, tail.panel_pitch, tail.strip_pitch};
            walk(least(w.n - first * Wide, count * Wide), some, 1, [&](int64_t j, int64_t s, int64_t steps) { return weight(first + j, s, steps); },
                 [&](const Place& at, float* sums) { finish(Place{at.row, first * Wide + at.col, at.rows, at.cols}, sums); });
        }
    }

    // finish(place, of the other weight, sums): the place is that in either product
    template <class Finish> void run_both(const Tail& tail, Finish&& finish) const {
        float* second = whole + strips * Wide * w.k;
        if (repack) repack_strips(w.w, 0, strips, whole), repack_strips(beside, 0, strips, second);
        const WeightStrips<Dot> one{w.w, w.dtype, w.layout, w.n, w.k, repack ? whole : nullptr}, other{beside, w.dtype, w.layout, w.n, w.k, repack ? second : nullptr};
        walk(2 * strips * Wide, tail, 2, [&](int64_t j, int64_t s, int64_t steps) { return (j % 2 ? other : one)(j / 2, s, steps); },
             [&](const Place& at, float* sums) {
                 const int64_t j = at.col / Wide, col = j / 2 * Wide;
                 finish(Place{at.row, col, at.rows, static_cast<int>(least(w.n - col, Wide))}, j % 2 != 0, sums);
             });
    }

  private:
    template <class RightOf, class Finish> void walk(int64_t columns, const Tail& tail, int64_t together, RightOf&& right, Finish&& finish) const {
        const auto rows_of = [&](auto few) { multiply<Dot, few>(t, columns, k, tail, Passing::Strips, packed_left(left, k), right, finish, together); };
        if (t > 6) rows_of(std::integral_constant<int, Rows>{});
        else if (t > 3) rows_of(std::integral_constant<int, 6>{});
        else if (t > 1) rows_of(std::integral_constant<int, 3>{}); // a token or a few: as fast as W comes from memory
        else rows_of(std::integral_constant<int, 1>{});
    }

    void repack_strips(const void* from, int64_t first, int64_t count, float* strips_of) const {
        lr::parallel_range(count, Wide * w.k, [&](int64_t j0, int64_t j1) {
            for (int64_t j = j0; j < j1; ++j) {
                float* to = strips_of + j * Wide * w.k;
                if (!coded) pack_group<Wide>({from, w.dtype, w.k, 1}, w.n, w.k, j, nullptr, to);
                else pack_codes(from, w.layout, w.n, w.k, first + j, 0, w.k, to), finish_pack<Dot>(to, w.k, Wide);
            }
        });
    }

    const void* x;
    int32_t dtype;
    int64_t t;
    Frozen w;
    const void* beside;
    int64_t panels = ceil_div(t, Rows), strips = ceil_div(w.n, Wide), k = Dot::units(w.k);
    bool coded = is_coded(w.layout), repack = (coded || w.layout == LR_ROWS) && panels > KeptPanels;
    int64_t at_once = coded && repack ? lines_at_once(strips, 1, Wide * w.k) : strips, weights = beside ? 2 : 1;
    float *left, *whole;
};

} // namespace LR_NS
