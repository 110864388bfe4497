// Attention of 16-bit floats on tensor cores (mma.sync; compute capability 8.0 and later), after FlashAttention-2 (Dao 2023): a block
// takes a tile of queries of one head through the keys tile by tile, with the softmax's maximum and sum kept up to date in f32; the
// scores exist in registers only. The keys of a tile may be parted among warps, for latency where blocks are few.
#pragma once

#include "attention_common.cuh"
#include "tensor_core.cuh"

namespace slide {

/// How a block goes through the work. D: depth of queries and keys; E: depth of values. QUERY_WARPS × KEY_WARPS warps; each takes
/// 16 · ROW_TILES queries through every KEY_WARPS-th share of KEY_TILE keys. STAGES: tiles of keys and values in shared memory.
///
/// Few blocks and keys (one sentence): one query warp, four key warps, one stage. Much work: four query warps, one key warp, two stages.
template <int D_, int E_, int QUERY_WARPS_, int KEY_WARPS_, int ROW_TILES_, int KEY_TILE_, int STAGES_> struct AttentionTile {
    static_assert(D_ % 8 == 0 && E_ % 8 == 0, "rows of a head are copied 16 bytes at a time");
    static_assert(D_ >= 8 && D_ <= 256 && E_ >= 8 && E_ <= 256, "the sums stay in registers, the tiles in shared memory");
    static_assert(KEY_TILE_ % 16 == 0, "probabilities are multiplied with 16 values at a time");
    static_assert(STAGES_ == 1 || STAGES_ == 2, "a tile is computed on while at most one more is on its way");

    static constexpr int D = D_, E = E_, QUERY_WARPS = QUERY_WARPS_, KEY_WARPS = KEY_WARPS_;
    static constexpr int ROW_TILES = ROW_TILES_, KEY_TILE = KEY_TILE_, STAGES = STAGES_;

    static constexpr int THREADS = 32 * QUERY_WARPS * KEY_WARPS;
    /// Queries of a block: the grid has batch · heads · ⌈tokens / QUERIES⌉ blocks.
    static constexpr int QUERIES = 16 * ROW_TILES * QUERY_WARPS;
    /// Keys of a block per step.
    static constexpr int KEYS = KEY_TILE * KEY_WARPS;

    // mma.sync contracts 16 at a time: depths are filled up with zeros.
    static constexpr int D_STEPS = (D + 15) / 16, E_STEPS = (E + 15) / 16;
    static constexpr int KEY_CHUNKS = 2 * D_STEPS, VALUE_CHUNKS = 2 * E_STEPS;
    // An odd number of 16-byte chunks per row: the eight rows of an ldmatrix then lie in different banks.
    static constexpr int KEY_ROW = CHUNK_BYTES * (KEY_CHUNKS | 1), VALUE_ROW = CHUNK_BYTES * (VALUE_CHUNKS | 1);
    static constexpr int VALUES_AT = KEYS * KEY_ROW;
    static constexpr int STAGE_BYTES = KEYS * (KEY_ROW + VALUE_ROW);

    /// Queries that would take too many registers beside the sums are read from shared memory each time.
    static constexpr bool QUERIES_IN_SHARED = ROW_TILES * D_STEPS > 8;
    static constexpr int QUERIES_AT = STAGES * STAGE_BYTES;
    static constexpr int TILE_BYTES = QUERIES_AT + (QUERIES_IN_SHARED ? QUERIES * KEY_ROW : 0);

    // Partial results of the key warps, in f32: each row's sums, then its maximum and denominator. The 8 spread rows over the banks.
    static constexpr int PARTIAL_ROW = 16 * E_STEPS + 8, PARTIAL_MAX = 16 * E_STEPS, PARTIAL_SUM = PARTIAL_MAX + 1;
    static constexpr int MERGE_BYTES = KEY_WARPS == 1 ? 0 : 4 * KEY_WARPS * QUERIES * PARTIAL_ROW;

    /// Dynamic shared memory of a block; aligned to 16 bytes.
    static constexpr int SHARED_BYTES = TILE_BYTES > MERGE_BYTES ? TILE_BYTES : MERGE_BYTES;
};

namespace attention_parts {

/// Starts copying rows `first` … `first + ROWS - 1` of DEPTH elements; rows from `end` on and the columns that fill DEPTH up become zeros,
/// so that nothing times them is nothing.
template <int ROWS, int DEPTH, int CHUNKS, int ROW_BYTES, int THREADS, class T>
__device__ __forceinline__ void copy_rows(unsigned to, const T* from, long long stride, int first, int end) {
#pragma unroll
    for (int base = 0; base < ROWS * CHUNKS; base += THREADS) {
        int i = base + threadIdx.x, row = i / CHUNKS, chunk = i % CHUNKS;
        if (ROWS * CHUNKS % THREADS != 0 && row >= ROWS) break;
        bool exists = first + row < end && (DEPTH % 16 == 0 || chunk * 8 < DEPTH);
        copy_async(to + row * ROW_BYTES + chunk * CHUNK_BYTES, exists ? from + (first + row) * stride + chunk * 8 : from, exists);
    }
}

/// The state of one warp: its queries, and the maxima, denominators and unnormalised sums of its rows. Of each 16-row tile a lane
/// holds rows lane / 4 and lane / 4 + 8.
template <class Tile, class T> struct WarpState {
    unsigned query[Tile::ROW_TILES][Tile::QUERIES_IN_SHARED ? 1 : Tile::D_STEPS][4];
    float sums[Tile::ROW_TILES][2 * Tile::E_STEPS][4];
    float max[Tile::ROW_TILES][2];
    float denominator[Tile::ROW_TILES][2];

    __device__ __forceinline__ WarpState() {
#pragma unroll
        for (int r = 0; r < Tile::ROW_TILES; ++r) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                max[r][half] = LOWEST;
                denominator[r][half] = 0.0f;
            }
#pragma unroll
            for (int n = 0; n < 2 * Tile::E_STEPS; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sums[r][n][i] = 0.0f;
            }
        }
    }

