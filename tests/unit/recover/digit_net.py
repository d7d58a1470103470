"""A small network for digits, trained in seconds, and the data it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from sklearn.datasets import load_digits

from autotune.compress.ingest import Ingested, load_model
from autotune.workload import Dataset, Sample
from tests.unit import zoo


@dataclass(frozen=True)
class Digits:
    """The trained network as it comes out of ingestion, and two data sets."""

    model: onnx.ModelProto
    ingested: Ingested
    train: Dataset
    validation: Dataset


@cache
def digits() -> Digits:
    """Two convolutions, a pooling and two linear layers; about 93 % of the validation images are right."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images, labels = (data.images[order] / 16).astype(np.float32)[:, None], data.target[order]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 24, 3, stride=2, padding=1),
            torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(24 * 16, 40), torch.nn.ReLU(), torch.nn.Linear(40, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(6):
            for start in range(0, 1200, 50):
                optimizer.zero_grad()
                scores = net(torch.from_numpy(images[start : start + 50]))
                loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels[start : start + 50]))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    weights = {name: tensor.detach().numpy() for name, tensor in net.state_dict().items()}
    nodes = [
        zoo.node("Conv", ["image", "0.weight", "0.bias"], ["a"], name="first", pads=[1] * 4),
        zoo.node("Relu", ["a"], ["b"]),
        zoo.node("Conv", ["b", "2.weight", "2.bias"], ["c"], name="second", pads=[1] * 4, strides=[2, 2]),
        zoo.node("Relu", ["c"], ["d"]),
        zoo.node("Flatten", ["d"], ["e"]),
        zoo.node("Gemm", ["e", "5.weight", "5.bias"], ["f"], name="hidden", transB=1),
        zoo.node("Relu", ["f"], ["g"]),
        zoo.node("Gemm", ["g", "7.weight", "7.bias"], ["scores"], name="head", transB=1),
    ]
    model = zoo.model_of(nodes, [zoo.floats("image", "batch", 1, 8, 8)], ["scores"], weights, 21)
    model.ir_version = 10
    return Digits(
        model,
        load_model(model),
        _dataset("train", images[:1200], labels[:1200]),
        _dataset("validation", images[1200:], labels[1200:]),
    )


def _dataset(name: str, images: np.ndarray, labels: np.ndarray) -> Dataset:
    return Dataset(
        name,
        [
            Sample(f"{name}-{i}", {"image": image[None]}, int(label))
            for i, (image, label) in enumerate(zip(images, labels, strict=True))
        ],
    )


def inputs_of(dataset: Dataset) -> dict[str, np.ndarray]:
    """All samples at once."""
    return {"image": np.concatenate([sample.inputs["image"] for sample in dataset.samples])}


def with_tensors(model: onnx.ModelProto, tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A copy with constants replaced; every name must be there in the same shape."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    there = {tensor.name: tensor for tensor in copy.graph.initializer}
    for name, array in tensors.items():
        assert list(there[name].dims) == list(array.shape) and array.dtype == np.float32, name
        there[name].CopyFrom(numpy_helper.from_array(array, name))
    return copy
