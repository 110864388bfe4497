// Rows of a matrix, each worked on by a group of threads that holds it while statistics are gathered: where its elements come from
// and go to, where they stay meanwhile, and reductions over the group. Knows nothing of what is calculated.
//
// A *source* has `template <int WIDTH> void load(long long row, int i, float (&to)[WIDTH]) const` for the elements i … i + WIDTH - 1, a
// *sink* `template <int WIDTH> void store(long long row, int i, const float (&from)[WIDTH]) const`; i is a multiple of WIDTH. Rows held in
// registers or shared memory ask for each element once (those of a block that stand in for missing rows ask for the last row's again), so
// that a source may also write what it has calculated.
#pragma once

#include "convert.cuh"
#include "vector.cuh"

namespace slide {

/// In place of a length that is known only at launch.
constexpr int AT_LAUNCH = -1;

/// Rows of a matrix in memory. Row starts are aligned for accesses of WIDTH elements, or of 16 bytes where that is less: `stride` and the
/// address are multiples of them.
template <class T> struct MatrixRows {
    const T* data;
    long long stride;

    template <int WIDTH> __device__ __forceinline__ void load(long long row, int i, float (&to)[WIDTH]) const {
        T v[WIDTH];
        load_elements(data + row * stride + i, v);
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) to[j] = to_float(v[j]);
    }
};

/// The same where each element is asked for once.
template <class T> struct RowsOnce {
    const T* data;
    long long stride;

    template <int WIDTH> __device__ __forceinline__ void load(long long row, int i, float (&to)[WIDTH]) const {
        constexpr int EACH = power_of_two_divisor(WIDTH, VECTOR_BYTES / sizeof(T));
#pragma unroll
        for (int first = 0; first < WIDTH; first += EACH) {
            const Vector<T, EACH> v = load_once<T, EACH>(data + row * stride + i + first);
#pragma unroll
            for (int j = 0; j < EACH; ++j) to[first + j] = to_float(v.element[j]);
        }
    }
};

/// One row in memory, taken for every row.
template <class T> struct SameRow {
    const T* data;

    template <int WIDTH> __device__ __forceinline__ void load(long long, int i, float (&to)[WIDTH]) const {
        MatrixRows<T>{data, 0}.load(0, i, to);
    }
};

/// Where rows are written, rounded; aligned as `MatrixRows`.
template <class T> struct MatrixSink {
    T* data;
    long long stride;

    template <int WIDTH> __device__ __forceinline__ void store(long long row, int i, const float (&from)[WIDTH]) const {
        T v[WIDTH];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) v[j] = from_float<T>(from[j]);
        store_elements(data + row * stride + i, v);
    }
};

/// THREADS_ threads per row: a power of two up to a warp, or a block of whole warps. ROWS_ rows per block of THREADS · ROWS threads.
template <int THREADS_, int ROWS_> struct RowGroup {
    static_assert(THREADS_ > 0 && (THREADS_ < 32 ? 32 % THREADS_ == 0 : THREADS_ % 32 == 0), "groups are parts of a warp or whole warps");
    static_assert(THREADS_ <= 32 || ROWS_ == 1, "a group of several warps meets at the block's barrier");
    static_assert(THREADS_ * ROWS_ % 32 == 0 && THREADS_ * ROWS_ <= 1024, "shuffles need whole warps");
    static constexpr int THREADS = THREADS_, ROWS = ROWS_, WARPS = THREADS_ * ROWS_ / 32;

    static __device__ __forceinline__ int lane() { return threadIdx.x % THREADS; }
    static __device__ __forceinline__ long long row() { return static_cast<long long>(blockIdx.x) * ROWS + threadIdx.x / THREADS; }
};

template <class State> __device__ __forceinline__ State shuffle_xor(const State& state, int lanes) {
    static_assert(sizeof(State) % 4 == 0, "registers are shuffled whole");
    struct Words {
        unsigned word[sizeof(State) / 4];
    } words = bit_cast<Words>(state);
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(State) / 4); ++i) words.word[i] = __shfl_xor_sync(~0u, words.word[i], lanes);
    return bit_cast<State>(words);
}

