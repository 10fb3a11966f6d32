// Attention, any head size up to 256, in float32 on CUDA cores: a warp a query (forward, dq) or a key (dk, dv), 32 keys or queries at a time, one a lane;
// no tokens x tokens matrix in memory, every sum in a fixed order. Floor: 4 tokens^2 dim FLOPs a head forward; K and V come from L2.
#include "common.cuh"

constexpr int Most = 256 / 32; // head elements a lane

// p_ij for the key of this lane; q row in shared memory
LR_DEV float lr_dot(const float* q, const scalar* k, int dim) {
    float sum = 0;
    for (int d = 0; d < dim; ++d) sum = lr_fma(q[d], lr_widen(k[d]), sum);
    return sum;
}
template <class Args> LR_DEV bool lr_allowed(const Args& p, int batch, int query, int key) {
    return key < p.keys && (!p.mask || static_cast<const uint8_t*>(p.mask)[int64_t(batch) * p.keys + key]) && (!p.causal || key <= query + p.keys - p.queries) &&
        (!p.window || key > query + p.keys - p.queries - p.window);
}

// Warp (block 4, warp) = query; LR_BY head, LR_BZ batch
LR_KERNEL(attention_forward, AttentionArgs, 128, 4) {
    float* row = reinterpret_cast<float*>(LR_SMEM) + LR_TID / 32 * p.dim; // q of this warp
    const int lane = LR_TID % 32, query = static_cast<int>(LR_BX * 4 + LR_TID / 32), head = LR_BY, batch = LR_BZ;
    if (query >= p.queries) return;
    const int64_t at = ((int64_t(batch) * p.queries + query) * p.heads + head) * p.dim;
    const int64_t pitch = int64_t(p.kv_heads) * p.dim, start = (int64_t(batch) * p.keys * p.kv_heads + head / (p.heads / p.kv_heads)) * p.dim;
    const scalar *k = static_cast<const scalar*>(p.k) + start, *v = static_cast<const scalar*>(p.v) + start;
    for (int d = lane; d < p.dim; d += 32) row[d] = lr_widen(static_cast<const scalar*>(p.q)[at + d]) * static_cast<float>(p.scale);
    lr_warp_sync();
    float y[Most] = {}, top = -3.4e38f, total = 0;
    for (int j0 = 0; j0 < p.keys; j0 += 32) {
        const bool allowed = lr_allowed(p, batch, query, j0 + lane);
        if (!lr_ballot(allowed)) continue;
        const float score = allowed ? lr_dot(row, k + (j0 + lane) * pitch, p.dim) : -3.4e38f;
        const float next = lr_warp_max(score > top ? score : top), shrink = expf(top - next), weight = allowed ? expf(score - next) : 0.0f;
        top = next;
        total = total * shrink + lr_warp_sum(weight);
        LR_UNROLL
        for (int i = 0; i < Most; ++i) y[i] *= shrink;
        for (int j = 0; j < 32 && j0 + j < p.keys; ++j) {
            const float w = lr_shfl(weight, j);
            LR_UNROLL
            for (int i = 0; i < Most; ++i)
                if (lane + 32 * i < p.dim) y[i] = lr_fma(w, lr_widen(v[(j0 + j) * pitch + lane + 32 * i]), y[i]);
        }
    }
    LR_UNROLL
    for (int i = 0; i < Most; ++i)
        if (lane + 32 * i < p.dim) lr_narrow(total > 0 ? y[i] / total : 0.0f, static_cast<scalar*>(p.y)[at + lane + 32 * i]);
    if (lane == 0) static_cast<float*>(p.lse)[(int64_t(batch) * p.heads + head) * p.queries + query] = total > 0 ? top + logf(total) : lr_float(0xFF800000u);
}

