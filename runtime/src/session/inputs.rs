//! From what the caller gives to the plan's inputs in order, and from their shapes to the values of the symbols.

use std::collections::{BTreeMap, BTreeSet};

use super::{Port, SessionError};
use crate::dim::{Bindings, Dim};
use crate::dtype::DType;
use crate::op::TensorType;
use crate::plan::manifest::SymbolRange;
use crate::tensor::{TensorView, checked_elements, no_bytes};

/// The given tensors in the plan's order, their names, element types, ranks and lengths checked.
pub(super) fn arrange<'a>(ports: &[Port], given: &[(&str, TensorView<'a>)]) -> Result<Vec<TensorView<'a>>, SessionError> {
    let mut arranged = arrange_by_name(ports, given, check)?;
    // Empty data may point anywhere; kernels cast it like any other.
    arranged.iter_mut().filter(|view| view.data.is_empty()).for_each(|view| view.data = no_bytes());
    Ok(arranged)
}

/// What is given for each input in the plan's order, each checked.
pub(super) fn arrange_by_name<T: Copy>(
    ports: &[Port],
    given: &[(&str, T)],
    check: impl Fn(&Port, &T) -> Result<(), SessionError>,
) -> Result<Vec<T>, SessionError> {
    let known = || ports.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut found: Vec<Option<T>> = vec![None; ports.len()];
    for (name, tensor) in given {
        let Some(i) = ports.iter().position(|p| p.name == *name) else {
            return Err(SessionError::UnknownInput { name: (*name).to_owned(), known: known() });
        };
        check(&ports[i], tensor)?;
        if found[i].replace(*tensor).is_some() {
            return Err(SessionError::DuplicateInput { name: (*name).to_owned(), known: known() });
        }
    }
    let missing = |p: &Port| SessionError::MissingInput { name: p.name.clone(), known: known() };
    found.into_iter().zip(ports).map(|(tensor, port)| tensor.ok_or_else(|| missing(port))).collect()
}

/// Whether element type, rank and fixed extents are the input's.
pub(super) fn check_type(port: &Port, dtype: DType, shape: &[usize]) -> Result<(), SessionError> {
    let fits = |(d, &n): (&Dim, &usize)| d.as_const().is_none() || d.as_usize() == Some(n);
    if dtype != port.ty.dtype || shape.len() != port.ty.rank() || !port.ty.shape.iter().zip(shape).all(fits) {
        let given = TensorType::new(dtype, shape.iter().copied());
        return Err(SessionError::InputType { name: port.name.clone(), expected: port.ty.clone(), given });
    }
    Ok(())
}

/// Whether type, extents as far as they are fixed, size and alignment are the port's.
pub(super) fn check(port: &Port, view: &TensorView<'_>) -> Result<(), SessionError> {
    check_type(port, view.dtype, view.shape)?;
    let expected = checked_elements(view.shape).and_then(|n| n.checked_mul(view.dtype.size()));
    // No element type is aligned to more than its size.
    let aligned = view.data.is_empty() || view.data.as_ptr().addr().is_multiple_of(view.dtype.size());
    if expected != Some(view.data.len()) || !aligned {
        let (expected, actual) = (expected.unwrap_or(usize::MAX), view.data.len());
        let given = TensorType::new(view.dtype, view.shape.iter().copied());
        return Err(SessionError::InputData { name: port.name.clone(), given, expected, actual });
    }
    Ok(())
}

/// Values of the symbols from the shapes of all inputs (whose ranks fit), and checks that every extent agrees with them.
pub(super) fn unify(ports: &[Port], shapes: &[&[usize]], symbols: &[SymbolRange]) -> Result<Bindings, SessionError> {
    let axes = || ports.iter().zip(shapes).flat_map(|(p, shape)| p.ty.shape.iter().zip(*shape).map(move |(d, &n)| (p, d, n)));
    let extent = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);

    let mut from: BTreeMap<&str, (i64, &str)> = BTreeMap::new();
    for (port, dim, n) in axes() {
        let Some(symbol) = dim.as_symbol() else { continue };
        let (first, first_input) = *from.entry(symbol).or_insert((extent(n), &port.name));
        if first != extent(n) {
            return Err(SessionError::SymbolConflict {
                symbol: symbol.to_owned(),
                first,
                first_input: first_input.to_owned(),
                second: extent(n),
                second_input: port.name.clone(),
            });
        }
    }
    let mut bindings: Bindings = from.iter().map(|(s, (v, _))| ((*s).to_owned(), *v)).collect();
    // Expressions may determine further symbols, one at a time.
    while let Some((symbol, value)) = axes().find_map(|(_, dim, n)| solve(dim, extent(n), &bindings)) {
        bindings.insert(symbol, value);
    }

    for s in symbols {
        match bindings.get(&s.name) {
            Some(&value) if value < s.min || value > s.max => {
                return Err(SessionError::SymbolRange { symbol: s.name.clone(), value, min: s.min, max: s.max });
            }
            _ => {}
        }
    }
    for (port, dim, n) in axes() {
        let expected = dim.eval(&bindings).map_err(|e| match e {
            crate::dim::DimError::Unbound(s) => SessionError::SymbolUnknown(s),
            e => SessionError::Value { value: port.name.clone(), ty: port.ty.clone(), reason: e.to_string() },
        })?;
        if expected != extent(n) {
            let expression = dim.to_string();
            return Err(SessionError::InputExtent { name: port.name.clone(), expression, expected, given: n });
        }
    }
    Ok(bindings)
}

/// The one unknown symbol of `dim` and its value, when `dim = extent` is linear in it.
fn solve(dim: &Dim, extent: i64, bindings: &Bindings) -> Option<(String, i64)> {
    let mut symbols = BTreeSet::new();
    dim.symbols(&mut symbols);
    let mut unknown = symbols.into_iter().filter(|s| !bindings.contains_key(s));
    let symbol = unknown.next()?;
    if unknown.next().is_some() {
        return None;
    }
    let at = |value: i64| {
        let mut trial = bindings.clone();
        trial.insert(symbol.clone(), value);
        dim.eval(&trial).ok()
    };
    let offset = at(0)?;
    let slope = at(1)?.checked_sub(offset)?;
    let value = extent.checked_sub(offset)?.checked_div(slope)?;
    (at(value)? == extent).then_some((symbol, value))
}

/// Shapes of the inputs under given values of the symbols.
pub(super) fn shapes_of(ports: &[Port], ranges: &[SymbolRange], symbols: &Bindings) -> Result<Vec<Vec<usize>>, SessionError> {
    let shape = |port: &Port| {
        let extent = |d: &Dim| {
            d.eval_usize(symbols).map_err(|e| match (e, ranges) {
                (crate::dim::DimError::Unbound(symbol), ranges) => match ranges.iter().find(|r| r.name == symbol) {
                    Some(r) => SessionError::SymbolMissing { symbol, min: r.min, max: r.max },
                    None => SessionError::SymbolUnknown(symbol),
                },
                (e, _) => SessionError::Value { value: port.name.clone(), ty: port.ty.clone(), reason: e.to_string() },
            })
        };
        port.ty.shape.iter().map(extent).collect()
    };
    ports.iter().map(shape).collect()
}
