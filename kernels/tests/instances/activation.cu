// Every function of activation.cuh.
#include "activation.cuh"

using namespace slide;

extern "C" __global__ void all(const float* x, float* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) {
        return;
    }
    float v = x[i];
    y += 40 * i;
    *y++ = Identity{}(v);
    *y++ = Abs{}(v);
    *y++ = Acos{}(v);
    *y++ = Acosh{}(v);
    *y++ = Asin{}(v);
    *y++ = Asinh{}(v);
    *y++ = Atan{}(v);
    *y++ = Atanh{}(v);
    *y++ = Ceil{}(v);
    *y++ = Celu{1.5f}(v);
    *y++ = Cos{}(v);
    *y++ = Cosh{}(v);
    *y++ = Elu{0.5f}(v);
    *y++ = Erf{}(v);
    *y++ = Exp{}(v);
    *y++ = Floor{}(v);
    *y++ = Gelu{}(v);
    *y++ = GeluTanh{}(v);
    *y++ = HardSigmoid{0.2f, 0.5f}(v);
    *y++ = HardSwish{}(v);
    *y++ = LeakyRelu{0.01f}(v);
    *y++ = Log{}(v);
    *y++ = Mish{}(v);
    *y++ = Neg{}(v);
    *y++ = Reciprocal{}(v);
    *y++ = Relu{}(v);
    *y++ = Round{}(v);
    *y++ = Selu{1.67f, 1.05f}(v);
    *y++ = Shrink{0.1f, 0.5f}(v);
    *y++ = Sigmoid{}(v);
    *y++ = Sign{}(v);
    *y++ = Sin{}(v);
    *y++ = Sinh{}(v);
    *y++ = Softplus{}(v);
    *y++ = Softsign{}(v);
    *y++ = Sqrt{}(v);
    *y++ = Swish{1.0f}(v);
    *y++ = Tan{}(v);
    *y++ = Tanh{}(v);
    *y++ = ThresholdedRelu{1.0f}(v);
}
