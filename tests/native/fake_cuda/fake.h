// A stand-in for NVIDIA's driver, for tests on machines without a GPU: the functions that src/LowRank.Interop/Cuda.cs binds, over host memory, with
// launches run by the emulator. It is stricter than the driver where that finds mistakes: memory of the device is closed to the host (PROT_NONE) unless
// a launch or a copy runs, a handle that is not alive is refused, and a call without a current context fails.
#pragma once
#include "../../../native/cpu/abi.h"
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace fake {

// CUresult, what of it is used here.
enum Result : int {
    Success = 0,
    InvalidValue = 1,
    OutOfMemory = 2,
    NotInitialized = 3,
    NoDevice = 100,
    InvalidDevice = 101,
    InvalidImage = 200,
    InvalidContext = 201,
    InvalidHandle = 400,
    NotFound = 500,
    IllegalAddress = 700,
    LaunchFailed = 719,
    CaptureUnsupported = 900,
    CaptureInvalidated = 901,
    Unknown = 999
};

// What goes wrong on this thread, and what has been counted on it: set by lr_fake_set, or by LOWRANK_FAKE_CUDA for a whole process, as
// "devices=0;version=11040;memory=1000000;oom=3;launch=719@5;noop=1;arch=90". oom=n: the n-th allocation fails, once; launch=code@n: the n-th launch
// breaks the context with that code; memory: bytes that a context may hold; noop: launches are counted, not run.
struct State {
    int64_t devices = 1, version = 12080, memory = int64_t(1) << 34, arch = 90, oom = 0, noop = 0, broken = 0;
    int64_t launch_at = 0, launch_code = 0;
    std::map<std::string, int64_t> counts;
    std::string trouble; // the emulator's report of the last launch that failed
    State();
    void set(const char* text);
};
extern thread_local State state;
extern thread_local int64_t handles;

struct Allocation {
    size_t bytes;
    struct Context* owner;
};

struct Context {
    int device = 0;
    int64_t used = 0;
    int open = 0; // launches and copies that run: its memory is readable meanwhile
    std::map<char*, Allocation> blocks;
};

struct Kernel {
    std::string name;
    int32_t dtype;
    uint32_t args_bytes, threads;
    int shared_limit = 48 << 10;
};

struct Module {
    int32_t dtype;
    std::vector<std::unique_ptr<Kernel>> kernels;
};

// What a stream does, or a graph holds.
struct Node {
    enum Kind { Launch, Set, Copy } kind;
    const Kernel* kernel;
    uint32_t grid[3], threads, shared;
    bool together;
    std::vector<unsigned char> args;
    char *to, *from;
    size_t bytes;
    unsigned char value;
};

struct Graph {
    std::vector<Node> nodes;
};

struct Stream {
    std::unique_ptr<Graph> capture;
    bool invalid = false;
};

struct Event {
    double at = -1;
};

extern std::recursive_mutex guard;
// Handles that are alive, of every kind.
extern std::set<const void*> alive;
template <class T> bool lives(T* handle) {
    std::lock_guard<std::recursive_mutex> lock(guard);
    return alive.count(handle) > 0;
}

Context* current();
// Opens the context's memory to the host for its own life.
struct Opened {
    Context* context;
    explicit Opened(Context* c);
    ~Opened();
};
int run(const Node& node);

} // namespace fake
