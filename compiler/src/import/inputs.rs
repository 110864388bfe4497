//! Graph inputs: their types, and the symbols that their dynamic dimensions become.

use sliderun::dim::Dim;
use sliderun::op::TensorType;
use sliderun::plan::manifest::SymbolRange;
use std::collections::{BTreeMap, BTreeSet};

use super::error::Problem;
use super::options::{ImportOptions, LARGEST};
use crate::ir::{Constant, Graph};
use crate::onnx::proto::{DimensionValue, GraphProto, TypeProto, TypeValue, ValueInfoProto};
use crate::onnx::{OnnxModel, data_type_name, dtype_of};

/// What a graph input becomes.
pub(super) enum Input {
    Typed(TensorType),
    /// Its value is given in the options.
    Frozen(Constant),
    /// Why it cannot be one.
    Unsupported(String),
}

/// The types of the graph's inputs (initializers that are listed as inputs, as up to IR version 3, are none), after the options; their
/// symbols are added to `graph`.
pub(super) fn input_types(
    model: &OnnxModel,
    options: &ImportOptions,
    graph: &mut Graph,
    problems: &mut Vec<Problem>,
) -> Vec<(String, Input)> {
    let proto = model.graph();
    let initializers: BTreeSet<&str> = proto.initializer.iter().map(|t| t.name()).collect();
    let given = || proto.input.iter().filter(|i| !initializers.contains(i.name()));
    for name in options.freeze.keys().filter(|name| !given().any(|i| i.name() == *name)) {
        problems.push(Problem::Model {
            subject: format!("frozen input '{name}'"),
            reason: match initializers.contains(name.as_str()) {
                true => "it is an initializer, which is constant already".into(),
                false => format!(
                    "the model has no input of this name; it has {}",
                    given().map(|i| i.name()).collect::<Vec<_>>().join(", ")
                ),
            },
        });
    }
    let mut symbols = Symbols::new(proto, options);
    for info in given() {
        if let Some(constant) = options.freeze.get(info.name())
            && let Err(reason) = symbols.fix(info, constant)
        {
            problems.push(Problem::Model { subject: format!("frozen input '{}'", info.name()), reason });
        }
    }
    let inputs = given()
        .map(|info| {
            let input = match options.freeze.get(info.name()) {
                Some(constant) => Input::Frozen(constant.clone()),
                None => symbols.ty(info).map_or_else(Input::Unsupported, Input::Typed),
            };
            (info.name().to_owned(), input)
        })
        .collect();
    for name in options.symbols.keys().filter(|name| !symbols.used_options.contains(*name)) {
        let known: Vec<&str> = symbols.ranges.keys().map(String::as_str).collect();
        let known =
            if known.is_empty() { "it has no dynamic dimension".into() } else { format!("they are {}", known.join(", ")) };
        problems.push(Problem::Model {
            subject: format!("shape option '{name}'"),
            reason: format!("no dynamic dimension of the model's inputs has this name; {known}"),
        });
    }
    for (name, (min, max)) in symbols.ranges {
        if min != max {
            graph.symbols.insert(name.clone(), SymbolRange { name, min, max });
        }
    }
    inputs
}

struct Symbols<'a> {
    options: &'a ImportOptions,
    /// Symbol by `dim_param`.
    by_param: BTreeMap<String, String>,
    /// Every symbol's range, also of those that the options fix.
    ranges: BTreeMap<String, (i64, i64)>,
    used_options: BTreeSet<String>,
}

impl<'a> Symbols<'a> {
    fn new(graph: &GraphProto, options: &'a ImportOptions) -> Self {
        let mut out = Symbols { options, by_param: BTreeMap::new(), ranges: BTreeMap::new(), used_options: BTreeSet::new() };
        // Names that can stay as they are come first, so that no renamed one takes their place.
        let params = || graph.input.iter().flat_map(dimensions).filter_map(param);
        for p in params().filter(|p| is_symbol(p)) {
            out.declare(p, p);
        }
        out
    }

    /// The symbol of a dimension that the model knows by `key`.
    fn declare(&mut self, key: &str, wanted: &str) -> String {
        if let Some(symbol) = self.by_param.get(key) {
            return symbol.clone();
        }
        let base = sanitised(wanted);
        let mut symbol = base.clone();
        let mut n = 1;
        while self.ranges.contains_key(&symbol) {
            symbol = format!("{base}_{n}");
            n += 1;
        }
        let named = [key, symbol.as_str()].into_iter().find(|name| self.options.symbols.contains_key(*name));
        let range = named.map_or((1, LARGEST), |name| {
            self.used_options.insert(name.to_owned());
            self.options.symbols[name]
        });
        self.by_param.insert(key.to_owned(), symbol.clone());
        self.ranges.insert(symbol.clone(), range);
        symbol
    }

