// Gathers and layout moves. Floor: every element read and written once.
#include "kernels.h"
#include "pool.h"
#include "simd.h"

namespace LR_NS {

int32_t gather_forward(const GatherArgs* p) {
    if (p->dtype != p->w_dtype) return LR_UNSUPPORTED;
    const int32_t* ids = static_cast<const int32_t*>(p->ids);
    const int64_t cols = p->cols;
    const bool known = by_type(p->dtype, [&](auto* type) {
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
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* dy = static_cast<const T*>(p->dy);
        T* dtable = static_cast<T*>(p->dtable);
        lr::parallel_for((cols + Width - 1) / Width, [&](int64_t chunk) {
            const int64_t c0 = chunk * Width, c1 = c0 + Width < cols ? c0 + Width : cols;
            if (!(p->add & 1))
                for (int64_t r = 0; r < p->table_rows; ++r) memset(dtable + r * cols + c0, 0, size_t(c1 - c0) * sizeof(T));
            for (int64_t r = 0; r < p->rows; ++r)
                for (int64_t c = c0; c < c1; ++c) put(dtable + ids[r] * cols + c, widen(dy[r * cols + c]), true);
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t prepend_forward(const PrependArgs* p) {
    const float* first = static_cast<const float*>(p->first);
    const int64_t tokens = p->tokens, cols = p->cols;
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->batch, (tokens + 1) * cols, [&](int64_t b0, int64_t b1) {
            for (int64_t b = b0; b < b1; ++b) {
                T* y = static_cast<T*>(p->y) + b * (tokens + 1) * cols;
                for (int64_t c = 0; c < cols; ++c) narrow(first[c], y[c]);
                memcpy(y + cols, static_cast<const T*>(p->x) + b * tokens * cols, size_t(tokens * cols) * sizeof(T));
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t prepend_backward(const PrependGradArgs* p) {
    float* dfirst = static_cast<float*>(p->dfirst);
    const int64_t tokens = p->tokens, cols = p->cols;
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* dy = static_cast<const T*>(p->dy);
        T* dx = static_cast<T*>(p->dx);
        if (dx)
            lr::parallel_range(p->batch, tokens * cols, [&](int64_t b0, int64_t b1) {
                for (int64_t b = b0; b < b1; ++b)
                    for (int64_t i = 0; i < tokens * cols; ++i) put(dx + b * tokens * cols + i, widen(dy[(b * (tokens + 1) + 1) * cols + i]), p->add & 1);
            });
        if (dfirst)
            lr::parallel_range(cols, p->batch, [&](int64_t c0, int64_t c1) {
                for (int64_t c = c0; c < c1; ++c) {
                    float total = 0;
                    for (int64_t b = 0; b < p->batch; ++b) total += widen(dy[b * (tokens + 1) * cols + c]);
                    put(dfirst + c, total, p->add >> 1 & 1);
                }
            });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

int32_t transpose(const TransposeArgs* p) {
    constexpr int64_t Side = 32;
    const int64_t rows = p->rows, cols = p->cols, down = (rows + Side - 1) / Side;
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        lr::parallel_range(p->batch * down, Side * cols, [&](int64_t i0, int64_t i1) {
            for (int64_t i = i0; i < i1; ++i) {
                const int64_t b = i / down, r0 = i % down * Side, r1 = r0 + Side < rows ? r0 + Side : rows;
                const T* x = static_cast<const T*>(p->x) + b * rows * cols;
                T* y = static_cast<T*>(p->y) + b * rows * cols;
                for (int64_t c = 0; c < cols; ++c)
                    for (int64_t r = r0; r < r1; ++r) put(y + c * rows + r, widen(x[r * cols + c]), p->add & 1);
            }
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

namespace {
// Calls f(index into the patches, index into the image or -1) for every tap of image b, in a fixed order
template <class F> LR_INLINE void taps(const UnfoldArgs* p, int64_t b, F&& f) {
    int64_t at = b * p->out_h * p->out_w * p->channels * p->kernel_h * p->kernel_w;
    for (int64_t oh = 0; oh < p->out_h; ++oh)
        for (int64_t ow = 0; ow < p->out_w; ++ow)
            for (int64_t c = 0; c < p->channels; ++c)
                for (int64_t i = 0; i < p->kernel_h; ++i) {
                    const int64_t h = oh * p->stride - p->pad + i * p->dilation;
                    const int64_t row = ((b * p->channels + c) * p->height + h) * p->width;
                    for (int64_t j = 0; j < p->kernel_w; ++j, ++at) {
                        const int64_t w = ow * p->stride - p->pad + j * p->dilation;
                        f(at, h < 0 || h >= p->height || w < 0 || w >= p->width ? -1 : row + w);
                    }
                }
}
} // namespace

int32_t unfold(const UnfoldArgs* p) {
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* x = static_cast<const T*>(p->x);
        T* y = static_cast<T*>(p->y);
        lr::parallel_for(p->batch, [&](int64_t b) { taps(p, b, [&](int64_t at, int64_t from) { put(y + at, from < 0 ? 0.0f : widen(x[from]), p->add & 1); }); });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

// The adjoint of unfold: x holds the patches' gradients, y the image's. An image belongs to one chunk.
int32_t fold(const UnfoldArgs* p) {
    const int64_t image = int64_t(p->channels) * p->height * p->width;
    const bool known = by_type(p->dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* x = static_cast<const T*>(p->x);
        T* y = static_cast<T*>(p->y);
        lr::parallel_for(p->batch, [&](int64_t b) {
            float* sums = lr::scratch(8, image + 16); // in float32, so that overlapping taps are rounded once
            for (int64_t i = 0; i < image; ++i) sums[i] = p->add & 1 ? widen(y[b * image + i]) : 0.0f;
            taps(p, b, [&](int64_t at, int64_t to) { if (to >= 0) sums[to - b * image] += widen(x[at]); });
            for (int64_t i = 0; i < image; ++i) narrow(sums[i], y[b * image + i]);
        });
    });
    return known ? LR_OK : LR_UNSUPPORTED;
}

} // namespace LR_NS
