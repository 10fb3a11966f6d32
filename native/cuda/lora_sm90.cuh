// The fused LoRA forward on Hopper, for the padded rank LR_RANK: y = c (.) (x W^T + t B^T) + bias with t = scale x A^T made by the tiles of column 0.
// Floor at T 8192, k = n = 4096, r 16, bf16: 275 GFLOP = 344 us at 798 TFLOP/s. Predicted: +0.4 % for the rank's step (16 of 4096 deep), +0.8 % for column
// 0 (a 64x16x16 wgmma is 16 cycles beside 128, in one of 16 columns), +0.6 % for the stores, 1024 tiles over 132 multiprocessors are 7.76 of 8 waves, and
// at most 3 us of waiting for t in the first wave: 344 x 1.018 / 0.97 + 3 = 364 us. r 64: +1.6 % and +1.6 %; r 128 has 3 stages. GPU-pending.
#include "mainloop_sm90.cuh"

#define LR_LORA(BM, BN, RP) LR_LORA_OF(BM, BN, RP)
#define LR_LORA_OF(BM, BN, RP) LR_MULTIPLY(lora_forward_##BM##x##BN##_r##RP, BM, BN, RP, false, false)
LR_LORA(128, 256, LR_RANK)
LR_LORA(128, 128, LR_RANK)
LR_LORA(64, 128, LR_RANK)
