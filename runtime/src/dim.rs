//! Symbolic extents: integer expressions over named symbols, kept in one normal form.
//!
//! An extent is a sum of products of atoms. An atom is a symbol (`batch`) or an operation that a polynomial cannot
//! express (`div(a,b)`, `mod(a,b)`, `max(a,b)`, `min(a,b)`, `bcast(a,b)`). Because sums and products are normalised when they are built, two
//! extents that are equal as polynomials compare equal, and text, hashing and equality agree.
//!
//! Text form, also the serialised one: `3`, `batch`, `2*h+1`, `div(seq+15,16)`, `4*batch*seq^2-1`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::str::FromStr;
use std::sync::Arc;

/// Deepest nesting and most terms that an expression read from text may have: bounds a hostile plan.
const MAX_DEPTH: usize = 32;
const MAX_TERMS: usize = 256;
/// Highest power of an atom that an expression read from text may have.
const MAX_POWER: u32 = 64;

/// An operation on extents that is not a polynomial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DimOp {
    /// Division rounded towards negative infinity.
    Div,
    /// Remainder with the divisor's sign.
    Mod,
    /// The larger.
    Max,
    /// The smaller.
    Min,
    /// The common extent of two broadcast axes: both equal, or one of them 1.
    Broadcast,
}

impl DimOp {
    fn name(self) -> &'static str {
        match self {
            DimOp::Div => "div",
            DimOp::Mod => "mod",
            DimOp::Max => "max",
            DimOp::Min => "min",
            DimOp::Broadcast => "bcast",
        }
    }

    fn from_name(s: &str) -> Option<Self> {
        [DimOp::Div, DimOp::Mod, DimOp::Max, DimOp::Min, DimOp::Broadcast].into_iter().find(|op| op.name() == s)
    }

    /// Bounds of the result from those of the operands.
    fn interval(self, a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
        const ANY: (i64, i64) = (i64::MIN, i64::MAX);
        // A quotient towards an operand without a bound has none either.
        let div = |x: i64, y: i64| if x == i64::MIN || x == i64::MAX { Some(x) } else { DimOp::Div.apply(x, y) };
        match self {
            DimOp::Div if b.0 > 0 => match [div(a.0, b.0), div(a.0, b.1), div(a.1, b.0), div(a.1, b.1)] {
                [Some(p), Some(q), Some(r), Some(s)] => (p.min(q), r.max(s)),
                _ => ANY,
            },
            DimOp::Mod if b.0 > 0 && a.0 >= 0 => (0, a.1.min(b.1 - 1)),
            DimOp::Mod if b.0 > 0 => (0, b.1 - 1),
            DimOp::Div | DimOp::Mod => ANY,
            DimOp::Max => (a.0.max(b.0), a.1.max(b.1)),
            DimOp::Min => (a.0.min(b.0), a.1.min(b.1)),
            DimOp::Broadcast => (a.0.min(b.0), a.1.max(b.1)),
        }
    }

    fn apply(self, a: i64, b: i64) -> Option<i64> {
        match self {
            DimOp::Div => {
                (b != 0).then(|| a.checked_div_euclid(b))?.map(|q| if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q })
            }
            DimOp::Mod => (b != 0).then(|| a.checked_rem_euclid(b))?.map(|r| if b < 0 && r != 0 { r + b } else { r }),
            DimOp::Max => Some(a.max(b)),
            DimOp::Min => Some(a.min(b)),
            DimOp::Broadcast => match (a, b) {
                (1, n) | (n, 1) => Some(n),
                (a, b) => (a == b).then_some(a),
            },
        }
    }
}

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

