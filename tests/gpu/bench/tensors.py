"""Tensors in NumPy's .npy files, as plans read and write them, without needing NumPy; bf16 is V2 there."""

import ast
import ctypes
import random
from array import array

try:
    import torch
except ImportError:
    torch = None


def write(path, kind, extents, seed):
    """Writes an input: normal numbers as bf16, or positions along the last axis or ones as i64."""
    count = 1
    for n in extents:
        count *= n
    if kind == "normal":
        descr, data = "<V2", normal(count, seed)
    else:
        descr, last = "<i8", extents[-1]
        row = array("q", range(last) if kind == "positions" else [1] * last)
        data = row.tobytes() * (count // last)
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({''.join(f'{n}, ' for n in extents)}), }}"
    header = header.ljust((len(header) + 11 + 63) // 64 * 64 - 11) + "\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data)


def normal(count, seed):
    """The bytes of normal numbers as bf16."""
    if torch is None:
        generator = random.Random(seed)
        words = array("f", (generator.gauss(0, 1) for _ in range(count))).tobytes()
        return b"".join(words[at + 2:at + 4] for at in range(0, len(words), 4))
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
    return ctypes.string_at(values.data_ptr(), 2 * count)


def read(path):
    """A tensor of torch's."""
    with open(path, "rb") as file:
        magic = file.read(8)
        if magic[:6] != b"\x93NUMPY":
            raise ValueError(f"{path} is no .npy file")
        length = int.from_bytes(file.read(2 if magic[6] == 1 else 4), "little")
        header = ast.literal_eval(file.read(length).decode())
        data = bytearray(file.read())
    dtype = {"V2": torch.bfloat16, "f2": torch.float16, "f4": torch.float32, "i8": torch.int64}[header["descr"][1:]]
    return torch.frombuffer(data, dtype=dtype).reshape(header["shape"])