    /// Checks a frozen input's value against its type, and fixes the symbols of its extents.
    fn fix(&mut self, info: &ValueInfoProto, constant: &Constant) -> Result<(), String> {
        let ty = self.ty(info)?;
        let fits = ty.dtype == constant.dtype && ty.rank() == constant.shape.len();
        let mut mismatch = !fits;
        for (dim, &extent) in ty.shape.iter().zip(&constant.shape) {
            let extent = i64::try_from(extent).map_err(|e| e.to_string())?;
            match (dim.as_const(), dim.as_symbol()) {
                (Some(n), _) => mismatch |= n != extent,
                (None, Some(symbol)) => {
                    let range = self.ranges.entry(symbol.to_owned()).or_insert((extent, extent));
                    mismatch |= !(range.0..=range.1).contains(&extent);
                    *range = (extent, extent);
                }
                (None, None) => return Err(format!("its extent {dim} is an expression; fix its symbols with --shape")),
            }
        }
        match mismatch {
            true => Err(format!("the value given is {}, the model says {ty}", constant.ty())),
            false => Ok(()),
        }
    }

    fn dim(&mut self, key: &str, wanted: &str) -> Dim {
        let symbol = self.declare(key, wanted);
        self.value(&symbol)
    }

    fn value(&self, symbol: &str) -> Dim {
        match self.ranges.get(symbol) {
            Some((min, max)) if min == max => (*min).into(),
            _ => Dim::symbol(symbol),
        }
    }

    /// A `dim_param` such as `past + 1`, where it is an expression over the names of other dimensions.
    fn expression(&self, text: &str) -> Option<Dim> {
        let dim: Dim = text.parse().ok()?;
        let mut mentioned = BTreeSet::new();
        dim.symbols(&mut mentioned);
        let known = !mentioned.is_empty() && mentioned.iter().all(|s| self.ranges.contains_key(s));
        known.then(|| dim.substitute(&|s| self.value(s)))
    }

    fn ty(&mut self, info: &ValueInfoProto) -> Result<TensorType, String> {
        let tensor = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
            Some(TypeValue::Tensor(tensor)) => tensor,
            Some(other) => return Err(format!("inputs of type {} are not supported, only tensors are", type_name(other))),
            None => return Err("the model gives it no type; run ONNX shape inference on the model first".into()),
        };
        let elem = tensor.elem_type();
        let dtype = dtype_of(elem).map_err(|e| e.to_string())?;
        let shape = tensor.shape.as_ref().ok_or(
            "the model does not say how many dimensions it has; give it a shape when exporting (dimensions may be dynamic)",
        )?;
        let mut dims = Vec::with_capacity(shape.dim.len());
        for (axis, dim) in shape.dim.iter().enumerate() {
            dims.push(match &dim.value {
                Some(DimensionValue::DimValue(n)) if *n >= 0 => Dim::from(*n),
                Some(DimensionValue::DimParam(p)) if !p.is_empty() => match self.expression(p) {
                    Some(expression) if !is_symbol(p) => expression,
                    _ => self.dim(p, p),
                },
                // Without a name, or the -1 that some exporters write for "dynamic".
                _ => {
                    let name = format!("{}_dim{axis}", info.name());
                    self.dim(&name, &name)
                }
            });
        }
        Ok(TensorType { dtype, shape: dims })
    }
}

fn dimensions(info: &ValueInfoProto) -> impl Iterator<Item = &DimensionValue> {
    let shape = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(TypeValue::Tensor(tensor)) => tensor.shape.as_ref(),
        _ => None,
    };
    shape.into_iter().flat_map(|s| &s.dim).filter_map(|d| d.value.as_ref())
}

fn param(value: &DimensionValue) -> Option<&str> {
    match value {
        DimensionValue::DimParam(p) if !p.is_empty() => Some(p),
        _ => None,
    }
}

/// Whether a name is one that [`Dim::symbol`] takes.
fn is_symbol(name: &str) -> bool {
    sanitised(name) == name
}

fn sanitised(name: &str) -> String {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let mut out: String = name.chars().map(|c| if valid(c) { c } else { '_' }).collect();
    if !out.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        out.insert(0, '_');
    }
    out
}

fn type_name(ty: &TypeValue) -> String {
    let element = |t: &Option<Box<TypeProto>>| t.as_ref().and_then(|t| t.value.as_ref()).map_or("?".into(), type_name);
    match ty {
        TypeValue::Tensor(t) => format!("tensor({})", data_type_name(t.elem_type())),
        TypeValue::SparseTensor(t) => format!("sparse_tensor({})", data_type_name(t.elem_type())),
        TypeValue::Sequence(t) => format!("seq({})", element(&t.elem_type)),
        TypeValue::Optional(t) => format!("optional({})", element(&t.elem_type)),
        TypeValue::Map(t) => format!("map({}, {})", data_type_name(t.key_type()), element(&t.value_type)),
        TypeValue::Opaque(t) => format!("opaque({})", t.name()),
    }
}
