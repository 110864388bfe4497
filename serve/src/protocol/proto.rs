//! The messages of the protocol's gRPC form and of Triton's model repository extension, by their field numbers, and the way from and to tensors.
//! Names and numbers are those of the specification (`open_inference_grpc.proto`, package `inference`).

use std::collections::HashMap;

use bytes::Bytes;
use half::{bf16, f16};
use prost::{Message, Oneof};
use sliderun::dtype::{Bool, DType};
use sliderun::tensor::Tensor;

use super::parameters::{self, Parameter, Parameters};
use super::{InferRequest, InferResponse, RequestedOutput, datatype, extents, from_datatype};

/// No field.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// `ServerLiveResponse`, `ServerReadyResponse` and `ModelReadyResponse`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct Flag {
    #[prost(bool, tag = "1")]
    pub value: bool,
}

/// `ModelReadyRequest` and `ModelMetadataRequest`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct ModelRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

/// See its name.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct ServerMetadataResponse {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(string, repeated, tag = "3")]
    pub extensions: Vec<String>,
}

/// See its name.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct ModelMetadataResponse {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, repeated, tag = "2")]
    pub versions: Vec<String>,
    #[prost(string, tag = "3")]
    pub platform: String,
    #[prost(message, repeated, tag = "4")]
    pub inputs: Vec<TensorMetadata>,
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<TensorMetadata>,
}

/// See its name.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct TensorMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
}

/// See its name.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct ModelInferRequest {
    #[prost(string, tag = "1")]
    pub model_name: String,
    #[prost(string, tag = "2")]
    pub model_version: String,
    #[prost(string, tag = "3")]
    pub id: String,
    #[prost(map = "string, message", tag = "4")]
    pub parameters: HashMap<String, InferParameter>,
    #[prost(message, repeated, tag = "5")]
    pub inputs: Vec<InferTensor>,
    #[prost(message, repeated, tag = "6")]
    pub outputs: Vec<InferRequestedOutput>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub raw_input_contents: Vec<Bytes>,
}

/// `InferInputTensor` and `InferOutputTensor`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct InferTensor {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
    #[prost(map = "string, message", tag = "4")]
    pub parameters: HashMap<String, InferParameter>,
    #[prost(message, optional, tag = "5")]
    pub contents: Option<InferTensorContents>,
}

/// `InferRequestedOutputTensor`.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct InferRequestedOutput {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(map = "string, message", tag = "2")]
    pub parameters: HashMap<String, InferParameter>,
}

/// See its name.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct ModelInferResponse {
    #[prost(string, tag = "1")]
    pub model_name: String,
    #[prost(string, tag = "2")]
    pub model_version: String,
    #[prost(string, tag = "3")]
    pub id: String,
    #[prost(map = "string, message", tag = "4")]
    pub parameters: HashMap<String, InferParameter>,
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<InferTensor>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub raw_output_contents: Vec<Bytes>,
}

/// See its name.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct InferParameter {
    #[prost(oneof = "ParameterChoice", tags = "1, 2, 3, 4, 5")]
    pub parameter_choice: Option<ParameterChoice>,
}

/// See its name.
#[derive(Clone, PartialEq, Oneof)]
#[allow(missing_docs)]
pub enum ParameterChoice {
    #[prost(bool, tag = "1")]
    Bool(bool),
    #[prost(int64, tag = "2")]
    Int64(i64),
    #[prost(string, tag = "3")]
    String(String),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(uint64, tag = "5")]
    Uint64(u64),
}

/// See its name.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct InferTensorContents {
    #[prost(bool, repeated, tag = "1")]
    pub bool_contents: Vec<bool>,
    #[prost(int32, repeated, tag = "2")]
    pub int_contents: Vec<i32>,
    #[prost(int64, repeated, tag = "3")]
    pub int64_contents: Vec<i64>,
    #[prost(uint32, repeated, tag = "4")]
    pub uint_contents: Vec<u32>,
    #[prost(uint64, repeated, tag = "5")]
    pub uint64_contents: Vec<u64>,
    #[prost(float, repeated, tag = "6")]
    pub fp32_contents: Vec<f32>,
    #[prost(double, repeated, tag = "7")]
    pub fp64_contents: Vec<f64>,
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub bytes_contents: Vec<Bytes>,
}

/// See its name.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct RepositoryIndexRequest {
    #[prost(string, tag = "1")]
    pub repository_name: String,
    #[prost(bool, tag = "2")]
    pub ready: bool,
}

