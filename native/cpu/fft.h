// Fourier transforms of many rows at once, one row a lane. A transform is Stockham's, in radices 8, 4, 2 and odd primes up to 43; a length with a larger
// prime factor goes through a convolution (Bluestein). What is read first and written last may lie in another order, which functors say.
// Twiddles come from float64 roots of one circle, each the product of two table entries, with angles reduced in integers.
#pragma once
#include "simd.h"

namespace LR_NS {

constexpr int64_t Wave = 2 * Lanes; // floats of a complex number of vectors
constexpr int MostPrime = 43;

struct Complex { double re, im; };

// e^{2 pi i j / order}
class Circle {
  public:
    // memory: floats(order)
    Circle(int64_t order, float* memory) : order(order), high(reinterpret_cast<Complex*>(memory)) {
        for (int64_t i = 0; i < 64; ++i) low[i] = exact(i);
        for (int64_t i = 0; i * 64 < order; ++i) high[i] = exact(i * 64);
    }
    static int64_t floats(int64_t order) { return 4 * (order / 64 + 2); }
    Complex operator()(int64_t j) const {
        const Complex a = high[j / 64], b = low[j % 64];
        return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
    }
    const int64_t order;

  private:
    Complex exact(int64_t j) const {
        const double angle = 6.283185307179586476925 * double(j % order) / double(order);
        return {__builtin_cos(angle), __builtin_sin(angle)};
    }
    Complex* high;
    Complex low[64];
};

// Memory that is handed out in pieces of whole cache lines
struct Pieces {
    float* at;
    float* take(int64_t floats) {
        float* piece = at;
        at += (floats + 15) / 16 * 16;
        return piece;
    }
};

struct Wide2 { vf re, im; };
LR_INLINE Wide2 wide(const float* x) { return {load(x), load(x + Lanes)}; }
LR_INLINE void wide(float* x, Wide2 v) { store(x, v.re); store(x + Lanes, v.im); }
// Number i of a line has a gap before it after every 32: numbers a power of two apart, which a pass reads together, would share one set of the first cache
LR_INLINE int64_t place(int64_t i) { return (i + i / 32) * Wave; }
LR_INLINE Wide2 get(const float* x, int64_t i) { return wide(x + place(i)); }
LR_INLINE void set(float* x, int64_t i, Wide2 v) { wide(x + place(i), v); }
LR_INLINE Wide2 operator+(Wide2 a, Wide2 b) { return {a.re + b.re, a.im + b.im}; }
LR_INLINE Wide2 operator-(Wide2 a, Wide2 b) { return {a.re - b.re, a.im - b.im}; }
LR_INLINE Wide2 turned(Wide2 a) { return {a.im, -a.re}; } // times -i
LR_INLINE Wide2 times(Wide2 a, float re, float im) {
    const vf r = splat(re), i = splat(im);
    return {fma(a.re, r, -(a.im * i)), fma(a.re, i, a.im * r)};
}

// Sizes of the passes of a transform of n, and their twiddles: pass of radix p at length m p: w^{q j}, q < m, 0 < j < p
struct Passes {
    int64_t n = 0;
    int count = 0;
    int radix[48];
    const float *twiddles[48], *roots[48]; // roots: cos and sin of 2 pi r / p, of odd radices

