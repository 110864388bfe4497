//! Functions of elements as expressions in C++.

use slidec_kernels::functor;
use sliderun::dtype::DType;
use sliderun::op::elementwise::{Binary, Unary};

use super::super::builder::{element_type, float};

/// A function of an element.
pub fn unary(f: Unary, dtype: DType, x: &str) -> String {
    match f {
        Unary::Not => format!("!{x}"),
        Unary::BitNot => format!("~{x}"),
        Unary::IsNan => format!("({x} != {x})"),
        Unary::IsInf { negative, positive } => {
            let infinity = float(f32::INFINITY);
            format!("(({negative} && {x} == -{infinity}) || ({positive} && {x} == {infinity}))")
        }
        _ if dtype.is_float() => format!("{}({x})", functor(f)),
        Unary::Abs => format!("({x} < 0 ? -{x} : {x})"),
        Unary::Neg => format!("-{x}"),
        Unary::Relu => format!("({x} < 0 ? 0 : {x})"),
        Unary::Sign => format!("({x} > 0 ? 1 : {x} < 0 ? -1 : 0)"),
        f => unreachable!("{f:?} was not said to be supported"),
    }
}

/// A function of two elements.
pub fn binary(f: Binary, a: &str, b: &str) -> String {
    let infix = |operator: &str| format!("({a} {operator} {b})");
    match f {
        Binary::Add => format!("slide::plus({a}, {b})"),
        Binary::Sub => format!("slide::minus({a}, {b})"),
        Binary::Mul => format!("slide::times({a}, {b})"),
        Binary::Div => infix("/"),
        Binary::Pow => format!("powf({a}, {b})"),
        Binary::Mod { fmod: true } => format!("fmodf({a}, {b})"),
        Binary::Mod { fmod: false } => format!("({a} - {b} * floorf({a} / {b}))"),
        Binary::Max => format!("slide::larger({a}, {b})"),
        Binary::Min => format!("slide::smaller({a}, {b})"),
        Binary::And => infix("&&"),
        Binary::Or => infix("||"),
        Binary::Xor => infix("!="),
        Binary::BitAnd => infix("&"),
        Binary::BitOr => infix("|"),
        Binary::BitXor => infix("^"),
        Binary::ShiftLeft => infix("<<"),
        Binary::ShiftRight => infix(">>"),
        Binary::Equal => infix("=="),
        Binary::Greater => infix(">"),
        Binary::GreaterOrEqual => infix(">="),
        Binary::Less => infix("<"),
        Binary::LessOrEqual => infix("<="),
        Binary::PRelu => format!("({a} < 0 ? slide::times({b}, {a}) : {a})"),
    }
}

/// An element of one type as one of another.
pub fn cast(from: DType, to: DType, x: &str) -> String {
    match to {
        DType::Bool => format!("({x} != 0)"),
        _ if from == to => x.to_owned(),
        _ => format!("static_cast<slide::WideOf<{}>>({x})", element_type(to)),
    }
}
