//! A GPU if there is one, random operands, and naive products to compare with.

use std::time::{SystemTime, UNIX_EPOCH};

use half::{bf16, f16};
use sliderun::cuda::CudaError;
use sliderun::cuda::driver::{Context, DeviceBuffer, Stream};
use sliderun::dtype::DType;
use sliderun::f8::F8E4M3;
use sliderun::splitmix::SplitMix64;

/// Bytes that outputs hold before each run: NaN in every float type, and no result of an integer product here.
pub const POISON: u8 = 0xff;

pub struct Gpu {
    pub context: Context,
    pub stream: Stream,
}

impl Gpu {
    /// The first GPU, or none with the reason printed.
    pub fn find() -> Option<Gpu> {
        match Context::new(0) {
            Ok(context) => {
                let stream = Stream::new(&context).unwrap();
                Some(Gpu { context, stream })
            }
            Err(e) => {
                assert!(std::env::var("SLIDERUN_TEST_GPU").is_err(), "a GPU is required: {e}");
                println!("skipped: no CUDA device");
                None
            }
        }
    }

    pub fn upload(&self, bytes: &[u8]) -> DeviceBuffer {
        DeviceBuffer::from_host(bytes, &self.stream).unwrap()
    }

    pub fn poisoned(&self, len: usize) -> DeviceBuffer {
        let buffer = DeviceBuffer::new(&self.context, len).unwrap();
        buffer.as_slice().fill(POISON, &self.stream).unwrap();
        buffer
    }

    pub fn download(&self, buffer: &DeviceBuffer) -> Vec<u8> {
        let mut bytes = vec![0; buffer.len()];
        buffer.as_slice().download(&mut bytes, &self.stream).unwrap();
        bytes
    }
}

/// What a library gives, or none with the reason printed when it is not there.
pub fn present<T>(library: Result<T, CudaError>) -> Option<T> {
    match library {
        Ok(library) => Some(library),
        Err(e @ CudaError::Library(_)) => {
            assert!(std::env::var("SLIDERUN_TEST_GPU").is_err(), "the library is required: {e}");
            println!("skipped: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// What a number of cases gave. All are run before the first failure is one of the test: a GPU is seldom at hand.
#[derive(Default)]
pub struct Report {
    failures: Vec<String>,
}

impl Report {
    /// A line for a case that is right, or what is wrong with it.
    pub fn add(&mut self, case: Result<String, String>) {
        match case {
            Ok(line) => println!("{line}"),
            Err(line) => {
                println!("WRONG {line}");
                self.failures.push(line);
            }
        }
    }

    pub fn end(self) {
        assert!(self.failures.is_empty(), "{} cases are wrong:\n{}", self.failures.len(), self.failures.join("\n"));
    }
}

/// Started from the time: fresh inputs every time, with what repeats them printed.
pub struct Random(SplitMix64);

impl Random {
    pub fn fresh() -> Random {
        let seed = std::env::var("SLIDERUN_TEST_SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64));
        println!("SLIDERUN_TEST_SEED={seed}");
        Random(SplitMix64(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// `len` elements as bytes: all values of i8 from -127 on, floats from -1 to 1.
    pub fn operand(&mut self, dtype: DType, len: usize) -> Vec<u8> {
        let value = |bits: u64| match dtype {
            DType::I8 => (bits % 255) as f64 - 127.0,
            _ => (bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0,
        };
        encode(dtype, (0..len).map(|_| value(self.next())))
    }

    /// A weight [n, k] as bytes, with two of each group of four elements set to zero, at random places.
    pub fn sparse_weight(&mut self, dtype: DType, n: usize, k: usize) -> Vec<u8> {
        let size = dtype.size();
        let mut bytes = self.operand(dtype, n * k);
        for group in bytes.chunks_exact_mut(4 * size) {
            let first = (self.next() % 4) as usize;
            let second = (first + 1 + (self.next() % 3) as usize) % 4;
            for zero in [first, second] {
                group[zero * size..][..size].fill(0);
            }
        }
        bytes
    }
}

pub fn encode(dtype: DType, values: impl Iterator<Item = f64>) -> Vec<u8> {
    values
        .flat_map(|v| match dtype {
            DType::I8 => vec![v as i8 as u8],
            DType::F8e4m3 => vec![F8E4M3::from_f32(v as f32).0],
            DType::Bf16 => bf16::from_f64(v).to_le_bytes().to_vec(),
            DType::F16 => f16::from_f64(v).to_le_bytes().to_vec(),
            DType::F32 => (v as f32).to_le_bytes().to_vec(),
            other => panic!("{other}"),
        })
        .collect()
}

pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let value = |b: &[u8]| match dtype {
        DType::I8 => f64::from(b[0] as i8),
        DType::F8e4m3 => f64::from(F8E4M3(b[0]).to_f32()),
        DType::Bf16 => f64::from(bf16::from_le_bytes([b[0], b[1]])),
        DType::F16 => f64::from(f16::from_le_bytes([b[0], b[1]])),
        DType::F32 => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        DType::I32 => f64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        other => panic!("{other}"),
    };
    bytes.chunks_exact(dtype.size()).map(value).collect()
}

/// An exact sum of products and the sum of their absolute values. Both are exact in f64 for i8.
pub fn dot(lhs: &[f64], rhs: &[f64]) -> (f64, f64) {
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for (a, b) in lhs.iter().zip(rhs) {
        sum += a * b;
        magnitude += (a * b).abs();
    }
    (sum, magnitude)
}

/// How far a product may be from the exact one: nothing for integers; else the accumulation, whose error is proportional to the
/// magnitude of what is added, and the rounding of the output. Tensor cores add fp8 products with about 14 bits (as measured by others on
/// compute capability 9.0), all others with at least 22.
pub fn tolerance(input: DType, output: DType, exact: f64, magnitude: f64) -> f64 {
    let accumulation = match input {
        DType::I8 => 0.0,
        DType::F8e4m3 => 2f64.powi(-12),
        _ => 2f64.powi(-19),
    };
    let rounding = match output {
        DType::I32 => 0.0,
        DType::F32 => 2f64.powi(-23),
        DType::F16 => 2f64.powi(-10),
        DType::Bf16 => 2f64.powi(-7),
        other => panic!("{other}"),
    };
    accumulation * magnitude
        + 0.51 * rounding * (exact.abs() + accumulation * magnitude)
        + if rounding > 0.0 { 1e-7 } else { 0.0 }
}
