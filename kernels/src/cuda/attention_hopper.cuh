// Attention of 16-bit floats by warpgroups (wgmma; compute capability 9.0 only, compiled for sm_90a), after FlashAttention-3 (Shah et al. 2024):
// one warpgroup copies keys and values into a ring of tiles, the others each take 64 queries through them. While a tile's scores become
// probabilities, the tensor cores multiply those of the tile before with its values, and the other warpgroups' tiles.
#pragma once

#include "attention_common.cuh"
#include "barrier.cuh"
#include "convert.cuh"
#include "vector.cuh"
#include "wgmma.cuh"

namespace slide {

/// How a block goes through the work. D: depth of queries and keys; E: depth of values. WARPGROUPS: those that calculate. KEYS: keys of a
/// tile. SLOTS: tiles in shared memory, of keys or values each.
template <int D_, int E_, int WARPGROUPS_, int KEYS_, int SLOTS_> struct WarpgroupTile {
    static_assert((D_ == 64 || D_ == 128) && (E_ == 64 || E_ == 128), "whole panels; more has no room beside the scores");
    static_assert(WARPGROUPS_ == 2 || WARPGROUPS_ == 3, "registers are shared out among so many");
    static_assert(SLOTS_ >= 4, "the next keys are multiplied before the values, and one of each is on its way");

    static constexpr int D = D_, E = E_, WARPGROUPS = WARPGROUPS_, KEYS = KEYS_, SLOTS = SLOTS_;

    /// The first warpgroup copies.
    static constexpr int THREADS = WARPGROUP_THREADS * (WARPGROUPS + 1);
    /// Queries of a tile. Any number of blocks does, up to one a tile: they go on from tile to tile.
    static constexpr int QUERIES = WARPGROUP_ROWS * WARPGROUPS;
    /// Registers of a thread that copies, and of one that calculates: a multiprocessor has 65536.
    static constexpr int COPY_REGISTERS = WARPGROUPS == 2 ? 40 : 32, MULTIPLY_REGISTERS = WARPGROUPS == 2 ? 232 : 160;

    static constexpr int QUERY_BYTES = QUERIES * D * 2, SLOT_BYTES = KEYS * (D > E ? D : E) * 2;
    static constexpr int SLOTS_AT = QUERY_BYTES, BARRIERS_AT = SLOTS_AT + SLOTS * SLOT_BYTES;
    /// Dynamic shared memory of a block; aligned to 16 bytes, and by the block itself to what panels ask for.
    static constexpr int SHARED_BYTES = PANEL_ALIGNMENT - 16 + BARRIERS_AT + 8 * (2 + 2 * SLOTS);
};

namespace warpgroup_attention {

template <class P> struct ElementOf;
template <class M> struct ElementOf<const M*> {
    using Type = M;
};

/// The block's shared memory, as addresses there.
template <class Tile> struct SharedMemory {
    unsigned base;

    __device__ __forceinline__ unsigned queries() const { return base; }
    __device__ __forceinline__ unsigned slot(int i) const { return base + Tile::SLOTS_AT + i * Tile::SLOT_BYTES; }
    /// Ends a phase when a tile has come into a slot, and when all have read it. The same for the queries.
    __device__ __forceinline__ unsigned slot_full(int i) const { return base + Tile::BARRIERS_AT + 16 * i; }
    __device__ __forceinline__ unsigned slot_empty(int i) const { return slot_full(i) + 8; }
    __device__ __forceinline__ unsigned queries_full() const { return slot_full(Tile::SLOTS); }
    __device__ __forceinline__ unsigned queries_empty() const { return slot_empty(Tile::SLOTS); }
};

/// A position in the ring of slots.
template <int SLOTS> struct RingPosition {
    int slot = 0;
    unsigned parity = 0;

    __device__ __forceinline__ void advance() {
        if (++slot == SLOTS) {
            slot = 0;
            parity ^= 1;
        }
    }
};

/// f(tile, head, batch, first query, keys that any of its queries sees) for every tile of the block, in the same order for all its threads.
/// Tiles of one head follow each other, so that their keys and values stay in the L2 cache. Where later tiles see more, a block takes an
/// early and a late one: blocks then have the same to do.
template <class Tile, Visibility VISIBILITY, class Arguments, class F>
__device__ __forceinline__ void each_tile(const Arguments& arguments, int batches, F f) {
    constexpr bool PAIRS = VISIBILITY == Visibility::CAUSAL;
    const unsigned tiles = (arguments.tokens + Tile::QUERIES - 1) / Tile::QUERIES, units = PAIRS ? (tiles + 1) / 2 : tiles;
    const unsigned all = units * arguments.heads * batches;
    for (unsigned at = blockIdx.x; at < all; at += gridDim.x) {
        const unsigned unit = at % units, rest = at / units;
#pragma unroll 1
        for (int i = 0; i < (PAIRS && 2 * unit + 1 != tiles ? 2 : 1); ++i) {
            const int first_query = (i == 0 ? unit : tiles - 1 - unit) * Tile::QUERIES;
            f(rest % arguments.heads, rest / arguments.heads, first_query,
              visible_keys<VISIBILITY>(arguments, min(first_query + Tile::QUERIES, arguments.tokens)));
        }
    }
}

/// Starts copying rows `first` … `first + ROWS - 1` of DEPTH elements to panels of ROWS rows, by a warpgroup; rows from `end` on become zeros,
/// so that nothing times them is nothing.
template <int ROWS, int DEPTH, class T>
__device__ __forceinline__ void copy_panels(unsigned to, const T* from, long long stride, int first, int end) {
    constexpr int CHUNKS = DEPTH / 8, PASS = WARPGROUP_THREADS / CHUNKS;
    static_assert(PASS % 8 == 0 && ROWS % PASS == 0, "a thread's chunks lie alike in all rows that it copies");
    const int row = threadIdx.x % WARPGROUP_THREADS / CHUNKS, chunk = threadIdx.x % CHUNKS;
    to += chunk / 8 * ROWS * PANEL_ROW_BYTES + panel_offset(row, chunk % 8);
    const T* source = from + (first + row) * stride + chunk * 8;
    if (first + ROWS <= end) {
#pragma unroll
        for (int i = 0; i < ROWS / PASS; ++i) {
            copy_async(to + i * PASS * PANEL_ROW_BYTES, source, true);
            source += PASS * stride;
        }
    } else {
#pragma unroll
        for (int i = 0; i < ROWS / PASS; ++i) {
            bool exists = first + row + i * PASS < end;
            copy_async(to + i * PASS * PANEL_ROW_BYTES, exists ? source : from, exists);
            source += PASS * stride;
        }
    }
}

/// What the copying warpgroup does. The ring's order is that of use: keys 0, keys 1, values 0, keys 2, values 1 …
template <class Tile, Visibility VISIBILITY, class Arguments>
__device__ __forceinline__ void copy_tiles(const Arguments& arguments, int batches, const SharedMemory<Tile>& shared) {
    RingPosition<Tile::SLOTS> position;
    unsigned queries_parity = 0;
    each_tile<Tile, VISIBILITY>(arguments, batches, [&](int head, int batch, int first_query, int visible) {
        const int steps = (visible + Tile::KEYS - 1) / Tile::KEYS, kv_head = head / arguments.group;
        if (steps == 0) return;
        const auto* queries = arguments.query.of(batch, head);
        const auto* keys = arguments.key.of(batch, kv_head);
        const auto* values = arguments.value.of(batch, kv_head);

        await_phase(shared.queries_empty(), queries_parity ^ 1);
        queries_parity ^= 1;
        // Rows past the end are zeros and are not stored.
        copy_panels<Tile::QUERIES, Tile::D>(shared.queries(), queries, arguments.query.row_stride, first_query, arguments.tokens);
        arrive_after_copies(shared.queries_full());
#pragma unroll 1
        for (int step = 0; step <= steps; ++step) {
            if (step < steps) {
                await_phase(shared.slot_empty(position.slot), position.parity ^ 1);
                copy_panels<Tile::KEYS, Tile::D>(shared.slot(position.slot), keys, arguments.key.row_stride, step * Tile::KEYS,
                                                 arguments.total);
                arrive_after_copies(shared.slot_full(position.slot));
                position.advance();
            }
            if (step > 0) {
                await_phase(shared.slot_empty(position.slot), position.parity ^ 1);
                copy_panels<Tile::KEYS, Tile::E>(shared.slot(position.slot), values, arguments.value.row_stride,
                                                 (step - 1) * Tile::KEYS, arguments.total);
                arrive_after_copies(shared.slot_full(position.slot));
                position.advance();
            }
        }
    });
    wait_for_copies<0>();
}

/// The maxima and denominators of the two rows that a lane has a share in; the denominators are of its share.
struct Softmax {
    float max[2], denominator[2];

