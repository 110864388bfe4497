// Barriers for warps that do different work (mbarrier with asynchronous copies, compute capability 8.0 and later; waiting without spinning, 9.0).
#pragma once

namespace slide {

/// A phase ends when `arrivals` threads have arrived. `barrier`: 8 bytes of shared memory, as an address there.
__device__ __forceinline__ void init_barrier(unsigned barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void arrive(unsigned barrier) {
    asm volatile("{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0];}" ::"r"(barrier) : "memory");
}

/// The thread arrives when all copies that it has started are done.
__device__ __forceinline__ void arrive_after_copies(unsigned barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

/// Waits for the end of the phase of the given parity: of phases 0, 2, 4 … it is 0. The phase before a new barrier's first counts as ended.
__device__ __forceinline__ void await_phase(unsigned barrier, unsigned parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/// The numbered barriers of a block (0 is that of __syncthreads): some of `threads` wait, the others only say that they have come.
__device__ __forceinline__ void wait_named(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void arrive_named(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

} // namespace slide
