"""What the sampler is told beforehand."""

from __future__ import annotations

from autotune.config import StudyConfig
from autotune.keys import parse_key
from autotune.search.knowledge import _agreement, corner, useful
from autotune.search.stages import StoppingLimits, stopping_limits, useful_drop
from autotune.trial import Trial, Value

ORIGINAL = Trial(
    number=0,
    recipe={},
    state="complete",
    metrics={
        "size_bytes": Value.exact(4e6),
        "latency_ratio@local": Value.exact(1.0),
        "drop/worst": Value.exact(0.0),
        "accuracy": Value.exact(0.9),
    },
)


def study(**changes: object) -> StudyConfig:
    return StudyConfig.model_validate({"name": "s", "judge": {"limit": 0.01}, **changes})


def test_without_limits_only_the_corner_of_the_search_ends_a_judgement() -> None:
    assert stopping_limits(study()) == StoppingLimits({}, 0.05)


def test_a_constraint_ends_it_and_a_budget_only_far_beyond() -> None:
    config = study(constraints={"drop/worst": 0.03, "drop/blur": 0.02}, budget={"drop": 0.01, "size_bytes": 1e6})
    assert stopping_limits(config) == StoppingLimits({"all": 0.05, "blur": 0.02}, 0.03)
    assert useful_drop(config) == 0.03
    assert stopping_limits(study(budget={"drop/worst": 0.02})).worst == 0.1


def test_without_the_objective_nothing_ends_it() -> None:
    assert not stopping_limits(study(search={"objectives": ["size_bytes", "accuracy"]}))


def test_the_corner_is_what_is_useful() -> None:
    config = study(search={"objectives": ["size_bytes", "drop/worst", "accuracy"]})
    keys = [parse_key(text) for text in config.search.objectives]
    assert useful(config, ORIGINAL, [str(key) for key in keys]) == {0: 4e6, 1: 0.05}
    corners, scales = corner(config, ORIGINAL, keys)
    assert corners == [4e6, 0.05, 0.85]  # larger is better for accuracy: five limits below the original
    assert [round(scale, 6) for scale in scales] == [4e6, 0.05, 0.05]


def test_of_two_guesses_the_one_counts_that_ranks_what_was_measured() -> None:
    measured = [({"a": "x", "b": "none"}, 0.9), ({"a": "none", "b": "x"}, 0.6), ({"a": "x", "b": "x"}, 0.5)]
    good = {"a": {"x": -0.01}, "b": {"x": -0.05}}
    bad = {"a": {"x": -0.05}, "b": {"x": -0.01}}
    assert _agreement(good, measured) > 0.9 > _agreement(bad, measured)
    assert _agreement({}, measured) == 0.0
