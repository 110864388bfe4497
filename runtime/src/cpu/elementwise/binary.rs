//! Functions of two elements.

use super::super::broadcast::{Broadcast, zip2};
use super::super::convert::convert;
use super::super::dispatch::{dispatch, input, output, view};
use super::super::promote::{promote, to_word};
use super::super::{Context, Kernel, KernelError};
use crate::dtype::{Bool, DType, Element};
use crate::op::elementwise::Binary;
use crate::tensor::{Tensor, TensorView, TensorViewMut};

impl Kernel for Binary {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_word);
        let (a, b) = (view(inputs, 0)?, view(inputs, 1)?);
        if outputs.iter().all(|o| o.data.is_empty()) {
            return Ok(());
        }
        let plan = Broadcast::new(outputs[0].shape, [a.shape, b.shape]);
        if *self == Binary::Pow {
            return power(&plan, a, b, outputs);
        }
        match a.dtype {
            DType::Bool => logical(*self, &plan, input(inputs, 0)?, input(inputs, 1)?, output(outputs, 0)?),
            dtype => dispatch!(word, "this element-wise function", dtype, T => {
                let (a, b) = (input::<T>(inputs, 0)?, input::<T>(inputs, 1)?);
                if outputs[0].dtype == DType::Bool {
                    compare(*self, &plan, a, b, output(outputs, 0)?)
                } else {
                    T::calculate(*self, &plan, a, b, output(outputs, 0)?)
                }
            }),
        }
    }
}

fn undefined(op: Binary, dtype: DType) -> KernelError {
    KernelError::Data(format!("{op:?} is not defined for {dtype}"))
}

fn logical(op: Binary, plan: &Broadcast<2>, a: &[Bool], b: &[Bool], out: &mut [Bool]) -> Result<(), KernelError> {
    match op {
        Binary::And => zip2(plan, a, b, out, |x: Bool, y: Bool| Bool::from(x.0 != 0 && y.0 != 0)),
        Binary::Or => zip2(plan, a, b, out, |x: Bool, y: Bool| Bool::from(x.0 != 0 || y.0 != 0)),
        Binary::Xor => zip2(plan, a, b, out, |x: Bool, y: Bool| Bool::from((x.0 != 0) != (y.0 != 0))),
        Binary::Equal => zip2(plan, a, b, out, |x: Bool, y: Bool| Bool::from((x.0 != 0) == (y.0 != 0))),
        _ => return Err(undefined(op, DType::Bool)),
    }
    Ok(())
}

fn compare<T: Element + PartialOrd>(
    op: Binary,
    plan: &Broadcast<2>,
    a: &[T],
    b: &[T],
    out: &mut [Bool],
) -> Result<(), KernelError> {
    match op {
        Binary::Equal => zip2(plan, a, b, out, |x, y| Bool::from(x == y)),
        Binary::Greater => zip2(plan, a, b, out, |x, y| Bool::from(x > y)),
        Binary::GreaterOrEqual => zip2(plan, a, b, out, |x, y| Bool::from(x >= y)),
        Binary::Less => zip2(plan, a, b, out, |x, y| Bool::from(x < y)),
        Binary::LessOrEqual => zip2(plan, a, b, out, |x, y| Bool::from(x <= y)),
        _ => return Err(undefined(op, T::DTYPE)),
    }
    Ok(())
}

/// The functions whose result has the operands' type.
trait Calculate: Element {
    fn calculate(op: Binary, plan: &Broadcast<2>, a: &[Self], b: &[Self], out: &mut [Self]) -> Result<(), KernelError>;
}

macro_rules! real {
    ($($t:ident),*) => {$(
        impl Calculate for $t {
            fn calculate(op: Binary, plan: &Broadcast<2>, a: &[$t], b: &[$t], out: &mut [$t]) -> Result<(), KernelError> {
                match op {
                    Binary::Add => zip2(plan, a, b, out, |x, y| x + y),
                    Binary::Sub => zip2(plan, a, b, out, |x, y| x - y),
                    Binary::Mul => zip2(plan, a, b, out, |x, y| x * y),
                    Binary::Div => zip2(plan, a, b, out, |x, y| x / y),
                    Binary::Mod { fmod: true } => zip2(plan, a, b, out, |x, y| x % y),
                    Binary::Mod { fmod: false } => zip2(plan, a, b, out, |x: $t, y: $t| {
                        let r = x % y;
                        if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
                    }),
                    Binary::Max => zip2(plan, a, b, out, |x: $t, y: $t| if x > y || x.is_nan() { x } else { y }),
                    Binary::Min => zip2(plan, a, b, out, |x: $t, y: $t| if x < y || x.is_nan() { x } else { y }),
                    Binary::PRelu => zip2(plan, a, b, out, |x, y| if x < 0.0 { x * y } else { x }),
                    _ => return Err(undefined(op, $t::DTYPE)),
                }
                Ok(())
            }
        }
    )*};
}
real!(f32, f64);