    static bool smooth(int64_t n) {
        for (int64_t p = 2; p <= MostPrime; ++p)
            while (n % p == 0) n /= p;
        return n == 1;
    }
    static int64_t floats(int64_t n) { return 4 * n + 48 * (2 * MostPrime + 48); }
    // Whether pass i and the next go together
    bool both(int i) const {
        const auto of_twos = [](int p) { return p == 4 || p == 8; };
        return i + 1 < count && of_twos(radix[i]) && of_twos(radix[i + 1]);
    }
    // circle(unit k) is e^{2 pi i k / n}
    void plan(int64_t length, const Circle& circle, int64_t unit, Pieces& memory) {
        n = length;
        int64_t rest = n;
        for (int p = 3; p <= MostPrime; p += 2)
            for (; rest % p == 0; rest /= p) radix[count++] = p;
        int twos = 0;
        for (; rest % 2 == 0; rest /= 2) ++twos;
        constexpr int Most = Lanes == 16 ? 3 : 2; // radix 8 where there are registers for it
        while (twos > 0) {
            const int step = twos >= Most && (twos % Most != 1 || twos == Most) ? Most : twos >= 2 ? 2 : 1;
            radix[count++] = 1 << step;
            twos -= step;
        }
        int64_t length_now = n, stride = 1;
        for (int i = 0; i < count; ++i) {
            const int p = radix[i];
            const int64_t m = length_now / p;
            float* w = memory.take(2 * m * (p - 1));
            twiddles[i] = w;
            for (int64_t q = 0; q < m; ++q)
                for (int64_t j = 1; j < p; ++j) {
                    const Complex c = circle(q * j * stride % n * unit);
                    *w++ = float(c.re);
                    *w++ = float(-c.im);
                }
            float* r = memory.take(2 * p);
            roots[i] = r;
            for (int64_t k = 0; k < p; ++k) {
                const Complex c = circle(k * (n / p) * unit);
                r[2 * k] = float(c.re);
                r[2 * k + 1] = float(c.im);
            }
            length_now = m;
            stride *= p;
        }
    }
};

template <int P> LR_INLINE void small(Wide2 (&a)[P]) {
    if constexpr (P == 2) {
        const Wide2 x = a[0];
        a[0] = x + a[1];
        a[1] = x - a[1];
    } else if constexpr (P == 4) {
        const Wide2 s = a[0] + a[2], d = a[0] - a[2], t = a[1] + a[3], e = turned(a[1] - a[3]);
        a[0] = s + t;
        a[1] = d + e;
        a[2] = s - t;
        a[3] = d - e;
    } else {
        Wide2 even[4] = {a[0], a[2], a[4], a[6]}, odd[4] = {a[1], a[3], a[5], a[7]};
        small(even);
        small(odd);
        const vf c = splat(0.70710678118654752f);
        odd[1] = {c * (odd[1].re + odd[1].im), c * (odd[1].im - odd[1].re)};
        odd[2] = turned(odd[2]);
        odd[3] = {c * (odd[3].im - odd[3].re), -(c * (odd[3].re + odd[3].im))};
        unroll<4>([&](auto k) LR_LAMBDA {
            a[k] = even[k] + odd[k];
            a[k + 4] = even[k] - odd[k];
        });
    }
}

// One pass, y[t + s (p q + j)] = w^{qj} sum_r x[t + s (q + m r)] e^{-2 pi i r j / p}; in(x, place) reads, out(y, place, value) writes
template <int P, class In, class Out> void pass(int64_t m, int64_t s, const float* w, const float* x, float* y, In in, Out out) {
    for (int64_t q = 0; q < m; ++q, w += 2 * (P - 1))
        for (int64_t t = 0; t < s; ++t) {
            Wide2 a[P];
            unroll<P>([&](auto r) LR_LAMBDA { a[r] = in(x, t + s * (q + m * r)); });
            small(a);
            out(y, t + s * P * q, a[0]);
            unroll<P - 1>([&](auto j) LR_LAMBDA { out(y, t + s * (P * q + j + 1), q ? times(a[j + 1], w[2 * j], w[2 * j + 1]) : a[j + 1]); });
        }
}
template <int Known, class In, class Out> void odd_pass(int any, int64_t m, int64_t s, const float* w, const float* roots, const float* x, float* y, In in, Out out) {
    const int p = Known ? Known : any;
    constexpr int Half = Known ? Known / 2 : MostPrime / 2;
    const int half = p / 2;
    for (int64_t q = 0; q < m; ++q, w += 2 * (p - 1))
        for (int64_t t = 0; t < s; ++t) {
            const Wide2 first = in(x, t + s * q);
            Wide2 sums[Half], differences[Half], total = first;
            for (int r = 1; r <= half; ++r) {
                const Wide2 a = in(x, t + s * (q + m * r)), b = in(x, t + s * (q + m * (p - r)));
                sums[r - 1] = a + b;
                differences[r - 1] = a - b;
                total = total + sums[r - 1];
            }
            out(y, t + s * p * q, total);
            for (int j = 1; j <= half; ++j) {
                Wide2 even = first, odd{};
                for (int r = 1, k = j; r <= half; ++r, k = k + j < p ? k + j : k + j - p) {
                    const vf c = splat(roots[2 * k]), d = splat(roots[2 * k + 1]);
                    even = {fma(sums[r - 1].re, c, even.re), fma(sums[r - 1].im, c, even.im)};
                    odd = {fma(differences[r - 1].re, d, odd.re), fma(differences[r - 1].im, d, odd.im)};
                }
                const Wide2 i = turned(odd), up = even + i, down = even - i;
                const float *u = w + 2 * (j - 1), *v = w + 2 * (p - j - 1);
                out(y, t + s * (p * q + j), times(up, u[0], u[1]));
                out(y, t + s * (p * q + p - j), times(down, v[0], v[1]));
            }
        }
}
template <class In, class Out> void any_pass(const Passes& f, int i, int64_t m, int64_t s, const float* x, float* y, In in, Out out) {
    const float* w = f.twiddles[i];
    switch (f.radix[i]) {
        case 2: return pass<2>(m, s, w, x, y, in, out);
        case 4: return pass<4>(m, s, w, x, y, in, out);
        case 8: return pass<8>(m, s, w, x, y, in, out);
        case 3: return odd_pass<3>(3, m, s, w, f.roots[i], x, y, in, out);
        case 5: return odd_pass<5>(5, m, s, w, f.roots[i], x, y, in, out);
        default: return odd_pass<0>(f.radix[i], m, s, w, f.roots[i], x, y, in, out);
    }
}

// Two passes at once, of radix P and then Q; m: length after both. What the first makes of P Q numbers is all that the second needs for P of its groups:
// it stays in the first cache, and the line is read and written once.
template <int P, int Q, class In, class Out> void two_passes(int64_t m, int64_t s, const float* w, const float* v, const float* x, float* y, In in, Out out) {
    alignas(64) float held[P * Q * Wave];
    for (int64_t q = 0; q < m; ++q, v += 2 * (Q - 1))
        for (int64_t t = 0; t < s; ++t) {
            for (int r = 0; r < Q; ++r) {
                const int64_t from = q + m * r;
                const float* turn = w + from * 2 * (P - 1);
                Wide2 a[P];
                unroll<P>([&](auto k) LR_LAMBDA { a[k] = in(x, t + s * (from + m * Q * k)); });
                small(a);
                wide(held + r * Wave, a[0]);
                unroll<P - 1>([&](auto j) LR_LAMBDA { wide(held + ((j + 1) * Q + r) * Wave, from ? times(a[j + 1], turn[2 * j], turn[2 * j + 1]) : a[j + 1]); });
            }
            for (int j = 0; j < P; ++j) {
                const int64_t to = t + s * (j + P * Q * q);
                Wide2 a[Q];
                unroll<Q>([&](auto r) LR_LAMBDA { a[r] = wide(held + (j * Q + r) * Wave); });
                small(a);
                out(y, to, a[0]);
                unroll<Q - 1>([&](auto k) LR_LAMBDA { out(y, to + s * P * (k + 1), q ? times(a[k + 1], v[2 * k], v[2 * k + 1]) : a[k + 1]); });
            }
        }
}
template <class In, class Out> void any_two(const Passes& f, int i, int64_t m, int64_t s, const float* x, float* y, In in, Out out) {
    const float *w = f.twiddles[i], *v = f.twiddles[i + 1];
    switch (10 * f.radix[i] + f.radix[i + 1]) {
        case 88: return two_passes<8, 8>(m, s, w, v, x, y, in, out);
        case 84: return two_passes<8, 4>(m, s, w, v, x, y, in, out);
        case 48: return two_passes<4, 8>(m, s, w, v, x, y, in, out);
        default: return two_passes<4, 4>(m, s, w, v, x, y, in, out);
    }
}

struct Read { LR_INLINE Wide2 operator()(const float* x, int64_t i) const { return get(x, i); } };
struct Write { LR_INLINE void operator()(float* y, int64_t i, Wide2 v) const { set(y, i, v); } };

// Forward transform of x into one of a and b; x may be a. Returns where it is.
template <class In, class Out> float* fft(const Passes& f, const float* x, float* a, float* b, In in, Out out) {
    float* y = x == a ? b : a;
    if (f.count == 0) {
        out(y, 0, in(x, 0));
        return y;
    }
    int64_t m = f.n, s = 1;
    for (int i = 0, passes; i < f.count; i += passes) {
        passes = f.both(i) ? 2 : 1;
        const int64_t radix = passes == 2 ? f.radix[i] * f.radix[i + 1] : f.radix[i];
        m /= radix;
        const auto run = [&](auto from, auto to) {
            if (passes == 2) any_two(f, i, m, s, x, y, from, to);
            else any_pass(f, i, m, s, x, y, from, to);
        };
        const bool begins = i == 0, ends = i + passes == f.count;
        if (begins && ends) run(in, out);
        else if (begins) run(in, Write{});
        else if (ends) run(Read{}, out);
        else run(Read{}, Write{});
        s *= radix;
        x = y;
        y = x == a ? b : a;
    }
    return y == a ? b : a;
}

// A transform of any length n
struct Fourier {
    int64_t n = 0, inner = 0; // inner: length of the convolution, 0 where n has passes of its own
    Passes passes;
    const float *chirp = nullptr, *filter = nullptr; // e^{-pi i j^2/n}, j < n; the transform of its conjugate, over inner

