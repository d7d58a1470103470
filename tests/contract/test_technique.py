"""Every built-in technique passes the conformance suite that ships with the package; and what is theirs alone."""

from __future__ import annotations

import math
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from autotune.compress import checkpoints
from autotune.compress.conformance import TechniqueConformance
from autotune.compress.plan import Source
from autotune.compress.zoo import ZOO
from autotune.compress.zoo.ready import Ready
from autotune.compress.zoo.subject import subject
from autotune.layers import Layer, Skipped
from autotune.parity.reference import Reference
from autotune.recipe import Recipe
from autotune.techniques.equalise import Equalise
from autotune.techniques.factorize import Factorize
from autotune.techniques.matrices import as_matrix
from autotune.techniques.protocol import Plan, Technique
from autotune.techniques.prune import Prune
from autotune.techniques.quantize import ALL_CHOICES, Quantize, parse_choice
from autotune.techniques.recover import START, WEIGHTS, Recover
from autotune.techniques.simplify import Simplify
from autotune.techniques.sparsify import Sparsify


def percent(choice: str) -> float:
    return float(choice.removesuffix("%").rpartition("-")[2]) / 100


def in_float64(model: onnx.ModelProto, feed: Mapping[str, np.ndarray], outputs: Iterable[str]) -> dict[str, np.ndarray]:
    return Reference(model).run(feed, outputs)


def inputs_of(layer: Layer) -> int:
    return layer.parameters // layer.shape[layer.output_axis]


class _InFloat64(TechniqueConformance):
    reference = staticmethod(in_float64)


class TestSimplify(_InFloat64):
    make = Simplify
    exact: ClassVar[bool] = True

    def constants_at_most(self, ready: Ready, decisions: Mapping[str, str]) -> int:
        return ready.subject.constants


class TestPrune(_InFloat64):
    make = Prune

    def foretold(self, ready: Ready, decisions: Mapping[str, str]) -> Mapping[str, int] | None:
        # In a graph blocks go first, and what then is weakest may be divided otherwise among the parts of a Split.
        mixed = "out" in decisions.values() and {*decisions.values()} != {"out"}
        return None if mixed else super().foretold(ready, decisions)

    def bound(self, choice: str) -> float:
        return {"cut-25%": 0.5, "cut-50%": 0.7, "cut-75%": 0.9, "out": 1.0}[choice]

    def stated(self, source: Source, layer: Layer, choice: str) -> None:
        if choice == "out":
            assert layer.name not in source.layers and source.parts[layer.name] == ()
            return
        before, after = layer.shape[layer.output_axis], source.layers[layer.name].shape[layer.output_axis]
        if layer.name == "begin":  # some of its channels go alone, others in twos
            assert 0 < after < before
            return
        step = 8 if before >= 16 else 1  # of what is narrower nothing would be left to choose
        assert after == step * math.ceil((1 - percent(choice)) * before / step) < before


class TestEqualise(_InFloat64):
    make: ClassVar[Callable[[], Technique]] = Equalise
    exact: ClassVar[bool] = True

    def constants_at_most(self, ready: Ready, decisions: Mapping[str, str]) -> int:
        layers = ready.assembler.source.layers  # a scalar on the way, or with `insert` a scale, is one per channel then
        return ready.subject.constants + sum(4 * inputs_of(layers[name]) for name in decisions)


class TestEqualiseWithInsertedScales(TestEqualise):
    make = staticmethod(lambda: Equalise(insert=True))


