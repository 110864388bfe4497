//! The grammar of the text form.
//!
//! ```text
//! file      := item*                                                  # a comment runs to the end of its line
//! item      := "symbols" "{" [symbol ":" integer ".." integer {","}] "}"
//!            | "input" result trailer
//!            | "const" result "=" data trailer
//!            | result {"," result} "=" Operator "(" [operand {","}] ")" ["{" attributes "}"] trailer
//!            | "output" string "=" value
//! result    := value ["!"] [":" dtype "[" [extent {","}] "]"]         # "!": stands for the model's tensor of that name
//! value     := "%" (letter | digit | "_" | ".")+ | "%" string
//! operand   := value | "_"                                            # "_": an optional operand that is absent
//! data      := "[" elements "]" | "hex" string | "digest" string | "random" "(" options ")"
//! trailer   := ["node" string] ["form" string] ["origin" ("self" | "[" [string {","}] "]")]
//! ```
//!
//! Types of operators' results may be left out (all or none of a node): then they are inferred. A node without `node` has its first value's
//! name; `origin self` is that name alone. `random` is read, never printed.
//!
//! This file turns text into [`Item`]s with their places; it knows no operator, type or graph.

use std::ops::Range;
use winnow::combinator::{alt, cut_err, delimited, eof, fail, opt, preceded, repeat, separated, terminated};
use winnow::error::{ContextError, StrContext, StrContextValue};
use winnow::prelude::*;
use winnow::stream::Stream;
use winnow::token::{any, literal, take_till, take_while};
use winnow::{LocatingSlice, ModalResult};

use super::print::is_plain;

/// Where something is in the text, in bytes.
pub(super) type Span = Range<usize>;

/// Something and where it is.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Span,
}

/// A value's definition.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    pub name: At<String>,
    pub from_model: bool,
    /// Element type and extents.
    pub ty: Option<(At<String>, Vec<At<String>>)>,
}

/// A constant's data.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Elements(Vec<At<String>>),
    Hex(At<String>),
    Digest(At<String>),
    Random(At<String>),
}

/// The names that follow a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Trailer {
    pub node: Option<String>,
    pub form: Option<At<String>>,
    pub origin: Origin,
}

#[derive(Clone, Debug, Default)]
pub(super) enum Origin {
    #[default]
    Empty,
    Own,
    Names(Vec<String>),
}

#[derive(Clone, Debug)]
pub(super) struct Symbol {
    pub name: At<String>,
    pub min: i64,
    pub max: i64,
}

#[derive(Clone, Debug)]
pub(super) enum Item {
    Symbols(Vec<Symbol>),
    Input(Definition, Trailer),
    Constant(Definition, Data, Trailer),
    Operator {
        results: Vec<Definition>,
        name: At<String>,
        operands: Vec<Option<At<String>>>,
        attributes: At<String>,
        trailer: Trailer,
    },
    Output {
        name: At<String>,
        value: At<String>,
    },
}

/// What is wrong and where.
pub(super) struct SyntaxError {
    pub span: Span,
    pub message: String,
}

/// The items of a file.
pub(super) fn parse(text: &str) -> Result<Vec<Item>, SyntaxError> {
    let file = preceded(
        space,
        terminated(repeat(0.., item), eof.context(expected("`symbols`, `input`, `const`, `output` or a value's definition"))),
    );
    { file }.parse(LocatingSlice::new(text)).map_err(|e| {
        let expected: Vec<String> = e.inner().context().map(ToString::to_string).collect();
        let message = if expected.is_empty() { "this is not understood".to_owned() } else { expected.join(", ") };
        SyntaxError { span: e.char_span(), message }
    })
}

type Input<'t> = LocatingSlice<&'t str>;

fn expected(what: &'static str) -> StrContext {
    StrContext::Expected(StrContextValue::Description(what))
}

/// White space and comments.
fn space(input: &mut Input<'_>) -> ModalResult<()> {
    let comment = ('#', take_till(0.., '\n')).void();
    let white = take_while(1.., char::is_whitespace).void();
    repeat(0.., alt((white, comment))).parse_next(input)
}