/// See its name.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct RepositoryIndexResponse {
    #[prost(message, repeated, tag = "1")]
    pub models: Vec<ModelIndex>,
}

/// See its name.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct ModelIndex {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(string, tag = "3")]
    pub state: String,
    #[prost(string, tag = "4")]
    pub reason: String,
}

/// `RepositoryModelLoadRequest` and `RepositoryModelUnloadRequest`. Their parameters would override a model's files: there is none here to be
/// overridden.
#[derive(Clone, PartialEq, Message)]
#[allow(missing_docs)]
pub struct RepositoryModelRequest {
    #[prost(string, tag = "1")]
    pub repository_name: String,
    #[prost(string, tag = "2")]
    pub model_name: String,
}

fn parameters(given: HashMap<String, InferParameter>) -> Parameters {
    let value = |choice| match choice {
        ParameterChoice::Bool(v) => Parameter::Bool(v),
        ParameterChoice::Int64(v) => Parameter::Int(v),
        ParameterChoice::Uint64(v) => Parameter::Unsigned(v),
        ParameterChoice::Double(v) => Parameter::Float(v),
        ParameterChoice::String(v) => Parameter::Text(v),
    };
    given.into_iter().filter_map(|(name, p)| p.parameter_choice.map(|choice| (name, value(choice)))).collect()
}

/// Reads a request.
///
/// # Errors
/// Everything that is not as the protocol has it, in a sentence.
pub fn read_request(request: ModelInferRequest) -> Result<InferRequest, String> {
    let given = parameters(request.parameters);
    parameters::check(&given)?;
    let raw = request.raw_input_contents;
    if !raw.is_empty() && raw.len() != request.inputs.len() {
        return Err(format!("raw_input_contents has {} tensors for {} inputs", raw.len(), request.inputs.len()));
    }
    let mut inputs = Vec::with_capacity(request.inputs.len());
    let mut raw = raw.into_iter();
    for input in request.inputs {
        let name = input.name.clone();
        inputs.push((name.clone(), read_input(input, raw.next()).map_err(|e| format!("input '{name}': {e}"))?));
    }
    let mut outputs = Vec::with_capacity(request.outputs.len());
    for output in request.outputs {
        parameters::check(&parameters(output.parameters)).map_err(|e| format!("output '{}': {e}", output.name))?;
        outputs.push(RequestedOutput { name: output.name, binary: None });
    }
    Ok(InferRequest { id: request.id, inputs, outputs, binary: true, timeout: parameters::timeout(&given)? })
}

fn read_input(input: InferTensor, raw: Option<Bytes>) -> Result<Tensor, String> {
    parameters::check(&parameters(input.parameters))?;
    let dtype = from_datatype(&input.datatype)?;
    let shape = extents(&input.name, &input.shape)?;
    match (raw, input.contents) {
        (Some(bytes), None) => Tensor::from_bytes(dtype, &shape, &bytes).map_err(|e| e.to_string()),
        (None, Some(contents)) => read_contents(dtype, &shape, contents),
        (Some(_), Some(_)) => Err("'contents' and 'raw_input_contents' exclude each other".to_owned()),
        (None, None) => Err("it has neither 'contents' nor an entry in 'raw_input_contents'".to_owned()),
    }
}

fn read_contents(dtype: DType, shape: &[usize], contents: InferTensorContents) -> Result<Tensor, String> {
    fn tensor<T: sliderun::dtype::Element, G: Copy + std::fmt::Display>(
        shape: &[usize],
        given: &[G],
        convert: impl Fn(G) -> Option<T>,
    ) -> Result<Tensor, String> {
        let element = |v: &G| convert(*v).ok_or_else(|| format!("{v} is no {}", T::DTYPE));
        let values = given.iter().map(element).collect::<Result<Vec<T>, String>>()?;
        Tensor::from_slice(shape, &values).map_err(|e| e.to_string())
    }
    let c = &contents;
    match dtype {
        DType::Bool => tensor(shape, &c.bool_contents, |v| Some(Bool::from(v))),
        DType::I8 => tensor(shape, &c.int_contents, |v| i8::try_from(v).ok()),
        DType::I16 => tensor(shape, &c.int_contents, |v| i16::try_from(v).ok()),
        DType::I32 => tensor(shape, &c.int_contents, Some),
        DType::I64 => tensor(shape, &c.int64_contents, Some),
        DType::U8 => tensor(shape, &c.uint_contents, |v| u8::try_from(v).ok()),
        DType::U16 => tensor(shape, &c.uint_contents, |v| u16::try_from(v).ok()),
        DType::U32 => tensor(shape, &c.uint_contents, Some),
        DType::U64 => tensor(shape, &c.uint64_contents, Some),
        // The specification has no field for these and wants them raw; floats are what clients send none the less.
        DType::F16 => tensor(shape, &c.fp32_contents, |v| Some(f16::from_f32(v))),
        DType::Bf16 => tensor(shape, &c.fp32_contents, |v| Some(bf16::from_f32(v))),
        DType::F32 => tensor(shape, &c.fp32_contents, Some),
        DType::F64 => tensor(shape, &c.fp64_contents, Some),
        other => Err(format!("{other} has no contents field")),
    }
}

