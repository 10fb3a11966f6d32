// What NVRTC declares by itself, for clang's NVPTX front end without a CUDA toolkit: every kernel file is compiled to PTX by a second compiler, so that
// nothing in it is an NVRTC habit. Inline PTX passes through unread.
#pragma once
#define __CUDACC_RTC__
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__

typedef unsigned int uint32_t;
struct lr_clang_index {
    uint32_t x, y, z;
};
#define threadIdx (lr_clang_index{uint32_t(__nvvm_read_ptx_sreg_tid_x()), uint32_t(__nvvm_read_ptx_sreg_tid_y()), uint32_t(__nvvm_read_ptx_sreg_tid_z())})
#define blockIdx (lr_clang_index{uint32_t(__nvvm_read_ptx_sreg_ctaid_x()), uint32_t(__nvvm_read_ptx_sreg_ctaid_y()), uint32_t(__nvvm_read_ptx_sreg_ctaid_z())})
#define gridDim (lr_clang_index{uint32_t(__nvvm_read_ptx_sreg_nctaid_x()), uint32_t(__nvvm_read_ptx_sreg_nctaid_y()), uint32_t(__nvvm_read_ptx_sreg_nctaid_z())})

#define LR_CLANG static __device__ __forceinline__
LR_CLANG unsigned long __cvta_generic_to_shared(const void* p) { return (unsigned long)(const __attribute__((address_space(3))) void*)p; }
LR_CLANG float __uint_as_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
LR_CLANG uint32_t __float_as_uint(float value) { return __builtin_bit_cast(uint32_t, value); }
template <class T> LR_CLANG T __shfl_sync(uint32_t mask, T value, int lane) { return __builtin_bit_cast(T, __nvvm_shfl_sync_idx_i32(mask, __builtin_bit_cast(int, value), lane, 31)); }
template <class T> LR_CLANG T __shfl_xor_sync(uint32_t mask, T value, int lanes) { return __builtin_bit_cast(T, __nvvm_shfl_sync_bfly_i32(mask, __builtin_bit_cast(int, value), lanes, 31)); }
LR_CLANG uint32_t __ballot_sync(uint32_t mask, bool bit) { return __nvvm_vote_ballot_sync(mask, bit); }
LR_CLANG int __popc(uint32_t bits) { return __builtin_popcount(bits); }
LR_CLANG float __fmaf_rn(float a, float b, float c) { return __nvvm_fma_rn_f(a, b, c); }
LR_CLANG float rsqrtf(float x) { return __nvvm_rsqrt_approx_f(x); }
LR_CLANG int atomicAdd(int* p, int value) { return __atomic_fetch_add(p, value, __ATOMIC_RELAXED); }
LR_CLANG void __syncwarp() { __nvvm_bar_warp_sync(~0u); }
LR_CLANG void __threadfence() { __nvvm_membar_gl(); }
LR_CLANG void __nanosleep(uint32_t ns) { asm volatile("nanosleep.u32 %0;" ::"r"(ns)); }

// libdevice's, which only a link would need
extern "C" {
__device__ float expf(float);
__device__ float fabsf(float);
__device__ float fmaxf(float, float);
__device__ float log1pf(float);
__device__ float logf(float);
__device__ float powf(float, float);
__device__ float erff(float);
__device__ float tanhf(float);
__device__ float sqrtf(float);
__device__ double sqrt(double);
__device__ double pow(double, double);
__device__ double rint(double);
}
