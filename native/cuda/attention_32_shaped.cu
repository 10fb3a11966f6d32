// Attention with soft cap or bias of head sizes 1 to 32; algorithm and card stand in attention.cuh.
constexpr int Width = 32;
constexpr bool Shaped = true;
#include "attention.cuh"

LR_KERNEL(attention_forward_32_shaped, AttentionArgs, Threads, 2) { lr_attend(p); }
LR_KERNEL(attention_backward_q_32_shaped, Planned<AttentionGradArgs>, Threads, 2) { lr_attend_back<false, true, false>(p); }
LR_KERNEL(attention_backward_kv_32_shaped, Planned<AttentionGradArgs>, Threads, 2) { lr_attend_back<true, true, true>(p); }
