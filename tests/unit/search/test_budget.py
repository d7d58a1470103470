"""Budgets: what the sampler is told to solve for, what the baseline says of a limit, and which trial is best."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from autotune.config import StudyConfig
from autotune.errors import Infeasible, UsageError
from autotune.keys import MetricKey
from autotune.search.budget import Aim, aim, best, check_budget, check_early, filtered, modelled, smallest_size
from autotune.trial import Trial, Value
from hwprofiles.scenario import Scenario

SIZE, RATIO, DROP = MetricKey("size_bytes"), MetricKey("latency_ratio", None, "local"), MetricKey("drop", "worst")
KEYS = [SIZE, RATIO, DROP]
ORIGINAL = {
    "size_bytes": 1e6,
    "latency_p50@local": 0.010,
    "latency_p90@local": 0.012,
    "latency_ratio@local": 1.0,
    "memory_peak@local": 5e6,
    "accuracy": 0.95,
    "accuracy/night": 0.90,
    "accuracy/worst": 0.90,
    "drop": 0.0,
    "drop/night": 0.0,
    "drop/worst": 0.0,
}


def trial(number: int, **changes: float) -> Trial:
    """Keys with / and @ are given as `drop_worst` and `ratio`."""
    names = {"size": "size_bytes", "ratio": "latency_ratio@local", "worst": "drop/worst"}
    metrics = ORIGINAL | {names[name]: value for name, value in changes.items()}
    values = {key: Value.exact(value) for key, value in metrics.items()}
    recipe = {"quantize": {"fc": f"choice-{number}"}} if number else {}
    return Trial(number=number, recipe=recipe, state="complete", metrics=values)


def config(budget: Mapping[str, float], **changes: object) -> StudyConfig:
    return StudyConfig.model_validate({"name": "small", "budget": dict(budget), **changes})


def aimed(budget: Mapping[str, float], objectives: list[MetricKey] | None = None, **changes: object) -> Aim:
    return aim(config(budget, **changes), objectives or KEYS, trial(0).metrics)


# ---- what is solved for


def test_without_a_budget_there_is_no_aim() -> None:
    assert not aimed({}) and aimed({}) == Aim()
    assert aimed({}, constraints={"size_bytes": 1e5}) == Aim(), "constraints alone do not make a budget"


def test_only_costs_limited_the_worst_drop_is_made_small() -> None:
    found = aimed({"size_bytes": 4e5})
    assert found and found.limits == {0: 4e5} and found.minimise == 2
    assert found.unsolved == () and found.slice_limits == {}


def test_only_drops_limited_a_time_is_made_small() -> None:
    assert aimed({"drop/worst": 0.02}) == Aim({2: 0.02}, 1)
    assert aimed({"drop/worst": 0.02}, [SIZE, DROP]) == Aim({1: 0.02}, 0), "without a time another cost"
    assert aimed({"drop/night": 0.005}) == Aim({2: 0.01}, 1, (), {"night": 0.005}), "judge.limit holds for the rest"


def test_of_both_kinds_the_cost_that_is_left_open() -> None:
    assert aimed({"size_bytes": 4e5, "drop/worst": 0.02}) == Aim({0: 4e5, 2: 0.02}, 1)
    assert aimed({"latency_ratio@local": 0.7, "drop/worst": 0.02}) == Aim({1: 0.7, 2: 0.02}, 0)
    everything = aimed({"size_bytes": 4e5, "latency_ratio@local": 0.7, "drop/worst": 0.02})
    assert everything == Aim({0: 4e5, 1: 0.7, 2: 0.02}, 2)


def test_one_view_of_a_time_stands_for_another() -> None:
    assert aimed({"latency_p50@local": 0.008}).limits == {1: pytest.approx(0.8)}
    assert aimed({"latency_p90@local": 0.006}).limits == {1: pytest.approx(0.5)}
    both = aimed({"latency_p50@local": 0.008, "latency_p90@local": 0.006, "latency_ratio@local": 0.9})
    assert both.limits == {1: pytest.approx(0.5)}, "the tightest counts"
    p50 = MetricKey("latency_p50", None, "local")
    assert aimed({"latency_ratio@local": 0.8}, [SIZE, p50, DROP]).limits == {1: pytest.approx(0.008)}
    assert aimed({"latency_p90@local": 0.006}, [SIZE, p50, DROP]).limits == {1: pytest.approx(0.005)}


def test_a_metric_of_a_slice_is_a_drop_of_it() -> None:
    found = aimed({"accuracy/night": 0.88, "drop/night": 0.05})
    share = 0.01 / 0.05  # night may lose five times as much as the others: the model is told a fifth of its drops
    assert found.slice_limits == {"night": pytest.approx(0.02 * share)}
    assert aimed({"accuracy/night": 0.88}).slice_limits == {"night": pytest.approx(0.02)}
    assert aimed({"drop/night": 0.05}, [SIZE, RATIO]).unsolved == ("drop/night",), "nobody models drops there"
    vague = trial(0).metrics | {"drop/night": Value(value=0.0, low=-0.4, high=0.4)}
    assert aim(config({"drop/night": 0.05}), KEYS, vague).unsolved == ("drop/night",)
    accuracy = MetricKey("accuracy")
    own = aimed({"accuracy": 0.94, "size_bytes": 4e5}, [SIZE, RATIO, accuracy])
    assert own == Aim({0: 4e5, 2: 0.94}, 1), "an objective is limited in its own direction"


def test_what_cannot_be_solved_for_is_said() -> None:
    found = aimed({"size_bytes": 4e5, "memory_peak@local": 2e6, "accuracy/worst": 0.8, "flips": 0.1, "drop": 0.1})
    assert found.unsolved == ("memory_peak@local", "accuracy/worst", "flips", "drop")
    elsewhere = aimed({"latency_p50@rpi5": 0.01}, targets=("local", "rpi5"))
    assert elsewhere.unsolved == ("latency_p50@rpi5",)
    unknown = aim(config({"latency_p90@local": 0.01}), KEYS, {})
    assert unknown.unsolved == ("latency_p90@local",) and unknown.limits == {}


def test_costs_that_are_no_objectives_are_learnt_beside_them() -> None:
    limited = {"memory_peak@local": 2e6, "latency_p50@local": 0.008, "latency_p50@rpi5": 0.01, "accuracy": 0.9}
    asked = config(limited | {"latency_p90@rpi5": 0.02}, targets=("local", "rpi5"))
    memory, far = MetricKey("memory_peak", None, "local"), MetricKey("latency_p50", None, "rpi5")
    assert modelled(asked, KEYS) == (*KEYS, memory, far), "a time on local is one already, and one view of rpi5 will do"
    assert aim(asked, modelled(asked, KEYS), trial(0).metrics).limits[3] == 2e6
    assert modelled(config({}, constraints=limited), KEYS) == tuple(KEYS), "a constraint is no budget"
    stock = config(limited, search={"sampler": "tpe"})
    assert modelled(stock, KEYS) == tuple(KEYS), "others cannot be told of a limit"


def test_what_is_only_filtered_by_is_said_beforehand() -> None:
    memory, metric = {"memory_peak@local": 2e6}, {"accuracy": 0.94}
    assert filtered(config(memory), trial(0).metrics) == []
    assert filtered(config(memory | metric), trial(0).metrics) == [
        "accuracy is not solved for, as no model of the search predicts it: what was measured is filtered by it; to "
        "search for it, name it in [search] objectives"
    ]
    (both,) = filtered(config({**metric, "flips": 0.1}), trial(0).metrics)
    assert both.startswith("accuracy, flips are not solved for, as no model of the search predicts them")
    (stock,) = filtered(config({"size_bytes": 4e5}, search={"sampler": "tpe"}), trial(0).metrics)
    assert stock.startswith("the budget is not solved for: sampler 'tpe' knows no limits")
    assert filtered(config({}, search={"sampler": "tpe"}), trial(0).metrics) == []
    assert filtered(config({"size_bytes": 4e5}, constraints=metric), trial(0).metrics) == [], (
        "constraints always filter"
    )


def test_constraints_count_too_and_the_tighter_wins() -> None:
    found = aimed({"size_bytes": 4e5}, constraints={"size_bytes": 3e5, "latency_ratio@local": 0.9, "drop/worst": 0.05})
    assert found == Aim({0: 3e5, 1: 0.9, 2: 0.05}, 2), "a wide constraint on drops does not turn the aim around"


# ---- which one ships


def test_the_best_in_a_budget() -> None:
    trials = [
        trial(0),
        trial(1, size=4e5, ratio=0.9, worst=0.001),
        trial(2, size=2.5e5, ratio=0.6, worst=0.008),
        trial(3, size=3.5e5, ratio=0.5, worst=0.0012),
        trial(4, size=1e5, ratio=0.4, worst=0.08),
    ]
    assert best(trials, config({})).number == 2, "the cheapest within judge.limit"
    assert best(trials, config({"size_bytes": 4e5})).number == 3, "of the least drops the cheapest"
    assert best(trials, config({"size_bytes": 3e5})).number == 2
    assert best(trials, config({"drop/worst": 0.1})).number == 4
    assert best(trials, config({"size_bytes": 5e5, "drop/worst": 0.1})).number == 4, "the time is left open"
    assert best(trials, config({"size_bytes": 5e5, "latency_ratio@local": 0.7, "drop/worst": 0.1})).number == 3
    with pytest.raises(Infeasible, match="size_bytes"):
        best(trials, config({"size_bytes": 1e4}))


# ---- before the search


def checked(budget: Mapping[str, float], smallest: float | None = 2e5, **changes: object) -> list[str]:
    return check_budget(config(budget, **changes), "accuracy", trial(0), smallest)


def test_the_smallest_model_of_a_space() -> None:
    sizes = {"a": {"none": 100.0, "int8": 25.0, "int4": 15.0}, "b": {"none": 40.0, "int8": 50.0}}
    assert smallest_size(sizes, 200.0) == 115.0


def test_a_budget_that_can_be_met_says_nothing() -> None:
    assert checked({"size_bytes": 4e5, "latency_p90@local": 0.008, "drop/night": 0.01, "accuracy": 0.94}) == []
    assert checked({"memory_peak@local": 4.5e6}) == []


def test_a_size_below_the_smallest_model_is_infeasible() -> None:
    with pytest.raises(Infeasible, match=r"^the smallest possible model is 200 kB; size_bytes 100 kB cannot be met$"):
        checked({"size_bytes": 1e5})
    with pytest.raises(Infeasible):
        checked({"size_bytes": 4e5}, constraints={"size_bytes": 1e5})
    assert checked({"size_bytes": 1e5}, smallest=None) == []
    assert checked({"size_bytes": 1.99e5}) == [], "what lies around the weights varies a little"


def test_what_needs_no_measurement_is_refused_before_one() -> None:
    def early(limits: dict[str, float], smallest: float | None = 2e5, **measure: float) -> None:
        check_early(config(limits).model_copy(update={"measure": Scenario(**measure)}), "accuracy", 1e6, smallest)

    early({"size_bytes": 4e5, "memory_peak@local": 1e6, "drop/night": 0.01})
    with pytest.raises(Infeasible, match=r"^the smallest possible model is 200 kB; size_bytes 100 kB cannot be met$"):
        early({"size_bytes": 1e5})
    early({"size_bytes": 1e5}, smallest=None)
    with pytest.raises(UsageError, match="limit on memory_peak@local: memory is not measured here; set memory_runs"):
        early({"memory_peak@local": 1e6}, memory_runs=0)
    with pytest.raises(UsageError, match="limit on energy_j@local: energy is not measured here; set energy_seconds"):
        early({"energy_j@local": 1.0})
    early({"energy_j@local": 1.0}, energy_seconds=1.0)


def test_limits_that_do_nothing_or_hardly_can_be_met() -> None:
    assert checked({"size_bytes": 2e6}) == ["size_bytes 2 MB limits nothing: the original takes 1 MB"]
    assert checked({"latency_ratio@local": 1.0}) == [
        "latency_ratio@local 1.000x limits nothing: the original takes 1.000x"
    ]
    (said,) = checked({"accuracy": 0.96})
    assert said == "accuracy of at least 96.0 % is more than the original reaches: 95.0 %"
    (said,) = checked({"memory_peak@local": 4e6})
    assert said == (
        "memory_peak@local 4 MB will hardly be met: the original takes 5 MB, 1 MB of it for the model; "
        "the smallest possible one, 200 kB, will take about 4.2 MB"
    )
    assert checked({"drop/night": 0.02}) == []


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("drop/nite", "limit on drop/nite: there is no such slice; did you mean 'drop/night'"),
        ("accuracy/day", "limit on accuracy/day: there is no such slice; "),
        ("energy_j@local", "limit on energy_j@local: the target has no counter of energy"),
        ("memory_peak@rpi5", "limit on memory_peak@rpi5: it is not measured here; did you mean 'memory_peak@local'"),
        ("f1", "unknown metric 'f1'"),
    ],
)
def test_a_limit_on_what_the_original_was_not_judged_by(key: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        checked({key: 0.5})


def test_a_percentile_that_too_few_inferences_give() -> None:
    known = trial(0)
    fewer = known.model_copy(update={"metrics": {k: v for k, v in known.metrics.items() if "p90" not in k}})
    with pytest.raises(UsageError, match="too few inferences are timed for a 90th percentile; raise min_pairs"):
        check_budget(config({"latency_p90@local": 0.01}), "accuracy", fewer, None)
