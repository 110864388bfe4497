//! What the user asks of a compilation, as plain data: the command line fills it in, passes and lowering read it.
//!
//! Must not know: how options are spelled on a command line beyond each value's own text form.

use sliderun::dtype::DType;
use sliderun::plan::Architecture;
use sliderun::plan::manifest::SymbolRange;
use sliderun::sparse::Pattern;
use sliderun::timings::Timings;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::budget;
use crate::calibration::{Calibration, Engine};
use crate::ir::Constant;
use crate::recipe::{Asked, Recipe};

/// Everything that shapes a plan beside the model itself. The default changes no numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct CompileOptions {
    /// Which sparsity pattern products with constant weights take.
    pub sparsity: SparsityRequest,
    /// The arithmetic of products with constant weights.
    pub precision: Precision,
    /// How weights that do not satisfy the pattern asked for are made to.
    pub prune: PruneMethod,
    /// What the model is run on where a decision needs its activations; what is synthetic when `None`.
    pub calibration: Option<Arc<Calibration>>,
    /// What runs it there.
    pub engine: Arc<Engine>,
    /// What single products are asked to be in place of that, by the names of their nodes. [`CompileOptions::with_recipe`] sets it.
    pub recipe: Option<Arc<Recipe>>,
    /// Whether activations of 8-bit products share with the weights what stands out in them.
    pub smooth: Smoothing,
    /// How the scales of 8-bit weights are found.
    pub weight_scales: WeightScales,
    /// What an 8-bit product may lose on the calibration data, ‖y' − y‖ / ‖y‖; beyond it stays in a higher precision. No limit without.
    pub max_layer_error: Option<f64>,
    /// How much may be lost: what products are asked to be is then chosen by measuring.
    pub budget: Option<budget::Request>,
    /// Whether K comes in an order in which pruning keeps more.
    pub permute: Permute,
    /// Whether a request that cannot be met for some node is an error rather than a verdict.
    pub strict: bool,
    /// How many variants a plan for GPUs has.
    pub variants: Variants,
    /// What was measured of products, which goes before estimates.
    pub timings: Timings,
    /// Devices that the plan must run on; not empty.
    pub targets: Vec<Target>,
    /// Ranges of symbols that the user gives; the others keep the model's.
    pub shapes: Vec<SymbolRange>,
    /// Inputs of the model that become constants, by name.
    pub freeze: BTreeMap<String, Constant>,
}

impl CompileOptions {
    /// Whether the passes are for GPUs: a graph goes through them once for the CPU and once for all GPUs.
    pub fn for_cuda(&self) -> bool {
        !self.targets.contains(&Target::Cpu)
    }

    /// The GPU architectures among the targets.
    pub fn architectures(&self) -> impl Iterator<Item = Architecture> {
        self.targets.iter().filter_map(|target| if let Target::Cuda(architecture) = target { Some(*architecture) } else { None })
    }

    /// These options where a recipe does not say something else: what it says of all products is taken into them.
    pub fn with_recipe(self, recipe: Recipe) -> Self {
        let Asked { sparsity, precision, prune } = recipe.default.over(self.asked_of_all());
        CompileOptions { sparsity, precision, prune, recipe: Some(Arc::new(recipe)), ..self }
    }

    /// What the product of a node is asked to be.
    pub fn asked(&self, node: &str) -> Asked {
        let general = self.asked_of_all();
        self.recipe.as_ref().map_or(general, |recipe| recipe.asked(node, general))
    }

    /// Every way in which some product is asked to be pruned.
    pub fn prune_methods(&self) -> impl Iterator<Item = PruneMethod> {
        let entries = self.recipe.iter().flat_map(|recipe| &recipe.products).filter_map(|(_, choice)| choice.prune);
        entries.chain([self.prune]).filter(|method| *method != PruneMethod::None)
    }