/// Writes an answer, its tensors raw.
///
/// # Errors
/// An element type without a name in the protocol.
pub fn write_response(response: InferResponse) -> Result<ModelInferResponse, String> {
    let mut outputs = Vec::with_capacity(response.outputs.len());
    let mut raw = Vec::with_capacity(response.outputs.len());
    for (name, tensor, _) in response.outputs {
        let datatype = datatype(tensor.dtype())
            .ok_or_else(|| format!("output '{name}': the protocol has no name for {}", tensor.dtype()))?;
        raw.push(Bytes::copy_from_slice(tensor.bytes()));
        // An extent is the length of something in memory.
        let shape = tensor.shape().iter().map(|&d| d as i64).collect();
        outputs.push(InferTensor { name, datatype: datatype.to_owned(), shape, ..InferTensor::default() });
    }
    Ok(ModelInferResponse {
        model_name: response.model,
        model_version: response.version,
        id: response.id,
        parameters: HashMap::new(),
        outputs,
        raw_output_contents: raw,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, datatype: &str, shape: &[i64], contents: Option<InferTensorContents>) -> InferTensor {
        InferTensor { name: name.into(), datatype: datatype.into(), shape: shape.to_vec(), contents, ..Default::default() }
    }

    #[test]
    fn contents_and_raw_contents_give_the_same_tensors() {
        let contents = InferTensorContents { int_contents: vec![1, -2], ..Default::default() };
        let typed = ModelInferRequest { inputs: vec![input("x", "INT16", &[1, 2], Some(contents))], ..Default::default() };
        let raw = ModelInferRequest {
            inputs: vec![input("x", "INT16", &[1, 2], None)],
            raw_input_contents: vec![Bytes::from_static(&[1, 0, 254, 255])],
            ..Default::default()
        };
        for request in [typed, raw] {
            // What is on the wire is what is read.
            let request = ModelInferRequest::decode(request.encode_to_vec().as_slice()).unwrap();
            assert_eq!(read_request(request).unwrap().inputs[0].1.as_slice::<i16>(), Some(&[1, -2][..]));
        }
    }

    #[test]
    fn wrong_requests_are_refused_with_a_reason() {
        let ints = |v: &[i32]| Some(InferTensorContents { int_contents: v.to_vec(), ..Default::default() });
        for (inputs, raw, reason) in [
            (vec![input("x", "INT8", &[1], ints(&[300]))], 0, "input 'x': 300 is no i8"),
            (vec![input("x", "INT8", &[2], ints(&[3]))], 0, "needs 2 bytes, 1 were given"),
            (vec![input("x", "FP32", &[1], ints(&[3]))], 0, "needs 4 bytes, 0 were given"),
            (vec![input("x", "INT8", &[-1], ints(&[3]))], 0, "-1 is no extent"),
            (vec![input("x", "INT8", &[1], ints(&[3]))], 1, "exclude each other"),
            (vec![input("x", "INT8", &[1], None)], 0, "neither"),
            (vec![input("x", "INT8", &[1], None)], 2, "2 tensors for 1 inputs"),
            (vec![input("x", "BYTES", &[1], None)], 1, "is no datatype"),
        ] {
            let raw_input_contents = vec![Bytes::from_static(&[1]); raw];
            let error = read_request(ModelInferRequest { inputs, raw_input_contents, ..Default::default() }).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn parameters_are_read() {
        let parameter = InferParameter { parameter_choice: Some(ParameterChoice::Int64(2000)) };
        let request = ModelInferRequest { parameters: [("timeout".to_owned(), parameter)].into(), ..Default::default() };
        assert_eq!(read_request(request).unwrap().timeout, Some(std::time::Duration::from_millis(2)));
    }
}
