// The loop over tiles of a product: fixed chunks of row panels x column strips, each tile finished in one go and handed to an epilogue.
#pragma once
#include "gemm.h"

namespace LR_NS {

// strip(j) gives the packed strip of columns 32j.. [k][32]; tail_strips [ceil(n/32)][tail][32] or null; store(place, sums[12][32]) writes a tile.
// tall: a chunk owns every row of its strips, for strips that are packed as they are asked for. Else a chunk owns up to 14 panels and 8 strips, fewer where there is little work: a function of the shape alone, so results are, too.
template <class Strip, class Store> void multiply(const Product& p, int64_t m, int64_t n, bool tall, Strip&& strip, const float* tail_strips, Store&& finish) {
    const int64_t panels = ceil_div(m, Rows), strips = ceil_div(n, Wide);
    if (panels == 0 || strips == 0) return;
    const int64_t high = tall ? panels : panels >= 56 ? 14 : ceil_div(panels, 4);
    const int64_t wide = tall ? 1 : strips >= 64 ? 16 : ceil_div(strips, panels >= 8 ? 2 : 8);
    const int64_t down = ceil_div(panels, high), across = ceil_div(strips, wide);
    lr::parallel_for(down * across, [&](int64_t chunk) {
        const int64_t i0 = chunk % down * high, j0 = chunk / down * wide;
        const int64_t i1 = i0 + high < panels ? i0 + high : panels, j1 = j0 + wide < strips ? j0 + wide : strips;
        alignas(64) float sums[Rows * Wide];
        for (int64_t j = j0; j < j1; ++j) {
            const float* right = strip(j);
            for (int64_t i = i0; i < i1; ++i) {
                tile<Wide>(p.k, p.panels + i * Rows * p.k, Rows, right, sums, Wide, false);
                if (p.tail_panels) tile<Wide>(p.tail, p.tail_panels + i * Rows * p.tail, Rows, tail_strips + j * Wide * p.tail, sums, Wide, true);
                const int rows = static_cast<int>(m - i * Rows < Rows ? m - i * Rows : Rows), cols = static_cast<int>(n - j * Wide < Wide ? n - j * Wide : Wide);
                finish(Place{i * Rows, j * Wide, rows, cols}, sums);
            }
        }
    });
}

} // namespace LR_NS
