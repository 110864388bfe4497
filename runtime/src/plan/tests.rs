//! Plans that are written, read, damaged and made up.

use proptest::prelude::*;

use super::manifest::{BlobId, Manifest, Output, Program, Provenance, Step, Storage, SymbolRange, Value, ValueId};
use super::writer::encode_manifest;
use super::{Plan, PlanError, PlanWriter};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op::gemm::MatMul;
use crate::op::{Op, TensorType};

pub(crate) fn dim(s: &str) -> Dim {
    s.parse().unwrap()
}

pub(crate) fn value(name: &str, dtype: DType, shape: &[&str], storage: Storage) -> Value {
    Value { name: name.into(), ty: TensorType::new(dtype, shape.iter().map(|s| dim(s))), storage, from_model: true }
}

pub(crate) fn step(name: &str, op: impl Into<Op>, inputs: &[u32], outputs: &[u32]) -> Step {
    Step {
        name: name.into(),
        op: op.into(),
        inputs: inputs.iter().map(|&i| Some(ValueId(i))).collect(),
        outputs: outputs.iter().map(|&i| ValueId(i)).collect(),
        origin: vec![format!("/model/{name}")],
    }
}

pub(crate) const W1: [f32; 12] = [1.0, 2.0, 3.0, -1.0, 0.5, 0.0, 4.0, -2.0, 1.0, 0.0, 1.0, -1.0];
pub(crate) const W2: [f32; 6] = [1.0, 0.0, 0.0, 2.0, -1.0, 1.0];

/// z = (x·W1)·W2 for x: f32[batch, 4]; also gives x·W1 flat, and takes ids: i64[batch, seq], which nothing reads.
pub(crate) fn two_products() -> (PlanWriter<'static>, Manifest) {
    let mut writer = PlanWriter::new();
    let w1 = writer.add_blob(bytemuck::cast_slice::<f32, u8>(&W1));
    let w2 = writer.add_blob(bytemuck::cast_slice::<f32, u8>(&W2));
    let f32 = DType::F32;
    let range = |name: &str, max| SymbolRange { name: name.into(), min: 1, max };
    let manifest = Manifest {
        provenance: Provenance {
            producer: "slidec 0.1.0".into(),
            model_digest: "00".into(),
            options: vec!["--threads 2".into()],
            recipe: Some("11".into()),
        },
        symbols: vec![range("batch", 8), range("seq", 512)],
        program: Program {
            values: vec![
                value("x", f32, &["batch", "4"], Storage::Input),
                value("w1", f32, &["4", "3"], Storage::Constant(w1)),
                value("y", f32, &["batch", "3"], Storage::Computed),
                value("flat", f32, &["3*batch"], Storage::Alias(ValueId(2))),
                value("w2", f32, &["3", "2"], Storage::Constant(w2)),
                value("z", f32, &["batch", "2"], Storage::Computed),
                value("ids", DType::I64, &["batch", "seq"], Storage::Input),
            ],
            inputs: vec![ValueId(0), ValueId(6)],
            outputs: vec![Output { name: "z".into(), value: ValueId(5) }, Output { name: "first".into(), value: ValueId(3) }],
            steps: vec![step("first", MatMul::default(), &[0, 1], &[2]), step("second", MatMul::default(), &[2, 4], &[5])],
        },
        blobs: Vec::new(),
        verdicts: Vec::new(),
        cuda: None,
    };
    (writer, manifest)
}

fn bytes_of_two_products() -> Vec<u8> {
    let (writer, manifest) = two_products();
    writer.to_bytes(manifest).unwrap()
}

/// A file with `manifest` as it is, valid or not, in place of `file`'s own.
pub(crate) fn with_manifest(file: &[u8], manifest: &Manifest) -> Vec<u8> {
    let offset = u64::from_le_bytes(file[16..24].try_into().unwrap());
    let (header, encoded) = encode_manifest(manifest, offset).unwrap();
    let mut out = header.encode().unwrap().to_vec();
    out.extend(&file[out.len()..offset as usize]);
    out.extend(encoded);
    out
}

