// Merges of several models and their counts, Concrete's mask, and the entropy of predictions.
#include "check.h"
#include <algorithm>

namespace test {

namespace {

constexpr int32_t Floats[] = {LR_F32, LR_BF16, LR_F16};
constexpr int32_t All = 1 << 24;

// Three models of types of their own: one with a mask, one with draws, one with a threshold that entries meet exactly
struct Models {
    int64_t count;
    Buffer start, scale, keep;
    std::vector<Buffer> x;
    std::vector<MergeInput> inputs;

    Models(int64_t n, int32_t type) : count(n), start(random_buffer(type, n)), scale(random_buffer(LR_F32, n)), keep(mask_buffer(n, 3)) {
        for (int32_t t = 0; t < 3; ++t) {
            x.push_back(random_buffer(Floats[t], n));
            for (int64_t i = 0; i < n; ++i) x[size_t(t)].put(i, i % 5 == t ? start[i] + 0.5 : x[size_t(t)][i]); // 0.5 from start, but for rounding
        }
        inputs = {MergeInput{x[0].data, keep.data, 0.5, 1.5, 2, -1, 0, 3, 4, 0, 0, All, Floats[0], 0}, MergeInput{x[1].data, nullptr, 1, 1, 1.25, -1, 0, 5, 6, 0, All / 4, All, Floats[1], 0},
            MergeInput{x[2].data, nullptr, -1, 0.5, 1, 0.5, n / 2, 7, 8, 0, 0, All, Floats[2], 0}};
    }

