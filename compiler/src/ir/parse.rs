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
use std::sync::Arc;

use super::elements;
use super::form::WeightForm;
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
    source_code: Arc<NamedSource<String>>,
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
        source_code: Arc::new(NamedSource::new(name, text.to_owned())),
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
        if let Some(form) = trailer.form {
            let parsed: WeightForm = form.value.parse().or_else(|e: String| problem(&form.span, e))?;
            self.graph.set_form(id, Some(parsed));
        }
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
                let bytes = (self.constants)(&value).map_err(|e| Problem {
                    span: span.clone(),
                    message: format!("the data of constant '{}' is not at hand: {e}", definition.name.value),
                    help: Some("constants' data lies in the folder FILE.ir.d that is written with FILE.ir".to_owned()),
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

#[cfg(test)]
mod tests {
    use super::super::print::print;
    use super::*;
    use proptest::prelude::*;
    use sliderun::dtype::DType;
    use sliderun::op::Op;
    use sliderun::op::elementwise::{Binary, Clip, Unary};
    use sliderun::op::gemm::MatMul;
    use sliderun::op::layout::{Concat, Reshape, Split, Transpose};
    use sliderun::tensor::Tensor;

    /// Every constant of a graph by digest, as a dump's folder has them.
    fn reparse(graph: &Graph) -> Graph {
        let ids = graph.node_ids();
        let constants = ids.iter().filter_map(|n| graph.node(*n).constant());
        let by_digest: HashMap<String, Bytes> = constants.map(|c| (super::super::print::digest(c), c.data.clone())).collect();
        let resolver = |d: &str| by_digest.get(d).cloned().ok_or_else(|| std::io::Error::other("no such constant"));
        parse("test.ir", &print(graph), &resolver).unwrap_or_else(|e| panic!("{:?}\n{}", miette::Report::new(e), print(graph)))
    }

    /// In the printed form: what is printed of it is the same.
    const CANONICAL: &str = r#"symbols { batch: 1..32, seq: 1..512 }
input %ids: i64[batch, seq]
input %"a/b:0": f32[batch, 2*seq+1, 4]
const %two: f32[] = [2.0]
const %mask: bool[3] = [true, false, true]
const %empty: i64[0] = []
const %nan: f32[1] = hex "0100c07f"
const %w!: f32[4, 2] = [1.0, -0.0, 1e-20, inf, -inf, NaN, 3.5, 4.0] node "initializer \"w\"\n"
%y!: f32[batch, 2*seq+1, 2] = MatMul(%"a/b:0", %w) node "/encoder/MatMul" origin self
%clip: f32[batch, 2*seq+1, 2] = Clip(%y, _, %two) origin ["/encoder/Max", "/encoder/Min"]
%s0: f32[batch, 2*seq+1, 1], %s1!: f32[batch, 2*seq+1, 1] = Split(%clip) {axis: 2, sizes: [1, 1]}
%out: f32[batch, 2*seq+1, 1] = Gelu(%s1)
%elu: f32[batch, 2*seq+1, 1] = Elu(%s0) {alpha: 0.5}
output "logits" = %out
output "again \\ é" = %out
output "elu" = %elu
output "ids" = %ids
"#;

    #[test]
    fn the_canonical_form_is_stable() {
        let text = CANONICAL.replace("const %mask: bool[3] = [true, false, true]\n", "");
        let graph = parse("test.ir", CANONICAL, &no_constants).unwrap();
        assert_eq!(graph.node_ids().len(), 12);
        // Constants that nothing uses come last.
        let printed = print(&graph);
        let mut lines: Vec<&str> = printed.lines().collect();
        let unused = lines.iter().position(|l| l.contains("%mask")).unwrap();
        lines.remove(unused);
        let mut expected: Vec<&str> = text.lines().collect();
        // Constants come in the order of their first use.
        expected.sort_unstable();
        lines.sort_unstable();
        assert_eq!(lines, expected);
        assert_eq!(print(&reparse(&graph)), printed);
    }

    #[test]
    fn types_may_be_inferred_and_lines_may_break() {
        let text = r#"
            # a comment
            input %x: f32[4, 6]   # another
            const %r: f32[6, 8] = random(seed: 7, pattern: "6:8")
            %y = MatMul(%x,
                        %r)
            %a, %b = Split(%y) { axis: 1, sizes: [3, 5] }
            output "b" = %b"#;
        let graph = parse("test.ir", text, &no_constants).unwrap();
        assert!(print(&graph).contains("%a: f32[4, 3], %b: f32[4, 5] = Split(%y) {axis: 1, sizes: [3, 5]}"), "{graph}");
    }

    #[test]
    fn errors_have_a_place_and_a_reason() {
        let cases = [
            ("input %x: f32[4", (1, 15), "expected the closing bracket"),
            ("input %x: g32[4]", (1, 11), "unknown element type 'g32'"),
            ("input %x: f32[4, 2*]", (1, 18), "'2*' is not a dimension expression"),
            ("input %x", (1, 7), "value 'x' needs a type"),
            ("input %x: f32[4]\n%y = Relu(%z)", (2, 11), "value 'z' is not defined"),
            ("input %x: f32[4]\n%x = Relu(%x)", (2, 1), "value 'x' is defined twice"),
            ("input %x: f32[4]\n%y = Rule(%x)", (2, 6), "there is no operator 'Rule'"),
            ("input %x: f32[4]\n%y = Elu(%x) {beta: 1.0}", (2, 15), "missing field named `alpha`"),
            ("input %x: f32[4]\n%y = MatMul(%x)", (2, 6), "MatMul cannot have these operands: input 1 is missing"),
            ("input %x: f32[4]\n%y: f32[5] = Relu(%x)", (2, 1), "the types that Unary gives are [f32[4]]"),
            ("input %x: f32[n]", (1, 7), "symbol 'n' is not declared"),
            ("input %x: f32[4]\n%a, %b = Relu(%x)", (2, 1), "2 values are defined, the operator has 1"),
            ("const %c: f32[2] = [1.0]", (1, 7), "f32[2] has 2 elements, 1 are given"),
            ("const %c: f32[2] = [1.0, x]", (1, 26), "'x' is not an element of type f32"),
            ("const %c: f32[n] = [1.0]", (1, 7), "a constant cannot be f32[n]"),
            ("const %c: f32[-1] = [1.0]", (1, 7), "a constant cannot be f32[-1]"),
            ("const %c: f32[9999999999, 9999999999] = random(seed: 1)", (1, 7), "a constant cannot be"),
            ("const %c: f32[2] = digest \"00\"", (1, 27), "the data of constant 'c' is not at hand"),
            ("const %c: u8[1] = hex \"0\"", (1, 23), "an even number of hexadecimal digits"),
            ("symbols { n: 5..2 }", (1, 1), "the range 5..2 of symbol 'n' is empty"),
            ("symbols { n: 1..2, n: 1..2 }", (1, 20), "symbol 'n' is declared twice"),
            ("symbols { n: 1 }", (1, 15), "expected a range like 1..32"),
            ("output \"y = %y", (1, 15), "expected `\"`"),
            ("junk", (1, 1), "expected `symbols`, `input`, `const`, `output` or a value's definition"),
        ];
        for (text, position, message) in cases {
            let error = parse("test.ir", text, &no_constants).expect_err(text);
            assert!(error.message.contains(message), "{text}: {}", error.message);
            assert_eq!(error.position(), position, "{text}: {}", error.message);
        }
    }

    /// One step in the making of a random graph: which operator, on which earlier values, under which name.
    type Step = (u8, usize, usize, String, bool);

    fn random_graph(steps: &[Step]) -> Graph {
        let mut g = Graph::new();
        g.symbols.insert("n".into(), SymbolRange { name: "n".into(), min: 1, max: 9 });
        let ty = TensorType::new(DType::F32, [Dim::symbol("n"), Dim::from(8)]);
        let mut values = vec![g.add_input("x", ty.clone()), g.add_input("input y", ty)];
        for (kind, a, b, name, flag) in steps {
            let (a, b) = (values[a % values.len()], values[b % values.len()]);
            let add = |g: &mut Graph, name: &str, op: Op, operands: &[Option<ValueRef>]| {
                let node = g.add_op(name, op, operands).unwrap();
                let last = g.node(node).outputs.len() - 1;
                ValueRef { node, slot: last }
            };
            let name = if name.is_empty() { "n" } else { name };
            let value = match kind % 7 {
                0 => add(&mut g, name, Unary::Celu { alpha: *kind as f32 / 3.0 }.into(), &[Some(a)]),
                1 => add(&mut g, name, Binary::Add.into(), &[Some(a), Some(b)]),
                2 => {
                    let data: Vec<f32> = (0..64).map(|i| (i * (*kind as usize + 1)) as f32).collect();
                    let w = g.add_constant(name, Constant::from_tensor(&Tensor::from_slice(&[8, 8], &data).unwrap()));
                    add(&mut g, name, MatMul::default().into(), &[Some(a), Some(w)])
                }
                3 => {
                    let low = g.add_constant("low", Constant::from_tensor(&Tensor::scalar(f32::from(*kind))));
                    add(
                        &mut g,
                        name,
                        Clip {}.into(),
                        &if *flag { vec![Some(a), Some(low)] } else { vec![Some(a), None, Some(low)] },
                    )
                }
                4 => {
                    let parts = g.add_op(name, Split { axis: 1, sizes: vec![3.into(), 5.into()] }, &[Some(a)]).unwrap();
                    let [first, second] = [0, 1].map(|slot| Some(ValueRef { node: parts, slot }));
                    add(&mut g, name, Concat { axis: 1 }.into(), &[second, first])
                }
                5 => {
                    let turned = add(&mut g, name, Transpose { perm: vec![1, 0] }.into(), &[Some(a)]);
                    add(&mut g, name, Transpose { perm: vec![1, 0] }.into(), &[Some(turned)])
                }
                _ => {
                    let flat = Reshape { shape: vec![Dim::symbol("n") * Dim::from(8)] };
                    let flat = add(&mut g, name, flat.into(), &[Some(a)]);
                    add(&mut g, name, Reshape { shape: vec![Dim::symbol("n"), 8.into()] }.into(), &[Some(flat)])
                }
            };
            if *flag {
                g.name_value(value, &format!("{name}:0"), true);
                g.add_origin(value.node, [name, "other"]);
            }
            values.push(value);
        }
        for (i, v) in values.iter().rev().take(3).enumerate() {
            g.outputs.push(GraphOutput { name: format!("out{i}"), value: *v });
        }
        g
    }

    proptest! {
        #[test]
        fn printing_and_parsing_round_trip(
            steps in proptest::collection::vec((any::<u8>(), any::<usize>(), any::<usize>(), "\\PC{0,6}|[a-z/\"\\\\\n]{1,4}", any::<bool>()), 0..12)
        ) {
            let graph = random_graph(&steps);
            let again = reparse(&graph);
            prop_assert_eq!(print(&again), print(&graph));
        }

        /// No text makes the parser panic.
        #[test]
        fn damaged_text_gives_an_error(at in 0..CANONICAL.len(), replacement in "[%!\\[\\](){}\",=:a0-9]{0,3}", len in 0usize..4) {
            let (mut start, mut end) = (at, (at + len).min(CANONICAL.len()));
            while !CANONICAL.is_char_boundary(start) { start -= 1; }
            while !CANONICAL.is_char_boundary(end) { end += 1; }
            let text = format!("{}{replacement}{}", &CANONICAL[..start], &CANONICAL[end..]);
            if let Err(e) = parse("test.ir", &text, &no_constants) {
                prop_assert!(!e.message.is_empty());
                e.position();
            }
        }
    }
}
