// From rows in which the heads of queries, keys and values lie side by side, as a product gives them, to where each is wanted: the sums are
// scaled back, the pairs of heads turned (rotary position embedding), and everything is stored where generated code says. The numbers are
// those of the CPU's steps: each result is rounded to its type.
#pragma once

#include "convert.cuh"
#include "element.cuh"
#include "vector.cuh"

namespace slide {

/// Rows of N elements; `To` is what their values are rounded to.
template <class T, class To, int N> struct PlainSums {
    using Raw = T;
    using Result = To;
    static constexpr int LENGTH = N;
    const T* values;

    struct Row {};
    template <int WIDTH> struct Columns {};

    __device__ __forceinline__ Row row(long long) const { return {}; }
    template <int WIDTH> __device__ __forceinline__ Columns<WIDTH> columns(int) const { return {}; }

    template <int WIDTH> __device__ __forceinline__ void finish(const T (&raw)[WIDTH], Row, const Columns<WIDTH>&, float (&y)[WIDTH]) const {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            y[i] = rounded<To>(to_float(raw[i]));
        }
    }
};

/// Rows of N elements plus one row of type B for all, which is the sum's type too.
template <class T, class B, class To, int N> struct AddedSums {
    using Raw = T;
    using Result = To;
    static constexpr int LENGTH = N;
    const T* values;
    const B* bias;

    struct Row {};
    template <int WIDTH> struct Columns {
        B bias[WIDTH];
    };

    __device__ __forceinline__ Row row(long long) const { return {}; }
    template <int WIDTH> __device__ __forceinline__ Columns<WIDTH> columns(int column) const {
        Columns<WIDTH> along;
        load_elements(bias + column, along.bias);
        return along;
    }

    template <int WIDTH>
    __device__ __forceinline__ void finish(const T (&raw)[WIDTH], Row, const Columns<WIDTH>& along, float (&y)[WIDTH]) const {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            float sum = __fadd_rn(rounded<B>(to_float(raw[i])), to_float(along.bias[i]));
            y[i] = rounded<To>(rounded<B>(sum));
        }
    }
};

/// Rows of N sums of a quantized product: scaled back per token and channel, plus a bias where BIAS, as in `dequant.cuh`.
template <class Acc, class To, int N, bool BIAS> struct ScaledSums {
    using Raw = Acc;
    using Result = To;
    static constexpr int LENGTH = N;
    const Acc* values;
    const float* token_scale;
    const float* channel_scale;
    const float* bias;

    struct Row {
        float scale;
    };
    template <int WIDTH> struct Columns {
        float scale[WIDTH];
        float bias[BIAS ? WIDTH : 1];
    };

    __device__ __forceinline__ Row row(long long at) const { return {token_scale[at]}; }
    template <int WIDTH> __device__ __forceinline__ Columns<WIDTH> columns(int column) const {
        Columns<WIDTH> along;
        load_elements(channel_scale + column, along.scale);
        if constexpr (BIAS) {
            load_elements(bias + column, along.bias);
        }
        return along;
    }

    template <int WIDTH>
    __device__ __forceinline__ void finish(const Acc (&raw)[WIDTH], Row row, const Columns<WIDTH>& along, float (&y)[WIDTH]) const {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            // Never fused to a multiply-add, which rounds differently.
            float scaled = __fmul_rn(__fmul_rn(to_float(raw[i]), row.scale), along.scale[i]);
            if constexpr (BIAS) {
                scaled = __fadd_rn(scaled, along.bias[i]);
            }
            y[i] = rounded<To>(scaled);
        }
    }
};

/// A row: its number, and which token of which batch it is.
struct HeadRow {
    long long row;
    int batch;
    int token;
};

/// Cosines and sines of PAIRS angles for each token, of each batch or the same for all.
template <class T, int PAIRS> struct Angles {
    const T* cos;
    const T* sin;
    bool cos_of_batch;
    bool sin_of_batch;

    template <int WIDTH> __device__ __forceinline__ void load(const HeadRow& at, int pair, T (&c)[WIDTH], T (&s)[WIDTH]) const {
        load_elements(cos + (cos_of_batch ? at.row : at.token) * PAIRS + pair, c);
        load_elements(sin + (sin_of_batch ? at.row : at.token) * PAIRS + pair, s);
    }
};

