//! Weights in the element type that a product multiplies: per output channel, symmetric for int8 and e4m3; rounded for the 16-bit
//! floats.

use half::{bf16, f16};
use rayon::prelude::*;
use sliderun::dtype::{DType, Element};
use sliderun::f8::F8E4M3;
use sliderun::tensor::Tensor;

use super::Weight;
use super::scales::{Code, RowScale, Scales, by_absmax, by_error};

/// A weight in the element type that it is multiplied in.
#[derive(Clone, Debug)]
pub struct QuantizedWeight {
    /// [N, K]: I8, F8e4m3, Bf16, F16 or F32.
    pub values: Tensor,
    /// Scale per output channel; none for the float types.
    pub scales: Option<Vec<f32>>,
}

/// Converts a weight to `to`: I8, F8e4m3, Bf16, F16 or F32. For the first two, `q = round_half_even(w / divisor[n])`, of magnitude 127 or 448
/// at most, and `scale[n]` are found as `scales` says; by largest magnitude, both are `absmax(w[n, ..])` divided by 127 or 448. Zeros stay
/// zeros whatever the scales, and a row of zeros (or of magnitudes below [`sliderun::sparse::TINY`]) has scale 1.
///
/// # Panics
/// For another element type: which ones exist is checked where options are read. For moments that are not one per input.
pub fn quantize(weight: &Weight, to: DType, scales: Scales<'_>) -> QuantizedWeight {
    match to {
        DType::I8 => per_channel(weight, scales, |v| v.round_ties_even().clamp(-127.0, 127.0) as i8),
        DType::F8e4m3 => per_channel(weight, scales, F8E4M3::from_f32),
        DType::Bf16 => rounded(weight, bf16::from_f32),
        DType::F16 => rounded(weight, f16::from_f32),
        DType::F32 => rounded(weight, |v| v),
        other => panic!("no product multiplies weights of type {other}"),
    }
}

fn per_channel<T: Element + Code>(weight: &Weight, scales: Scales<'_>, encode: fn(f32) -> T) -> QuantizedWeight {
    let alike = vec![1.0; weight.k];
    let rows: Vec<Option<RowScale>> = match scales {
        Scales::AbsMax => weight.rows().map(by_absmax::<T>).collect(),
        Scales::LeastError(moments) => {
            let moments = moments.unwrap_or(&alike);
            assert_eq!(moments.len(), weight.k, "there is one moment for each input");
            weight.rows().map(|row| by_error::<T>(row, moments)).collect()
        }
    };
    let zero = encode(0.0);
    let values: Vec<T> = weight
        .rows()
        .zip(&rows)
        .flat_map_iter(|(row, by)| row.iter().map(move |v| by.map_or(zero, |by| encode(v / by.divisor))))
        .collect();
    QuantizedWeight {
        values: matrix(weight, &values),
        scales: Some(rows.iter().map(|by| by.map_or(1.0, |by| by.scale)).collect()),
    }
}

fn rounded<T: Element>(weight: &Weight, round: fn(f32) -> T) -> QuantizedWeight {
    let values: Vec<T> = weight.values.par_iter().map(|v| round(*v)).collect();
    QuantizedWeight { values: matrix(weight, &values), scales: None }
}

fn matrix<T: Element>(weight: &Weight, values: &[T]) -> Tensor {
    Tensor::from_slice(&[weight.n, weight.k], values).expect("a weight has N·K values")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_is_symmetric_per_channel() {
        let weight = Weight { n: 3, k: 4, values: vec![1.0, -2.0, 0.5, 0.0, 0.0, 1e-38, 0.0, 0.0, 254.0, 1.0, 3.0, -254.0] };
        let q = quantize(&weight, DType::I8, Scales::AbsMax);
        assert_eq!(q.scales, Some(vec![2.0 / 127.0, 1.0, 2.0]));
        let values = q.values.as_slice::<i8>().unwrap();
        // 0.5 / (2/127) = 31.75; 1/2 and 3/2 are ties and go to the even neighbour.
        assert_eq!(values, [64, -127, 32, 0, 0, 0, 0, 0, 127, 0, 2, -127]);
    }

    #[test]
    fn e4m3_uses_the_whole_range() {
        let weight = Weight { n: 1, k: 3, values: vec![0.1, -0.2, 0.0] };
        let q = quantize(&weight, DType::F8e4m3, Scales::AbsMax);
        let scale = q.scales.as_ref().unwrap()[0];
        let back: Vec<f32> = q.values.as_slice::<F8E4M3>().unwrap().iter().map(|v| v.to_f32() * scale).collect();
        assert!((back[0] - 0.1).abs() < 1e-6 && (back[1] + 0.2).abs() < 1e-6 && back[2] == 0.0, "{back:?}");
    }
}
