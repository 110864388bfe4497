//! Typed access to a node's attributes. An attribute of another type is refused; so is, after the node is built, one that nobody asked
//! for, since it may change what the node means.

use bytes::Bytes;
use sliderun::dtype::DType;

use super::context::NodeContext;
use super::error::Refusal;
use crate::ir::Constant;
use crate::onnx::dtype_of;
use crate::onnx::proto::{AttributeProto, GraphProto, attribute_type as kind};

/// Attributes that change nothing at inference, whatever the operator.
const INERT: [&str; 6] = ["consumed_inputs", "momentum", "ratio", "round_mode", "seed", "sorted"];

/// The type of an attribute. IR version 1 and 2 files do not state it: then it is that of the field which is set.
fn kind_of(a: &AttributeProto) -> i32 {
    match a.r#type() {
        kind::UNDEFINED => match a {
            _ if a.f.is_some() => kind::FLOAT,
            _ if a.i.is_some() => kind::INT,
            _ if a.s.is_some() => kind::STRING,
            _ if a.t.is_some() => kind::TENSOR,
            _ if a.g.is_some() => kind::GRAPH,
            _ if !a.floats.is_empty() => kind::FLOATS,
            _ if !a.ints.is_empty() => kind::INTS,
            _ if !a.strings.is_empty() => kind::STRINGS,
            _ => kind::UNDEFINED,
        },
        stated => stated,
    }
}

fn kind_name(kind: i32) -> &'static str {
    const NAMES: [&str; 15] = [
        "undefined",
        "float",
        "int",
        "string",
        "tensor",
        "graph",
        "floats",
        "ints",
        "strings",
        "tensors",
        "graphs",
        "sparse tensor",
        "sparse tensors",
        "type",
        "types",
    ];
    usize::try_from(kind).ok().and_then(|k| NAMES.get(k)).copied().unwrap_or("of unknown type")
}

fn text(name: &str, bytes: &Bytes) -> Result<String, Refusal> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Refusal::new(format!("attribute {name} is not UTF-8 text")))
}

impl<'a> NodeContext<'a> {
    /// The attribute, when the node has it; it must be of the type given.
    fn attribute(&self, name: &str, expected: i32) -> Result<Option<&'a AttributeProto>, Refusal> {
        let Some(at) = self.node.attribute.iter().position(|a| a.name() == name) else { return Ok(None) };
        self.read.borrow_mut().insert(at);
        let attribute = &self.node.attribute[at];
        let actual = kind_of(attribute);
        // An empty list leaves no trace in files that do not state types.
        if actual != expected && actual != kind::UNDEFINED {
            let (actual, expected) = (kind_name(actual), kind_name(expected));
            return Err(Refusal::new(format!("attribute {name} is of type {actual}, {expected} is expected")));
        }
        Ok(Some(attribute))
    }

    /// Declares attributes that do not matter to this node.
    pub fn ignore(&self, names: &[&str]) {
        let at = |name: &&str| self.node.attribute.iter().position(|a| a.name() == *name);
        self.read.borrow_mut().extend(names.iter().filter_map(at));
    }

    /// Attributes that nothing has asked for.
    pub(super) fn unread(&self) -> Vec<&'a str> {
        let read = self.read.borrow();
        let node = self.node;
        node.attribute
            .iter()
            .enumerate()
            .filter(|(i, a)| !read.contains(i) && !INERT.contains(&a.name()))
            .map(|(_, a)| a.name())
            .collect()
    }

    /// An `int` attribute, when the node has it.
    pub fn int(&self, name: &str) -> Result<Option<i64>, Refusal> {
        Ok(self.attribute(name, kind::INT)?.map(|a| a.i()))
    }

    /// An `int` attribute or its default.
    pub fn int_or(&self, name: &str, default: i64) -> Result<i64, Refusal> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// An `int` attribute that the node must have.
    pub fn required_int(&self, name: &str) -> Result<i64, Refusal> {
        self.int(name)?.ok_or_else(|| missing(name))
    }

    /// A `float` attribute, when the node has it.
    pub fn float(&self, name: &str) -> Result<Option<f32>, Refusal> {
        Ok(self.attribute(name, kind::FLOAT)?.map(|a| a.f()))
    }

    /// A `float` attribute or its default.
    pub fn float_or(&self, name: &str, default: f32) -> Result<f32, Refusal> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// A `string` attribute, when the node has it.
    pub fn string(&self, name: &str) -> Result<Option<String>, Refusal> {
        self.attribute(name, kind::STRING)?.map(|a| text(name, a.s.as_ref().unwrap_or(&Bytes::new()))).transpose()
    }

    /// A `string` attribute or its default.
    pub fn string_or(&self, name: &str, default: &str) -> Result<String, Refusal> {
        Ok(self.string(name)?.unwrap_or_else(|| default.to_owned()))
    }

    /// A `string` attribute that the node must have.
    pub fn required_string(&self, name: &str) -> Result<String, Refusal> {
        self.string(name)?.ok_or_else(|| missing(name))
    }

    /// An `ints` attribute, when the node has it.
    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, Refusal> {
        Ok(self.attribute(name, kind::INTS)?.map(|a| a.ints.clone()))
    }

    /// A `floats` attribute, when the node has it.
    pub fn floats(&self, name: &str) -> Result<Option<Vec<f32>>, Refusal> {
        Ok(self.attribute(name, kind::FLOATS)?.map(|a| a.floats.clone()))
    }

    /// A `strings` attribute, when the node has it.
    pub fn strings(&self, name: &str) -> Result<Option<Vec<String>>, Refusal> {
        self.attribute(name, kind::STRINGS)?.map(|a| a.strings.iter().map(|s| text(name, s)).collect()).transpose()
    }

    /// A `tensor` attribute, when the node has it.
    pub fn tensor(&self, name: &str) -> Result<Option<Constant>, Refusal> {
        let Some(a) = self.attribute(name, kind::TENSOR)? else { return Ok(None) };
        let mut tensor = a.t.clone().ok_or_else(|| missing(name))?;
        // Replaced weights of Constant nodes are known by the node's output.
        if tensor.name().is_empty() {
            tensor.name = self.node.output.first().cloned();
        }
        Ok(Some(self.model.constant(&tensor)?))
    }

    /// A `graph` attribute that the node must have.
    pub fn required_graph(&self, name: &str) -> Result<&'a GraphProto, Refusal> {
        self.attribute(name, kind::GRAPH)?.and_then(|a| a.g.as_ref()).ok_or_else(|| missing(name))
    }

    /// An `int` attribute that names an element type, such as Cast's `to`, when the node has it.
    pub fn dtype_attribute_opt(&self, name: &str) -> Result<Option<DType>, Refusal> {
        let Some(n) = self.int(name)? else { return Ok(None) };
        let n = i32::try_from(n).map_err(|_| Refusal::attribute(name, n))?;
        Ok(Some(dtype_of(n)?))
    }

    /// An `int` attribute that names an element type, which the node must have.
    pub fn dtype_attribute(&self, name: &str) -> Result<DType, Refusal> {
        self.dtype_attribute_opt(name)?.ok_or_else(|| missing(name))
    }
}

fn missing(name: &str) -> Refusal {
    Refusal::new(format!("attribute {name} is missing"))
}