/// Where the pairs of neighbouring elements are, for spans of WIDTH elements. Halves: one of each pair in each of two spans. Neighbours: both
/// in one span.
template <bool INTERLEAVED, int WIDTH> struct Pairs;
template <int WIDTH> struct Pairs<false, WIDTH> {
    static constexpr int SPANS = 2;
    static constexpr int COUNT = WIDTH;
    static __device__ __forceinline__ float& first(float (&y)[2][WIDTH], int pair) { return y[0][pair]; }
    static __device__ __forceinline__ float& second(float (&y)[2][WIDTH], int pair) { return y[1][pair]; }
};
template <int WIDTH> struct Pairs<true, WIDTH> {
    static constexpr int SPANS = 1;
    static constexpr int COUNT = WIDTH / 2;
    static __device__ __forceinline__ float& first(float (&y)[1][WIDTH], int pair) { return y[0][2 * pair]; }
    static __device__ __forceinline__ float& second(float (&y)[1][WIDTH], int pair) { return y[0][2 * pair + 1]; }
};

/// The rows that a thread has under way at once.
template <int ROWS> struct HeadRows {
    HeadRow at[ROWS];
    /// So many are there; the others are the last one again, and are not stored.
    int count;

    __device__ __forceinline__ HeadRows(long long first, long long rows, int tokens) : count(static_cast<int>(min(rows - first, static_cast<long long>(ROWS)))) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            int row = static_cast<int>(first) + min(i, count - 1);
            at[i] = {row, row / tokens, row % tokens};
        }
    }
};

/// The sums of some rows at SPANS spans of WIDTH columns, all loads under way together.
template <class Sums, int ROWS, int SPANS, int WIDTH> struct HeadSpans {
    typename Sums::Raw raw[ROWS][SPANS][WIDTH];
    typename Sums::Row row[ROWS];
    typename Sums::template Columns<WIDTH> along[SPANS];

    __device__ __forceinline__ HeadSpans(const Sums& sums, const HeadRows<ROWS>& rows, const int (&column)[SPANS]) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            row[i] = sums.row(rows.at[i].row);
#pragma unroll
            for (int span = 0; span < SPANS; ++span) {
                load_elements(sums.values + rows.at[i].row * Sums::LENGTH + column[span], raw[i][span]);
            }
        }
#pragma unroll
        for (int span = 0; span < SPANS; ++span) {
            along[span] = sums.template columns<WIDTH>(column[span]);
        }
    }
};

/// Columns START … START + COLUMNS as they are. `store(row, column, values)` stores WIDTH of them; columns count from START.
template <int WIDTH, int START, int COLUMNS, class Store> struct StraightColumns {
    static constexpr int UNITS = COLUMNS / WIDTH;
    static_assert(COLUMNS % WIDTH == 0 && START % WIDTH == 0, "whole vectors");
    Store store;

    template <int ROWS, class Sums> __device__ __forceinline__ void run(const Sums& sums, const HeadRows<ROWS>& rows, int unit) const {
        const int column[1] = {START + unit * WIDTH};
        const HeadSpans<Sums, ROWS, 1, WIDTH> spans(sums, rows, column);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            if (i < rows.count) {
                float y[WIDTH];
                sums.finish(spans.raw[i][0], spans.row[i], spans.along[0], y);
                store(rows.at[i], column[0] - START, y);
            }
        }
    }
};

template <int WIDTH, int START, int COLUMNS, class Store>
__device__ __forceinline__ StraightColumns<WIDTH, START, COLUMNS, Store> straight_columns(const Store& store) {
    return {store};
}

