// Alternating least squares on a sparse matrix by rows (arXiv 2302.11068), F32: a block of 128 threads owns a row, gathers the other factor's rows 32 at a
// time into shared memory and makes, factors and solves its system there; or takes conjugate gradient steps, which gather once a pass and keep nothing
// for an entry. Floor: nnz r (r + 1) multiply-adds on the CUDA cores for the normal matrices and rows r^3/3 for the factors; the gathers come from L2.
// Predicted for 20 M entries, r = 64, 150,000 rows: 3 ms at 60 TFLOP/s and, with a synchronisation a column of each factor, some 15 ms as it is.
// Sums run in the order of the entries whatever the grid.
#include "common.cuh"

#if LR_DTYPE == 1

constexpr int Threads = 128, Warps = Threads / 32, Chunk = 32;

struct lr_system {
    const float *y, *b;
    const int32_t* columns;
    int64_t count;
    int r;
    float *stage, *weights; // (Chunk, r) (Chunk)
};

LR_DEV lr_system lr_row(const AlsArgs& p, int64_t row) {
    const int64_t* starts = static_cast<const int64_t*>(p.starts);
    return {static_cast<const float*>(p.y), static_cast<const float*>(p.values) + starts[row], static_cast<const int32_t*>(p.columns) + starts[row], starts[row + 1] - starts[row], p.r, nullptr, nullptr};
}

// f(t0, n) with the rows t0 .. t0 + n of A in s.stage; every thread of the block calls it
template <class F> LR_DEV void lr_chunks(const lr_system& s, F f) {
    for (int64_t t0 = 0; t0 < s.count; t0 += Chunk) {
        const int n = s.count - t0 < Chunk ? static_cast<int>(s.count - t0) : Chunk;
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
    const int pitch = r + 1, at = LR_TID;
    for (int j = 0; j < r; ++j) {
        lr_sync();
        const float z = h[j] / l[j * pitch + j];
        lr_sync();
        if (at == j) h[j] = z;
        if (at > j && at < r) h[at] = lr_fma(-z, l[at * pitch + j], h[at]);
    }
    for (int j = r - 1; j >= 0; --j) {
        lr_sync();
        const float z = h[j] / l[j * pitch + j];
        lr_sync();
        if (at == j) h[j] = z;
        if (at < j) h[at] = lr_fma(-z, l[j * pitch + at], h[at]);
    }
    lr_sync();
}

LR_DEV int lr_direct(const lr_system& s, float ridge, float thin, float* g, float* h) {
    const int r = s.r, pitch = r + 1, at = LR_TID;
    LR_ROLLED
    for (int attempt = 0; attempt < 3; ++attempt) {
        lr_sync();
        for (int e = at; e < r * pitch; e += Threads) g[e] = 0;
        float right = 0;
        lr_chunks(s, [&](int64_t t0, int n) {
            for (int e = at; e < r * r; e += Threads) {
                const int i = e / r, j = e % r;
                if (j > i) continue;
                float sum = 0;
                for (int t = 0; t < n; ++t) sum = lr_fma(s.stage[t * r + i], s.stage[t * r + j], sum);
                g[i * pitch + j] += sum;
            }
            for (int t = 0; t < n && at < r; ++t) right = lr_fma(s.b[t0 + t], s.stage[t * r + at], right);
        });
        float trace = 0;
        for (int j = 0; j < r; ++j) trace += g[j * pitch + j];
        const float mean = trace / static_cast<float>(r), least = s.count < 2 * r ? thin * mean : 0.0f, more = attempt == 0 ? 0.0f : (attempt == 1 ? 1e-6f : 1e-4f) * mean;
        lr_sync();
        if (at < r) {
            g[at * pitch + at] += (ridge > least ? ridge : least) + more;
            h[at] = right;
        }
        if (!lr_factor(g, r)) continue;
        lr_substitute(g, r, h);
        return attempt > 0;
    }
    lr_sync();
    if (at < r) h[at] = 0;
    lr_sync();
    return 2;
}

// Conjugate gradients from x: slope = A^T (b - A x) - ridge x is made anew each step, so its error does not grow
LR_DEV void lr_gradients(const lr_system& s, const AlsArgs& p, float ridge, float* x, float* move, float* parts) {
    const int r = s.r, at = LR_TID;
    float squares = 0, size = 0;
    auto slope = [&](bool first) {
        float sum = 0;
        lr_chunks(s, [&](int64_t t0, int n) {
            lr_dots(s, n, x);
            for (int t = 0; t < n; ++t) {
                if (at < r) sum = lr_fma(s.b[t0 + t] - s.weights[t], s.stage[t * r + at], sum);
                if (first && at < r) squares = lr_fma(s.stage[t * r + at], s.stage[t * r + at], squares);
                if (first && at == 0) size = lr_fma(s.b[t0 + t], s.b[t0 + t], size);
            }
        });
        return at < r ? sum - ridge * x[at] : 0.0f;
    };
    float mine = slope(true);
    if (at < r) move[at] = mine;
    float gamma = lr_block_sum<Threads>(mine * mine, parts);
    const float stop = static_cast<float>(p.stop * p.stop) * lr_block_sum<Threads>(squares, parts) * lr_block_sum<Threads>(size, parts), enough = static_cast<float>(p.reduction * p.reduction) * gamma;
    for (int step = 0; step < p.steps && gamma > stop && gamma > enough; ++step) {
        lr_sync();
        float curve = ridge * lr_block_sum<Threads>(at < r ? move[at] * move[at] : 0.0f, parts);
        lr_chunks(s, [&](int64_t, int n) {
            lr_dots(s, n, move);
            for (int t = 0; t < n; ++t) curve = lr_fma(s.weights[t], s.weights[t], curve);
        });
        if (!(curve > 0)) return;
        if (at < r) x[at] = lr_fma(gamma / curve, move[at], x[at]);
        lr_sync();
        mine = slope(false);
        const float next = lr_block_sum<Threads>(mine * mine, parts);
        if (at < r) move[at] = lr_fma(next / gamma, move[at], mine);
        gamma = next;
    }
    lr_sync();
}

LR_KERNEL(als_solve, AlsArgs, 128, 4) {
    const int r = p.r, at = LR_TID;
    const int64_t row = LR_BX;
    float* g = reinterpret_cast<float*>(LR_SMEM);                   // (r, r + 1)
    float *x = g + r * (r + 1), *move = x + r, *parts = move + r;   // (r) (r) (Warps)
    lr_system s = lr_row(p, row);
    s.weights = parts + Warps;
    s.stage = s.weights + Chunk;
    float* to = static_cast<float*>(p.x) + row * r;
    const float ridge = static_cast<float>(p.ridge * (p.weighted ? static_cast<double>(s.count) : 1.0));
    int flag = 0;
    const bool gradients = s.count >= p.direct_below;
    if (at < r) x[at] = gradients && s.count > 0 ? to[at] : 0.0f;
    lr_sync();
    if (s.count > 0) {
        if (gradients) lr_gradients(s, p, ridge, x, move, parts);
        else flag = lr_direct(s, ridge, static_cast<float>(p.thin), g, x);
    }
    if (at < r) to[at] = x[at];
    if (at == 0) static_cast<int32_t*>(p.flags)[row] = flag;
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
