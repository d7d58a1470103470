"""What every technique must do. Derive a test class, say how the technique is made, and run it with pytest.

class TestMyTechnique(TechniqueConformance):
    make = MyTechnique

    def bound(self, choice: str) -> float:
        return {"mild": 0.1, "strong": 0.6}[choice]

Every choice on every layer of every model of `autotune.compress.zoo` is carried out and the artifact is run by ONNX
Runtime, alone and together with others. Needs pytest, hypothesis and onnxruntime.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.compress.assembly import Assembler
from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.plan import Source
from autotune.compress.zoo import FIRST_OPSETS, OPSETS, ZOO
from autotune.compress.zoo.subject import Subject, moments_of, ranges_of, subject
from autotune.errors import TrialFailure, UsageError
from autotune.layers import Layer, Skipped
from autotune.recipe import NONE, Recipe
from autotune.techniques.matrices import as_matrix
from autotune.techniques.protocol import STAGES, Technique
from autotune.techniques.quantize import Quantize

ROUNDING = 1e-4  # of the largest output: what float32 may make of an exact rewrite of a small model
_SLACK = 1024  # bytes of shapes and other small constants that a decision may add
_FORMATS = ("int8-dynamic", "w4-b32-load")  # what structural decisions are combined with
_EXAMPLES = 5  # random recipes per model

Decisions = dict[str, str]
Offers = dict[str, tuple[str, ...]]
_each_model = pytest.mark.parametrize("model", list(ZOO))


class _Everything:
    """Capabilities of a target that runs all that the dialect can write."""

    def __init__(self, assembler: Assembler) -> None:
        self._assembler = assembler

    def supports(self, layer: Layer, choice: str) -> bool:
        try:
            return self._assembler.offers(layer, choice)
        except UsageError:
            return False  # no numeric format


class TechniqueConformance:
    """Each test makes the technique afresh; the seeds of everything random are fixed.

    Errors of outputs are relative: root mean square of the difference over that of the original's output.
    """

    make: ClassVar[Callable[[], Technique]]
    dialect: ClassVar[Dialect] = OrtCpu()
    exact: ClassVar[bool] = False  # whether outputs stay the same but for float32 rounding

    def bound(self, choice: str) -> float:
        """Largest relative error of the model's output with `choice` on one layer."""
        return np.inf

    def bytes_at_most(self, layer: Layer, choice: str) -> int | None:
        """What the layer's constants may take under `choice`; None where the technique promises nothing."""
        return None

    def stated(self, source: Source, layer: Layer, choice: str) -> None:
        """Assert what `choice` on one layer promises about the graph; `source` is the model after it, `layer` is as it
        was before."""

    # -- tests

    def test_keeps_the_protocol(self) -> None:
        technique = self._made()
        assert isinstance(technique, Technique)
        assert technique.stage in STAGES and technique.scope in ("layer", "graph")
        assert technique.name.isascii() and technique.name.isidentifier()

    @_each_model
    def test_names_its_choices_and_says_what_it_leaves_alone(self, model: str) -> None:
        one, again = self._ready(subject(model)), self._ready(subject(model))
        for layer, choices in one.offers.items():
            assert len(set(choices)) == len(choices) and NONE not in choices, (layer, choices)
            assert all(choice.isascii() and choice and " " not in choice for choice in choices), (layer, choices)
        assert one.offers == again.offers
        for skipped in one.skipped:
            assert isinstance(skipped, Skipped) and skipped.name and skipped.op, skipped
            assert skipped.reason.strip() and "\n" not in skipped.reason, skipped
        known = {(label, name, choice) for label, d in one.uniform for name, choice in d.items()}
        if one.technique.scope == "layer":
            assert all(choice in one.offers.get(name, ()) for _, name, choice in known), known

    def test_has_something_to_do(self) -> None:
        for model in ZOO:
            ready = self._ready(subject(model))
            original = ready.assembler.assemble(Recipe())
            for _, decisions in ready.recipes():
                if ready.assembler.assemble(Recipe({ready.technique.name: decisions})) != original:
                    return
        raise AssertionError(f"{ready.technique.name} changes no model of the zoo")

    @_each_model
    def test_none_is_the_original(self, model: str) -> None:
        ready = self._ready(subject(model))
        original = ready.assembler.assemble(Recipe())
        nothing = dict.fromkeys(ready.assembler.source.layers, NONE)
        assert ready.assembler.assemble(Recipe({ready.technique.name: nothing})) == original
        plan = ready.assembler.original()
        ready.technique.apply(plan, {})
        assert plan.nodes == list(plan.source.nodes) and plan.tensors == plan.source.tensors

    @_each_model
    def test_every_choice_of_every_layer(self, model: str) -> None:
        ready = self._ready(subject(model))
        wrong: list[str] = []
        for layer, choices in ready.offers.items():
            for choice in choices:
                with _noting(wrong, f"{layer} {choice}"):
                    decided = {layer: choice}
                    artifact = self._check(ready, decided, self.bound(choice))
                    assembler, before = ready.assembler, ready.assembler.source.layers[layer]
                    recipe = Recipe({ready.technique.name: decided})
                    self.stated(assembler.structured(assembler.structure(recipe)), before, choice)
                    promised = self.bytes_at_most(before, choice)
                    if promised is not None:
                        allowed = ready.subject.constants - 4 * before.parameters + promised + _SLACK
                        assert _constants(artifact) <= allowed, f"{_constants(artifact)} bytes, {allowed} allowed"
        assert not wrong, "\n".join(wrong)

    @_each_model
    def test_the_same_choice_everywhere(self, model: str, tmp_path: Path) -> None:
        """Also: equal decisions give equal bytes, with a cold and a warm bank and in another assembler."""
        ready = self._ready(subject(model), tmp_path)
        wrong: list[str] = []
        for label, decisions in ready.recipes():
            with _noting(wrong, f"{label} {decisions}"):
                artifact = self._check(ready, decisions, np.inf)
                recipe = Recipe({ready.technique.name: decisions})
                warm, fresh = self._ready(subject(model), tmp_path), self._ready(subject(model))
                assert ready.assembler.assemble(recipe) == artifact, "other bytes the second time"
                assert warm.assembler.assemble(recipe) == artifact, "other bytes from what the bank kept"
                assert fresh.assembler.assemble(recipe) == artifact, "other bytes from a fresh assembler"
        assert not wrong, "\n".join(wrong)

    @_each_model
    def test_together_with_numeric_formats(self, model: str) -> None:
        ready = self._ready(subject(model))
        if ready.technique.stage == "precision":
            return
        wrong: list[str] = []
        able = _Everything(ready.assembler)
        for (label, decisions), choice in itertools.product(ready.recipes(), _FORMATS):
            formats = {n: choice for n, layer in ready.assembler.source.layers.items() if able.supports(layer, choice)}
            with _noting(wrong, f"{label} {decisions} with {choice}"):
                self._check(ready, decisions, np.inf, formats)
        assert not wrong, "\n".join(wrong)

    @_each_model
    def test_any_decisions_together(self, model: str) -> None:
        ready = self._ready(subject(model))
        offered = {layer: st.sampled_from(choices) for layer, choices in ready.offers.items() if choices}
        if not offered:
            return

        @settings(
            max_examples=_EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.fixed_dictionaries({}, optional=offered))
        def check(decisions: Decisions) -> None:
            self._check(ready, decisions, np.inf)

        check()

    @_each_model
    def test_keeps_moments_true(self, model: str) -> None:
        """Where outputs stay the same, what is told about a layer's inputs must be what is read in the new graph."""
        ready = self._ready(subject(model), moments=True)
        wrong: list[str] = []
        for label, decisions in ready.recipes() if self.exact else []:
            source = ready.assembler.structured(Recipe({ready.technique.name: decisions}))
            read = moments_of(ready.subject, source)
            for layer, told in source.moments.items():
                with _noting(wrong, f"{label}: moments of {layer}"):
                    size = float(np.abs(read[layer].gram).max())
                    worst = float(np.abs(told.gram - read[layer].gram).max()) / size
                    assert told.rows == read[layer].rows and worst <= 1e-3, f"off by {worst:.2g} of the largest"
                    worst = float(np.abs(told.mean - read[layer].mean).max()) / size**0.5
                    assert worst <= 1e-3, f"means are off by {worst:.2g} of the largest"
        assert not wrong, "\n".join(wrong)

    @_each_model
    def test_opsets(self, model: str) -> None:
        """The middle choice everywhere, on the model as it is written at the oldest and the newest opsets."""
        wrong: list[str] = []
        for opset in (OPSETS[0], 12, 13, 18, OPSETS[-1]):
            if opset >= FIRST_OPSETS.get(model, OPSETS[0]):
                ready = self._ready(subject(model, opset))
                recipes = ready.recipes()
                with _noting(wrong, f"opset {opset}"):
                    if recipes:
                        self._check(ready, recipes[len(recipes) // 2][1], np.inf)
        assert not wrong, "\n".join(wrong)

    # -- how

    def _made(self) -> Technique:
        return type(self).make()

    def _ready(self, on: Subject, bank: Path | None = None, *, moments: bool = False) -> _Ready:
        return _Ready(self._made(), on, self.dialect, bank, moments)

    def _check(
        self, ready: _Ready, decisions: Mapping[str, str], bound: float, formats: Mapping[str, str] | None = None
    ) -> bytes:
        """Assemble, check and run it; the artifact."""
        recipe = Recipe({ready.technique.name: decisions, **({"quantize": formats} if formats else {})})
        assembler = ready.assembler
        artifact = assembler.assemble(recipe)
        onnx.checker.check_model(onnx.load_from_string(artifact), full_check=True)
        _check_layers(assembler.structured(assembler.structure(recipe)))
        assembler.expected_kernels(recipe)
        nodes = {node.name for node in assembler.structured(assembler.structure(recipe)).nodes}
        assert all(set(layer.nodes) <= nodes for layer in assembler.layers(recipe)), "a layer's node is not there"
        for feed, expected, got in ready.subject.compared(artifact):
            assert list(got) == list(expected)
            for name, wanted in expected.items():
                found = got[name]
                size = {key: value.shape for key, value in feed.items()}
                assert found.shape == wanted.shape, f"{name} is {found.shape}, not {wanted.shape}, at {size}"
                assert found.dtype == wanted.dtype, f"{name} is {found.dtype}"
                assert np.isfinite(found).all(), f"{name} is not finite at {size}"
                if self.exact and not formats:
                    worst = float(np.abs(found - wanted).max() / np.abs(wanted).max())
                    assert worst <= ROUNDING, f"{name} differs by {worst:.2g} of its largest value at {size}"
                error = float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))
                assert error <= bound, f"{name} has a relative error of {error:.3f} at {size}, {bound:.3f} allowed"
        return artifact


