//! What was measured on GPUs, kept beside a plan or for a whole machine: which variant of a plan is fastest for how many rows,
//! and what single products take.
//!
//! A file of timings is text, one record a line, each a JSON object that says on which machine it was measured. What was measured
//! elsewhere, with another driver or other libraries is left alone and not used. Timings beside a plan are not trusted: the worst
//! that they can do is to make another variant run, whose results are the same.
//!
//! Must not know: how anything is measured.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic_file::write_atomically;
use crate::dtype::DType;

/// What timings are good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The GPU's name.
    pub gpu: String,
    /// Its compute capability, like 9.0.
    pub capability: String,
    /// The driver's version.
    pub driver: String,
    /// cuBLASLt's version; `missing` without one.
    pub cublaslt: String,
    /// cuSPARSELt's version; `missing` without one.
    pub cusparselt: String,
}

/// `NVIDIA H200, driver 580.159.04, cuBLASLt 130100, cuSPARSELt 0.8.0`.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, driver {}, cuBLASLt {}, cuSPARSELt {}", self.gpu, self.driver, self.cublaslt, self.cusparselt)
    }
}

/// A line of a file of timings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Where it was measured.
    #[serde(flatten)]
    pub machine: Machine,
    /// What.
    #[serde(flatten)]
    pub timed: Timed,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Timed {
    Variants(VariantTimes),
    Product(ProductTime),
}

/// Replays of a plan's variants, each in its turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VariantTimes {
    /// The plan's digest, in hexadecimal.
    pub plan: String,
    /// Rows of the products' activations, as they are padded.
    pub rows: u64,
    /// The fastest, by name; an all dense one unless another is clearly faster.
    pub fastest: String,
    /// Microseconds of a replay, by name.
    pub micros: BTreeMap<String, f64>,
}

/// A product by its library's best algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProductTime {
    /// Which.
    #[serde(flatten)]
    pub product: ProductKey,
    /// Microseconds.
    pub micros: f64,
}

/// A product with a constant weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProductKey {
    /// By cuSPARSELt, or dense by cuBLASLt.
    pub sparse: bool,
    /// What is multiplied.
    pub input: DType,
    /// Rows, as they are padded.
    pub m: usize,
    /// Output channels.
    pub n: usize,
    /// What is summed over; of a sparse product K'.
    pub k: usize,
}

impl Record {
    /// Whether one takes the other's place.
    fn same_key(&self, other: &Record) -> bool {
        let of_same = match (&self.timed, &other.timed) {
            (Timed::Variants(a), Timed::Variants(b)) => (&a.plan, a.rows) == (&b.plan, b.rows),
            (Timed::Product(a), Timed::Product(b)) => a.product == b.product,
            _ => false,
        };
        of_same && self.machine == other.machine
    }
}

/// See the module documentation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timings {
    records: Vec<Record>,
}

/// Why a file of timings cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TimingsError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: line {line} is no record of timings ({reason}): remove the file, or measure again with `tune`", path.display())]
    Line { path: PathBuf, line: usize, reason: String },
}

impl Timings {
    /// The file of timings that belongs to a plan: the plan's name with `.timings` behind it.
    pub fn beside(plan: &Path) -> PathBuf {
        let mut name: OsString = plan.as_os_str().to_owned();
        name.push(".timings");
        name.into()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Those of the file system, and a line that is no record.
    pub fn read(path: &Path) -> Result<Timings, TimingsError> {
        let text = fs::read_to_string(path).map_err(|source| TimingsError::File { path: path.to_owned(), source })?;
        let mut records = Vec::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let fail = |e: serde_json::Error| TimingsError::Line { path: path.to_owned(), line: at + 1, reason: e.to_string() };
            records.push(serde_json::from_str(line).map_err(fail)?);
        }
        Ok(Timings { records })
    }

