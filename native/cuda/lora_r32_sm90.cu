// lora_sm90.cuh for ranks up to 32; a file each, so that a model compiles the rank it has
#if LR_ARCH >= 900 && LR_DTYPE != 1
#define LR_RANK 32
#include "lora_sm90.cuh"
#endif
