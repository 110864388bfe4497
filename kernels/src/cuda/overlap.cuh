// How every kernel begins, so that the GPU may start it before the kernel ahead of it has ended (programmatic dependent launch, from
// compute capability 9.0 on). Knows nothing of what kernels calculate.
//
// A kernel that is launched so must not touch memory before it has waited. Loads past L1's coherence (`__ldg`, `const __restrict__`) have no
// place in such kernels at all: they promise that nobody writes the memory as long as the kernel runs, so that the compiler may move them
// ahead of the wait.
#pragma once

namespace slide {

/// Most threads of a grid that calls the next one while it runs: a quarter of what a large GPU holds.
constexpr unsigned FEW_THREADS = 1 << 16;

/// Waits until what was launched before is done and its writes are seen; then lets the GPU start what was launched behind. The first
/// statement of every kernel.
///
/// The next grid's blocks are called right after the wait. Starting them takes about as long as a short kernel runs, so any later would hide
/// less; before the wait, a third and fourth grid would come to sit on the multiprocessors beside this one. They go where there is room, wait
/// there, and are not moved. Beside a small grid there is room everywhere. A large one has filled the GPU, and the first multiprocessors to
/// be free would get most of the next grid: so a large grid calls nobody, its end does. `block_threads`: those that a block takes the room of.
__device__ __forceinline__ void await_predecessors(unsigned block_threads) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    if (static_cast<unsigned long long>(gridDim.x) * block_threads <= FEW_THREADS) {
        asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    }
#endif
}

} // namespace slide
