// Optimisers over one flat pack. Floor: AdamW reads p, g, m, v and writes p, m, v: 28 bytes a parameter.
// Reached (Zen 4, AVX-512, one thread, 10 M parameters): 47 to 54 GB/s, above the copy ceiling of 28 to 33: it
// writes where it has read, so no line is fetched only to be overwritten.
#include "codes.h"
#include "kernels.h"
#include "math.h"
#include "pool.h"

namespace LR_NS {

namespace {

constexpr int64_t Grain = 16384;

double clip(const void* norm2, double max_norm) {
    if (!norm2 || max_norm <= 0) return 1;
    const double c = max_norm / (__builtin_sqrt(*static_cast<const double*>(norm2)) + 1e-6);
    return c < 1 ? c : 1;
}

// {lr, step}: as the call says, or as memory does
struct Pace {
    double lr, step;
    template <class Args> explicit Pace(const Args* a) : lr(a->lr), step(double(a->step)) {
        if (const double* now = static_cast<const double*>(a->progress)) lr = now[0], step = now[1];
    }
};

// f(segment, begin, end) over chunks of at most Grain elements of every segment
template <class F> void over(const Segment* segments, int32_t count, F&& f) {
    int64_t chunks = 0;
    for (int32_t i = 0; i < count; ++i) chunks += (segments[i].count + Grain - 1) / Grain;
    lr::parallel_for(chunks, [&](int64_t chunk) {
        int32_t i = 0;
        int64_t c = chunk;
        for (; c >= (segments[i].count + Grain - 1) / Grain; ++i) c -= (segments[i].count + Grain - 1) / Grain;
        const int64_t begin = segments[i].start + c * Grain, last = segments[i].start + segments[i].count;
        f(segments[i], begin, begin + Grain < last ? begin + Grain : last, chunk);
    });
}

// table[i]; of bytes the three behind the last entry are read too
LR_INLINE vf gather(const float* table, vi i) {
#if defined(__AVX512F__)
    return (vf)_mm512_i32gather_ps((__m512i)i, table, 4);
#elif defined(__AVX2__)
    return (vf)_mm256_i32gather_ps(table, (__m256i)i, 4);
#else
    return vf{table[i[0]], table[i[1]], table[i[2]], table[i[3]]};
#endif
}
LR_INLINE vi gather(const uint8_t* table, vi i) {
#if defined(__AVX512F__)
    return (vi)_mm512_i32gather_epi32((__m512i)i, table, 1) & 0xFF;
#elif defined(__AVX2__)
    return (vi)_mm256_i32gather_epi32(reinterpret_cast<const int*>(table), (__m256i)i, 1) & 0xFF;
#else
    return vi{table[i[0]], table[i[1]], table[i[2]], table[i[3]]};
#endif
}
LR_INLINE void store_bytes(uint8_t* p, vi v) {
#if defined(__AVX512F__)
    const __m128i b = _mm512_cvtepi32_epi8((__m512i)v);
    memcpy(p, &b, sizeof b);
#else
    for (int i = 0; i < Lanes; ++i) p[i] = uint8_t(v[i]);
#endif
}
LR_INLINE float most(vf v) {
    float largest = v[0];
    for (int i = 1; i < Lanes; ++i) largest = v[i] > largest ? v[i] : largest;
    return largest;
}

// A book of codes (Adam8BitArgs)
struct Book {
    const float *values, *middles;
    const uint8_t* first;
    explicit Book(const void* p) : values(static_cast<const float*>(p)), middles(values + 256), first(reinterpret_cast<const uint8_t*>(middles + 256)) {}

