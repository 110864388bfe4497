//! Opening models: mapped, decoded without copying weights, checked to be ONNX.

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::external::ExternalFiles;
use super::proto::{EXTERNAL, GraphProto, ModelProto, TensorProto};
use super::tensor::{TensorDataError, header, inline_constant, with_size};
use crate::ir::Constant;

/// Why a model cannot be opened, changed or saved.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[allow(missing_docs)]
pub enum ModelError {
    #[error("cannot read '{path}'")]
    #[diagnostic(help("check the path, and that you may read the file"))]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write '{path}'")]
    Write { path: PathBuf, source: io::Error },
    #[error("'{0}' is a folder, not a model file")]
    #[diagnostic(help("give the path of the .onnx file in it"))]
    Folder(PathBuf),
    #[error("'{0}' is empty")]
    #[diagnostic(help("the download or the export may have failed; fetch or export the model again"))]
    Empty(PathBuf),
    #[error("'{path}' is truncated: {reason}")]
    #[diagnostic(help("fetch or export the model again"))]
    Truncated { path: PathBuf, reason: String },
    #[error("'{path}' is not an ONNX model: {reason}")]
    #[diagnostic(help(
        "an ONNX model is a protobuf file, usually named .onnx; text, archives and other formats must be exported to it first"
    ))]
    NotOnnx { path: PathBuf, reason: String },
    #[error("tensor '{tensor}': {source}")]
    Tensor { tensor: String, source: TensorDataError },
    #[error("the model has no constant tensor '{0}'")]
    NoTensor(String),
    #[error("tensor '{tensor}' needs {expected} bytes, {actual} were given")]
    WrongSize { tensor: String, expected: usize, actual: usize },
}

/// An ONNX model and where its data is.
#[derive(Debug)]
pub struct OnnxModel {
    /// The model as it is in the file, but for tensors that were replaced.
    pub(super) proto: ModelProto,
    /// The file's bytes.
    file: Bytes,
    external: ExternalFiles,
    /// New contents of tensors whose data is in other files.
    pub(super) replaced: BTreeMap<String, Bytes>,
}

impl OnnxModel {
    /// Opens and decodes a model. Weights stay in the mapped file.
    ///
    /// # Errors
    /// A path that cannot be read, and whatever is not a complete ONNX model.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let read = |source| ModelError::Read { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(read)?;
        if metadata.is_dir() {
            return Err(ModelError::Folder(path.to_owned()));
        }
        if metadata.len() == 0 {
            return Err(ModelError::Empty(path.to_owned()));
        }
        let file = map_file(path).map_err(read)?;
        let proto = decode(&file, path)?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(OnnxModel { proto, file, external: ExternalFiles::beside(folder), replaced: BTreeMap::new() })
    }

    /// A model in memory. It cannot have external data.
    pub fn from_proto(proto: ModelProto) -> Self {
        let file = proto.encode_to_vec().into();
        OnnxModel { proto, file, external: ExternalFiles::default(), replaced: BTreeMap::new() }
    }

    /// The decoded message.
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// The main graph.
    pub fn graph(&self) -> &GraphProto {
        static NONE: std::sync::OnceLock<GraphProto> = std::sync::OnceLock::new();
        self.proto.graph.as_ref().unwrap_or_else(|| NONE.get_or_init(GraphProto::default))
    }

    /// BLAKE3 of the model file, not of its external data.
    pub fn digest(&self) -> blake3::Hash {
        blake3::hash(&self.file)
    }

    /// Size in bytes of the model file.
    pub fn file_len(&self) -> usize {
        self.file.len()
    }

    /// The version of an operator set that the model uses (the domain of ONNX's own is empty or `ai.onnx`).
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let normal = |d: &str| if d == "ai.onnx" { String::new() } else { d.to_owned() };
        self.proto.opset_import.iter().find(|o| normal(o.domain()) == normal(domain)).map(|o| o.version())
    }

    /// The elements of a tensor of this model, wherever they are stored.
    ///
    /// # Errors
    /// Element types that the IR does not have, data of the wrong size, external data that cannot be read.
    pub fn constant(&self, t: &TensorProto) -> Result<Constant, TensorDataError> {
        if t.data_location() != EXTERNAL {
            return inline_constant(t);
        }
        let (dtype, shape, expected) = header(t)?;
        let data = match self.replaced.get(t.name()) {
            Some(data) => data.clone(),
            None => self.external.read(t, expected)?,
        };
        with_size(dtype, shape, expected, data)
    }

    /// The constant tensor that the main graph knows by `name`: an initializer or the value of a Constant node.
    ///
    /// # Errors
    /// [`ModelError::NoTensor`], or as [`OnnxModel::constant`].
    pub fn weight(&self, name: &str) -> Result<Constant, ModelError> {
        let t = find_weight(self.graph(), name).ok_or_else(|| ModelError::NoTensor(name.to_owned()))?;
        self.constant(t).map_err(|source| ModelError::Tensor { tensor: name.to_owned(), source })
    }

    /// Replaces the elements of the constant tensor that the main graph knows by `name` (row-major, little-endian, of the tensor's type
    /// and shape). Tensors with external data stay external: [`OnnxModel::save`] writes a new data file.
    ///
    /// # Errors
    /// No such tensor, or not the bytes that it needs.
    pub fn set_initializer(&mut self, name: &str, bytes: Bytes) -> Result<(), ModelError> {
        let graph = self.proto.graph.get_or_insert_default();
        let t = find_weight_mut(graph, name).ok_or_else(|| ModelError::NoTensor(name.to_owned()))?;
        let (_, _, expected) = header(t).map_err(|source| ModelError::Tensor { tensor: name.to_owned(), source })?;
        if bytes.len() != expected {
            return Err(ModelError::WrongSize { tensor: name.to_owned(), expected, actual: bytes.len() });
        }
        if t.data_location() == EXTERNAL {
            // Tensors of Constant nodes are known by the node's output, so that the two agree from here on.
            t.name = Some(name.to_owned());
            self.replaced.insert(name.to_owned(), bytes);
        } else {
            let dims = std::mem::take(&mut t.dims);
            *t = TensorProto {
                dims,
                data_type: t.data_type,
                name: t.name.take(),
                doc_string: t.doc_string.take(),
                metadata_props: std::mem::take(&mut t.metadata_props),
                raw_data: Some(bytes),
                ..TensorProto::default()
            };
        }
        Ok(())
    }
}

