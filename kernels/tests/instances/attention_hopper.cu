// Every type, mask, visibility and depth through attention_hopper.cuh, which is for one architecture.
#include "attention_hopper.cuh"

using namespace slide;
using bf16 = __nv_bfloat16;
using half_t = __half;

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

#define ATTENTION(name, Tile, visibility, T, Mask)                                                                             \
    extern "C" __global__ void __launch_bounds__(Tile::THREADS, 1) name(AttentionArguments<T, Mask> arguments, int batches) {  \
        extern __shared__ __align__(16) unsigned char shared[];                                                                \
        attention_hopper<Tile, Visibility::visibility>(arguments, batches, shared);                                            \
    }

using Shallow = WarpgroupTile<64, 64, 2, 128, 8>;
using Deep = WarpgroupTile<128, 128, 2, 128, 6>;
using Uneven = WarpgroupTile<64, 128, 3, 64, 8>;
ATTENTION(shallow, Shallow, ALL, bf16, ScoreMask<bf16>)
ATTENTION(deep, Deep, ALL, bf16, NoMask)
ATTENTION(deep_causal, Deep, CAUSAL, half_t, ScoreMask<float>)
ATTENTION(shallow_truth, Shallow, CAUSAL, bf16, ScoreMask<Truth>)
ATTENTION(deep_truth, Deep, ALL, half_t, ScoreMask<Truth>)
ATTENTION(uneven, Uneven, CAUSAL, bf16, NoMask)

#endif
