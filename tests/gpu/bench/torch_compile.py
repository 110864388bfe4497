#!/usr/bin/env python3
"""Times MiniLM-L3 in bf16 with torch.compile on the GPU: the peer of our plans, to be run on the same machine right after them.

The weights come from the ONNX file; the modules are plain torch ones. Needs torch; where onnxruntime is there, the model is checked against it.
Prints microseconds a call: of torch.compile(mode="reduce-overhead") as a user calls it, and of a CUDA graph of the compiled model alone.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F

from onnx_file import OnnxFile


class MiniLM(torch.nn.Module):
    """BERT of three layers with 12 heads, and the masked mean of its last layer."""

    def __init__(self, path, heads=12):
        super().__init__()
        file = OnnxFile(path)
        self.heads = heads
        root = next(name for name in file.nodes if name.endswith("embeddings/word_embeddings/Gather"))
        root = root[: -len("embeddings/word_embeddings/Gather")]

        def operand(node):
            return file.constant_input(root + node)

        def linear(node):
            weight, bias = operand(node + "/MatMul"), operand(node + "/Add")
            layer = torch.nn.Linear(weight.shape[0], weight.shape[1])
            layer.weight.data, layer.bias.data = weight.T.contiguous(), bias
            return layer

        def norm(node):
            _, scale, bias = file.nodes[root + node + "/LayerNormalization"]
            scale, bias = file.tensor(scale), file.tensor(bias)
            layer = torch.nn.LayerNorm(scale.numel(), eps=1e-12)
            layer.weight.data, layer.bias.data = scale, bias
            return layer

        self.words = torch.nn.Parameter(operand("embeddings/word_embeddings/Gather"))
        self.types = torch.nn.Parameter(operand("embeddings/token_type_embeddings/Gather"))
        self.positions = torch.nn.Parameter(operand("embeddings/position_embeddings/Gather"))
        self.norm = norm("embeddings/LayerNorm")
        self.layers = torch.nn.ModuleList()
        for i in range(3):
            layer = torch.nn.Module()
            for name in ["attention/self/query", "attention/self/key", "attention/self/value", "attention/output/dense", "intermediate/dense", "output/dense"]:
                setattr(layer, name.replace("/", "_"), linear(f"encoder/layer.{i}/{name}"))
            layer.after_attention = norm(f"encoder/layer.{i}/attention/output/LayerNorm")
            layer.after_output = norm(f"encoder/layer.{i}/output/LayerNorm")
            self.layers.append(layer)

    def forward(self, ids, mask):
        batch, length = ids.shape
        x = self.words[ids] + self.types[0] + self.positions[:length]
        x = self.norm(x)
        bias = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(mask == 0, torch.finfo(x.dtype).min)[:, None, None, :]
        split = lambda t: t.view(batch, length, self.heads, -1).transpose(1, 2)
        for layer in self.layers:
            q, k, v = split(layer.attention_self_query(x)), split(layer.attention_self_key(x)), split(layer.attention_self_value(x))
            a = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(batch, length, -1)
            x = layer.after_attention(x + layer.attention_output_dense(a))
            x = layer.after_output(x + layer.output_dense(F.gelu(layer.intermediate_dense(x))))
        weight = mask[:, :, None].to(x.dtype)
        return (x * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def times(call, count=300):
    """Microseconds of each call, by events."""
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for before, after in events:
        before.record()
        call()
        after.record()
        after.synchronize()
    return [before.elapsed_time(after) * 1e3 for before, after in events]


def show(what, values):
    ordered = sorted(values)
    print(f"{what:<58} median {statistics.median(values):8.1f} µs, min {ordered[0]:.1f}, p90 {ordered[len(ordered) * 9 // 10]:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sequence", type=int, default=128)
    arguments = parser.parse_args()
    model = MiniLM(arguments.model).eval()
    shape = (arguments.batch, arguments.sequence)
    ids, mask = torch.randint(0, 1000, shape), torch.ones(shape, dtype=torch.long)
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, MiniLM-L3 {shape[0]}×{shape[1]}")
    with torch.inference_mode():
        try:
            import onnxruntime

            session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
            expected = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[-1]
            difference = (model(ids, mask) - torch.from_numpy(expected)).norm() / torch.from_numpy(expected).norm()
            print(f"f32 on the CPU against onnxruntime: relative difference {difference:.1e}")
        except ImportError:
            print("not checked: onnxruntime is not there")
        model, ids, mask = model.to("cuda", torch.bfloat16), ids.cuda(), mask.cuda()
        show("eager", times(lambda: model(ids, mask), 50))
        compiled = torch.compile(model, mode="reduce-overhead")
        for _ in range(10):
            compiled(ids, mask)
        show('torch.compile(mode="reduce-overhead"), as called', times(lambda: compiled(ids, mask)))
        torch._dynamo.reset()
        compiled = torch.compile(model)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(5):
                compiled(ids, mask)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            compiled(ids, mask)
        show("torch.compile, replay of one CUDA graph of it", times(graph.replay))


if __name__ == "__main__":
    main()
