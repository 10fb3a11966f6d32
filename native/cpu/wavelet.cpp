// Levels of wavelet transforms, both axes in one pass: a row is filtered along axis 0 into scratch that stays in the first cache, then along axis 1 from there.
// Floor: x and the bands once at copy bandwidth; 2 L FMAs a sample of x for L taps. Rows belong to one chunk each, so bits do not depend on threads.
#include "kernels.h"
#include "pool.h"
#include "vectors.h"

namespace LR_NS {

namespace {

constexpr int64_t MostTaps = 96; // of a table's middle rows
constexpr int64_t Room = 4 * Lanes;
constexpr int64_t Together = 8; // rows of a chunk at least: neighbours read mostly the same

// A table of lowrank.h; absent: the identity
struct Axis {
    const int32_t* head;
    const float *weights, *low, *high;
    const int32_t* columns;
    int64_t first, last, taps, start, width, phases;

    Axis(const void* table, int phases_) : head(static_cast<const int32_t*>(table)), phases(phases_) {
        if (!head) return;
        first = head[LR_FIRST], last = head[LR_LAST], taps = head[LR_TAPS], start = head[LR_START], width = head[LR_WIDTH];
        weights = reinterpret_cast<const float*>(head + LR_AXIS_INTS);
        low = weights + 2 * phases * taps;
        high = low + head[LR_EDGES] * width;
        columns = reinterpret_cast<const int32_t*>(high + head[LR_EDGES] * width);
    }
    explicit operator bool() const { return head != nullptr; }
    bool inside(int64_t row) const { return row >= first * phases && row < last * phases; }
    // Where the entries of a listed row begin
    int64_t entries(int64_t row) const { return (row < first * phases ? row : row - (last - first) * phases) * width; }
};

// to[c] += weight * from[c]
template <class T> LR_INLINE void mix(float* to, const T* from, float weight, int64_t cols) {
    const vf w = splat(weight);
    sweep(0, cols, [&](auto at) LR_LAMBDA { at.set(to, fma(w, at.get(from), at.get(to))); });
}

// Even elements of a row, then the odd ones: what a filter with stride 2 reads in whole vectors
struct Halves {
    float *even, *odd;
    LR_INLINE float at(int64_t i) const { return (i & 1 ? odd : even)[i >> 1]; }
    LR_INLINE void set(int64_t i, float v) const { (i & 1 ? odd : even)[i >> 1] = v; }
    LR_INLINE const float* from(int64_t i) const { return (i & 1 ? odd : even) + (i >> 1); }
    LR_INLINE void set(int64_t i, vf a, vf b) const { // elements i .. of both, i even
        store(even + i / 2, pick<0>(a, b));
        store(odd + i / 2, pick<1>(a, b));
    }
    template <int Odd> static LR_INLINE vf pick(vf a, vf b) {
        return [&]<int... L>(std::integer_sequence<int, L...>) LR_LAMBDA { return __builtin_shufflevector(a, b, (2 * L + Odd)...); }(std::make_integer_sequence<int, Lanes>{});
    }
};

// Row i of the down matrix applied to rows of x, for 2 V vectors of columns from c on: low and high halves
template <int V, class T> LR_INLINE void down_block(const Axis& axis, int64_t i, const T* x, int64_t ldx, int64_t c, const Halves& low, const Halves& high) {
    vf a[2 * V] = {}, b[2 * V] = {};
    const T* row = x + (2 * i + axis.start) * ldx + c;
    for (int64_t j = 0; j < axis.taps; ++j, row += ldx) {
        const vf l = splat(axis.weights[j]), h = splat(axis.weights[axis.taps + j]);
        unroll<2 * V>([&](auto v) LR_LAMBDA {
            const vf value = load(row + v * Lanes);
            a[v] = fma(l, value, a[v]);
            b[v] = fma(h, value, b[v]);
        });
    }
    unroll<V>([&](auto v) LR_LAMBDA {
        low.set(c + 2 * v * Lanes, a[2 * v], a[2 * v + 1]);
        high.set(c + 2 * v * Lanes, b[2 * v], b[2 * v + 1]);
    });
}

// Row i along axis 0 of all columns; without an axis the row itself
template <class T> LR_INLINE void down_rows(const Axis& axis, int64_t i, const T* x, int64_t ldx, int64_t cols, const Halves& low, const Halves& high) {
    int64_t c = 0;
    if (!axis) {
        for (const T* row = x + i * ldx; c + 2 * Lanes <= cols; c += 2 * Lanes) low.set(c, load(row + c), load(row + c + Lanes));
        for (; c < cols; ++c) low.set(c, widen(x[i * ldx + c]));
        return;
    }
    const bool inside = axis.inside(i);
    if (inside) {
        for (; c + 4 * Lanes <= cols; c += 4 * Lanes) down_block<2>(axis, i, x, ldx, c, low, high);
        for (; c + 2 * Lanes <= cols; c += 2 * Lanes) down_block<1>(axis, i, x, ldx, c, low, high);
    }
    const int64_t count = inside ? axis.taps : axis.width, listed = inside ? 0 : axis.entries(i);
    const float *l = inside ? axis.weights : axis.low + listed, *h = inside ? axis.weights + axis.taps : axis.high + listed;
    for (; c < cols; ++c) {
        float a = 0, b = 0;
        for (int64_t j = 0; j < count; ++j) {
            const float value = widen(x[(inside ? 2 * i + axis.start + j : axis.columns[listed + j]) * ldx + c]);
            a += l[j] * value;
            b += h[j] * value;
        }
        low.set(c, a);
        high.set(c, b);
    }
}

// A filtered row along axis 1 into its two bands, either of which may be absent
LR_INLINE void down_cols(const Axis& axis, const Halves& from, int64_t cols, float* low, float* high, float scale, bool add_low, bool add_high) {
    const auto put_one = [&](int64_t i, float a, float b) LR_LAMBDA {
        if (low) put(low + i, scale * a, add_low);
        if (high) put(high + i, scale * b, add_high);
    };
    if (!axis) {
        if (low)
            for (int64_t i = 0; i < cols; ++i) put(low + i, scale * from.at(i), add_low);
        return;
    }
    for (int64_t i = 0; i < cols; ++i) {
        if (i == axis.first && axis.last > axis.first) i = axis.last;
        if (i >= cols) break;
        const int64_t listed = axis.entries(i);
        float a = 0, b = 0;
        for (int64_t j = 0; j < axis.width; ++j) {
            const float value = from.at(axis.columns[listed + j]);
            a += axis.low[listed + j] * value;
            b += axis.high[listed + j] * value;
        }
        put_one(i, a, b);
    }
    const float* base[MostTaps];
    for (int64_t j = 0; j < axis.taps; ++j) base[j] = from.from(axis.start + j);
    int64_t i = axis.first;
    const auto block = [&](auto vectors) LR_LAMBDA {
        constexpr int V = vectors;
        for (; i + V * Lanes <= axis.last; i += V * Lanes) {
            vf a[V] = {}, b[V] = {};
            for (int64_t j = 0; j < axis.taps; ++j) {
                const vf l = splat(axis.weights[j]), h = splat(axis.weights[axis.taps + j]);
                unroll<V>([&](auto v) LR_LAMBDA {
                    const vf value = load(base[j] + i + v * Lanes);
                    a[v] = fma(l, value, a[v]);
                    b[v] = fma(h, value, b[v]);
                });
            }
            unroll<V>([&](auto v) LR_LAMBDA {
                if (low) put(low + i + v * Lanes, splat(scale) * a[v], add_low);
                if (high) put(high + i + v * Lanes, splat(scale) * b[v], add_high);
            });
        }
    };
    block(std::integral_constant<int, 4>{});
    block(std::integral_constant<int, 1>{});
    for (; i < axis.last; ++i) {
        float a = 0, b = 0;
        for (int64_t j = 0; j < axis.taps; ++j) {
            a += axis.weights[j] * base[j][i];
            b += axis.weights[axis.taps + j] * base[j][i];
        }
        put_one(i, a, b);
    }
}

// Rows 2u and 2u + 1 of the up matrix applied to rows of a low and a high band, either of which may be absent
LR_INLINE void up_pair(const Axis& axis, int64_t u, const float* low, const float* high, int64_t ld, int64_t cols, float* even, float* odd) {
    const float* w = axis.weights;
    const int64_t taps = axis.taps;
    fan<2>(0, cols, [&](auto at, auto) LR_LAMBDA {
        vf a{}, b{};
        for (int64_t j = 0; j < taps; ++j) {
            const int64_t row = (u + axis.start + j) * ld;
            if (low) {
                const vf value = at.get(low + row);
                a = fma(splat(w[j]), value, a);
                b = fma(splat(w[2 * taps + j]), value, b);
            }
            if (high) {
                const vf value = at.get(high + row);
                a = fma(splat(w[taps + j]), value, a);
                b = fma(splat(w[3 * taps + j]), value, b);
            }
        }
        at.set(even, a);
        at.set(odd, b);
    });
}
// A listed row of the up matrix
LR_INLINE void up_listed(const Axis& axis, int64_t row, const float* low, const float* high, int64_t ld, int64_t cols, float* to) {
    memset(to, 0, size_t(cols) * sizeof(float));
    const int64_t listed = axis.entries(row);
    for (int64_t j = 0; j < axis.width; ++j) {
        if (low) mix(to, low + axis.columns[listed + j] * ld, axis.low[listed + j], cols);
        if (high) mix(to, high + axis.columns[listed + j] * ld, axis.high[listed + j], cols);
    }
}

// A row between the axes, low and high along axis 1 (either may be absent), into samples
template <class T> LR_INLINE void up_cols(const Axis& axis, const float* low, const float* high, int64_t cols, T* x, const T* w, float scale, bool add) {
    if (!axis) {
        sweep(0, cols, [&](auto at) LR_LAMBDA {
            const vf value = splat(scale) * at.get(low);
            at.put(x, w ? at.get(w) + value : value, add);
        });
        return;
    }
    const auto put_one = [&](int64_t i, float value) LR_LAMBDA { put(x + i, (w ? widen(w[i]) : 0) + scale * value, add); };
    for (int64_t i = 0; i < cols; ++i) {
        if (i == 2 * axis.first && axis.last > axis.first) i = 2 * axis.last;
        if (i >= cols) break;
        const int64_t listed = axis.entries(i);
        float value = 0;
        for (int64_t j = 0; j < axis.width; ++j)
            value += (low ? axis.low[listed + j] * low[axis.columns[listed + j]] : 0) + (high ? axis.high[listed + j] * high[axis.columns[listed + j]] : 0);
        put_one(i, value);
    }
    const float* t = axis.weights;
    const int64_t taps = axis.taps;
    int64_t u = axis.first;
    for (; u + Lanes <= axis.last; u += Lanes) {
        vf a{}, b{};
        for (int64_t j = 0; j < taps; ++j) {
            if (low) {
                const vf value = load(low + u + axis.start + j);
                a = fma(splat(t[j]), value, a);
                b = fma(splat(t[2 * taps + j]), value, b);
            }
            if (high) {
                const vf value = load(high + u + axis.start + j);
                a = fma(splat(t[taps + j]), value, a);
                b = fma(splat(t[3 * taps + j]), value, b);
            }
        }
        const auto zipped = [&]<int Half, int... L>(std::integral_constant<int, Half>, std::integer_sequence<int, L...>) LR_LAMBDA {
            const vf value = splat(scale) * __builtin_shufflevector(a, b, ((L + Half * Lanes) / 2 + L % 2 * Lanes)...);
            T* to = x + 2 * u + Half * Lanes;
            put(to, w ? load(w + 2 * u + Half * Lanes) + value : value, add);
        };
        zipped(std::integral_constant<int, 0>{}, std::make_integer_sequence<int, Lanes>{});
        zipped(std::integral_constant<int, 1>{}, std::make_integer_sequence<int, Lanes>{});
    }
    for (; u < axis.last; ++u)
        for (int64_t p = 0; p < 2; ++p) {
            float value = 0;
            for (int64_t j = 0; j < taps; ++j)
                value += (low ? t[2 * p * taps + j] * low[u + axis.start + j] : 0) + (high ? t[(2 * p + 1) * taps + j] * high[u + axis.start + j] : 0);
            put_one(2 * u + p, value);
        }
}

// f(begin, end) over chunks of whole groups of rows
template <class F> LR_INLINE void bands_of(int64_t rows, int64_t work, int64_t group, F&& f) {
    lr::parallel_range((rows + group - 1) / group, work * group, [&](int64_t g0, int64_t g1) { f(g0 * group, g1 * group < rows ? g1 * group : rows); });
}

LR_INLINE float* row_of(void* band, int64_t row, int64_t ld) { return band ? static_cast<float*>(band) + row * ld : nullptr; }

} // namespace

int32_t wavelet_down(const WaveletArgs* p) {
    const Axis rows(p->rows, 1), cols(p->cols, 1);
    if ((rows && rows.taps > MostTaps) || (cols && cols.taps > MostTaps)) return LR_BAD_ARGUMENT;
    const int64_t half = p->x_cols / 2 + Room, work = int64_t(p->x_cols) * (rows ? 2 * (rows.taps + 1) : 2) + int64_t(p->band_cols) * (cols ? 2 * (cols.taps + 1) : 1);
    const float scale = float(p->scale);
    int32_t status = LR_OK;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* x = static_cast<const T*>(p->x);
        bands_of(p->band_rows, work, Together, [&](int64_t i0, int64_t i1) {
            float* scratch = lr::scratch(8, 4 * half);
            if (!scratch) return __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
            const Halves low{scratch, scratch + half}, high{scratch + 2 * half, scratch + 3 * half};
            for (int64_t i = i0; i < i1; ++i) {
                down_rows(rows, i, x, p->ldx, p->x_cols, low, high);
                down_cols(cols, low, p->band_cols, row_of(p->ll, i, p->ldb), row_of(p->lh, i, p->ldb), scale, p->add & 1, p->add >> 1 & 1);
                if (p->hl || p->hh) down_cols(cols, high, p->band_cols, row_of(p->hl, i, p->ldb), row_of(p->hh, i, p->ldb), scale, p->add >> 2 & 1, p->add >> 3 & 1);
            }
        });
    });
    return known ? status : LR_UNSUPPORTED;
}

