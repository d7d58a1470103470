"""The task of this study: which model, which data, how outputs become answers. This runs as it is.

It draws digits, trains a small network on them with numpy once, and keeps it as model.onnx. To make it your own,
replace `model_file` by the path of your ONNX model, `draw` by your data and `decode` by how your outputs are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotune import Dataset, Sample, Workload

HERE = Path(__file__).parent
SIDE = 12  # pixels
FONT = (  # rows of 3 pixels, top to bottom
    "111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001",
    "111100111001111", "111100111101111", "111001010010010", "111101111101111", "111101111001111",
)  # fmt: skip


def workload() -> Workload:
    """What `autotune` calls."""
    return Workload(
        name="my-study",
        model=model_file(),
        # Judged during the search, and afterwards: data that the search never saw. Say what distinguishes samples
        # in `metadata`; `slices` below says by which of it the accuracy must hold everywhere.
        search=Dataset("search", samples(seed=1, count=1200)),
        heldout=Dataset("heldout", samples(seed=2, count=2000)),
        # For ranges of activations: inputs only, none of the samples above.
        calibration=[sample.inputs for sample in samples(seed=3, count=64)],
        decode=decode,
        metric="accuracy",  # or a function (predictions, labels) -> float
        slices=("paper", "ink"),
        # For [recover] in study.toml: what compressed models are trained on; none of the samples above.
        # train=Dataset("train", samples(seed=4, count=2000)),
    )


def decode(outputs: Mapping[str, np.ndarray]) -> list[int]:
    """The outputs of a batch, by name -> one prediction per sample, comparable with the labels."""
    return [int(digit) for digit in outputs["scores"].argmax(axis=-1)]


def samples(seed: int, count: int) -> list[Sample]:
    """Labelled inputs, the same on every call. Inputs have a batch axis of 1."""
    pictures, digits, papers, inks = draw(seed, count)
    return [
        Sample(
            id=f"{seed}-{i}",
            inputs={"picture": pictures[i : i + 1]},
            label=int(digits[i]),
            metadata={"paper": "clean" if papers[i] < 0.22 else "dirty", "ink": "dark" if inks[i] > 0.75 else "pale"},
        )
        for i in range(count)
    ]


def draw(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pictures [count, 144], digits, how dirty the paper and how dark the ink is (both from 0 to 1)."""
    rng = np.random.default_rng(seed)
    digits = rng.integers(0, 10, count)
    papers, inks = rng.uniform(0, 0.45, count), rng.uniform(0.5, 1, count)
    pictures = rng.normal(0, 1, (count, SIDE, SIDE)).astype(np.float32) * papers[:, None, None]
    for picture, digit, ink in zip(pictures, digits, inks, strict=True):
        glyph = np.array([int(pixel) for pixel in FONT[digit]], np.float32).reshape(5, 3)
        top, left = rng.integers(0, SIDE - 10 + 1), rng.integers(0, SIDE - 6 + 1)
        picture[top : top + 10, left : left + 6] += ink * np.kron(glyph, np.ones((2, 2), np.float32))
    return pictures.reshape(count, -1).astype(np.float32), digits, papers, inks


def model_file() -> Path:
    """The model to compress. Made once: a study belongs to one file, byte for byte."""
    file = HERE / "model.onnx"
    if not file.exists():
        draft = file.with_suffix(".part")
        onnx.save(network(train()), draft)
        draft.replace(file)
    return file


def train() -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of a network with two hidden layers, by Adam on fresh drawings; a few seconds."""
    rng = np.random.default_rng(0)
    sizes = (SIDE * SIDE, 128, 64, 10)
    layers = [
        (rng.normal(0, (2 / i) ** 0.5, (i, o)).astype(np.float32), np.zeros(o, np.float32)) for i, o in pairwise(sizes)
    ]
    moments = [[np.zeros((2, *p.shape), np.float32) for p in layer] for layer in layers]
    pictures, digits, _, _ = draw(seed=0, count=6000)
    for step in range(1, 601):
        chosen = rng.integers(0, len(digits), 128)
        values = [pictures[chosen]]
        for weight, bias in layers:
            values.append(np.maximum(values[-1] @ weight + bias, 0 if weight is not layers[-1][0] else -np.inf))
        scores = np.exp(values[-1] - values[-1].max(1, keepdims=True))
        slope = scores / scores.sum(1, keepdims=True)
        slope[np.arange(len(chosen)), digits[chosen]] -= 1
        for i in reversed(range(len(layers))):
            gradients = (values[i].T @ slope / len(chosen), slope.mean(0))
            slope = (slope @ layers[i][0].T) * (values[i] > 0)
            for parameter, gradient, moment in zip(layers[i], gradients, moments[i], strict=True):
                moment[0] += 0.1 * (gradient - moment[0])
                moment[1] += 0.001 * (gradient**2 - moment[1])
                mean, square = moment[0] / (1 - 0.9**step), moment[1] / (1 - 0.999**step)
                parameter -= 0.002 * mean / (np.sqrt(square) + 1e-8)
    return layers


def network(layers: list[tuple[np.ndarray, np.ndarray]]) -> onnx.ModelProto:
    """The trained network as ONNX: picture [batch, 144] -> scores [batch, 10]."""
    nodes, weights, value = [], [], "picture"
    for i, (weight, bias) in enumerate(layers):
        last = i == len(layers) - 1
        weights += [numpy_helper.from_array(weight, f"w{i}"), numpy_helper.from_array(bias, f"b{i}")]
        out = "scores" if last else f"sum{i}"
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [out], name=f"layer{i}"))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"relu{i}"], name=f"relu{i}"))
            value = f"relu{i}"
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["batch", SIDE * SIDE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "digits", [picture], [scores], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