    __device__ __forceinline__ Softmax() {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            max[half] = LOWEST;
            denominator[half] = 0.0f;
        }
    }

    /// Replaces scores by 2^((score − maximum) · unit), bringing maxima and denominators up to date. `shrink`: what sums so far are to be
    /// multiplied with. MASKED: finite scores may be as large as masks.
    template <bool MASKED, int COUNT>
    __device__ __forceinline__ void exponentiate(float (&scores)[COUNT], float (&shrink)[2], float unit) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float largest = max[half];
#pragma unroll
            for (int n = 0; n < COUNT / 4; ++n) {
                largest = fmaxf(largest, fmaxf(scores[4 * n + 2 * half], scores[4 * n + 2 * half + 1]));
            }
            largest = quad_max(largest);
            shrink[half] = exp_relative(max[half], largest, unit);
            // One multiply-add per score. Where no key has been seen yet the offset stays finite, so that −∞ remains.
            float offset = fmaxf(largest, -1e30f) * unit;
            max[half] = largest;
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < COUNT / 4; ++n) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    float& score = scores[4 * n + i];
                    score = MASKED ? exp_relative(score, largest, unit) : exp2_fast(fmaf(score, unit, -offset));
                    sum += score;
                }
            }
            denominator[half] = denominator[half] * shrink[half] + sum;
        }
    }
};

