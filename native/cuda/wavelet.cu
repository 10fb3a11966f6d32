// Levels of wavelet transforms, both axes in one launch: a block filters a window of columns along axis 0 into shared memory, then its tile along axis 1 from
// there. Floor: x and the bands once at copy bandwidth. Columns of the borders, which reach anywhere, are filtered along both axes straight from memory.
#include "common.cuh"

constexpr int TileRows = 8, TileCols = 64, MostTaps = 96, Pitch = TileCols + MostTaps;

// A table of lowrank.h; phases is 1 for down and 2 for up matrices. An absent table is the identity.
struct axis {
    const int32_t* head;
    const float *weights, *low, *high;
    const int32_t* columns;
    int first, last, taps, start, width, phases;
};
LR_DEV axis lr_axis_of(const void* table, int phases) {
    axis a = {};
    a.head = static_cast<const int32_t*>(table);
    a.phases = phases;
    if (!a.head) return a;
    a.first = a.head[LR_FIRST];
    a.last = a.head[LR_LAST];
    a.taps = a.head[LR_TAPS];
    a.start = a.head[LR_START];
    a.width = a.head[LR_WIDTH];
    a.weights = reinterpret_cast<const float*>(a.head + LR_AXIS_INTS);
    a.low = a.weights + 2 * phases * a.taps;
    a.high = a.low + a.head[LR_EDGES] * a.width;
    a.columns = reinterpret_cast<const int32_t*>(a.high + a.head[LR_EDGES] * a.width);
    return a;
}
// A row of the matrix: entry j has column `column(j)`
struct line {
    const float *low, *high;
    const int32_t* columns;
    int count, first;
};
LR_DEV line lr_line(const axis& a, int row) {
    const int unit = row / a.phases, phase = row % a.phases;
    if (unit >= a.first && unit < a.last) {
        const float* w = a.weights + 2 * phase * a.taps;
        return line{w, w + a.taps, nullptr, a.taps, (a.phases == 1 ? 2 * unit : unit) + a.start};
    }
    const int64_t at = int64_t(row < a.first * a.phases ? row : row - (a.last - a.first) * a.phases) * a.width;
    return line{a.low + at, a.high + at, a.columns + at, a.width, 0};
}
LR_DEV int lr_column(const line& l, int j) { return l.columns ? l.columns[j] : l.first + j; }

// Row i of the down matrix `rows` applied to column c of x
LR_DEV void lr_down(const WaveletArgs& p, const axis& rows, int i, int c, float& low, float& high) {
    const scalar* x = static_cast<const scalar*>(p.x) + c;
    low = high = 0;
    if (!rows.head) {
        low = lr_widen(x[int64_t(i) * p.ldx]);
        return;
    }
    const line l = lr_line(rows, i);
    for (int j = 0; j < l.count; ++j) {
        const float value = lr_widen(x[int64_t(lr_column(l, j)) * p.ldx]);
        low += l.low[j] * value;
        high += l.high[j] * value;
    }
}
LR_DEV float lr_band(const void* band, int64_t at) { return band ? static_cast<const float*>(band)[at] : 0.0f; }
// Row i of the up matrix `rows` applied to column c of the bands: low and high along axis 1
LR_DEV void lr_up(const WaveletArgs& p, const axis& rows, int i, int c, float& low, float& high) {
    low = high = 0;
    if (!rows.head) {
        low = lr_band(p.ll, int64_t(i) * p.ldb + c);
        high = lr_band(p.lh, int64_t(i) * p.ldb + c);
        return;
    }
    const line l = lr_line(rows, i);
    for (int j = 0; j < l.count; ++j) {
        const int64_t at = int64_t(lr_column(l, j)) * p.ldb + c;
        low += l.low[j] * lr_band(p.ll, at) + l.high[j] * lr_band(p.hl, at);
        high += l.low[j] * lr_band(p.lh, at) + l.high[j] * lr_band(p.hh, at);
    }
}
// The units of [u0, u1) that are middle ones
LR_DEV void lr_middle(const axis& a, int u0, int u1, int& first, int& last) {
    first = u0 > a.first ? u0 : a.first;
    last = u1 < a.last ? u1 : a.last;
    if (last < first) last = first;
}

