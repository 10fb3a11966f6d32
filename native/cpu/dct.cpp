// Cosine transforms (DCT-II, orthonormal) of whole matrices and of a few coefficients, and the gradients of the latter.
// 16 rows of 4096 in float32 are 256 KiB, twice that with the second buffer: a transform stays in L2, which two passes at once sweep half as often.
// Floor of the dense transform: the matrix read, an intermediate written and read, the result written, 2.5 n log2 n operations a line and side; the rows go
// into panels of 16 columns, so that the pass along the columns reads memory in order. Floor of W + dW from k coefficients: W read, the sum written, 4 k m
// operations for the sums of cosines, one pass along the rows.
// A dense 4096 x 4096 on one core, CPU time: 43 ms with every store through the caches and passes one by one, 33 ms with stores past the caches, 30 ms with
// two passes at once and gaps between numbers (without gaps two passes at once were slower than one by one). Of these 13 ms are transforms, which L2 feeds.
// Prefetching the rows ahead, and two blocks of rows for one sweep of the coefficients, changed nothing.
#include "fft.h"
#include "kernels.h"
#include "pool.h"
#include "vectors.h"

namespace LR_NS {

namespace {

int64_t ceil_of(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Transforms of lines of n, both ways, times a factor, of Lanes rows at once: element i of all of them lies at x + i * Lanes. Makhoul's order v_m = x_2m,
// v_(n-1-m) = x_2m+1 makes a line's transform a Fourier transform V of n reals, X_k = c_k Re(e^{-pi i k/2n} V_k). Where n is even, neighbours in v make
// n/2 complex numbers, whose transform Z is taken apart: V_k = (Z_k + conj Z_-k)/2 + e^{-2 pi i k/n} (Z_k - conj Z_-k)/2i. Where it is odd, imaginary parts are 0.
struct Cosine {
    int64_t n;
    bool even;
    Fourier fourier;
    const float* turns; // cos and sin of pi k/2n, k <= n/2, times scale/sqrt(2n)
    const float* split; // cos and sin of 2 pi k/n, k <= n/4
    float first;        // scale/sqrt(n)

    static int64_t length(int64_t n) { return n % 2 ? n : n / 2; }
    static int64_t floats(int64_t n) { return Fourier::floats(length(n)) + Circle::floats(4 * n) + 2 * n + 128; }
    static int64_t room(int64_t n) { return 2 * Fourier::room(length(n)); } // vectors that each of the two buffers has room for
    Cosine(int64_t size, double scale, Pieces& memory, float* a, float* b) : n(size), even(size % 2 == 0) {
        const Circle circle(4 * n, memory.take(Circle::floats(4 * n)));
        fourier.plan(length(n), circle, even ? 8 : 4, memory, a, b);
        float *t = memory.take(n + 2), *w = memory.take(n / 2 + 2);
        const double each = scale / __builtin_sqrt(2.0 * double(n));
        for (int64_t k = 0; 2 * k <= n; ++k) {
            const Complex c = circle(k);
            t[2 * k] = float(c.re * each);
            t[2 * k + 1] = float(c.im * each);
        }
        for (int64_t k = 0; 4 * k <= n; ++k) {
            const Complex c = circle(4 * k);
            w[2 * k] = float(c.re);
            w[2 * k + 1] = float(c.im);
        }
        turns = t;
        split = w;
        first = float(scale / __builtin_sqrt(double(n)));
    }
    static LR_INLINE vf at(const float* x, int64_t i) { return load(x + i * Lanes); }
    static LR_INLINE void to(float* x, int64_t i, vf v) { store(x + i * Lanes, v); }
    int64_t source(int64_t v) const { return 2 * v < n ? 2 * v : 2 * (n - v) - 1; } // where v_m comes from
    // Lines k and n - k of both ways, times `more`: (c, s) v, and back
    LR_INLINE void turn(float* y, int64_t k, Wide2 v, float more) const {
        const vf c = splat(more * turns[2 * k]), s = splat(more * turns[2 * k + 1]);
        to(y, n - k, fma(s, v.re, -(c * v.im)));
        to(y, k, fma(c, v.re, s * v.im));
    }
    LR_INLINE Wide2 turned_back(const float* x, int64_t k) const {
        const vf c = splat(turns[2 * k]), s = splat(turns[2 * k + 1]), y = at(x, k), z = at(x, n - k);
        return {fma(c, y, s * z), fma(s, y, -(c * z))};
    }

    // x may be a; the result is in a or b
    float* forward(const float* x, float* a, float* b) const {
        const auto in = [this](const float* from, int64_t i) LR_LAMBDA { return even ? Wide2{at(from, source(2 * i)), at(from, source(2 * i + 1))} : Wide2{at(from, source(i)), vf{}}; };
        float* v = fourier.run(x, a, b, in, Write{});
        float* y = v == a ? b : a;
        const Wide2 sum = get(v, 0);
        if (!even) {
            to(y, 0, splat(first) * sum.re);
            for (int64_t k = 1; 2 * k <= n; ++k) turn(y, k, get(v, k), 2);
            return y;
        }
        const int64_t half = n / 2;
        to(y, 0, splat(first) * (sum.re + sum.im));
        to(y, half, splat(first) * (sum.re - sum.im));
        for (int64_t k = 1; 2 * k <= half; ++k) {
            const Wide2 p = get(v, k), q = get(v, half - k), e{p.re + q.re, p.im - q.im}, o{p.im + q.im, q.re - p.re};
            const vf c = splat(split[2 * k]), s = splat(split[2 * k + 1]);
            const Wide2 r{fma(c, o.re, s * o.im), fma(c, o.im, -(s * o.re))};
            turn(y, half - k, {e.re - r.re, r.im - e.im}, 1);
            turn(y, k, e + r, 1);
        }
        return y;
    }
    // Real and imaginary parts change places before and after: a forward transform is then the inverse one.
    float* inverse(const float* x, float* a, float* b) const {
        float* v = x == a ? b : a;
        const auto out = [this](float* y, int64_t i, Wide2 z) LR_LAMBDA {
            if (!even) return to(y, source(i), z.im);
            to(y, source(2 * i), z.im);
            to(y, source(2 * i + 1), z.re);
        };
        const vf whole = splat(first) * at(x, 0);
        if (!even) {
            set(v, 0, {vf{}, whole});
            for (int64_t k = 1; 2 * k <= n; ++k) {
                const Wide2 p = turned_back(x, k);
                set(v, k, {p.im, p.re});
                set(v, n - k, {-p.im, p.re});
            }
            return fourier.run(v, a, b, Read{}, out);
        }
        const int64_t half = n / 2;
        const vf middle = splat(first) * at(x, half);
        set(v, 0, {whole - middle, whole + middle});
        for (int64_t k = 1; 2 * k <= half; ++k) {
            const Wide2 p = turned_back(x, k), q = turned_back(x, half - k), e{p.re + q.re, p.im - q.im}, d{p.re - q.re, p.im + q.im};
            const vf c = splat(split[2 * k]), s = splat(split[2 * k + 1]);
            const Wide2 r{-fma(c, d.im, s * d.re), fma(c, d.re, -(s * d.im))};
            set(v, half - k, {r.im - e.im, e.re - r.re});
            set(v, k, {e.im + r.im, e.re + r.re});
        }
        return fourier.run(v, a, b, Read{}, out);
    }
    float* run(bool back, const float* x, float* a, float* b) const { return back ? inverse(x, a, b) : forward(x, a, b); }
};

// Rows [0, rows) of x, at most Lanes of them, as lanes; missing ones are zero
template <class T> void load_rows(const T* x, int64_t pitch, int64_t rows, int64_t n, float* to) {
    for (int64_t c = 0; c < n; c += Lanes) {
        const int64_t have = n - c < Lanes ? n - c : Lanes;
        vf v[Lanes];
        for (int64_t i = 0; i < Lanes; ++i) v[i] = i >= rows ? vf{} : have == Lanes ? load(x + i * pitch + c) : load_some(x + i * pitch + c, have);
        transpose(v);
        for (int64_t i = 0; i < have; ++i) store(to + (c + i) * Lanes, v[i]);
    }
}
// The other way: put(row, column, values, how many)
template <class Put> void store_rows(const float* from, int64_t rows, int64_t n, Put&& put) {
    for (int64_t c = 0; c < n; c += Lanes) {
        const int64_t have = n - c < Lanes ? n - c : Lanes;
        vf v[Lanes];
        for (int64_t i = 0; i < Lanes; ++i) v[i] = i < have ? load(from + (c + i) * Lanes) : vf{};
        transpose(v);
        for (int64_t i = 0; i < rows; ++i) put(i, c, v[i], have);
    }
}

int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

// The two buffers of a transform of the calling thread
struct Buffers {
    float *a, *b;
    Buffers(int slot, int64_t room) : a(lr::scratch(slot, room * Lanes)), b(lr::scratch(slot + 1, room * Lanes)) {}
    bool ok() const { return a && b; }
};

// Whether a matrix that is written is better not kept: a share of the last cache, and whole vectors in each row
template <class T> bool passes_by(const T* y, int64_t rows, int64_t cols) {
    return std::is_same_v<T, float> && rows * cols > int64_t(1) << 20 && cols % Lanes == 0 && reinterpret_cast<uintptr_t>(y) % sizeof(vf) == 0;
}

// C x C^T times scale or the inverse, which put(row, column, values, how many) takes: rows first, panels of columns then. Two panels are written side by
// side, 128 bytes of a row at once: memory wants neighbours.
template <class T, class Put> int32_t dense(const T* x, int64_t rows, int64_t cols, bool back, double scale, Put&& put) {
    const int64_t panels = ceil_of(cols, Lanes), blocks = ceil_of(rows, Lanes), room = Cosine::room(rows) > Cosine::room(cols) ? Cosine::room(rows) : Cosine::room(cols);
    float *plans = lr::scratch(0, Cosine::floats(rows) + Cosine::floats(cols)), *between = lr::scratch(1, panels * rows * Lanes);
    const Buffers own(2, room);
    if (!plans || !between || !own.ok()) return LR_OUT_OF_MEMORY;
    Pieces memory{plans};
    const Cosine across(cols, scale, memory, own.a, own.b), down(rows, 1, memory, own.a, own.b);
    const bool past = passes_by(between, rows, panels * Lanes);
    int32_t status = LR_OK;
    lr::parallel_for(blocks, [&](int64_t block) {
        const Buffers t(2, room);
        if (!t.ok()) return __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
        const int64_t r0 = block * Lanes, have = least_of(rows - r0, Lanes);
        load_rows(x + r0 * cols, cols, have, cols, t.a);
        store_rows(across.run(back, t.a, t.a, t.b), have, cols, [&](int64_t r, int64_t c, vf v, int64_t) LR_LAMBDA {
            float* to = between + c * rows + (r0 + r) * Lanes;
            if (past) stream(to, v);
            else store(to, v);
        });
        streamed();
    });
    if (status != LR_OK) return status;
    lr::parallel_for(ceil_of(panels, 2), [&](int64_t pair) {
        const Buffers t(2, room);
        float* third = lr::scratch(4, room * Lanes);
        if (!t.ok() || !third) return __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
        const float *from = between + 2 * pair * rows * Lanes, *left = down.run(back, from, t.a, t.b), *right = nullptr;
        const int64_t c = 2 * pair * Lanes, have = cols - c;
        if (have > Lanes) right = down.run(back, from + rows * Lanes, left == t.a ? t.b : t.a, third);
        for (int64_t r = 0; r < rows; ++r) {
            put(r, c, load(left + r * Lanes), least_of(have, Lanes));
            if (right) put(r, c + Lanes, load(right + r * Lanes), least_of(have - Lanes, Lanes));
        }
        streamed();
    });
    lr::trim_scratch();
    return status;
}

// Where a coefficient stands
struct Spot {
    int64_t row, col;
    bool nan;
};
constexpr float Limit = 0.999f;
int64_t place_on(float u, int64_t n) {
    const double v = u < 0 ? 0 : u > Limit ? double(Limit) : double(u);
    return int64_t(__builtin_rint(v * double(n - 1)));
}
template <class Args> Spot spot_of(const Args* p, int64_t j) {
    if (p->loc) return {p->loc[j], p->loc[p->count + j], false};
    const float *u = static_cast<const float*>(p->u), first = u[j], second = u[p->count + j];
    if (first != first || second != second) return {0, 0, true};
    return {place_on(first, p->rows), place_on(second, p->cols), false};
}

// cos(2 pi j/(4 n)), j < 4 n
const float* cosines(int64_t n, float* to, float* memory) {
    const Circle circle(4 * n, memory);
    for (int64_t j = 0; j < 4 * n; ++j) to[j] = float(circle(j).re);
    return to;
}

struct Term {
    int64_t row, col;
};

// A coefficient at row l adds value cos(pi l (2 i + 1)/(2 m)) to row i: for i = i0 + lane that is cos(b) c[lane] - sin(b) s[lane], with b the angle at i0
template <class Put> int32_t sparse(const SparseDctArgs* p, Put&& put) {
    const int64_t m = p->rows, n = p->cols, count = p->count, order = 4 * m, blocks = ceil_of(m, Lanes), room = Cosine::room(n);
    float *plan = lr::scratch(0, Cosine::floats(n) + Circle::floats(order) + order + 64), *terms = lr::scratch(4, count * Wave + 16);
    Term* spots = reinterpret_cast<Term*>(lr::scratch(5, 4 * count + 16));
    const Buffers own(2, room);
    if (!plan || !terms || !spots || !own.ok()) return LR_OUT_OF_MEMORY;
    Pieces memory{plan};
    const Cosine across(n, p->scale, memory, own.a, own.b);
    float* table = memory.take(order);
    const float* cosine = cosines(m, table, memory.at);
    const float one = float(__builtin_sqrt(1.0 / double(m))), more = float(__builtin_sqrt(2.0 / double(m)));
    for (int64_t j = 0; j < count; ++j) {
        const Spot at = spot_of(p, j);
        const float value = (at.nan ? __builtin_nanf("") : static_cast<const float*>(p->a)[j]) * (at.row ? more : one);
        spots[j] = {at.row, at.col};
        for (int64_t lane = 0; lane < Lanes; ++lane) {
            const int64_t angle = 2 * lane * at.row % order;
            terms[j * Wave + lane] = value * cosine[angle];
            terms[j * Wave + Lanes + lane] = value * cosine[(angle + 3 * m) % order];
        }
    }
    int32_t status = LR_OK;
    lr::parallel_for(blocks, [&](int64_t block) {
        const Buffers t(2, room);
        if (!t.ok()) return __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
        const int64_t r0 = block * Lanes, have = least_of(m - r0, Lanes);
        memset(t.a, 0, size_t(n * Lanes) * sizeof(float));
        for (int64_t j = 0; j < count; ++j) {
            const uint64_t turn = uint64_t(spots[j].row) * uint64_t(2 * r0 + 1) % uint64_t(order), back = turn >= uint64_t(m) ? turn - uint64_t(m) : turn + 3 * uint64_t(m);
            float* sum = t.a + spots[j].col * Lanes;
            store(sum, fma(splat(cosine[turn]), load(terms + j * Wave), load(sum) - splat(cosine[back]) * load(terms + j * Wave + Lanes)));
        }
        store_rows(across.inverse(t.a, t.a, t.b), have, n, [&](int64_t r, int64_t c, vf v, int64_t some) LR_LAMBDA { put(r0 + r, c, v, some); });
        streamed();
    });
    return status;
}

} // namespace

int32_t dct2(const Dct2Args* p) {
    int32_t status = LR_UNSUPPORTED;
    by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* y = static_cast<T*>(p->y);
        const int64_t cols = p->cols;
        const bool add = p->add & 1, past = !add && passes_by(y, p->rows, cols);
        status = p->rows == 0 || cols == 0 ? LR_OK : dense(static_cast<const T*>(p->x), p->rows, cols, p->inverse != 0, p->scale, [&](int64_t r, int64_t c, vf v, int64_t some) LR_LAMBDA {
            if constexpr (std::is_same_v<T, float>)
                if (past) return stream(y + r * cols + c, v);
            if (some == Lanes) put(y + r * cols + c, v, add);
            else put_some(y + r * cols + c, v, some, add);
        });
    });
    return status;
}