/// A parser and the space after it.
fn lexeme<'t, O>(
    parser: impl Parser<Input<'t>, O, winnow::error::ErrMode<ContextError>>,
) -> impl Parser<Input<'t>, O, winnow::error::ErrMode<ContextError>> {
    terminated(parser, space)
}

fn punctuation<'t>(c: char) -> impl Parser<Input<'t>, (), winnow::error::ErrMode<ContextError>> {
    lexeme(c.void()).context(StrContext::Expected(c.into()))
}

/// A word, which must not go on.
fn keyword<'t>(word: &'static str) -> impl Parser<Input<'t>, (), winnow::error::ErrMode<ContextError>> {
    lexeme(take_while(1.., is_plain).verify(move |w: &str| w == word).void())
}

fn at<'t, O>(
    parser: impl Parser<Input<'t>, O, winnow::error::ErrMode<ContextError>>,
) -> impl Parser<Input<'t>, At<O>, winnow::error::ErrMode<ContextError>> {
    lexeme(parser.with_span().map(|(value, span)| At { value, span }))
}

fn item(input: &mut Input<'_>) -> ModalResult<Item> {
    alt((symbols, graph_input, constant, output, operator))
        .context(expected("`symbols`, `input`, `const`, `output` or a value's definition"))
        .parse_next(input)
}

fn symbols(input: &mut Input<'_>) -> ModalResult<Item> {
    keyword("symbols").parse_next(input)?;
    let list = delimited(punctuation('{'), separated(0.., symbol, punctuation(',')), punctuation('}'));
    cut_err(list).map(Item::Symbols).parse_next(input)
}

fn symbol(input: &mut Input<'_>) -> ModalResult<Symbol> {
    let name = at(take_while(1.., is_plain).map(str::to_owned)).parse_next(input)?;
    let bound = || take_while(1.., |c: char| c.is_ascii_digit() || c == '-').parse_to::<i64>().context(expected("an integer"));
    let range = (punctuation(':'), bound(), literal(".."), lexeme(bound()));
    let (_, min, _, max) = cut_err(range).context(expected("a range like 1..32")).parse_next(input)?;
    Ok(Symbol { name, min, max })
}

fn graph_input(input: &mut Input<'_>) -> ModalResult<Item> {
    keyword("input").parse_next(input)?;
    cut_err((definition, trailer)).map(|(d, t)| Item::Input(d, t)).parse_next(input)
}

fn constant(input: &mut Input<'_>) -> ModalResult<Item> {
    keyword("const").parse_next(input)?;
    let rest = (definition, punctuation('='), data, trailer);
    cut_err(rest).map(|(definition, _, data, trailer)| Item::Constant(definition, data, trailer)).parse_next(input)
}

fn data(input: &mut Input<'_>) -> ModalResult<Data> {
    alt((
        enclosed('[', ']').map(|text| Data::Elements(split(text))),
        preceded(keyword("hex"), cut_err(at(string))).map(Data::Hex),
        preceded(keyword("digest"), cut_err(at(string))).map(Data::Digest),
        preceded(keyword("random"), cut_err(enclosed('(', ')'))).map(Data::Random),
    ))
    .context(expected("`[` elements `]`, `hex`, `digest` or `random`"))
    .parse_next(input)
}

fn output(input: &mut Input<'_>) -> ModalResult<Item> {
    keyword("output").parse_next(input)?;
    let rest = (at(string), punctuation('='), value);
    cut_err(rest).map(|(name, _, value)| Item::Output { name, value }).parse_next(input)
}

fn operator(input: &mut Input<'_>) -> ModalResult<Item> {
    let results = separated(1.., definition, punctuation(',')).parse_next(input)?;
    cut_err(punctuation('=')).parse_next(input)?;
    let name = at(take_while(1.., is_plain).map(str::to_owned));
    let name = cut_err(name).context(expected("an operator")).parse_next(input)?;
    let operand = alt((lexeme('_').value(None), value.map(Some)));
    let operands = delimited(punctuation('('), separated(0.., operand, punctuation(',')), punctuation(')'));
    let operands = cut_err(operands).parse_next(input)?;
    let empty = At { value: String::new(), span: name.span.clone() };
    let attributes = opt(enclosed('{', '}')).parse_next(input)?.unwrap_or(empty);
    let trailer = trailer.parse_next(input)?;
    Ok(Item::Operator { results, name, operands, attributes, trailer })
}