    /// Reads the warp's queries from memory into registers.
    __device__ __forceinline__ void read_queries(const T* queries, long long stride, int first, int tokens) {
        int lane = threadIdx.x % 32;
#pragma unroll
        for (int r = 0; r < Tile::ROW_TILES; ++r) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // Rows past the end repeat the last one and are not stored.
                int row = min(first + 16 * r + lane / 4 + 8 * half, tokens - 1);
                const T* from = queries + row * stride + 2 * (lane % 4);
#pragma unroll
                for (int k = 0; k < Tile::D_STEPS; ++k) {
                    query[r][k][half] = *reinterpret_cast<const unsigned*>(from + 16 * k);
                    bool exists = Tile::D % 16 == 0 || k + 1 < Tile::D_STEPS;
                    query[r][k][half + 2] = exists ? *reinterpret_cast<const unsigned*>(from + 16 * k + 8) : 0;
                }
            }
        }
    }

    using Scores = float[Tile::ROW_TILES][Tile::KEY_TILE / 8][4];

    /// scores = queries · keysᵀ, both from shared memory or the queries from registers.
    __device__ __forceinline__ void multiply_keys(Scores& scores, unsigned keys, unsigned queries) {
        int lane = threadIdx.x % 32;
        unsigned key_address = keys + (lane / 16 * 8 + lane % 8) * Tile::KEY_ROW + lane / 8 % 2 * CHUNK_BYTES;
        unsigned query_address = queries + lane % 16 * Tile::KEY_ROW + lane / 16 * CHUNK_BYTES;
#pragma unroll
        for (int r = 0; r < Tile::ROW_TILES; ++r) {
#pragma unroll
            for (int n = 0; n < Tile::KEY_TILE / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) scores[r][n][i] = 0.0f;
            }
        }
