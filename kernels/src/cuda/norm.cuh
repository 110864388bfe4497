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

template <Norm NORM, int ORDINAL, class Row> __device__ __forceinline__ RowStatistics statistics(Row& row, float epsilon) {
    if constexpr (NORM == Norm::LAYER) {
        return layer_statistics<ORDINAL>(row, epsilon);
    } else {
        return rms_statistics<ORDINAL>(row, epsilon);
    }
}

/// Normalises elements by a row's statistics.
template <class Bias, int WIDTH>
__device__ __forceinline__ void normalize_elements(float (&v)[WIDTH], const RowStatistics& by, const float (&factors)[WIDTH],
                                                   const float (&offsets)[WIDTH]) {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        v[j] = (v[j] - by.shift) * by.scale * factors[j];
        if constexpr (!SameType<Bias, NoBias>::VALUE) v[j] += offsets[j];
    }
}

/// Normalises a row that is held, for whoever goes on with it. ORDINAL and ORDINAL + 1 are used.
template <Norm NORM, int ORDINAL, class Row, class Scale, class Bias>
__device__ __forceinline__ void normalize_held(Row& row, const Scale& scale, const Bias& bias, long long index, float epsilon) {
    constexpr int WIDTH = Row::WIDTH;
    static_assert(Row::HELD, "changes would be lost");
    const Alongside<Row, Scale> scales(row, scale, index);
    const Alongside<Row, Bias> biases(row, bias, index);
    const RowStatistics by = statistics<NORM, ORDINAL>(row, epsilon);
    row.each([&](int slot, int i, float(&v)[WIDTH]) {
        float factors[WIDTH], offsets[WIDTH];
        scales.at(slot, i, factors);
        biases.at(slot, i, offsets);
        normalize_elements<Bias>(v, by, factors, offsets);
    });
}

/// The body of `normalize`.
template <Norm NORM, class Source, class Scale, class Bias, class Sink, class Statistics> struct NormOfRow {
    const Source& source;
    const Scale& scale;
    const Bias& bias;
    const Sink& sink;
    const Statistics& kept;
    float epsilon;

    template <class Row> __device__ __forceinline__ void operator()(Row& row, long long index, bool stores) const {
        constexpr int WIDTH = Row::WIDTH;
        row.fill(source, index);
        const Alongside<Row, Scale> scales(row, scale, index);
        const Alongside<Row, Bias> biases(row, bias, index);
        const RowStatistics by = statistics<NORM, 0>(row, epsilon);
        if (stores && Row::Group::lane() == 0) kept.store(index, by.shift, by.scale);
        if (!stores) return;
        row.each([&](int slot, int i, float(&v)[WIDTH]) {
            float factors[WIDTH], offsets[WIDTH];
            scales.at(slot, i, factors);
            biases.at(slot, i, offsets);
            normalize_elements<Bias>(v, by, factors, offsets);
            sink.store(index, i, v);
        });
    }
};

/// LayerNorm or RmsNorm of `rows` rows of `length` elements (read only where Row leaves it open): scale and bias are sources too, which
/// usually give the same row each time. Blocks: ⌈rows / Row::Group::ROWS⌉ of Row::Group::THREADS · Row::Group::ROWS threads.
template <class Row, Norm NORM, class Source, class Scale, class Bias, class Sink, class Statistics = NoStatistics>
__device__ __forceinline__ void normalize(const Source& source, const Scale& scale, const Bias& bias, const Sink& sink, long long rows,
                                          int length, float epsilon, float* shared = nullptr, const Statistics& kept = {}) {
    using Body = NormOfRow<NORM, Source, Scale, Bias, Sink, Statistics>;
    with_row<Row>(rows, length, shared, Body{source, scale, bias, sink, kept, epsilon});
}

} // namespace slide
