"""Moments of what layers read, against torch's unfold and against what the runtime computes from them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from autotune.compress import moments
from autotune.compress.ingest import load_model
from autotune.compress.plan import Source
from autotune.compress.zoo import build
from autotune.errors import DataError
from autotune.techniques.matrices import as_matrix
from autotune.techniques.moments import Moments

Feeds = dict[str, np.ndarray]


def convolution(weight: np.ndarray, size: tuple[int, ...], **window: object) -> onnx.ModelProto:
    """One convolution without bias."""
    channels = weight.shape[1] * int(str(window.get("group", 1)))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **window)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def source_of(model: onnx.ModelProto) -> Source:
    ingested = load_model(model)
    return Source.of(ingested.model, ingested.inspection.layers)


class Passes:
    """Runs the original on the given inputs; counts the passes."""

    def __init__(self, source: Source, feeds: list[Feeds]) -> None:
        self.feeds, self.wanted = feeds, []  # type: tuple[list[Feeds], list[tuple[str, ...]]]
        graph = onnx.GraphProto(name="all", node=source.nodes, initializer=source.tensors.values())
        graph.input.extend(source.inputs)
        names = {name for node in source.nodes for name in node.output}
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
        model = onnx.ModelProto(ir_version=8, graph=graph)
        model.opset_import.extend(helper.make_opsetid(domain, number) for domain, number in source.opsets.items())
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def __call__(self, wanted: tuple[str, ...]) -> Iterator[Mapping[str, np.ndarray]]:
        self.wanted.append(wanted)
        names = [output.name for output in self.session.get_outputs()]
        for feed in self.feeds:
            seen = dict(zip(names, self.session.run(names, feed), strict=True)) | feed
            yield {name: seen[name] for name in wanted}

    def all(self, name: str) -> list[np.ndarray]:
        return [seen[name] for seen in self((name,))]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) + 0.3).astype(np.float32)


WINDOWS = [
    {"pads": [1, 1, 1, 1]},
    {"pads": [0, 1, 2, 0], "strides": [2, 1]},
    {"dilations": [2, 3], "pads": [2, 3, 2, 3]},
    {"dilations": [2, 1], "strides": [1, 3], "group": 2},
    {"group": 4, "pads": [1, 1, 1, 1]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 1]},
    {"auto_pad": "VALID"},
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_patches_are_what_the_runtime_multiplies(window: dict[str, object], tmp_path: Path) -> None:
    """With more outputs than inputs, W G Wᵀ = E y yᵀ has one solution: the runtime itself says what G is."""
    group = int(str(window.get("group", 1)))
    weight = normal(group * (4 // group) * 9, 4 // group, 3, 3)
    source = source_of(convolution(weight, (9, 8), **window))
    passes = Passes(source, [{"x": normal(2, 4, 9, 8, seed=seed)} for seed in range(3)])
    (layer,) = source.layers.values()
    found = moments.collect(source, passes, tmp_path)[layer.name]
    matrix = as_matrix(layer, weight).astype(np.float64)
    y = np.concatenate([each.transpose(1, 0, 2, 3).reshape(len(weight), -1) for each in passes.all("y")], axis=1)
    y = y.reshape(group, -1, y.shape[1]).astype(np.float64)
    inverse = np.linalg.inv(matrix)
    gram = inverse @ (y @ y.transpose(0, 2, 1) / y.shape[2]) @ inverse.transpose(0, 2, 1)
    assert found.rows == y.shape[2] and found.gram.dtype == np.float32
    np.testing.assert_allclose(found.gram, gram, atol=2e-3)
    np.testing.assert_allclose(found.mean, (inverse @ y.mean(axis=2)[..., None])[..., 0], atol=1e-3)
    np.testing.assert_allclose(found.squares, np.diagonal(gram, axis1=1, axis2=2), atol=2e-3)


@pytest.mark.parametrize(
    ("padding", "stride", "dilation", "group"), [(1, 1, 1, 1), (2, 2, 2, 1), (0, 3, 1, 4), (1, 2, 1, 8)]
)
def test_patches_are_those_of_torch(padding: int, stride: int, dilation: int, group: int, tmp_path: Path) -> None:
    weight = normal(16, 8 // group, 3, 3)
    window = {
        "pads": [padding] * 4, "strides": [stride] * 2, "dilations": [dilation] * 2, "group": group
    }  # fmt: skip
    source = source_of(convolution(weight, (11, 10), **window))
    feeds = [{"x": normal(1, 8, 11, 10, seed=seed)} for seed in range(2)]
    (found,) = moments.collect(source, Passes(source, feeds), tmp_path).values()
    rows = []
    for feed in feeds:
        x = torch.from_numpy(feed["x"]).double()
        unfolded = functional.unfold(x, 3, dilation=dilation, padding=padding, stride=stride)
        rows.append(unfolded[0].T.reshape(-1, group, 72 // group))
    seen = torch.cat(rows).permute(1, 0, 2).numpy()
    assert found.rows == seen.shape[1]
    np.testing.assert_allclose(found.gram, seen.transpose(0, 2, 1) @ seen / seen.shape[1], atol=1e-5)
    np.testing.assert_allclose(found.mean, seen.mean(axis=1), atol=1e-6)


def test_one_dimension(tmp_path: Path) -> None:
    source = source_of(convolution(normal(4, 3, 5), (17,), pads=[2, 1], strides=[2]))
    feeds = [{"x": normal(2, 3, 17)}]
    (found,) = moments.collect(source, Passes(source, feeds), tmp_path).values()
    padded = torch.nn.functional.pad(torch.from_numpy(feeds[0]["x"]).double(), (2, 1))
    rows = padded.unfold(2, 5, 2).permute(0, 2, 1, 3).reshape(-1, 15).numpy()
    assert found.rows == len(rows)
    np.testing.assert_allclose(found.gram[0], rows.T @ rows / len(rows), atol=1e-5)


def test_of_many_places_some_are_taken_evenly(tmp_path: Path) -> None:
    """A ramp from top to bottom: its mean is found although one in 16 places is looked at."""
    source = source_of(convolution(normal(2, 1, 1, 1), (64, 64)))
    ramp = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32)[:, None], (1, 1, 64, 64))
    passes = Passes(source, [{"x": np.ascontiguousarray(ramp)}])
    (found,) = moments.collect(source, passes, tmp_path).values()
    assert found.rows == moments.PATCHES
    assert abs(float(found.mean[0, 0]) - 0.5) < 0.01
    again = moments.collect(source, passes, tmp_path / "again")
    assert [m.digest for m in again.values()] == [found.digest]


@pytest.mark.parametrize("name", ["encoder", "flatten"])
def test_products_and_gemms(name: str, tmp_path: Path) -> None:
    source = source_of(build(name))
    shape = {"encoder": (2, 5), "flatten": (2, 3, 8, 8)}[name]
    draws = [np.random.default_rng(seed).integers(0, 48, shape) for seed in range(3)]
    feeds = [{"ids": d} if name == "encoder" else {"x": d.astype(np.float32) / 48} for d in draws]
    passes = Passes(source, feeds)
    found = moments.collect(source, passes, tmp_path)
    nodes = {node.name: node for node in source.nodes}
    products = [layer for layer in source.layers.values() if layer.op in ("MatMul", "Gemm")]
    assert products and set(found) == {layer.name for layer in source.layers.values() if layer.op != "Gather"}
    for layer in products:
        inputs = layer.parameters // layer.shape[layer.output_axis]
        rows = np.concatenate([a.reshape(-1, inputs) for a in passes.all(nodes[layer.nodes[0]].input[0])])
        rows = rows.astype(np.float64)
        assert found[layer.name].rows == len(rows)
        np.testing.assert_allclose(found[layer.name].gram[0], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[layer.name].mean[0], rows.mean(axis=0), rtol=1e-5, atol=1e-5)


def test_a_shared_weight_reads_all_its_inputs(tmp_path: Path) -> None:
    source = source_of(build("shared_weight"))
    passes = Passes(source, [{"x": normal(2, 3, 32)}])
    layer = next(each for each in source.layers.values() if len(each.nodes) == 2)
    nodes = {node.name: node for node in source.nodes}
    rows = np.concatenate([passes.all(nodes[node].input[0])[0].reshape(-1, 32) for node in layer.nodes])
    found = moments.collect(source, passes, tmp_path)[layer.name]
    assert found.rows == 12
    np.testing.assert_allclose(found.gram[0], rows.T.astype(np.float64) @ rows / 12, atol=1e-5)


def test_little_memory_takes_more_passes_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, shape in (("shared_weight", (2, 3, 32)), ("attention", (2, 3, 32))):
        source = source_of(build(name))
        passes = Passes(source, [{"x": normal(*shape)}])
        whole = moments.collect(source, passes, tmp_path / name / "whole")
        assert len(passes.wanted) == 1
        monkeypatch.setattr(moments, "_SUMS_BYTES", 8 * 32 * 32)
        parts = moments.collect(source, passes, tmp_path / name / "parts")
        monkeypatch.undo()
        assert len(passes.wanted) > 2 and len(set(itertools.chain(*passes.wanted[1:]))) == len(passes.wanted[0])
        assert {layer: m.digest for layer, m in whole.items()} == {layer: m.digest for layer, m in parts.items()}


def test_what_is_kept_is_read_again_and_torn_files_are_not(tmp_path: Path) -> None:
    source = source_of(build("attention"))
    passes = Passes(source, [{"x": normal(1, 4, 32)}])
    found = moments.collect(source, passes, tmp_path)
    assert len({id(found[f"attn.{part}"].gram) for part in "qkv"}) == 1  # they read one tensor: kept once
    again = moments.collect(source, passes, tmp_path)
    assert len(passes.wanted) == 1
    assert [m.digest for m in again.values()] == [m.digest for m in found.values()]
    torn = tmp_path / "0.gram.npy"
    torn.write_bytes(torn.read_bytes()[:100])
    assert moments.load(tmp_path) is None
    moments.collect(source, passes, tmp_path)
    assert len(passes.wanted) == 2
    (tmp_path / "moments.json").unlink()
    assert moments.load(tmp_path) is None


def test_what_is_never_reached_is_missing(tmp_path: Path) -> None:
    source = source_of(build("attention"))
    passes = Passes(source, [{"x": normal(1, 4, 32)}])
    hidden = next(node.input[0] for node in source.nodes if node.name in source.layers["attn.out"].nodes)

    def runs(wanted: tuple[str, ...]) -> Iterator[Mapping[str, np.ndarray]]:
        return ({name: array for name, array in seen.items() if name != hidden} for seen in passes(wanted))

    assert set(moments.collect(source, runs, tmp_path)) == {"attn.q", "attn.k", "attn.v"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_activations_that_are_no_numbers_are_named(bad: float, tmp_path: Path) -> None:
    source = source_of(convolution(normal(2, 1, 3, 3), (6, 6)))
    image = normal(1, 1, 6, 6)
    image[0, 0, 3, 3] = bad
    with pytest.raises(DataError, match="'x'"):
        moments.collect(source, Passes(source, [{"x": image}]), tmp_path)


def test_arithmetic_of_moments() -> None:
    x = normal(1000, 6).astype(np.float64)
    whole = Moments((x.T @ x / 1000)[None].astype(np.float32), x.mean(axis=0)[None].astype(np.float32), 1000)

    def expect(found: Moments, rows: np.ndarray) -> None:
        np.testing.assert_allclose(found.gram[0], rows.T @ rows / 1000, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.mean[0], rows.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.squares[0], np.square(rows).mean(axis=0), rtol=1e-4, atol=1e-5)

    columns = np.array([4, 0, 5])
    expect(whole.select(columns), x[:, columns])
    matrix = normal(1, 3, 6).astype(np.float64)
    expect(whole.transform(matrix), x @ matrix[0].T)
    factors = np.arange(1, 7) / 3
    expect(whole.scale(factors), x * factors)
    assert whole.digest != whole.scale(factors).digest