    static int64_t inner_of(int64_t n) {
        if (Passes::smooth(n)) return 0;
        int64_t best = 1;
        while (best < 2 * n - 1) best *= 2;
        for (const int64_t factor : {3, 5}) {
            int64_t m = factor;
            while (m < 2 * n - 1) m *= 2;
            if (m < best) best = m;
        }
        return best;
    }
    // Complex numbers that each of the two buffers of a transform has room for
    static int64_t room(int64_t n) { return place((inner_of(n) ? inner_of(n) : n) + 31) / Wave; }
    static int64_t floats(int64_t n) {
        const int64_t m = inner_of(n);
        return m ? Passes::floats(m) + Circle::floats(m) + 2 * n + 2 * m + 64 : Passes::floats(n) + 64;
    }
    // circle(unit k) is e^{2 pi i k / n}, unit even; a and b: buffers of a transform
    void plan(int64_t length, const Circle& circle, int64_t unit, Pieces& memory, float* a, float* b) {
        n = length;
        inner = inner_of(n);
        if (!inner) return passes.plan(n, circle, unit, memory);
        const Circle own(inner, memory.take(Circle::floats(inner)));
        passes.plan(inner, own, 1, memory);
        float *c = memory.take(2 * n), *h = memory.take(2 * inner);
        for (int64_t j = n; j < inner; ++j) set(a, j, Wide2{});
        for (int64_t j = 0; j < n; ++j) {
            const Complex at = circle(unit / 2 * (j * j % (2 * n)));
            c[2 * j] = float(at.re);
            c[2 * j + 1] = float(-at.im);
            const Wide2 v{splat(float(at.re)), splat(float(at.im))};
            set(a, j, v);
            if (j) set(a, inner - j, v);
        }
        const float* transformed = fft(passes, a, a, b, Read{}, Write{});
        for (int64_t k = 0; k < inner; ++k) {
            const float* one = transformed + place(k);
            h[2 * k] = one[0] / float(inner);
            h[2 * k + 1] = one[Lanes] / float(inner);
        }
        chirp = c;
        filter = h;
    }
    template <class In, class Out> float* run(const float* x, float* a, float* b, In in, Out out) const {
        if (!inner) return fft(passes, x, a, b, in, out);
        float *y = x == a ? b : a, *other = y == a ? b : a;
        for (int64_t j = 0; j < n; ++j) set(y, j, times(in(x, j), chirp[2 * j], chirp[2 * j + 1]));
        for (int64_t j = n; j < inner; ++j) set(y, j, Wide2{});
        y = fft(passes, y, a, b, Read{}, Write{});
        for (int64_t k = 0; k < inner; ++k) { // real and imaginary parts change places: the next transform is the inverse one
            const Wide2 v = times(get(y, k), filter[2 * k], filter[2 * k + 1]);
            set(y, k, {v.im, v.re});
        }
        y = fft(passes, y, a, b, Read{}, Write{});
        other = y == a ? b : a;
        for (int64_t k = 0; k < n; ++k) {
            const Wide2 v = get(y, k);
            out(other, k, times({v.im, v.re}, chirp[2 * k], chirp[2 * k + 1]));
        }
        return other;
    }
};

} // namespace LR_NS
