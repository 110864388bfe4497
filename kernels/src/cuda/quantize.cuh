// Symmetric quantization of f32 to int8 and FP8 E4M3: the scale of a row and the rounding of its elements, bit for bit as the CPU does
// it (`docs/method.md`). Knows nothing of rows' layout.
#pragma once

#include <cuda_fp8.h>

#include "convert.cuh"
#include "vector.cuh"

namespace slide {

/// A row whose largest magnitude is below this becomes zeros with scale 1.
constexpr float TINY = 1e-30f;

/// Types that values are scaled for: the largest magnitude, and rounding half to even of values within it.
template <class Out> struct Quantized {
    static constexpr bool SCALED = false;
};

template <> struct Quantized<signed char> {
    static constexpr bool SCALED = true;
    static constexpr float LIMIT = 127.0f;

    /// Rounded values in the order of the bytes.
    static __device__ __forceinline__ unsigned short round_two(float a, float b) { return __byte_perm(bits(a), bits(b), 0x0040); }

    static __device__ __forceinline__ unsigned round_four(float a, float b, float c, float d) {
        return __byte_perm(__byte_perm(bits(a), bits(b), 0x0040), __byte_perm(bits(c), bits(d), 0x0040), 0x5410);
    }

    static __device__ __forceinline__ signed char round(float a) { return static_cast<signed char>(bits(a)); }

  private:
    static __device__ __forceinline__ unsigned bits(float x) {
        // 1.5 · 2²³: its unit in the last place is 1, so the addition rounds half to even and leaves the integer in the low bits.
        return __float_as_uint(__fadd_rn(x, 12582912.0f));
    }
};

template <> struct Quantized<__nv_fp8_e4m3> {
    static constexpr bool SCALED = true;
    static constexpr float LIMIT = 448.0f;

    static __device__ __forceinline__ unsigned short round_two(float a, float b) {
#if __CUDA_ARCH__ >= 890
        return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
#else
        return static_cast<unsigned short>(bits(a) | bits(b) << 8);
#endif
    }

    static __device__ __forceinline__ unsigned round_four(float a, float b, float c, float d) {
        return __byte_perm(round_two(a, b), round_two(c, d), 0x5410);
    }

    static __device__ __forceinline__ __nv_fp8_e4m3 round(float a) {
        return bit_cast<__nv_fp8_e4m3>(static_cast<unsigned char>(round_two(a, 0.0f)));
    }

  private:
    /// For devices without the instruction: finite values of magnitude up to about 448.
    static __device__ __forceinline__ unsigned bits(float x) {
        unsigned sign = __float_as_uint(x) >> 24 & 0x80u;
        unsigned magnitude = __float_as_uint(x) & 0x7fffffffu;
        unsigned code;
        if (magnitude < 0x3c800000u) { // 2⁻⁶, the smallest normal number
            // Added to a power of two whose unit in the last place is the smallest subnormal, 2⁻⁹.
            float unit = 16384.0f;
            code = __float_as_uint(__fadd_rn(__uint_as_float(magnitude), unit)) - __float_as_uint(unit);
        } else {
            code = ((magnitude + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20) - (120u << 3);
        }
        return sign | min(code, 0x7eu);
    }
};

/// A row's scale: what its elements are multiplied with, and what is reported.
struct RowScale {
    float factor;
    float reported;
    /// The row becomes zeros: it is too small, or not finite and reported as NaN.
    bool zeros;
};

/// From the bits of the row's largest magnitude.
template <class Out> __device__ __forceinline__ RowScale row_scale(unsigned absmax_bits) {
    if (absmax_bits >= 0x7f800000u) {
        return {1.0f, __uint_as_float(0x7fc00000u), true};
    }
    float absmax = __uint_as_float(absmax_bits);
    if (absmax < TINY) {
        return {1.0f, 1.0f, true};
    }
    float scale = __fdiv_rn(absmax, Quantized<Out>::LIMIT);
    return {__frcp_rn(scale), scale, false};
}

/// Scales and rounds a vector.
template <class Out, class In, int WIDTH>
__device__ __forceinline__ Vector<Out, WIDTH> quantize(const Vector<In, WIDTH>& x, const RowScale& scale) {
    using Format = Quantized<Out>;
    float value[WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
        value[i] = __fmul_rn(to_float(x.element[i]), scale.factor);
    }
    Vector<Out, WIDTH> out;
    if constexpr (WIDTH == 1) {
        out.element[0] = Format::round(value[0]);
        return scale.zeros ? Vector<Out, 1>{} : out;
    } else if constexpr (WIDTH == 2) {
        return bit_cast<Vector<Out, 2>>(scale.zeros ? static_cast<unsigned short>(0) : Format::round_two(value[0], value[1]));
    } else {
        Vector<unsigned, WIDTH / 4> words;
#pragma unroll
        for (int i = 0; i < WIDTH / 4; ++i) {
            unsigned word = Format::round_four(value[4 * i], value[4 * i + 1], value[4 * i + 2], value[4 * i + 3]);
            words.element[i] = scale.zeros ? 0u : word;
        }
        return bit_cast<Vector<Out, WIDTH>>(words);
    }
}

} // namespace slide
