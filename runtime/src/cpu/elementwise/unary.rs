//! Functions of one element.

use rten_simd::SimdUnaryOp;

use super::super::dispatch::{dispatch, input, output, view};
use super::super::erf::{Erf, erf};
use super::super::gate::{Gelu, GeluTanh, Swish};
use super::super::parallel;
use super::super::promote::{promote, to_word};
use super::super::{Context, Kernel, KernelError};
use crate::dtype::{Bool, DType, Element};
use crate::op::elementwise::Unary;
use crate::tensor::{TensorView, TensorViewMut};

impl Kernel for Unary {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_word);
        let dtype = view(inputs, 0)?.dtype;
        match *self {
            Unary::Not => {
                map(input::<Bool>(inputs, 0)?, output(outputs, 0)?, |x: Bool| Bool::from(x.0 == 0));
                Ok(())
            }
            Unary::IsNan => dispatch!(real, "IsNan", dtype, T => {
                map(input::<T>(inputs, 0)?, output(outputs, 0)?, |x| Bool::from(x.is_nan()));
                Ok(())
            }),
            Unary::IsInf { negative, positive } => dispatch!(real, "IsInf", dtype, T => {
                map(input::<T>(inputs, 0)?, output(outputs, 0)?, move |x| {
                    Bool::from((negative && x == T::NEG_INFINITY) || (positive && x == T::INFINITY))
                });
                Ok(())
            }),
            op => match dtype {
                DType::F32 => {
                    let (x, y) = (input(inputs, 0)?, output(outputs, 0)?);
                    match vectorised(op) {
                        None => real_f32(op, x, y),
                        Some(function) => {
                            parallel::zip(x, y, &|x, y| {
                                for (x, y) in x.chunks(BLOCK).zip(y.chunks_mut(BLOCK)) {
                                    y.copy_from_slice(x);
                                    function(y);
                                }
                            });
                            Ok(())
                        }
                    }
                }
                DType::F64 => real_f64(op, input(inputs, 0)?, output(outputs, 0)?),
                DType::I32 => signed_i32(op, input(inputs, 0)?, output(outputs, 0)?),
                DType::I64 => signed_i64(op, input(inputs, 0)?, output(outputs, 0)?),
                DType::U32 => unsigned_u32(op, input(inputs, 0)?, output(outputs, 0)?),
                DType::U64 => unsigned_u64(op, input(inputs, 0)?, output(outputs, 0)?),
                other => Err(KernelError::UnsupportedType("this element-wise function", other)),
            },
        }
    }
}

fn map<X: Element, Y: Element>(x: &[X], y: &mut [Y], f: impl Fn(X) -> Y + Sync) {
    parallel::zip(x, y, &|x, y| y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)));
}

/// Elements copied, then mapped in place while they are in the first-level cache.
const BLOCK: usize = 2048;

/// A function of f32, in place.
type InPlace = Box<dyn Fn(&mut [f32]) + Send + Sync>;

/// The functions with a vectorised form: rten-vecmath's are within 1 (Exp), 3 (Tanh) and 4 (Sigmoid) units in the last place of the C library's. Its sine and cosine are not used: they lose relative accuracy near their zeros.
fn vectorised(op: Unary) -> Option<InPlace> {
    fn map(op: impl SimdUnaryOp<f32> + Send + Sync + 'static) -> Option<InPlace> {
        Some(Box::new(move |y| op.map_mut(y)))
    }
    match op {
        Unary::Exp => map(rten_vecmath::Exp {}),
        Unary::Erf => map(Erf {}),
        Unary::Gelu => map(Gelu {}),
        Unary::GeluTanh => map(GeluTanh {}),
        Unary::Sigmoid => map(rten_vecmath::Sigmoid {}),
        Unary::Swish { alpha } => map(Swish { alpha }),
        Unary::Tanh => map(rten_vecmath::Tanh {}),
        _ => None,
    }
}

/// A function of f32 that a matrix product ends with.
pub(in crate::cpu) struct Activation {
    op: Unary,
    vectorised: Option<InPlace>,
}

impl Activation {
    /// `op` must be one that gives floats, as the products' type rules demand.
    pub fn new(op: Unary) -> Self {
        Activation { op, vectorised: vectorised(op) }
    }

