// Attention in tiles: no matrix of queries x keys is ever in memory. A warp owns 16 rows (forward 32 up to width 64); tiles of the other side stream
// through two stages of shared memory, the next one on its way while this one is computed. Softmax is online, in powers of two with the scale folded
// in. Backward makes the weights again, once with queries as owners (dq), once with keys (dk, dv; all query heads of a key head in order): every sum has
// one owner and one order, so bits repeat without atomics. Head sizes below Width are filled up with zeros. Files that are Shaped bend the scores by a
// soft cap and a bias; the gradient of the bias takes a launch a row of the batch, which share it.
//
// Floor, a head: forward 4 queries keys dim FLOPs, backward 14 (10 at least: the scores and dy v are made twice, the price of owners), half where
// causal; q, k, v, y touched once. At 4096 tokens, 32 heads, dim 128, bf16: forward 0.27 TFLOP, 0.34 ms at 798 TFLOP/s; 0.13 GB, 0.04 ms.
// Predicted on an H100: mma.sync has some 0.6 of wgmma's rate, and strips of 16 rows read shared memory as fast as it gives at half of that rate:
// 250-300 TFLOP/s forward (1 ms), 200-250 backward. F32: half of the 60 TFLOP/s of FMA, for two operands of every four products come from shared memory.
#include "tiles.cuh"

// The shape of blocks; CudaAttentionPlans.cs computes the same.
constexpr bool Halves = sizeof(scalar) == 2;
constexpr int Warps = !Halves && Width == 256 ? 2 : 4, Threads = 32 * Warps;
constexpr int Strips = Halves && Width <= 64 ? 2 : 1;                      // of 16 rows a warp, forward
constexpr int Ahead = Width == 256 ? (Halves ? 32 : 16) : Strips == 2 || !Halves ? 32 : 64; // keys a tile, forward
constexpr int Back = (Width <= 64 ? 64 : 4096 / Width) / (Halves ? 1 : 2); // rows a tile, backward
constexpr bool Holds = Halves && Width <= 128;                             // q in registers, forward
constexpr double Log2e = 1.4426950408889634;

template <class Args> LR_DEV Rows lr_rows(const Args& p, const void* data, int tokens, int heads, int batch, int head, bool whole) {
    return {static_cast<const scalar*>(data) + (int64_t(batch) * tokens * heads + head) * p.dim, int64_t(heads) * p.dim, tokens, p.dim, whole};
}
struct Range {
    int begin, end;
};
// Keys that a query may see, the mask apart
template <class Args> LR_DEV Range lr_sight(const Args& p, int query) {
    const int last = query + p.keys - p.queries;
    return {p.window ? last - p.window + 1 : 0, p.causal && last < p.keys ? last + 1 : p.keys};
}
// Scores of a warp's strips, from row `row` and column `col` on, that no query may see become -inf; rows are keys where OfKeys, else queries
template <bool OfKeys, int N, int M, class Args> LR_DEV void lr_bar(const Args& p, int batch, int row, int col, float (&s)[M][N / 8][4]) {
    constexpr int Keys = OfKeys ? 2 * M : N / 4, Queries = OfKeys ? N / 4 : 2 * M; // of a lane
    const uint8_t* mask = p.mask ? static_cast<const uint8_t*>(p.mask) + int64_t(batch) * p.keys : nullptr;
    row += LR_TID % 32 / 4;
    col += 2 * (LR_TID % 4);
    LR_UNROLL
    for (int k = 0; k < Keys; ++k) {
        const int key = OfKeys ? row + 8 * k : col + 8 * (k / 2) + k % 2;
        const bool open = key < p.keys && (!mask || mask[key]);
        LR_UNROLL
        for (int q = 0; q < Queries; ++q) {
            const Range sight = lr_sight(p, OfKeys ? col + 8 * (q / 2) + q % 2 : row + 8 * q);
            const int r = OfKeys ? k : q, c = OfKeys ? q : k;
            if (!open || key < sight.begin || key >= sight.end) s[r / 2][c / 2][r % 2 * 2 + c % 2] = -lr_infinity();
        }
    }
}
// True where each of so many queries may see each of so many keys
template <class Args> LR_DEV bool lr_open(const Args& p, int query, int queries, int key, int keys) {
    const int last = query + p.keys - p.queries;
    return !p.mask && key + keys <= p.keys && (!p.causal || key + keys - 1 <= last) && (!p.window || key > last + queries - 1 - p.window);
}
// Tiles of `size` keys that some of queries [query, query + queries) may see
template <class Args> LR_DEV Range lr_keys_of(const Args& p, int query, int queries, int size) {
    const int first = p.window ? query + p.keys - p.queries - p.window + 1 : 0, end = p.causal && query + queries < p.queries ? query + queries + p.keys - p.queries : p.keys;
    return {first > 0 ? first / size : 0, end > 0 ? (end + size - 1) / size : 0};
}
// Tiles of `size` queries of which some may see one of keys [key, key + keys)
template <class Args> LR_DEV Range lr_queries_of(const Args& p, int key, int keys, int size) {
    const int shift = p.keys - p.queries, first = p.causal ? key - shift : 0, past = p.window ? key + keys - 1 + p.window - shift : p.queries, end = past < p.queries ? past : p.queries;
    return {first > 0 ? first / size : 0, end > 0 ? (end + size - 1) / size : 0};
}
// The score of a query and a key as it goes into softmax where the file is Shaped: z + bias, z = cap tanh(scale s/cap), or scale s without a cap; slope is
// dz/d(scale s). What is barred stays so.
template <class Args> LR_DEV float lr_bend(const Args& p, int head, int query, int key, float s, float& slope) {
    const float cap = static_cast<float>(p.cap);
    slope = 1;
    if (s == -lr_infinity()) return s;
    s *= static_cast<float>(p.scale);
    if (cap > 0) {
        const float t = tanhf(s / cap);
        slope = (1 - t) * (1 + t);
        s = cap * t;
    }
    return p.bias && query < p.queries ? s + static_cast<const float*>(p.bias)[(int64_t(head) * p.queries + query) * p.keys + key] : s;
}
// Factor from scores to powers of two
template <class Args> LR_DEV float lr_power(const Args& p) { return static_cast<float>(Shaped ? Log2e : p.scale * Log2e); }
LR_DEV float lr_quad_sum(float v) {
    v += lr_shfl_xor(v, 1);
    return v + lr_shfl_xor(v, 2);
}