/// Joins the states of a row's threads, for all of them. `merge` commutes. All threads of the block call it. ORDINAL tells apart the
/// calls of one kernel with the same types: each has its own shared memory, which is not guarded against a second use.
template <class Group, int ORDINAL, class State, class Merge> __device__ __forceinline__ State reduce_row(State state, Merge merge) {
    constexpr int WITHIN = Group::THREADS < 32 ? Group::THREADS : 32;
#pragma unroll
    for (int lanes = WITHIN / 2; lanes > 0; lanes /= 2) state = merge(state, shuffle_xor(state, lanes));
    if constexpr (Group::THREADS > 32) {
        struct Words {
            unsigned word[sizeof(State) / 4];
        };
        __shared__ Words of_warp[Group::WARPS];
        if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = bit_cast<Words>(state);
        __syncthreads();
        state = bit_cast<State>(of_warp[0]);
#pragma unroll
        for (int warp = 1; warp < Group::WARPS; ++warp) state = merge(state, bit_cast<State>(of_warp[warp]));
    }
    return state;
}

template <class Group, int ORDINAL> __device__ __forceinline__ float row_sum(float v) {
    return reduce_row<Group, ORDINAL>(v, [](float a, float b) { return a + b; });
}

/// NaN counts only where there is nothing else.
template <class Group, int ORDINAL> __device__ __forceinline__ float row_largest(float v) {
    return reduce_row<Group, ORDINAL>(v, [](float a, float b) { return fmaxf(a, b); });
}

/// What all ways to hold a row share: WIDTH elements at a time, threads side by side. Lengths are multiples of WIDTH.
template <class Group_, int LENGTH_, int WIDTH_> struct RowWalk {
    static_assert(LENGTH_ == AT_LAUNCH || LENGTH_ % WIDTH_ == 0, "a row is a whole number of vectors");
    using Group = Group_;
    static constexpr int LENGTH = LENGTH_, WIDTH = WIDTH_;
    /// Elements that the group covers at a time.
    static constexpr int STEP = Group::THREADS * WIDTH;

    int launch_length;

    __device__ __forceinline__ explicit RowWalk(int length) : launch_length(length) {}
    __device__ __forceinline__ int length() const { return LENGTH == AT_LAUNCH ? launch_length : LENGTH; }
    static __device__ __forceinline__ int first() { return Group::lane() * WIDTH; }
};

/// A row in registers, of at most CAPACITY elements.
template <class Group_, int LENGTH_, int WIDTH_, int CAPACITY_ = LENGTH_> struct RegisterRow : RowWalk<Group_, LENGTH_, WIDTH_> {
    using Walk = RowWalk<Group_, LENGTH_, WIDTH_>;
    using Scalar = RegisterRow<Group_, LENGTH_, 1, CAPACITY_>;
    static constexpr int WIDTH = WIDTH_;
    static constexpr int SLOTS = (CAPACITY_ + Walk::STEP - 1) / Walk::STEP;
    static_assert(CAPACITY_ > 0, "a length known at launch only needs a capacity");
    static_assert(SLOTS * WIDTH <= 64, "more would not stay in registers: more threads per row, or a SharedRow");
    static constexpr bool IN_REGISTERS = true, HELD = true;

    float values[SLOTS][WIDTH];

    __device__ __forceinline__ RegisterRow(int length, float*) : Walk(length) {}

    template <class Source> __device__ __forceinline__ void fill(const Source& source, long long row) {
        each_slot([&](int slot, int i) { source.load(row, i, values[slot]); });
    }

    /// f(slot, i, values) for the thread's vectors, in order; f may change the values.
    template <class F> __device__ __forceinline__ void each(F f) {
        each_slot([&](int slot, int i) { f(slot, i, values[slot]); });
    }

    /// f(slot, i).
    template <class F> __device__ __forceinline__ void each_slot(F f) const {
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            int i = slot * Walk::STEP + Walk::first();
            bool always = LENGTH_ != AT_LAUNCH && (slot + 1) * Walk::STEP <= LENGTH_;
            if (always || i < this->length()) f(slot, i);
        }
    }
};

