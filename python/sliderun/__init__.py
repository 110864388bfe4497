"""Runs plans that slidec compiled.

    session = sliderun.Session("model.slide")
    outputs = session.run({"x": numpy.ones((1, 4), numpy.float32)})

Inputs are NumPy arrays, whatever NumPy makes arrays of, or CPU tensors that speak DLPack (torch, jax …), which are not copied
when their elements lie behind each other. Any thread may use a session; other Python threads run while one computes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import _sliderun
from ._sliderun import Plan, PlanError, Port, SessionError, Tensor, __version__

__all__ = ["Plan", "PlanError", "Port", "Session", "SessionError", "Tensor", "__version__", "from_numpy", "to_numpy"]

# NumPy's names of element types; those that it does not have itself come from ml_dtypes.
_NUMPY = {
    "bool": "bool", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
    "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2",
}  # fmt: skip
_FROM_NUMPY = {name: dtype for dtype, name in _NUMPY.items()}
_SMALL_FLOATS = ("bf16", "f8e4m3", "f8e5m2")


def from_numpy(array: Any) -> Tensor:
    """A tensor in the memory of an array, copied only where its elements do not lie behind each other in this machine's order."""
    array = np.require(array, requirements=["C", "A"])
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    dtype = _FROM_NUMPY.get(array.dtype.name)
    if dtype is None:
        raise TypeError(f"an array of {array.dtype} is none that a plan takes: {', '.join(_FROM_NUMPY)}")
    return Tensor.from_buffer(array.reshape(-1).view(np.uint8), dtype, array.shape)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """An array in the memory of a tensor."""
    name: Any = _NUMPY[tensor.dtype]
    if tensor.dtype in _SMALL_FLOATS:
        try:
            import ml_dtypes
        except ImportError:
            raise TypeError(
                f"NumPy has no {name}: install ml_dtypes, or take the tensor by run_tensors and DLPack"
            ) from None
        name = getattr(ml_dtypes, name)
    array: np.ndarray = np.frombuffer(memoryview(tensor), np.uint8).view(name).reshape(tensor.shape)
    return array


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, (np.ndarray, np.generic)) and hasattr(value, "__dlpack__"):
        return Tensor.from_dlpack(value)
    return from_numpy(value)


class Session:
    """A plan made ready for a device."""

    def __init__(
        self,
        plan: Plan | str | os.PathLike[str] | bytes,
        device: str = "cpu",
        *,
        threads: int | None = None,
        memory_limit: int | None = None,
        variant: str | None = None,
    ) -> None:
        """Makes a plan ready.

        plan: opened before, a file, or a file's bytes.
        device: "cpu", "cuda" or "cuda:N". A device that is not there is an error, never another device.
        threads: that one run uses on the CPU; as many as there are processors when None.
        memory_limit: most bytes of working memory that one run may take.
        variant: the variant of the plan's program for GPUs; the one that suits a shape best when None.
        """
        if isinstance(plan, bytes):
            plan = Plan.from_bytes(plan)
        elif not isinstance(plan, Plan):
            plan = Plan.open(plan)
        self._session = _sliderun.Session(plan, device, threads=threads, memory_limit=memory_limit, variant=variant)

    @property
    def inputs(self) -> list[Port]:
        """The inputs, in the model's order."""
        return self._session.inputs

    @property
    def outputs(self) -> list[Port]:
        """The outputs, in the model's order."""
        return self._session.outputs

    @property
    def symbols(self) -> dict[str, tuple[int, int]]:
        """The symbols that extents mention, with the least and the largest value for which the plan was compiled."""
        return self._session.symbols

    @property
    def threads(self) -> int:
        """Threads that one run uses; 1 on a GPU."""
        return self._session.threads

    def output_shapes(self, inputs: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """The extents of all outputs for inputs of these."""
        return self._session.output_shapes({name: list(shape) for name, shape in inputs.items()})

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Runs the plan; gives arrays by name, in the order of the outputs."""
        return {name: to_numpy(tensor) for name, tensor in self.run_tensors(inputs).items()}

    def run_tensors(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """As run, but gives tensors, which other libraries take by DLPack: torch.from_dlpack(tensor)."""
        return dict(self._session.run([(name, _tensor(value)) for name, value in inputs.items()]))
