// Alternating least squares on a sparse matrix by rows (arXiv 2302.11068), F32: a block of 128 threads owns a row, gathers the other factor's rows some at
// a time into shared memory and makes, factors and solves its system there; or takes conjugate gradient steps, which gather once a pass and keep nothing
// for an entry. Blocks take the rows with most entries first, so that none is left alone at the end. Where a few rows have more than 8192 entries, 16
// blocks make parts of such a row's normal matrix, which its own block adds in order; gradients, whose work is only count r a step, stay with one block.
// Floor: nnz r (r + 1) multiply-adds on the CUDA cores for the normal matrices and rows r^3/3 for the factors; the gathers come from L2.
// Predicted for 20 M entries, r = 64, 150,000 rows: 3 ms at 60 TFLOP/s and, with a synchronisation a column of each factor, some 15 ms as it is. Where the
// normal matrix is too large for shared memory, r > 139, it lies in L2; ranks above 6,142 are declined.
// Sums run in the order of the entries whatever the grid and whichever row a block takes.
#include "common.cuh"

#if LR_DTYPE == 1

constexpr int Threads = 128, Warps = Threads / 32, Classes = 16, Segments = 16;
constexpr int64_t Long = 8192, MostLong = 64; // entries; rows that are split, all or none

struct lr_system {
    const float *y, *b;
    const int32_t* columns;
    int64_t count;
    int r, chunk;
    float *stage, *weights; // (chunk, r) (chunk)
};

// Rows by number of entries: how many of each class there are, how many have their place; then the order (rows), parts of long rows, matrices by block
struct lr_queue { int counts[Classes], placed[Classes], unused[32]; };
LR_DEV int lr_class(int64_t count) {
    if (count > Long) return 0;
    int c = Classes - 1;
    for (; count > 0; count /= 2) --c;
    return c; // 1 for 8192, Classes - 1 for 0
}
LR_DEV int64_t lr_count(const AlsArgs& p, int64_t row) {
    const int64_t* starts = static_cast<const int64_t*>(p.starts);
    return starts[row + 1] - starts[row];
}
LR_DEV int* lr_order(const Planned<AlsArgs>& p) { return reinterpret_cast<int*>(static_cast<lr_queue*>(p.work) + 1); }
LR_DEV float* lr_parts(const Planned<AlsArgs>& p) { return reinterpret_cast<float*>(lr_order(p) + (p.op.rows + 63) / 64 * 64); }
LR_DEV int64_t lr_part(int r) { return int64_t(r) * (r + 3) / 2; } // floats: lower triangle, right side
LR_DEV bool lr_splits(const Planned<AlsArgs>& p) { return p.parts == 0 && static_cast<const lr_queue*>(p.work)->counts[0] <= MostLong; }

LR_KERNEL(als_count, Planned<AlsArgs>, 128, 4) {
    for (int64_t row = int64_t(LR_BX) * Threads + LR_TID; row < p.op.rows; row += int64_t(LR_GX) * Threads) lr_atomic_add(static_cast<lr_queue*>(p.work)->counts + lr_class(lr_count(p.op, row)), 1);
}

// Within a class rows lie as they come: it decides when a row is solved, not what comes out.
LR_KERNEL(als_order, Planned<AlsArgs>, 128, 4) {
    lr_queue* q = static_cast<lr_queue*>(p.work);
    for (int64_t row = int64_t(LR_BX) * Threads + LR_TID; row < p.op.rows; row += int64_t(LR_GX) * Threads) {
        const int mine = lr_class(lr_count(p.op, row));
        int at = lr_atomic_add(q->placed + mine, 1);
        for (int c = 0; c < mine; ++c) at += q->counts[c];
        lr_order(p)[at] = static_cast<int>(row);
    }
}

LR_DEV lr_system lr_row(const AlsArgs& p, int64_t row) {
    const int64_t* starts = static_cast<const int64_t*>(p.starts);
    return {static_cast<const float*>(p.y), static_cast<const float*>(p.values) + starts[row], static_cast<const int32_t*>(p.columns) + starts[row], starts[row + 1] - starts[row], p.r, 0, nullptr, nullptr};
}

