"""ONNX Runtime without graph optimisation as the independent reference of what a graph computes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort
import torch

from autotune.recover.graph import OnnxModule

Feeds = Mapping[str, np.ndarray]


def run(model: onnx.ModelProto | bytes, feeds: Feeds, *, optimised: bool = False) -> dict[str, np.ndarray]:
    """Outputs by name."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def tensors(feeds: Feeds) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in feeds.items()}


def assert_alike(
    model: onnx.ModelProto, feeds: Feeds, *, tolerance: float = 1e-5, least: float = 1e-6
) -> dict[str, torch.Tensor]:
    """Shapes, types and numbers of the module's outputs are ONNX Runtime's, up to `tolerance` of the largest number (or
    of `least`). Gradients of all weights are finite. Returns the weights' gradients."""
    module = OnnxModule(model)
    answers = module(tensors(feeds))
    for name, expected in run(model, feeds).items():
        mine = answers[name].detach().numpy()
        assert mine.shape == expected.shape, (name, mine.shape, expected.shape)
        assert mine.dtype == expected.dtype, (name, mine.dtype, expected.dtype)
        if expected.dtype.kind != "f":
            assert np.array_equal(mine, expected), name
            continue
        finite = np.isfinite(expected)
        assert np.array_equal(mine[~finite], expected[~finite], equal_nan=True), name
        scale = max(least, float(np.abs(expected[finite]).max(initial=0.0)))
        assert float(np.abs(mine[finite] - expected[finite]).max(initial=0.0)) <= tolerance * scale, name
    losses = [t.square().sum() for t in answers.values() if t.requires_grad]
    if losses:
        torch.stack(losses).sum().backward()
    found = {name: p.grad for name, p in module.weights.items() if p.grad is not None}
    for name, gradient in found.items():
        assert torch.isfinite(gradient).all(), f"gradient of {name}"
    return found
