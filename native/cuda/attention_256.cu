// Attention of head sizes 129 to 256; algorithm and card stand in attention.cuh. dk and dv have a kernel each: their sums together overflow registers.
constexpr int Width = 256;
constexpr bool Shaped = false;
#include "attention.cuh"

LR_KERNEL(attention_forward_256, AttentionArgs, Threads, 1) { lr_attend(p); }
LR_KERNEL(attention_backward_q_256, Planned<AttentionGradArgs>, Threads, 1) { lr_attend_back<false, true, false>(p); }
LR_KERNEL(attention_backward_k_256, Planned<AttentionGradArgs>, Threads, 1) { lr_attend_back<true, true, false>(p); }
LR_KERNEL(attention_backward_v_256, Planned<AttentionGradArgs>, Threads, 1) { lr_attend_back<true, false, true>(p); }
