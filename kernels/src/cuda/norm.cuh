// LayerNorm and RmsNorm over rows. Knows nothing of where rows come from and go to.
#pragma once

#include "rows.cuh"

namespace slide {

/// In place of a source of biases.
struct NoBias {
    template <int WIDTH> __device__ __forceinline__ void load(long long, int, float (&)[WIDTH]) const {}
};

/// In place of a sink of statistics.
struct NoStatistics {
    __device__ __forceinline__ void store(long long, float, float) const {}
};

/// LayerNorm's further outputs: mean and inverse standard deviation of each row.
struct StoredStatistics {
    float* mean;
    float* inverse_deviation;

    __device__ __forceinline__ void store(long long row, float shift, float scale) const {
        mean[row] = shift;
        inverse_deviation[row] = scale;
    }
};

/// What a row is normalised by: (x − shift) · scale.
struct RowStatistics {
    float shift, scale;
};

/// Mean and 1 / √(variance + ε), the variance from differences to the mean. ORDINAL and ORDINAL + 1 are used.
template <int ORDINAL, class Row> __device__ __forceinline__ RowStatistics layer_statistics(Row& row, float epsilon) {
    constexpr int WIDTH = Row::WIDTH;
    float sum = 0.0f;
    row.each([&](int, int, const float(&v)[WIDTH]) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) sum += v[j];
    });
    const float length = row.length();
    const float mean = row_sum<typename Row::Group, ORDINAL>(sum) / length;
    float squares = 0.0f;
    row.each([&](int, int, const float(&v)[WIDTH]) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) squares += (v[j] - mean) * (v[j] - mean);
    });
    const float variance = row_sum<typename Row::Group, ORDINAL + 1>(squares) / length;
    return {mean, 1.0f / sqrtf(variance + epsilon)};
}

/// 0 and 1 / √(mean square + ε). ORDINAL is used.
template <int ORDINAL, class Row> __device__ __forceinline__ RowStatistics rms_statistics(Row& row, float epsilon) {
    constexpr int WIDTH = Row::WIDTH;
    float squares = 0.0f;
    row.each([&](int, int, const float(&v)[WIDTH]) {
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) squares += v[j] * v[j];
    });
    const float mean = row_sum<typename Row::Group, ORDINAL>(squares) / static_cast<float>(row.length());
    return {0.0f, 1.0f / sqrtf(mean + epsilon)};
}

enum class Norm { LAYER, RMS };

/// The body of `normalize`. With a Row that is held and TO_SINK false, the row is left normalised for whoever goes on with it.
template <Norm NORM, bool TO_SINK, class Source, class Scale, class Bias, class Sink, class Statistics> struct NormOfRow {
    const Source& source;
    const Scale& scale;
    const Bias& bias;
    const Sink& sink;
    const Statistics& kept;
    float epsilon;

    template <class Row> __device__ __forceinline__ void operator()(Row& row, long long index, bool stores) const {
        constexpr int WIDTH = Row::WIDTH;
        static_assert(TO_SINK || Row::HELD, "changes would be lost");
        row.fill(source, index);
        const Alongside<Row, Scale> scales(row, scale, index);
        const Alongside<Row, Bias> biases(row, bias, index);
        RowStatistics by;
        if constexpr (NORM == Norm::LAYER) {
            by = layer_statistics<0>(row, epsilon);
        } else {
            by = rms_statistics<0>(row, epsilon);
        }
        if (stores && Row::Group::lane() == 0) kept.store(index, by.shift, by.scale);
        if (TO_SINK && !stores) return;
        row.each([&](int slot, int i, float(&v)[WIDTH]) {
            float factors[WIDTH], offsets[WIDTH];
            scales.at(slot, i, factors);
            biases.at(slot, i, offsets);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                v[j] = (v[j] - by.shift) * by.scale * factors[j];
                if constexpr (!SameType<Bias, NoBias>::VALUE) v[j] += offsets[j];
            }
            if constexpr (TO_SINK) sink.store(index, i, v);
        });
    }
};

/// LayerNorm or RmsNorm of `rows` rows of `length` elements (read only where Row leaves it open): scale and bias are sources too, which
/// usually give the same row each time. Blocks: ⌈rows / Row::Group::ROWS⌉ of Row::Group::THREADS · Row::Group::ROWS threads.
template <class Row, Norm NORM, class Source, class Scale, class Bias, class Sink, class Statistics = NoStatistics>
__device__ __forceinline__ void normalize(const Source& source, const Scale& scale, const Bias& bias, const Sink& sink, long long rows,
                                          int length, float epsilon, float* shared = nullptr, const Statistics& kept = {}) {
    using Body = NormOfRow<NORM, true, Source, Scale, Bias, Sink, Statistics>;
    with_row<Row>(rows, length, shared, Body{source, scale, bias, sink, kept, epsilon});
}

} // namespace slide