int32_t sparse_dct(const SparseDctArgs* p) {
    if (p->dtype != LR_F32) return LR_UNSUPPORTED;
    const float* w = static_cast<const float*>(p->w);
    float* y = static_cast<float*>(p->y);
    const int64_t cols = p->cols;
    const bool past = passes_by(y, p->rows, cols);
    const auto put = [=](int64_t r, int64_t c, vf v, int64_t some) LR_LAMBDA {
        const int64_t at = r * cols + c;
        if (past) stream(y + at, w ? load(w + at) + v : v);
        else if (some == Lanes) store(y + at, w ? load(w + at) + v : v);
        else store_some(y + at, w ? load_some(w + at, some) + v : v, some);
    };
    // A coefficient costs some two operations a row of the sums; a pass along the columns some twelve an element.
    if (p->route == 2 || (p->route == 0 && p->count <= 6 * cols)) return sparse(p, put);
    float* s = lr::scratch(7, p->rows * cols);
    if (!s) return LR_OUT_OF_MEMORY;
    memset(s, 0, size_t(p->rows * cols) * sizeof(float));
    for (int64_t j = 0; j < p->count; ++j) {
        const Spot at = spot_of(p, j);
        s[at.row * cols + at.col] += at.nan ? __builtin_nanf("") : static_cast<const float*>(p->a)[j];
    }
    return dense(s, p->rows, cols, true, p->scale, put);
}

