// dw[n,k] (+)= dy^T x on Hopper, F32 or the activations' type: dy [T,n] and x [T,k] are read as they lie, both MN-major. bf16 and f16.
// Floor at T 8192, k = n = 4096: 275 GFLOP = 344 us at 798 TFLOP/s; 512 tiles over 132 multiprocessors are 3.88 of 4 waves, each 128 steps deep: predicted
// 344 x 1.003 / 0.97 = 356 us. The F32 result is 67 MB = 22 us of stores, behind the products of other blocks. GPU-pending.
#if LR_ARCH >= 900 && LR_DTYPE != 1
#include "mainloop_sm90.cuh"

LR_MULTIPLY(linear_weight_128x256, 128, 256, 0, true, true, true)
LR_MULTIPLY(linear_weight_128x128, 128, 128, 0, true, true, true)
LR_MULTIPLY(linear_weight_64x128, 64, 128, 0, true, true, true)
#endif
