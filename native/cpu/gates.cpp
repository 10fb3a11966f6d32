// The gates of SoRA: what their threshold leaves. Floor: a few thousand floats a model, read and written once.
#include "kernels.h"
#include "math.h"
#include "pool.h"

namespace LR_NS {

int32_t gate_threshold(const GateThresholdArgs* a) {
    if (a->dtype != LR_F32) return LR_UNSUPPORTED;
    float* g = static_cast<float*>(a->g);
    const vf level = splat(static_cast<float>(a->level));
    for (int32_t s = 0; s < a->segment_count; ++s) {
        const Segment segment = a->segments[s];
        lr::parallel_range(segment.count, 4, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; i += Lanes) {
                const int64_t have = end - i < Lanes ? end - i : Lanes;
                float* at = g + segment.start + i;
                const vf before = load_some(at, have), size = magnitude(before);
                const vf moved = select(before > level, before - level, select(before < -level, before + level, before));
                const vf after = a->paper ? select(size <= level, vf{}, moved) : select(magnitude(moved) < level, vf{}, moved);
                store_some(at, after, have);
            }
        });
    }
    return LR_OK;
}

} // namespace LR_NS
