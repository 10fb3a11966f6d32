// The gates of SoRA: what their threshold leaves (lowrank.h). Floor: a few thousand floats a model, read and written once; predicted: the time of an empty
// launch. One block.
#include "common.cuh"

#if LR_DTYPE == 1

LR_KERNEL(gate_threshold, GateThresholdArgs, 256, 1) {
    const float level = static_cast<float>(p.level);
    for (int s = 0; s < p.segment_count; ++s) {
        const Segment segment = p.segments[s];
        for (int64_t i = segment.start + LR_TID; i < segment.start + segment.count; i += 256) {
            float* at = static_cast<float*>(p.g) + i;
            const float before = *at, moved = before > level ? before - level : before < -level ? before + level : before;
            *at = (p.paper ? fabsf(before) <= level : fabsf(moved) < level) ? 0.0f : moved;
        }
    }
}

#endif
