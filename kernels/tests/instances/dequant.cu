// Every accumulator, result, width and activation through dequant.cuh.
#include "dequant.cuh"

using namespace slide;
using bf16 = __nv_bfloat16;
using half_t = __half;

#define DEQUANT(name, Acc, Out, N, bias_, Epilogue, ...)                                                                       \
    extern "C" __global__ void __launch_bounds__(128) name(const Acc* acc, const float* token, const float* channel,           \
                                                           const float* bias, Out* out, long long rows, const Out* residual) { \
        dequant<Acc, Out, N, bias_, 128>(acc, token, channel, bias, out, rows, Epilogue __VA_ARGS__);                          \
    }

DEQUANT(i32_bf16, int, bf16, 3584, true, Activate<Identity>, {})
DEQUANT(i32_f16, int, half_t, 1026, false, Activate<Relu>, {})
DEQUANT(f32_f32, float, float, 385, true, Activate<Gelu>, {})
DEQUANT(f32_bf16, float, bf16, 384, true, Activate<Swish>, {{1.702f}})
DEQUANT(bf16_bf16, bf16, bf16, 384, false, Activate<Sigmoid>, {})
DEQUANT(bf16_f32, bf16, float, 1544, true, Activate<Relu>, {})

using GeluAdd = ActivateAdd<GeluTanh, bf16, 384>;
using TanhAdd = ActivateAdd<Tanh, float, 3>;
DEQUANT(residual_bf16, int, bf16, 384, true, GeluAdd, {{}, residual})
DEQUANT(residual_f32, float, float, 3, true, TanhAdd, {{}, residual})
