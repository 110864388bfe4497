//! Saving models: complete or not at all.

use bytes::Bytes;
use prost::Message;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::load::{ModelError, OnnxModel};
use super::proto::{EXTERNAL, GraphProto, StringStringEntryProto, TensorProto};

/// External tensors start at multiples of this many bytes, so that their readers can map them.
const ALIGN: u64 = 4096;

impl OnnxModel {
    /// Writes the model, with what was replaced. A model with external data gets its own new data file, `NAME.onnx.data`, beside
    /// `path`. Files are written aside and renamed: an incomplete one never appears.
    ///
    /// # Errors
    /// What cannot be written; external data that cannot be read.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        let write = |source| ModelError::Write { path: path.to_owned(), source };
        let mut proto = self.proto.clone();
        let mut tensors = Vec::new();
        if let Some(graph) = &mut proto.graph {
            external_tensors(graph, &mut tensors);
        }
        for function in &mut proto.functions {
            function.node.iter_mut().flat_map(|n| &mut n.attribute).for_each(|a| attribute_tensors(a, &mut tensors));
        }
        if !tensors.is_empty() {
            let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| write(io::ErrorKind::InvalidFilename.into()))?;
            let location = format!("{name}.data");
            let mut data: Vec<Bytes> = Vec::with_capacity(tensors.len());
            let mut offset = 0u64;
            for t in tensors {
                let constant = self.constant(t).map_err(|source| ModelError::Tensor { tensor: t.name().to_owned(), source })?;
                let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
                t.external_data = vec![
                    entry("location", location.clone()),
                    entry("offset", offset.to_string()),
                    entry("length", constant.data.len().to_string()),
                ];
                offset = (offset + constant.data.len() as u64).next_multiple_of(ALIGN);
                data.push(constant.data);
            }
            let data_path = path.with_file_name(&location);
            write_whole(&data_path, |out| {
                for bytes in &data {
                    out.write_all(bytes)?;
                    out.write_all(&vec![0; bytes.len().next_multiple_of(ALIGN as usize) - bytes.len()])?;
                }
                Ok(())
            })
            .map_err(|source| ModelError::Write { path: data_path, source })?;
        }
        write_whole(path, |out| out.write_all(&proto.encode_to_vec())).map_err(write)
    }
}

/// Writes a file aside, then renames it.
fn write_whole(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut file = tempfile::Builder::new().permissions(readable()).tempfile_in(folder)?;
    let mut out = BufWriter::new(file.as_file_mut());
    fill(&mut out)?;
    out.flush()?;
    drop(out);
    file.persist(path)?;
    Ok(())
}

/// What an ordinary new file gets (before the umask), rather than a temporary one.
#[cfg(unix)]
fn readable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

/// Every tensor with external data, of the graph and of its subgraphs.
fn external_tensors<'a>(graph: &'a mut GraphProto, out: &mut Vec<&'a mut TensorProto>) {
    out.extend(graph.initializer.iter_mut().filter(|t| t.data_location() == EXTERNAL));
    for sparse in &mut graph.sparse_initializer {
        out.extend(sparse.values.iter_mut().chain(&mut sparse.indices).filter(|t| t.data_location() == EXTERNAL));
    }
    for attribute in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
        attribute_tensors(attribute, out);
    }
}

fn attribute_tensors<'a>(attribute: &'a mut super::proto::AttributeProto, out: &mut Vec<&'a mut TensorProto>) {
    out.extend(attribute.t.iter_mut().chain(&mut attribute.tensors).filter(|t| t.data_location() == EXTERNAL));
    for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
        external_tensors(graph, out);
    }
}
