// Warp-level building blocks of kernels on tensor cores: asynchronous copies to shared memory, ldmatrix and mma.sync of
// 16-bit floats (compute capability 8.0 and later). Knows nothing of what is multiplied.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace slide {

/// Bytes of one asynchronous copy, and of one row of the 8×8 matrices that ldmatrix reads.
constexpr int CHUNK_BYTES = 16;

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

/// Copies 16 bytes from global to shared memory, or writes zeros where there is nothing to copy; both addresses are aligned.
__device__ __forceinline__ void copy_async(unsigned to, const void* from, bool exists) {
    int bytes = exists ? CHUNK_BYTES : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most PENDING of this thread's latest groups of copies are under way.
template <int PENDING> __device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/// Four 8×8 matrices of 16-bit elements; lanes 8i … 8i+7 give the addresses of matrix i's rows. A lane receives the elements
/// 2·(lane % 4) and the next of row lane / 4 of each.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

/// As `load_matrices`, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

/// The arithmetic of one 16-bit float type on tensor cores.
template <class T> struct TensorCore;

template <> struct TensorCore<__nv_bfloat16> {
    /// c[16×8] += a[16×16] · b[16×8], accumulated in f32.
    static __device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }

    /// Two floats rounded, the first in the low half.
    static __device__ __forceinline__ unsigned pack(float low, float high) {
        __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<unsigned*>(&pair);
    }
};

template <> struct TensorCore<__half> {
    static __device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }

    static __device__ __forceinline__ unsigned pack(float low, float high) {
        __half2 pair = __floats2half2_rn(low, high);
        return *reinterpret_cast<unsigned*>(&pair);
    }
};

} // namespace slide
