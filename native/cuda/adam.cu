// Optimisers over one flat pack. Floor: AdamW reads p, g, m, v and writes p, m, v: 28 bytes a parameter at copy bandwidth (107 G parameters/s on an H100).
// Blocks stride over tiles of 4096 elements of all segments; clipping reads the squared norm from device memory, so no step waits for the host.
#include "common.cuh"

#if LR_DTYPE == 1

constexpr int64_t Tile = 4096;

// f(segment, begin, end, tile) for the tiles of this block; every thread of the block calls it
template <class F> LR_DEV void lr_tiles(const Segment* segments, int count, F f) {
    int64_t before = 0;
    int64_t tile = LR_BX;
    for (int s = 0; s < count; ++s) {
        const Segment segment = segments[s];
        const int64_t tiles = (segment.count + Tile - 1) / Tile, last = segment.start + segment.count;
        for (; tile < before + tiles; tile += LR_GX) {
            const int64_t begin = segment.start + (tile - before) * Tile;
            f(segment, begin, begin + Tile < last ? begin + Tile : last, tile);
        }
        before += tiles;
    }
}

LR_DEV float lr_clip(const void* norm2, double max_norm) {
    if (!norm2 || max_norm <= 0) return 1;
    const double c = max_norm / (sqrt(*static_cast<const double*>(norm2)) + 1e-6);
    return c < 1 ? static_cast<float>(c) : 1.0f;
}

// {lr, step}: as the launch says, or as memory does
struct Pace {
    double lr, step;
};
template <class Args> LR_DEV Pace lr_pace(const Args& p) {
    const double* now = static_cast<const double*>(p.progress);
    return now ? Pace{now[0], now[1]} : Pace{p.lr, static_cast<double>(p.step)};
}

// A state block, to be indexed as the values are
LR_DEV float* lr_state(void* block, const Segment& s) { return block ? static_cast<float*>(block) + (s.state - s.start) : nullptr; }

// Partial sums by block in float64: work [parts]
LR_KERNEL(square_sum_parts, Planned<SquareSumArgs>, 256, 4) {
    const float* g = static_cast<const float*>(p.op.g);
    double sum = 0;
    lr_tiles(p.op.segments, p.op.segment_count, [&](const Segment&, int64_t begin, int64_t end, int64_t) {
        for (int64_t i = begin + LR_TID; i < end; i += 256) sum += static_cast<double>(g[i]) * g[i];
    });
    sum = lr_block_total(sum, reinterpret_cast<double*>(LR_SMEM));
    if (LR_TID == 0) static_cast<double*>(p.work)[LR_BX] = sum;
}
LR_KERNEL(square_sum_total, Planned<SquareSumArgs>, 32, 1) {
    if (LR_TID > 0) return;
    double sum = 0;
    for (int i = 0; i < p.parts; ++i) sum += static_cast<const double*>(p.work)[i];
    *static_cast<double*>(p.op.norm2) = sum;
}