fn find_weight<'a>(graph: &'a GraphProto, name: &str) -> Option<&'a TensorProto> {
    graph.initializer.iter().find(|t| t.name() == name).or_else(|| {
        let node = graph.node.iter().find(|n| n.op_type() == "Constant" && n.output.iter().any(|o| o == name))?;
        node.attribute.iter().find_map(|a| a.t.as_ref())
    })
}

fn find_weight_mut<'a>(graph: &'a mut GraphProto, name: &str) -> Option<&'a mut TensorProto> {
    if let Some(at) = graph.initializer.iter().position(|t| t.name() == name) {
        return graph.initializer.get_mut(at);
    }
    let node = graph.node.iter_mut().find(|n| n.op_type() == "Constant" && n.output.iter().any(|o| o == name))?;
    node.attribute.iter_mut().find_map(|a| a.t.as_mut())
}

/// A whole file, mapped.
pub(super) fn map_file(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is private and read-only; that nobody truncates or rewrites a model in place while it is being compiled is
    // the documented condition of every program that maps its input.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(Bytes::from_owner(map))
}

fn decode(file: &Bytes, path: &Path) -> Result<ModelProto, ModelError> {
    let path = path.to_owned();
    let model = match ModelProto::decode(file.clone()) {
        Ok(model) => model,
        Err(_) if ends_within_a_field(file.clone()) => {
            return Err(ModelError::Truncated { path, reason: "it ends in the middle of a field".into() });
        }
        Err(e) => return Err(ModelError::NotOnnx { path, reason: e.to_string() }),
    };
    // Almost any short file is some protobuf: what makes it a model is a graph and the operator sets it is written in.
    if model.graph.is_none() {
        return Err(ModelError::NotOnnx { path, reason: "it has no graph".into() });
    }
    if model.opset_import.is_empty() {
        return Err(ModelError::NotOnnx { path, reason: "it names no operator set (opset_import)".into() });
    }
    Ok(model)
}

/// Whether the bytes are fields of a `ModelProto`, of which the last is longer than what is left.
fn ends_within_a_field(mut file: Bytes) -> bool {
    const LENGTH_DELIMITED: [u32; 10] = [2, 3, 4, 6, 7, 8, 14, 20, 25, 26];
    const VARINT: [u32; 2] = [1, 5];
    let mut fields = 0;
    while file.has_remaining() {
        let (Ok((tag, wire)), before) = (decode_key(&mut file), fields) else { return fields > 0 };
        match wire {
            WireType::Varint if VARINT.contains(&tag) => {
                if decode_varint(&mut file).is_err() {
                    return before > 0;
                }
            }
            WireType::LengthDelimited if LENGTH_DELIMITED.contains(&tag) => match decode_varint(&mut file) {
                Ok(len) if len <= file.remaining() as u64 => file.advance(len as usize),
                _ => return before > 0,
            },
            _ => return false,
        }
        fields += 1;
    }
    false
}
