// Modules, streams, graphs and events of the stand-in. Work runs at once, on the thread that asks for it; only its errors come later, as a GPU's do.
#include "fake.h"
#include <dlfcn.h>
#include <string.h>
#include <time.h>

namespace fake {

namespace {
struct EmuOptions {
    int32_t together, lazy, order;
    uint32_t seed;
};
using Find = int32_t (*)(const char*, int32_t, uint32_t*, uint32_t*);
using Start = int32_t (*)(const char*, int32_t, const uint32_t*, uint32_t, uint32_t, const void*, const EmuOptions*, char*, int32_t);

// The emulator lies beside this library, or one folder above.
void* emulator() {
    static void* const library = [] {
        Dl_info here;
        if (!dladdr(reinterpret_cast<void*>(&emulator), &here)) return static_cast<void*>(nullptr);
        std::string folder = here.dli_fname;
        folder.resize(folder.rfind('/') + 1);
        for (const char* place : {"", "../"})
            if (void* found = dlopen((folder + place + "liblowrank_emu.so").c_str(), RTLD_NOW | RTLD_LOCAL)) return found;
        return static_cast<void*>(nullptr);
    }();
    return library;
}
template <class T> T emulated(const char* name) { return emulator() ? reinterpret_cast<T>(dlsym(emulator(), name)) : nullptr; }

int launch(const Node& node) {
    ++state.counts["launch"];
    if (state.launch_at > 0 && --state.launch_at == 0) return state.broken = state.launch_code, Success; // reported by the calls that follow
    if (state.noop) return Success;
    static const Start start = emulated<Start>("lr_emu_launch");
    const Opened memory(current());
    // Tensor maps in an argument struct lie on 64 bytes, as they do in constant memory.
    std::unique_ptr<unsigned char, void (*)(void*)> args(static_cast<unsigned char*>(aligned_alloc(64, (node.args.size() + 63) / 64 * 64)), free);
    memcpy(args.get(), node.args.data(), node.args.size());
    const EmuOptions options = {node.together, 0, 0, 0};
    char message[4096] = "";
    if (start(node.kernel->name.c_str(), node.kernel->dtype, node.grid, node.threads, node.shared, args.get(), &options, message, sizeof(message))) {
        state.trouble = node.kernel->name + ": " + message;
        state.broken = LaunchFailed;
    }
    return Success;
}

// Does the work, or writes it down where the stream is captured.
int submit(Stream* stream, Node node) {
    if (!current()) return state.broken ? static_cast<int>(state.broken) : InvalidContext;
    if (!lives(stream)) return InvalidHandle;
    if (!stream->capture) return run(node);
    stream->capture->nodes.push_back(std::move(node));
    return Success;
}

int unsupported(Stream* stream) {
    if (!current()) return state.broken ? static_cast<int>(state.broken) : InvalidContext;
    if (!lives(stream)) return InvalidHandle;
    if (stream->capture) return stream->invalid = true, CaptureUnsupported;
    return Success;
}

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_nsec);
}

template <class T> T* made(T* handle) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    alive.insert(handle);
    ++handles;
    return handle;
}
template <class T> int destroyed(T* handle) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    if (alive.erase(handle) == 0) return InvalidHandle;
    --handles;
    delete handle;
    return Success;
}
} // namespace

int run(const Node& node) {
    if (node.kind == Node::Launch) return launch(node);
    if (state.noop) return Success;
    const Opened memory(current());
    if (node.kind == Node::Set) memset(node.to, node.value, node.bytes);
    else memmove(node.to, node.from, node.bytes);
    return Success;
}

} // namespace fake

using namespace fake;

