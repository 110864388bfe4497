//! Requests and answers for inference over HTTP: a JSON object, and behind it the tensors that are in binary form.

use axum::body::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sliderun::tensor::Tensor;

use super::parameters::{self, Parameters};
use super::{InferRequest, InferResponse, RequestedOutput, datatype, extents, from_datatype, numbers};

/// The header that says how long the JSON object is, where binary tensors follow it.
pub const JSON_LENGTH: &str = "inference-header-content-length";

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(default)]
    id: String,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    #[serde(default)]
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Input<'a> {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

/// Reads a request. `json_length`: what the header [`JSON_LENGTH`] says; without it, the whole body is JSON.
///
/// # Errors
/// Everything that is not as the protocol has it, in a sentence.
pub fn read_request(body: &[u8], json_length: Option<&str>) -> Result<InferRequest, String> {
    let json = match json_length {
        None => body.len(),
        Some(text) => text
            .parse()
            .ok()
            .filter(|&n| n <= body.len())
            .ok_or_else(|| format!("{JSON_LENGTH}: {text} is no length within a body of {} bytes", body.len()))?,
    };
    let (json, mut binary) = body.split_at(json);
    let request: Request<'_> =
        serde_json::from_slice(json).map_err(|e| format!("the request is not as the protocol says: {e}"))?;
    parameters::check(&request.parameters)?;
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for input in request.inputs {
        let tensor = read_input(&input, &mut binary).map_err(|e| format!("input '{}': {e}", input.name))?;
        inputs.push((input.name, tensor));
    }
    if !binary.is_empty() {
        return Err(format!("{} bytes follow the last binary tensor", binary.len()));
    }
    let mut outputs = Vec::with_capacity(request.outputs.len());
    for output in request.outputs {
        parameters::check(&output.parameters).map_err(|e| format!("output '{}': {e}", output.name))?;
        outputs.push(RequestedOutput { binary: parameters::flag(&output.parameters, "binary_data")?, name: output.name });
    }
    Ok(InferRequest {
        id: request.id,
        inputs,
        outputs,
        binary: parameters::flag(&request.parameters, "binary_data_output")?.unwrap_or(false),
        timeout: parameters::timeout(&request.parameters)?,
    })
}

fn read_input(input: &Input<'_>, binary: &mut &[u8]) -> Result<Tensor, String> {
    parameters::check(&input.parameters)?;
    let dtype = from_datatype(&input.datatype)?;
    let shape = extents(&input.name, &input.shape)?;
    match (input.data, parameters::count(&input.parameters, "binary_data_size")?) {
        (Some(data), None) => numbers::read(dtype, &shape, data.get()),
        (None, Some(size)) => {
            let size = usize::try_from(size).ok().filter(|&n| n <= binary.len());
            let Some((bytes, rest)) = size.map(|n| binary.split_at(n)) else {
                return Err(format!("binary_data_size is more than the {} bytes that are left of the body", binary.len()));
            };
            *binary = rest;
            Tensor::from_bytes(dtype, &shape, bytes).map_err(|e| e.to_string())
        }
        (Some(_), Some(_)) => Err("'data' and 'binary_data_size' exclude each other".to_owned()),
        (None, None) => Err("'data' is missing, or the parameter 'binary_data_size'".to_owned()),
    }
}

#[derive(Serialize)]
struct Response<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    outputs: Vec<OutputHeader<'a>>,
}

#[derive(Serialize)]
struct OutputHeader<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<numbers::Flat<'a>>,
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

