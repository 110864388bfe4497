"""Clocks, power and temperature of a GPU by NVML, while something runs on it: the same for every engine, whoever runs it."""

import ctypes
import statistics
import threading
import time

# Between two readings, seconds.
PERIOD = 0.02

# NVML's names of clocks and sensors.
SM, MEMORY, TEMPERATURE = 1, 2, 0

# Where the library is when the loader does not know.
FOLDERS = ["", "/usr/local/nvidia/lib64/", "/usr/lib/x86_64-linux-gnu/", "/usr/lib64/"]


def load():
    """NVML."""
    for folder in FOLDERS:
        try:
            return ctypes.CDLL(f"{folder}libnvidia-ml.so.1")
        except OSError as error:
            first = error if folder == "" else first
    raise first


class Monitor:
    """Reads the GPU that CUDA calls number 0; where there is no NVML, `missing` says why and nothing is read."""

    def __init__(self):
        self.missing = None
        try:
            self.library = load()
            self.device = ctypes.c_void_p()
            self.check("nvmlInit_v2", self.library.nvmlInit_v2())
            self.check("nvmlDeviceGetHandleByIndex", self.library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)))
        except (OSError, AttributeError, RuntimeError) as error:
            self.missing = str(error)

    def check(self, what, code):
        if code:
            raise RuntimeError(f"{what} answers {code}")

    def number(self, function, *arguments, kind=ctypes.c_uint):
        value = kind()
        code = getattr(self.library, function)(self.device, *arguments, ctypes.byref(value))
        return None if code else value.value

    def power_limit(self):
        limit = None if self.missing else self.number("nvmlDeviceGetEnforcedPowerLimit")
        return limit and limit / 1e3

    def read(self):
        power = self.number("nvmlDeviceGetPowerUsage")
        return {
            "watts": power and power / 1e3,
            "sm_mhz": self.number("nvmlDeviceGetClockInfo", SM),
            "memory_mhz": self.number("nvmlDeviceGetClockInfo", MEMORY),
            "celsius": self.number("nvmlDeviceGetTemperature", TEMPERATURE),
        }

    def joules(self):
        """Since the driver was loaded."""
        energy = self.number("nvmlDeviceGetTotalEnergyConsumption", kind=ctypes.c_ulonglong)
        return energy and energy / 1e3

    def during(self, work):
        """What some work gives, and medians of what was read meanwhile; watts_by_energy from the device's counter."""
        if self.missing:
            return work(), {}
        readings, done = [], threading.Event()

        def watch():
            while not done.wait(PERIOD):
                readings.append(self.read())

        thread = threading.Thread(target=watch)
        before, start = self.joules(), time.perf_counter()
        thread.start()
        try:
            result = work()
        finally:
            after, seconds = self.joules(), time.perf_counter() - start
            done.set()
            thread.join()
        values = {}
        for name in ["watts", "sm_mhz", "memory_mhz", "celsius"]:
            known = [reading[name] for reading in readings if reading[name] is not None]
            if known:
                values[name] = statistics.median(known)
        if before is not None and after is not None and seconds > 1:
            values["watts_by_energy"] = (after - before) / seconds
        return result, values
