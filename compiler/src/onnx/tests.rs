use bytes::Bytes;
use prost::Message;
use sliderun::dtype::DType;
use sliderun::tensor::Tensor;
use std::path::Path;

use super::build::{ModelBuilder, node, tensor};
use super::proto::{EXTERNAL, StringStringEntryProto, TensorProto, data_type};
use super::{ModelError, OnnxModel, StreamedModel, TensorDataError};

fn weight() -> Tensor {
    Tensor::from_slice(&[2, 3], &[1f32, -2., 3., 4., 5.5, -6.]).unwrap()
}

fn small() -> ModelBuilder {
    ModelBuilder::new(17)
        .input("x", DType::F32, &["batch", "2"])
        .initializer("w", &weight())
        .node(node("MatMul", &["x", "w"], &["h"]).name("mm"))
        .node(node("LeakyRelu", &["h"], &["y"]).attr("alpha", 0.1f32))
        .output("y", DType::F32, &["batch", "3"])
}

/// The small model with its weight in `location`.
fn with_external(location: &str, offset: &str, length: &str) -> Vec<u8> {
    let mut proto = small().proto();
    let t = &mut proto.graph.as_mut().unwrap().initializer[0];
    t.raw_data = None;
    t.data_location = Some(EXTERNAL);
    for (key, value) in [("location", location), ("offset", offset), ("length", length)] {
        if !value.is_empty() {
            t.external_data.push(StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) });
        }
    }
    proto.encode_to_vec()
}

fn open_bytes(folder: &Path, bytes: &[u8]) -> Result<OnnxModel, ModelError> {
    let path = folder.join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    OnnxModel::open(&path)
}

#[test]
fn weights_stay_in_the_mapping_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = small().proto().encode_to_vec();
    let model = open_bytes(folder.path(), &bytes).unwrap();
    assert_eq!(model.proto().encode_to_vec(), bytes);
    assert_eq!(model.digest(), blake3::hash(&bytes));
    assert_eq!((model.opset(""), model.opset("ai.onnx"), model.opset("com.microsoft")), (Some(17), Some(17), None));
    let constant = model.weight("w").unwrap();
    assert_eq!(constant.data, weight().bytes());
    // The same bytes, not a copy of them: a second reading gives the same address.
    assert_eq!(constant.data.as_ptr(), model.weight("w").unwrap().data.as_ptr());
}

#[test]
fn every_truncation_and_every_other_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = small().proto().encode_to_vec();
    for end in 0..bytes.len() {
        let error = open_bytes(folder.path(), &bytes[..end]).expect_err("a part of a model is no model");
        assert!(
            matches!(error, ModelError::Empty(_) | ModelError::Truncated { .. } | ModelError::NotOnnx { .. }),
            "{end}: {error}"
        );
    }
    let error = open_bytes(folder.path(), &bytes[..bytes.len() / 2]).unwrap_err();
    assert!(error.to_string().ends_with("is truncated: it ends in the middle of a field"), "{error}");
    for other in [&b"{\"not\": \"a model\"}"[..], b"PK\x03\x04 an archive", b"\x08\x08", &[0xff; 64], b"\n\x02hi"] {
        let error = open_bytes(folder.path(), other).unwrap_err();
        assert!(matches!(error, ModelError::NotOnnx { .. } | ModelError::Truncated { .. }), "{other:?}: {error}");
    }
    assert!(matches!(OnnxModel::open(folder.path()), Err(ModelError::Folder(_))));
    assert!(matches!(OnnxModel::open(&folder.path().join("missing.onnx")), Err(ModelError::Read { .. })));
}

