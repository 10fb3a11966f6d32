// A stand-in for NVRTC beside that of the driver: it compiles nothing, and its machine code says for which type of activations it was asked. A file named
// in LOWRANK_FAKE_NVRTC does not compile. Its log has the compiler's form, so that the parser and the cache see what they see of the real one.
#include "../../../native/cpu/abi.h"
#include <stdlib.h>
#include <string.h>
#include <string>

namespace {
struct Program {
    std::string name, log, code;
};
int copy(const std::string& text, char* to) { return memcpy(to, text.c_str(), text.size() + 1), 0; }
} // namespace

LR_EXPORT int nvrtcVersion(int* major, int* minor) { return *major = 12, *minor = 8, 0; }
LR_EXPORT int nvrtcGetNumSupportedArchs(int* count) { return *count = 4, 0; }
LR_EXPORT int nvrtcGetSupportedArchs(int* list) {
    const int known[] = {80, 86, 89, 90};
    return memcpy(list, known, sizeof(known)), 0;
}
LR_EXPORT const char* nvrtcGetErrorString(int result) { return result == 0 ? "NVRTC_SUCCESS" : result == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR_INVALID_INPUT"; }
LR_EXPORT int nvrtcCreateProgram(Program** program, const char*, const char* name, int, const char**, const char**) { return *program = new Program{name, "", ""}, 0; }
LR_EXPORT int nvrtcDestroyProgram(Program** program) {
    delete *program;
    return *program = nullptr, 0;
}
LR_EXPORT int nvrtcCompileProgram(Program* program, int count, const char** options) {
    const char* broken = getenv("LOWRANK_FAKE_NVRTC");
    if (broken && program->name == broken) return program->log = program->name + "(7): error: expected a \";\"\n\n1 error detected in the compilation of \"" + program->name + "\".\n", 6;
    for (int i = 0; i < count; ++i)
        if (!strncmp(options[i], "-DLR_DTYPE=", 11)) return program->code = std::string("LowRank stand-in image ") + (options[i] + 11), 0;
    return 3;
}
LR_EXPORT int nvrtcGetProgramLogSize(Program* program, size_t* bytes) { return *bytes = program->log.size() + 1, 0; }
LR_EXPORT int nvrtcGetProgramLog(Program* program, char* log) { return copy(program->log, log); }
LR_EXPORT int nvrtcGetCUBINSize(Program* program, size_t* bytes) { return *bytes = program->code.size() + 1, 0; }
LR_EXPORT int nvrtcGetCUBIN(Program* program, char* code) { return copy(program->code, code); }
LR_EXPORT int nvrtcGetPTXSize(Program* program, size_t* bytes) { return nvrtcGetCUBINSize(program, bytes); }
LR_EXPORT int nvrtcGetPTX(Program* program, char* code) { return nvrtcGetCUBIN(program, code); }
