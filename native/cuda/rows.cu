// Gathers, layout moves, and sums over parts. Floor: every element read and written once at copy bandwidth.
#include "common.cuh"

// y[c] (+)= scale sum_i parts[i, c]
LR_KERNEL(sum_parts, SumPartsArgs, 256, 4) {
    const int64_t c = int64_t(LR_BX) * 256 + LR_TID;
    if (c >= p.cols) return;
    float sum = 0;
    for (int i = 0; i < p.count; ++i) sum += p.parts[i * p.cols + c];
    sum *= static_cast<float>(p.scale);
    if (p.dtype == LR_F32) lr_put(static_cast<float*>(p.y) + c, sum, p.add & 1);
    else lr_put(static_cast<scalar*>(p.y) + c, sum, p.add & 1);
}

#if LR_DTYPE != 1
// An F32 matrix in the activations' type and a larger shape, zeros outside: ranks padded for tensor cores
LR_KERNEL(pad, PadArgs, 256, 4) {
    const int64_t count = int64_t(p.rows) * p.cols;
    for (int64_t i = int64_t(LR_BX) * 256 + LR_TID; i < count; i += int64_t(LR_GX) * 256) {
        const int64_t row = i / p.cols, col = i % p.cols;
        lr_narrow(row < p.from_rows && col < p.from_cols ? p.from[row * p.from_cols + col] : 0.0f, static_cast<scalar*>(p.to)[i]);
    }
}
#endif

// A block a row: a thread turns pairs of channels
LR_KERNEL(rope, RopeArgs, 128, 8) {
    const int64_t row = LR_BX, width = int64_t(p.heads) * p.dim;
    const int half = p.rotary / 2, unit = p.dim - half; // a pair, or a channel that is copied
    const scalar* x = static_cast<const scalar*>(p.x) + row * width;
    scalar* y = static_cast<scalar*>(p.y) + row * width;
    const float *angle = static_cast<const float*>(p.table) + int64_t(static_cast<const int32_t*>(p.positions)[row]) * 2 * half;
    for (int i = LR_TID; i < p.heads * unit; i += 128) {
        const int c = i % unit, at = i / unit * p.dim + c;
        if (c >= half) {
            lr_put(y + at + half, lr_widen(x[at + half]), p.add & 1);
            continue;
        }
        const float a = lr_widen(x[at]), b = lr_widen(x[at + half]), cosine = angle[2 * c], sine = p.inverse ? -angle[2 * c + 1] : angle[2 * c + 1];
        lr_put(y + at, a * cosine - b * sine, p.add & 1);
        lr_put(y + at + half, b * cosine + a * sine, p.add & 1);
    }
}

// A block a row
LR_KERNEL(columns, ColumnsArgs, 128, 8) {
    const int64_t row = LR_BX;
    const scalar* x = static_cast<const scalar*>(p.x) + row * (p.inverse ? p.count : p.cols);
    scalar* y = static_cast<scalar*>(p.y) + row * (p.inverse ? p.cols : p.count);
    if (!p.inverse) {
        for (int c = LR_TID; c < p.count; c += 128) y[c] = x[p.start + c];
        return;
    }
    for (int c = LR_TID; c < p.cols; c += 128) lr_put(y + c, c >= p.start && c < p.start + p.count ? lr_widen(x[c - p.start]) : 0.0f, p.add & 1);
}

// A block a row
LR_KERNEL(gather_forward, GatherArgs, 128, 8) {
    const int64_t row = LR_BX, from = static_cast<const int32_t*>(p.ids)[row];
    scalar* y = static_cast<scalar*>(p.y) + row * p.cols;
    const scalar* table = static_cast<const scalar*>(p.table) + from * p.cols;
    for (int c = LR_TID; c < p.cols; c += 128) y[c] = table[c];
}

// Rows of equal id are added in the order of the ids by the block of the first of them, so the sum does not depend on who comes first.
LR_KERNEL(gather_backward, GatherGradArgs, 128, 8) {
    const int32_t* ids = static_cast<const int32_t*>(p.ids);
    const scalar* dy = static_cast<const scalar*>(p.dy);
    int* same = reinterpret_cast<int*>(LR_SMEM); // [129]: rows of this id in a stretch of 128, and their number
    const int first = static_cast<int>(LR_BX), id = ids[first];
    int seen = 0;
    for (int i = LR_TID; i < first; i += 128) seen |= ids[i] == id;
    if (LR_TID == 0) same[128] = 0;
    lr_sync();
    if (seen) same[128] = 1;
    lr_sync();
    if (same[128]) return;
    scalar* row = static_cast<scalar*>(p.dtable) + int64_t(id) * p.cols;
    for (int c0 = 0; c0 < p.cols; c0 += 128) {
        const int c = c0 + static_cast<int>(LR_TID);
        float sum = c < p.cols ? lr_widen(row[c]) : 0;
        for (int i0 = first; i0 < p.rows; i0 += 128) {
            lr_sync();
            if (LR_TID < 32) { // one warp lists the matches in order
                int count = 0;
                for (int w = 0; w < 128; w += 32) {
                    const int i = i0 + w + static_cast<int>(LR_TID);
                    const uint32_t hits = lr_ballot(i < p.rows && ids[i] == id);
                    if (hits >> LR_TID & 1) same[count + lr_popcount(hits & ((1u << LR_TID) - 1))] = i;
                    count += lr_popcount(hits);
                }
                if (LR_TID == 0) same[128] = count;
            }
            lr_sync();
            if (c < p.cols)
                for (int k = 0; k < same[128]; ++k) sum += lr_widen(dy[int64_t(same[k]) * p.cols + c]);
        }
        if (c < p.cols) lr_narrow(sum, row[c]);
    }
}