#[test]
fn every_storage_of_elements() {
    let base =
        |data_type: i32, dims: &[i64]| TensorProto { data_type: Some(data_type), dims: dims.to_vec(), ..TensorProto::default() };
    let ints = |data_type, values: &[i32]| TensorProto { int32_data: values.to_vec(), ..base(data_type, &[values.len() as i64]) };
    let model = small().model();
    let cases: &[(TensorProto, DType, Vec<u8>)] = &[
        (ints(data_type::INT8, &[-1, 127]), DType::I8, vec![0xff, 0x7f]),
        (ints(data_type::UINT8, &[0, 255]), DType::U8, vec![0, 255]),
        (ints(data_type::BOOL, &[0, 1]), DType::Bool, vec![0, 1]),
        (ints(data_type::INT16, &[-2]), DType::I16, vec![0xfe, 0xff]),
        (ints(data_type::UINT16, &[65535]), DType::U16, vec![0xff, 0xff]),
        (ints(data_type::INT32, &[-3]), DType::I32, (-3i32).to_le_bytes().to_vec()),
        (ints(data_type::FLOAT16, &[0x3c00]), DType::F16, vec![0x00, 0x3c]),
        (ints(data_type::BFLOAT16, &[0x3f80]), DType::Bf16, vec![0x80, 0x3f]),
        (ints(data_type::FLOAT8E4M3FN, &[0x38]), DType::F8e4m3, vec![0x38]),
        (TensorProto { float_data: vec![1.5], ..base(data_type::FLOAT, &[]) }, DType::F32, 1.5f32.to_le_bytes().to_vec()),
        (TensorProto { double_data: vec![2.5], ..base(data_type::DOUBLE, &[1]) }, DType::F64, 2.5f64.to_le_bytes().to_vec()),
        (TensorProto { int64_data: vec![-9], ..base(data_type::INT64, &[1]) }, DType::I64, (-9i64).to_le_bytes().to_vec()),
        (TensorProto { uint64_data: vec![7], ..base(data_type::UINT32, &[1]) }, DType::U32, 7u32.to_le_bytes().to_vec()),
        (TensorProto { uint64_data: vec![8], ..base(data_type::UINT64, &[1]) }, DType::U64, 8u64.to_le_bytes().to_vec()),
        (base(data_type::FLOAT, &[0, 3]), DType::F32, vec![]),
        (
            TensorProto { raw_data: Some(Bytes::new()), float_data: vec![1.0], ..base(data_type::FLOAT, &[1]) },
            DType::F32,
            1f32.to_le_bytes().to_vec(),
        ),
    ];
    for (t, dtype, bytes) in cases {
        let constant = model.constant(t).unwrap();
        assert_eq!((constant.dtype, constant.data.as_ref()), (*dtype, bytes.as_slice()));
        assert_eq!(constant.shape.iter().map(|&d| d as i64).collect::<Vec<_>>(), t.dims);
    }
    let refused: &[(TensorProto, &str)] = &[
        (base(data_type::STRING, &[1]), "element type string is not supported"),
        (base(data_type::INT4, &[1]), "element type int4 is not supported"),
        (base(data_type::COMPLEX64, &[1]), "element type complex64 is not supported"),
        (base(99, &[1]), "99 is not an ONNX element type"),
        (base(data_type::FLOAT, &[-1]), "dimension -1 is negative"),
        (base(data_type::FLOAT, &[i64::MAX, 9]), "does not fit in memory"),
        (base(data_type::FLOAT, &[2]), "needs 2 elements, `float_data` has 0"),
        (ints(data_type::INT8, &[300]), "value 300 in `int32_data` does not fit element type i8"),
        (
            TensorProto { raw_data: Some(Bytes::from_static(&[1, 2, 3])), ..base(data_type::FLOAT, &[1]) },
            "need 4 bytes, the file has 3",
        ),
    ];
    for (t, expected) in refused {
        let error = model.constant(t).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn external_data_is_read_and_confined_to_the_folder() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    let mut data = vec![0xaa; 5];
    data.extend_from_slice(weight().bytes());
    std::fs::write(root.path().join("outside.bin"), &data).unwrap();
    std::fs::write(folder.join("w.bin"), &data).unwrap();
    std::fs::write(folder.join("sub/w.bin"), &data).unwrap();
    for location in ["w.bin", "./w.bin", "sub/w.bin"] {
        let model = open_bytes(&folder, &with_external(location, "5", "24")).unwrap();
        assert_eq!(model.weight("w").unwrap().data, weight().bytes(), "{location}");
    }
    let absolute = root.path().join("outside.bin").display().to_string();
    #[cfg(unix)]
    std::os::unix::fs::symlink("../outside.bin", folder.join("link.bin")).unwrap();
    let outside = "is outside the model's folder";
    for (location, offset, length, expected) in [
        ("../outside.bin", "5", "24", outside),
        ("sub/../../outside.bin", "5", "24", outside),
        ("..\\outside.bin", "5", "24", outside),
        (absolute.as_str(), "5", "24", outside),
        ("link.bin", "5", "24", outside),
        ("missing.bin", "0", "24", "its data file 'missing.bin' cannot be read"),
        ("sub", "0", "24", "its data file 'sub' cannot be read"),
        ("w.bin", "6", "24", "bytes 6..30 of its data file 'w.bin' are asked for, which has 29"),
        ("w.bin", "18446744073709551615", "24", "are asked for"),
        ("w.bin", "-1", "24", "`offset` of its external data is '-1'"),
        ("w.bin", "0", "20", "need 24 bytes, the file has 20"),
        ("", "0", "24", "has no location"),
    ] {
        let model = open_bytes(&folder, &with_external(location, offset, length)).unwrap();
        let error = model.weight("w").unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.to_string().starts_with("tensor 'w': ") && cause.contains(expected), "{location}: {error}: {cause}");
    }
    let in_memory = OnnxModel::from_proto(prost::Message::decode(with_external("w.bin", "5", "24").as_slice()).unwrap());
    assert!(matches!(in_memory.weight("w"), Err(ModelError::Tensor { source: TensorDataError::External(_), .. })));
}

