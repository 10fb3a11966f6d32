// Contexts and memory of the stand-in.
#include "fake.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace fake {

std::recursive_mutex guard;
std::set<const void*> alive;
thread_local State state;
thread_local int64_t handles = 0;

namespace {
thread_local Context* chosen = nullptr;
Context primary[8];
int retained[8];
bool initialized = false;

void protect(Context* c, int access) {
    for (auto& [block, allocation] : c->blocks) mprotect(block, allocation.bytes, access);
}

int enter() {
    if (!initialized) return NotInitialized;
    if (state.broken) return static_cast<int>(state.broken);
    return chosen && lives(chosen) ? Success : InvalidContext;
}
} // namespace

State::State() {
    if (const char* text = getenv("LOWRANK_FAKE_CUDA")) set(text);
}

void State::set(const char* text) {
    std::string rest = text;
    while (!rest.empty()) {
        const size_t end = rest.find(';'), equals = rest.find('=');
        const std::string name = rest.substr(0, equals), value = rest.substr(equals + 1, end - equals - 1);
        const int64_t n = strtoll(value.c_str(), nullptr, 10);
        if (name == "devices") devices = n;
        else if (name == "version") version = n;
        else if (name == "memory") memory = n;
        else if (name == "arch") arch = n;
        else if (name == "oom") oom = n;
        else if (name == "noop") noop = n;
        else if (name == "launch") launch_code = n, launch_at = strtoll(value.c_str() + value.find('@') + 1, nullptr, 10);
        rest = end == std::string::npos ? "" : rest.substr(end + 1);
    }
}

Context* current() { return enter() == Success ? chosen : nullptr; }

Opened::Opened(Context* c) : context(c) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    if (context->open++ == 0) protect(context, PROT_READ | PROT_WRITE);
}
Opened::~Opened() {
    std::lock_guard<std::recursive_mutex> lock(guard);
    if (--context->open == 0) protect(context, PROT_NONE);
}

} // namespace fake

using namespace fake;

// Back to a device without faults, as for a new process; then what the text says.
LR_EXPORT void lr_fake_set(const char* text) {
    state = State();
    state.set(text);
}
// Calls of a kind on this thread since lr_fake_set: launch, graph, allocate, synchronize, set_current.
LR_EXPORT int64_t lr_fake_count(const char* what) { return state.counts[what]; }
// Modules, streams, graphs and events that this thread has made and nobody has ended
LR_EXPORT int64_t lr_fake_alive() { return handles; }
LR_EXPORT const char* lr_fake_trouble() { return state.trouble.c_str(); }

