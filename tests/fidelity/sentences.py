"""Sentence embeddings of MiniLM-L3 on the held-out sentences, against the model in ONNX Runtime."""

import pathlib
import subprocess

import numpy
import onnxruntime
from tokenizers import Tokenizer

import agreement
import plans

DATA = pathlib.Path(__file__).parent / "../../samples/data"
# The output that is one row for each sentence.
EMBEDDING = "461"
BATCH = 32
# Lines of the held-out file, counted from 0, of which each two that follow each other say the same in other words.
PARAPHRASES = range(106, 190, 2)
COLUMNS = ["cosine", "worst", "Spearman", "nearest kept", "paraphrase found"]


def batches(tokenizer):
    """Token ids and masks of the held-out sentences in batches of like length, and the lines of each: padding costs time."""
    tokenizer = Tokenizer.from_file(str(tokenizer))
    tokenizer.enable_truncation(128)
    lines = (DATA / "sentences.txt").read_text().splitlines()
    lengths = [len(row) for row in tokenizer.encode_batch(lines)]
    order = sorted(range(len(lines)), key=lengths.__getitem__)
    tokenizer.enable_padding()
    for start in range(0, len(lines), BATCH):
        chosen = order[start : start + BATCH]
        rows = tokenizer.encode_batch([lines[i] for i in chosen])
        yield chosen, {
            "input_ids": numpy.array([row.ids for row in rows], numpy.int64),
            "attention_mask": numpy.array([row.attention_mask for row in rows], numpy.int64),
        }


def embeddings(run, inputs):
    """All embeddings in the order of the lines, by a function from a batch to its."""
    parts = [(chosen, run(batch)) for chosen, batch in inputs]
    out = numpy.empty((sum(len(chosen) for chosen, _ in parts), parts[0][1].shape[1]), numpy.float32)
    for chosen, rows in parts:
        out[chosen] = rows
    return out


def calibration(options):
    """The folder of calibration data, made by the sample of that name."""
    folder = options.folder / "sentences-calibration"
    if not folder.exists():
        partial = options.folder / "sentences-calibration.partial"
        command = [options.calibration, options.minilm, "--tokenizer", options.tokenizer, "--text", DATA / "calibration.txt", "--out", partial]
        subprocess.run(command, check=True)
        partial.rename(folder)
    return folder


def measure(options):
    """Rows (variant, values of COLUMNS) for each plan."""
    inputs = list(batches(options.tokenizer))
    session = onnxruntime.InferenceSession(options.minilm)
    expected = embeddings(lambda batch: session.run([EMBEDDING], batch)[0], inputs)
    yield None, row(expected, expected)
    compiler = plans.Compiler(options.slidec, options.sliderun, options.folder / "sentences", options.minilm, calibration(options))
    for variant in plans.variants(options.patterns, options.methods, options.precisions):
        plan = compiler.plan(variant)
        yield variant, row(embeddings(lambda batch: compiler.run(plan, batch)[EMBEDDING], inputs), expected)


def row(got, expected):
    """How embeddings stand to the expected ones. That paraphrases find each other is the model's own task: no reference takes part."""
    cosines = agreement.cosines(got, expected)
    nearest = agreement.nearest(got)
    found = [nearest[i] == i + 1 for i in PARAPHRASES] + [nearest[i + 1] == i for i in PARAPHRASES]
    return [
        cosines.mean(),
        cosines.min(),
        agreement.spearman(agreement.pairs(got), agreement.pairs(expected)),
        (nearest == agreement.nearest(expected)).mean(),
        numpy.mean(found),
    ]
