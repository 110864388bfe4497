// Convolution as a product of the weights with windows that are gathered while they are read: for convolutions that are not rewritten as
// products for a library. f32 sums.
#pragma once

#include "element.cuh"

namespace slide {

/// Where windows lie on the spatial axes, and channels and filters of one group.
template <int AXES> struct ConvShape {
    int input[AXES], output[AXES], kernel[AXES], stride[AXES], dilation[AXES], before[AXES];
    int groups, channels, filters;
};

constexpr int CONV_THREADS = 256;

/// x: [N, groups · channels, input…], w: [groups · filters, channels, kernel…], bias: [groups · filters] or null, y: [N, groups · filters,
/// output…]. Blocks: N · groups · ⌈filters / FILTERS⌉ · ⌈output… / PIXELS⌉ of CONV_THREADS threads.
template <int FILTERS, int PIXELS, class T, int AXES>
__device__ __forceinline__ void convolve(const T* x, const T* w, const T* bias, T* y, const ConvShape<AXES>& shape) {
    constexpr int DEPTH = 16, COLUMNS = 4, ACROSS = PIXELS / COLUMNS, DOWN = CONV_THREADS / ACROSS, ROWS = FILTERS / DOWN;
    static_assert(ROWS * DOWN == FILTERS && CONV_THREADS % PIXELS == 0, "each thread calculates ROWS filters of COLUMNS pixels");
    __shared__ float windows[DEPTH][PIXELS];
    // One more, so that threads that write a filter's elements side by side use different banks.
    __shared__ float weights[DEPTH][FILTERS + 1];

    int pixels_in = 1, pixels_out = 1, taps = 1;
#pragma unroll
    for (int a = 0; a < AXES; ++a) {
        pixels_in *= shape.input[a];
        pixels_out *= shape.output[a];
        taps *= shape.kernel[a];
    }
    const int depth = shape.channels * taps;
    const unsigned pixel_tiles = (pixels_out + PIXELS - 1) / PIXELS, filter_tiles = (shape.filters + FILTERS - 1) / FILTERS;
    const unsigned image_and_group = blockIdx.x / pixel_tiles / filter_tiles, group = image_and_group % shape.groups;
    const int first_pixel = blockIdx.x % pixel_tiles * PIXELS, first_filter = blockIdx.x / pixel_tiles % filter_tiles * FILTERS;
    x += static_cast<long long>(image_and_group) * shape.channels * pixels_in;
    y += static_cast<long long>(image_and_group) * shape.filters * pixels_out;
    w += static_cast<long long>(group) * shape.filters * depth;

    // The window that this thread reads elements of.
    const int window = threadIdx.x % PIXELS;
    const bool exists = first_pixel + window < pixels_out;
    int start[AXES];
    int rest = first_pixel + window;
#pragma unroll
    for (int a = AXES - 1; a >= 0; --a) {
        start[a] = rest % shape.output[a] * shape.stride[a] - shape.before[a];
        rest /= shape.output[a];
    }

    const int across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS;
    float sum[ROWS][COLUMNS] = {};
    for (int from = 0; from < depth; from += DEPTH) {
        for (int d = threadIdx.x / PIXELS; d < DEPTH; d += CONV_THREADS / PIXELS) {
            int tap = (from + d) % taps, index = 0, size = 1;
            const int channel = (from + d) / taps;
            bool inside = exists && from + d < depth;
#pragma unroll
            for (int a = AXES - 1; a >= 0; --a) {
                const int at = start[a] + tap % shape.kernel[a] * shape.dilation[a];
                tap /= shape.kernel[a];
                inside = inside && at >= 0 && at < shape.input[a];
                index += at * size;
                size *= shape.input[a];
            }
            windows[d][window] = inside ? element(x + static_cast<long long>(channel) * pixels_in, index) : 0.0f;
        }
        for (int i = threadIdx.x; i < FILTERS * DEPTH; i += CONV_THREADS) {
            const int filter = first_filter + i / DEPTH, d = from + i % DEPTH;
            const bool inside = filter < shape.filters && d < depth;
            weights[i % DEPTH][i / DEPTH] = inside ? element(w, static_cast<long long>(filter) * depth + d) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            float column[COLUMNS];
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) column[j] = windows[d][across + j * ACROSS];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                const float weight = weights[d][down + i * DOWN];
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) sum[i][j] += weight * column[j];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        const int filter = first_filter + down + i * DOWN;
        if (filter >= shape.filters) continue;
        const float added = bias ? element(bias, static_cast<long long>(group) * shape.filters + filter) : 0.0f;
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            const int pixel = first_pixel + across + j * ACROSS;
            if (pixel < pixels_out) put_element(y, static_cast<long long>(filter) * pixels_out + pixel, sum[i][j] + added);
        }
    }
}

} // namespace slide
