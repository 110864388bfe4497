"""Accuracy on scikit-learn's handwritten digits of transformers that are trained here, one for each seed."""

import numpy
import onnx
import onnxruntime

import digit_model
import plans

COLUMNS = ["accuracy", "spread", "by seed", "answers kept"]
# Images of the training set whose activations pruning may look at.
CALIBRATION = 512


def model(options, seed):
    """The model of a seed, trained unless it is there already."""
    path = options.folder / f"digits-{seed}.onnx"
    if not path.exists():
        partial = path.with_suffix(".partial")
        onnx.save(digit_model.to_onnx(digit_model.train(seed)), partial)
        partial.rename(path)
    return path


def calibration(options, seed):
    """A file of calibration data: images that the model was trained on."""
    path = options.folder / f"digits-{seed}-calibration.npz"
    if not path.exists():
        images, _, _, _ = digit_model.split(seed)
        numpy.savez(path, image=images[:CALIBRATION])
    return path


def measure(options):
    """Rows (variant, values of COLUMNS); the first is the model in ONNX Runtime."""
    held_out, compilers, expected = [], [], []
    for seed in options.seeds:
        path = model(options, seed)
        _, images, _, labels = digit_model.split(seed)
        held_out.append((images, labels))
        expected.append(onnxruntime.InferenceSession(path).run(["logits"], {"image": images})[0].argmax(1))
        folder = options.folder / f"digits-{seed}"
        compilers.append(plans.Compiler(options.slidec, options.sliderun, folder, path, calibration(options, seed)))
    yield None, row(expected, expected, held_out)
    for variant in plans.variants(options.patterns, options.methods, options.precisions):
        answers = [c.run(c.plan(variant), {"image": images})["logits"].argmax(1) for c, (images, _) in zip(compilers, held_out)]
        yield variant, row(answers, expected, held_out)


def row(answers, expected, held_out):
    """Accuracy over seeds with its standard deviation, and how often the answer is the dense model's, right or wrong."""
    accuracies = [(a == labels).mean() for a, (_, labels) in zip(answers, held_out)]
    kept = [(a == e).mean() for a, e in zip(answers, expected)]
    spread = numpy.std(accuracies, ddof=1) if len(accuracies) > 1 else 0.0
    return [numpy.mean(accuracies), spread, " ".join(f"{a:.3f}" for a in accuracies), numpy.mean(kept)]
