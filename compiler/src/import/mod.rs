//! ONNX → graph IR, one file per operator family.
//!
//! Import mirrors ONNX faithfully: operators stay at ONNX's level and keep their names, version-dependent spellings (attributes that
//! became inputs, axes counted from the end …) are resolved, and integer tensors that describe shapes become symbolic extents.
//! Operators are identified by domain, name and opset, never by name alone. What is not supported is reported for the whole model at once.
//!
//! Adding an operator: a line in the `IMPORTERS` table of its family's file, and its function there. The function reads operands and
//! attributes from its [`NodeContext`], adds IR operators and returns one value per output.
//!
//! Must not know: passes, plans, devices.

use crate::ir::{Graph, ValueRef};
use crate::onnx::OnnxModel;

mod attention;
mod attributes;
mod context;
mod contrib;
mod contrib_attention;
mod control;
mod conv;
mod elementwise;
mod error;
mod fold;
mod gemm;
mod generate;
mod index;
mod inline;
mod inputs;
mod layout;
mod loss;
mod norm;
mod operands;
mod options;
pub mod oracle;
mod quantize;
mod reduce;
mod resize;
mod rotary;
mod shape_values;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod translate;

pub use context::NodeContext;
pub use error::{ImportErrors, Operand, Problem, Refusal, Unsupported};
pub use options::{ImportOptions, ShapeOptionError};

/// What an importer gives: one value per output that the node declares, in order (values of outputs that
/// [`NodeContext::wants_output`] denies are not looked at).
pub type Imported = Result<Vec<ValueRef>, Refusal>;

/// The newest opset that the importers were written against.
pub const NEWEST_OPSET: i64 = 27;

/// How nodes of one operator become IR.
#[derive(Clone, Copy)]
pub struct Importer {
    /// The operator's domain; empty for ONNX's own.
    pub domain: &'static str,
    /// The operator's name.
    pub name: &'static str,
    /// First version of the domain that this importer is right for.
    pub since: i64,
    /// Last version of the domain that this importer is right for.
    pub until: i64,
    /// Adds the node to the graph.
    pub build: fn(&mut NodeContext<'_>) -> Imported,
}

impl Importer {
    /// The same for versions from `since` on.
    pub const fn since(self, since: i64) -> Self {
        Importer { since, ..self }
    }

    /// The same for versions up to `until`.
    pub const fn until(self, until: i64) -> Self {
        Importer { until, ..self }
    }
}

/// An importer for an operator of ONNX's own domain, right in every version up to [`NEWEST_OPSET`].
const fn onnx(name: &'static str, build: fn(&mut NodeContext<'_>) -> Imported) -> Importer {
    Importer { domain: "", name, since: 1, until: NEWEST_OPSET, build }
}

/// An importer for one of ONNX Runtime's contrib operators.
const fn microsoft(name: &'static str, build: fn(&mut NodeContext<'_>) -> Imported) -> Importer {
    Importer { domain: "com.microsoft", name, since: 1, until: 1, build }
}

/// The importers of every family.
const FAMILIES: &[&[Importer]] = &[
    attention::IMPORTERS,
    contrib::IMPORTERS,
    contrib_attention::IMPORTERS,
    control::IMPORTERS,
    conv::IMPORTERS,
    elementwise::IMPORTERS,
    gemm::IMPORTERS,
    generate::IMPORTERS,
    index::IMPORTERS,
    layout::IMPORTERS,
    loss::IMPORTERS,
    norm::IMPORTERS,
    quantize::IMPORTERS,
    reduce::IMPORTERS,
    resize::IMPORTERS,
    rotary::IMPORTERS,
];

/// The importer for an operator, or why there is none.
fn find_importer(domain: &str, name: &str, version: i64) -> Result<&'static Importer, String> {
    let mut known: Option<&Importer> = None;
    for importer in FAMILIES.iter().copied().flatten().filter(|i| i.domain == domain && i.name == name) {
        if (importer.since..=importer.until).contains(&version) {
            return Ok(importer);
        }
        known = Some(importer);
    }
    Err(match known {
        Some(i) => format!("supported in opsets {} to {}, but the model uses opset {version}", i.since, i.until),
        None => "this operator is not supported".into(),
    })
}

/// Imports a model's main graph.
///
/// # Errors
/// Everything in the model that is not supported or not valid, all at once.
pub fn import(model: &OnnxModel, options: &ImportOptions) -> Result<Graph, ImportErrors> {
    translate::translate(model, options)
}
