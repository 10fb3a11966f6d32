// SNELL: distances between the rows of two tables p [2,k,r] and q [2,n,r] become a weight delta, D[i,o] = scale (|p0_i - q0_o| - |p1_i - q1_o|), of which the
// entries above tau stay (lowrank.h has the rules). D is never stored: select counts its bit patterns, forward adds S to strips of W as products take
// them, backward turns a tile of x^T dy into gradients of both tables while it is hot.
// Floor (T tokens, n x k weight): a pass over D has 3 nkr FLOPs and 2 nk roots and reads the tables; forward is one pass and the product 2Tnk, backward
// two passes and two products 2Tnk, select three passes and a fourth where tau lies between two entries. Memory: one n x k matrix of floats in scratch
// that all layers share, and the packed x and dy.
// Differences are squared as they are: |a|^2 + |b|^2 - 2ab loses all digits where rows nearly agree. D is made by one function everywhere, so that an entry
// is above tau in every pass or in none.
#include "kernels.h"
#include "linear.h"
#include "math.h"
#include <math.h>

namespace LR_NS {

namespace {

constexpr int Heads = 2;
constexpr int ShareSlot = 10; // scratch of the calling thread that no product uses

// (sum |z|^2)^(1/2), and what its gradient is made of: slope(z) share(g, d) = g d|z|/dz
struct Euclidean {
    static LR_INLINE vf add(vf sum, vf z) { return fma(z, z, sum); }
    static LR_INLINE vf root(vf sum) { return vsqrt(sum); }
    static LR_INLINE vf slope(vf z) { return z; }
    static LR_INLINE vf share(vf g, vf d) { return select(d > splat(0.0f), g / d, vf{}); }
};
struct Manhattan {
    static LR_INLINE vf add(vf sum, vf z) { return sum + magnitude(z); }
    static LR_INLINE vf root(vf sum) { return sum; }
    static LR_INLINE vf slope(vf z) { return select(z > vf{}, splat(1.0f), select(z < vf{}, splat(-1.0f), vf{})); }
    static LR_INLINE vf share(vf g, vf) { return g; }
};
struct AnyNorm {
    float p;
    static LR_INLINE vf power(vf x, float e) {
        for (int i = 0; i < Lanes; ++i) x[i] = powf(x[i], e);
        return x;
    }
    LR_INLINE vf add(vf sum, vf z) const { return sum + power(magnitude(z), p); }
    LR_INLINE vf root(vf sum) const { return power(sum, 1 / p); }
    LR_INLINE vf slope(vf z) const { return select(z == vf{}, vf{}, Manhattan::slope(z) * power(magnitude(z), p - 1)); }
    LR_INLINE vf share(vf g, vf d) const { return select(d > vf{}, g / power(d, p - 1), vf{}); }
};

template <class F> void by_norm(double norm, F&& f) {
    if (norm == 2) f(Euclidean{});
    else if (norm == 1) f(Manhattan{});
    else f(AnyNorm{static_cast<float>(norm)});
}

// Both tables packed: p in panels [head][ceil(k/12)][r][12], q in strips [head][ceil(n/32)][r][32]
class Tables {
  public:
    template <class Args> Tables(Workspace& memory, const Args* a) : n(a->n), k(a->k), r(a->r), scale(static_cast<float>(a->scale)) {
        p = memory.take(Heads * panels * Rows * r);
        q = memory.take(Heads * strips * Wide * r);
        if (!memory.ok()) return;
        for (int h = 0; h < Heads; ++h) {
            for (int64_t i = 0; i < panels; ++i) pack_group<Rows>({floats(a->p) + h * k * r, LR_F32, r, 1}, k, r, i, nullptr, panel(h, i));
            for (int64_t j = 0; j < strips; ++j) pack_group<Wide>({floats(a->q) + h * n * r, LR_F32, r, 1}, n, r, j, nullptr, strip(h, j));
        }
    }
    LR_INLINE float* panel(int h, int64_t i) const { return p + (h * panels + i) * Rows * r; }
    LR_INLINE float* strip(int h, int64_t j) const { return q + (h * strips + j) * Wide * r; }