#pragma unroll
        for (int k = 0; k < Tile::D_STEPS; ++k) {
            const int held = Tile::QUERIES_IN_SHARED ? 0 : k;
            if constexpr (Tile::QUERIES_IN_SHARED) {
#pragma unroll
                for (int r = 0; r < Tile::ROW_TILES; ++r) {
                    load_matrices(query[r][0], query_address + r * 16 * Tile::KEY_ROW + k * 2 * CHUNK_BYTES);
                }
            }
#pragma unroll
            for (int n = 0; n < Tile::KEY_TILE / 16; ++n) {
                unsigned b[4];
                load_matrices(b, key_address + n * 16 * Tile::KEY_ROW + k * 2 * CHUNK_BYTES);
#pragma unroll
                for (int r = 0; r < Tile::ROW_TILES; ++r) {
                    TensorCore<T>::multiply(scores[r][2 * n], query[r][held], b[0], b[1]);
                    TensorCore<T>::multiply(scores[r][2 * n + 1], query[r][held], b[2], b[3]);
                }
            }
        }
    }

    /// Replaces scores by 2^((score − maximum) · unit), bringing maxima, denominators and sums up to date. MASKED: finite scores may be as
    /// large as masks.
    template <bool MASKED> __device__ __forceinline__ void exponentiate(Scores& scores, float unit) {
#pragma unroll
        for (int r = 0; r < Tile::ROW_TILES; ++r) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float largest = max[r][half];
#pragma unroll
                for (int n = 0; n < Tile::KEY_TILE / 8; ++n) {
                    largest = fmaxf(largest, fmaxf(scores[r][n][2 * half], scores[r][n][2 * half + 1]));
                }
                largest = quad_max(largest);
                float shrink = exp_relative(max[r][half], largest, unit);
                // One multiply-add per score. Where no key has been seen yet the offset stays finite, so that −∞ remains.
                float offset = fmaxf(largest, -1e30f) * unit;
                max[r][half] = largest;
                float sum = 0.0f;
#pragma unroll
                for (int n = 0; n < Tile::KEY_TILE / 8; ++n) {
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; ++i) {
                        float& score = scores[r][n][i];
                        score = MASKED ? exp_relative(score, largest, unit) : exp2_fast(fmaf(score, unit, -offset));
                        sum += score;
                    }
                }
                denominator[r][half] = denominator[r][half] * shrink + sum;
#pragma unroll
                for (int n = 0; n < 2 * Tile::E_STEPS; ++n) {
                    sums[r][n][2 * half] *= shrink;
                    sums[r][n][2 * half + 1] *= shrink;
                }
            }
        }
    }

    /// sums += probabilities · values.
    __device__ __forceinline__ void multiply_values(const Scores& probabilities, unsigned values) {
        int lane = threadIdx.x % 32;
        unsigned address = values + lane % 16 * Tile::VALUE_ROW + lane / 16 * CHUNK_BYTES;
#pragma unroll
        for (int k = 0; k < Tile::KEY_TILE / 16; ++k) {
            unsigned a[Tile::ROW_TILES][4];
#pragma unroll
            for (int r = 0; r < Tile::ROW_TILES; ++r) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float(&p)[4] = probabilities[r][2 * k + i / 2];
                    a[r][i] = TensorCore<T>::pack(p[i % 2 * 2], p[i % 2 * 2 + 1]);
                }
            }
#pragma unroll
            for (int n = 0; n < Tile::E_STEPS; ++n) {
                unsigned b[4];
                load_matrices_transposed(b, address + k * 16 * Tile::VALUE_ROW + n * 2 * CHUNK_BYTES);
#pragma unroll
                for (int r = 0; r < Tile::ROW_TILES; ++r) {
                    TensorCore<T>::multiply(sums[r][2 * n], a[r], b[0], b[1]);
                    TensorCore<T>::multiply(sums[r][2 * n + 1], a[r], b[2], b[3]);
                }
            }
        }
    }
};

/// f(score, r, n, i) for the lane's scores.
template <class Tile, class F>
__device__ __forceinline__ void each_score(float (&scores)[Tile::ROW_TILES][Tile::KEY_TILE / 8][4], F f) {
#pragma unroll
    for (int r = 0; r < Tile::ROW_TILES; ++r) {
#pragma unroll
        for (int n = 0; n < Tile::KEY_TILE / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) f(scores[r][n][i], r, n, i);
        }
    }
}

/// What the mask adds to a warp's scores, read before the keys are waited for. Keys that are not seen get −∞.
template <class Tile, Visibility VISIBILITY, class Arguments>
__device__ __forceinline__ void read_mask(float (&to)[Tile::ROW_TILES][Tile::KEY_TILE / 8][4], const Arguments& arguments,
                                          const AttentionBlock& block, int first_query, int first_key) {
    const auto& mask = arguments.mask;
    int lane = threadIdx.x % 32;
    const auto* base = mask.data + block.batch * mask.batch_stride + block.head * mask.head_stride;
    auto at = [&](int query, int key) {
        bool seen = sees<VISIBILITY>(arguments, query, key);
        return seen ? mask_term(base[query * mask.token_stride + key * mask.key_stride]) : -infinity();
    };
#pragma unroll
    for (int r = 0; r < Tile::ROW_TILES; ++r) {
        int row = first_query + 16 * r + lane / 4;
        // Rows past the end repeat the last one.
        int rows[2] = {min(row, arguments.tokens - 1), min(row + 8, arguments.tokens - 1)};
#pragma unroll
        for (int n = 0; n < Tile::KEY_TILE / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                bool same_row = VISIBILITY == Visibility::ALL && mask.token_stride == 0 && (i >= 2 || r > 0);
                to[r][n][i] = same_row ? to[0][n][i % 2] : at(rows[i / 2], first_key + 8 * n + 2 * (lane % 4) + i % 2);
            }
        }
    }
}

} // namespace attention_parts

