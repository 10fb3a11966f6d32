// Cosine transforms (DCT-II, orthonormal) of the lines of a matrix, of a few coefficients, and the gradients of the latter. A block owns two lines, one in
// the real and one in the imaginary parts of a complex transform of the same length (Makhoul's order), in radices 4, 2 and the odd primes of the length,
// each by its sum: a large prime costs its square. Cosines come from tables of a whole circle in quarter steps of a line, by integer index.
// Floor of W + dW at 4096 x 4096: W read and the sum written, 134 MB in float32, 40 us at 3.35 TB/s; of the gradients at 8192 tokens: x and dy read, 268 MB, 80 us.
// Predicted: 3 to 6 times that, since each pass of the transform goes through shared memory with two divisions an element, and columns are read line by line.
#include "common.cuh"

#if LR_DTYPE == 1
// table[j] = cos(2 pi j / order) from the first eighth of the circle, in float64
LR_KERNEL(dct_table, DctTableArgs, 256, 4) {
    for (int64_t j = int64_t(LR_BX) * 256 + LR_TID; j < p.order; j += int64_t(LR_GX) * 256) {
        int64_t at = j * 2 > p.order ? p.order - j : j; // 0 .. half: cos is even
        const bool minus = at * 4 > p.order;
        if (minus) at = p.order - 2 * at; // twice the distance from half a turn
        else at *= 2;
        const bool sine = at * 4 > p.order; // past an eighth: the sine of the rest of the quarter
        const double x = 3.14159265358979323846 * static_cast<double>(sine ? p.order - 2 * at : 2 * at) / (2 * static_cast<double>(p.order)), z = x * x;
        const double cosine = 1 - z / 2 * (1 - z / 12 * (1 - z / 30 * (1 - z / 56 * (1 - z / 90 * (1 - z / 132 * (1 - z / 182 * (1 - z / 240)))))));
        const double other = x * (1 - z / 6 * (1 - z / 20 * (1 - z / 42 * (1 - z / 72 * (1 - z / 110 * (1 - z / 156 * (1 - z / 210)))))));
        const double value = sine ? other : cosine;
        p.table[j] = static_cast<float>(minus ? -value : value);
    }
}
#endif

struct lr_complex {
    float re, im;
};
// e^{-2 pi i j / 4n}, j < 4 n
LR_DEV lr_complex lr_root(const float* table, int n, int64_t j) { return {table[j], -(j >= n ? table[j - n] : table[j + 3 * int64_t(n)])}; }
// Makhoul's order: element v of the transform is element lr_source(v) of the line, which lies at lr_place
LR_DEV int lr_source(int v, int n) { return 2 * v < n ? 2 * v : 2 * (n - v) - 1; }
LR_DEV int lr_place(int i, int n) { return i % 2 ? n - 1 - i / 2 : i / 2; }

