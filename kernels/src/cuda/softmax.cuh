// Softmax and its logarithm over rows. Knows nothing of where rows come from and go to.
#pragma once

#include "limits.cuh"
#include "rows.cuh"

namespace slide {

/// row ← softmax(row), or its logarithm. Rows of −∞ become NaN, as do those that have a NaN. ORDINAL and ORDINAL + 1 are used.
template <bool LOG, int ORDINAL, class Row> __device__ __forceinline__ void softmax_in_place(Row& row) {
    constexpr int WIDTH = Row::WIDTH;
    static_assert(Row::HELD, "changes would be lost");
    float largest = LOWEST;
    row.each([&](int, int, const float(&v)[WIDTH]) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) largest = fmaxf(largest, v[j]);
    });
    largest = row_largest<typename Row::Group, ORDINAL>(largest);
    float sum = 0.0f;
    row.each([&](int, int, float(&v)[WIDTH]) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            float power = expf(v[j] - largest);
            sum += power;
            if constexpr (!LOG) v[j] = power;
        }
    });
    sum = row_sum<typename Row::Group, ORDINAL + 1>(sum);
    const float last = LOG ? logf(sum) : 1.0f / sum;
    row.each([&](int, int, float(&v)[WIDTH]) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) v[j] = LOG ? v[j] - largest - last : v[j] * last;
    });
}

/// The body of `softmax`.
template <bool LOG, class Source, class Sink> struct SoftmaxOfRow {
    const Source& source;
    const Sink& sink;

    template <class Row> __device__ __forceinline__ void operator()(Row& row, long long index, bool stores) const {
        constexpr int WIDTH = Row::WIDTH;
        row.fill(source, index);
        if constexpr (Row::HELD) {
            softmax_in_place<LOG, 0>(row);
            if (!stores) return;
            row.each([&](int, int i, const float(&v)[WIDTH]) { sink.store(index, i, v); });
        } else {
            float largest = LOWEST;
            row.each([&](int, int, const float(&v)[WIDTH]) {
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) largest = fmaxf(largest, v[j]);
            });
            largest = row_largest<typename Row::Group, 0>(largest);
            float sum = 0.0f;
            row.each([&](int, int, const float(&v)[WIDTH]) {
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) sum += expf(v[j] - largest);
            });
            sum = row_sum<typename Row::Group, 1>(sum);
            const float last = LOG ? logf(sum) : 1.0f / sum;
            if (!stores) return;
            row.each([&](int, int i, float(&v)[WIDTH]) {
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) v[j] = LOG ? v[j] - largest - last : expf(v[j] - largest) * last;
                sink.store(index, i, v);
            });
        }
    }
};

/// Softmax of `rows` rows of `length` elements (read only where Row leaves it open). Blocks: ⌈rows / Row::Group::ROWS⌉ of
/// Row::Group::THREADS · Row::Group::ROWS threads.
template <class Row, bool LOG, class Source, class Sink>
__device__ __forceinline__ void softmax(const Source& source, const Sink& sink, long long rows, int length, float* shared = nullptr) {
    with_row<Row>(rows, length, shared, SoftmaxOfRow<LOG, Source, Sink>{source, sink});
}

} // namespace slide
