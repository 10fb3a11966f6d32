// The device layer: everything that is PTX, as inline functions that native/emu/cuda_emu.h offers to a host compiler under the same names.
#pragma once

#define LR_DEV static __device__ __forceinline__
#define LR_UNROLL _Pragma("unroll")
#define LR_ROLLED _Pragma("unroll 1")
// A kernel of one argument struct; `threads` a block, at least `blocks` blocks to a multiprocessor. A compilation with LR_ONLY has the one of which LR_ONLY_name
// is `~,`: every other becomes a template that nobody instantiates, so that it costs what reading it does.
#define LR_ENTRY(name, Args, threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args p)
#ifdef LR_ONLY
#define LR_LEFT_OUT(name, Args, threads, blocks) template <int> LR_DEV void name(const Args& p)
#define LR_SECOND(first, second, ...) second
#define LR_CHOICE(...) LR_SECOND(__VA_ARGS__, )
#define LR_KERNEL(name, Args, threads, blocks) LR_CHOICE(LR_ONLY_##name LR_ENTRY, LR_LEFT_OUT)(name, Args, threads, blocks)
#else
#define LR_KERNEL LR_ENTRY
#endif
#define LR_TID (threadIdx.x)
#define LR_BX (blockIdx.x)
#define LR_BY (blockIdx.y)
#define LR_BZ (blockIdx.z)
#define LR_GX (gridDim.x)

extern __shared__ __align__(1024) unsigned char lr_smem_raw[];
#define LR_SMEM lr_smem_raw

LR_DEV uint32_t lr_smem_addr(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// ---- block and warp --------------------------------------------------------------------------------------------------
LR_DEV void lr_sync() { __syncthreads(); }
template <int Id> LR_DEV void lr_bar_sync(int threads) { asm volatile("bar.sync %0, %1;" ::"n"(Id), "r"(threads) : "memory"); }
LR_DEV void lr_warp_sync() { __syncwarp(); }
template <class T> LR_DEV T lr_shfl(T value, int lane) { return __shfl_sync(~0u, value, lane); }
template <class T> LR_DEV T lr_shfl_xor(T value, int mask) { return __shfl_xor_sync(~0u, value, mask); }
LR_DEV uint32_t lr_ballot(bool bit) { return __ballot_sync(~0u, bit); }
LR_DEV int lr_popcount(uint32_t bits) { return __popc(bits); }

// ---- memory order ----------------------------------------------------------------------------------------------------
LR_DEV int lr_atomic_add(int* p, int value) { return atomicAdd(p, value); }
LR_DEV void lr_st_release(int* p, int value) { asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(p), "r"(value) : "memory"); }
LR_DEV int lr_ld_acquire(const int* p) {
    int value;
    asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
    return value;
}
LR_DEV void lr_fence() { __threadfence(); }
LR_DEV void lr_spin() { __nanosleep(64); }

// ---- numbers -----------------------------------------------------------------------------------------------------------
typedef unsigned short uint16_t;
struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};
LR_DEV float lr_float(uint32_t bits) { return __uint_as_float(bits); }
LR_DEV uint32_t lr_bits(float f) { return __float_as_uint(f); }
LR_DEV float lr_widen(float x) { return x; }
LR_DEV float lr_widen(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
LR_DEV float lr_widen(f16 x) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
    return f;
}
LR_DEV void lr_narrow(float x, float& y) { y = x; }
LR_DEV void lr_narrow(float x, bf16& y) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
LR_DEV void lr_narrow(float x, f16& y) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
// Two values in a register, the first in the low half
template <class Half> LR_DEV uint32_t lr_pack(float low, float high);
template <> __device__ __forceinline__ uint32_t lr_pack<bf16>(float low, float high) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
template <> __device__ __forceinline__ uint32_t lr_pack<f16>(float low, float high) {
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
LR_DEV float lr_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
LR_DEV float lr_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }

struct __align__(16) lr_u4 {
    uint32_t x, y, z, w;
};
// A value of a type with an alignment of its own, in one access
template <class T> LR_DEV T lr_load(const void* p) { return *static_cast<const T*>(p); }
template <class T> LR_DEV void lr_store(void* p, const T& v) { *static_cast<T*>(p) = v; }
LR_DEV uint32_t lr_load4_cg(const void* p) {
    uint32_t v;
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

// ---- cp.async: 16 bytes a thread, `bytes` of them from memory, the rest zero -----------------------------------------------
LR_DEV void lr_cp_async16(uint32_t to, const void* from, int bytes) { asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory"); }
LR_DEV void lr_cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Left> LR_DEV void lr_cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory"); }

// ---- matrix instructions of a warp ------------------------------------------------------------------------------------------
LR_DEV void lr_ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
LR_DEV void lr_ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
#define LR_MMA(shape, types, D, A, B) \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." types ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(D[0]), "+f"(D[1]), "+f"(D[2]), "+f"(D[3]) \
                 : "r"(A[0]), "r"(A[1]), "r"(A[2]), "r"(A[3]), "r"(B[0]), "r"(B[1]))
// d[16,8] += a[16,16] b[16,8] in float32
template <class Half> LR_DEV void lr_mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <> __device__ __forceinline__ void lr_mma_16816<bf16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { LR_MMA("m16n8k16", "bf16.bf16", d, a, b); }
template <> __device__ __forceinline__ void lr_mma_16816<f16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { LR_MMA("m16n8k16", "f16.f16", d, a, b); }
