//! Extents from text. What a text may ask for is bounded, as plans are not trusted.

use std::str::FromStr;

use super::{Dim, DimOp};

/// Deepest nesting and most terms that an expression read from text may have: bounds a hostile plan.
const MAX_DEPTH: usize = 32;
const MAX_TERMS: usize = 256;
/// Highest power of an atom that an expression read from text may have.
const MAX_POWER: u32 = 64;

/// An expression that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a dimension expression: {reason}")]
pub struct ParseDimError {
    text: String,
    reason: &'static str,
}

impl FromStr for Dim {
    type Err = ParseDimError;

    fn from_str(text: &str) -> Result<Dim, ParseDimError> {
        let mut parser = Parser { rest: text, terms: 0 };
        let dim = parser.sum(0).map_err(|reason| ParseDimError { text: text.to_owned(), reason })?;
        parser.skip_space();
        if !parser.rest.is_empty() {
            return Err(ParseDimError { text: text.to_owned(), reason: "unexpected text after it" });
        }
        Ok(dim)
    }
}

/// Recursive descent over `sum := ['-'] product (('+'|'-') product)*`, `product := power ('*' power)*`,
/// `power := atom ['^' integer]`, `atom := integer | name | op '(' sum ',' sum ')' | '(' sum ')'`.
struct Parser<'a> {
    rest: &'a str,
    terms: usize,
}

impl Parser<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, c: char) -> bool {
        self.skip_space();
        let found = self.rest.starts_with(c);
        if found {
            self.rest = &self.rest[c.len_utf8()..];
        }
        found
    }

    fn take(&mut self, accept: impl Fn(char) -> bool) -> &str {
        let end = self.rest.find(|c| !accept(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    fn sum(&mut self, depth: usize) -> Result<Dim, &'static str> {
        if depth > MAX_DEPTH {
            return Err("nested too deeply");
        }
        let negative = self.eat('-');
        let mut total = self.product(depth)?;
        if negative {
            total = total * Dim::from(-1);
        }
        loop {
            total = if self.eat('+') {
                total + self.product(depth)?
            } else if self.eat('-') {
                total - self.product(depth)?
            } else if total.terms.iter().any(|(_, c)| *c == i64::MIN) {
                // What sums saturate at; printed, it would not parse.
                return Err("the number is too large");
            } else {
                return Ok(total);
            };
        }
    }

    fn product(&mut self, depth: usize) -> Result<Dim, &'static str> {
        let mut total = self.power(depth)?;
        while self.eat('*') {
            total = bounded(total * self.power(depth)?)?;
        }
        Ok(total)
    }

    fn power(&mut self, depth: usize) -> Result<Dim, &'static str> {
        let base = self.atom(depth)?;
        if !self.eat('^') {
            return Ok(base);
        }
        let exponent: u32 = self.take(|c| c.is_ascii_digit()).parse().map_err(|_| "an exponent must be an integer")?;
        if exponent > MAX_POWER || base.terms.len() > 1 {
            return Err("only a single term may be raised, to at most 64");
        }
        (0..exponent).try_fold(Dim::from(1), |p, _| bounded(p * base.clone()))
    }

    fn atom(&mut self, depth: usize) -> Result<Dim, &'static str> {
        self.skip_space();
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err("too many terms");
        }
        if self.eat('(') {
            let inner = self.sum(depth + 1)?;
            return if self.eat(')') { Ok(inner) } else { Err("')' is missing") };
        }
        match self.rest.chars().next() {
            Some(c) if c.is_ascii_digit() => {
                self.take(|c| c.is_ascii_digit()).parse::<i64>().map(Dim::from).map_err(|_| "the number is too large")
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let name = self.take(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.').to_owned();
                if !self.eat('(') {
                    return Ok(Dim::symbol(&name));
                }
                let op = DimOp::from_name(&name).ok_or("unknown function")?;
                let a = self.sum(depth + 1)?;
                if !self.eat(',') {
                    return Err("a function takes two arguments");
                }
                let b = self.sum(depth + 1)?;
                if self.eat(')') { Ok(Dim::op(op, &a, &b)) } else { Err("')' is missing") }
            }
            _ => Err("a number, a symbol or a function was expected"),
        }
    }
}
/// Keeps what repeated products of a hostile text can grow to small.
fn bounded(dim: Dim) -> Result<Dim, &'static str> {
    if dim.terms.len() > MAX_TERMS {
        return Err("too many terms");
    }
    if dim.terms.iter().flat_map(|(m, _)| m).any(|(_, power)| *power > MAX_POWER) {
        return Err("too high a power");
    }
    Ok(dim)
}
