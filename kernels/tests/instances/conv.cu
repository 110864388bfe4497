// Both tile sizes, one to three spatial axes.
#include "conv.cuh"

using namespace slide;

#define CONVOLVE(name, T, AXES, FILTERS, PIXELS)                                                                               \
    extern "C" __global__ void __launch_bounds__(CONV_THREADS)                                                                 \
        conv_##name(const T* x, const T* w, const T* bias, T* y, ConvShape<AXES> shape) {                                      \
        convolve<FILTERS, PIXELS>(x, w, bias, y, shape);                                                                       \
    }

CONVOLVE(sequence, float, 1, 64, 64)
CONVOLVE(image, __nv_bfloat16, 2, 64, 64)
CONVOLVE(few_filters, float, 2, 8, 128)
CONVOLVE(volume, __half, 3, 8, 128)
