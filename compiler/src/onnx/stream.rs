//! Writing a model whose weights are made one after the other: each goes to the data file at once, so that no two are in memory together.

use bytes::Bytes;
use prost::Message;
use sliderun::dtype::DType;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::load::ModelError;
use super::proto::{EXTERNAL, ModelProto, TensorProto};
use super::save::{ALIGN, Aside, data_location, point_to};
use super::tensor::onnx_data_type;

/// Tensors of at least this many bytes go to the data file, as `onnx.save_model` has it.
const LARGE: usize = 1024;

/// A model being written to a file, with a data file `NAME.onnx.data` beside it.
///
/// Nothing appears before [`StreamedModel::finish`]; one that is dropped leaves nothing behind.
pub struct StreamedModel {
    path: PathBuf,
    location: String,
    data: Option<Aside>,
}

impl StreamedModel {
    /// A model that will be at `path`.
    ///
    /// # Errors
    /// A path without a file name.
    pub fn create(path: &Path) -> Result<Self, ModelError> {
        let location = data_location(path).map_err(|source| ModelError::Write { path: path.to_owned(), source })?;
        Ok(StreamedModel { path: path.to_owned(), location, data: None })
    }

    fn data_path(&self) -> PathBuf {
        self.path.with_file_name(&self.location)
    }

    /// The message of a tensor, to become an initializer of the model: large ones are written to the data file, small ones kept within.
    ///
    /// `elements` are row-major and little-endian.
    ///
    /// # Errors
    /// Elements that are not as many as the shape says; what cannot be written.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize], elements: Vec<u8>) -> Result<TensorProto, ModelError> {
        let expected = sliderun::tensor::checked_elements(shape).and_then(|n| n.checked_mul(dtype.size())).unwrap_or(usize::MAX);
        if elements.len() != expected {
            return Err(ModelError::WrongSize { tensor: name.to_owned(), expected, actual: elements.len() });
        }
        let mut t = TensorProto {
            name: Some(name.to_owned()),
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: Some(onnx_data_type(dtype)),
            ..TensorProto::default()
        };
        if elements.len() < LARGE {
            t.raw_data = Some(Bytes::from(elements));
        } else {
            let offset = self.append(&elements).map_err(|source| ModelError::Write { path: self.data_path(), source })?;
            t.data_location = Some(EXTERNAL);
            point_to(&mut t, &self.location, offset, elements.len());
        }
        Ok(t)
    }

    /// Writes bytes at the data file's next aligned place and gives that.
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let path = self.data_path();
        let data = match &mut self.data {
            Some(data) => data,
            none => none.insert(Aside::create(&path)?),
        };
        let offset = data.stream_position()?.next_multiple_of(ALIGN);
        data.seek(SeekFrom::Start(offset))?;
        data.write_all(bytes)?;
        Ok(offset)
    }

    /// Writes the model, whose initializers are this one's [`StreamedModel::tensor`]s.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn finish(mut self, model: &ModelProto) -> Result<(), ModelError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| ModelError::Write { path, source }
        };
        // Whole before anything takes its place: an older model is not left beside this one's data.
        let mut file = Aside::create(&self.path).map_err(failed(&self.path))?;
        file.write_all(&model.encode_to_vec()).map_err(failed(&self.path))?;
        if let Some(data) = self.data.take() {
            let path = self.data_path();
            data.persist(&path).map_err(failed(&path))?;
        }
        file.persist(&self.path).map_err(failed(&self.path))
    }
}