LR_KERNEL(adamw, AdamWArgs, 256, 3) { // three blocks: the powers between segments need more than 64 registers
    float* w = static_cast<float*>(p.p);
    const float* g = static_cast<const float*>(p.g);
    const float clip = lr_clip(p.norm2, p.max_norm), b1 = static_cast<float>(p.beta1), b2 = static_cast<float>(p.beta2), c1 = static_cast<float>(1 - p.beta1), c2 = static_cast<float>(1 - p.beta2);
    const Pace pace = lr_pace(p);
    const float eps = static_cast<float>(p.eps);
    int64_t counted = -1;
    double correction1 = 1, correction2 = 1;
    lr_tiles(p.segments, p.segment_count, [&](const Segment& s, int64_t begin, int64_t end, int64_t) {
        if (!p.uncorrected && s.paused != counted) { // powers once, and again only where a segment has sat steps out
            correction1 = 1 - pow(p.beta1, pace.step - static_cast<double>(s.paused));
            correction2 = 1 - pow(p.beta2, pace.step - static_cast<double>(s.paused));
            counted = s.paused;
        }
        const double lr = pace.lr * s.lr_scale, outside = p.late ? sqrt(correction2) : 1;
        const float root = static_cast<float>(sqrt(correction2) / outside);
        const float keep = static_cast<float>(1 - lr * s.weight_decay), step = static_cast<float>(lr * outside / correction1), decay = static_cast<float>(s.weight_decay);
        float *m = lr_state(p.m, s), *v = lr_state(p.v, s);
        for (int64_t i = begin + LR_TID; i < end; i += 256) {
            float x = w[i], d = clip * g[i];
            if (p.coupled) d = lr_fma(decay, x, d);
            else if (!p.late) x *= keep;
            const float first = lr_fma(b1, m[i], c1 * d), second = lr_fma(b2, v[i], c2 * d * d);
            m[i] = first;
            v[i] = second;
            x -= step * first / (sqrtf(second) / root + eps);
            w[i] = p.late && !p.coupled ? x * keep : x;
        }
    });
}

// The code of x, |x| <= 1
LR_DEV uint8_t lr_code(const float* book, float x) {
    constexpr int Least = (127 - 23) << 7, Places = 23 * 128 + 1;
    const uint32_t bits = lr_bits(x);
    int place = static_cast<int>((bits & 0x7FFFFFFFu) >> 16) - Least;
    place = place < 0 ? 0 : place < Places ? place : Places - 1;
    const int code = reinterpret_cast<const uint8_t*>(book + 512)[place + (bits >> 31 ? Places : 0)];
    return static_cast<uint8_t>(x > book[256 + code] ? code + 1 : code);
}

// A block of threads for a block of codes; 16 bytes a parameter
LR_KERNEL(adam_8bit, Adam8BitArgs, 256, 4) {
    constexpr int Block = 256;
    float* parts = reinterpret_cast<float*>(LR_SMEM); // [8]
    float* w = static_cast<float*>(p.p);
    const float *g = static_cast<const float*>(p.g), *book1 = static_cast<const float*>(p.book1), *book2 = static_cast<const float*>(p.book2);
    const float clip = lr_clip(p.norm2, p.max_norm), b1 = static_cast<float>(p.beta1), b2 = static_cast<float>(p.beta2), n1 = static_cast<float>(1 - p.beta1), n2 = static_cast<float>(1 - p.beta2);
    const Pace pace = lr_pace(p);
    double c1 = 1, c2 = 1;
    int64_t counted = -1;
    int64_t before = 0;
    int64_t at = LR_BX;
    for (int i = 0; i < p.segment_count; ++i) {
        const Segment s = p.segments[i];
        const int64_t blocks = (s.count + Block - 1) / Block, first = p.blocks[i];
        if (s.paused != counted) { // powers once, and again only where a segment has sat steps out
            c1 = 1 - pow(p.beta1, pace.step - static_cast<double>(s.paused));
            c2 = sqrt(1 - pow(p.beta2, pace.step - static_cast<double>(s.paused)));
            counted = s.paused;
        }
        const double lr = pace.lr * s.lr_scale;
        const float step = static_cast<float>(lr * c2 / c1), keep = static_cast<float>(1 - lr * s.weight_decay), eps = static_cast<float>(c2 * p.eps);
        for (; at < before + blocks; at += LR_GX) {
            const int64_t place = (at - before) * Block + LR_TID, state = s.state + place, block = first + at - before;
            const bool mine = place < s.count;
            float m = 0, v = 0;
            uint8_t *code1 = static_cast<uint8_t*>(p.codes1) + state, *code2 = static_cast<uint8_t*>(p.codes2) + state;
            float *max1 = static_cast<float*>(p.max1) + block, *max2 = static_cast<float*>(p.max2) + block;
            float *float1 = static_cast<float*>(p.m) + state, *float2 = static_cast<float*>(p.v) + state;
            if (mine) {
                const float d = clip * g[s.start + place];
                const bool finite = (lr_bits(d) & 0x7F800000u) != 0x7F800000u;
                m = finite ? lr_fma(b1, first < 0 ? *float1 : book1[*code1] * *max1, n1 * d) : 0.0f;
                v = finite ? lr_fma(b2, first < 0 ? *float2 : book2[*code2] * *max2, n2 * d * d) : 0.0f;
                if (finite) w[s.start + place] = (w[s.start + place] - step * m / (sqrtf(v) + eps)) * keep;
            }
            if (first < 0) {
                if (mine) *float1 = m, *float2 = v;
                continue;
            }
            const float most1 = lr_block_max<256>(m < 0 ? -m : m, parts), most2 = lr_block_max<256>(v, parts); // all have read the old ones
            if (mine) {
                *code1 = lr_code(book1, most1 > 0 ? m / most1 : 0);
                *code2 = lr_code(book2, most2 > 0 ? v / most2 : 0);
            }
            if (LR_TID == 0) *max1 = most1, *max2 = most2;
        }
        before += blocks;
    }
}

