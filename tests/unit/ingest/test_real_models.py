"""Models that real exporters wrote, out of an installed package (never downloaded by the test)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from autotune.compress.ingest import load_model
from tests.unit.ingest.equivalence import assert_same

MODELS = {
    "ch_PP-OCRv4_rec_infer.onnx": ((2, 3, 48, 96), 38 + 9),
    "ch_PP-OCRv4_det_infer.onnx": ((1, 3, 96, 96), 64),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": ((2, 3, 48, 192), 54),
}


@pytest.mark.parametrize("name", MODELS)
def test_paddle_ocr(name: str) -> None:
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        pytest.skip("rapidocr-onnxruntime is not installed (extra: studies)")
    path = Path(spec.origin).parent / "models" / name
    shape, layers = MODELS[name]
    loaded = load_model(path)
    assert loaded.model.opset_import[0].version == 21
    assert len(loaded.inspection.layers) == layers
    assert sum(layer.parameters for layer in loaded.inspection.layers) > 0.9 * loaded.inspection.parameters
    image = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    assert_same(str(path), loaded.model, {loaded.model.graph.input[0].name: image}, tolerance=1e-4)
