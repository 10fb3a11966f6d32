// Elementwise kernels, dropout, conversions, LayerNorm, optimisers.
#include "check.h"

namespace test {

namespace {

constexpr int32_t Floats[] = {LR_F32, LR_BF16, LR_F16};

double phi(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
double logistic(double x) { return 1 / (1 + exp(-x)); }
double silu(double x) { return x * logistic(x); }
double silu_slope(double x) { return logistic(x) * (1 + x * (1 - logistic(x))); }
double quick_gelu(double x) { return x * logistic(1.702 * x); }
double quick_gelu_slope(double x) { return logistic(1.702 * x) * (1 + 1.702 * x * (1 - logistic(1.702 * x))); }
double tanh_gelu(double x) { return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
double tanh_gelu_slope(double x) {
    const double t = tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

void unary(const Kernel<UnaryArgs>& forward, const Kernel<UnaryGradArgs>& backward, double (*f)(double), double (*slope)(double)) {
    for (int32_t type : Floats)
        for (int64_t n : {1, 15, 33, 40007}) {
            const Buffer x = random_buffer(type, n, 2), dy = random_buffer(type, n);
            Buffer y(type, n), dx = random_buffer(type, n);
            run(forward, std::to_string(n), type, {&x}, {{&y, [&](int64_t i) { return f(x[i]); }}}, [&](int32_t t) { return UnaryArgs{x.data, y.data, n, t}; });
            for (uint32_t add : {0u, 1u})
                run(backward, std::to_string(n), type, {&x, &dy}, {{&dx, [&](int64_t i) { return add * dx[i] + dy[i] * slope(x[i]); }}},
                    [&](int32_t t) { return UnaryGradArgs{x.data, dy.data, dx.data, n, t, add}; });
        }
}

// y = f(x) z and both gradients
void gated(const Kernel<BinaryArgs>& forward, const Kernel<BinaryGradArgs>& backward, double (*f)(double), double (*slope)(double)) {
    for (int32_t type : Floats)
        for (int64_t n : {1, 33, 40007}) {
            const Buffer x = random_buffer(type, n, 2), z = random_buffer(type, n), dy = random_buffer(type, n);
            Buffer y(type, n), dx = random_buffer(type, n), dz = random_buffer(type, n);
            run(forward, std::to_string(n), type, {&x, &z}, {{&y, [&](int64_t i) { return f(x[i]) * z[i]; }}}, [&](int32_t t) { return BinaryArgs{x.data, z.data, y.data, n, n, 1, t, t}; });
            for (uint32_t add : {0u, 3u})
                run(backward, std::to_string(n), type, {&x, &z, &dy},
                    {{&dx, [&](int64_t i) { return (add ? dx[i] : 0) + dy[i] * z[i] * slope(x[i]); }}, {&dz, [&](int64_t i) { return (add ? dz[i] : 0) + dy[i] * f(x[i]); }}},
                    [&](int32_t t) { return BinaryGradArgs{x.data, z.data, dy.data, dx.data, dz.data, n, n, 1, t, t, add}; });
        }
}

void binary() {
    const double alpha = -0.5;
    for (int32_t type : Floats)
        for (int32_t z_type : {type, int32_t(LR_F32)})
            for (auto size : {std::pair<int64_t, int64_t>{1, 1}, {35, 35}, {7 * 19, 19}, {70 * 33, 33}, {40 * 1100, 1100}}) {
                const int64_t n = size.first, period = size.second;
                const std::string label = std::to_string(n) + "/" + std::to_string(period);
                const Buffer x = random_buffer(type, n), z = random_buffer(z_type, period), dy = random_buffer(type, n);
                Buffer y(type, n), dx = random_buffer(type, n), dz = random_buffer(z_type, period);
                auto args = [&](int32_t t) { return BinaryArgs{x.data, z.data, y.data, n, period, alpha, t, z_type == type ? t : z_type}; };
                run(KERNEL(add_forward, BinaryArgs), label, type, {&x, &z}, {{&y, [&](int64_t i) { return x[i] + alpha * z[i % period]; }}}, args);
                run(KERNEL(mul_forward, BinaryArgs), label, type, {&x, &z}, {{&y, [&](int64_t i) { return x[i] * z[i % period]; }}}, args);
                for (uint32_t add : {0u, 3u}) {
                    auto grads = [&](int32_t t) { return BinaryGradArgs{x.data, z.data, dy.data, dx.data, dz.data, n, period, alpha, t, z_type == type ? t : z_type, add}; };
                    auto over = [&](int64_t j, bool with_x) {
                        double total = 0;
                        for (int64_t i = j; i < n; i += period) total += dy[i] * (with_x ? x[i] : alpha);
                        return total + (add ? dz[j] : 0);
                    };
                    run(KERNEL(add_backward, BinaryGradArgs), label, type, {&x, &z, &dy},
                        {{&dx, [&](int64_t i) { return (add ? dx[i] : 0) + dy[i]; }}, {&dz, [&](int64_t j) { return over(j, false); }}}, grads);
                    run(KERNEL(mul_backward, BinaryGradArgs), label, type, {&x, &z, &dy},
                        {{&dx, [&](int64_t i) { return (add ? dx[i] : 0) + dy[i] * z[i % period]; }}, {&dz, [&](int64_t j) { return over(j, true); }}}, grads);
                }
            }
}

void scale_rows() {
    for (int32_t type : Floats)
        for (auto [rows, cols] : {std::pair<int32_t, int32_t>{1, 1}, {7, 18}, {3, 2050}}) {
            const int64_t n = int64_t(rows) * cols;
            const Buffer x = random_buffer(type, n), dy = random_buffer(type, n), c = random_buffer(LR_F32, rows);
            Buffer y(type, n), dx = random_buffer(type, n), dc = random_buffer(LR_F32, rows);
            run(KERNEL(scale_rows_forward, ScaleRowsArgs), "", type, {&x, &c}, {{&y, [&, w = cols](int64_t i) { return c[i / w] * x[i]; }}},
                [&, r = rows, w = cols](int32_t t) { return ScaleRowsArgs{x.data, c.data, y.data, r, w, t}; });
            auto dot = [&, w = cols](int64_t r) {
                double total = dc[r];
                for (int64_t i = r * w; i < (r + 1) * w; ++i) total += dy[i] * x[i];
                return total;
            };
            run(KERNEL(scale_rows_backward, ScaleRowsGradArgs), "", type, {&x, &c, &dy}, {{&dx, [&, w = cols](int64_t i) { return dx[i] + c[i / w] * dy[i]; }}, {&dc, dot}},
                [&, r = rows, w = cols](int32_t t) { return ScaleRowsGradArgs{x.data, c.data, dy.data, dx.data, dc.data, r, w, t, 3}; });
        }
}

void draws_and_copies() {
    for (int32_t type : Floats)
        for (int64_t n : {1, 3, 31, 32, 20011}) {
            const Buffer x = random_buffer(type, n);
            Buffer y = random_buffer(type, n), filled(type, n);
            const uint64_t seed = 0x123456789ABCDEFu, stream = 0xFEDCBA987u;
            const float p = 0.3f;
            for (uint32_t add : {0u, 1u})
                run(KERNEL(dropout, DropoutArgs), std::to_string(n), type, {&x},
                    {{&y, [&](int64_t i) { return (add ? y[i] : 0) + (philox(seed, stream, i) >= double(p) ? x[i] / (1 - double(p)) : 0); }}},
                    [&](int32_t t) { return DropoutArgs{x.data, y.data, n, seed, stream, double(p), t, add}; });
            run(KERNEL(fill, FillArgs), std::to_string(n), type, {}, {{&filled, [](int64_t) { return -1.75; }}}, [&](int32_t t) { return FillArgs{filled.data, n, -1.75, t}; });
            for (int32_t to : Floats) {
                Buffer z(to, n), want(to, n);
                for (int64_t i = 0; i < n; ++i) want.put(i, x[i]);
                run(KERNEL(convert, ConvertArgs), std::to_string(n), to, {&x}, {{&z, [&](int64_t i) { return want[i]; }, 0}}, // bit for bit
                    [&](int32_t t) { return ConvertArgs{x.data, z.data, n, type, t}; });
            }
        }
    const double edges[] = {0, -0.0, 65504, 65519.99, 65520, -70000, 1e30, 6e-8, 2.9e-8, 3.1e-8, -6.1e-5, 6.09e-5, 1 + 0x1p-11, 1 + 3 * 0x1p-11, 1 + 0x1p-8, 1 + 3 * 0x1p-8, INFINITY, -INFINITY, NAN, 3.4e38};
    Buffer x(LR_F32, std::size(edges));
    for (size_t i = 0; i < std::size(edges); ++i) x.put(int64_t(i), edges[i]);
    for (int32_t to : {int32_t(LR_BF16), int32_t(LR_F16)}) {
        Buffer y(to, x.count), want(to, x.count);
        for (int64_t i = 0; i < x.count; ++i) want.put(i, x[i]);
        run(KERNEL(convert, ConvertArgs), "edges", to, {&x}, {{&y, [&](int64_t i) { return want[i]; }, 0}}, [&](int32_t t) { return ConvertArgs{x.data, y.data, x.count, LR_F32, t}; });
    }
}

void layer_norm() {
    for (int32_t type : Floats)
        for (auto [rows, cols] : {std::pair<int32_t, int32_t>{1, 1}, {5, 33}, {70, 128}, {3, 16}, {9, 300}}) {
            const int64_t n = int64_t(rows) * cols, k = cols;
            const double eps = 1e-5;
            const Buffer x = random_buffer(type, n), w = random_buffer(LR_F32, k), b = random_buffer(LR_F32, k), dy = random_buffer(type, n);
            Buffer y(type, n), stats(LR_F32, 2 * rows), dx = random_buffer(type, n), dw = random_buffer(LR_F32, k), db = random_buffer(LR_F32, k);
            std::vector<double> mean, rstd;
            for (int64_t r = 0; r < rows; ++r) {
                double m = 0, v = 0;
                for (int64_t c = 0; c < k; ++c) m += x[r * k + c] / double(k);
                for (int64_t c = 0; c < k; ++c) v += (x[r * k + c] - m) * (x[r * k + c] - m) / double(k);
                mean.push_back(m), rstd.push_back(1 / sqrt(v + eps));
            }
            auto hat = [&](int64_t i) { return (x[i] - mean[size_t(i / k)]) * rstd[size_t(i / k)]; };
            run(KERNEL(layer_norm_forward, LayerNormArgs), "", type, {&x, &w, &b},
                {{&y, [&](int64_t i) { return hat(i) * w[i % k] + b[i % k]; }}, {&stats, [&](int64_t i) { return (i & 1 ? rstd : mean)[size_t(i / 2)]; }}},
                [&, r = rows](int32_t t) { return LayerNormArgs{x.data, w.data, b.data, y.data, stats.data, r, int32_t(k), eps, t, 0}; });
            Buffer saved(LR_F32, 2 * rows);
            for (int64_t r = 0; r < rows; ++r) saved.put(2 * r, mean[size_t(r)]), saved.put(2 * r + 1, rstd[size_t(r)]);
            auto want = [&](int64_t i) {
                double g1 = 0, g2 = 0;
                for (int64_t j = i / k * k; j < i / k * k + k; ++j) g1 += dy[j] * w[j % k] / double(k), g2 += dy[j] * w[j % k] * hat(j) / double(k);
                return dx[i] + rstd[size_t(i / k)] * (dy[i] * w[i % k] - g1 - hat(i) * g2);
            };
            auto column = [&, r = rows](int64_t c, bool with_hat) {
                double total = 0;
                for (int64_t i = c; i < r * k; i += k) total += dy[i] * (with_hat ? hat(i) : 1);
                return total;
            };
            run(KERNEL(layer_norm_backward, LayerNormGradArgs), "", type, {&x, &w, &saved, &dy},
                {{&dx, want, 4}, {&dw, [&](int64_t c) { return dw[c] + column(c, true); }, 4}, {&db, [&](int64_t c) { return column(c, false); }}},
                [&, r = rows](int32_t t) { return LayerNormGradArgs{x.data, w.data, saved.data, dy.data, dx.data, dw.data, db.data, r, int32_t(k), t, 0, 3}; });
        }
}

void optimizers() {
    const int64_t n = 40100;
    const Segment segments[] = {{3, 20001, 3, 0, 1, 0.1}, {20010, 17, 20010, 3, 0.5, 0}, {20100, 20000, 20100, 0, 2, 0.01}};
    auto segment = [&](int64_t i) -> const Segment* {
        for (auto& s : segments)
            if (s.start <= i && i < s.start + s.count) return &s;
        return nullptr;
    };
    Buffer p = random_buffer(LR_F32, n), m = random_buffer(LR_F32, n, 0.1), v(LR_F32, n), norm(LR_F64, 1);
    const Buffer g = random_buffer(LR_F32, n);
    for (int64_t i = 0; i < n; ++i) v.put(i, uniform() * uniform() + 1);
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += segment(i) ? g[i] * g[i] : 0;
    run(KERNEL(square_sum, SquareSumArgs), "", LR_F32, {&g}, {{&norm, [&](int64_t) { return squares; }}},
        [&](int32_t t) { return SquareSumArgs{g.data, segments, norm.data, 3, t}; });
    Buffer saved(LR_F64, 1);
    saved.put(0, squares);
    const double lr = 1e-2, b1 = 0.9, b2 = 0.99, eps = 1e-8, limit = 100, clip = limit / (sqrt(squares) + 1e-6);
    for (int32_t coupled : {0, 1}) {
        auto grad = [&](int64_t i) { return g[i] * clip + (coupled ? segment(i)->weight_decay * p[i] : 0); };
        auto m1 = [&](int64_t i) { return segment(i) ? b1 * m[i] + (1 - b1) * grad(i) : m[i]; };
        auto v1 = [&](int64_t i) { return segment(i) ? b2 * v[i] + (1 - b2) * grad(i) * grad(i) : v[i]; };
        auto p1 = [&](int64_t i) {
            if (!segment(i)) return p[i];
            const double rate = lr * segment(i)->lr_scale, steps = 7 - double(segment(i)->paused);
            return (coupled ? p[i] : p[i] * (1 - rate * segment(i)->weight_decay)) - rate / (1 - pow(b1, steps)) * m1(i) / (sqrt(v1(i) / (1 - pow(b2, steps))) + eps);
        };
        run(KERNEL(adamw, AdamWArgs), coupled ? "coupled" : "decoupled", LR_F32, {&g, &saved}, {{&p, p1}, {&m, m1}, {&v, v1}},
            [&](int32_t t) { return AdamWArgs{p.data, g.data, m.data, v.data, segments, saved.data, nullptr, lr, b1, b2, eps, limit, 7, 3, coupled, 0, 0, t}; });
    }
    for (int32_t nesterov : {0, 1}) {
        auto grad = [&](int64_t i) { return g[i] + segment(i)->weight_decay * p[i]; };
        auto buffer = [&](int64_t i) { return segment(i) ? 0.9 * m[i] + 0.8 * grad(i) : m[i]; };
        auto p1 = [&](int64_t i) { return segment(i) ? p[i] - lr * segment(i)->lr_scale * (nesterov ? grad(i) + 0.9 * buffer(i) : buffer(i)) : p[i]; };
        run(KERNEL(sgd, SgdArgs), "", LR_F32, {&g}, {{&p, p1}, {&m, buffer}},
            [&](int32_t t) { return SgdArgs{p.data, g.data, m.data, segments, nullptr, nullptr, lr, 0.9, 0.2, 0, 2, 3, nesterov, t}; });
    }
    Buffer mean(LR_F32, n);
    for (int64_t i = 0; i < n; ++i) mean.put(i, uniform() / 2);
    auto grad = [&](int64_t i) { return g[i] + segment(i)->weight_decay * p[i]; };
    auto v1 = [&](int64_t i) { return segment(i) ? 0.9 * v[i] + 0.1 * grad(i) * grad(i) : v[i]; };
    auto mean1 = [&](int64_t i) { return segment(i) ? 0.9 * mean[i] + 0.1 * grad(i) : mean[i]; };
    auto buffer = [&](int64_t i) { return segment(i) ? 0.5 * m[i] + grad(i) / (sqrt(v1(i) - mean1(i) * mean1(i)) + eps) : m[i]; };
    run(KERNEL(rmsprop, RmsPropArgs), "", LR_F32, {&g}, {{&p, [&](int64_t i) { return segment(i) ? p[i] - lr * segment(i)->lr_scale * buffer(i) : p[i]; }}, {&v, v1}, {&mean, mean1}, {&m, buffer}},
        [&](int32_t t) { return RmsPropArgs{p.data, g.data, v.data, mean.data, m.data, segments, nullptr, nullptr, lr, 0.9, 0.5, eps, 0, 7, 3, t}; });
}

// A book of evenly spaced values from `least` to 1: values, middles, places
std::vector<float> even_book(double least) {
    constexpr int Places = 23 * 128 + 1;
    std::vector<float> book(512 + (2 * Places + 3 + 3) / 4);
    for (int i = 0; i < 256; ++i) book[size_t(i)] = float(least + (1 - least) * i / 255);
    for (int i = 0; i < 255; ++i) book[size_t(256 + i)] = (book[size_t(i)] + book[size_t(i + 1)]) / 2;
    book[511] = INFINITY;
    uint8_t* first = reinterpret_cast<uint8_t*>(book.data() + 512);
    for (int place = 0; place < 2 * Places; ++place) {
        const int at = place % Places;
        const double octave = pow(2, at / 128 - 23), low = at == 0 ? 0 : octave * (1 + at % 128 / 128.0), high = octave * (1 + (at % 128 + 1) / 128.0);
        const double x = place < Places ? low : -fmin(1, high * (1 - 1e-7));
        int code = 0;
        while (code < 255 && book[size_t(256 + code)] < x) ++code;
        first[place] = uint8_t(code);
    }
    return book;
}

// Two blocks and a piece in codes, then a parameter in floats
void coded_moments() {
    const Segment segments[] = {{0, 600, 0, 0, 2, 0.1}, {608, 50, 5, 0, 1, 0}};
    const int64_t blocks[] = {1, -1}, n = 660;
    const double lr = 1e-2, b1 = 0.9, b2 = 0.99, eps = 1e-8, c1 = 1 - pow(b1, 7), c2 = sqrt(1 - pow(b2, 7));
    const std::vector<float> book1 = even_book(-1), book2 = even_book(0);
    Buffer p = random_buffer(LR_F32, n), g = random_buffer(LR_F32, n), m = random_buffer(LR_F32, 60), v(LR_F32, 60), codes1(LR_U8, 600), codes2(LR_U8, 600), max1(LR_F32, 4), max2(LR_F32, 4);
    for (int64_t i = 0; i < v.count; ++i) v.put(i, fabs(uniform()));
    for (int64_t i = 0; i < 600; ++i) codes1.put(i, floor(128 + 127 * uniform())), codes2.put(i, floor(128 + 127 * uniform()));
    for (int64_t i = 0; i < 4; ++i) max1.put(i, 0.5 + fabs(uniform())), max2.put(i, 0.5 + fabs(uniform()));
    g.put(300, INFINITY);
    auto coded = [&](int64_t i) { return i < 600; };
    auto left = [&](int64_t i) { return i == 300 || (i >= 600 && (i < 608 || i >= 658)); };
    auto m1 = [&](int64_t i) { return left(i) ? 0 : b1 * (coded(i) ? double(book1[size_t(codes1[i])]) * max1[1 + i / 256] : m[i - 603]) + (1 - b1) * g[i]; };
    auto v1 = [&](int64_t i) { return left(i) ? 0 : b2 * (coded(i) ? double(book2[size_t(codes2[i])]) * max2[1 + i / 256] : v[i - 603]) + (1 - b2) * g[i] * g[i]; };
    auto p1 = [&](int64_t i) {
        const Segment& s = segments[coded(i) ? 0 : 1];
        return left(i) ? p[i] : (p[i] - lr * s.lr_scale * c2 / c1 * m1(i) / (sqrt(v1(i)) + c2 * eps)) * (1 - lr * s.lr_scale * s.weight_decay);
    };
    auto most = [&](int64_t block, auto&& moment) {
        double largest = 0;
        for (int64_t i = block * 256; i < 600 && i < block * 256 + 256; ++i) largest = fmax(largest, fabs(moment(i)));
        return largest;
    };
    auto code = [&](int64_t i, auto&& moment, const std::vector<float>& book) {
        const double x = moment(i) / most(i / 256, moment);
        int found = 0;
        while (double(book[size_t(256 + found)]) < x) ++found;
        return double(found);
    };
    auto kept = [](auto& floats, auto&& moment) { return [&floats, moment](int64_t i) { return i < 5 || i >= 55 ? floats[i] : moment(i + 603); }; };
    run(KERNEL(adam_8bit, Adam8BitArgs), "", LR_F32, {&g},
        {{&p, p1}, {&m, kept(m, m1)}, {&v, kept(v, v1)}, {&codes1, [&](int64_t i) { return code(i, m1, book1); }}, {&codes2, [&](int64_t i) { return code(i, v1, book2); }},
         {&max1, [&](int64_t i) { return i == 0 ? max1[0] : most(i - 1, m1); }}, {&max2, [&](int64_t i) { return i == 0 ? max2[0] : most(i - 1, v1); }}},
        [&](int32_t t) { return Adam8BitArgs{p.data, g.data, m.data, v.data, codes1.data, codes2.data, max1.data, max2.data, book1.data(), book2.data(), segments, blocks, nullptr, nullptr, lr, b1, b2, eps, 0, 7, 2, t}; });
}

// A matrix of more than one band of rows, and a vector
void factored_moments() {
    const Factored tensors[] = {{3, 70, 33, 2, 5, 2, 0.1}, {2400, 1, 50, -1, 60, 1, 0}};
    const double lr = 1e-2, decay = 0.8, eps1 = 1e-7, eps2 = 1e-3, threshold = 1, fresh = pow(7, -decay);
    Buffer p = random_buffer(LR_F32, 2500), row(LR_F32, 80), col(LR_F32, 120);
    const Buffer g = random_buffer(LR_F32, 2500);
    for (int64_t i = 0; i < row.count; ++i) row.put(i, fabs(uniform()));
    for (int64_t i = 0; i < col.count; ++i) col.put(i, fabs(uniform()));
    std::vector<double> p1, row1, col1;
    for (int64_t i = 0; i < p.count; ++i) p1.push_back(p[i]);
    for (int64_t i = 0; i < row.count; ++i) row1.push_back(row[i]);
    for (int64_t i = 0; i < col.count; ++i) col1.push_back(col[i]);
    for (const Factored& t : tensors) {
        auto at = [&](const Buffer& b, int64_t r, int64_t c) { return b[t.start + r * t.cols + c]; };
        double mean = 0, values = 0, norm = 0;
        for (int64_t r = 0; r < t.rows; ++r) {
            double sum = 0;
            for (int64_t c = 0; c < t.cols; ++c) sum += at(g, r, c) * at(g, r, c), values += at(p, r, c) * at(p, r, c);
            if (t.row_state >= 0) mean += (row1[size_t(t.row_state + r)] += fresh * (sum / double(t.cols) - row[t.row_state + r])) / double(t.rows);
        }
        for (int64_t c = 0; c < t.cols; ++c) {
            double sum = 0;
            for (int64_t r = 0; r < t.rows; ++r) sum += at(g, r, c) * at(g, r, c);
            col1[size_t(t.col_state + c)] += fresh * (sum / double(t.rows) - col[t.col_state + c]);
        }
        auto update = [&](int64_t r, int64_t c) { return at(g, r, c) / sqrt((t.row_state < 0 ? 1 : row1[size_t(t.row_state + r)] / mean) * col1[size_t(t.col_state + c)]); };
        const double count = double(t.rows * t.cols);
        for (int64_t r = 0; r < t.rows; ++r)
            for (int64_t c = 0; c < t.cols; ++c) norm += update(r, c) * update(r, c) / count;
        const double step = fmax(eps2, sqrt(values / count)) * lr * t.lr_scale / fmax(1, sqrt(norm) / threshold);
        for (int64_t r = 0; r < t.rows; ++r)
            for (int64_t c = 0; c < t.cols; ++c) p1[size_t(t.start + r * t.cols + c)] = at(p, r, c) * (1 - lr * t.lr_scale * t.weight_decay) - step * update(r, c);
    }
    run(KERNEL(adafactor, AdafactorArgs), "", LR_F32, {&g},
        {{&p, [&](int64_t i) { return p1[size_t(i)]; }}, {&row, [&](int64_t i) { return row1[size_t(i)]; }}, {&col, [&](int64_t i) { return col1[size_t(i)]; }}},
        [&](int32_t type) { return AdafactorArgs{p.data, g.data, row.data, col.data, tensors, nullptr, nullptr, lr, decay, eps1, eps2, threshold, 0, 7, 71, 2, type}; });
}

} // namespace

void pointwise() {
    unary(KERNEL(gelu_forward, UnaryArgs), KERNEL(gelu_backward, UnaryGradArgs), [](double x) { return x * phi(x); }, [](double x) { return phi(x) + x * exp(-x * x / 2) / sqrt(2 * M_PI); });
    unary(KERNEL(gelu_tanh_forward, UnaryArgs), KERNEL(gelu_tanh_backward, UnaryGradArgs), tanh_gelu, tanh_gelu_slope);
    unary(KERNEL(tanh_forward, UnaryArgs), KERNEL(tanh_backward, UnaryGradArgs), tanh, [](double x) { return 1 - tanh(x) * tanh(x); });
    unary(KERNEL(relu_forward, UnaryArgs), KERNEL(relu_backward, UnaryGradArgs), [](double x) { return x > 0 ? x : 0; }, [](double x) { return x > 0 ? 1.0 : 0; });
    unary(KERNEL(sigmoid_forward, UnaryArgs), KERNEL(sigmoid_backward, UnaryGradArgs), logistic, [](double x) { return logistic(x) * (1 - logistic(x)); });
    unary(KERNEL(exp_forward, UnaryArgs), KERNEL(exp_backward, UnaryGradArgs), exp, exp);
    unary(KERNEL(silu_forward, UnaryArgs), KERNEL(silu_backward, UnaryGradArgs), silu, silu_slope);
    unary(KERNEL(quick_gelu_forward, UnaryArgs), KERNEL(quick_gelu_backward, UnaryGradArgs), quick_gelu, quick_gelu_slope);
    gated(KERNEL(silu_mul_forward, BinaryArgs), KERNEL(silu_mul_backward, BinaryGradArgs), silu, silu_slope);
    gated(KERNEL(gelu_tanh_mul_forward, BinaryArgs), KERNEL(gelu_tanh_mul_backward, BinaryGradArgs), tanh_gelu, tanh_gelu_slope);
    binary();
    scale_rows();
    draws_and_copies();
    layer_norm();
    optimizers();
    factored_moments();
    coded_moments();
}

} // namespace test
