"""Plans as a user makes them, through the command line: a model pruned once for each pattern and method, then compiled for each precision.

What runs is the deployed arithmetic: `sliderun run` on the CPU device, whose int8 accumulators equal those of every other device bit by bit.
"""

import dataclasses
import pathlib
import subprocess
import sys
import tempfile

import numpy

PATTERNS = ["6:8", "4:6", "2:4"]
# "permuted": K comes first in an order in which the pattern keeps more, by an index where nothing else can give it that order.
METHODS = ["magnitude", "magnitude permuted", "wanda", "wanda permuted", "sparsegpt", "sparsegpt permuted"]
# "calibrated": 8-bit products whose scales and smoothing go by calibration data, not by the largest magnitudes.
PRECISIONS = ["f32", "bf16", "fp8", "fp8 calibrated", "int8", "int8 calibrated"]


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is asked of a plan; without a pattern it is dense."""

    precision: str
    pattern: str = "dense"
    method: str = "none"

    def name(self):
        return "-".join([self.pattern.replace(":", "x"), *self.method.split(), *self.precision.split()])


def variants(patterns, methods, precisions):
    """Dense ones first, then by pattern and method."""
    yield from (Variant(precision) for precision in precisions)
    yield from (Variant(precision, pattern, method) for pattern in patterns for method in methods for precision in precisions)


class Compiler:
    """The two programs, and a folder for what they make of one model: what is there already is not made again."""

    def __init__(self, slidec, sliderun, folder, model, calibration):
        self.slidec, self.sliderun = str(slidec), str(sliderun)
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model, self.calibration = pathlib.Path(model), pathlib.Path(calibration)

    def plan(self, variant):
        """The plan of a variant."""
        plan = self.folder / f"{variant.name()}.slide"
        if not plan.exists():
            precision, *calibrated = variant.precision.split()
            method, *permuted = variant.method.split()
            data = ["--calib", self.calibration]
            what = ["--sparsity", variant.pattern, "--precision", precision]
            # An index for an order is part of a plan, no model file can have it: such plans are pruned as they are compiled.
            model = self.model if permuted else self._pruned(variant)
            what += ["--prune", method, "--permute", "all", *data] if permuted else data if calibrated else []
            self._call(self.slidec, "compile", model, "-o", plan, *what)
        return plan

    def _pruned(self, variant):
        if variant.pattern == "dense":
            return self.model
        pruned = self.folder / f"{variant.pattern.replace(':', 'x')}-{variant.method}.onnx"
        if not pruned.exists():
            data = [] if variant.method == "magnitude" else ["--calib", self.calibration]
            self._call(
                self.slidec, "prune", self.model, "-o", pruned, "--pattern", variant.pattern, "--method", variant.method, *data
            )
        return pruned

    def run(self, plan, inputs):
        """Outputs by name of a plan on arrays by name."""
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            command = [self.sliderun, "run", plan, "--output", folder / "out"]
            for name, array in inputs.items():
                numpy.save(folder / f"{name}.npy", array)
                command += ["--input", f"{name}={folder / name}.npy"]
            self._call(*command)
            return {file.stem: numpy.load(file) for file in (folder / "out").iterdir()}

    @staticmethod
    def _call(*command):
        result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\nfailed:\n{result.stderr}")
