"""A small transformer that reads handwritten digits, trained for real on scikit-learn's 8×8 images and exported to ONNX.

A token is a row of eight pixels. Training is full f32 on one core, some seconds a seed; the same seed gives the same split, and the same
weights on the same machine.
"""

import functools

import jax
import jax.numpy as jnp
import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

ROWS, PIXELS, CLASSES = 8, 8, 10
WIDTH, HEADS, HIDDEN, LAYERS = 48, 4, 192, 2
EPOCHS, BATCH, RATE, DECAY = 120, 64, 2e-3, 1e-2
EPSILON = 1e-5
# Of 1797 images: enough to tell accuracies apart by half a percent.
TEST_SHARE = 0.4


def split(seed):
    """Training and test images, f32 [images, 8, 8] from 0 to 1, and their labels."""
    data = load_digits()
    images = (data.images / 16).astype(numpy.float32)
    return train_test_split(images, data.target, test_size=TEST_SHARE, stratify=data.target, random_state=seed)


def initial(seed):
    """Weights [K, N] by name, as ONNX's MatMul has them."""
    generator = numpy.random.default_rng(seed)

    def matrix(k, n):
        return (generator.standard_normal((k, n)) / numpy.sqrt(k)).astype(numpy.float32)

    weights = {"embed.w": matrix(PIXELS, WIDTH), "embed.b": numpy.zeros(WIDTH), "position": 0.1 * matrix(ROWS, WIDTH)}
    for layer in range(LAYERS):
        for name, k, n in [("q", WIDTH, WIDTH), ("k", WIDTH, WIDTH), ("v", WIDTH, WIDTH), ("o", WIDTH, WIDTH)] + [
            ("up", WIDTH, HIDDEN),
            ("down", HIDDEN, WIDTH),
        ]:
            weights |= {f"{layer}.{name}.w": matrix(k, n), f"{layer}.{name}.b": numpy.zeros(n)}
        for name in ["norm1", "norm2"]:
            weights |= {f"{layer}.{name}.w": numpy.ones(WIDTH), f"{layer}.{name}.b": numpy.zeros(WIDTH)}
    weights |= {"norm.w": numpy.ones(WIDTH), "norm.b": numpy.zeros(WIDTH)}
    weights |= {"head.w": matrix(WIDTH, CLASSES), "head.b": numpy.zeros(CLASSES)}
    return {name: jnp.asarray(w, jnp.float32) for name, w in weights.items()}


def logits(weights, images):
    """Scores [images, 10]."""

    def linear(name, x):
        return x @ weights[f"{name}.w"] + weights[f"{name}.b"]

    def norm(name, x):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(variance + EPSILON) * weights[f"{name}.w"] + weights[f"{name}.b"]

    def heads(x):
        return x.reshape(-1, ROWS, HEADS, WIDTH // HEADS).transpose(0, 2, 1, 3)

    x = linear("embed", images) + weights["position"]
    for layer in range(LAYERS):
        h = norm(f"{layer}.norm1", x)
        q, k, v = (heads(linear(f"{layer}.{name}", h)) for name in "qkv")
        seen = jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) * (WIDTH // HEADS) ** -0.5) @ v
        x = x + linear(f"{layer}.o", seen.transpose(0, 2, 1, 3).reshape(-1, ROWS, WIDTH))
        h = norm(f"{layer}.norm2", x)
        x = x + linear(f"{layer}.down", jax.nn.gelu(linear(f"{layer}.up", h), approximate=False))
    return linear("head", norm("norm", x).mean(1))


def train(seed):
    """Weights after training on the seed's split, by AdamW with a cosine schedule; images are shifted by up to one pixel."""
    images, _, labels, _ = split(seed)
    generator = numpy.random.default_rng(seed)
    weights = initial(seed)
    moments = jax.tree.map(lambda w: (jnp.zeros_like(w), jnp.zeros_like(w)), weights)
    per_epoch = len(images) // BATCH
    steps = EPOCHS * per_epoch

    def loss(weights, images, labels):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits(weights, images)), labels[:, None], 1).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(weights, moments, t, images, labels):
        gradients = jax.grad(loss)(weights, images, labels)
        rate = RATE * jnp.minimum(1, t / per_epoch) * 0.5 * (1 + jnp.cos(jnp.pi * t / steps))
        new_weights, new_moments = {}, {}
        for name, w in weights.items():
            first = 0.9 * moments[name][0] + 0.1 * gradients[name]
            second = 0.99 * moments[name][1] + 0.01 * gradients[name] ** 2
            update = (first / (1 - 0.9**t)) / (jnp.sqrt(second / (1 - 0.99**t)) + 1e-8)
            new_weights[name] = w - rate * (update + DECAY * w * (w.ndim > 1))
            new_moments[name] = (first, second)
        return new_weights, new_moments

    t = 0
    for _ in range(EPOCHS):
        order = generator.permutation(len(images))
        for chunk in numpy.split(order[: per_epoch * BATCH], per_epoch):
            t += 1
            shifted = numpy.roll(images[chunk], generator.integers(-1, 2, 2), (1, 2))
            weights, moments = step(weights, moments, float(t), shifted, labels[chunk])
    return {name: numpy.asarray(w) for name, w in weights.items()}


def to_onnx(weights):
    """The model with input `image` f32 [batch, 8, 8] and output `logits` f32 [batch, 10]; weights are initializers [K, N]."""
    nodes, constants = [], dict(weights)

    def op(kind, inputs, **attributes):
        out = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [out], name=out, **attributes))
        return out

    def linear(name, x):
        product = f"{name}.product"
        nodes.append(helper.make_node("MatMul", [x, f"{name}.w"], [product], name=name))
        return op("Add", [product, f"{name}.b"])

    def norm(name, x):
        return op("LayerNormalization", [x, f"{name}.w", f"{name}.b"], axis=-1, epsilon=EPSILON)

    def heads(x, permutation):
        return op("Transpose", [op("Reshape", [x, "split"])], perm=permutation)

    constants["split"] = numpy.array([0, ROWS, HEADS, WIDTH // HEADS], numpy.int64)
    constants["join"] = numpy.array([0, ROWS, WIDTH], numpy.int64)
    constants["scale"] = numpy.array((WIDTH // HEADS) ** -0.5, numpy.float32)
    x = op("Add", [linear("embed", "image"), "position"])
    for layer in range(LAYERS):
        h = norm(f"{layer}.norm1", x)
        q = heads(linear(f"{layer}.q", h), [0, 2, 1, 3])
        k = heads(linear(f"{layer}.k", h), [0, 2, 3, 1])
        v = heads(linear(f"{layer}.v", h), [0, 2, 1, 3])
        seen = op("MatMul", [op("Softmax", [op("Mul", [op("MatMul", [q, k]), "scale"])], axis=-1), v])
        joined = op("Reshape", [op("Transpose", [seen], perm=[0, 2, 1, 3]), "join"])
        x = op("Add", [x, linear(f"{layer}.o", joined)])
        h = norm(f"{layer}.norm2", x)
        x = op("Add", [x, linear(f"{layer}.down", op("Gelu", [linear(f"{layer}.up", h)]))])
    pooled = op("ReduceMean", [norm("norm", x), "axis"], keepdims=0)
    constants["axis"] = numpy.array([1], numpy.int64)
    product = "head.product"
    nodes.append(helper.make_node("MatMul", [pooled, "head.w"], [product], name="head"))
    nodes.append(helper.make_node("Add", [product, "head.b"], ["logits"], name="logits"))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", ROWS, PIXELS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(numpy.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return model
