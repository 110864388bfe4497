// Between the float types of tensors and the f32 that kernels compute in. Knows nothing of scales.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "vector.cuh"

namespace slide {

template <class A, class B> struct SameType {
    static constexpr bool VALUE = false;
};
template <class A> struct SameType<A, A> {
    static constexpr bool VALUE = true;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(int x) { return __int2float_rn(x); }

/// Rounds half to even; what is too large becomes infinite.
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

/// Neighbours, two at a time where there is an instruction for two.
template <class T, int WIDTH> __device__ __forceinline__ Vector<T, WIDTH> from_floats(const float (&x)[WIDTH]) {
    Vector<T, WIDTH> y;
    if constexpr (SameType<T, __nv_bfloat16>::VALUE && WIDTH % 2 == 0) {
#pragma unroll
        for (int i = 0; i < WIDTH; i += 2) {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(x[i], x[i + 1]);
            y.element[i] = pair.x;
            y.element[i + 1] = pair.y;
        }
    } else if constexpr (SameType<T, __half>::VALUE && WIDTH % 2 == 0) {
#pragma unroll
        for (int i = 0; i < WIDTH; i += 2) {
            const __half2 pair = __floats2half2_rn(x[i], x[i + 1]);
            y.element[i] = pair.x;
            y.element[i + 1] = pair.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) y.element[i] = from_float<T>(x[i]);
    }
    return y;
}

/// Between two float types; the same one is copied.
template <class To, class From> __device__ __forceinline__ To convert(From x) {
    if constexpr (SameType<To, From>::VALUE) {
        return x;
    } else {
        return from_float<To>(to_float(x));
    }
}

} // namespace slide
