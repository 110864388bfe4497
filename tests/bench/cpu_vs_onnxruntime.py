"""Latency of compiled plans and of ONNX Runtime on the CPU, interleaved: every engine takes its turn in every round.

Prints the median over rounds of each engine's median latency, and its ratio to ONNX Runtime within the same round.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy
import onnxruntime


def parse_shape(text):
    return {name: int(value) for name, value in (part.split("=") for part in text.split(","))}


def inputs_for(session, shape):
    """Token ids below 1000 and masks of ones, in the extents asked for."""
    generator = numpy.random.default_rng(0)
    feeds = {}
    for spec in session.get_inputs():
        extents = [shape.get(d, d) for d in spec.shape]
        if not all(isinstance(d, int) for d in extents):
            sys.exit(f"input {spec.name} has the symbolic extents {spec.shape}: give them all with --shape")
        if spec.type == "tensor(float)":
            feeds[spec.name] = generator.standard_normal(extents, dtype=numpy.float32)
        elif "mask" in spec.name:
            feeds[spec.name] = numpy.ones(extents, numpy.int64)
        else:
            feeds[spec.name] = generator.integers(0, 1000, extents)
    return feeds


def onnxruntime_median(session, feeds, iterations):
    times = []
    for _ in range(iterations):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def plan_median(arguments, plan, iterations):
    command = [arguments.sliderun, "bench", plan, "--shape", arguments.shape, "--threads", str(arguments.threads)]
    command += ["--iterations", str(iterations), "--json"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result["latency"]["p50_ms"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sliderun", required=True)
    parser.add_argument("--plan", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--shape", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--iterations", type=int, default=15)
    arguments = parser.parse_args()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.inter_op_num_threads = 1
    # Its threads must not keep a core busy while the others take their turn.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(arguments.model, options, providers=["CPUExecutionProvider"])
    feeds = inputs_for(session, parse_shape(arguments.shape))
    plans = [entry.split("=", 1) for entry in arguments.plan]

    times = {"onnxruntime": []} | {name: [] for name, _ in plans}
    onnxruntime_median(session, feeds, 5)
    for _ in range(arguments.rounds):
        times["onnxruntime"].append(onnxruntime_median(session, feeds, arguments.iterations))
        for name, plan in plans:
            times[name].append(plan_median(arguments, plan, arguments.iterations))

    print(f"{arguments.shape}, {arguments.threads} threads, {arguments.rounds} rounds, ONNX Runtime {onnxruntime.__version__}")
    print(f"{'engine':<14}{'median ms':>10}{'min ms':>10}{'max ms':>10}{'x ORT':>8}")
    for name, values in times.items():
        ratio = statistics.median(v / o for v, o in zip(values, times["onnxruntime"]))
        print(f"{name:<14}{statistics.median(values):>10.2f}{min(values):>10.2f}{max(values):>10.2f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