// Block: 16 Strips Warps queries of head LR_BY, batch LR_BZ; causal ones begin with the longest
LR_DEV void lr_attend(const AttentionArgs& p) {
    constexpr int Queries = 16 * Strips * Warps;
    constexpr uint32_t Tile = Ahead * RowBytes, Stage = 2 * Tile, Stages = Holds ? 0 : Queries * RowBytes;
    constexpr uint32_t Own = Holds ? Stage : 0; // q that is held lies behind the first stage until the second is needed
    const int lane = LR_TID % 32, warp = LR_TID / 32, head = LR_BY, batch = LR_BZ, kv_head = head / (p.heads / p.kv_heads);
    const int from = static_cast<int>(p.causal ? LR_GX - 1 - LR_BX : LR_BX) * Queries, first = from + 16 * Strips * warp;
    const bool whole = p.dim % Lanes == 0 && lr_aligned(p.q) && lr_aligned(p.k) && lr_aligned(p.v) && lr_aligned(p.y);
    const Rows q = lr_rows(p, p.q, p.queries, p.heads, batch, head, whole), y = lr_rows(p, p.y, p.queries, p.heads, batch, head, whole);
    const Rows k = lr_rows(p, p.k, p.keys, p.kv_heads, batch, kv_head, whole), v = lr_rows(p, p.v, p.keys, p.kv_heads, batch, kv_head, whole);
    const Range tiles = lr_keys_of(p, from, Queries, Ahead);
    const float scale = lr_power(p);
    auto fetch = [&](int tile) {
        const uint32_t stage = Stages + (tile - tiles.begin) % 2 * Stage;
        lr_fetch<Ahead, Threads>(k, tile * Ahead, stage);
        lr_fetch<Ahead, Threads>(v, tile * Ahead, stage + Tile);
        lr_cp_async_commit();
    };
    if (tiles.begin < tiles.end) {
        lr_fetch<Queries, Threads>(q, from, Own);
        fetch(tiles.begin);
    }
    lr_cp_async_wait<0>();
    lr_sync();
    Strip<Holds> strips[Strips];
    LR_UNROLL
    for (int m = 0; m < Strips; ++m) lr_take(Own, 16 * (Strips * warp + m), strips[m]);
    float sums[Strips][Width / 8][4] = {}, top[Strips][2], total[Strips][2] = {};
    LR_UNROLL
    for (int m = 0; m < Strips; ++m) top[m][0] = top[m][1] = -lr_infinity();
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
        lr_cp_async_wait<0>();
        lr_sync(); // this stage has landed, the other one is no longer read
        if (tile + 1 < tiles.end) fetch(tile + 1);
        const uint32_t stage = Stages + (tile - tiles.begin) % 2 * Stage;
        float s[Strips][Ahead / 8][4] = {};
        lr_dots<Ahead>(strips, stage, s);
        if (!lr_open(p, from, Queries, tile * Ahead, Ahead)) lr_bar<false, Ahead>(p, batch, first, tile * Ahead, s);
        if constexpr (Shaped)
            LR_UNROLL
            for (int m = 0; m < Strips; ++m)
                LR_UNROLL
                for (int j = 0; j < Ahead / 8; ++j)
                    LR_UNROLL
                    for (int e = 0; e < 4; ++e) {
                        float slope;
                        s[m][j][e] = lr_bend(p, head, first + 16 * m + lane / 4 + 8 * (e / 2), tile * Ahead + 8 * j + 2 * (lane % 4) + e % 2, s[m][j][e], slope);
                    }
        LR_UNROLL
        for (int m = 0; m < Strips; ++m)
            LR_UNROLL
            for (int h = 0; h < 2; ++h) {
                float next = top[m][h];
                LR_UNROLL
                for (int j = 0; j < Ahead / 8; ++j)
                    next = fmaxf(next, fmaxf(s[m][j][2 * h], s[m][j][2 * h + 1])); // a NaN is not seen here: it stays in its weight
                next = fmaxf(next, lr_shfl_xor(next, 1));
                next = fmaxf(next, lr_shfl_xor(next, 2));
                const float level = next == -lr_infinity() ? 0.0f : next * scale, shrink = lr_exp2(lr_fma(top[m][h], scale, -level));
                top[m][h] = next;
                total[m][h] *= shrink;
                LR_UNROLL
                for (int d = 0; d < Width / 8; ++d) {
                    sums[m][d][2 * h] *= shrink;
                    sums[m][d][2 * h + 1] *= shrink;
                }
                LR_UNROLL
                for (int j = 0; j < Ahead / 8; ++j)
                    LR_UNROLL
                    for (int e = 2 * h; e < 2 * h + 2; ++e) {
                        s[m][j][e] = lr_exp2(lr_fma(s[m][j][e], scale, -level));
                        total[m][h] += s[m][j][e];
                    }
            }
        lr_mix<Ahead>(s, stage + Tile, sums);
    }
    LR_UNROLL
    for (int m = 0; m < Strips; ++m) {
        float share[2];
        LR_UNROLL
        for (int h = 0; h < 2; ++h) {
            const float all = lr_quad_sum(total[m][h]);
            const int query = first + 16 * m + lane / 4 + 8 * h;
            share[h] = all == 0 ? 0.0f : 1.0f / all;
            if (lane % 4 == 0 && query < p.queries)
                static_cast<float*>(p.lse)[(int64_t(batch) * p.heads + head) * p.queries + query] = all == 0 ? -lr_infinity() : lr_fma(top[m][h], Shaped ? 1.0f : static_cast<float>(p.scale), logf(all));
        }
        lr_put_strip(sums[m], share, y, first + 16 * m, false);
    }
}

