#!/usr/bin/env python3
"""Times MiniLM-L3 in bf16 with torch.compile on the GPU: the peer of our plans, to be run on the same machine right after them.

The weights come from the ONNX file; the modules are plain torch ones. Needs torch; where onnxruntime is there, the model is checked against it.
Prints microseconds a call: of torch.compile(mode="reduce-overhead") as a user calls it, and of a CUDA graph of the compiled model alone.
"""

import argparse
import statistics
import struct

import torch
import torch.nn.functional as F


def fields(data):
    """(number, value) of each field of a protobuf message: integers, or bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            length = {1: 8, 5: 4}[key & 7] if key & 7 != 2 else varint()
            yield key >> 3, data[at:at + length]
            at += length


def read_model(path):
    """By the name of each node, its inputs; by the name of each f32 initializer, its tensor."""
    with open(path, "rb") as file:
        model = memoryview(file.read())
    graph = next(value for number, value in fields(model) if number == 7)
    nodes, tensors = {}, {}
    for number, value in fields(graph):
        if number == 1:
            parts = list(fields(value))
            names = [bytes(v).decode() for n, v in parts if n == 3]
            nodes[names[0] if names else ""] = [bytes(v).decode() for n, v in parts if n == 1]
        elif number == 5:
            parts = list(fields(value))
            data = [v for n, v in parts if n == 9]
            if data and (2, 1) in parts:
                dims = [v for n, v in parts if n == 1]
                name = next(bytes(v).decode() for n, v in parts if n == 8)
                count = len(data[0]) // 4
                values = torch.tensor(struct.unpack(f"<{count}f", data[0]))
                tensors[name] = (dims, values)
    return nodes, tensors


class MiniLM(torch.nn.Module):
    """BERT of three layers with 12 heads, and the masked mean of its last layer."""

    def __init__(self, path, heads=12):
        super().__init__()
        nodes, tensors = read_model(path)
        self.heads = heads
        root = next(name for name in nodes if name.endswith("embeddings/word_embeddings/Gather"))
        root = root[: -len("embeddings/word_embeddings/Gather")]

        def operand(node):
            found = [tensors[i] for i in nodes[root + node] if i in tensors and tensors[i][1].numel() > 1]
            dims, values = found[0]
            return values.reshape(dims)

        def linear(node):
            weight, bias = operand(node + "/MatMul"), operand(node + "/Add")
            layer = torch.nn.Linear(weight.shape[0], weight.shape[1])
            layer.weight.data, layer.bias.data = weight.T.contiguous(), bias
            return layer

        def norm(node):
            _, scale, bias = nodes[root + node + "/LayerNormalization"]
            layer = torch.nn.LayerNorm(tensors[scale][1].numel(), eps=1e-12)
            layer.weight.data, layer.bias.data = tensors[scale][1], tensors[bias][1]
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