    /// Writes a file in the place of what was there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, path: &Path) -> Result<(), TimingsError> {
        let write = |out: &mut dyn Write| -> io::Result<()> {
            for record in &self.records {
                writeln!(out, "{}", serde_json::to_string(record)?)?;
            }
            Ok(())
        };
        write_atomically(path, |out| write(out)).map_err(|source| TimingsError::File { path: path.to_owned(), source })
    }

    /// The records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Adds a record, in the place of one of the same machine and thing.
    pub fn put(&mut self, record: Record) {
        match self.records.iter_mut().find(|known| known.same_key(&record)) {
            Some(known) => *known = record,
            None => self.records.push(record),
        }
    }

    /// The variants of a plan for so many rows, as they were measured on this machine.
    pub fn variants(&self, machine: &Machine, plan: &str, rows: u64) -> Option<&VariantTimes> {
        self.records.iter().filter(|r| r.machine == *machine).find_map(|r| match &r.timed {
            Timed::Variants(v) if v.plan == plan && v.rows == rows => Some(v),
            _ => None,
        })
    }

    /// The products that were measured on GPUs of compute capabilities that `fits` takes.
    pub fn products(&self, fits: impl Fn(&str) -> bool) -> impl Iterator<Item = ProductTime> {
        self.records.iter().filter(move |r| fits(&r.machine.capability)).filter_map(|r| match &r.timed {
            Timed::Product(t) if t.micros > 0.0 => Some(*t),
            _ => None,
        })
    }

    /// What to tell a user of a machine for which there is no record although there are others; none where there is nothing to
    /// tell.
    pub fn foreign(&self, machine: &Machine) -> Option<String> {
        let other = self.records.first().filter(|_| self.records.iter().all(|r| r.machine != *machine))?;
        Some(format!("the timings are of {}, not of {machine}: they are not used (`tune` measures here)", other.machine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(gpu: &str) -> Machine {
        let [capability, driver, cublaslt, cusparselt] = ["9.0", "580.1", "130100", "0.8.0"].map(str::to_owned);
        Machine { gpu: gpu.to_owned(), capability, driver, cublaslt, cusparselt }
    }

    fn variants(gpu: &str, rows: u64, fastest: &str) -> Record {
        let micros = [("sparse".to_owned(), 20.5), ("dense".to_owned(), 19.0)].into();
        let timed = VariantTimes { plan: "ab".into(), rows, fastest: fastest.into(), micros };
        Record { machine: machine(gpu), timed: Timed::Variants(timed) }
    }

    const PRODUCT: ProductKey = ProductKey { sparse: true, input: DType::I8, m: 512, n: 64, k: 96 };

    #[test]
    fn records_are_lines_and_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = Timings::beside(&folder.path().join("m.slide"));
        assert!(path.ends_with("m.slide.timings"));
        assert!(Timings::read(&path).unwrap_err().to_string().contains("m.slide.timings: "));
        let mut timings = Timings::default();
        let product = |micros| Record { machine: machine("A"), timed: Timed::Product(ProductTime { product: PRODUCT, micros }) };
        for record in
            [variants("A", 32, "dense"), variants("B", 32, "sparse"), product(4.0), variants("A", 32, "sparse"), product(5.0)]
        {
            timings.put(record);
        }
        timings.write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert_eq!(
            text.lines().last().unwrap(),
            r#"{"gpu":"A","capability":"9.0","driver":"580.1","cublaslt":"130100","cusparselt":"0.8.0","product":{"sparse":true,"input":"i8","m":512,"n":64,"k":96,"micros":5.0}}"#
        );
        let read = Timings::read(&path).unwrap();
        assert_eq!(read, timings);
        assert_eq!(read.variants(&machine("A"), "ab", 32).unwrap().fastest, "sparse");
        assert!(read.variants(&machine("A"), "ab", 64).is_none() && read.variants(&machine("A"), "cd", 32).is_none());
        let products = |of: &'static str| read.products(move |capability| capability == of).collect::<Vec<_>>();
        assert_eq!(products("9.0"), [ProductTime { product: PRODUCT, micros: 5.0 }]);
        assert!(products("8.0").is_empty());
    }

    #[test]
    fn timings_of_other_machines_are_told_and_damage_is_named() {
        let mut timings = Timings::default();
        assert_eq!(timings.foreign(&machine("A")), None);
        timings.put(variants("A", 32, "dense"));
        assert_eq!(timings.foreign(&machine("A")), None);
        let told = timings.foreign(&Machine { driver: "999".into(), ..machine("A") }).unwrap();
        assert!(told.contains("driver 580.1") && told.contains("driver 999"), "{told}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        for damaged in ["{", "[1]", "{\"gpu\":\"A\"}", "null"] {
            fs::write(&path, format!("\n{damaged}\n")).unwrap();
            let error = Timings::read(&path).unwrap_err().to_string();
            assert!(error.contains("line 2 is no record"), "{damaged}: {error}");
        }
    }
}