// What a query's scores are lowered by, in powers of two: its weights come out as exp2(score - level), zero past the end and where no key was allowed
LR_DEV float lr_level(const AttentionGradArgs& p, int64_t place, int query) {
    const float lse = query < p.queries ? static_cast<const float*>(p.lse)[place + query] : -lr_infinity();
    return lse == -lr_infinity() ? lr_infinity() : lse * static_cast<float>(Log2e);
}

// dy . y of a query, by the four lanes of a quad
LR_DEV float lr_own_dot(const Rows& y, const Rows& dy, int query) {
    float sum = 0;
    if (query < y.rows) {
        const scalar *a = y.data + query * y.pitch, *b = dy.data + query * dy.pitch;
        if (y.whole)
            LR_ROLLED
            for (int c = static_cast<int>(LR_TID) % 4 * Lanes; c < y.dim; c += 4 * Lanes) {
                const lanes left = lr_load<lanes>(a + c), right = lr_load<lanes>(b + c);
                LR_UNROLL
                for (int e = 0; e < Lanes; ++e) sum = lr_fma(lr_widen(left.v[e]), lr_widen(right.v[e]), sum);
            }
        else
            LR_ROLLED
            for (int c = LR_TID % 4; c < y.dim; c += 4) sum = lr_fma(lr_widen(a[c]), lr_widen(b[c]), sum);
    }
    return lr_quad_sum(sum);
}