    /// What products are asked to be that the recipe does not name.
    pub fn asked_of_all(&self) -> Asked {
        Asked { sparsity: self.sparsity, precision: self.precision, prune: self.prune }
    }
}

impl Default for CompileOptions {
    fn default() -> Self {
        CompileOptions {
            sparsity: SparsityRequest::Auto,
            precision: Precision::Auto,
            prune: PruneMethod::None,
            permute: Permute::None,
            calibration: None,
            engine: Arc::default(),
            recipe: None,
            smooth: Smoothing::Auto,
            weight_scales: WeightScales::Auto,
            max_layer_error: None,
            budget: None,
            strict: false,
            variants: Variants::Auto,
            timings: Timings::default(),
            targets: vec![Target::Cpu],
            shapes: Vec::new(),
            freeze: BTreeMap::new(),
        }
    }
}

/// An option's value that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is not a {what}: {expected} was expected")]
pub struct UnknownOption {
    given: String,
    what: &'static str,
    expected: &'static str,
}

/// Which sparsity pattern is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SparsityRequest {
    /// Sparse where the weights already satisfy a pattern and it is faster.
    #[default]
    Auto,
    /// Never sparse.
    Dense,
    /// This pattern, wherever the weights satisfy it (after pruning, if asked).
    Pattern(Pattern),
}

impl UnknownOption {
    /// A value that is not one of an option's.
    pub fn new(given: &str, what: &'static str, expected: &'static str) -> Self {
        UnknownOption { given: given.to_owned(), what, expected }
    }
}

impl fmt::Display for SparsityRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SparsityRequest::Auto => f.pad("auto"),
            SparsityRequest::Dense => f.pad("dense"),
            SparsityRequest::Pattern(p) => p.fmt(f),
        }
    }
}

impl FromStr for SparsityRequest {
    type Err = UnknownOption;

    fn from_str(s: &str) -> Result<Self, UnknownOption> {
        match s {
            "auto" => Ok(SparsityRequest::Auto),
            "dense" => Ok(SparsityRequest::Dense),
            _ => s.parse().map(SparsityRequest::Pattern).map_err(|_| UnknownOption {
                given: s.to_owned(),
                what: "sparsity",
                expected: "auto, dense, 2:4, 4:6, 6:8, 8:10, 10:12, 12:14 or 14:16",
            }),
        }
    }
}

/// Declares an enumeration whose values have one name each.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident, $what:literal, $expected:literal { $($(#[$doc:meta])* $variant:ident => $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &[$name] = &[$($name::$variant),*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $($name::$variant => $text,)*
                })
            }
        }

        impl FromStr for $name {
            type Err = UnknownOption;

            fn from_str(s: &str) -> Result<Self, UnknownOption> {
                match s {
                    $($text => Ok($name::$variant),)*
                    _ => Err(UnknownOption { given: s.to_owned(), what: $what, expected: $expected }),
                }
            }
        }
    };
}

named! {
    /// The arithmetic of products with constant weights.
    Precision, "precision", "auto, f32, bf16, fp16, int8 or fp8" {
        /// The model's floats: f32 on the CPU, bf16 on GPUs.
        #[default]
        Auto => "auto",
        /// Single precision.
        F32 => "f32",
        /// Activations and weights rounded to bf16.
        Bf16 => "bf16",
        /// Activations and weights rounded to f16.
        F16 => "fp16",
        /// Both 8-bit integers: activations scaled per token, weights per output channel.
        Int8 => "int8",
        /// Both FP8 E4M3, scaled likewise.
        Fp8 => "fp8",
    }
}

impl Precision {
    /// The element type that the products of a model multiply in.
    pub fn element_type(self, model: DType) -> DType {
        match self {
            Precision::Auto => model,
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
            Precision::F16 => DType::F16,
            Precision::Int8 => DType::I8,
            Precision::Fp8 => DType::F8e4m3,
        }
    }
}