class TestSparsify(_InFloat64):
    make: ClassVar[Callable[[], Technique]] = Sparsify
    exactly_stored: ClassVar[bool] = True

    def bound(self, choice: str) -> float:
        return {"2:4": 0.5, "zeros-50%": 0.4, "zeros-70%": 0.6, "zeros-80%": 0.7, "zeros-90%": 0.9}[choice]

    def bytes_at_most(self, layer: Layer, choice: str) -> int:
        return 4 * layer.parameters

    def stated(self, source: Source, layer: Layer, choice: str) -> None:
        weight = numpy_helper.to_array(source.tensors[layer.weight])
        zeros = 0.5 if choice == "2:4" else percent(choice)
        # A code for single bytes: 0 has its probability, the others are equally likely; and no symbol below one bit.
        each_zero, each_other = max(1, -math.log2(zeros)), 8 - math.log2(1 - zeros)
        coded = 4 * weight.size * (zeros * each_zero + (1 - zeros) * each_other) / 8
        assert len(zlib.compress(weight.tobytes(), 6)) <= coded + 320  # the table of a block of codes
        if choice != "2:4":
            assert abs(float(np.mean(weight == 0)) - percent(choice)) <= 1 / weight.size
            return
        matrix = as_matrix(layer, weight)
        channels = layer.shape[1] if layer.op == "Conv" else matrix.shape[2]
        blocks = matrix.reshape(*matrix.shape[:2], channels // 4, 4, -1)
        assert (np.count_nonzero(blocks, axis=3) <= 2).all()


class TestSparsifyByMagnitude(TestSparsify):
    make = staticmethod(lambda: Sparsify(method="magnitude"))

    def bound(self, choice: str) -> float:
        # It does not know what the weights are multiplied with. At 90% that may cost all that the layer says.
        return super().bound(choice) + (0.25 if choice == "zeros-90%" else 0.1)


class TestFactorize(_InFloat64):
    make: ClassVar[Callable[[], Technique]] = Factorize
    exactly_stored: ClassVar[bool] = True

    def bound(self, choice: str) -> float:
        return {"rank-25%": 0.6, "rank-50%": 0.5, "rank-75%": 0.2}[choice]

    def bytes_at_most(self, layer: Layer, choice: str) -> int:
        outputs = layer.shape[layer.output_axis]
        inputs = layer.parameters // outputs
        rank = max(8, 8 * round(percent(choice) * min(outputs, inputs) / 8))
        return 4 * rank * (outputs + inputs)

    def stated(self, source: Source, layer: Layer, choice: str) -> None:
        assert sum(source.layers[part].parameters for part in source.parts[layer.name]) < layer.parameters


class TestFactorizePlain(TestFactorize):
    make = staticmethod(lambda: Factorize(method="plain"))

    def bound(self, choice: str) -> float:
        return super().bound(choice) + 0.15  # it does not know what the layer reads


class Trained(Recover):
    """Offers what a training would have found: other weights for every layer, and the original's."""

    scope: Literal["layer", "graph"] = "graph"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.saved: dict[str, str] = {}

    def survey(self, plan: Plan) -> Sequence[Skipped]:
        weights = {layer.weight: plan.weight(layer) for layer in plan.layers.values()}
        self.saved = {"same": checkpoints.save(self._folder, weights)}
        for seed, when in enumerate((START, WEIGHTS)):
            rng = np.random.default_rng(seed)
            other = {name: array * np.float32(1 + 0.1 * rng.random()) for name, array in sorted(weights.items())}
            self.saved[when] = checkpoints.save(self._folder, other)
        return ()

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        found = {when: self.saved[when] for when in (START, WEIGHTS)}
        return [("start", {START: found[START]}), ("weights", {WEIGHTS: found[WEIGHTS]}), ("both", found)]


class TestRecover(_InFloat64):
    make = staticmethod(lambda: Trained(Path(TestRecover.folder)))
    exactly_stored: ClassVar[bool] = True
    folder: ClassVar[str]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def kept(cls) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as folder:
            TestRecover.folder, TestRecover.checkpoints = folder, Path(folder)
            yield

    def bound(self, choice: str) -> float:
        return 1.0  # at most a tenth on each weight; the layers multiply it

    def constants_at_most(self, ready: Ready, decisions: Mapping[str, str]) -> int:
        return ready.subject.constants

    @pytest.mark.parametrize("model", list(ZOO))
    def test_the_weights_are_those_of_the_checkpoint(self, model: str) -> None:
        ready = self._ready(subject(model))
        technique, assembler = ready.technique, ready.assembler
        assert isinstance(technique, Trained) and self.checkpoints is not None
        original = assembler.assemble(Recipe())
        assert assembler.assemble(Recipe({"recover": {START: technique.saved["same"]}})) == original
        before = {tensor.name: tensor for tensor in onnx.load_from_string(original).graph.initializer}
        for _, decisions in technique.uniform({}):
            last = checkpoints.load(self.checkpoints, decisions[WEIGHTS if WEIGHTS in decisions else START])
            after = onnx.load_from_string(assembler.assemble(Recipe({"recover": decisions}))).graph.initializer
            assert {tensor.name for tensor in after} == set(before)
            for tensor in after:
                wanted = last.get(tensor.name, numpy_helper.to_array(before[tensor.name]))
                np.testing.assert_array_equal(numpy_helper.to_array(tensor), wanted)


class TestQuantize(_InFloat64):
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