/// The block's share of the attention described at `AttentionArguments`, of __nv_bfloat16 or __half. Probabilities are rounded to T
/// before they meet the values. `shared`: Tile::SHARED_BYTES; blockDim.x = Tile::THREADS.
template <class Tile, Visibility VISIBILITY, class T, class Mask>
__device__ __forceinline__ void attention(const AttentionArguments<T, Mask>& arguments, unsigned char* shared) {
    using namespace attention_parts;
    const AttentionBlock block(arguments.tokens, Tile::QUERIES, arguments.heads);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int query_warp = warp / Tile::KEY_WARPS, key_warp = warp % Tile::KEY_WARPS;
    const int block_query = block.tile * Tile::QUERIES;
    const int first_query = block_query + query_warp * 16 * Tile::ROW_TILES;

    const int kv_head = block.head / arguments.group;
    const T* keys = arguments.key.of(block.batch, kv_head);
    const T* values = arguments.value.of(block.batch, kv_head);
    const int visible = visible_keys<VISIBILITY>(arguments, min(block_query + Tile::QUERIES, arguments.tokens));
    const int steps = (visible + Tile::KEYS - 1) / Tile::KEYS;

    // What is counted in: scaled scores where there is a mask to add, else the products themselves, their sign set right, which saves a
    // multiplication each. Of a scale of zero something is left, for −∞ to stay what it is.
    const float unit = Mask::PRESENT ? LOG2_E : fmaxf(fabsf(arguments.scale) * LOG2_E, 1e-30f);

    const unsigned stages = shared_address(shared);
    auto start_copy = [&](int step) {
        unsigned stage = stages + (Tile::STAGES == 1 ? 0 : step % 2 * Tile::STAGE_BYTES);
        copy_rows<Tile::KEYS, Tile::D, Tile::KEY_CHUNKS, Tile::KEY_ROW, Tile::THREADS>(stage, keys, arguments.key.row_stride,
                                                                                      step * Tile::KEYS, arguments.total);
        copy_rows<Tile::KEYS, Tile::E, Tile::VALUE_CHUNKS, Tile::VALUE_ROW, Tile::THREADS>(
            stage + Tile::VALUES_AT, values, arguments.value.row_stride, step * Tile::KEYS, arguments.total);
        commit_copies();
    };
    const T* queries = arguments.query.of(block.batch, block.head);
    const unsigned warp_queries = stages + Tile::QUERIES_AT + query_warp * 16 * Tile::ROW_TILES * Tile::KEY_ROW;
    if (steps > 0) {
        if constexpr (Tile::QUERIES_IN_SHARED) {
            // With the first tile's copies. Rows past the end are zeros and are not stored.
            copy_rows<Tile::QUERIES, Tile::D, Tile::KEY_CHUNKS, Tile::KEY_ROW, Tile::THREADS>(
                stages + Tile::QUERIES_AT, queries, arguments.query.row_stride, block_query, arguments.tokens);
        }
        start_copy(0);
    }
    WarpState<Tile, T> state;
    if constexpr (!Tile::QUERIES_IN_SHARED) state.read_queries(queries, arguments.query.row_stride, first_query, arguments.tokens);

    for (int step = 0; step < steps; ++step) {
        const int first_key = step * Tile::KEYS + key_warp * Tile::KEY_TILE;
        typename WarpState<Tile, T>::Scores mask;
        if constexpr (Mask::PRESENT) read_mask<Tile, VISIBILITY>(mask, arguments, block, first_query, first_key);

        if (Tile::STAGES == 1 && step > 0) {
            __syncthreads();
            start_copy(step);
        }
        wait_for_copies<0>();
        __syncthreads();
        // Every warp is past the step that read the other stage.
        if (Tile::STAGES == 2 && step + 1 < steps) start_copy(step + 1);

        const unsigned stage = stages + (Tile::STAGES == 1 ? 0 : step % 2 * Tile::STAGE_BYTES);
        typename WarpState<Tile, T>::Scores scores;
        state.multiply_keys(scores, stage + key_warp * Tile::KEY_TILE * Tile::KEY_ROW, warp_queries);

        if constexpr (Mask::PRESENT) {
            each_score<Tile>(scores, [&](float& score, int r, int n, int i) { score = score * arguments.scale + mask[r][n][i]; });
        } else {
            if (arguments.scale < 0.0f) each_score<Tile>(scores, [&](float& score, int, int, int) { score = -score; });
            if (!sees<VISIBILITY>(arguments, first_query, first_key + Tile::KEY_TILE - 1)) {
                each_score<Tile>(scores, [&](float& score, int r, int n, int i) {
                    int query = first_query + 16 * r + lane / 4 + i / 2 * 8, key = first_key + 8 * n + 2 * (lane % 4) + i % 2;
                    if (!sees<VISIBILITY>(arguments, query, key)) score = -infinity();
                });
            }
        }
        state.template exponentiate<Mask::PRESENT>(scores, unit);
        state.multiply_values(scores, stage + Tile::VALUES_AT + key_warp * Tile::KEY_TILE * Tile::VALUE_ROW);
    }

    T* out = arguments.out.of(block.batch, block.head);
    auto store_pair = [&](int query, int column, float low, float high) {
        unsigned pair = TensorCore<T>::pack(low, high);
        *reinterpret_cast<unsigned*>(out + query * arguments.out.row_stride + column) = pair;
    };

    if constexpr (Tile::KEY_WARPS == 1) {
#pragma unroll
        for (int r = 0; r < Tile::ROW_TILES; ++r) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int query = first_query + 16 * r + lane / 4 + 8 * half;
                float scale = sum_factor<VISIBILITY>(arguments, query, quad_sum(state.denominator[r][half]));
                if (query >= arguments.tokens) continue;
#pragma unroll
                for (int n = 0; n < Tile::E / 8; ++n) {
                    const float(&sums)[4] = state.sums[r][n];
                    store_pair(query, 8 * n + 2 * (lane % 4), sums[2 * half] * scale, sums[2 * half + 1] * scale);
                }
            }
        }
    } else {
        // Partial results take the place of the tiles, once every warp has read those.
        float* partials = reinterpret_cast<float*>(shared);
        __syncthreads();
#pragma unroll
        for (int r = 0; r < Tile::ROW_TILES; ++r) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float denominator = quad_sum(state.denominator[r][half]);
                int row = key_warp * Tile::QUERIES + query_warp * 16 * Tile::ROW_TILES + 16 * r + lane / 4 + 8 * half;
                float* partial = partials + row * Tile::PARTIAL_ROW;
#pragma unroll
                for (int n = 0; n < Tile::E / 8; ++n) {
                    const float(&sums)[4] = state.sums[r][n];
                    *reinterpret_cast<float2*>(partial + 8 * n + 2 * (lane % 4)) = make_float2(sums[2 * half], sums[2 * half + 1]);
                }
                if (lane % 4 == 0) {
                    *reinterpret_cast<float2*>(partial + Tile::PARTIAL_MAX) = make_float2(state.max[r][half], denominator);
                }
            }
        }
        __syncthreads();
        constexpr int PAIRS = Tile::E / 2;