/// An expression that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a dimension expression: {reason}")]
pub struct ParseDimError {
    text: String,
    reason: &'static str,
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

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        // Constants sort first; they read better last.
        let (constant, rest): (Vec<_>, Vec<_>) = self.terms.iter().partition(|(m, _)| m.is_empty());
        for (i, (monomial, c)) in rest.iter().chain(&constant).enumerate() {
            if i > 0 && *c >= 0 {
                f.write_str("+")?;
            }
            if monomial.is_empty() {
                write!(f, "{c}")?;
                continue;
            }
            match c {
                1 => {}
                -1 => f.write_str("-")?,
                _ => write!(f, "{c}*")?,
            }
            for (j, (atom, power)) in monomial.iter().enumerate() {
                if j > 0 {
                    f.write_str("*")?;
                }
                match atom {
                    Atom::Symbol(s) => f.write_str(s)?,
                    Atom::Op(op, args) => write!(f, "{}({},{})", op.name(), args.0, args.1)?,
                }
                if *power > 1 {
                    write!(f, "^{power}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Dim {
    type Err = ParseDimError;

    fn from_str(text: &str) -> Result<Dim, ParseDimError> {
        let mut parser = Parser { rest: text, terms: 0 };
        let dim = parser.sum(0).map_err(|reason| ParseDimError { text: text.to_owned(), reason })?;
        parser.skip_space();
        if !parser.rest.is_empty() {
            return Err(ParseDimError { text: text.to_owned(), reason: "unexpected text after it" });
        }
        Ok(dim)
    }
}

/// Recursive descent over `sum := ['-'] product (('+'|'-') product)*`, `product := power ('*' power)*`,
/// `power := atom ['^' integer]`, `atom := integer | name | op '(' sum ',' sum ')' | '(' sum ')'`.
struct Parser<'a> {
    rest: &'a str,
    terms: usize,
}

impl Parser<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, c: char) -> bool {
        self.skip_space();
        let found = self.rest.starts_with(c);
        if found {
            self.rest = &self.rest[c.len_utf8()..];
        }
        found
    }

    fn take(&mut self, accept: impl Fn(char) -> bool) -> &str {
        let end = self.rest.find(|c| !accept(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    fn sum(&mut self, depth: usize) -> Result<Dim, &'static str> {
        if depth > MAX_DEPTH {
            return Err("nested too deeply");
        }
        let negative = self.eat('-');
        let mut total = self.product(depth)?;
        if negative {
            total = total * Dim::from(-1);
        }
        loop {
            total = if self.eat('+') {
                total + self.product(depth)?
            } else if self.eat('-') {
                total - self.product(depth)?
            } else {
                return Ok(total);
            };
        }
    }

    fn product(&mut self, depth: usize) -> Result<Dim, &'static str> {
        let mut total = self.power(depth)?;
        while self.eat('*') {
            total = bounded(total * self.power(depth)?)?;
        }
        Ok(total)
    }

    fn power(&mut self, depth: usize) -> Result<Dim, &'static str> {
        let base = self.atom(depth)?;
        if !self.eat('^') {
            return Ok(base);
        }
        let exponent: u32 = self.take(|c| c.is_ascii_digit()).parse().map_err(|_| "an exponent must be an integer")?;
        if exponent > 8 || base.terms.len() > 1 {
            return Err("only a single term may be raised, to at most 8");
        }
        (0..exponent).try_fold(Dim::from(1), |p, _| bounded(p * base.clone()))
    }

    fn atom(&mut self, depth: usize) -> Result<Dim, &'static str> {
        self.skip_space();
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err("too many terms");
        }
        if self.eat('(') {
            let inner = self.sum(depth + 1)?;
            return if self.eat(')') { Ok(inner) } else { Err("')' is missing") };
        }
        match self.rest.chars().next() {
            Some(c) if c.is_ascii_digit() => {
                self.take(|c| c.is_ascii_digit()).parse::<i64>().map(Dim::from).map_err(|_| "the number is too large")
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let name = self.take(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.').to_owned();
                if !self.eat('(') {
                    return Ok(Dim::symbol(&name));
                }
                let op = DimOp::from_name(&name).ok_or("unknown function")?;
                let a = self.sum(depth + 1)?;
                if !self.eat(',') {
                    return Err("a function takes two arguments");
                }
                let b = self.sum(depth + 1)?;
                if self.eat(')') { Ok(Dim::op(op, &a, &b)) } else { Err("')' is missing") }
            }
            _ => Err("a number, a symbol or a function was expected"),
        }
    }
}

/// As text; in human-readable formats an extent without symbols is a plain number.
/// Keeps what repeated products of a hostile text can grow to small.
fn bounded(dim: Dim) -> Result<Dim, &'static str> {
    if dim.terms.len() > MAX_TERMS {
        return Err("too many terms");
    }
    if dim.terms.iter().flat_map(|(m, _)| m).any(|(_, power)| *power > MAX_POWER) {
        return Err("too high a power");
    }
    Ok(dim)
}

impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.as_const() {
            Some(v) if s.is_human_readable() => s.serialize_i64(v),
            _ => s.collect_str(self),
        }
    }
}

struct DimVisitor;

