// Every way to hold a row through softmax.cuh and norm.cuh.
#include "norm.cuh"
#include "softmax.cuh"

using namespace slide;
using bf16 = __nv_bfloat16;
using half_t = __half;

/// What generated code fuses: a residual added before, and the sum kept.
struct AddedRows {
    MatrixRows<bf16> x, residual;
    MatrixSink<bf16> sum;

    template <int WIDTH> __device__ __forceinline__ void load(long long row, int i, float (&to)[WIDTH]) const {
        float other[WIDTH];
        x.load(row, i, to);
        residual.load(row, i, other);
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            to[j] += other[j];
        }
        sum.store(row, i, to);
    }
};

extern "C" __global__ void __launch_bounds__(256)
    layer_added(const bf16* x, const bf16* residual, bf16* sum, const bf16* scale, const bf16* bias, bf16* y, long long rows) {
    using Row = RegisterRow<RowGroup<32, 8>, 384, 4>;
    normalize<Row, Norm::LAYER>(AddedRows{{x, 384}, {residual, 384}, {sum, 384}}, SameRow<bf16>{scale}, SameRow<bf16>{bias},
                                MatrixSink<bf16>{y, 384}, rows, 384, 1e-12f);
}

#define ROWS(name, threads, Row, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(threads) softmax_##name(const T* x, T* y, long long rows, int length) {       \
        extern __shared__ float4 shared[];                                                                                     \
        softmax<Row, false>(MatrixRows<T>{x, length}, MatrixSink<T>{y, length}, rows, length, (float*)shared);                 \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(threads) log_softmax_##name(const T* x, T* y, long long rows, int length) {   \
        extern __shared__ float4 shared[];                                                                                     \
        softmax<Row, true>(MatrixRows<T>{x, length}, MatrixSink<T>{y, length}, rows, length, (float*)shared);                  \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(threads)                                                                      \
        layer_##name(const T* x, const T* scale, T* y, float* mean, float* deviation, long long rows, int length) {            \
        extern __shared__ float4 shared[];                                                                                     \
        normalize<Row, Norm::LAYER>(MatrixRows<T>{x, length}, SameRow<T>{scale}, NoBias{}, MatrixSink<T>{y, length}, rows,     \
                                    length, 1e-5f, (float*)shared, StoredStatistics{mean, deviation});                         \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(threads) rms_##name(const T* x, const T* scale, T* y, long long rows,         \
                                                                     int length) {                                             \
        extern __shared__ float4 shared[];                                                                                     \
        normalize<Row, Norm::RMS>(MatrixRows<T>{x, length}, SameRow<T>{scale}, NoBias{}, MatrixSink<T>{y, length}, rows,       \
                                  length, 1e-5f, (float*)shared);                                                              \
    }

using Lanes = RegisterRow<RowGroup<8, 16>, AT_LAUNCH, 4, 256>;
using Fixed = RegisterRow<RowGroup<224, 1>, 3584, 8>;
using Short = SharedRow<RowGroup<32, 4>, AT_LAUNCH, 8>;
using Block = SharedRow<RowGroup<256, 1>, AT_LAUNCH, 4>;
using Huge = ReloadedRow<RowGroup<512, 1>, AT_LAUNCH, 8, MatrixRows<bf16>>;
ROWS(lanes, 128, Lanes, half_t)
ROWS(fixed, 224, Fixed, bf16)
ROWS(short, 128, Short, bf16)
ROWS(block, 256, Block, float)
ROWS(huge, 512, Huge, bf16)
