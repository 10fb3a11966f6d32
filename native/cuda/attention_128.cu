// Attention of head sizes 65 to 128; algorithm and card stand in attention.cuh.
constexpr int Width = 128;
constexpr bool Shaped = false;
#include "attention.cuh"

LR_KERNEL(attention_forward_128, AttentionArgs, Threads, 2) { lr_attend(p); }
LR_KERNEL(attention_backward_q_128, Planned<AttentionGradArgs>, Threads, 2) { lr_attend_back<false, true, false>(p); }
LR_KERNEL(attention_backward_kv_128, Planned<AttentionGradArgs>, Threads, 2) { lr_attend_back<true, true, true>(p); }