    /// In place, with the numbers that the operator by itself gives.
    pub fn apply(&self, y: &mut [f32]) {
        match &self.vectorised {
            Some(function) => function(y),
            None => {
                let x = y.to_vec();
                real_f32(self.op, &x, y).expect("the type rules admit only functions that give floats");
            }
        }
    }
}

fn undefined(op: Unary, dtype: DType) -> KernelError {
    KernelError::Data(format!("{op:?} is not defined for {dtype}"))
}

macro_rules! real {
    ($name:ident, $t:ident, $erf:expr) => {
        fn $name(op: Unary, x: &[$t], y: &mut [$t]) -> Result<(), KernelError> {
            #[allow(clippy::excessive_precision)] // f64 needs all digits
            const GELU: $t = 0.797_884_560_802_865_4; // sqrt(2/π)
            let wide = |v: f32| v as $t;
            let erf: fn($t) -> $t = $erf;
            match op {
                Unary::Abs => map(x, y, |v| v.abs()),
                Unary::Acos => map(x, y, |v| v.acos()),
                // The inverse hyperbolic functions of the standard library lose digits in f32.
                Unary::Acosh => map(x, y, |v| f64::from(v).acosh() as $t),
                Unary::Asin => map(x, y, |v| v.asin()),
                Unary::Asinh => map(x, y, |v| f64::from(v).asinh() as $t),
                Unary::Atan => map(x, y, |v| v.atan()),
                Unary::Atanh => map(x, y, |v| f64::from(v).atanh() as $t),
                Unary::Ceil => map(x, y, |v| v.ceil()),
                Unary::Celu { alpha } => {
                    let alpha = wide(alpha);
                    map(x, y, move |v| if v > 0.0 { v } else { alpha * (v / alpha).exp_m1() });
                }
                Unary::Cos => map(x, y, |v| v.cos()),
                Unary::Cosh => map(x, y, |v| v.cosh()),
                Unary::Elu { alpha } => {
                    let alpha = wide(alpha);
                    map(x, y, move |v| if v > 0.0 { v } else { alpha * v.exp_m1() });
                }
                Unary::Erf => map(x, y, erf),
                Unary::Exp => map(x, y, |v| v.exp()),
                Unary::Floor => map(x, y, |v| v.floor()),
                Unary::Gelu => map(x, y, move |v| 0.5 * v * (1.0 + erf(v * std::$t::consts::FRAC_1_SQRT_2))),
                Unary::GeluTanh => map(x, y, |v| 0.5 * v * (1.0 + (GELU * (v + 0.044715 * v * v * v)).tanh())),
                Unary::HardSigmoid { alpha, beta } => {
                    let (alpha, beta) = (wide(alpha), wide(beta));
                    map(x, y, move |v| (alpha * v + beta).clamp(0.0, 1.0));
                }
                Unary::HardSwish => map(x, y, |v| v * (v / 6.0 + 0.5).clamp(0.0, 1.0)),
                Unary::LeakyRelu { alpha } => {
                    let alpha = wide(alpha);
                    map(x, y, move |v| if v < 0.0 { alpha * v } else { v });
                }
                Unary::Log => map(x, y, |v| v.ln()),
                Unary::Mish => map(x, y, |v| v * (v.max(0.0) + (-v.abs()).exp().ln_1p()).tanh()),
                Unary::Neg => map(x, y, |v| -v),
                Unary::Reciprocal => map(x, y, |v| 1.0 / v),
                // Not `max`, which drops NaN.
                Unary::Relu => map(x, y, |v| if v < 0.0 { 0.0 } else { v }),
                Unary::Round => map(x, y, |v| v.round_ties_even()),
                Unary::Selu { alpha, gamma } => {
                    let (alpha, gamma) = (wide(alpha), wide(gamma));
                    map(x, y, move |v| gamma * if v > 0.0 { v } else { alpha * v.exp_m1() });
                }
                Unary::Shrink { bias, lambda } => {
                    let (bias, lambda) = (wide(bias), wide(lambda));
                    map(x, y, move |v| {
                        if v < -lambda {
                            v + bias
                        } else if v > lambda {
                            v - bias
                        } else {
                            0.0
                        }
                    });
                }
                Unary::Sigmoid => map(x, y, |v| 1.0 / (1.0 + (-v).exp())),
                Unary::Sign => map(x, y, |v| {
                    if v > 0.0 {
                        1.0
                    } else if v < 0.0 {
                        -1.0
                    } else {
                        v
                    }
                }),
                Unary::Sin => map(x, y, |v| v.sin()),
                Unary::Sinh => map(x, y, |v| v.sinh()),
                // `max` keeps the other operand for NaN; the sum is NaN all the same.
                Unary::Softplus => map(x, y, |v| v.max(0.0) + (-v.abs()).exp().ln_1p()),
                Unary::Softsign => map(x, y, |v| v / (1.0 + v.abs())),
                Unary::Sqrt => map(x, y, |v| v.sqrt()),
                Unary::Swish { alpha } => {
                    let alpha = wide(alpha);
                    map(x, y, move |v| v / (1.0 + (-alpha * v).exp()));
                }
                Unary::Tan => map(x, y, |v| v.tan()),
                Unary::Tanh => map(x, y, |v| v.tanh()),
                Unary::ThresholdedRelu { alpha } => {
                    let alpha = wide(alpha);
                    map(x, y, move |v| if v <= alpha { 0.0 } else { v });
                }
                Unary::BitNot | Unary::Not | Unary::IsInf { .. } | Unary::IsNan => return Err(undefined(op, $t::DTYPE)),
            }
            Ok(())
        }
    };
}
real!(real_f32, f32, |v| erf(v.into()) as f32);
real!(real_f64, f64, erf);

