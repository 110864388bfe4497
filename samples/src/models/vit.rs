//! Vision transformers, as timm's `vit_*_patch16_224` with unfused attention are exported.
//!
//! Input: `image` [batch, 3, 224, 224]. Output: `logits` [batch, classes].

use slidec::onnx::build::node;
use slidec::sparsity::Orientation;
use std::fmt;
use std::path::Path;

use super::blocks::{gelu, join_heads, layer_norm, linear};
use super::exporter::{Exporter, Extent};
use super::weights::Kind;
use super::{GenerateError, Options};

/// ε of timm's norms.
const EPSILON: f32 = 1e-6;
/// Channels of an image.
const CHANNELS: usize = 3;

/// Sizes of a vision transformer.
#[derive(Clone, Copy, Debug)]
pub struct Vit {
    /// Width of the residual stream; the MLP is four times as wide.
    pub hidden: usize,
    /// Heads; divides `hidden`.
    pub heads: usize,
    /// Layers of the whole model.
    pub layers: usize,
    /// Width and height of a patch.
    pub patch: usize,
    /// Width and height of an image; a multiple of `patch`.
    pub image: usize,
    /// Classes of the head.
    pub classes: usize,
}

impl fmt::Display for Vit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vit { hidden, heads, layers, patch, image, .. } = self;
        write!(f, "hidden {hidden}, {heads} heads of {}, {layers} layers, images {image} in patches of {patch}", hidden / heads)
    }
}

