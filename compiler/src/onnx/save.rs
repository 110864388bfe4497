//! Saving models: complete or not at all.

use bytes::Bytes;
use prost::Message;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

use super::load::{ModelError, OnnxModel};
use super::proto::{EXTERNAL, GraphProto, StringStringEntryProto, TensorProto};

/// External tensors start at multiples of this many bytes, so that their readers can map them.
pub(super) const ALIGN: u64 = 4096;

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
            let location = data_location(path).map_err(write)?;
            let mut data: Vec<Bytes> = Vec::with_capacity(tensors.len());
            let mut offset = 0u64;
            for t in tensors {
                let constant = self.constant(t).map_err(|source| ModelError::Tensor { tensor: t.name().to_owned(), source })?;
                point_to(t, &location, offset, constant.data.len());
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

/// The name of the data file of a model at `path`.
pub(super) fn data_location(path: &Path) -> io::Result<String> {
    let name = path.file_name().and_then(|n| n.to_str()).ok_or(io::ErrorKind::InvalidFilename)?;
    Ok(format!("{name}.data"))
}

/// Says in a tensor's message where its elements are.
pub(super) fn point_to(t: &mut TensorProto, location: &str, offset: u64, length: usize) {
    let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    t.external_data =
        vec![entry("location", location.to_owned()), entry("offset", offset.to_string()), entry("length", length.to_string())];
}

/// A file that is written aside, in the folder where it will be.
pub(super) struct Aside(BufWriter<NamedTempFile>);

impl Aside {
    /// An empty file that will be at `path`.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(Aside(BufWriter::new(tempfile::Builder::new().permissions(readable()).tempfile_in(folder)?)))
    }

    /// Gives the file its name.
    pub(super) fn persist(self, path: &Path) -> io::Result<()> {
        let file = self.0.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.persist(path)?;
        Ok(())
    }
}

impl Write for Aside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for Aside {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        self.0.stream_position()
    }
}

/// Writes a file aside, then renames it.
pub(super) fn write_whole(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut file = Aside::create(path)?;
    fill(&mut file)?;
    file.persist(path)
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
