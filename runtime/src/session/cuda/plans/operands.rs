//! Operands to measure products on: values that draw as much power as real ones do, and never NaN.

use crate::cuda::CudaError;
use crate::cuda::driver::{DeviceBuffer, Stream};
use crate::dtype::DType;
use crate::splitmix::SplitMix64;

/// Bytes that are drawn; longer operands repeat them.
const DRAWN: usize = 1 << 20;

/// Random values on the device: all of i8, floats of either sign from about 1/128 to 2.
pub fn random_operand(stream: &Stream, dtype: DType, bytes: usize) -> Result<DeviceBuffer, CudaError> {
    DeviceBuffer::repeating(&draw(dtype, bytes.min(DRAWN)), bytes, stream)
}

fn draw(dtype: DType, bytes: usize) -> Vec<u8> {
    // Bits that are kept of sign and mantissa, and an exponent with three random bits below it.
    let float = |bits: u64, kept: u64, exponent: u64, mantissa: u32, low: u64| {
        (bits & kept) | (exponent + (bits >> 40 & low)) << mantissa
    };
    let element = |bits: u64| match dtype {
        DType::F32 => float(bits, 0x807f_ffff, 120, 23, 7),
        DType::Bf16 => float(bits, 0x807f, 120, 7, 7),
        DType::F16 => float(bits, 0x83ff, 8, 10, 7),
        DType::F8e4m3 => float(bits, 0x87, 4, 3, 3),
        _ => bits,
    };
    let mut random = SplitMix64(0);
    let mut drawn: Vec<u8> = Vec::with_capacity(bytes + size_of::<u64>());
    while drawn.len() < bytes {
        drawn.extend_from_slice(&element(random.next()).to_le_bytes()[..dtype.size()]);
    }
    drawn.truncate(bytes);
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::f8::F8E4M3;

    #[test]
    fn floats_are_of_moderate_size() {
        type Decode = fn(&[u8]) -> f32;
        let types: [(DType, Decode); 4] = [
            (DType::F32, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            (DType::Bf16, |b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            (DType::F16, |b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()),
            (DType::F8e4m3, |b| F8E4M3(b[0]).to_f32()),
        ];
        for (dtype, decode) in types {
            let drawn = draw(dtype, 4096);
            let values: Vec<f32> = drawn.chunks_exact(dtype.size()).map(decode).collect();
            assert!(values.iter().all(|v| (1.0 / 128.0..2.0).contains(&v.abs())), "{dtype}");
            assert!(values.iter().any(|v| *v < 0.0) && values.iter().any(|v| *v > 0.25), "{dtype}");
        }
        assert_eq!(draw(DType::I8, 3).len(), 3);
    }
}