#[test]
fn replaced_weights_are_saved() {
    let root = tempfile::tempdir().unwrap();
    let new = Tensor::from_slice(&[2, 3], &[0f32, 1., 0., 2., 0., 3.]).unwrap();
    let replace = |mut model: OnnxModel, path: &Path| {
        model.set_initializer("w", Bytes::copy_from_slice(new.bytes())).unwrap();
        model.save(path).unwrap();
        OnnxModel::open(path).unwrap()
    };
    let inline = replace(open_bytes(root.path(), &small().proto().encode_to_vec()).unwrap(), &root.path().join("inline.onnx"));
    assert_eq!(inline.weight("w").unwrap().data, new.bytes());

    std::fs::write(root.path().join("w.bin"), weight().bytes()).unwrap();
    let external = open_bytes(root.path(), &with_external("w.bin", "", "")).unwrap();
    let elsewhere = root.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let saved = replace(external, &elsewhere.join("external.onnx"));
    assert_eq!(saved.weight("w").unwrap().data, new.bytes());
    assert_eq!(saved.graph().initializer[0].data_location(), EXTERNAL);
    // The original is untouched, and nothing else is left behind.
    assert_eq!(std::fs::read(root.path().join("w.bin")).unwrap(), weight().bytes());
    let mut names: Vec<_> = std::fs::read_dir(&elsewhere).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["external.onnx", "external.onnx.data"]);

    let value = tensor("", &weight());
    let in_node = ModelBuilder::new(17).node(node("Constant", &[], &["w"]).attr("value", value)).model();
    assert_eq!(replace(in_node, &root.path().join("node.onnx")).weight("w").unwrap().data, new.bytes());

    let mut model = small().model();
    assert!(matches!(model.set_initializer("nope", Bytes::new()), Err(ModelError::NoTensor(_))));
    assert!(matches!(model.set_initializer("w", Bytes::from_static(&[0; 23])), Err(ModelError::WrongSize { expected: 24, .. })));
    assert!(matches!(model.save(&root.path().join("no/such/folder.onnx")), Err(ModelError::Write { .. })));
}

#[test]
fn large_tensors_are_streamed_to_the_data_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let elements = |n: usize, start: u8| (0..n).map(|i| start.wrapping_add(i as u8)).collect::<Vec<u8>>();
    let tensors = [("small", [5, 51], 255), ("first", [4, 256], 1024), ("second", [3, 1400], 4200), ("third", [1, 2048], 2048)];
    let write = |finish: bool| {
        let mut out = StreamedModel::create(&path).unwrap();
        let mut model = ModelBuilder::new(17);
        for (i, (name, shape, bytes)) in tensors.iter().enumerate() {
            model = model.initializer_proto(out.tensor(name, DType::U8, shape, elements(*bytes, i as u8)).unwrap());
        }
        let wrong = out.tensor("wrong", DType::F32, &[2], vec![0; 7]).unwrap_err();
        assert!(matches!(wrong, ModelError::WrongSize { expected: 8, actual: 7, .. }));
        if finish {
            out.finish(&model.proto()).unwrap();
        }
    };
    write(false);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "what is not finished leaves nothing");
    write(true);
    let model = OnnxModel::open(&path).unwrap();
    for (i, ((name, shape, bytes), stored)) in tensors.iter().zip(&model.graph().initializer).enumerate() {
        let constant = model.weight(name).unwrap();
        assert_eq!((&constant.shape[..], &constant.data[..]), (&shape[..], &elements(*bytes, i as u8)[..]));
        assert_eq!(stored.data_location() == EXTERNAL, *bytes >= 1024);
    }
    let offsets: Vec<&str> = model.graph().initializer[1..].iter().map(|t| t.external_data[1].value()).collect();
    assert_eq!(offsets, ["0", "4096", "12288"], "each begins at a multiple of a page");
}
