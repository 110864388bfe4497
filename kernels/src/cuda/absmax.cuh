// The largest magnitude among elements, over a thread's vectors, a warp and a block. Magnitudes compare as their bits do, so that NaN
// lies above infinity and infinity above all others: whoever uses the result sees from it whether every element was finite.
#pragma once

#include "convert.cuh"
#include "vector.cuh"

namespace slide {

constexpr int WARP = 32;
constexpr unsigned FULL_WARP = 0xffffffffu;

/// Gathers magnitudes of elements of type T, as bits.
template <class T> struct Absmax;

template <> struct Absmax<float> {
    unsigned max = 0;

    template <int WIDTH> __device__ __forceinline__ void add(const Vector<float, WIDTH>& vector) {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            max = ::max(max, __float_as_uint(vector.element[i]) & 0x7fffffffu);
        }
    }

    /// The bits of the largest magnitude as f32.
    __device__ __forceinline__ unsigned bits() const { return max; }
};

/// For the 16-bit floats, two elements per instruction.
template <class T, class Pair> struct AbsmaxOfPairs {
    Pair max = bit_cast<Pair>(0u);

    template <int WIDTH> __device__ __forceinline__ void add(const Vector<T, WIDTH>& vector) {
        if constexpr (WIDTH == 1) {
            max = __hmax2_nan(max, __habs2(Pair(vector.element[0], vector.element[0])));
        } else {
#pragma unroll
            for (int i = 0; i < WIDTH; i += 2) {
                max = __hmax2_nan(max, __habs2(Pair(vector.element[i], vector.element[i + 1])));
            }
        }
    }

    __device__ __forceinline__ unsigned bits() const {
        // The sign of a NaN would set it above all else just as well, but a maximum of NaNs need not keep it clear.
        unsigned low = __float_as_uint(to_float(max.x)) & 0x7fffffffu;
        unsigned high = __float_as_uint(to_float(max.y)) & 0x7fffffffu;
        return ::max(low, high);
    }
};

template <> struct Absmax<__half> : AbsmaxOfPairs<__half, __half2> {};
template <> struct Absmax<__nv_bfloat16> : AbsmaxOfPairs<__nv_bfloat16, __nv_bfloat162> {};

/// Waits for the THREADS threads that work on one row: a warp, or the whole block.
template <int THREADS> __device__ __forceinline__ void sync_row() {
    if constexpr (THREADS == WARP) {
        __syncwarp();
    } else {
        __syncthreads();
    }
}

/// The largest of the row's threads' values, for all of them. One call per kernel: its shared memory is not guarded against a second.
template <int THREADS> __device__ __forceinline__ unsigned row_max(unsigned value) {
    static_assert(THREADS % WARP == 0 && THREADS <= 1024, "whole warps of one block");
    value = __reduce_max_sync(FULL_WARP, value);
    if constexpr (THREADS > WARP) {
        __shared__ unsigned of_warp[THREADS / WARP];
        int lane = threadIdx.x % WARP;
        if (lane == 0) {
            of_warp[threadIdx.x / WARP] = value;
        }
        __syncthreads();
        value = __reduce_max_sync(FULL_WARP, lane < THREADS / WARP ? of_warp[lane] : 0u);
    }
    return value;
}

} // namespace slide