int32_t wavelet_up(const WaveletArgs* p) {
    const Axis rows(p->rows, 2), cols(p->cols, 2);
    const int64_t width = p->band_cols, units = (int64_t(p->x_rows) + 1) / 2;
    const int64_t work = 4 * width * (rows ? rows.taps + 1 : 1) + 4 * int64_t(p->x_cols) * (cols ? cols.taps + 1 : 1);
    const float *ll = static_cast<const float*>(p->ll), *lh = static_cast<const float*>(p->lh), *hl = static_cast<const float*>(p->hl), *hh = static_cast<const float*>(p->hh);
    const bool any_low = ll || hl, any_high = lh || hh;
    const float scale = float(p->scale);
    int32_t status = LR_OK;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* x = static_cast<T*>(p->x);
        const T* w = static_cast<const T*>(p->w);
        bands_of(units, work, Together / 2, [&](int64_t u0, int64_t u1) {
            const int64_t pitch = width + Room;
            float* scratch = lr::scratch(8, 4 * pitch); // of both rows of a unit: low along axis 1, high along axis 1
            if (!scratch) return __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
            for (int64_t u = u0; u < u1; ++u) {
                const int64_t count = 2 * u + 2 <= p->x_rows ? 2 : 1;
                const float *low[2] = {}, *high[2] = {};
                if (!rows)
                    for (int64_t r = 0; r < count; ++r) {
                        low[r] = ll ? ll + (2 * u + r) * p->ldb : nullptr;
                        high[r] = lh ? lh + (2 * u + r) * p->ldb : nullptr;
                    }
                else {
                    const bool pair = rows.inside(2 * u);
                    if (pair && any_low) up_pair(rows, u, ll, hl, p->ldb, width, scratch, scratch + pitch);
                    if (pair && any_high) up_pair(rows, u, lh, hh, p->ldb, width, scratch + 2 * pitch, scratch + 3 * pitch);
                    for (int64_t r = 0; r < count; ++r) {
                        if (!pair && any_low) up_listed(rows, 2 * u + r, ll, hl, p->ldb, width, scratch + r * pitch);
                        if (!pair && any_high) up_listed(rows, 2 * u + r, lh, hh, p->ldb, width, scratch + (2 + r) * pitch);
                        low[r] = any_low ? scratch + r * pitch : nullptr;
                        high[r] = any_high ? scratch + (2 + r) * pitch : nullptr;
                    }
                }
                for (int64_t r = 0; r < count; ++r) {
                    const int64_t at = (2 * u + r) * p->ldx;
                    up_cols(cols, low[r], high[r], p->x_cols, x + at, w ? w + at : nullptr, scale, p->add & 1);
                }
            }
        });
    });
    return known ? status : LR_UNSUPPORTED;
}

} // namespace LR_NS