class _Ready:
    """A technique that has looked at a model, as a study has it before the first trial."""

    def __init__(self, technique: Technique, on: Subject, dialect: Dialect, bank: Path | None, moments: bool) -> None:
        """`moments`: tell them although the technique does not ask, as another of the same study may."""
        self.technique, self.subject = technique, on
        layers = on.ingested.inspection.layers
        techniques: dict[str, Technique] = {"quantize": Quantize(), technique.name: technique}
        self.assembler = Assembler(on.ingested.model, layers, dialect, techniques, bank_folder=bank)
        self.assembler.calibrate_with = lambda structure: ranges_of(on, self.assembler, structure)
        if moments or technique.needs_moments:
            self.assembler.tell_moments(on.moments)
        before = self.assembler.original().to_bytes()
        plan = self.assembler.original()
        self.skipped: Sequence[Skipped] = tuple(technique.survey(plan))
        assert plan.to_bytes() == before, "survey has edited the plan"
        able = _Everything(self.assembler)
        self.offers: Offers = {layer.name: tuple(technique.choices(layer, able)) for layer in layers}
        self.uniform = technique.uniform({} if technique.scope == "graph" else self.offers)

    def recipes(self) -> list[tuple[str, Decisions]]:
        """What the technique itself would try first; at least every choice on all layers that have it."""
        made = [(label, dict(decisions)) for label, decisions in self.uniform if decisions]
        for choice in dict.fromkeys(itertools.chain.from_iterable(self.offers.values())):
            decisions = {name: choice for name, choices in self.offers.items() if choice in choices}
            if decisions not in [other for _, other in made]:
                made.append((choice, decisions))
        return made


