// Every type, pattern and way through quant_lift.cuh.
#include "quant_lift.cuh"

using namespace slide;
using bf16 = __nv_bfloat16;
using half_t = __half;
using i8 = signed char;
using e4m3 = __nv_fp8_e4m3;

#define QUANT_LIFT(name, In, Out, N, K, Tile, permuted)                                                                        \
    extern "C" __global__ void __launch_bounds__(Tile::THREADS * Tile::ROWS)                                                   \
        name(const In* x, Out* out, float* scale, long long rows, const int* index) {                                          \
        quant_lift<In, Out, N, K, LiftLayout<N, K>::LIFTED, Tile, permuted>(x, out, scale, rows, index);                       \
    }

using Warps = RowTile<32, 4>;
using Block = RowTile<128, 1>;
using Large = RowTile<608, 1>;

// Patterns.
QUANT_LIFT(dense, bf16, i8, 1, 384, Warps, false)
QUANT_LIFT(p2x4, bf16, i8, 2, 386, Warps, false)
QUANT_LIFT(p4x6, bf16, i8, 3, 384, Warps, false)
QUANT_LIFT(p6x8, bf16, i8, 4, 3584, Block, false)
QUANT_LIFT(p8x10, half_t, e4m3, 5, 1000, Warps, false)
QUANT_LIFT(p10x12, half_t, i8, 6, 1012, Block, false)
QUANT_LIFT(p12x14, float, e4m3, 7, 1020, Block, false)
QUANT_LIFT(p14x16, float, i8, 8, 1024, Block, false)
// Rows whose vectors are short, down to odd ones.
QUANT_LIFT(odd, bf16, i8, 4, 383, Warps, false)
QUANT_LIFT(single, half_t, e4m3, 5, 1, Warps, false)
// Lifted only.
QUANT_LIFT(bf16_bf16, bf16, bf16, 4, 3584, Block, false)
QUANT_LIFT(f32_f16, float, half_t, 3, 100, Warps, false)
QUANT_LIFT(f16_f32, half_t, float, 8, 384, Warps, false)
QUANT_LIFT(dense_f32, float, float, 1, 385, Warps, false)
// Long rows: in registers, and in segments.
QUANT_LIFT(in_registers, bf16, i8, 4, 18944, Large, false)
QUANT_LIFT(segments, bf16, e4m3, 4, 65536, Large, false)
QUANT_LIFT(lifted_segments, bf16, bf16, 3, 18950, Large, false)
// Permuted.
QUANT_LIFT(permuted, bf16, i8, 4, 384, Warps, true)
QUANT_LIFT(permuted_f32, float, e4m3, 3, 37, Warps, true)
