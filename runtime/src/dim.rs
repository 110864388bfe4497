//! Symbolic extents: integer expressions over named symbols, kept in one normal form.
//!
//! An extent is a sum of products of atoms. An atom is a symbol (`batch`) or an operation that a polynomial cannot
//! express (`div(a,b)`, `mod(a,b)`, `max(a,b)`, `min(a,b)`, `bcast(a,b)`). Because sums and products are normalised when they are built, two
//! extents that are equal as polynomials compare equal, and text, hashing and equality agree.
//!
//! Text form, also the serialised one: `3`, `batch`, `2*h+1`, `div(seq+15,16)`, `4*batch*seq^2-1`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Add, Mul, Sub};
use std::sync::Arc;

mod op;
mod parse;
#[cfg(test)]
mod tests;
mod text;

pub use op::DimOp;
pub use parse::ParseDimError;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Atom {
    Symbol(Arc<str>),
    Op(DimOp, Arc<(Dim, Dim)>),
}

/// A product of atoms with their powers, sorted; the empty product is 1.
type Monomial = Vec<(Atom, u32)>;

/// An extent: a constant or an expression over symbols. See the module documentation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Dim {
    /// Non-zero coefficients by monomial, sorted by monomial; the zero extent has no term.
    terms: Vec<(Monomial, i64)>,
}

/// The values of symbols.
pub type Bindings = BTreeMap<String, i64>;

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum DimError {
    #[error("symbol '{0}' has no value")]
    Unbound(String),
    #[error("'{0}' overflows or divides by zero")]
    Arithmetic(String),
    #[error("'{expression}' broadcasts {a} with {b}")]
    Broadcast { expression: String, a: i64, b: i64 },
    #[error("'{0}' is negative: {1}")]
    Negative(String, i64),
}

impl Dim {
    /// A named symbol. Names are what ONNX calls `dim_param`; they must match `[A-Za-z_][A-Za-z0-9_.]*` to parse back
    /// (import renames others).
    pub fn symbol(name: &str) -> Dim {
        Dim { terms: vec![(vec![(Atom::Symbol(name.into()), 1)], 1)] }
    }

    /// The value, when no symbol is left.
    pub fn as_const(&self) -> Option<i64> {
        match self.terms.as_slice() {
            [] => Some(0),
            [(m, c)] if m.is_empty() => Some(*c),
            _ => None,
        }
    }

    /// The value as an extent, when it is a constant that is not negative.
    pub fn as_usize(&self) -> Option<usize> {
        self.as_const().and_then(|v| usize::try_from(v).ok())
    }

