"""The models in PyTorch, as Hugging Face's and timm's implementations compute them, with the weights of an ONNX file."""

import torch
import torch.nn.functional as F

from suite import MODELS


class Linear(torch.nn.Module):
    """x · weightᵀ + bias."""

    def __init__(self, weight, bias):
        super().__init__()
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias)

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Fp8Linear(torch.nn.Module):
    """The same in e4m3: a scale for each output channel, made once, and one for each token, made from it each time."""

    LARGEST = 448.0

    def __init__(self, weight, bias):
        super().__init__()
        scale = weight.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / self.LARGEST
        self.register_buffer("weight", (weight.float() / scale).to(torch.float8_e4m3fn).contiguous())
        self.register_buffer("scale", scale.reshape(1, -1).contiguous())
        self.register_buffer("bias", bias)

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        scale = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / self.LARGEST
        quantized = (rows.float() / scale).clamp(-self.LARGEST, self.LARGEST).to(torch.float8_e4m3fn)
        if x.is_cuda:
            scales = {"scale_a": scale, "scale_b": self.scale, "use_fast_accum": True}
            product = torch._scaled_mm(quantized, self.weight.t(), bias=self.bias, out_dtype=x.dtype, **scales)
        else:
            # On the CPU it knows one scale for all.
            one = torch.ones(())
            product = torch._scaled_mm(quantized, self.weight.t(), scale_a=one, scale_b=one, out_dtype=torch.float32) * scale * self.scale
            product = (product if self.bias is None else product + self.bias).to(x.dtype)
        return product.reshape(*x.shape[:-1], -1)


class Loader:
    """Makes modules of what an ONNX file holds, on a device, where weights are converted; linear layers of a given class."""

    def __init__(self, file, dtype, linear, device):
        self.file, self.dtype, self.kind, self.device = file, dtype, linear, device

    def parameter(self, name):
        return self.file.tensor(name).to(self.device).to(self.dtype)

    def constant(self, node):
        return self.file.constant_input(node).to(self.device).to(self.dtype)

    def linear(self, scope):
        add = f"{scope}/Add"
        return self.kind(self.constant(f"{scope}/MatMul").t(), self.constant(add) if add in self.file.nodes else None)

    def norm(self, prefix):
        norm = torch.nn.Module()
        norm.register_buffer("weight", self.parameter(f"{prefix}.weight"))
        if f"{prefix}.bias" in self.file:
            norm.register_buffer("bias", self.parameter(f"{prefix}.bias"))
        return norm


def layer_norm(norm, x, epsilon):
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, epsilon)


def rms_norm(norm, x, epsilon):
    wide = x.float()
    return norm.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def split(x, head):
    """[batch, tokens, heads·D] → [batch, heads, tokens, D]."""
    return x.unflatten(-1, (-1, head)).transpose(1, 2)


def join(x):
    return x.transpose(1, 2).flatten(2)