impl de::Visitor<'_> for DimVisitor {
    type Value = Dim;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer or a dimension expression")
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Dim, E> {
        v.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Dim, E> {
        Ok(v.into())
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Dim, E> {
        i64::try_from(v).map(Dim::from).map_err(|_| E::custom("the extent is too large"))
    }
}

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() { d.deserialize_any(DimVisitor) } else { d.deserialize_str(DimVisitor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dim(s: &str) -> Dim {
        s.parse().unwrap()
    }

    #[test]
    fn normal_form() {
        for (text, canonical) in [
            ("batch*seq*12", "12*batch*seq"),
            ("2 + h*2 - 1", "2*h+1"),
            ("div(4*batch*seq, 2*seq)", "2*batch"),
            ("div(seq+15,16)", "div(seq+15,16)"),
            ("mod(6*n,3)", "0"),
            ("max(n+1,n)", "n+1"),
            ("bcast(n,1)", "n"),
            ("bcast(7,n)", "7"),
            ("bcast(n,bcast(m,n))", "bcast(m,n)"),
            ("bcast(bcast(k,m),bcast(n,m))", "bcast(bcast(k,m),n)"),
            ("bcast(min(512,n),bcast(n,min(512,n)))", "n"),
            ("s*s*s - s", "-s+s^3"),
            ("(a+b)*(a-b)", "a^2-b^2"),
            ("0*x", "0"),
            ("-3", "-3"),
        ] {
            assert_eq!(dim(text).to_string(), canonical, "{text}");
            assert_eq!(dim(canonical), dim(text));
        }
    }

    #[test]
    fn division_rounds_down() {
        for (a, b) in [(7, 2), (-7, 2), (7, -2), (-7, -2), (6, 3), (-6, 3), (6, -3)] {
            let q = (f64::from(a) / f64::from(b)).floor() as i64;
            assert_eq!(dim(&format!("div({a},{b})")).as_const(), Some(q), "{a}/{b}");
            assert_eq!(dim(&format!("mod({a},{b})")).as_const(), Some(i64::from(a) - q * i64::from(b)), "{a}%{b}");
        }
    }

    #[test]
    fn errors() {
        let at = |pairs: &[(&str, i64)]| pairs.iter().map(|(k, v)| (k.to_string(), *v)).collect::<Bindings>();
        assert_eq!(dim("n").eval(&at(&[])), Err(DimError::Unbound("n".into())));
        assert!(matches!(dim("div(n,m)").eval(&at(&[("n", 1), ("m", 0)])), Err(DimError::Arithmetic(_))));
        assert!(matches!(dim("bcast(n,m)").eval(&at(&[("n", 2), ("m", 3)])), Err(DimError::Broadcast { .. })));
        assert!(matches!(dim("n-5").eval_usize(&at(&[("n", 2)])), Err(DimError::Negative(..))));
        assert!(matches!(dim("n*n").eval(&at(&[("n", i64::MAX)])), Err(DimError::Arithmetic(_))));
        for bad in ["", "2*", "foo(1,2)", "n n", "div(1)", "n^99", "((n^8)^8)^8", &"(".repeat(1000), "99999999999999999999"] {
            assert!(bad.parse::<Dim>().is_err(), "{bad}");
        }
    }

    fn expression() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![(-9i64..9).prop_map(|v| format!("({v})")), "[abc]".prop_map(|s| s)];
        leaf.prop_recursive(4, 24, 2, |inner| {
            (
                prop_oneof![Just("+"), Just("-"), Just("*"), Just("div"), Just("mod"), Just("max"), Just("min")],
                inner.clone(),
                inner,
            )
                .prop_map(|(op, a, b)| if op.len() == 1 { format!("({a}{op}{b})") } else { format!("{op}({a},{b})") })
        })
    }

    proptest! {
        #[test]
        fn text_round_trips(text in expression()) {
            if let Ok(d) = text.parse::<Dim>() {
                prop_assert_eq!(d.to_string().parse::<Dim>().unwrap(), d);
            }
        }

        /// Bounds hold at every point of the ranges.
        #[test]
        fn values_lie_within_bounds(text in expression(), a in -3i64..9, b in 1i64..9, c in 0i64..9) {
            let bindings: Bindings = [("a", a), ("b", b), ("c", c)].map(|(k, v)| (k.to_owned(), v)).into();
            if let Ok(d) = text.parse::<Dim>() && let Ok(v) = d.eval(&bindings) {
                let (low, high) = d.bounds(&|s| Some(match s { "a" => (-3, 8), "b" => (1, 8), _ => (0, 8) }));
                prop_assert!(low.is_none_or(|l| l <= v) && high.is_none_or(|h| v <= h), "{} not within {:?}..{:?}", v, low, high);
            }
        }

        /// Simplification keeps the value: substituting constants gives what evaluation gives.
        #[test]
        fn substitution_agrees_with_evaluation(text in expression(), a in 1i64..9, b in 1i64..9, c in 1i64..9) {
            let bindings: Bindings = [("a", a), ("b", b), ("c", c)].map(|(k, v)| (k.to_owned(), v)).into();
            if let Ok(d) = text.parse::<Dim>() && let Ok(v) = d.eval(&bindings) {
                prop_assert_eq!(d.substitute(&|s| bindings[s].into()).as_const(), Some(v));
            }
        }
    }
}
