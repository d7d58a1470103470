"""How a study stands to its budget, told from made-up trials: the best with its margins, or what is missing and where
the time goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution

from autotune.config import StudyConfig
from autotune.keys import MetricKey
from autotune.search.budget import modelled
from autotune.search.shortfall import (
    Predicted,
    Shortfall,
    Within,
    ask_model,
    keep_predicted,
    kept_predicted,
    outcome,
    predicted,
)
from autotune.search.surrogate import SurrogateSampler
from autotune.search.surrogate.solution import Solution
from autotune.search.timeshare import time_share
from autotune.store import open_store
from autotune.trial import LayerOutcome, Trial, Value

OBJECTIVES = [MetricKey("size_bytes"), MetricKey("latency_ratio", None, "local"), MetricKey("drop", "worst")]


def layer(name: str, choice: str, milliseconds: float, *, honoured: bool = True) -> LayerOutcome:
    ran = "not seen" if milliseconds == 0 else "Conv"
    return LayerOutcome(layer=name, asked=choice, ran=ran, honoured=honoured, seconds=milliseconds / 1000)


def values(size: float, p50: float, worst: float, spread: float = 0.0) -> dict[str, Value]:
    return {
        "size_bytes": Value.exact(size),
        "latency_p50@local": Value(value=p50, low=p50 * (1 - spread), high=p50 * (1 + spread)),
        "latency_ratio@local": Value(value=p50 / 0.01, low=p50 / 0.011, high=p50 / 0.009),
        "drop/worst": Value(value=worst, low=worst - spread / 10, high=worst + spread / 10),
    }


def trial(number: int, metrics: Mapping[str, Value], *layers: LayerOutcome, final: bool = False) -> Trial:
    recipe = {"quantize": {o.layer: o.asked for o in layers if o.asked != "none"}} if number else {}
    ending = {"final": dict(metrics)} if final else {}
    return Trial(
        number=number, recipe=recipe, state="complete", metrics=dict(metrics), layers=tuple(layers), **ending
    )  # fmt: skip


TRIALS = [
    trial(0, values(1e6, 0.010, 0.0), layer("first", "none", 6), layer("second", "none", 3), layer("third", "none", 0)),
    trial(
        1, values(4e5, 0.008, 0.002), layer("first", "int8", 2), layer("second", "int8", 4), layer("third", "int8", 0)
    ),
    trial(2, values(3e5, 0.007, 0.005), layer("first", "int8", 2.2), layer("second", "none", 3)),
    trial(3, values(2e5, 0.009, 0.030), layer("first", "int4", 5), layer("second", "int4", 1, honoured=False)),
]


def config(**budget: float) -> StudyConfig:
    names = {"size": "size_bytes", "p50": "latency_p50@local", "worst": "drop/worst"}
    return StudyConfig(name="small", budget={names[name]: limit for name, limit in budget.items()})


# ---- where the time goes


def test_the_time_by_layer() -> None:
    share = time_share(TRIALS[1], TRIALS, "local")
    assert share is not None and (share.trial, share.target) == (1, "local")
    assert (share.seconds, share.original_seconds) == (pytest.approx(0.006), pytest.approx(0.009))
    second, first = share.layers
    assert (second.layer, second.choice, second.share) == ("second", "int8", pytest.approx(2 / 3))
    assert (second.fastest, second.saves) == ("none", pytest.approx(0.001)), "int4 did not run there as asked"
    assert (first.fastest, first.saves, first.original_seconds) == ("int8", 0.0, 0.006)
    assert share.unseen == ("third",)
    assert share.best_change is second
    assert share.lines == [
        "where the time of trial 1 goes on local: 6 ms in 2 layers of one profiled inference, 9 ms in the original",
        "  second (int8): 4 ms, 67%, in the original 3 ms; no compression would save 1 ms",
        "  first (int8): 2 ms, 33%, in the original 6 ms",
        "  most would be saved by no compression in second: 1 ms",
    ]


def test_many_layers_are_summed_up() -> None:
    many = trial(7, values(1e5, 0.01, 0.0), *(layer(f"l{i}", "int8", 10 - i) for i in range(8)))
    share = time_share(many, [many], "local")
    assert share is not None and "  3 more: 12 ms together" in share.lines
    assert share.lines[-1] == "  every layer has the fastest choice that was tried"


def test_without_a_profile_nothing_is_said() -> None:
    assert time_share(trial(8, values(1e5, 0.01, 0.0)), TRIALS, "local") is None
    assert time_share(trial(8, values(1e5, 0.01, 0.0), layer("third", "int8", 0)), TRIALS, "local") is None


# ---- within the budget


def test_without_a_budget_there_is_nothing_to_say() -> None:
    assert outcome(TRIALS, config()) is None
    assert outcome(TRIALS[:1], config(size=5e5)) is None, "nothing compressed is complete"


def test_the_best_in_the_budget_with_its_margins() -> None:
    found = outcome(TRIALS, config(size=4e5))
    assert isinstance(found, Within) and found.trial.number == 1 and found.made_best == "drop/worst"
    assert found.lines == [
        "best in the budget: trial 1, with the best drop/worst of all that are within it",
        "  drop/worst 0.2 pt, at most 1.0 pt: 0.8 pt to spare",
        "  size_bytes 400 kB, at most 400 kB: 0 B to spare",
        "  as searched: held-out data, which did not choose it, may say otherwise",
    ]
    assert not found.as_json()["confirmed"]
    cheap = outcome(TRIALS, config(worst=0.02))
    assert isinstance(cheap, Within) and cheap.trial.number == 2 and cheap.made_best == ""
    assert cheap.lines[0] == "best in the budget: trial 2, the cheapest of all that are within it"


def test_a_margin_is_certain_when_the_bad_end_of_the_interval_is_inside() -> None:
    for spread, word in ((0.05, "certain"), (0.2, "not certain")):
        close = trial(5, values(1e5, 0.0075, 0.0, spread))
        found = outcome([TRIALS[0], close], config(p50=0.008))
        assert isinstance(found, Within)
        latency = next(m for m in found.margins if m.key.name == "latency_p50")
        assert latency.certain == (spread == 0.05) and f"8 ms: {word}, the interval is" in str(latency)
        assert latency.spare == pytest.approx(0.0005)
    smallest = StudyConfig(name="small", budget={"accuracy": 0.9})
    good = trial(6, values(1e5, 0.005, 0.0) | {"accuracy": Value(value=0.92, low=0.88, high=0.95)})
    found = outcome([TRIALS[0], good], smallest)
    assert isinstance(found, Within)
    text = str(next(m for m in found.margins if m.key.name == "accuracy"))
    assert text == "accuracy 92.0 %, at least 90.0 %: not certain, the interval is 88.0 % to 95.0 %"


def test_finalists_come_first() -> None:
    verified = trial(2, values(3e5, 0.007, 0.005), final=True)
    found = outcome([TRIALS[0], TRIALS[1], verified], config(size=4e5))
    assert isinstance(found, Within) and found.trial.number == 2
    assert found.as_json()["confirmed"] and not any("as searched" in line for line in found.lines)


def test_what_scripts_read() -> None:
    for budget in (config(size=4e5), config(size=1e5, p50=0.001)):
        found = outcome(TRIALS, budget)
        assert found is not None
        data = json.loads(json.dumps(found.as_json()))
        assert data["met"] == isinstance(found, Within)


# ---- nothing is within it


def test_which_limit_binds_by_how_much_and_where_the_time_goes() -> None:
    found = outcome(TRIALS, config(size=5e5, p50=0.006), Predicted({"latency_ratio@local": 0.05, "size_bytes": None}))
    assert isinstance(found, Shortfall)
    assert found.line == (
        "nothing is within the budget: no trial reaches latency_p50@local; nearest is trial 2: its latency_p50@local "
        "is 7 ms, so the limit of 6 ms would have to give by 1 ms"
    )
    assert found.lines[1:] == [
        "best seen of each limit:",
        "  drop/worst 0.2 pt (trial 1)",
        "  size_bytes 200 kB (trial 3)",
        "  latency_p50@local 7 ms (trial 2)",
        "by the model of the search one limit would have to give: latency_ratio@local by 0.050x",
        "where the time of trial 2 goes on local: 5.2 ms in 2 layers of one profiled inference, 9 ms in the original",
        "  second (none): 3 ms, 58%, in the original 3 ms",
        "  first (int8): 2.2 ms, 42%, in the original 6 ms",
        "  every layer has the fastest choice that was tried",
    ]
    assert str(found) == "\n".join(found.lines)


def test_limits_that_are_met_but_never_at_once() -> None:
    found = outcome(TRIALS, config(size=2.5e5, worst=0.02))
    assert isinstance(found, Shortfall)
    assert "each limit is met by some trial, but never all at once; nearest is trial 2" in found.line
    assert not any("where the time" in line for line in found.lines), "no limit is about time"
    assert found.times is not None and found.as_json()["time"]["trial"] == 2


def test_every_limit_that_the_nearest_trial_breaks_is_told() -> None:
    found = outcome(TRIALS, config(size=2.9e5, p50=0.004))
    assert isinstance(found, Shortfall)
    assert found.line == (
        "nothing is within the budget: no trial reaches latency_p50@local; nearest is trial 2: its latency_p50@local "
        "is 7 ms, so the limit of 4 ms would have to give by 3 ms, and its size_bytes is 300 kB, so the limit of "
        "290 kB would have to give by 10 kB"
    )
    also = found.as_json()["also_broken"]
    assert also == [{"constraint": "size_bytes", "limit": 2.9e5, "missing_by": pytest.approx(1e4), "value": 3e5}]
    tight = StudyConfig(name="small", budget={"latency_p50@local": 0.004}, judge={"limit": 0.004})
    implied = outcome([*TRIALS[:1], TRIALS[2]], tight)
    assert isinstance(implied, Shortfall)
    assert implied.line.endswith(
        "so the limit of 4 ms would have to give by 3 ms, and its drop/worst is 0.5 pt, so the limit of 0.4 pt "
        "([judge] limit) would have to give by 0.1 pt"
    )


def test_a_limit_that_nobody_typed_is_named() -> None:
    found = outcome(TRIALS, config(size=2.5e5))
    assert isinstance(found, Shortfall)
    tight = StudyConfig(name="small", budget={"size_bytes": 5e5}, judge={"limit": 0.001})
    implied = outcome(TRIALS, tight)
    assert isinstance(implied, Shortfall)
    assert "is 0.2 pt, so the limit of 0.1 pt ([judge] limit) would have to give by 0.1 pt" in implied.line


def test_kernels_are_timed_on_one_target_alone() -> None:
    far = {"latency_p50@rpi5": Value.exact(0.1)}
    trials = [t.model_copy(update={"metrics": {**t.metrics, **far}}) for t in TRIALS]
    both = StudyConfig(name="small", targets=("local", "rpi5"), budget={"latency_p50@rpi5": 0.05, "flips": 0.1})
    trials = [t.model_copy(update={"metrics": {**t.metrics, "flips": Value.exact(0.0)}}) for t in trials]
    found = outcome(trials, both)
    assert isinstance(found, Shortfall)
    assert found.lines[-1] == "  (kernels are timed on local alone, not on rpi5)"
    said = "not solved for, only filtered by, as no model predicts it: flips; nearest trial 1 has flips 0.0 pt"
    assert said in found.lines
    assert found.unsolved == ("flips",), "a time on another target is learnt, although it is no objective"


def test_no_recipe_is_promised_within_limits_that_no_model_predicts() -> None:
    """A model that knows nothing of a limit has recipes for whatever is asked of it."""
    trials = [t.model_copy(update={"metrics": {**t.metrics, "accuracy": Value.exact(0.7)}}) for t in TRIALS]
    there = Predicted(values={"size_bytes": 2e5}, feasible=True)
    found = outcome(trials, StudyConfig(name="small", budget={"accuracy": 0.999}), there)
    assert isinstance(found, Shortfall) and found.unsolved == ("accuracy",)
    text = " ".join(found.lines)
    assert "more trials may find it" not in text and "within the limits" not in text
    assert "predicts a recipe within the other limits (size_bytes 200 kB), but nothing of accuracy" in text
    assert (
        f"no model predicts it: accuracy; nearest trial {found.explanation.nearest.number} has accuracy 70.0 %" in text
    )
    size = outcome(TRIALS, config(size=1e4), there)
    assert isinstance(size, Shortfall) and "more trials may find it" in str(size), "all limits are predicted there"


# ---- what the model says


def test_the_model_is_asked_what_a_budget_needs() -> None:
    """Six layers of 1, 2, ... bytes; a layer without them loses as many hundredths of a point, in every slice."""
    sizes = {f"l{i}": {"none": 2.0**i, "int8": 0.0} for i in range(6)}
    space: dict[str, BaseDistribution] = {name: CategoricalDistribution(["none", "int8"]) for name in sizes}
    sampler = SurrogateSampler(seed=0, space=space, exact={0: sizes}, worst_objective=1)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for _ in range(24):
        asked = study.ask(space)
        size = sum(sizes[name][choice] for name, choice in asked.params.items())
        drop = (63.0 - size) / 1000
        asked.set_user_attr("drop", {"night": drop, "day": drop / 2})
        asked.set_user_attr("damage", {"night": drop, "day": drop / 2})
        study.tell(asked, [size, drop])
    objectives, baseline = [OBJECTIVES[0], OBJECTIVES[2]], TRIALS[0].metrics
    nothing = ask_model(sampler, study, config(), objectives, baseline)
    assert nothing is None, "without a budget"
    other = optuna.samplers.RandomSampler(seed=0)
    assert ask_model(other, study, config(size=32), objectives, baseline) is None
    there = ask_model(sampler, study, config(size=32), objectives, baseline)
    assert there is not None and there.feasible and there.values["size_bytes"] == pytest.approx(32, abs=4)
    none = ask_model(sampler, study, config(size=32, worst=0.005), objectives, baseline)
    assert none is not None and not none.feasible
    by = none.excess["size_bytes"]
    assert by is not None and by == pytest.approx(26, abs=8), "58 bytes lose half a point"


def test_a_cost_that_is_no_objective_is_learnt_and_solved_for() -> None:
    """Memory beside size and drop: of six layers the odd ones take none however they are compressed."""
    names = [f"l{i}" for i in range(6)]
    space: dict[str, BaseDistribution] = {name: CategoricalDistribution(["none", "int8"]) for name in names}
    memory = MetricKey("memory_peak", None, "local")
    limited = StudyConfig(name="small", budget={"memory_peak@local": 44.0})
    learnt = modelled(limited, [OBJECTIVES[0], OBJECTIVES[2]])
    assert learnt == (OBJECTIVES[0], OBJECTIVES[2], memory)
    sampler = SurrogateSampler(seed=0, space=space, worst_objective=1)
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    for _ in range(24):
        asked = study.ask(space)
        kept = [asked.params[name] == "none" for name in names]
        drop = 0.01 * (6 - sum(kept))
        asked.set_user_attr("drop", {"night": drop})
        asked.set_user_attr("damage", {"night": drop})
        study.tell(asked, [10.0 + sum(kept), drop, 30.0 + 10.0 * sum(kept[::2])])
    baseline = {"memory_peak@local": Value.exact(60.0), "size_bytes": Value.exact(16.0), "drop/worst": Value.exact(0.0)}
    there = ask_model(sampler, study, limited, learnt, baseline)
    assert there is not None and there.feasible
    assert there.values["memory_peak@local"] <= 44
    assert there.values["drop/worst"] == pytest.approx(0.02, abs=0.008), "two layers of three, and no others"
    none = ask_model(sampler, study, StudyConfig(name="small", budget={"memory_peak@local": 10.0}), learnt, baseline)
    assert none is not None and not none.feasible
    assert none.excess["memory_peak@local"] == pytest.approx(20.0, abs=4.0)


def test_what_a_solver_found_in_metric_keys(tmp_path: Path) -> None:
    none = predicted(Solution(None, excess={"0": 1e4, "2": float("inf"), "drop/night": 0.0}), OBJECTIVES)
    assert none == Predicted({"size_bytes": 1e4, "drop/worst": None, "drop/night": 0.0})
    assert str(none) == "by the model of the search one limit would have to give: size_bytes by 10 kB"
    hard = Predicted({"size_bytes": None, "drop/worst": None})
    assert "several would have to give" in str(hard)
    there = predicted(Solution({"fc": "int8"}, (2e5, 0.5, 0.01)), OBJECTIVES)
    assert there.feasible and "(size_bytes 200 kB, latency_ratio@local 0.500x, drop/worst 1.0 pt)" in str(there)
    with open_store(tmp_path / "store.db", "small") as store:
        store.begin("{}", "digest")
        assert kept_predicted(store) is None
        for each in (none, there):
            keep_predicted(store, each)
            assert kept_predicted(store) == each