// Forward transform of a, read in Makhoul's order where `ordered`; the result is in a or b, whichever is returned
LR_DEV lr_complex* lr_fourier(lr_complex* a, lr_complex* b, int n, const float* table, bool ordered) {
    lr_complex *from = a, *to = b;
    for (int length = n, stride = 1; length > 1;) {
        int p = length % 4 == 0 ? 4 : length % 2 == 0 ? 2 : 3;
        while (length % p) p = int64_t(p) * p > length ? length : p + 2;
        const int m = length / p;
        const bool moved = ordered && stride == 1;
        lr_sync();
        for (int e = LR_TID; e < n; e += 256) {
            const int t = e % stride, j = e / stride % p, q = e / stride / p, step = static_cast<int>(int64_t(j) * (n / p) % n);
            int at = static_cast<int>(int64_t(q) * j % n * stride % n);
            float re = 0, im = 0;
            for (int r = 0; r < p; ++r) {
                const int i = t + stride * (q + m * r);
                const lr_complex v = from[moved ? lr_source(i, n) : i], w = lr_root(table, n, 4 * int64_t(at));
                re += v.re * w.re - v.im * w.im;
                im += v.re * w.im + v.im * w.re;
                at = at + step < n ? at + step : at + step - n;
            }
            to[e] = {re, im};
        }
        length = m;
        stride *= p;
        lr_complex* last = from;
        from = to;
        to = last;
    }
    lr_sync();
    return from;
}
// C_n of both lines in a, times scale; the result is in a or b
LR_DEV lr_complex* lr_forward(lr_complex* a, lr_complex* b, int n, const float* table, float scale) {
    const lr_complex* v = lr_fourier(a, b, n, table, true);
    lr_complex* y = v == a ? b : a;
    const float each = scale / sqrtf(2.0f * static_cast<float>(n)), first = scale / sqrtf(static_cast<float>(n));
    for (int k = LR_TID; 2 * k <= n; k += 256) {
        if (k == 0) {
            y[0] = {first * v[0].re, first * v[0].im};
            continue;
        }
        const lr_complex p = v[k], q = v[n - k], w = lr_root(table, n, k);
        const float c = each * w.re, s = -each * w.im, sum = p.re + q.re, other = p.im + q.im, down = p.im - q.im, right = p.re - q.re;
        y[n - k] = {s * sum - c * down, s * other + c * right};
        y[k] = {c * sum + s * down, c * other - s * right};
    }
    lr_sync();
    return y;
}
// C_n^T of both lines in a, times scale; element i of the result lies at lr_place(i)
LR_DEV lr_complex* lr_backward(lr_complex* a, lr_complex* b, int n, const float* table, float scale) {
    const float each = scale / sqrtf(2.0f * static_cast<float>(n)), first = scale / sqrtf(static_cast<float>(n));
    lr_sync();
    for (int k = LR_TID; 2 * k <= n; k += 256) {
        if (k == 0) {
            b[0] = {first * a[0].re, first * a[0].im};
            continue;
        }
        const lr_complex y = a[k], z = a[n - k], w = lr_root(table, n, k);
        const float c = each * w.re, s = -each * w.im;
        const lr_complex p = {c * y.re + s * z.re, s * y.re - c * z.re}, q = {c * y.im + s * z.im, s * y.im - c * z.im};
        b[n - k] = {p.re - q.im, q.re + p.im}; // the second line in the real parts, real and imaginary parts exchanged: forward is then the inverse
        b[k] = {p.re + q.im, q.re - p.im};
    }
    return lr_fourier(b, a, n, table, false);
}
LR_DEV lr_complex* lr_buffers(void* work, int64_t each) { return work ? static_cast<lr_complex*>(work) + LR_BX * each : reinterpret_cast<lr_complex*>(LR_SMEM); }

// Lines [rows, n] of x at x_row and x_step to y, each side in F32 or in the activations' type
LR_KERNEL(dct_rows, DctRowsArgs, 256, 1) {
    lr_complex *a = lr_buffers(p.work, 2 * int64_t(p.n)), *b = a + p.n;
    const auto read = [&](int64_t row, int i) {
        const int64_t at = row * p.x_row + i * p.x_step;
        return row >= p.rows ? 0.0f : p.x_dtype == LR_F32 ? static_cast<const float*>(p.x)[at] : lr_widen(static_cast<const scalar*>(p.x)[at]);
    };
    const auto write = [&](int64_t row, int i, float value) {
        const int64_t at = row * p.y_row + i * p.y_step;
        if (row >= p.rows) return;
        if (p.y_dtype == LR_F32) lr_put(static_cast<float*>(p.y) + at, value, p.add & 1);
        else lr_put(static_cast<scalar*>(p.y) + at, value, p.add & 1);
    };
    for (int64_t row = 2 * int64_t(LR_BX); row < p.rows; row += 2 * int64_t(LR_GX)) {
        lr_sync();
        for (int i = LR_TID; i < p.n; i += 256) a[i] = {read(row, i), read(row + 1, i)};
        lr_sync();
        const lr_complex* y = p.inverse ? lr_backward(a, b, p.n, p.table, p.scale) : lr_forward(a, b, p.n, p.table, p.scale);
        for (int i = LR_TID; i < p.n; i += 256) {
            const lr_complex v = y[p.inverse ? lr_place(i, p.n) : i];
            write(row, i, v.re);
            write(row + 1, i, v.im);
        }
    }
}