LR_KERNEL(wavelet_down, WaveletArgs, 256, 4) {
    const axis rows = lr_axis_of(p.rows, 1), cols = lr_axis_of(p.cols, 1);
    const int j0 = static_cast<int>(LR_BX) * (TileCols / 2), i0 = static_cast<int>(LR_BY) * TileRows, tid = static_cast<int>(LR_TID);
    float* window = reinterpret_cast<float*>(LR_SMEM); // [2][TileRows][Pitch]
    int first = 0, last = 0;
    if (cols.head) lr_middle(cols, j0, j0 + TileCols / 2, first, last);
    const int from = 2 * first + cols.start, width = last > first ? 2 * (last - first - 1) + cols.taps : 0;
    for (int at = tid; at < TileRows * width; at += 256) {
        const int r = at / width, c = at % width;
        if (i0 + r < p.band_rows) lr_down(p, rows, i0 + r, from + c, window[r * Pitch + c], window[(TileRows + r) * Pitch + c]);
    }
    lr_sync();
    const int i = i0 + tid / (TileCols / 2), j = j0 + tid % (TileCols / 2);
    if (i >= p.band_rows || j >= p.band_cols) return;
    float ll = 0, lh = 0, hl = 0, hh = 0;
    if (!cols.head) lr_down(p, rows, i, j, ll, hl);
    else {
        const line l = lr_line(cols, j);
        LR_ROLLED
        for (int k = 0; k < l.count; ++k) {
            float low, high;
            if (l.columns) lr_down(p, rows, i, l.columns[k], low, high);
            else {
                const int c = (i - i0) * Pitch + l.first + k - from;
                low = window[c];
                high = window[TileRows * Pitch + c];
            }
            ll += l.low[k] * low;
            lh += l.high[k] * low;
            hl += l.low[k] * high;
            hh += l.high[k] * high;
        }
    }
    const int64_t at = int64_t(i) * p.ldb + j;
    const float scale = static_cast<float>(p.scale);
    if (p.ll) lr_put(static_cast<float*>(p.ll) + at, scale * ll, p.add & 1);
    if (p.lh) lr_put(static_cast<float*>(p.lh) + at, scale * lh, p.add >> 1 & 1);
    if (p.hl) lr_put(static_cast<float*>(p.hl) + at, scale * hl, p.add >> 2 & 1);
    if (p.hh) lr_put(static_cast<float*>(p.hh) + at, scale * hh, p.add >> 3 & 1);
}

LR_KERNEL(wavelet_up, WaveletArgs, 256, 2) {
    const axis rows = lr_axis_of(p.rows, 2), cols = lr_axis_of(p.cols, 2);
    const int j0 = static_cast<int>(LR_BX) * TileCols, i0 = static_cast<int>(LR_BY) * TileRows, tid = static_cast<int>(LR_TID);
    float* window = reinterpret_cast<float*>(LR_SMEM); // [2][TileRows][Pitch]
    int first = 0, last = 0;
    if (cols.head) lr_middle(cols, j0 / 2, (j0 + TileCols) / 2, first, last);
    const int from = first + cols.start, width = last > first ? last - first - 1 + cols.taps : 0;
    for (int at = tid; at < TileRows * width; at += 256) {
        const int r = at / width, c = at % width;
        if (i0 + r < p.x_rows) lr_up(p, rows, i0 + r, from + c, window[r * Pitch + c], window[(TileRows + r) * Pitch + c]);
    }
    lr_sync();
    LR_ROLLED
    for (int e = tid; e < TileRows * TileCols; e += 256) {
        const int i = i0 + e / TileCols, j = j0 + e % TileCols;
        if (i >= p.x_rows || j >= p.x_cols) continue;
        float sum = 0, low, high;
        if (!cols.head) lr_up(p, rows, i, j, sum, high);
        else {
            const line l = lr_line(cols, j);
            LR_ROLLED
            for (int k = 0; k < l.count; ++k) {
                if (l.columns) lr_up(p, rows, i, l.columns[k], low, high);
                else {
                    const int c = (i - i0) * Pitch + l.first + k - from;
                    low = window[c];
                    high = window[TileRows * Pitch + c];
                }
                sum += l.low[k] * low + l.high[k] * high;
            }
        }
        const int64_t at = int64_t(i) * p.ldx + j;
        const float w = p.w ? lr_widen(static_cast<const scalar*>(p.w)[at]) : 0.0f;
        lr_put(static_cast<scalar*>(p.x) + at, w + static_cast<float>(p.scale) * sum, p.add & 1);
    }
}