macro_rules! integer {
    ($($t:ident: $negative:expr),*) => {$(
        impl Calculate for $t {
            fn calculate(op: Binary, plan: &Broadcast<2>, a: &[$t], b: &[$t], out: &mut [$t]) -> Result<(), KernelError> {
                if matches!(op, Binary::Div | Binary::Mod { .. }) && b.contains(&0) {
                    return Err(KernelError::Data(format!("{} integer divided by zero", $t::DTYPE)));
                }
                let negative: fn($t) -> bool = $negative;
                // A shift count too large for u32 is as good as any beyond the width.
                let count = |y: $t| u32::try_from(y).unwrap_or(u32::MAX);
                match op {
                    Binary::Add => zip2(plan, a, b, out, |x: $t, y| x.wrapping_add(y)),
                    Binary::Sub => zip2(plan, a, b, out, |x: $t, y| x.wrapping_sub(y)),
                    Binary::Mul => zip2(plan, a, b, out, |x: $t, y| x.wrapping_mul(y)),
                    Binary::Div => zip2(plan, a, b, out, |x: $t, y| x.wrapping_div(y)),
                    Binary::Mod { fmod: true } => zip2(plan, a, b, out, |x: $t, y| x.wrapping_rem(y)),
                    Binary::Mod { fmod: false } => zip2(plan, a, b, out, move |x: $t, y| {
                        let r = x.wrapping_rem(y);
                        if r != 0 && negative(r) != negative(y) { r.wrapping_add(y) } else { r }
                    }),
                    Binary::Max => zip2(plan, a, b, out, |x: $t, y| x.max(y)),
                    Binary::Min => zip2(plan, a, b, out, |x: $t, y| x.min(y)),
                    Binary::PRelu => zip2(plan, a, b, out, move |x: $t, y| if negative(x) { x.wrapping_mul(y) } else { x }),
                    Binary::BitAnd => zip2(plan, a, b, out, |x: $t, y| x & y),
                    Binary::BitOr => zip2(plan, a, b, out, |x: $t, y| x | y),
                    Binary::BitXor => zip2(plan, a, b, out, |x: $t, y| x ^ y),
                    Binary::ShiftLeft => zip2(plan, a, b, out, move |x: $t, y| x.checked_shl(count(y)).unwrap_or(0)),
                    Binary::ShiftRight => zip2(plan, a, b, out, move |x: $t, y| x.checked_shr(count(y)).unwrap_or(0)),
                    _ => return Err(undefined(op, $t::DTYPE)),
                }
                Ok(())
            }
        }
    )*};
}
integer!(i32: |v| v < 0, i64: |v| v < 0, u32: |_| false, u64: |_| false);