#[test]
fn plans_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.slide");
    let (writer, manifest) = two_products();
    let size = writer.finish(manifest.clone(), &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(size, bytes.len() as u64);
    assert_eq!(bytes, bytes_of_two_products(), "the same plan gives the same bytes");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    // A copy at each of two addresses, so that one of them is not aligned.
    let mut shifted = vec![0];
    shifted.extend(&bytes);
    let shifted: &'static [u8] = Box::leak(shifted.into_boxed_slice());
    let plans = [Plan::open(&path), Plan::open_unmapped(&path), Plan::from_bytes(bytes.clone()), Plan::from_bytes(&shifted[1..])];
    for plan in plans {
        let plan = plan.unwrap();
        plan.check().unwrap();
        let read = plan.manifest();
        assert_eq!(Manifest { blobs: Vec::new(), ..read.clone() }, manifest);
        assert_eq!(plan.size(), size);
        for (i, w) in [&W1[..], &W2].into_iter().enumerate() {
            assert_eq!(bytemuck::cast_slice::<u8, f32>(plan.blob(BlobId(i as u32)).unwrap()), w);
        }
        assert!(matches!(plan.blob(BlobId(2)), Err(PlanError::NoSuchBlob(2))));
    }
}

#[test]
fn equal_blobs_are_stored_once() {
    let mut writer = PlanWriter::new();
    let ids = [&b"abc"[..], b"", b"abc", b"abcd"].map(|b| writer.add_blob(b));
    assert_eq!(ids.map(|id| id.0), [0, 1, 0, 2]);
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.slide");
    std::fs::write(&path, "before").unwrap();
    let (writer, mut manifest) = two_products();
    manifest.program.steps.clear();
    assert!(writer.finish(manifest, &path).is_err());
    let failed = crate::atomic_file::write_atomically(&path, |out| {
        std::io::Write::write_all(out, b"half")?;
        Err::<(), _>(std::io::Error::other("full"))
    });
    assert!(failed.is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn files_that_are_no_plan() {
    let good = bytes_of_two_products();
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let longer = [&good[..], &[0]].concat();
    for (file, message) in [
        (vec![], "not a plan"),
        (b"\x08\x07onnx model".to_vec(), "not a plan"),
        (good[..5].to_vec(), "truncated"),
        (good[..63].to_vec(), "truncated"),
        (good[..good.len() - 1].to_vec(), "truncated"),
        (longer, "truncated or damaged"),
        (changed(8, &[3, 0]), "made by a newer slidec (format 3, this runtime reads 2): update sliderun or recompile"),
        (changed(8, &[1, 0]), "made by an older slidec (format 1, this runtime reads 2): compile the model again"),
        (changed(8, &[0, 0]), "format 0"),
        (changed(16, &[255; 8]), "not the end of the file"),
        (changed(40, &[1, 2, 3]), "does not match its digest"),
        (changed(good.len() - 9, &[7]), "does not match its digest"),
    ] {
        let error = Plan::from_bytes(file).unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
    let missing = Plan::open(std::path::Path::new("/nowhere/m.slide")).unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere/m.slide: "), "{missing}");
}

#[test]
fn damaged_blobs_are_found_when_they_are_used() {
    let mut file = bytes_of_two_products();
    file[512] ^= 1;
    let plan = Plan::from_bytes(file).unwrap();
    assert!(plan.blob(BlobId(0)).is_ok());
    assert!(matches!(plan.blob(BlobId(1)), Err(PlanError::BlobDigest(1))));
    assert!(matches!(plan.check(), Err(PlanError::BlobDigest(1))));
}

#[test]
fn manifests_that_make_no_sense() {
    type Change = fn(&mut Manifest);
    let cases: &[(Change, &str)] = &[
        (|m| m.symbols[0].min = -1, "symbol 'batch': its range is empty or negative"),
        (|m| m.symbols[0].max = 0, "symbol 'batch': its range is empty"),
        (|m| m.symbols[1].name = "batch".into(), "declared twice"),
        (|m| m.symbols[1].name = "a b".into(), "not a name"),
        (|m| m.symbols[1].name = "7".into(), "not a name"),
        (|m| m.symbols[1].name = "s".into(), "symbol 'seq' is not declared"),
        (|m| m.program.values[2].ty.shape[0] = dim("h"), "symbol 'h' is not declared"),
        (|m| m.program.values[2].ty.shape[0] = dim("-3"), "negative extent"),
        (|m| m.program.values[2].ty.shape = vec![1.into(); 65], "has 65 axes"),
        (|m| m.program.values[2].name = "x".into(), "another value has the same name"),
        (|m| m.program.values[1].storage = Storage::Constant(BlobId(2)), "there is no blob 2"),
        (|m| m.program.values[1].ty.shape[0] = dim("5"), "48 bytes, which is not what f32[5, 3] needs"),
        (|m| m.program.values[1].ty.shape[0] = dim("batch"), "which is not what f32[batch, 3] needs"),
        (|m| m.program.values[3].storage = Storage::Alias(ValueId(3)), "does not come before it"),
        (|m| m.program.values[3].storage = Storage::Alias(ValueId(99)), "does not come before it"),
        (|m| m.program.values[3].ty.dtype = DType::I32, "cannot be an alias of 'y'"),
        (|m| m.program.values[0].storage = Storage::Computed, "input 'x': it is not stored as an input"),
        (|m| m.program.inputs[0] = ValueId(7), "there is no value 7"),
        (|m| m.program.inputs[0] = ValueId(6), "listed twice"),
        (|m| m.program.inputs.truncate(1), "stored as an input but not listed"),
        (|m| m.program.steps.swap(0, 1), "step 'second': it reads 'y' before that is written"),
        (|m| m.program.steps[1].name = "first".into(), "another step has the same name"),
        (|m| m.program.steps[1].inputs[0] = Some(ValueId(7)), "there is no value 7"),
        (|m| m.program.steps[1].outputs.clear(), "it has no output"),
        (|m| m.program.steps[1].outputs[0] = ValueId(9), "there is no value 9"),
        (|m| m.program.steps[1].outputs[0] = ValueId(1), "it writes 'w1', which is not a computed value"),
        (|m| m.program.steps[1].outputs[0] = ValueId(2), "which is already written"),
        (|m| m.program.steps.truncate(1), "value 'z': no step writes it"),
        (|m| m.program.outputs[0].value = ValueId(8), "there is no value 8"),
        (|m| m.program.outputs[0].name = "first".into(), "another output has the same name"),
        (|m| m.blobs[0].offset = 255, "not aligned"),
        (|m| m.blobs[0].offset = 0, "outside the data section"),
        (|m| m.blobs[0].len = u64::MAX, "outside the data section"),
        (|m| m.blobs[1].offset += 256, "outside the data section"),
    ];
    let file = bytes_of_two_products();
    let manifest = Plan::from_bytes(file.clone()).unwrap().manifest().clone();
    for (change, message) in cases {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        let error = Plan::from_bytes(with_manifest(&file, &manifest)).unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}

proptest! {
    /// Whatever happens to a byte, the plan that is read is the plan that was written.
    #[test]
    fn flipped_bytes_never_go_unnoticed(at in any::<prop::sample::Index>(), mask in 1u8..) {
        let good = bytes_of_two_products();
        let mut file = good.clone();
        let at = at.index(file.len());
        file[at] ^= mask;
        if let Ok(plan) = Plan::from_bytes(file) && plan.check().is_ok() {
            let original = Plan::from_bytes(good).unwrap();
            prop_assert_eq!(plan.manifest(), original.manifest());
        }
    }

    #[test]
    fn truncated_files_are_refused(len in any::<prop::sample::Index>()) {
        let good = bytes_of_two_products();
        prop_assert!(Plan::from_bytes(good[..len.index(good.len())].to_vec()).is_err());
    }

    #[test]
    fn any_manifest_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let header = super::file::Header {
            manifest_len: bytes.len() as u32,
            manifest_offset: 64,
            digest: *blake3::hash(&bytes).as_bytes(),
        };
        let mut file = header.encode().unwrap().to_vec();
        file.extend(&bytes);
        prop_assert!(Plan::from_bytes(file).is_err());
    }
}
