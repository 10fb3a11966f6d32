// y[T,n] = c (.) (x W^T + t B^T) + bias on Hopper; t, if there is a rank, comes ready. bf16 and f16.
// Floor at T 8192, k = n = 4096: 275 GFLOP = 344 us at 798 TFLOP/s. Predicted as lora_sm90.cuh without column 0: 344 x 1.006 / 0.97 = 357 us, and +0.4 %
// for a rank of 16. GPU-pending.
#if LR_ARCH >= 900 && LR_DTYPE != 1
#include "mainloop_sm90.cuh"

LR_MULTIPLY(linear_forward_128x256, 128, 256, 0, false, false)
LR_MULTIPLY(linear_forward_128x128, 128, 128, 0, false, false)
LR_MULTIPLY(linear_forward_64x128, 64, 128, 0, false, false)
#endif
