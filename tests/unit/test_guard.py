"""The guard of accelerators: a searched recipe not faster for certain than the best uniform one is not offered."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from autotune import pareto
from autotune.api import choose
from autotune.config import Family, StudyConfig
from autotune.trial import Trial, Value

GPU = Family(dialect="tensorrt", runtime="tensorrt", provider="TensorRT", targets=("gpu",), guard="float16")
CPU = Family(dialect="ort-cpu", runtime="onnxruntime", provider="CPUExecutionProvider", targets=("cpu",))
ALONE = StudyConfig(name="alone", targets=("gpu",), families=(GPU,))
BOTH = StudyConfig(name="both", targets=("cpu", "gpu"), families=(CPU, GPU))
LAYERS = ("a", "b", "c")


def trial(
    number: int,
    gpu: tuple[float, float],
    *,
    recipe: Mapping[str, str] = {},
    proposer: str = "surrogate",
    size: float = 1e6,
    drop: float = 0.002,
    cpu: float = 1.0,
    beside: tuple[float, float] | None = None,
) -> Trial:
    """`gpu` and `beside` are value and half width of a ratio."""

    def around(value: float, half: float) -> Value:
        return Value(value=value, low=value - half, high=value + half)

    metrics = {
        "size_bytes": Value.exact(size),
        "latency_ratio@gpu": around(*gpu),
        "latency_ratio@cpu": around(cpu, 0.001),
        "drop/worst": Value.exact(drop),
        "drop/worst@worst": Value.exact(drop),
        "drop/worst@gpu": Value.exact(drop),
        "size_bytes@gpu": Value.exact(size),
    }
    final = metrics | {"uniform_ratio@gpu": around(*beside)} if beside else {}
    named = {"quantize": dict(recipe)} if recipe else {}
    return Trial(number=number, recipe=named, state="complete", proposer=proposer, metrics=metrics, final=final)


ORIGINAL = trial(0, (1.0, 0.001), proposer="baseline", size=4e6, drop=0.0)
FLOAT16 = trial(1, (0.50, 0.01), recipe=dict.fromkeys(LAYERS, "float16"), proposer="uniform float16", size=2e6)
INT8 = trial(2, (0.40, 0.01), recipe=dict.fromkeys(LAYERS, "int8-static"), proposer="uniform int8-static", drop=0.3)
MIXED = {"a": "int8-static", "b": "float16", "c": "float16"}


def guard(trials: list[Trial], config: StudyConfig = ALONE) -> pareto.Guard:
    return pareto.guards(trials, config, config.limits)["gpu"]


def test_the_best_uniform_recipe_is_the_fastest_within_the_limits() -> None:
    found = guard([ORIGINAL, FLOAT16, INT8])
    assert found.uniform is FLOAT16, "int8 is faster and loses too much"
    assert found.name == "trial 1 (float16 everywhere)"
    mended = {"drop/worst": Value.exact(0.001), "drop/worst@gpu": Value.exact(0.001)}
    good = INT8.model_copy(update={"metrics": {**INT8.metrics, **mended}})
    assert guard([ORIGINAL, FLOAT16, good]).uniform is good
    assert guard([ORIGINAL, INT8]).uniform is None


@pytest.mark.parametrize(
    ("gpu", "beside", "offered"),
    [
        ((0.45, 0.01), None, True),  # the intervals part
        ((0.48, 0.02), None, False),  # they touch
        ((0.60, 0.01), None, False),
        ((0.48, 0.02), (0.97, 0.01), True),  # side by side it is faster for certain
        ((0.45, 0.01), (0.99, 0.02), False),  # side by side it is not
    ],
)
def test_a_searched_recipe_has_to_be_faster_with_certainty(
    gpu: tuple[float, float], beside: tuple[float, float] | None, offered: bool
) -> None:
    mixed = trial(3, gpu, recipe=MIXED, beside=beside)
    found = guard([ORIGINAL, FLOAT16, mixed])
    assert (found.refuses(mixed) == "") is offered
    assert not found.refuses(FLOAT16) and not found.refuses(ORIGINAL) and not found.refuses(INT8)


def test_a_refused_recipe_is_not_recommended_and_the_uniform_one_is() -> None:
    smaller = trial(3, (0.50, 0.02), recipe=MIXED, size=1.5e6)
    choice = choose([ORIGINAL, FLOAT16, smaller], ALONE)
    assert choice.recommended is FLOAT16
    (said,) = choice.guarded
    assert (
        said == "on gpu no searched recipe within the limits is faster with certainty than trial 1 (float16 everywhere)"
    )
    faster = trial(4, (0.40, 0.02), recipe=MIXED, size=1.5e6)
    choice = choose([ORIGINAL, FLOAT16, smaller, faster], ALONE)
    assert choice.recommended is faster and choice.guarded == ()


def test_without_a_guard_nothing_changes() -> None:
    plain = StudyConfig(name="plain", targets=("gpu",))
    smaller = trial(3, (0.50, 0.02), recipe=MIXED, size=1.5e6)
    choice = choose([ORIGINAL, FLOAT16, smaller], plain)
    assert choice.recommended is smaller and choice.guarded == ()


def test_one_model_for_cpu_and_gpu_may_be_refused_on_the_gpu_which_is_told_what_is_offered() -> None:
    common = trial(3, (0.52, 0.01), recipe=MIXED, size=0.5e6, cpu=0.5)
    choice = choose([ORIGINAL, FLOAT16, common], BOTH)
    assert choice.recommended is common, "the CPU is offered it"
    cpu, gpu = choice.targets
    assert cpu.own is common and gpu.own is FLOAT16
    assert [str(key) for key in gpu.keys] == ["size_bytes@gpu", "latency_ratio@gpu", "drop/worst@gpu"]
    (said,) = choice.guarded
    assert said.startswith("on gpu trial 3 is not offered, as it is not faster with certainty than the best uniform")


def test_a_recipe_of_an_earlier_study_counts_as_uniform_where_it_is_the_guards_format_alone() -> None:
    warm = FLOAT16.model_copy(update={"proposer": "warm start"})
    assert guard([ORIGINAL, warm]).uniform is warm
    assert guard([ORIGINAL, trial(3, (0.4, 0.01), recipe=MIXED, proposer="warm start")]).uniform is None
