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
        self.pruned, self.plans = {}, {}

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

    def plan(self, pattern, precision):
        """A plan in the making, unless an earlier run made it: its file and what the log says of it."""
        if (pattern, precision) not in self.plans:
            # In front of the plans that wait for it: the pool begins what was given first.
            model = self.model(pattern)
            self.plans[pattern, precision] = self.pool.submit(self.compile, model, pattern, precision)
        return self.plans[pattern, precision]

    def compile(self, model, pattern, precision):
        path = self.path(f"{precision} {pattern or 'dense'}.slide")
        known = f"{path}.json"
        if os.path.exists(known):
            with open(known) as file:
                return path, json.load(file)
        choice = ["--sparsity", pattern or "dense", "--precision", precision, "--target", self.target]
        report, seconds = self.call("slidec", "compile", model.result(), "-o", path, *choice, "--json")
        verdicts = [v for v in json.loads(report)["verdicts"] if v["reason"] != "both operands are computed"]
        cuda = json.loads(self.call("sliderun", "inspect", path, "--json")[0])["cuda"]
        said = {
            "pattern": pattern,
            "seconds": seconds,
            "bytes": os.path.getsize(path),
            "products": len(verdicts),
            "sparse_products": sum(v["sparse"] for v in verdicts),
            # Of each variant for GPUs, the share of the products' work that sparse ones do.
            "variants": {variant["name"]: variant["sparse"]["of_work"] for variant in cuda["variants"]} if cuda else {},
        }
        with open(known, "w") as file:
            json.dump(said, file)
        return path, said
