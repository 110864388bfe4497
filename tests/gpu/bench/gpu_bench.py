#!/usr/bin/env python3
"""Measures whole models on a GPU: our plans, and torch.compile in bf16 and with fp8 linear layers, in turns.

Needs no Rust and no network: `cargo xtask gpu-bench` made this folder, and its `--tables LOG` turns the log into tables. Models are generated and
plans compiled here. Every engine gets the same inputs and the same weights; outputs are compared with PyTorch's in f32, those of sparse plans with
the pruned model's. In a burst, runs are waited for one by one and the GPU rests before; in steady load they follow each other, after a while of
the same load. Lines of the log that begin with { are its records.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

import prepare
import suite
import tensors
from monitor import Monitor
from ours import EngineError, Plan

HERE = os.path.dirname(os.path.abspath(__file__))


class Log:
    """Prints and keeps lines; counts what failed."""

    def __init__(self, path):
        self.file, self.start, self.failures = open(path, "w"), time.monotonic(), 0

    def say(self, text=""):
        print(text, flush=True)
        print(text, file=self.file, flush=True)

    def heading(self, text):
        self.say(f"\n=== {text} ({self.minutes():.1f} min)")

    def minutes(self):
        return (time.monotonic() - self.start) / 60

    def record(self, event, **values):
        print(json.dumps({"event": event, **values}), file=self.file, flush=True)

    def failed(self, engine, stage, error, **values):
        self.failures += 1
        self.say(f"FAILED {engine}, {stage}: {error}")
        self.record("failed", engine=engine, stage=stage, reason=str(error), **values)


def main():
    options = arguments()
    os.makedirs(options.folder, exist_ok=True)
    # Algorithms of products that were found once are found again there.
    os.environ.setdefault("SLIDERUN_CACHE", os.path.join(options.folder, "cache"))
    log = Log(options.log)
    monitor = Monitor()
    machine(options, log, monitor)
    for name in options.model:
        if log.minutes() > options.minutes:
            log.say(f"left out: {name}, for the time is up")
            log.record("left_out", model=name, reason="the time is up")
            continue
        try:
            Benchmark(name, options, log, monitor).run()
        except prepare.Failed as error:
            log.failed("generate", "model", error, model=name)
    log.heading("End")
    log.say("PASS" if not log.failures else f"FAIL: {log.failures} failures")
    sys.exit(1 if log.failures else 0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several = lambda text: [part.strip() for part in text.split(",") if part.strip()]
    numbers = lambda text: [int(part) for part in several(text)]
    engines = [name for name, *_ in suite.VARIANTS + suite.PEERS]
    parser.add_argument("--model", type=several, default=["qwen2.5-7b"], help=f"of {', '.join(suite.MODELS)}")
    parser.add_argument("--rows", type=numbers, help="numbers of tokens, in this order; all of the model's without")
    parser.add_argument("--engines", type=several, default=suite.DEFAULT, help=f"of {', '.join(engines)}; all but fp8 with automatic choice without")
    parser.add_argument("--rounds", type=int, default=5, help="times that each engine takes its turn in bursts")
    parser.add_argument("--burst", type=float, default=0.3, help="seconds of a turn")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds of rest before a burst")
    parser.add_argument("--steady-rounds", type=int, default=2, help="turns of each engine under steady load")
    parser.add_argument("--steady", type=float, default=3.0, help="seconds of such a turn")
    parser.add_argument("--settle", type=float, default=1.0, help="seconds of the same load before it")
    parser.add_argument("--steady-from", type=int, default=2048, help="fewest tokens that are measured under steady load")
    parser.add_argument("--peer-mode", default="default", help="torch.compile's mode: default or max-autotune-no-cudagraphs")
    parser.add_argument("--minutes", type=float, default=60, help="begin no shape after so many")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu is for rehearsals")
    parser.add_argument("--target", default="sm_90a", help="what plans are compiled for")
    parser.add_argument("--programs", default=os.path.join(HERE, "bin"), help="folder of sliderun, slidec and generate")
    parser.add_argument("--folder", default=os.path.join(HERE, "work"), help="for models, plans and inputs")
    parser.add_argument("--log", default=os.path.join(HERE, "gpu-bench.log"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.device == "cpu":
        options.target = "cpu"
    rows = sorted({tokens for name in options.model if name in suite.MODELS for tokens in suite.MODELS[name]["rows"]})
    for what, wanted, known in [("model", options.model, suite.MODELS), ("engine", options.engines, engines), ("number of tokens", options.rows or [], rows)]:
        for name in wanted:
            if name not in known:
                parser.error(f"there is no {what} '{name}': there are {', '.join(map(str, known))}")
    return options


def machine(options, log, monitor):
    log.heading("Where")
    said = lambda *command: subprocess.run(command, capture_output=True, text=True).stdout.strip()
    commit = os.path.join(HERE, "commit.txt")
    commit = open(commit).read().strip() if os.path.exists(commit) else "unknown"
    where = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "commit": commit, "device": options.device}
    if options.device == "cuda":
        where["devices"] = said(os.path.join(options.programs, "sliderun"), "devices")
    where["torch"] = tensors.torch.__version__ if tensors.torch else None
    where["power_limit"], where["monitor"] = monitor.power_limit(), monitor.missing or "NVML"
    where["measured"] = {name: getattr(options, name) for name in ["rounds", "burst", "pause", "steady_rounds", "steady", "settle", "peer_mode"]}
    for key, value in where.items():
        log.say(f"{key}: {value}")
    log.record("machine", **where)


class Benchmark:
    """One model."""

    def __init__(self, model, options, log, monitor):
        self.model, self.options, self.log, self.monitor = model, options, log, monitor
        self.log.heading(f"{model}: the model and its plans")
        self.workshop = prepare.Workshop(model, options.programs, options.folder, options.target)
        # By engine: the pattern of its weights; the variant that was asked for, and how much of each of its plan's variants is sparse.
        self.patterns, self.shares = {}, {}
        self.reference = None

    def run(self):
        wanted = self.options.engines
        plans = [
            (name, pattern, variant if self.options.device == "cuda" else None, self.workshop.plan(pattern, precision))
            for name, pattern, precision, variant in suite.VARIANTS
            if name in wanted
        ]
        # The peers are read while plans are compiled.
        engines = self.peers()
        engines = self.plans(plans) + engines
        try:
            rows = suite.MODELS[self.model]["rows"]
            for tokens in [tokens for tokens in self.options.rows or rows if tokens in rows]:
                if self.log.minutes() > self.options.minutes:
                    self.log.say(f"left out: {tokens} tokens, for the time is up")
                    self.log.record("left_out", model=self.model, tokens=tokens, reason="the time is up")
                    continue
                self.shape(engines, tokens, rows[tokens])
        finally:
            for engine in engines:
                engine.close()
            shutil.rmtree(os.path.join(self.options.folder, "inputs"), ignore_errors=True)

    def peers(self):
        wanted = [(name, fp8) for name, fp8 in suite.PEERS if name in self.options.engines]
        if tensors.torch is None:
            self.log.say("left out: torch.compile and the comparison with f32, for there is no torch")
            self.log.record("left_out", model=self.model, reason="no torch")
            return []
        from peers import Compiled, Reference

        self.reference = Reference(self.model, self.options.device)
        mode = None if self.options.peer_mode == "default" else self.options.peer_mode
        made = []
        for name, fp8 in wanted:
            made.append(Compiled(name, self.model, self.workshop.dense, fp8, self.options.device, mode))
            self.patterns[name] = None
        return made

    def plans(self, futures):
        """The plans, loaded. They are loaded at the same time, for nothing is measured yet."""
        started, loaded = [], []
        for name, pattern, variant, future in futures:
            try:
                path, said = future.result()
            except prepare.Failed as error:
                self.log.failed(name, "compiling", error, model=self.model)
                continue
            self.patterns[name] = pattern
            self.log.say(f"{name:<10} compiled in {said['seconds']:.1f} s, {said['bytes'] / 1e6:.1f} MB, {said['sparse_products']} of {said['products']} products sparse")
            self.log.record("plan", model=self.model, engine=name, **said)
            self.shares[name] = (variant, said["variants"])
            sliderun, outputs = os.path.join(self.options.programs, "sliderun"), os.path.join(self.options.folder, "outputs")
            started.append(Plan(name, sliderun, path, variant, self.options.device, outputs))
        for plan in started:
            try:
                answer = plan.loaded()
                self.log.record("loaded", model=self.model, engine=plan.name, load_ms=answer["load_ms"])
                loaded.append(plan)
            except EngineError as error:
                self.log.failed(plan.name, "loading", error, model=self.model)
                plan.close()
        return loaded

    def shape(self, engines, tokens, shape):
        options, log = self.options, self.log
        symbols = suite.symbols(self.model, shape)
        log.heading(f"{self.model}, {tokens} tokens: {symbols}")
        folder = self.inputs(shape)
        common = {"model": self.model, "tokens": tokens, "shape": symbols}
        ready = [engine for engine in engines if self.prepare(engine, folder, common)]
        steady = tokens >= options.steady_from
        modes = [("burst", options.rounds)] + ([("steady", options.steady_rounds)] if steady else [])
        times = {}
        for mode, rounds in modes:
            for round_ in range(rounds):
                # Each begins once, so that nobody always follows the same neighbour.
                first = round_ % max(len(ready), 1)
                for engine in ready[first:] + ready[:first]:
                    measured = self.turn(engine, mode, {**common, "round": round_})
                    if measured is None:
                        ready.remove(engine)
                    else:
                        times.setdefault((engine.name, mode), []).append((round_, measured))
        self.summary(ready, times)
        for engine in ready:
            if engine.ours and options.device == "cuda":
                self.launches(engine, common)

    def inputs(self, shape):
        folder = os.path.join(self.options.folder, "inputs")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        for name, (extents, kind) in suite.inputs(self.model, shape).items():
            tensors.write(os.path.join(folder, f"{name}.npy"), kind, extents, self.options.seed)
        return folder

    def prepare(self, engine, folder, common):
        """Makes an engine ready for the inputs, and compares its outputs with the reference."""
        try:
            start = time.perf_counter()
            answer = engine.prepare(folder)
            said = f"{engine.name:<10} ready in {time.perf_counter() - start:.1f} s"
            distance = None
            if self.reference:
                model = self.workshop.model(self.patterns[engine.name]).result()
                distance = self.reference.distance(self.reference.outputs(model, folder), engine.outputs())
                said += f", {distance:.2e} from f32"
            asked, shares = self.shares.get(engine.name, (None, {}))
            variant = asked or answer.pop("variant", None) or next(iter(shares), None)
            if len(shares) > 1:
                said += f", {variant}"
            self.log.say(said)
            self.log.record("ready", engine=engine.name, distance=distance, **common, **{**answer, "variant": variant, "sparse": shares.get(variant)})
            return True
        except (EngineError, prepare.Failed, KeyError, ValueError, RuntimeError, OSError) as error:
            self.log.failed(engine.name, "first run", error, **common)
            return False

    def turn(self, engine, mode, common):
        try:
            if mode == "burst":
                time.sleep(self.options.pause)
                measured, seen = self.monitor.during(lambda: engine.burst(self.options.burst))
            else:
                engine.steady(self.options.settle)
                measured, seen = self.monitor.during(lambda: engine.steady(self.options.steady))
        except (EngineError, RuntimeError) as error:
            self.log.failed(engine.name, mode, error, **common)
            return None
        self.log.record("turn", engine=engine.name, mode=mode, **common, **measured, **seen)
        return {**measured, **seen}

    def summary(self, engines, times):
        """A table for whoever watches; the log's records say more."""
        median = lambda rounds, key: statistics.median(m[key] for _, m in rounds if key in m) if any(key in m for _, m in rounds) else None
        best_peer = next((e.name for e in engines if e.name == "torch fp8"), None)
        shown = lambda value, digits: "-" if value is None else f"{value:.{digits}f}"
        self.log.say(f"{'engine':<12}{'burst µs':>10}{'steady µs':>11}{'W':>7}{'MHz':>7}{'× torch fp8, burst':>20}{'steady':>8}")
        for engine in engines:
            burst, steady = times.get((engine.name, "burst"), []), times.get((engine.name, "steady"), [])

            def ratio(mode, own):
                peer = dict(times.get((best_peer, mode), []))
                ratios = [peer[r]["us"] / m["us"] for r, m in own if r in peer]
                return statistics.median(ratios) if ratios else None

            numbers = [(median(burst, "us"), 10, 1), (median(steady, "us"), 11, 1), (median(steady, "watts"), 7, 0), (median(steady, "sm_mhz"), 7, 0)]
            numbers += [(ratio("burst", burst), 20, 2), (ratio("steady", steady), 8, 2)]
            self.log.say(f"{engine.name:<12}" + "".join(shown(value, digits).rjust(width) for value, width, digits in numbers))

    def launches(self, engine, common):
        try:
            answer = engine.launches()
        except EngineError as error:
            self.log.failed(engine.name, "launches", error, **common)
            return
        launches = answer["launches"]
        total = sum(launch["microseconds"] for launch in launches)
        self.log.say(f"--- {engine.name}: {len(launches)} launches, {total:.1f} µs added up")
        for launch in launches:
            what = " ".join(dict.fromkeys(launch["operators"]))
            rate = f"{launch['tflops']:.0f} TFLOPS" if launch["tflops"] else f"{launch['gb_per_s']:.0f} GB/s"
            self.log.say(f"{launch['microseconds']:>10.2f} µs {rate:>12}  {what[:60]:<60} {launch['library'] or launch['kernel'] or ''}")
        kept = ["step", "operators", "library", "kernel", "input", "bytes", "operations"]
        compact = [{key: launch[key] for key in kept} | {"microseconds": round(launch["microseconds"], 3)} for launch in launches]
        self.log.record("launches", engine=engine.name, **common, launches=compact, ceilings=answer["ceilings"])


if __name__ == "__main__":
    main()
