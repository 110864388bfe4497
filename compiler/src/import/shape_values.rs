//! Shape arithmetic: the symbolic elements of small tensors that do not depend on data.
//!
//! Models compute shapes with ordinary operators (`Shape`, `Gather`, `Mul`, `Concat` …). Evaluated here on [`Dim`]s, their results
//! become extents of the IR. Fractions serve detours through floats (`Cast`, `Div`, `Floor`, `Cast`): exact as long as extents stay below
//! 2^24, which is where the model's own f32 arithmetic stops being exact, too.

use bytes::Bytes;
use sliderun::cpu;
use sliderun::dim::{Dim, DimOp};
use sliderun::dtype::DType;
use sliderun::op::elementwise::{Binary, Cast, Unary};
use sliderun::op::generate::{Extents, Range};
use sliderun::op::index::Scatter;
use sliderun::op::reduce::{Reduce, ReduceKind};
use sliderun::op::{Op, TensorType};
use sliderun::tensor::{Tensor, TensorView};

use super::fold;
use crate::ir::Constant;

/// Most elements of a tensor that is followed.
const MOST_ELEMENTS: usize = 256;

/// Largest numerator and denominator of a float constant that takes part.
const LARGEST_FRACTION: i64 = 256;

/// `numerator / denominator`, the denominator above 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fraction {
    numerator: Dim,
    denominator: i64,
}

/// A small tensor whose elements do not depend on data. Booleans are 0 and 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub dtype: DType,
    pub shape: Vec<usize>,
    elements: Vec<Fraction>,
}

/// Least and largest value of an expression.
pub(super) type Bounds<'a> = &'a dyn Fn(&Dim) -> (Option<i64>, Option<i64>);

impl From<Dim> for Fraction {
    fn from(numerator: Dim) -> Self {
        Fraction { numerator, denominator: 1 }
    }
}

impl Fraction {
    fn new(numerator: Dim, denominator: i64) -> Option<Self> {
        match denominator {
            0 => None,
            d if d < 0 => Fraction::new(numerator * Dim::from(-1), d.checked_neg()?),
            d => Some(match numerator.exact_div(&d.into()) {
                Some(whole) => whole.into(),
                None => Fraction { numerator, denominator: d },
            }),
        }
    }

    fn whole(&self) -> Option<&Dim> {
        (self.denominator == 1).then_some(&self.numerator)
    }

    fn as_const(&self) -> Option<i64> {
        self.whole()?.as_const()
    }

    fn floor(&self) -> Dim {
        self.numerator.floor_div(&self.denominator.into())
    }

    /// A float that is a small fraction.
    fn from_float(v: f64) -> Option<Self> {
        let scaled = v * LARGEST_FRACTION as f64;
        let exact = scaled.fract() == 0.0 && v.abs() <= LARGEST_FRACTION as f64 || v.fract() == 0.0 && v.abs() < 16_777_216.0;
        exact.then(|| Fraction::new((scaled as i64).into(), LARGEST_FRACTION))?
    }
}

impl Known {
    pub(super) fn from_dims(dtype: DType, shape: &[usize], dims: &[Dim]) -> Self {
        Known { dtype, shape: shape.to_vec(), elements: dims.iter().cloned().map(Fraction::from).collect() }
    }

    pub(super) fn from_constant(c: &Constant) -> Option<Self> {
        if c.data.len() / c.dtype.size() > MOST_ELEMENTS {
            return None;
        }
        let elements = if c.dtype.is_float() {
            fold::floats(c)?.into_iter().map(Fraction::from_float).collect::<Option<_>>()?
        } else {
            fold::ints(c)?.into_iter().map(|v| Fraction::from(Dim::from(v))).collect()
        };
        Some(Known { dtype: c.dtype, shape: c.shape.clone(), elements })
    }

    /// The elements as extents, where they are whole.
    pub(super) fn dims(&self) -> Option<Vec<Dim>> {
        self.elements.iter().map(|e| e.whole().cloned()).collect()
    }

    /// The elements as numbers, where none is symbolic.
    pub(super) fn ints(&self) -> Option<Vec<i64>> {
        self.elements.iter().map(Fraction::as_const).collect()
    }

