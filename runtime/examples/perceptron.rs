//! Writes `perceptron.slide`, the plan of the documentation's and the tests' examples:
//! `cargo run -p sliderun --example perceptron -- runtime/examples/perceptron.slide`.
//!
//! hidden = relu(x·w1 + b) and y = hidden·w2 for x: f32[batch, 4], batch in 1..=64.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::elementwise::{Binary, Unary};
use sliderun::op::gemm::MatMul;
use sliderun::op::{Op, TensorType};
use sliderun::plan::PlanWriter;
use sliderun::plan::manifest::{Manifest, Output, Program, Provenance, Step, Storage, SymbolRange, Value, ValueId};

/// [4, 3]
pub const W1: [f32; 12] = [1.0, 0.0, -1.0, 0.0, 2.0, 0.5, 1.0, 1.0, 1.0, -2.0, 0.0, 1.0];
/// [3]
pub const B: [f32; 3] = [0.5, -1.0, 0.0];
/// [3, 2]
pub const W2: [f32; 6] = [1.0, 2.0, -1.0, 1.0, 0.5, 0.25];

/// The plan's blobs and what it says.
pub fn perceptron() -> (PlanWriter<'static>, Manifest) {
    let mut writer = PlanWriter::new();
    let [w1, b, w2] = [&W1[..], &B, &W2].map(|w| Storage::Constant(writer.add_blob(bytemuck::cast_slice::<f32, u8>(w))));
    let value = |name: &str, shape: &[Dim], storage| Value {
        name: name.into(),
        ty: TensorType::new(DType::F32, shape.iter().cloned()),
        storage,
        from_model: true,
    };
    let step = |name: &str, op: Op, inputs: &[u32], output| Step {
        name: name.into(),
        op,
        inputs: inputs.iter().map(|&v| Some(ValueId(v))).collect(),
        outputs: vec![ValueId(output)],
        origin: vec![name.into()],
    };
    let batch = Dim::symbol("batch");
    let values = vec![
        value("x", &[batch.clone(), 4.into()], Storage::Input),
        value("w1", &[4.into(), 3.into()], w1),
        value("b", &[3.into()], b),
        value("w2", &[3.into(), 2.into()], w2),
        value("product", &[batch.clone(), 3.into()], Storage::Computed),
        value("sum", &[batch.clone(), 3.into()], Storage::Computed),
        value("hidden", &[batch.clone(), 3.into()], Storage::Computed),
        value("y", &[batch, 2.into()], Storage::Computed),
    ];
    let steps = vec![
        step("multiply", MatMul::default().into(), &[0, 1], 4),
        step("add", Binary::Add.into(), &[4, 2], 5),
        step("relu", Unary::Relu.into(), &[5], 6),
        step("project", MatMul::default().into(), &[6, 3], 7),
    ];
    let output = |name: &str, value| Output { name: name.into(), value: ValueId(value) };
    let manifest = Manifest {
        provenance: Provenance { producer: "sliderun's example".into(), ..Provenance::default() },
        symbols: vec![SymbolRange { name: "batch".into(), min: 1, max: 64 }],
        program: Program { values, inputs: vec![ValueId(0)], outputs: vec![output("y", 7), output("hidden", 6)], steps },
        blobs: Vec::new(),
        verdicts: Vec::new(),
        cuda: None,
    };
    (writer, manifest)
}

#[allow(dead_code)] // Not called where a test takes this file as a module.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: perceptron FILE.slide")?;
    let (writer, manifest) = perceptron();
    writer.finish(manifest, path.as_ref())?;
    Ok(())
}
