"""Plans as engines: a `sliderun turns` process for each, which stays loaded and measures when it is told to."""

import json
import os
import subprocess
import threading

import tensors


class EngineError(Exception):
    """Why an engine cannot go on."""


class Plan:
    """A plan that is loaded."""

    ours = True

    def __init__(self, name, sliderun, plan, variant, device, folder):
        self.name, self.folder = name, os.path.join(folder, name.replace(":", "x").replace(" ", "-"))
        os.makedirs(self.folder, exist_ok=True)
        self.errors = os.path.join(self.folder, "stderr.txt")
        command = [sliderun, "turns", plan, "--device", device, *(["--variant", variant] if variant else [])]
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)

    def loaded(self):
        """What was loaded; waits for it."""
        return self.answer(180)

    def answer(self, limit):
        watchdog = threading.Timer(limit, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        if not line:
            code = self.process.wait()
            with open(self.errors) as errors:
                raise EngineError(f"sliderun ended with {code}: {errors.read().strip()[-400:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer

    def ask(self, command, limit=120):
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except OSError:
            # The answer, or that there is none, tells why.
            pass
        return self.answer(limit)

    def prepare(self, inputs):
        """Takes the inputs of a folder. Products are tuned meanwhile: nothing else may run."""
        return self.ask(f"inputs {inputs}", 300)

    def outputs(self):
        """By name."""
        self.ask(f"outputs {self.folder}")
        files = [file for file in os.listdir(self.folder) if file.endswith(".npy")]
        found = {file[:-len(".npy")]: tensors.read(os.path.join(self.folder, file)) for file in files}
        for file in files:
            os.remove(os.path.join(self.folder, file))
        return found

    def burst(self, seconds):
        """Runs that are waited for."""
        latency = self.ask(f"burst {seconds}")["latency"]
        return {"us": latency["p50_ms"] * 1e3, "min_us": latency["min_ms"] * 1e3, "runs": latency["runs"]}

    def steady(self, seconds):
        """Runs that follow each other without a wait."""
        answer = self.ask(f"steady {seconds}")
        return {"us": answer["run_us"], "runs": answer["runs"]}

    def launches(self):
        return self.ask("launches")

    def close(self):
        """Ends the process."""
        try:
            self.process.stdin.close()
        except OSError:
            # It ended before.
            pass
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
