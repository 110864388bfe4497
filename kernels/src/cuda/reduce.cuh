// Reductions of one axis of [outer, axis, inner]: with inner = 1 of rows, else of columns, read side by side. What is computed comes from
// reduction.cuh. Knows nothing of how several axes become one.
//
// A source here gives values of the reduction's type: `template <int WIDTH> void load(long long row, int i, Value (&to)[WIDTH]) const`, with
// row = outer for rows of `axis` elements, and row = outer · axis + k for rows of `inner` elements.
#pragma once

#include "reduction.cuh"
#include "rows.cuh"

namespace slide {

/// Elements in memory as a reduction's values: float or long long.
template <class T, class Value> struct ReduceSource {
    const T* data;
    /// From one row to the next.
    long long stride;

    template <int WIDTH> __device__ __forceinline__ void load(long long row, int i, Value (&to)[WIDTH]) const {
        Vector<T, WIDTH> v = load_vector<T, WIDTH>(data + row * stride + i);
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            if constexpr (SameType<Value, float>::VALUE) {
                to[j] = to_float(v.element[j]);
            } else {
                to[j] = static_cast<Value>(v.element[j]);
            }
        }
    }
};

/// Results in memory, rounded (floats) or wrapped (integers).
template <class T, class Result> struct ReduceSink {
    T* data;

    __device__ __forceinline__ void store(long long at, Result v) const {
        if constexpr (SameType<Result, float>::VALUE) {
            data[at] = from_float<T>(v);
        } else {
            data[at] = static_cast<T>(v);
        }
    }
};

/// Results of `outer` rows of `axis` elements: one per group of threads. WIDTH elements per access where the axis is a multiple of it.
/// Blocks: ⌈outer / Group::ROWS⌉ of Group::THREADS · Group::ROWS threads.
template <class Group, class Reduction, int WIDTH, class Source, class Sink>
__device__ __forceinline__ void reduce_rows(const Source& source, const Sink& sink, long long outer, int axis) {
    const long long row = Group::row(), from = row < outer ? row : outer - 1;
    typename Reduction::State state = Reduction::neutral();
    const bool whole = axis % WIDTH == 0;
    if (whole) {
#pragma unroll 4
        for (int i = Group::lane() * WIDTH; i < axis; i += Group::THREADS * WIDTH) {
            typename Reduction::Value v[WIDTH];
            source.load(from, i, v);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) state = Reduction::fold(state, v[j], i + j);
        }
    } else {
#pragma unroll 4
        for (int i = Group::lane(); i < axis; i += Group::THREADS) {
            typename Reduction::Value v[1];
            source.load(from, i, v);
            state = Reduction::fold(state, v[0], i);
        }
    }
    state = reduce_row<Group, 0>(state, Reduction::merge);
    if (row < outer && Group::lane() == 0) sink.store(row, Reduction::finish(state, axis));
}

/// Results of [outer, axis, inner] over the axis: a block takes 32 · WIDTH neighbouring columns, each warp every WARPS-th element of the
/// axis. `inner` is a multiple of WIDTH. Blocks: outer · ⌈inner / (32 · WIDTH)⌉ of 32 · WARPS threads.
template <int WARPS, class Reduction, int WIDTH, class Source, class Sink>
__device__ __forceinline__ void reduce_columns(const Source& source, const Sink& sink, int axis, int inner) {
    static_assert(WARPS >= 1 && WARPS <= 32, "warps of one block");
    constexpr int COLUMNS = 32 * WIDTH;
    using State = typename Reduction::State;
    const unsigned tiles = (inner + COLUMNS - 1) / COLUMNS;
    const long long outer = blockIdx.x / tiles;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int column = static_cast<int>(blockIdx.x % tiles) * COLUMNS + lane * WIDTH;

    State state[WIDTH];
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) state[j] = Reduction::neutral();
    if (column < inner) {
#pragma unroll 4
        for (int k = warp; k < axis; k += WARPS) {
            typename Reduction::Value v[WIDTH];
            source.load(outer * axis + k, column, v);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) state[j] = Reduction::fold(state[j], v[j], k);
        }
    }
    if constexpr (WARPS > 1) {
        struct Words {
            unsigned word[sizeof(State) / 4];
        };
        __shared__ Words of_warp[WARPS][COLUMNS];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) of_warp[warp][j * 32 + lane] = bit_cast<Words>(state[j]);
        __syncthreads();
        if (warp > 0) return;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            for (int w = 1; w < WARPS; ++w) state[j] = Reduction::merge(state[j], bit_cast<State>(of_warp[w][j * 32 + lane]));
        }
    }
    if (column >= inner) return;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) sink.store(outer * inner + column + j, Reduction::finish(state[j], axis));
}

} // namespace slide
