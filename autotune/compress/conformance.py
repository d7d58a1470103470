"""What every technique must do. Derive a test class, say how the technique is made, and run it with pytest.

class TestMyTechnique(TechniqueConformance):
    make = MyTechnique

    def bound(self, choice: str) -> float:
        return {"mild": 0.1, "strong": 0.6}[choice]

Every choice on every layer of every model of `autotune.compress.zoo` is carried out and the artifact is run by ONNX
Runtime, alone and together with others. Random decisions are the same in every run; `pytest --hypothesis-seed=N` draws
others. Needs pytest, hypothesis and onnxruntime.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, core, given, settings
from hypothesis import strategies as st

from autotune.compress.dialects.ort_cpu import OrtCpu
from autotune.compress.dialects.protocol import Dialect
from autotune.compress.plan import Source
from autotune.compress.zoo import FIRST_OPSETS, OPSETS, ZOO
from autotune.compress.zoo.graph import Feeds
from autotune.compress.zoo.ready import Decisions, Everything, Ready, Reference, answers, check_layers, constants_of
from autotune.compress.zoo.subject import Subject, moments_of, subject
from autotune.errors import TrialFailure
from autotune.layers import Layer, Skipped
from autotune.recipe import NONE, Recipe
from autotune.techniques.protocol import STAGES, Foretelling, Technique

ROUNDING = 1e-4  # of the largest output: what float32 may make of an exact rewrite of a small model
_SLACK = 1024  # bytes of shapes and other small constants that a decision may add
_FORMATS = ("int8-dynamic", "w4-b32-load")  # what structural decisions are combined with
_EXAMPLES = 5  # random recipes per model
_USUAL = 17  # the opset of all other tests
_WRITTEN = 1e-5  # of the largest output: what weights that are kept in float32 may make of an exact rewrite

_each_model = pytest.mark.parametrize("model", list(ZOO))


class TechniqueConformance:
    """Each test makes the technique afresh; the seeds of everything random are fixed.

    Errors of outputs are relative: root mean square of the difference over that of the original's output. What the
    original's output is, `reference` says (model, inputs, names of outputs -> float64 arrays); ONNX Runtime where there
    is none.
    """

    make: ClassVar[Callable[[], Technique]]
    dialect: ClassVar[Dialect] = OrtCpu()
    reference: ClassVar[Reference | None] = None
    exact: ClassVar[bool] = False  # whether outputs stay the same but for float32 rounding
    exactly_stored: ClassVar[bool] = False  # whether constants take what `constants_at_most` says, to the byte
    checkpoints: Path | None = None  # where weights lie that decisions name

    def bound(self, choice: str) -> float:
        """Largest relative error of the model's output with `choice` on one layer."""
        return np.inf

    def bytes_at_most(self, layer: Layer, choice: str) -> int | None:
        """What the layer's constants may take under `choice`; None where the technique promises nothing."""
        return None

    def bound_together(self, decisions: Mapping[str, str]) -> float:
        """Largest relative error of the model's output under several decisions."""
        return ROUNDING + math.fsum(map(self.bound, decisions.values()))

    def constants_at_most(self, ready: Ready, decisions: Mapping[str, str]) -> int | None:
        """What all the model's constants may take; None where the technique promises nothing. By default the sum of
        what its layers may, and where sizes are foretold, that of the weights that are left; with a little for shapes,
        but where `exactly_stored`."""
        layers, saved = ready.assembler.source.layers, 0
        left = self.foretold(ready, decisions)
        if left is not None:
            saved = sum(4 * (layers[name].parameters - count) for name, count in left.items())
        else:
            for name, choice in decisions.items():
                promised = self.bytes_at_most(layers[name], choice) if name in layers else None
                if promised is None:
                    return None
                saved += 4 * layers[name].parameters - promised
        return ready.subject.constants - saved + (0 if self.exactly_stored else _SLACK * len(decisions))

    def foretold(self, ready: Ready, decisions: Mapping[str, str]) -> Mapping[str, int] | None:
        """How many weights layers must have left, as a technique that can foretell it says; None where it promises
        nothing."""
        if not isinstance(ready.technique, Foretelling):
            return None
        return ready.technique.foretell(ready.assembler.original(), decisions)

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
                    self._check(ready, decided, self.bound(choice))
                    assembler, before = ready.assembler, ready.assembler.source.layers[layer]
                    recipe = Recipe({ready.technique.name: decided})
                    self.stated(assembler.structured(assembler.structure(recipe)), before, choice)
        assert not wrong, "\n".join(wrong)

    @_each_model
    def test_the_same_choice_everywhere(self, model: str, tmp_path: Path) -> None:
        """Also: equal decisions give equal bytes, with a cold and a warm bank and in another assembler; and, but for
        numeric formats, the artifact means in float64 what the runtime computes."""
        ready = self._ready(subject(model), tmp_path)
        wrong: list[str] = []
        for label, decisions in ready.recipes():
            with _noting(wrong, f"{label} {decisions}"):
                artifact = self._check(ready, decisions, self.bound_together(decisions))
                recipe = Recipe({ready.technique.name: decisions})
                if ready.technique.stage != "precision":
                    self._check_in_float64(ready, artifact)
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
        able = Everything(ready.assembler)
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
            derandomize=core.global_force_seed is None,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.fixed_dictionaries({}, optional=offered))
        def check(decisions: Decisions) -> None:
            self._check(ready, decisions, self.bound_together(decisions))

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
        """One choice everywhere, another at each opset, on the model as it is written there."""
        wrong: list[str] = []
        for at, opset in enumerate(OPSETS):
            if opset >= FIRST_OPSETS.get(model, OPSETS[0]) and opset != _USUAL:
                ready = self._ready(subject(model, opset))
                recipes = ready.recipes()
                with _noting(wrong, f"opset {opset}"):
                    if recipes:
                        decisions = recipes[at % len(recipes)][1]
                        self._check(ready, decisions, self.bound_together(decisions))
        assert not wrong, "\n".join(wrong)

    # -- how

    def _made(self) -> Technique:
        return type(self).make()

    def _ready(self, on: Subject, bank: Path | None = None, *, moments: bool = False) -> Ready:
        return Ready(self._made(), on, self.dialect, bank, moments, self.checkpoints)

    def _check(
        self, ready: Ready, decisions: Mapping[str, str], bound: float, formats: Mapping[str, str] | None = None
    ) -> bytes:
        """Assemble, check and run it; the artifact."""
        recipe = Recipe({ready.technique.name: decisions, **({"quantize": formats} if formats else {})})
        assembler = ready.assembler
        artifact = assembler.assemble(recipe)
        onnx.checker.check_model(onnx.load_from_string(artifact), full_check=True)
        check_layers(assembler.structured(assembler.structure(recipe)))
        assembler.expected_kernels(recipe)
        nodes = {node.name for node in assembler.structured(assembler.structure(recipe)).nodes}
        assert all(set(layer.nodes) <= nodes for layer in assembler.layers(recipe)), "a layer's node is not there"
        if not formats:
            self._check_sizes(ready, artifact, decisions)
        for feed, expected, exact, got in self._compared(ready.subject, artifact):
            assert list(got) == list(expected)
            for name, answered in expected.items():
                found, wanted = got[name], exact[name]
                size = {key: value.shape for key, value in feed.items()}
                assert found.shape == wanted.shape, f"{name} is {found.shape}, not {wanted.shape}, at {size}"
                assert found.dtype == answered.dtype, f"{name} is {found.dtype}"
                assert np.isfinite(found).all(), f"{name} is not finite at {size}"
                if self.exact and not formats:
                    worst = float(np.abs(found - wanted).max() / np.abs(wanted).max())
                    assert worst <= ROUNDING, f"{name} differs by {worst:.2g} of its largest value at {size}"
                error = float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))
                assert error <= bound, f"{name} has a relative error of {error:.3f} at {size}, {bound:.3f} allowed"
        return artifact

    def _check_sizes(self, ready: Ready, artifact: bytes, decisions: Mapping[str, str]) -> None:
        left = self.foretold(ready, decisions)
        if left is not None:
            now = ready.assembler.structured(Recipe({ready.technique.name: dict(decisions)})).layers
            for name, before in ready.assembler.source.layers.items():
                there = now[name].parameters if name in now else 0
                foretold = left.get(name, before.parameters)
                assert there == foretold, f"layer {name} has {there} weights, {foretold} foretold"
        allowed = self.constants_at_most(ready, decisions)
        if allowed is not None:
            size = constants_of(artifact)
            assert size <= allowed, f"{size} bytes, {allowed} allowed"
            assert size == allowed or not self.exactly_stored, f"{size} bytes, {allowed} stated"

    def _compared(self, on: Subject, artifact: bytes) -> Iterator[tuple[Feeds, Feeds, Mapping[str, np.ndarray], Feeds]]:
        """Input, answers of the original by ONNX Runtime and by the reference, answers of the artifact."""
        reference = type(self).reference
        exact = on.expected if reference is None else answers(reference, on)
        for (feed, expected, got), wanted in zip(on.compared(artifact), exact, strict=True):
            yield feed, expected, wanted, got

    def _check_in_float64(self, ready: Ready, artifact: bytes) -> None:
        """The artifact by the reference, against the runtime; and against the original where it stays the same."""
        reference = type(self).reference
        if reference is None:
            return
        feed, _, original, got = next(self._compared(ready.subject, artifact))
        meant = reference(onnx.load_from_string(artifact), feed, list(got))
        for name, found in got.items():
            size = float(np.abs(meant[name]).max())
            worst = float(np.abs(found - meant[name]).max()) / size
            assert worst <= ROUNDING, f"{name} differs by {worst:.2g} of its largest value from the same in float64"
            if self.exact:
                worst = float(np.abs(original[name] - meant[name]).max()) / size
                assert worst <= _WRITTEN, f"{name} differs by {worst:.2g} of its largest value, both in float64"


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