// A block a row of y [batch, 1 + tokens]
LR_KERNEL(prepend_forward, PrependArgs, 128, 8) {
    const int64_t token = LR_BX, batch = LR_BY;
    scalar* y = static_cast<scalar*>(p.y) + (batch * (p.tokens + 1) + token) * p.cols;
    for (int c = LR_TID; c < p.cols; c += 128)
        if (token == 0) lr_narrow(static_cast<const float*>(p.first)[c], y[c]);
        else y[c] = static_cast<const scalar*>(p.x)[(batch * p.tokens + token - 1) * p.cols + c];
}
// Rows 1.. of dy to dx; row 0 of all batches, in their order, to dfirst by the blocks of token 0
LR_KERNEL(prepend_backward, PrependGradArgs, 128, 8) {
    const int64_t token = LR_BX, batch = LR_BY;
    const scalar* dy = static_cast<const scalar*>(p.dy);
    if (p.dx && token < p.tokens)
        for (int c = LR_TID; c < p.cols; c += 128)
            lr_put(static_cast<scalar*>(p.dx) + (batch * p.tokens + token) * p.cols + c, lr_widen(dy[(batch * (p.tokens + 1) + token + 1) * p.cols + c]), p.add & 1);
    if (p.dfirst && token == p.tokens && batch == 0)
        for (int c = LR_TID; c < p.cols; c += 128) {
            float sum = 0;
            for (int b = 0; b < p.batch; ++b) sum += lr_widen(dy[int64_t(b) * (p.tokens + 1) * p.cols + c]);
            lr_put(static_cast<float*>(p.dfirst) + c, sum, p.add >> 1 & 1);
        }
}

// Tiles of 32x32 through shared memory, a column of padding against bank conflicts; 256 threads: 8 rows at a time
LR_KERNEL(transpose, TransposeArgs, 256, 4) {
    scalar* tile = reinterpret_cast<scalar*>(LR_SMEM); // [32][33]
    const int64_t offset = int64_t(LR_BZ) * p.rows * p.cols;
    const scalar* x = static_cast<const scalar*>(p.x) + offset;
    scalar* y = static_cast<scalar*>(p.y) + offset;
    const int lane = LR_TID % 32, row = LR_TID / 32;
    const int64_t c0 = int64_t(LR_BX) * 32, r0 = int64_t(LR_BY) * 32;
    for (int i = row; i < 32; i += 8)
        if (r0 + i < p.rows && c0 + lane < p.cols) tile[i * 33 + lane] = x[(r0 + i) * p.cols + c0 + lane];
    lr_sync();
    for (int i = row; i < 32; i += 8)
        if (c0 + i < p.cols && r0 + lane < p.rows) lr_put(y + (c0 + i) * p.rows + r0 + lane, lr_widen(tile[lane * 33 + i]), p.add & 1);
}

// A thread an element of the patches
LR_KERNEL(unfold, UnfoldArgs, 256, 4) {
    const int64_t taps = int64_t(p.channels) * p.kernel_h * p.kernel_w, count = int64_t(p.batch) * p.out_h * p.out_w * taps;
    for (int64_t at = int64_t(LR_BX) * 256 + LR_TID; at < count; at += int64_t(LR_GX) * 256) {
        const int64_t place = at / taps, tap = at % taps;
        const int64_t j = tap % p.kernel_w, i = tap / p.kernel_w % p.kernel_h, c = tap / p.kernel_w / p.kernel_h;
        const int64_t w = place % p.out_w * p.stride - p.pad + j * p.dilation, h = place / p.out_w % p.out_h * p.stride - p.pad + i * p.dilation, b = place / p.out_w / p.out_h;
        const bool inside = h >= 0 && h < p.height && w >= 0 && w < p.width;
        lr_put(static_cast<scalar*>(p.y) + at, inside ? lr_widen(static_cast<const scalar*>(p.x)[((b * p.channels + c) * p.height + h) * p.width + w]) : 0.0f, p.add & 1);
    }
}
// The adjoint: a thread a pixel, which gathers its taps in a fixed order
LR_KERNEL(fold, UnfoldArgs, 256, 4) {
    const int64_t count = int64_t(p.batch) * p.channels * p.height * p.width;
    const scalar* x = static_cast<const scalar*>(p.x);
    for (int64_t at = int64_t(LR_BX) * 256 + LR_TID; at < count; at += int64_t(LR_GX) * 256) {
        const int64_t w = at % p.width, h = at / p.width % p.height, c = at / p.width / p.height % p.channels, b = at / p.width / p.height / p.channels;
        float sum = 0;
        for (int i = 0; i < p.kernel_h; ++i)
            for (int j = 0; j < p.kernel_w; ++j) {
                const int64_t oh = h + p.pad - int64_t(i) * p.dilation, ow = w + p.pad - int64_t(j) * p.dilation;
                if (oh < 0 || ow < 0 || oh % p.stride || ow % p.stride || oh / p.stride >= p.out_h || ow / p.stride >= p.out_w) continue;
                sum += lr_widen(x[((((b * p.out_h + oh / p.stride) * p.out_w + ow / p.stride) * p.channels + c) * p.kernel_h + i) * p.kernel_w + j]);
            }
        lr_put(static_cast<scalar*>(p.y) + at, sum, p.add & 1);
    }
}
