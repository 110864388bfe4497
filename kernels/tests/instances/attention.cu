// Every type, mask, visibility and way of parting the work through attention.cuh and attention_f32.cuh.
#include "attention.cuh"
#include "attention_f32.cuh"

using namespace slide;
using bf16 = __nv_bfloat16;
using half_t = __half;

#define ATTENTION(name, body, Tile, visibility, T, Mask)                                                                       \
    extern "C" __global__ void __launch_bounds__(Tile::THREADS) name(AttentionArguments<T, Mask> arguments) {                  \
        extern __shared__ __align__(16) unsigned char shared[];                                                                \
        body<Tile, Visibility::visibility>(arguments, shared);                                                                 \
    }

// Queries in registers, keys parted among warps; many queries; queries in shared memory; depths that 16 does not divide.
using Sentence = AttentionTile<32, 32, 1, 4, 1, 32, 1>;
using Long = AttentionTile<64, 64, 4, 1, 1, 64, 2>;
using Deep = AttentionTile<128, 128, 4, 1, 2, 32, 2>;
using Deepest = AttentionTile<256, 256, 4, 1, 1, 32, 2>;
using Uneven = AttentionTile<24, 40, 2, 2, 1, 16, 2>;
ATTENTION(sentence, attention, Sentence, ALL, bf16, NoMask)
ATTENTION(sentence_mask, attention, Sentence, ALL, bf16, ScoreMask<bf16>)
ATTENTION(sentence_f16, attention, Sentence, CAUSAL, half_t, ScoreMask<float>)
ATTENTION(long_causal, attention, Long, CAUSAL, bf16, NoMask)
ATTENTION(deep, attention, Deep, ALL, half_t, NoMask)
ATTENTION(deepest, attention, Deepest, ALL, bf16, ScoreMask<bf16>)
ATTENTION(uneven, attention, Uneven, CAUSAL, bf16, ScoreMask<bf16>)
ATTENTION(sentence_truth, attention, Sentence, ALL, bf16, ScoreMask<Truth>)
ATTENTION(deep_truth, attention, Deep, CAUSAL, half_t, ScoreMask<Truth>)

using Plain = PlainAttentionTile<32, 32, 4, 1, 4>;
using PlainDeep = PlainAttentionTile<128, 128, 4, 2, 4>;
using PlainUneven = PlainAttentionTile<12, 8, 4, 2, 4>;
ATTENTION(plain, attention_f32, Plain, ALL, float, ScoreMask<float>)
ATTENTION(plain_deep, attention_f32, PlainDeep, CAUSAL, float, NoMask)
ATTENTION(plain_truth, attention_f32, Plain, CAUSAL, float, ScoreMask<Truth>)
ATTENTION(plain_uneven, attention_f32, PlainUneven, ALL, float, NoMask)
