// Every reduction over rows and columns, of floats and integers.
#include "reduce.cuh"

using namespace slide;
using bf16 = __nv_bfloat16;

#define REDUCE(name, Reduction, T, Out)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) rows_##name(const T* x, Out* y, long long outer, int axis) {             \
        using Kind = Reduction;                                                                                                \
        reduce_rows<RowGroup<256, 1>, Kind, 4>(ReduceSource<T, Kind::Value>{x, axis}, ReduceSink<Out, Kind::Result>{y}, outer, \
                                               axis);                                                                          \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) columns_##name(const T* x, Out* y, int axis, int inner) {                \
        using Kind = Reduction;                                                                                                \
        reduce_columns<8, Kind, 1>(ReduceSource<T, Kind::Value>{x, inner}, ReduceSink<Out, Kind::Result>{y}, axis, inner);     \
    }

#define EVERY(T, Value)                                                                                                        \
    REDUCE(sum_##Value, Sum<Value>, T, T)                                                                                      \
    REDUCE(mean_##Value, Mean<Value>, T, T)                                                                                    \
    REDUCE(l1_##Value, L1<Value>, T, T)                                                                                        \
    REDUCE(l2_##Value, L2<Value>, T, T)                                                                                        \
    REDUCE(square_##Value, SumSquare<Value>, T, T)                                                                             \
    REDUCE(log_##Value, LogSum<Value>, T, T)                                                                                   \
    REDUCE(prod_##Value, Prod<Value>, T, T)                                                                                    \
    REDUCE(max_##Value, Max<Value>, T, T)                                                                                      \
    REDUCE(min_##Value, Min<Value>, T, T)

using integer = long long;
EVERY(bf16, float)
EVERY(signed char, integer)

using First = ArgExtreme<float, true, false>;
using Last = ArgExtreme<integer, false, true>;
REDUCE(logsumexp, LogSumExp<float>, __half, __half)
REDUCE(argmax, First, float, integer)
REDUCE(argmin, Last, int, integer)