// f(t0, n) with the rows t0 .. t0 + n of A in s.stage, for all from .. to; every thread of the block calls it
template <class F> LR_DEV void lr_chunks(const lr_system& s, int64_t from, int64_t to, F f) {
    for (int64_t t0 = from; t0 < to; t0 += s.chunk) {
        const int n = to - t0 < s.chunk ? static_cast<int>(to - t0) : s.chunk;
        lr_sync();
        for (int e = LR_TID; e < n * s.r; e += Threads) s.stage[e] = s.y[int64_t(s.columns[t0 + e / s.r]) * s.r + e % s.r];
        lr_sync();
        f(t0, n);
    }
    lr_sync();
}

// s.weights[t] = A x for the staged rows, a warp a row
LR_DEV void lr_dots(const lr_system& s, int n, const float* x) {
    for (int t = LR_TID / 32; t < n; t += Warps) {
        float sum = 0;
        for (int c = LR_TID % 32; c < s.r; c += 32) sum = lr_fma(s.stage[t * s.r + c], x[c], sum);
        sum = lr_warp_sum(sum);
        if (LR_TID % 32 == 0) s.weights[t] = sum;
    }
    lr_sync();
}

// g (r, r + 1) <- its Cholesky factor, lower triangles; false, for every thread, at a pivot that is not positive
LR_DEV bool lr_factor(float* g, int r) {
    const int pitch = r + 1;
    for (int j = 0; j < r; ++j) {
        lr_sync();
        const float pivot = g[j * pitch + j];
        if (!(pivot > 0) || pivot > 3e38f) return false;
        const float root = sqrtf(pivot);
        lr_sync();
        if (LR_TID == 0) g[j * pitch + j] = root;
        for (int i = j + 1 + LR_TID; i < r; i += Threads) g[i * pitch + j] /= root;
        lr_sync();
        const int left = r - j - 1;
        for (int e = LR_TID; e < left * left; e += Threads) {
            const int i = j + 1 + e / left, k = j + 1 + e % left;
            if (k <= i) g[i * pitch + k] = lr_fma(-g[i * pitch + j], g[k * pitch + j], g[i * pitch + k]);
        }
    }
    return true;
}

LR_DEV void lr_substitute(const float* l, int r, float* h) {
    const int pitch = r + 1;
    for (int j = 0; j < r; ++j) {
        lr_sync();
        const float z = h[j] / l[j * pitch + j];
        lr_sync();
        if (LR_TID == 0) h[j] = z;
        for (int i = j + 1 + LR_TID; i < r; i += Threads) h[i] = lr_fma(-z, l[i * pitch + j], h[i]);
    }
    for (int j = r - 1; j >= 0; --j) {
        lr_sync();
        const float z = h[j] / l[j * pitch + j];
        lr_sync();
        if (LR_TID == 0) h[j] = z;
        for (int i = LR_TID; i < j; i += Threads) h[i] = lr_fma(-z, l[j * pitch + i], h[i]);
    }
    lr_sync();
}

// g (r, r + 1), lower triangle, and h (r) of the entries from .. to
LR_DEV void lr_normal(const lr_system& s, int64_t from, int64_t to, float* g, float* h) {
    const int r = s.r, pitch = r + 1;
    lr_sync();
    for (int e = LR_TID; e < r * pitch; e += Threads) g[e] = 0;
    for (int c = LR_TID; c < r; c += Threads) h[c] = 0;
    lr_chunks(s, from, to, [&](int64_t t0, int n) {
        for (int e = LR_TID; e < r * r; e += Threads) {
            const int i = e / r, j = e % r;
            if (j > i) continue;
            float sum = 0;
            for (int t = 0; t < n; ++t) sum = lr_fma(s.stage[t * r + i], s.stage[t * r + j], sum);
            g[i * pitch + j] += sum;
        }
        for (int c = LR_TID; c < r; c += Threads) {
            float right = h[c];
            for (int t = 0; t < n; ++t) right = lr_fma(s.b[t0 + t], s.stage[t * r + c], right);
            h[c] = right;
        }
    });
}

// The same from parts that other blocks made, added in their order
LR_DEV void lr_joined(const float* parts, int r, float* g, float* h) {
    const int pitch = r + 1, triangle = r * (r + 1) / 2;
    auto total = [&](int at) {
        float sum = 0;
        for (int k = 0; k < Segments; ++k) sum += parts[k * lr_part(r) + at];
        return sum;
    };
    lr_sync();
    for (int e = LR_TID; e < r * r; e += Threads) {
        const int i = e / r, j = e % r;
        if (j <= i) g[i * pitch + j] = total(i * (i + 1) / 2 + j);
    }
    for (int c = LR_TID; c < r; c += Threads) h[c] = total(triangle + c);
    lr_sync();
}

