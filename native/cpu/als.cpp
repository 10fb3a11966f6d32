// Alternating least squares on a sparse matrix by rows (arXiv 2302.11068): each row's system of rank r is made, solved and forgotten in the cache.
// Floor: nnz r (r + 1) multiply-adds for the normal matrices and rows r^3/3 for their factors; the gathered rows come from L2 or L3.
// The normal matrix is made in registers: a tile of `Tall` rows and two vectors of its upper triangle over `Chunk` gathered rows, which stay in L1.
// The Cholesky factor U^T U is made a panel of `Tall` rows at a time by the same tile, over the rows of U that are there already.
// Conjugate gradients keep the gathered rows of a system for all their passes, up to `Kept` of them; sums of dots are made sixteen rows at a time.
#include "kernels.h"
#include "pool.h"
#include "vectors.h"

namespace LR_NS {

namespace {

constexpr int Tall = Lanes == 16 ? 8 : 4; // rows of a tile: 16 or 8 accumulators
constexpr int64_t Chunk = 32;             // gathered rows at a time: a multiple of the lanes
constexpr int64_t Kept = 2048;            // gathered rows that conjugate gradients keep
constexpr int64_t Together = 16;          // systems of a chunk of the pool
constexpr int Attempts = 3;

LR_INLINE int64_t padded(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// One row's least squares: min |A z - b|^2 + ridge |z|^2, A the rows of y that its columns name
struct System {
    const float *y, *b;
    const int32_t* columns;
    int64_t count, r, wide; // wide: r up to whole vectors
};

// Rows t0 .. t0 + n of A, padded with zeros to `wide` columns and whole vectors of rows
LR_INLINE void gather(const System& s, int64_t t0, int64_t n, float* to) {
    constexpr int64_t Ahead = 8;
    for (int64_t t = 0; t < n; ++t) {
        if (t0 + t + Ahead < s.count)
            for (int64_t c = 0; c < s.r; c += 16) prefetch(s.y + int64_t(s.columns[t0 + t + Ahead]) * s.r + c);
        const float* from = s.y + int64_t(s.columns[t0 + t]) * s.r;
        sweep(0, s.r, [&](auto at) LR_LAMBDA { store(to + t * s.wide + at.i, at.get(from)); });
    }
    memset(to + n * s.wide, 0, size_t((padded(n, Lanes) - n) * s.wide) * sizeof(float));
}

// g[i + k, c ..] += sign sum_t a[t, i + k] a[t, c ..] for k < Tall and V vectors
template <int V> LR_INLINE void tile(const float* a, int64_t wide, int64_t n, int64_t i, int64_t c, float sign, float* g) {
    vf sums[Tall][V] = {};
    for (int64_t t = 0; t < n; ++t) {
        vf x[V];
        unroll<V>([&](auto v) LR_LAMBDA { x[v] = load(a + t * wide + c + v * Lanes); });
        unroll<Tall>([&](auto k) LR_LAMBDA {
            const vf f = splat(a[t * wide + i + k]);
            unroll<V>([&](auto v) LR_LAMBDA { sums[k][v] = fma(f, x[v], sums[k][v]); });
        });
    }
    unroll<Tall>([&](auto k) LR_LAMBDA {
        float* to = g + (i + k) * wide + c;
        unroll<V>([&](auto v) LR_LAMBDA { store(to + v * Lanes, fma(splat(sign), sums[k][v], load(to + v * Lanes))); });
    });
}

// The rows i .. i + Tall of the upper triangle of g += sign a^T a
LR_INLINE void panel(const float* a, int64_t wide, int64_t n, int64_t i, float sign, float* g) {
    int64_t c = i / Lanes * Lanes;
    for (; c + 2 * Lanes <= wide; c += 2 * Lanes) tile<2>(a, wide, n, i, c, sign, g);
    if (c < wide) tile<1>(a, wide, n, i, c, sign, g);
}

// sums[c ..] += sum_t w[t] a[t, c ..], n whole vectors of rows
template <int V> LR_INLINE void combine(const float* a, int64_t wide, int64_t n, const float* w, int64_t c, float* sums) {
    vf even[V] = {}, odd[V] = {};
    for (int64_t t = 0; t < n; t += 2) {
        const vf w0 = splat(w[t]), w1 = splat(w[t + 1]);
        unroll<V>([&](auto v) LR_LAMBDA {
            even[v] = fma(w0, load(a + t * wide + c + v * Lanes), even[v]);
            odd[v] = fma(w1, load(a + (t + 1) * wide + c + v * Lanes), odd[v]);
        });
    }
    unroll<V>([&](auto v) LR_LAMBDA { store(sums + c + v * Lanes, load(sums + c + v * Lanes) + (even[v] + odd[v])); });
}
LR_INLINE void combine(const float* a, int64_t wide, int64_t n, const float* w, float* sums) {
    int64_t c = 0;
    for (; c + 4 * Lanes <= wide; c += 4 * Lanes) combine<4>(a, wide, n, w, c, sums);
    for (; c < wide; c += Lanes) combine<1>(a, wide, n, w, c, sums);
}

// The dots of `Lanes` rows with x
LR_INLINE vf dots(const float* a, int64_t wide, const float* x) {
    vf sums[Lanes] = {};
    for (int64_t c = 0; c < wide; c += Lanes) {
        const vf f = load(x + c);
        unroll<Lanes>([&](auto l) LR_LAMBDA { sums[l] = fma(load(a + l * wide + c), f, sums[l]); });
    }
    transpose(sums);
    for (int half = Lanes / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) sums[l] = sums[l] + sums[l + half];
    return sums[0];
}

LR_INLINE float dot(const float* a, const float* b, int64_t wide) {
    vf total{};
    for (int64_t c = 0; c < wide; c += Lanes) total = fma(load(a + c), load(b + c), total);
    return sum(total);
}

// g <- U with U^T U = g, upper triangles of r rows; false at a pivot that is not positive
LR_INLINE bool factor(float* g, int64_t r, int64_t wide, float* inverse) {
    for (int64_t i = 0; i < r; i += Tall) {
        panel(g, wide, i, i, -1.0f, g);
        const int64_t end = i + Tall < r ? i + Tall : r, first = i / Lanes * Lanes;
        for (int64_t j = i; j < end; ++j) {
            float* row = g + j * wide;
            if (!(row[j] > 0) || row[j] > 3e38f) return false;
            inverse[j] = 1 / __builtin_sqrtf(row[j]);
            for (int64_t c = first; c < wide; c += Lanes) store(row + c, load(row + c) * splat(inverse[j]));
            for (int64_t k = j + 1; k < end; ++k)
                for (int64_t c = first; c < wide; c += Lanes) store(g + k * wide + c, fma(splat(-row[k]), load(row + c), load(g + k * wide + c)));
        }
    }
    return true;
}

// U^T U z = h; z and y [wide] are zero at first, so that whole vectors do: what stands left of U's diagonal meets zeros or lanes that are done with
LR_INLINE void substitute(const float* u, int64_t r, int64_t wide, const float* inverse, float* h, float* y, float* z) {
    for (int64_t j = 0; j < r; ++j) {
        y[j] = h[j] * inverse[j];
        const vf f = splat(-y[j]);
        for (int64_t c = j / Lanes * Lanes; c < wide; c += Lanes) store(h + c, fma(f, load(u + j * wide + c), load(h + c)));
    }
    for (int64_t j = r - 1; j >= 0; --j) {
        vf total{};
        for (int64_t c = j / Lanes * Lanes; c < wide; c += Lanes) total = fma(load(u + j * wide + c), load(z + c), total);
        z[j] = (y[j] - sum(total)) * inverse[j];
    }
}

struct Place {
    float *g, *inverse, *h, *stage, *values, *steps; // [wide, wide] [wide] [4 wide] [Kept, wide], and two of the longest row
};

// The normal equations by Cholesky into h; returns 0, 1 where a pivot asked for more ridge, 2 where nothing helped
int32_t direct(const System& s, float ridge, float thin, const Place& at) {
    for (int attempt = 0; attempt < Attempts; ++attempt) {
        memset(at.g, 0, size_t(s.wide * s.wide) * sizeof(float));
        memset(at.h, 0, size_t(s.wide) * sizeof(float));
        for (int64_t t0 = 0; t0 < s.count; t0 += Chunk) {
            const int64_t n = t0 + Chunk < s.count ? Chunk : s.count - t0;
            gather(s, t0, n, at.stage);
            memset(at.values, 0, Chunk * sizeof(float));
            memcpy(at.values, s.b + t0, size_t(n) * sizeof(float));
            combine(at.stage, s.wide, padded(n, Lanes), at.values, at.h);
            for (int64_t i = 0; i < s.r; i += Tall) panel(at.stage, s.wide, n, i, 1.0f, at.g);
        }
        float trace = 0;
        for (int64_t j = 0; j < s.r; ++j) trace += at.g[j * s.wide + j];
        const float mean = trace / float(s.r), least = s.count < 2 * s.r ? thin * mean : 0, more = attempt == 0 ? 0 : (attempt == 1 ? 1e-6f : 1e-4f) * mean;
        for (int64_t j = 0; j < s.r; ++j) at.g[j * s.wide + j] += (ridge > least ? ridge : least) + more;
        if (!factor(at.g, s.r, s.wide, at.inverse)) continue;
        memset(at.h + s.wide, 0, size_t(2 * s.wide) * sizeof(float));
        substitute(at.g, s.r, s.wide, at.inverse, at.h, at.h + s.wide, at.h + 2 * s.wide);
        memcpy(at.h, at.h + 2 * s.wide, size_t(s.wide) * sizeof(float));
        return attempt > 0;
    }
    memset(at.h, 0, size_t(s.wide) * sizeof(float));
    return 2;
}

// f(rows, first, n) over the gathered rows, n whole vectors of them
template <class F> LR_INLINE void passes(const System& s, const Place& at, F&& f) {
    if (s.count <= Kept) {
        f(at.stage, int64_t(0), padded(s.count, Lanes));
        return;
    }
    for (int64_t t0 = 0; t0 < s.count; t0 += Chunk) {
        const int64_t n = t0 + Chunk < s.count ? Chunk : s.count - t0;
        gather(s, t0, n, at.stage);
        f(at.stage, t0, padded(n, Lanes));
    }
}

// Conjugate gradients on A (CGLS) from x = h: rest = b - A x, slope = A^T rest - ridge x
void gradients(const System& s, const AlsArgs* p, float ridge, const Place& at) {
    const int64_t wide = s.wide, all = padded(s.count, Lanes);
    float *x = at.h, *slope = x + wide, *move = slope + wide, *rest = at.values, *q = at.steps;
    if (s.count <= Kept) gather(s, 0, s.count, at.stage);
    memset(rest + s.count, 0, size_t(all - s.count) * sizeof(float));
    memcpy(rest, s.b, size_t(s.count) * sizeof(float));
    const float size = dot(rest, rest, all);
    float squares = 0;
    memset(slope, 0, size_t(wide) * sizeof(float));
    passes(s, at, [&](const float* a, int64_t t0, int64_t n) LR_LAMBDA {
        squares += dot(a, a, n * wide);
        for (int64_t t = 0; t < n; t += Lanes) store(rest + t0 + t, load(rest + t0 + t) - dots(a + t * wide, wide, x));
        combine(a, wide, n, rest + t0, slope);
    });
    for (int64_t c = 0; c < wide; c += Lanes) store(slope + c, fma(splat(-ridge), load(x + c), load(slope + c)));
    memcpy(move, slope, size_t(wide) * sizeof(float));
    float gamma = dot(slope, slope, wide);
    const float stop = float(p->stop * p->stop) * squares * size, enough = float(p->reduction * p->reduction) * gamma;
    for (int32_t step = 0; step < p->steps && gamma > stop && gamma > enough; ++step) {
        float curve = ridge * dot(move, move, wide);
        passes(s, at, [&](const float* a, int64_t t0, int64_t n) LR_LAMBDA {
            vf total{};
            for (int64_t t = 0; t < n; t += Lanes) {
                const vf d = dots(a + t * wide, wide, move);
                store(q + t0 + t, d);
                total = fma(d, d, total);
            }
            curve += sum(total);
        });
        if (!(curve > 0)) return;
        const float length = gamma / curve;
        for (int64_t c = 0; c < wide; c += Lanes) store(x + c, fma(splat(length), load(move + c), load(x + c)));
        for (int64_t t = 0; t < all; t += Lanes) store(rest + t, fma(splat(-length), load(q + t), load(rest + t)));
        memset(slope, 0, size_t(wide) * sizeof(float));
        passes(s, at, [&](const float* a, int64_t t0, int64_t n) LR_LAMBDA { combine(a, wide, n, rest + t0, slope); });
        for (int64_t c = 0; c < wide; c += Lanes) store(slope + c, fma(splat(-ridge), load(x + c), load(slope + c)));
        const float next = dot(slope, slope, wide), turn = next / gamma;
        for (int64_t c = 0; c < wide; c += Lanes) store(move + c, fma(splat(turn), load(move + c), load(slope + c)));
        gamma = next;
    }
}

// f(row, its system, scratch) over all rows; false where there is no memory
template <class F> bool by_row(const AlsArgs* p, F&& f) {
    const int64_t* starts = static_cast<const int64_t*>(p->starts);
    const int64_t wide = padded(p->r, Lanes);
    int64_t longest = Chunk;
    for (int64_t i = 0; i < p->rows; ++i) longest = starts[i + 1] - starts[i] > longest ? starts[i + 1] - starts[i] : longest;
    longest = padded(longest, Lanes);
    bool whole = true;
    lr::parallel_for((p->rows + Together - 1) / Together, [&](int64_t chunk) {
        float *square = lr::scratch(0, wide * wide + 5 * wide), *stage = lr::scratch(1, (longest < Kept ? longest : Kept) * wide), *values = lr::scratch(2, 2 * longest);
        if (!square || !stage || !values) {
            __atomic_store_n(&whole, false, __ATOMIC_RELAXED);
            return;
        }
        const Place at{square, square + wide * wide, square + wide * wide + wide, stage, values, values + longest};
        for (int64_t i = chunk * Together; i < p->rows && i < (chunk + 1) * Together; ++i)
            f(i, System{static_cast<const float*>(p->y), static_cast<const float*>(p->values) + starts[i], static_cast<const int32_t*>(p->columns) + starts[i], starts[i + 1] - starts[i], p->r, wide}, at);
    });
    return whole;
}

} // namespace

int32_t als_solve(const AlsArgs* p) {
    if (p->dtype != LR_F32) return LR_UNSUPPORTED;
    const bool whole = by_row(p, [&](int64_t i, const System& s, const Place& at) {
        float* x = static_cast<float*>(p->x) + i * s.r;
        int32_t flag = 0;
        const float ridge = float(p->ridge * (p->weighted ? double(s.count) : 1));
        memset(at.h, 0, size_t(s.wide) * sizeof(float));
        if (s.count > 0 && s.count < p->direct_below) flag = direct(s, ridge, float(p->thin), at);
        else if (s.count > 0) {
            memcpy(at.h, x, size_t(s.r) * sizeof(float));
            gradients(s, p, ridge, at);
        }
        memcpy(x, at.h, size_t(s.r) * sizeof(float));
        static_cast<int32_t*>(p->flags)[i] = flag;
    });
    return whole ? LR_OK : LR_OUT_OF_MEMORY;
}

int32_t als_product(const AlsArgs* p) {
    if (p->dtype != LR_F32) return LR_UNSUPPORTED;
    const bool whole = by_row(p, [&](int64_t i, const System& s, const Place& at) {
        memset(at.h, 0, size_t(s.wide) * sizeof(float));
        for (int64_t t0 = 0; t0 < s.count; t0 += Chunk) {
            const int64_t n = t0 + Chunk < s.count ? Chunk : s.count - t0;
            gather(s, t0, n, at.stage);
            memset(at.values, 0, Chunk * sizeof(float));
            memcpy(at.values, s.b + t0, size_t(n) * sizeof(float));
            combine(at.stage, s.wide, padded(n, Lanes), at.values, at.h);
        }
        memcpy(static_cast<float*>(p->x) + i * s.r, at.h, size_t(s.r) * sizeof(float));
    });
    return whole ? LR_OK : LR_OUT_OF_MEMORY;
}

int32_t als_loss(const AlsArgs* p) {
    if (p->dtype != LR_F32) return LR_UNSUPPORTED;
    const bool whole = by_row(p, [&](int64_t i, const System& s, const Place& at) {
        memset(at.h, 0, size_t(s.wide) * sizeof(float));
        memcpy(at.h, static_cast<const float*>(p->x) + i * s.r, size_t(s.r) * sizeof(float));
        vf total{};
        for (int64_t t0 = 0; t0 < s.count; t0 += Chunk) {
            const int64_t n = t0 + Chunk < s.count ? Chunk : s.count - t0;
            gather(s, t0, n, at.stage);
            memset(at.values, 0, Chunk * sizeof(float));
            memcpy(at.values, s.b + t0, size_t(n) * sizeof(float));
            for (int64_t t = 0; t < padded(n, Lanes); t += Lanes) {
                const vf e = load(at.values + t) - dots(at.stage + t * s.wide, s.wide, at.h);
                total = fma(e, e, total);
            }
        }
        static_cast<float*>(p->losses)[i] = sum(total);
    });
    return whole ? LR_OK : LR_OUT_OF_MEMORY;
}

} // namespace LR_NS
