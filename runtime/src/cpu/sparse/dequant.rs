//! CPU kernel of [`Dequant`].

use rayon::prelude::*;

use crate::cpu::elementwise::Activation;
use crate::cpu::gemm::required;
use crate::cpu::gemm::widen::{rounded, widened};
use crate::cpu::{Context, Kernel, KernelError};
use crate::dtype::Element;
use crate::op::sparse::Dequant;
use crate::tensor::{TensorView, TensorViewMut};

/// Elements that a parallel task should scale at least.
const GRAIN: usize = 1 << 14;

fn floats<'a>(view: TensorView<'a>) -> Result<&'a [f32], KernelError> {
    view.as_slice::<f32>().ok_or(KernelError::UnsupportedType("Dequant", view.dtype))
}

/// `out = activation(acc · token_scale · channel_scale + bias)`, in this order, row by row.
fn dequantize<A: Element>(
    acc: &[A],
    to_f32: impl Fn(A) -> f32 + Sync,
    token_scale: &[f32],
    channel_scale: &[f32],
    bias: Option<&[f32]>,
    activation: Option<&Activation>,
    out: &mut [f32],
) {
    let n = channel_scale.len();
    if n == 0 {
        return;
    }
    let rows = out.par_chunks_exact_mut(n).zip(acc.par_chunks_exact(n)).zip(token_scale.par_iter());
    rows.with_min_len((GRAIN / n).max(1)).for_each(|((out, acc), &token)| {
        for ((to, &acc), &channel) in out.iter_mut().zip(acc).zip(channel_scale) {
            *to = to_f32(acc) * token * channel;
        }
        for (to, bias) in out.iter_mut().zip(bias.unwrap_or_default()) {
            *to += bias;
        }
        if let Some(activation) = activation {
            activation.apply(out);
        }
    });
}

impl Kernel for Dequant {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let acc = required(inputs, 0)?;
        let (token_scale, channel_scale) = (floats(required(inputs, 1)?)?, floats(required(inputs, 2)?)?);
        let bias = inputs.get(3).copied().flatten().map(floats).transpose()?;
        let activation = self.activation.map(Activation::new);
        let activation = activation.as_ref();
        rounded("Dequant", &mut outputs[0], |out| {
            if let Some(acc) = acc.as_slice::<i32>() {
                dequantize(acc, |v| v as f32, token_scale, channel_scale, bias, activation, out);
            } else {
                dequantize(&widened("Dequant", acc)?, |v| v, token_scale, channel_scale, bias, activation, out);
            }
            Ok(())
        })
    }
}
