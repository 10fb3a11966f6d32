// Sparse places of a matrix, scaled bases, distances that become a delta, gates, and rows of alternating least squares.
#include "check.h"
#include <algorithm>

namespace test {

namespace {

constexpr int32_t Floats[] = {LR_F32, LR_BF16, LR_F16};

void roots() {
    const int64_t n = 4099;
    for (int32_t type : Floats) {
        Buffer x = random_buffer(type, n), y(type, n), dx = random_buffer(type, n);
        const Buffer dy = random_buffer(type, n);
        for (int64_t i = 0; i < n; ++i) x.put(i, i == 7 ? 0 : fabs(x[i]) + 0.1);
        run(KERNEL(sqrt_forward, UnaryArgs), "positive", type, {&x}, {{&y, [&](int64_t i) { return sqrt(x[i]); }}}, [&](int32_t t) { return UnaryArgs{x.data, y.data, n, t}; });
        for (uint32_t add : {0u, 1u})
            run(KERNEL(sqrt_backward, UnaryGradArgs), "positive", type, {&x, &dy},
                {{&dx, [&](int64_t i) { return (add ? dx[i] : 0) + (x[i] > 0 ? dy[i] / (2 * sqrt(x[i])) : 0); }}}, [&](int32_t t) { return UnaryGradArgs{x.data, dy.data, dx.data, n, t, add}; });
    }
}

void bases() {
    for (auto [rank, count, width] : {std::tuple<int32_t, int32_t, int32_t>{1, 1, 1}, {3, 5, 33}, {7, 20, 130}}) {
        const int32_t r = rank, n = count, d = width, pitch = d + 3;
        const Buffer a = random_buffer(LR_F32, int64_t(r) * pitch), lambda = random_buffer(LR_F32, r * n), gamma = random_buffer(LR_F32, int64_t(n) * d), ds = random_buffer(LR_F32, int64_t(r) * n * d);
        Buffer s(LR_F32, int64_t(r) * n * d), dlambda = random_buffer(LR_F32, r * n), dgamma = random_buffer(LR_F32, int64_t(n) * d);
        const std::string label = std::to_string(r) + "x" + std::to_string(n) + "x" + std::to_string(d);
        run(KERNEL(scale_bases_forward, ScaleBasesArgs), label, LR_F32, {&a, &lambda, &gamma},
            {{&s, [&](int64_t e) { return lambda[e / d] * a[e / d / n * pitch + e % d] * gamma[e / d % n * d + e % d]; }}},
            [&](int32_t t) { return ScaleBasesArgs{a.data, lambda.data, gamma.data, s.data, r, n, d, pitch, t}; });
        for (uint32_t add : {0u, 3u})
            run(KERNEL(scale_bases_backward, ScaleBasesGradArgs), label, LR_F32, {&a, &lambda, &gamma, &ds},
                {{&dlambda, [&](int64_t e) {
                      double sum = add ? dlambda[e] : 0;
                      for (int64_t i = 0; i < d; ++i) sum += ds[e * d + i] * a[e / n * pitch + i] * gamma[e % n * d + i];
                      return sum;
                  }},
                 {&dgamma, [&](int64_t e) {
                      double sum = add ? dgamma[e] : 0;
                      for (int64_t k = 0; k < r; ++k) sum += ds[k * n * d + e] * a[k * pitch + e % d] * lambda[k * n + e / d];
                      return sum;
                  }}},
                [&](int32_t t) { return ScaleBasesGradArgs{a.data, lambda.data, gamma.data, ds.data, dlambda.data, dgamma.data, r, n, d, pitch, t, add}; });
    }
}

void places() {
    for (int32_t type : Floats)
        for (auto [rows, cols, every] : {std::tuple<int32_t, int32_t, int32_t>{1, 1, 1}, {37, 53, 7}, {130, 70, 40}}) {
            const int32_t n = rows, k = cols, tokens = 19, nnz = (n * k + every - 1) / every;
            const int64_t count = int64_t(n) * k;
            Buffer idx(LR_I32, nnz);
            for (int32_t j = 0; j < nnz; ++j) idx.put(j, std::min<int64_t>(int64_t(j) * every + (j & 1), count - (nnz - j)));
            const Buffer x = random_buffer(type, count), v = random_buffer(LR_F32, nnz), a = random_buffer(type, int64_t(tokens) * n), b = random_buffer(type, int64_t(tokens) * k);
            Buffer y(type, count), out = random_buffer(LR_F32, nnz);
            const std::string label = std::to_string(n) + "x" + std::to_string(k);
            const auto value = [&](int64_t i) {
                for (int64_t j = 0; j < nnz; ++j)
                    if (int64_t(idx[j]) == i) return v[j];
                return 0.0;
            };
            for (bool base : {true, false})
                run(KERNEL(add_sparse, AddSparseArgs), label, type, {&x, &v, &idx}, {{&y, [&](int64_t i) { return (base ? x[i] : 0) + value(i); }}},
                    [&](int32_t t) { return AddSparseArgs{base ? x.data : nullptr, v.data, idx.data, y.data, count, nnz, t}; });
            for (uint32_t add : {0u, 1u}) {
                run(KERNEL(take_sparse, TakeSparseArgs), label, type, {&x, &idx}, {{&out, [&](int64_t j) { return (add ? out[j] : 0) + x[int64_t(idx[j])]; }}},
                    [&](int32_t t) { return TakeSparseArgs{x.data, idx.data, out.data, nnz, t, add}; });
                run(KERNEL(sample_sparse, SampleSparseArgs), label, type, {&a, &b, &idx},
                    {{&out, [&](int64_t j) {
                          double sum = add ? out[j] : 0;
                          for (int64_t t = 0; t < tokens; ++t) sum += a[t * n + int64_t(idx[j]) / k] * b[t * k + int64_t(idx[j]) % k];
                          return sum;
                      }}},
                    [&](int32_t t) { return SampleSparseArgs{a.data, b.data, idx.data, out.data, tokens, n, k, nnz, t, add}; });
            }
        }
}

// Distances of a table's rows lose digits where they nearly cancel.
constexpr double Cancels = 20;

void distances() {
    for (auto [inputs, outputs, columns] : {std::tuple<int32_t, int32_t, int32_t>{5, 3, 1}, {33, 40, 5}, {70, 65, 8}})
        for (double norm : {2.0, 1.0, 3.0}) {
            const int32_t k = inputs, n = outputs, r = columns, tokens = 9;
            const double scale = 0.1, fraction = 0.25;
            const Buffer p = random_buffer(LR_F32, 2 * k * r), q = random_buffer(LR_F32, 2 * n * r), w = random_buffer(LR_F32, n * k), x = random_buffer(LR_F32, tokens * k), dy = random_buffer(LR_F32, tokens * n);
            const auto apart = [&](int64_t h, int64_t i, int64_t o) {
                double sum = 0;
                for (int64_t c = 0; c < r; ++c) sum += pow(fabs(p[(h * k + i) * r + c] - q[(h * n + o) * r + c]), norm);
                return pow(sum, 1 / norm);
            };
            std::vector<double> d(size_t(k) * size_t(n)), sizes;
            for (int64_t i = 0; i < k; ++i)
                for (int64_t o = 0; o < n; ++o) d[size_t(i * n + o)] = scale * (apart(0, i, o) - apart(1, i, o));
            for (double value : d) sizes.push_back(fabs(value));
            std::sort(sizes.begin(), sizes.end());
            const int64_t rank = int64_t(sizes.size()) * 3 / 5;
            Buffer tau(LR_F32, 1);
            const std::string label = std::to_string(k) + "x" + std::to_string(n) + "x" + std::to_string(r) + " norm " + std::to_string(norm);
            run(KERNEL(snell_select, SnellSelectArgs), label, LR_F32, {&p, &q}, {{&tau, [&](int64_t) { return sizes[size_t(rank)] + fraction * (sizes[size_t(rank) + 1] - sizes[size_t(rank)]); }, Cancels}},
                [&](int32_t t) { return SnellSelectArgs{p.data, q.data, tau.data, rank, fraction, scale, norm, n, k, r, t}; });
            tau.put(0, (sizes[size_t(rank)] + sizes[size_t(rank) + 1]) / 2); // between two sizes: rounding moves no entry across
            for (int32_t mode : {LR_DISTANCES, LR_LARGEST, LR_ABOVE}) {
                const auto factor = [&](double value) { return mode == LR_DISTANCES ? 1 : fabs(value) <= tau[0] ? 0 : mode == LR_ABOVE ? fabs(value) - tau[0] : fabs(value); };
                const auto weight = [&](int64_t o, int64_t i) { return w[o * k + i] + d[size_t(i * n + o)] * factor(d[size_t(i * n + o)]); };
                Buffer y(LR_F32, tokens * n), whole(LR_F32, n * k), dx = random_buffer(LR_F32, tokens * k), dp = random_buffer(LR_F32, 2 * k * r), dq = random_buffer(LR_F32, 2 * n * r), dbias = random_buffer(LR_F32, n);
                run(KERNEL(snell_forward, SnellArgs), label, LR_F32, {&x, &w, &p, &q, &tau},
                    {{&y, [&](int64_t e) {
                          double sum = 0;
                          for (int64_t i = 0; i < k; ++i) sum += x[e / n * k + i] * weight(e % n, i);
                          return sum;
                      }, 4}},
                    [&](int32_t t) { return SnellArgs{x.data, w.data, p.data, q.data, tau.data, nullptr, y.data, scale, norm, tokens, n, k, r, mode, t, LR_F32, LR_ROWS}; });
                run(KERNEL(snell_forward, SnellArgs), label + " merged", LR_F32, {&w, &p, &q, &tau}, {{&whole, [&](int64_t e) { return weight(e / k, e % k); }}},
                    [&](int32_t t) { return SnellArgs{nullptr, w.data, p.data, q.data, tau.data, nullptr, whole.data, scale, norm, tokens, n, k, r, mode, t, LR_F32, LR_ROWS}; });
                const auto share = [&](int64_t h, int64_t i, int64_t o, int64_t c) { // what entry (i, o) adds to the gradient of p
                    const double z = p[(h * k + i) * r + c] - q[(h * n + o) * r + c], far = apart(h, i, o), value = d[size_t(i * n + o)];
                    double ds = 0;
                    for (int64_t t = 0; t < tokens; ++t) ds += x[t * k + i] * dy[t * n + o];
                    return z == 0 || far == 0 ? 0 : (h ? -scale : scale) * ds * factor(value) * (z > 0 ? 1 : -1) * pow(fabs(z) / far, norm - 1);
                };
                const uint32_t add = mode == LR_ABOVE ? 15u : 0u;
                run(KERNEL(snell_backward, SnellGradArgs), label, LR_F32, {&x, &w, &p, &q, &tau, &dy},
                    {{&dx, [&](int64_t e) {
                          double sum = add ? dx[e] : 0;
                          for (int64_t o = 0; o < n; ++o) sum += dy[e / k * n + o] * weight(o, e % k);
                          return sum;
                      }, 4},
                     {&dp, [&](int64_t e) {
                          double sum = add ? dp[e] : 0;
                          for (int64_t o = 0; o < n; ++o) sum += share(e / r / k, e / r % k, o, e % r);
                          return sum;
                      }, Cancels},
                     {&dq, [&](int64_t e) {
                          double sum = add ? dq[e] : 0;
                          for (int64_t i = 0; i < k; ++i) sum -= share(e / r / n, i, e / r % n, e % r);
                          return sum;
                      }, Cancels},
                     {&dbias, [&](int64_t o) {
                          double sum = add ? dbias[o] : 0;
                          for (int64_t t = 0; t < tokens; ++t) sum += dy[t * n + o];
                          return sum;
                      }}},
                    [&](int32_t t) { return SnellGradArgs{x.data, w.data, p.data, q.data, tau.data, dy.data, dx.data, dp.data, dq.data, dbias.data, scale, norm, tokens, n, k, r, mode, t, LR_F32, LR_ROWS, add}; });
            }
        }
}

void gates() {
    const Segment segments[] = {{2, 37, 2, 0, 1, 0}, {50, 8, 50, 0, 1, 0}};
    const double level = 0.25;
    for (int32_t paper : {0, 1}) {
        Buffer g = random_buffer(LR_F32, 60);
        run(KERNEL(gate_threshold, GateThresholdArgs), std::to_string(paper), LR_F32, {},
            {{&g, [&](int64_t i) {
                  const double before = g[i], moved = before > level ? before - level : before < -level ? before + level : before;
                  const bool gate = (i >= 2 && i < 39) || (i >= 50 && i < 58);
                  return !gate ? before : (paper ? fabs(before) <= level : fabs(moved) < level) ? 0 : moved;
              }}},
            [&](int32_t t) { return GateThresholdArgs{g.data, segments, level, 2, paper, t}; });
    }
}

// a x = b, a [n,n] positive definite
std::vector<double> solved(std::vector<double> a, std::vector<double> b) {
    const size_t n = b.size();
    for (size_t c = 0; c < n; ++c)
        for (size_t i = c + 1; i < n; ++i) {
            const double f = a[i * n + c] / a[c * n + c];
            for (size_t j = c; j < n; ++j) a[i * n + j] -= f * a[c * n + j];
            b[i] -= f * b[c];
        }
    for (size_t c = n; c-- > 0;) {
        for (size_t j = c + 1; j < n; ++j) b[c] -= a[c * n + j] * b[j];
        b[c] /= a[c * n + c];
    }
    return b;
}

// Rows with no entry, few, and more than a chunk; by Cholesky factors and by conjugate gradients
void least_squares() {
    for (int32_t r : {1, 7, 16, 33, 64, 70}) {
        const int32_t rows = 6, others = 300, counts[] = {0, 2 * r, 3 * r + 1, 290, 150 + r, 2 * r + 5};
        std::vector<int64_t> starts = {0};
        for (int32_t count : counts) starts.push_back(starts.back() + count);
        const int64_t all = starts.back();
        Buffer columns(LR_I32, all);
        for (int64_t t = 0; t < all; ++t) columns.put(t, double((t * 7) % others));
        const Buffer y = random_buffer(LR_F32, int64_t(others) * r), values = random_buffer(LR_F32, all);
        Buffer x = random_buffer(LR_F32, int64_t(rows) * r), flags(LR_I32, rows), losses(LR_F32, rows);
        const double ridge = 0.5;
        const auto entry = [&](int64_t t, int64_t j) { return y[int64_t(columns[t]) * r + j]; };
        for (int32_t below : {1 << 30, 0})
            for (int32_t weighted : {0, 1}) {
                std::vector<double> want;
                for (int64_t i = 0; i < rows; ++i) {
                    std::vector<double> a(size_t(r) * size_t(r)), b(static_cast<size_t>(r));
                    for (int64_t t = starts[size_t(i)]; t < starts[size_t(i) + 1]; ++t)
                        for (int64_t j = 0; j < r; ++j) {
                            b[size_t(j)] += values[t] * entry(t, j);
                            for (int64_t l = 0; l < r; ++l) a[size_t(j * r + l)] += entry(t, j) * entry(t, l);
                        }
                    for (int64_t j = 0; j < r; ++j) a[size_t(j * r + j)] += counts[i] ? ridge * (weighted ? counts[i] : 1) : 1;
                    for (double value : solved(a, b)) want.push_back(value);
                }
                run(KERNEL(als_solve, AlsArgs), std::to_string(r) + (below ? " direct" : " gradients"), LR_F32, {&y, &columns, &values},
                    {{&x, [&](int64_t e) { return want[size_t(e)]; }, 50}, {&flags, [](int64_t) { return 0; }}},
                    [&](int32_t t) { return AlsArgs{y.data, starts.data(), columns.data, values.data, x.data, flags.data, losses.data, rows, r, 3 * r + 20, below, weighted, ridge, 0, 1e-7, 0, t}; });
            }
        const auto args = [&](int32_t t) { return AlsArgs{y.data, starts.data(), columns.data, values.data, x.data, flags.data, losses.data, rows, r, 0, 0, 0, 0, 0, 0, 0, t}; };
        run(KERNEL(als_loss, AlsArgs), std::to_string(r), LR_F32, {&y, &columns, &values, &x},
            {{&losses, [&](int64_t i) {
                  double sum = 0;
                  for (int64_t t = starts[size_t(i)]; t < starts[size_t(i) + 1]; ++t) {
                      double rest = -values[t];
                      for (int64_t j = 0; j < r; ++j) rest += entry(t, j) * x[i * r + j];
                      sum += rest * rest;
                  }
                  return sum;
              }}},
            args);
        run(KERNEL(als_product, AlsArgs), std::to_string(r), LR_F32, {&y, &columns, &values},
            {{&x, [&](int64_t e) {
                  double sum = 0;
                  for (int64_t t = starts[size_t(e / r)]; t < starts[size_t(e / r) + 1]; ++t) sum += values[t] * entry(t, e % r);
                  return sum;
              }}},
            args);
    }
}

} // namespace

void sparse() {
    roots();
    bases();
    places();
    distances();
    gates();
    least_squares();
}

} // namespace test