/// `a` to the power of `b`, in the type of `a`. Floats take the exponent in their own type. Integers take integer exponents
/// exactly (wrapping) and others through f64.
#[allow(clippy::unnecessary_cast)] // one text for every element type
fn power(
    plan: &Broadcast<2>,
    a: TensorView<'_>,
    b: TensorView<'_>,
    outputs: &mut [TensorViewMut<'_>],
) -> Result<(), KernelError> {
    let exponent_type = if a.dtype.is_float() {
        a.dtype
    } else if b.dtype.is_float() {
        DType::F64
    } else if b.dtype == DType::U64 {
        DType::U64
    } else {
        DType::I64
    };
    let mut exponents = Tensor::zeros(exponent_type, b.shape).map_err(|e| KernelError::Data(e.to_string()))?;
    convert(b, &mut exponents.view_mut())?;
    let exponents = [Some(exponents.view())];
    let base = [Some(a)];

    macro_rules! real {
        ($t:ident) => {{
            let (a, b, out) = (input::<$t>(&base, 0)?, input::<$t>(&exponents, 0)?, output::<$t>(outputs, 0)?);
            match b {
                [2.0] => zip2(plan, a, b, out, |x, _| x * x),
                [3.0] => zip2(plan, a, b, out, |x, _| x * x * x),
                _ => zip2(plan, a, b, out, |x: $t, y| x.powf(y)),
            }
            Ok(())
        }};
    }
    match a.dtype {
        DType::F32 => real!(f32),
        DType::F64 => real!(f64),
        dtype => dispatch!(word, "Pow", dtype, T => {
            let (a, out) = (input::<T>(&base, 0)?, output::<T>(outputs, 0)?);
            match exponent_type {
                DType::F64 => zip2(plan, a, input::<f64>(&exponents, 0)?, out, |x, y| (x as f64).powf(y) as T),
                DType::U64 => zip2(plan, a, input::<u64>(&exponents, 0)?, out, |x, y| integer_power(x as i64, y) as T),
                _ => {
                    let exponents = input::<i64>(&exponents, 0)?;
                    if exponents.iter().any(|&e| e < 0) && a.contains(&(0 as T)) {
                        return Err(KernelError::Data(format!("{dtype} zero raised to a negative power")));
                    }
                    zip2(plan, a, exponents, out, |x, y| match u64::try_from(y) {
                        Ok(y) => integer_power(x as i64, y) as T,
                        // 1/xⁿ truncated towards zero.
                        Err(_) if x == 1 as T => x,
                        Err(_) if x as i128 == -1 => if y % 2 == 0 { 1 as T } else { x },
                        Err(_) => 0 as T,
                    });
                }
            }
            Ok(())
        }),
    }
}

/// `base` to the power of `exponent` modulo 2^64.
fn integer_power(mut base: i64, mut exponent: u64) -> i64 {
    let mut result = 1i64;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{EvalError, eval};
    use half::{bf16, f16};

    fn try_run<A: Element, B: Element, O: Element>(op: Binary, a: &[A], b: &[B]) -> Result<Vec<O>, EvalError> {
        let (a, b) = (Tensor::from_slice(&[a.len()], a).unwrap(), Tensor::from_slice(&[b.len()], b).unwrap());
        eval(&op.into(), &[Some(a.view()), Some(b.view())]).map(|out| out[0].as_slice().unwrap().to_vec())
    }

    fn run<A: Element, B: Element, O: Element>(op: Binary, a: &[A], b: &[B]) -> Vec<O> {
        try_run(op, a, b).unwrap()
    }

    #[test]
    fn arithmetic_on_every_type() {
        macro_rules! check {
            ($($t:ident),*) => {$(
                let (a, b) = ([12, 7, 5, 100].map(|v| v as $t), [4, 2, 5, 9].map(|v| v as $t));
                for (op, want) in [
                    (Binary::Add, [16, 9, 10, 109]), (Binary::Sub, [8, 5, 0, 91]), (Binary::Mod { fmod: true }, [0, 1, 0, 1]),
                    (Binary::Max, [12, 7, 5, 100]), (Binary::Min, [4, 2, 5, 9]), (Binary::PRelu, [12, 7, 5, 100]),
                    (Binary::Mod { fmod: false }, [0, 1, 0, 1]),
                ] {
                    assert_eq!(run::<$t, $t, $t>(op, &a, &b), want.map(|v| v as $t), "{op:?} {}", $t::DTYPE);
                }
                assert_eq!(run::<$t, $t, Bool>(Binary::Greater, &a, &b).map_u8(), [1, 1, 0, 1]);
                assert_eq!(run::<$t, $t, Bool>(Binary::Equal, &a, &b).map_u8(), [0, 0, 1, 0]);
                assert_eq!(run::<$t, $t, Bool>(Binary::LessOrEqual, &a, &b).map_u8(), [0, 0, 1, 0]);
            )*};
        }
        check!(i8, i16, i32, i64, u8, u16, u32, u64, f32, f64);
        let (a, b) = ([1.5f32, -2.0].map(f16::from_f32), [0.25f32, 4.0].map(f16::from_f32));
        assert_eq!(run::<f16, f16, f16>(Binary::Mul, &a, &b), [0.375f32, -8.0].map(f16::from_f32));
        assert_eq!(run::<bf16, bf16, bf16>(Binary::Add, &[bf16::from_f32(256.0)], &[bf16::ONE]), [bf16::from_f32(256.0)]);
        assert_eq!(run::<f16, f16, Bool>(Binary::Less, &a, &b).map_u8(), [0, 1]);
    }

    trait MapU8 {
        fn map_u8(&self) -> Vec<u8>;
    }
    impl MapU8 for Vec<Bool> {
        fn map_u8(&self) -> Vec<u8> {
            self.iter().map(|b| b.0).collect()
        }
    }

    #[test]
    fn integer_edges() {
        assert_eq!(run::<i8, i8, i8>(Binary::Div, &[-7, 7, -128], &[2, -2, -1]), [-3, -3, -128]);
        assert_eq!(run::<i64, i64, i64>(Binary::Div, &[i64::MIN], &[-1]), [i64::MIN]);
        assert_eq!(run::<i32, i32, i32>(Binary::Mod { fmod: false }, &[-7, 7, i32::MIN], &[3, -3, -1]), [2, -2, 0]);
        assert_eq!(run::<i32, i32, i32>(Binary::Mod { fmod: true }, &[-7, 7], &[3, -3]), [-1, 1]);
        assert_eq!(run::<u8, u8, u8>(Binary::Sub, &[1, 200], &[2, 100]), [255, 100]);
        assert_eq!(run::<i16, i16, i16>(Binary::Mul, &[i16::MAX], &[2]), [-2]);
        assert_eq!(run::<u8, u8, u8>(Binary::ShiftLeft, &[1, 1, 255, 1], &[7, 8, 4, 200]), [128, 0, 240, 0]);
        assert_eq!(run::<u64, u64, u64>(Binary::ShiftRight, &[u64::MAX, 8, 8], &[63, 64, u64::MAX]), [1, 0, 0]);
        assert_eq!(run::<i8, i8, i8>(Binary::BitXor, &[-1, 5], &[1, 4]), [-2, 1]);
        for op in [Binary::Div, Binary::Mod { fmod: true }, Binary::Mod { fmod: false }] {
            let e = try_run::<u16, u16, u16>(op, &[1], &[0]).unwrap_err();
            assert!(e.to_string().contains("divided by zero"), "{e}");
        }
        assert!(run::<i32, i32, i32>(Binary::Div, &[], &[0]).is_empty());
    }

    #[test]
    fn power_of_mixed_types() {
        assert_eq!(run::<f32, i64, f32>(Binary::Pow, &[2.0, 3.0, -1.5], &[2]), [4.0, 9.0, 2.25]);
        assert_eq!(run::<f32, f32, f32>(Binary::Pow, &[2.0, 4.0], &[-1.0, 0.5]), [0.5, 2.0]);
        assert_eq!(run::<f64, f32, f64>(Binary::Pow, &[2.0], &[3.0]), [8.0]);
        assert_eq!(run::<i32, f32, i32>(Binary::Pow, &[4, 2], &[0.5, 3.0]), [2, 8]);
        assert_eq!(
            run::<i64, i64, i64>(Binary::Pow, &[3, 2, -1, -1, 5], &[39, 64, -3, -4, -1]),
            [4_052_555_153_018_976_267, 0, -1, 1, 0]
        );
        assert_eq!(run::<u8, i8, u8>(Binary::Pow, &[2, 3], &[7, 5]), [128, 243]);
        assert_eq!(run::<i32, u64, i32>(Binary::Pow, &[-1], &[u64::MAX]), [-1]);
        assert_eq!(run::<f16, f32, f16>(Binary::Pow, &[f16::from_f32(3.0)], &[2.0]), [f16::from_f32(9.0)]);
        assert!(try_run::<i32, i32, i32>(Binary::Pow, &[0], &[-1]).is_err());
    }

    #[test]
    fn nan_and_logic() {
        let (a, b) = ([f32::NAN, 1.0, f32::INFINITY], [1.0, f32::NAN, 2.0]);
        for (op, last) in [(Binary::Max, f32::INFINITY), (Binary::Min, 2.0)] {
            let y = run::<f32, f32, f32>(op, &a, &b);
            assert!(y[0].is_nan() && y[1].is_nan() && y[2] == last, "{op:?} {y:?}");
        }
        assert_eq!(run::<f32, f32, Bool>(Binary::LessOrEqual, &a, &b).map_u8(), [0, 0, 0]);
        assert_eq!(run::<f32, f32, f32>(Binary::Mod { fmod: true }, &[-4.3, 5.0], &[2.1, -3.0]), [-4.3f32 % 2.1, 2.0]);
        let (p, q) = ([Bool(0), Bool(0), Bool(3), Bool(1)], [Bool(0), Bool(1), Bool(0), Bool(2)]);
        for (op, want) in
            [(Binary::And, [0, 0, 0, 1]), (Binary::Or, [0, 1, 1, 1]), (Binary::Xor, [0, 1, 1, 0]), (Binary::Equal, [1, 0, 0, 1])]
        {
            assert_eq!(run::<Bool, Bool, Bool>(op, &p, &q).map_u8(), want, "{op:?}");
        }
    }
}
