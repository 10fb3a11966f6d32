// One level of a wavelet transform along either axis and both, by tables of random weights.
#include "check.h"

namespace test {

namespace {

// A table of lowrank.h with random weights, and its matrices spelled out [outputs][inputs]
struct Table {
    Buffer bytes;
    std::vector<double> low, high;
    int32_t outputs, inputs;

    Table(int64_t size, int32_t o, int32_t i) : bytes(LR_U8, size), low(size_t(o * i)), high(size_t(o * i)), outputs(o), inputs(i) {}
    double at(bool is_high, int64_t o, int64_t i) const { return (is_high ? high : low)[size_t(o * inputs + i)]; }
};

Table table(int32_t samples, int32_t bands, int32_t taps, int32_t start, int32_t first, int32_t last, int32_t width, bool up) {
    const int32_t phases = up ? 2 : 1, outputs = up ? samples : bands, inputs = up ? bands : samples, edges = outputs - phases * (last - first);
    const int32_t weights = 2 * phases * taps, listed = edges * width;
    std::vector<float> reals(size_t(weights + 2 * listed));
    std::vector<int32_t> ints(size_t(listed), 0);
    for (float& v : reals) v = float(uniform());
    for (int32_t& v : ints) v = int32_t((uniform() + 1) / 2 * inputs);
    Table t(4 * (LR_AXIS_INTS + weights + 3 * listed), outputs, inputs);
    for (int32_t o = 0, edge = 0; o < outputs; ++o) {
        const int32_t unit = o / phases, phase = o % phases;
        const bool inside = unit >= first && unit < last;
        for (int32_t j = 0; j < (inside ? taps : width); ++j) {
            const int32_t entry = edge * width + j, column = inside ? (up ? unit : 2 * unit) + start + j : ints[size_t(entry)];
            t.low[size_t(o * inputs + column)] += double(reals[size_t(inside ? 2 * phase * taps + j : weights + entry)]);
            t.high[size_t(o * inputs + column)] += double(reals[size_t(inside ? (2 * phase + 1) * taps + j : weights + listed + entry)]);
        }
        edge += !inside;
    }
    std::vector<int32_t> all = {samples, bands, first, last, taps, start, edges, width};
    all.resize(size_t(LR_AXIS_INTS + weights + 2 * listed));
    memcpy(all.data() + LR_AXIS_INTS, reals.data(), reals.size() * sizeof(float));
    all.insert(all.end(), ints.begin(), ints.end());
    const unsigned char* raw = reinterpret_cast<const unsigned char*>(all.data());
    for (int64_t i = 0; i < t.bytes.count; ++i) t.bytes.put(i, double(raw[i]));
    return t;
}

// An absent axis
Table identity(int32_t n) {
    Table t(0, n, n);
    for (int32_t i = 0; i < n; ++i) t.low[size_t(i * n + i)] = 1;
    return t;
}

void one(int32_t type, const Table* rows, const Table* cols, int32_t lines, bool up, uint32_t add, bool with_w) {
    const Table none = identity(lines), &r = rows ? *rows : none, &c = cols ? *cols : none;
    const int32_t x_rows = up ? r.outputs : r.inputs, x_cols = up ? c.outputs : c.inputs, b_rows = up ? r.inputs : r.outputs, b_cols = up ? c.inputs : c.outputs;
    const int32_t ldx = x_cols + 3, ldb = b_cols + 5;
    const double scale = 0.75;
    Buffer x = random_buffer(type, int64_t(x_rows) * ldx), w = random_buffer(type, with_w ? int64_t(x_rows) * ldx : 0);
    Buffer bands[4] = {random_buffer(LR_F32, int64_t(b_rows) * ldb), random_buffer(LR_F32, int64_t(b_rows) * ldb), random_buffer(LR_F32, int64_t(b_rows) * ldb), random_buffer(LR_F32, int64_t(b_rows) * ldb)};
    const bool has[4] = {true, cols != nullptr, rows != nullptr, rows && cols};
    const auto args = [&](int32_t t) {
        return WaveletArgs{rows ? rows->bytes.data : nullptr, cols ? cols->bytes.data : nullptr, x.data, with_w ? w.data : nullptr, bands[0].data, has[1] ? bands[1].data : nullptr,
                           has[2] ? bands[2].data : nullptr, has[3] ? bands[3].data : nullptr, x_rows, x_cols, b_rows, b_cols, ldx, ldb, scale, t, add};
    };
    const std::string label = std::to_string(x_rows) + "x" + std::to_string(x_cols) + (rows ? " rows" : "") + (cols ? " cols" : "");
    if (up) {
        const auto want = [&](int64_t at) {
            const int64_t i = at / ldx, j = at % ldx;
            if (j >= x_cols) return x[at];
            double sum = 0;
            for (int64_t k = 0; k < b_rows; ++k)
                for (int64_t l = 0; l < b_cols; ++l)
                    for (int b = 0; b < 4; ++b)
                        if (has[b] && r.at(b > 1, i, k) != 0) sum += r.at(b > 1, i, k) * c.at(b % 2, j, l) * bands[b][k * ldb + l];
            return (add & 1 ? x[at] : 0) + (with_w ? w[at] : 0) + scale * sum;
        };
        run(KERNEL(wavelet_up, WaveletArgs), label, type, {&w, &bands[0], &bands[1], &bands[2], &bands[3]}, {{&x, want}}, args);
        return;
    }
    std::vector<Output> outputs;
    for (int b = 0; b < 4; ++b)
        if (has[b])
            outputs.push_back({&bands[b], [&, b](int64_t at) {
                                   const int64_t i = at / ldb, j = at % ldb;
                                   if (j >= b_cols) return bands[b][at];
                                   double sum = 0;
                                   for (int64_t k = 0; k < x_rows; ++k)
                                       for (int64_t l = 0; l < x_cols; ++l)
                                           if (r.at(b > 1, i, k) != 0) sum += r.at(b > 1, i, k) * c.at(b % 2, j, l) * x[k * ldx + l];
                                   return (add >> b & 1 ? bands[b][at] : 0) + scale * sum;
                               }});
    run(KERNEL(wavelet_down, WaveletArgs), label, type, {&x}, std::move(outputs), args);
}

} // namespace

void wavelets() {
    for (int32_t type : {LR_F32, LR_BF16, LR_F16})
        for (bool up : {false, true}) {
            // Wide enough for every width of vectors; one without a middle; one that is all middle
            const Table wide = up ? table(151, 78, 4, -2, 2, 73, 5, true) : table(151, 78, 6, -3, 2, 74, 5, false);
            const Table tall = up ? table(11, 8, 2, -1, 1, 5, 4, true) : table(11, 8, 4, -2, 1, 4, 4, false);
            const Table listed = up ? table(5, 4, 0, 0, 0, 0, 3, true) : table(5, 4, 0, 0, 0, 0, 3, false);
            const Table middle = up ? table(64, 32, 1, 0, 0, 32, 0, true) : table(64, 32, 2, 0, 0, 32, 0, false);
            one(type, &tall, &wide, 0, up, 0, false);
            one(type, &listed, &middle, 0, up, 15, true);
            one(type, &middle, &listed, 0, up, 0, true);
            one(type, nullptr, &wide, 3, up, 0, false);
            one(type, &tall, nullptr, 70, up, 15, false);
        }
}

} // namespace test
