// See pack.h. Where steps are adjacent in memory a group is made by transposing squares of registers: 4 log2(Lanes)/Lanes instructions an entry.
#include "pack.h"
#include "codes.h"
#include "kernels.h"
#include "pool.h"

namespace LR_NS {

bool is_activation(int32_t dtype) { return dtype == LR_F32 || dtype == LR_BF16; }

namespace {

// to[s][Width] from line(l, s, count): the entries of steps s .. s+count-1 of line l as a vector
template <int Width, class Line> LR_INLINE void transposed(int64_t have, int64_t steps, float* to, Line&& line) {
    for (int l0 = 0; l0 < Width; l0 += Lanes) {
        constexpr int Some = Width % Lanes ? Width % Lanes : Lanes;
        const int lines = l0 + Lanes <= Width ? Lanes : Some;
        int64_t s = 0;
        vf v[Lanes];
        for (; have >= l0 + lines && s + Lanes <= steps; s += Lanes) {
            if (lines == Lanes) unroll<Lanes>([&](auto i) LR_LAMBDA { v[i] = line(l0 + i, s, int64_t(Lanes)); });
            else unroll<Lanes>([&](auto i) LR_LAMBDA { v[i] = i < Some ? line(l0 + i, s, int64_t(Lanes)) : vf{}; });
            transpose(v);
            float* at = to + s * Width + l0;
            if (lines == Lanes) unroll<Lanes>([&](auto i) LR_LAMBDA { store(at + i * Width, v[i]); });
            else unroll<Lanes>([&](auto i) LR_LAMBDA { store_some(at + i * Width, v[i], Some); });
        }
        for (; s < steps; s += Lanes) {
            const int64_t count = least(Lanes, steps - s);
            for (int i = 0; i < Lanes; ++i) v[i] = i < lines && l0 + i < have ? line(l0 + i, s, count) : vf{};
            transpose(v);
            for (int64_t i = 0; i < count; ++i) store_some(to + (s + i) * Width + l0, v[i], lines);
        }
    }
}

template <int Width, class T> void floats_of(const T* from, const View& v, int64_t have, int64_t steps, const float* factor, float* to) {
    if (v.step_stride == 1) {
        transposed<Width>(have, steps, to, [=](int64_t l, int64_t s, int64_t count) LR_LAMBDA {
            const T* at = from + l * v.line_stride + s;
            const vf x = count == Lanes ? load(at) : load_some(at, count);
            return factor ? x * (count == Lanes ? load(factor + s) : load_some(factor + s, count)) : x;
        });
        return;
    }
    for (int64_t s = 0; s < steps; ++s) {
        const T* at = from + s * v.step_stride;
        for (int l = 0; l < Width; l += Lanes) {
            const int64_t count = have - l < 0 ? 0 : least(Lanes, have - l);
            vf x = count == Lanes ? load(at + l) : load_some(at + l, count);
            if (factor) x = x * splat(factor[s]);
            if (l + Lanes <= Width) store(to + s * Width + l, x);
            else store_some(to + s * Width + l, x, Width - l);
        }
    }
}

LR_INLINE vi rounded(vf v) { // bf16 bits in the upper half of each lane
    const vi u = as_int(v), nan = v != v;
    return ((nan & (u | 0x400000)) | (~nan & (u + 0x7FFF + ((u >> 16) & 1)))) & int32_t(0xFFFF0000);
}

LR_INLINE vi low_half(vi v) { return (vi)((vu)v >> 16); }

} // namespace

template <int Width> void pack_group(const View& v, int64_t lines, int64_t steps, int64_t group, const float* factor, float* to) {
    const int64_t first = group * Width, have = least(lines - first, Width);
    if (v.dtype == LR_F32) floats_of<Width>(static_cast<const float*>(v.data) + first * v.line_stride, v, have, steps, factor, to);
    else floats_of<Width>(static_cast<const bf16*>(v.data) + first * v.line_stride, v, have, steps, factor, to);
}
template void pack_group<Low>(const View&, int64_t, int64_t, int64_t, const float*, float*);
template void pack_group<Rows>(const View&, int64_t, int64_t, int64_t, const float*, float*);
template void pack_group<Narrow>(const View&, int64_t, int64_t, int64_t, const float*, float*);
template void pack_group<Wide>(const View&, int64_t, int64_t, int64_t, const float*, float*);

void pack_codes(const void* w, int32_t layout, int64_t n, int64_t k, int64_t group, int64_t from, int64_t steps, float* to) {
    const Codes codes(w, layout, n, k);
    const int64_t first = group * Wide, have = least(n - first, Wide);
    const auto anywhere = [&](int64_t l, int64_t s, int64_t count) { return codes.some(first + l, from + s, count); };
    const auto in_place = [&](int64_t l, int64_t s, int64_t count) LR_LAMBDA { return count == Lanes ? codes.at(first + l, from + s) : anywhere(l, s, count); };
    if (codes.whole() && from % Lanes == 0) transposed<Wide>(have, steps, to, in_place);
    else transposed<Wide>(have, steps, to, anywhere);
}

template <int Width> void pack_pairs(const View& v, int64_t lines, int64_t steps, int64_t group, const float* factor, float* to) {
    const int64_t first = group * Width, have = least(lines - first, Width);
    const bf16* from = static_cast<const bf16*>(v.data) + first * v.line_stride;
    transposed<Width>(have, ceil_div(steps, 2), to, [=](int64_t l, int64_t s, int64_t count) LR_LAMBDA {
        const bf16* at = from + l * v.line_stride + 2 * s;
        const int64_t entries = least(2 * count, steps - 2 * s);
        bf16 part[2 * Lanes] = {};
        if (factor) {
            const int64_t low = least(entries, Lanes), high = entries - low;
            store(part, load_some(at, low) * load_some(factor + 2 * s, low));
            store(part + Lanes, load_some(at + low, high) * load_some(factor + 2 * s + low, high));
            at = part;
        } else if (entries < 2 * Lanes) {
            memcpy(part, at, static_cast<size_t>(entries) * sizeof(bf16));
            at = part;
        }
        vf units;
        memcpy(&units, at, sizeof units);
        return units;
    });
}
template void pack_pairs<Rows>(const View&, int64_t, int64_t, int64_t, const float*, float*);
template void pack_pairs<Wide>(const View&, int64_t, int64_t, int64_t, const float*, float*);

void to_pairs(float* group, int64_t steps, int64_t width) {
    for (int64_t s = 0; s < steps; s += 2)
        for (int64_t l = 0; l < width; l += Lanes) {
            const int64_t count = least(Lanes, width - l);
            const vi even = rounded(load_some(group + s * width + l, count)), odd = s + 1 < steps ? rounded(load_some(group + (s + 1) * width + l, count)) : vi{};
            store_some(group + s / 2 * width + l, as_float(low_half(even) | odd), count);
        }
}

void widen_strip(const bf16* strip, int64_t first, int64_t steps, float* to) {
    for (int64_t s = 0; s < steps; s += 2)
        for (int l = 0; l < Wide; l += Lanes) {
            vi pair;
            memcpy(&pair, strip + ((first + s) / 2 * Wide + l) * 2, sizeof pair);
            store(to + s * Wide + l, as_float(pair << 16));
            if (s + 1 < steps) store(to + (s + 1) * Wide + l, as_float(pair & int32_t(0xFFFF0000)));
        }
}

void weight_blocks(const float* w, int64_t k, int64_t first, int64_t from, int64_t count, float* to) {
    const int64_t have = least(k - first, Rows);
    for (int64_t c = 0; c < count; c += Wide, to += Rows * Wide) {
        memcpy(to, w + ((from + c) / Wide * k + first) * Wide, static_cast<size_t>(have * Wide) * sizeof(float));
        memset(to + have * Wide, 0, static_cast<size_t>((Rows - have) * Wide) * sizeof(float));
    }
}

void weight_blocks(const bf16* w, int64_t k, int64_t first, int64_t from, int64_t count, bool pairs, float* to) {
    const int64_t k2 = ceil_div(k, 2), have = least(k2 - first / 2, Rows / 2), block = pairs ? Rows * Wide / 2 : Rows * Wide;
    for (int64_t c = 0; c < count; c += Wide, to += block) {
        const bf16* strip = w + ((from + c) / Wide * k2 + first / 2) * Wide * 2;
        for (int64_t i = 0; i < Rows / 2; ++i, strip += 2 * Wide) {
            if (i >= have) {
                memset(to + i * block / (Rows / 2), 0, static_cast<size_t>(block / (Rows / 2)) * sizeof(float));
                continue;
            }
            if (!pairs) {
                widen_strip(strip, 0, 2, to + 2 * i * Wide);
                continue;
            }
            for (int l = 0; l < Wide; l += 2 * Lanes) { // words (n, k), (n, k+1) of 2*Lanes columns -> the even words, then the odd ones
                vi a, b;
                memcpy(&a, strip + 2 * l, sizeof a);
                memcpy(&b, strip + 2 * (l + Lanes), sizeof b);
                store(to + 2 * i * Wide / 2 + l / 2, as_float(even_words(a, b)));
                store(to + (2 * i + 1) * Wide / 2 + l / 2, as_float(odd_words(a, b)));
            }
        }
    }
}

int32_t pack(const PackArgs* p) {
    if (!is_activation(p->dtype)) return LR_UNSUPPORTED;
    const int64_t n = p->n, k = p->k, k2 = ceil_div(k, 2);
    lr::parallel_for(ceil_div(n, Wide), [&](int64_t strip) {
        if (!p->unpack) {
            if (p->dtype == LR_F32) pack_group<Wide>({p->src, LR_F32, k, 1}, n, k, strip, nullptr, static_cast<float*>(p->dst) + strip * k * Wide);
            else pack_pairs<Wide>({p->src, LR_BF16, k, 1}, n, k, strip, nullptr, static_cast<float*>(p->dst) + strip * k2 * Wide);
            return;
        }
        const int64_t first = strip * Wide, rows = least(n - first, Wide);
        for (int64_t s0 = 0; s0 < k; s0 += 64)
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t s = s0; s < least(s0 + 64, k); ++s) {
                    const int64_t to = (first + r) * k + s;
                    if (p->dtype == LR_F32) static_cast<float*>(p->dst)[to] = static_cast<const float*>(p->src)[(strip * k + s) * Wide + r];
                    else static_cast<bf16*>(p->dst)[to] = static_cast<const bf16*>(p->src)[((strip * k2 + s / 2) * Wide + r) * 2 + s % 2];
                }
    });
    return LR_OK;
}

} // namespace LR_NS