    std::vector<const Buffer*> read() const { return {&start, &scale, &keep, &x[0], &x[1], &x[2]}; }
    double drawn(int32_t t, int64_t i, bool base) const { // as single precision has it
        const MergeInput& in = inputs[size_t(t)];
        const double u = in.from > 0 || in.to < All ? philox(in.seed, in.stream, i) * All : 0, v = float(x[size_t(t)][i] - (base ? start[i] : 0));
        return (in.keep && keep[i] == 0) || u < in.from || u >= in.to ? 0 : float(in.factor) * float(v);
    }
    double part(int32_t t, int64_t i, bool base) const {
        const MergeInput& in = inputs[size_t(t)];
        const double v = drawn(t, i, base);
        return fabs(v) > in.least || (fabs(v) == in.least && i < in.cut) ? in.weight * v : 0;
    }
    double merged(int32_t rule, int32_t even, int64_t i, bool base) const {
        double all = 0, total = 0, shares = 0, most = 0;
        for (int32_t t = 0; t < 3; ++t) all += part(t, i, base);
        const double sign = all != 0 ? (all > 0 ? 1 : -1) : even > 0 ? 1 : -1;
        if (rule == LR_MERGE_SUM) return all;
        for (int32_t t = 0; t < 3; ++t)
            if (const double u = part(t, i, base); u * sign > 0) total += u, shares += inputs[size_t(t)].share, most = std::max(most, fabs(u));
        return rule == LR_MERGE_AGREED ? total : rule == LR_MERGE_MEAN ? (shares != 0 ? total / shares : total) : all != 0 ? sign * most : even * most;
    }
    double moved(int32_t t, int64_t i, bool base) const { // compared to start, or to the mean of the models
        const auto v = [&](size_t m) { return x[m][i] - (base ? start[i] : 0); };
        return v(size_t(t)) - (base ? 0 : (v(0) + v(1) + v(2)) / 3);
    }
    double figure(int32_t rule, int64_t block, int64_t f, bool base) const { // roundings, far smaller than the rest, count as 0
        double total = 0;
        for (int64_t i = block * LR_MERGE_BLOCK; i < std::min(count, (block + 1) * LR_MERGE_BLOCK); ++i) {
            const double all = merged(LR_MERGE_SUM, 1, i, base), change = 0.7 * scale[i] * merged(rule, 1, i, base);
            bool above = false, below = false;
            for (int32_t t = 0; t < 3; ++t) above |= moved(t, i, base) > 0, below |= moved(t, i, base) < 0;
            if (f < 2) total += rule == LR_MERGE_SUM ? 0 : f == 0 ? (all > 0) - (all < 0) : all == 0;
            else if (f == 2) total += above && below;
            else if (f == 3) total += change * change;
            else if (f >= LR_MERGE_FIGURES && f < LR_MERGE_FIGURES + 6) {
                const int32_t t = int32_t(f - LR_MERGE_FIGURES) / 2;
                total += f % 2 == 0 ? fabs(x[size_t(t)][i] - (base ? start[i] : 0)) : fabs(part(t, i, base) / inputs[size_t(t)].weight);
            } else if (f >= LR_MERGE_FIGURES + 6) {
                const int64_t pair = f - LR_MERGE_FIGURES - 6;
                const int32_t m = pair >= 3 ? 2 : pair >= 1, o = int32_t(pair) - m * (m + 1) / 2;
                total += moved(m, i, base) * moved(o, i, base);
            }
        }
        return total;
    }
};

void merges() {
    for (int32_t type : Floats)
        for (int64_t n : {1, 5000})
            for (int32_t rule : {LR_MERGE_SUM, LR_MERGE_AGREED, LR_MERGE_MEAN, LR_MERGE_LARGEST})
                for (bool base : {true, false}) {
                    const Models models(n, type);
                    const int64_t blocks = (n + LR_MERGE_BLOCK - 1) / LR_MERGE_BLOCK, width = LR_MERGE_FIGURES + 6 + 6;
                    Buffer y(type, n), figures(LR_F64, blocks * width);
                    run(KERNEL(merge, MergeArgs), "rule " + std::to_string(rule) + (base ? " n " : " bare n ") + std::to_string(n), type, models.read(),
                        {{&y, [&](int64_t i) { return (base ? models.start[i] : 0) + 0.7 * models.scale[i] * models.merged(rule, 1, i, base); }}, {&figures, [&](int64_t f) { return models.figure(rule, f / width, f % width, base); }, 5e3}}, [&](int32_t t) {
                            return MergeArgs{models.inputs.data(), base ? models.start.data : nullptr, models.scale.data, y.data, figures.data, n, 0.7, 3, rule, 1, 1, type, t, t};
                        });
                }
}

void counts() {
    for (int32_t type : Floats)
        for (int32_t shift : {20, 9}) {
            const int64_t n = 5000;
            Models models(n, type);
            const auto bits = [&](int32_t t, int64_t i) {
                const float v = float(fabs(models.drawn(t, i, true)));
                uint32_t u;
                memcpy(&u, &v, sizeof u);
                return int64_t(u);
            };
            const int32_t width = 11;
            for (int32_t t = 0; t < 3; ++t) models.inputs[size_t(t)].found = shift == 20 ? 0 : uint64_t(bits(t, 17 + t) >> (shift + width));
            Buffer counted(LR_I64, 3 * LR_MERGE_BINS);
            for (int64_t i = 0; i < counted.count; ++i) memset(counted.data + 8 * i, 0, 8);
            std::vector<double> want(size_t(counted.count), 0);
            for (int32_t t = 0; t < 3; ++t)
                for (int64_t i = 0; i < n; ++i)
                    if (bits(t, i) >> (shift + width) == int64_t(models.inputs[size_t(t)].found)) want[size_t(t * LR_MERGE_BINS + (bits(t, i) >> shift & 2047))]++;
            covered.insert("merge_count");
            const auto kernel = KERNEL(merge_count, MergeCountArgs);
            for (size_t level = 0; level < levels_here(); ++level)
                for (int threads : {1, 3}) {
                    lr::set_threads(threads);
                    memset(counted.data, 0, size_t(counted.count) * 8);
                    const MergeCountArgs args{models.inputs.data(), models.start.data, counted.data, n, 0, 0, 3, shift, width, type, type};
                    const int32_t status = kernel.levels[level](&args);
                    int64_t off = 0;
                    for (int64_t i = 0; i < counted.count; ++i) {
                        int64_t c;
                        memcpy(&c, counted.data + 8 * i, 8);
                        off += c != int64_t(want[size_t(i)]);
                    }
                    if (status != LR_OK || off != 0 || !counted.guards_hold()) fail(std::string("merge_count ") + level_names[level], "type %d, shift %d: status %d, %lld bins differ", type, shift, status, static_cast<long long>(off));
                }
        }
}

void masks() {
    const int64_t n = 9001;
    const double temperature = 0.5;
    Buffer x = random_buffer(LR_F32, n, 3), u(LR_F32, n), s(LR_F32, n), mean(LR_F32, 1), dx = random_buffer(LR_F32, n);
    const Buffer ds = random_buffer(LR_F32, n);
    x.put(7, 40);
    for (int64_t i = 0; i < n; ++i) u.put(i, std::clamp((uniform() + 1) / 2, 1e-3, 1 - 1e-3));
    for (bool given : {true, false}) {
        std::vector<double> m;
        double level = 0, shared = 0;
        for (int64_t i = 0; i < n; ++i) {
            const double draw = std::clamp(given ? u[i] : philox(9, 10, i), 0x1p-23, 1 - 0x1p-23), logit = std::clamp(x[i], -15.942385, 15.942385);
            m.push_back(1 / (1 + exp(-(log(draw / (1 - draw)) + logit) / temperature)));
            level += m.back() / double(n);
        }
        run(KERNEL(concrete_mask_forward, ConcreteMaskArgs), given ? "given" : "drawn", LR_F32, {&x, &u}, {{&s, [&](int64_t i) { return m[size_t(i)] / level; }, 4}, {&mean, [&](int64_t) { return level; }}},
            [&](int32_t t) { return ConcreteMaskArgs{x.data, given ? u.data : nullptr, s.data, mean.data, n, 9, 10, temperature, t}; });
        Buffer kept(LR_F32, n), middle(LR_F32, 1);
        middle.put(0, level);
        for (int64_t i = 0; i < n; ++i) kept.put(i, m[size_t(i)] / level);
        for (int64_t i = 0; i < n; ++i) shared += ds[i] * kept[i] / double(n);
        const auto slope = [&](int64_t i) {
            const double at = kept[i] * middle[0];
            return fabs(x[i]) > 15.942385 || at >= 1 - 0x1p-22 ? 0 : (ds[i] - shared) * kept[i] * (1 - at) / temperature;
        };
        for (uint32_t add : {0u, 1u})
            run(KERNEL(concrete_mask_backward, ConcreteMaskGradArgs), given ? "given" : "drawn", LR_F32, {&x, &kept, &middle, &ds}, {{&dx, [&](int64_t i) { return (add ? dx[i] : 0) + slope(i); }, 4}},
                [&](int32_t t) { return ConcreteMaskGradArgs{x.data, kept.data, middle.data, ds.data, dx.data, n, temperature, t, add}; });
    }
}

void entropies() {
    for (int32_t type : Floats)
        for (auto [rows, cols] : {std::pair<int32_t, int32_t>{1, 1}, {7, 10}, {3, 2051}})
            for (double epsilon : {0.0, 1e-3}) {
                const int32_t r = rows, k = cols;
                const Buffer x = random_buffer(type, int64_t(r) * k), dloss = random_buffer(LR_F32, 1);
                Buffer loss(LR_F32, 1), losses(LR_F32, r), stats(LR_F32, 2 * r), saved(LR_F32, 2 * r), dx = random_buffer(type, int64_t(r) * k);
                std::vector<double> each(size_t(r), 0);
                double total = 0;
                const auto share = [&](int64_t i, double lse) { return exp(x[i] - lse); };
                const auto slope = [&](double p) { return log(p + epsilon) + p / (p + epsilon); };
                for (int64_t i = 0; i < r; ++i) {
                    double sum = 0, mean = 0;
                    for (int64_t j = 0; j < k; ++j) sum += exp(x[i * k + j]);
                    for (int64_t j = 0; j < k; ++j) {
                        const double p = share(i * k + j, log(sum));
                        each[size_t(i)] -= p * log(p + epsilon);
                        mean += p * slope(p);
                    }
                    total += each[size_t(i)] / r;
                    saved.put(2 * i, log(sum));
                    saved.put(2 * i + 1, mean);
                }
                const double few = k == 1 ? 1e9 : 4; // one class has no entropy, and what is left of it is rounding
                run(KERNEL(mean_entropy_forward, MeanEntropyArgs), std::to_string(k), type, {&x},
                    {{&loss, [&](int64_t) { return total; }, few}, {&losses, [&](int64_t i) { return each[size_t(i)]; }, few}, {&stats, [&](int64_t i) { return saved[i]; }, 4}},
                    [&](int32_t t) { return MeanEntropyArgs{x.data, loss.data, losses.data, stats.data, r, k, epsilon, t}; });
                for (uint32_t add : {0u, 1u})
                    run(KERNEL(mean_entropy_backward, MeanEntropyGradArgs), std::to_string(k), type, {&x, &saved, &dloss},
                        {{&dx, [&](int64_t i) {
                              const double p = share(i, saved[i / k * 2]);
                              return (add ? dx[i] : 0) - dloss[0] / r * p * (slope(p) - saved[i / k * 2 + 1]);
                          }, k == 1 ? 1e9 : 4}},
                        [&](int32_t t) { return MeanEntropyGradArgs{x.data, saved.data, dloss.data, dx.data, r, k, epsilon, t, add}; });
            }
}

} // namespace

void merging() {
    merges();
    counts();
    masks();
    entropies();
}

} // namespace test