/// The mask of a lane's scores: pairs of neighbours, read ahead of them.
template <class Mask, int KEYS> struct MaskTile {
    using M = typename ElementOf<decltype(Mask::data)>::Type;
    Vector<M, 2> pairs[KEYS / 8][2];

    /// Whether there are registers to read it before the scores are there.
    static constexpr bool AHEAD = sizeof(M) <= 2;

    /// `first_query`: of the warp. Rows past the end repeat the last one; keys past the end get anything.
    __device__ __forceinline__ void read(const Mask& mask, int tokens, int total, int head, int batch, int first_query, int first_key) {
        const int lane = threadIdx.x % 32, row = first_query + lane / 4, column = first_key + 2 * (lane % 4);
        const M* base = mask.data + batch * mask.batch_stride + head * mask.head_stride;
        const M* rows[2] = {base + min(row, tokens - 1) * mask.token_stride, base + min(row + 8, tokens - 1) * mask.token_stride};
        const bool aligned = mask.key_stride == 1 && (bit_cast<unsigned long long>(base) / sizeof(M) | mask.token_stride) % 2 == 0;
        if (aligned && first_key + KEYS <= total) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
                pairs[n][0] = load_vector<M, 2>(rows[0] + column + 8 * n);
                pairs[n][1] = mask.token_stride == 0 ? pairs[n][0] : load_vector<M, 2>(rows[1] + column + 8 * n);
            }
        } else {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    pairs[n][i / 2].element[i % 2] = rows[i / 2][min(column + 8 * n + i % 2, total - 1) * mask.key_stride];
                }
            }
        }
    }
};

template <int KEYS> struct MaskTile<NoMask, KEYS> {
    static constexpr bool AHEAD = true;
    __device__ __forceinline__ void read(NoMask, int, int, int, int, int, int) {}
};

/// Scales a lane's scores and adds the mask to them; without a mask only their sign is set right. Those of keys that are not seen become −∞.
template <Visibility VISIBILITY, class T, class Mask, int COUNT>
__device__ __forceinline__ void mask_scores(float (&scores)[COUNT], const AttentionArguments<T, Mask>& arguments,
                                            const MaskTile<Mask, 2 * COUNT>& mask, int first_query, int first_key) {
    const int lane = threadIdx.x % 32, row = first_query + lane / 4, column = first_key + 2 * (lane % 4);
    if constexpr (Mask::PRESENT) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            scores[i] = scores[i] * arguments.scale + mask_term(mask.pairs[i / 4][i / 2 % 2].element[i % 2]);
        }
    } else if (arguments.scale < 0.0f) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) scores[i] = -scores[i];
    }
    if (!sees<VISIBILITY>(arguments, first_query, first_key + 2 * COUNT - 1)) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            if (!sees<VISIBILITY>(arguments, row + i / 2 % 2 * 8, column + i / 4 * 8 + i % 2)) scores[i] = -infinity();
        }
    }
}

