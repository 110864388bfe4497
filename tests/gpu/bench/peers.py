"""torch.compile as an engine, replayed as a CUDA graph as plans are, and PyTorch in f32 as the reference."""

import os
import statistics
import time

import torch

import tensors
from networks import network
from onnx_file import OnnxFile
from ours import EngineError


def read_inputs(folder, device):
    files = [file for file in os.listdir(folder) if file.endswith(".npy")]
    return {file[:-len(".npy")]: tensors.read(os.path.join(folder, file)).to(device) for file in files}


class Compiled:
    """A model compiled by torch.compile; on a GPU its calls are one CUDA graph."""

    ours = False

    def __init__(self, name, model, path, fp8, device, mode):
        self.name, self.device, self.mode = name, device, mode
        self.network = network(model, OnnxFile(path), torch.bfloat16, fp8, device)
        self.graph = self.inputs = self.results = None

    def prepare(self, inputs):
        """Takes the inputs of a folder, compiles for their shape and records the graph."""
        self.graph = self.results = None
        self.inputs = read_inputs(inputs, self.device)
        start = time.perf_counter()
        try:
            self.compile()
        except Exception as error:  # Whatever the compiler's stack of libraries raises.
            raise EngineError(f"{type(error).__name__}: {str(error)[-400:]}") from error
        return {"compile_seconds": time.perf_counter() - start}

    def compile(self):
        # Each shape is compiled for itself; what was compiled before lives on in no graph that counts.
        torch._dynamo.reset()
        if self.device == "cpu":
            self.call = torch.compile(self.network, backend="eager", dynamic=False, fullgraph=True)
            self.run()
            return
        compiled = torch.compile(self.network, mode=self.mode, dynamic=False, fullgraph=True)
        with torch.no_grad():
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    compiled(**self.inputs)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.results = compiled(**self.inputs)
        graph.replay()
        torch.cuda.synchronize()
        self.graph = graph

    def run(self):
        if self.graph is not None:
            self.graph.replay()
            return
        with torch.no_grad():
            self.results = self.call(**self.inputs)

    def outputs(self):
        """By name."""
        self.run()
        return self.results

    def filling(self, seconds):
        """How many runs fill a time."""
        each = statistics.median(self.times(5)) * 1e-6
        return max(5, round(seconds / each))

    def times(self, count):
        """Microseconds of runs that are waited for."""
        if self.device == "cpu":
            found = []
            for _ in range(count):
                start = time.perf_counter()
                self.run()
                found.append((time.perf_counter() - start) * 1e6)
            return found
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
        for before, after in events:
            before.record()
            self.run()
            after.record()
            after.synchronize()
        return [before.elapsed_time(after) * 1e3 for before, after in events]

    def burst(self, seconds):
        """Runs that are waited for."""
        found = self.times(self.filling(seconds))
        return {"us": statistics.median(found), "min_us": min(found), "runs": len(found)}

    def steady(self, seconds):
        """Runs that follow each other without a wait."""
        count = self.filling(seconds)
        if self.device == "cpu":
            return {"us": statistics.mean(self.times(count)), "runs": count}
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        for _ in range(count):
            self.run()
        after.record()
        after.synchronize()
        return {"us": before.elapsed_time(after) * 1e3 / count, "runs": count}

    def close(self):
        self.graph = self.results = self.network = None
        if self.device != "cpu":
            torch.cuda.empty_cache()


class Reference:
    """What a model computes in f32, by the file of its weights."""

    def __init__(self, model, device):
        self.model, self.device, self.networks = model, device, {}

    def outputs(self, path, inputs):
        if path not in self.networks:
            self.networks[path] = network(self.model, OnnxFile(path), torch.float32, False, self.device)
        given = read_inputs(inputs, self.device)
        given = {name: x.float() if x.is_floating_point() else x for name, x in given.items()}
        with torch.no_grad():
            return self.networks[path](**given)

    def distance(self, expected, found):
        """Largest over the outputs of ‖found − expected‖ / ‖expected‖; not a number where something is not finite."""
        if set(expected) != set(found):
            raise EngineError(f"its outputs are {sorted(found)}, not {sorted(expected)}")
        distances = []
        for name, wanted in expected.items():
            got = found[name].to(self.device).float()
            if got.shape != wanted.shape:
                raise EngineError(f"{name} is {list(got.shape)}, not {list(wanted.shape)}")
            distances.append(((got - wanted).norm() / wanted.norm()).item())
        return max(distances) if all(d == d for d in distances) else float("nan")
