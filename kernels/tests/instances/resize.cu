// Every way to find positions, round them and weight what is around them.
#include "resize.cuh"

using namespace slide;

#define NEAREST(coordinates, rounding)                                                                                         \
    extern "C" __global__ void nearest_##coordinates##_##rounding(const float* x, float* y, ResizedAxis axis) {                \
        const int o = blockIdx.x * blockDim.x + threadIdx.x;                                                                   \
        if (o < axis.output) y[o] = x[resize_nearest<Coordinates::coordinates, NearestRounding::rounding>(axis, o)];           \
    }

#define TAPS(name, coordinates, antialias, Filter)                                                                             \
    extern "C" __global__ void taps_##name(const float* x, float* y, Filter filter, ResizedAxis axis) {                        \
        const int o = blockIdx.x * blockDim.x + threadIdx.x;                                                                   \
        if (o >= axis.output) return;                                                                                          \
        const auto taps = resize_taps<Coordinates::coordinates, antialias>(filter, axis, o);                                   \
        float sum = 0.0f;                                                                                                      \
        for (int k = 0; k < taps.count; ++k) sum += taps.weight(k) * x[taps.at(k)];                                            \
        y[o] = sum;                                                                                                            \
    }

NEAREST(HalfPixel, RoundPreferFloor)
NEAREST(HalfPixelSymmetric, RoundPreferCeil)
NEAREST(AlignCorners, Floor)
NEAREST(Asymmetric, Ceil)
TAPS(linear, PytorchHalfPixel, false, LinearFilter)
TAPS(cubic, HalfPixel, true, CubicFilter<false>)
TAPS(cubic_inside, AlignCorners, false, CubicFilter<true>)