/// Of each eight of 32 columns a lane has two, as `pairs`; it gets all of the (lane % 4)-th eight.
__device__ __forceinline__ uint4 gather_columns(const unsigned (&pairs)[4]) {
    const bool upper = threadIdx.x & 2, odd = threadIdx.x & 1;
    // Halves change places between lanes two apart, then between neighbours.
    unsigned low = __shfl_xor_sync(~0u, upper ? pairs[0] : pairs[2], 2), high = __shfl_xor_sync(~0u, upper ? pairs[1] : pairs[3], 2);
    const unsigned mine[2][2] = {{upper ? low : pairs[0], upper ? high : pairs[1]}, {upper ? pairs[2] : low, upper ? pairs[3] : high}};
    unsigned first = __shfl_xor_sync(~0u, odd ? mine[0][0] : mine[0][1], 1);
    unsigned second = __shfl_xor_sync(~0u, odd ? mine[1][0] : mine[1][1], 1);
    return odd ? make_uint4(first, mine[0][1], second, mine[1][1]) : make_uint4(mine[0][0], first, mine[1][0], second);
}

/// What one of the others does; `warpgroup` counts from 0.
template <class Tile, Visibility VISIBILITY, class T, class Mask>
__device__ __forceinline__ void multiply_tiles(const AttentionArguments<T, Mask>& arguments, int batches, const SharedMemory<Tile>& shared,
                                               int warpgroup) {
    constexpr int BARRIER = 1;
    // In registers, queries are not read again for each tile of keys. Beside a mask there are not enough of these.
    constexpr bool QUERIES_HELD = Tile::D <= 64 || !Mask::PRESENT;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const unsigned own_queries = shared.queries() + warpgroup * WARPGROUP_ROWS * PANEL_ROW_BYTES;
    const float unit = Mask::PRESENT ? LOG2_E : fmaxf(fabsf(arguments.scale) * LOG2_E, 1e-30f);

    auto arrive_warp = [&](unsigned barrier) {
        if (lane == 0) arrive(barrier);
    };
    // The warpgroups start their products in turn: while those of one run, the other has scores to make probabilities of.
    auto await_turn = [&] { wait_named(BARRIER + warpgroup, 2 * WARPGROUP_THREADS); };
    auto pass_turn = [&] { arrive_named(BARRIER + (warpgroup + 1) % Tile::WARPGROUPS, 2 * WARPGROUP_THREADS); };
    if (warpgroup == Tile::WARPGROUPS - 1) pass_turn();

    RingPosition<Tile::SLOTS> position;
    unsigned queries_parity = 0;
    auto await_slot = [&] {
        await_phase(shared.slot_full(position.slot), position.parity);
        show_to_products();
        int slot = position.slot;
        position.advance();
        return slot;
    };
    each_tile<Tile, VISIBILITY>(arguments, batches, [&](int head, int batch, int tile_query, int visible) {
        const int steps = (visible + Tile::KEYS - 1) / Tile::KEYS;
        const int first_query = tile_query + warpgroup * WARPGROUP_ROWS + warp * 16;
        Softmax softmax;
        float sums[Tile::E / 2];
        if (steps == 0) {
#pragma unroll
            for (float& sum : sums) sum = 0.0f;
        } else {
            float scores[Tile::KEYS / 2], shrink[2];
            unsigned probabilities[Tile::KEYS / 16][4];
            MaskTile<Mask, Tile::KEYS> mask;
            auto read_mask = [&](int step) {
                mask.read(arguments.mask, arguments.tokens, arguments.total, head, batch, first_query, step * Tile::KEYS);
            };
            auto finish_scores = [&](int step) {
                if constexpr (!decltype(mask)::AHEAD) read_mask(step);
                mask_scores<VISIBILITY>(scores, arguments, mask, first_query, step * Tile::KEYS);
                softmax.template exponentiate<Mask::PRESENT>(scores, shrink, unit);
            };
            auto pack_probabilities = [&] {
#pragma unroll
                for (int i = 0; i < Tile::KEYS / 4; ++i) probabilities[i / 4][i % 4] = TensorCore<T>::pack(scores[2 * i], scores[2 * i + 1]);
            };

            await_phase(shared.queries_full(), queries_parity);
            queries_parity ^= 1;
            unsigned queries[QUERIES_HELD ? Tile::D / 16 : 1][4];
            if constexpr (QUERIES_HELD) {
#pragma unroll
                for (int k = 0; k < Tile::D / 16; ++k) {
                    const unsigned panel = own_queries + k / 4 * Tile::QUERIES * PANEL_ROW_BYTES + warp * 16 * PANEL_ROW_BYTES;
                    load_matrices(queries[k], panel + panel_offset(lane % 16, k % 4 * 2 + lane / 16));
                }
                pin(queries);
                arrive(shared.queries_empty());
            }
            auto multiply_keys = [&](int slot) {
                begin_products();
                if constexpr (QUERIES_HELD) {
                    multiply_rows<T, Tile::D>(scores, queries, shared.slot(slot));
                } else {
                    multiply_rows<T, Tile::D, Tile::QUERIES>(scores, own_queries, shared.slot(slot));
                }
                commit_products();
            };
            if constexpr (decltype(mask)::AHEAD) read_mask(0);
            const int first_slot = await_slot();
            multiply_keys(first_slot);
            wait_for_products<0>();
            pin(scores);
            arrive_warp(shared.slot_empty(first_slot));
            finish_scores(0);
            pack_probabilities();
#pragma unroll 1
            for (int step = 1; step < steps; ++step) {
                if constexpr (decltype(mask)::AHEAD) read_mask(step);
                const int key_slot = await_slot(), value_slot = position.slot;
                await_turn();
                multiply_keys(key_slot);
                await_slot();
                pin(sums);
                pin(probabilities);
                begin_products();
                multiply_columns<T, Tile::KEYS>(sums, probabilities, shared.slot(value_slot), step > 1);
                commit_products();
                pass_turn();
                wait_for_products<1>();
                pin(scores);
                arrive_warp(shared.slot_empty(key_slot));
                finish_scores(step);
                wait_for_products<0>();
                pin(sums);
                pin(scores);
                arrive_warp(shared.slot_empty(value_slot));
#pragma unroll
                for (int i = 0; i < Tile::E / 2; ++i) sums[i] *= shrink[i / 2 % 2];
                pack_probabilities();
            }
            if constexpr (!QUERIES_HELD) arrive(shared.queries_empty());
            const int value_slot = await_slot();
            pin(sums);
            pin(probabilities);
            begin_products();
            multiply_columns<T, Tile::KEYS>(sums, probabilities, shared.slot(value_slot), steps > 1);
            commit_products();
            wait_for_products<0>();
            pin(sums);
            arrive_warp(shared.slot_empty(value_slot));
        }

        T* out = arguments.out.of(batch, head);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int query = first_query + lane / 4 + 8 * half;
            const float scale = sum_factor<VISIBILITY>(arguments, query, quad_sum(softmax.denominator[half]));
#pragma unroll
            for (int n = 0; n < Tile::E / 8; n += 4) {
                unsigned pairs[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float* pair = sums + 4 * (n + i) + 2 * half;
                    pairs[i] = TensorCore<T>::pack(pair[0] * scale, pair[1] * scale);
                }
                const uint4 columns = gather_columns(pairs);
                if (query < arguments.tokens) {
                    *reinterpret_cast<uint4*>(out + query * arguments.out.row_stride + (n + lane % 4) * 8) = columns;
                }
            }
        }
    });
}

} // namespace warpgroup_attention

