//! Element-wise operators and those that only move elements: a kernel in which each thread calculates one element of the result, following
//! its coordinates back through the steps that are fused.
//!
//! Values between fused steps are rounded as memory would have rounded them, so that fusing changes no number.

mod functions;
mod moves;

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::elementwise::{Binary, Unary};
use sliderun::op::layout::PadMode;
use sliderun::plan::manifest::{Program, Step, ValueId};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::ops::Range;

use super::Readers;
use super::builder::{Generated, KernelBuilder, ceil_div, element_type, float};
use functions::cast;
pub use functions::{binary, unary};

const THREADS: usize = 256;

/// Why steps have no kernel.
pub type Unsupported = String;

/// Whether a step can be part of such a kernel.
pub fn supports(program: &Program, step: &Step) -> Result<(), Unsupported> {
    let dtype = |id: &ValueId| program.values[id.0 as usize].ty.dtype;
    let known = |id: &ValueId| match dtype(id) {
        DType::F64 | DType::F8e5m2 => Err(format!("{} elements", dtype(id))),
        _ => Ok(()),
    };
    step.inputs.iter().flatten().chain(&step.outputs).try_for_each(known)?;
    let result = dtype(&step.outputs[0]);
    match &step.op {
        Op::Unary(f) => match f {
            Unary::Not | Unary::BitNot | Unary::IsNan | Unary::IsInf { .. } => Ok(()),
            Unary::Abs | Unary::Neg | Unary::Relu | Unary::Sign => Ok(()),
            _ if result.is_float() => Ok(()),
            f => Err(format!("{f:?} of {result}")),
        },
        Op::Binary(f) => match f {
            // The CPU reports a division by zero, and powers of integers wrap.
            Binary::Div | Binary::Mod { .. } | Binary::Pow if !result.is_float() => Err(format!("{f:?} of {result}")),
            _ => Ok(()),
        },
        Op::Where(_) | Op::Clip(_) | Op::Cast(_) | Op::Transpose(_) | Op::Expand(_) | Op::Slice(_) | Op::Concat(_) => Ok(()),
        Op::Split(_) | Op::Tile(_) | Op::Trilu(_) | Op::Gather(_) | Op::Extents(_) | Op::Range(_) => Ok(()),
        Op::Pad(p) if p.mode == PadMode::Constant => Ok(()),
        Op::BatchNorm(_) | Op::Resize(_) | Op::Rotary(_) => Ok(()),
        op => Err(op.name().to_owned()),
    }
}

/// Whether calculating a result's element anew each time that it is read costs no more than reading it.
pub fn is_cheap(op: &Op) -> bool {
    match op {
        Op::Unary(f) => matches!(f, Unary::Neg | Unary::Abs | Unary::Relu | Unary::Not),
        Op::Cast(_)
        | Op::Clip(_)
        | Op::Slice(_)
        | Op::Expand(_)
        | Op::Transpose(_)
        | Op::Concat(_)
        | Op::Pad(_)
        | Op::Tile(_)
        | Op::Gather(_)
        | Op::Extents(_)
        | Op::Range(_) => true,
        _ => false,
    }
}

/// The body that calculates element `i` of what consecutive steps compute, of which only the last one's result is read by others, and what
/// the element is, as an expression.
pub fn element<'p>(builder: KernelBuilder<'p>, steps: &'p [Step]) -> (KernelBuilder<'p>, String, String) {
    let mut writer = Writer::new(builder, steps);
    let last = steps.last().expect("there is at least one step");
    let shape = writer.builder.ty(last.outputs[0]).shape.clone();
    let coordinates = writer.unravel("i", &shape);
    let value = writer.eval(last, &coordinates);
    (writer.builder, writer.body, value)
}

/// The kernel of one step.
pub fn of_step(program: &Program, launch: usize, step: &Step) -> Generated {
    write(program, launch, std::slice::from_ref(step), &[])
}