def _check_layers(source: Source) -> None:
    """What a plan says about its layers must be true of its graph."""
    nodes = {node.name: node for node in source.nodes}
    assert len(nodes) == len(source.nodes), "two nodes have one name"
    for name, layer in source.layers.items():
        assert name == layer.name
        assert layer.weight in source.tensors, f"layer {name}: its weight {layer.weight} is not there"
        tensor = source.tensors[layer.weight]
        assert tuple(tensor.dims) == layer.shape, f"layer {name}: weight is {tuple(tensor.dims)}, told as {layer.shape}"
        assert tensor.data_type == onnx.TensorProto.FLOAT, f"layer {name}: weight is not float32"
        assert layer.parameters == int(np.prod(layer.shape)), f"layer {name}: {layer.parameters} parameters told"
        assert layer.nodes, f"layer {name} has no nodes"
        for node in layer.nodes:
            assert node in nodes, f"layer {name}: node {node} is not there"
            assert nodes[node].op_type == layer.op, f"layer {name}: node {node} is a {nodes[node].op_type}"
            assert layer.weight in nodes[node].input, f"layer {name}: node {node} does not read its weight"
            if layer.bias is not None:
                assert list(nodes[node].input[2:]) == [layer.bias], f"layer {name}: node {node} has another bias"
            if layer.op == "Conv":
                group = next((a.i for a in nodes[node].attribute if a.name == "group"), 1)
                assert group == layer.group, f"layer {name}: {layer.group} groups told, {group} there"
    for name, moments in source.moments.items():
        if name not in source.layers:
            continue
        groups, _, inputs = as_matrix(source.layers[name], np.empty(source.layers[name].shape, np.float32)).shape
        assert moments.gram.shape == (groups, inputs, inputs), f"layer {name}: its moments are of other inputs"
        assert moments.mean.shape == (groups, inputs), f"layer {name}: its moments are of other inputs"


def _constants(artifact: bytes) -> int:
    """Bytes of all constants."""
    return sum(len(tensor.raw_data) for tensor in onnx.load_from_string(artifact).graph.initializer)


@contextmanager
def _noting(wrong: list[str], what: str) -> Iterator[None]:
    """Go on after a fault, so that one run tells all of them."""
    faults: tuple[type[BaseException], ...] = (AssertionError, TrialFailure, *_RUNTIME_ERRORS)
    try:
        yield
    except faults as error:
        wrong.append(f"{what}: {type(error).__name__} {next(iter(str(error).splitlines()), '')}")


def _runtime_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds: Any = vars(state).values()
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))


_RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    *_runtime_errors(), onnx.checker.ValidationError, onnx.shape_inference.InferenceError,
    KeyError, IndexError, ValueError,
)  # fmt: skip
