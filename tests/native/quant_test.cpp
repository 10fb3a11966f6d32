// Quantised matrices: values spelled out, and the products that take them, against float64 loops.
#include "check.h"

namespace test {

namespace {

// A matrix [n,k] of random codes in the layout of lowrank.h
struct CodedMatrix {
    int32_t layout, n, k, block;
    int64_t scales_at;
    Buffer memory;

    CodedMatrix(int32_t form, int32_t rows, int32_t cols, int32_t size)
        : layout(form), n(rows), k(cols), block(form == LR_CODES8 ? cols : size), scales_at(128 + (code_bytes() + 63) / 64 * 64), memory(LR_U8, scales_at + 4 * ((elements() + block - 1) / block)) {
        const auto put = [&](int64_t at, auto value) {
            uint8_t bytes[sizeof value];
            memcpy(bytes, &value, sizeof value);
            for (size_t i = 0; i < sizeof value; ++i) memory.put(at + int64_t(i), bytes[i]);
        };
        for (int64_t i = 0; i < memory.count; ++i) memory.put(i, 0);
        for (int i = 0; i < 16; ++i) put(4 * i, float(uniform()));
        put(64, block);
        for (int64_t i = 0; i < code_bytes(); ++i) memory.put(128 + i, floor((uniform() + 1) * 128));
        for (int64_t at = scales_at; at < memory.count; at += 4) put(at, float((2 + uniform()) / (form == LR_CODES8 ? 127 : 1)));
    }
    int64_t elements() const { return int64_t(n) * k; }
    int64_t code_bytes() const { return layout == LR_CODES8 ? elements() : (elements() + 1) / 2; }
    double operator[](int64_t i) const {
        const auto number = [&](int64_t at) { return get(memory.data + at, LR_F32, 0); };
        const double scale = number(scales_at + 4 * (i / block));
        if (layout == LR_CODES8) return scale * int8_t(memory[128 + i]);
        return scale * number(4 * (int(memory[128 + i / 2]) >> (i % 2 ? 0 : 4) & 15));
    }
};

void spelled_out(const CodedMatrix& w, const std::string& label) {
    for (int32_t type : {LR_F32, LR_BF16, LR_F16}) {
        Buffer y(type, w.elements());
        run(KERNEL(dequantize, DequantizeArgs), label, type, {&w.memory}, {{&y, [&](int64_t i) { return w[i]; }}}, [&](int32_t t) { return DequantizeArgs{w.memory.data, y.data, w.n, w.k, t, w.layout}; });
    }
}

void layer(const CodedMatrix& w, int32_t T, int32_t type, const std::string& label) {
    const int32_t N = w.n, K = w.k, R = 3;
    const double scale = 1.5;
    const Buffer x = random_buffer(type, int64_t(T) * K), dy = random_buffer(type, int64_t(T) * N), bias = random_buffer(LR_F32, N), c = random_buffer(LR_F32, N);
    const Buffer a = random_buffer(LR_F32, int64_t(R) * K), b = random_buffer(LR_F32, int64_t(N) * R), t_in = random_buffer(LR_F32, int64_t(T) * R);
    std::vector<double> weights, low(size_t(T * R)), up(size_t(T * R));
    for (int64_t i = 0; i < w.elements(); ++i) weights.push_back(w[i]);
    for (int64_t e = 0; e < int64_t(T) * R; ++e) {
        for (int64_t s = 0; s < K; ++s) low[size_t(e)] += scale * x[e / R * K + s] * a[e % R * K + s];
        for (int64_t s = 0; s < N; ++s) up[size_t(e)] += scale * c[s] * dy[e / R * N + s] * b[s * R + e % R];
    }
    Buffer y(type, int64_t(T) * N), y0(type, int64_t(T) * N), t_out(LR_F32, int64_t(T) * R), dx = random_buffer(type, int64_t(T) * K), plain(type, int64_t(T) * N);
    const auto base = [&](int64_t e) {
        double total = 0;
        for (int64_t s = 0; s < K; ++s) total += x[e / N * K + s] * weights[size_t(e % N * K + s)];
        return total;
    };
    const auto whole = [&](int64_t e) {
        double total = base(e);
        for (int64_t q = 0; q < R; ++q) total += low[size_t(e / N * R + q)] * b[e % N * R + q];
        return total;
    };
    run(KERNEL(linear_forward, LinearArgs), label, type, {&x, &w.memory}, {{&plain, base}},
        [&](int32_t t) { return LinearArgs{x.data, w.memory.data, nullptr, plain.data, T, N, K, t, LR_F16, w.layout}; });
    run(KERNEL(lora_forward, LoraArgs), label, type, {&x, &w.memory, &a, &b, &bias, &c},
        {{&y, [&](int64_t e) { return c[e % N] * whole(e) + bias[e % N]; }}, {&y0, whole}, {&t_out, [&](int64_t e) { return low[size_t(e)]; }, type == LR_BF16 ? bound(LR_BF16) / bound(LR_F32) : 1}}, // pairs round a, too
        [&](int32_t t) { return LoraArgs{x.data, nullptr, w.memory.data, a.data, b.data, bias.data, c.data, y.data, y0.data, t_out.data, T, N, K, R, scale, t, LR_F32, w.layout}; });
    run(KERNEL(lora_backward, LoraGradArgs), label, type, {&x, &w.memory, &a, &b, &c, &t_in, &dy},
        {{&dx, [&](int64_t e) {
              double total = dx[e];
              for (int64_t s = 0; s < N; ++s) total += c[s] * dy[e / K * N + s] * weights[size_t(s * K + e % K)];
              for (int64_t q = 0; q < R; ++q) total += up[size_t(e / K * R + q)] * a[q * K + e % K];
              return total;
          }, type == LR_BF16 ? 1.5 : 1}},
        [&](int32_t t) {
            return LoraGradArgs{x.data, nullptr, w.memory.data, a.data, b.data, c.data, t_in.data, nullptr, dy.data, dx.data, nullptr, nullptr, nullptr, nullptr, nullptr, T, N, K, R, scale, t, LR_F32, w.layout, 1};
        });
}

} // namespace

void quantised() {
    for (int32_t layout : {LR_CODES8, LR_CODES4})
        for (auto [n, k, block] : {std::tuple<int32_t, int32_t, int32_t>{3, 17, 32}, {37, 33, 32}, {40, 64, 64}, {33, 256, 128}, {5, 48, 64}}) {
            const CodedMatrix w(layout, n, k, block);
            const std::string label = std::to_string(layout == LR_CODES8 ? 8 : 4) + " bits " + std::to_string(n) + "x" + std::to_string(k);
            spelled_out(w, label);
            for (int32_t tokens : {1, 2, 3, 4, 5, 6, 7, 175})
                for (int32_t type : {LR_F32, LR_BF16}) layer(w, tokens, type, label + " T " + std::to_string(tokens));
        }
}

} // namespace test