/// The block's share of the attention described at `AttentionArguments`, of __nv_bfloat16 or __half. Probabilities are rounded to T before they
/// meet the values. `shared`: Tile::SHARED_BYTES; blockDim.x = Tile::THREADS, at most so many blocks as there are tiles; the kernel is declared
/// with __launch_bounds__(Tile::THREADS, 1).
template <class Tile, Visibility VISIBILITY, class T, class Mask>
__device__ __forceinline__ void attention_hopper(const AttentionArguments<T, Mask>& arguments, int batches, unsigned char* shared) {
    using namespace warpgroup_attention;
    const SharedMemory<Tile> memory{(shared_address(shared) + PANEL_ALIGNMENT - 1) / PANEL_ALIGNMENT * PANEL_ALIGNMENT};
    if (threadIdx.x == 0) {
#pragma unroll
        for (int i = 0; i < Tile::SLOTS; ++i) {
            init_barrier(memory.slot_full(i), WARPGROUP_THREADS);
            // A warp's products have read a slot when one of its lanes says so; queries are read by each lane.
            init_barrier(memory.slot_empty(i), 4 * Tile::WARPGROUPS);
        }
        init_barrier(memory.queries_full(), WARPGROUP_THREADS);
        init_barrier(memory.queries_empty(), WARPGROUP_THREADS * Tile::WARPGROUPS);
    }
    __syncthreads();
    const int warpgroup = threadIdx.x / WARPGROUP_THREADS;
    if (warpgroup == 0) {
        shrink_registers<Tile::COPY_REGISTERS>();
        copy_tiles<Tile, VISIBILITY>(arguments, batches, memory);
    } else {
        grow_registers<Tile::MULTIPLY_REGISTERS>();
        multiply_tiles<Tile, VISIBILITY>(arguments, batches, memory, warpgroup - 1);
    }
}

} // namespace slide