LR_DEV int lr_direct(const lr_system& s, const float* parts, float ridge, float thin, float* g, float* h) {
    const int r = s.r, pitch = r + 1;
    LR_ROLLED
    for (int attempt = 0; attempt < 3; ++attempt) {
        if (parts != nullptr) lr_joined(parts, r, g, h);
        else lr_normal(s, 0, s.count, g, h);
        float trace = 0;
        for (int j = 0; j < r; ++j) trace += g[j * pitch + j];
        const float mean = trace / static_cast<float>(r), least = s.count < 2 * r ? thin * mean : 0.0f, more = attempt == 0 ? 0.0f : (attempt == 1 ? 1e-6f : 1e-4f) * mean;
        lr_sync();
        for (int c = LR_TID; c < r; c += Threads) g[c * pitch + c] += (ridge > least ? ridge : least) + more;
        if (!lr_factor(g, r)) continue;
        lr_substitute(g, r, h);
        return attempt > 0;
    }
    lr_sync();
    for (int c = LR_TID; c < r; c += Threads) h[c] = 0;
    lr_sync();
    return 2;
}

// Conjugate gradients from x: slope = A^T (b - A x) - ridge x is made anew each step, so its error does not grow
LR_DEV void lr_gradients(const lr_system& s, const AlsArgs& p, float ridge, float* x, float* move, float* slope, float* parts) {
    const int r = s.r;
    float squares = 0, size = 0;
    // Its squared length, after every thread has its part of it
    auto steepest = [&](bool first) {
        for (int c = LR_TID; c < r; c += Threads) slope[c] = 0;
        lr_chunks(s, 0, s.count, [&](int64_t t0, int n) {
            lr_dots(s, n, x);
            for (int c = LR_TID; c < r; c += Threads) {
                float sum = slope[c];
                for (int t = 0; t < n; ++t) sum = lr_fma(s.b[t0 + t] - s.weights[t], s.stage[t * r + c], sum);
                slope[c] = sum;
                for (int t = 0; first && t < n; ++t) squares = lr_fma(s.stage[t * r + c], s.stage[t * r + c], squares);
            }
            for (int t = 0; first && LR_TID == 0 && t < n; ++t) size = lr_fma(s.b[t0 + t], s.b[t0 + t], size);
        });
        float sum = 0;
        for (int c = LR_TID; c < r; c += Threads) {
            slope[c] -= ridge * x[c];
            sum = lr_fma(slope[c], slope[c], sum);
        }
        return lr_block_sum<Threads>(sum, parts);
    };
    float gamma = steepest(true);
    for (int c = LR_TID; c < r; c += Threads) move[c] = slope[c];
    const float stop = static_cast<float>(p.stop * p.stop) * lr_block_sum<Threads>(squares, parts) * lr_block_sum<Threads>(size, parts), enough = static_cast<float>(p.reduction * p.reduction) * gamma;
    for (int step = 0; step < p.steps && gamma > stop && gamma > enough; ++step) {
        lr_sync();
        float length = 0;
        for (int c = LR_TID; c < r; c += Threads) length = lr_fma(move[c], move[c], length);
        float curve = ridge * lr_block_sum<Threads>(length, parts);
        lr_chunks(s, 0, s.count, [&](int64_t, int n) {
            lr_dots(s, n, move);
            for (int t = 0; t < n; ++t) curve = lr_fma(s.weights[t], s.weights[t], curve);
        });
        if (!(curve > 0)) return;
        for (int c = LR_TID; c < r; c += Threads) x[c] = lr_fma(gamma / curve, move[c], x[c]);
        lr_sync();
        const float next = steepest(false);
        for (int c = LR_TID; c < r; c += Threads) move[c] = lr_fma(next / gamma, move[c], slope[c]);
        gamma = next;
    }
    lr_sync();
}

// The vectors of a block in shared memory, then the matrix where it fits there
struct lr_vectors { float *x, *move, *slope, *parts, *rest; };
LR_DEV lr_vectors lr_shared(lr_system& s, int chunk) {
    float* x = reinterpret_cast<float*>(LR_SMEM);
    s.chunk = chunk;
    s.weights = x + 3 * s.r + Warps;
    s.stage = s.weights + chunk;
    return {x, x + s.r, x + 2 * s.r, x + 3 * s.r, s.stage + chunk * s.r};
}

