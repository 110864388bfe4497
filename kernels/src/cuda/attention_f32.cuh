// Attention of f32 with plain multiply-adds, to f32's accuracy: for devices or plans without tensor cores' rounding of operands. Same
// arguments and same course through the keys as on tensor cores; scores exist per tile in shared memory.
#pragma once

#include "attention_common.cuh"

namespace slide {

/// How a block goes through the work: WARPS · 4 groups of eight threads, each group with ROWS queries; each thread of a group has KEY_SHARE
/// keys of a tile and every eighth column of the values.
template <int D_, int E_, int WARPS_, int ROWS_, int KEY_SHARE_> struct PlainAttentionTile {
    static_assert(D_ % 4 == 0 && E_ % 4 == 0, "rows of a head are copied 16 bytes at a time");
    static_assert(E_ % 8 == 0 && E_ <= 256, "each of eight threads keeps an eighth of a row of sums in registers");

    static constexpr int D = D_, E = E_, WARPS = WARPS_, ROWS = ROWS_, KEY_SHARE = KEY_SHARE_;
    static constexpr int LANES = 8;
    static constexpr int THREADS = 32 * WARPS;
    /// Queries of a block: the grid has batch · heads · ⌈tokens / QUERIES⌉ blocks.
    static constexpr int QUERIES = 4 * WARPS * ROWS;
    static constexpr int KEYS = LANES * KEY_SHARE;

    // Floats per row; those added keep rows read together in different banks.
    static constexpr int DEPTH_ROW = D % 8 == 0 ? D + 4 : D, PROBABILITY_ROW = KEYS + 4;
    static constexpr int KEYS_AT = QUERIES * DEPTH_ROW;
    static constexpr int VALUES_AT = KEYS_AT + KEYS * DEPTH_ROW;
    static constexpr int PROBABILITIES_AT = VALUES_AT + KEYS * E;
    /// Dynamic shared memory of a block; aligned to 16 bytes.
    static constexpr int SHARED_BYTES = 4 * (PROBABILITIES_AT + QUERIES * PROBABILITY_ROW);
};

namespace attention_parts {

/// Copies `rows` rows of DEPTH floats to shared memory; those from `end` on become zeros.
template <int ROWS, int DEPTH, int ROW, int THREADS>
__device__ __forceinline__ void copy_floats(float* to, const float* from, long long stride, int first, int end) {
    constexpr int QUADS = DEPTH / 4;
    for (int i = threadIdx.x; i < ROWS * QUADS; i += THREADS) {
        int row = i / QUADS, column = i % QUADS * 4;
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (first + row < end) v = *reinterpret_cast<const float4*>(from + (first + row) * stride + column);
        *reinterpret_cast<float4*>(to + row * ROW + column) = v;
    }
}

template <class Reduce> __device__ __forceinline__ float over_eight_lanes(float v, Reduce reduce) {
#pragma unroll
    for (int lanes = 1; lanes < 8; lanes *= 2) v = reduce(v, __shfl_xor_sync(~0u, v, lanes));
    return v;
}

} // namespace attention_parts

/// The block's share of the attention described at `AttentionArguments`. `shared`: Tile::SHARED_BYTES; blockDim.x = Tile::THREADS.
template <class Tile, Visibility VISIBILITY, class Mask>
__device__ __forceinline__ void attention_f32(const AttentionArguments<float, Mask>& arguments, unsigned char* shared) {
    using namespace attention_parts;
    const AttentionBlock block(arguments.tokens, Tile::QUERIES, arguments.heads);
    const int block_query = block.tile * Tile::QUERIES;
    const int lane = threadIdx.x % Tile::LANES, first_row = threadIdx.x / Tile::LANES * Tile::ROWS;

    const int kv_head = block.head / arguments.group;
    const float* queries = arguments.query.of(block.batch, block.head);
    const float* keys = arguments.key.of(block.batch, kv_head);
    const float* values = arguments.value.of(block.batch, kv_head);
    const int visible = visible_keys<VISIBILITY>(arguments, min(block_query + Tile::QUERIES, arguments.tokens));

    float* query_tile = reinterpret_cast<float*>(shared);
    float* key_tile = query_tile + Tile::KEYS_AT;
    float* value_tile = query_tile + Tile::VALUES_AT;
    float* probabilities = query_tile + Tile::PROBABILITIES_AT;
    copy_floats<Tile::QUERIES, Tile::D, Tile::DEPTH_ROW, Tile::THREADS>(query_tile, queries, arguments.query.row_stride, block_query,
                                                                        arguments.tokens);

    float sums[Tile::ROWS][Tile::E / Tile::LANES], largest[Tile::ROWS], denominator[Tile::ROWS];
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        largest[r] = LOWEST;
        denominator[r] = 0.0f;
#pragma unroll
        for (int c = 0; c < Tile::E / Tile::LANES; ++c) sums[r][c] = 0.0f;
    }