/// HEADS heads of DEPTH elements from column START on, of which the first TURNED are turned in pairs; otherwise as `StraightColumns`.
template <int WIDTH, int START, int HEADS, int DEPTH, int TURNED, bool INTERLEAVED, class T, class Store> struct TurnedHeads {
    using Pair = Pairs<INTERLEAVED, WIDTH>;
    static constexpr int SPANS = Pair::SPANS;
    static constexpr int TURNING = TURNED / (SPANS * WIDTH);
    static constexpr int EACH = TURNING + (DEPTH - TURNED) / WIDTH;
    static constexpr int UNITS = HEADS * EACH;
    static_assert(TURNED % (SPANS * WIDTH) == 0 && DEPTH % WIDTH == 0 && START % WIDTH == 0, "whole vectors");
    static_assert(!INTERLEAVED || WIDTH > 1, "a vector holds pairs");
    Angles<T, TURNED / 2> angles;
    Store store;

    template <int ROWS, class Sums> __device__ __forceinline__ void run(const Sums& sums, const HeadRows<ROWS>& rows, int unit) const {
        const int head = unit / EACH * DEPTH;
        const int at = unit % EACH;
        if (at >= TURNING) {
            const int rest[1] = {START + head + TURNED + (at - TURNING) * WIDTH};
            const HeadSpans<Sums, ROWS, 1, WIDTH> spans(sums, rows, rest);
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                if (i < rows.count) {
                    float y[WIDTH];
                    sums.finish(spans.raw[i][0], spans.row[i], spans.along[0], y);
                    store(rows.at[i], rest[0] - START, y);
                }
            }
            return;
        }
        int column[SPANS];
#pragma unroll
        for (int span = 0; span < SPANS; ++span) {
            column[span] = START + head + at * WIDTH + span * (TURNED / 2);
        }
        T cos[ROWS][Pair::COUNT], sin[ROWS][Pair::COUNT];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            angles.load(rows.at[i], at * Pair::COUNT, cos[i], sin[i]);
        }
        const HeadSpans<Sums, ROWS, SPANS, WIDTH> spans(sums, rows, column);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            if (i < rows.count) {
                float y[SPANS][WIDTH];
#pragma unroll
                for (int span = 0; span < SPANS; ++span) {
                    sums.finish(spans.raw[i][span], spans.row[i], spans.along[span], y[span]);
                }
#pragma unroll
                for (int pair = 0; pair < Pair::COUNT; ++pair) {
                    float& first = Pair::first(y, pair);
                    float& second = Pair::second(y, pair);
                    const float a = first, b = second, c = to_float(cos[i][pair]), s = to_float(sin[i][pair]);
                    // Never fused to multiply-adds, which round differently.
                    first = rounded<typename Sums::Result>(__fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s)));
                    second = rounded<typename Sums::Result>(__fadd_rn(__fmul_rn(b, c), __fmul_rn(a, s)));
                }
#pragma unroll
                for (int span = 0; span < SPANS; ++span) {
                    store(rows.at[i], column[span] - START, y[span]);
                }
            }
        }
    }
};

template <int WIDTH, int START, int HEADS, int DEPTH, int TURNED, bool INTERLEAVED, class T, class Store>
__device__ __forceinline__ TurnedHeads<WIDTH, START, HEADS, DEPTH, TURNED, INTERLEAVED, T, Store>
turned_heads(const Angles<T, TURNED / 2>& angles, const Store& store) {
    return {angles, store};
}

/// Stores values as T, rounded to each of `Between` first.
template <class T, class... Between, int WIDTH> __device__ __forceinline__ void put_elements(T* to, const float (&values)[WIDTH]) {
    T elements[WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
        float v = values[i];
        ((v = rounded<Between>(v)), ...);
        elements[i] = from_float<T>(v);
    }
    store_elements(to, elements);
}

/// The place of a column, of heads of DEPTH, in [batch, HEADS, tokens, DEPTH].
template <int HEADS, int DEPTH> __device__ __forceinline__ long long heads_first(const HeadRow& at, int column, int tokens) {
    return ((static_cast<long long>(at.batch) * HEADS + column / DEPTH) * tokens + at.token) * DEPTH + column % DEPTH;
}

/// All parts of `rows` rows of sums, which are of `tokens` tokens for each batch.
///
/// Launch: blocks of THREADS threads, ⌈UNITS / THREADS⌉ · ⌈rows / ROWS⌉ of them, columns first; UNITS is the parts' added up. Pointers are
/// multiples of 16 bytes.
template <int THREADS, int ROWS, int UNITS, class Sums, class... Parts>
__device__ __forceinline__ void heads(const Sums& sums, long long rows, int tokens, const Parts&... parts) {
    static_assert((Parts::UNITS + ...) == UNITS, "as the plan launches it");
    constexpr int ACROSS = (UNITS + THREADS - 1) / THREADS;
    int unit = static_cast<int>(blockIdx.x % ACROSS) * THREADS + static_cast<int>(threadIdx.x);
    if (unit >= UNITS) {
        return;
    }
    const HeadRows<ROWS> some(static_cast<long long>(blockIdx.x / ACROSS) * ROWS, rows, tokens);
    // Those before the part that the unit belongs to are passed by; behind it there are no units left.
    ((unit >= 0 && unit < Parts::UNITS ? parts.template run<ROWS>(sums, some, unit) : void(), unit -= Parts::UNITS), ...);
}

} // namespace slide
