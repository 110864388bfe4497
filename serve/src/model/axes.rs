//! Along which axes a plan's requests can be joined or filled up, as the types of its inputs and outputs say.

use std::collections::{BTreeMap, BTreeSet};

use sliderun::dim::Dim;
use sliderun::plan::manifest::SymbolRange;
use sliderun::session::Port;

use crate::batcher::pad;
use crate::batcher::queue::Key;

/// What an extent of an input is to the batcher.
#[derive(Clone, Debug, PartialEq)]
enum Axis {
    /// The first axis, along which requests follow each other.
    Batch,
    /// An axis that is filled up to one of some sizes: position in [`Axes::buckets`].
    Padded(usize),
    /// Equal for all requests of a batch.
    Equal,
}

/// A symbol and the sizes to which its axes are filled up, in ascending order.
#[derive(Clone, Debug)]
struct Buckets {
    symbol: String,
    sizes: Vec<usize>,
}

impl Buckets {
    fn fit(&self, extent: usize) -> usize {
        self.sizes.iter().copied().find(|&s| s >= extent).unwrap_or(extent)
    }
}

/// What the operator says of inputs that requests of different shapes share.
#[derive(Clone, Debug, Default)]
pub struct Padding {
    /// By input: the value that means nothing to the model.
    pub values: BTreeMap<String, String>,
    /// By symbol: sizes that its extents are filled up to.
    pub buckets: BTreeMap<String, Vec<usize>>,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Axes {
    batch: Result<String, String>,
    batch_sizes: Option<Buckets>,
    buckets: Vec<Buckets>,
    inputs: Vec<Vec<Axis>>,
    pads: Vec<Option<Vec<u8>>>,
}

/// Where a request stands among others.
#[derive(Debug, PartialEq)]
pub struct Placement {
    /// Its rows; 1 where the plan has no batch axis.
    pub rows: usize,
    /// The extents of each input in the batch, 0 for the batch axis.
    pub key: Key,
}

impl Axes {
    /// Reads the types of a plan's inputs and outputs.
    ///
    /// # Errors
    /// Padding that does not fit the plan, in a sentence that says why.
    pub fn new(inputs: &[Port], outputs: &[Port], ranges: &[SymbolRange], padding: &Padding) -> Result<Axes, String> {
        let pads = inputs
            .iter()
            .map(|port| {
                let value = padding.values.get(&port.name);
                value.map(|text| pad::element(port.ty.dtype, text).map_err(|e| format!("--pad {}: {e}", port.name))).transpose()
            })
            .collect::<Result<Vec<_>, _>>()?;
        let batch = batch_symbol(inputs, outputs);
        let mut buckets = Vec::new();
        let mut batch_sizes = None;
        for range in ranges {
            let declared = padding.buckets.get(&range.name);
            let sizes = declared.map(|sizes| {
                let within = |s: &&usize| i64::try_from(**s).is_ok_and(|s| s >= range.min && s <= range.max);
                sizes.iter().filter(within).copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
            });
            if batch.as_ref() == Ok(&range.name) {
                batch_sizes = sizes.map(|sizes| Buckets { symbol: range.name.clone(), sizes });
                continue;
            }
            match (sizes, may_pad(&range.name, inputs, outputs, &pads)) {
                (Some(sizes), Ok(true)) => buckets.push(Buckets { symbol: range.name.clone(), sizes }),
                (Some(_), Ok(false)) => {}
                (Some(_), Err(reason)) => return Err(format!("--bucket {}: {reason}", range.name)),
                (None, Ok(true)) => buckets.push(Buckets { symbol: range.name.clone(), sizes: powers_of_two(range) }),
                (None, _) => {}
            }
        }
        let axis = |(at, d): (usize, &Dim)| match d.as_symbol() {
            Some(symbol) if at == 0 && batch.as_deref() == Ok(symbol) => Axis::Batch,
            Some(symbol) => buckets.iter().position(|b| b.symbol == symbol).map_or(Axis::Equal, Axis::Padded),
            None => Axis::Equal,
        };
        let axes = inputs.iter().map(|port| port.ty.shape.iter().enumerate().map(axis).collect()).collect();
        Ok(Axes { batch, batch_sizes, buckets, inputs: axes, pads })
    }

    /// The symbol of the batch axis, or why there is none.
    pub fn batch(&self) -> Result<&str, &str> {
        self.batch.as_deref().map_err(String::as_str)
    }

    /// Symbols whose axes are filled up, with the sizes.
    pub fn padded(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.batch_sizes.iter().chain(&self.buckets).map(|b| (b.symbol.as_str(), b.sizes.as_slice()))
    }

