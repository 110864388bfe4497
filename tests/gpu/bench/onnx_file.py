"""Nodes and weights of an ONNX file, read without the onnx package: also weights that lie in a file beside it."""

import mmap
import os
from array import array

import torch

# Numbers of ONNX's element types.
DTYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 10: torch.float16, 16: torch.bfloat16}


def fields(data):
    """(number, value) of each field of a protobuf message: integers, or bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            length = {1: 8, 5: 4}[key & 7] if key & 7 != 2 else varint()
            yield key >> 3, data[at:at + length]
            at += length


def text(value):
    return bytes(value).decode()


class OnnxFile:
    """`nodes`: by the name of each node, the names of its inputs. Initializers by `tensor`."""

    def __init__(self, path):
        self.folder = os.path.dirname(os.path.abspath(path))
        self.files = {}
        with open(path, "rb") as file:
            model = memoryview(file.read())
        graph = next(value for number, value in fields(model) if number == 7)
        self.nodes, self.messages = {}, {}
        for number, value in fields(graph):
            if number == 1:
                parts = list(fields(value))
                name = next((text(v) for n, v in parts if n == 3), "")
                self.nodes[name] = [text(v) for n, v in parts if n == 1]
            elif number == 5:
                name = next(text(v) for n, v in fields(value) if n == 8)
                self.messages[name] = value

    def __contains__(self, name):
        return name in self.messages

    def tensor(self, name):
        """An initializer, as it is stored."""
        dims, dtype, data, external = [], 1, None, {}
        for number, value in fields(self.messages[name]):
            if number == 1:
                # Packed or one by one.
                dims += [value] if isinstance(value, int) else varints(value)
            elif number == 2:
                dtype = value
            elif number == 9:
                data = value
            elif number == 4:
                data = value
            elif number == 13:
                entry = {n: text(v) for n, v in fields(value)}
                external[entry[1]] = entry[2]
        if external:
            start = int(external.get("offset", 0))
            data = self.mapped(external["location"])[start:start + int(external["length"])]
        if data is None:
            raise ValueError(f"the initializer {name} has no data that is understood")
        # A copy: the file's pages are read-only.
        return torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]).reshape(dims)

    def mapped(self, location):
        if location not in self.files:
            with open(os.path.join(self.folder, location), "rb") as file:
                self.files[location] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return self.files[location]

    def constant_input(self, node):
        """The one initializer of more than one element that a node reads."""
        found = [name for name in self.nodes[node] if name in self]
        tensors = [tensor for tensor in map(self.tensor, found) if tensor.numel() > 1]
        if len(tensors) != 1:
            raise ValueError(f"the node {node} reads {len(tensors)} constants where one was expected: {self.nodes[node]}")
        return tensors[0]


def varints(data):
    values, value, shift = array("q"), 0, 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            values.append(value)
            value = shift = 0
    return list(values)
