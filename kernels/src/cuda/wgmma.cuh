// Warpgroup-level products of 16-bit floats (wgmma; compute capability 9.0 only, compiled for sm_90a): operands in shared memory with rows of
// 128 bytes swizzled, or the left one in registers; sums in registers. Knows nothing of what is multiplied.
//
// A warpgroup is four consecutive warps, the first of them a multiple of four. Products run beside the threads: between `commit_products`
// and `wait_for_products` nobody touches their registers and shared memory.
#pragma once

#include "tensor_core.cuh"

namespace slide {

constexpr int WARPGROUP_THREADS = 128;

/// Rows of a product's tile that one warpgroup takes.
constexpr int WARPGROUP_ROWS = 64;

/// An operand lies in panels of 64 columns: rows of 128 bytes one after the other, of which the 16-byte chunks are permuted, so that the same
/// chunk of eight rows lies in different banks. Panels start at multiples of 1024 bytes.
constexpr int PANEL_COLUMNS = 64, PANEL_ROW_BYTES = 128, PANEL_ALIGNMENT = 1024;

/// Where chunk `chunk` of row `row` lies in a panel.
__device__ __forceinline__ unsigned panel_offset(int row, int chunk) {
    return row * PANEL_ROW_BYTES + (chunk ^ row % 8) * CHUNK_BYTES;
}

namespace wgmma_parts {

/// A matrix in shared memory as wgmma takes it: 128-byte swizzle, groups of eight rows 1024 bytes apart, panels `panel_bytes` apart (which
/// only an operand read by columns makes use of).
__device__ __forceinline__ unsigned long long describe(unsigned address, unsigned panel_bytes) {
    constexpr unsigned long long SWIZZLE_128 = 1ull << 62, EIGHT_ROWS = static_cast<unsigned long long>(PANEL_ALIGNMENT / 16) << 32;
    return SWIZZLE_128 | EIGHT_ROWS | static_cast<unsigned long long>(panel_bytes / 16) << 16 | (address & 0x3ffff) / 16;
}

template <class T, int N> struct Wgmma;

#define SLIDE_REGISTERS_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SLIDE_REGISTERS_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SLIDE_SUMS_8(i)                                                                                                                     \
    "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), "+f"(sums[i + 5]), "+f"(sums[i + 6]),       \
        "+f"(sums[i + 7])
#define SLIDE_SUMS_32(i) SLIDE_SUMS_8(i), SLIDE_SUMS_8(i + 8), SLIDE_SUMS_8(i + 16), SLIDE_SUMS_8(i + 24)
#define SLIDE_SUMS_64(i) SLIDE_SUMS_32(i), SLIDE_SUMS_32(i + 32)

// A … G: the numbers of the operands behind `COUNT` sums.
#define SLIDE_WGMMA(T, TYPE, N, COUNT, A, B, C, D, E, F, G)                                                                                \
    template <> struct Wgmma<T, N> {                                                                                                       \
        static __device__ __forceinline__ void shared(float (&sums)[COUNT], unsigned long long a, unsigned long long b, int add) {         \
            asm volatile("{.reg .pred add; setp.ne.b32 add, %" #C ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE     \
                         " {" SLIDE_REGISTERS_##COUNT "}, %" #A ", %" #B ", add, 1, 1, 0, 0;}"                                             \
                         : SLIDE_SUMS_##COUNT(0)                                                                                           \
                         : "l"(a), "l"(b), "r"(add));                                                                                      \
        }                                                                                                                                  \
        template <bool BY_COLUMNS>                                                                                                         \
        static __device__ __forceinline__ void registers(float (&sums)[COUNT], const unsigned (&a)[4], unsigned long long b, int add) {    \
            asm volatile("{.reg .pred add; setp.ne.b32 add, %" #F ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE     \
                         " {" SLIDE_REGISTERS_##COUNT "}, {%" #A ", %" #B ", %" #C ", %" #D "}, %" #E ", add, 1, 1, %" #G ";}"             \
                         : SLIDE_SUMS_##COUNT(0)                                                                                           \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(BY_COLUMNS ? 1 : 0));                         \
        }                                                                                                                                  \
    };

SLIDE_WGMMA(__nv_bfloat16, "bf16", 64, 32, 32, 33, 34, 35, 36, 37, 38)
SLIDE_WGMMA(__nv_bfloat16, "bf16", 128, 64, 64, 65, 66, 67, 68, 69, 70)
SLIDE_WGMMA(__half, "f16", 64, 32, 32, 33, 34, 35, 36, 37, 38)
SLIDE_WGMMA(__half, "f16", 128, 64, 64, 65, 66, 67, 68, 69, 70)

#undef SLIDE_WGMMA
#undef SLIDE_SUMS_64
#undef SLIDE_SUMS_32
#undef SLIDE_SUMS_8
#undef SLIDE_REGISTERS_64
#undef SLIDE_REGISTERS_32

} // namespace wgmma_parts

/// The sums of a warpgroup's 64×N tile, N = 2 · COUNT. A lane of the warpgroup's warp w holds, of each eight columns n, columns
/// 2·(lane % 4) and the next of rows 16·w + lane / 4 (elements 4n, 4n + 1) and eight further down (4n + 2, 4n + 3).
///
/// sums = a[64×DEPTH] · bᵀ[N×DEPTH]; both by rows, in panels of A_ROWS and N rows.
template <class T, int DEPTH, int A_ROWS, int COUNT>
__device__ __forceinline__ void multiply_rows(float (&sums)[COUNT], unsigned a, unsigned b) {
    constexpr int N = 2 * COUNT, STEPS = PANEL_COLUMNS / 16;
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) {
        unsigned within = k % STEPS * 2 * CHUNK_BYTES, panel = k / STEPS * PANEL_ROW_BYTES;
        wgmma_parts::Wgmma<T, N>::shared(sums, wgmma_parts::describe(a + panel * A_ROWS + within, 16),
                                         wgmma_parts::describe(b + panel * N + within, 16), k > 0);
    }
}

/// The same of `a` in registers: of each 16 columns four, as mma.sync takes them.
template <class T, int DEPTH, int COUNT>
__device__ __forceinline__ void multiply_rows(float (&sums)[COUNT], const unsigned (&a)[DEPTH / 16][4], unsigned b) {
    constexpr int N = 2 * COUNT, STEPS = PANEL_COLUMNS / 16;
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) {
        const unsigned at = b + k / STEPS * N * PANEL_ROW_BYTES + k % STEPS * 2 * CHUNK_BYTES;
        wgmma_parts::Wgmma<T, N>::template registers<false>(sums, a[k], wgmma_parts::describe(at, 16), k > 0);
    }
}

