// Activations that more than one family computes: a function of a vector and its slope.
#pragma once
#include "math.h"

namespace LR_NS {

struct GeluTanh { // x/2 (1 + tanh u) = x sigmoid(2u)
    static vf twice(vf x) { return splat(1.59576912f) * fma(splat(0.044715f) * x * x, x, x); }
    static vf at(vf x) { return x * vsigmoid(twice(x)); }
    static vf slope(vf x) {
        const vf s = vsigmoid(twice(x)), d = splat(1.59576912f) * fma(splat(0.134145f) * x, x, splat(1.0f));
        return fma(x * d, s * (splat(1.0f) - s), s);
    }
};
struct Silu {
    static vf at(vf x) { return x * vsigmoid(x); }
    static vf slope(vf x) { const vf s = vsigmoid(x); return fma(x * s, splat(1.0f) - s, s); }
};

} // namespace LR_NS
