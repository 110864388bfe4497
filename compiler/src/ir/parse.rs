//! The parser of the text form: from the items of `syntax` to a graph.
//!
//! Values are defined before they are used, so that what parses has no cycle. What is wrong is reported with its line.

use bytes::Bytes;
use miette::{Diagnostic, NamedSource, SourceSpan};
use sliderun::dim::Dim;
use sliderun::op::TensorType;
use sliderun::plan::manifest::SymbolRange;
use sliderun::tensor::checked_elements;
use std::collections::HashMap;

use super::elements;
use super::graph::{Constant, Graph, GraphOutput, NodeId, NodeOutput, ValueRef};
use super::random;
use super::syntax::{self, At, Data, Definition, Item, Origin, Span, Trailer};
use super::{attributes, verify};

/// Text that is not a graph.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{message}")]
pub struct ParseError {
    /// What is wrong.
    pub message: String,
    #[source_code]
    source_code: NamedSource<String>,
    #[label("here")]
    span: SourceSpan,
    #[help]
    help: Option<String>,
}

impl ParseError {
    /// Line and column, from 1.
    pub fn position(&self) -> (usize, usize) {
        let before = &self.source_code.inner()[..self.span.offset()];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// Gives the bytes of constants that the text names by digest (BLAKE3, hexadecimal).
pub type Resolver<'r> = &'r dyn Fn(&str) -> std::io::Result<Bytes>;

/// A [`Resolver`] for text that names no digest.
///
/// # Errors
/// Always.
pub fn no_constants(_: &str) -> std::io::Result<Bytes> {
    Err(std::io::Error::other("no folder with the constants' data was given"))
}

/// Parses a graph and verifies it. `name` is the file's, for messages.
///
/// # Errors
/// The first thing that does not parse, or everything that the verifier finds.
pub fn parse(name: &str, text: &str, constants: Resolver<'_>) -> Result<Graph, ParseError> {
    let fail = |p: Problem| ParseError {
        message: p.message,
        source_code: NamedSource::new(name, text.to_owned()),
        span: p.span.into(),
        help: p.help,
    };
    let items = syntax::parse(text).map_err(|e| fail(Problem { span: e.span, message: e.message, help: None }))?;
    let mut builder = Builder { graph: Graph::new(), values: HashMap::new(), places: Vec::new(), constants };
    for item in items {
        builder.item(item).map_err(fail)?;
    }
    verify::verify(&builder.graph).map_err(|invalid| {
        let first = invalid.violations.first().and_then(|v| v.node);
        let place = builder.places.iter().find(|(id, _)| Some(*id) == first);
        fail(Problem { span: place.map_or(0..0, |(_, span)| span.clone()), message: invalid.to_string(), help: None })
    })?;
    Ok(builder.graph)
}

struct Problem {
    span: Span,
    message: String,
    help: Option<String>,
}

fn problem<T>(span: &Span, message: impl Into<String>) -> Result<T, Problem> {
    Err(Problem { span: span.clone(), message: message.into(), help: None })
}

struct Builder<'r> {
    graph: Graph,
    values: HashMap<String, ValueRef>,
    /// Where nodes are defined.
    places: Vec<(NodeId, Span)>,
    constants: Resolver<'r>,
}

impl Builder<'_> {
    fn item(&mut self, item: Item) -> Result<(), Problem> {
        match item {
            Item::Symbols(symbols) => {
                for s in symbols {
                    let name = s.name.value;
                    let range = SymbolRange { name: name.clone(), min: s.min, max: s.max };
                    if self.graph.symbols.insert(name.clone(), range).is_some() {
                        return problem(&s.name.span, format!("symbol '{name}' is declared twice"));
                    }
                }
                Ok(())
            }
            Item::Input(definition, trailer) => {
                let ty = required_type(&definition)?;
                let v = self.graph.add_input(&definition.name.value, ty);
                self.define(v.node, &[definition], trailer)
            }
            Item::Constant(definition, data, trailer) => {
                let ty = required_type(&definition)?;
                let constant = self.constant(&definition, &ty, data)?;
                let v = self.graph.add_constant(&definition.name.value, constant);
                self.define(v.node, &[definition], trailer)
            }
            Item::Operator { results, name, operands, attributes, trailer } => {
                let op = attributes::parse(&name.value, &attributes.value).or_else(|e| problem(&attributes.span, e))?;
                let operands: Vec<Option<ValueRef>> =
                    operands.iter().map(|v| v.as_ref().map(|v| self.value(v)).transpose()).collect::<Result<_, _>>()?;
                let node = if results.iter().all(|d| d.ty.is_none()) {
                    match self.graph.add_op(&results[0].name.value, op, &operands) {
                        Ok(node) => node,
                        Err(e) => return problem(&name.span, format!("{} cannot have these operands: {e}", name.value)),
                    }
                } else {
                    let mut outputs = Vec::new();
                    for d in &results {
                        let ty = required_type(d)?;
                        outputs.push(NodeOutput { name: d.name.value.clone(), ty, from_model: d.from_model });
                    }
                    self.graph.insert_op(&results[0].name.value, op, &operands, outputs)
                };
                self.define(node, &results, trailer)
            }
            Item::Output { name, value } => {
                let value = self.value(&value)?;
                self.graph.outputs.push(GraphOutput { name: name.value, value });
                Ok(())
            }
        }
    }