// Block (k, q): part k of the q-th row of the order, where it is long and solved directly
LR_KERNEL(als_parts, Planned<AlsArgs>, 128, 4) {
    if (!lr_splits(p) || int(LR_BY) >= static_cast<const lr_queue*>(p.work)->counts[0]) return;
    lr_system s = lr_row(p.op, lr_order(p)[LR_BY]);
    if (s.count >= p.op.direct_below) return;
    const lr_vectors v = lr_shared(s, p.extra);
    const int64_t each = (s.count + Segments - 1) / Segments, from = LR_BX * each, to = from + each < s.count ? from + each : s.count;
    lr_normal(s, from, to, v.rest, v.x);
    const int r = s.r, triangle = r * (r + 1) / 2;
    float* out = lr_parts(p) + (int64_t(LR_BY) * Segments + LR_BX) * lr_part(r);
    for (int e = LR_TID; e < r * r; e += Threads) {
        const int i = e / r, j = e % r;
        if (j <= i) out[i * (i + 1) / 2 + j] = v.rest[i * (r + 1) + j];
    }
    for (int c = LR_TID; c < r; c += Threads) out[triangle + c] = v.x[c];
}

// extra: rows of A that are staged at once; parts: blocks whose matrix lies in the workspace, 0: in shared memory
LR_KERNEL(als_solve, Planned<AlsArgs>, 128, 4) {
    const AlsArgs& a = p.op;
    const int r = a.r;
    for (int64_t q = LR_BX; q < a.rows; q += LR_GX) {
        const int64_t row = lr_order(p)[q];
        lr_system s = lr_row(a, row);
        const lr_vectors v = lr_shared(s, p.extra);
        float *to = static_cast<float*>(a.x) + row * r, *g = p.parts == 0 ? v.rest : lr_parts(p) + LR_BX * (int64_t(r) * (r + 1));
        const float ridge = static_cast<float>(a.ridge * (a.weighted ? static_cast<double>(s.count) : 1.0));
        const bool gradients = s.count >= a.direct_below;
        int flag = 0;
        lr_sync();
        for (int c = LR_TID; c < r; c += Threads) v.x[c] = gradients && s.count > 0 ? to[c] : 0.0f;
        lr_sync();
        if (s.count > 0) {
            if (gradients) lr_gradients(s, a, ridge, v.x, v.move, v.slope, v.parts);
            else flag = lr_direct(s, s.count > Long && lr_splits(p) ? lr_parts(p) + q * Segments * lr_part(r) : nullptr, ridge, static_cast<float>(a.thin), g, v.x);
        }
        for (int c = LR_TID; c < r; c += Threads) to[c] = v.x[c];
        if (LR_TID == 0) static_cast<int32_t*>(a.flags)[row] = flag;
    }
}

// A warp owns a row.
LR_KERNEL(als_product, AlsArgs, 128, 4) {
    const int64_t row = int64_t(LR_BX) * Warps + LR_TID / 32;
    if (row >= p.rows) return;
    const lr_system s = lr_row(p, row);
    for (int c = LR_TID % 32; c < s.r; c += 32) {
        float sum = 0;
        for (int64_t t = 0; t < s.count; ++t) sum = lr_fma(s.b[t], s.y[int64_t(s.columns[t]) * s.r + c], sum);
        static_cast<float*>(p.x)[row * s.r + c] = sum;
    }
}

LR_KERNEL(als_loss, AlsArgs, 128, 4) {
    const int64_t row = int64_t(LR_BX) * Warps + LR_TID / 32;
    if (row >= p.rows) return;
    const lr_system s = lr_row(p, row);
    const float* x = static_cast<const float*>(p.x) + row * s.r;
    float total = 0;
    for (int64_t t = 0; t < s.count; ++t) {
        float sum = 0;
        for (int c = LR_TID % 32; c < s.r; c += 32) sum = lr_fma(s.y[int64_t(s.columns[t]) * s.r + c], x[c], sum);
        const float error = lr_warp_sum(sum) - s.b[t];
        total = lr_fma(error, error, total);
    }
    if (LR_TID % 32 == 0) static_cast<float*>(p.losses)[row] = total;
}

#endif
