//! Steps along rows that one kernel does, each row held by its threads from the first step to the last: what follows a product (scaling
//! back, bias, residual, gate, normalisation), and quantizing for the next one.
//!
//! Values between the steps are rounded as memory would have rounded them, so that fusing changes no number.

mod rows;
mod tile;
mod write;

use sliderun::op::Op;
use sliderun::plan::manifest::{Program, Step, ValueId};

use super::builder::{Form, Generated, KernelBuilder, Other, ceil_div};
use super::pointwise;
use super::{Readers, root};
use rows::{Rows, Whole, by_element, cuts, is_held_type};
use tile::Tile;
use write::Writer;

/// The shortest row that steps by element are done along.
const SHORTEST: usize = 128;

/// Threads on a multiprocessor at a time, where registers suffice.
const AT_ONCE: usize = 1024;

/// Steps that one kernel does.
pub struct Chain {
    /// How many.
    pub steps: usize,
    /// So many of them are calculated element by element to make the first row that is held; 0 where rows are read.
    lead: usize,
    rows: Rows,
}

impl Chain {
    /// The steps from one on; `None` where there is nothing to gain. `elements`: as many from this one on another kernel can do element by
    /// element.
    pub fn at(program: &Program, readers: &Readers, first: usize, elements: usize) -> Option<Chain> {
        if let Some(chain) = Chain::of_parts(program, readers, first) {
            return Some(chain);
        }
        let lead = lead(program, first, elements);
        let rows = Rows::of(program, program.steps.get(first + lead.saturating_sub(1))?).ok()?;
        let held = program.steps[first..first + lead].last().map(|root| root.outputs[0]).into_iter().collect();
        let (steps, whole_rows) = extend(program, &rows, first, lead, held);
        // Elements alone are worth whole vectors where the other kernel would not do more steps.
        let vectors = rows.length >= SHORTEST && rows.length.is_multiple_of(8) && steps >= elements;
        let gains = if whole_rows { steps > 1 } else { steps > 0 && lead == 0 && vectors };
        gains.then_some(Chain { steps, lead, rows })
    }

    /// Steps whose rows are parts of longer ones, side by side: a gate and what it lets through. What comes before the parts are taken is
    /// calculated for each of them; nobody else reads it.
    fn of_parts(program: &Program, readers: &Readers, first: usize) -> Option<Chain> {
        let mut values = Vec::new();
        let mut whole = None;
        for step in &program.steps[first..] {
            let joins = values.is_empty() || step.inputs.iter().flatten().any(|id| values.contains(&root(program, *id)));
            if !joins || !by_element(&step.op) {
                break;
            }
            let rows = whole.take().map_or_else(|| Rows::whole(program, step.outputs[0]), Ok).ok()?;
            let supported = rows.supports(program, step, &values).is_ok();
            whole = Some(rows);
            if !supported {
                break;
            }
            values.push(step.outputs[0]);
        }
        let calculated = values.len();
        let cut = program.steps.get(first + calculated)?;
        let source = cut.inputs.first().copied().flatten()?;
        let (_, length) = cuts(program, cut)?;
        if calculated == 0 {
            let ty = &program.values[source.0 as usize].ty;
            whole = is_held_type(ty.dtype).then(|| Rows::whole(program, source).ok()).flatten();
            values.push(root(program, source));
        }
        let rows = Rows { whole: Some(Whole { rows: Box::new(whole?), values }), ..Rows::of(program, cut).ok()? };
        if rows.length != length || rows.parts(program, cut).is_none() {
            return None;
        }
        let (steps, _) = extend(program, &rows, first, calculated, Vec::new());
        let positions = first..first + steps;
        // What is left to others would have to be stored: the parts' own kernel does that better.
        let inside = |position: usize| {
            let kept = position < first + calculated || rows.parts(program, &program.steps[position]).is_some();
            !kept || program.steps[position].outputs.iter().all(|o| !readers.beyond(*o, &positions))
        };
        let taken = positions.clone().filter(|at| rows.parts(program, &program.steps[*at]).is_some()).count();
        let gains = steps > calculated + taken && positions.clone().all(inside);
        gains.then_some(Chain { steps, lead: 0, rows })
    }

    /// The kernel; `first` is the first step's position.
    pub fn kernel(&self, program: &Program, readers: &Readers, launch: usize, first: usize) -> Generated {
        let steps = &program.steps[first..first + self.steps];
        let rows = &self.rows;
        let tile = if self.lead > 0 { Tile::new(rows, 4) } else { Tile::of(program, rows, steps) };
        let name = steps.last().map_or("", |s| s.op.name());
        let b = KernelBuilder::new(program, launch, &format!("rows_{name}"));
        let (b, form) = self.form(b, readers, first, &tile);
        match tile.bulk(rows) {
            None => b.finish_forms(form, Vec::new()),
            Some(tile) => {
                let (b, bulk) = self.form(b, readers, first, &tile);
                b.finish_forms(form, vec![Other::bulk(bulk)])
            }
        }
    }