    for (int first_key = 0; first_key < visible; first_key += Tile::KEYS) {
        __syncthreads();
        copy_floats<Tile::KEYS, Tile::D, Tile::DEPTH_ROW, Tile::THREADS>(key_tile, keys, arguments.key.row_stride, first_key,
                                                                         arguments.total);
        copy_floats<Tile::KEYS, Tile::E, Tile::E, Tile::THREADS>(value_tile, values, arguments.value.row_stride, first_key,
                                                                 arguments.total);
        __syncthreads();

        float scores[Tile::ROWS][Tile::KEY_SHARE] = {};
#pragma unroll 4
        for (int d = 0; d < Tile::D; d += 4) {
            float4 k[Tile::KEY_SHARE];
#pragma unroll
            for (int j = 0; j < Tile::KEY_SHARE; ++j) {
                k[j] = *reinterpret_cast<const float4*>(key_tile + (lane + Tile::LANES * j) * Tile::DEPTH_ROW + d);
            }
#pragma unroll
            for (int r = 0; r < Tile::ROWS; ++r) {
                float4 q = *reinterpret_cast<const float4*>(query_tile + (first_row + r) * Tile::DEPTH_ROW + d);
#pragma unroll
                for (int j = 0; j < Tile::KEY_SHARE; ++j) {
                    float& score = scores[r][j];
                    score = fmaf(q.w, k[j].w, fmaf(q.z, k[j].z, fmaf(q.y, k[j].y, fmaf(q.x, k[j].x, score))));
                }
            }
        }
#pragma unroll
        for (int r = 0; r < Tile::ROWS; ++r) {
            // Rows past the end have zeros for queries; their masks are those of the last row, and they are not stored.
            const int query = min(block_query + first_row + r, arguments.tokens - 1);
            float max = largest[r];
#pragma unroll
            for (int j = 0; j < Tile::KEY_SHARE; ++j) {
                const int key = first_key + lane + Tile::LANES * j;
                float& score = scores[r][j];
                score *= arguments.scale;
                if (!sees<VISIBILITY>(arguments, query, key)) {
                    score = -infinity();
                } else if constexpr (Mask::PRESENT) {
                    const Mask& mask = arguments.mask;
                    score += mask_term(mask.data[block.batch * mask.batch_stride + block.head * mask.head_stride +
                                                 query * mask.token_stride + key * mask.key_stride]);
                }
                max = fmaxf(max, score);
            }
            max = over_eight_lanes(max, [](float a, float b) { return fmaxf(a, b); });
            const float shrink = expf(largest[r] - max);
            largest[r] = max;
            denominator[r] *= shrink;
#pragma unroll
            for (int c = 0; c < Tile::E / Tile::LANES; ++c) sums[r][c] *= shrink;
#pragma unroll
            for (int j = 0; j < Tile::KEY_SHARE; ++j) {
                float probability = expf(scores[r][j] - max);
                denominator[r] += probability;
                probabilities[(first_row + r) * Tile::PROBABILITY_ROW + lane + Tile::LANES * j] = probability;
            }
        }
        // A group's probabilities are read by its own eight threads only.
        __syncwarp();
#pragma unroll 4
        for (int key = 0; key < Tile::KEYS; ++key) {
            float v[Tile::E / Tile::LANES];
#pragma unroll
            for (int c = 0; c < Tile::E / Tile::LANES; ++c) v[c] = value_tile[key * Tile::E + lane + Tile::LANES * c];
#pragma unroll
            for (int r = 0; r < Tile::ROWS; ++r) {
                const float probability = probabilities[(first_row + r) * Tile::PROBABILITY_ROW + key];
#pragma unroll
                for (int c = 0; c < Tile::E / Tile::LANES; ++c) sums[r][c] = fmaf(probability, v[c], sums[r][c]);
            }
        }
    }

    float* out = arguments.out.of(block.batch, block.head);
#pragma unroll
    for (int r = 0; r < Tile::ROWS; ++r) {
        const float sum = over_eight_lanes(denominator[r], [](float a, float b) { return a + b; });
        const int query = block_query + first_row + r;
        const float factor = sum_factor<VISIBILITY>(arguments, query, sum);
        if (query >= arguments.tokens) continue;
#pragma unroll
        for (int c = 0; c < Tile::E / Tile::LANES; ++c) {
            out[query * arguments.out.row_stride + lane + Tile::LANES * c] = sums[r][c] * factor;
        }
    }
}

} // namespace slide