class Decoder(torch.nn.Module):
    """One layer of Llama or Qwen2.5."""

    def __init__(self, sizes, load):
        super().__init__()
        self.sizes = sizes
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"]:
            setattr(self, name, load.linear(f"/model/layers.0/self_attn/{name}"))
        for name in ["gate_proj", "up_proj", "down_proj"]:
            setattr(self, name, load.linear(f"/model/layers.0/mlp/{name}"))
        for name in ["input_layernorm", "post_attention_layernorm"]:
            setattr(self, name, load.norm(f"model.layers.0.{name}"))
        half = sizes["head"] // 2
        frequencies = sizes["theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        self.register_buffer("frequencies", frequencies.float())

    def forward(self, hidden_states, position_ids):
        head, epsilon = self.sizes["head"], self.sizes["epsilon"]
        angles = position_ids[:, None, :, None].float() * self.frequencies
        angles = torch.cat((angles, angles), -1)
        cos, sin = angles.cos().to(hidden_states.dtype), angles.sin().to(hidden_states.dtype)

        def rotate(x):
            first, second = x.chunk(2, -1)
            return x * cos + torch.cat((-second, first), -1) * sin

        x = rms_norm(self.input_layernorm, hidden_states, epsilon)
        query, key = rotate(split(self.q_proj(x), head)), rotate(split(self.k_proj(x), head))
        value = split(self.v_proj(x), head)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        x = hidden_states + self.o_proj(join(attended))
        normal = rms_norm(self.post_attention_layernorm, x, epsilon)
        x = x + self.down_proj(F.silu(self.gate_proj(normal)) * self.up_proj(normal))
        return {"last_hidden_state": x, "present.0.key": key, "present.0.value": value}


class Encoder(torch.nn.Module):
    """BERT without embeddings."""

    LINEAR = ["attention/self/query", "attention/self/key", "attention/self/value", "attention/output/dense", "intermediate/dense", "output/dense"]

    def __init__(self, sizes, load):
        super().__init__()
        self.sizes = sizes
        self.layers = torch.nn.ModuleList()
        for i in range(sizes["layers"]):
            layer = torch.nn.Module()
            for name in self.LINEAR:
                setattr(layer, name.replace("/", "_"), load.linear(f"/encoder/layer.{i}/{name}"))
            for name in ["attention.output.LayerNorm", "output.LayerNorm"]:
                setattr(layer, name.replace(".", "_"), load.norm(f"encoder.layer.{i}.{name}"))
            self.layers.append(layer)

    def forward(self, hidden_states, attention_mask):
        x, epsilon = hidden_states, self.sizes["epsilon"]
        head = x.shape[-1] // self.sizes["heads"]
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        mask = mask.expand(-1, -1, x.shape[1], -1)
        for layer in self.layers:
            parts = [layer.attention_self_query(x), layer.attention_self_key(x), layer.attention_self_value(x)]
            attended = F.scaled_dot_product_attention(*(split(part, head) for part in parts), attn_mask=mask)
            x = layer_norm(layer.attention_output_LayerNorm, layer.attention_output_dense(join(attended)) + x, epsilon)
            wide = F.gelu(layer.intermediate_dense(x))
            x = layer_norm(layer.output_LayerNorm, layer.output_dense(wide) + x, epsilon)
        return {"last_hidden_state": x}


class Vit(torch.nn.Module):
    """timm's vision transformer with its head."""

    def __init__(self, sizes, load):
        super().__init__()
        self.sizes = sizes
        for name in ["patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed", "head.weight", "head.bias"]:
            self.register_buffer(name.replace(".", "_"), load.parameter(name))
        self.blocks = torch.nn.ModuleList()
        for i in range(sizes["layers"]):
            block = torch.nn.Module()
            for name in ["attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2"]:
                setattr(block, name.split("/")[1], load.linear(f"/blocks/blocks.{i}/{name}"))
            for name in ["norm1", "norm2"]:
                setattr(block, name, load.norm(f"blocks.{i}.{name}"))
            self.blocks.append(block)
        self.norm = load.norm("norm")

    def forward(self, image):
        epsilon, heads = self.sizes["epsilon"], self.sizes["heads"]
        patches = F.conv2d(image, self.patch_embed_proj_weight, self.patch_embed_proj_bias, stride=self.patch_embed_proj_weight.shape[-1])
        x = patches.flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1) + self.pos_embed
        for block in self.blocks:
            fused = block.qkv(layer_norm(block.norm1, x, epsilon))
            query, key, value = fused.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            x = x + block.proj(join(F.scaled_dot_product_attention(query, key, value)))
            x = x + block.fc2(F.gelu(block.fc1(layer_norm(block.norm2, x, epsilon))))
        x = layer_norm(self.norm, x, epsilon)[:, 0]
        return {"logits": F.linear(x, self.head_weight, self.head_bias)}


def network(model, file, dtype, fp8, device):
    """A model with the weights of an ONNX file, on a device."""
    sizes = MODELS[model]
    kind = {"decoder": Decoder, "encoder": Encoder, "vit": Vit}[sizes["family"]]
    return kind(sizes, Loader(file, dtype, Fp8Linear if fp8 else Linear, device)).to(device).eval()
