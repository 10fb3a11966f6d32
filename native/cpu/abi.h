// Export macro and the includes every family file needs.
#pragma once
#include "../abi/lowrank.h"
#include <stddef.h>

#define LR_EXPORT extern "C" __attribute__((visibility("default")))
