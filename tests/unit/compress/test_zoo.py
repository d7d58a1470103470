"""The zoo that ships: one meaning at every opset, inputs that fit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from autotune.compress.zoo import FIRST_OPSETS, OPSETS, ZOO, build, feeds
from autotune.compress.zoo.subject import SIZES, subject
from autotune.errors import UsageError


@pytest.mark.parametrize("name", list(ZOO))
def test_a_model_means_the_same_at_every_opset(name: str) -> None:
    first = FIRST_OPSETS.get(name, OPSETS[0])
    reference = subject(name, OPSETS[-1])
    for opset in range(first, OPSETS[-1]):
        model = build(name, opset)
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version == opset
        here = subject(name, opset)
        for expected, found in zip(reference.expected, here.expected, strict=True):
            assert [value.shape for value in found.values()] == [value.shape for value in expected.values()]
            for one, other in zip(expected.values(), found.values(), strict=True):
                np.testing.assert_allclose(other, one, atol=1e-4)
        assert here.ingested.inspection.layers == reference.ingested.inspection.layers


def test_what_there_is() -> None:
    operators = {node.op_type for name in ZOO for node in build(name).graph.node}
    assert {
        "Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "Concat", "Split", "Softmax", "LayerNormalization",
        "Expand", "Reshape", "Flatten", "BatchNormalization",
    } <= operators  # fmt: skip
    layers = [layer for name in ZOO for layer in subject(name).ingested.inspection.layers]
    assert {layer.op for layer in layers} >= {"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"}
    assert any(1 < layer.group < layer.shape[0] for layer in layers)  # grouped
    assert any(layer.group == layer.shape[0] for layer in layers)  # depthwise
    assert any(len(layer.nodes) > 1 for layer in layers)  # shared
    assert any("tied" in skipped.reason for skipped in subject("tied_embedding").ingested.inspection.skipped)


def test_the_same_model_each_time() -> None:
    for name in ZOO:
        assert build(name) == build(name)
    model = build("embedding")
    one, other = feeds(model, sizes=SIZES[0], seed=1), feeds(model, sizes=SIZES[0], seed=1)
    assert one["ids"].shape == (1, 7) and (one["ids"] == other["ids"]).all()


def test_what_there_is_not() -> None:
    with pytest.raises(UsageError, match="residual"):
        build("residul")
    with pytest.raises(UsageError, match="at opsets 17 to 20, not at 16"):
        build("fused_norm", 16)