    // Distances of the 12 rows of panel i to Lanes rows of strip j from row e of it on
    template <class Norm> LR_INLINE void distances(const Norm& norm, int h, int64_t i, int64_t j, int e, vf (&d)[Rows]) const {
        vf sums[Rows] = {};
        const float *a = panel(h, i), *b = strip(h, j) + e;
        for (int64_t c = 0; c < r; ++c) {
            const vf right = load(b + c * Wide);
            unroll<Rows>([&](auto row) LR_LAMBDA { sums[row] = norm.add(sums[row], right - splat(a[c * Rows + row])); });
        }
        unroll<Rows>([&](auto row) LR_LAMBDA { d[row] = norm.root(sums[row]); });
    }

    // each(row, e, D, distances of both heads) over a tile; rows past k and columns past n hold what zeros give
    template <class Norm, class Each> LR_INLINE void tile(const Norm& norm, int64_t i, int64_t j, Each&& each) const {
        for (int e = 0; e < Wide; e += Lanes) {
            vf first[Rows], second[Rows];
            distances(norm, 0, i, j, e, first);
            distances(norm, 1, i, j, e, second);
            const int rows = static_cast<int>(least(k - i * Rows, Rows));
            for (int row = 0; row < rows; ++row) each(row, e, splat(scale) * (first[row] - second[row]), first[row], second[row]);
        }
    }

    int64_t n, k, r;
    float scale;
    int64_t panels = ceil_div(k, Rows), strips = ceil_div(n, Wide);

