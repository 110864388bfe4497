"""Runs a plan on made-up inputs, says how long it takes and, given the model, how far ONNX Runtime's results are.

    python run_plan.py model.slide --shape batch=2,seq=16 --model model.onnx
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

import sliderun


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan")
    parser.add_argument("--shape", default="", help="values of symbols: batch=2,seq=16; otherwise the least that the plan takes")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--model", help="the ONNX file that the plan was compiled from: ONNX Runtime runs it on the same inputs")
    parser.add_argument("--limit", type=float, help="fail where an output is farther than this from ONNX Runtime's, relative to its largest value")
    return parser.parse_args()


def made_up(port: sliderun.Port, symbols: dict[str, int], random: np.random.Generator) -> np.ndarray:
    """Floats around 0; integers that are 0 or 1, or small where they are called ids."""
    shape = [extent if isinstance(extent, int) else symbols[extent] for extent in port.shape]
    name = {"i64": "int64", "i32": "int32", "bool": "bool", "f32": "float32", "f16": "float16", "f64": "float64"}[port.dtype]
    if port.dtype.startswith("f"):
        return random.standard_normal(shape).astype(name)
    return random.integers(0, 100 if "ids" in port.name and "type" not in port.name else 2, shape).astype(name)


def median_us(run: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(max(runs, 1)):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1e6


def main() -> None:
    args = arguments()
    session = sliderun.Session(args.plan, args.device)
    symbols = {name: least for name, (least, _) in session.symbols.items()}
    symbols |= {name: int(value) for name, value in (pair.split("=") for pair in args.shape.split(",") if pair)}
    for kind, ports in [("input", session.inputs), ("output", session.outputs)]:
        for port in ports:
            print(f"{kind:7}{port.name}: {port.dtype}{list(port.shape)}")

    random = np.random.default_rng(1)
    inputs = {port.name: made_up(port, symbols, random) for port in session.inputs}
    outputs = session.run(inputs)
    for name, value in outputs.items():
        print(f"{name} {value.shape}: {np.array2string(value.reshape(-1)[:6], precision=5)}")
    print(f"sliderun, {args.device}: median {median_us(lambda: session.run(inputs), args.runs):.1f} us of {args.runs} runs")

    if args.model:
        import onnxruntime

        reference = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
        expected = dict(zip(outputs, reference.run(list(outputs), inputs)))
        print(f"ONNX Runtime: median {median_us(lambda: reference.run(None, inputs), args.runs):.1f} us")
        for name, value in expected.items():
            error = np.abs(outputs[name].astype(np.float64) - value).max() / max(np.abs(value).max(), 1e-30)
            print(f"{name}: {error:.2e} of the largest value away from ONNX Runtime")
            if args.limit is not None and not error <= args.limit:
                raise SystemExit(f"{name}: farther than {args.limit}")


if __name__ == "__main__":
    main()
