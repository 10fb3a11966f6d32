// Attention of head sizes 1 to 32; algorithm and card stand in attention.cuh.
constexpr int Width = 32;
constexpr bool Shaped = false;
#include "attention.cuh"

LR_KERNEL(attention_forward_32, AttentionArgs, Threads, 2) { lr_attend(p); }
LR_KERNEL(attention_backward_q_32, Planned<AttentionGradArgs>, Threads, 2) { lr_attend_back<false, true, false>(p); }
LR_KERNEL(attention_backward_kv_32, Planned<AttentionGradArgs>, Threads, 2) { lr_attend_back<true, true, true>(p); }
