// What the tensor-core and the plain attention kernels share: their arguments, the additive mask and which keys a query sees.
// Knows nothing of tiles.
#pragma once

#include "element.cuh"
#include "limits.cuh"

namespace slide {

/// A row of each head: [batch, rows, heads · depth] where one row holds all heads side by side, or [batch, heads, rows, depth]. An operand may
/// be a slice of the columns of a merged projection. Strides in elements; each head's part of a row starts at a multiple of 16 bytes.
template <class T> struct Heads {
    T* data;
    long long batch_stride;
    long long head_stride;
    long long row_stride;

    __device__ __forceinline__ T* of(int batch, int head) const { return data + batch * batch_stride + head * head_stride; }
};

/// Where the mask of scores [batch, heads, tokens, total] lies; a stride of 0 broadcasts. Numbers are added to the scores; where a Truth is
/// false, a key takes no part. Without a mask nothing is read.
template <class M> struct ScoreMask {
    static constexpr bool PRESENT = true;
    static constexpr bool SELECTS = SameType<M, Truth>::VALUE;
    const M* data;
    long long batch_stride, head_stride, token_stride, key_stride;
};

struct NoMask {
    static constexpr bool PRESENT = false;
    static constexpr bool SELECTS = false;
};

/// What a mask's element adds to a score.
template <class M> __device__ __forceinline__ float mask_term(M element) { return to_float(element); }
template <> __device__ __forceinline__ float mask_term(Truth element) { return element.byte != 0 ? 0.0f : -infinity(); }

/// Which keys a query sees beside the mask: all of them, or those up to its own position.
enum class Visibility { ALL, CAUSAL };

/// out[b, s, h] = softmax(scale · q[b, s, h] · k[b, :, h / group]ᵀ + mask[b, h, s, :]) · v[b, :, h / group].
///
/// A query that sees no key, or none that a mask of Truths selects, gives zeros; one whose scores are all −∞ gives NaN.
template <class T, class Mask> struct AttentionArguments {
    Heads<const T> query;
    Heads<const T> key;
    Heads<const T> value;
    Heads<T> out;
    Mask mask;
    int heads;
    /// Query heads that share a head of keys and values: 1, or more for grouped queries.
    int group;
    int tokens;
    int total;
    float scale;
    /// CAUSAL: query s sees the keys 0 … s + causal_offset. Not read for ALL.
    int causal_offset;
};

/// The block's share: blocks are numbered tile by tile, head by head, batch by batch in one dimension, which has no bound in practice.
struct AttentionBlock {
    int tile, head, batch;

    __device__ AttentionBlock(int tokens, int tile_queries, int heads) {
        unsigned tiles = (tokens + tile_queries - 1) / tile_queries;
        tile = blockIdx.x % tiles;
        unsigned rest = blockIdx.x / tiles;
        head = rest % heads;
        batch = rest / heads;
    }
};

/// Keys that any of the queries before `query_end` sees.
template <Visibility VISIBILITY, class Arguments>
__device__ __forceinline__ int visible_keys(const Arguments& arguments, int query_end) {
    if constexpr (VISIBILITY == Visibility::CAUSAL) {
        return max(0, min(arguments.total, query_end + arguments.causal_offset));
    }
    return arguments.total;
}

/// Whether a query sees a key, which need not exist.
template <Visibility VISIBILITY, class Arguments>
__device__ __forceinline__ bool sees(const Arguments& arguments, int query, int key) {
    if constexpr (VISIBILITY == Visibility::CAUSAL) {
        return key < arguments.total && key <= query + arguments.causal_offset;
    }
    return key < arguments.total;
}

/// What a query's sums are multiplied with, given its denominator.
template <Visibility VISIBILITY, class T, class Mask>
__device__ __forceinline__ float sum_factor(const AttentionArguments<T, Mask>& arguments, int query, float denominator) {
    // Of no keys the sum is defined as zero.
    const bool none = Mask::SELECTS ? denominator == 0.0f : !sees<VISIBILITY>(arguments, query, 0);
    return none ? 0.0f : 1.0f / denominator;
}

constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// 2^((x − max) · unit). The difference comes first: of huge finite masks, multiplied, infinity would be left.
__device__ __forceinline__ float exp_relative(float x, float max, float unit) { return exp2_fast((x - max) * unit); }

/// The largest (or the sum) over the four lanes that hold one row of a 16×8 tile.
__device__ __forceinline__ float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
    return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}
__device__ __forceinline__ float quad_sum(float v) {
    v += __shfl_xor_sync(~0u, v, 1);
    return v + __shfl_xor_sync(~0u, v, 2);
}

} // namespace slide