    /// The pad value of an input.
    pub fn pad(&self, input: usize) -> Option<&[u8]> {
        self.pads.get(input)?.as_deref()
    }

    /// Where a request with inputs of these shapes, which fit the plan, belongs.
    pub fn place(&self, shapes: &[&[usize]]) -> Placement {
        let mut rows = 1;
        let mut key = Vec::with_capacity(shapes.len());
        for (axes, shape) in self.inputs.iter().zip(shapes) {
            let extent = |(axis, &extent): (&Axis, &usize)| match axis {
                Axis::Batch => {
                    rows = extent;
                    0
                }
                Axis::Padded(at) => self.buckets[*at].fit(extent),
                Axis::Equal => extent,
            };
            key.push(axes.iter().zip(*shape).map(extent).collect());
        }
        Placement { rows, key }
    }

    /// The shapes of the inputs of a batch of so many rows. As many rows are added as a bucket asks for, where `most` allows.
    pub fn shapes(&self, key: &Key, rows: usize, most: usize) -> Vec<Vec<usize>> {
        let fitted = self.batch_sizes.as_ref().map_or(rows, |b| b.fit(rows));
        let rows = if fitted <= most { fitted } else { rows };
        let shape = |(axes, shape): (&Vec<Axis>, &Vec<usize>)| {
            let extent = |(axis, &extent): (&Axis, &usize)| if *axis == Axis::Batch { rows } else { extent };
            axes.iter().zip(shape).map(extent).collect()
        };
        self.inputs.iter().zip(key).map(shape).collect()
    }
}

/// The symbol that is the first extent of every input and output and occurs nowhere else, or why there is none.
fn batch_symbol(inputs: &[Port], outputs: &[Port]) -> Result<String, String> {
    let ports = || inputs.iter().chain(outputs);
    let first = inputs.first().ok_or("it has no input")?;
    let symbol =
        first.ty.shape.first().and_then(Dim::as_symbol).ok_or_else(|| format!("{first} does not begin with a symbol"))?;
    if let Some(other) = ports().find(|p| p.ty.shape.first().and_then(Dim::as_symbol) != Some(symbol)) {
        return Err(format!("{other} does not begin with {symbol}"));
    }
    if let Some(port) = ports().find(|p| p.ty.shape.iter().skip(1).any(|d| mentions(d, symbol))) {
        return Err(format!("{port} has {symbol} elsewhere too: its rows are not independent"));
    }
    Ok(symbol.to_owned())
}

/// Whether axes of this symbol can be filled up: some input has it, those inputs have a pad value, and what is cut off the outputs is known.
fn may_pad(symbol: &str, inputs: &[Port], outputs: &[Port], pads: &[Option<Vec<u8>>]) -> Result<bool, String> {
    let has = |p: &&Port| p.ty.shape.iter().any(|d| mentions(d, symbol));
    if !inputs.iter().any(|p| has(&p)) {
        return Ok(false);
    }
    if let Some((port, _)) = inputs.iter().zip(pads).find(|(p, pad)| has(p) && pad.is_none()) {
        return Err(format!("input {port} needs a pad value: --pad {}=VALUE", port.name));
    }
    let partly = |p: &&Port| p.ty.shape.iter().any(|d| mentions(d, symbol) && d.as_symbol().is_none());
    match inputs.iter().chain(outputs).find(partly) {
        Some(port) => Err(format!("{port} has {symbol} within an expression: what padding makes of it cannot be cut off")),
        None => Ok(true),
    }
}

fn mentions(dim: &Dim, symbol: &str) -> bool {
    let mut symbols = BTreeSet::new();
    dim.symbols(&mut symbols);
    symbols.contains(symbol)
}

fn powers_of_two(range: &SymbolRange) -> Vec<usize> {
    let max = usize::try_from(range.max).unwrap_or(usize::MAX);
    let powers = (0..usize::BITS - 1).map(|i| 1usize << i).take_while(|p| *p < max);
    powers.filter(|p| i64::try_from(*p).is_ok_and(|p| p >= range.min)).chain([max]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sliderun::dtype::DType;
    use sliderun::op::TensorType;

    fn port(name: &str, shape: &str) -> Port {
        let dims: Vec<Dim> = shape.split(' ').filter(|s| !s.is_empty()).map(|d| d.parse().unwrap()).collect();
        Port { name: name.into(), ty: TensorType { dtype: DType::I64, shape: dims.into_iter().collect() } }
    }

    fn ranges() -> Vec<SymbolRange> {
        [("batch", 1, 64), ("seq", 1, 48)].map(|(name, min, max)| SymbolRange { name: name.into(), min, max }).into()
    }

    fn padding(values: &[&str], buckets: &[(&str, &[usize])]) -> Padding {
        Padding {
            values: values.iter().map(|n| ((*n).to_owned(), "0".to_owned())).collect(),
            buckets: buckets.iter().map(|(s, sizes)| ((*s).to_owned(), sizes.to_vec())).collect(),
        }
    }

    fn axes(inputs: &[&str], outputs: &[&str], padding: &Padding) -> Result<Axes, String> {
        let ports = |shapes: &[&str]| shapes.iter().enumerate().map(|(i, s)| port(&format!("x{i}"), s)).collect::<Vec<_>>();
        Axes::new(&ports(inputs), &ports(outputs), &ranges(), padding)
    }

    #[test]
    fn the_batch_axis_is_first_everywhere_and_nowhere_else() {
        for (inputs, outputs, expected) in [
            (&["batch seq", "batch"][..], &["batch seq 8"][..], Ok("batch")),
            (&["batch seq"], &["batch batch"], Err("rows are not independent")),
            (&["batch seq"], &["batch 2*batch"], Err("rows are not independent")),
            (&["batch seq"], &["seq"], Err("does not begin with batch")),
            (&["batch seq", "seq"], &["batch"], Err("does not begin with batch")),
            (&["batch seq", ""], &["batch"], Err("does not begin with batch")),
            (&["batch"], &["2*batch"], Err("does not begin with batch")),
            (&["1 seq"], &["1 seq"], Err("does not begin with a symbol")),
            (&[], &["batch"], Err("no input")),
        ] {
            let axes = axes(inputs, outputs, &Padding::default()).unwrap();
            match (axes.batch(), expected) {
                (Ok(symbol), Ok(wanted)) => assert_eq!(symbol, wanted),
                (Err(reason), Err(wanted)) => assert!(reason.contains(wanted), "{reason}"),
                (found, wanted) => panic!("{inputs:?} {outputs:?}: {found:?}, not {wanted:?}"),
            }
        }
    }

    #[test]
    fn extents_are_filled_up_where_all_inputs_have_pad_values() {
        let with =
            axes(&["batch seq", "batch seq"], &["batch seq 8"], &padding(&["x0", "x1"], &[("seq", &[16, 8, 99])])).unwrap();
        for (seq, filled) in [(1, 8), (8, 8), (9, 16), (17, 17)] {
            let expected = Placement { rows: 3, key: vec![vec![0, filled]; 2] };
            assert_eq!(with.place(&[&[3, seq], &[3, seq]]), expected);
        }
        assert_eq!(with.shapes(&vec![vec![0, 8]; 2], 5, 64), [[5, 8], [5, 8]]);
        // Powers of two and the largest that the plan takes, unless others are given.
        let by_default = axes(&["batch seq"], &["batch"], &padding(&["x0"], &[])).unwrap();
        assert_eq!(by_default.padded().collect::<Vec<_>>(), [("seq", &[1, 2, 4, 8, 16, 32, 48][..])]);
        let without = axes(&["batch seq", "batch seq"], &["batch"], &padding(&["x0"], &[])).unwrap();
        assert_eq!(without.place(&[&[1, 5], &[1, 5]]).key, [[0, 5], [0, 5]]);
    }

    #[test]
    fn rows_are_added_up_to_a_bucket() {
        let axes = axes(&["batch 4"], &["batch"], &padding(&[], &[("batch", &[4, 8])])).unwrap();
        let rows = |rows, most| axes.shapes(&vec![vec![0, 4]], rows, most)[0][0];
        assert_eq!([rows(3, 64), rows(4, 64), rows(5, 64), rows(9, 64), rows(5, 6)], [4, 4, 8, 9, 5]);
    }

    #[test]
    fn padding_that_does_not_fit_is_refused() {
        for (inputs, outputs, padding, reason) in [
            (
                &["batch seq", "batch seq"],
                &["batch"],
                padding(&["x0"], &[("seq", &[8])]),
                "input x1: i64[batch, seq] needs a pad",
            ),
            (&["batch seq", "batch 2"], &["batch 2*seq"], padding(&["x0"], &[("seq", &[8])]), "within an expression"),
        ] {
            let error = axes(inputs, outputs, &padding).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let text = Padding { values: [("x0".to_owned(), "0.5".to_owned())].into(), ..Padding::default() };
        assert!(axes(&["batch"], &["batch"], &text).unwrap_err().contains("--pad x0: '0.5' is no i64"));
    }
}