named! {
    /// How weights are pruned to the pattern asked for.
    PruneMethod, "pruning method", "none, magnitude, wanda or sparsegpt" {
        /// Not at all.
        #[default]
        None => "none",
        /// The smallest weights of each block go.
        Magnitude => "magnitude",
        /// Those that are smallest when multiplied by the size of their inputs.
        Wanda => "wanda",
        /// Those whose loss the others can best make up for, and do.
        SparseGpt => "sparsegpt",
    }
}

impl PruneMethod {
    /// Whether it goes by what the inputs of products are.
    pub fn needs_calibration(self) -> bool {
        matches!(self, PruneMethod::Wanda | PruneMethod::SparseGpt)
    }
}

named! {
    /// Whether what stands out in the activations of 8-bit products is shared with their weights.
    Smoothing, "kind of smoothing", "auto or none" {
        /// With calibration data, where products lose less so on it; not without.
        #[default]
        Auto => "auto",
        /// Nowhere.
        None => "none",
    }
}

named! {
    /// How the scales of 8-bit weights are found, one for each output channel.
    WeightScales, "way to find scales", "auto, absmax or least-error" {
        /// The least error with calibration data, the largest magnitude without.
        #[default]
        Auto => "auto",
        /// By the largest magnitude.
        AbsMax => "absmax",
        /// By search for the least squared error, weighted by the inputs' second moments where there is calibration data.
        LeastError => "least-error",
    }
}

named! {
    /// Which orders of K are looked for where weights are pruned.
    Permute, "choice of orders", "none, free or all" {
        /// None.
        #[default]
        None => "none",
        /// Those that cost nothing, since what computes the activation can give it in that order.
        Free => "free",
        /// Others as well, for an index in the quantization of the activation.
        All => "all",
    }
}

named! {
    /// How many variants the program for GPUs of a plan with sparse products has.
    Variants, "choice of variants", "auto or one" {
        /// Sparse as asked for, all dense, and between them sparse where that is estimated to pay. The runtime takes what is fastest.
        #[default]
        Auto => "auto",
        /// Sparse as asked for.
        One => "one",
    }
}

/// A device that a plan runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Any CPU.
    Cpu,
    /// NVIDIA GPUs of an architecture.
    Cuda(Architecture),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Cpu => f.pad("cpu"),
            Target::Cuda(architecture) => architecture.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = UnknownOption;

    fn from_str(s: &str) -> Result<Self, UnknownOption> {
        if s == "cpu" {
            return Ok(Target::Cpu);
        }
        s.parse().map(Target::Cuda).map_err(|_| UnknownOption {
            given: s.to_owned(),
            what: "target",
            expected: "cpu or a GPU like sm_80, sm_89, sm_90a",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip() {
        for s in ["auto", "dense", "2:4", "14:16"] {
            assert_eq!(s.parse::<SparsityRequest>().unwrap().to_string(), s);
        }
        for p in Precision::ALL {
            assert_eq!(p.to_string().parse::<Precision>().as_ref(), Ok(p));
        }
        for p in PruneMethod::ALL {
            assert_eq!(p.to_string().parse::<PruneMethod>().as_ref(), Ok(p));
        }
        for s in WeightScales::ALL {
            assert_eq!(s.to_string().parse::<WeightScales>().as_ref(), Ok(s));
        }
        for s in Smoothing::ALL {
            assert_eq!(s.to_string().parse::<Smoothing>().as_ref(), Ok(s));
        }
        for s in ["cpu", "sm_80", "sm_90a"] {
            assert_eq!(s.parse::<Target>().unwrap().to_string(), s);
        }
    }

    #[test]
    fn what_is_unknown_names_the_choices() {
        assert_eq!(
            "3:8".parse::<SparsityRequest>().unwrap_err().to_string(),
            "'3:8' is not a sparsity: auto, dense, 2:4, 4:6, 6:8, 8:10, 10:12, 12:14 or 14:16 was expected"
        );
        for bad in ["gpu", "sm_", "sm_a", "sm_9x"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