// Block: 16 Warps rows of the owner, keys (head LR_BY of kv_heads) or queries (head LR_BY of heads); batch
// plan.parts + LR_BZ. With w the weights and dot = dy . y:
// First: dk += ds^T q or dq += ds k, ds = scale w (dy v^T - dot); Second: dv += w^T dy. Queries add w (dy v^T - dot) to dbias and write dot to work [batch, heads, queries], keys read it.
template <bool OfKeys, bool First, bool Second> LR_DEV void lr_attend_back(const Planned<AttentionGradArgs>& plan) {
    const AttentionGradArgs& p = plan.op;
    constexpr int Own = 16 * Warps;
    constexpr uint32_t Owner = Own * RowBytes, Tile = Back * RowBytes, Stages = 2 * Owner;
    static_assert(2 * Back <= Threads, "a thread fetches one level or dot");
    float* sides = reinterpret_cast<float*>(LR_SMEM + Stages + 4 * Tile); // [stage][level, dot][Back]
    float* work = static_cast<float*>(plan.work);
    const int lane = LR_TID % 32, warp = LR_TID / 32, batch = plan.parts + static_cast<int>(LR_BZ), group = p.heads / p.kv_heads;
    const int kv_head = OfKeys ? LR_BY : LR_BY / group, head = OfKeys ? LR_BY * group : LR_BY;
    const int from = static_cast<int>(p.causal && !OfKeys ? LR_GX - 1 - LR_BX : LR_BX) * Own, first = from + 16 * warp;
    const bool whole = p.dim % Lanes == 0 && lr_aligned(p.q) && lr_aligned(p.k) && lr_aligned(p.v) && lr_aligned(p.y) && lr_aligned(p.dy) && lr_aligned(p.dq) && lr_aligned(p.dk) && lr_aligned(p.dv);
    const Rows q = lr_rows(p, p.q, p.queries, p.heads, batch, head, whole), dy = lr_rows(p, p.dy, p.queries, p.heads, batch, head, whole);
    const Rows k = lr_rows(p, p.k, p.keys, p.kv_heads, batch, kv_head, whole), v = lr_rows(p, p.v, p.keys, p.kv_heads, batch, kv_head, whole);
    const int64_t place = (int64_t(batch) * p.heads + head) * p.queries;
    const float scale = lr_power(p);
    float* dbias = !OfKeys && Shaped ? static_cast<float*>(p.dbias) : nullptr;

    float level[2] = {}, dot[2] = {};
    if (!OfKeys) {
        const Rows y = lr_rows(p, p.y, p.queries, p.heads, batch, head, whole);
        LR_UNROLL
        for (int h = 0; h < 2; ++h) {
            const int query = first + lane / 4 + 8 * h;
            level[h] = lr_level(p, place, query);
            dot[h] = lr_own_dot(y, dy, query);
            if (lane % 4 == 0 && query < p.queries) work[place + query] = dot[h];
        }
        if (!p.dq && !dbias) return;
    }

    // Tiles of the other side that meet this one; keys go over them once a head of their group
    const Range tiles = OfKeys ? lr_queries_of(p, from, Own, Back) : lr_keys_of(p, from, Own, Back);
    const int span = tiles.end > tiles.begin ? tiles.end - tiles.begin : 0, steps = OfKeys ? group * span : span;
    auto fetch = [&](int step) {
        const uint32_t stage = Stages + step % 2 * 2 * Tile;
        Rows one = OfKeys ? q : k, two = OfKeys ? dy : v;
        if (OfKeys) {
            one.data += step / span * p.dim;
            two.data += step / span * p.dim;
        }
        lr_fetch<Back, Threads>(one, (tiles.begin + step % span) * Back, stage);
        lr_fetch<Back, Threads>(two, (tiles.begin + step % span) * Back, stage + Tile);
        lr_cp_async_commit();
    };
    auto side = [&](int step) { // this thread's level or dot
        const int query = (tiles.begin + step % span) * Back + static_cast<int>(LR_TID) % Back;
        const int64_t at = place + int64_t(step / span) * p.queries;
        if (LR_TID < Back) return lr_level(p, at, query);
        return LR_TID < 2 * Back && query < p.queries ? work[at + query] : 0.0f;
    };
    if (steps > 0) {
        lr_fetch<Own, Threads>(OfKeys ? k : q, from, 0);
        lr_fetch<Own, Threads>(OfKeys ? v : dy, from, Owner);
        fetch(0);
        if (OfKeys && LR_TID < 2 * Back) sides[LR_TID] = side(0);
    }
    lr_cp_async_wait<0>();
    lr_sync();
    constexpr bool Held = Halves && Width <= (Shaped ? 32 : 64); // what bends the scores takes the registers of wider ones
    Strip<Held> one[1], two[1];
    lr_take(0, 16 * warp, one[0]);
    lr_take(Owner, 16 * warp, two[0]);
    float sums1[1][Width / 8][4] = {}, sums2[1][Width / 8][4] = {};
    for (int step = 0; step < steps; ++step) {
        lr_cp_async_wait<0>();
        lr_sync(); // this stage has landed, the other one is no longer read
        const bool more = step + 1 < steps;
        float next = 0;
        if (more) {
            fetch(step + 1);
            if (OfKeys) next = side(step + 1);
        }
        const uint32_t stage = Stages + step % 2 * 2 * Tile;
        const float* here = sides + step % 2 * 2 * Back;
        const int other = (tiles.begin + step % span) * Back;
        float w[1][Back / 8][4] = {}, ds[1][Back / 8][4] = {};
        lr_dots<Back>(one, stage, w);
        if (First) lr_dots<Back>(two, stage + Tile, ds);
        if (OfKeys ? !lr_open(p, other, Back, from, Own) : !lr_open(p, from, Own, other, Back)) lr_bar<OfKeys, Back>(p, batch, first, other, w);
        LR_UNROLL
        for (int j = 0; j < Back / 8; ++j)
            LR_UNROLL
            for (int e = 0; e < 4; ++e) {
                const int col = 8 * j + 2 * (lane % 4) + e % 2, row = first + lane / 4 + 8 * (e / 2), query = OfKeys ? other + col : row, key = OfKeys ? row : other + col;
                float slope = 1;
                if (Shaped) w[0][j][e] = lr_bend(p, OfKeys ? head + step / span : head, query, key, w[0][j][e], slope);
                w[0][j][e] = lr_exp2(lr_fma(w[0][j][e], scale, -(OfKeys ? here[col] : level[e / 2])));
                if (First) ds[0][j][e] = w[0][j][e] * (ds[0][j][e] - (OfKeys ? here[Back + col] : dot[e / 2]));
                if (dbias && query < p.queries && key < p.keys) dbias[(int64_t(head) * p.queries + query) * p.keys + key] += ds[0][j][e];
                if (First && Shaped) ds[0][j][e] *= slope;
            }
        if (Second) lr_mix<Back>(w, stage + Tile, sums2);
        if (First) lr_mix<Back>(ds, stage, sums1);
        if (OfKeys && more && LR_TID < 2 * Back) sides[(step + 1) % 2 * 2 * Back + LR_TID] = next;
    }
    const float scales[2] = {static_cast<float>(p.scale), static_cast<float>(p.scale)}, ones[2] = {1, 1};
    if (!OfKeys && p.dq) lr_put_strip(sums1[0], scales, lr_rows(p, p.dq, p.queries, p.heads, batch, head, whole), first, p.add & 1);
    if (OfKeys && First && p.dk) lr_put_strip(sums1[0], scales, lr_rows(p, p.dk, p.keys, p.kv_heads, batch, kv_head, whole), first, p.add >> 1 & 1);
    if (OfKeys && Second && p.dv) lr_put_strip(sums2[0], ones, lr_rows(p, p.dv, p.keys, p.kv_heads, batch, kv_head, whole), first, p.add >> 2 & 1);
}
