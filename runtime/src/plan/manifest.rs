//! What a plan says: its values, steps, symbols and blobs. Stored as MessagePack with named fields, so that fields can be added.

use serde::{Deserialize, Serialize};

use super::cuda::CudaPlan;
use crate::op::{Op, TensorType};
use crate::sparse::{KLayout, Pattern, Segment};

/// Index into [`Program::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ValueId(pub u32);

/// Index into [`Manifest::blobs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlobId(pub u32);

/// Everything a plan holds but the blobs' bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Where the plan comes from.
    pub provenance: Provenance,
    /// The symbols that extents mention, with the values they may have.
    pub symbols: Vec<SymbolRange>,
    /// What the CPU runs.
    pub program: Program,
    /// The constant data.
    pub blobs: Vec<Blob>,
    /// What the compiler decided for each matrix product.
    pub verdicts: Vec<Verdict>,
    /// What NVIDIA GPUs run, where the plan was compiled for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<CudaPlan>,
}

/// Values and the steps that compute them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Every tensor that the program mentions.
    pub values: Vec<Value>,
    /// Graph inputs in the model's order; each is a value with [`Storage::Input`].
    pub inputs: Vec<ValueId>,
    /// Graph outputs in the model's order.
    pub outputs: Vec<Output>,
    /// The steps in the order they run.
    pub steps: Vec<Step>,
}

/// Where a plan comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Name and version of the compiler.
    pub producer: String,
    /// BLAKE3 of the model file (of the `.onnx` alone, not of its external data), in hexadecimal.
    pub model_digest: String,
    /// The options that shaped the plan, in command-line form.
    pub options: Vec<String>,
    /// BLAKE3 of the recipe that says what each matrix product was asked to be, in hexadecimal: the same for plans that were made by the
    /// same choices, however these came about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
}

/// A symbol and the values it may have, bounds included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SymbolRange {
    pub name: String,
    pub min: i64,
    pub max: i64,
}

/// A tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// Unique name. Where the value equals a tensor of the model, that tensor's name.
    pub name: String,
    /// Element type and extents.
    #[serde(flatten)]
    pub ty: TensorType,
    /// Where its data is.
    pub storage: Storage,
    /// Whether `name` is a tensor of the model and this value stands for it (exactly or up to pruning and quantization).
    pub from_model: bool,
}

/// Where a value's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// Given by the caller.
    Input,
    /// In a blob.
    Constant(BlobId),
    /// Written by one step, in the arena.
    Computed,
    /// The same elements as another value that comes before it in the list, under another shape.
    Alias(ValueId),
    /// A weight [N, K] that blobs hold in compressed form, written out when it is needed. Only the right sides of DenseGemms are.
    Expanded(Expanded),
}

/// A dense weight [N, K] made of a compressed one, whose element type it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Expanded {
    /// What is kept, [N, K'/2].
    pub values: BlobId,
    /// Where from, u8 [N, K'/8].
    pub positions: BlobId,
    /// How K is laid out: K' is that of one segment of this pattern.
    pub pattern: Pattern,
}

impl Expanded {
    /// The shapes of values and positions for a weight of this shape; none for one that is no weight.
    pub fn shapes(&self, shape: &[usize]) -> Option<(KLayout, [usize; 2], [usize; 2])> {
        let [n, k] = *shape else { return None };
        let layout = KLayout::try_from(vec![Segment { k, pattern: Some(self.pattern) }]).ok()?;
        let lifted = layout.lifted();
        Some((layout, [n, lifted / 2], [n, lifted / 8]))
    }
}

/// A graph output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The model's name for it.
    pub name: String,
    /// The value, of any storage.
    pub value: ValueId,
}

/// One operation of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Unique name, from the model's node where there is one.
    pub name: String,
    /// What is computed.
    pub op: Op,
    /// Operands; an absent optional one is `None`.
    pub inputs: Vec<Option<ValueId>>,
    /// Results; values with [`Storage::Computed`].
    pub outputs: Vec<ValueId>,
    /// Names of the model's nodes that went into it.
    pub origin: Vec<String>,
}

/// A stretch of the file's data section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Bytes from the start of the file; a multiple of 256.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// BLAKE3 of the bytes.
    #[serde(with = "digest_hex")]
    pub digest: blake3::Hash,
}

/// A pattern that a weight satisfies but for a few blocks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NearMiss {
    /// The pattern.
    pub pattern: Pattern,
    /// Blocks with more non-zeros than it allows.
    pub offending: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// The share of the weight's sum of squares that pruning by magnitude would keep, 0 to 1.
    pub kept_energy: f64,
}

impl std::fmt::Display for NearMiss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let NearMiss { pattern, offending, blocks, kept_energy } = self;
        let lost = 100.0 * (1.0 - kept_energy);
        write!(f, "{pattern} but for {offending} of {blocks} blocks (--prune magnitude would cost {lost:.3} % of the energy)")
    }
}

/// What the compiler decided for one matrix product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The model's node.
    pub node: String,
    /// The model's name of the product's result.
    pub output: String,
    /// Rows of the activation.
    pub m: crate::dim::Dim,
    /// Output channels.
    pub n: crate::dim::Dim,
    /// Inner extent.
    pub k: crate::dim::Dim,
    /// The patterns that the weight satisfies as it is compiled (after pruning).
    pub patterns: Vec<Pattern>,
    /// The sparser pattern that the weight nearly satisfies, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<NearMiss>,
    /// What was chosen: `f32 dense`, `int8 6:8` …
    pub chosen: String,
    /// Whether the product runs in the sparse form.
    pub sparse: bool,
    /// Why it was chosen, or why a sparse form was not eligible.
    pub reason: String,
    /// What was chosen for GPUs, in a plan that has a program for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda: Option<String>,
}

impl Verdict {
    /// What was chosen, for GPUs too where that is something else.
    pub fn choices(&self) -> String {
        match &self.cuda {
            Some(cuda) if *cuda != self.chosen => format!("{}, on GPUs {cuda}", self.chosen),
            _ => self.chosen.clone(),
        }
    }
}

mod digest_hex {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(hash: &blake3::Hash, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hash.to_hex())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<blake3::Hash, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        blake3::Hash::from_hex(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}