LR_KERNEL(sgd, SgdArgs, 256, 4) {
    float* w = static_cast<float*>(p.p);
    const float* g = static_cast<const float*>(p.g);
    const float clip = lr_clip(p.norm2, p.max_norm), momentum = static_cast<float>(p.momentum), enter = static_cast<float>(1 - p.dampening);
    const Pace pace = lr_pace(p);
    lr_tiles(p.segments, p.segment_count, [&](const Segment& s, int64_t begin, int64_t end, int64_t) {
        const float lr = static_cast<float>(pace.lr * s.lr_scale), decay = static_cast<float>(s.weight_decay);
        float* buffer = lr_state(p.buf, s);
        for (int64_t i = begin + LR_TID; i < end; i += 256) {
            const float d = lr_fma(decay, w[i], clip * g[i]);
            float move = d;
            if (buffer) {
                const float b = pace.step == 1 ? d : lr_fma(momentum, buffer[i], enter * d);
                buffer[i] = b;
                move = p.nesterov ? lr_fma(momentum, b, d) : b;
            }
            w[i] -= lr * move;
        }
    });
}

LR_KERNEL(rmsprop, RmsPropArgs, 256, 4) {
    float* w = static_cast<float*>(p.p);
    const float* g = static_cast<const float*>(p.g);
    const float clip = lr_clip(p.norm2, p.max_norm), alpha = static_cast<float>(p.alpha), enter = static_cast<float>(1 - p.alpha);
    const float momentum = static_cast<float>(p.momentum), eps = static_cast<float>(p.eps);
    const Pace pace = lr_pace(p);
    lr_tiles(p.segments, p.segment_count, [&](const Segment& s, int64_t begin, int64_t end, int64_t) {
        const float lr = static_cast<float>(pace.lr * s.lr_scale), decay = static_cast<float>(s.weight_decay);
        float *v = lr_state(p.v, s), *mean = lr_state(p.mean, s), *buffer = lr_state(p.buf, s);
        for (int64_t i = begin + LR_TID; i < end; i += 256) {
            const float d = lr_fma(decay, w[i], clip * g[i]), square = lr_fma(alpha, v[i], enter * d * d);
            v[i] = square;
            float spread = square;
            if (mean) {
                const float m = lr_fma(alpha, mean[i], enter * d);
                mean[i] = m;
                spread = square - m * m;
            }
            float move = d / (sqrtf(spread) + eps);
            if (buffer) {
                move = lr_fma(momentum, buffer[i], move);
                buffer[i] = move;
            }
            w[i] -= lr * move;
        }
    });
}

