// The functions of one float that models apply between products, as functors on f32: `Swish{1.702f}(x)`. Named as the operators of plans;
// within a few units in the last place of the true value, or for the sums of products among them of their largest term. NaN stays NaN.
//
// What is made of `__fmaf_rn`, `__fmul_rn` and their like, which the compiler neither fuses nor splits, is the sequence of operations of the
// CPU's kernels where these have fused multiply-adds (x86 with AVX2 or AVX-512, Arm with Neon), and equal to them to the bit but for NaN's
// payload: so that a value in registers that is quantized there gives the byte that it gives on the CPU.
#pragma once

namespace slide {

/// eˣ within 1 unit in the last place: 2ᵏ · p(r) with x = k · ln 2 + r, after N. Juffa, in the operations of rten-vecmath's `Exp`.
__device__ __forceinline__ float exponential(float x) {
    // 1.5 · 2²³: its unit in the last place is 1, so the addition rounds to an integer.
    constexpr float ROUND = 12582912.0f;
    const float k = __fsub_rn(__fmaf_rn(x, 1.44269504088896341f, ROUND), ROUND);
    const float r = __fmaf_rn(k, -1.42860677e-6f, __fmaf_rn(k, -6.93145752e-1f, x));
    float y = __fmaf_rn(1.37805939e-3f, r, 8.37312452e-3f);
    y = __fmaf_rn(y, r, 4.16695364e-2f);
    y = __fmaf_rn(y, r, 1.66664720e-1f);
    y = __fmaf_rn(y, r, 4.99999851e-1f);
    y = __fmaf_rn(y, r, 1.0f);
    y = __fmaf_rn(y, r, 1.0f);
    // 2ᵏ in two factors, 2¹²⁷ or 2⁻¹²³ and the rest, for results near and below the smallest normal number and near the largest.
    const int exponent = __float2int_rz(k);
    const unsigned part = exponent > 0 ? 0u : 0x83000000u;
    y = __fmul_rn(y, __uint_as_float(0x7f000000u + part));
    y = __fmul_rn(y, __uint_as_float((static_cast<unsigned>(exponent) << 23) - part));
    return x >= 104.0f ? __uint_as_float(0x7f800000u) : x <= -104.0f ? 0.0f : y;
}

/// 1.5 · 2²³: its unit in the last place is 1, so the addition rounds to an integer, which the low bits of the sum hold.
constexpr float ROUND_TO_INTEGER = 12582912.0f;

/// 2ᵏ · 2ᶠ for |f| ≤ ½, k = z − ROUND_TO_INTEGER from −126 to 126: a minimax polynomial of relative error 9.2e-8.
__device__ __forceinline__ float power_of_two(float z, float f) {
    float y = __fmaf_rn(1.326472e-3f, f, 9.671513e-3f);
    y = __fmaf_rn(y, f, 5.5507338e-2f);
    y = __fmaf_rn(y, f, 2.4022242e-1f);
    y = __fmaf_rn(y, f, 6.93147e-1f);
    y = __fmaf_rn(y, f, 1.0f);
    return __uint_as_float(__float_as_uint(y) + (__float_as_uint(z) << 23));
}

/// The larger (the smaller) of two numbers; NaN stays, as it does not with `fmaxf` and `fminf`.
__device__ __forceinline__ float max_or_nan(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
__device__ __forceinline__ float min_or_nan(float a, float b) {
    float y;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

/// x · (1 / (1 + e)) for e from 0 to 2¹²⁶. A step from the special function unit's estimate, as in `__frcp_rn` but without its care for what is
/// not normal, gives the reciprocal rounded to nearest: the number that division gives on the CPU.
__device__ __forceinline__ float over_one_plus(float x, float e) {
    const float d = __fadd_rn(1.0f, e);
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(d));
    return __fmul_rn(x, __fmaf_rn(__fmaf_rn(-d, y, 1.0f), y, y));
}

struct Identity {
    __device__ __forceinline__ float operator()(float x) const { return x; }
};
struct Abs {
    __device__ __forceinline__ float operator()(float x) const { return fabsf(x); }
};
struct Acos {
    __device__ __forceinline__ float operator()(float x) const { return acosf(x); }
};
struct Acosh {
    __device__ __forceinline__ float operator()(float x) const { return acoshf(x); }
};
struct Asin {
    __device__ __forceinline__ float operator()(float x) const { return asinf(x); }
};
struct Asinh {
    __device__ __forceinline__ float operator()(float x) const { return asinhf(x); }
};
struct Atan {
    __device__ __forceinline__ float operator()(float x) const { return atanf(x); }
};
struct Atanh {
    __device__ __forceinline__ float operator()(float x) const { return atanhf(x); }
};
struct Ceil {
    __device__ __forceinline__ float operator()(float x) const { return ceilf(x); }
};
struct Celu {
    float alpha;
    __device__ __forceinline__ float operator()(float x) const { return x > 0.0f ? x : alpha * expm1f(x / alpha); }
};
struct Cos {
    __device__ __forceinline__ float operator()(float x) const { return cosf(x); }
};
struct Cosh {
    __device__ __forceinline__ float operator()(float x) const { return coshf(x); }
};
struct Elu {
    float alpha;
    __device__ __forceinline__ float operator()(float x) const { return x > 0.0f ? x : alpha * expm1f(x); }
};
struct Erf {
    __device__ __forceinline__ float operator()(float x) const {
        const float magnitude = fabsf(x);
        // 1 − exp of a polynomial, for what is far from 0. erf(4) rounds to 1, and the polynomial must not meet an infinity.
        const float t = fminf(magnitude, 4.0f);
        float far = __fmaf_rn(-1.7285347e-5f, t, 3.8319713e-4f);
        far = __fmaf_rn(far, __fmul_rn(t, t), __fmaf_rn(-3.8839644e-3f, t, 2.4254622e-2f));
        far = __fmaf_rn(far, t, -1.067778e-1f);
        far = __fmaf_rn(far, t, -6.348467e-1f);
        far = __fmaf_rn(far, t, -1.2871751e-1f);
        far = __fmaf_rn(far, t, -t);
        far = __fsub_rn(1.0f, exponential(far));
        // An odd polynomial.
        const float s = __fmul_rn(x, x);
        float near = __fmaf_rn(-5.967617e-4f, s, 4.9911942e-3f);
        near = __fmaf_rn(near, s, -2.6768135e-2f);
        near = __fmaf_rn(near, s, 1.12819925e-1f);
        near = __fmaf_rn(near, s, -3.7612534e-1f);
        near = __fmaf_rn(near, s, 1.2837917e-1f);
        near = __fmaf_rn(near, x, x);
        return x != x ? x : magnitude > 9.277344e-1f ? (x < 0.0f ? -far : far) : near;
    }
};
struct Exp {
    __device__ __forceinline__ float operator()(float x) const { return exponential(x); }
};
struct Floor {
    __device__ __forceinline__ float operator()(float x) const { return floorf(x); }
};
/// max(x, 0) − |x| · Φ(−|x|): the logarithm of Φ(−t) to base 2 is nearly a polynomial.
struct Gelu {
    __device__ __forceinline__ float operator()(float x) const {
        const float t = min_or_nan(fabsf(x), 10.0f);
        float p = __fmaf_rn(6.4674613e-6f, t, -3.6185687e-5f);
        p = __fmaf_rn(p, t, -4.794575e-4f);
        p = __fmaf_rn(p, t, 7.4775303e-3f);
        p = __fmaf_rn(p, t, -5.275292e-2f);
        p = __fmaf_rn(p, t, -4.5913625e-1f);
        p = __fmaf_rn(p, t, -1.1511117f);
        p = __fmaf_rn(p, t, -1.0f);
        const float z = __fadd_rn(p, ROUND_TO_INTEGER);
        const float below = power_of_two(z, __fsub_rn(p, __fsub_rn(z, ROUND_TO_INTEGER)));
        return __fmaf_rn(-t, below, fmaxf(x, 0.0f));
    }
};
struct Tanh {
    __device__ __forceinline__ float operator()(float x) const {
        const float magnitude = fabsf(x);
        // An odd polynomial.
        const float s = __fmul_rn(x, x);
        float near = __fmaf_rn(1.5497927553951740264892578125e-2f, s, -5.21197654306888580322265625e-2f);
        near = __fmaf_rn(near, s, 0.13310669362545013427734375f);
        near = __fmaf_rn(near, s, -0.33332359790802001953125f);
        near = __fmaf_rn(near, s, 0.999999940395355224609375f);
        near = __fmul_rn(near, magnitude);
        const float e = exponential(__fmul_rn(magnitude, 2.0f));
        const float far = __fdiv_rn(__fsub_rn(e, 1.0f), __fadd_rn(e, 1.0f));
        const float y = magnitude <= 0.0004f ? magnitude : magnitude <= 0.55f ? near : magnitude >= 9.02f ? 1.0f : far;
        return x <= 0.0f ? -y : y;
    }
};
/// x · σ(2 · √(2/π) · (x + 0.044715 · x³)).
struct GeluTanh {
    __device__ __forceinline__ float operator()(float x) const {
        // Beyond these nothing changes in f32.
        x = max_or_nan(x, -9.6f);
        const float u = fminf(x, 9.6f);
        const float w = __fmaf_rn(__fmul_rn(u, u), -1.0294324e-1f, -2.3022082f);
        const float z = __fmaf_rn(u, w, ROUND_TO_INTEGER);
        return over_one_plus(x, power_of_two(z, __fmaf_rn(u, w, __fsub_rn(ROUND_TO_INTEGER, z))));
    }
};
struct HardSigmoid {
    float alpha, beta;
    __device__ __forceinline__ float operator()(float x) const {
        const float y = __fadd_rn(__fmul_rn(alpha, x), beta);
        // Not `fminf` and `fmaxf`, which drop NaN.
        return y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y;
    }
};
struct HardSwish {
    __device__ __forceinline__ float operator()(float x) const {
        return __fmul_rn(x, HardSigmoid{1.0f, 0.5f}(__fdiv_rn(x, 6.0f)));
    }
};
struct LeakyRelu {
    float alpha;
    __device__ __forceinline__ float operator()(float x) const { return x < 0.0f ? __fmul_rn(alpha, x) : x; }
};
struct Log {
    __device__ __forceinline__ float operator()(float x) const { return logf(x); }
};
struct Neg {
    __device__ __forceinline__ float operator()(float x) const { return -x; }
};
struct Reciprocal {
    __device__ __forceinline__ float operator()(float x) const { return __fdiv_rn(1.0f, x); }
};
struct Relu {
    __device__ __forceinline__ float operator()(float x) const { return x < 0.0f ? 0.0f : x; }
};
/// Half to even.
struct Round {
    __device__ __forceinline__ float operator()(float x) const { return rintf(x); }
};
struct Selu {
    float alpha, gamma;
    __device__ __forceinline__ float operator()(float x) const { return gamma * (x > 0.0f ? x : alpha * expm1f(x)); }
};
struct Shrink {
    float bias, lambda;
    __device__ __forceinline__ float operator()(float x) const {
        return x < -lambda ? __fadd_rn(x, bias) : x > lambda ? __fsub_rn(x, bias) : 0.0f;
    }
};
struct Sigmoid {
    __device__ __forceinline__ float operator()(float x) const { return __fdiv_rn(1.0f, __fadd_rn(1.0f, exponential(-x))); }
};
struct Sign {
    __device__ __forceinline__ float operator()(float x) const { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }
};
struct Sin {
    __device__ __forceinline__ float operator()(float x) const { return sinf(x); }
};
struct Sinh {
    __device__ __forceinline__ float operator()(float x) const { return sinhf(x); }
};
struct Softplus {
    // The maximum drops NaN; the sum is NaN all the same.
    __device__ __forceinline__ float operator()(float x) const { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
};
struct Mish {
    __device__ __forceinline__ float operator()(float x) const { return x * tanhf(Softplus{}(x)); }
};
struct Softsign {
    __device__ __forceinline__ float operator()(float x) const { return __fdiv_rn(x, __fadd_rn(1.0f, fabsf(x))); }
};
struct Sqrt {
    __device__ __forceinline__ float operator()(float x) const { return __fsqrt_rn(x); }
};
/// x · sigmoid(alpha · x); SiLU with alpha 1.
struct Swish {
    float alpha;
    __device__ __forceinline__ float operator()(float x) const {
        // The exponential and its reciprocal stay normal numbers; beyond, the result is nearly 0.
        const float end = -87.0f / alpha;
        x = alpha < 0.0f ? min_or_nan(x, end) : max_or_nan(x, end);
        const float u = fminf(__fmul_rn(x, alpha), 87.0f);
        const float z = __fmaf_rn(u, -1.44269504088896341f, ROUND_TO_INTEGER);
        return over_one_plus(x, power_of_two(z, __fmaf_rn(u, -1.44269504088896341f, __fsub_rn(ROUND_TO_INTEGER, z))));
    }
};
struct Tan {
    __device__ __forceinline__ float operator()(float x) const { return tanf(x); }
};
struct ThresholdedRelu {
    float alpha;
    __device__ __forceinline__ float operator()(float x) const { return x <= alpha ? 0.0f : x; }
};

} // namespace slide
