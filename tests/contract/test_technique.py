"""Every built-in technique passes the conformance suite that ships with the package; and what is theirs alone."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from onnx import numpy_helper

from autotune.compress.conformance import TechniqueConformance
from autotune.compress.plan import Source
from autotune.layers import Layer
from autotune.techniques.equalise import Equalise
from autotune.techniques.factorize import Factorize
from autotune.techniques.matrices import as_matrix
from autotune.techniques.prune import Prune
from autotune.techniques.quantize import ALL_CHOICES, Quantize, parse_choice
from autotune.techniques.simplify import Simplify
from autotune.techniques.sparsify import Sparsify


def percent(choice: str) -> float:
    return float(choice.removesuffix("%").rpartition("-")[2]) / 100


class TestSimplify(TechniqueConformance):
    make = Simplify
    exact: ClassVar[bool] = True


class TestPrune(TechniqueConformance):
    make = Prune

    def bound(self, choice: str) -> float:
        return {"cut-25%": 0.5, "cut-50%": 0.7, "cut-75%": 0.9, "out": 1.0}[choice]

    def stated(self, source: Source, layer: Layer, choice: str) -> None:
        if choice == "out":
            assert layer.name not in source.layers and source.parts[layer.name] == ()
            return
        before, after = layer.shape[layer.output_axis], source.layers[layer.name].shape[layer.output_axis]
        assert (1 - percent(choice)) * before <= after < before


class TestEqualise(TechniqueConformance):
    make = Equalise
    exact: ClassVar[bool] = True


class TestEqualiseWithInsertedScales(TechniqueConformance):
    make = staticmethod(lambda: Equalise(insert=True))
    exact: ClassVar[bool] = True


class TestSparsify(TechniqueConformance):
    make = Sparsify

    def bound(self, choice: str) -> float:
        return {"2:4": 0.5, "zeros-50%": 0.4, "zeros-70%": 0.6, "zeros-80%": 0.7, "zeros-90%": 0.9}[choice]

    def bytes_at_most(self, layer: Layer, choice: str) -> int:
        return 4 * layer.parameters

    def stated(self, source: Source, layer: Layer, choice: str) -> None:
        weight = numpy_helper.to_array(source.tensors[layer.weight])
        if choice != "2:4":
            assert abs(float(np.mean(weight == 0)) - percent(choice)) <= 1 / weight.size
            return
        matrix = as_matrix(layer, weight)
        channels = layer.shape[1] if layer.op == "Conv" else matrix.shape[2]
        blocks = matrix.reshape(*matrix.shape[:2], channels // 4, 4, -1)
        assert (np.count_nonzero(blocks, axis=3) <= 2).all()


class TestFactorize(TechniqueConformance):
    make = Factorize

    def bound(self, choice: str) -> float:
        return {"rank-25%": 0.6, "rank-50%": 0.5, "rank-75%": 0.2}[choice]

    def bytes_at_most(self, layer: Layer, choice: str) -> int:
        outputs = layer.shape[layer.output_axis]
        inputs = layer.parameters // outputs
        rank = max(8, 8 * round(percent(choice) * min(outputs, inputs) / 8))
        return 4 * rank * (outputs + inputs)

    def stated(self, source: Source, layer: Layer, choice: str) -> None:
        assert sum(source.layers[part].parameters for part in source.parts[layer.name]) < layer.parameters


class TestQuantize(TechniqueConformance):
    make = staticmethod(lambda: Quantize(choices=ALL_CHOICES))

    def bound(self, choice: str) -> float:
        words = {"float16": 12.0, "int8-static": 6.0, "int8-dynamic": 7.0, "int8-dynamic-o1%": 7.0}
        return float(4 * 2.0 ** -(words.get(choice) or parse_choice(choice)[0]))

    def bytes_at_most(self, layer: Layer, choice: str) -> int:
        outputs = layer.shape[layer.output_axis]
        inputs = layer.parameters // outputs
        if choice == "float16":
            return 2 * layer.parameters
        bits, block = (8, 0) if choice.startswith("int8") else parse_choice(choice)
        blocks = math.ceil(inputs / block) if block else 1
        padded = blocks * block if block else inputs
        few = 8 * math.ceil(math.ceil(inputs / 100) / 8) if choice == "int8-dynamic-o1%" else 0  # to a multiple of 8
        bias = 16  # a convolution's, as levels and scales
        return outputs * (math.ceil(padded * bits / 8) + 4 * blocks + 4 * few + bias) + 8 * few + 4 * inputs * bool(few)


class TestQuantizeWithCompensation(TestQuantize):
    make = staticmethod(
        lambda: Quantize(
            choices=("int8-static", "int8-dynamic", "int8-dynamic-o1%", "w4-b32", "w2-b32-load", "nf4-b64-load"),
            rounding="gptq",
            bias_correction=True,
        )
    )
