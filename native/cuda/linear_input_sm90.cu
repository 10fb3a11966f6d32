// dx[T,k] (+)= dy W + u A on Hopper. W [n,k] and A [r,k] are read as they lie, MN-major: no transposed copy; u comes ready. bf16 and f16.
// Floor at T 8192, k = n = 4096: 275 GFLOP = 344 us at 798 TFLOP/s. Predicted as linear_forward_sm90.cu: 357 us, +0.4 % for a rank of 16. A stage of W is
// BN / 64 bulk copies instead of one. GPU-pending.
#if LR_ARCH >= 900 && LR_DTYPE != 1
#include "mainloop_sm90.cuh"

LR_MULTIPLY(linear_input_128x256, 128, 256, 0, false, true)
LR_MULTIPLY(linear_input_128x128, 128, 128, 0, false, true)
LR_MULTIPLY(linear_input_64x128, 64, 128, 0, false, true)
#endif