LR_EXPORT int cuInit(unsigned) {
    initialized = true;
    return state.devices > 0 ? Success : NoDevice;
}
LR_EXPORT int cuDriverGetVersion(int* version) { return *version = static_cast<int>(state.version), Success; }
LR_EXPORT int cuDeviceGetCount(int* count) {
    if (!initialized) return NotInitialized;
    return *count = static_cast<int>(state.devices), Success;
}
LR_EXPORT int cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= state.devices) return InvalidDevice;
    return *device = ordinal, Success;
}
LR_EXPORT int cuDeviceGetName(char* name, int length, int) {
    if (length < 1) return InvalidValue;
    strncpy(name, "stand-in GPU", static_cast<size_t>(length) - 1);
    name[length - 1] = 0;
    return Success;
}
LR_EXPORT int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = static_cast<size_t>(state.memory), Success; }
LR_EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
    case 16: return *value = 3, Success; // multiprocessors
    case 75: return *value = static_cast<int>(state.arch / 10), Success;
    case 76: return *value = static_cast<int>(state.arch % 10), Success;
    default: return InvalidValue;
    }
}
LR_EXPORT int cuDevicePrimaryCtxRetain(Context** context, int device) {
    if (!initialized) return NotInitialized;
    std::lock_guard<std::recursive_mutex> lock(guard);
    primary[device].device = device;
    if (retained[device]++ == 0) alive.insert(&primary[device]);
    return *context = &primary[device], Success;
}
LR_EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    if (retained[device] == 0) return InvalidContext;
    if (--retained[device] == 0) alive.erase(&primary[device]);
    return Success;
}
// What an application that has a context of its own calls.
LR_EXPORT int cuCtxCreate_v2(Context** context, unsigned, int device) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    *context = new Context;
    (*context)->device = device;
    alive.insert(*context);
    chosen = *context;
    return Success;
}
LR_EXPORT int cuCtxDestroy_v2(Context* context) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    if (alive.erase(context) == 0) return InvalidContext;
    for (auto& [block, allocation] : context->blocks) munmap(block, allocation.bytes);
    delete context;
    if (chosen == context) chosen = nullptr;
    return Success;
}
LR_EXPORT int cuCtxSetCurrent(Context* context) {
    ++state.counts["set_current"];
    if (context && !lives(context)) return InvalidContext;
    return chosen = context, Success;
}
LR_EXPORT int cuCtxGetCurrent(Context** context) { return *context = chosen, Success; }
LR_EXPORT int cuCtxGetDevice(int* device) {
    if (const int status = enter()) return status;
    return *device = chosen->device, Success;
}
LR_EXPORT int cuMemGetInfo_v2(size_t* free, size_t* total) {
    if (const int status = enter()) return status;
    *total = static_cast<size_t>(state.memory);
    return *free = static_cast<size_t>(state.memory > chosen->used ? state.memory - chosen->used : 0), Success;
}
LR_EXPORT int cuMemAlloc_v2(char** pointer, size_t bytes) {
    if (const int status = enter()) return status;
    if (bytes == 0) return InvalidValue;
    ++state.counts["allocate"];
    if (state.oom > 0 && --state.oom == 0) return OutOfMemory;
    const size_t pages = (bytes + 4095) & ~size_t(4095);
    std::lock_guard<std::recursive_mutex> lock(guard);
    if (chosen->used + static_cast<int64_t>(pages) > state.memory) return OutOfMemory;
    void* block = mmap(nullptr, pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED) return OutOfMemory;
    if (!state.noop) memset(block, 0xFF, bytes); // NaN: what no kernel has written shows
    if (chosen->open == 0) mprotect(block, pages, PROT_NONE);
    *pointer = static_cast<char*>(block);
    chosen->used += static_cast<int64_t>(pages);
    chosen->blocks[*pointer] = {pages, chosen};
    return Success;
}
LR_EXPORT int cuMemFree_v2(char* pointer) {
    if (const int status = enter()) return status;
    std::lock_guard<std::recursive_mutex> lock(guard);
    const auto found = chosen->blocks.find(pointer);
    if (found == chosen->blocks.end()) return InvalidValue;
    munmap(pointer, found->second.bytes);
    chosen->used -= static_cast<int64_t>(found->second.bytes);
    chosen->blocks.erase(found);
    return Success;
}

LR_EXPORT int cuGetErrorName(int error, const char** text) {
    switch (error) {
    case Success: return *text = "CUDA_SUCCESS", Success;
    case InvalidValue: return *text = "CUDA_ERROR_INVALID_VALUE", Success;
    case OutOfMemory: return *text = "CUDA_ERROR_OUT_OF_MEMORY", Success;
    case NotInitialized: return *text = "CUDA_ERROR_NOT_INITIALIZED", Success;
    case NoDevice: return *text = "CUDA_ERROR_NO_DEVICE", Success;
    case InvalidDevice: return *text = "CUDA_ERROR_INVALID_DEVICE", Success;
    case InvalidImage: return *text = "CUDA_ERROR_INVALID_IMAGE", Success;
    case InvalidContext: return *text = "CUDA_ERROR_INVALID_CONTEXT", Success;
    case InvalidHandle: return *text = "CUDA_ERROR_INVALID_HANDLE", Success;
    case NotFound: return *text = "CUDA_ERROR_NOT_FOUND", Success;
    case IllegalAddress: return *text = "CUDA_ERROR_ILLEGAL_ADDRESS", Success;
    case LaunchFailed: return *text = "CUDA_ERROR_LAUNCH_FAILED", Success;
    case CaptureUnsupported: return *text = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", Success;
    case CaptureInvalidated: return *text = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", Success;
    case Unknown: return *text = "CUDA_ERROR_UNKNOWN", Success;
    default: return InvalidValue;
    }
}
LR_EXPORT int cuGetErrorString(int error, const char** text) {
    const int known = cuGetErrorName(error, text);
    if (known == Success) *text = "as the stand-in reports it";
    return known;
}
