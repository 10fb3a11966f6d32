// Gathers and layout moves. Floor: every element read and written once.
#include "kernels.h"
#include "pool.h"
#include "vectors.h"

namespace LR_NS {

int32_t gather_forward(const GatherArgs* p) {
    if (p->dtype != p->w_dtype) return LR_UNSUPPORTED;
    const int32_t* ids = static_cast<const int32_t*>(p->ids);
    const int64_t cols = p->cols;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* table = static_cast<const T*>(p->table);
        T* y = static_cast<T*>(p->y);
        lr::parallel_range(p->rows, cols, [&](int64_t r0, int64_t r1) { for (int64_t r = r0; r < r1; ++r) memcpy(y + r * cols, table + ids[r] * cols, size_t(cols) * sizeof(T)); });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

// Chunks own columns, so rows are added in the order of the ids whoever runs them.
int32_t gather_backward(const GatherGradArgs* p) {
    constexpr int64_t Width = 64;
    const int32_t* ids = static_cast<const int32_t*>(p->ids);
    const int64_t cols = p->cols;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* dy = static_cast<const T*>(p->dy);
        T* dtable = static_cast<T*>(p->dtable);
        lr::parallel_for((cols + Width - 1) / Width, [&](int64_t chunk) {
            const int64_t c0 = chunk * Width, c1 = c0 + Width < cols ? c0 + Width : cols;
            if (!(p->add & 1))
                for (int64_t r = 0; r < p->table_rows; ++r) memset(dtable + r * cols + c0, 0, size_t(c1 - c0) * sizeof(T));
            for (int64_t r = 0; r < p->rows; ++r)
                sweep(c0, c1, [&](auto at) LR_LAMBDA { at.put(dtable + ids[r] * cols, at.get(dy + r * cols), true); });
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

// Floor: x read, y written; the angles of a row serve all its heads.
int32_t rope(const RopeArgs* p) {
    const float* table = static_cast<const float*>(p->table);
    const int32_t* positions = static_cast<const int32_t*>(p->positions);
    const int64_t dim = p->dim, half = p->rotary / 2;
    const float turn = p->inverse ? -1.0f : 1.0f;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->rows, p->heads * dim, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r)
                for (int64_t h = 0; h < p->heads; ++h) {
                    const T* x = static_cast<const T*>(p->x) + (r * p->heads + h) * dim;
                    T* y = static_cast<T*>(p->y) + (r * p->heads + h) * dim;
                    const float* angle = table + positions[r] * 2 * half;
                    for (int64_t c = 0; c < half; ++c) {
                        const float a = widen(x[c]), b = widen(x[c + half]), cosine = angle[2 * c], sine = turn * angle[2 * c + 1];
                        put(y + c, a * cosine - b * sine, p->add & 1);
                        put(y + c + half, b * cosine + a * sine, p->add & 1);
                    }
                    sweep(2 * half, dim, [&](auto at) LR_LAMBDA { at.put(y, at.get(x), p->add & 1); });
                }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t columns(const ColumnsArgs* p) {
    const int64_t cols = p->cols, start = p->start, count = p->count;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->rows, p->inverse ? cols : count, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; ++r) {
                const T* x = static_cast<const T*>(p->x) + r * (p->inverse ? count : cols);
                T* y = static_cast<T*>(p->y) + r * (p->inverse ? cols : count);
                if (!p->inverse) {
                    sweep(0, count, [&](auto at) LR_LAMBDA { at.set(y, at.get(x + start)); });
                    continue;
                }
                if (!(p->add & 1)) memset(y, 0, size_t(cols) * sizeof(T));
                sweep(0, count, [&](auto at) LR_LAMBDA { at.put(y + start, at.get(x), p->add & 1); });
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t prepend_forward(const PrependArgs* p) {
    const float* first = static_cast<const float*>(p->first);
    const int64_t tokens = p->tokens, cols = p->cols;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->batch, (tokens + 1) * cols, [&](int64_t b0, int64_t b1) {
            for (int64_t b = b0; b < b1; ++b) {
                T* y = static_cast<T*>(p->y) + b * (tokens + 1) * cols;
                sweep(0, cols, [&](auto at) LR_LAMBDA { at.set(y, at.get(first)); });
                memcpy(y + cols, static_cast<const T*>(p->x) + b * tokens * cols, size_t(tokens * cols) * sizeof(T));
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t prepend_backward(const PrependGradArgs* p) {
    float* dfirst = static_cast<float*>(p->dfirst);
    const int64_t tokens = p->tokens, cols = p->cols;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* dy = static_cast<const T*>(p->dy);
        T* dx = static_cast<T*>(p->dx);
        if (dx)
            lr::parallel_range(p->batch, tokens * cols, [&](int64_t b0, int64_t b1) {
                for (int64_t b = b0; b < b1; ++b)
                    sweep(0, tokens * cols, [&](auto at) LR_LAMBDA { at.put(dx + b * tokens * cols, at.get(dy + (b * (tokens + 1) + 1) * cols), p->add & 1); });
            });
        if (dfirst)
            lr::parallel_range((cols + Lanes - 1) / Lanes, p->batch * Lanes, [&](int64_t v0, int64_t v1) {
                sweep(v0 * Lanes, v1 * Lanes < cols ? v1 * Lanes : cols, [&](auto at) LR_LAMBDA {
                    vf total{};
                    for (int64_t b = 0; b < p->batch; ++b) total = total + at.get(dy + b * (tokens + 1) * cols);
                    at.put(dfirst, total, p->add >> 1 & 1);
                });
            });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t transpose(const TransposeArgs* p) {
    constexpr int64_t Side = 64; // of a block that stays in L1: the lines it touches on both sides are used whole
    const int64_t rows = p->rows, cols = p->cols, down = (rows + Side - 1) / Side, across = (cols + Side - 1) / Side;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->batch * down * across, Side * Side, [&](int64_t i0, int64_t i1) {
            for (int64_t i = i0; i < i1; ++i) {
                const int64_t b = i / (down * across), r0 = i / across % down * Side, c0 = i % across * Side;
                const int64_t r1 = r0 + Side < rows ? r0 + Side : rows, c1 = c0 + Side < cols ? c0 + Side : cols;
                const T* x = static_cast<const T*>(p->x) + b * rows * cols;
                T* y = static_cast<T*>(p->y) + b * rows * cols;
                sweep(c0, c1, [&](auto from) LR_LAMBDA {
                    sweep(r0, r1, [&](auto to) LR_LAMBDA {
                        vf tile[Lanes] = {};
                        for (int r = 0; r < to.n; ++r) tile[r] = from.get(x + (to.i + r) * cols);
                        transpose(tile);
                        for (int c = 0; c < from.n; ++c) to.put(y + (from.i + c) * rows, tile[c], p->add & 1);
                    });
                });
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

namespace {
// A kernel row at one output position: where its taps lie among the patches, its row of the image (index of column 0, -1 above and below), and
// the column of its first tap, which may lie outside
struct Line {
    int64_t patch, row, column;
};
// f(line) for output rows [first, last), counted over all images, in a fixed order
template <class F> LR_INLINE void lines(const UnfoldArgs* p, int64_t first, int64_t last, F&& f) {
    const int64_t taps = int64_t(p->kernel_h) * p->kernel_w;
    for (int64_t o = first; o < last; ++o) {
        const int64_t b = o / p->out_h, oh = o % p->out_h;
        for (int64_t ow = 0; ow < p->out_w; ++ow)
            for (int64_t c = 0; c < p->channels; ++c)
                for (int64_t i = 0; i < p->kernel_h; ++i) {
                    const int64_t h = oh * p->stride - p->pad + i * p->dilation;
                    f(Line{((o * p->out_w + ow) * p->channels + c) * taps + i * p->kernel_w,
                           h < 0 || h >= p->height ? -1 : ((b * p->channels + c) * p->height + h) * p->width, ow * p->stride - p->pad});
                }
    }
}
} // namespace

int32_t unfold(const UnfoldArgs* p) {
    const int64_t taps = int64_t(p->channels) * p->kernel_h * p->kernel_w;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* x = static_cast<const T*>(p->x);
        lr::parallel_range(int64_t(p->batch) * p->out_h, p->out_w * taps, [&](int64_t o0, int64_t o1) {
            lines(p, o0, o1, [&](Line line) LR_LAMBDA {
                T* y = static_cast<T*>(p->y) + line.patch;
                const T* from = x + line.row;
                const int64_t width = p->kernel_w, dilation = p->dilation, last = line.column + (width - 1) * dilation;
                if (p->add & 1) {
                    for (int64_t j = 0, w = line.column; j < width; ++j, w += dilation)
                        if (line.row >= 0 && w >= 0 && w < p->width) put(y + j, widen(from[w]), true);
                } else if (line.row >= 0 && line.column >= 0 && last < p->width) {
                    if (dilation != 1)
                        for (int64_t j = 0; j < width; ++j) y[j] = from[line.column + j * dilation];
                    else if (width == 3) memcpy(y, from + line.column, 3 * sizeof(T));
                    else memcpy(y, from + line.column, size_t(width) * sizeof(T));
                } else
                    for (int64_t j = 0, w = line.column; j < width; ++j, w += dilation) y[j] = line.row >= 0 && w >= 0 && w < p->width ? from[w] : T{};
            });
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

// The adjoint of unfold: x holds the patches' gradients, y the image's. An image belongs to one chunk.
int32_t fold(const UnfoldArgs* p) {
    const int64_t image = int64_t(p->channels) * p->height * p->width;
    int32_t status = LR_OK;
    const bool known = by_float(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* x = static_cast<const T*>(p->x);
        lr::parallel_for(p->batch, [&](int64_t b) {
            float* sums = lr::scratch(8, image + 16); // in float32, so that overlapping taps are rounded once
            if (!sums) return __atomic_store_n(&status, LR_OUT_OF_MEMORY, __ATOMIC_RELAXED);
            T* y = static_cast<T*>(p->y) + b * image;
            memset(sums, 0, size_t(image) * sizeof(float));
            lines(p, b * p->out_h, (b + 1) * p->out_h, [&](Line line) LR_LAMBDA {
                if (line.row < 0) return;
                float* to = sums + line.row - b * image;
                const T* from = x + line.patch;
                const int64_t width = p->kernel_w, dilation = p->dilation;
                if (line.column >= 0 && line.column + (width - 1) * dilation < p->width)
                    for (int64_t j = 0; j < width; ++j) to[line.column + j * dilation] += widen(from[j]);
                else
                    for (int64_t j = 0, w = line.column; j < width; ++j, w += dilation)
                        if (w >= 0 && w < p->width) to[w] += widen(from[j]);
            });
            sweep(0, image, [&](auto at) LR_LAMBDA { at.put(y, at.get(sums), p->add & 1); });
        });
    });
    return known ? status : LR_UNSUPPORTED;
}

} // namespace LR_NS
