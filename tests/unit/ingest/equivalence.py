"""Do two models give the same outputs? In-process onnxruntime, without graph optimisation where it can be."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

Feeds = dict[str, np.ndarray]


def run(model: onnx.ModelProto | str, feeds: Feeds) -> dict[str, np.ndarray]:
    """All outputs by name; optimisation off, so that the graph itself is what runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, str) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_same(
    original: onnx.ModelProto | str, other: onnx.ModelProto, feeds: Feeds, *, tolerance: float = 1e-5
) -> None:
    """Same output names, shapes, types, and values within `tolerance`."""
    first, second = run(original, feeds), run(other, feeds)
    assert list(first) == list(second)
    for name, expected in first.items():
        assert expected.dtype == second[name].dtype
        np.testing.assert_allclose(second[name], expected, rtol=tolerance, atol=tolerance)
