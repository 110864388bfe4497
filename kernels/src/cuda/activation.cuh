// The functions of one float that models apply between products, as functors on f32: `Swish{1.702f}(x)`. Named as the operators of plans;
// within a few units in the last place of the true value, or for the sums of products among them of their largest term. NaN stays NaN.
#pragma once

namespace slide {

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
    __device__ __forceinline__ float operator()(float x) const { return erff(x); }
};
struct Exp {
    __device__ __forceinline__ float operator()(float x) const { return expf(x); }
};
struct Floor {
    __device__ __forceinline__ float operator()(float x) const { return floorf(x); }
};
struct Gelu {
    __device__ __forceinline__ float operator()(float x) const { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
};
struct GeluTanh {
    __device__ __forceinline__ float operator()(float x) const {
        float inner = 0.79788456080286536f * (x + 0.044715f * x * x * x);
        return 0.5f * x * (1.0f + tanhf(inner));
    }
};
struct HardSigmoid {
    float alpha, beta;
    __device__ __forceinline__ float operator()(float x) const {
        float y = alpha * x + beta;
        // Not `fminf` and `fmaxf`, which drop NaN.
        return y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y;
    }
};
struct HardSwish {
    __device__ __forceinline__ float operator()(float x) const { return x * HardSigmoid{1.0f / 6.0f, 0.5f}(x); }
};
struct LeakyRelu {
    float alpha;
    __device__ __forceinline__ float operator()(float x) const { return x < 0.0f ? alpha * x : x; }
};
struct Log {
    __device__ __forceinline__ float operator()(float x) const { return logf(x); }
};
struct Neg {
    __device__ __forceinline__ float operator()(float x) const { return -x; }
};
struct Reciprocal {
    __device__ __forceinline__ float operator()(float x) const { return 1.0f / x; }
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
    __device__ __forceinline__ float operator()(float x) const { return x < -lambda ? x + bias : x > lambda ? x - bias : 0.0f; }
};
struct Sigmoid {
    __device__ __forceinline__ float operator()(float x) const { return 1.0f / (1.0f + expf(-x)); }
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
    __device__ __forceinline__ float operator()(float x) const { return x / (1.0f + fabsf(x)); }
};
struct Sqrt {
    __device__ __forceinline__ float operator()(float x) const { return sqrtf(x); }
};
/// x · sigmoid(alpha · x); SiLU with alpha 1.
struct Swish {
    float alpha;
    __device__ __forceinline__ float operator()(float x) const { return x / (1.0f + expf(-alpha * x)); }
};
struct Tan {
    __device__ __forceinline__ float operator()(float x) const { return tanf(x); }
};
struct Tanh {
    __device__ __forceinline__ float operator()(float x) const { return tanhf(x); }
};
struct ThresholdedRelu {
    float alpha;
    __device__ __forceinline__ float operator()(float x) const { return x <= alpha ? 0.0f : x; }
};

} // namespace slide