fn definition(input: &mut Input<'_>) -> ModalResult<Definition> {
    let name = value.parse_next(input)?;
    let from_model = opt(punctuation('!')).parse_next(input)?.is_some();
    let dtype = at(take_while(1.., is_plain).map(str::to_owned)).context(expected("an element type"));
    let ty = (dtype, enclosed('[', ']')).map(|(dtype, extents)| (dtype, split(extents)));
    let ty = opt(preceded(punctuation(':'), cut_err(ty))).parse_next(input)?;
    Ok(Definition { name, from_model, ty })
}

fn value(input: &mut Input<'_>) -> ModalResult<At<String>> {
    let name = alt((string, take_while(1.., is_plain).map(str::to_owned)));
    at(preceded('%', cut_err(name))).context(expected("a value like %name")).parse_next(input)
}

fn trailer(input: &mut Input<'_>) -> ModalResult<Trailer> {
    let node = opt(preceded(keyword("node"), cut_err(lexeme(string)))).parse_next(input)?;
    let form = opt(preceded(keyword("form"), cut_err(at(lexeme(string))))).parse_next(input)?;
    let names = delimited(punctuation('['), separated(0.., lexeme(string), punctuation(',')), punctuation(']'));
    let origin = alt((keyword("self").value(Origin::Own), names.map(Origin::Names)));
    let origin =
        opt(preceded(keyword("origin"), cut_err(origin).context(expected("`self` or a list of names")))).parse_next(input)?;
    Ok(Trailer { node, form, origin: origin.unwrap_or_default() })
}

/// A quoted string, its escapes undone.
fn string(input: &mut Input<'_>) -> ModalResult<String> {
    '"'.context(expected("a string")).parse_next(input)?;
    let mut out = String::new();
    loop {
        match cut_err(any).context(expected("`\"`")).parse_next(input)? {
            '"' => return Ok(out),
            '\\' => out.push(cut_err(escape).context(expected("an escape: \\\" \\\\ \\n \\u{…}")).parse_next(input)?),
            c => out.push(c),
        }
    }
}

fn escape(input: &mut Input<'_>) -> ModalResult<char> {
    let code = delimited('{', take_while(1..=6, |c: char| c.is_ascii_hexdigit()), '}');
    let code = code.verify_map(|digits: &str| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32));
    alt(('"', '\\', 'n'.value('\n'), preceded('u', code))).parse_next(input)
}

/// What is between two brackets, as it stands; brackets inside are paired and those in strings do not count.
fn enclosed<'t>(open: char, close: char) -> impl Parser<Input<'t>, At<String>, winnow::error::ErrMode<ContextError>> {
    let inner = move |input: &mut Input<'t>| {
        let text: &str = input.as_ref();
        match matching(text) {
            Some(len) => Ok(input.next_slice(len)),
            None => cut_err(fail).context(expected("the closing bracket")).parse_next(input),
        }
    };
    let inner = inner.with_span().map(|(text, span): (&str, Span)| At { value: text.to_owned(), span });
    delimited(lexeme(open).context(StrContext::Expected(open.into())), inner, punctuation(close))
}

/// Bytes before the bracket that closes what is open at the beginning.
fn matching(text: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => return Some(i),
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The parts between commas outside of brackets, trimmed. No text is no part.
fn split(text: At<String>) -> Vec<At<String>> {
    let (mut depth, mut start, mut parts) = (0usize, 0, Vec::new());
    for (i, c) in text.value.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(start..i);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(start..text.value.len());
    if parts.len() == 1 && text.value.trim().is_empty() {
        return Vec::new();
    }
    let part = |range: Range<usize>| {
        let raw = &text.value[range.clone()];
        let lead = raw.len() - raw.trim_start().len();
        let first = text.span.start + range.start + lead;
        At { value: raw.trim().to_owned(), span: first..first + raw.trim().len() }
    };
    parts.into_iter().map(part).collect()
}