    /// The tensor itself, where none of its elements is symbolic and its type is not a float.
    pub(super) fn as_constant(&self) -> Option<Constant> {
        let values = self.ints().filter(|_| !self.dtype.is_float())?;
        let wide = Tensor::from_slice(&self.shape, &values).ok()?;
        match self.dtype {
            DType::I64 => Some(Constant::from_tensor(&wide)),
            DType::Bool => {
                let data = Bytes::from(values.iter().map(|&v| u8::from(v != 0)).collect::<Vec<_>>());
                Some(Constant { dtype: DType::Bool, shape: self.shape.clone(), data })
            }
            to => fold::evaluate(&Cast { to }.into(), &[Some(wide.view())])?.first().map(Constant::from_tensor),
        }
    }

    /// The operator that computes the tensor from nothing but extents, where there is one for its type and rank.
    pub(super) fn as_extents(&self) -> Option<Extents> {
        let fits = self.shape.len() <= 1 && matches!(self.dtype, DType::I32 | DType::I64);
        Some(Extents { values: self.dims().filter(|_| fits)?, shape: self.shape.clone(), dtype: self.dtype })
    }

    /// The elements broadcast to a shape.
    fn broadcast(&self, shape: &[usize]) -> Option<Vec<&Fraction>> {
        let total: usize = shape.iter().product();
        let lead = shape.len().checked_sub(self.shape.len())?;
        (0..total)
            .map(|flat| {
                let (mut rest, mut at, mut stride) = (flat, 0, 1);
                for axis in (0..shape.len()).rev() {
                    let index = rest % shape[axis];
                    rest /= shape[axis];
                    if axis >= lead {
                        let extent = self.shape[axis - lead];
                        at += if extent == 1 { 0 } else { index * stride };
                        stride *= extent;
                    }
                }
                self.elements.get(at)
            })
            .collect()
    }
}

/// The results of an operator on known operands, where they are known. `types` is what the operator infers.
pub(super) fn evaluate(op: &Op, inputs: &[Option<Known>], types: &[TensorType], bounds: Bounds<'_>) -> Option<Vec<Known>> {
    let small = |ty: &TensorType| -> Option<Vec<usize>> {
        ty.concrete_shape().filter(|s| sliderun::tensor::checked_elements(s).is_some_and(|n| n <= MOST_ELEMENTS))
    };
    let shapes: Vec<Vec<usize>> = types.iter().map(small).collect::<Option<_>>()?;
    let (ty, shape) = (types.first()?, shapes.first()?);
    let one = |elements: Option<Vec<Fraction>>| Some(vec![Known { dtype: ty.dtype, shape: shape.clone(), elements: elements? }]);
    let operand = |i: usize| inputs.get(i).and_then(Option::as_ref);
    match op {
        Op::Extents(_) => None,
        Op::Range(Range { start, step, len, .. }) => {
            let n = len.as_const().filter(|&n| n as usize <= MOST_ELEMENTS)?;
            one(Some((0..n).map(|i| (start.clone() + step.clone() * Dim::from(i)).into()).collect()))
        }
        Op::Binary(kind) => {
            let (a, b) = (operand(0)?, operand(1)?);
            let (x, y) = (a.broadcast(shape)?, b.broadcast(shape)?);
            let float = a.dtype.is_float();
            one(x.into_iter().zip(y).map(|(x, y)| binary(*kind, float, x, y, bounds)).collect())
        }
        Op::Unary(kind) => one(operand(0)?.elements.iter().map(|x| unary(*kind, x, bounds)).collect()),
        Op::Cast(Cast { to }) => one(operand(0)?.elements.iter().map(|x| cast(*to, x, bounds)).collect()),
        Op::Clip(_) => {
            let bound = |x: &Fraction, i: usize, op: DimOp| match operand(i) {
                Some(k) => extreme(op, x, k.elements.first()?, bounds),
                None => Some(x.clone()),
            };
            one(operand(0)?.elements.iter().map(|x| bound(&bound(x, 1, DimOp::Max)?, 2, DimOp::Min)).collect())
        }
        Op::Reduce(reduce) => one(reduced(reduce, operand(0)?, shape, bounds).map(|e| vec![e])),
        _ => moved(op, inputs),
    }
}

