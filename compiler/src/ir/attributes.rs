//! Operators as text: a name and, where there are any, attributes in RON.
//!
//! The element-wise families go by their function's name alone: `Gelu` and `Add`, not `Unary(Gelu)` and `Binary(Add)`.
//!
//! Must not know: operands, types, the rest of the text form.

use ron::extensions::Extensions;
use ron::ser::PrettyConfig;
use sliderun::op::Op;

/// Families whose members go by their own names.
const FAMILIES: [&str; 2] = ["Unary", "Binary"];

/// RON as the text form uses it: what an enumeration's variant wraps needs no parentheses of its own.
pub(super) fn ron() -> ron::Options {
    ron::Options::default()
        .with_default_extension(Extensions::UNWRAP_VARIANT_NEWTYPES)
        .with_default_extension(Extensions::IMPLICIT_SOME)
}

/// Name and attributes of an operator; the latter empty where it has none.
pub(super) fn print(op: &Op) -> (String, String) {
    let text =
        ron().to_string_pretty(op, PrettyConfig::new().depth_limit(0)).expect("operators are plain data, which RON can hold");
    let text = FAMILIES.iter().find_map(|f| unwrap(&text, f)).unwrap_or(&text);
    match text.split_once('(') {
        None => (text.to_owned(), String::new()),
        Some((name, rest)) => (name.to_owned(), rest.strip_suffix(')').unwrap_or(rest).to_owned()),
    }
}

/// `inner` of `family(inner)`.
fn unwrap<'t>(text: &'t str, family: &str) -> Option<&'t str> {
    text.strip_prefix(family)?.strip_prefix('(')?.strip_suffix(')')
}

/// The operator of that name with these attributes.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn parse(name: &str, attributes: &str) -> Result<Op, String> {
    let member = if attributes.is_empty() { name.to_owned() } else { format!("{name}({attributes})") };
    let mut readings = vec![format!("{name}({attributes})")];
    readings.extend(FAMILIES.iter().map(|f| format!("{f}({member})")));
    let mut reason = None;
    for text in readings {
        match ron().from_str::<Op>(&text) {
            Ok(op) => return Ok(op),
            Err(e) => {
                // An operator that is not known by this reading says nothing about the attributes.
                if !matches!(e.code, ron::Error::NoSuchEnumVariant { .. }) {
                    reason.get_or_insert(e.code.to_string());
                }
            }
        }
    }
    Err(reason.unwrap_or_else(|| format!("there is no operator '{name}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_read_well_and_back() {
        for (name, attributes) in [
            ("Softmax", "axis: 1, log: false"),
            ("MatMul", ""),
            ("Gelu", ""),
            ("Elu", "alpha: 1.0"),
            ("Mod", "fmod: true"),
            ("Reshape", r#"shape: ["batch", 12, "div(seq+1,2)"]"#),
            ("Einsum", r#"equation: "bij,bjk->bik""#),
            (
                "Pool",
                "kind: Average(count_pads: true), windows: (kernel: [2], strides: [1], dilations: [1], pads: [(0, 1)]), ceil: false",
            ),
            ("Cast", "to: f8e4m3"),
            ("QuantLift", r#"to: i8, layout: [(k: 384, pattern: "6:8")]"#),
            ("Resize", "shape: [1, 2], scales: None, coordinates: HalfPixel, interpolation: Nearest(Floor), antialias: false"),
            ("LayerNorm", "axis: 2, epsilon: 1e-12, stats: false"),
            ("LayerNorm", "axis: 2, epsilon: inf, stats: false"),
        ] {
            let op = parse(name, attributes).unwrap_or_else(|e| panic!("{name}({attributes}): {e}"));
            assert_eq!(print(&op), (name.to_owned(), attributes.to_owned()));
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (name, attributes, part) in [
            ("Nonsense", "", "there is no operator 'Nonsense'"),
            ("Softmax", "axis: 1", "log"),
            ("Softmax", "axis: -1, log: false", ""),
            ("Elu", "", ""),
            ("Transpose", "perm: [0", ""),
        ] {
            let error = parse(name, attributes).unwrap_err();
            assert!(error.contains(part), "{name}({attributes}): {error}");
        }
    }
}