    /// The symbol's name, when the expression is one symbol alone.
    pub fn as_symbol(&self) -> Option<&str> {
        match self.terms.as_slice() {
            [(m, 1)] => match m.as_slice() {
                [(Atom::Symbol(s), 1)] => Some(s),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the constant is 1.
    pub fn is_one(&self) -> bool {
        self.as_const() == Some(1)
    }

    fn from_terms(terms: BTreeMap<Monomial, i64>) -> Dim {
        Dim { terms: terms.into_iter().filter(|(_, c)| *c != 0).collect() }
    }

    /// `op(a, b)`, simplified where the result is known.
    pub fn op(op: DimOp, a: &Dim, b: &Dim) -> Dim {
        if let (Some(x), Some(y)) = (a.as_const(), b.as_const())
            && let Some(v) = op.apply(x, y)
        {
            return v.into();
        }
        match op {
            DimOp::Div => {
                if let Some(q) = a.exact_div(b) {
                    return q;
                }
            }
            DimOp::Mod => {
                if a.exact_div(b).is_some() {
                    return 0.into();
                }
            }
            DimOp::Max | DimOp::Min => {
                if let Some(d) = (a.clone() - b.clone()).as_const() {
                    return if (d >= 0) == (op == DimOp::Max) { a.clone() } else { b.clone() };
                }
            }
            DimOp::Broadcast => return Dim::broadcast(a, b),
        }
        let (a, b) = match op {
            DimOp::Max | DimOp::Min if b < a => (b, a),
            _ => (a, b),
        };
        Dim::unsimplified(op, a.clone(), b.clone())
    }

    fn unsimplified(op: DimOp, a: Dim, b: Dim) -> Dim {
        Dim { terms: vec![(vec![(Atom::Op(op, Arc::new((a, b))), 1)], 1)] }
    }

    /// The operands, when the expression is one operation alone.
    fn operands(&self, of: DimOp) -> Option<(&Dim, &Dim)> {
        match self.terms.as_slice() {
            [(m, 1)] => match m.as_slice() {
                [(Atom::Op(op, operands), 1)] if *op == of => Some((&operands.0, &operands.1)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The common extent of two axes, taken to be valid: that they broadcast at all is checked on concrete extents.
    fn broadcast(a: &Dim, b: &Dim) -> Dim {
        let mut sides = BTreeSet::new();
        for side in [a, b] {
            side.broadcast_sides(&mut sides);
        }
        sides.remove(&Dim::from(1));
        // A constant other than 1 is the result: every other side is equal to it or 1.
        if let Some(constant) = sides.iter().find(|d| d.as_const().is_some()) {
            return constant.clone();
        }
        // So is x beside min(c, x): were c the smaller, the two would not broadcast.
        let absorbed = |d: &Dim| d.operands(DimOp::Min).is_some_and(|(x, y)| sides.contains(x) || sides.contains(y));
        let mut kept = sides.iter().filter(|d| !absorbed(d)).cloned();
        let first = kept.next().unwrap_or_else(|| Dim::from(1));
        kept.fold(first, |a, b| Dim::unsimplified(DimOp::Broadcast, a, b))
    }

    fn broadcast_sides(&self, sides: &mut BTreeSet<Dim>) {
        match self.operands(DimOp::Broadcast) {
            Some((a, b)) => {
                a.broadcast_sides(sides);
                b.broadcast_sides(sides);
            }
            None => {
                sides.insert(self.clone());
            }
        }
    }

    /// Division rounded towards negative infinity.
    pub fn floor_div(&self, by: &Dim) -> Dim {
        Dim::op(DimOp::Div, self, by)
    }

    /// Division rounded towards positive infinity, for a constant divisor above 0.
    pub fn ceil_div(&self, by: i64) -> Dim {
        (self.clone() + Dim::from(by - 1)).floor_div(&by.into())
    }

    /// The quotient, when the polynomial division by a single-term divisor leaves no remainder.
    pub fn exact_div(&self, by: &Dim) -> Option<Dim> {
        let [(divisor, coefficient)] = by.terms.as_slice() else {
            return (self == by).then(|| 1.into());
        };
        let mut out = BTreeMap::new();
        for (monomial, c) in &self.terms {
            // i64::MIN / -1 overflows.
            if c.checked_rem(*coefficient)? != 0 {
                return None;
            }
            let mut quotient = monomial.clone();
            for (atom, power) in divisor {
                let at = quotient.iter().position(|(a, p)| a == atom && p >= power)?;
                quotient[at].1 -= power;
                if quotient[at].1 == 0 {
                    quotient.remove(at);
                }
            }
            out.insert(quotient, c / coefficient);
        }
        Some(Dim::from_terms(out))
    }

    /// Value under `bindings`.
    ///
    /// # Errors
    /// An unbound symbol, overflow, a division by zero, or extents that do not broadcast.
    pub fn eval(&self, bindings: &Bindings) -> Result<i64, DimError> {
        let overflow = || DimError::Arithmetic(self.to_string());
        let mut sum = 0i64;
        for (monomial, c) in &self.terms {
            let mut product = *c;
            for (atom, power) in monomial {
                let value = match atom {
                    Atom::Symbol(s) => *bindings.get(&**s).ok_or_else(|| DimError::Unbound(s.to_string()))?,
                    Atom::Op(op, args) => {
                        let (a, b) = (args.0.eval(bindings)?, args.1.eval(bindings)?);
                        op.apply(a, b).ok_or_else(|| match op {
                            DimOp::Broadcast => DimError::Broadcast { expression: self.to_string(), a, b },
                            _ => overflow(),
                        })?
                    }
                };
                product = value.checked_pow(*power).and_then(|v| product.checked_mul(v)).ok_or_else(overflow)?;
            }
            sum = sum.checked_add(product).ok_or_else(overflow)?;
        }
        Ok(sum)
    }

    /// Value under `bindings` as an extent.
    ///
    /// # Errors
    /// As [`Dim::eval`], and a negative value.
    pub fn eval_usize(&self, bindings: &Bindings) -> Result<usize, DimError> {
        let v = self.eval(bindings)?;
        usize::try_from(v).map_err(|_| DimError::Negative(self.to_string(), v))
    }

    /// The expression with every symbol replaced by what `replace` gives for it.
    pub fn substitute(&self, replace: &dyn Fn(&str) -> Dim) -> Dim {
        let mut sum = Dim::from(0);
        for (monomial, c) in &self.terms {
            let mut product = Dim::from(*c);
            for (atom, power) in monomial {
                let value = match atom {
                    Atom::Symbol(s) => replace(s),
                    Atom::Op(op, args) => Dim::op(*op, &args.0.substitute(replace), &args.1.substitute(replace)),
                };
                for _ in 0..*power {
                    product = product * value.clone();
                }
            }
            sum = sum + product;
        }
        sum
    }

    /// The least and the largest value, given those of its symbols (`None`: not known); `None` where there is none within 64 bits.
    /// Terms are taken one by one, so that the bounds hold but need not be tight.
    pub fn bounds(&self, range: &dyn Fn(&str) -> Option<(i64, i64)>) -> (Option<i64>, Option<i64>) {
        let (low, high) = self.interval(range);
        ((low > i64::MIN).then_some(low), (high < i64::MAX).then_some(high))
    }

    /// As [`Dim::bounds`], where the limits of 64 bits stand for "none".
    fn interval(&self, range: &dyn Fn(&str) -> Option<(i64, i64)>) -> (i64, i64) {
        let times = |(a, b): (i64, i64), (c, d): (i64, i64)| {
            let ends = [a.saturating_mul(c), a.saturating_mul(d), b.saturating_mul(c), b.saturating_mul(d)];
            ends.into_iter().fold((i64::MAX, i64::MIN), |(low, high), e| (low.min(e), high.max(e)))
        };
        // A limit that stands for "none" must stay one when a finite number is added to it.
        let plus = |a: i64, b: i64, none: i64| if a == none || b == none { none } else { a.saturating_add(b) };
        let mut sum = (0, 0);
        for (monomial, c) in &self.terms {
            let mut product = (*c, *c);
            for (atom, power) in monomial {
                let value = match atom {
                    Atom::Symbol(s) => range(s).unwrap_or((i64::MIN, i64::MAX)),
                    Atom::Op(op, args) => op.interval(args.0.interval(range), args.1.interval(range)),
                };
                let mut powers = value;
                for _ in 1..*power {
                    powers = times(powers, value);
                }
                product = times(product, powers);
            }
            sum = (plus(sum.0, product.0, i64::MIN), plus(sum.1, product.1, i64::MAX));
        }
        sum
    }

    /// Adds the names of the symbols it mentions to `out`.
    pub fn symbols(&self, out: &mut BTreeSet<String>) {
        for (atom, _) in self.terms.iter().flat_map(|(m, _)| m) {
            match atom {
                Atom::Symbol(s) => {
                    out.insert(s.to_string());
                }
                Atom::Op(_, args) => {
                    args.0.symbols(out);
                    args.1.symbols(out);
                }
            }
        }
    }

    /// Number of elements of a shape.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter().fold(Dim::from(1), |n, d| n * d.clone())
    }
}

impl From<i64> for Dim {
    fn from(v: i64) -> Dim {
        Dim { terms: if v == 0 { Vec::new() } else { vec![(Vec::new(), v)] } }
    }
}

impl From<i32> for Dim {
    fn from(v: i32) -> Dim {
        Dim::from(i64::from(v))
    }
}

impl From<usize> for Dim {
    fn from(v: usize) -> Dim {
        // Saturates like all arithmetic on coefficients, see below.
        Dim::from(i64::try_from(v).unwrap_or(i64::MAX))
    }
}

// Coefficients saturate on overflow: such an expression cannot be the extent of anything that fits in memory, and
// evaluating it reports the overflow.
impl Add for Dim {
    type Output = Dim;
    fn add(self, rhs: Dim) -> Dim {
        let mut terms: BTreeMap<Monomial, i64> = self.terms.into_iter().collect();
        for (m, c) in rhs.terms {
            let entry = terms.entry(m).or_insert(0);
            *entry = entry.saturating_add(c);
        }
        Dim::from_terms(terms)
    }
}

impl Sub for Dim {
    type Output = Dim;
    fn sub(self, rhs: Dim) -> Dim {
        self + rhs * Dim::from(-1)
    }
}

impl Mul for Dim {
    type Output = Dim;
    #[expect(clippy::suspicious_arithmetic_impl, reason = "powers add up where monomials are multiplied")]
    fn mul(self, rhs: Dim) -> Dim {
        let mut terms: BTreeMap<Monomial, i64> = BTreeMap::new();
        for (ma, ca) in &self.terms {
            for (mb, cb) in &rhs.terms {
                let mut product: BTreeMap<Atom, u32> = ma.iter().cloned().collect();
                for (atom, power) in mb {
                    *product.entry(atom.clone()).or_insert(0) += power;
                }
                let entry = terms.entry(product.into_iter().collect()).or_insert(0);
                *entry = entry.saturating_add(ca.saturating_mul(*cb));
            }
        }
        Dim::from_terms(terms)
    }
}
