// Attention against the matrix of scores written out in float64: tails of every tile, causal with more and with fewer keys than queries, masks, shared key heads,
// soft caps and biases.
#include "check.h"

namespace test {

void attention() {
    struct Case { int32_t batch, queries, keys, heads, kv_heads, dim, causal; bool masked; double cap = 0; bool biased = false; };
    for (const Case& c : {Case{1, 1, 1, 1, 1, 1, 0, false}, {2, 17, 17, 4, 4, 32, 0, false}, {1, 50, 50, 2, 2, 20, 1, false}, {2, 70, 97, 2, 1, 7, 0, true}, {1, 100, 205, 2, 2, 33, 0, true},
                          {1, 6, 9, 4, 2, 8, 1, false}, {1, 60, 5, 2, 1, 12, 1, false}, {1, 199, 199, 2, 1, 16, 1, true}, {1, 400, 16, 1, 1, 4, 0, false}, {2, 50, 100, 2, 1, 20, 1, true, 0.5, true}, {1, 17, 30, 2, 2, 5, 0, false, 0, true}, {1, 60, 60, 1, 1, 8, 1, false, 2}})
        for (int32_t type : {int32_t(LR_F32), int32_t(LR_BF16), int32_t(LR_F16)}) {
            const int64_t T = c.queries, S = c.keys, H = c.heads, K = c.kv_heads, D = c.dim, qn = c.batch * T * H * D, kn = c.batch * S * K * D, rows = c.batch * H * T;
            const double scale = 1 / sqrt(double(D));
            const Buffer q = random_buffer(type, qn), k = random_buffer(type, kn), v = random_buffer(type, kn), dy = random_buffer(type, qn), mask = mask_buffer(c.batch, S);
            const int64_t pairs = H * T * S;
            const Buffer bias = random_buffer(LR_F32, pairs);
            Buffer dbias = random_buffer(LR_F32, pairs);
            std::vector<double> wb(static_cast<size_t>(pairs)), bent(static_cast<size_t>(S));
            Buffer y(type, qn), lse(LR_F32, rows), saved_y(type, qn), saved_lse(LR_F32, rows), dq = random_buffer(type, qn), dk = random_buffer(type, kn), dv = random_buffer(type, kn);
            std::vector<double> wy(static_cast<size_t>(qn)), wl(static_cast<size_t>(rows)), wq(wy), wk(static_cast<size_t>(kn)), wv(wk);
            for (int64_t b = 0; b < c.batch; ++b)
                for (int64_t h = 0; h < H; ++h)
                    for (int64_t i = 0; i < T; ++i) {
                        const int64_t at = ((b * T + i) * H + h) * D, row = (b * H + h) * T + i;
                        auto key = [&](int64_t j) { return ((b * S + j) * K + h / (H / K)) * D; };
                        auto dot = [&](const Buffer& x, int64_t xi, const Buffer& z, int64_t zi) {
                            double s = 0;
                            for (int64_t d = 0; d < D; ++d) s += x[xi + d] * z[zi + d];
                            return s;
                        };
                        std::vector<double> e(static_cast<size_t>(S));
                        double total = 0, mean = 0;
                        for (int64_t j = 0; j < S; ++j)
                            if ((!c.masked || mask[b * S + j] != 0) && (!c.causal || j <= i + S - T)) {
                                const double s = scale * dot(q, at, k, key(j)), t = c.cap > 0 ? tanh(s / c.cap) : 0;
                                bent[size_t(j)] = 1 - t * t;
                                total += e[size_t(j)] = exp((c.cap > 0 ? c.cap * t : s) + (c.biased ? bias[(h * T + i) * S + j] : 0));
                            }
                        wl[size_t(row)] = total > 0 ? log(total) : -INFINITY;
                        for (int64_t j = 0; j < S && total > 0; ++j) {
                            e[size_t(j)] /= total;
                            mean += e[size_t(j)] * dot(dy, at, v, key(j));
                            for (int64_t d = 0; d < D; ++d) wy[size_t(at + d)] += e[size_t(j)] * v[key(j) + d], wv[size_t(key(j) + d)] += e[size_t(j)] * dy[at + d];
                        }
                        for (int64_t j = 0; j < S; ++j) {
                            const double ds = e[size_t(j)] * (dot(dy, at, v, key(j)) - mean), g = scale * bent[size_t(j)] * ds;
                            wb[size_t((h * T + i) * S + j)] += ds;
                            for (int64_t d = 0; d < D; ++d) wq[size_t(at + d)] += g * k[key(j) + d], wk[size_t(key(j) + d)] += g * q[at + d];
                        }
                    }
            for (int64_t i = 0; i < qn; ++i) saved_y.put(i, wy[size_t(i)]);
            for (int64_t i = 0; i < rows; ++i) saved_lse.put(i, wl[size_t(i)]);
            const void *allowed = c.masked ? mask.data : nullptr, *shift = c.biased ? bias.data : nullptr;
            const std::string label = std::to_string(T) + "x" + std::to_string(S) + "x" + std::to_string(D) + (c.causal ? " causal" : "") + (c.biased ? " biased" : "");
            // A rounded y enters the gradients through its product with dy, and sums that cancel lose some of theirs: hence the slack.
            run(KERNEL(attention_forward, AttentionArgs), label, type, {&q, &k, &v, &mask, &bias}, {{&y, [&](int64_t i) { return wy[size_t(i)]; }}, {&lse, [&](int64_t i) { return wl[size_t(i)]; }}},
                [&](int32_t t) { return AttentionArgs{q.data, k.data, v.data, allowed, shift, y.data, lse.data, c.batch, c.queries, c.keys, c.heads, c.kv_heads, c.dim, c.causal, 0, scale, c.cap, t}; });
            for (uint32_t add : {0u, 15u})
                run(KERNEL(attention_backward, AttentionGradArgs), label, type, {&q, &k, &v, &mask, &bias, &saved_y, &saved_lse, &dy},
                    {{&dq, [&](int64_t i) { return (add ? dq[i] : 0) + wq[size_t(i)]; }, 4}, {&dk, [&](int64_t i) { return (add ? dk[i] : 0) + wk[size_t(i)]; }, 4}, {&dv, [&](int64_t i) { return (add ? dv[i] : 0) + wv[size_t(i)]; }},
                     {&dbias, [&](int64_t i) { return (add || !c.biased ? dbias[i] : 0) + (c.biased ? wb[size_t(i)] : 0); }, 4 * bound(type) / bound(LR_F32)}},
                    [&](int32_t t) {
                        return AttentionGradArgs{q.data, k.data, v.data, allowed, shift, saved_y.data, saved_lse.data, dy.data, dq.data, dk.data, dv.data, c.biased ? dbias.data : nullptr, c.batch, c.queries, c.keys, c.heads, c.kv_heads, c.dim, c.causal, 0, scale, c.cap, t, add};
                    });
        }
}

} // namespace test
