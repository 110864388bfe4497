// Between the float types of tensors and the f32 that kernels compute in. Knows nothing of scales.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

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

/// Between two float types; the same one is copied.
template <class To, class From> __device__ __forceinline__ To convert(From x) {
    if constexpr (SameType<To, From>::VALUE) {
        return x;
    } else {
        return from_float<To>(to_float(x));
    }
}

} // namespace slide