/// The kernel of consecutive steps; what is read beyond them has the shape of the last one's results.
pub fn kernel(program: &Program, readers: &Readers, launch: usize, positions: Range<usize>) -> Generated {
    let steps = &program.steps[positions.clone()];
    let before = steps.iter().take(steps.len() - 1).flat_map(|s| &s.outputs);
    let kept: Vec<ValueId> = before.copied().filter(|id| readers.beyond(*id, &positions)).collect();
    write(program, launch, steps, &kept)
}

/// The kernel of steps that stores these results beside the last one's.
fn write(program: &Program, launch: usize, steps: &[Step], kept: &[ValueId]) -> Generated {
    let last = steps.last().expect("a launch does at least one step");
    let mut writer = Writer::new(KernelBuilder::new(program, launch, last.op.name()), steps);
    let (shape, many) = match &last.op {
        // Each thread takes an element of what is split to where it belongs.
        Op::Split(_) => (writer.builder.ty(last.inputs[0].expect("Split has an operand")).shape.clone(), true),
        _ => (writer.builder.ty(last.outputs[0]).shape.clone(), false),
    };
    let elements = Dim::product(&shape);
    let count = writer.builder.extent(&elements);
    let coordinates = writer.unravel("i", &shape);
    for &id in kept {
        let v = writer.read(id, &coordinates);
        writer.put(id, &v);
    }
    if many {
        writer.split(last, &coordinates);
    } else {
        let v = writer.eval(last, &coordinates);
        writer.put(last.outputs[0], &v);
    }
    let head = format!("    const int i = blockIdx.x * {THREADS} + threadIdx.x;\n    if (i >= {count}) return;\n");
    let Writer { builder, body, .. } = writer;
    builder.finish(ceil_div(&elements, THREADS), THREADS, 0, &(head + &body))
}

/// Writes the body of such a kernel.
pub(super) struct Writer<'p> {
    pub(super) builder: KernelBuilder<'p>,
    steps: &'p [Step],
    /// Which step of the kernel computes a value.
    producers: BTreeMap<ValueId, usize>,
    body: String,
    /// What has been calculated already: the value, at coordinates.
    known: HashMap<(ValueId, Vec<String>), String>,
    temporaries: usize,
}

impl<'p> Writer<'p> {
    fn new(builder: KernelBuilder<'p>, steps: &'p [Step]) -> Self {
        let producers = steps.iter().enumerate().flat_map(|(i, s)| s.outputs.iter().map(move |o| (*o, i))).collect();
        Writer { builder, steps, producers, body: String::new(), known: HashMap::new(), temporaries: 0 }
    }

    pub(super) fn line(&mut self, text: &str) {
        writeln!(self.body, "    {text}").expect("text takes any text");
    }

    /// Stores element `i` of a result.
    fn put(&mut self, id: ValueId, value: &str) {
        let (to, ty) = (self.builder.output(id), element_type(self.builder.ty(id).dtype));
        self.line(&format!("slide::put_element<{ty}>({to}, i, {value});"));
    }

    /// A new variable of this value.
    pub(super) fn bind(&mut self, ty: &str, value: &str) -> String {
        let name = format!("t{}", self.temporaries);
        self.temporaries += 1;
        self.line(&format!("const {ty} {name} = {value};"));
        name
    }

    /// The coordinates of the element that is number `index` of a tensor; 0 along axes of one element.
    fn unravel(&mut self, index: &str, shape: &[Dim]) -> Vec<String> {
        let mut coordinates = vec!["0".to_owned(); shape.len()];
        let axes: Vec<usize> = (0..shape.len()).filter(|&a| !shape[a].is_one()).collect();
        let mut rest = index.to_owned();
        for (n, &axis) in axes.iter().enumerate().rev() {
            if n == 0 {
                coordinates[axis] = rest;
                break;
            }
            let extent = self.builder.extent(&shape[axis]);
            coordinates[axis] = self.bind("int", &format!("{rest} % {extent}"));
            rest = self.bind("int", &format!("{rest} / {extent}"));
        }
        coordinates
    }

