// What reductions compute: per kind a state, how an element is folded into it, how two states join and what comes out. As on the CPU
// floats are summed in f64 and integers in 64 bits, and NaN anywhere gives NaN. Knows nothing of how elements are reached.
//
// V is float (for f16, bf16 and f32) or long long (for integers but u64, whose upper half it would take for negative). `count` is the
// number of elements behind a result.
#pragma once

#include "limits.cuh"

namespace slide {

template <class V> struct SumOf {
    using Type = double;
};
template <> struct SumOf<long long> {
    using Type = long long;
};

template <class V> __device__ __forceinline__ bool is_nan(V v) { return v != v; }

/// Back from a sum; f64 is rounded, to integers truncated.
template <class V, class Sum> __device__ __forceinline__ V result_of(Sum sum) { return static_cast<V>(sum); }

/// What kinds that add up share. The signed overflow of integers wraps.
template <class V> struct Additive {
    using Value = V;
    using Result = V;
    using State = typename SumOf<V>::Type;
    static __device__ __forceinline__ State neutral() { return 0; }
    static __device__ __forceinline__ State merge(State a, State b) { return add(a, b); }

  protected:
    static __device__ __forceinline__ double add(double a, double b) { return a + b; }
    static __device__ __forceinline__ long long add(long long a, long long b) {
        return static_cast<long long>(static_cast<unsigned long long>(a) + static_cast<unsigned long long>(b));
    }
    static __device__ __forceinline__ double multiply(double a, double b) { return a * b; }
    static __device__ __forceinline__ long long multiply(long long a, long long b) {
        return static_cast<long long>(static_cast<unsigned long long>(a) * static_cast<unsigned long long>(b));
    }
};

template <class V> struct Sum : Additive<V> {
    using State = typename Additive<V>::State;
    static __device__ __forceinline__ State fold(State a, V v, int) { return Additive<V>::add(a, State(v)); }
    static __device__ __forceinline__ V finish(State a, long long) { return result_of<V>(a); }
};

/// The mean of integers is truncated; of none it is 0, of no floats NaN.
template <class V> struct Mean : Sum<V> {
    using State = typename Additive<V>::State;
    static __device__ __forceinline__ V finish(State a, long long count) {
        if constexpr (static_cast<V>(0.5f) == V(0)) count = count > 0 ? count : 1;
        return result_of<V>(a / static_cast<State>(count));
    }
};

template <class V> struct L1 : Additive<V> {
    using State = typename Additive<V>::State;
    static __device__ __forceinline__ State fold(State a, V v, int) { return Additive<V>::add(a, v < V(0) ? -State(v) : State(v)); }
    static __device__ __forceinline__ V finish(State a, long long) { return result_of<V>(a); }
};

template <class V> struct SumSquare : Additive<V> {
    using State = typename Additive<V>::State;
    static __device__ __forceinline__ State fold(State a, V v, int) {
        return Additive<V>::add(a, Additive<V>::multiply(State(v), State(v)));
    }
    static __device__ __forceinline__ V finish(State a, long long) { return result_of<V>(a); }
};

template <class V> struct L2 : SumSquare<V> {
    using State = typename Additive<V>::State;
    static __device__ __forceinline__ V finish(State a, long long) { return result_of<V>(sqrt(static_cast<double>(a))); }
};

template <class V> struct LogSum : Sum<V> {
    using State = typename Additive<V>::State;
    static __device__ __forceinline__ V finish(State a, long long) { return result_of<V>(log(static_cast<double>(a))); }
};

template <class V> struct Prod : Additive<V> {
    using State = typename Additive<V>::State;
    static __device__ __forceinline__ State neutral() { return 1; }
    static __device__ __forceinline__ State merge(State a, State b) { return Additive<V>::multiply(a, b); }
    static __device__ __forceinline__ State fold(State a, V v, int) { return Additive<V>::multiply(a, State(v)); }
    static __device__ __forceinline__ V finish(State a, long long) { return result_of<V>(a); }
};

/// Of no floats −∞ (or ∞), of no integers NEUTRAL, which for a type narrower than V is that type's own lowest (or highest).
template <class V, bool MAX, long long NEUTRAL> struct Extreme {
    using Value = V;
    using Result = V;
    using State = V;
    static __device__ __forceinline__ State neutral() {
        if constexpr (static_cast<V>(0.5f) == V(0)) {
            return NEUTRAL;
        } else {
            return MAX ? -infinity() : infinity();
        }
    }
    static __device__ __forceinline__ State merge(State a, State b) { return (MAX ? b > a : b < a) || is_nan(b) ? b : a; }
    static __device__ __forceinline__ State fold(State a, V v, int) { return merge(a, v); }
    static __device__ __forceinline__ V finish(State a, long long) { return a; }
};

template <class V, long long NEUTRAL = -0x7fffffffffffffffLL - 1> using Max = Extreme<V, true, NEUTRAL>;
template <class V, long long NEUTRAL = 0x7fffffffffffffffLL> using Min = Extreme<V, false, NEUTRAL>;

/// log Σ eˣ, as the largest element and the sum of exponentials relative to it, in f32. Only of floats.
template <class V> struct LogSumExp {
    using Value = float;
    using Result = float;
    struct State {
        float max, sum;
    };
    static __device__ __forceinline__ State neutral() { return {-infinity(), 0.0f}; }
    static __device__ __forceinline__ State merge(State a, State b) {
        if (b.max > a.max) return {b.max, a.sum * expf(a.max - b.max) + b.sum};
        // Also of two infinities, whose difference is NaN.
        if (b.max == a.max) return {a.max, a.sum + b.sum};
        return {a.max, a.sum + b.sum * expf(b.max - a.max)};
    }
    static __device__ __forceinline__ State fold(State a, float v, int) { return merge(a, {v, 1.0f}); }
    static __device__ __forceinline__ float finish(State a, long long) { return a.max + logf(a.sum); }
};

/// The index of the largest (or smallest) element, the first NaN before all others; among equals the first (or last).
template <class V, bool MAX, bool LAST> struct ArgExtreme {
    using Value = V;
    using Result = long long;
    struct State {
        V value;
        /// NONE before any element.
        int index;
        /// 64-bit values: the state is shuffled by whole registers.
        int unused;
    };
    static constexpr int NONE = -1;
    static __device__ __forceinline__ State neutral() { return {V(0), NONE, 0}; }
    static __device__ __forceinline__ State merge(State a, State b) {
        if (a.index == NONE) return b;
        if (b.index == NONE) return a;
        if (is_nan(a.value) || is_nan(b.value)) {
            if (!is_nan(b.value)) return a;
            return is_nan(a.value) && a.index < b.index ? a : b;
        }
        if (a.value == b.value) return (LAST ? a.index > b.index : a.index < b.index) ? a : b;
        return (MAX ? a.value > b.value : a.value < b.value) ? a : b;
    }
    static __device__ __forceinline__ State fold(State a, V v, int index) { return merge(a, {v, index, 0}); }
    static __device__ __forceinline__ long long finish(State a, long long) { return a.index; }
};

} // namespace slide