impl Vit {
    /// Writes the model with `layers` layers to `path` and gives the number of parameters.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn generate(&self, path: &Path, layers: usize, options: &Options) -> Result<u64, GenerateError> {
        let mut e = Exporter::new(path, options)?;
        let dtype = e.dtype();
        let image = self.image.to_string();
        let image = e.input("image", dtype, &["batch_size", &CHANNELS.to_string(), &image, &image]);
        let mut x = self.embed(&mut e, &image)?;
        for layer in 0..layers {
            x = self.block(&mut e, layer, &x)?;
        }
        let x = layer_norm(&mut e, ("/norm", "norm"), &x, self.hidden, EPSILON)?;
        let first = e.int("", 0);
        let x = e.add("", node("Gather", &[&x, &first], &[]).attr("axis", 1i64));
        let weight = e.parameter("head.weight", Kind::Linear(Orientation::NK), &[self.classes, self.hidden])?;
        let bias = e.parameter("head.bias", Kind::Bias, &[self.classes])?;
        let logits = e.add("/head", node("Gemm", &[&x, &weight, &bias], &[]).attr("transB", 1i64));
        e.output(&logits, "logits", dtype, &["batch_size", &self.classes.to_string()]);
        e.finish()
    }

    /// [batch, 3, image, image] → [batch, 1 and patches, hidden].
    fn embed(&self, e: &mut Exporter, image: &str) -> Result<String, GenerateError> {
        let Vit { hidden, patch, .. } = *self;
        let patches = (self.image / patch).pow(2);
        let scope = "/patch_embed";
        let filters = e.parameter("patch_embed.proj.weight", Kind::Table, &[hidden, CHANNELS, patch, patch])?;
        let bias = e.parameter("patch_embed.proj.bias", Kind::Bias, &[hidden])?;
        let both = [patch as i64; 2];
        let convolution = node("Conv", &[image, &filters, &bias], &[])
            .attr("dilations", &[1i64, 1][..])
            .attr("group", 1i64)
            .attr("kernel_shape", &both[..])
            .attr("pads", &[0i64; 4][..])
            .attr("strides", &both[..]);
        let x = e.add(&format!("{scope}/proj"), convolution);
        // `flatten(2)`: the extents in front, then -1.
        let shape = e.op(scope, "Shape", &[&x]);
        let [start, end, axis] = [0, 2, 0].map(|n| e.ints(scope, &[n]));
        let front = e.op(scope, "Slice", &[&shape, &start, &end, &axis]);
        let rest = e.ints(scope, &[-1]);
        let shape = e.concat(scope, &[&front, &rest], 0);
        let x = e.op(scope, "Reshape", &[&x, &shape]);
        let x = e.transpose(scope, &x, &[0, 2, 1]);

        let batch = e.extent("", &x, 0);
        let class = e.parameter("cls_token", Kind::Table, &[1, 1, hidden])?;
        let class = e.expand("", &class, &[Extent::Of(&batch), Extent::Known(-1), Extent::Known(-1)]);
        let x = e.concat("", &[&class, &x], 1);
        let positions = e.parameter("pos_embed", Kind::Table, &[1, patches + 1, hidden])?;
        Ok(e.op("", "Add", &[&x, &positions]))
    }

    fn block(&self, e: &mut Exporter, layer: usize, x: &str) -> Result<String, GenerateError> {
        let (scope, prefix) = (format!("/blocks/blocks.{layer}"), format!("blocks.{layer}"));
        let hidden = self.hidden;
        let names = |module: &str| (format!("{scope}/{module}"), format!("{prefix}.{}", module.replace('/', ".")));
        let norm = |e: &mut Exporter, module: &str, x: &str| {
            let (scope, prefix) = names(module);
            layer_norm(e, (&scope, &prefix), x, hidden, EPSILON)
        };
        let project = |e: &mut Exporter, module: &str, x: &str, size| {
            let (scope, prefix) = names(module);
            linear(e, (&scope, &prefix), x, size, true)
        };
        let normal = norm(e, "norm1", x)?;
        let fused = project(e, "attn/qkv", &normal, [hidden, 3 * hidden])?;
        let attended = self.attention(e, &format!("{scope}/attn"), &fused);
        let attended = project(e, "attn/proj", &attended, [hidden, hidden])?;
        let x = e.op(&scope, "Add", &[x, &attended]);
        let normal = norm(e, "norm2", &x)?;
        let wide = project(e, "mlp/fc1", &normal, [hidden, 4 * hidden])?;
        let wide = gelu(e, &format!("{scope}/mlp/act"), &wide);
        let narrow = project(e, "mlp/fc2", &wide, [4 * hidden, hidden])?;
        Ok(e.op(&scope, "Add", &[&x, &narrow]))
    }

    /// Attention of q, k and v that are one value, [batch, tokens, 3·hidden]: `reshape(B, N, 3, heads, D).permute(2, 0, 3, 1, 4).unbind(0)`.
    fn attention(&self, e: &mut Exporter, scope: &str, fused: &str) -> String {
        let head = self.hidden / self.heads;
        let batch = e.extent(scope, fused, 0);
        let tokens = e.extent(scope, fused, 1);
        let [three, heads, depth] = [3, self.heads, head].map(|n| Extent::Known(n as i64));
        let parted = e.reshape(scope, fused, &[Extent::Of(&batch), Extent::Of(&tokens), three, heads, depth]);
        let parted = e.transpose(scope, &parted, &[2, 0, 3, 1, 4]);
        let parts = e.add_many(scope, node("Split", &[&parted], &[]).attr("axis", 0i64), 3);
        let axes = e.ints(scope, &[0]);
        let parts: Vec<String> = parts.iter().map(|part| e.op(scope, "Squeeze", &[part, &axes])).collect();
        let scale = e.number(scope, (head as f64).powf(-0.5));
        let query = e.op(scope, "Mul", &[&parts[0], &scale]);
        let key = e.transpose(scope, &parts[1], &[0, 1, 3, 2]);
        let scores = e.op(scope, "MatMul", &[&query, &key]);
        let probabilities = e.add(scope, node("Softmax", &[&scores], &[]).attr("axis", -1i64));
        let attended = e.op(scope, "MatMul", &[&probabilities, &parts[2]]);
        join_heads(e, scope, &attended, Extent::Known(self.hidden as i64))
    }
}