    LR_INLINE vf value(const uint8_t* codes) const { return gather(values, Codes::bytes(codes)); }
    LR_INLINE vi code(vf x) const {
        constexpr int32_t Least = (127 - 23) << 7, Places = 23 * 128 + 1;
        const vi bits = as_int(x), place = ((bits & 0x7FFFFFFF) >> 16) - Least, low = place & ~(place >> 31), inside = low < Places;
        const vi code = gather(first, ((inside & low) | (~inside & (Places - 1))) + ((bits >> 31) & Places));
        return code - (vi)(x > gather(middles, code)); // a true lane is -1
    }
};

// A state block, to be indexed as the values are
LR_INLINE float* state_of(void* block, const Segment& s) { return block ? static_cast<float*>(block) + (s.state - s.start) : nullptr; }

} // namespace

int32_t square_sum(const SquareSumArgs* p) {
    if (p->dtype != LR_F32) return LR_UNSUPPORTED;
    const float* g = static_cast<const float*>(p->g);
    int64_t chunks = 0;
    for (int32_t i = 0; i < p->segment_count; ++i) chunks += (p->segments[i].count + Grain - 1) / Grain;
    double* parts = reinterpret_cast<double*>(lr::scratch(0, 2 * chunks + 16));
    if (!parts) return LR_OUT_OF_MEMORY;
    over(p->segments, p->segment_count, [&](const Segment&, int64_t begin, int64_t end, int64_t chunk) {
        double sums[8] = {};
        int64_t i = begin;
        for (; i + 8 <= end; i += 8)
            for (int e = 0; e < 8; ++e) sums[e] += double(g[i + e]) * g[i + e];
        for (; i < end; ++i) sums[0] += double(g[i]) * g[i];
        parts[chunk] = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    });
    double total = 0;
    for (int64_t c = 0; c < chunks; ++c) total += parts[c];
    *static_cast<double*>(p->norm2) = total;
    return LR_OK;
}

int32_t adamw(const AdamWArgs* a) {
    if (a->dtype != LR_F32) return LR_UNSUPPORTED;
    float* p = static_cast<float*>(a->p);
    const float* g = static_cast<const float*>(a->g);
    const Pace pace(a);
    const vf scale = splat(float(clip(a->norm2, a->max_norm))), b1 = splat(float(a->beta1)), c1 = splat(float(1 - a->beta1)), b2 = splat(float(a->beta2));
    const vf c2 = splat(float(1 - a->beta2)), eps = splat(float(a->eps));
    over(a->segments, a->segment_count, [&](const Segment& s, int64_t begin, int64_t end, int64_t) {
        const double lr = pace.lr * s.lr_scale, steps = pace.step - double(s.paused);
        const double correct1 = a->uncorrected ? 1 : 1 - __builtin_pow(a->beta1, steps), correct2 = a->uncorrected ? 1 : 1 - __builtin_pow(a->beta2, steps);
        const double outside = a->late ? __builtin_sqrt(correct2) : 1;
        const float kept = float(1 - lr * s.weight_decay);
        const vf root = splat(float(outside / __builtin_sqrt(correct2)));
        const vf step = splat(float(lr * outside / correct1)), before = splat(a->late ? 1 : kept), after = splat(a->late ? kept : 1), decay = splat(float(s.weight_decay));
        const bool coupled = a->coupled != 0;
        float *m = state_of(a->m, s), *v = state_of(a->v, s);
        sweep(begin, end, [&](auto at) LR_LAMBDA {
            vf value = at.get(p), grad = at.get(g) * scale;
            if (coupled) grad = fma(decay, value, grad);
            else value = value * before;
            const vf m1 = fma(b1, at.get(m), c1 * grad), v1 = fma(b2, at.get(v), c2 * grad * grad);
            at.set(m, m1);
            at.set(v, v1);
            const vf next = value - step * m1 / fma(vsqrt(v1), root, eps);
            at.set(p, coupled ? next : next * after);
        });
    });
    return LR_OK;
}

// Reads p, g and two codes and writes p and the codes: 16 bytes a parameter. A block's moments wait in L1 for its largest magnitudes.
int32_t adam_8bit(const Adam8BitArgs* a) {
    if (a->dtype != LR_F32) return LR_UNSUPPORTED;
    constexpr int64_t Block = 256;
    float* p = static_cast<float*>(a->p);
    const float* g = static_cast<const float*>(a->g);
    const Pace pace(a);
    const vf scale = splat(float(clip(a->norm2, a->max_norm))), b1 = splat(float(a->beta1)), n1 = splat(float(1 - a->beta1)), b2 = splat(float(a->beta2));
    const vf n2 = splat(float(1 - a->beta2));
    const Book book1(a->book1), book2(a->book2);
    over(a->segments, a->segment_count, [&](const Segment& s, int64_t begin, int64_t end, int64_t) {
        const double lr = pace.lr * s.lr_scale, steps = pace.step - double(s.paused);
        const double c1 = 1 - __builtin_pow(a->beta1, steps), c2 = __builtin_sqrt(1 - __builtin_pow(a->beta2, steps));
        const vf step = splat(float(lr * c2 / c1)), keep = splat(float(1 - lr * s.weight_decay)), eps = splat(float(c2 * a->eps));
        const int64_t first_block = a->blocks[&s - a->segments];
        auto update = [&](auto at, vf m, vf v, vf& m1, vf& v1) LR_LAMBDA {
            const vf grad = at.get(g) * scale, value = at.get(p);
            const vi finite = (as_int(grad) & 0x7F800000) != 0x7F800000;
            m1 = select(finite, fma(b1, m, n1 * grad), splat(0));
            v1 = select(finite, fma(b2, v, n2 * grad * grad), splat(0));
            at.set(p, select(finite, (value - step * m1 / (vsqrt(v1) + eps)) * keep, value));
        };
        if (first_block < 0) {
            float *m = state_of(a->m, s), *v = state_of(a->v, s);
            sweep(begin, end, [&](auto at) LR_LAMBDA {
                vf m1, v1;
                update(at, at.get(m), at.get(v), m1, v1);
                at.set(m, m1);
                at.set(v, v1);
            });
            return;
        }
        for (int64_t from = begin; from < end; from += Block) {
            const int64_t count = from + Block < end ? Block : end - from, block = first_block + (from - s.start) / Block;
            uint8_t *codes1 = static_cast<uint8_t*>(a->codes1) + s.state + (from - s.start), *codes2 = static_cast<uint8_t*>(a->codes2) + s.state + (from - s.start);
            float &max1 = static_cast<float*>(a->max1)[block], &max2 = static_cast<float*>(a->max2)[block];
            float m[Block], v[Block];
            uint8_t bytes1[Block + Lanes], bytes2[Block + Lanes];
            memcpy(bytes1, codes1, size_t(count));
            memcpy(bytes2, codes2, size_t(count));
            vf most1 = splat(0), most2 = splat(0);
            sweep(from, from + count, [&](auto at) LR_LAMBDA {
                const int64_t i = at.i - from;
                vf m1, v1;
                update(at, book1.value(bytes1 + i) * splat(max1), book2.value(bytes2 + i) * splat(max2), m1, v1);
                m1 = within(at, m1), v1 = within(at, v1);
                store(m + i, m1);
                store(v + i, v1);
                most1 = vmax(vmax(m1, splat(0) - m1), most1);
                most2 = vmax(v1, most2);
            });
            max1 = most(most1), max2 = most(most2);
            const vf all1 = splat(max1 > 0 ? max1 : 1), all2 = splat(max2 > 0 ? max2 : 1);
            for (int64_t i = 0; i < count; i += Lanes) {
                store_bytes(bytes1 + i, book1.code(load(m + i) / all1));
                store_bytes(bytes2 + i, book2.code(load(v + i) / all2));
            }
            memcpy(codes1, bytes1, size_t(count));
            memcpy(codes2, bytes2, size_t(count));
        }
    });
    return LR_OK;
}

int32_t sgd(const SgdArgs* a) {
    if (a->dtype != LR_F32) return LR_UNSUPPORTED;
    float* p = static_cast<float*>(a->p);
    const float* g = static_cast<const float*>(a->g);
    const vf scale = splat(float(clip(a->norm2, a->max_norm))), momentum = splat(float(a->momentum)), fresh = splat(float(1 - a->dampening));
    const Pace pace(a);
    over(a->segments, a->segment_count, [&](const Segment& s, int64_t begin, int64_t end, int64_t) {
        const vf lr = splat(float(pace.lr * s.lr_scale)), decay = splat(float(s.weight_decay));
        float* buf = state_of(a->buf, s);
        sweep(begin, end, [&](auto at) LR_LAMBDA {
            const vf value = at.get(p);
            vf grad = fma(decay, value, at.get(g) * scale);
            if (buf) {
                const vf next = pace.step == 1 ? grad : fma(momentum, at.get(buf), fresh * grad);
                at.set(buf, next);
                grad = a->nesterov ? fma(momentum, next, grad) : next;
            }
            at.set(p, value - lr * grad);
        });
    });
    return LR_OK;
}

int32_t rmsprop(const RmsPropArgs* a) {
    if (a->dtype != LR_F32) return LR_UNSUPPORTED;
    float* p = static_cast<float*>(a->p);
    const float* g = static_cast<const float*>(a->g);
    const vf scale = splat(float(clip(a->norm2, a->max_norm))), alpha = splat(float(a->alpha)), fresh = splat(float(1 - a->alpha));
    const vf momentum = splat(float(a->momentum)), eps = splat(float(a->eps));
    const Pace pace(a);
    over(a->segments, a->segment_count, [&](const Segment& s, int64_t begin, int64_t end, int64_t) {
        const vf lr = splat(float(pace.lr * s.lr_scale)), decay = splat(float(s.weight_decay));
        float *v = state_of(a->v, s), *mean = state_of(a->mean, s), *buf = state_of(a->buf, s);
        sweep(begin, end, [&](auto at) LR_LAMBDA {
            const vf value = at.get(p), grad = fma(decay, value, at.get(g) * scale), square = fma(alpha, at.get(v), fresh * grad * grad);
            at.set(v, square);
            vf spread = square;
            if (mean) {
                const vf m1 = fma(alpha, at.get(mean), fresh * grad);
                at.set(mean, m1);
                spread = square - m1 * m1;
            }
            vf move = grad / (vsqrt(spread) + eps);
            if (buf) {
                move = fma(momentum, at.get(buf), move);
                at.set(buf, move);
            }
            at.set(p, value - lr * move);
        });
    });
    return LR_OK;
}

// Reads g and p once for the moments, g once for the norm of the update, and g and p to write p: 24 bytes a parameter. Sums over 64 rows in f32, over those in f64.
int32_t adafactor(const AdafactorArgs* a) {
    if (a->dtype != LR_F32) return LR_UNSUPPORTED;
    constexpr int64_t Band = 64; // rows of a chunk
    const Pace pace(a);
    const float scale = float(clip(a->norm2, a->max_norm)), fresh = float(__builtin_pow(pace.step, -a->decay)), floor = float(a->eps1);
    const double root = 1 / __builtin_sqrt(pace.step), pull = pace.lr < root ? pace.lr : root;
    for (int32_t i = 0; i < a->tensor_count; ++i) {
        const Factored& t = a->tensors[i];
        const int64_t bands = (t.rows + Band - 1) / Band, count = t.rows * t.cols;
        float* p = static_cast<float*>(a->p) + t.start;
        const float* g = static_cast<const float*>(a->g) + t.start;
        float *row = t.row_state < 0 ? nullptr : static_cast<float*>(a->row) + t.row_state, *col = static_cast<float*>(a->col) + t.col_state;
        float* columns = lr::scratch(0, bands * (t.cols + 4) + 16); // [bands, cols] sums of squares, then {sum p^2, sum u^2} [bands] as doubles
        if (!columns) return LR_OUT_OF_MEMORY;
        double* parts = reinterpret_cast<double*>(columns + (bands * t.cols + 15) / 16 * 16);
        auto each_row = [&](int64_t band, auto&& f) {
            for (int64_t r = band * Band; r < t.rows && r < (band + 1) * Band; ++r) f(r);
        };
        lr::parallel_for(bands, [&](int64_t band) {
            float* mine = columns + band * t.cols;
            double squares = 0;
            each_row(band, [&](int64_t r) {
                vf sum2 = splat(0), sum_p = splat(0);
                sweep(0, t.cols, [&](auto at) LR_LAMBDA {
                    const vf grad = at.get(g + r * t.cols) * splat(scale), square = grad * grad, value = at.get(p + r * t.cols);
                    at.set(mine, r == band * Band ? square : at.get(mine) + square);
                    sum2 = sum2 + within(at, square);
                    sum_p = sum_p + within(at, value * value);
                });
                squares += sum(sum_p);
                if (row) row[r] += fresh * (sum(sum2) / float(t.cols) - row[r]);
            });
            parts[2 * band] = squares;
        });
        lr::parallel_for((t.cols + Grain - 1) / Grain, [&](int64_t piece) {
            for (int64_t c = piece * Grain; c < t.cols && c < (piece + 1) * Grain; ++c) {
                double total = 0;
                for (int64_t band = 0; band < bands; ++band) total += columns[band * t.cols + c];
                col[c] += fresh * (float(total / double(t.rows)) - col[c]);
            }
        });
        double mean = 1, p2 = 0, u2 = 0;
        if (row) {
            double total = 0;
            for (int64_t r = 0; r < t.rows; ++r) total += row[r];
            mean = total / double(t.rows) > a->eps1 ? total / double(t.rows) : a->eps1;
        }
        auto update = [&](auto at, int64_t r) LR_LAMBDA {
            return at.get(g + r * t.cols) * splat(scale) / vmax(vsqrt(at.get(col) * splat(row ? float(row[r] / mean) : 1)), splat(floor));
        };
        lr::parallel_for(bands, [&](int64_t band) {
            double squares = 0;
            each_row(band, [&](int64_t r) {
                vf total = splat(0);
                sweep(0, t.cols, [&](auto at) LR_LAMBDA {
                    const vf u = update(at, r);
                    total = total + within(at, u * u);
                });
                squares += sum(total);
            });
            parts[2 * band + 1] = squares;
        });
        for (int64_t band = 0; band < bands; ++band) p2 += parts[2 * band], u2 += parts[2 * band + 1];
        const double size = __builtin_sqrt(p2 / double(count)), spread = __builtin_sqrt(u2 / double(count)) / a->threshold;
        const vf step = splat(float((size > a->eps2 ? size : a->eps2) * pull * t.lr_scale / (spread > 1 ? spread : 1)));
        const vf keep = splat(float(1 - pace.lr * t.lr_scale * t.weight_decay));
        lr::parallel_for(bands, [&](int64_t band) {
            each_row(band, [&](int64_t r) {
                sweep(0, t.cols, [&](auto at) LR_LAMBDA { at.set(p + r * t.cols, at.get(p + r * t.cols) * keep - step * update(at, r)); });
            });
        });
    }
    return LR_OK;
}

} // namespace LR_NS