    /// The kernel with rows shared out like this.
    fn form<'p>(&'p self, mut b: KernelBuilder<'p>, readers: &Readers, first: usize, tile: &Tile) -> (KernelBuilder<'p>, Form) {
        let Chain { lead, ref rows, .. } = *self;
        let program = b.program();
        let positions = first..first + self.steps;
        let steps = &program.steps[positions.clone()];
        let mut element = None;
        if lead > 0 {
            let (builder, body, value) = pointwise::element(b, &steps[..lead]);
            (b, element) = (builder, Some((body, value)));
        }
        let mut writer = Writer::new(b, rows, tile);
        if let ([.., root], Some((body, value))) = (&steps[..lead], element) {
            writer.first(root, &body, &value);
            writer.store_for(readers, root.outputs[0], &positions);
        }
        let mut at = lead;
        while at < steps.len() {
            let elements = steps[at..].iter().take_while(|s| by_element(&s.op) || rows.parts(program, s).is_some()).count();
            if elements > 0 {
                writer.elements(readers, first + at..first + at + elements, &positions);
                at += elements;
                continue;
            }
            match &steps[at].op {
                Op::QuantLift(op) => writer.quant_lift(&steps[at], op),
                _ => {
                    writer.norm(&steps[at]);
                    writer.store_for(readers, steps[at].outputs[0], &positions);
                }
            }
            at += 1;
        }
        let (b, body) = writer.finish();
        let threads = tile.threads * tile.per_block;
        // Of whole rows that fill half a multiprocessor's room, one block loads while another one calculates.
        let normalises = steps.iter().any(|s| matches!(s.op, Op::LayerNorm(_) | Op::RmsNorm(_)));
        let at_once = if rows.whole.is_some() && !normalises { AT_ONCE / threads } else { 0 };
        (b, Form { blocks: ceil_div(&rows.count, tile.per_block), threads, shared_bytes: 0, at_once, body })
    }
}

/// Whether a kernel that goes along the rows of one step's results can do another one behind it.
///
/// # Errors
/// Why not.
pub fn along(program: &Program, producer: &Step, step: &Step) -> Result<(), String> {
    let rows = Rows::of(program, producer).map_err(|e| format!("{} before it: {e}", producer.op.name()))?;
    rows.supports(program, producer, &[]).map_err(|e| format!("{} before it: {e}", producer.op.name()))?;
    if std::ptr::eq(producer, step) { Ok(()) } else { rows.supports(program, step, &producer.outputs) }
}

/// Whether the parts that a step takes of rows are as a kernel holds them; `None` where it takes none.
pub fn parts(program: &Program, step: &Step) -> Option<Result<(), String>> {
    matches!(step.op, Op::Split(_) | Op::Slice(_)).then(|| match cuts(program, step) {
        None => Err("it does not cut rows into parts of one length".to_owned()),
        Some(_) => Rows::of(program, step).map(|_| ()),
    })
}

/// How many steps from `first` on one kernel does along these rows, given that it does `done` of them; and whether any of the others needs
/// whole rows.
fn extend(program: &Program, rows: &Rows, first: usize, done: usize, mut held: Vec<ValueId>) -> (usize, bool) {
    let (mut steps, mut whole_rows, mut normalised) = (done, false, false);
    for step in &program.steps[first + done..] {
        // Whole rows are not kept for later than where they are calculated: while steps go element by element.
        let part = !normalised && rows.parts(program, step).is_some();
        let joins = steps == 0 || part || step.inputs.iter().flatten().any(|id| held.contains(&root(program, *id)));
        normalised |= !part && !by_element(&step.op);
        if !joins || rows.supports(program, step, &held).is_err() {
            break;
        }
        steps += 1;
        whole_rows |= !part && !matches!(step.op, Op::Unary(_) | Op::Binary(_) | Op::Cast(_));
        if matches!(step.op, Op::QuantLift(_)) {
            break;
        }
        held.extend(&step.outputs);
    }
    (steps, whole_rows)
}

/// See [`Chain`].
fn lead(program: &Program, first: usize, elements: usize) -> usize {
    let step = &program.steps[first];
    let along = Rows::of(program, step).is_ok_and(|rows| rows.supports(program, step, &[]).is_ok());
    if along || elements == 0 || step.outputs.len() != 1 {
        return 0;
    }
    let root = program.steps[first + elements - 1].outputs[0];
    if is_held_type(program.values[root.0 as usize].ty.dtype) { elements } else { 0 }
}
