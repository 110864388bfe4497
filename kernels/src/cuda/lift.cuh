// The lifted order of a row of K elements for the pattern (2N-2):2N (`docs/method.md`). Knows nothing of scales or rows.
//
// Lifted elements come in windows of four, two pairs of neighbouring source elements. In units of pairs a block has N of them and
// N-1 windows, window w holding pairs w and w+1: pair p = b·N + w begins window b·(N-1) + w unless it is its block's last, and ends the
// window before unless it is its block's first. So each pair goes to at most two places, and the places of neighbours are neighbours.
#pragma once

#include "vector.cuh"

namespace slide {

/// Lifted extents are multiples of this.
constexpr int LIFT_ALIGN = 64;

/// The lifted order of K elements; N = 1 stands for dense rows, which stay as they are.
template <int N, int K> struct LiftLayout {
    static_assert(N >= 1 && N <= 8, "N = 1 is a dense row, 2 to 8 are the patterns 2:4 to 14:16");
    static_assert(K > 0, "a row has elements");
    /// Whether elements keep their places: also for 2:4, whose blocks are one window each.
    static constexpr bool IN_PLACE = N <= 2;
    static constexpr int BLOCK = 2 * N;
    static constexpr int LIFTED_BLOCK = 4 * (N - 1);
    /// Lifted elements of whole blocks.
    static constexpr int WHOLE = K / BLOCK * LIFTED_BLOCK;
    static constexpr int LIFTED =
        N == 1 ? K : ((K + BLOCK - 1) / BLOCK * LIFTED_BLOCK + LIFT_ALIGN - 1) / LIFT_ALIGN * LIFT_ALIGN;
};

/// Writes the elements source … source + WIDTH - 1 of a row to their lifted places in `lifted`, in shared memory. Places that no element
/// goes to are not written.
template <int N, class T, int WIDTH> __device__ __forceinline__ void lift(const Vector<T, WIDTH>& x, int source, T* lifted) {
    constexpr unsigned LAST = N - 1;
    static_assert(N > 2, "up to 2:4 elements keep their places");
    if constexpr (WIDTH == 1) {
        unsigned pair = source / 2u, half = source % 2u;
        unsigned in_block = pair % N, window = pair / N * LAST + in_block;
        if (in_block > 0) {
            lifted[4 * window - 2 + half] = x.element[0];
        }
        if (in_block < LAST) {
            lifted[4 * window + half] = x.element[0];
        }
    } else {
        constexpr int PAIRS = WIDTH / 2;
        using Pair = BitsOf<2 * sizeof(T)>;
        using Window = BitsOf<4 * sizeof(T)>;
        struct alignas(sizeof(Window)) TwoPairs {
            Pair first, second;
        };
        struct Pairs {
            Pair pair[PAIRS];
        };
        Pairs from = bit_cast<Pairs>(x);
        unsigned pair = source / 2u;
        // Where vectors hold whole blocks, the compiler sees all that follows as constants.
        unsigned in_block = PAIRS % N == 0 ? 0 : pair % N;
        unsigned window = pair / N * LAST + in_block;
        Window* windows = reinterpret_cast<Window*>(lifted);
        Pair* pairs = reinterpret_cast<Pair*>(lifted);
        if (in_block > 0) {
            pairs[2 * window - 1] = from.pair[0];
        }
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            if (in_block < LAST) {
                if (i + 1 < PAIRS) {
                    windows[window] = bit_cast<Window>(TwoPairs{from.pair[i], from.pair[i + 1]});
                } else {
                    pairs[2 * window] = from.pair[i];
                }
                ++window;
                ++in_block;
            } else {
                in_block = 0;
            }
        }
    }
}

} // namespace slide