#if LR_DTYPE == 1
constexpr float Limit = 0.999f;
// Where the coefficients stand, and their values, NaN where a place is NaN
LR_KERNEL(dct_places, DctPlacesArgs, 256, 4) {
    for (int j = static_cast<int>(LR_BX * 256 + LR_TID); j < p.count; j += static_cast<int>(LR_GX) * 256) {
        float value = p.a[j];
        for (int side = 0; side < 2; ++side) {
            const int64_t at = int64_t(side) * p.count + j;
            if (p.loc) {
                p.places[at] = p.loc[at];
                continue;
            }
            const float u = p.u[at];
            const double v = u < 0 ? 0 : u > Limit ? static_cast<double>(Limit) : static_cast<double>(u);
            p.places[at] = u != u ? 0 : static_cast<int32_t>(rint(v * ((side ? p.cols : p.rows) - 1)));
            if (u != u) value = u;
        }
        if (p.values) p.values[j] = value;
    }
}
// order: the coefficients by column, equal ones as they come; start[c]: the first of column c, c <= cols. Each place by counting: no order of threads enters.
LR_KERNEL(dct_order, DctPlacesArgs, 256, 4) {
    const int32_t* columns = p.places + p.count;
    for (int i = static_cast<int>(LR_BX * 256 + LR_TID); i <= p.count + p.cols; i += static_cast<int>(LR_GX) * 256) {
        const bool coefficient = i < p.count;
        const int column = coefficient ? columns[i] : i - p.count;
        int before = 0;
        for (int j = 0; j < p.count; ++j) before += columns[j] < column || (coefficient && columns[j] == column && j < i);
        if (coefficient) p.order[before] = i;
        else p.start[column] = before;
    }
}
// A thread sums a column of two rows, the block transforms them
LR_KERNEL(sparse_dct_rows, PlannedDct<SparseDctArgs>, 256, 1) {
    const int n = p.op.cols, m = p.op.rows;
    lr_complex *a = lr_buffers(p.work, 2 * int64_t(n)), *b = a + n;
    const float *w = static_cast<const float*>(p.op.w), one = sqrtf(1.0f / static_cast<float>(m)), more = sqrtf(2.0f / static_cast<float>(m));
    float* y = static_cast<float*>(p.op.y);
    for (int64_t row = 2 * int64_t(LR_BX); row < m; row += 2 * int64_t(LR_GX)) {
        lr_sync();
        for (int c = LR_TID; c < n; c += 256) {
            lr_complex sum = {0, 0};
            for (int i = p.start[c]; i < p.start[c + 1]; ++i) {
                const int j = p.order[i], l = p.places[j];
                const float value = p.values[j] * (l ? more : one);
                sum.re += value * p.rows[l * (2 * row + 1) % (4 * int64_t(m))];
                sum.im += value * p.rows[l * (2 * row + 3) % (4 * int64_t(m))];
            }
            a[c] = sum;
        }
        const lr_complex* done = lr_backward(a, b, n, p.cols, static_cast<float>(p.op.scale));
        for (int i = LR_TID; i < n; i += 256) {
            const lr_complex v = done[lr_place(i, n)];
            const int64_t at = row * n + i;
            y[at] = (w ? w[at] : 0.0f) + v.re;
            if (row + 1 < m) y[at + n] = (w ? w[at + n] : 0.0f) + v.im;
        }
    }
}
#endif