// Rows of x and of dy are transformed side by side, 16 tokens at once; a coefficient then is a product of two vectors, so dy^T x is never formed.
// Up to 16 parts of the tokens have sums of their own, added in order.
int32_t sparse_dct_backward(const SparseDctGradArgs* p) {
    const int64_t m = p->rows, n = p->cols, count = p->count, blocks = ceil_of(p->tokens, Lanes), each = ceil_of(blocks, 16), parts = each ? ceil_of(blocks, each) : 0;
    const int64_t cells = p->du ? 5 : 1, room_n = Cosine::room(n), room_m = Cosine::room(m);
    int32_t status = LR_UNSUPPORTED;
    by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        status = LR_OUT_OF_MEMORY;
        float *plans = lr::scratch(0, Cosine::floats(n) + Cosine::floats(m)), *sums = lr::scratch(1, parts * cells * count + 16);
        Term* spots = reinterpret_cast<Term*>(lr::scratch(7, 4 * count + 16));
        const Buffers own_n(2, room_n), own_m(4, room_m);
        if (!plans || !sums || !spots || !own_n.ok() || !own_m.ok()) return;
        Pieces memory{plans};
        const Cosine across(n, p->scale, memory, own_n.a, own_n.b), down(m, 1, memory, own_m.a, own_m.b);
        for (int64_t j = 0; j < count; ++j) {
            const Spot at = spot_of(p, j);
            spots[j] = {at.row, at.col};
        }
        status = LR_OK;
        lr::parallel_for(parts, [&](int64_t part) {
            const Buffers t(2, room_n), v(4, room_m);
            float* held = lr::scratch(6, cells * count * Lanes + 16);
            if (!t.ok() || !v.ok() || !held) return __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
            memset(held, 0, size_t(cells * count * Lanes) * sizeof(float));
            for (int64_t block = part * each; block < least_of(blocks, (part + 1) * each); ++block) {
                const int64_t t0 = block * Lanes, have = least_of(p->tokens - t0, Lanes);
                load_rows(static_cast<const T*>(p->x) + t0 * n, n, have, n, t.a);
                if (p->dy) load_rows(static_cast<const T*>(p->dy) + t0 * m, m, have, m, v.a);
                else { // the identity
                    memset(v.a, 0, size_t(m * Lanes) * sizeof(float));
                    for (int64_t i = 0; i < have; ++i) v.a[(t0 + i) * Lanes + i] = 1;
                }
                const float *z = across.forward(t.a, t.a, t.b), *w = down.forward(v.a, v.a, v.b);
                const auto add = [&](float* to, int64_t row, int64_t col) LR_LAMBDA { store(to, fma(load(z + col * Lanes), load(w + row * Lanes), load(to))); };
                for (int64_t j = 0; j < count; ++j) {
                    const int64_t row = spots[j].row, col = spots[j].col;
                    float* to = held + j * cells * Lanes;
                    add(to, row, col);
                    if (cells == 1) continue;
                    add(to + Lanes, row + 1 < m ? row + 1 : row, col);
                    add(to + 2 * Lanes, row ? row - 1 : 0, col);
                    add(to + 3 * Lanes, row, col + 1 < n ? col + 1 : col);
                    add(to + 4 * Lanes, row, col ? col - 1 : 0);
                }
            }
            for (int64_t i = 0; i < cells * count; ++i) sums[part * cells * count + i] = sum(load(held + i * Lanes));
        });
        if (status != LR_OK) return;
        const float *a = static_cast<const float*>(p->a), *u = static_cast<const float*>(p->u);
        float *da = static_cast<float*>(p->da), *du = static_cast<float*>(p->du);
        for (int64_t j = 0; j < count; ++j) {
            double k[5] = {};
            for (int64_t part = 0; part < parts; ++part)
                for (int64_t cell = 0; cell < cells; ++cell) k[cell] += double(sums[(part * count + j) * cells + cell]);
            if (da) put(da + j, float(k[0]), p->add & 1);
            for (int64_t side = 0; du && side < 2; ++side) {
                const double step = 0.5 * double(a[j]) * (k[1 + 2 * side] - k[2 + 2 * side]), clipped = step > 1 ? 1 : step < -1 ? -1 : step;
                const float at = u[side * count + j];
                put(du + side * count + j, at >= 0 && at <= Limit ? float(double((side ? n : m) - 1) * clipped) : 0.0f, p->add >> 1 & 1);
            }
        }
    });
    return status;
}

} // namespace LR_NS
