// Attention of head sizes 33 to 64; algorithm and card stand in attention.cuh.
constexpr int Width = 64;
constexpr bool Shaped = false;
#include "attention.cuh"

LR_KERNEL(attention_forward_64, AttentionArgs, Threads, 2) { lr_attend(p); }
LR_KERNEL(attention_backward_q_64, Planned<AttentionGradArgs>, Threads, 2) { lr_attend_back<false, true, false>(p); }
LR_KERNEL(attention_backward_kv_64, Planned<AttentionGradArgs>, Threads, 2) { lr_attend_back<true, true, true>(p); }
