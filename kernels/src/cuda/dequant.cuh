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
        Residual added[WIDTH];
        load_elements(residual + row * N + column, added);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            y[i] = __fadd_rn(activation(y[i]), to_float(added[i]));
        }
    }
};

/// Rows that a thread has under way at once.
constexpr int DEQUANT_ROWS = 8;

/// Elements side by side that a thread does: accumulators of at most 16 bytes.
template <class Acc, int N> constexpr int DEQUANT_WIDTH = power_of_two_divisor(N, 16 / sizeof(Acc));

/// The rows of `dequant` that one block does. WHOLE: there are DEQUANT_ROWS of them, so that nothing keeps their loads from being under way
/// together.
template <bool WHOLE, class Acc, class Out, int N, bool BIAS, class Epilogue>
__device__ __forceinline__ void dequant_rows(const Acc* acc, const float* token_scale, const float* channel_scale, const float* bias, Out* out,
                                             long long first, int count, int column, const Epilogue& epilogue) {
    constexpr int WIDTH = DEQUANT_WIDTH<Acc, N>;
    Vector<Acc, WIDTH> from[DEQUANT_ROWS];
    float token[DEQUANT_ROWS];
#pragma unroll
    for (int row = 0; row < DEQUANT_ROWS; ++row) {
        // Where there are fewer rows the last one is loaded again: a branch would wait.
        long long at = first + (WHOLE ? row : min(row, count - 1));
        from[row] = load_vector<Acc, WIDTH>(acc + at * N + column);
        token[row] = token_scale[at];
    }
    float channel[WIDTH], added[WIDTH];
    load_elements(channel_scale + column, channel);
    if constexpr (BIAS) {
        load_elements(bias + column, added);
    }
    // Nothing is stored before all is calculated: what an epilogue loads might be what is stored, as far as the compiler knows.
    Out to[DEQUANT_ROWS][WIDTH];
#pragma unroll
    for (int row = 0; row < DEQUANT_ROWS; ++row) {
        if (WHOLE || row < count) {
            float y[WIDTH];
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) {
                // Never fused to a multiply-add, which rounds differently.
                y[i] = __fmul_rn(__fmul_rn(to_float(from[row].element[i]), token[row]), channel[i]);
                if constexpr (BIAS) {
                    y[i] = __fadd_rn(y[i], added[i]);
                }
            }
            epilogue(y, first + row, column);
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) {
                to[row][i] = from_float<Out>(y[i]);
            }
        }
    }
#pragma unroll
    for (int row = 0; row < DEQUANT_ROWS; ++row) {
        if (WHOLE || row < count) {
            store_elements(out + (first + row) * N + column, to[row]);
        }
    }
}

/// out [rows, N] = epilogue(acc · token_scale · channel_scale + bias), in f32 in this order, rounded once.
///
/// acc [rows, N] of int, or f32, bf16, f16; token_scale f32 [rows]; channel_scale f32 [N]; bias f32 [N] where BIAS.
///
/// Launch: blocks of THREADS threads; in x ⌈N / WIDTH / THREADS⌉ · ⌈rows / DEQUANT_ROWS⌉ of them, WIDTH = DEQUANT_WIDTH, columns first. Pointers
/// are multiples of 16 bytes.
template <class Acc, class Out, int N, bool BIAS, int THREADS, class Epilogue>
__device__ __forceinline__ void dequant(const Acc* acc, const float* token_scale, const float* channel_scale, const float* bias, Out* out,
                                        long long rows, const Epilogue& epilogue) {
    static_assert(N > 0, "a row has elements");
    constexpr int WIDTH = DEQUANT_WIDTH<Acc, N>;
    constexpr int ACROSS = (N / WIDTH + THREADS - 1) / THREADS;
    int column = (static_cast<int>(blockIdx.x % ACROSS) * THREADS + static_cast<int>(threadIdx.x)) * WIDTH;
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