// work [batch, heads, queries]: dy . y
LR_KERNEL(attention_backward_q, Planned<AttentionGradArgs>, 128, 4) {
    const AttentionGradArgs& a = p.op;
    float* row = reinterpret_cast<float*>(LR_SMEM) + LR_TID / 32 * 2 * a.dim; // q and dy of this warp
    const int lane = LR_TID % 32, query = static_cast<int>(LR_BX * 4 + LR_TID / 32), head = LR_BY, batch = LR_BZ;
    if (query >= a.queries) return;
    const int64_t at = ((int64_t(batch) * a.queries + query) * a.heads + head) * a.dim, place = (int64_t(batch) * a.heads + head) * a.queries + query;
    const int64_t pitch = int64_t(a.kv_heads) * a.dim, start = (int64_t(batch) * a.keys * a.kv_heads + head / (a.heads / a.kv_heads)) * a.dim;
    const scalar *k = static_cast<const scalar*>(a.k) + start, *v = static_cast<const scalar*>(a.v) + start;
    const float scale = static_cast<float>(a.scale), lse = static_cast<const float*>(a.lse)[place];
    float own = 0;
    for (int d = lane; d < a.dim; d += 32) {
        row[d] = lr_widen(static_cast<const scalar*>(a.q)[at + d]) * scale;
        row[a.dim + d] = lr_widen(static_cast<const scalar*>(a.dy)[at + d]);
        own = lr_fma(row[a.dim + d], lr_widen(static_cast<const scalar*>(a.y)[at + d]), own);
    }
    own = lr_warp_sum(own);
    lr_warp_sync();
    if (lane == 0) static_cast<float*>(p.work)[place] = own;
    if (!a.dq) return;
    float dq[Most] = {};
    for (int j0 = 0; j0 < a.keys; j0 += 32) {
        const bool allowed = lr_allowed(a, batch, query, j0 + lane);
        if (!lr_ballot(allowed)) continue;
        const int64_t key = (j0 + lane) * pitch;
        const float ds = allowed ? expf(lr_dot(row, k + key, a.dim) - lse) * (lr_dot(row + a.dim, v + key, a.dim) - own) * scale : 0.0f;
        for (int j = 0; j < 32 && j0 + j < a.keys; ++j) {
            const float s = lr_shfl(ds, j);
            LR_UNROLL
            for (int i = 0; i < Most; ++i)
                if (lane + 32 * i < a.dim) dq[i] = lr_fma(s, lr_widen(k[(j0 + j) * pitch + lane + 32 * i]), dq[i]);
        }
    }
    LR_UNROLL
    for (int i = 0; i < Most; ++i)
        if (lane + 32 * i < a.dim) lr_put(static_cast<scalar*>(a.dq) + at + lane + 32 * i, dq[i], a.add & 1);
}

// Warp = key; LR_BY key head. Queries of every head of the group, in order.
LR_KERNEL(attention_backward_kv, Planned<AttentionGradArgs>, 128, 4) {
    const AttentionGradArgs& a = p.op;
    float* row = reinterpret_cast<float*>(LR_SMEM) + LR_TID / 32 * 2 * a.dim; // k and v of this warp
    const int lane = LR_TID % 32, key = static_cast<int>(LR_BX * 4 + LR_TID / 32), kv_head = LR_BY, batch = LR_BZ;
    if (key >= a.keys) return;
    const int64_t at = ((int64_t(batch) * a.keys + key) * a.kv_heads + kv_head) * a.dim, pitch = int64_t(a.heads) * a.dim;
    const float scale = static_cast<float>(a.scale);
    for (int d = lane; d < a.dim; d += 32) {
        row[d] = lr_widen(static_cast<const scalar*>(a.k)[at + d]) * scale;
        row[a.dim + d] = lr_widen(static_cast<const scalar*>(a.v)[at + d]);
    }
    lr_warp_sync();
    float dk[Most] = {}, dv[Most] = {};
    const int group = a.heads / a.kv_heads;
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const int64_t start = (int64_t(batch) * a.queries * a.heads + head) * a.dim;
        const scalar *q = static_cast<const scalar*>(a.q) + start, *dy = static_cast<const scalar*>(a.dy) + start;
        for (int i0 = 0; i0 < a.queries; i0 += 32) {
            const int query = i0 + lane;
            const bool allowed = query < a.queries && lr_allowed(a, batch, query, key);
            if (!lr_ballot(allowed)) continue;
            const int64_t place = (int64_t(batch) * a.heads + head) * a.queries + query;
            const float weight = allowed ? expf(lr_dot(row, q + query * pitch, a.dim) - static_cast<const float*>(a.lse)[place]) : 0.0f;
            const float ds = allowed ? weight * (lr_dot(row + a.dim, dy + query * pitch, a.dim) - static_cast<const float*>(p.work)[place]) * scale : 0.0f;
            for (int i = 0; i < 32 && i0 + i < a.queries; ++i) {
                const float w = lr_shfl(weight, i), s = lr_shfl(ds, i);
                LR_UNROLL
                for (int e = 0; e < Most; ++e)
                    if (lane + 32 * e < a.dim) {
                        dv[e] = lr_fma(w, lr_widen(dy[(i0 + i) * pitch + lane + 32 * e]), dv[e]);
                        dk[e] = lr_fma(s, lr_widen(q[(i0 + i) * pitch + lane + 32 * e]), dk[e]);
                    }
            }
        }
    }
    LR_UNROLL
    for (int e = 0; e < Most; ++e)
        if (lane + 32 * e < a.dim) {
            if (a.dk) lr_put(static_cast<scalar*>(a.dk) + at + lane + 32 * e, dk[e], a.add >> 1 & 1);
            if (a.dv) lr_put(static_cast<scalar*>(a.dv) + at + lane + 32 * e, dv[e], a.add >> 2 & 1);
        }
}