// An image is what the stand-in for NVRTC makes: a line, and the type of activations.
LR_EXPORT int cuModuleLoadData(Module** module, const char* image) {
    static const char head[] = "LowRank stand-in image ";
    if (!current()) return state.broken ? static_cast<int>(state.broken) : InvalidContext;
    if (strncmp(image, head, sizeof(head) - 1)) return InvalidImage;
    *module = made(new Module{image[sizeof(head) - 1] - '0', {}});
    return Success;
}
LR_EXPORT int cuModuleUnload(Module* module) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    if (lives(module))
        for (auto& kernel : module->kernels) alive.erase(kernel.get());
    return destroyed(module);
}
LR_EXPORT int cuModuleGetFunction(Kernel** function, Module* module, const char* name) {
    if (!lives(module)) return InvalidHandle;
    Kernel kernel{name, module->dtype, 0, 0};
    static const Find find = emulated<Find>("lr_emu_find");
    if (!find || !find(name, module->dtype, &kernel.args_bytes, &kernel.threads)) return NotFound;
    module->kernels.push_back(std::make_unique<Kernel>(kernel));
    std::lock_guard<std::recursive_mutex> lock(guard);
    *function = module->kernels.back().get();
    return alive.insert(*function), Success;
}
LR_EXPORT int cuFuncSetAttribute(Kernel* function, int attribute, int value) {
    if (!lives(function)) return InvalidHandle;
    if (attribute != 8 || value < 0 || value > 227 << 10) return InvalidValue;
    return function->shared_limit = value, Success;
}

static int start(Kernel* function, const uint32_t* grid, const uint32_t* block, uint32_t shared, Stream* stream, void** parameters, bool together) {
    if (!lives(function)) return state.broken ? static_cast<int>(state.broken) : InvalidHandle;
    const uint32_t threads = block[0] * block[1] * block[2];
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[1] > 65535 || grid[2] > 65535 || threads == 0 || threads > function->threads || static_cast<int>(shared) > function->shared_limit)
        return InvalidValue;
    Node node{};
    node.kind = Node::Launch;
    node.kernel = function;
    memcpy(node.grid, grid, sizeof(node.grid));
    node.threads = threads, node.shared = shared, node.together = together;
    if (!state.noop || (lives(stream) && stream->capture)) {
        const auto* bytes = static_cast<const unsigned char*>(parameters[0]);
        node.args.assign(bytes, bytes + function->args_bytes);
    }
    return submit(stream, std::move(node));
}
LR_EXPORT int cuLaunchKernel(Kernel* function, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t bx, uint32_t by, uint32_t bz, uint32_t shared, Stream* stream, void** parameters, void**) {
    const uint32_t grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    return start(function, grid, block, shared, stream, parameters, false);
}
struct LaunchAttribute {
    int32_t id, padding;
    int32_t value[16];
};
struct LaunchConfig {
    uint32_t grid[3], block[3], shared;
    Stream* stream;
    const LaunchAttribute* attributes;
    uint32_t count;
};
LR_EXPORT int cuLaunchKernelEx(const LaunchConfig* config, Kernel* function, void** parameters, void**) {
    bool together = false;
    for (uint32_t i = 0; i < config->count; ++i) together |= config->attributes[i].id == 2 && config->attributes[i].value[0];
    return start(function, config->grid, config->block, config->shared, config->stream, parameters, together);
}
// The emulator's own encoding, see native/emu/copies.h; the driver's rules for addresses and pitches.
LR_EXPORT int cuTensorMapEncodeTiled(uint64_t* map, int type, uint32_t rank, void* address, const uint64_t* sizes, const uint64_t* strides, const uint32_t* box, const uint32_t*, int, int swizzle, int, int) {
    const uint64_t bytes = 2, at = reinterpret_cast<uint64_t>(address);
    if ((type != 6 && type != 9) || rank != 2 || at % 16 || strides[0] % 16 || reinterpret_cast<uint64_t>(map) % 64 || box[0] * bytes > 128 || box[0] == 0 || box[1] == 0 || box[1] > 256) return InvalidValue;
    memset(map, 0, 128);
    map[0] = at, map[1] = sizes[1], map[2] = sizes[0], map[3] = strides[0], map[4] = box[1] | uint64_t(box[0]) << 32, map[5] = bytes | uint64_t(swizzle) << 32;
    return Success;
}