    fn value(&self, name: &At<String>) -> Result<ValueRef, Problem> {
        match self.values.get(&name.value) {
            Some(v) => Ok(*v),
            None => Err(Problem {
                span: name.span.clone(),
                message: format!("value '{}' is not defined", name.value),
                help: Some("a value is defined above its first use".to_owned()),
            }),
        }
    }

    /// Names a new node and its values.
    fn define(&mut self, id: NodeId, definitions: &[Definition], trailer: Trailer) -> Result<(), Problem> {
        let first = &definitions[0].name;
        let outputs = self.graph.node(id).outputs.len();
        if outputs != definitions.len() {
            return problem(&first.span, format!("{} values are defined, the operator has {outputs}", definitions.len()));
        }
        let is_input = self.graph.inputs().contains(&id);
        for (slot, d) in definitions.iter().enumerate() {
            let v = ValueRef { node: id, slot };
            if self.values.insert(d.name.value.clone(), v).is_some() {
                return problem(&d.name.span, format!("value '{}' is defined twice", d.name.value));
            }
            self.graph.name_value(v, &d.name.value, d.from_model || is_input);
        }
        let node = trailer.node.unwrap_or_else(|| first.value.clone());
        match trailer.origin {
            Origin::Empty => {}
            Origin::Own => self.graph.add_origin(id, [node.as_str()]),
            Origin::Names(names) => self.graph.add_origin(id, names),
        }
        self.graph.rename_node(id, &node);
        self.places.push((id, first.span.clone()));
        Ok(())
    }

    fn constant(&self, definition: &Definition, ty: &TensorType, data: Data) -> Result<Constant, Problem> {
        let dtype = ty.dtype;
        let bytes = ty
            .concrete_shape()
            .and_then(|shape| Some((checked_elements(&shape)?.checked_mul(dtype.size())?, shape)))
            .filter(|(bytes, _)| isize::try_from(*bytes).is_ok());
        let Some((expected, shape)) = bytes else {
            return problem(&definition.name.span, format!("a constant cannot be {ty}"));
        };
        let (data, span) = match data {
            Data::Elements(elements) => {
                let texts = elements.iter().map(|e| e.value.as_str());
                let parsed = elements::parse(dtype, texts);
                let bytes = parsed.or_else(|bad| {
                    let place = elements.iter().find(|e| e.value == bad).map_or(&definition.name.span, |e| &e.span);
                    problem(place, format!("'{bad}' is not an element of type {dtype}"))
                })?;
                (bytes.into(), &definition.name.span)
            }
            Data::Hex(At { value, span }) => match hex(&value) {
                Some(bytes) => (Bytes::from(bytes), &definition.name.span),
                None => return problem(&span, "an even number of hexadecimal digits was expected"),
            },
            Data::Digest(At { value, span }) => {
                let bytes = (self.constants)(&value).or_else(|e| {
                    Err(Problem {
                        span: span.clone(),
                        message: format!("the data of constant '{}' is not at hand: {e}", definition.name.value),
                        help: Some("constants' data lies in the folder FILE.ir.d that is written with FILE.ir".to_owned()),
                    })
                })?;
                if blake3::hash(&bytes).to_hex().as_str() != value {
                    return problem(&span, format!("the data of constant '{}' does not have this digest", definition.name.value));
                }
                (bytes, &definition.name.span)
            }
            Data::Random(At { value, span }) => {
                let options = random::parse(&value).or_else(|e| problem(&span, e))?;
                (Bytes::from(options.generate(dtype, &shape)), &definition.name.span)
            }
        };
        if data.len() != expected {
            let given = data.len() / dtype.size();
            return problem(span, format!("{ty} has {} elements, {given} are given", expected / dtype.size()));
        }
        Ok(Constant { dtype, shape, data })
    }
}

fn required_type(definition: &Definition) -> Result<TensorType, Problem> {
    let Some((dtype, extents)) = &definition.ty else {
        return problem(&definition.name.span, format!("value '{}' needs a type", definition.name.value));
    };
    let shape = extents
        .iter()
        .map(|e| e.value.parse::<Dim>().or_else(|error| problem(&e.span, error.to_string())))
        .collect::<Result<Vec<Dim>, Problem>>()?;
    let dtype = dtype.value.parse().or_else(|e: sliderun::dtype::UnknownDType| problem(&dtype.span, e.to_string()))?;
    Ok(TensorType { dtype, shape })
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
