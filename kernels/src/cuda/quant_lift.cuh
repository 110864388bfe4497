// Quantize and lift rows in one kernel: the input is read once, the lifted row leaves in whole 16-byte vectors. The definition is in
// `docs/method.md`; fed the same input, this and the CPU give the same bytes (but for the payload of NaNs that are only lifted).
#pragma once

#include "absmax.cuh"
#include "convert.cuh"
#include "lift.cuh"
#include "quantize.cuh"
#include "vector.cuh"

namespace slide {

/// How rows are shared out: THREADS threads to a row, ROWS rows to a block of THREADS · ROWS threads.
template <int THREADS_PER_ROW, int ROWS_PER_BLOCK> struct RowTile {
    static constexpr int THREADS = THREADS_PER_ROW;
    static constexpr int ROWS = ROWS_PER_BLOCK;
    static_assert(THREADS % WARP == 0, "rows are reduced by whole warps");
    static_assert(ROWS == 1 || THREADS == WARP, "rows that share a block wait for each other only warp by warp");
    static_assert(THREADS * ROWS <= 1024, "a block has at most 1024 threads");
};

/// How a row is converted, all of it known at compile time. HELD_WIDTH: elements side by side of a row that is held already; 0 where the
/// widest loads decide.
template <class In, class Out, int N, int K, class Tile, int HELD_WIDTH = 0> struct QuantLiftShape {
    using Layout = LiftLayout<N, K>;
    static constexpr bool SCALED = Quantized<Out>::SCALED;
    /// Elements that a thread loads at once.
    static constexpr int WIDEST = vector_width<In>(K) * sizeof(Out) > VECTOR_BYTES ? VECTOR_BYTES / sizeof(Out) : vector_width<In>(K);
    static constexpr int WIDTH = HELD_WIDTH > 0 ? HELD_WIDTH : WIDEST;

    /// Static shared memory for lifted rows; blocks may have 48 KiB, of which reductions take a little.
    static constexpr int SHARED_BYTES = 47 * 1024 / Tile::ROWS;
    /// Elements whose lifted places take whole 16-byte vectors, and which are whole vectors themselves.
    static constexpr int UNIT = 16 * 2 * N;
    static constexpr int UNIT_BYTES = 16 * Layout::LIFTED_BLOCK * sizeof(Out);

    /// Rows that do not fit in shared memory are lifted in segments of equal size. Padding at the end goes with the last one.
    static constexpr int segments() {
        long long bytes = static_cast<long long>(Layout::LIFTED) * sizeof(Out);
        if (Layout::IN_PLACE || bytes <= SHARED_BYTES) {
            return 1;
        }
        // Less a unit for rounding up and less the padding, so that every segment fits.
        int usable = SHARED_BYTES - UNIT_BYTES - LIFT_ALIGN * static_cast<int>(sizeof(Out));
        return static_cast<int>((bytes + usable - 1) / usable);
    }
    static constexpr int SEGMENTS = segments();
    static constexpr int SEGMENT = SEGMENTS == 1 ? K : ((K + SEGMENTS - 1) / SEGMENTS + UNIT - 1) / UNIT * UNIT;
    static constexpr int SEGMENT_LIFTED = SEGMENTS == 1 ? Layout::LIFTED : SEGMENT / (2 * N) * Layout::LIFTED_BLOCK + LIFT_ALIGN;
    static constexpr int SHARED = Layout::IN_PLACE ? 1 : SEGMENT_LIFTED;
    static_assert(Layout::IN_PLACE || SHARED * sizeof(Out) * Tile::ROWS <= 48 * 1024, "a segment's lifted elements fit in shared memory");

    /// Vectors of one segment that a thread holds.
    static constexpr int VECTORS = (SEGMENT / WIDTH + Tile::THREADS - 1) / Tile::THREADS;
    /// Whether the row stays in registers between the reduction and the conversion; else it is read twice, from L2 the second time.
    static constexpr int VECTOR_REGISTERS = (WIDTH * static_cast<int>(sizeof(In)) + 3) / 4;
    static constexpr bool STAGED = SEGMENTS == 1 && VECTORS * VECTOR_REGISTERS <= 40;
};

/// Loads elements of a row, which are `index`ed when K is permuted.
template <class In, int WIDTH, bool PERMUTED>
__device__ __forceinline__ Vector<In, WIDTH> load_elements(const In* row, const int* index, int at) {
    if constexpr (PERMUTED) {
        constexpr int INDICES = WIDTH < 4 ? WIDTH : 4;
        Vector<In, WIDTH> x;
#pragma unroll
        for (int i = 0; i < WIDTH; i += INDICES) {
            Vector<int, INDICES> from = load_vector<int, INDICES>(index + at + i);
#pragma unroll
            for (int j = 0; j < INDICES; ++j) {
                x.element[i + j] = row[from.element[j]];
            }
        }
        return x;
    } else {
        return load_vector<In, WIDTH>(row + at);
    }
}

/// One row's work; the members are what its threads share.
template <class In, class Out, int N, int K, class Tile, bool PERMUTED, int HELD_WIDTH = 0> struct QuantLiftRow {
    using Shape = QuantLiftShape<In, Out, N, K, Tile, HELD_WIDTH>;
    using Layout = typename Shape::Layout;
    using X = Vector<In, Shape::WIDTH>;
    static constexpr int STRIDE = Tile::THREADS * Shape::WIDTH;
    /// Vectors under way at once: all of a staged or held row, which is in registers then, else enough loads.
    static constexpr int UNROLL = HELD_WIDTH > 0 || Shape::STAGED || Shape::VECTORS < 4 ? Shape::VECTORS : 4;

    const In* x;
    const int* index;
    Out* out;
    Out* lifted;
    int thread;

    __device__ __forceinline__ X load(int at) const { return load_elements<In, Shape::WIDTH, PERMUTED>(x, index, at); }

    /// To its place in the output or, lifted, in shared memory.
    __device__ __forceinline__ void put(const Vector<Out, Shape::WIDTH>& y, int at, int segment) const {
        if constexpr (Layout::IN_PLACE) {
            store_vector(out + at, y);
        } else {
            lift<N>(y, at - segment, lifted);
        }
    }

    /// Zeros where no element goes; they are written before any element is, and waited for.
    __device__ __forceinline__ void pad() const {
        if constexpr (Layout::IN_PLACE) {
            for (int i = K + thread; i < Layout::LIFTED; i += Tile::THREADS) {
                out[i] = bit_cast<Out>(BitsOf<sizeof(Out)>{});
            }
        } else {
            constexpr int START = Layout::WHOLE - (Shape::SEGMENTS - 1) * (Shape::SEGMENT / (2 * N) * Layout::LIFTED_BLOCK);
            constexpr int END = Layout::LIFTED - Layout::WHOLE + START;
            if constexpr (START < END) {
                for (int i = START + thread; i < END; i += Tile::THREADS) {
                    lifted[i] = bit_cast<Out>(BitsOf<sizeof(Out)>{});
                }
            }
        }
    }

    /// Converts a segment's elements, which `get(at, vector)` gives, and writes them out.
    template <int UNROLLED, class Get, class Convert> __device__ __forceinline__ void write(int number, const Get& get, const Convert& convert) const {
        int segment = number * Shape::SEGMENT;
        int end = min(K, segment + Shape::SEGMENT);
#pragma unroll(UNROLLED)
        for (int v = 0; v < Shape::VECTORS; ++v) {
            int at = segment + thread * Shape::WIDTH + v * STRIDE;
            if (at < end) {
                put(convert(get(at, v)), at, segment);
            }
        }
        if constexpr (!Layout::IN_PLACE) {
            sync_row<Tile::THREADS>();
            constexpr int WIDTH = VECTOR_BYTES / sizeof(Out);
            constexpr int FULL = Shape::SEGMENT / (2 * N) * Layout::LIFTED_BLOCK;
            int start = number * FULL;
            int count = number + 1 < Shape::SEGMENTS ? FULL : Layout::LIFTED - start;
#pragma unroll 4
            for (int i = thread * WIDTH; i < count; i += Tile::THREADS * WIDTH) {
                store_vector(out + start + i, load_vector<Out, WIDTH>(lifted + i));
            }
        }
    }

    /// All segments; the only one has been padded already.
    template <int UNROLLED, class Get, class Convert> __device__ __forceinline__ void write_all(const Get& get, const Convert& convert) const {
        for (int number = 0; number < Shape::SEGMENTS; ++number) {
            if (number > 0) {
                sync_row<Tile::THREADS>();
            }
            if (Shape::SEGMENTS > 1 && number + 1 == Shape::SEGMENTS) {
                pad();
                sync_row<Tile::THREADS>();
            }
            write<UNROLLED>(number, get, convert);
        }
    }

    template <class Get> __device__ __forceinline__ void quantize_all(const Get& get, unsigned absmax, float* reported) const {
        const RowScale scale = row_scale<Out>(absmax);
        if (thread == 0) {
            *reported = scale.reported;
        }
        write_all<UNROLL>(get, [&](const X& v) { return quantize<Out>(v, scale); });
    }

    /// Only rounded.
    template <class Get> __device__ __forceinline__ void convert_all(const Get& get) const {
        write_all<UNROLL>(get, [](const X& v) {
            Vector<Out, Shape::WIDTH> y;
#pragma unroll
            for (int i = 0; i < Shape::WIDTH; ++i) {
                y.element[i] = convert<Out>(v.element[i]);
            }
            return y;
        });
    }

    /// Pads the row when it is one segment.
    __device__ __forceinline__ void begin() const {
        if constexpr (Shape::SEGMENTS == 1) {
            pad();
            // A block's reduction waits by itself.
            if constexpr (!Layout::IN_PLACE && K % (2 * N) != 0 && (!Shape::SCALED || Tile::THREADS == WARP)) {
                sync_row<Tile::THREADS>();
            }
        }
    }

    /// All of the row.
    __device__ __forceinline__ void load_all(X (&to)[Shape::VECTORS]) const {
#pragma unroll
        for (int v = 0; v < Shape::VECTORS; ++v) {
            int at = thread * Shape::WIDTH + v * STRIDE;
            to[v] = at < K ? load(at) : X{};
        }
    }

    /// The row in registers, all of it, of whoever calculated it; it has begun.
    __device__ __forceinline__ void convert_held(const X (&held)[Shape::VECTORS], float* reported) const {
        static_assert(Shape::SEGMENTS == 1, "longer rows are not held");
        auto get = [&](int, int v) { return held[v]; };
        if constexpr (Shape::SCALED) {
            Absmax<In> absmax;
#pragma unroll
            for (int v = 0; v < Shape::VECTORS; ++v) {
                absmax.add(held[v]);
            }
            quantize_all(get, row_max<Tile::THREADS>(absmax.bits()), reported);
        } else {
            convert_all(get);
        }
    }

    __device__ __forceinline__ void run(float* reported) const {
        begin();
        auto load_again = [&](int at, int) { return load(at); };
        if constexpr (!Shape::SCALED) {
            convert_all(load_again);
        } else if constexpr (Shape::STAGED) {
            X staged[Shape::VECTORS];
            load_all(staged);
            Absmax<In> absmax;
#pragma unroll
            for (int v = 0; v < Shape::VECTORS; ++v) {
                absmax.add(staged[v]);
            }
            quantize_all([&](int, int v) { return staged[v]; }, row_max<Tile::THREADS>(absmax.bits()), reported);
        } else {
            Absmax<In> absmax;
#pragma unroll 4
            for (int at = thread * Shape::WIDTH; at < K; at += STRIDE) {
                absmax.add(load(at));
            }
            quantize_all(load_again, row_max<Tile::THREADS>(absmax.bits()), reported);
        }
    }
};

/// Converts rows x [rows, K] of bf16, f16 or f32 to out [rows, LIFTED] in lifted order: int8 or E4M3 with a scale [rows] per row, or bf16,
/// f16 or f32, which are only rounded (`scale` is not read). N = 1 stands for dense rows.
///
/// Launch: blocks of Tile::THREADS · Tile::ROWS threads, ⌈rows / Tile::ROWS⌉ of them, no dynamic shared memory. Pointers are multiples of
/// 16 bytes. With PERMUTED, element k of a row is x[index[k]], index [K].
template <class In, class Out, int N, int K, int LIFTED, class Tile, bool PERMUTED = false>
__device__ __forceinline__ void quant_lift(const In* x, Out* out, float* scale, long long rows, const int* index = nullptr) {
    static_assert(LIFTED == LiftLayout<N, K>::LIFTED, "the lifted extent is that of the method's definition");
    using Row = QuantLiftRow<In, Out, N, K, Tile, PERMUTED>;
    alignas(VECTOR_BYTES) __shared__ BitsOf<sizeof(Out)> lifted[Tile::ROWS * Row::Shape::SHARED];
    int of_block = Tile::ROWS == 1 ? 0 : threadIdx.x / Tile::THREADS;
    long long row = static_cast<long long>(blockIdx.x) * Tile::ROWS + of_block;
    if (row >= rows) {
        return;
    }
    Out* shared = reinterpret_cast<Out*>(lifted) + of_block * Row::Shape::SHARED;
    int thread = Tile::ROWS == 1 ? threadIdx.x : threadIdx.x % Tile::THREADS;
    Row{x + row * K, index, out + row * LIFTED, shared, thread}.run(scale + row);
}

/// A row's vectors as a thread holds them that works along it as `Held` of `rows.cuh` does; those beyond the row are zeros.
template <class In, class Held> struct PackedRow {
    Vector<In, Held::WIDTH> vector[Held::SLOTS] = {};
};

/// As `quant_lift`, of a row in registers. Whole groups call it, one call per kernel.
template <class Out, int N, int K, int LIFTED, class In, class Held>
__device__ __forceinline__ void quant_lift_held(const PackedRow<In, Held>& row, long long index, Out* out, float* scale) {
    static_assert(LIFTED == LiftLayout<N, K>::LIFTED, "the lifted extent is that of the method's definition");
    using Tile = RowTile<Held::Group::THREADS, Held::Group::ROWS>;
    using Row = QuantLiftRow<In, Out, N, K, Tile, false, Held::WIDTH>;
    alignas(VECTOR_BYTES) __shared__ BitsOf<sizeof(Out)> lifted[Tile::ROWS * Row::Shape::SHARED];
    int of_block = threadIdx.x / Tile::THREADS;
    Out* shared = reinterpret_cast<Out*>(lifted) + of_block * Row::Shape::SHARED;
    const Row lift{nullptr, nullptr, out + index * LIFTED, shared, static_cast<int>(threadIdx.x % Tile::THREADS)};
    lift.begin();
    lift.convert_held(row.vector, scale + index);
}

} // namespace slide