// Adafactor reads g four times and p twice and writes p: 28 bytes a parameter. Five kernels, one block a row, a group of columns or a tensor, none waiting
// for another block: the moments of the rows, those of the columns, totals, the norm of the update, totals again, the step. work, all float64: [rows] sums
// of p^2, later of u^2; [tensors] means of the row moments; [tensors] rms of p, later the factor on u.
constexpr int Group = 32; // columns of a block

struct Factors {
    double *sums, *means, *scales; // [rows], [tensors], [tensors]
    const Factored* tensors;
    int count;
};
LR_DEV Factors lr_factors(const Planned<AdafactorArgs>& p) {
    double *sums = static_cast<double*>(p.work), *means = sums + p.op.total_rows;
    return Factors{sums, means, means + p.op.tensor_count, p.op.tensors, p.op.tensor_count};
}

// f(tensor, index of the tensor, row, row among all) for the rows of this block
template <class F> LR_DEV void lr_rows(const Factors& of, F f) {
    int64_t before = 0;
    int64_t row = LR_BX;
    for (int i = 0; i < of.count; ++i) {
        const Factored t = of.tensors[i];
        for (; row < before + t.rows; row += LR_GX) f(t, i, row - before, row);
        before += t.rows;
    }
}

LR_DEV float lr_fresh(const AdafactorArgs& a) { return static_cast<float>(pow(lr_pace(a).step, -a.decay)); }

LR_KERNEL(adafactor_rows, Planned<AdafactorArgs>, 256, 3) {
    double* shared = reinterpret_cast<double*>(LR_SMEM); // [256]
    const Factors of = lr_factors(p);
    const float clip = lr_clip(p.op.norm2, p.op.max_norm), fresh = lr_fresh(p.op);
    lr_rows(of, [&](const Factored& t, int, int64_t r, int64_t at) {
        const float *w = static_cast<const float*>(p.op.p) + t.start + r * t.cols, *g = static_cast<const float*>(p.op.g) + t.start + r * t.cols;
        double squares = 0, values = 0;
        for (int64_t c = LR_TID; c < t.cols; c += 256) {
            const double d = static_cast<double>(clip) * g[c];
            squares += d * d;
            values += static_cast<double>(w[c]) * w[c];
        }
        squares = lr_block_total(squares, shared);
        values = lr_block_total(values, shared);
        if (LR_TID > 0) return;
        of.sums[at] = values;
        if (t.row_state < 0) return;
        float* row = static_cast<float*>(p.op.row) + t.row_state + r;
        *row += fresh * (static_cast<float>(squares / static_cast<double>(t.cols)) - *row);
    });
}

LR_KERNEL(adafactor_columns, Planned<AdafactorArgs>, 256, 4) {
    double* shared = reinterpret_cast<double*>(LR_SMEM); // [8][32]
    const Factors of = lr_factors(p);
    const float clip = lr_clip(p.op.norm2, p.op.max_norm), fresh = lr_fresh(p.op);
    const int lane = static_cast<int>(LR_TID) % Group, line = static_cast<int>(LR_TID) / Group;
    int64_t before = 0;
    int64_t group = LR_BX;
    for (int i = 0; i < of.count; ++i) {
        const Factored t = of.tensors[i];
        const int64_t groups = (t.cols + Group - 1) / Group;
        for (; group < before + groups; group += LR_GX) {
            const int64_t c = (group - before) * Group + lane;
            const float* g = static_cast<const float*>(p.op.g) + t.start;
            double sum = 0;
            for (int64_t r = line; r < t.rows && c < t.cols; r += 256 / Group) {
                const double d = static_cast<double>(clip) * g[r * t.cols + c];
                sum += d * d;
            }
            lr_sync(); // the last group is read
            shared[LR_TID] = sum;
            lr_sync();
            if (line == 0 && c < t.cols) {
                double total = 0;
                for (int l = 0; l < 256 / Group; ++l) total += shared[l * Group + lane];
                float* col = static_cast<float*>(p.op.col) + t.col_state + c;
                *col += fresh * (static_cast<float>(total / static_cast<double>(t.rows)) - *col);
            }
        }
        before += groups;
    }
}

