"""The techniques' suite in the dialects of cards: what ONNX Runtime runs of it."""

from __future__ import annotations

from typing import ClassVar

from autotune.compress.conformance import TechniqueConformance
from autotune.compress.dialects.ort_cuda import OrtCuda
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.dialects.tensorrt import TensorRt
from autotune.layers import Layer
from autotune.techniques.quantize import Quantize


class _InDialect(TechniqueConformance):
    dialect: ClassVar[Dialect] = TensorRt()

    def bound(self, choice: str) -> float:
        return float(4 * 2.0 ** -{"float16": 11, "int8-static": 6, "w8-load": 8}.get(choice, 4))

    def bytes_at_most(self, layer: Layer, choice: str) -> int:
        outputs = layer.shape[layer.output_axis]
        if choice == "float16":
            return 2 * layer.parameters
        bits, block = (4, 32) if choice == "w4-b32" else (8, layer.parameters // outputs)
        return layer.parameters * bits // 8 + 2 * layer.parameters // block + 4 * outputs


class TestInTensorRt(_InDialect):
    make = staticmethod(lambda: Quantize(choices=("float16", "int8-static", "w8-load", "w4-b32")))


class TestInTensorRtWithCompensation(_InDialect):
    make = staticmethod(lambda: Quantize(("int8-static", "w4-b32"), rounding="gptq", bias_correction=True))


class TestInOrtCuda(_InDialect):
    dialect: ClassVar[Dialect] = OrtCuda()
    make = staticmethod(lambda: Quantize(choices=("float16", "w8-load", "w4-b32", "w8-b128")))

    def bytes_at_most(self, layer: Layer, choice: str) -> int | None:
        return None if choice.startswith("w8-b") else super().bytes_at_most(layer, choice) + 4 * layer.shape[0] + 4 * 64
