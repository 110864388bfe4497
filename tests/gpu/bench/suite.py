"""What is measured: models, shapes, variants of plans. Only tables."""

# Sizes as in the models' published configurations, as `generate` has them; rows: by the number of tokens, the shape that has them.
DECODER_ROWS = {64: (1, 64), 512: (1, 512), 2048: (1, 2048), 8192: (8, 1024), 16384: (16, 1024)}
ENCODER_ROWS = {64: (1, 64), 128: (1, 128), 512: (4, 128), 2048: (16, 128), 4096: (32, 128), 8192: (64, 128), 16384: (128, 128)}
# Images of 196 patches and a class token.
VIT_ROWS = {197: (1,), 1576: (8,), 6304: (32,), 12608: (64,)}

MODELS = {
    "qwen2.5-7b": {"family": "decoder", "hidden": 3584, "heads": 28, "kv_heads": 4, "head": 128, "theta": 1e6, "epsilon": 1e-6, "rows": DECODER_ROWS},
    "llama-3.2-1b": {"family": "decoder", "hidden": 2048, "heads": 32, "kv_heads": 8, "head": 64, "theta": 5e5, "epsilon": 1e-5, "rows": DECODER_ROWS},
    "bert-base": {"family": "encoder", "hidden": 768, "heads": 12, "layers": 12, "epsilon": 1e-12, "rows": ENCODER_ROWS},
    "vit-s": {"family": "vit", "heads": 6, "layers": 12, "image": 224, "epsilon": 1e-6, "rows": VIT_ROWS},
    # For rehearsals.
    "tiny-decoder": {"family": "decoder", "hidden": 64, "heads": 4, "kv_heads": 2, "head": 16, "theta": 1e4, "epsilon": 1e-6, "rows": {24: (2, 12)}},
    "tiny-encoder": {"family": "encoder", "hidden": 64, "heads": 4, "layers": 2, "epsilon": 1e-12, "rows": {24: (2, 12)}},
    "tiny-vit": {"family": "vit", "heads": 4, "layers": 2, "image": 32, "epsilon": 1e-6, "rows": {34: (2,)}},
}

PATTERNS = ["2:4", "4:6", "6:8", "8:10"]

# Ours: name, pattern that the weights are pruned to (none: as they are), precision, the plan's variant on a GPU (none: what the runtime chooses).
VARIANTS = [(precision, None, precision, None) for precision in ("bf16", "fp8", "int8")]
VARIANTS += [(f"{precision} {pattern}", pattern, precision, "sparse") for precision in ("int8", "fp8") for pattern in PATTERNS]
VARIANTS += [(f"{precision} {pattern} auto", pattern, precision, None) for precision in ("int8", "fp8") for pattern in PATTERNS]

# torch.compile of the same architecture: name, whether its linear layers are fp8 with dynamic scales per token.
PEERS = [("torch bf16", False), ("torch fp8", True)]

# What is measured when nothing else is asked for.
DEFAULT = [name for name, *_ in VARIANTS + PEERS if not (name.startswith("fp8") and name.endswith("auto"))]


def inputs(model, shape):
    """By name, the inputs of a shape: extents, and what they hold."""
    family = MODELS[model]["family"]
    if family == "vit":
        side = MODELS[model]["image"]
        return {"image": ((*shape, 3, side, side), "normal")}
    batch, tokens = shape
    states = {"hidden_states": ((batch, tokens, MODELS[model]["hidden"]), "normal")}
    if family == "decoder":
        return states | {"position_ids": ((batch, tokens), "positions")}
    return states | {"attention_mask": ((batch, tokens), "ones")}


def symbols(model, shape):
    """The shape as plans name it."""
    names = ["batch_size", "sequence_length"]
    return ",".join(f"{name}={n}" for name, n in zip(names, shape))
