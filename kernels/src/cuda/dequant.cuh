// Scales the accumulators of quantized products back to floats, and what is fused behind that. The definition is in `docs/method.md`.
#pragma once

#include "activation.cuh"
#include "convert.cuh"
#include "vector.cuh"

namespace slide {

/// What becomes of dequantized values before they are stored: an epilogue changes the values of neighbouring elements of one row, given its
/// index and the first one's column. This one applies an activation; generated code brings others.
template <class Activation> struct Activate {
    Activation activation;
    template <int WIDTH> __device__ __forceinline__ void operator()(float (&y)[WIDTH], long long, int) const {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            y[i] = activation(y[i]);
        }
    }
};

/// Applies an activation and adds an element of `residual` [rows, N].
template <class Activation, class Residual, int N> struct ActivateAdd {
    Activation activation;
    const Residual* residual;
    template <int WIDTH> __device__ __forceinline__ void operator()(float (&y)[WIDTH], long long row, int column) const {
        Vector<Residual, WIDTH> added = load_vector<Residual, WIDTH>(residual + row * N + column);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            y[i] = __fadd_rn(activation(y[i]), to_float(added.element[i]));
        }
    }
};

/// Rows that a thread has under way at once.
constexpr int DEQUANT_ROWS = 8;

/// The rows of `dequant` that one block does. WHOLE: there are DEQUANT_ROWS of them, so that nothing keeps their loads from being under way
/// together.
template <bool WHOLE, class Acc, class Out, int N, bool BIAS, class Epilogue>
__device__ __forceinline__ void dequant_rows(const Acc* acc, const float* token_scale, const float* channel_scale, const float* bias, Out* out,
                                             long long first, int count, int column, const Epilogue& epilogue) {
    constexpr int WIDTH = power_of_two_divisor(N, 4);
    Vector<Acc, WIDTH> from[DEQUANT_ROWS];
    float token[DEQUANT_ROWS];
#pragma unroll
    for (int row = 0; row < DEQUANT_ROWS; ++row) {
        // Where there are fewer rows the last one is loaded again: a branch would wait.
        long long at = first + (WHOLE ? row : min(row, count - 1));
        from[row] = load_vector<Acc, WIDTH>(acc + at * N + column);
        token[row] = token_scale[at];
    }
    Vector<float, WIDTH> channel = load_vector<float, WIDTH>(channel_scale + column), added;
    if constexpr (BIAS) {
        added = load_vector<float, WIDTH>(bias + column);
    }
    // Nothing is stored before all is calculated: what an epilogue loads might be what is stored, as far as the compiler knows.
    Vector<Out, WIDTH> to[DEQUANT_ROWS];
#pragma unroll
    for (int row = 0; row < DEQUANT_ROWS; ++row) {
        if (WHOLE || row < count) {
            float y[WIDTH];
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) {
                // Never fused to a multiply-add, which rounds differently.
                y[i] = __fmul_rn(__fmul_rn(to_float(from[row].element[i]), token[row]), channel.element[i]);
                if constexpr (BIAS) {
                    y[i] = __fadd_rn(y[i], added.element[i]);
                }
            }
            epilogue(y, first + row, column);
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) {
                to[row].element[i] = from_float<Out>(y[i]);
            }
        }
    }
#pragma unroll
    for (int row = 0; row < DEQUANT_ROWS; ++row) {
        if (WHOLE || row < count) {
            store_vector(out + (first + row) * N + column, to[row]);
        }
    }
}

/// out [rows, N] = epilogue(acc · token_scale · channel_scale + bias), in f32 in this order, rounded once.
///
/// acc [rows, N] of int, or f32, bf16, f16; token_scale f32 [rows]; channel_scale f32 [N]; bias f32 [N] where BIAS.
///
/// Launch: blocks of THREADS threads; in x ⌈N / WIDTH / THREADS⌉ · ⌈rows / DEQUANT_ROWS⌉ of them, WIDTH = gcd(N, 4), columns first. Pointers
/// are multiples of 16 bytes.
template <class Acc, class Out, int N, bool BIAS, int THREADS, class Epilogue>
__device__ __forceinline__ void dequant(const Acc* acc, const float* token_scale, const float* channel_scale, const float* bias, Out* out,
                                        long long rows, const Epilogue& epilogue) {
    static_assert(N > 0, "a row has elements");
    constexpr int ACROSS = (N / power_of_two_divisor(N, 4) + THREADS - 1) / THREADS;
    int column = (static_cast<int>(blockIdx.x % ACROSS) * THREADS + static_cast<int>(threadIdx.x)) * power_of_two_divisor(N, 4);
    if (column >= N) {
        return;
    }
    long long first = static_cast<long long>(blockIdx.x / ACROSS) * DEQUANT_ROWS;
    if (rows - first >= DEQUANT_ROWS) {
        dequant_rows<true, Acc, Out, N, BIAS>(acc, token_scale, channel_scale, bias, out, first, DEQUANT_ROWS, column, epilogue);
    } else {
        int count = static_cast<int>(rows - first);
        dequant_rows<false, Acc, Out, N, BIAS>(acc, token_scale, channel_scale, bias, out, first, count, column, epilogue);
    }
}

} // namespace slide
