//! `conv-to-matmul`: a convolution becomes layout steps and a product with a constant weight, which can be quantized and sparse and needs no
//! convolution kernel.
//!
//! Always where windows lie side by side (the patch embedding of a vision model), as nothing is read twice. Where a narrow type, a pattern or
//! a GPU asks for products, also where windows overlap but hold few times the elements of the input; a kernel of its own gathers the windows of
//! others while it multiplies.

use sliderun::dim::Dim;
use sliderun::op::Op;
use sliderun::op::conv::{Conv, Windows};
use sliderun::op::elementwise::Binary;
use sliderun::op::gemm::MatMul;
use sliderun::op::layout::{Concat, Pad, PadMode, Reshape, Slice, SliceAxis, Transpose};

use super::fold_constants::evaluate;
use super::rewrite::{Replacement, emit, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Constant, Graph, NodeId, ValueRef};
use crate::options::{CompileOptions, Precision, SparsityRequest};

/// The pass. It comes before `normalise`, which merges the layout steps with those around them.
pub const PASS: Pass = Pass {
    name: "conv-to-matmul",
    summary: "a convolution whose windows lie side by side (patch embedding), or overlap little, becomes a MatMul",
    run,
};

/// K is padded with zeros to a multiple of this, and N must be one: libraries want it of 8-bit products.
const ALIGN: usize = 16;

/// Windows hold at most so many times the elements of the input.
const MOST_COPIES: usize = 4;

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    let asked = asks_for_products(context.options);
    rewrite(graph, context, |graph, id, context| {
        let Some(Op::Conv(conv)) = graph.node(id).op().cloned() else { return Ok(None) };
        let (Some(x), Some(w)) = (graph.operand(id, 0), graph.operand(id, 1)) else { return Ok(None) };
        let name = graph.node(id).name.clone();
        match weight(graph, &conv, x, w, asked) {
            Err(reason) => {
                context.report.declined(name, reason);
                Ok(None)
            }
            Ok(weight) => {
                let value = Rewriter { graph, name: &name, windows: &conv.windows }.matmul(id, x, &weight)?;
                Ok(Some(Replacement::new(value, "convolution became a product")))
            }
        }
    })
}

/// Whether products gain what convolutions do not.
fn asks_for_products(options: &CompileOptions) -> bool {
    options.for_cuda()
        || !matches!(options.precision, Precision::Auto | Precision::F32)
        || matches!(options.sparsity, SparsityRequest::Pattern(_))
        || options.recipe.as_ref().is_some_and(|recipe| recipe.asks_for_products())
}

/// Whether each element of the input is in at most one window, and windows have several.
fn side_by_side(windows: &Windows) -> bool {
    let Windows { kernel, strides, dilations, pads } = windows;
    let dilated = dilations.iter().zip(kernel).any(|(d, k)| *d != 1 && *k != 1);
    kernel == strides && !dilated && pads.iter().all(|p| *p == (0, 0)) && kernel.iter().any(|k| *k > 1)
}

/// The weight of a convolution that is to become a product, or why it is not.
fn weight(graph: &Graph, conv: &Conv, x: ValueRef, w: ValueRef, asked: bool) -> Result<Constant, String> {
    let Windows { kernel, strides, .. } = &conv.windows;
    if !side_by_side(&conv.windows) {
        if !asked {
            return Err("its windows do not lie side by side, and no narrow type, pattern or GPU asks for products".into());
        }
        let (held, apart): (usize, usize) = (kernel.iter().product(), strides.iter().product());
        if held > MOST_COPIES * apart {
            return Err(format!("its windows hold {held} elements for every {apart} of the input"));
        }
    }
    if conv.groups != 1 {
        return Err(format!("it has {} groups", conv.groups));
    }
    let [filters, channels] = [0, 1].map(|axis| graph.ty(w).shape[axis].as_usize());
    if channels.is_none() || graph.ty(x).shape[1].as_usize() != channels {
        return Err(format!("the channels of {} are not known", graph.ty(x)));
    }
    if filters.is_none_or(|f| !f.is_multiple_of(ALIGN)) || graph.ty(w).elements() == 0.into() {
        return Err(format!("its weight is {}, and a multiple of {ALIGN} filters is wanted", graph.ty(w)));
    }
    evaluate(graph, w).map(|t| Constant::from_tensor(&t)).ok_or("its weight is computed".into())
}

struct Rewriter<'a> {
    graph: &'a mut Graph,
    name: &'a str,
    windows: &'a Windows,
}

