//! Random inputs, the same for the same seed on every machine.

use half::{bf16, f16};

use crate::dim::Bindings;
use crate::dtype::DType;
use crate::f8::{F8E4M3, F8E5M2};
use crate::session::{Port, SessionError};
use crate::splitmix::SplitMix64;
use crate::tensor::Tensor;

impl SplitMix64 {
    /// Uniform over 0..n, for a small n above 0.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform with mean 0 and variance 1.
    fn float(&mut self) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1u64 << 24) as f32;
        (unit * 2.0 - 1.0) * 3f32.sqrt()
    }
}

/// How elements of an integer input are drawn. Nothing tells what an integer input means but its name: token ids index tables of thousands
/// of rows, masks are runs of ones, and everything else is safest as 0 or 1 (token types, flags, positions).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Integers {
    TokenIds,
    Mask,
    Bits,
}

impl Integers {
    fn of(name: &str) -> Self {
        let name = name.to_lowercase();
        match () {
            () if name.contains("input_ids") || name.contains("token_ids") => Integers::TokenIds,
            () if name.contains("mask") => Integers::Mask,
            () => Integers::Bits,
        }
    }
}

/// Random tensors for inputs, by name, in order. Floats are uniform with mean 0 and variance 1; integers and booleans are 0 or 1, except
/// that inputs called like token ids are below 1000, and each row of an input called like a mask is ones, at least one, then zeros.
///
/// # Errors
/// Symbols without a value, extents that do not fit in memory.
pub fn inputs(ports: &[Port], symbols: &Bindings, seed: u64) -> Result<Vec<(String, Tensor)>, SessionError> {
    let mut random = SplitMix64(seed);
    ports.iter().map(|port| Ok((port.name.clone(), input(port, symbols, &mut random)?))).collect()
}

/// `count` elements as bytes: floats as inputs get them, integers over most of the range of i8.
pub fn operand(dtype: DType, count: usize, seed: u64) -> Vec<u8> {
    let mut random = SplitMix64(seed);
    let mut bytes = vec![0; count * dtype.size()];
    for element in bytes.chunks_exact_mut(dtype.size()) {
        match dtype {
            DType::I8 => element[0] = (random.float() * 73.0) as i8 as u8,
            _ if dtype.is_float() => write_float(dtype, random.float(), element),
            _ => element[0] = random.below(128) as u8,
        }
    }
    bytes
}

fn input(port: &Port, symbols: &Bindings, random: &mut SplitMix64) -> Result<Tensor, SessionError> {
    let fail = |reason: String| SessionError::Value { value: port.name.clone(), ty: port.ty.clone(), reason };
    let shape = port.ty.shape.iter().map(|d| d.eval_usize(symbols)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|e| fail(e.to_string()))?;
    let mut tensor = Tensor::zeros(port.ty.dtype, &shape).map_err(|e| fail(e.to_string()))?;
    let dtype = tensor.dtype();
    if dtype.is_float() {
        for element in tensor.bytes_mut().chunks_exact_mut(dtype.size()) {
            write_float(dtype, random.float(), element);
        }
        return Ok(tensor);
    }
    let kind = Integers::of(&port.name);
    let row = shape.last().copied().unwrap_or(1).max(1);
    for row in tensor.bytes_mut().chunks_mut(row * dtype.size()) {
        let elements = row.len() / dtype.size();
        let ones = 1 + random.below(elements.max(1));
        for (i, element) in row.chunks_exact_mut(dtype.size()).enumerate() {
            let value = match kind {
                Integers::TokenIds => random.below(if dtype.size() == 1 { 100 } else { 1000 }),
                Integers::Mask => usize::from(i < ones),
                Integers::Bits => random.below(2),
            };
            // Little-endian; the types that are wider than two bytes have zeros in the rest.
            element.iter_mut().zip(value.to_le_bytes()).for_each(|(byte, v)| *byte = v);
        }
    }
    Ok(tensor)
}

fn write_float(dtype: DType, value: f32, out: &mut [u8]) {
    match dtype {
        DType::F64 => out.copy_from_slice(&f64::from(value).to_le_bytes()),
        DType::F16 => out.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        DType::Bf16 => out.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        DType::F8e4m3 => out.copy_from_slice(bytemuck::bytes_of(&F8E4M3::from_f32(value))),
        DType::F8e5m2 => out.copy_from_slice(bytemuck::bytes_of(&F8E5M2::from_f32(value))),
        _ => out.copy_from_slice(&value.to_le_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::TensorType;

    #[test]
    fn every_type_is_plausible_and_reproducible() {
        let names = ["x", "input_ids", "attention_mask", "token_type_ids"];
        let ports: Vec<Port> = DType::ALL
            .into_iter()
            .flat_map(|d| {
                names.map(|n| Port { name: n.to_owned(), ty: TensorType::new(d, [3.into(), crate::dim::Dim::symbol("s")]) })
            })
            .collect();
        let symbols = Bindings::from([("s".to_owned(), 50)]);
        let tensors = inputs(&ports, &symbols, 7).unwrap();
        let again = inputs(&ports, &symbols, 7).unwrap();
        for ((port, (name, tensor)), (_, same)) in ports.iter().zip(&tensors).zip(&again) {
            assert_eq!((name, tensor.shape()), (&port.name, &[3usize, 50][..]));
            assert_eq!(tensor.bytes(), same.bytes());
            if let Some(values) = tensor.as_slice::<i64>() {
                let most = if name == "input_ids" { 999 } else { 1 };
                assert!(values.iter().all(|v| (0..=most).contains(v)), "{name}");
                assert!(name != "attention_mask" || values.chunks(50).all(|row| row[0] == 1 && row.is_sorted_by(|a, b| a >= b)));
            }
            if let Some(values) = tensor.as_slice::<f32>() {
                assert!(values.iter().all(|v| v.abs() <= 1.7321) && values.iter().any(|v| *v < 0.0));
            }
        }
        assert!(inputs(&ports, &Bindings::new(), 7).is_err());
    }
}
