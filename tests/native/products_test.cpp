// Matrix products and the low-rank layer against three loops in float64.
#include "check.h"

namespace test {

namespace {

constexpr int32_t Types[] = {LR_F32, LR_BF16};

// sum over s of a(s) b(s)
template <class A, class B> double contract(int64_t steps, A&& a, B&& b) {
    double total = 0;
    for (int64_t s = 0; s < steps; ++s) total += a(s) * b(s);
    return total;
}

void packs() {
    for (int32_t type : Types)
        for (auto [n, k] : {std::pair<int32_t, int32_t>{1, 1}, {5, 16}, {65, 33}, {96, 40}}) {
            const int64_t rows = n, steps = k, pairs = (steps + 1) / 2, size = (rows + 31) / 32 * 32 * (type == LR_F32 ? steps : 2 * pairs);
            const Buffer w = random_buffer(type, rows * steps);
            Buffer panels(type, size), back(type, rows * steps);
            auto place = [&](int64_t i) { // element i of the panels: row and step
                const int64_t group = type == LR_F32 ? 1 : 2, line = i / group / 32, per = type == LR_F32 ? steps : pairs;
                return std::pair<int64_t, int64_t>{line / per * 32 + i / group % 32, line % per * group + i % group};
            };
            run(KERNEL(pack, PackArgs), "", type, {&w},
                {{&panels, [&](int64_t i) { auto [r, s] = place(i); return r < rows && s < steps ? w[r * steps + s] : 0; }, 0}},
                [&, r = n, s = k](int32_t t) { return PackArgs{w.data, panels.data, r, s, 0, t}; });
            Buffer packed(type, size);
            for (int64_t i = 0; i < size; ++i) { auto [r, s] = place(i); packed.put(i, r < rows && s < steps ? w[r * steps + s] : 0); }
            run(KERNEL(pack, PackArgs), "back", type, {&packed}, {{&back, [&](int64_t i) { return w[i]; }, 0}}, [&, r = n, s = k](int32_t t) { return PackArgs{packed.data, back.data, r, s, 1, t}; });
        }
}

void products_plain() {
    for (int32_t type : Types)
        for (auto [m, n, k] : {std::tuple<int32_t, int32_t, int32_t>{1, 1, 1}, {5, 9, 4}, {33, 40, 17}, {70, 65, 129}})
            for (int32_t flags = 0; flags < 4; ++flags)
                for (uint32_t add : {0u, 1u}) {
                    const int32_t M = m, N = n, K = k, ta = flags & 1, tb = flags >> 1;
                    const Buffer a = random_buffer(type, int64_t(M) * K), b = random_buffer(type, int64_t(K) * N);
                    Buffer c = random_buffer(type, int64_t(M) * N);
                    run(KERNEL(matmul, MatMulArgs), std::to_string(flags), type, {&a, &b},
                        {{&c, [&](int64_t e) {
                              const int64_t i = e / N, j = e % N;
                              return (add ? c[e] : 0) + 0.5 * contract(K, [&](int64_t s) { return a[ta ? s * M + i : i * K + s]; }, [&](int64_t s) { return b[tb ? j * K + s : s * N + j]; });
                          }}},
                        [&](int32_t t) { return MatMulArgs{a.data, b.data, c.data, M, N, K, ta, tb, 0.5, t, add}; });
                }
}

// linear and lora, forward and backward, on one set of operands
void layers() {
    for (int32_t type : Types)
        for (auto [tokens, n, k, r] : {std::tuple<int32_t, int32_t, int32_t, int32_t>{1, 1, 1, 1}, {3, 5, 16, 2}, {37, 70, 50, 8}, {130, 35, 67, 3}, {26, 129, 96, 40}}) {
            const int32_t T = tokens, N = n, K = k, R = r;
            const std::string label = std::to_string(T) + "x" + std::to_string(N) + "x" + std::to_string(K) + " r " + std::to_string(R);
            const double scale = 1.5;
            const Buffer x = random_buffer(type, int64_t(T) * K), w = random_buffer(type, int64_t(N) * K), dy = random_buffer(type, int64_t(T) * N);
            const Buffer bias = random_buffer(LR_F32, N), a = random_buffer(LR_F32, int64_t(R) * K), b = random_buffer(LR_F32, int64_t(N) * R);
            Buffer y(type, int64_t(T) * N), t_out(LR_F32, int64_t(T) * R), t_in(LR_F32, int64_t(T) * R);
            Buffer dx = random_buffer(type, int64_t(T) * K), dw = random_buffer(type, int64_t(N) * K), dbias = random_buffer(LR_F32, N);
            Buffer da = random_buffer(LR_F32, int64_t(R) * K), db = random_buffer(LR_F32, int64_t(N) * R);
            auto base = [&](int64_t e) { return bias[e % N] + contract(K, [&](int64_t s) { return x[e / N * K + s]; }, [&](int64_t s) { return w[e % N * K + s]; }); };
            auto back = [&](int64_t e) { return contract(N, [&](int64_t s) { return dy[e / K * N + s]; }, [&](int64_t s) { return w[s * K + e % K]; }); };
            auto column = [&](int64_t c) { return contract(T, [&](int64_t i) { return dy[i * N + c]; }, [](int64_t) { return 1.0; }); };
            run(KERNEL(linear_forward, LinearArgs), label, type, {&x, &w, &bias}, {{&y, base}},
                [&](int32_t t) { return LinearArgs{x.data, w.data, bias.data, y.data, T, N, K, t, type, LR_ROWS}; });
            for (uint32_t add : {0u, 7u})
                run(KERNEL(linear_backward, LinearGradArgs), label, type, {&x, &w, &dy},
                    {{&dx, [&](int64_t e) { return (add ? dx[e] : 0) + back(e); }},
                     {&dw, [&](int64_t e) { return (add ? dw[e] : 0) + contract(T, [&](int64_t i) { return dy[i * N + e / K]; }, [&](int64_t i) { return x[i * K + e % K]; }); }},
                     {&dbias, [&](int64_t c) { return (add ? dbias[c] : 0) + column(c); }}},
                    [&](int32_t t) { return LinearGradArgs{x.data, w.data, dy.data, dx.data, dw.data, dbias.data, T, N, K, t, type, LR_ROWS, add}; });
            std::vector<double> low, up;
            for (int64_t e = 0; e < int64_t(T) * R; ++e) {
                low.push_back(scale * contract(K, [&](int64_t s) { return x[e / R * K + s]; }, [&](int64_t s) { return a[e % R * K + s]; }));
                up.push_back(scale * contract(N, [&](int64_t s) { return dy[e / R * N + s]; }, [&](int64_t s) { return b[s * R + e % R]; }));
                t_in.put(e, low.back());
            }
            run(KERNEL(lora_forward, LoraArgs), label, type, {&x, &w, &a, &b, &bias},
                {{&y, [&](int64_t e) { return base(e) + contract(R, [&](int64_t s) { return low[size_t(e / N * R + s)]; }, [&](int64_t s) { return b[e % N * R + s]; }); }}, {&t_out, [&](int64_t e) { return low[size_t(e)]; }}},
                [&](int32_t t) { return LoraArgs{x.data, nullptr, w.data, a.data, b.data, bias.data, nullptr, y.data, nullptr, t_out.data, T, N, K, R, scale, t, type, LR_ROWS}; });
            run(KERNEL(lora_backward, LoraGradArgs), label, type, {&x, &w, &a, &b, &t_in, &dy},
                {{&dx, [&](int64_t e) { return back(e) + contract(R, [&](int64_t s) { return up[size_t(e / K * R + s)]; }, [&](int64_t s) { return a[s * K + e % K]; }); }},
                 {&da, [&](int64_t e) { return da[e] + contract(T, [&](int64_t i) { return up[size_t(i * R + e / K)]; }, [&](int64_t i) { return x[i * K + e % K]; }); }},
                 {&db, [&](int64_t e) { return db[e] + contract(T, [&](int64_t i) { return dy[i * N + e / R]; }, [&](int64_t i) { return t_in[i * R + e % R]; }); }},
                 {&dbias, column}},
                [&](int32_t t) {
                    return LoraGradArgs{x.data, nullptr, w.data, a.data, b.data, nullptr, t_in.data, nullptr, dy.data, dx.data, nullptr, da.data, db.data, dbias.data, nullptr, T, N, K, R, scale, t, type, LR_ROWS, 4 | 8};
                });
            if (type != LR_F32) continue;
            Buffer merged(LR_F32, int64_t(N) * K), squares(LR_F32, N), norms(LR_F32, N), inverses(LR_F32, N);
            auto delta = [&](int64_t e) { return w[e] + scale * contract(R, [&](int64_t s) { return b[e / K * R + s]; }, [&](int64_t s) { return a[s * K + e % K]; }); };
            run(KERNEL(add_matmul, AddMatMulArgs), label, type, {&w, &b, &a}, {{&merged, delta}}, [&](int32_t t) { return AddMatMulArgs{w.data, b.data, a.data, merged.data, N, K, R, 0, scale, t, t}; });
            auto norm = [&](int64_t i) { return sqrt(contract(K, [&](int64_t s) { return delta(i * K + s); }, [&](int64_t s) { return delta(i * K + s); })); };
            run(KERNEL(row_norm, RowNormArgs), label, type, {&w, &a, &b},
                {{&squares, [&](int64_t i) { return contract(K, [&](int64_t s) { return w[i * K + s]; }, [&](int64_t s) { return w[i * K + s]; }); }}, {&norms, norm, 4}, {&inverses, [&](int64_t i) { return 1 / norm(i); }, 4}},
                [&](int32_t t) { return RowNormArgs{w.data, a.data, b.data, squares.data, norms.data, inverses.data, N, K, R, 1, scale, t, type, LR_ROWS}; });
        }
}

// A batch of nine tokens and four adapters, one of them of rank 0
void adapters_mixed() {
    const LoraRange ranges[] = {{1.5, 0, 3}, {-0.5, 3, 1}, {1, 4, 0}, {0.25, 4, 17}};
    const LoraPiece pieces[] = {{0, 1, 3, 0}, {1, 5, 0, 0}, {6, 1, 2, 0}, {8, 1, 1, 0}};
    const int of[] = {3, 0, 0, 0, 0, 0, 2, 2, 1}; // adapter 2 and none are the same
    for (int32_t type : Types)
        for (int32_t factors : {int32_t(LR_F32), type})
            for (auto [n, k] : {std::pair<int32_t, int32_t>{1, 1}, {5, 16}, {70, 50}, {96, 40}}) {
                const int32_t T = 9, N = n, K = k, R = 21;
                const Buffer x = random_buffer(type, T * K), w = random_buffer(type, N * K), a = random_buffer(factors, R * K), b = random_buffer(factors, R * N), bias = random_buffer(LR_F32, N);
                Buffer y(type, T * N);
                auto want = [&](int64_t e) {
                    const int64_t i = e / N, j = e % N;
                    const LoraRange& range = ranges[of[i]];
                    auto row = [&](const Buffer& m, int64_t line) { return contract(K, [&](int64_t s) { return x[i * K + s]; }, [&, line](int64_t s) { return m[line * K + s]; }); };
                    return bias[j] + row(w, j) + range.scale * contract(range.rank, [&](int64_t q) { return row(a, range.first + q); }, [&](int64_t q) { return b[(range.first + q) * N + j]; });
                };
                run(KERNEL(multi_lora_forward, MultiLoraArgs), std::to_string(N) + "x" + std::to_string(K), type, {&x, &w, &a, &b, &bias}, {{&y, want}},
                    [&](int32_t t) { return MultiLoraArgs{x.data, w.data, a.data, b.data, bias.data, y.data, ranges, pieces, T, N, K, 17, 4, t, type, LR_ROWS, factors}; });
            }
}

// Gate and up of a feed-forward in one pass
void gated() {
    for (int32_t type : Types)
        for (auto [tokens, n, k, rg, ru] : {std::tuple<int32_t, int32_t, int32_t, int32_t, int32_t>{1, 1, 1, 0, 0}, {9, 16, 20, 0, 3}, {37, 70, 33, 5, 2}})
            for (int32_t gate : {int32_t(LR_SILU), int32_t(LR_GELU_TANH)}) {
                const int32_t T = tokens, N = n, K = k, Rg = rg, Ru = ru, f = gate;
                const double scales[] = {1.5, -0.5};
                const Buffer x = random_buffer(type, int64_t(T) * K), wg = random_buffer(type, int64_t(N) * K), wu = random_buffer(type, int64_t(N) * K), bias = random_buffer(LR_F32, N);
                const Buffer ag = random_buffer(LR_F32, int64_t(Rg) * K), bg = random_buffer(LR_F32, int64_t(N) * Rg), au = random_buffer(LR_F32, int64_t(Ru) * K), bu = random_buffer(LR_F32, int64_t(N) * Ru);
                Buffer y(type, int64_t(T) * N), tg(LR_F32, int64_t(T) * Rg), tu(LR_F32, int64_t(T) * Ru), g(type, int64_t(T) * N), u(type, int64_t(T) * N);
                auto low = [&](const Buffer& a, double scale, int64_t i, int64_t r) { return scale * contract(K, [&](int64_t s) { return x[i * K + s]; }, [&](int64_t s) { return a[r * K + s]; }); };
                auto layer = [&](const Buffer& w, const Buffer& a, const Buffer& b, int32_t r, double scale, int64_t e) {
                    return contract(K, [&](int64_t s) { return x[e / N * K + s]; }, [&](int64_t s) { return w[e % N * K + s]; }) + contract(r, [&](int64_t q) { return low(a, scale, e / N, q); }, [&](int64_t q) { return b[e % N * r + q]; });
                };
                auto gate_at = [&](int64_t e) { return layer(wg, ag, bg, Rg, scales[0], e) + bias[e % N]; };
                auto up_at = [&](int64_t e) { return layer(wu, au, bu, Ru, scales[1], e); };
                auto activated = [&](double v) { return f == LR_SILU ? v / (1 + exp(-v)) : 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v))); };
                run(KERNEL(gated_linear_forward, GatedLinearArgs), std::to_string(T) + "x" + std::to_string(N) + "x" + std::to_string(K), type, {&x, &wg, &wu, &ag, &bg, &au, &bu, &bias},
                    {{&y, [&](int64_t e) { return activated(gate_at(e)) * up_at(e); }, 3},
                     {&tg, [&](int64_t e) { return low(ag, scales[0], e / Rg, e % Rg); }},
                     {&tu, [&](int64_t e) { return low(au, scales[1], e / Ru, e % Ru); }},
                     {&g, gate_at},
                     {&u, up_at}},
                    [&](int32_t t) {
                        return GatedLinearArgs{x.data, wg.data, wu.data, ag.data, bg.data, au.data, bu.data, bias.data, nullptr, y.data, tg.data, tu.data, g.data, u.data, scales[0], scales[1], T, N, K, Rg, Ru, f, 1, t, type, LR_ROWS};
                    });
            }
}

} // namespace

void products() {
    packs();
    products_plain();
    layers();
    adapters_mixed();
    gated();
}

} // namespace test