// parts 0: means of the row moments and rms of p; parts 1: the factor on u. A block a tensor.
LR_KERNEL(adafactor_totals, Planned<AdafactorArgs>, 256, 1) {
    double* shared = reinterpret_cast<double*>(LR_SMEM); // [256]
    const Factors of = lr_factors(p);
    int64_t before = 0;
    for (int i = 0; i < of.count; ++i) {
        const Factored t = of.tensors[i];
        if (i % static_cast<int>(LR_GX) == static_cast<int>(LR_BX)) {
            const float* row = static_cast<const float*>(p.op.row) + t.row_state;
            double sums = 0, moments = 0;
            for (int64_t r = LR_TID; r < t.rows; r += 256) {
                sums += of.sums[before + r];
                moments += p.parts == 0 && t.row_state >= 0 ? static_cast<double>(row[r]) : 0;
            }
            const double rms = sqrt(lr_block_total(sums, shared) / static_cast<double>(t.rows * t.cols));
            const double mean = lr_block_total(moments, shared) / static_cast<double>(t.rows);
            if (LR_TID == 0 && p.parts == 0) {
                of.means[i] = mean > p.op.eps1 ? mean : p.op.eps1;
                of.scales[i] = rms > p.op.eps2 ? rms : p.op.eps2;
            } else if (LR_TID == 0) {
                const Pace pace = lr_pace(p.op);
                const double root = 1 / sqrt(pace.step), spread = rms / p.op.threshold;
                of.scales[i] *= (pace.lr < root ? pace.lr : root) * t.lr_scale / (spread > 1 ? spread : 1);
            }
        }
        before += t.rows;
    }
}

// u [cols] of a row
struct Update {
    const float *g, *col;
    float clip, share, floor;
};
LR_DEV float lr_at(const Update& u, int64_t c) {
    const float root = sqrtf(u.col[c] * u.share);
    return u.clip * u.g[c] / (root > u.floor ? root : u.floor);
}
LR_DEV Update lr_update(const Planned<AdafactorArgs>& p, const Factors& of, const Factored& t, int i, int64_t r) {
    const float share = t.row_state < 0 ? 1.0f : static_cast<float>(static_cast<const float*>(p.op.row)[t.row_state + r] / of.means[i]);
    return Update{static_cast<const float*>(p.op.g) + t.start + r * t.cols, static_cast<const float*>(p.op.col) + t.col_state, lr_clip(p.op.norm2, p.op.max_norm), share, static_cast<float>(p.op.eps1)};
}

LR_KERNEL(adafactor_norms, Planned<AdafactorArgs>, 256, 4) {
    double* shared = reinterpret_cast<double*>(LR_SMEM); // [256]
    const Factors of = lr_factors(p);
    lr_rows(of, [&](const Factored& t, int i, int64_t r, int64_t at) {
        const Update u = lr_update(p, of, t, i, r);
        double sum = 0;
        for (int64_t c = LR_TID; c < t.cols; c += 256) sum += static_cast<double>(lr_at(u, c)) * lr_at(u, c);
        sum = lr_block_total(sum, shared);
        if (LR_TID == 0) of.sums[at] = sum;
    });
}

LR_KERNEL(adafactor, Planned<AdafactorArgs>, 256, 4) {
    const Factors of = lr_factors(p);
    const double rate = lr_pace(p.op).lr;
    lr_rows(of, [&](const Factored& t, int i, int64_t r, int64_t) {
        const Update u = lr_update(p, of, t, i, r);
        const float step = static_cast<float>(of.scales[i]), keep = static_cast<float>(1 - rate * t.lr_scale * t.weight_decay);
        float* w = static_cast<float*>(p.op.p) + t.start + r * t.cols;
        for (int64_t c = LR_TID; c < t.cols; c += 256) w[c] = w[c] * keep - step * lr_at(u, c);
    });
}
#endif
