"""The conformance suite finds the faults that it is there for: one broken technique for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import helper

from autotune.compress.conformance import TechniqueConformance
from autotune.errors import TrialFailure
from autotune.layers import Layer, Skipped
from autotune.parity.reference import Reference
from autotune.techniques.protocol import Calibration, Capabilities, Plan, Stage
from hwprofiles.errors import Failure

MODEL = "gated_ffn"


class Sound:
    """Makes weights a little smaller."""

    name = "sound"
    stage: Stage = "sparsify"
    scope: Literal["layer", "graph"] = "layer"
    calibration: Calibration | None = None
    needs_moments = False

    def survey(self, plan: Plan) -> Sequence[Skipped]:
        return [Skipped("x", "Relu", "has no weights")]

    def choices(self, layer: Layer, capabilities: Capabilities) -> Sequence[str]:
        return ("mild", "strong")

    def uniform(self, offered: Mapping[str, Sequence[str]]) -> list[tuple[str, dict[str, str]]]:
        return [("mild", dict.fromkeys(offered, "mild"))]

    def apply(self, plan: Plan, decisions: Mapping[str, str]) -> None:
        for name, choice in decisions.items():
            self.edit(plan, plan.layer(name), choice)

    def edit(self, plan: Plan, layer: Layer, choice: str) -> None:
        by = np.float32(0.999 if choice == "mild" else 0.95)
        plan.set_tensor(layer.weight, plan.weight(layer) * by)


class Suite(TechniqueConformance):
    make: Callable[[], Sound] = Sound

    def bound(self, choice: str) -> float:
        return 0.2

    def bytes_at_most(self, layer: Layer, choice: str) -> int:
        return 4 * layer.parameters


def suite(technique: type[Sound], *, exact: bool = False) -> Suite:
    made = type("Made", (Suite,), {"make": technique, "exact": exact})()
    assert isinstance(made, Suite)
    return made


def every(technique: type[Sound], *, exact: bool = False) -> None:
    suite(technique, exact=exact).test_every_choice_of_every_layer(MODEL)


def test_a_sound_technique_passes(tmp_path: Path) -> None:
    sound = suite(Sound)
    sound.test_keeps_the_protocol()
    sound.test_has_something_to_do()
    for test in (
        sound.test_names_its_choices_and_says_what_it_leaves_alone, sound.test_none_is_the_original,
        sound.test_every_choice_of_every_layer, sound.test_together_with_numeric_formats,
        sound.test_any_decisions_together, sound.test_keeps_moments_true, sound.test_opsets,
    ):  # fmt: skip
        test(MODEL)
    sound.test_the_same_choice_everywhere(MODEL, tmp_path)


def test_an_error_above_the_bound() -> None:
    class Loud(Sound):
        def edit(self, plan: Plan, layer: Layer, choice: str) -> None:
            plan.set_tensor(layer.weight, plan.weight(layer) * np.float32(3))

    with pytest.raises(AssertionError, match=r"gate mild: .*relative error") as caught:
        every(Loud)
    assert "down strong" in str(caught.value)  # all of them are told


def test_not_exact() -> None:
    with pytest.raises(AssertionError, match="differs by"):
        every(Sound, exact=True)


def test_outputs_that_are_no_numbers() -> None:
    class Broken(Sound):
        def edit(self, plan: Plan, layer: Layer, choice: str) -> None:
            plan.set_tensor(layer.weight, np.full(layer.shape, np.nan, np.float32))

    with pytest.raises(AssertionError, match="not finite"):
        every(Broken)


def test_a_shape_that_does_not_fit() -> None:
    class Shorter(Sound):
        def edit(self, plan: Plan, layer: Layer, choice: str) -> None:
            weight = plan.weight(layer)[:-8]
            plan.set_tensor(layer.weight, weight)
            plan.layers[layer.name] = replace(layer, shape=weight.shape, parameters=weight.size)

    with pytest.raises(AssertionError, match=r"gate mild: InferenceError|gate mild: Fail"):
        every(Shorter)


def test_layers_that_are_not_as_told() -> None:
    class Silent(Sound):
        def edit(self, plan: Plan, layer: Layer, choice: str) -> None:
            plan.set_tensor(f"{layer.name}.new", plan.weight(layer))
            for at, node in enumerate(plan.nodes):
                if node.name in layer.nodes:
                    changed = onnx.NodeProto()
                    changed.CopyFrom(node)
                    changed.input[1] = f"{layer.name}.new"
                    plan.nodes[at] = changed

    with pytest.raises(
        AssertionError, match=r"gate mild: AssertionError layer gate: its weight gate\.weight is not there"
    ):
        every(Silent)


def test_more_bytes_than_promised() -> None:
    class Fat(Sound):
        def edit(self, plan: Plan, layer: Layer, choice: str) -> None:
            plan.set_tensor("ballast", np.ones((2048, 1), np.float32))
            plan.nodes.append(helper.make_node("Identity", ["ballast"], ["kept"], name="ballast"))

    with pytest.raises(AssertionError, match=r"bytes, .* allowed"):
        every(Fat)


def test_a_few_bytes_more_than_stated() -> None:
    class Padded(Sound):
        def edit(self, plan: Plan, layer: Layer, choice: str) -> None:
            plan.set_tensor("ballast", np.ones(2, np.float32))
            plan.nodes.append(helper.make_node("Identity", ["ballast"], ["kept"], name="ballast"))

    every(Padded)  # as the shapes that a cut writes anew
    made = suite(Padded)
    type(made).exactly_stored = True
    with pytest.raises(AssertionError, match=r"gate mild: .*bytes, .* allowed"):
        made.test_every_choice_of_every_layer(MODEL)


def test_other_sizes_than_foretold() -> None:
    class Oracle(Sound):
        def foretell(self, plan: Plan, decisions: Mapping[str, str]) -> Mapping[str, int]:
            return {name: plan.layers[name].parameters // 2 for name in decisions}

    with pytest.raises(AssertionError, match=r"gate mild: .*weights, .* foretold"):
        every(Oracle)


def test_the_reference_has_the_last_word() -> None:
    def computed(
        model: onnx.ModelProto, feed: Mapping[str, np.ndarray], outputs: Iterable[str]
    ) -> dict[str, np.ndarray]:
        return {name: 1.5 * value for name, value in Reference(model).run(feed, outputs).items()}

    made = suite(Sound)
    type(made).reference = staticmethod(lambda model, feed, outputs: Reference(model).run(feed, outputs))
    made.test_every_choice_of_every_layer(MODEL)
    type(made).reference = staticmethod(computed)
    with pytest.raises(AssertionError, match=r"gate mild: .*relative error of 0\.33"):
        made.test_every_choice_of_every_layer(MODEL)


def test_decisions_that_are_worse_together_than_promised(tmp_path: Path) -> None:
    class Steep(Sound):
        def edit(self, plan: Plan, layer: Layer, choice: str) -> None:
            plan.set_tensor(layer.weight, plan.weight(layer) * np.float32(3))

    made = suite(Steep)
    with pytest.raises(AssertionError, match=r"mild .*relative error"):
        made.test_the_same_choice_everywhere(MODEL, tmp_path)
    with pytest.raises(AssertionError, match="relative error"):
        made.test_any_decisions_together(MODEL)


def test_other_bytes_each_time(tmp_path: Path) -> None:
    class Random(Sound):
        def edit(self, plan: Plan, layer: Layer, choice: str) -> None:
            plan.set_tensor(layer.weight, plan.weight(layer) + np.float32(1e-6 * os.urandom(1)[0] + 1e-6))

    with pytest.raises(AssertionError, match="other bytes"):
        suite(Random).test_the_same_choice_everywhere(MODEL, tmp_path)


def test_nothing_is_changed() -> None:
    class Idle(Sound):
        def edit(self, plan: Plan, layer: Layer, choice: str) -> None: ...

    with pytest.raises(AssertionError, match="changes no model"):
        suite(Idle).test_has_something_to_do()


def test_a_choice_that_cannot_be_carried_out() -> None:
    class Refusing(Sound):
        def edit(self, plan: Plan, layer: Layer, choice: str) -> None:
            raise TrialFailure(Failure(kind="unsupported", stage="build", message="cannot be done"))

    with pytest.raises(AssertionError, match="gate mild: TrialFailure cannot be done"):
        every(Refusing)
    with pytest.raises(TrialFailure):
        suite(Refusing).test_any_decisions_together(MODEL)


def test_a_survey_that_edits_or_gives_no_reason() -> None:
    class Meddling(Sound):
        def survey(self, plan: Plan) -> Sequence[Skipped]:
            plan.nodes.pop()
            return ()

    class Mute(Sound):
        def survey(self, plan: Plan) -> Sequence[Skipped]:
            return [Skipped("x", "Relu", " ")]

    with pytest.raises(AssertionError, match="survey has edited"):
        suite(Meddling).test_none_is_the_original(MODEL)
    with pytest.raises(AssertionError, match="Skipped"):
        suite(Mute).test_names_its_choices_and_says_what_it_leaves_alone(MODEL)


def test_moments_that_were_not_moved() -> None:
    class Scaled(Sound):
        """Divides what a product reads and multiplies its weight, and forgets the moments."""

        def edit(self, plan: Plan, layer: Layer, choice: str) -> None:
            plan.set_tensor("by", np.array(0.5, np.float32))
            plan.set_tensor(layer.weight, plan.weight(layer) * np.float32(2))
            for at, node in enumerate(list(plan.nodes)):
                if node.name in layer.nodes:
                    changed = onnx.NodeProto()
                    changed.CopyFrom(node)
                    changed.input[0] = f"{layer.name}.less"
                    less = helper.make_node("Mul", [node.input[0], "by"], [f"{layer.name}.less"], f"{layer.name}.by")
                    plan.nodes[plan.nodes.index(node)] = changed
                    plan.nodes.insert(at, less)

    every(Scaled, exact=True)
    with pytest.raises(AssertionError, match="moments of down"):
        suite(Scaled, exact=True).test_keeps_moments_true(MODEL)