/// Writes an answer: the body, and the length of its JSON object where binary tensors follow.
///
/// # Errors
/// Elements that JSON cannot say.
pub fn write_response(response: &InferResponse) -> Result<(Bytes, Option<usize>), String> {
    let mut outputs = Vec::with_capacity(response.outputs.len());
    let mut behind = 0;
    for (name, tensor, binary) in &response.outputs {
        let Some(datatype) = datatype(tensor.dtype()) else {
            return Err(format!("output '{name}': the protocol has no name for {}", tensor.dtype()));
        };
        if !binary && !numbers::expressible(tensor) {
            return Err(format!("output '{name}' has elements that JSON cannot say, NaN or infinities: ask for binary data"));
        }
        let bytes = tensor.bytes().len();
        behind += if *binary { bytes } else { 0 };
        outputs.push(OutputHeader {
            name,
            datatype,
            shape: tensor.shape(),
            parameters: binary.then_some(BinarySize { binary_data_size: bytes }),
            data: (!binary).then_some(numbers::Flat(tensor)),
        });
    }
    let head = Response { model_name: &response.model, model_version: &response.version, id: &response.id, outputs };
    let mut body = serde_json::to_vec(&head).map_err(|e| e.to_string())?;
    let json = body.len();
    body.reserve_exact(behind);
    let binary = response.outputs.iter().filter(|(_, _, binary)| *binary);
    binary.clone().for_each(|(_, tensor, _)| body.extend_from_slice(tensor.bytes()));
    Ok((body.into(), (binary.count() > 0).then_some(json)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sliderun::dtype::DType;
    use std::time::Duration;

    #[test]
    fn the_specification_s_example_is_read() {
        let body = br#"{
            "id" : "42",
            "parameters": {"timeout": 250, "priority": 1},
            "inputs" : [
                { "name" : "input0", "shape" : [ 2, 2 ], "datatype" : "UINT32", "data" : [ 1, 2, 3, 4 ] },
                { "name" : "input1", "shape" : [ 3 ], "datatype" : "BOOL", "data" : [ true, false, true ] }
            ],
            "outputs" : [ { "name" : "output0" } ]
        }"#;
        let request = read_request(body, None).unwrap();
        assert_eq!((request.id.as_str(), request.timeout), ("42", Some(Duration::from_micros(250))));
        assert_eq!(request.inputs[0].1.as_slice::<u32>(), Some(&[1, 2, 3, 4][..]));
        assert_eq!((request.inputs[1].1.dtype(), request.inputs[1].1.bytes()), (DType::Bool, &[1u8, 0, 1][..]));
        assert_eq!((request.outputs[0].name.as_str(), request.outputs[0].binary, request.binary), ("output0", None, false));
    }

    #[test]
    fn binary_tensors_follow_the_json_in_order() {
        let json = br#"{"inputs":[
            {"name":"a","shape":[2],"datatype":"INT16","parameters":{"binary_data_size":4}},
            {"name":"b","shape":[1],"datatype":"FP32","data":[3]},
            {"name":"c","shape":[1],"datatype":"UINT8","parameters":{"binary_data_size":1}}],
            "parameters":{"binary_data_output":true},"outputs":[{"name":"y","parameters":{"binary_data":false}}]}"#;
        let body = [&json[..], &[1, 0, 255, 255, 9]].concat();
        let request = read_request(&body, Some(&json.len().to_string())).unwrap();
        assert_eq!(request.inputs[0].1.as_slice::<i16>(), Some(&[1, -1][..]));
        assert_eq!(request.inputs[1].1.as_slice::<f32>(), Some(&[3.0][..]));
        assert_eq!(request.inputs[2].1.bytes(), [9]);
        assert_eq!((request.binary, request.outputs[0].binary), (true, Some(false)));
        // Too few and too many bytes.
        for end in [body.len() - 1, json.len()] {
            assert!(read_request(&body[..end], Some(&json.len().to_string())).unwrap_err().contains("binary_data_size is more"));
        }
        let longer = [&body[..], &[0]].concat();
        assert!(read_request(&longer, Some(&json.len().to_string())).unwrap_err().contains("1 bytes follow"));
    }

    #[test]
    fn malformed_bodies_are_refused_with_a_reason() {
        let input = |fields: &str| format!(r#"{{"inputs":[{{"name":"x",{fields}}}]}}"#);
        for (body, length, reason) in [
            (String::new(), None, "not as the protocol says: EOF"),
            ("{".to_owned(), None, "not as the protocol says: EOF"),
            ("[]".to_owned(), None, "not as the protocol says"),
            ("{}".to_owned(), None, "missing field `inputs`"),
            (r#"{"inputs":3}"#.to_owned(), None, "invalid type"),
            ("\u{fffd}".to_owned(), None, "expected value"),
            (input(r#""shape":[1],"datatype":"FP32""#), None, "'data' is missing"),
            (
                input(r#""shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}"#),
                None,
                "exclude each other",
            ),
            (input(r#""shape":[1],"datatype":"FP31","data":[1]"#), None, "'FP31' is no datatype"),
            (input(r#""shape":[-1],"datatype":"FP32","data":[1]"#), None, "-1 is no extent"),
            (input(r#""shape":[1.5],"datatype":"FP32","data":[1]"#), None, "invalid type"),
            (input(r#""shape":[2],"datatype":"FP32","data":[1]"#), None, "1 elements were given"),
            (input(r#""shape":[1],"datatype":"FP32","data":{}"#), None, "invalid type: map"),
            (input(r#""shape":[2],"datatype":"FP32","parameters":{"binary_data_size":0}"#), None, "needs 8 bytes, 0 were given"),
            (input(r#""shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}"#), None, "shared memory"),
            ("{}".to_owned(), Some("3"), "no length within a body of 2 bytes"),
            ("{}".to_owned(), Some("-1"), "no length within"),
            ("{}".to_owned(), Some("all"), "no length within"),
        ] {
            let error = read_request(body.as_bytes(), length).unwrap_err();
            assert!(error.contains(reason), "{body}: {error}");
        }
    }

    #[test]
    fn answers_are_json_and_bytes() {
        let tensor = |values: &[f32]| Tensor::from_slice(&[1, values.len()], values).unwrap();
        let outputs = vec![("y".to_owned(), tensor(&[0.5, -1.0]), false), ("z".to_owned(), tensor(&[f32::NAN]), true)];
        let mut response = InferResponse { model: "m".into(), version: "1".into(), id: String::new(), outputs };
        let (body, json) = write_response(&response).unwrap();
        let head: serde_json::Value = serde_json::from_slice(&body[..json.unwrap()]).unwrap();
        let expected = serde_json::json!({"model_name": "m", "model_version": "1", "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.5, -1.0]},
            {"name": "z", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}]});
        assert_eq!(head, expected);
        assert!(f32::from_le_bytes(body[json.unwrap()..].try_into().unwrap()).is_nan());
        response.outputs[1].2 = false;
        assert!(write_response(&response).unwrap_err().contains("'z'"));
    }
}