  private:
    float *p, *q;
};

// What an entry of D is multiplied by: a constant to the gradient. NaN in D or tau stays.
struct Factor {
    int32_t mode;
    float tau;
    template <class Args> explicit Factor(const Args* a) : mode(a->mode), tau(a->mode == LR_DISTANCES ? 0 : *floats(a->tau)) {}
    LR_INLINE vf operator()(vf d) const {
        if (mode == LR_DISTANCES) return splat(1.0f);
        const vf size = magnitude(d), level = splat(tau);
        return select(size <= level, vf{}, mode == LR_ABOVE ? size - level : size);
    }
};

// Steps [12 i0, 12 i1) of strip j of W + S^T; W null: of S^T. to [steps][32]
template <class Norm> void effective(const Norm& norm, const Tables& t, const Factor& factor, const void* w, int32_t w_dtype, int32_t w_layout, int64_t j, int64_t i0, int64_t i1, float* to) {
    const int64_t first = i0 * Rows, steps = least(i1 * Rows, t.k) - first;
    if (w) memcpy(to, WeightStrips<Floats>{w, w_dtype, w_layout, t.n, t.k, nullptr}(j, first, steps), static_cast<size_t>(steps * Wide) * sizeof(float));
    else memset(to, 0, static_cast<size_t>(steps * Wide) * sizeof(float));
    for (int64_t i = i0; i < i1; ++i)
        t.tile(norm, i, j, [&](int row, int e, vf d, vf, vf) LR_LAMBDA {
            float* at = to + ((i - i0) * Rows + row) * Wide + e;
            store(at, load(at) + d * factor(d));
        });
}

constexpr int64_t Panels = Block / Rows; // of a block of steps

// f(strip, first panel, last panel): the chunks of a walk over D
template <class F> void over_blocks(const Tables& t, F&& f) {
    const int64_t blocks = ceil_div(t.panels, Panels);
    lr::parallel_for(t.strips * blocks, [&](int64_t chunk) {
        const int64_t i0 = chunk % blocks * Panels;
        f(chunk / blocks, i0, least(i0 + Panels, t.panels));
    });
}

// W + S^T as a frozen weight in LR_PANELS, in scratch that lasts as long as `memory`; null where there is none
template <class Args> float* panels_of(Workspace& memory, const Args* a) {
    float* to = lr::scratch(ShareSlot, ceil_div(a->n, Wide) * Wide * a->k + 16);
    const Tables t(memory, a);
    if (!to || !memory.ok()) return nullptr;
    const Factor factor(a);
    by_norm(a->norm, [&](auto norm) {
        over_blocks(t, [&](int64_t j, int64_t i0, int64_t i1) { effective(norm, t, factor, a->w, a->w_dtype, a->w_layout, j, i0, i1, to + (j * t.k + i0 * Rows) * Wide); });
    });
    return to;
}

// ---- select ----------------------------------------------------------------------------------------------------------

constexpr int Bins = 2048;

// f(part, magnitudes of D as bits [lanes], how many): every entry of D once, in 16 parts at most
template <class Norm, class F> void over_bits(const Norm& norm, const Tables& t, int64_t parts, F&& f) {
    lr::parallel_for(parts, [&](int64_t part) {
        for (int64_t j = part; j < t.strips; j += parts)
            for (int64_t i = 0; i < t.panels; ++i)
                t.tile(norm, i, j, [&](int, int e, vf d, vf, vf) LR_LAMBDA {
                    int32_t bits[Lanes];
                    const vi size = as_int(magnitude(d));
                    memcpy(bits, &size, sizeof bits);
                    f(part, bits, least(t.n - j * Wide - e, Lanes));
                });
    });
}

} // namespace

// Three passes of 11, 10 and 10 bits find the entry of that rank; a fourth the least one above it
int32_t snell_select(const SnellSelectArgs* a) {
    if (a->dtype != LR_F32) return LR_UNSUPPORTED;
    Workspace memory;
    const Tables t(memory, a);
    const int64_t parts = least(t.strips, 16);
    int32_t* counts = reinterpret_cast<int32_t*>(memory.take(parts * Bins));
    if (!memory.ok()) return LR_OUT_OF_MEMORY;
    float* tau = static_cast<float*>(a->tau);
    by_norm(a->norm, [&](auto norm) {
        int32_t prefix = 0;
        int64_t rank = a->rank, equal = 0;
        for (int shift = 20, width = 11; shift >= 0; shift -= 10, width = 10) {
            memset(counts, 0, static_cast<size_t>(parts * Bins) * sizeof(int32_t));
            over_bits(norm, t, parts, [&](int64_t part, const int32_t* bits, int64_t have) LR_LAMBDA {
                for (int64_t e = 0; e < have; ++e)
                    if (bits[e] >> (shift + width - 1) >> 1 == prefix) ++counts[part * Bins + (bits[e] >> shift & ((1 << width) - 1))];
            });
            int32_t bin = 0;
            const auto total = [&](int b) {
                int64_t sum = 0;
                for (int64_t part = 0; part < parts; ++part) sum += counts[part * Bins + b];
                return sum;
            };
            if (shift == 20) { // exponents of infinity and NaN
                int64_t bad = 0;
                for (int b = 0x7F8; b < 0x800; ++b) bad += total(b);
                if (bad > 0) {
                    *tau = __builtin_nanf("");
                    return;
                }
            }
            for (equal = total(0); rank >= equal; equal = total(++bin)) rank -= equal;
            prefix = prefix << width | bin;
        }
        float low, high;
        memcpy(&low, &prefix, sizeof low);
        high = low;
        if (a->fraction > 0 && rank + 1 == equal) {
            for (int64_t part = 0; part < parts; ++part) counts[part] = INT32_MAX;
            over_bits(norm, t, parts, [&](int64_t part, const int32_t* bits, int64_t have) LR_LAMBDA {
                for (int64_t e = 0; e < have; ++e)
                    if (bits[e] > prefix && bits[e] < counts[part]) counts[part] = bits[e];
            });
            int32_t above = INT32_MAX;
            for (int64_t part = 0; part < parts; ++part) above = counts[part] < above ? counts[part] : above;
            memcpy(&high, &above, sizeof high);
        }
        *tau = low + static_cast<float>(a->fraction) * (high - low);
    });
    return LR_OK;
}

int32_t snell_forward(const SnellArgs* a) {
    if (!is_activation(a->dtype) || (a->w && !is_weight(a->w_dtype, a->w_layout)) || (!a->x && a->dtype != LR_F32)) return LR_UNSUPPORTED;
    Workspace memory;
    if (a->x) {
        const float* w = panels_of(memory, a);
        if (!w) return LR_OUT_OF_MEMORY;
        const LoraArgs same = {a->x, nullptr, w, nullptr, nullptr, a->bias, nullptr, a->y, nullptr, nullptr, a->tokens, a->n, a->k, 0, 0, a->dtype, LR_F32, LR_PANELS};
        return lora_forward(&same);
    }
    const Tables t(memory, a);
    if (!memory.ok()) return LR_OUT_OF_MEMORY;
    const Factor factor(a);
    by_norm(a->norm, [&](auto norm) {
        over_blocks(t, [&](int64_t j, int64_t i0, int64_t i1) {
            float* block = lr::scratch(9, Panels * Rows * Wide);
            effective(norm, t, factor, a->w, a->w_dtype, a->w_layout, j, i0, i1, block);
            const int64_t steps = least(i1 * Rows, t.k) - i0 * Rows;
            float* y = static_cast<float*>(a->y) + j * Wide * t.k + i0 * Rows;
            for (int64_t s = 0; s < steps; s += Wide) put_transposed(block + s * Wide, Wide, least(steps - s, Wide), least(t.n - j * Wide, Wide), y + s, t.k, false);
        });
    });
    return LR_OK;
}

namespace {

// Gradients of both tables from a tile of the delta's [12][32]: dp [head][r][12] and dq [head][r][32] are added to
template <class Norm>
void tile_gradients(const Norm& norm, const Tables& t, const Factor& factor, int64_t i, int64_t j, const float* tile, float* const (&dp)[Heads], float* const (&dq)[Heads]) {
    vf shares[Heads][Rows][Wide / Lanes] = {};
    t.tile(norm, i, j, [&](int row, int e, vf d, vf first, vf second) LR_LAMBDA {
        const vf g = load(tile + row * Wide + e) * factor(d) * splat(t.scale);
        shares[0][row][e / Lanes] = norm.share(g, first);
        shares[1][row][e / Lanes] = -norm.share(g, second);
    });
    for (int h = 0; h < Heads; ++h) {
        const float *p = t.panel(h, i), *q = t.strip(h, j);
        for (int64_t c = 0; c < t.r; ++c) {
            vf right[Wide / Lanes], sums[Wide / Lanes];
            unroll<Wide / Lanes>([&](auto v) LR_LAMBDA { right[v] = load(q + c * Wide + v * Lanes), sums[v] = load(dq[h] + c * Wide + v * Lanes); });
            for (int row = 0; row < Rows; ++row) {
                const vf left = splat(p[c * Rows + row]);
                vf part{};
                unroll<Wide / Lanes>([&](auto v) LR_LAMBDA {
                    const vf move = shares[h][row][v] * norm.slope(right[v] - left);
                    sums[v] = sums[v] + move;
                    part = part + move;
                });
                dp[h][c * Rows + row] -= sum(part);
            }
            unroll<Wide / Lanes>([&](auto v) LR_LAMBDA { store(dq[h] + c * Wide + v * Lanes, sums[v]); });
        }
    }
}

int32_t tables_backward(const SnellGradArgs* a) {
    const int64_t tokens = a->x ? a->tokens : 0;
    Workspace memory;
    const Tables t(memory, a);
    const Grid g = grid(t.panels, t.strips, KeptPanels, tokens); // as multiply walks: a chunk owns its parts
    const int64_t downs = ceil_div(g.kept, g.kept_high), across = ceil_div(g.passing, g.passing_high);
    const int64_t p_size = Heads * t.panels * t.r * Rows, q_size = Heads * t.strips * t.r * Wide;
    float *left = memory.take(t.panels * Rows * tokens), *right = memory.take(t.strips * Wide * tokens);
    float *p_parts = memory.take(across * p_size), *q_parts = memory.take(downs * q_size);
    if (!memory.ok()) return LR_OUT_OF_MEMORY;
    memset(p_parts, 0, static_cast<size_t>(across * p_size) * sizeof(float));
    memset(q_parts, 0, static_cast<size_t>(downs * q_size) * sizeof(float));
    const Factor factor(a);
    if (tokens) {
        lr::parallel_range(t.panels, Rows * tokens, [&](int64_t i0, int64_t i1) { for (int64_t i = i0; i < i1; ++i) pack_group<Rows>({a->x, a->dtype, 1, t.k}, t.k, tokens, i, nullptr, left + i * Rows * tokens); });
        lr::parallel_range(t.strips, Wide * tokens, [&](int64_t j0, int64_t j1) { for (int64_t j = j0; j < j1; ++j) pack_group<Wide>({a->dy, a->dtype, 1, t.n}, t.n, tokens, j, nullptr, right + j * Wide * tokens); });
    }
    by_norm(a->norm, [&](auto norm) {
        multiply<Floats>(t.k, t.n, tokens, {}, Passing::Strips, packed_left(left, tokens), packed_right(right, tokens), [&](const Place& at, float* sums) {
            const int64_t i = at.row / Rows, j = at.col / Wide;
            if (!a->x) pack_group<Wide>({floats(a->dy) + at.row, LR_F32, t.k, 1}, t.n, at.rows, j, nullptr, sums);
            float *dp[Heads], *dq[Heads];
            for (int h = 0; h < Heads; ++h) {
                dp[h] = p_parts + j / g.passing_high * p_size + (h * t.panels + i) * t.r * Rows;
                dq[h] = q_parts + i / g.kept_high * q_size + (h * t.strips + j) * t.r * Wide;
            }
            tile_gradients(norm, t, factor, i, j, sums, dp, dq);
        });
    });
    // A table's gradient [head][lines][r] from parts in groups of `width` lines, in order
    const auto gather = [&](void* to, const float* parts, int64_t count, int64_t size, int64_t lines, int64_t width, bool add) {
        lr::parallel_range(Heads * lines, t.r * count, [&](int64_t l0, int64_t l1) {
            for (int64_t l = l0; to && l < l1; ++l) {
                const int64_t h = l / lines, line = l % lines, at = (h * ceil_div(lines, width) + line / width) * t.r * width + line % width;
                for (int64_t c = 0; c < t.r; ++c) {
                    float sum = 0;
                    for (int64_t part = 0; part < count; ++part) sum += parts[part * size + at + c * width];
                    put(static_cast<float*>(to) + l * t.r + c, sum, add);
                }
            }
        });
    };
    gather(a->dp, p_parts, across, p_size, t.k, Rows, a->add >> 1 & 1);
    gather(a->dq, q_parts, downs, q_size, t.n, Wide, a->add >> 2 & 1);
    return LR_OK;
}

} // namespace

int32_t snell_backward(const SnellGradArgs* a) {
    if (!is_activation(a->dtype) || (a->w && !is_weight(a->w_dtype, a->w_layout)) || (!a->x && a->dtype != LR_F32)) return LR_UNSUPPORTED;
    if (a->dx || a->dbias) {
        Workspace memory;
        LoraGradArgs same = {};
        same.w = a->dx ? panels_of(memory, a) : nullptr;
        if (a->dx && !same.w) return LR_OUT_OF_MEMORY;
        same.dy = a->dy, same.dx = a->dx, same.dbias = a->dbias, same.tokens = a->tokens, same.n = a->n, same.k = a->k, same.dtype = a->dtype;
        same.w_dtype = LR_F32, same.w_layout = LR_PANELS, same.add = (a->add & 1) | (a->add >> 3 & 1) << 4;
        if (const int32_t status = lora_backward(&same); status != LR_OK) return status;
    }
    return a->dp || a->dq ? tables_backward(a) : LR_OK;
}

} // namespace LR_NS