LR_EXPORT int cuStreamCreate(Stream** stream, uint32_t) {
    if (!current()) return InvalidContext;
    return *stream = made(new Stream), Success;
}
LR_EXPORT int cuStreamDestroy_v2(Stream* stream) { return destroyed(stream); }
LR_EXPORT int cuStreamSynchronize(Stream* stream) {
    ++state.counts["synchronize"];
    return unsupported(stream);
}
LR_EXPORT int cuMemcpyHtoDAsync_v2(char* to, const void* from, size_t bytes, Stream* stream) {
    if (const int status = unsupported(stream)) return status;
    if (state.noop) return Success;
    const Opened memory(current());
    return memcpy(to, from, bytes), Success;
}
LR_EXPORT int cuMemcpyDtoHAsync_v2(void* to, const char* from, size_t bytes, Stream* stream) {
    if (const int status = unsupported(stream)) return status;
    if (state.noop) return memset(to, 0, bytes), Success;
    const Opened memory(current());
    return memcpy(to, from, bytes), Success;
}
LR_EXPORT int cuMemcpyDtoDAsync_v2(char* to, char* from, size_t bytes, Stream* stream) {
    Node node{};
    node.kind = Node::Copy;
    node.to = to, node.from = from, node.bytes = bytes;
    return submit(stream, std::move(node));
}
LR_EXPORT int cuMemsetD8Async(char* to, unsigned char value, size_t bytes, Stream* stream) {
    Node node{};
    node.kind = Node::Set;
    node.to = to, node.value = value, node.bytes = bytes;
    return submit(stream, std::move(node));
}

LR_EXPORT int cuStreamBeginCapture_v2(Stream* stream, int) {
    if (const int status = unsupported(stream)) return status;
    stream->capture = std::make_unique<Graph>();
    stream->invalid = false;
    return Success;
}
LR_EXPORT int cuStreamEndCapture(Stream* stream, Graph** graph) {
    if (!current()) return state.broken ? static_cast<int>(state.broken) : InvalidContext;
    if (!lives(stream) || !stream->capture) return InvalidHandle;
    *graph = nullptr;
    if (stream->invalid) return stream->capture.reset(), CaptureInvalidated;
    *graph = made(stream->capture.release());
    return Success;
}
LR_EXPORT int cuGraphInstantiateWithFlags(Graph** executable, const Graph* graph, unsigned long long) {
    if (!lives(graph)) return InvalidHandle;
    return *executable = made(new Graph(*graph)), Success;
}
LR_EXPORT int cuGraphLaunch(const Graph* executable, Stream* stream) {
    ++state.counts["graph"];
    if (const int status = unsupported(stream)) return status;
    if (!lives(executable)) return InvalidHandle;
    for (const Node& node : executable->nodes)
        if (const int status = run(node)) return status;
    return Success;
}
LR_EXPORT int cuGraphExecDestroy(Graph* executable) { return destroyed(executable); }
LR_EXPORT int cuGraphDestroy(Graph* graph) { return destroyed(graph); }

LR_EXPORT int cuEventCreate(Event** event, uint32_t) {
    if (!current()) return InvalidContext;
    return *event = made(new Event), Success;
}
LR_EXPORT int cuEventDestroy_v2(Event* event) { return destroyed(event); }
LR_EXPORT int cuEventRecord(Event* event, Stream* stream) {
    if (const int status = unsupported(stream)) return status;
    if (!lives(event)) return InvalidHandle;
    return event->at = now(), Success;
}
LR_EXPORT int cuEventSynchronize(Event* event) {
    if (!current()) return state.broken ? static_cast<int>(state.broken) : InvalidContext;
    return lives(event) ? Success : InvalidHandle;
}
LR_EXPORT int cuEventElapsedTime(float* milliseconds, const Event* start, const Event* end) {
    if (!lives(start) || !lives(end) || start->at < 0 || end->at < 0) return InvalidHandle;
    return *milliseconds = static_cast<float>(end->at - start->at), Success;
}
