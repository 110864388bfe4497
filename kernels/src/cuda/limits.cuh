// The ends of f32's range.
#pragma once

namespace slide {

/// The lowest finite number. A softmax's running maximum starts here and not at −∞, so that rows of −∞ become 0 / 0 and rows of huge
/// finite masks a mean, as on the CPU.
constexpr float LOWEST = -3.402823466e38f;

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

} // namespace slide