/// A row in dynamic shared memory, as f32: each thread's elements where only it looks for them, so that nothing need be waited for.
template <class Group_, int LENGTH_, int WIDTH_> struct SharedRow : RowWalk<Group_, LENGTH_, WIDTH_> {
    using Walk = RowWalk<Group_, LENGTH_, WIDTH_>;
    using Scalar = SharedRow<Group_, LENGTH_, 1>;
    static constexpr int WIDTH = WIDTH_;
    static constexpr bool IN_REGISTERS = false, HELD = true;
    /// Elements side by side: a thread's access of shared memory.
    static constexpr int PART = WIDTH < 4 ? WIDTH : 4;

    float* own;

    /// `shared`: for each of the block's rows, the length rounded up to a multiple of Walk::STEP.
    __device__ __forceinline__ SharedRow(int length, float* shared) : Walk(length) {
        int per_row = (this->length() + Walk::STEP - 1) / Walk::STEP * Walk::STEP;
        own = shared + threadIdx.x / Group_::THREADS * per_row + Group_::lane() * PART;
    }

    template <class Source> __device__ __forceinline__ void fill(const Source& source, long long row) {
#pragma unroll 4
        for (int i = Walk::first(), at = 0; i < this->length(); i += Walk::STEP, at += Walk::STEP) {
            float v[WIDTH];
            source.load(row, i, v);
            write(at, v);
        }
    }

    template <class F> __device__ __forceinline__ void each(F f) {
#pragma unroll 2
        for (int i = Walk::first(), at = 0; i < this->length(); i += Walk::STEP, at += Walk::STEP) {
            float v[WIDTH];
#pragma unroll
            for (int part = 0; part < WIDTH; part += PART) {
                Vector<float, PART> from = load_vector<float, PART>(own + at + part * Group_::THREADS);
#pragma unroll
                for (int j = 0; j < PART; ++j) v[part + j] = from.element[j];
            }
            f(at / Walk::STEP, i, v);
            write(at, v);
        }
    }

  private:
    __device__ __forceinline__ void write(int at, const float (&v)[WIDTH]) {
#pragma unroll
        for (int part = 0; part < WIDTH; part += PART) {
            Vector<float, PART> to;
#pragma unroll
            for (int j = 0; j < PART; ++j) to.element[j] = v[part + j];
            store_vector<float, PART>(own + at + part * Group_::THREADS, to);
        }
    }
};

/// A row of any length that is not held: its source is asked anew each time, and changes are lost.
template <class Group_, int LENGTH_, int WIDTH_, class Source> struct ReloadedRow : RowWalk<Group_, LENGTH_, WIDTH_> {
    using Walk = RowWalk<Group_, LENGTH_, WIDTH_>;
    using Scalar = ReloadedRow<Group_, LENGTH_, 1, Source>;
    static constexpr int WIDTH = WIDTH_;
    static constexpr bool IN_REGISTERS = false, HELD = false;

    const Source* source;
    long long row;

    __device__ __forceinline__ ReloadedRow(int length, float*) : Walk(length) {}

    __device__ __forceinline__ void fill(const Source& from, long long index) {
        source = &from;
        row = index;
    }

    template <class F> __device__ __forceinline__ void each(F f) const {
#pragma unroll 4
        for (int i = Walk::first(), slot = 0; i < this->length(); i += Walk::STEP, ++slot) {
            float v[WIDTH];
            source->load(row, i, v);
            f(slot, i, v);
        }
    }
};

/// A second row, as a scale or a bias, by the elements of a `Row`: read ahead if that is in registers, else when asked for.
template <class Row, class Source, bool AHEAD = Row::IN_REGISTERS> struct Alongside {
    const Source& source;
    long long row;

    __device__ __forceinline__ Alongside(const Row&, const Source& source, long long row) : source(source), row(row) {}
    __device__ __forceinline__ void at(int, int i, float (&to)[Row::WIDTH]) const { source.load(row, i, to); }
};

template <class Row, class Source> struct Alongside<Row, Source, true> {
    float values[Row::SLOTS][Row::WIDTH];

    __device__ __forceinline__ Alongside(const Row& shape, const Source& source, long long row) {
        shape.each_slot([&](int slot, int i) { source.load(row, i, values[slot]); });
    }
    __device__ __forceinline__ void at(int slot, int, float (&to)[Row::WIDTH]) const {
#pragma unroll
        for (int j = 0; j < Row::WIDTH; ++j) to[j] = values[slot][j];
    }
};

/// Calls body(row, index, stores) with a Row, or one by single elements where the length at launch is not a whole number of vectors. Groups
/// past the last row work on it too, for the barriers' sake; `stores` is false for them.
template <class Row, class Body>
__device__ __forceinline__ void with_row(long long rows, int length, float* shared, const Body& body) {
    const long long row = Row::Group::row();
    const bool stores = row < rows;
    const long long index = stores ? row : rows - 1;
    if constexpr (Row::LENGTH == AT_LAUNCH && Row::WIDTH > 1) {
        if (length % Row::WIDTH != 0) {
            typename Row::Scalar scalar(length, shared);
            body(scalar, index, stores);
            return;
        }
    }
    Row whole(length, shared);
    body(whole, index, stores);
}

} // namespace slide
