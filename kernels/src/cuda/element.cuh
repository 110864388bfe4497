// Elements of any type one by one, for generated code: each type's arithmetic type, loads, stores and conversions. The numbers are those of
// the CPU's kernels.
#pragma once

#include "convert.cuh"
#include <cuda_fp8.h>

namespace slide {

/// A boolean's byte.
struct Truth {
    unsigned char byte;
};

/// The type that elements of T are calculated in.
template <class T> struct Wide {
    using Type = T;
};
template <> struct Wide<__half> {
    using Type = float;
};
template <> struct Wide<__nv_bfloat16> {
    using Type = float;
};
template <> struct Wide<__nv_fp8_e4m3> {
    using Type = float;
};
template <> struct Wide<Truth> {
    using Type = bool;
};
template <class T> using WideOf = typename Wide<T>::Type;

template <class T> __device__ __forceinline__ WideOf<T> element(const T* from, long long at) {
    if constexpr (SameType<T, Truth>::VALUE) {
        return from[at].byte != 0;
    } else if constexpr (SameType<T, __nv_fp8_e4m3>::VALUE) {
        return static_cast<float>(from[at]);
    } else if constexpr (SameType<T, __half>::VALUE || SameType<T, __nv_bfloat16>::VALUE) {
        return to_float(from[at]);
    } else {
        return from[at];
    }
}

template <class T> __device__ __forceinline__ void put_element(T* to, long long at, WideOf<T> v) {
    if constexpr (SameType<T, Truth>::VALUE) {
        to[at].byte = v ? 1 : 0;
    } else if constexpr (SameType<T, __nv_fp8_e4m3>::VALUE) {
        to[at] = __nv_fp8_e4m3(v);
    } else if constexpr (SameType<T, __half>::VALUE || SameType<T, __nv_bfloat16>::VALUE) {
        to[at] = from_float<T>(v);
    } else {
        to[at] = v;
    }
}

/// What is between two steps that were fused: the value as memory would have rounded it.
template <class T> __device__ __forceinline__ WideOf<T> rounded(WideOf<T> v) {
    if constexpr (SameType<T, __half>::VALUE || SameType<T, __nv_bfloat16>::VALUE) {
        return to_float(from_float<T>(v));
    } else {
        return v;
    }
}

/// The same for neighbours.
template <class T, int WIDTH> __device__ __forceinline__ void round_elements(float (&v)[WIDTH]) {
    if constexpr (sizeof(T) == 2) {
        const Vector<T, WIDTH> rounded = from_floats<T>(v);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) v[i] = to_float(rounded.element[i]);
    }
}

/// Sums, differences and products; those of floats are never fused to a multiply-add, which rounds differently.
template <class A, class B> __device__ __forceinline__ auto plus(A a, B b) { return a + b; }
template <class A, class B> __device__ __forceinline__ auto minus(A a, B b) { return a - b; }
template <class A, class B> __device__ __forceinline__ auto times(A a, B b) { return a * b; }
__device__ __forceinline__ float plus(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float minus(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float times(float a, float b) { return __fmul_rn(a, b); }

/// ONNX's Max and Min: NaN where one operand is.
__device__ __forceinline__ float larger(float a, float b) { return a != a ? a : b != b ? b : fmaxf(a, b); }
__device__ __forceinline__ float smaller(float a, float b) { return a != a ? a : b != b ? b : fminf(a, b); }
template <class T> __device__ __forceinline__ T larger(T a, T b) { return a > b ? a : b; }
template <class T> __device__ __forceinline__ T smaller(T a, T b) { return a < b ? a : b; }

/// An index, which counts from the end where it is negative; what is out of range is noted as the fault of `launch` and taken as 0.
__device__ __forceinline__ long long checked_index(long long index, long long extent, int* fault, int launch) {
    if (index < 0) index += extent;
    if (index >= 0 && index < extent) return index;
    *fault = launch;
    return 0;
}

} // namespace slide