impl Rewriter<'_> {
    fn emit(&mut self, part: &str, op: impl Into<Op>, operands: &[ValueRef]) -> Result<ValueRef, PassError> {
        emit(self.graph, &format!("{}{part}", self.name), op, operands)
    }

    /// x: [N, C, spatial…] cut into windows [N, windows, K], times [K, O], back to [N, O, windows…].
    fn matmul(&mut self, id: NodeId, x: ValueRef, w: &Constant) -> Result<ValueRef, PassError> {
        let result = self.graph.ty(ValueRef { node: id, slot: 0 }).shape.clone();
        let counts = &result[2..];
        let k: usize = w.shape[1..].iter().product();
        let (mut rows, weight) = if side_by_side(self.windows) {
            (self.tiles(x, counts, k)?, matrix(w, |row| row))
        } else {
            let (channels, taps) = (w.shape[1], k / w.shape[1]);
            (self.taps(x, counts, k)?, matrix(w, |row| row % channels * taps + row / channels))
        };
        let missing = weight.shape[0] - k;
        if missing > 0 {
            let pad = Pad { mode: PadMode::Constant, pads: vec![(0, 0), (0, 0), (0, missing as i64)] };
            rows = self.emit("/pad", pad, &[rows])?;
        }
        let weight = self.graph.add_constant(&format!("{}.weight", self.name), weight);
        let mut product = self.emit("", MatMul::default(), &[rows, weight])?;
        if let Some(bias) = self.graph.operand(id, 2) {
            let bias = match evaluate(self.graph, bias) {
                Some(known) => self.graph.add_constant(&format!("{}.bias", self.name), Constant::from_tensor(&known)),
                None => bias,
            };
            product = self.emit(".bias", Binary::Add, &[product, bias])?;
        }
        let turned = self.emit("/channels", Transpose { perm: vec![0, 2, 1] }, &[product])?;
        self.emit("/result", Reshape { shape: result }, &[turned])
    }

    /// Windows that lie side by side, K in the order of the weight: [N, C, n₀·k₀, n₁·k₁, …] to [N, n₀·n₁·…, C·k₀·k₁·…].
    fn tiles(&mut self, x: ValueRef, counts: &[Dim], k: usize) -> Result<ValueRef, PassError> {
        let (axes, kernel) = (counts.len(), &self.windows.kernel);
        let shape = self.graph.ty(x).shape.clone();
        // What is past the last window is read by none.
        let ends: Vec<Dim> = counts.iter().zip(kernel).map(|(n, k)| n.clone() * (*k).into()).collect();
        let mut parted = shape[..2].to_vec();
        parted.extend(counts.iter().zip(kernel).flat_map(|(n, k)| [n.clone(), (*k).into()]));
        let mut patches = x;
        if shape[2..] != ends[..] {
            let cut = |(i, end): (usize, &Dim)| SliceAxis { axis: i + 2, start: 0.into(), len: end.clone(), step: 1 };
            patches = self.emit("/windows", Slice { axes: ends.iter().enumerate().map(cut).collect() }, &[patches])?;
        }
        patches = self.emit("/parts", Reshape { shape: parted }, &[patches])?;
        let perm = [0].into_iter().chain((0..axes).map(|i| 2 + 2 * i)).chain([1]).chain((0..axes).map(|i| 3 + 2 * i)).collect();
        patches = self.emit("/patches", Transpose { perm }, &[patches])?;
        let flat = vec![shape[0].clone(), Dim::product(counts), k.into()];
        self.emit("/rows", Reshape { shape: flat }, &[patches])
    }

    /// Any windows, K in the order of the window's elements, each with all channels: these lie side by side from the first step on.
    fn taps(&mut self, x: ValueRef, counts: &[Dim], k: usize) -> Result<ValueRef, PassError> {
        let Windows { kernel, strides, dilations, pads } = self.windows;
        let (batch, axes) = (self.graph.ty(x).shape[0].clone(), kernel.len());
        let perm = [0].into_iter().chain(2..axes + 2).chain([1]).collect();
        let mut padded = self.emit("/channels_last", Transpose { perm }, &[x])?;
        if pads.iter().any(|p| *p != (0, 0)) {
            let pads = pads.iter().map(|(a, b)| (*a as i64, *b as i64));
            let pads = [(0, 0)].into_iter().chain(pads).chain([(0, 0)]).collect();
            padded = self.emit("/border", Pad { mode: PadMode::Constant, pads }, &[padded])?;
        }
        let mut taps = Vec::new();
        for tap in 0..kernel.iter().product::<usize>() {
            let mut rest = tap;
            let mut cuts = Vec::new();
            for axis in (0..axes).rev() {
                let start = (rest % kernel[axis] * dilations[axis]).into();
                rest /= kernel[axis];
                cuts.insert(0, SliceAxis { axis: axis + 1, start, len: counts[axis].clone(), step: strides[axis] as i64 });
            }
            taps.push(self.emit(&format!("/tap{tap}"), Slice { axes: cuts }, &[padded])?);
        }
        let joined = self.emit("/taps", Concat { axis: axes + 1 }, &taps)?;
        self.emit("/rows", Reshape { shape: vec![batch, Dim::product(counts), k.into()] }, &[joined])
    }
}

/// A weight [O, C, kernel…] as [K, O], with rows of zeros up to a multiple of [`ALIGN`]. `source` says which of a filter's elements a row takes.
fn matrix(weight: &Constant, source: impl Fn(usize) -> usize) -> Constant {
    let (filters, k, size) = (weight.shape[0], weight.shape[1..].iter().product::<usize>(), weight.dtype.size());
    let rows = k.next_multiple_of(ALIGN);
    let mut data = Vec::with_capacity(rows * filters * size);
    for row in (0..k).map(source) {
        for filter in 0..filters {
            data.extend_from_slice(&weight.data[(filter * k + row) * size..][..size]);
        }
    }
    data.resize(rows * filters * size, 0);
    Constant { dtype: weight.dtype, shape: vec![rows, filters], data: data.into() }
}
