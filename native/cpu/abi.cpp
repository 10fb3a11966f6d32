// The layout of every argument struct, exported so that a test can compare it with the C# mirror.
#include "abi.h"

LR_EXPORT int32_t lr_cpu_abi_version() { return 1; }