#pragma unroll
        for (int base = 0; base < Tile::QUERIES * PAIRS; base += Tile::THREADS) {
            int i = base + threadIdx.x, row = i / PAIRS, column = i % PAIRS * 2;
            if (row >= Tile::QUERIES || block_query + row >= arguments.tokens) break;
            const float* partial = partials + row * Tile::PARTIAL_ROW;
            constexpr int NEXT = Tile::QUERIES * Tile::PARTIAL_ROW;
            float max = LOWEST;
#pragma unroll
            for (int w = 0; w < Tile::KEY_WARPS; ++w) max = fmaxf(max, partial[w * NEXT + Tile::PARTIAL_MAX]);
            float denominator = 0.0f, low = 0.0f, high = 0.0f;
#pragma unroll
            for (int w = 0; w < Tile::KEY_WARPS; ++w) {
                const float* from = partial + w * NEXT;
                float share = exp_relative(from[Tile::PARTIAL_MAX], max, unit);
                float2 sums = *reinterpret_cast<const float2*>(from + column);
                denominator += from[Tile::PARTIAL_SUM] * share;
                low += sums.x * share;
                high += sums.y * share;
            }
            float scale = sum_factor<VISIBILITY>(arguments, block_query + row, denominator);
            store_pair(block_query + row, column, low * scale, high * scale);
        }
    }
}

} // namespace slide
