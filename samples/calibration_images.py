"""Makes calibration data of images: a folder of .npz files, each a batch of one f32 input [batch, 3, height, width], for --calib.

    python3 -m pip install numpy pillow
    python3 samples/calibration_images.py PHOTOS... --out FOLDER --input pixel_values --size 224

PHOTOS are files, or folders of .png and .jpg files. Each is made upright and RGB, resized so that it covers the size, cut at its centre, and
normalised: (value / 255 - mean) / std, by default with ImageNet's.
"""

import argparse
import pathlib
import sys

import numpy
import PIL.Image
import PIL.ImageOps

SUFFIXES = {".png", ".jpg", ".jpeg"}


def files(paths):
    """The images that are meant, in the order of their names."""
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        else:
            yield path


def normalised(image, size, mean, std):
    """An image as f32 [3, height, width]."""
    image = PIL.ImageOps.exif_transpose(image).convert("RGB")
    image = PIL.ImageOps.fit(image, size, PIL.Image.Resampling.BICUBIC)
    values = (numpy.asarray(image, numpy.float32) / 255 - numpy.asarray(mean, numpy.float32)) / numpy.asarray(std, numpy.float32)
    return values.transpose(2, 0, 1)


def write_batches(images, folder, name, batch):
    """Writes images [3, height, width] in batches and gives the number of files."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.npz")):
        raise FileExistsError(f"{folder} has .npz files already, which would count as calibration data: give a new folder")
    images = list(images)
    starts = range(0, len(images), batch)
    for i, start in enumerate(starts):
        numpy.savez(folder / f"{i:04}.npz", **{name: numpy.stack(images[start : start + batch])})
    return len(starts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--input", required=True, metavar="NAME", help="the model's input")
    parser.add_argument("--size", nargs="+", type=int, default=[224], metavar="N", help="height and width, or one for both")
    parser.add_argument("--mean", nargs=3, type=float, default=[0.485, 0.456, 0.406])
    parser.add_argument("--std", nargs=3, type=float, default=[0.229, 0.224, 0.225])
    parser.add_argument("--batch", type=int, default=8, help="images in a file (default 8)")
    arguments = parser.parse_args()
    height, width = arguments.size[0], arguments.size[-1]

    images = []
    for path in files(arguments.photos):
        try:
            with PIL.Image.open(path) as image:
                images.append(normalised(image, (width, height), arguments.mean, arguments.std))
        except OSError as error:
            sys.exit(f"{path}: {error}")
    if not images:
        sys.exit(f"no images in {' '.join(arguments.photos)}: .png, .jpg or .jpeg files were expected")
    try:
        written = write_batches(images, arguments.out, arguments.input, arguments.batch)
    except OSError as error:
        sys.exit(str(error))
    print(f"{arguments.out}: {len(images)} images in {written} batches of {arguments.input} [{arguments.batch}, 3, {height}, {width}]")


if __name__ == "__main__":
    main()
