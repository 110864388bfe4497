//! What is done to scores before their softmax, as what the operator knows: causality and one mask.
//!
//! A mask that provably hides exactly the keys behind each query becomes causality. What is left of conditions becomes a bool mask where rows
//! without any key give zeros, as the operator's do; else, and where what hides is a finite number, which leaves such rows a mean, it stays
//! a mask of numbers.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::elementwise::{Binary, Cast, Unary, Where};
use std::collections::HashMap;

use super::super::PassError;
use super::super::matching::{binary, splat, unary};
use super::super::rewrite::emit;
use super::scores::Term;
use super::steps::step;
use crate::ir::{Constant, Graph, ValueRef};

/// A term at or below hides a key beside any other: the exponential of the difference is 0 in f32 unless the other score is below −9896.
const HIDES: f64 = -1e4;
/// A number at or below stays what it is whatever score is added to it.
const SWALLOWS: f64 = -1e9;

/// A value that stands for itself or its contrary: its negative, or where it does not hold.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Signed {
    value: ValueRef,
    negated: bool,
}

/// What terms come to.
#[derive(Debug, Default)]
pub struct Masks {
    pub causal: bool,
    /// Keys take part where all of these hold.
    conditions: Vec<Signed>,
    /// Added where a key takes part: what numbers hide the others with is in `fill`.
    filled: Vec<(Vec<Signed>, f64)>,
    added: Vec<Signed>,
}

impl Masks {
    /// What the terms of scores [.., tokens, total] come to. `guarded`: rows of −∞ alone give zeros.
    ///
    /// # Errors
    /// What the operator has no way to say.
    pub fn of(graph: &Graph, terms: &[Term], guarded: bool, tokens: &Dim, total: &Dim) -> Result<Masks, &'static str> {
        let diagonal = total.clone() - tokens.clone();
        // Where the first queries see nothing there is more to a row than its numbers.
        let all_see = diagonal.as_const().is_none_or(|d| d >= 0);
        let mut masks = Masks::default();
        let mut needs_causality = false;
        for term in terms {
            match *term {
                Term::Added { value, negated } => masks.add(graph, Signed { value, negated }, guarded, &diagonal)?,
                Term::Filled { condition, negated, fill } => {
                    // Nor does NaN.
                    if fill > HIDES || fill.is_nan() {
                        return Err("its scores are replaced by a number that does not hide them");
                    }
                    masks.keep(graph, Signed { value: condition, negated: !negated }, fill, None, guarded, &diagonal)?;
                }
                Term::Multiplied { value } => {
                    let hidden = step(graph, value).filter(|s| s.near == 1.0 && s.far == 0.0 && s.offset == diagonal);
                    hidden.ok_or("its scores are multiplied with a tensor")?;
                    needs_causality = true;
                }
            }
        }
        if masks.causal && !all_see {
            return Err("it is causal, and there are fewer keys than queries");
        }
        if needs_causality && !masks.causal {
            return Err("its scores are multiplied with a tensor");
        }
        let numbers = !masks.added.is_empty() || !masks.filled.is_empty();
        if numbers && !masks.conditions.is_empty() {
            return Err("its mask is of conditions and numbers, and rows without a key give zeros");
        }
        Ok(masks)
    }

    fn add(&mut self, graph: &Graph, term: Signed, guarded: bool, diagonal: &Dim) -> Result<(), &'static str> {
        let sign = if term.negated { -1.0 } else { 1.0 };
        if let Some(step) = step(graph, term.value) {
            let (near, far) = (sign * step.near, sign * step.far);
            if near == 0.0 && far == 0.0 {
                return Ok(());
            }
            if near == 0.0 && far <= HIDES && step.offset == *diagonal {
                self.causal = true;
                return Ok(());
            }
        }
        if let Some(Op::Where(_)) = graph.producer(term.value) {
            let operand = |slot| graph.operand(term.value.node, slot);
            let number = |slot| operand(slot).and_then(|v| splat(graph, v)).map(|v| sign * v);
            if let (Some(value), Some(then), Some(other)) = (operand(0), number(1), number(2)) {
                let (fill, negated) = if then == 0.0 { (other, false) } else { (then, true) };
                if then.max(other) == 0.0 && fill <= HIDES {
                    return self.keep(graph, Signed { value, negated }, fill, Some(term), guarded, diagonal);
                }
            }
        }
        if guarded {
            return Err("rows of −∞ alone are made zeros, and its mask may have such");
        }
        self.added.push(term);
        Ok(())
    }

    /// Keys take part where the condition holds; the others' scores are, or `whole` adds to them, this number.
    fn keep(
        &mut self,
        graph: &Graph,
        condition: Signed,
        fill: f64,
        whole: Option<Signed>,
        guarded: bool,
        diagonal: &Dim,
    ) -> Result<(), &'static str> {
        let mut all = Vec::new();
        conjuncts(graph, condition, &mut all);
        let (mut causal, mut rest) = (false, Vec::new());
        for part in all {
            let step = step(graph, part.value).map(|s| (s.near != 0.0) != part.negated).zip(step(graph, part.value));
            match step {
                Some((true, s)) if (s.far != 0.0) != part.negated => {}
                Some((true, s)) if s.offset == *diagonal => causal = true,
                _ => rest.push(part),
            }
        }
        if rest.is_empty() {
            self.causal |= causal;
        } else if fill == f64::NEG_INFINITY {
            self.causal |= causal;
            match whole {
                _ if guarded => self.conditions.append(&mut rest),
                Some(whole) if !causal => self.added.push(whole),
                _ => self.filled.push((rest, fill)),
            }
        } else if let Some(whole) = whole {
            self.added.push(whole);
        } else if fill <= SWALLOWS {
            self.filled.push((vec![condition], fill));
        } else {
            return Err("its scores are replaced by a number that is too small to hide whole rows alike");
        }
        Ok(())
    }

    /// The mask, built where there is none yet; `dtype`: the query's.
    ///
    /// # Errors
    /// As [`emit`].
    pub fn operand(
        self,
        graph: &mut Graph,
        build: &mut Builder,
        name: &str,
        dtype: DType,
    ) -> Result<Option<ValueRef>, PassError> {
        build.name = format!("{name}/mask");
        let conditions = build.all_of(graph, self.conditions)?;
        if conditions.is_some() {
            return Ok(conditions);
        }
        let mut terms = Vec::new();
        for (conditions, fill) in self.filled {
            let Some(holds) = build.all_of(graph, conditions)? else { continue };
            let [zero, fill] = [0.0, fill].map(|v| build.number(graph, v as f32));
            terms.push(build.op(graph, Where {}, &[holds, zero, fill])?);
        }
        for term in self.added {
            let mut value = build.smaller(graph, term.value)?.unwrap_or(term.value);
            if term.negated {
                value = build.op(graph, Unary::Neg, &[value])?;
            }
            terms.push(value);
        }
        let mut sum: Option<ValueRef> = None;
        for mut term in terms {
            // A 16-bit query's mask may be f32, whose large numbers it could not hold.
            if graph.ty(term).dtype != dtype && graph.ty(term).dtype != DType::F32 {
                term = build.op(graph, Cast { to: DType::F32 }, &[term])?;
            }
            sum = Some(match sum {
                None => term,
                Some(sum) if graph.ty(sum).dtype == graph.ty(term).dtype => build.op(graph, Binary::Add, &[sum, term])?,
                Some(sum) => {
                    let [sum, term] = [sum, term].map(|v| build.op(graph, Cast { to: DType::F32 }, &[v]));
                    build.op(graph, Binary::Add, &[sum?, term?])?
                }
            });
        }
        Ok(sum)
    }
}

