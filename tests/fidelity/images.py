"""ViT-S with a convolutional decoder, which gives a map of what matters in a photo, on crops of photos, against the model in ONNX Runtime.

The photos are those that scikit-image and scikit-learn ship. Calibration and held-out crops are of different photos.
"""

import pathlib
import sys

import numpy
import onnxruntime
import PIL.Image
import skimage
import sklearn

import agreement
import plans

sys.path.append(str(pathlib.Path(__file__).parent / "../../samples"))
import calibration_images  # noqa: E402

SIZE, MEAN, STD = (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INPUT = "input_image"
CALIBRATION = ["china.jpg", "coffee.png", "motorcycle_left.png", "brick.png", "retina.jpg", "camera.png", "ihc.png", "coins.png"]
HELD_OUT = ["flower.jpg", "astronaut.png", "chelsea.png", "rocket.jpg", "grass.png", "moon.png", "page.png", "hubble_deep_field.jpg"]
COLUMNS = ["relative error", "worst", "correlation", "top tenth kept"]


def crops(names):
    """Each photo whole and its four quarters, normalised, f32 [3, 224, 224]."""
    folders = [pathlib.Path(skimage.__file__).parent / "data", pathlib.Path(sklearn.__file__).parent / "datasets/images"]
    for name in names:
        [path] = [folder / name for folder in folders if (folder / name).exists()]
        with PIL.Image.open(path) as photo:
            w, h = photo.size
            boxes = [(0, 0, w, h)] + [(x, y, x + w // 2, y + h // 2) for y in (0, h // 2) for x in (0, w // 2)]
            yield from (calibration_images.normalised(photo.crop(box), SIZE, MEAN, STD) for box in boxes)


def calibration(options):
    """The folder of calibration data."""
    folder = options.folder / "images-calibration"
    if not folder.exists():
        partial = options.folder / "images-calibration.partial"
        calibration_images.write_batches(crops(CALIBRATION), partial, INPUT, 8)
        partial.rename(folder)
    return folder


def measure(options):
    """Rows (variant, values of COLUMNS) for each plan."""
    images = numpy.stack(list(crops(HELD_OUT)))[:: 5 if options.quick else 1]
    [output] = onnxruntime.InferenceSession(options.vit).get_outputs()
    expected = onnxruntime.InferenceSession(options.vit).run([output.name], {INPUT: images})[0]
    compiler = plans.Compiler(options.slidec, options.sliderun, options.folder / "images", options.vit, calibration(options))
    for variant in plans.variants(options.patterns, options.methods, options.precisions):
        plan = compiler.plan(variant)
        parts = [images[i : i + 8] for i in range(0, len(images), 8)]
        yield variant, row(numpy.concatenate([compiler.run(plan, {INPUT: part})[output.name] for part in parts]), expected)


def row(got, expected):
    """How maps stand to the expected ones, image by image."""
    got, expected = (maps.reshape(len(maps), -1).astype(numpy.float64) for maps in (got, expected))
    errors = [agreement.relative_error(a, b) for a, b in zip(got, expected)]
    correlations = [numpy.corrcoef(a, b)[0, 1] for a, b in zip(got, expected)]
    tenth = expected.shape[1] // 10

    def top(values):
        return set(numpy.argsort(-values, kind="stable")[:tenth])

    kept = [len(top(a) & top(b)) / tenth for a, b in zip(got, expected)]
    return [numpy.mean(errors), max(errors), numpy.mean(correlations), numpy.mean(kept)]