    /// The number of the element at coordinates.
    fn ravel(&mut self, coordinates: &[String], shape: &[Dim]) -> String {
        let mut index = String::new();
        for (c, extent) in coordinates.iter().zip(shape) {
            if extent.is_one() {
                continue;
            }
            if index.is_empty() {
                index.clone_from(c);
            } else {
                let extent = self.builder.extent(extent);
                index = format!("({index}) * {extent} + {c}");
            }
        }
        if index.is_empty() { "0".to_owned() } else { index }
    }

    /// Coordinates of an operand that is broadcast to a shape at whose coordinates it is read.
    fn broadcast(&mut self, of: ValueId, shape: &[Dim], coordinates: &[String]) -> Vec<String> {
        let own = self.builder.ty(of).shape.clone();
        let skipped = shape.len() - own.len();
        let mut out = Vec::with_capacity(own.len());
        for (extent, (to, c)) in own.iter().zip(shape.iter().zip(coordinates).skip(skipped)) {
            out.push(if extent.is_one() {
                "0".to_owned()
            } else if extent == to {
                c.clone()
            } else {
                let extent = self.builder.extent(extent);
                format!("({extent} == 1 ? 0 : {c})")
            });
        }
        out
    }

    /// The element of a value at coordinates, in the type that its elements are calculated in.
    pub(super) fn read(&mut self, id: ValueId, coordinates: &[String]) -> String {
        let key = (id, coordinates.to_vec());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let ty = element_type(self.builder.ty(id).dtype);
        let (root, shape) = (self.builder.root(id), self.builder.ty(id).shape.clone());
        let value = match self.producers.get(&root).copied() {
            Some(step) => {
                let own = self.builder.ty(root).shape.clone();
                let coordinates = if own == shape {
                    coordinates.to_vec()
                } else {
                    let index = self.ravel(coordinates, &shape);
                    let index = self.bind("int", &index);
                    self.unravel(&index, &own)
                };
                let steps = self.steps;
                let value = self.eval(&steps[step], &coordinates);
                format!("slide::rounded<{ty}>({value})")
            }
            None => {
                let index = self.ravel(coordinates, &shape);
                format!("slide::element({}, {index})", self.builder.input(id))
            }
        };
        let name = self.bind(&format!("slide::WideOf<{ty}>"), &value);
        self.known.insert(key, name.clone());
        name
    }

    /// Operand `i` of an element-wise step.
    fn operand(&mut self, step: &Step, i: usize, coordinates: &[String]) -> String {
        let id = step.inputs[i].expect("the operator has this operand");
        let shape = self.builder.ty(step.outputs[0]).shape.clone();
        let coordinates = self.broadcast(id, &shape, coordinates);
        self.read(id, &coordinates)
    }