macro_rules! integer {
    ($name:ident, $t:ident, $abs:expr, $sign:expr, $neg:expr) => {
        fn $name(op: Unary, x: &[$t], y: &mut [$t]) -> Result<(), KernelError> {
            match op {
                Unary::Abs => map(x, y, $abs),
                Unary::BitNot => map(x, y, |v: $t| !v),
                Unary::Neg => map(x, y, $neg),
                Unary::Relu => map(x, y, |v| v.max(0)),
                Unary::Shrink { bias, lambda } => {
                    let (bias, lambda) = (f64::from(bias), f64::from(lambda));
                    map(x, y, move |v| {
                        let real = v as f64;
                        (if real < -lambda {
                            real + bias
                        } else if real > lambda {
                            real - bias
                        } else {
                            0.0
                        }) as $t
                    });
                }
                Unary::Sign => map(x, y, $sign),
                _ => return Err(undefined(op, $t::DTYPE)),
            }
            Ok(())
        }
    };
}
integer!(signed_i32, i32, i32::wrapping_abs, i32::signum, i32::wrapping_neg);
integer!(signed_i64, i64, i64::wrapping_abs, i64::signum, i64::wrapping_neg);
integer!(unsigned_u32, u32, |v| v, |v| v.min(1), u32::wrapping_neg);
integer!(unsigned_u64, u64, |v| v, |v| v.min(1), u64::wrapping_neg);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::eval;
    use crate::tensor::Tensor;
    use half::{bf16, f16};

    fn run<T: Element, O: Element>(op: Unary, x: &[T]) -> Vec<O> {
        let x = Tensor::from_slice(&[x.len()], x).unwrap();
        eval(&op.into(), &[Some(x.view())]).unwrap()[0].as_slice().unwrap().to_vec()
    }

    /// Every function by its textbook formula in f64.
    fn reference(op: Unary, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let a = f64::from;
        match op {
            Unary::Abs => x.abs(),
            Unary::Acos => x.acos(),
            Unary::Acosh => (x + (x * x - 1.0).sqrt()).ln(),
            Unary::Asin => x.asin(),
            Unary::Asinh => (x.abs() + (x * x + 1.0).sqrt()).ln().copysign(x),
            Unary::Atan => x.atan(),
            Unary::Atanh => 0.5 * ((1.0 + x) / (1.0 - x)).ln(),
            Unary::Ceil => -(-x).floor(),
            Unary::Celu { alpha } => x.max(0.0) + (a(alpha) * ((x / a(alpha)).exp() - 1.0)).min(0.0),
            Unary::Cos => x.cos(),
            Unary::Cosh => (x.exp() + (-x).exp()) / 2.0,
            Unary::Elu { alpha } => {
                if x < 0.0 {
                    a(alpha) * (x.exp() - 1.0)
                } else {
                    x
                }
            }
            Unary::Erf => erf(x),
            Unary::Exp => x.exp(),
            Unary::Floor => x.floor(),
            Unary::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            Unary::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
            Unary::HardSigmoid { alpha, beta } => (a(alpha) * x + a(beta)).clamp(0.0, 1.0),
            Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Unary::LeakyRelu { alpha } => {
                if x < 0.0 {
                    a(alpha) * x
                } else {
                    x
                }
            }
            Unary::Log => x.ln(),
            Unary::Mish => x * (1.0 + x.exp()).ln().tanh(),
            Unary::Neg => 0.0 - x,
            Unary::Reciprocal => x.powi(-1),
            Unary::Relu => x.max(0.0),
            Unary::Round => x.round_ties_even(),
            Unary::Selu { alpha, gamma } => a(gamma) * if x > 0.0 { x } else { a(alpha) * (x.exp() - 1.0) },
            Unary::Shrink { bias, lambda } => {
                if x.abs() <= a(lambda) {
                    0.0
                } else {
                    x - a(bias).copysign(x)
                }
            }
            Unary::Sigmoid => sigmoid(x),
            Unary::Sign => {
                if x == 0.0 {
                    0.0
                } else {
                    x.signum()
                }
            }
            Unary::Sin => x.sin(),
            Unary::Sinh => (x.exp() - (-x).exp()) / 2.0,
            Unary::Softplus => (1.0 + x.exp()).ln(),
            Unary::Softsign => x / (1.0 + x.abs()),
            Unary::Sqrt => x.sqrt(),
            Unary::Swish { alpha } => x * sigmoid(a(alpha) * x),
            Unary::Tan => x.sin() / x.cos(),
            Unary::Tanh => 1.0 - 2.0 / ((2.0 * x).exp() + 1.0),
            Unary::ThresholdedRelu { alpha } => {
                if x > a(alpha) {
                    x
                } else {
                    0.0
                }
            }
            Unary::BitNot | Unary::IsInf { .. } | Unary::IsNan | Unary::Not => unreachable!("not a real function"),
        }
    }

    const REAL: [Unary; 40] = [
        Unary::Abs,
        Unary::Acos,
        Unary::Acosh,
        Unary::Asin,
        Unary::Asinh,
        Unary::Atan,
        Unary::Atanh,
        Unary::Ceil,
        Unary::Celu { alpha: 1.5 },
        Unary::Cos,
        Unary::Cosh,
        Unary::Elu { alpha: 0.7 },
        Unary::Erf,
        Unary::Exp,
        Unary::Floor,
        Unary::Gelu,
        Unary::GeluTanh,
        Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Unary::HardSwish,
        Unary::LeakyRelu { alpha: 0.01 },
        Unary::Log,
        Unary::Mish,
        Unary::Neg,
        Unary::Reciprocal,
        Unary::Relu,
        Unary::Round,
        Unary::Selu { alpha: 1.673, gamma: 1.05 },
        Unary::Shrink { bias: 0.5, lambda: 1.0 },
        Unary::Sigmoid,
        Unary::Sign,
        Unary::Sin,
        Unary::Sinh,
        Unary::Softplus,
        Unary::Softsign,
        Unary::Sqrt,
        Unary::Swish { alpha: 1.0 },
        Unary::Swish { alpha: 1.702 },
        Unary::Tan,
        Unary::Tanh,
        Unary::ThresholdedRelu { alpha: 1.0 },
    ];

    #[test]
    fn real_functions_match_their_formulas() {
        // Beyond one task, and no multiple of a vector.
        let x: Vec<f32> = (0..40_003).map(|i| (i % 4_001) as f32 * 0.005 - 10.0 + 1e-4).collect();
        let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
        let mut wrong = Vec::new();
        for op in REAL {
            let (single, double) = (run::<f32, f32>(op, &x), run::<f64, f64>(op, &wide));
            // Functions that cancel, or amplify the rounding of alpha·x, as their definitions do: the error is relative to x.
            let cancels = matches!(
                op,
                Unary::Gelu | Unary::GeluTanh | Unary::Mish | Unary::HardSigmoid { .. } | Unary::HardSwish | Unary::Swish { .. }
            );
            let differs = |x: f64, got: f64, tolerance: f64| {
                let want = reference(op, x);
                let scale = want.abs() + if cancels { x.abs() } else { 0.0 };
                want.is_nan() != got.is_nan() || (got - want).abs() > tolerance * scale
            };
            // The reference formulas themselves cancel near 0.
            let first = wide.iter().zip(single.iter().zip(&double)).find(|(x, (s, d))| {
                differs(**x, f64::from(**s), if x.abs() < 1e-3 { 1e-5 } else { 1e-6 }) || differs(**x, **d, 1e-9)
            });
            wrong.extend(first.map(|(&x, (s, d))| format!("{op:?}({x}): {s}, {d}, not {}", reference(op, x))));
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn half_precision_rounds_once() {
        let x: Vec<f16> = (-300..300).map(|i| f16::from_f32(i as f32 * 0.02)).collect();
        for (x, y) in x.iter().zip(run::<f16, f16>(Unary::Tanh, &x)) {
            let want = f64::from(*x).tanh();
            assert!((f64::from(y) - want).abs() <= want.abs() * 4.9e-4, "{x} {y}");
        }
        assert_eq!(run::<bf16, bf16>(Unary::Sqrt, &[bf16::from_f32(2.0)]), [bf16::from_f32(1.414_062_5)]);
    }

    #[test]
    fn infinities_and_nan() {
        const INF: f32 = f32::INFINITY;
        for (op, at_minus, at_plus) in [
            (Unary::Exp, 0.0, INF),
            (Unary::Erf, -1.0, 1.0),
            (Unary::Tanh, -1.0, 1.0),
            (Unary::Sigmoid, 0.0, 1.0),
            (Unary::Relu, 0.0, INF),
            (Unary::Softplus, 0.0, INF),
            (Unary::Log, f32::NAN, INF),
            (Unary::Elu { alpha: 2.0 }, -2.0, INF),
        ] {
            let y = run::<f32, f32>(op, &[-INF, INF, f32::NAN]);
            for (y, want) in y.iter().zip([at_minus, at_plus, f32::NAN]) {
                assert!(*y == want || y.is_nan() && want.is_nan(), "{op:?}: {y}, not {want}");
            }
        }
        for op in REAL {
            assert!(run::<f32, f32>(op, &[f32::NAN])[0].is_nan() || matches!(op, Unary::Shrink { .. }), "{op:?}");
        }
    }

    #[test]
    fn integers_and_truth() {
        assert_eq!(run::<i8, i8>(Unary::Abs, &[-128, -3, 4]), [-128, 3, 4]);
        assert_eq!(run::<i64, i64>(Unary::Neg, &[i64::MIN, 5]), [i64::MIN, -5]);
        assert_eq!(run::<u8, u8>(Unary::BitNot, &[0, 0xf0]), [0xff, 0x0f]);
        assert_eq!(run::<u64, u64>(Unary::Sign, &[0, 9]), [0, 1]);
        assert_eq!(run::<i16, i16>(Unary::Relu, &[-4, 4]), [0, 4]);
        assert_eq!(run::<i32, i32>(Unary::Shrink { bias: 1.0, lambda: 1.5 }, &[-2, 1, 2]), [-1, 0, 1]);
        assert_eq!(run::<Bool, Bool>(Unary::Not, &[Bool(0), Bool(7)]), [Bool(1), Bool(0)]);
        let x = [f32::NEG_INFINITY, 1.0, f32::INFINITY, f32::NAN];
        assert_eq!(run::<f32, Bool>(Unary::IsNan, &x), [Bool(0), Bool(0), Bool(0), Bool(1)]);
        assert_eq!(run::<f32, Bool>(Unary::IsInf { negative: false, positive: true }, &x), [Bool(0), Bool(0), Bool(1), Bool(0)]);
        assert_eq!(run::<f16, Bool>(Unary::IsInf { negative: true, positive: true }, &[f16::INFINITY]), [Bool(1)]);
        assert!(run::<f32, f32>(Unary::Exp, &[]).is_empty());
    }
}
