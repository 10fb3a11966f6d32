// Attention with soft cap or bias of head sizes 65 to 128; algorithm and card stand in attention.cuh.
constexpr int Width = 128;
constexpr bool Shaped = true;
#include "attention.cuh"

LR_KERNEL(attention_forward_128_shaped, AttentionArgs, Threads, 2) { lr_attend(p); }
LR_KERNEL(attention_backward_q_128_shaped, Planned<AttentionGradArgs>, Threads, 2) { lr_attend_back<false, true, false>(p); }
LR_KERNEL(attention_backward_kv_128_shaped, Planned<AttentionGradArgs>, Threads, 2) { lr_attend_back<true, true, true>(p); }