    /// The element of a step's first result at coordinates.
    fn eval(&mut self, step: &Step, coordinates: &[String]) -> String {
        let result = self.builder.ty(step.outputs[0]).clone();
        let first = step.inputs.first().copied().flatten();
        let mut moved = coordinates.to_vec();
        match &step.op {
            Op::Unary(f) => {
                let x = self.operand(step, 0, coordinates);
                unary(*f, result.dtype, &x)
            }
            Op::Binary(f) => {
                let (a, b) = (self.operand(step, 0, coordinates), self.operand(step, 1, coordinates));
                binary(*f, &a, &b)
            }
            Op::Where(_) => {
                let [c, a, b] = [0, 1, 2].map(|i| self.operand(step, i, coordinates));
                format!("({c} ? {a} : {b})")
            }
            Op::Clip(_) => {
                let mut x = self.operand(step, 0, coordinates);
                for (i, function) in [(1, "larger"), (2, "smaller")] {
                    if step.inputs.get(i).copied().flatten().is_some() {
                        let bound = self.operand(step, i, coordinates);
                        x = format!("slide::{function}({x}, {bound})");
                    }
                }
                x
            }
            Op::Cast(_) => {
                let from = self.builder.ty(first.expect("Cast has an operand")).dtype;
                let x = self.operand(step, 0, coordinates);
                cast(from, result.dtype, &x)
            }
            Op::Transpose(op) => {
                for (axis, &from) in op.perm.iter().enumerate() {
                    moved[from].clone_from(&coordinates[axis]);
                }
                self.read(first.expect("Transpose has an operand"), &moved)
            }
            Op::Expand(_) => self.operand(step, 0, coordinates),
            Op::Slice(op) => {
                for axis in &op.axes {
                    let start = self.builder.extent(&axis.start);
                    moved[axis.axis] = format!("({start} + {} * ({}))", coordinates[axis.axis], axis.step);
                }
                self.read(first.expect("Slice has an operand"), &moved)
            }
            Op::Tile(_) => {
                let id = first.expect("Tile has an operand");
                let own = self.builder.ty(id).shape.clone();
                for (to, extent) in moved.iter_mut().zip(&own) {
                    *to = format!("({to} % {})", self.builder.extent(extent));
                }
                self.read(id, &moved)
            }
            Op::Trilu(op) => {
                let x = self.read(first.expect("Trilu has an operand"), coordinates);
                let [.., row, column] = coordinates else { unreachable!("Trilu takes matrices") };
                let comparison = if op.upper { ">=" } else { "<=" };
                format!("({column} - {row} {comparison} {} ? {x} : 0)", op.k)
            }
            Op::BatchNorm(op) => {
                let x = self.operand(step, 0, coordinates);
                let [scale, bias, mean, variance] =
                    [1, 2, 3, 4].map(|i| self.read(step.inputs[i].expect("BatchNorm has this operand"), &coordinates[1..2]));
                format!("(({x} - {mean}) * ({scale} / sqrtf({variance} + {})) + {bias})", float(op.epsilon))
            }
            Op::Resize(op) => self.resize(step, op, coordinates),
            Op::Rotary(op) => self.rotary(step, *op, coordinates),
            Op::Pad(op) => self.pad(step, &op.pads, coordinates, result.dtype),
            Op::Concat(op) => self.concat(step, op.axis, coordinates, result.dtype),
            Op::Gather(op) => self.gather(step, op.axis, coordinates),
            Op::Extents(op) => {
                let index = self.ravel(coordinates, &result.shape);
                let mut value = "0".to_owned();
                for (i, v) in op.values.iter().enumerate().rev() {
                    let v = self.builder.long_extent(v);
                    value = if i + 1 == op.values.len() { v } else { format!("({index} == {i} ? {v} : {value})") };
                }
                cast(DType::I64, result.dtype, &value)
            }
            Op::Range(op) => {
                let (start, by) = (self.builder.long_extent(&op.start), self.builder.long_extent(&op.step));
                cast(DType::I64, result.dtype, &format!("({start} + {by} * {})", coordinates[0]))
            }
            op => unreachable!("{} was not said to be supported", op.name()),
        }
    }

    /// A variable that statements in branches set.
    pub(super) fn variable(&mut self, dtype: DType, value: &str) -> String {
        let name = format!("t{}", self.temporaries);
        self.temporaries += 1;
        self.line(&format!("slide::WideOf<{}> {name} = {value};", element_type(dtype)));
        name
    }

    /// A statement with this head and body. What is read in it must not be taken for known outside of it.
    pub(super) fn block(&mut self, head: &str, body: impl FnOnce(&mut Self)) {
        let known = self.known.clone();
        self.line(&format!("{head} {{"));
        body(self);
        self.line("}");
        self.known = known;
    }
}
