"""What pruning and quantization cost: dense plans and every pattern × method × precision against the models as they are.

    cargo xtask fidelity [-- OPTIONS]        finds or makes everything that this needs
    python3 tests/fidelity/run.py --help     says what it can do

Prints a Markdown table for each part as it goes, and writes all numbers as JSON. Everything made is kept in --folder and not made again there.
"""

import argparse
import importlib
import json
import pathlib
import time

import plans

PARTS = {
    "sentences": "MiniLM-L3, embeddings of the held-out sentences against the model in f32",
    "images": "ViT-S, maps of held-out crops of photos against the model in f32",
    "digits": "A transformer trained on scikit-learn's digits, accuracy on held-out images",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all by default")
    for program in ["slidec", "sliderun", "calibration"]:
        parser.add_argument(f"--{program}", required=True, type=pathlib.Path, metavar="PROGRAM")
    for file, what in [("minilm", "the model"), ("tokenizer", "MiniLM's tokenizer.json"), ("vit", "the model")]:
        parser.add_argument(f"--{file}", type=pathlib.Path, metavar="FILE", help=what)
    parser.add_argument("--folder", required=True, type=pathlib.Path, help="for models, plans and results")
    parser.add_argument("--patterns", nargs="*", default=plans.PATTERNS, metavar="PATTERN")
    parser.add_argument("--methods", nargs="*", default=plans.METHODS, choices=plans.METHODS)
    parser.add_argument("--precisions", nargs="*", default=plans.PRECISIONS, choices=plans.PRECISIONS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="of the models trained on digits")
    parser.add_argument("--quick", action="store_true", help="fewer images, one seed")
    options = parser.parse_args()
    if options.quick:
        options.seeds = options.seeds[:1]
    return options


def shown(value):
    return value if isinstance(value, str) else f"{value:.4f}"


def main():
    options = arguments()
    options.folder.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        start = time.monotonic()
        module = importlib.import_module(part)
        print(f"\n### {PARTS[part]}\n")
        print("| pattern | method | precision | " + " | ".join(module.COLUMNS) + " |")
        print("|---|---|---|" + "---|" * len(module.COLUMNS), flush=True)
        results = []
        for variant, values in module.measure(options):
            names = ["ONNX Runtime", "", "f32"] if variant is None else [variant.pattern, variant.method, variant.precision]
            print("| " + " | ".join([*names, *map(shown, values)]) + " |", flush=True)
            results.append(dict(zip(["pattern", "method", "precision", *module.COLUMNS], [*names, *values])))
        print(f"\n{time.monotonic() - start:.0f} s", flush=True)
        (options.folder / f"{part}.json").write_text(json.dumps(results, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