fn unary(kind: Unary, x: &Fraction, bounds: Bounds<'_>) -> Option<Fraction> {
    match kind {
        Unary::Neg => Fraction::new(x.numerator.clone() * Dim::from(-1), x.denominator),
        Unary::Floor => Some(x.floor().into()),
        Unary::Ceil => Some(x.numerator.ceil_div(x.denominator).into()),
        Unary::Round => x.whole().cloned().map(Fraction::from),
        Unary::Abs => (bounds(&x.numerator).0? >= 0).then(|| x.clone()),
        Unary::Relu => extreme(DimOp::Max, x, &Dim::from(0).into(), bounds),
        Unary::Not => x.as_const().map(|v| Dim::from(i64::from(v == 0)).into()),
        _ => None,
    }
}

fn cast(to: DType, x: &Fraction, bounds: Bounds<'_>) -> Option<Fraction> {
    match to {
        DType::Bool => truth(&x.numerator, Binary::Equal, bounds).map(|zero| Dim::from(i64::from(!zero)).into()),
        // Narrow types may wrap.
        DType::I64 | DType::I32 => match x.whole() {
            Some(whole) => Some(whole.clone().into()),
            // Truncation is rounding down where nothing is negative.
            None => (bounds(&x.numerator).0? >= 0).then(|| x.floor().into()),
        },
        DType::F32 | DType::F64 => Some(x.clone()),
        _ => None,
    }
}

fn binary(kind: Binary, float: bool, x: &Fraction, y: &Fraction, bounds: Bounds<'_>) -> Option<Fraction> {
    let cross = |sign: i64| -> Option<Fraction> {
        let numerator =
            x.numerator.clone() * Dim::from(y.denominator) + y.numerator.clone() * Dim::from(x.denominator.checked_mul(sign)?);
        Fraction::new(numerator, x.denominator.checked_mul(y.denominator)?)
    };
    let positive = |d: &Dim| bounds(d).0.is_some_and(|least| least > 0);
    let not_negative = |d: &Dim| bounds(d).0.is_some_and(|least| least >= 0);
    match kind {
        Binary::Add => cross(1),
        Binary::Sub => cross(-1),
        Binary::Mul => Fraction::new(x.numerator.clone() * y.numerator.clone(), x.denominator.checked_mul(y.denominator)?),
        Binary::Div if float => {
            let dividend = x.numerator.clone() * Dim::from(y.denominator);
            match y.numerator.as_const() {
                Some(n) => Fraction::new(dividend, x.denominator.checked_mul(n)?),
                None => dividend.exact_div(&(y.numerator.clone() * Dim::from(x.denominator))).map(Fraction::from),
            }
        }
        Binary::Div => {
            let (x, y) = (x.whole()?, y.whole()?);
            match x.exact_div(y) {
                Some(quotient) if y.as_const() != Some(0) => Some(quotient.into()),
                _ => (not_negative(x) && positive(y)).then(|| x.floor_div(y).into()),
            }
        }
        Binary::Mod { fmod } => {
            let (x, y) = (x.whole()?, y.whole()?);
            (positive(y) && (!fmod || not_negative(x))).then(|| Dim::op(DimOp::Mod, x, y).into())
        }
        Binary::Max => extreme(DimOp::Max, x, y, bounds),
        Binary::Min => extreme(DimOp::Min, x, y, bounds),
        Binary::Pow => match y.as_const()? {
            n @ 0..=4 => (0..n).try_fold(Fraction::from(Dim::from(1)), |p, _| binary(Binary::Mul, float, &p, x, bounds)),
            _ => None,
        },
        Binary::Equal | Binary::Greater | Binary::GreaterOrEqual | Binary::Less | Binary::LessOrEqual => {
            let holds = truth(&cross(-1)?.numerator, kind, bounds)?;
            Some(Dim::from(i64::from(holds)).into())
        }
        Binary::And => Some(Dim::from(i64::from(x.as_const()? != 0 && y.as_const()? != 0)).into()),
        Binary::Or => Some(Dim::from(i64::from(x.as_const()? != 0 || y.as_const()? != 0)).into()),
        Binary::Xor => Some(Dim::from(i64::from((x.as_const()? != 0) != (y.as_const()? != 0))).into()),
        _ => None,
    }
}

