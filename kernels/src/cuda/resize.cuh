// Which elements ONNX's Resize makes an element of its result of along one axis, and by which weights. Positions and weights are calculated
// in double, as on the CPU. Knows nothing of how many axes there are.
#pragma once

namespace slide {

/// How a position of the result maps to one of the input; names as in the operator.
enum class Coordinates { HalfPixel, HalfPixelSymmetric, PytorchHalfPixel, AlignCorners, Asymmetric };

/// Which neighbour is the nearest; names as in the operator.
enum class NearestRounding { RoundPreferFloor, RoundPreferCeil, Floor, Ceil };

/// An axis of `input` elements that becomes one of `output`; `scale` is their quotient or what the model gives in its place.
struct ResizedAxis {
    int input, output;
    double scale;
};

/// Position in the input of element `o` of the result.
template <Coordinates COORDINATES> __device__ __forceinline__ double resize_position(const ResizedAxis& axis, int o) {
    const double extent = axis.scale * axis.input, half_pixel = (o + 0.5) / axis.scale - 0.5;
    if constexpr (COORDINATES == Coordinates::HalfPixel) {
        return half_pixel;
    } else if constexpr (COORDINATES == Coordinates::HalfPixelSymmetric) {
        return axis.input / 2.0 * (1.0 - axis.output / extent) + half_pixel;
    } else if constexpr (COORDINATES == Coordinates::PytorchHalfPixel) {
        return extent == 1.0 ? -0.5 : half_pixel;
    } else if constexpr (COORDINATES == Coordinates::AlignCorners) {
        return extent == 1.0 ? 0.0 : o * (axis.input - 1.0) / (extent - 1.0);
    } else {
        return o / axis.scale;
    }
}

/// The element of the input that element `o` of the result is.
template <Coordinates COORDINATES, NearestRounding ROUNDING>
__device__ __forceinline__ int resize_nearest(const ResizedAxis& axis, int o) {
    const double x = resize_position<COORDINATES>(axis, o), below = floor(x), fraction = x - below;
    bool up = false;
    if constexpr (ROUNDING == NearestRounding::RoundPreferFloor) up = fraction > 0.5;
    if constexpr (ROUNDING == NearestRounding::RoundPreferCeil) up = fraction >= 0.5;
    if constexpr (ROUNDING == NearestRounding::Ceil) up = fraction > 0.0;
    return static_cast<int>(fmin(fmax(up ? below + 1.0 : below, 0.0), axis.input - 1.0));
}

/// Linear interpolation.
struct LinearFilter {
    static constexpr double RADIUS = 1.0;
    static constexpr bool EXCLUDES_OUTSIDE = false;

    __device__ __forceinline__ double operator()(double distance) const { return fmax(1.0 - fabs(distance), 0.0); }
};

/// Cubic interpolation with the coefficient `a`.
template <bool EXCLUDE> struct CubicFilter {
    static constexpr double RADIUS = 2.0;
    static constexpr bool EXCLUDES_OUTSIDE = EXCLUDE;
    double a;

    __device__ __forceinline__ double operator()(double distance) const {
        const double x = fabs(distance);
        if (x <= 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
        return x < 2.0 ? ((x - 5.0) * x + 8.0) * x * a - 4.0 * a : 0.0;
    }
};

/// The consecutive elements that an element of the result is made of. Outside of the input its edge element continues, or, where the filter
/// excludes it, counts nothing.
template <class Filter> struct ResizeTaps {
    Filter filter;
    int input, left, first, count;
    double stretch, fraction, sum;

    __device__ __forceinline__ double unscaled(int tap) const {
        const int at = left + first + tap;
        if (Filter::EXCLUDES_OUTSIDE && (at < 0 || at >= input)) return 0.0;
        return filter(stretch * (first + tap - fraction));
    }

    /// The element of the input that a tap reads.
    __device__ __forceinline__ int at(int tap) const { return min(max(left + first + tap, 0), input - 1); }

    /// Its weight.
    __device__ __forceinline__ float weight(int tap) const {
        return static_cast<float>(sum != 0.0 ? unscaled(tap) / sum : unscaled(tap));
    }
};

/// The elements that element `o` of the result is made of. With ANTIALIAS the filter is as much wider as the result is smaller.
template <Coordinates COORDINATES, bool ANTIALIAS, class Filter>
__device__ __forceinline__ ResizeTaps<Filter> resize_taps(const Filter& filter, const ResizedAxis& axis, int o) {
    const double x = resize_position<COORDINATES>(axis, o);
    // An element exactly at the position counts as the one to its right.
    const double left = ceil(x) - 1.0, stretch = ANTIALIAS ? fmin(axis.scale, 1.0) : 1.0;
    const int first = static_cast<int>(floor(-Filter::RADIUS / stretch)) + 1, count = 2 - 2 * first;
    ResizeTaps<Filter> taps{filter, axis.input, static_cast<int>(left), first, count, stretch, x - left, 0.0};
    for (int tap = 0; tap < count; ++tap) taps.sum += taps.unscaled(tap);
    return taps;
}

} // namespace slide