// parts [block][cells][count]: products of the spectra of x and of dy at the coefficients' places, and next to them where cells is 5, two tokens at a time
LR_KERNEL(sparse_dct_samples, PlannedDct<SparseDctGradArgs>, 256, 1) {
    const int n = p.op.cols, m = p.op.rows, count = p.op.count, most = n > m ? n : m;
    lr_complex* room = lr_buffers(p.work, 3 * int64_t(most));
    const scalar *x = static_cast<const scalar*>(p.op.x), *dy = static_cast<const scalar*>(p.op.dy);
    float* sums = p.parts + int64_t(LR_BX) * p.cells * count;
    for (int64_t i = LR_TID; i < int64_t(p.cells) * count; i += 256) sums[i] = 0;
    for (int64_t row = 2 * int64_t(LR_BX); row < p.op.tokens; row += 2 * int64_t(LR_GX)) {
        const bool both = row + 1 < p.op.tokens;
        lr_complex *a = room, *b = room + most, *c = room + 2 * int64_t(most);
        lr_sync();
        for (int i = LR_TID; i < n; i += 256) a[i] = {lr_widen(x[row * n + i]), both ? lr_widen(x[(row + 1) * n + i]) : 0.0f};
        lr_sync();
        const lr_complex* z = lr_forward(a, b, n, p.cols, static_cast<float>(p.op.scale));
        lr_complex* left = z == a ? b : a;
        for (int i = LR_TID; i < m; i += 256)
            left[i] = {dy ? lr_widen(dy[row * m + i]) : i == row ? 1.0f : 0.0f, !both ? 0.0f : dy ? lr_widen(dy[(row + 1) * m + i]) : i == row + 1 ? 1.0f : 0.0f};
        lr_sync();
        const lr_complex* v = lr_forward(left, c, m, p.rows, 1);
        const auto add = [&](int cell, int j, int r, int k) { sums[int64_t(cell) * count + j] += z[k].re * v[r].re + z[k].im * v[r].im; };
        for (int j = LR_TID; j < count; j += 256) {
            const int r = p.places[j], k = p.places[count + j];
            add(0, j, r, k);
            if (p.cells == 1) continue;
            add(1, j, r + 1 < m ? r + 1 : r, k);
            add(2, j, r ? r - 1 : 0, k);
            add(3, j, r, k + 1 < n ? k + 1 : k);
            add(4, j, r, k ? k - 1 : 0);
        }
    }
}

#if LR_DTYPE == 1
// The parts in order, and what the places' gradients make of them
LR_KERNEL(sparse_dct_end, PlannedDct<SparseDctGradArgs>, 256, 4) {
    const int count = p.op.count;
    for (int j = static_cast<int>(LR_BX * 256 + LR_TID); j < count; j += static_cast<int>(LR_GX) * 256) {
        double k[5] = {0, 0, 0, 0, 0};
        for (int64_t part = 0; part < p.blocks; ++part) {
            LR_UNROLL
            for (int cell = 0; cell < 5; ++cell)
                if (cell < p.cells) k[cell] += static_cast<double>(p.parts[(part * p.cells + cell) * count + j]);
        }
        if (p.op.da) lr_put(static_cast<float*>(p.op.da) + j, static_cast<float>(k[0]), p.op.add & 1);
        if (!p.op.du) continue;
        for (int side = 0; side < 2; ++side) {
            const double step = 0.5 * static_cast<double>(static_cast<const float*>(p.op.a)[j]) * (side ? k[3] - k[4] : k[1] - k[2]), clipped = step > 1 ? 1 : step < -1 ? -1 : step;
            const int64_t at = int64_t(side) * count + j;
            const float u = static_cast<const float*>(p.op.u)[at];
            lr_put(static_cast<float*>(p.op.du) + at, u >= 0 && u <= Limit ? static_cast<float>(((side ? p.op.cols : p.op.rows) - 1) * clipped) : 0.0f, p.op.add >> 1 & 1);
        }
    }
}
#endif