/// sums (+)= a[64×DEPTH] · b[DEPTH×N]; `a` in registers, of each 16 columns four as `sums` hold them, rounded and packed; b by rows, in
/// panels of DEPTH rows. `add` says whether sums are added to or begun.
template <class T, int DEPTH, int COUNT>
__device__ __forceinline__ void multiply_columns(float (&sums)[COUNT], const unsigned (&a)[DEPTH / 16][4], unsigned b, bool add) {
    constexpr int PANEL_BYTES = DEPTH * PANEL_ROW_BYTES;
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) {
        const unsigned at = b + k * 16 * PANEL_ROW_BYTES;
        wgmma_parts::Wgmma<T, 2 * COUNT>::template registers<true>(sums, a[k], wgmma_parts::describe(at, PANEL_BYTES), k > 0 || add);
    }
}

/// Before products whose registers or shared memory the threads have touched.
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/// Waits until at most PENDING of the warpgroup's latest groups of products are under way.
template <int PENDING> __device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/// Keeps the compiler from moving what is done with a product's registers across this place: it does not see that products read and write
/// them until they are waited for.
template <int COUNT> __device__ __forceinline__ void pin(float (&sums)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}
template <int STEPS> __device__ __forceinline__ void pin(unsigned (&operand)[STEPS][4]) {
#pragma unroll
    for (int i = 0; i < 4 * STEPS; ++i) asm volatile("" : "+r"(operand[i / 4][i % 4])::"memory");
}

/// What threads have written to shared memory and then made known is seen by products that begin behind this.
__device__ __forceinline__ void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Gives registers of the warpgroup's threads back, or takes more of them; COUNT is a multiple of eight.
template <int COUNT> __device__ __forceinline__ void shrink_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT> __device__ __forceinline__ void grow_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }

} // namespace slide
