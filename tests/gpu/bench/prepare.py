"""Models and plans, made where they are measured: by `generate`, `slidec prune` and `slidec compile`, side by side."""

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

# Made at the same time; each uses several threads by itself.
AT_ONCE = 6


class Failed(Exception):
    """Why a file was not made."""


class Workshop:
    """Makes files of one model, each once."""

    def __init__(self, model, programs, folder, target):
        self.programs, self.target = programs, target
        self.folder = os.path.join(folder, model)
        os.makedirs(self.folder, exist_ok=True)
        self.pool = ThreadPoolExecutor(AT_ONCE)
        self.dense = self.path("model.onnx")
        if not os.path.exists(self.dense):
            self.call("generate", model, "--dtype", "bf16", "--out", self.dense)
        self.pruned = {}

    def path(self, name):
        return os.path.join(self.folder, name.replace(":", "x").replace(" ", "-"))

    def call(self, program, *arguments):
        """Runs a program and gives what it prints, and the seconds it took."""
        command = [os.path.join(self.programs, program), *arguments]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"`{' '.join(command)}` failed with {done.returncode}: {done.stderr.strip()[-600:]}")
        return done.stdout, time.perf_counter() - start

    def model(self, pattern):
        """The model whose weights a pattern holds for, in the making; without a pattern as it is."""
        if pattern is None:
            return self.pool.submit(lambda: self.dense)
        if pattern not in self.pruned:
            self.pruned[pattern] = self.pool.submit(self.prune, pattern)
        return self.pruned[pattern]

    def prune(self, pattern):
        path = self.path(f"model {pattern}.onnx")
        if not os.path.exists(path):
            self.call("slidec", "prune", self.dense, "-o", path, "--pattern", pattern)
        return path

    def plan(self, name, pattern, precision):
        """A plan in the making: its file and what the log says of it."""
        # In front of the plans that wait for it: the pool begins what was given first.
        model = self.model(pattern)
        return self.pool.submit(self.compile, name, model, pattern, precision)

    def compile(self, name, model, pattern, precision):
        path = self.path(f"{name}.slide")
        choice = ["--sparsity", pattern or "dense", "--precision", precision, "--target", self.target]
        report, seconds = self.call("slidec", "compile", model.result(), "-o", path, *choice, "--json")
        verdicts = [v for v in json.loads(report)["verdicts"] if v["reason"] != "both operands are computed"]
        weights = [(v["n"] * v["k"], v["sparse"]) for v in verdicts if isinstance(v["n"], int) and isinstance(v["k"], int)]
        everything = sum(size for size, _ in weights)
        return path, {
            "seconds": seconds,
            "bytes": os.path.getsize(path),
            "products": len(weights),
            "sparse_products": sum(sparse for _, sparse in weights),
            "sparse_weights": sum(size for size, sparse in weights if sparse) / max(everything, 1),
            "weights": everything,
        }
