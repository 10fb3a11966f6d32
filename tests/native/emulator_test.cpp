// The emulator under AddressSanitizer: a kernel that stays inside its memory passes on fibres that wait for each other, and each planted access outside of
// global or shared memory is reported. A barrier that one thread leaves out is a deadlock that says who waits where.
#define LR_EMU 1
#define LR_DTYPE 1
#define LR_ARCH 900
#include <memory>
#include "../../native/cuda/common.cuh"
#include <stdio.h>
#include <stdlib.h>

enum Fault { None, GlobalRead, GlobalWrite, SharedRead, SharedWrite, Deadlock };
struct PlantedArgs { const float* x; float* y; int32_t count, fault; };

// y = x, each value by way of the neighbour's place in shared memory
LR_KERNEL(planted, PlantedArgs, 64, 1) {
    float* s = reinterpret_cast<float*>(LR_SMEM); // [64]
    const int t = static_cast<int>(LR_TID), i = t < p.count ? t : p.count - 1, last = t == 63;
    s[(t + 1) % 64] = p.x[p.fault == GlobalRead ? i + last : i];
    if (last && p.fault == SharedWrite) s[64] = 1;
    lr_sync();
    if (p.fault != Deadlock || t != 5) lr_bar_sync<1>(64);
    float sum = lr_warp_sum(1.0f);
    const float value = s[p.fault == SharedRead ? t + 1 : (t + 1) % 64] + sum - 32;
    p.y[p.fault == GlobalWrite ? i + last : i] = value;
}

struct LrEmuOptions {
    int32_t together, lazy, order;
    uint32_t seed;
};
extern "C" int32_t lr_emu_launch(const char* name, int32_t dtype, const uint32_t* grid, uint32_t threads, uint32_t shared_bytes, const void* args, const LrEmuOptions* options, char* message, int32_t capacity);

int main(int argc, char** argv) {
    constexpr int Count = 64;
    const std::unique_ptr<float[]> room(new float[Count]), result(new float[Count]);
    float *x = room.get(), *y = result.get();
    for (int i = 0; i < Count; ++i) x[i] = static_cast<float>(i);
    const PlantedArgs args = {x, y, Count, argc > 1 ? atoi(argv[1]) : None};
    const uint32_t grid[3] = {3, 1, 1};
    for (int order = 0; order < 3; ++order) {
        const LrEmuOptions options = {order == 1, 1, order, 7};
        char message[256] = "";
        for (int i = 0; i < Count; ++i) y[i] = -1;
        if (lr_emu_launch("planted", LR_DTYPE, grid, 64, Count * sizeof(float), &args, &options, message, sizeof message)) {
            printf("failed: %s\n", message);
            return 1;
        }
        for (int i = 0; i < Count; ++i)
            if (y[i] != x[i]) {
                printf("y[%d] is %g, want %g in order %d\n", i, static_cast<double>(y[i]), static_cast<double>(x[i]), order);
                return 1;
            }
    }
    puts("passed");
}