/// The conditions of which all must hold for one to hold.
fn conjuncts(graph: &Graph, condition: Signed, out: &mut Vec<Signed>) {
    let Signed { value, negated } = condition;
    let both = if negated { Binary::Or } else { Binary::And };
    if let Some(operands) = binary(graph, value, both) {
        operands.into_iter().for_each(|value| conjuncts(graph, Signed { value, negated }, out));
    } else if let Some(value) = unary(graph, value, Unary::Not) {
        conjuncts(graph, Signed { value, negated: !negated }, out);
    } else {
        out.push(condition);
    }
}

/// What masks are built with: layers share theirs, so that nothing is built twice.
#[derive(Default)]
pub struct Builder {
    /// What the nodes are called.
    name: String,
    known: HashMap<(String, Vec<ValueRef>), ValueRef>,
    numbers: HashMap<u32, ValueRef>,
}

impl Builder {
    fn op(&mut self, graph: &mut Graph, op: impl Into<Op>, operands: &[ValueRef]) -> Result<ValueRef, PassError> {
        let op = op.into();
        let key = (format!("{op:?}"), operands.to_vec());
        if let Some(known) = self.known.get(&key).filter(|v| graph.contains(v.node)) {
            return Ok(*known);
        }
        let value = emit(graph, &self.name, op, operands)?;
        self.known.insert(key, value);
        Ok(value)
    }

    fn number(&mut self, graph: &mut Graph, value: f32) -> ValueRef {
        if let Some(known) = self.numbers.get(&value.to_bits()).filter(|v| graph.contains(v.node)) {
            return *known;
        }
        let data = value.to_le_bytes().to_vec().into();
        let number = graph.add_constant(&self.name, Constant { dtype: DType::F32, shape: Vec::new(), data });
        self.numbers.insert(value.to_bits(), number);
        number
    }

    /// Where all conditions hold.
    fn all_of(&mut self, graph: &mut Graph, conditions: Vec<Signed>) -> Result<Option<ValueRef>, PassError> {
        let mut all: Option<ValueRef> = None;
        for Signed { value, negated } in conditions {
            let mut value = self.smaller(graph, value)?.unwrap_or(value);
            if negated {
                value = self.op(graph, Unary::Not, &[value])?;
            }
            all = Some(match all {
                Some(all) => self.op(graph, Binary::And, &[all, value])?,
                None => value,
            });
        }
        Ok(all)
    }

    /// The value with what it repeats left out: element by element of what was expanded before. `None` where nothing was.
    fn smaller(&mut self, graph: &mut Graph, value: ValueRef) -> Result<Option<ValueRef>, PassError> {
        let Some(op) = graph.producer(value).cloned() else { return Ok(None) };
        let operands = graph.operands(value.node);
        match op {
            Op::Expand(_) => {
                let Some(from) = operands.first().copied().flatten() else { return Ok(None) };
                Ok(Some(self.smaller(graph, from)?.unwrap_or(from)))
            }
            Op::Cast(_) | Op::Unary(_) | Op::Binary(_) | Op::Where(_) => {
                let mut changed = false;
                let mut inner = Vec::with_capacity(operands.len());
                for operand in operands.into_iter().flatten() {
                    let less = self.smaller(graph, operand)?;
                    changed |= less.is_some();
                    inner.push(less.unwrap_or(operand));
                }
                if changed { self.op(graph, op, &inner).map(Some) } else { Ok(None) }
            }
            _ => Ok(None),
        }
    }
}
