// Cosine transforms of every kind of length, whole and of a few coefficients.
#include "check.h"

namespace test {

namespace {

double cosine(int64_t n, int64_t i, int64_t j) { return sqrt((i ? 2.0 : 1.0) / double(n)) * cos(M_PI * double(i * (2 * j + 1) % (4 * n)) / (2.0 * double(n))); }

// C_m x C_n^T, or C_m^T x C_n
std::vector<double> transformed(const std::vector<double>& x, int64_t m, int64_t n, bool inverse) {
    std::vector<double> half(size_t(m * n)), y(size_t(m * n));
    const auto of = [inverse](int64_t size, int64_t to, int64_t from) { return inverse ? cosine(size, from, to) : cosine(size, to, from); };
    for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j)
            for (int64_t c = 0; c < n; ++c) half[size_t(i * n + j)] += x[size_t(i * n + c)] * of(n, j, c);
    for (int64_t i = 0; i < m; ++i)
        for (int64_t r = 0; r < m; ++r)
            for (int64_t j = 0; j < n; ++j) y[size_t(i * n + j)] += of(m, i, r) * half[size_t(r * n + j)];
    return y;
}
std::vector<double> values(const Buffer& b) {
    std::vector<double> v;
    for (int64_t i = 0; i < b.count; ++i) v.push_back(b[i]);
    return v;
}

void whole() {
    // One line, powers of two, odd primes, a prime past the direct ones on either side, several blocks of rows and panels of columns
    for (auto [m, n] : {std::pair<int32_t, int32_t>{1, 1}, {1, 8}, {2, 3}, {16, 48}, {5, 7}, {33, 97}, {47, 40}, {70, 66}, {9, 53}, {120, 43}})
        for (int32_t type : {LR_F32, LR_BF16, LR_F16})
            for (int32_t inverse : {0, 1}) {
                const int32_t rows = m, cols = n;
                const Buffer x = random_buffer(type, int64_t(m) * n);
                Buffer y = random_buffer(type, int64_t(m) * n);
                const std::vector<double> want = transformed(values(x), m, n, inverse != 0);
                run(KERNEL(dct2, Dct2Args), std::to_string(m) + "x" + std::to_string(n), type, {&x},
                    {{&y, [&](int64_t i) { return (inverse ? y[i] : 0) + 0.5 * want[size_t(i)]; }}},
                    [&](int32_t t) { return Dct2Args{x.data, y.data, rows, cols, inverse, t, 0.5, uint32_t(inverse)}; });
            }
}

void coefficients() {
    for (auto [lines, width, places] : {std::tuple<int32_t, int32_t, int32_t>{1, 1, 1}, {16, 12, 10}, {47, 33, 60}, {70, 40, 300}, {9, 7, 12}}) {
        const int32_t m = lines, n = width, k = places; // clang 14 captures no structured binding
        const int32_t rows = m, cols = n, count = k, tokens = 37;
        const Buffer w = random_buffer(LR_F32, int64_t(m) * n), a = random_buffer(LR_F32, k), x = random_buffer(LR_F32, int64_t(tokens) * n), dy = random_buffer(LR_F32, int64_t(tokens) * m);
        Buffer u(LR_F32, 2 * k), loc(LR_I32, 2 * k), y(LR_F32, int64_t(m) * n), da = random_buffer(LR_F32, k), du(LR_F32, 2 * k);
        std::vector<double> s(size_t(m * n)), g(size_t(m * n));
        for (int64_t i = 0; i < 2 * k; ++i) { // some past both ends
            u.put(i, 0.5 + 0.7 * uniform());
            loc.put(i, nearbyint(fmin(fmax(u[i], 0), 0.999) * ((i < k ? m : n) - 1)));
        }
        for (int64_t j = 0; j < k; ++j) s[size_t(int64_t(loc[j]) * n + int64_t(loc[k + j]))] += a[j];
        const std::vector<double> delta = transformed(s, m, n, true);
        for (int32_t route : {0, 1, 2})
            run(KERNEL(sparse_dct, SparseDctArgs), std::to_string(m) + "x" + std::to_string(n), LR_F32, {&w, &a, &u, &loc},
                {{&y, [&](int64_t i) { return w[i] + 1.5 * delta[size_t(i)]; }}},
                [&](int32_t t) { return SparseDctArgs{w.data, a.data, u.data, route ? reinterpret_cast<int32_t*>(loc.data) : nullptr, y.data, rows, cols, count, route, 1.5, t}; });
        for (bool identity : {false, true}) {
            for (int64_t i = 0; i < m; ++i)
                for (int64_t j = 0; j < n; ++j) {
                    double sum = identity ? w[i * n + j] : 0;
                    for (int64_t t = 0; t < tokens && !identity; ++t) sum += dy[t * m + i] * x[t * n + j];
                    g[size_t(i * n + j)] = 0.5 * sum;
                }
            const std::vector<double> spectrum = transformed(g, m, n, false);
            const auto at = [&](int64_t r, int64_t c) { return spectrum[size_t((r < 0 ? 0 : r < m ? r : m - 1) * n + (c < 0 ? 0 : c < n ? c : n - 1))]; };
            run(KERNEL(sparse_dct_backward, SparseDctGradArgs), std::to_string(m) + "x" + std::to_string(n), LR_F32, {&x, &dy, &a, &u},
                {{&da, [&](int64_t j) { return da[j] + at(int64_t(loc[j]), int64_t(loc[k + j])); }, 2},
                 {&du, [&](int64_t i) {
                      const int64_t j = i % k, r = int64_t(loc[j]), c = int64_t(loc[k + j]);
                      const double step = a[j] / 2 * (i < k ? at(r + 1, c) - at(r - 1, c) : at(r, c + 1) - at(r, c - 1));
                      return u[i] >= 0 && u[i] <= 0.999 ? ((i < k ? m : n) - 1) * fmin(fmax(step, -1), 1) : 0;
                  }, 2}},
                [&](int32_t t) {
                    return SparseDctGradArgs{identity ? w.data : x.data, identity ? nullptr : dy.data, a.data, u.data, nullptr, da.data, du.data, identity ? rows : tokens, rows, cols, count, 0.5, t, 1};
                });
        }
    }
}

} // namespace

void cosines() {
    whole();
    coefficients();
}

} // namespace test
