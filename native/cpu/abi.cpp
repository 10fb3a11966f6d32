// The layout of every argument struct, exported so that a test can compare it with the C# mirror.
#include "abi.h"

LR_EXPORT int32_t lr_cpu_abi_version() { return 1; }

// One row a struct (field null, value its size in bytes), then one a field (value its offset in bytes); a null type ends the table.
struct AbiRow {
    const char *type, *field;
    int64_t value;
};

LR_EXPORT const AbiRow* lr_cpu_abi_table() {
    static const AbiRow rows[] = {
#include "abi_table.inc" // written by cmake/abi_table.cmake
        {nullptr, nullptr, 0}};
    return rows;
}
