// Gathers, layout moves and losses; offsets past 2^32.
#include "check.h"
#include <sys/mman.h>

namespace test {

namespace {

constexpr int32_t Floats[] = {LR_F32, LR_BF16, LR_F16};

void turns_and_columns() {
    for (int32_t type : Floats)
        for (int32_t dim : {16, 50}) {
            const int32_t rows = 7, heads = 3, rotary = 16, half = rotary / 2, size = 9, count = dim * heads;
            const Buffer x = random_buffer(type, int64_t(rows) * count), table = random_buffer(LR_F32, size * rotary), positions = ids_buffer(rows, size);
            Buffer y = random_buffer(type, int64_t(rows) * count);
            for (int32_t inverse : {0, 1})
                run(KERNEL(rope, RopeArgs), std::to_string(dim), type, {&x, &table, &positions},
                    {{&y, [&](int64_t i) {
                          const int64_t c = i % dim, head = i - c, pair = c % half, angle = int64_t(positions[i / count]) * rotary + 2 * pair;
                          if (c >= rotary) return (inverse ? y[i] : 0) + x[i];
                          const double sine = (inverse ? -1 : 1) * table[angle + 1], other = c < half ? -x[head + pair + half] : x[head + pair];
                          return (inverse ? y[i] : 0) + x[i] * table[angle] + other * sine;
                      }}},
                    [&](int32_t t) { return RopeArgs{x.data, table.data, positions.data, y.data, rows, heads, dim, rotary, inverse, t, uint32_t(inverse)}; });
            const int32_t cols = 41, start = 5, taken = 20;
            const Buffer wide = random_buffer(type, rows * cols), narrow = random_buffer(type, rows * taken);
            Buffer part(type, rows * taken), back = random_buffer(type, rows * cols);
            run(KERNEL(columns, ColumnsArgs), "", type, {&wide}, {{&part, [&](int64_t i) { return wide[i / taken * cols + start + i % taken]; }, 0}},
                [&](int32_t t) { return ColumnsArgs{wide.data, part.data, rows, cols, start, taken, 0, t, 0}; });
            for (uint32_t add : {0u, 1u})
                run(KERNEL(columns, ColumnsArgs), "inverse", type, {&narrow},
                    {{&back, [&](int64_t i) {
                          const int64_t c = i % cols - start;
                          return (add ? back[i] : 0) + (c >= 0 && c < taken ? narrow[i / cols * taken + c] : 0);
                      }}},
                    [&](int32_t t) { return ColumnsArgs{narrow.data, back.data, rows, cols, start, taken, 1, t, add}; });
        }
}

void gathers() {
    for (int32_t type : Floats)
        for (auto [rows, cols] : {std::pair<int32_t, int32_t>{1, 1}, {18, 6}, {40, 131}}) {
            const int32_t size = 11, r = rows, k = cols;
            const Buffer table = random_buffer(type, int64_t(size) * k), ids = ids_buffer(r, size), dy = random_buffer(type, int64_t(r) * k);
            Buffer y(type, int64_t(r) * k), dtable = random_buffer(LR_F32, int64_t(size) * k, 0);
            run(KERNEL(gather_forward, GatherArgs), "", type, {&table, &ids}, {{&y, [&](int64_t i) { return table[int64_t(ids[i / k]) * k + i % k]; }, 0}},
                [&](int32_t t) { return GatherArgs{table.data, ids.data, y.data, r, k, size, t, t}; });
            if (type != LR_F32) continue; // a parameter's gradient
            for (uint32_t add : {0u, 1u})
                run(KERNEL(gather_backward, GatherGradArgs), "", type, {&ids, &dy},
                    {{&dtable, [&](int64_t i) {
                          double total = add ? dtable[i] : 0;
                          for (int64_t row = 0; row < r; ++row) total += int64_t(ids[row]) == i / k ? dy[row * k + i % k] : 0;
                          return total;
                      }}},
                    [&](int32_t t) { return GatherGradArgs{ids.data, dy.data, dtable.data, r, k, size, t, add}; });
        }
}

void prepends() {
    for (int32_t type : Floats) {
        const int32_t batch = 37, tokens = 4, cols = 21;
        const int64_t n = int64_t(batch) * tokens * cols, m = int64_t(batch) * (tokens + 1) * cols, image = (tokens + 1) * cols;
        const Buffer x = random_buffer(type, n), first = random_buffer(LR_F32, cols), dy = random_buffer(type, m);
        Buffer y(type, m), dx = random_buffer(type, n), dfirst = random_buffer(LR_F32, cols);
        run(KERNEL(prepend_forward, PrependArgs), "", type, {&x, &first},
            {{&y, [&](int64_t i) { return i % image < cols ? first[i % image] : x[i / image * tokens * cols + i % image - cols]; }}},
            [&](int32_t t) { return PrependArgs{x.data, first.data, y.data, batch, tokens, cols, t}; });
        auto column = [&](int64_t c) {
            double total = dfirst[c];
            for (int64_t b = 0; b < batch; ++b) total += dy[b * image + c];
            return total;
        };
        run(KERNEL(prepend_backward, PrependGradArgs), "", type, {&dy},
            {{&dx, [&](int64_t i) { return dx[i] + dy[i / (tokens * cols) * image + cols + i % (tokens * cols)]; }}, {&dfirst, column}},
            [&](int32_t t) { return PrependGradArgs{dy.data, dx.data, dfirst.data, batch, tokens, cols, t, 3}; });
    }
}

void transposes() {
    for (int32_t type : Floats)
        for (auto [rows, cols] : {std::pair<int32_t, int32_t>{1, 1}, {5, 9}, {16, 16}, {67, 130}}) {
            const int32_t batch = 2, r = rows, c = cols;
            const int64_t n = int64_t(batch) * r * c, size = int64_t(r) * c;
            const Buffer x = random_buffer(type, n);
            Buffer y = random_buffer(type, n);
            for (uint32_t add : {0u, 1u})
                run(KERNEL(transpose, TransposeArgs), "", type, {&x},
                    {{&y, [&](int64_t i) { return (add ? y[i] : 0) + x[i / size * size + i % size % r * c + i % size / r]; }, double(add)}},
                    [&](int32_t t) { return TransposeArgs{x.data, y.data, batch, r, c, t, add}; });
        }
}

void unfolds() {
    struct Case { int32_t batch, channels, height, width, kernel_h, kernel_w, stride, pad, dilation; };
    for (const Case& c : {Case{2, 3, 7, 6, 3, 2, 2, 1, 1}, {3, 1, 28, 28, 7, 7, 7, 0, 1}, {1, 2, 6, 5, 3, 3, 1, 2, 2}, {2, 2, 9, 9, 3, 3, 1, 1, 1}, {1, 1, 5, 40, 2, 16, 3, 0, 1}}) {
        const int64_t out_h = (c.height + 2 * c.pad - c.dilation * (c.kernel_h - 1) - 1) / c.stride + 1, out_w = (c.width + 2 * c.pad - c.dilation * (c.kernel_w - 1) - 1) / c.stride + 1;
        const int64_t taps = int64_t(c.channels) * c.kernel_h * c.kernel_w, patches = c.batch * out_h * out_w * taps, pixels = int64_t(c.batch) * c.channels * c.height * c.width;
        auto pixel = [&](int64_t at) -> int64_t { // of a patch element, -1 outside
            const int64_t tap = at % taps, o = at / taps, h = o / out_w % out_h * c.stride - c.pad + tap / c.kernel_w % c.kernel_h * c.dilation, w = o % out_w * c.stride - c.pad + tap % c.kernel_w * c.dilation;
            return h < 0 || h >= c.height || w < 0 || w >= c.width ? -1 : ((o / out_w / out_h * c.channels + tap / c.kernel_w / c.kernel_h) * c.height + h) * c.width + w;
        };
        for (int32_t type : Floats)
            for (uint32_t add : {0u, 1u}) {
                const Buffer image = random_buffer(type, pixels), slopes = random_buffer(type, patches);
                Buffer y = random_buffer(type, patches), dimage = random_buffer(type, pixels);
                auto args = [&](const Buffer& x, Buffer& to, int32_t t) {
                    return UnfoldArgs{x.data, to.data, c.batch, c.channels, c.height, c.width, c.kernel_h, c.kernel_w, c.stride, c.pad, c.dilation, int32_t(out_h), int32_t(out_w), t, add};
                };
                run(KERNEL(unfold, UnfoldArgs), "", type, {&image}, {{&y, [&](int64_t i) { return (add ? y[i] : 0) + (pixel(i) < 0 ? 0 : image[pixel(i)]); }}}, [&](int32_t t) { return args(image, y, t); });
                std::vector<double> sums(static_cast<size_t>(pixels));
                for (int64_t i = 0; i < patches; ++i)
                    if (pixel(i) >= 0) sums[size_t(pixel(i))] += slopes[i];
                run(KERNEL(fold, UnfoldArgs), "", type, {&slopes}, {{&dimage, [&](int64_t i) { return (add ? dimage[i] : 0) + sums[size_t(i)]; }}}, [&](int32_t t) { return args(slopes, dimage, t); });
            }
    }
}

void losses() {
    for (int32_t type : Floats)
        for (auto [rows, cols, smoothing, soft] : {std::tuple<int32_t, int32_t, double, double>{1, 1, 0, 0}, {19, 5, 0.1, 0}, {40, 37, 0, 2}, {3, 2100, 0.2, 0}, {5, 70, 0.2, 0.8}}) {
            const int32_t r = rows, k = cols, ignore = 3;
            const double smooth = smoothing, cap = soft;
            const int64_t n = int64_t(r) * k;
            const Buffer x = random_buffer(type, n, 3), labels = ids_buffer(r, k);
            auto z = [&](int64_t i) { return cap > 0 ? cap * tanh(x[i] / cap) : x[i]; };
            Buffer loss(LR_F32, 1), losses(LR_F32, r), lse(LR_F32, r), valid(LR_F32, 1), slope(type, n), dx = random_buffer(type, n), saved(LR_F32, r), counted(LR_F32, 1), dloss(LR_F32, 1);
            double total = 0, count = 0;
            std::vector<double> each(static_cast<size_t>(r));
            for (int64_t i = 0; i < r; ++i) {
                double sum = 0, mean = 0;
                for (int64_t c = 0; c < k; ++c) sum += exp(z(i * k + c)), mean += z(i * k + c) / k;
                saved.put(i, log(sum));
                if (int(labels[i]) == ignore) continue;
                total += each[size_t(i)] = log(sum) - (1 - smooth) * z(i * k + int64_t(labels[i])) - smooth * mean;
                ++count;
            }
            auto gradient = [&](int64_t i) { // of the sum over rows
                const int64_t row = i / k, label = int64_t(labels[row]);
                const double q = smooth / k + (i % k == label ? 1 - smooth : 0), bent = cap > 0 ? 1 - pow(tanh(x[i] / cap), 2) : 1;
                return label == ignore ? 0 : (exp(z(i) - saved[row]) - q) * bent;
            };
            counted.put(0, count);
            dloss.put(0, 0.7);
            run(KERNEL(cross_entropy_forward, CrossEntropyArgs), "", type, {&x, &labels},
                {{&loss, [&](int64_t) { return total / count; }}, {&losses, [&](int64_t i) { return each[size_t(i)]; }}, {&lse, [&](int64_t i) { return saved[i]; }}, {&valid, [&](int64_t) { return count; }}, {&slope, [&](int64_t i) { return gradient(i) / count; }}},
                [&](int32_t t) { return CrossEntropyArgs{x.data, labels.data, loss.data, losses.data, lse.data, valid.data, slope.data, r, k, 0, r, ignore, smooth, cap, t}; });
            for (uint32_t add : {0u, 1u})
                run(KERNEL(cross_entropy_backward, CrossEntropyGradArgs), "", type, {&x, &labels, &saved, &counted, &dloss},
                    {{&dx, [&](int64_t i) { return (add ? dx[i] : 0) + 0.7 / count * gradient(i); }}},
                    [&](int32_t t) { return CrossEntropyGradArgs{x.data, labels.data, saved.data, counted.data, dloss.data, dx.data, r, k, ignore, smooth, cap, t, add}; });
        }
    for (int32_t type : Floats) {
        const int64_t n = 9001;
        const Buffer y = random_buffer(type, n), target = random_buffer(type, n), dloss = random_buffer(LR_F32, 1);
        Buffer loss(LR_F32, 1), dy = random_buffer(type, n);
        double total = 0;
        for (int64_t i = 0; i < n; ++i) total += (y[i] - target[i]) * (y[i] - target[i]);
        run(KERNEL(squared_error_forward, SquaredErrorArgs), "", type, {&y, &target}, {{&loss, [&](int64_t) { return 0.5 * total / double(n); }}}, [&](int32_t t) { return SquaredErrorArgs{y.data, target.data, loss.data, n, 0.5, t}; });
        run(KERNEL(squared_error_backward, SquaredErrorGradArgs), "", type, {&y, &target, &dloss}, {{&dy, [&](int64_t i) { return dy[i] + dloss[0] * (y[i] - target[i]) / double(n); }}},
            [&](int32_t t) { return SquaredErrorGradArgs{y.data, target.data, dloss.data, dy.data, n, 0.5, t, 1}; });
        total = 0;
        for (int64_t i = 0; i < n; ++i) total += log1p(exp(y[i])) - target[i] * y[i];
        run(KERNEL(binary_cross_entropy_forward, SquaredErrorArgs), "", type, {&y, &target}, {{&loss, [&](int64_t) { return 0.5 * total / double(n); }}}, [&](int32_t t) { return SquaredErrorArgs{y.data, target.data, loss.data, n, 0.5, t}; });
        run(KERNEL(binary_cross_entropy_backward, SquaredErrorGradArgs), "", type, {&y, &target, &dloss},
            {{&dy, [&](int64_t i) { return dy[i] + dloss[0] * 0.5 * (1 / (1 + exp(-y[i])) - target[i]) / double(n); }}},
            [&](int32_t t) { return SquaredErrorGradArgs{y.data, target.data, dloss.data, dy.data, n, 0.5, t, 1}; });
    }
}

void labels_out_of_range_are_refused() {
    const Buffer x = random_buffer(LR_F32, 6);
    Buffer labels(LR_I32, 2), loss(LR_F32, 1), losses(LR_F32, 2), lse(LR_F32, 2), valid(LR_F32, 1);
    for (int32_t bad : {-1, 3}) {
        labels.put(1, bad);
        labels.put(0, 0);
        const CrossEntropyArgs args{x.data, labels.data, loss.data, losses.data, lse.data, valid.data, nullptr, 2, 3, 0, 2, -100, 0, 0, LR_F32};
        for (size_t level = 0; level < levels_here(); ++level) {
            const int32_t status = KERNEL(cross_entropy_forward, CrossEntropyArgs).levels[level](&args);
            if (status != LR_BAD_ARGUMENT || loss.changed() || losses.changed() || lse.changed() || valid.changed()) fail("cross_entropy_forward", "label %d: status %d, want %d and nothing written", bad, status, LR_BAD_ARGUMENT);
        }
    }
}

// Address space without memory behind it: only what is touched costs anything
struct Sparse {
    size_t size;
    float* data;
    explicit Sparse(int64_t floats) : size(size_t(floats) * 4), data(static_cast<float*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
        if (data == MAP_FAILED) data = nullptr;
    }
    ~Sparse() { if (data) munmap(data, size); }
};

void offsets_past_32_bits() {
    const int32_t cols = 1024, far = (1 << 22) + 1;
    const int64_t at = int64_t(far) * cols;
    Sparse table(at + cols), p(at + cols), m(at + cols), v(at + cols);
    if (!table.data || !p.data || !m.data || !v.data) return fail("offsets", "no address space for 4 x 17 GB");
    const int32_t ids[] = {far, 0};
    const Segment segment{at, 40, at, 0, 1, 0};
    for (size_t level = 0; level < levels_here(); ++level) {
        float y[2 * 1024] = {};
        for (int i = 0; i < 40; ++i) table.data[at + i] = float(i + 1), p.data[at + i] = m.data[at + i] = v.data[at + i] = 0;
        const GatherArgs gather{table.data, ids, y, 2, cols, far + 1, LR_F32, LR_F32};
        if (KERNEL(gather_forward, GatherArgs).levels[level](&gather) != LR_OK || y[39] != 40 || y[1024] != 0) fail("gather_forward", "%s: wrong row past 2^32 elements", level_names[level]);
        double norm = 0;
        const SquareSumArgs sum{table.data, &segment, &norm, 1, LR_F32};
        if (KERNEL(square_sum, SquareSumArgs).levels[level](&sum) != LR_OK || norm != 40 * 41 * 81 / 6) fail("square_sum", "%s: %g past 2^32 elements", level_names[level], norm);
        const AdamWArgs adam{p.data, table.data, m.data, v.data, &segment, nullptr, nullptr, 0.5, 0, 0, 0, 0, 1, 1, 0, 0, 0, LR_F32};
        if (KERNEL(adamw, AdamWArgs).levels[level](&adam) != LR_OK || fabsf(p.data[at + 39] + 0.5f) > 1e-6f) fail("adamw", "%s: wrong step past 2^32 elements", level_names[level]);
    }
}

// Nothing to do is done: no chunk runs, nothing is read through a null pointer
void empty_calls() {
    for (size_t level = 0; level < levels_here(); ++level) {
        auto expect = [&](const char* name, int32_t status) { if (status != LR_OK) fail(name, "%s: empty call gives %d", level_names[level], status); };
        const UnaryArgs unary{nullptr, nullptr, 0, LR_F32};
        expect("gelu_forward", KERNEL(gelu_forward, UnaryArgs).levels[level](&unary));
        const ConvertArgs convert{nullptr, nullptr, 0, LR_F32, LR_BF16};
        expect("convert", KERNEL(convert, ConvertArgs).levels[level](&convert));
        const LayerNormArgs norm{nullptr, nullptr, nullptr, nullptr, nullptr, 0, 1 << 30, 0, LR_F32, 0};
        expect("layer_norm_forward", KERNEL(layer_norm_forward, LayerNormArgs).levels[level](&norm));
        const TransposeArgs transpose{nullptr, nullptr, 0, 1 << 30, 1 << 30, LR_F32, 0};
        expect("transpose", KERNEL(transpose, TransposeArgs).levels[level](&transpose));
        const AttentionArgs attention{nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0, 8, 8, 2, 2, 4, 0, 0, 1, 0, LR_F32};
        expect("attention_forward", KERNEL(attention_forward, AttentionArgs).levels[level](&attention));
        const AdamWArgs adam{nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, LR_F32};
        expect("adamw", KERNEL(adamw, AdamWArgs).levels[level](&adam));
        float loss = 5, valid = 5;
        const CrossEntropyArgs entropy{nullptr, nullptr, &loss, nullptr, nullptr, &valid, nullptr, 0, 3, 0, 0, 0, 0, 0, LR_F32};
        expect("cross_entropy_forward", KERNEL(cross_entropy_forward, CrossEntropyArgs).levels[level](&entropy));
        if (loss != 0 || valid != 0) fail("cross_entropy_forward", "no rows: loss %g, valid %g, want 0", double(loss), double(valid));
    }
}

} // namespace

void rows() {
    turns_and_columns();
    gathers();
    prepends();
    transposes();
    unfolds();
    losses();
    labels_out_of_range_are_refused();
    offsets_past_32_bits();
    empty_calls();
}

} // namespace test