/// Whether `difference` compares to 0 as `kind` says, where its bounds decide that.
fn truth(difference: &Dim, kind: Binary, bounds: Bounds<'_>) -> Option<bool> {
    let (least, most) = bounds(difference);
    let above = |v: i64| least.is_some_and(|l| l > v);
    let below = |v: i64| most.is_some_and(|m| m < v);
    let (yes, no) = match kind {
        Binary::Equal => (difference.as_const() == Some(0), above(0) || below(0)),
        Binary::Greater => (above(0), below(1)),
        Binary::GreaterOrEqual => (above(-1), below(0)),
        Binary::Less => (below(0), above(-1)),
        Binary::LessOrEqual => (below(1), above(0)),
        _ => return None,
    };
    if yes { Some(true) } else { no.then_some(false) }
}

fn extreme(op: DimOp, x: &Fraction, y: &Fraction, bounds: Bounds<'_>) -> Option<Fraction> {
    let (x, y) = (x.whole()?, y.whole()?);
    let (least, most) = bounds(&(x.clone() - y.clone()));
    let x_is_larger = if least.is_some_and(|l| l >= 0) { Some(true) } else { most.is_some_and(|m| m <= 0).then_some(false) };
    Some(
        match x_is_larger {
            Some(larger) => {
                if larger == (op == DimOp::Max) {
                    x.clone()
                } else {
                    y.clone()
                }
            }
            None => Dim::op(op, x, y),
        }
        .into(),
    )
}

/// A reduction of everything to one element.
fn reduced(reduce: &Reduce, x: &Known, shape: &[usize], bounds: Bounds<'_>) -> Option<Fraction> {
    let kind = match reduce.kind {
        ReduceKind::Sum => Binary::Add,
        ReduceKind::Prod => Binary::Mul,
        ReduceKind::Max => Binary::Max,
        ReduceKind::Min => Binary::Min,
        _ => return None,
    };
    if shape.iter().product::<usize>() != 1 {
        return None;
    }
    let empty = match kind {
        Binary::Add => Some(0),
        Binary::Mul => Some(1),
        _ => None,
    };
    let mut elements = x.elements.iter();
    let first = elements.next().cloned().or(empty.map(|v| Dim::from(v).into()))?;
    elements.try_fold(first, |sum, e| binary(kind, x.dtype.is_float(), &sum, e, bounds))
}

/// Results of operators that move elements: computed on a tensor that has each element's number in its place.
fn moved(op: &Op, inputs: &[Option<Known>]) -> Option<Vec<Known>> {
    // Operands that say where to move, which must be numbers; all others are moved.
    let guides: &[usize] = match op {
        Op::Reshape(_) | Op::Transpose(_) | Op::Expand(_) | Op::Concat(_) | Op::Split(_) | Op::Slice(_) | Op::Tile(_) => &[],
        Op::Gather(_) | Op::GatherElements(_) | Op::GatherNd(_) => &[1],
        Op::ScatterElements(s) if s.reduction == Scatter::Replace => &[1],
        Op::ScatterNd(s) if s.reduction == Scatter::Replace => &[1],
        Op::Where(_) => &[0],
        _ => return None,
    };
    let mut pool: Vec<&Fraction> = Vec::new();
    let mut dtype = None;
    let mut tensors = Vec::with_capacity(inputs.len());
    for (slot, known) in inputs.iter().enumerate() {
        let known = known.as_ref()?;
        tensors.push(if guides.contains(&slot) {
            known.as_constant()?.to_tensor()
        } else {
            dtype = Some(known.dtype);
            let numbers: Vec<i64> = (pool.len() as i64..).take(known.elements.len()).collect();
            pool.extend(&known.elements);
            Tensor::from_slice(&known.shape, &numbers).ok()?
        });
    }
    let views: Vec<Option<TensorView<'_>>> = tensors.iter().map(|t| Some(t.view())).collect();
    let results = cpu::eval(op, &views).ok()?;
    let element = |&i: &i64| usize::try_from(i).ok().and_then(|i| pool.get(i)).map(|&e| e.clone());
    results
        .iter()
        .map(|t| {
            let elements = t.as_slice::<i64>()?.iter().map(element).collect::<Option<_>>()?;
            Some(Known { dtype: dtype?, shape: t.shape().to_vec(), elements })
        })
        .collect()
}
