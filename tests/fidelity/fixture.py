"""Writes tests/fixtures/digits: a trained model, its test digits, and what ONNX Runtime computes of them, dense and pruned by NumPy.

    python3 tests/fidelity/fixture.py
"""

import pathlib

import numpy
import onnx
import onnxruntime
from onnx import numpy_helper

import digit_model

SEED = 0
# Images of the training set that pruning may look at.
CALIBRATION = 256
FOLDER = pathlib.Path(__file__).parent / "../fixtures/digits"


def pruned(model, keep, block):
    """The model with the smallest magnitudes of each block along K set to 0 in all weights of its products."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    weights = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            values = numpy_helper.to_array(tensor).copy()
            blocks = values.reshape(-1, block, values.shape[1])
            smallest = numpy.argsort(abs(blocks), axis=1)[:, : block - keep]
            numpy.put_along_axis(blocks, smallest, 0, axis=1)
            tensor.CopyFrom(numpy_helper.from_array(blocks.reshape(values.shape), tensor.name))
    return model


def main():
    model = digit_model.to_onnx(digit_model.train(SEED))
    training, images, _, labels = digit_model.split(SEED)

    def logits(model):
        return onnxruntime.InferenceSession(model.SerializeToString()).run(["logits"], {"image": images})[0]

    FOLDER.mkdir(parents=True, exist_ok=True)
    onnx.save(model, FOLDER / "digits.onnx")
    arrays = {"image": (images * 16).astype(numpy.uint8), "label": labels.astype(numpy.uint8)}
    arrays["calibration"] = (training[:CALIBRATION] * 16).astype(numpy.uint8)
    arrays |= {"dense": logits(model), "6:8": logits(pruned(model, 6, 8)), "2:4": logits(pruned(model, 2, 4))}
    numpy.savez(FOLDER / "digits.npz", **arrays)
    for name in ["dense", "6:8", "2:4"]:
        print(f"{name}: accuracy {(arrays[name].argmax(1) == labels).mean():.4f}")


if __name__ == "__main__":
    main()
