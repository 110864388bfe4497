// Every source of sums, halves and neighbours, whole and partly turned heads, through rotary.cuh.
#include "rotary.cuh"

using namespace slide;
using bf16 = __nv_bfloat16;
using half_t = __half;

// Two query heads and one key head of 16, the latter turned in part, and values; the keys and values transposed too.
#define HEADS(name, WIDTH, INTERLEAVED, Table, Sums, ...)                                                                               \
    extern "C" __global__ void __launch_bounds__(128)                                                                                   \
        name(const typename Sums::Raw* from, const float* token, const float* channel, const float* bias, const bf16* added,            \
             const Table* cos, const Table* sin, typename Sums::Result* q, typename Sums::Result* k, float* wide, bf16* v,              \
             long long rows, int tokens, bool of_batch) {                                                                               \
        const Sums sums{__VA_ARGS__};                                                                                                   \
        const auto query = [&](const HeadRow& at, int column, const float(&y)[WIDTH]) { put_elements(q + at.row * 32 + column, y); };   \
        const auto key = [&](const HeadRow& at, int column, const float(&y)[WIDTH]) {                                                   \
            put_elements(k + at.row * 16 + column, y);                                                                                  \
            put_elements<float, bf16>(wide + heads_first<1, 16>(at, column, tokens), y);                                                \
        };                                                                                                                              \
        const auto value = [&](const HeadRow& at, int column, const float(&y)[WIDTH]) {                                                 \
            put_elements(v + heads_first<2, 8>(at, column, tokens), y);                                                                 \
        };                                                                                                                              \
        heads<128, 4, 2 * (INTERLEAVED ? 16 : 8) / WIDTH + (INTERLEAVED ? 16 : 12) / WIDTH + 16 / WIDTH>(                               \
            sums, rows, tokens, turned_heads<WIDTH, 0, 2, 16, 16, INTERLEAVED, Table>({cos, sin, of_batch, true}, query),               \
            turned_heads<WIDTH, 32, 1, 16, 8, INTERLEAVED, Table>({cos, sin, true, false}, key),                                        \
            straight_columns<WIDTH, 48, 16>(value));                                                                                    \
    }

using Int8 = ScaledSums<int, bf16, 64, true>;
using Narrow = ScaledSums<bf16, bf16, 64, false>;
using Float = ScaledSums<float, float, 64, true>;
using Plain = PlainSums<bf16, bf16, 64>;
using Widened = PlainSums<bf16, float, 64>;
using Half = PlainSums<half_t, half_t, 64>;
using Added = AddedSums<bf16, bf16, float, 64>;

HEADS(int8_halves, 4, false, float, Int8, from, token, channel, bias)
HEADS(narrow_halves, 4, false, bf16, Narrow, from, token, channel, bias)
HEADS(float_neighbours, 8, true, float, Float, from, token, channel, bias)
HEADS(plain_neighbours, 2, true, bf16, Plain, from)
HEADS(plain_single, 1, false, float, Widened, from)
HEADS(half_halves, 4, false, half_t, Half, from)
HEADS(added_halves, 2, false, float, Added, from, added)
